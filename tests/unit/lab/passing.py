"""A P-CSCF of a few lines that registers phones and passes what they say to each other, on loopback and without ESP.

It is stateless but for registrations: adds and takes off its Via, is in Record-Route, takes its Route off. Messages
to a phone go over UDP from port_pc to port_us, large ones over a connection it opens. `on_request` and `on_response`
may change, multiply or drop what goes to a phone.
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from pcscf.lab.fault import Fault
from pcscf.lab.phone import UeSettings
from pcscf.lab.subscribers import Subscriber
from pcscf.lab.ue import Ue
from pcscf.sip.fields import parse_auth, parse_cseq, parse_mechanism, parse_name_addr, parse_via
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.sip.parse import ParseError, parse
from pcscf.sip.transaction import TimerProfile
from pcscf.sip.uri import parse_uri
from pcscf.transport import Transport
from pcscf.vocabulary import Flow, Interface
from tests.fake_kernel import FakeKernel
from xfrm.model import IPAddress, bracketed

REALM = "ims.mnc001.mcc001.3gppnetwork.org"
TIMERS = TimerProfile(t1=0.1, t2=0.4, t4=0.2)
QUICK = TimerProfile(t1=0.02, t2=0.08, t4=0.04)
NAMES = ("alice", "bob", "carol")


def subscriber(number: int) -> Subscriber:
    return Subscriber.model_validate(
        {
            "impi": f"00101000000000{number + 1}@{REALM}",
            "impus": [f"sip:{NAMES[number]}@{REALM}", f"tel:+1555123000{number + 1}"],
            "k": f"{number + 1:032x}",
            "opc": "cd63cb71954a9f4e48a5994e37a02baf",
        }
    )


@dataclass
class Set:
    """One set of SAs as the P-CSCF knows it."""

    number: int
    port_uc: int
    port_us: int
    pc: str


@dataclass
class Known:
    """One phone. `sets` are the accepted ones, `temp` the one that waits for its answer."""

    number: int
    address: IPAddress
    tcp: bool = False
    sets: list[Set] = field(default_factory=list)
    temp: Set | None = None
    down: Set | None = None
    """Carries what the network sends: changes when the phone has used a newer one."""
    nonce: str = ""
    sqn: int = 32
    made: int = 0

    @property
    def subscriber(self) -> Subscriber:
        return subscriber(self.number)


def free_port(address: IPAddress) -> int:
    import socket

    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class PassingPcscf:
    version: int = 4
    challenge_again: bool = True
    ports: dict[str, int] = field(default_factory=dict)
    phones: dict[IPAddress, Known] = field(default_factory=dict)
    heard: list[tuple[Request | Response, Flow]] = field(default_factory=list)
    hops: dict[str, bool] = field(default_factory=dict)
    on_request: Callable[[Request, Known], list[Request]] = lambda request, to: [request]
    on_response: Callable[[Response], list[Response]] = lambda response: [response]
    own_answer: Callable[[Request], int] = lambda request: 0
    """A status to answer a request with instead of passing it on."""

    @property
    def address(self) -> IPAddress:
        return IPv4Address("127.0.0.9") if self.version == 4 else IPv6Address("::1")

    async def start(self) -> None:
        self.transport = Transport(self.received, self._malformed, lambda flow, reason: None)
        for name in ("clear", "ps", "pc0", "pc1"):
            self.ports[name] = free_port(self.address)
            interface = Interface.GM if name == "clear" else Interface.GM_PROTECTED
            await self.transport.listen_udp(self.address, self.ports[name], interface)
        await self.transport.listen_tcp(self.address, self.ports["clear"], Interface.GM)
        await self.transport.listen_tcp(self.address, self.ports["ps"], Interface.GM_PROTECTED)

    def _malformed(self, error: ParseError, flow: Flow) -> None:
        raise AssertionError(f"malformed on {flow}: {error}")

    def of(self, name: str) -> list[Request]:
        """The requests of a method it heard, in order and once each."""
        found = [each for each, _ in self.heard if isinstance(each, Request) and each.method == name]
        return [
            each for i, each in enumerate(found) if each.headers[0] not in [other.headers[0] for other in found[:i]]
        ]

    def flow_of(self, message: Request | Response) -> Flow:
        return next(flow for each, flow in self.heard if each is message)

    def said(self, status: int, method: str) -> list[Response]:
        """The responses to a method it heard from phones."""
        return [
            each
            for each, _ in self.heard
            if isinstance(each, Response)
            and each.status == status
            and parse_cseq(each.first("cseq") or "").method == method
        ]

    def received(self, message: Request | Response, flow: Flow) -> None:
        self.heard.append((message, flow))
        if isinstance(message, Response):
            self._pass_back(message)
            return
        if message.method == "REGISTER":
            self._register(message, flow)
            return
        phone = self._phone(flow)
        carrier = self._carrier(phone, flow)
        assert carrier is not None, f"{message.method} came on {flow}, outside every set"
        if carrier in phone.sets and phone.down is not carrier and phone.sets.index(carrier) > 0:
            phone.down = carrier
            phone.sets = [carrier]
        if status := self.own_answer(message):
            if status > 100:
                self._answer(message, status, flow, phone, carrier)
            return
        if message.method == "INVITE":
            self._answer(message, 100, flow, phone, carrier)
        self._pass_on(message, flow)

    # Registering

    def _phone(self, flow: Flow) -> Known:
        if self.version == 4:
            return self.phones[flow.remote]
        return next(
            each
            for each in self.phones.values()
            if flow.remote_port
            in [port for one in [*each.sets, each.temp] if one for port in (one.port_uc, one.port_us)]
        )

    def _carrier(self, phone: Known, flow: Flow) -> Set | None:
        for each in [*phone.sets, *([phone.temp] if phone.temp else [])]:
            if (flow.local_port, flow.remote_port) == (self.ports["ps"], each.port_uc):
                return each
            if (flow.local_port, flow.remote_port) == (self.ports[each.pc], each.port_us):
                return each
        return None

    def _register(self, request: Request, flow: Flow) -> None:
        auth = parse_auth(request.first("authorization") or "")
        number = next(i for i in range(len(NAMES)) if subscriber(i).impi == auth.param("username"))
        key = flow.remote if self.version == 4 else ip_address(f"::{number + 1}")
        phone = self.phones.setdefault(key, Known(number=number, address=flow.remote))
        phone.tcp = flow.transport == "TCP"
        protected = flow.interface is Interface.GM_PROTECTED
        carrier = self._carrier(phone, flow) if protected else None
        answers = phone.nonce and auth.param("nonce") == phone.nonce and carrier is phone.temp is not None
        if not answers and (not protected or self.challenge_again):
            self._challenge(request, flow, phone, carrier)
            return
        used = carrier
        if answers:
            assert used is not None
            phone.sets = [*phone.sets[-1:], used] if phone.sets and auth.param("nonce") else [used]
            phone.temp, phone.down = None, phone.down if len(phone.sets) > 1 else used
            phone.nonce = ""
        gone = request.first("expires") == "0"
        identities = ", ".join(f"<{each}>" for each in phone.subscriber.impus)
        headers = [
            header("P-Associated-URI", identities),
            header("Service-Route", f"<sip:orig@{bracketed(self.address)}:5999;lr>"),
            header("Contact", f"{request.first('contact')};expires={0 if gone else 600000}"),
        ]
        self._answer(request, 200, flow, phone, used, headers)
        if gone:
            phone.sets, phone.down = [], None

    def _challenge(self, request: Request, flow: Flow, phone: Known, carrier: Set | None) -> None:
        card = phone.subscriber.milenage
        phone.sqn += 32
        phone.made += 1
        rand, sqn = bytes([phone.made]) * 16, phone.sqn.to_bytes(6, "big")
        hidden = bytes(a ^ b for a, b in zip(sqn, card.f5(rand), strict=True))
        phone.nonce = base64.b64encode(rand + hidden + bytes(2) + card.f1(rand, sqn, bytes(2))).decode()
        offered = parse_mechanism(request.values("security-client")[0])
        pc = f"pc{phone.made % 2}"
        phone.temp = Set(
            number=phone.made,
            port_uc=int(offered.param("port-c") or 0),
            port_us=int(offered.param("port-s") or 0),
            pc=pc,
        )
        if carrier is None:
            phone.sets = []
        spi = 1_000_000_000 + 1000 * phone.number + 10 * phone.made
        numbers = f"spi-c={spi + 1};spi-s={spi + 2};port-c={self.ports[pc]};port-s={self.ports['ps']}"
        server = f"ipsec-3gpp;q=0.5;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;{numbers}"
        headers = [
            header("WWW-Authenticate", f'Digest realm="{REALM}",nonce="{phone.nonce}",algorithm=AKAv1-MD5'),
            header("Security-Server", server),
        ]
        self._answer(request, 401, flow, phone, carrier, headers)

    def _answer(
        self,
        request: Request,
        status: int,
        flow: Flow,
        phone: Known,
        carrier: Set | None,
        headers: list[Header] | None = None,
    ) -> None:
        response = response_to(request, status, headers=headers or [], to_tag="p" if status > 100 else "")
        self._send_response(response, flow, carrier)

    def _send_response(self, response: Response, flow: Flow, carrier: Set | None) -> None:
        if carrier is not None and not self.transport.is_open(flow):
            flow = flow._replace(local_port=self.ports[carrier.pc], remote_port=carrier.port_us)
        self.transport.send(response.to_bytes(), flow)

    # Passing on

    def _target(self, request: Request) -> Known:
        uri = parse_uri(request.uri)
        for phone in self.phones.values():
            impus = [parse_uri(each).user for each in phone.subscriber.impus]
            if uri.user and uri.user in impus:
                return phone
            if phone.sets and uri.port == phone.sets[-1].port_us:
                return phone
        raise AssertionError(f"nobody is {request.uri}")

    def _pass_on(self, request: Request, flow: Flow) -> None:
        target, sender = self._target(request), self._phone(flow)
        over = target.down
        assert over is not None, f"{target.subscriber.impi} is not registered"
        own = f"{bracketed(self.address)}:{self.ports['ps']}"
        routes = request.values("route")
        assert f"<sip:{own};lr>" == routes[0], routes
        headers: list[Header] = []
        dropped = ("route", "security-verify", "p-preferred-identity", "record-route")
        for item in request.headers:
            if item.name in ("require", "proxy-require") and item.value == "sec-agree":
                continue
            if item.name not in dropped:
                headers.append(item)
        top = parse_via(request.values("via")[0])
        way = f"{flow.transport}-{flow.local_port}-{flow.remote_port}-{sender.number}"
        if "tag=" not in (request.first("to") or ""):
            identity = sender.subscriber.impus[0]
            headers.append(header("P-Asserted-Identity", f"<{identity}>"))
            if request.method in ("INVITE", "SUBSCRIBE"):
                headers.append(header("Record-Route", f"<sip:{own};lr>"))
        contact = f"sip:{bracketed(target.address)}:{over.port_us}"

        def final(transport: str) -> Request:
            via = header("Via", f"SIP/2.0/{transport} {own};branch={top.branch}.{way}")
            return Request(method=request.method, uri=contact, headers=(via, *headers), body=request.body)

        size = len(final("UDP").to_bytes())
        tcp = target.tcp or size > 1300
        if request.method == "INVITE":
            self.hops[top.branch] = tcp
        tcp = self.hops.get(top.branch, tcp)  # CANCEL and the ACK of a refusal go the way of their INVITE
        for each in self.on_request(final("TCP" if tcp else "UDP"), target):
            self.to_phone(each, target, tcp=tcp)

    def to_phone(self, message: Request, target: Known, *, tcp: bool = False) -> None:
        """Send a request from port_pc to port_us."""
        over = target.down
        assert over is not None
        ends = (Interface.GM_PROTECTED, self.address, self.ports[over.pc], target.address, over.port_us)
        self.transport.send(message.to_bytes(), Flow("TCP", *ends) if tcp else Flow("UDP", *ends))

    def _pass_back(self, response: Response) -> None:
        values = response.values("via")
        _, dash, way = parse_via(values[0]).branch.rpartition(".")
        if not dash:
            return  # to a request of ours
        transport, local, remote, number = way.split("-")
        phone = next(each for each in self.phones.values() if each.number == int(number))
        ends = (Interface.GM_PROTECTED, self.address, int(local), phone.address, int(remote))
        flow = Flow("TCP", *ends) if transport == "TCP" else Flow("UDP", *ends)
        carrier = self._carrier(phone, flow) or phone.down
        kept = [item for item in response.headers if item.name not in ("via", "p-preferred-identity")]
        vias = [header("Via", value) for value in values[1:]]
        for each in self.on_response(response.with_headers([*vias, *kept])):
            self._send_response(each, flow, carrier)

    def ask(self, phone: Known, method: str, *, extra: tuple[str, ...] = (), body: str = "", number: int = 1) -> str:
        """Send a request of our own to a phone; its Call-ID."""
        over = phone.down
        assert over is not None
        lines = [
            f"{method} sip:{bracketed(phone.address)}:{over.port_us} SIP/2.0",
            f"Via: SIP/2.0/UDP {bracketed(self.address)}:{self.ports['ps']};branch=z9hG4bKown{method}{number}",
            f"From: <sip:p@{REALM}>;tag=own",
            f"To: <{phone.subscriber.impus[0]}>",
            f"Call-ID: own{number}",
            f"CSeq: {number} {method}",
            *extra,
            f"Content-Length: {len(body)}",
        ]
        lines = [line for i, line in enumerate(lines) if line.partition(":")[0] not in
                 [other.partition(":")[0] for other in lines[i + 1 :] if other in extra]]  # fmt: skip
        message = parse(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        assert isinstance(message, Request)
        self.to_phone(message, phone)
        return f"own{number}"


@dataclass
class Lab:
    """Phones on one P-CSCF, for `with_lab`."""

    pcscf: PassingPcscf
    ues: list[Ue]

    @property
    def known(self) -> list[Known]:
        return [next(each for each in self.pcscf.phones.values() if each.number == i) for i in range(len(self.ues))]


def settings(pcscf: PassingPcscf, number: int, **changes: object) -> UeSettings:
    address = ip_address(f"127.0.0.{number + 2}") if pcscf.version == 4 else ip_address("::1")
    defaults: dict[str, object] = {
        "subscriber": subscriber(number),
        "address": address,
        "pcscf": pcscf.address,
        "pcscf_port": pcscf.ports["clear"],
        "port": free_port(address),
        "timers": TIMERS,
        "patience": 2.0,
    }
    return UeSettings(**{**defaults, **changes})  # type: ignore[arg-type]


def with_lab(
    scenario: Callable[[Lab], "asyncio.Future[None] | object"],
    *,
    phones: int = 2,
    pcscf: PassingPcscf | None = None,
    faults: frozenset[Fault] = frozenset(),
    clean: bool = True,
    **changes: object,
) -> Lab:
    """Register phones and run a scenario with them. `clean`: nobody may complain. Faults are those of the first."""

    async def run() -> Lab:
        proxy = pcscf or PassingPcscf()
        await proxy.start()
        kernels = [FakeKernel() for _ in range(phones)]
        ues = [Ue(settings(proxy, i, **changes), kernels[i]) for i in range(phones)]
        ues[0].set_faults(faults)
        lab = Lab(proxy, ues)
        try:
            for ue in ues:
                await ue.start()
                outcome = await ue.register()
                assert outcome.registered, outcome.reason
            await scenario(lab)  # type: ignore[misc]
        finally:
            for ue in ues:
                await ue.close()
            await proxy.transport.close()
        assert not any(kernel.sas for kernel in kernels)
        if clean:
            assert [ue.diary.complaints() for ue in ues] == [()] * phones
        return lab

    async def bounded() -> Lab:
        async with asyncio.timeout(15):
            return await run()

    return asyncio.run(bounded())


def header_of(message: Request | Response, name: str) -> str:
    return message.first(name) or ""


def uri_of(value: str) -> str:
    return parse_name_addr(value).uri
