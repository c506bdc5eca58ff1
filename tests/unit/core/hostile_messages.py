"""A proxy that has a UE, and a message in each place where a peer may say something, with one header of it hostile."""

from collections.abc import Callable

from pcscf.registration import Registration
from pcscf.sip.message import Request
from pcscf.sip.parse import parse
from pcscf.vocabulary import Flow, Received, Send
from tests.unit.core.world import CORE, Phone, World, answer, challenge, from_core, ok

VIA = "SIP/2.0/UDP 10.45.0.2:31801;branch=z9hG4bK@@"
VALUE = (("", ""),)
ADDRESS = (("", ""), ('"', '" <sip:a@b>;tag=f@@'), ("<sip:", ">;tag=f@@"), ("<sip:a@b>;tag=f@@", ""))
URI = (("sip:", ""), ("sip:a@b", ""), ("tel:", ""), ("", ""))
ROUTE = (("", ""), ("<sip:10.45.0.1:5100;lr>,", ""), ("<sip:10.45.0.1:5100;lr>, <sip:orig@10.46.0.2:5060;lr;", ">"))
HEADERS: dict[str, tuple[tuple[str, str], ...]] = {
    "": URI,
    "Via": ((VIA, ""), (f"{VIA},", ""), (f"{VIA};a=", "")),
    "From": ADDRESS,
    "To": (*ADDRESS, ("<sip:a@b>;tag=core", "")),
    "Call-ID": VALUE,
    "CSeq": (("1 ", ""),),
    "Contact": (("", ""), ("<sip:a@b>", ""), ("<sip:a@b>,", ""), ("<sip:", ">")),
    "Route": ROUTE,
    "Record-Route": (("", ""), ("<sip:a@b;lr>,", "")),
    "Authorization": (("Digest ", ""), ("Digest username=a,", ""), ('Digest username="', '"')),
    "WWW-Authenticate": (("Digest ", ""), ('Digest ck="', ""), ('Digest nonce="', '"')),
    "Security-Client": (("", ""), ("ipsec-3gpp;", "")),
    "Security-Verify": (("", ""), ("ipsec-3gpp;", "")),
    "P-Preferred-Identity": (("", ""), ("<sip:", "@b>")),
    "P-Called-Party-ID": (("", ""), ("<sip:", ">")),
    **dict.fromkeys(
        (
            "Security-Server",
            "Require",
            "Proxy-Require",
            "Supported",
            "P-Asserted-Identity",
            "P-Associated-URI",
            "Warning",
            "Service-Route",
            "P-Charging-Vector",
            "P-Access-Network-Info",
            "Privacy",
            "Expires",
            "Session-Expires",
            "Path",
            "Retry-After",
            "Max-Forwards",
            "Subscription-State",
            "X-Other",
        ),
        VALUE,
    ),
}
"""What each header is filled in between, @@ being new each time; "" is the Request-URI or the reason phrase."""


