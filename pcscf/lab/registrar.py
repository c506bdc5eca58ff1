"""The REGISTER procedure of the lab's core: I-CSCF and S-CSCF in one (TS 24.229 5.4.1, digest C12). Sans-IO.

Strict on purpose: what a P-CSCF must do and does not is refused with words in the reason phrase.
How a core of another make answers is `manners`; what it does wrong on demand is `CoreFault`. Sockets are `scscf`.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from pcscf.aka import digest_response
from pcscf.lab.bindings import Binding, Bindings, ContactEvent, Refusal, contact_text, wished_contacts
from pcscf.lab.challenge import CoreFault, Manners, challenge_headers
from pcscf.lab.hss import Hss, Vector
from pcscf.lab.subscribers import Subscriber
from pcscf.sip.fields import Auth, NameAddr, parse_auth, parse_name_addr
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri
from xfrm.model import IPAddress, bracketed

REG_AWAIT_AUTH = 240.0
"""Seconds a challenge may stay unanswered (TS 24.229 7.8)."""
KAMAILIO_LEAST_EXPIRES = 27
SECURITY_HEADERS = ("security-client", "security-server", "security-verify")
LONG_REASONS = {401: "Unauthorized - Challenging the UE", 403: "Forbidden - Authentication of the UE failed"}
"""Kamailio's scripts speak at length; a P-CSCF must not read the phrase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarSettings:
    """How this core behaves. Times in seconds."""

    realm: str
    address: IPAddress
    port: int
    transport: Literal["udp", "tcp"] = "udp"
    """What Service-Route asks for."""
    service_route_uri: str = ""
    """What Service-Route names instead of this core: an originating side that somebody else plays."""
    manners: Manners = Manners.IMS
    require_integrity: bool = True
    """Whether a REGISTER without `integrity-protected` is refused; else it is challenged."""
    reauth: Literal["never", "always"] = "never"
    """Whether a protected REGISTER outside a challenge is challenged."""
    qop: Literal["", "auth", "auth-int", "auth,auth-int"] = ""
    min_expires: int = 0
    late: float = 5.0
    """The delay of `CoreFault.LATE_401` and `LATE_200`."""

    @property
    def service_route(self) -> str:
        if self.service_route_uri:
            return f"<{self.service_route_uri}>"
        tcp = self.transport == "tcp" and self.manners is Manners.IMS
        return f"<sip:orig@{bracketed(self.address)}:{self.port}{';transport=tcp' if tcp else ''};lr>"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response and the seconds to wait before it."""

    response: Response
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to contacts of a subscriber at once; each tells its own event."""

    subscriber: Subscriber
    contacts: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class _Pending:
    vector: Vector
    call_id: str
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """A REGISTER that shows what it must, whose it is, and what it asks for."""

    request: Request
    subscriber: Subscriber
    credentials: Auth | None
    faults: frozenset[CoreFault]
    wished: list[tuple[NameAddr, int]]
    now: float

    @property
    def impi(self) -> str:
        return self.subscriber.impi

    def credential(self, name: str) -> str:
        """A parameter of Authorization, "" without."""
        return (self.credentials.param(name) if self.credentials else None) or ""


