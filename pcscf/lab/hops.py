"""Header edits of a stateless proxy: message in, message out (RFC 3261 16.11, 16.12).

Each Via of ours names the flow its request came by, so that a response finds its way back with nothing remembered.
What is passed on, and to whom, is `serving`.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Literal, NamedTuple

from pcscf.lab.bindings import Refusal
from pcscf.lab.challenge import Manners
from pcscf.lab.registrar import RegistrarSettings
from pcscf.sip.fields import NameAddr, parse_name_addr, parse_via, top_via
from pcscf.sip.message import Header, Request, Response, header, split_list
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import MAGIC_COOKIE
from pcscf.sip.uri import Uri, parse_uri
from pcscf.vocabulary import Flow, Interface
from xfrm.model import IPAddress, bracketed

_FLOW = re.compile(r"(udp|tcp)-([0-9]{1,5})-([0-9a-f]{8}|[0-9a-f]{32})-([0-9]{1,5})")
_BARE_RPORT = re.compile(r";\s*rport\s*(?=;|$)", re.IGNORECASE)


class Forward(NamedTuple):
    """A request as it leaves, and on which flow."""

    request: Request
    flow: Flow


class Way(NamedTuple):
    """Where a request goes: its Request-URI, its Route from then on, the next hop; `extra` headers come on top."""

    uri: str
    routes: tuple[str, ...]
    flow: Flow
    extra: tuple[Header, ...] = ()
    without: frozenset[str] = frozenset()
    vias: int = 1


def is_ours(uri: Uri, settings: RegistrarSettings) -> bool:
    """Whether a URI names the address and port we listen on."""
    return (uri.port or 5060) == settings.port and is_address(uri.host, settings.address)


def is_address(host: str, address: IPAddress) -> bool:
    """Whether a host is this very address, however it is written."""
    try:
        return ip_address(host) == address
    except ValueError:
        return False


def flow_to(text: str, settings: RegistrarSettings, *, transport: str = "") -> Flow:
    """The flow to a URI, which must hold an address: there is no DNS here. TCP from any port of ours, else UDP.

    Raises Refusal and ParseError.
    """
    uri = parse_uri(text)
    try:
        remote = ip_address(uri.host)
    except ValueError:
        raise Refusal(404, f"no way to {text}: it names no address") from None
    if remote.version != settings.address.version:
        raise Refusal(404, f"no way to {text}: this core speaks IPv{settings.address.version}")
    kind = (transport or uri.param("transport") or "udp").upper()
    if kind not in ("UDP", "TCP"):
        raise Refusal(404, f"no way to {text}: neither UDP nor TCP")
    port = uri.port or 5060
    if kind == "TCP":
        return Flow("TCP", Interface.MW, settings.address, 0, remote, port)
    return Flow("UDP", Interface.MW, settings.address, settings.port, remote, port)


def uri_of(value: str) -> Uri:
    """The URI of a Route, Path or identity. Raises ParseError."""
    return parse_uri(parse_name_addr(value).uri)


def name_addr(request: Request, name: str) -> NameAddr:
    """From, To or Contact. Raises ParseError, also when there is none."""
    value = request.first(name)
    if value is None:
        raise ParseError(f"{name.title()} is missing")
    return parse_name_addr(split_list(value)[0] if name == "contact" else value)


def stamped(request: Request, flow: Flow) -> Request:
    """The request with `received` and `rport` in its top Via (RFC 3261 18.2.1, RFC 3581 4). Raises ParseError."""
    top = top_via(request)
    via = parse_via(top)
    value = _BARE_RPORT.sub(f";rport={flow.remote_port}", top)
    if value == top and via.host == str(flow.remote):
        return request
    if via.param("received") is None:
        value += f";received={flow.remote}"
    return request.with_headers(_replaced_top_via(request.headers, [value]))


def branch_of(request: Request) -> str:
    """A branch that every retransmission, the CANCEL and the ACK to a failure get alike (RFC 3261 16.11)."""
    via = parse_via(top_via(request))
    parts = [via.branch, via.host, str(via.port)]
    if not via.branch.startswith(MAGIC_COOKIE):
        number = (request.first("cseq") or "").partition(" ")[0]
        parts += [number, request.first("call-id") or "", request.first("from") or "", request.uri]
    return _branch(parts)


def _branch(parts: Sequence[str]) -> str:
    digest = hashlib.sha256(" ".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{MAGIC_COOKIE}{digest[:20]}"


def via_text(settings: RegistrarSettings, transport: str, branch: str) -> str:
    return f"SIP/2.0/{transport} {bracketed(settings.address)}:{settings.port};branch={branch}"


def passed_on(request: Request, way: Way, settings: RegistrarSettings, *, came_by: Flow | None) -> Forward:
    """The request as it leaves (RFC 3261 16.6). `came_by`: where its answer goes; None if we made it, without Via."""
    if came_by is None:
        branch = _branch([request.first("call-id") or "", request.first("cseq") or ""])
        out = [header("Via", via_text(settings, way.flow.transport, branch))]
    else:
        branch = branch_of(request)
        above = [header("Via", via_text(settings, way.flow.transport, f"{branch}.{n}")) for n in range(1, way.vias)]
        last = f"{via_text(settings, way.flow.transport, branch)};flow={_flow_token(came_by)}"
        out = [*above, header("Via", last)]
    routes = [header("Route", value) for value in way.routes]
    first = settings.manners is Manners.KAMAILIO
    rest = []
    hops = "70"
    for item in request.headers:
        if item.name == "via":
            out.append(item)
        elif item.name == "max-forwards":
            hops = str(max(0, int(item.value) - 1)) if item.value.isdigit() else "70"
        elif item.name != "route" and item.name not in way.without:
            rest.append(item)
    lines = [*routes, *out] if first else [*out, *routes]
    headers = (*lines, *way.extra, header("Max-Forwards", hops), *rest)
    return Forward(Request(method=request.method, uri=way.uri, headers=headers, body=request.body), way.flow)


def passed_back(response: Response, settings: RegistrarSettings) -> tuple[Response, Flow] | None:
    """The response without our Vias, and where it goes. None: it answers a request of our own, or nothing of ours.

    Raises ParseError.
    """
    values = response.values("via")
    for place, value in enumerate(values):
        via = parse_via(value)
        if not is_address(via.host, settings.address) or (via.port or 5060) != settings.port:
            return None
        token = via.param("flow")
        if token is not None:
            flow = _flow_of(token, settings)
            rest = values[place + 1 :]
            if flow is None or not rest:
                return None
            return response.with_headers(_all_vias(response.headers, rest)), flow
    return None


def sender_of(response: Response, settings: RegistrarSettings) -> Flow:
    """Where the top Via of a response says that its request came from. Raises Refusal and ParseError."""
    via = parse_via(top_via(response))
    return flow_to(f"sip:{via.host}:{via.port or 5060}", settings, transport=via.transport)


def _flow_token(flow: Flow) -> str:
    return f"{flow.transport.lower()}-{flow.local_port}-{flow.remote.packed.hex()}-{flow.remote_port}"


def _flow_of(token: str, settings: RegistrarSettings) -> Flow | None:
    found = _FLOW.fullmatch(token)
    if found is None:
        return None
    remote = ip_address(bytes.fromhex(found[3]))
    transport: Literal["UDP", "TCP"] = "TCP" if found[1] == "tcp" else "UDP"
    return Flow(transport, Interface.MW, settings.address, int(found[2]), remote, int(found[4]))


def _replaced_top_via(headers: Sequence[Header], values: list[str]) -> Iterable[Header]:
    """The headers with these values in place of the first Via value."""
    seen = False
    for item in headers:
        if item.name == "via" and not seen:
            seen = True
            yield header("Via", ", ".join([*values, *split_list(item.value)[1:]]))
        else:
            yield item


def _all_vias(headers: Sequence[Header], values: list[str]) -> list[Header]:
    vias = [header("Via", value) for value in values]
    return [*vias, *(item for item in headers if item.name != "via")]
