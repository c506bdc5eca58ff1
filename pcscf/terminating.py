"""Requests to a UE (TS 24.229 5.2.6.4, digest C8): which UE, inside which set, and what becomes of its responses.

A request finds its UE by the token in our Path or Record-Route; it goes to the address and port_us of the set in use,
never where a name server or a Contact would lead it.
"""

from collections.abc import Callable

from pcscf import trust
from pcscf.dialog import MOST_OF_ONE, DialogKey, Dialogs
from pcscf.originating import own_answer
from pcscf.passage import (
    DIALOG_FORMING,
    Plan,
    Refusal,
    Sides,
    host_of,
    preferred_of,
    readable,
    route_uri,
    tag_of,
)
from pcscf.registrar import Registrar
from pcscf.registration import Registration
from pcscf.routing import hops_left, received_via
from pcscf.signalling import Signalling
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.message import REASONS, Header, Request, Response, header, split_list
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri
from pcscf.trust import Crossing
from pcscf.vocabulary import Flow

MOST_OVER_UDP = 1300
"""Octets of a request; a longer one goes over TCP (TS 24.229 4.2A, RFC 3261 18.1.1)."""
_RESPONSE_UP = trust.table(Crossing.RESPONSE_UP)


class Terminating:
    """Plans for requests to UEs."""

    def __init__(self, registrar: Registrar, dialogs: Dialogs, signalling: Signalling, sides: Sides) -> None:
        self._registrar = registrar
        self._dialogs = dialogs
        self._signalling = signalling
        self._sides = sides

    def plan(self, request: Request, flow: Flow) -> Plan:
        """Find the UE of a request from the core and say what becomes of it. Raises Refusal or ParseError."""
        if hops_left(request) == 0:
            raise Refusal(483, "Max-Forwards is 0")
        routes = request.values("route")
        if not routes or not self._sides.is_mw(route_uri(routes[0])):
            if self._is_for_us(request):
                raise own_answer(request)
            raise Refusal(404, f"{request.method} {request.uri[:80]}: no Route of ours, so no UE of ours")
        token = route_uri(routes.pop(0)).user
        registration = self._registrar.by_token(token)
        if registration is None:
            raise Refusal(480, f"{request.method}: nobody is registered with {token[:40]}")
        key = DialogKey(request.first("call-id") or "", tag_of(request, "to"), tag_of(request, "from"))
        dialog = self._dialogs.find(key) if key.ue_tag else None
        if dialog is not None and dialog.registration is not registration:
            raise Refusal(481, f"the dialog {key.call_id[:60]} belongs to another UE")
        forming = request.method in DIALOG_FORMING
        emergency = forming and trust.is_psap_callback(request.first("priority") or "")
        if (
            forming
            and dialog is None
            and not emergency
            and self._dialogs.is_full(registration, DIALOG_FORMING[request.method])
        ):
            raise Refusal(486, f"the UE has {MOST_OF_ONE} {DIALOG_FORMING[request.method].value}s already")
        gm = self._sent_by(registration)
        record = [f"<{self._sides.core.uri(token, flow)}>", *request.values("record-route")] if forming else []
        vias = [item for item in request.headers if item.name == "via"]
        vias[0] = received_via(vias[0], flow)
        privacy = trust.privacy(request)
        called = request.first("p-called-party-id") or ""
        charging = _answered_vector(request.first("p-charging-vector"), self._sides.core.visited_network)

        def build(way: Flow, branch: str) -> Request:
            return self._to_ue(request, vias, way, branch, gm, routes, forming=forming, privacy=privacy)

        def back(response: Response) -> Response:
            return self._to_core(response, vias, registration, record, called, charging)

        def ways(then: Callable[[list[Flow]], None]) -> None:
            then(self._ways(request, registration, build))

        return Plan(
            registration=registration,
            build=build,
            back=back,
            ways=ways,
            dialog=dialog,
            emergency=emergency,
            route_of=lambda response: tuple(request.values("record-route")),
        )

    def _is_for_us(self, request: Request) -> bool:
        try:
            return self._sides.is_mw(parse_uri(request.uri))
        except ParseError:
            return False

    def _sent_by(self, registration: Registration) -> str:
        """What we call ourselves toward the UE: our address and port_ps (digest C8, field trap 28). Raises Refusal."""
        sa_set = self._registrar.sending_set(registration)
        if sa_set is not None:
            return host_of(sa_set.parameters.pcscf, sa_set.parameters.port_ps)
        if registration.clear is not None and not registration.cut_off:
            return host_of(registration.clear.local, registration.clear.local_port)
        raise Refusal(480, "the UE has no SAs that could carry it")

    def _ways(self, request: Request, registration: Registration, build: Callable[[Flow, str], Request]) -> list[Flow]:
        """The flows to the UE, by size and by what its Contact asks for; decided once for a transaction (trap 33)."""
        sa_set = self._registrar.sending_set(registration)
        if sa_set is None:
            return [] if registration.clear is None else [registration.clear]
        udp, tcp = self._signalling.downlink(sa_set), self._signalling.connection(sa_set)
        if _asks_for_tcp(request.uri):
            return [tcp, udp]
        size = len(build(udp, "z9hG4bK0123456789abcdef").to_bytes()) if _may_be_long(request) else 0
        return [tcp, udp] if size > MOST_OVER_UDP else [udp]

    def _to_ue(
        self,
        request: Request,
        vias: list[Header],
        way: Flow,
        branch: str,
        gm: str,
        routes: list[str],
        *,
        forming: bool,
        privacy: frozenset[str],
    ) -> Request:
        """The request as it goes to the UE, in one pass over its headers."""
        out = [header("Via", f"SIP/2.0/{way.transport} {gm};branch={branch}"), *vias]
        if routes:
            out.append(header("Route", ", ".join(routes)))
        if forming:
            out.append(header("Record-Route", f"<sip:{gm};lr>"))
        seen_hops = False
        table = trust.table(Crossing.REQUEST_DOWN, privacy)
        for item in request.headers:
            action = table.get(item[0])
            if action is None:
                out.append(item)
            elif action is not trust.hop:
                if (kept := action(item)) is not None:
                    out.append(kept)
            elif item[0] == "max-forwards":
                seen_hops = True
                out.append(header("Max-Forwards", str(int(item.value) - 1)))
        if not seen_hops:
            out.append(header("Max-Forwards", "70"))
        return Request(method=request.method, uri=trust.request_uri(request.uri), headers=tuple(out), body=request.body)

    def _to_core(
        self,
        response: Response,
        vias: list[Header],
        registration: Registration,
        record: list[str],
        called: str,
        charging: str,
    ) -> Response:
        """A response as it goes back to the core: who the user is, and the way it came (C8, 5.2.6.4.4).

        Via and Record-Route are those of the request, whatever the UE made of them: they lead others, too.
        """
        out = list(vias)
        preferred: list[str] = []
        for item in response.headers:
            action = _RESPONSE_UP.get(item[0])
            if action is None:
                out.append(item)
            elif action is not trust.hop:
                if (kept := action(item)) is not None:
                    out.append(kept)
            elif item[0] == "p-preferred-identity":
                preferred += split_list(item.value)
        if record and 100 < response.status < 300:
            out.append(header("Record-Route", ", ".join(record)))
        if identity := _asserted(registration, preferred, called):
            out.append(header("P-Asserted-Identity", identity))
        if charging:
            out.append(header("P-Charging-Vector", charging))
        if response.status == 503:  # it is about this UE, and would be taken for one about the core (RFC 3261 16.7)
            rest = tuple(item for item in out if item.name != "retry-after")
            return Response(status=500, reason=REASONS[500], headers=rest, body=response.body)
        return response.with_headers(out)


