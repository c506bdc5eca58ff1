"""What originating and terminating requests have in common on their way through us: own URIs, tags, refusals, a plan.

The plan of a request says what it becomes and what its responses become; `relay` carries it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from pcscf.dialog import Dialog, Usage
from pcscf.registration import Registration
from pcscf.routing import CoreSide
from pcscf.sip.fields import KEPT_OCTETS, parse_name_addr
from pcscf.sip.message import Header, Message, Request, Response
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import Uri, parse_uri, same_uri
from pcscf.vocabulary import Flow
from xfrm.model import IPAddress, PortRange, bracketed

DIALOG_FORMING = {"INVITE": Usage.CALL, "SUBSCRIBE": Usage.SUBSCRIPTION, "REFER": Usage.SUBSCRIPTION}
"""What the dialog is for that a request of this method makes."""
METHODS = "INVITE, ACK, CANCEL, BYE, PRACK, UPDATE, INFO, MESSAGE, OPTIONS, SUBSCRIBE, NOTIFY, PUBLISH, REFER, REGISTER"


class Refusal(Exception):
    """A request goes no further; `status` is the answer, `headers` go into it, `str` is for people."""

    def __init__(self, status: int, why: str, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        super().__init__(why)
        self.status = status
        self.headers = tuple(headers)
        self.body = body


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Where we are: what we call ourselves toward the UEs and toward the core."""

    core: CoreSide
    gm: tuple[IPAddress, ...]
    gm_port: int
    ports_ps: PortRange
    mw: tuple[IPAddress, ...]

    def is_gm(self, uri: Uri) -> bool:
        """Whether a URI is one of ours toward the UEs, on any listener (field trap 35)."""
        port = uri.port or 5060
        return (port in self.ports_ps or port == self.gm_port) and _host_in(uri.host, self.gm)

    def is_mw(self, uri: Uri) -> bool:
        """Whether a URI is ours toward the core."""
        return (uri.port or 5060) == self.core.port and _host_in(uri.host, self.mw)


@lru_cache(maxsize=64)  # few, for they may be long
def _host_in(host: str, addresses: tuple[IPAddress, ...]) -> bool:
    try:
        return ip_address(host) in addresses
    except ValueError:
        return False


@dataclass(slots=True, eq=False, kw_only=True)
class Plan:
    """What to do with one request."""

    registration: Registration
    build: Callable[[Flow, str], Request]
    """The request as it goes that way, with that branch."""
    back: Callable[[Response], Response]
    """A response as it goes back."""
    ways: Callable[[Callable[[list[Flow]], None]], None]
    """Where it may go: calls with the ways, the best first, now or later."""
    dialog: Dialog | None = None
    """The dialog it belongs to; None if it begins one or stands alone."""
    emergency: bool = False
    route_of: Callable[[Response], tuple[str, ...]] = lambda response: ()
    """The route set beyond us of a dialog that a response makes."""


def route_uri(value: str) -> Uri:
    """The URI of a Route, Record-Route or Service-Route value. Raises ParseError. Kept: phones say the same again."""
    return (_route_uri if len(value) <= KEPT_OCTETS else _route_uri.__wrapped__)(value)


@lru_cache(maxsize=4096)
def _route_uri(value: str) -> Uri:
    return parse_uri(parse_name_addr(value).uri)


def tag_of(message: Message, name: str) -> str:
    """The tag of From or To, "" without. Raises ParseError."""
    return parse_name_addr(message.first(name) or "").param("tag") or ""


def host_of(address: IPAddress, port: int) -> str:
    return f"{bracketed(address)}:{port}"


def readable(value: str) -> bool:
    """Whether a name-addr and its URI can be read."""
    try:
        route_uri(value)
    except ParseError:
        return False
    return True


def preferred_of(own: tuple[str, ...], values: Sequence[str]) -> str:
    """The first of the user's identities that P-Preferred-Identity names, as the core wrote it; "" if it names none.

    It has two values at most (RFC 3325 9.2); what follows is not looked at.
    """
    for value in values[:2]:
        if readable(value):
            wanted = route_uri(value)
            if found := next((each for each in own if same_uri(route_uri(each), wanted)), ""):
                return found
    return ""
