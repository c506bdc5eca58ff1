"""A server whose phones and core are in the test: what they send is handed to it, what it sends is kept here.

Everything else is real: its store, its API, its log, the mirror to a collector, its restart. Only the kernel is not.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pcscf.admin.api import Service, service_of
from pcscf.admin.client import ControlClient
from pcscf.admin.control import Control
from pcscf.observe import Problem
from pcscf.server import Server
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError, parse
from pcscf.store import Store
from pcscf.vocabulary import Flow, Interface
from tests.bench.load import PORT_UC, Phone
from tests.fake_kernel import FakeKernel
from tests.unit.test_server import CLEAR, CORE, CORE_PORT, GM, MW, config
from xfrm.backend import Choice
from xfrm.model import SaId

Change = Callable[[bytes], bytes]
AT_CORE = Flow("UDP", Interface.MW, ip_address(MW), CLEAR, ip_address(CORE), CORE_PORT)


def unchanged(octets: bytes) -> bytes:
    return octets


class Driven:
    """One run. `sent`: what went out since it was taken."""

    def __init__(self, server: Server, kernel: FakeKernel, service: Service, client: ControlClient) -> None:
        self.server = server
        self.kernel = kernel
        self.service = service
        self.client = client
        self.sent: list[tuple[bytes, Flow]] = []
        self.rounds = 0
        server._transport.send = self._keep  # type: ignore[method-assign]

    def _keep(self, data: bytes, flow: Flow, *, connect: bool = True) -> None:
        self.sent.append((data, flow))

    def taken(self) -> list[tuple[Request | Response, Flow]]:
        """What went out, read again."""
        sent, self.sent = self.sent, []
        return [(parse(data), flow) for data, flow in sent]

    def to_core(self) -> bytes | None:
        """The last request that went to the core, less those of our own; the rest is forgotten."""
        found = [
            data
            for data, flow in self.sent
            if flow.interface is Interface.MW and not data.startswith((b"SIP/2.0", b"SUBSCRIBE", b"ACK"))
        ]
        self.sent = []
        return found[-1] if found else None

    def receive(self, octets: bytes, flow: Flow) -> None:
        """As `transport` does."""
        try:
            message = parse(octets)
        except ParseError as error:
            self.server._on_malformed(error, flow)
            return
        self.server._transport.on_message(message, flow)

    def clear(self, phone: Phone) -> Flow:
        return Flow("UDP", Interface.GM, ip_address(GM), CLEAR, ip_address(phone.address), 5070)

    def protected(self, phone: Phone) -> Flow:
        port = int(phone.pcscf.rpartition(":")[2])
        return Flow("UDP", Interface.GM_PROTECTED, ip_address(GM), port, ip_address(phone.address), PORT_UC)

    def anew(self, register: bytes) -> bytes:
        """In a transaction of its own."""
        return register.replace(b";branch=z9hG4bK", b";branch=z9hG4bK%d-" % self.rounds)

    def challenge(self, phone: Phone, of_ue: Change = unchanged, of_core: Change = unchanged) -> bool:
        """As far as the 401 to the UE; False: somebody did not like what was said."""
        self.rounds += 1
        self.receive(of_ue(self.anew(phone.register(5070))), self.clear(phone))
        request = self.to_core()
        if request is None:
            return False
        self.receive(of_core(challenge_to(request)), AT_CORE)
        answers = [message for message, flow in self.taken() if flow.interface is Interface.GM]
        server = answers[-1].first("security-server") if answers else None
        if server is None:
            return False
        phone.challenged(b"Security-Server: " + server.encode() + b"\r\n", GM)
        return True

    def register(self, phone: Phone, of_ue: Change = unchanged, of_core: Change = unchanged) -> bool:
        """The whole registration."""
        if not self.challenge(phone, of_ue, of_core):
            return False
        self.receive(of_ue(self.anew(phone.answer())), self.protected(phone))
        request = self.to_core()
        if request is None:
            return False
        self.receive(of_core(accept(request)), AT_CORE)
        return any(each.registered for each in self.of(phone))

    def of(self, phone: Phone) -> list[Any]:
        return [each for each in self.server.registrar if str(each.key.address) == phone.address]

    def ask(self, phone: Phone, request: bytes, status: str, of_core: Change = unchanged, extra: bytes = b"") -> None:
        """A request of the UE, and the core's answer to it if it comes there."""
        self.receive(request, self.protected(phone))
        arrived = self.to_core()
        if arrived is not None:
            self.receive(of_core(answer(arrived, status, extra)), AT_CORE)

    def subscribed(self) -> list[bytes]:
        """Our own requests to the core that wait for an answer."""
        return [data for data, flow in self.sent if flow.interface is Interface.MW and data.startswith(b"SUBSCRIBE")]

    @property
    def bugs(self) -> list[str]:
        """What the journal has of bugs."""
        return [
            record.detail
            for _, record in self.server.journal.after(0)
            if isinstance(record, Problem) and "bug" in record.detail
        ]

    def agreed(self, *, orphans: bool = False) -> None:
        """Kernel and registrar mean the same SAs, and the registrar's own tables mean the same sets.

        `orphans`: what an earlier run left in the kernel and nobody took up does not count.
        """
        registrar = self.server.registrar
        believed: set[SaId] = set()
        for registration in registrar:
            for sa_set in registration.sets:
                assert registrar.by_id(sa_set.id) is sa_set, sa_set.state
                believed |= set(sa_set.ids)
        assert believed == set(registrar._by_sa)
        assert believed <= set(self.kernel.sas) if orphans else believed == set(self.kernel.sas)
        assert registrar.states.total() == len(believed) // 4
        assert registrar.registered == sum(each.registered for each in registrar)


