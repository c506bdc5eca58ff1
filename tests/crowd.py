"""Registrations made in the core, without sockets: a server that is not on the network, with a crowd registered at it.

`python -m tests.crowd STATE UES` leaves such a crowd behind: in the kernel, where that has ESP, and in the store.
"""

import asyncio
import sys
from ipaddress import ip_address
from pathlib import Path

from pcscf.observe import Journal
from pcscf.server import Server, settle_memory
from pcscf.sip.parse import parse
from pcscf.store import Store
from pcscf.vocabulary import Flow, Interface, Received
from tests.bench.load import PORT_UC, Phone, accept, challenge
from tests.bench.measured import CORE, CORE_PORT, GM, MW, config
from tests.bench.wire import CLEAR_PORT
from tests.fake_kernel import FakeKernel
from xfrm.backend import Choice, open_backend

FROM_CORE = Flow("UDP", Interface.MW, ip_address(MW), 5060, ip_address(CORE), CORE_PORT)


class Crowd:
    """`ues` phones, registered one after the other."""

    def __init__(self, ues: int, choice: Choice | None = None, store: Store | None = None) -> None:
        self.server = Server(config(), choice or Choice(FakeKernel(), "a crowd"), None, store)
        self._sent: list[bytes] = []
        self.server._transport.send = lambda data, flow, *, connect=True: self._sent.append(data)  # type: ignore[method-assign]
        for number in range(ues):
            self.register(number)
        self.server.journal = Journal()  # what the crowd has said is not what a test asks for

    def _take(self, data: bytes, flow: Flow) -> bytes:
        self._sent.clear()
        self.server.handle(Received(parse(data), flow))
        return self._sent[-1]

    def register(self, number: int) -> None:
        phone = Phone(number)
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


async def leave_behind(state: Path, ues: int) -> None:
    """Register them all, and end as a process that is killed would."""
    settle_memory()
    store = Store(state)
    choice, ipsec = open_backend("auto"), config().ipsec
    choice.backend.protect(ip_address(GM), (ipsec.ports_ps, ipsec.ports_pc))
    crowd = Crowd(0, choice, store)
    for number in range(ues):
        crowd.register(number)
        await asyncio.sleep(0)  # timers run, and transactions end
    crowd.server.backend.leave()
    store.close()


if __name__ == "__main__":
    asyncio.run(leave_behind(Path(sys.argv[1]), int(sys.argv[2])))
