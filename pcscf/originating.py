"""Requests from a UE (TS 24.229 5.2.6.3, digest C7): what they must show, and what becomes of them and their responses.

The served user is the one whose SA carried the request, never the one in From. The way is the Service-Route, or the
route set of the dialog, and nothing the UE would rather have: neither its Route nor its Request-URI chooses an address.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from pcscf import security, trust
from pcscf.dialog import MOST_OF_ONE, Dialog, DialogKey, Dialogs
from pcscf.emergency import EmergencyMode, EmergencySettings, alternative_service, is_emergency
from pcscf.nexthop import NextHops
from pcscf.passage import (
    DIALOG_FORMING,
    METHODS,
    Plan,
    Refusal,
    Sides,
    host_of,
    preferred_of,
    readable,
    route_uri,
    tag_of,
)
from pcscf.registration import Registration, SaSet
from pcscf.routing import hops_left, less_our_via, option_tags, own_from, received_via
from pcscf.security import AgreementError
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.message import Header, Request, Response, header, split_list
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri, same_uri
from pcscf.trust import SEC_AGREE, Crossing
from pcscf.turn import Turn
from pcscf.vocabulary import Flow

_REQUEST_UP = trust.table(Crossing.REQUEST_UP)
NOT_ASSERTED = frozenset({"ACK", "CANCEL", "INFO", "PRACK", "UPDATE"})
"""Methods that carry no P-Asserted-Identity (RFC 3325 9.1)."""
SUPPORTED = frozenset({SEC_AGREE})
"""Option tags a Proxy-Require may name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginatingSettings:
    """What the operator decided about requests from UEs."""

    overwrite_route: bool = False
    """A Route that is not the Service-Route (or the route set of the dialog) is corrected instead of refused."""
    emergency: EmergencySettings = field(default_factory=EmergencySettings)


