"""Header edits of the P-CSCF: message in, message out (TS 24.229 5.2.2, digest C2 to C4).

Each direction is one pass over the headers. Pure text work: who may send what is decided in `proxy`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pcscf.sip.fields import drop_auth_params, parse_via, top_via
from pcscf.sip.message import Header, Request, Response, header, split_list
from pcscf.sip.parse import ParseError
from pcscf.vocabulary import Flow
from xfrm.model import IPAddress, bracketed

_PARAM = re.compile(r'(?:[^;"]++|"(?:[^"\\]|\\.)*+(?:"|$))++', re.DOTALL)
SEC_AGREE = "sec-agree"
SECURITY_HEADERS = frozenset({"security-client", "security-server", "security-verify"})
CHARGING_HEADERS = frozenset({"p-charging-vector", "p-charging-function-addresses"})

NOT_FROM_A_UE = (
    SECURITY_HEADERS
    | CHARGING_HEADERS
    | {
        "route",  # a REGISTER goes to the home network by its Request-URI, never where the UE says
        "record-route",
        "path",
        "service-route",
        "p-associated-uri",
        "p-asserted-identity",
        "p-asserted-service",
        "p-visited-network-id",
        "p-called-party-id",
        "p-profile-key",
        "p-served-user",
        "p-user-database",
        "feature-caps",
    }
)
"""Headers of a REGISTER that end at the P-CSCF or that a UE is not trusted with (digest C1, C2)."""

TOUCHED = NOT_FROM_A_UE | {
    "via",
    "require",
    "proxy-require",
    "supported",
    "authorization",
    "max-forwards",
    "p-access-network-info",
}
"""Headers of a REGISTER that are looked at on their way; the rest passes as it is."""

NOT_TO_A_UE = SECURITY_HEADERS | CHARGING_HEADERS
"""Headers of a response that stay inside the trust domain (digest C4)."""


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
        name = item.name
        if name not in TOUCHED:
            out.append(item)
        elif name == "via" and not seen_via:
            seen_via = True
            out.append(received_via(item, flow))
        elif name in NOT_FROM_A_UE:
            continue
        elif name == "require":
            required += [tag for tag in split_list(item.value) if tag.lower() not in (SEC_AGREE, "path")]
        elif name in ("proxy-require", "supported"):
            kept = without_sec_agree(item)
            if kept is not None:
                out.append(kept)
        elif name == "authorization":
            value = drop_auth_params(item.value, frozenset({"integrity-protected"}))
            indicator = f',integrity-protected="{integrity_protected}"' if integrity_protected else ""
            out.append(header("Authorization", f"{value}{indicator}"))
        elif name == "max-forwards":
            seen_hops = True
            out.append(header("Max-Forwards", str(int(item.value) - 1)))
        elif name == "p-access-network-info" and "network-provided" in item.value.lower():
            continue
        else:
            out.append(item)
    if not seen_hops:
        out.append(header("Max-Forwards", "70"))
    out.append(header("Path", f"<{path_uri}>"))
    out.append(header("Require", ", ".join([*required, "path"])))
    out.append(header("P-Visited-Network-ID", f'"{core.visited_network}"'))
    out.append(core.charging_vector(icid, way))
    return request.with_headers(out)


def without_sec_agree(item: Header) -> Header | None:
    """A header of option tags less sec-agree; None if nothing is left (RFC 3329 2.3.1)."""
    tags = split_list(item.value)
    kept = [tag for tag in tags if tag.lower() != SEC_AGREE]
    if len(kept) == len(tags):
        return item
    return header(item.line.partition(":")[0].strip(), ", ".join(kept)) if kept else None


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


def less_our_via(item: Header) -> list[Header]:
    """The first Via line of a response without our own value: nothing, if that was all (RFC 3261 16.7 step 3)."""
    rest = split_list(item.value)[1:]
    return [header("Via", ", ".join(rest))] if rest else []


def response_to_ue(response: Response, extra: Sequence[Header] = ()) -> Response:
    """A response of the core as it goes to the UE: our Via and what is the network's own taken out (digest C3, C4).

    ck and ik are taken out before, by `aka.strip_keys`.
    """
    out: list[Header] = []
    seen_via = False
    for item in response.headers:
        if item.name == "via" and not seen_via:
            seen_via = True
            out += less_our_via(item)
        elif item.name in NOT_TO_A_UE:
            continue
        else:
            out.append(item)
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
        raise ParseError(f"Max-Forwards is no number from 0 to 255: {text[:20]}")
    return int(text)
