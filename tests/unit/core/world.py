"""A proxy on a table: the core with a fake kernel, a clock that is set by hand, and a phone and a core made of text.

The texts are written here and not with the proxy's own code, so that both can disagree.
"""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from pcscf import survival
from pcscf.nexthop import HopSettings
from pcscf.observe import Journal, Problem, SetChanged
from pcscf.originating import OriginatingSettings
from pcscf.passage import Sides
from pcscf.proxy import Proxy, Settings
from pcscf.register import RegisterSettings, Without
from pcscf.registration import Registration
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

EPOCH = 1_700_000_000.0
REALM = "ims.mnc001.mcc001.3gppnetwork.org"
IK = "f769bcd751044604127672711c6d3441"
CK = "b40ba9a3c58b2a05bbf0d987b21bf8cb"
NONCE = "I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M="
PAIRS = ("null/aes-gcm", "hmac-sha-1-96/aes-cbc", "aes-gmac/null", "hmac-sha-1-96/null", "hmac-md5-96/null")
PORTS_PS = PortRange(first=5100, count=2)
PORTS_PC = PortRange(first=5104, count=8)
GM = ip_address("10.45.0.1")
GM6 = ip_address("fd00:45::1")
SIDE = CoreSide(port=5060, visited_network="visited.example")
CORE = Flow("UDP", Interface.MW, ip_address("10.46.0.1"), 5060, ip_address("10.46.0.2"), 5060)


