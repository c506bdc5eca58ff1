"""A phone watches its own registration: SUBSCRIBE to the reg event, and what a NOTIFY makes it do (RFC 3680).

What is to be done (TS 24.229 5.1.1.5A, 5.1.1.7) is told to the caller, who has the registration.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from pcscf.lab.dialog import tag_of
from pcscf.lab.line import Line, Sent
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.message import Request, Response, header
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import Transaction
from pcscf.sip.uri import parse_uri
from pcscf.vocabulary import Flow
from xfrm.model import IPAddress

REGINFO = "application/reginfo+xml"
NAMESPACE = "{urn:ietf:params:xml:ns:reginfo}"
EXPIRES = 600_000
MOST_CONTACTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactState:
    """One contact of a registration: states and events are RFC 3680's words; `expires` in seconds, 0 if not said."""

    aor: str
    registration: str
    uri: str
    state: str
    event: str
    expires: int


class Todo(StrEnum):
    """What a document asks of the phone whose contact it names."""

    NOTHING = "nothing"
    REREGISTER = "reregister"
    """Shortened: re-authenticate soon, inside the SAs."""
    REGISTER = "register"
    """Deactivated: register anew, as at power-on."""
    STOP = "stop"
    """Rejected, or gone for another reason: it is not registered, and must not try again."""


def read_reginfo(body: bytes) -> tuple[int, tuple[ContactState, ...]]:
    """Version and contacts of a document (RFC 3680 5). Raises ParseError."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise ParseError("a reginfo document with a DOCTYPE")
    try:
        root = ElementTree.fromstring(body)
        version = int(root.get("version") or "")
    except (ElementTree.ParseError, ValueError) as error:
        raise ParseError(f"no reginfo document: {error}") from None
    if root.tag != f"{NAMESPACE}reginfo":
        raise ParseError(f"no reginfo document: {root.tag[:60]}")
    contacts = []
    for registration in root.iter(f"{NAMESPACE}registration"):
        for contact in registration.iter(f"{NAMESPACE}contact"):
            expires = contact.get("expires") or ""
            contacts.append(
                ContactState(
                    aor=registration.get("aor") or "",
                    registration=registration.get("state") or "",
                    uri=(contact.findtext(f"{NAMESPACE}uri") or "").strip(),
                    state=contact.get("state") or "",
                    event=contact.get("event") or "",
                    expires=int(expires) if expires.isascii() and expires.isdigit() and len(expires) < 10 else 0,
                )
            )
    return version, tuple(contacts[:MOST_CONTACTS])


def todo(contacts: tuple[ContactState, ...], address: IPAddress, port: int) -> Todo:
    """What to do, from the state of our own contact under every identity (TS 24.229 5.1.1.5A, 5.1.1.7)."""
    ours = [each for each in contacts if _is(each.uri, address, port)]
    gone = [each for each in ours if each.state == "terminated"]
    if ours and len(gone) == len(ours):
        events = {each.event for each in gone}
        if "rejected" in events:
            return Todo.STOP
        if "deactivated" in events:
            return Todo.REGISTER
        return Todo.STOP
    if any(each.event == "shortened" for each in ours):
        return Todo.REREGISTER
    return Todo.NOTHING


class Watch:
    """One subscription of a phone to its own registration. `on_todo(todo, expires)` hears what a NOTIFY asks for."""

    def __init__(self, line: Line, on_todo: Callable[[Todo, int], None]) -> None:
        self.active = False
        self.notifies = 0
        self.contacts: tuple[ContactState, ...] = ()
        self._line = line
        self._on_todo = on_todo
        self._version = -1
        self._sent: Sent | None = None

    async def subscribe(self) -> Response:
        """SUBSCRIBE, and wait for the answer (digest F8). Raises NoAnswer."""
        line = self._line
        headers = [
            line.contact,
            header("Event", "reg"),
            header("Expires", str(EXPIRES)),
            header("Accept", REGINFO),
        ]
        draft = line.draft("SUBSCRIBE", line.me, headers=headers)
        response = await line.ask(draft, on_sent=self._asked)
        self.active = response.status == 200
        return response

    def _asked(self, sent: Sent) -> None:
        self._sent = sent

    def is_of(self, notify: Request) -> bool:
        """Whether a NOTIFY is for this subscription; it may come before the 200 (RFC 6665 4.1.2.4)."""
        if self._sent is None:
            return False
        asked = self._sent.request
        try:
            return notify.first("call-id") == asked.first("call-id") and tag_of(notify, "to") == tag_of(asked, "from")
        except ParseError:
            return False

    def notified(self, notify: Request, transaction: Transaction[Flow]) -> None:
        """Answer a NOTIFY, then do what it says."""
        line = self._line
        line.reply(transaction, 200)
        self.notifies += 1
        if (notify.first("subscription-state") or "").partition(";")[0].strip().lower() == "terminated":
            self.active = False
        if not notify.body:
            return
        try:
            version, contacts = read_reginfo(notify.body)
        except ParseError as error:
            line.diary.complain(f"NOTIFY: {error}")
            return
        if version <= self._version:
            line.diary.complain(f"NOTIFY: version {version} after {self._version}")
            return
        self._version, self.contacts = version, contacts
        own = parse_uri(parse_name_addr(line.contact.value).uri)
        wanted = todo(contacts, line.settings.address, own.port)
        if wanted is not Todo.NOTHING:
            shortest = min((each.expires for each in contacts if each.event == "shortened"), default=0)
            self._on_todo(wanted, shortest)


def _is(uri: str, address: IPAddress, port: int) -> bool:
    try:
        parsed = parse_uri(uri)
        return (ip_address(parsed.host), parsed.port) == (address, port)
    except ValueError:
        return False  # a name, or no URI: somebody else's
