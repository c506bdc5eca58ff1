"""What a 200 to REGISTER grants: which contacts are registered, and for how long (digest C4, RFC 3261 10.3)."""

from collections.abc import Container
from dataclasses import dataclass
from ipaddress import ip_address

from pcscf.sip.fields import NameAddr, parse_name_addr
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri, same_uri
from xfrm.model import IPAddress

DEFAULT_EXPIRES = 600_000
"""Seconds, where neither side says (TS 24.229 5.1.1.2)."""
MOST_CONTACTS = 64
"""Contacts of one REGISTER or of its answer; a registrar allows one user a handful."""


def contacts_of(message: Request | Response) -> list[NameAddr]:
    """Every Contact of a REGISTER or of its answer. Raises ParseError."""
    values = message.values("contact")
    if len(values) > MOST_CONTACTS:
        raise ParseError(f"{len(values)} contacts; {MOST_CONTACTS} are read")
    return [parse_name_addr(value) for value in values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What a 200 to REGISTER means for the contacts of its user."""

    contact: str
    """The UE's own contact URI as it asked for it, "" when it named none."""
    own: bool
    """Whether it asked for its own contact at all."""
    seconds: int
    """For how long its own contact is registered; 0: not any more."""
    removed: frozenset[str]
    """Contact URIs it took out beside its own."""
    all: bool
    """`Contact: *`: all of them, at whatever address."""


def read_granted(request: Request, response: Response, address: IPAddress, others: Container[str]) -> Granted:
    """Read what became of the contacts of a REGISTER from `address` (digest C4, RFC 3261 10.3). Raises ParseError.

    `others` are the contacts of the user's other UEs: what is neither at that address nor one of these is its own.
    The seconds: the contact's `expires` in the 200 counts first, then its Expires header, then what was asked for.
    """
    asked = contacts_of(request)
    if any(contact.uri == "*" for contact in asked):
        return Granted(contact="", own=True, seconds=0, removed=frozenset(), all=True)
    if not asked:  # a query: nothing changes
        return Granted(contact="", own=False, seconds=0, removed=frozenset(), all=False)
    here = [contact for contact in asked if _host_is(contact.uri, address)]
    own = next(iter(here or [contact for contact in asked if contact.uri not in others]), None)
    removed = frozenset(
        each.uri
        for each in asked
        if each is not own and first_seconds(each.param("expires"), request.first("expires")) == 0
    )
    if own is None:
        return Granted(contact="", own=False, seconds=0, removed=removed, all=False)
    listed = None
    wanted = parse_uri(own.uri)
    for contact in contacts_of(response):
        if same_uri(parse_uri(contact.uri), wanted):
            listed = contact.param("expires") or ""
    if listed is None and first_seconds(own.param("expires"), request.first("expires")) == 0:
        seconds = 0
    else:
        asked_for = (own.param("expires"), request.first("expires"), str(DEFAULT_EXPIRES))
        seconds = first_seconds(listed, response.first("expires"), *asked_for) or 0
    return Granted(contact=own.uri, own=True, seconds=seconds, removed=removed, all=False)


def first_seconds(*texts: str | None) -> int | None:
    """The first of these that is a number of seconds, of ten digits at most."""
    for text in texts:
        digits = (text or "").strip()
        if digits.isascii() and digits.isdigit() and len(digits) <= 10:
            return int(digits)
    return None


def _host_is(uri: str, address: IPAddress) -> bool:
    try:
        return ip_address(parse_uri(uri).host) == address
    except ValueError:  # a name; ParseError is one too
        return False
