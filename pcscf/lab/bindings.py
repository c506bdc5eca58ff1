"""The contacts registered at the lab's core (RFC 3261 10.3, TS 24.229 5.4.1.2.2), and a refusal's status and words."""

import re
from dataclasses import dataclass

from pcscf.sip.fields import NameAddr, parse_name_addr
from pcscf.sip.message import Header, Request, header

DEFAULT_EXPIRES = 600_000


class Refusal(Exception):
    """A request of the P-CSCF is answered with `status`; `str` goes into the reason phrase."""

    def __init__(self, status: int, why: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A registered contact, as text without `expires`, and the way to it."""

    contact: str
    path: tuple[str, ...]
    expires_at: float


class Bindings:
    """The contacts of one subscriber. One for each UE instance, or each URI where it names none (RFC 5626 6)."""

    def __init__(self) -> None:
        self._held: dict[str, Binding] = {}

    def current(self, now: float) -> list[Binding]:
        for key in [key for key, binding in self._held.items() if binding.expires_at <= now]:
            del self._held[key]
        return list(self._held.values())

    def update(self, request: Request, wished: list[tuple[NameAddr, int]], now: float) -> None:
        """Take contacts over for these seconds; 0 takes one out, `*` with 0 all of them. Raises Refusal."""
        if any(contact.uri == "*" and lifetime for contact, lifetime in wished):
            raise Refusal(400, "Contact * needs Expires 0")
        for contact, lifetime in wished:
            if contact.uri == "*":
                self._held.clear()
                continue
            key = contact.param("+sip.instance") or contact.uri
            self._held.pop(key, None)
            if lifetime:
                self._held[key] = Binding(
                    contact=contact_text(contact), path=tuple(request.values("path")), expires_at=now + lifetime
                )


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
