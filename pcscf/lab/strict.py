"""What a strict handset would not take in protected messages other than those about its REGISTER, in words. Sans-IO.

Who may send on which flow is `gm`; here is what a P-CSCF must have put in, rewritten or taken out (digest C7, C8).
"""

from ipaddress import ip_address

from pcscf.lab.agreement import SecuritySet
from pcscf.lab.handset import NOT_FOR_A_UE
from pcscf.sip.fields import parse_auth, parse_name_addr, parse_via
from pcscf.sip.message import Message, Request, Response
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import Uri, parse_uri

RECORDED = ("INVITE", "SUBSCRIBE", "REFER")
"""Methods that make dialogs: the P-CSCF must be in their Record-Route."""


def request_complaints(request: Request, carrier: SecuritySet, *, tcp: bool) -> list[str]:
    """What is wrong with a request of the network that came over this set."""
    name = request.method
    found = _about_any(request, name)
    try:
        vias = [parse_via(value) for value in request.values("via")]
        top = vias[0]
        port = top.port or 5060
        if not _is_pcscf(top.host, carrier) or port != carrier.agreed.port_ps:
            found.append(
                f"the top Via of the {name} is {top.host}:{port}, not port_ps of the P-CSCF "
                f"({carrier.pcscf} port {carrier.agreed.port_ps})"
            )
        if top.transport != ("TCP" if tcp else "UDP"):
            found.append(f"the top Via of the {name} says {top.transport}, it came over {'TCP' if tcp else 'UDP'}")
        uri = parse_uri(request.uri)
        if (_host(uri), uri.port) != (carrier.ue, carrier.offer.port_us):
            found.append(f"the Request-URI of the {name} is not our contact: {request.uri}")
    except ParseError as error:
        found.append(f"{name}: {error}")
    in_dialog = "tag=" in (request.first("to") or "")
    recorded = request.values("record-route")
    if name in RECORDED and not in_dialog:
        found += _about_record_route(name, recorded[:1], recorded, carrier)
    if request.lines("route"):
        found.append(f"the {name} still has a Route")
    return found


def response_complaints(response: Response, request: Request, carrier: SecuritySet) -> list[str]:
    """What is wrong with a response to our request, sent over this set."""
    name = f"{response.status} to {request.method}"
    found = _about_any(response, name)
    vias = response.values("via")
    if len(vias) != 1:
        found.append(f"the {name} has {len(vias)} Vias, only ours should be left")
    if "sec-agree" in [tag.lower() for tag in response.values("require")]:
        found.append(f"the {name} has Require: sec-agree")
    if response.lines("security-server") and response.status not in (421, 494):
        found.append(f"the {name} holds Security-Server")
    recorded = response.values("record-route")
    makes_dialog = request.method in RECORDED and "tag=" not in (request.first("to") or "")
    if makes_dialog and 100 < response.status < 300 and "tag=" in (response.first("to") or ""):
        found += _about_record_route(name, recorded[-1:], recorded, carrier)
    return found


def _about_any(message: Message, name: str) -> list[str]:
    found = [f"the {name} holds {each.title()}" for each in NOT_FOR_A_UE if message.lines(each)]
    if isinstance(message, Request) and message.lines("security-server"):
        found.append(f"the {name} holds Security-Server")
    if isinstance(message, Request):
        tags = [tag.lower() for tag in [*message.values("require"), *message.values("proxy-require")]]
        if "sec-agree" in tags:
            found.append(f"the {name} asks for sec-agree")
    private = [each.strip().lower() for value in message.lines("privacy") for each in value.split(";")]
    if "id" in private and message.lines("p-asserted-identity"):
        found.append(f"the {name} has P-Asserted-Identity although Privacy asks for id")
    for value in [*message.lines("www-authenticate"), *message.lines("proxy-authenticate")]:
        try:
            auth = parse_auth(value)
        except ParseError:
            continue
        found += [f"the {name} still holds {key}" for key in ("ck", "ik") if auth.param(key) is not None]
    return found


def _about_record_route(name: str, nearest: list[str], recorded: list[str], carrier: SecuritySet) -> list[str]:
    """Of the entries the one nearest to us, and any other that names the P-CSCF, must be its port_ps."""
    if not nearest:
        return [f"the {name} has no Record-Route of the P-CSCF"]
    found = []
    for value in recorded:
        try:
            uri = parse_uri(parse_name_addr(value).uri)
        except ParseError as error:
            found.append(f"Record-Route of the {name}: {error}")
            continue
        ours = _host(uri) == carrier.pcscf and uri.port == carrier.agreed.port_ps
        if not ours and value in nearest:
            found.append(
                f"Record-Route of the {name} is {value}, not port_ps of the P-CSCF "
                f"({carrier.pcscf} port {carrier.agreed.port_ps})"
            )
        if value in nearest and uri.param("lr") is None:
            found.append(f"Record-Route of the {name} is {value}, without lr")
    return found


def _is_pcscf(host: str, carrier: SecuritySet) -> bool:
    try:
        return ip_address(host) == carrier.pcscf
    except ValueError:
        return False


def _host(uri: Uri) -> object:
    try:
        return ip_address(uri.host)
    except ValueError:
        return uri.host
