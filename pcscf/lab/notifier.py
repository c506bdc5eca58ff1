"""The reg event package of the lab's core: subscriptions and their NOTIFYs (RFC 3680, RFC 6665, digest C6, D).

Sans-IO: sending a NOTIFY and saying how it was answered is `scscf`. Who is registered is `registrar`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from pcscf.lab.bindings import Binding, ContactEvent, Refusal
from pcscf.lab.challenge import Manners
from pcscf.lab.hops import flow_to, name_addr, via_text
from pcscf.lab.hss import Hss
from pcscf.lab.registrar import Change, Registrar, RegistrarSettings
from pcscf.lab.subscribers import Subscriber
from pcscf.sip.fields import NameAddr, parse_cseq, parse_name_addr
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.vocabulary import Flow
from xfrm.model import bracketed

REGINFO = "application/reginfo+xml"
NAMESPACE = "urn:ietf:params:xml:ns:reginfo"
DEFAULT_EXPIRES = 3761
"""Seconds a subscription lives that asks for none (RFC 3680 4.3)."""
LONGEST_EXPIRES = 600_000
SUBSCRIPTIONS = 20_000
KAMAILIO_FIRST_VERSION = 2


@dataclass(slots=True, eq=False)
class Subscription:
    """One dialog of the notifier. `version` is that of the next document."""

    subscriber: Subscriber
    call_id: str
    local: str
    """To of the SUBSCRIBE with our tag: From of our NOTIFYs."""
    remote: str
    target: str
    routes: tuple[str, ...]
    expires_at: float
    version: int
    event: str
    cseq: int = 0
    remote_cseq: int = 0
    informed: bool = False
    """Whether the full state has been answered: from then on changes are enough."""
    over: bool = False


class Notify(NamedTuple):
    """A NOTIFY to be sent; give its final status, None for none, to `answered`."""

    subscription: Subscription
    request: Request
    flow: Flow


@dataclass(slots=True)
class Notifier:
    """All subscriptions."""

    settings: RegistrarSettings
    hss: Hss
    registrar: Registrar
    random_octets: Callable[[int], bytes]
    subscriptions: dict[tuple[str, str], Subscription] = field(default_factory=dict)

    @property
    def _kamailio(self) -> bool:
        return self.settings.manners is Manners.KAMAILIO

    @property
    def deadline(self) -> float | None:
        """When the next subscription expires."""
        return min((each.expires_at for each in self.subscriptions.values()), default=None)

    def subscribe(self, request: Request, now: float) -> tuple[Response, list[Notify]]:
        """Answer a first SUBSCRIBE for an identity, and notify at once. Raises Refusal and ParseError."""
        subscriber = self.hss.owner(request.uri)
        if subscriber is None:
            raise Refusal(404, f"{request.uri} is unknown here")
        if self.hss.owner(name_addr(request, "to").uri) is not subscriber and not self._kamailio:
            raise Refusal(400, "To is not the identity of the Request-URI")
        self._check_watcher(request, subscriber, now)
        if len(self.subscriptions) >= SUBSCRIPTIONS:
            raise Refusal(503, "too many subscriptions")
        lifetime = _lifetime(request)
        remote = request.first("from") or ""
        if parse_name_addr(remote).param("tag") is None:
            raise Refusal(400, "From has no tag")
        tag = self.random_octets(6).hex()
        subscription = Subscription(
            subscriber=subscriber,
            call_id=request.first("call-id") or "",
            local=f"{request.first('to')};tag={tag}",
            remote=remote,
            target=name_addr(request, "contact").uri,
            routes=tuple(request.values("record-route")),
            expires_at=now + lifetime,
            version=KAMAILIO_FIRST_VERSION if self._kamailio else 0,
            event=request.first("event") or "reg",
            remote_cseq=_cseq(request),
        )
        flow_to(self._next_hop(subscription.routes, subscription.target), self.settings)  # refused if there is no way
        self.subscriptions[subscription.call_id, tag] = subscription
        response = self._ok(request, lifetime, tag)
        if lifetime:
            return response, [self._notify(subscription, now)]
        return response, self._end(subscription, now, "timeout")

    def subscribe_again(self, request: Request, now: float) -> tuple[Response, list[Notify]]:
        """Answer a SUBSCRIBE in a dialog: a refresh gets the full state, Expires 0 ends it. Raises as `subscribe`."""
        tag = name_addr(request, "to").param("tag") or ""
        subscription = self.subscriptions.get((request.first("call-id") or "", tag))
        if subscription is None:
            raise Refusal(481, "no such subscription")
        if _cseq(request) <= subscription.remote_cseq:
            raise Refusal(500, "CSeq is not above the last one")
        subscription.remote_cseq = _cseq(request)
        lifetime = _lifetime(request)
        if request.lines("contact"):
            target = name_addr(request, "contact").uri
            flow_to(self._next_hop(subscription.routes, target), self.settings)
            subscription.target = target
        response = self._ok(request, lifetime, tag)
        if not lifetime:
            if self._kamailio:
                self._forget(subscription)
                return response, []
            return response, self._end(subscription, now, "timeout")
        subscription.expires_at = now + lifetime
        return response, [self._notify(subscription, now)]

    def changed(self, changes: Iterable[Change], now: float) -> list[Notify]:
        """Tell everybody who watches these users."""
        notifies = []
        for change in changes:
            ended = not self.registrar.bindings(change.subscriber.impi, now)
            contacts = change.contacts
            if self._kamailio:
                contacts = tuple(each for each in contacts if each.event is not ContactEvent.REFRESHED)
            for subscription in list(self.subscriptions.values()):
                if subscription.subscriber is not change.subscriber or not contacts:
                    continue
                if ended and not self._kamailio:
                    notifies += self._end(subscription, now, "noresource", contacts)
                else:
                    notifies.append(self._notify(subscription, now, contacts))
        return notifies

    def answered(self, notify: Notify, status: int | None) -> None:
        """How the watcher answered; a subscription it does not know, or that it does not answer, ends."""
        if status is not None and status < 300:
            notify.subscription.informed = True
        elif status is None or status in (404, 405, 410, 416, 480, 481, 489, 501):
            self._forget(notify.subscription)

    def expire(self, now: float) -> list[Notify]:
        """End the subscriptions that nobody refreshed."""
        due = [each for each in self.subscriptions.values() if each.expires_at <= now]
        return [notify for each in due for notify in self._end(each, now, "timeout")]

    def _check_watcher(self, request: Request, subscriber: Subscriber, now: float) -> None:
        """The user itself, or the P-CSCF whose URI the Path holds (real core, Reg event). Raises Refusal."""
        asserted = [parse_name_addr(value).uri for value in request.values("p-asserted-identity")]
        if not asserted:
            raise Refusal(403, "P-Asserted-Identity is missing")
        bindings = self.registrar.bindings(subscriber.impi, now)
        paths = [path for each in bindings for path in each.path]
        for identity in asserted:
            place = identity.partition(":")[2]
            if self.hss.owner(identity) is subscriber or (place and any(place in path for path in paths)):
                return
        raise Refusal(403, "P-Asserted-Identity is neither this user nor a P-CSCF in its Path")

    def _ok(self, request: Request, lifetime: int, tag: str) -> Response:
        headers = [header("Record-Route", value) for value in request.lines("record-route")]
        headers += [header("Contact", self._contact()), header("Expires", str(lifetime))]
        return response_to(request, 200, headers=headers, to_tag=tag)

    def _contact(self) -> str:
        tcp = ";transport=tcp" if self.settings.transport == "tcp" and not self._kamailio else ""
        return f"<sip:{bracketed(self.settings.address)}:{self.settings.port}{tcp}>"

    def _next_hop(self, routes: tuple[str, ...], target: str) -> str:
        return parse_name_addr(routes[0]).uri if routes else target

    def _end(
        self, subscription: Subscription, now: float, reason: str, contacts: tuple[Binding, ...] = ()
    ) -> list[Notify]:
        self._forget(subscription)
        return [self._notify(subscription, now, contacts, state=f"terminated;reason={reason}")]

    def _forget(self, subscription: Subscription) -> None:
        subscription.over = True
        tag = parse_name_addr(subscription.local).param("tag") or ""
        self.subscriptions.pop((subscription.call_id, tag), None)

    def _notify(
        self, subscription: Subscription, now: float, changed: tuple[Binding, ...] = (), *, state: str = ""
    ) -> Notify:
        """A NOTIFY in the dialog: the full state, or what changed if the watcher knows the rest (RFC 3680 4.4)."""
        impi = subscription.subscriber.impi
        full = self._kamailio or not (changed and subscription.informed)
        gone = [each for each in changed if each.event.ends]
        contacts = [*self.registrar.bindings(impi, now), *gone] if full else list(changed)
        if self._kamailio:
            contacts = [_as_kamailio_says(each) for each in contacts]
        body = document(
            subscription.subscriber,
            contacts,
            version=subscription.version,
            full=full,
            active=bool(self.registrar.bindings(impi, now)),
            explicit=self.registrar.registered_as(impi),
            now=now,
        )
        subscription.version += 1
        subscription.cseq += 1
        next_hop = self._next_hop(subscription.routes, subscription.target)
        flow = flow_to(next_hop, self.settings, transport="udp" if self._kamailio else "")
        left = max(0, round(subscription.expires_at - now))
        branch = f"z9hG4bK{self.random_octets(10).hex()}"
        headers = [
            header("Via", via_text(self.settings, flow.transport, branch)),
            *(header("Route", value) for value in subscription.routes),
            header("Max-Forwards", "70"),
            header("From", subscription.local),
            header("To", subscription.remote),
            header("Call-ID", subscription.call_id),
            header("CSeq", f"{subscription.cseq} NOTIFY"),
            header("Contact", self._contact()),
            header("Event", subscription.event),
            header("Subscription-State", state or f"active;expires={left}"),
            *self._identity(),
            header("Content-Type", REGINFO),
            header("Content-Length", str(len(body))),
        ]
        return Notify(
            subscription, Request(method="NOTIFY", uri=subscription.target, headers=tuple(headers), body=body), flow
        )

    def _identity(self) -> list[Header]:
        if self._kamailio:
            return []
        icid = f"{self.random_octets(8).hex()}"
        return [
            header("P-Asserted-Identity", self._contact()),
            header("P-Charging-Vector", f'icid-value="{icid}";orig-ioi="{self.settings.realm}"'),
        ]


def document(
    subscriber: Subscriber,
    contacts: Iterable[Binding],
    *,
    version: int,
    full: bool,
    active: bool,
    explicit: str,
    now: float,
) -> bytes:
    """A reginfo document of the whole implicit set (RFC 3680 5). Identities but `explicit` came by themselves."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<reginfo xmlns="{NAMESPACE}" version="{version}" state="{"full" if full else "partial"}">',
    ]
    rows = list(contacts)
    for number, impu in enumerate(subscriber.impus, start=1):
        state = "active" if active else "terminated"
        if rows or full:
            lines.append(f'<registration aor={quoteattr(impu)} id="r{number}" state="{state}">')
            lines += [_contact(each, f"{each.id}-{number}", implicit=impu != explicit, now=now) for each in rows]
            lines.append("</registration>")
    return "\n".join([*lines, "</reginfo>", ""]).encode()


