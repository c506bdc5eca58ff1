"""What the lab's core does with requests other than REGISTER (TS 24.229 5.4.3, digest C7, C8, C12). Sans-IO.

It is a stateless proxy between registered users (RFC 3261 16.11), so that it hides no fault of a P-CSCF; strict on
purpose: what a P-CSCF must do and does not is refused with words in the reason phrase. What ends here goes to
`notifier` and `answering`.
"""

from collections import OrderedDict
from enum import Enum, auto
from typing import NamedTuple

from pcscf.lab.answering import NUMBERS
from pcscf.lab.bindings import Binding, Refusal
from pcscf.lab.challenge import Manners
from pcscf.lab.hops import Forward, Way, branch_of, flow_to, is_address, is_ours, name_addr, passed_on, uri_of
from pcscf.lab.hss import Hss
from pcscf.lab.registrar import SECURITY_HEADERS, Registrar, RegistrarSettings
from pcscf.sip.fields import Via, parse_name_addr, parse_via, top_via
from pcscf.sip.message import Header, Request, header
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri
from pcscf.vocabulary import Flow
from xfrm.model import bracketed

DIALOG_FORMING = frozenset({"INVITE", "SUBSCRIBE", "REFER"})
NOT_FOR_THE_OTHER_SIDE = frozenset({"p-access-network-info", "p-visited-network-id", "p-called-party-id"})
REMEMBERED_INVITES = 10_000


class Place(Enum):
    """Who of us takes a request that ends here."""

    REG_EVENT = auto()
    NUMBER = auto()
    DIALOG = auto()
    OURSELVES = auto()


class Here(NamedTuple):
    """A request that ends here. `identity`: the user's the reg event is of, or the name of the answering number."""

    place: Place
    identity: str = ""


