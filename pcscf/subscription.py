"""One dialog of a subscriber (RFC 6665, RFC 3261 12): what SUBSCRIBE, its answer and NOTIFY say of it.

Made by the NOTIFY or the 2xx, whichever comes first. Which subscriptions there are, and what their documents mean, is
for others.
"""

from dataclasses import dataclass
from typing import NamedTuple

from pcscf.sip.fields import parse_cseq, parse_name_addr
from pcscf.sip.message import Header, Request, Response, header
from pcscf.sip.parse import ParseError, quoted
from pcscf.sip.uri import parse_uri

ENDS_DIALOG = frozenset({404, 405, 410, 416, 480, 481, 482, 483, 484, 485, 489, 501, 604})
"""Answers to a refresh that end the subscription; after any other it lives on (RFC 6665 4.1.2.3)."""


MOST_ROUTES = 70
"""Entries of a route set: no request passes more proxies (RFC 3261 8.1.1.6)."""


class Standing(NamedTuple):
    """Subscription-State (RFC 6665 8.2.3); the numbers are seconds, None where it does not say."""

    state: str
    reason: str
    expires: int | None
    retry_after: int | None


class Refusal(NamedTuple):
    """How to answer a NOTIFY that is not looked into."""

    status: int
    why: str
    headers: tuple[Header, ...] = ()


@dataclass(slots=True, eq=False, kw_only=True)
class Dialog:
    """The subscriber's end of it."""

    call_id: str
    own_tag: str
    remote_uri: str
    began: float
    expires: float
    """When the notifier forgets us, as far as it has said."""
    cseq: int = 0
    remote_tag: str = ""
    remote_cseq: int = -1
    target: str = ""
    route_set: tuple[str, ...] = ()
    """URIs, the next one first."""
    accepted: bool = False
    """There was a 2xx."""
    notified: bool = False

    def matches(self, remote_tag: str) -> bool:
        """Whether a NOTIFY from there belongs to it.

        Until the first has come any does: the 2xx may be that of another branch of a fork (RFC 6665 4.4.1).
        """
        return not self.notified or remote_tag == self.remote_tag

    def lives(self, now: float) -> bool:
        """Whether a SUBSCRIBE of it is a refresh."""
        return bool(self.remote_tag) and now < self.expires

    def accept(self, response: Response) -> None:
        """Learn from a 2xx to SUBSCRIBE. What a NOTIFY has said before stands. Raises ParseError."""
        first, self.accepted = not self.accepted, True
        target = _target(response)
        if not (first and self.notified):
            self.target = target or self.target
        if first:
            self.remote_tag = self.remote_tag or parse_name_addr(response.first("to") or "").param("tag") or ""
            self.route_set = self.route_set or _routes(response)[::-1]

    def notify(self, request: Request) -> None:
        """Learn from a NOTIFY. Raises ParseError, and has learned nothing then."""
        target, routes = _target(request), _routes(request)
        remote_tag = parse_name_addr(request.first("from") or "").param("tag") or ""
        self.target = target or self.target
        if not self.notified:
            self.route_set = self.route_set or routes
        self.remote_tag = remote_tag
        self.remote_cseq = parse_cseq(request.first("cseq") or "").number
        self.notified = True

    def refusal(self, request: Request, package: str, content_type: str) -> Refusal | None:
        """Why a NOTIFY is not even looked into: another package, another type of body, an overtaken one."""
        event = _token(request.first("event"))
        if event != package:
            words = f"Event is {quoted(event, 40)}, subscribed is {package}"
            return Refusal(489, words, (header("Allow-Events", package),))
        content, encoding = (_token(request.first(name)) for name in ("content-type", "content-encoding"))
        if request.body and (content != content_type or encoding not in ("", "identity")):
            words = f"the body is {quoted(content)}, encoding {quoted(encoding, 20)}"
            return Refusal(415, words, (header("Accept", content_type),))
        number = parse_cseq(request.first("cseq") or "").number
        if number <= self.remote_cseq:
            return Refusal(500, f"CSeq {number} comes after {self.remote_cseq} (RFC 3261 12.2.2)")
        return None


def standing(request: Request) -> Standing:
    """What a NOTIFY says of the subscription; without the header nothing, so it is active."""
    value = (request.first("subscription-state") or "active").lower()
    pairs = (item.partition("=") for item in value.split(";")[1:])
    params = {name.strip(): text.strip() for name, _, text in pairs}
    return Standing(
        _token(value), params.get("reason", ""), seconds(params.get("expires")), seconds(params.get("retry-after"))
    )


def seconds(text: str | None) -> int | None:
    """The number of Expires, Min-Expires, Retry-After; None if there is none."""
    digits = (text or "").partition(";")[0].partition("(")[0].strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else None


def _token(value: str | None) -> str:
    """What stands before the parameters, in lower case."""
    return (value or "").partition(";")[0].strip().lower()


def _target(message: Request | Response) -> str:
    """The remote target: the URI of Contact, "" if there is none. Raises ParseError."""
    contacts = message.values("contact")
    return _sip(contacts[0]) if contacts else ""


def _routes(message: Request | Response) -> tuple[str, ...]:
    """The URIs of Record-Route, in order. Raises ParseError."""
    values = message.values("record-route")
    if len(values) > MOST_ROUTES:
        raise ParseError(f"{len(values)} entries of Record-Route")
    return tuple(_sip(value) for value in values)


def _sip(value: str) -> str:
    uri = parse_name_addr(value).uri
    if parse_uri(uri).scheme == "tel":
        raise ParseError(f"{quoted(uri)} is no place to send to")
    return uri