def settings(originating: OriginatingSettings | None = None, **changes: object) -> Settings:
    """The settings of the tests; `changes` go to the settings of REGISTER."""
    register = RegisterSettings(
        core=SIDE,
        preference=tuple(map(Pair.parse, PAIRS)),
        without=Without.REFUSE,
        temp_lifetime=240,
    )
    sides = Sides(core=SIDE, gm=(GM, GM6), gm_port=5060, ports_ps=PORTS_PS, mw=(CORE.local,))
    return Settings(
        sides=sides,
        register=replace(register, **changes),  # type: ignore[arg-type]
        originating=originating or OriginatingSettings(),
        hops=HopSettings.only(CORE),
        ports_pc=PORTS_PC,
        pending_per_source=4,
        transactions=1000,
        transactions_per_source=50,
        pending=1000,
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

    def again(self, *, spi: int = 60001, port: int = 33000, pairs: str = "hmac-sha-1-96/aes-cbc") -> "Phone":
        """The same phone as it will be on its next set: port_us stays, the other numbers are new (digest A2)."""
        number = self.number("port-s", self.offer)
        proposal = offer(pairs, spi=spi, port=port).replace(f"port-s={port + 1}", f"port-s={number}")
        return replace(self, offer=proposal)

    def reregister(self, after: "Phone", **changes: object) -> bytes:
        """SM1 on the set of this phone, with the offer of `after` and the last answer (digest F12)."""
        after.cseq += 1
        lines = f"Security-Client: {after.offer}\r\nSecurity-Verify: {self.security_server}\r\n"
        authorization = f'nonce="{self.nonce}",algorithm=AKAv1-MD5,response="486f3ee163ac4a424493c7ee626d3794"'
        sent_by = self.number("port-s", self.offer)
        arguments = {"authorization": authorization, "security": lines, "sent_by": sent_by}
        self.cseq = after.cseq
        data = self.register(**(arguments | changes))  # type: ignore[arg-type]
        after.cseq = self.cseq
        return data

    def rechallenged(self, after: "Phone", nonce: str = "bm9uY2UtMg==", **changes: object) -> Response:
        """SM1 on this set and its 401 on this set; `after` then has what it needs to answer (digest F12b)."""
        self.world.receive(self.reregister(after, **changes), self.uplink)
        self.world.receive(challenge(self.world.at_core(), nonce=nonce), CORE)
        flow, response = self.world.at_phone()
        assert flow == self.downlink
        after.security_server, after.nonce = response.first("security-server") or "", nonce
        return response

    def reauthenticated(self, **numbers: int) -> "Phone":
        """The whole re-authentication; gives the phone on its new set, which is NEW then."""
        after = self.again(**numbers)  # type: ignore[arg-type]
        assert self.rechallenged(after).status == 401
        self.world.receive(after.answer(), after.uplink)
        self.world.receive(ok(self.world.at_core()), CORE)
        flow, response = self.world.at_phone()
        assert (flow, response.status) == (after.downlink, 200)
        return after

    def request(
        self,
        method: str,
        uri: str = "sip:bob@home",
        *,
        route: str | None = None,
        to_tag: str = "",
        from_tag: str = "u1",
        call_id: str = "call1",
        cseq: int = 1,
        extra: str = "",
        body: str = "",
        branch: str = "",
    ) -> bytes:
        """A request inside the set of this phone (digest F8): Route, Via and Contact as a UE has them."""
        port = self.number("port-s", self.offer)
        local = f"[{self.local}]" if ":" in self.local else self.local
        own = f"<sip:{local}:{self.number('port-s', self.security_server)};lr>"
        way = f"{own}, <sip:orig@10.46.0.2:5060;lr>" if route is None else route
        tag = f";tag={to_tag}" if to_tag else ""
        return (
            f"{method} {uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/{self.transport} {self.host}:{port};branch={branch or f'z9hG4bK{method}{cseq}{call_id}'}\r\n"
            f"Max-Forwards: 70\r\n"
            f"{f'Route: {way}{chr(13)}{chr(10)}' if way else ''}"
            f"From: <sip:anonymous@anonymous.invalid>;tag={from_tag}\r\n"
            f"To: <{uri}>{tag}\r\n"
            f"Call-ID: {call_id}\r\n"
            f"CSeq: {cseq} {method}\r\n"
            f"Contact: <sip:{self.host}:{port}>\r\n"
            f"Require: sec-agree\r\nProxy-Require: sec-agree\r\n"
            f"Security-Verify: {self.security_server}\r\n"
            f"{extra}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

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


def answer(request: Request, status: str, extra: str = "", *, tag: str = "core", record: bool = False) -> bytes:
    """Any answer of the core, or of a UE to a request that came to it."""
    names = ("via", "from", "call-id", "cseq", *(["record-route"] if record else []))
    copied = "".join(f"{item.line}\r\n" for item in request.headers if item.name in names)
    to = request.first("to") or ""
    to = to if "tag=" in to or not tag else f"{to};tag={tag}"
    return f"SIP/2.0 {status}\r\n{copied}To: {to}\r\n{extra}Content-Length: 0\r\n\r\n".encode()


def from_core(
    method: str,
    registration: Registration,
    uri: str = "sip:10.45.0.2:31801",
    *,
    to_tag: str = "",
    from_tag: str = "peer",
    call_id: str = "mt1",
    cseq: int = 1,
    extra: str = "",
    body: str = "",
    branch: str = "",
) -> bytes:
    """A request of the core to a UE: the Contact in the Request-URI, our Path in Route above the Vias (real-core)."""
    tag = f";tag={to_tag}" if to_tag else ""
    return (
        f"{method} {uri} SIP/2.0\r\n"
        f"Route: <sip:{registration.path_token}@10.46.0.1:5060;lr>\r\n"
        f"Via: SIP/2.0/UDP 10.46.0.2:5060;branch={branch or f'z9hG4bK{method}{cseq}{call_id}'}\r\n"
        f"Via: SIP/2.0/UDP 10.46.0.9:5060;branch=z9hG4bKfar\r\n"
        f"Record-Route: <sip:mt@10.46.0.2:5060;lr=on;ftag=peer>\r\n"
        f"Max-Forwards: 60\r\n"
        f"From: <sip:caller@home>;tag={from_tag}\r\n"
        f"To: <sip:+15551230001@{REALM}>{tag}\r\n"
        f"Call-ID: {call_id}\r\n"
        f"CSeq: {cseq} {method}\r\n"
        f"P-Asserted-Identity: <sip:caller@home>\r\n"
        f"P-Charging-Vector: icid-value=far;orig-ioi=home\r\n"
        f"P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=secret\r\n"
        f"P-Visited-Network-ID: elsewhere\r\n"
        f"{extra}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class World:
    """Carries out what the proxy says as the server does, and keeps what was sent."""

    def __init__(self, originating: OriginatingSettings | None = None, **changes: object) -> None:
        self.kernel = FakeKernel()
        self.journal = Journal()
        self.now = 1000.0
        self.use(settings(originating, **changes))
        self.sent: list[tuple[Flow, Request | Response]] = []
        self.raw: list[bytes] = []
        self.closed: list[Flow] = []
        self.connects: set[Flow] = set()
        self.order: list[str] = []

    def use(self, settings: Settings) -> None:
        """Start over with these settings."""
        self.proxy = Proxy(settings, random_octets=random.Random(1).randbytes)
        self.stored: dict[str, object] = {}

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
        self._check_what_survives()
        registrar = self.proxy.registrar
        states = Counter(sa_set.state for each in registrar for sa_set in each.sets)
        assert +registrar.states == states, "the sets are miscounted"
        assert registrar.registered == sum(each.registered for each in registrar), "the registered are miscounted"

    def _check_what_survives(self) -> None:
        """What is kept of those that are said to have changed is what is kept of all; and it reads back as it was."""
        registrar, dialogs = self.proxy.registrar, self.proxy.dialogs
        for token, each in registrar.touched.items():
            alive = registrar.by_token(token) is each
            self.stored[token] = survival.of_registration(each, EPOCH) if alive else None
        for key in dialogs.touched:
            dialog = dialogs.find(key)
            self.stored["/".join(key)] = survival.of_dialog(dialog, EPOCH) if dialog is not None else None
        registrar.touched.clear()
        dialogs.touched.clear()
        now = {each.path_token: survival.of_registration(each, EPOCH) for each in registrar}
        now |= {"/".join(each.key): survival.of_dialog(each, EPOCH) for each in dialogs}
        kept = {name: data for name, data in now.items() if data is not None}
        assert {name: data for name, data in self.stored.items() if data is not None} == kept
        again = {}
        for each in registrar:
            if kept.get(each.path_token) is not None:
                read = survival.registration_from(json.loads(json.dumps(kept[each.path_token])), EPOCH)
                again[read.path_token] = read
                assert survival.of_registration(read, EPOCH) == kept[each.path_token]
        for each_dialog in dialogs:
            data = kept.get("/".join(each_dialog.key))
            if data is not None and each_dialog.registration.path_token in again:
                back = survival.dialog_from(json.loads(json.dumps(data)), again, EPOCH)
                assert back is not None and survival.of_dialog(back, EPOCH) == data

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

    def take(self) -> tuple[Flow, Request | Response]:
        """The one message that was sent since the last look, wherever it went."""
        assert len(self.sent) == 1, self.sent
        return self.sent.pop()

    def to_phone(self) -> tuple[Flow, Request]:
        """The one request that went to a phone since the last look."""
        flow, message = self.take()
        assert flow.interface is not Interface.MW and isinstance(message, Request)
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