def _contact(binding: Binding, name: str, *, implicit: bool, now: float) -> str:
    contact, event = binding.address, str(binding.event)
    if implicit and binding.event is ContactEvent.REGISTERED:
        event = "created"
    state = "terminated" if binding.event.ends else "active"
    left = 0 if binding.event.ends else max(0, round(binding.expires_at - now))
    return (
        f'<contact id="{name}" state="{state}" event="{event}" expires="{left}">'
        f"<uri>{escape(contact.uri)}</uri>{_unknown_params(contact)}</contact>"
    )


def _unknown_params(contact: NameAddr) -> str:
    return "".join(
        f"<unknown-param name={quoteattr(name)}>{escape(value)}</unknown-param>"
        for name, value in contact.params
        if name not in ("expires", "q")
    )


def _as_kamailio_says(binding: Binding) -> Binding:
    return replace(binding, event=ContactEvent.EXPIRED) if binding.event is ContactEvent.UNREGISTERED else binding


def _lifetime(request: Request) -> int:
    """Seconds asked for. Raises Refusal."""
    text = request.first("expires") or str(DEFAULT_EXPIRES)
    if not (text.isascii() and text.isdigit()):
        raise Refusal(400, "Expires is no number")
    return min(int(text[:10]), LONGEST_EXPIRES)


def _cseq(request: Request) -> int:
    return parse_cseq(request.first("cseq") or "").number