class Scene:
    """A registered UE at a proxy. `number` makes each message one that was not there before."""

    def __init__(self, number: int = 0) -> None:
        self.world = World()
        self.phone = Phone(self.world)
        self.phone.registered()
        self.registration: Registration = next(iter(self.world.proxy.registrar))
        self.number = number
        self.world.proxy._signalling.allow(1_000_000_000, 1_000_000_000)  # how many there are is no matter here
        self.stranger = Phone(self.world, address="10.45.0.77", user="other@home.example", call_id="other")

    def take(self, data: bytes, flow: Flow) -> list[Request]:
        """Let the proxy have it, and give the requests that it sends."""
        sent = [action for action in self.world.proxy.handle(Received(parse(data), flow), self.world.now)]
        messages = [parse(action.data) for action in sent if isinstance(action, Send)]
        return [message for message in messages if isinstance(message, Request)]

    @property
    def call_id(self) -> str:
        return f"c{self.number}"

    # Each gives the octets that come last, and where.

    def register(self) -> tuple[bytes, Flow]:
        self.stranger.call_id = self.call_id
        return self.stranger.register(), self.stranger.clear

    def register_inside(self) -> tuple[bytes, Flow]:
        self.phone.call_id = self.call_id
        return self.phone.reregister(self.phone.again()), self.phone.uplink

    def challenged(self) -> tuple[bytes, Flow]:
        (request,) = self.take(*self.register())
        return challenge(request), CORE

    def accepted(self) -> tuple[bytes, Flow]:
        (request,) = self.take(*self.register_inside())
        return ok(request), CORE

    def rejected(self) -> tuple[bytes, Flow]:
        (request,) = self.take(*self.register())
        return answer(request, "403 Forbidden"), CORE

    def from_ue(self, method: str = "MESSAGE") -> tuple[bytes, Flow]:
        return self.phone.request(method, call_id=self.call_id), self.phone.uplink

    def invite(self) -> tuple[bytes, Flow]:
        self.world.proxy.dialogs.close_all(self.registration)
        return self.from_ue("INVITE")

    def invite_answered(self) -> tuple[bytes, Flow]:
        request = self.take(*self.invite())[0]
        return answer(request, "200 OK", record=True), CORE

    def acknowledged(self) -> tuple[bytes, Flow]:
        self.take(*self.invite_answered())
        return self.phone.request("ACK", call_id=self.call_id, to_tag="core", route=""), self.phone.uplink

    def in_dialog(self) -> tuple[bytes, Flow]:
        self.take(*self.invite_answered())
        return self.phone.request("INFO", call_id=self.call_id, to_tag="core", cseq=2, route=""), self.phone.uplink

    def cancelled(self) -> tuple[bytes, Flow]:
        self.world.proxy.dialogs.close_all(self.registration)
        branch = f"z9hG4bK{self.number}"
        self.take(self.phone.request("INVITE", call_id=self.call_id, branch=branch), self.phone.uplink)
        return self.phone.request("CANCEL", call_id=self.call_id, branch=branch), self.phone.uplink

    def from_core(self, method: str = "MESSAGE") -> tuple[bytes, Flow]:
        return from_core(method, self.registration, call_id=self.call_id), CORE

    def invite_from_core(self) -> tuple[bytes, Flow]:
        self.world.proxy.dialogs.close_all(self.registration)
        return self.from_core("INVITE")

    def answered(self) -> tuple[bytes, Flow]:
        request = self.take(*self.from_core())[0]
        return answer(request, "200 OK", tag="ue"), self.phone.uplink

    def call_answered(self) -> tuple[bytes, Flow]:
        request = self.take(*self.invite_from_core())[0]
        return answer(request, "200 OK", tag="ue", record=True), self.phone.uplink

    def in_clear(self) -> tuple[bytes, Flow]:
        return self.phone.request("MESSAGE", call_id=self.call_id), self.stranger.clear

    def stray(self) -> tuple[bytes, Flow]:
        request = parse(self.phone.request("MESSAGE", call_id=self.call_id))
        assert isinstance(request, Request)
        return answer(request, "200 OK"), CORE


PLACES: dict[str, Callable[[Scene], tuple[bytes, Flow]]] = {
    name: getattr(Scene, name)
    for name in [
        "register",
        "register_inside",
        "challenged",
        "accepted",
        "rejected",
        "from_ue",
        "invite",
        "invite_answered",
        "acknowledged",
        "in_dialog",
        "cancelled",
        "from_core",
        "invite_from_core",
        "answered",
        "call_answered",
        "in_clear",
        "stray",
    ]
}


def with_header(data: bytes, name: str, value: str) -> bytes:
    """The message with this for its header of that name; "" is its Request-URI or reason."""
    head, _, body = data.partition(b"\r\n\r\n")
    start, *rest = head.split(b"\r\n")
    octets = value.encode("utf-8", "surrogateescape")
    if not name:
        first, _, more = start.partition(b" ")
        _, _, last = more.rpartition(b" ")
        start = b" ".join((first, more.partition(b" ")[0], octets) if first == b"SIP/2.0" else (first, octets, last))
        return b"\r\n".join([start, *rest, b"", body])
    key = name.lower().encode()
    kept = [line for line in rest if line.partition(b":")[0].lower() != key]
    return b"\r\n".join([start, *kept, b"%b: %b" % (name.encode(), octets), b"", body])
