"""Header edits of the P-CSCF: message in, message out (TS 24.229 5.2.2, digest C2 to C4).

Each direction is one pass over the headers. Which of them cross the border is `trust`; who may send what is `proxy`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pcscf import trust
from pcscf.sip.fields import parse_via, top_via
from pcscf.sip.message import Header, Request, Response, header, split_list
from pcscf.sip.parse import ParseError, quoted
from pcscf.trust import Crossing
from pcscf.vocabulary import Flow
from xfrm.model import IPAddress, bracketed

_PARAM = re.compile(r'(?:[^;"]++|"(?:[^"\\]|\\.)*+(?:"|$))++', re.DOTALL)
_REGISTER_UP = trust.table(Crossing.REGISTER_UP)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSide:
    """How we present ourselves toward the core: our port there, and the network a UE visits with us."""

    port: int
    visited_network: str

    def sent_by(self, flow: Flow) -> str:
        """Our end of a flow as it stands in Via and Path: its local address, and the port we listen at."""
        return f"{bracketed(flow.local)}:{self.port}"

    def uri(self, user: str, flow: Flow) -> str:
        """A loose-routing URI of ours for Path (RFC 3327) and Record-Route, reachable from where the flow goes to."""
        transport = "" if flow.transport == "UDP" else f";transport={flow.transport.lower()}"
        return f"sip:{user}@{self.sent_by(flow)}{transport};lr"

    def charging_vector(self, icid: str, flow: Flow) -> Header:
        """P-Charging-Vector of a request that starts here (RFC 7315 4.6)."""
        host, network = bracketed(flow.local), self.visited_network
        return header("P-Charging-Vector", f'icid-value="{icid}";icid-generated-at={host};orig-ioi="{network}"')


def option_tags(values: Sequence[str]) -> list[str]:
    """Option tags in lower case (RFC 3261 20.32; tags are tokens and so compare without case)."""
    return [value.lower() for value in values]


def register_to_core(
    request: Request,
    core: CoreSide,
    flow: Flow,
    way: Flow,
    *,
    branch: str,
    path_uri: str,
    icid: str,
    integrity_protected: str,
) -> Request:
    """The REGISTER from `flow` as it goes `way` to the core (digest C2 steps 2 to 9).

    `integrity_protected` is "yes", "no" or "" for none (digest A10, A14); what the UE claimed is taken out.
    Raises ParseError.
    """
    out = [header("Via", f"SIP/2.0/{way.transport} {core.sent_by(way)};branch={branch}")]
    seen_via = seen_hops = False
    required: list[str] = []
    for item in request.headers:
        name = item[0]
        action = _REGISTER_UP.get(name)
        if action is None:
            out.append(item)
        elif action is not trust.hop:
            if (kept := action(item)) is not None:
                out.append(kept)
        elif name == "via":
            out.append(item if seen_via else received_via(item, flow))
            seen_via = True
        elif name == "require":
            required += [tag for tag in split_list(item.value) if tag.lower() not in (trust.SEC_AGREE, "path")]
        elif name == "authorization":
            credentials = trust.without_indicator(item)
            indicator = f',integrity-protected="{integrity_protected}"' if integrity_protected else ""
            out.append(header("Authorization", f"{credentials.value}{indicator}"))
        else:
            seen_hops = True
            out.append(header("Max-Forwards", str(int(item.value) - 1)))
    if not seen_hops:
        out.append(header("Max-Forwards", "70"))
    out.append(header("Path", f"<{path_uri}>"))
    out.append(header("Require", ", ".join([*required, "path"])))
    out.append(header("P-Visited-Network-ID", f'"{core.visited_network}"'))
    out.append(core.charging_vector(icid, way))
    return Request(method=request.method, uri=trust.request_uri(request.uri), headers=tuple(out), body=request.body)


def received_via(item: Header, flow: Flow) -> Header:
    """Record where the request really came from (RFC 3261 18.2.1, RFC 3581 4)."""
    top, *rest = split_list(item.value)
    via = parse_via(top)
    added = ""
    if via.param("rport") is not None:
        top = _drop_param(top, "rport")
        added = f";rport={flow.remote_port}"
    if via.param("received") is not None:
        top = _drop_param(top, "received")
    if added or via.host != str(flow.remote):
        added = f";received={flow.remote}{added}"
    if not added and via.param("received") is None:
        return item
    return header("Via", ", ".join([top + added, *rest]))


def _drop_param(value: str, name: str) -> str:
    return ";".join(
        part
        for place, part in enumerate(_PARAM.findall(value) if '"' in value else value.split(";"))
        if not place or part.partition("=")[0].strip().lower() != name
    )


def own_from(request: Request) -> Header:
    """The From of a request as its sender wrote it. Raises ParseError if there is none."""
    for item in request.headers:
        if item[0] == "from":
            return item
    raise ParseError("without from")


def less_our_via(item: Header) -> list[Header]:
    """The first Via line of a response without our own value: nothing, if that was all (RFC 3261 16.7 step 3)."""
    rest = split_list(item.value)[1:]
    return [header("Via", ", ".join(rest))] if rest else []


def response_to_ue(request: Request, response: Response, extra: Sequence[Header] = ()) -> Response:
    """A response of the core to a REGISTER as it goes to the UE: our Via, keys and what is the network's own out.

    Digest C3, C4.
    """
    out: list[Header] = []
    seen_via = False
    table = trust.table(Crossing.REGISTER_DOWN, trust.privacy(response))
    for item in response.headers:
        action = table.get(item[0])
        if action is None:
            out.append(item)
        elif action is trust.hop:
            if item[0] == "from":
                out.append(own_from(request))
            else:
                out += [item] if seen_via else less_our_via(item)
                seen_via = True
        elif (kept := action(item)) is not None:
            out.append(kept)
    out.extend(extra)
    return response.with_headers(out)


def clear_reply_flow(request: Request, flow: Flow) -> Flow:
    """Where the answer to a request in clear goes: its connection, or its source address (RFC 3581, RFC 3261 18.2.2).

    Never to an address that the message names. Raises ParseError.
    """
    if flow.transport == "TCP":
        return flow
    via = parse_via(top_via(request))
    if via.param("rport") is not None:
        return flow
    return flow._replace(remote_port=via.port or 5060)


def via_address_is(request: Request, address: IPAddress) -> bool:
    """Whether the top Via names this very address (TS 33.203 7.1 rule 2). A name instead of an address does not."""
    host = parse_via(top_via(request)).host
    return host == str(address) or (":" in host and address.version == 6 and _same_ipv6(host, address))


def _same_ipv6(host: str, address: IPAddress) -> bool:
    try:
        return ip_address(host) == address
    except ValueError:
        return False


def hops_left(request: Request) -> int:
    """Max-Forwards, 70 when absent. Raises ParseError."""
    text = request.first("max-forwards")
    if text is None:
        return 70
    if not (text.isascii() and text.isdigit() and len(text) <= 3):
        raise ParseError(f"Max-Forwards is no number from 0 to 255: {quoted(text, 20)}")
    return int(text)