class Originating:
    """Plans for requests from UEs."""

    def __init__(
        self, turn: Turn, dialogs: Dialogs, hops: NextHops, sides: Sides, settings: OriginatingSettings
    ) -> None:
        self._turn = turn
        self._dialogs = dialogs
        self._hops = hops
        self._sides = sides
        self.settings = settings

    def plan(self, request: Request, flow: Flow, registration: Registration, sa_set: SaSet | None) -> Plan:
        """Check a request and say what becomes of it. Raises Refusal or ParseError."""
        self._check(request, sa_set)
        routes = request.values("route")
        own = None
        if routes and self._sides.is_gm(route_uri(routes[0])):
            own = routes.pop(0)
        dialog = self._dialog_of(request, flow, registration)
        beyond: tuple[str, ...] = ()
        emergency = False
        if dialog is not None:
            registration = dialog.registration
            absent = not routes and dialog.route == self._to_ecscf  # which left itself out of the route set
            routes = self._checked(routes, dialog.route, "the route set of the dialog", absent=absent)
            ways = self._toward(routes[0]) if routes else self._without_route(registration)
        elif is_emergency(request, self.settings.emergency.numbers):
            routes, ways = self._emergency()
            if not registration.key.impi and not self.settings.emergency.unregistered:
                raise Refusal(403, "an emergency request, and only of a UE that is registered")
            beyond = self._to_ecscf
            emergency = True
        elif not registration.registered:
            raise Refusal(403, "the user is not registered")
        else:
            if own is None and not routes and self._is_for_us(request):
                raise own_answer(request)
            if not routes or routes != list(registration.service_route):
                routes = self._checked(routes, registration.service_route, "the Service-Route", absent=not routes)
            ways = self._toward(routes[0]) if routes else self._hops.to_home
            usage = DIALOG_FORMING.get(request.method)
            if usage is not None and self._dialogs.is_full(registration, usage):
                raise Refusal(503, f"this UE has {MOST_OF_ONE} {usage.value}s already", [header("Retry-After", "10")])
        identity = self._identity(request, registration) if request.method not in NOT_ASSERTED else ""
        charging = dialog is None
        token = registration.path_token if request.method in DIALOG_FORMING else ""
        icid = self._turn.token(16) if charging else ""

        def build(way: Flow, branch: str) -> Request:
            return self._to_core(request, flow, way, branch, routes=routes, identity=identity, token=token, icid=icid)

        gm = host_of(flow.local, flow.local_port if sa_set is None else sa_set.parameters.port_ps)
        privacy = trust.privacy(request)

        def back(response: Response) -> Response:
            return self._to_ue(request, response, token, gm, privacy)

        def route_of(response: Response) -> tuple[str, ...]:
            return self._route_of(response, token) or beyond

        return Plan(
            registration=registration,
            build=build,
            back=back,
            ways=ways,
            dialog=dialog,
            emergency=emergency,
            route_of=route_of,
        )

    def _check(self, request: Request, sa_set: SaSet | None) -> None:
        """What every request must show. Raises Refusal."""
        if hops_left(request) == 0:
            raise Refusal(483, "Max-Forwards is 0")
        unknown = [tag for tag in option_tags(request.values("proxy-require")) if tag not in SUPPORTED]
        if unknown and request.method not in ("ACK", "CANCEL"):
            raise Refusal(420, f"Proxy-Require: {', '.join(unknown)}", [header("Unsupported", ", ".join(unknown))])
        verify = request.lines("security-verify")
        if verify and sa_set is not None:
            try:
                security.check_verify(verify, sa_set.security_server)
            except AgreementError as error:
                more = [header("Security-Server", sa_set.security_server), header("Require", SEC_AGREE)]
                raise Refusal(error.status, str(error), more if error.status == 494 else ()) from error

    def _dialog_of(self, request: Request, flow: Flow, registration: Registration) -> Dialog | None:
        """The dialog a request belongs to; None for one outside of dialogs. Raises Refusal.

        It is the UE's own, or that of the guest it was: who registers during an emergency call can still end it.
        """
        peer_tag = tag_of(request, "to")
        if not peer_tag:
            return None
        key = DialogKey(request.first("call-id") or "", tag_of(request, "from"), peer_tag)
        dialog = self._dialogs.find(key)
        if dialog is None:
            raise Refusal(481, f"no dialog of this UE: Call-ID {key.call_id[:60]}")
        owner = dialog.registration
        if owner is not registration and (owner.key.impi or owner.clear != flow):
            raise Refusal(403, f"the dialog {key.call_id[:60]} belongs to another user")
        return dialog

    def _checked(self, routes: list[str], saved: tuple[str, ...], what: str, *, absent: bool = False) -> list[str]:
        """The saved way, if the UE's is the same URI by URI or may be corrected (digest C7 step 2). Raises Refusal."""
        if not absent and not self.settings.overwrite_route and not _same_routes(routes, saved):
            warning = header("Warning", f'399 {host_of(self._sides.gm[0], self._sides.gm_port)} "Route is not {what}"')
            raise Refusal(400, f"Route is not {what}: {', '.join(routes)[:120] or '(none)'}", [warning])
        return list(saved)

    def _toward(self, route: str) -> Callable[[Callable[[list[Flow]], None]], None]:
        uri = parse_name_addr(route).uri
        return lambda then: self._hops.to_uri(uri, then)

    def _without_route(self, registration: Registration) -> Callable[[Callable[[list[Flow]], None]], None]:
        """The way in a dialog whose route set is empty: nobody of the core recorded a route, but the core it is.

        Where the Request-URI would lead is the UE's word, and no address that we may be sent to from our Mw side.
        """
        return self._toward(registration.service_route[0]) if registration.service_route else self._hops.to_home

    @property
    def _to_ecscf(self) -> tuple[str, ...]:
        ecscf = self.settings.emergency.ecscf
        return (f"<{ecscf}>" if ";lr" in ecscf else f"<{ecscf};lr>",) if ecscf else ()

    def _emergency(self) -> tuple[list[str], Callable[[Callable[[list[Flow]], None]], None]]:
        """An emergency request goes to the E-CSCF; its Route does not count (digest C10). Raises Refusal."""
        emergency = self.settings.emergency
        if emergency.mode is EmergencyMode.ALTERNATIVE:
            raise elsewhere()
        if emergency.mode is EmergencyMode.REFUSE:
            raise Refusal(403, "emergency requests are not served here")
        return list(self._to_ecscf), lambda then: self._hops.to_uri(emergency.ecscf, then)

    def _is_for_us(self, request: Request) -> bool:
        try:
            uri = parse_uri(request.uri)
        except ParseError:
            return False
        return not uri.user and self._sides.is_gm(uri)

    def _identity(self, request: Request, registration: Registration) -> str:
        """Who we assert the user is: what it prefers if that is one of its identities, else its default (C7).

        "" for a UE that has none: an emergency caller who is not registered.
        """
        own = registration.associated_uris
        return preferred_of(own, request.values("p-preferred-identity")) or (own[0] if own else "")

    def _to_core(
        self,
        request: Request,
        flow: Flow,
        way: Flow,
        branch: str,
        *,
        routes: list[str],
        identity: str,
        token: str,
        icid: str,
    ) -> Request:
        """The request as it goes to the core, in one pass over its headers."""
        core = self._sides.core
        out = [header("Via", f"SIP/2.0/{way.transport} {core.sent_by(way)};branch={branch}")]
        if routes:
            out.append(header("Route", ", ".join(routes)))
        if token:
            out.append(header("Record-Route", f"<{core.uri(token, way)}>"))
        seen_via = seen_hops = False
        for item in request.headers:
            action = _REQUEST_UP.get(item[0])
            if action is None:
                out.append(item)
            elif action is not trust.hop:
                if (kept := action(item)) is not None:
                    out.append(kept)
            elif item[0] == "via":
                out.append(item if seen_via else received_via(item, flow))
                seen_via = True
            else:
                seen_hops = True
                out.append(header("Max-Forwards", str(int(item.value) - 1)))
        if not seen_hops:
            out.append(header("Max-Forwards", "70"))
        if identity:
            out.append(header("P-Asserted-Identity", identity))
        if icid:
            out.append(core.charging_vector(icid, way))
        return Request(method=request.method, uri=trust.request_uri(request.uri), headers=tuple(out), body=request.body)

    def _to_ue(self, request: Request, response: Response, token: str, gm: str, privacy: frozenset[str]) -> Response:
        """A response as it goes back to the UE: our Record-Route entry becomes one that it can reach (digest C7)."""
        out: list[Header] = []
        seen_via = False
        table = trust.table(Crossing.RESPONSE_DOWN, privacy | trust.privacy(response))
        found = self._place(response.values("record-route"), token) if token else None
        place = -1 if found is None else found
        for item in response.headers:
            action = table.get(item[0])
            if action is None:
                out.append(item)
            elif action is not trust.hop:
                if (kept := action(item)) is not None:
                    out.append(kept)
            elif item[0] == "via":
                out += [item] if seen_via else less_our_via(item)
                seen_via = True
            elif item[0] == "from":
                out.append(own_from(request))
            elif token:
                entries = split_list(item.value)
                if 0 <= place < len(entries):
                    entries[place] = f"<sip:{gm};lr>"
                place -= len(entries)
                out.append(header("Record-Route", ", ".join(entries)))
            else:
                out.append(item)
        return response.with_headers(out)

    def _place(self, entries: list[str], token: str) -> int | None:
        """Where our own entry is: the last with the token, for a UE that calls itself has it in both legs."""
        ours = (index for index, each in enumerate(entries) if token in each and _user(each) == token)
        return max(ours, default=None)

    def _route_of(self, response: Response, token: str) -> tuple[str, ...]:
        """The route set beyond us of the dialog that a response makes: what is above us, reversed (RFC 3261 12.1.2)."""
        entries = response.values("record-route")
        return tuple(reversed(entries[: self._place(entries, token)]))


