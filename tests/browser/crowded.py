"""`python -m tests.browser.crowded FOLDER PORT UES`: a P-CSCF with a fake kernel and so many registrations.

They are made in the core, without sockets. Then it serves the API and does what standard input says, a line each:
`cpu` prints its CPU seconds; `events RATE SECONDS` refuses messages in clear, at about three journal records each.
"""

import asyncio
import logging
import sys
import time
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from pcscf.admin.access import Tokens
from pcscf.admin.api import service_of
from pcscf.admin.web import Web
from pcscf.observe import Journal
from pcscf.server import Server, settle_memory
from pcscf.sip.parse import parse
from pcscf.vocabulary import Flow, Interface, Received
from tests.bench.load import PORT_UC, Phone, accept, challenge
from tests.bench.measured import CORE, CORE_PORT, GM, MW, config
from tests.bench.wire import CLEAR_PORT
from tests.fake_kernel import FakeKernel
from xfrm.backend import Choice

FROM_CORE = Flow("UDP", Interface.MW, ip_address(MW), 5060, ip_address(CORE), CORE_PORT)


class Crowd:
    """A server that is not on the network, so that what it sends is looked at here."""

    def __init__(self, ues: int) -> None:
        self.server = Server(config(), Choice(FakeKernel(), "a crowd"))
        self._sent: list[bytes] = []
        self.server._transport.send = lambda data, flow, *, connect=True: self._sent.append(data)  # type: ignore[method-assign]
        for number in range(ues):
            self._register(Phone(number))
        self.server.journal = Journal()  # what the crowd has said is not what a test asks for

    def _take(self, data: bytes, flow: Flow) -> bytes:
        self._sent.clear()
        self.server.handle(Received(parse(data), flow))
        return self._sent[-1]

    def _register(self, phone: Phone) -> None:
        clear = Flow("UDP", Interface.GM, ip_address(GM), 5060, ip_address(phone.address), CLEAR_PORT)
        at_core = self._take(phone.register(CLEAR_PORT), clear)
        phone.challenged(self._take(challenge(at_core), FROM_CORE), GM)
        port_ps = int(phone.pcscf.rpartition(":")[2])
        inside = Flow("UDP", Interface.GM_PROTECTED, ip_address(GM), port_ps, ip_address(phone.address), PORT_UC)
        assert b" 200 " in self._take(accept(self._take(phone.answer(), inside)), FROM_CORE)[:16]

    def refuse(self, number: int) -> None:
        """A MESSAGE in clear: it, what is wrong with it, and the 403."""
        phone = Phone(number)
        clear = Flow("UDP", Interface.GM, ip_address(GM), 5060, ip_address(phone.address), CLEAR_PORT)
        data = (
            f"MESSAGE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP {phone.address}:{CLEAR_PORT};branch=z9hG4bKr{number}\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:x@x>;tag=1\r\nTo: <sip:x@x>\r\nCall-ID: r{number}\r\nCSeq: 1 MESSAGE\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()
        assert b" 403 " in self._take(data, clear)[:16]


async def main(folder: Path, port: int, ues: int) -> None:
    logging.getLogger("pcscf").setLevel(logging.ERROR)
    settle_memory()
    crowd = Crowd(ues)
    service = service_of(crowd.server, lambda: ([], []))
    web = Web(service, Tokens(folder), IPv4Address("127.0.0.1"), port)
    await web.start()
    service.history.start()
    settle_memory()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    number = 0
    while line := (await reader.readline()).decode().split():
        if line[0] == "events":
            rate, end = float(line[1]), time.monotonic() + float(line[2])
            due = time.monotonic()
            while time.monotonic() < end:
                number += 1
                crowd.refuse(number % ues)
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        print(time.process_time(), flush=True)
    await service.feed.stop()
    await service.history.stop()
    await web.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
