"""Emergency requests (TS 24.229 5.2.10, digest C10): how they are recognised, and the answer that sends one away."""

from dataclasses import dataclass
from enum import StrEnum

from pcscf.sip.message import Header, Request, header
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri

SERVICE = "urn:service:sos"


class EmergencyMode(StrEnum):
    """What becomes of an emergency request."""

    ROUTE = "route"
    """It goes to the E-CSCF."""
    ALTERNATIVE = "alternative"
    """380 with what the UE shall do instead: call over circuit-switched."""
    REFUSE = "refuse"
    """403."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencySettings:
    """What the operator decided about emergency requests."""

    mode: EmergencyMode = EmergencyMode.ALTERNATIVE
    ecscf: str = ""
    """URI of the E-CSCF, for ROUTE."""
    numbers: frozenset[str] = frozenset({"112", "911"})
    """Local emergency numbers, digits only."""
    unregistered: bool = False
    """Whether a UE that is not registered may make them, in clear."""


def is_emergency(request: Request, numbers: frozenset[str]) -> bool:
    """Whether a request is for an emergency service: `urn:service:sos` and below, or a local number."""
    uri = request.uri
    if uri[:15].lower() == SERVICE:
        return uri[15:16] in ("", ".")
    if "%" not in uri and not any(number in uri for number in numbers):
        return False  # almost always, and without parsing
    try:
        parsed = parse_uri(uri)
    except ParseError:
        return False
    digits = parsed.user.partition(";")[0]
    dialled = parsed.scheme == "tel" or parsed.param("user") in ("phone", "dialstring") or digits.isdigit()
    return dialled and digits in numbers


def is_emergency_contact(contact: str) -> bool:
    """Whether a Contact URI is registered for emergency calls only: it has the parameter `sos` (TS 24.229 7.2A.13)."""
    try:
        return parse_uri(contact).param("sos") is not None
    except ParseError:
        return False


def alternative_service(reason: str) -> tuple[list[Header], bytes]:
    """Headers and body of the 380 (TS 24.229 7.6: application/3gpp-ims+xml)."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\r\n'
        '<ims-3gpp version="1"><alternative-service><type>emergency</type>'
        f"<reason>{reason}</reason><action>emergency-registration</action></alternative-service></ims-3gpp>\r\n"
    ).encode()
    return [header("Content-Type", 'application/3gpp-ims+xml;sv="1,2"')], body