def _user(value: str) -> str:
    """The user part of a Record-Route value, "" where it cannot be read."""
    return route_uri(value).user if readable(value) else ""


def elsewhere() -> Refusal:
    """What a UE is told that shall make its emergency call another way (TS 24.229 5.2.10)."""
    headers, body = alternative_service("Emergency calls are not served here")
    return Refusal(380, "an emergency request, to be made elsewhere", headers, body)


def own_answer(request: Request) -> Refusal:
    """Our answer to a request that is for ourselves: OPTIONS says what we can (RFC 3261 11.2, 8.2.2.3)."""
    required = option_tags(request.values("require"))
    unknown = [tag for tag in required if tag not in (SEC_AGREE, "path")]
    if unknown:
        return Refusal(420, f"Require: {', '.join(unknown)}", [header("Unsupported", ", ".join(unknown))])
    if request.method == "NOTIFY":
        return Refusal(481, "NOTIFY of a subscription we do not have")
    if request.method != "OPTIONS":
        return Refusal(405, f"{request.method} to the P-CSCF itself", [header("Allow", "OPTIONS")])
    return Refusal(
        200,
        "",
        [header("Allow", METHODS), header("Accept", "application/sdp"), header("Supported", f"path, {SEC_AGREE}")],
    )


def _same_routes(routes: list[str], saved: tuple[str, ...]) -> bool:
    if len(routes) != len(saved):
        return False
    return all(
        left == right or (readable(left) and same_uri(route_uri(left), route_uri(right)))
        for left, right in zip(routes, saved, strict=True)
    )
