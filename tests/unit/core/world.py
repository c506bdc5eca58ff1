"""A proxy on a table: the core with a fake kernel, a clock that is set by hand, and a phone and a core made of text.

The texts are written here and not with the proxy's own code, so that both can disagree.
"""

import random
import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from pcscf.observe import Journal, Problem, SetChanged
from pcscf.proxy import Proxy, Settings
from pcscf.register import RegisterSettings
from pcscf.routing import CoreSide
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import parse
from pcscf.vocabulary import (
    CloseFlow,
    Event,
    Flow,
    InstallSecurity,
    Interface,
    Note,
    Received,
    RemoveSecurity,
    SecurityExpired,
    SecurityInstalled,
    SecurityRefused,
    Send,
    Tick,
    UpdateSecurity,
)
from tests.fake_kernel import FakeKernel
from xfrm.algorithms import Pair
from xfrm.model import KernelError, PortRange, SaId

REALM = "ims.mnc001.mcc001.3gppnetwork.org"
IK = "f769bcd751044604127672711c6d3441"
CK = "b40ba9a3c58b2a05bbf0d987b21bf8cb"
NONCE = "I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M="
PAIRS = ("null/aes-gcm", "hmac-sha-1-96/aes-cbc", "aes-gmac/null", "hmac-sha-1-96/null", "hmac-md5-96/null")
PORTS_PS = PortRange(first=5100, count=2)
PORTS_PC = PortRange(first=5104, count=8)
GM = ip_address("10.45.0.1")
GM6 = ip_address("fd00:45::1")
CORE = Flow("UDP", Interface.MW, ip_address("10.46.0.1"), 5060, ip_address("10.46.0.2"), 5060)


def settings(**changes: object) -> Settings:
    """The settings of the tests; `changes` go to the settings of REGISTER."""
    register = RegisterSettings(
        core=CoreSide(host="10.46.0.1", port=5060, transport="UDP", visited_network="visited.example"),
        next_hop=CORE,
        preference=tuple(map(Pair.parse, PAIRS)),
        admit_without_ipsec=False,
        temp_lifetime=240,
    )
    return Settings(
        register=replace(register, **changes),  # type: ignore[arg-type]
        ports_ps=PORTS_PS,
        ports_pc=PORTS_PC,
        pending_per_source=4,
        transactions=1000,
    )


def offer(pairs: str, *, spi: int = 45597, port: int = 31800) -> str:
    """Security-Client of a phone: `pairs` as "alg/ealg alg/ealg", SPIs and ports two neighbours."""
    numbers = f"prot=esp; mod=trans; spi-c={spi}; spi-s={spi + 1}; port-c={port}; port-s={port + 1}"
    entries = []
    for pair in pairs.split():
        alg, _, ealg = pair.partition("/")
        entries.append(f"ipsec-3gpp; alg={alg}; ealg={ealg}; {numbers}")
    return ", ".join(entries)