class Registrar:
    """Challenges and bindings of all subscribers."""

    def __init__(self, settings: RegistrarSettings, hss: Hss, random_octets: Callable[[int], bytes]) -> None:
        self.settings = settings
        self.faults: dict[str, frozenset[CoreFault]] = {}
        self._hss = hss
        self._random_octets = random_octets
        self._pending: dict[str, _Pending] = {}
        self._accepted_nonce: dict[str, str] = {}
        self._bindings: dict[str, Bindings] = {}
        self._registered_as: dict[str, str] = {}
        self._changes: list[Change] = []
        self._to_challenge: set[str] = set()

    @property
    def deadline(self) -> float | None:
        """When the next contact expires."""
        return min((at for held in self._bindings.values() if (at := held.deadline) is not None), default=None)

    def expire(self, now: float) -> None:
        """Take out contacts that are over."""
        for impi, held in self._bindings.items():
            self._changed(impi, held.expire(now))

    def take_changes(self) -> list[Change]:
        """What happened to contacts since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def registered(self, now: float) -> list[tuple[Subscriber, Binding]]:
        """Every registered contact and whose it is."""
        found = ((self._hss.find(impi), held) for impi, held in self._bindings.items())
        return [(owner, each) for owner, held in found if owner is not None for each in held.current(now)]

    def registered_as(self, impi: str) -> str:
        """The identity in To of the last accepted REGISTER, "" before."""
        return self._registered_as.get(impi, "")

    def deregister(self, impi: str, event: ContactEvent) -> bool:
        """Take all contacts of a subscriber out (TS 24.229 5.4.1.5); False: there was none."""
        held = self._bindings.get(impi)
        ended = held.end(event) if held else []
        self._accepted_nonce.pop(impi, None)
        self._changed(impi, ended)
        return bool(ended)

    def shorten(self, impi: str, seconds: float, now: float) -> bool:
        """Let the contacts end in some seconds at the latest and challenge the next REGISTER (TS 24.229 5.4.1.6)."""
        held = self._bindings.get(impi)
        shortened = held.shorten(now + seconds) if held else []
        if shortened:
            self.rechallenge(impi)
        self._changed(impi, shortened)
        return bool(shortened)

    def rechallenge(self, impi: str) -> None:
        """Challenge the next REGISTER of this subscriber, whatever `reauth` says."""
        self._to_challenge.add(impi)

    def _changed(self, impi: str, contacts: list[Binding]) -> None:
        subscriber = self._hss.find(impi)
        if contacts and subscriber is not None:
            self._changes.append(Change(subscriber, tuple(contacts)))

    def set_faults(self, impi: str, faults: Iterable[CoreFault]) -> None:
        """From now on do these things wrong for this subscriber."""
        self.faults[impi] = frozenset(faults)

    def bindings(self, impi: str, now: float) -> list[Binding]:
        """The contacts registered now."""
        held = self._bindings.get(impi)
        return held.current(now) if held else []

    def register(self, request: Request, now: float) -> Reply | None:
        """Answer a REGISTER; None is silence, on demand."""
        try:
            return self._register(request, now)
        except Refusal as refusal:
            return Reply(self._respond(request, refusal.status, refusal.headers, reason=str(refusal)))
        except ParseError as error:
            return Reply(self._respond(request, error.status, reason=str(error)))

    def _register(self, request: Request, now: float) -> Reply | None:
        self._check(request)
        credentials = _credentials(request)
        subscriber = self._subscriber(request, credentials)
        attempt = _Attempt(
            request=request,
            subscriber=subscriber,
            credentials=credentials,
            faults=self.faults.get(subscriber.impi, frozenset()),
            wished=wished_contacts(request, min_expires=0 if self._kamailio else self.settings.min_expires),
            now=now,
        )
        if CoreFault.NO_ANSWER in attempt.faults:
            return None
        flag = self._flag(credentials)
        pending = self._pending.get(attempt.impi)
        if pending is not None and pending.deadline <= now:
            del self._pending[attempt.impi]
            pending = None
        if attempt.credential("auts"):
            return self._resynchronise(attempt, pending)
        if CoreFault.ACCEPT_WITHOUT_CHALLENGE in attempt.faults:
            return self._accept(attempt)
        if pending is not None and self._is_for(pending, attempt, flag):
            del self._pending[attempt.impi]
            self._verify(attempt, pending)
            self._accepted_nonce[attempt.impi] = pending.vector.nonce
            return self._accept(attempt)
        known = flag == "yes" and bool(self.bindings(attempt.impi, now))
        wanted = self.settings.reauth == "always" or self._kamailio or attempt.impi in self._to_challenge
        if known and not wanted:
            return self._accept(attempt)
        return self._challenge(attempt, attempt.faults)

    @property
    def _kamailio(self) -> bool:
        return self.settings.manners is Manners.KAMAILIO

    # What a REGISTER must show

    def _check(self, request: Request) -> None:
        """What the P-CSCF must have put in and taken out (digest C2). Raises Refusal."""
        if not request.lines("p-visited-network-id"):
            raise Refusal(400, "P-Visited-Network-ID is missing")
        path = request.values("path")
        options = [tag.lower() for tag in request.values("require")]
        first_is_loose = bool(path) and parse_uri(parse_name_addr(path[0]).uri).param("lr") is not None
        if self._kamailio:
            supported = [tag.lower() for tag in request.values("supported")]
            if path and not first_is_loose:
                raise Refusal(500, "the first Path URI has no lr")
            if path and "path" not in options + supported and _is_answer(request):
                raise Refusal(420, "Bad Extension", (header("Unsupported", "path"),))
            return
        if not path:
            raise Refusal(400, "Path is missing")
        if not first_is_loose:
            raise Refusal(400, "the first Path URI has no lr")
        if "path" not in options:
            raise Refusal(400, "Require: path is missing")
        for name in SECURITY_HEADERS:
            if request.lines(name):
                raise Refusal(400, f"{name.title()} reached the core")
        for name in ("require", "proxy-require", "supported"):
            if "sec-agree" in [tag.lower() for tag in request.values(name)]:
                raise Refusal(400, f"{name.title()}: sec-agree reached the core")
        if "icid-value=" not in (request.first("p-charging-vector") or "").lower():
            raise Refusal(400, "P-Charging-Vector with icid-value is missing")

    def _subscriber(self, request: Request, credentials: Auth | None) -> Subscriber:
        """Who is registering. Raises Refusal."""
        if parse_uri(request.uri).host != self.settings.realm.lower():
            raise Refusal(404, "the Request-URI is not our home network")
        to = parse_name_addr(request.first("to") or "")
        if credentials is None:
            if not self._kamailio:
                raise Refusal(403, "REGISTER without Authorization")
            impi = to.uri.partition(":")[2]
        else:
            impi = credentials.param("username") or ""
        subscriber = self._hss.find(impi)
        if subscriber is None:
            raise Refusal(403, "unknown subscriber")
        if to.uri not in (subscriber.temporary_impu, *subscriber.impus):
            raise Refusal(403, "the identity in To is not this subscriber's")
        if credentials is not None and credentials.param("realm") not in (None, subscriber.realm):
            raise Refusal(403, "Authorization is for another realm")
        return subscriber

    def _flag(self, credentials: Auth | None) -> str:
        """`integrity-protected`, "" when it is absent and may be (TS 33.203 6.1.5, digest A10). Raises Refusal."""
        if self._kamailio:
            return ""  # never reads it
        flag = None if credentials is None else credentials.param("integrity-protected")
        if flag is None:
            if self.settings.require_integrity:
                raise Refusal(403, "integrity-protected is missing")
            return ""
        if flag not in ("yes", "no"):
            raise Refusal(400, "integrity-protected is neither yes nor no")
        return flag

    def _is_for(self, pending: _Pending, attempt: _Attempt, flag: str) -> bool:
        """Whether this answers the running challenge; False is a new procedure, which voids it. Raises Refusal."""
        nonce = attempt.credential("nonce")
        if nonce != pending.vector.nonce:
            if flag == "yes" and nonce != self._accepted_nonce.get(attempt.impi):
                raise Refusal(403, "the nonce is not that of the challenge")
            return False
        if not attempt.credential("response"):
            del self._pending[attempt.impi]
            raise Refusal(403, "the UE found the MAC of the challenge wrong")
        if flag == "no":
            return False  # an answer in clear proves nothing to us: challenge again
        if flag == "yes" and (attempt.request.first("call-id") or "") != pending.call_id:
            raise Refusal(403, "the Call-ID is not that of the challenge")
        return True

    def _verify(self, attempt: _Attempt, pending: _Pending) -> None:
        """Check RES in the digest (RFC 3310 3.3). Raises Refusal."""
        qop, nc = attempt.credential("qop").lower(), attempt.credential("nc")
        offered = self._qop.split(",") if self._qop else []
        if qop not in ("", *offered):
            raise Refusal(403, f"qop {qop} was not offered")
        if qop and nc != "00000001":
            raise Refusal(403, "nc of a new nonce must be 00000001")
        if attempt.credential("uri") != attempt.request.uri:
            raise Refusal(400, "uri in Authorization is not the Request-URI")
        expected = digest_response(
            username=attempt.impi,
            realm=attempt.credential("realm"),
            password=pending.vector.xres,
            method="REGISTER",
            uri=attempt.credential("uri"),
            nonce=pending.vector.nonce,
            qop=qop,
            nc=nc,
            cnonce=attempt.credential("cnonce"),
            body=attempt.request.body,
        )
        if not hmac.compare_digest(expected.encode(), attempt.credential("response").lower().encode()):
            raise Refusal(403, LONG_REASONS[403] if self._kamailio else "wrong response")

    # Answers

    @property
    def _qop(self) -> str:
        return "auth,auth-int" if self._kamailio else self.settings.qop

    def _resynchronise(self, attempt: _Attempt, pending: _Pending | None) -> Reply:
        """A fresh challenge from the card's SQN on (TS 33.102 6.3.5, digest C12). Raises Refusal."""
        if pending is None:
            raise Refusal(403, "auts without a challenge")
        if attempt.credential("nonce") != pending.vector.nonce:
            raise Refusal(403, "auts answers another challenge")
        try:
            auts = base64.b64decode(attempt.credential("auts"), validate=True)
        except binascii.Error:
            raise Refusal(400, "auts is not base64") from None
        if not self._hss.resynchronise(attempt.subscriber, pending.vector.rand, auts):
            del self._pending[attempt.impi]
            raise Refusal(403, "MAC-S in auts is wrong")
        return self._challenge(attempt, attempt.faults - {CoreFault.OLD_SQN})

    def _challenge(self, attempt: _Attempt, faults: frozenset[CoreFault]) -> Reply:
        """401 with a fresh vector; an earlier challenge is void (TS 33.203 6.1)."""
        request, subscriber = attempt.request, attempt.subscriber
        stale = bool(faults & {CoreFault.OLD_SQN, CoreFault.SQN_LOOP})
        vector = self._hss.stale_vector(subscriber) if stale else self._hss.vector(subscriber)
        headers, vector = challenge_headers(
            vector,
            realm=subscriber.realm,
            qop=self._qop,
            manners=self.settings.manners,
            faults=faults,
            another=lambda: self._hss.vector(subscriber),
        )
        self._to_challenge.discard(attempt.impi)
        deadline = attempt.now + REG_AWAIT_AUTH
        self._pending[attempt.impi] = _Pending(vector, request.first("call-id") or "", deadline)
        if self._kamailio:
            headers = [*(header("Path", value) for value in request.lines("path")), *headers]
        late = self.settings.late if CoreFault.LATE_401 in faults else 0.0
        reason = LONG_REASONS[401] if self._kamailio else ""
        return Reply(self._respond(request, 401, headers, reason=reason), late)

    def _accept(self, attempt: _Attempt) -> Reply:
        """200 after taking the contacts over, or out (RFC 3261 10.3, digest C12). Raises Refusal."""
        request, wished, now = attempt.request, attempt.wished, attempt.now
        if self._kamailio:
            wished = [(contact, _clamped(lifetime)) for contact, lifetime in wished]
        held = self._bindings.setdefault(attempt.impi, Bindings())
        self._changed(attempt.impi, held.expire(now))
        changed = held.update(request, wished, now)
        current = held.current(now)
        self._registered_as[attempt.impi] = parse_name_addr(request.first("to") or "").uri
        self._changed(attempt.impi, changed)
        if not current:
            self._accepted_nonce.pop(attempt.impi, None)
        if self._kamailio:
            named = [(contact, lifetime) for contact, lifetime in wished if contact.uri != "*"]
            listed = [f"{contact_text(contact, backwards=True)};expires={lifetime}" for contact, lifetime in named]
        else:
            listed = [f"{each.contact};expires={round(each.expires_at - now)}" for each in current]
        headers = [header("Contact", ", ".join(listed))] if listed else []
        headers.append(header("Service-Route", self.settings.service_route))
        if not self._kamailio or any(lifetime for _, lifetime in wished):
            headers += [header("Path", value) for value in request.lines("path")]
            headers.append(header("P-Associated-URI", ", ".join(f"<{impu}>" for impu in attempt.subscriber.impus)))
        if charging := request.first("p-charging-vector"):
            headers.append(header("P-Charging-Vector", f'{charging};term-ioi="{self.settings.realm}"'))
        late = self.settings.late if CoreFault.LATE_200 in attempt.faults else 0.0
        return Reply(self._respond(request, 200, headers), late)

    def _respond(self, request: Request, status: int, headers: Iterable[Header] = (), *, reason: str = "") -> Response:
        phrase = re.sub(r"[^\x20-\x7e]", "?", reason)
        return response_to(request, status, reason=phrase, headers=headers, to_tag=self._random_octets(4).hex())


def _credentials(request: Request) -> Auth | None:
    """The Digest credentials. Raises Refusal for more than one."""
    found = [auth for auth in map(parse_auth, request.lines("authorization")) if auth.scheme == "digest"]
    if len(found) > 1:
        raise Refusal(400, "two Digest Authorization headers")
    return found[0] if found else None


def _is_answer(request: Request) -> bool:
    credentials = _credentials(request)
    return credentials is not None and bool(credentials.param("response"))


def _clamped(lifetime: int) -> int:
    return max(KAMAILIO_LEAST_EXPIRES, lifetime * 9 // 10) if lifetime else 0