def _asks_for_tcp(uri: str) -> bool:
    """Whether the Contact that a request is for wants TCP. It chooses no address."""
    if "tcp" not in uri.lower():
        return False
    try:
        return (parse_uri(uri).param("transport") or "").lower() == "tcp"
    except ParseError:
        return False


def _asserted(registration: Registration, preferred: list[str], called: str) -> str:
    """Who answers: one of the user's identities that it prefers, else the one that was called, else its default."""
    own = registration.associated_uris
    if found := preferred_of(own, preferred):
        return found
    if called and readable(called):
        return called if called in own else f"<{parse_name_addr(called).uri}>"
    return own[0] if own else ""


def _answered_vector(vector: str | None, network: str) -> str:
    """P-Charging-Vector of the answer: the icid of the request, and our network as its end (RFC 7315 4.6)."""
    if not vector:
        return ""
    kept = [part for part in vector.split(";") if part.strip().lower().startswith(("icid-value=", "orig-ioi="))]
    return ";".join([*kept, f'term-ioi="{network}"']) if kept else ""


def _may_be_long(request: Request) -> bool:
    """Whether it is worth measuring: the lines and the body alone come near the limit."""
    return sum(map(len, (item.line for item in request.headers))) + len(request.body) > MOST_OVER_UDP - 500