@dataclass
class Phone:
    """What one phone puts on the wire; every test changes what it is about."""

    world: "World"
    address: str = "10.45.0.2"
    transport: str = "UDP"
    user: str = f"001010000000001@{REALM}"
    offer: str = field(default_factory=lambda: offer("hmac-sha-1-96/aes-cbc hmac-sha-1-96/null"))
    clear_port: int = 5060
    call_id: str = "reg1"
    cseq: int = 0
    instance: str = "<urn:gsma:imei:35622410-483840-0>"
    security_server: str = ""
    nonce: str = ""

    @property
    def local(self) -> str:
        return str(GM6 if ":" in self.address else GM)

    @property
    def host(self) -> str:
        return f"[{self.address}]" if ":" in self.address else self.address

    def number(self, name: str, where: str) -> int:
        found = re.search(rf"{name}\s*=\s*(\d+)", where)
        assert found, f"no {name} in {where}"
        return int(found[1])

    @property
    def clear(self) -> Flow:
        remote, local = ip_address(self.address), ip_address(self.local)
        return Flow(self.transport, Interface.GM, local, 5060, remote, self.clear_port)  # type: ignore[arg-type]

    @property
    def uplink(self) -> Flow:
        """port_uc -> port_ps: SA 1."""
        return Flow(
            self.transport,  # type: ignore[arg-type]
            Interface.GM_PROTECTED,
            ip_address(self.local),
            self.number("port-s", self.security_server),
            ip_address(self.address),
            self.number("port-c", self.offer),
        )

    @property
    def downlink(self) -> Flow:
        """Where a response to a protected request belongs: port_pc -> port_us over UDP, the connection over TCP."""
        if self.transport == "TCP":
            return self.uplink
        return self.uplink._replace(
            local_port=self.number("port-c", self.security_server), remote_port=self.number("port-s", self.offer)
        )

    def register(
        self,
        *,
        authorization: str = 'nonce="",response=""',
        security: str | None = None,
        sent_by: int | None = None,
        expires: int = 600_000,
        extra: str = "",
        user: str | None = None,
    ) -> bytes:
        """A REGISTER. `security`: the lines of the agreement; by default those of a first REGISTER."""
        self.cseq += 1
        port = self.clear_port if sent_by is None else sent_by
        agreement = f"Security-Client: {self.offer}\r\n" if security is None else security
        name = user or self.user
        credentials = f'Digest username="{name}",realm="{REALM}",uri="sip:{REALM}",{authorization}'
        return (
            f"REGISTER sip:{REALM} SIP/2.0\r\n"
            f"Via: SIP/2.0/{self.transport} {self.host}:{port};branch=z9hG4bK{self.call_id}{self.cseq};rport\r\n"
            f"Max-Forwards: 70\r\n"
            f"From: <sip:{self.user}>;tag=f1\r\n"
            f"To: <sip:{self.user}>\r\n"
            f"Call-ID: {self.call_id}\r\n"
            f"CSeq: {self.cseq} REGISTER\r\n"
            f'Contact: <sip:{self.host}:{port}>;+sip.instance="{self.instance}";+g.3gpp.smsip\r\n'
            f"Expires: {expires}\r\n"
            f"Supported: path\r\n"
            f"Require: sec-agree\r\n"
            f"Proxy-Require: sec-agree\r\n"
            f"{agreement}{extra}"
            f"Authorization: {credentials}\r\n"
            f"Content-Length: 0\r\n\r\n"
        ).encode()

    def answer(self, *, verify: str | None = None, client: str | None = None, **changes: object) -> bytes:
        """SM7: the protected REGISTER with the answer to the challenge."""
        verify = self.security_server if verify is None else verify
        client = self.offer if client is None else client
        lines = f"Security-Client: {client}\r\n" * bool(client) + f"Security-Verify: {verify}\r\n" * bool(verify)
        authorization = f'nonce="{self.nonce}",algorithm=AKAv1-MD5,response="486f3ee163ac4a424493c7ee626d3794"'
        arguments = {"authorization": authorization, "security": lines, "sent_by": self.number("port-s", self.offer)}
        return self.register(**(arguments | changes))  # type: ignore[arg-type]

    def first(self, **changes: object) -> Request:
        """Send SM1 and give what the core sees of it."""
        self.world.receive(self.register(**changes), self.clear)  # type: ignore[arg-type]
        return self.world.at_core()

    def challenged(self, at_core: Request | None = None, **changes: object) -> Response:
        """Send SM1, let the core challenge it, and give the 401 the phone sees."""
        at_core = at_core or self.first()
        self.world.receive(challenge(at_core, **changes), CORE)  # type: ignore[arg-type]
        flow, response = self.world.at_phone()
        assert flow == self.clear
        if response.status == 401:
            self.security_server = response.first("security-server") or ""
            self.nonce = str(changes.get("nonce", NONCE))
        return response

    def registered(self) -> Response:
        """The whole registration; gives the 200 the phone sees."""
        assert self.challenged().status == 401
        self.world.receive(self.answer(), self.uplink)
        self.world.receive(ok(self.world.at_core()), CORE)
        flow, response = self.world.at_phone()
        assert flow == self.downlink
        return response


def challenge(
    request: Request,
    *,
    nonce: str = NONCE,
    keys: str = f',ik="{IK}",ck="{CK}"',
    more: str = "",
    extra: str = "",
) -> bytes:
    """The core's 401 (SM4)."""
    value = f'Digest realm="{REALM}",nonce="{nonce}",algorithm=AKAv1-MD5{keys}{more}'
    return answer(request, "401 Unauthorized", f"WWW-Authenticate: {value}\r\n{extra}")


def ok(request: Request, *, expires: int = 600_000, extra: str = "") -> bytes:
    """The core's 200 (SM11)."""
    contact = request.first("contact")
    return answer(
        request,
        "200 OK",
        f"Contact: {contact};expires={expires}\r\n"
        f"Path: {request.first('path')}\r\n"
        f"Service-Route: <sip:orig@10.46.0.2:5060;lr>\r\n"
        f"P-Associated-URI: <sip:+15551230001@{REALM}>, <tel:+15551230001>\r\n"
        f"P-Charging-Function-Addresses: ccf=10.46.0.9\r\n"
        f"P-Charging-Vector: icid-value=x;term-ioi=home\r\n{extra}",
    )


