"""The contacts registered at the lab's core (RFC 3261 10.3, TS 24.229 5.4.1.2.2), and a refusal's status and words."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from pcscf.sip.fields import NameAddr, parse_name_addr
from pcscf.sip.message import Header, Request, header

DEFAULT_EXPIRES = 600_000


class Refusal(Exception):
    """A request of the P-CSCF is answered with `status`; `str` goes into the reason phrase."""

    def __init__(self, status: int, why: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


class ContactEvent(StrEnum):
    """Why a contact is as it is (RFC 3680 3.3)."""

    REGISTERED = "registered"
    REFRESHED = "refreshed"
    SHORTENED = "shortened"
    EXPIRED = "expired"
    DEACTIVATED = "deactivated"
    UNREGISTERED = "unregistered"
    REJECTED = "rejected"

    @property
    def ends(self) -> bool:
        return self not in (ContactEvent.REGISTERED, ContactEvent.REFRESHED, ContactEvent.SHORTENED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A registered contact, as text without `expires`, and the way to it. `id` names it in reg event documents."""

    id: str
    contact: str
    path: tuple[str, ...]
    expires_at: float
    event: ContactEvent = ContactEvent.REGISTERED
    """What happened to it last."""

    @property
    def address(self) -> NameAddr:
        return parse_name_addr(self.contact)


class Bindings:
    """The contacts of one subscriber. One for each UE instance, or each URI where it names none (RFC 5626 6)."""

    def __init__(self) -> None:
        self._held: dict[str, Binding] = {}
        self._number = 0

    @property
    def deadline(self) -> float | None:
        return min((each.expires_at for each in self._held.values()), default=None)

    def current(self, now: float) -> list[Binding]:
        """The contacts that are registered, the newest last."""
        return [each for each in self._held.values() if each.expires_at > now]

    def expire(self, now: float) -> list[Binding]:
        """Take out what is over; gives it, as it ended."""
        over = [key for key, each in self._held.items() if each.expires_at <= now]
        return [self._ended(key, ContactEvent.EXPIRED) for key in over]

    def end(self, event: ContactEvent) -> list[Binding]:
        """Take all out; gives them, as they ended."""
        return [self._ended(key, event) for key in list(self._held)]

    def shorten(self, expires_at: float) -> list[Binding]:
        """Let those that live longer end at that time; gives them, as they are now."""
        shortened = {
            key: replace(each, expires_at=expires_at, event=ContactEvent.SHORTENED)
            for key, each in self._held.items()
            if each.expires_at > expires_at
        }
        self._held |= shortened
        return list(shortened.values())

    def update(self, request: Request, wished: list[tuple[NameAddr, int]], now: float) -> list[Binding]:
        """Take contacts over for these seconds; 0 takes one out, `*` with 0 all of them. Raises Refusal.

        Gives every contact that changed, as it is now or as it ended.
        """
        if any(contact.uri == "*" and lifetime for contact, lifetime in wished):
            raise Refusal(400, "Contact * needs Expires 0")
        changed = []
        for contact, lifetime in wished:
            if contact.uri == "*":
                changed += self.end(ContactEvent.UNREGISTERED)
                continue
            key = contact.param("+sip.instance") or contact.uri
            old = self._held.get(key)
            refreshed = old is not None and old.address.uri == contact.uri and bool(lifetime)
            if old is not None and not refreshed:
                changed.append(self._ended(key, ContactEvent.UNREGISTERED))
            if lifetime:
                self._held.pop(key, None)
                self._number += not refreshed
                self._held[key] = Binding(
                    id=old.id if old is not None and refreshed else f"c{self._number}",
                    contact=contact_text(contact),
                    path=tuple(request.values("path")),
                    expires_at=now + lifetime,
                    event=ContactEvent.REFRESHED if refreshed else ContactEvent.REGISTERED,
                )
                changed.append(self._held[key])
        return changed

    def _ended(self, key: str, event: ContactEvent) -> Binding:
        return replace(self._held.pop(key), event=event)


def wished_contacts(request: Request, *, min_expires: int) -> list[tuple[NameAddr, int]]:
    """The contacts of a REGISTER, each with the seconds asked for. Raises Refusal: 400, 423, and ParseError."""
    contacts = [parse_name_addr(value) for value in request.values("contact")]
    return [(contact, _seconds(request, contact, min_expires)) for contact in contacts]


def _seconds(request: Request, contact: NameAddr, min_expires: int) -> int:
    text = contact.param("expires") or request.first("expires") or str(DEFAULT_EXPIRES)
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 32):
        raise Refusal(400, "Expires is no number")
    if 0 < int(text) < min_expires:
        raise Refusal(423, "Interval Too Brief", (header("Min-Expires", str(min_expires)),))
    return int(text)


def contact_text(contact: NameAddr, *, backwards: bool = False) -> str:
    """A contact without `expires`, its parameters in order or, as some registrars have it, not."""
    params = [f";{_param(name, value)}" for name, value in contact.params if name != "expires"]
    if backwards:
        params.reverse()
    return f"<{contact.uri}>" + "".join(params)


def _param(name: str, value: str) -> str:
    if not value:
        return name
    if re.fullmatch(r"[A-Za-z0-9.!%*_+`'~-]+", value):
        return f"{name}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'