COPIED = (b"via:", b"from:", b"to:", b"call-id:", b"cseq:", b"i:", b"f:", b"t:", b"v:", b"path:")


def line(octets: bytes, name: bytes) -> bytes:
    """The value of the first header line of that name."""
    for each in octets.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if each.lower().startswith(name + b":"):
            return each.partition(b":")[2].strip()
    return b""


def answer(request: bytes, status: str, extra: bytes = b"", *, tag: bytes = b"core") -> bytes:
    """A core's answer, of octets and not of text."""
    kept = []
    for each in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        if each.lower().startswith(COPIED):
            tagged = each.lower().startswith(b"to:") and b";tag=" not in each
            kept.append(each + b";tag=" + tag if tagged else each)
    return b"\r\n".join([f"SIP/2.0 {status}".encode(), *kept, extra + b"Content-Length: 0\r\n\r\n"])


KEYS = b'ik="f769bcd751044604127672711c6d3441",ck="b40ba9a3c58b2a05bbf0d987b21bf8cb"'


def challenge_to(request: bytes) -> bytes:
    value = b'Digest realm="a",nonce="I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M=",algorithm=AKAv1-MD5,' + KEYS
    return answer(request, "401 Unauthorized", b"WWW-Authenticate: " + value + b"\r\nServer: a core\r\n")


def accept(request: bytes) -> bytes:
    contact, user = line(request, b"contact"), line(request, b"to").partition(b";")[0]
    extra = (
        b"Contact: " + contact + b";expires=600000\r\nService-Route: <sip:orig@127.0.0.3:5080;lr>\r\n"
        b"P-Associated-URI: " + user + b", \"A name\" <sip:+15551230001@ims.example>, <tel:+15551230001>\r\n"
        b"Warning: 399 core \"mind this\"\r\nReason: SIP;cause=200;text=\"fine\"\r\n"
    )  # fmt: skip
    return answer(request, "200 OK", extra)


@asynccontextmanager
async def driven(folder: Path, kernel: FakeKernel | None = None, *, stored: bool = True) -> AsyncIterator[Driven]:
    """A server that runs, with its control socket; afterwards it has stopped."""
    kernel = kernel or FakeKernel()
    collector = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    collector.bind(("127.0.0.1", 0))
    settings = config()
    hep = settings.hep.model_copy(update={"collector": f"127.0.0.1:{collector.getsockname()[1]}"})
    settings = settings.model_copy(update={"hep": hep})
    server = Server(settings, Choice(kernel, "a test"), None, Store(folder / "state") if stored else None)
    service = service_of(server, lambda: ([], []))
    control = Control(service, folder / "run" / "control.sock")
    try:
        await server.start()
        await control.start()
        yield Driven(server, kernel, service, ControlClient(folder / "run" / "control.sock"))
    finally:
        collector.close()
        await service.feed.stop()
        await control.stop()
        await server.stop()


def drive(
    folder: Path, work: Callable[[Driven], Awaitable[None]], kernel: FakeKernel | None = None, *, stored: bool = True
) -> None:
    """Run one server for a test."""

    async def run() -> None:
        async with driven(folder, kernel, stored=stored) as one:
            await work(one)

    asyncio.run(run())