def answer(request: Request, status: str, extra: str = "") -> bytes:
    """Any answer of the core."""
    copied = "".join(f"{item.line}\r\n" for item in request.headers if item.name in ("via", "from", "call-id", "cseq"))
    to = f"To: {request.first('to')};tag=core\r\n"
    return f"SIP/2.0 {status}\r\n{copied}{to}{extra}Content-Length: 0\r\n\r\n".encode()


class World:
    """Carries out what the proxy says as the server does, and keeps what was sent."""

    def __init__(self, **changes: object) -> None:
        self.kernel = FakeKernel()
        self.journal = Journal()
        self.now = 1000.0
        self.proxy = Proxy(settings(**changes), random_octets=random.Random(1).randbytes)
        self.sent: list[tuple[Flow, Request | Response]] = []
        self.raw: list[bytes] = []
        self.closed: list[Flow] = []
        self.connects: set[Flow] = set()
        self.order: list[str] = []

    def receive(self, data: bytes, flow: Flow) -> None:
        self.handle(Received(parse(data), flow))

    def handle(self, event: Event) -> None:
        events = [event]
        while events:
            for action in self.proxy.handle(events.pop(0), self.now):
                self.order.append(type(action).__name__)
                match action:
                    case Send(data, flow, connect):
                        if connect:
                            self.connects.add(flow)
                        assert flow.interface is not Interface.GM_PROTECTED or self.secured(flow), "sent outside its SA"
                        self.raw.append(data)
                        self.sent.append((flow, parse(data)))
                    case InstallSecurity(set_id, sas):
                        try:
                            self.kernel.install(sas)
                        except KernelError as error:
                            events.append(SecurityRefused(set_id, str(error)))
                        else:
                            events.append(SecurityInstalled(set_id))
                    case UpdateSecurity(ids, lifetime):
                        self.kernel.update(ids, lifetime)
                    case RemoveSecurity(ids):
                        self.kernel.remove(ids)
                    case CloseFlow(flow):
                        self.closed.append(flow)
                    case Note(record):
                        self.journal.append(record)
        self.check()

    def check(self) -> None:
        """After any event the kernel holds exactly the SAs of the live sets, each with a selector of its own."""
        live = {sa_id for each in self.proxy.registrar for sa_set in each.sets for sa_id in sa_set.ids}
        assert set(self.kernel.sas) == live
        selectors = [sa.selector for sa in self.kernel.sas.values()]
        assert len(set(selectors)) == len(selectors), "two live SAs with equal selectors"

    def secured(self, flow: Flow) -> bool:
        """Whether the kernel has an SA for what leaves on a flow now."""
        way = (flow.local, flow.local_port, flow.remote, flow.remote_port)
        return any(
            way == (each.source, each.source_port, each.destination, each.destination_port)
            for each in (sa.selector for sa in self.kernel.sas.values())
        )

    def expired(self, sa_id: SaId) -> None:
        """The backstop lifetime of an SA ended in the kernel."""
        self.handle(SecurityExpired((sa_id,)))

    def wait(self, seconds: float) -> None:
        """Let time pass, ringing at each deadline."""
        end = self.now + seconds
        while (deadline := self.proxy.deadline) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.handle(Tick())
        self.now = end

    def at_core(self) -> Request:
        """The one request that went to the core since the last look."""
        taken = [message for flow, message in self.sent if flow == CORE]
        assert len(taken) == 1 and len(self.sent) == 1, self.sent
        self.sent.clear()
        assert isinstance(taken[0], Request)
        return taken[0]

    def at_phone(self) -> tuple[Flow, Response]:
        """The one response that went to a phone since the last look."""
        assert len(self.sent) == 1, self.sent
        flow, message = self.sent.pop()
        assert flow.interface is not Interface.MW and isinstance(message, Response)
        return flow, message

    def silent(self) -> bool:
        """Whether nothing was sent since the last look."""
        return not self.sent

    @property
    def problems(self) -> list[str]:
        return [record.detail for _, record in self.journal.after(0) if isinstance(record, Problem)]

    @property
    def set_events(self) -> list[str]:
        return [record.event.value for _, record in self.journal.after(0) if isinstance(record, SetChanged)]


def repeat_spis(world: World, numbers: list[int]) -> None:
    """Let these be the next four-octet random numbers of the core."""
    left = iter(numbers)
    turn = world.proxy.registrar._turn
    honest = type(turn).random_octets

    def drawn(count: int) -> bytes:
        return next(left).to_bytes(4, "big") if count == 4 else honest(turn, count)

    turn.random_octets = drawn  # type: ignore[method-assign]