class Serving:
    """The way of each request."""

    def __init__(self, settings: RegistrarSettings, hss: Hss, registrar: Registrar) -> None:
        self._settings = settings
        self._hss = hss
        self._registrar = registrar
        self._invites: OrderedDict[str, Way | None] = OrderedDict()

    @property
    def _kamailio(self) -> bool:
        return self._settings.manners is Manners.KAMAILIO

    def decide(self, request: Request, flow: Flow, now: float) -> Forward | Here:
        """Pass a request on, or take it here. Raises Refusal and ParseError.

        CANCEL, the ACK to a failure and an INVITE again go where the INVITE went, whatever has changed since.
        """
        key = branch_of(request)
        if request.method in ("ACK", "CANCEL", "INVITE") and key in self._invites:
            way = self._invites[key]
            if way is not None:
                return passed_on(request, way, self._settings, came_by=flow)
            if request.method != "INVITE":
                return Here(Place.DIALOG)
        elif request.method == "CANCEL":
            return Here(Place.DIALOG)
        way = None
        try:
            decision = self._decide(request, flow, now)
            if isinstance(decision, Here):
                return decision
            way = decision
        finally:
            if request.method == "INVITE":
                self._invites[key] = way
                while len(self._invites) > REMEMBERED_INVITES:
                    self._invites.popitem(last=False)
        return passed_on(request, way, self._settings, came_by=flow)

    def terminate(self, request: Request, identity: str, now: float) -> Forward:
        """A request of our own, without Via, to a user. Raises Refusal and ParseError."""
        return passed_on(request, self._to_user(request, identity, now, None), self._settings, came_by=None)

    def _decide(self, request: Request, flow: Flow, now: float) -> Way | Here:
        self._check_hops(request)
        if not self._kamailio and request.method not in ("ACK", "CANCEL"):
            self._check_sender(request, flow, now)
        routes = request.values("route")
        uri = parse_uri(request.uri)
        first = uri_of(routes[0]) if routes else None
        inside = name_addr(request, "to").param("tag") is not None
        if first is not None and is_ours(first, self._settings):
            if first.user == "orig":
                return self._originating(request, flow, now)
            while routes and is_ours(uri_of(routes[0]), self._settings):
                routes.pop(0)
            if routes or (inside and not is_ours(uri, self._settings)):
                if not inside and not self._kamailio:
                    raise Refusal(403, "neither in a dialog nor by the Service-Route")
                flow = flow_to(parse_name_addr(routes[0]).uri if routes else request.uri, self._settings)
                return Way(request.uri, tuple(routes), flow, vias=2 if self._kamailio else 1)
        if routes:
            raise Refusal(403, "Route does not lead to this core")
        if is_ours(uri, self._settings):
            return Here(Place.DIALOG if inside or request.method != "OPTIONS" else Place.OURSELVES)
        if self._kamailio:
            return self._target(request, flow, now)
        if _is_reg_event(request) and self._hss.owner(request.uri) is not None:
            self._check_charging(request)
            return Here(Place.REG_EVENT, request.uri)
        raise Refusal(403, "the request did not come by the Service-Route")

    def _check_hops(self, request: Request) -> None:
        text = request.first("max-forwards")
        if text is None:
            if self._kamailio:
                return
            raise Refusal(400, "Max-Forwards is missing")
        if not (text.isascii() and text.isdigit() and int(text) <= 255):
            raise Refusal(400, "Max-Forwards is no number from 0 to 255")
        if text == "0" and not is_ours(parse_uri(request.uri), self._settings):
            raise Refusal(483, "Too Many Hops")

    # From a user

    def _originating(self, request: Request, flow: Flow, now: float) -> Way | Here:
        """A request by the Service-Route. Raises Refusal for what a P-CSCF must not let through (digest C7)."""
        if not self._kamailio:
            self._check(request, now)
        return self._target(request, flow, now)

    def _check(self, request: Request, now: float) -> None:
        if request.method == "ACK":
            raise Refusal(400, "an ACK by the Service-Route answers nothing")
        if name_addr(request, "to").param("tag") is not None:
            raise Refusal(400, "a request in a dialog came by the Service-Route")
        if len(request.values("route")) > 1:
            raise Refusal(400, "Route is more than the Service-Route")
        self._check_identity(request, now)
        self._check_charging(request)
        if request.method in DIALOG_FORMING and not request.lines("record-route"):
            raise Refusal(400, "Record-Route of the P-CSCF is missing")

    def _check_sender(self, request: Request, flow: Flow, now: float) -> None:
        """What holds for every request: it comes from a P-CSCF, and what belongs to Gm has stayed there."""
        via = parse_via(top_via(request))
        if not is_address(via.host, flow.remote):
            raise Refusal(400, f"the top Via names {via.host}, not the P-CSCF that sent it")
        if any(_is_at(each, via) for _, each in self._registrar.registered(now)):
            raise Refusal(400, "the top Via is that of a UE")
        if request.lines("p-preferred-identity"):
            raise Refusal(400, "P-Preferred-Identity reached the core")
        for name in SECURITY_HEADERS:
            if request.lines(name):
                raise Refusal(400, f"{name.title()} reached the core")
        for name in ("require", "proxy-require", "supported"):
            if "sec-agree" in [tag.lower() for tag in request.values(name)]:
                raise Refusal(400, f"{name.title()}: sec-agree reached the core")

    def _check_charging(self, request: Request) -> None:
        if "icid-value=" not in (request.first("p-charging-vector") or "").lower():
            raise Refusal(400, "P-Charging-Vector with icid-value is missing")

    def _check_identity(self, request: Request, now: float) -> None:
        asserted = [parse_name_addr(value).uri for value in request.values("p-asserted-identity")]
        if not asserted:
            raise Refusal(403, "P-Asserted-Identity is missing")
        owners = [self._hss.owner(identity) for identity in asserted]
        if owners[0] is None or any(owner is not owners[0] for owner in owners):
            raise Refusal(403, "P-Asserted-Identity is not one user's")
        if not self._registrar.bindings(owners[0].impi, now):
            raise Refusal(403, "the user of P-Asserted-Identity is not registered")

    # To a user

    def _target(self, request: Request, flow: Flow, now: float) -> Way | Here:
        """By the Request-URI: an answering number, the reg event package, or a user. Raises Refusal."""
        uri = parse_uri(request.uri)
        if uri.host == self._settings.realm.lower() and uri.user in NUMBERS:
            return Here(Place.NUMBER, uri.user)
        if _is_reg_event(request) and self._hss.owner(request.uri) is not None:
            return Here(Place.REG_EVENT, request.uri)
        return self._to_user(request, request.uri, now, flow)

    def _to_user(self, request: Request, identity: str, now: float, came_by: Flow | None) -> Way:
        """The terminating leg: to the newest contact by its Path (digest C8, C12). Raises Refusal."""
        user = self._hss.owner(identity)
        if user is None:
            raise Refusal(604 if self._kamailio else 404, f"{identity} is unknown here")
        contacts = self._registrar.bindings(user.impi, now)
        if not contacts:
            raise Refusal(404, f"{identity} is not registered")
        binding = contacts[-1]
        flow = flow_to(parse_name_addr(binding.path[0]).uri if binding.path else binding.address.uri, self._settings)
        way = Way(binding.address.uri, binding.path, flow)
        if self._kamailio:
            asserted = header("P-Asserted-Identity", f"<{name_addr(request, 'from').uri}>")
            recorded = self._kamailio_record_route(request, flow, came_by)
            return way._replace(extra=(*recorded, asserted), without=frozenset({"p-asserted-identity"}), vias=3)
        called = header("P-Called-Party-ID", f"<{identity}>")
        return way._replace(extra=(*self._record_route(request), called), without=NOT_FOR_THE_OTHER_SIDE)

    def _record_route(self, request: Request) -> tuple[Header, ...]:
        if request.method not in DIALOG_FORMING:
            return ()
        tcp = ";transport=tcp" if self._settings.transport == "tcp" else ""
        place = f"{bracketed(self._settings.address)}:{self._settings.port}"
        return (header("Record-Route", f"<sip:{place}{tcp};lr>"),)

    def _kamailio_record_route(self, request: Request, out: Flow, came_by: Flow | None) -> tuple[Header, ...]:
        """The terminating and the originating S-CSCF; each twice when TCP is on one side (real core, Requests)."""
        if request.method not in DIALOG_FORMING:
            return ()
        place = f"{bracketed(self._settings.address)}:{self._settings.port}"
        marks = f"lr=on;ftag={name_addr(request, 'from').param('tag') or ''};did=a1b.c2d"
        recorded = []
        for name in ("mt", "mo"):
            if came_by is not None and "TCP" in (out.transport, came_by.transport):
                for flow in (out, came_by):
                    tcp = ";transport=tcp" if flow.transport == "TCP" else ""
                    recorded.append(f"<sip:{name}@{place}{tcp};r2=on;{marks}>")
            else:
                recorded.append(f"<sip:{name}@{place};{marks}>")
        return tuple(header("Record-Route", value) for value in recorded)


def _is_reg_event(request: Request) -> bool:
    event = (request.first("event") or "").partition(";")[0].strip().lower()
    return request.method == "SUBSCRIBE" and event == "reg"


def _is_at(binding: Binding, via: Via) -> bool:
    """Whether a Via is that of a registered contact."""
    try:
        uri = uri_of(binding.contact)
    except ParseError:
        return False
    return (uri.host, uri.port or 5060) == (via.host.lower(), via.port or 5060)
