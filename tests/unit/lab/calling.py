"""Two registered users at a core without sockets, and requests as a P-CSCF sends them."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from pcscf.lab.answering import Answering
from pcscf.lab.challenge import CoreFault
from pcscf.lab.hss import Hss
from pcscf.lab.notifier import Notifier
from pcscf.lab.registrar import Registrar
from pcscf.lab.serving import Serving
from pcscf.lab.subscribers import Subscriber
from pcscf.sip.message import Request
from pcscf.sip.parse import parse
from pcscf.vocabulary import Flow, Interface
from tests.unit.lab.registering import register, settings
from tests.unit.lab.vectors import IMPI, REALM, VECTORS

ALICE = f"sip:+15551230001@{REALM}"
BOB = f"sip:+15551230002@{REALM}"
BOB_IMPI = f"001010000000002@{REALM}"
CORE = IPv4Address("10.46.0.2")
PCSCF = IPv4Address("10.46.0.1")
FROM_PCSCF = Flow("UDP", Interface.MW, CORE, 5060, PCSCF, 5060)
BOB_CONTACT = "sip:10.45.0.3:41801"
BOB_PATH = "<sip:term-b0b@10.46.0.1:5060;lr>"


def subscribers() -> dict[str, Subscriber]:
    bob = {"impi": BOB_IMPI, "impus": [BOB, "tel:+15551230002"], "k": VECTORS[0].k, "op": VECTORS[0].op, "amf": "0000"}
    return {IMPI: VECTORS[0].subscriber(sqn=0), BOB_IMPI: Subscriber.model_validate(bob)}


@dataclass
class Counter:
    """Octets that are never the same twice."""

    number: int = 0

    def __call__(self, count: int) -> bytes:
        self.number += 1
        return self.number.to_bytes(count, "big")


@dataclass
class World:
    """Everything of the core that has no sockets."""

    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        octets = Counter()
        self.settings = settings(**{"address": CORE, **self.changes})
        self.hss = Hss(subscribers(), octets)
        self.registrar = Registrar(self.settings, self.hss, octets)
        self.serving = Serving(self.settings, self.hss, self.registrar)
        self.notifier = Notifier(self.settings, self.hss, self.registrar, octets)
        self.answering = Answering(self.settings, octets)

    def register(self, now: float = 0.0, *, impi: str = IMPI, **parts: Any) -> None:
        """Register without a challenge."""
        without = self.registrar.faults.get(impi, frozenset())
        self.registrar.set_faults(impi, [CoreFault.ACCEPT_WITHOUT_CHALLENGE])
        reply = self.registrar.register(register(impi=impi, **{"to": f"sip:{impi}", **parts}), now)
        self.registrar.set_faults(impi, without)
        assert reply is not None and reply.response.status == 200, reply

    def register_bob(self, now: float = 0.0, *, path: str = BOB_PATH, contact: str = f"<{BOB_CONTACT}>") -> None:
        self.register(now, impi=BOB_IMPI, contact=contact, without=("Path",), extra=(f"Path: {path}",))


def both_registered(**changes: Any) -> World:
    world = World(changes)
    world.register()
    world.register_bob()
    world.registrar.take_changes()
    return world


DIALOG_FORMING = ("INVITE", "SUBSCRIBE", "REFER")


def request_text(
    method: str = "MESSAGE",
    uri: str = BOB,
    *,
    branch: str = "z9hG4bKp1",
    route: str = "<sip:orig@10.46.0.2:5060;lr>",
    to: str = "",
    to_tag: str = "",
    from_tag: str = "a1",
    call_id: str = "c1@10.45.0.2",
    cseq: int = 1,
    via: str = "SIP/2.0/UDP 10.46.0.1:5060",
    contact: str = "<sip:10.45.0.2:31801>",
    without: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
    body: str = "",
) -> bytes:
    lines = [
        f"Via: {via};branch={branch}",
        "Via: SIP/2.0/UDP 10.45.0.2:31801;branch=z9hG4bKue1",
        "Max-Forwards: 69",
        f"From: <{ALICE}>;tag={from_tag}",
        f"To: <{to or uri}>{f';tag={to_tag}' if to_tag else ''}",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {method}",
        f"P-Asserted-Identity: <{ALICE}>",
        'P-Charging-Vector: icid-value="p1-77";orig-ioi="visited.example"',
        'P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010000001"',
    ]
    if route:
        lines.append(f"Route: {route}")
    if method != "MESSAGE":
        lines.append(f"Contact: {contact}")
    if method in DIALOG_FORMING:
        lines.append("Record-Route: <sip:10.46.0.1:5060;lr>")
    kept = [line for line in lines if line.partition(":")[0] not in without]
    return "\r\n".join(
        [f"{method} {uri} SIP/2.0", *kept, *extra, f"Content-Length: {len(body.encode())}", "", body]
    ).encode()


def request(method: str = "MESSAGE", uri: str = BOB, **parts: Any) -> Request:
    message = parse(request_text(method, uri, **parts))
    assert isinstance(message, Request)
    return message


def dialog_request(method: str, uri: str, **parts: Any) -> Request:
    """A request inside a dialog, by its route set."""
    return request(method, uri, without=("Record-Route", "P-Charging-Vector"), **{"to_tag": "b1", **parts})
