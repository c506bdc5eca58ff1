"""Registration information documents (RFC 3680 5): reading one, and what it changes of what was known before.

Reads what the P-CSCF acts on and leaves the rest (GRUUs, unknown parameters, other namespaces) alone. XML without a
document type, so without entities and anything external. How documents are asked for and come is `regevent`'s.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeVar
from xml.parsers import expat

from pcscf.sip.parse import quoted

NAMESPACE = "urn:ietf:params:xml:ns:reginfo"
CONTENT_TYPE = "application/reginfo+xml"

MOST_OCTETS = 65_536
MOST_ELEMENTS = 4096
MOST_REGISTRATIONS = 256
MOST_CONTACTS = 64
"""In one registration. Both limits also bound what is remembered of many documents."""
DEEPEST = 16
LONGEST = 1024
"""Characters of one value that is read."""

_NOT_IN_URI = re.compile(r'[\x00-\x20<>"\x7f-\x9f]')


class ReginfoError(ValueError):
    """The document cannot be used. The text says why, for people."""


class DocumentState(StrEnum):
    FULL = "full"
    """All there is: what is not in it does not exist."""
    PARTIAL = "partial"
    """Only what changed since the version before."""


class RegistrationState(StrEnum):
    INIT = "init"
    ACTIVE = "active"
    TERMINATED = "terminated"


class ContactState(StrEnum):
    ACTIVE = "active"
    TERMINATED = "terminated"


class ContactEvent(StrEnum):
    """Why a contact is in its state (RFC 3680 5.2)."""

    REGISTERED = "registered"
    CREATED = "created"
    REFRESHED = "refreshed"
    SHORTENED = "shortened"
    EXPIRED = "expired"
    DEACTIVATED = "deactivated"
    PROBATION = "probation"
    UNREGISTERED = "unregistered"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One contact of an identity. `expires` in seconds, None where the document does not say."""

    id: str
    state: ContactState
    event: ContactEvent
    expires: int | None
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One identity (`aor`, a URI) and its contacts."""

    aor: str
    id: str
    state: RegistrationState
    contacts: tuple[Contact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegInfo:
    version: int
    state: DocumentState
    registrations: tuple[Registration, ...]


def parse(body: bytes) -> RegInfo:
    """Read a document in UTF-8, or in UTF-16 with a byte order mark.

    Raises ReginfoError, and nothing else, whatever the bytes are.
    """
    if len(body) > MOST_OCTETS:
        raise ReginfoError(f"a document of {len(body)} octets; {MOST_OCTETS} are allowed")
    # The encoding is given, so that the document cannot choose among all codecs there are.
    # Namespaces are for `_Reader`: expat would write out a long one anew for each name that stands in it.
    parser = expat.ParserCreate("utf-8")
    reader = _Reader()
    parser.StartDoctypeDeclHandler = reader.document_type
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise ReginfoError(f"no XML: {error}") from None
    if reader.document is None:
        raise ReginfoError("the document has no reginfo")
    return reader.document


_REGINFO, _REGISTRATION, _CONTACT, _URI = "reginfo", "registration", "contact", "uri"
_PATH = (_REGINFO, _REGISTRATION, _CONTACT, _URI)
"""Each element counts inside the one before it, and nowhere else."""

Attributes = dict[str, str]


@dataclass(slots=True)
class _Reader:
    """What the XML parser calls; holds the elements that are open."""

    document: RegInfo | None = None
    depth: int = 0
    known: int = 0
    """How many of the open elements are the beginning of _PATH."""
    elements: int = 0
    attributes: list[Attributes] = field(default_factory=list)
    """Of the open elements of _PATH."""
    registrations: list[Registration] = field(default_factory=list)
    contacts: list[Contact] = field(default_factory=list)
    uri: str | None = None

    def document_type(self, *_: object) -> None:
        raise ReginfoError("a document type; reginfo has none, and entities are not read")

    def start(self, name: str, attributes: Attributes) -> None:
        self.elements += 1
        self.depth += 1
        if self.elements > MOST_ELEMENTS:
            raise ReginfoError(f"more than {MOST_ELEMENTS} elements")
        if self.depth > DEEPEST:
            raise ReginfoError(f"elements more than {DEEPEST} deep")
        if self.depth != self.known + 1 or self.known == len(_PATH):
            return
        self.attributes.append(attributes)
        prefix, _, local = name.rpartition(":")
        if local != _PATH[self.known] or self._namespace(prefix) != NAMESPACE:
            if self.depth == 1:
                raise ReginfoError(f"the document is {quoted(name, 80)}, not reginfo in {NAMESPACE}")
            self.attributes.pop()
            return
        self.known += 1
        if local == _REGISTRATION:
            self.contacts = []
        elif local == _CONTACT:
            self.uri = None
        elif local == _URI:
            if self.uri is not None:
                raise ReginfoError("a contact with two URIs")
            self.uri = ""

    def _namespace(self, prefix: str) -> str:
        """What a prefix stands for here, "" for nothing: only elements of _PATH are open around one of them."""
        name = f"xmlns:{prefix}" if prefix else "xmlns"
        return next((each[name] for each in reversed(self.attributes) if name in each), "")

    def text(self, data: str) -> None:
        if self.known == self.depth == len(_PATH):
            self.uri = (self.uri or "") + data
            if len(self.uri) > LONGEST:
                raise ReginfoError(f"a contact URI of more than {LONGEST} characters")

    def end(self, _: str) -> None:
        self.depth -= 1
        if self.known <= self.depth:
            return
        self.known -= 1
        attributes = self.attributes.pop()
        name = _PATH[self.known]
        if name == _CONTACT:
            if len(self.contacts) == MOST_CONTACTS:
                raise ReginfoError(f"a registration with more than {MOST_CONTACTS} contacts")
            self.contacts.append(self._contact(attributes))
        elif name == _REGISTRATION:
            if len(self.registrations) == MOST_REGISTRATIONS:
                raise ReginfoError(f"more than {MOST_REGISTRATIONS} registrations")
            self.registrations.append(
                Registration(
                    aor=_uri(_required(attributes, "aor"), "aor"),
                    id=_required(attributes, "id"),
                    state=_word(RegistrationState, attributes, "state"),
                    contacts=tuple(self.contacts),
                )
            )
        elif name == _REGINFO:
            self.document = RegInfo(
                version=_number(_required(attributes, "version"), "version", bits=32),
                state=_word(DocumentState, attributes, "state"),
                registrations=tuple(self.registrations),
            )

    def _contact(self, attributes: Attributes) -> Contact:
        expires = attributes.get("expires")
        return Contact(
            id=_required(attributes, "id"),
            state=_word(ContactState, attributes, "state"),
            event=_word(ContactEvent, attributes, "event"),
            expires=None if expires is None else _number(expires, "expires", bits=64),
            uri=_uri(self.uri or "", "contact URI"),
        )


def _required(attributes: Attributes, name: str) -> str:
    value = attributes.get(name, "").strip()
    if not value:
        raise ReginfoError(f"an element without {name}")
    if len(value) > LONGEST:
        raise ReginfoError(f"{name} has more than {LONGEST} characters")
    return value


def _uri(text: str, what: str) -> str:
    text = text.strip()
    scheme, colon, rest = text.partition(":")
    if not (scheme and colon and rest) or _NOT_IN_URI.search(text):
        raise ReginfoError(f"{what} is no URI: {quoted(text)}")
    return text


WordT = TypeVar("WordT", bound=StrEnum)


def _word(words: type[WordT], attributes: Attributes, name: str) -> WordT:
    value = _required(attributes, name)
    try:
        return words(value)
    except ValueError:
        raise ReginfoError(f"{name} is {quoted(value, 40)}, not one of {', '.join(words)}") from None


def _number(text: str, what: str, *, bits: int) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) >> bits:
        raise ReginfoError(f"{what} is no number of {bits} bits: {quoted(text, 40)}")
    return int(text)


# What a document changes


class IdentityActive(NamedTuple):
    """An identity of the user is registered that was not known to be."""

    aor: str


class IdentityTerminated(NamedTuple):
    """An identity is registered no more, at no contact. `event`: why; None where no document says."""

    aor: str
    event: ContactEvent | None


class ContactTerminated(NamedTuple):
    """An identity that is still registered has lost a contact. `event` as before."""

    aor: str
    uri: str
    event: ContactEvent | None


class Shortened(NamedTuple):
    """The core wants the user to authenticate anew within `expires` seconds (TS 24.229 5.4.1.6)."""

    aor: str
    uri: str
    expires: int | None


Change = IdentityActive | IdentityTerminated | ContactTerminated | Shortened


class Outcome(StrEnum):
    """What became of a document (RFC 3680 5.2)."""

    TAKEN = "taken"
    OLD = "old"
    """Not newer than what is known: nothing was taken from it."""
    GAP = "gap"
    """Taken, but one before it is missing: the whole state must be asked for."""


@dataclass(slots=True)
class KnownState:
    """What the documents about one user have said: the identities that are active, and their contacts."""

    version: int | None = None
    """Of the last document; None before the first one of a subscription, which may have any."""
    complete: bool = False
    """Nothing is missing since the last full document."""
    identities: dict[str, dict[str, str]] = field(default_factory=dict)
    """aor -> contact id -> contact URI."""

    def restart(self) -> None:
        """A new subscription counts anew. What is known stays, so that its first document shows what has gone."""
        self.version = None
        self.complete = False

    def take(self, document: RegInfo) -> tuple[Outcome, list[Change]]:
        """Bring what is known up to date, and give what has changed, in the order of the document."""
        if self.version is not None and document.version <= self.version:
            return Outcome.OLD, []
        changes: list[Change] = []
        if document.state is DocumentState.FULL:
            self.complete = True
            named = {each.aor for each in document.registrations}
            for aor in [aor for aor in self.identities if aor not in named]:
                del self.identities[aor]
                changes.append(IdentityTerminated(aor, None))
        elif self.version is None or document.version != self.version + 1:
            self.complete = False
        self.version = document.version
        for registration in document.registrations:
            self._take(registration, document.state, changes)
        return (Outcome.TAKEN if self.complete else Outcome.GAP), changes

    def _take(self, registration: Registration, state: DocumentState, changes: list[Change]) -> None:
        aor = registration.aor
        if registration.state is not RegistrationState.ACTIVE:
            known = self.identities.pop(aor, None)
            if known is not None or registration.state is RegistrationState.TERMINATED:
                gone = (each.event for each in registration.contacts if each.state is ContactState.TERMINATED)
                changes.append(IdentityTerminated(aor, next(gone, None)))
            return
        contacts = self.identities.get(aor)
        if contacts is None:
            changes.append(IdentityActive(aor))
            contacts = {}
            if len(self.identities) < MOST_REGISTRATIONS:
                self.identities[aor] = contacts
        active = {each.uri for each in registration.contacts if each.state is ContactState.ACTIVE}
        if state is DocumentState.FULL:
            named = {each.id for each in registration.contacts}
            for contact_id in [each for each in contacts if each not in named]:
                if (uri := contacts.pop(contact_id)) not in active:
                    changes.append(ContactTerminated(aor, uri, None))
        for contact in registration.contacts:
            if contact.state is ContactState.TERMINATED:
                contacts.pop(contact.id, None)
                if contact.uri not in active:  # the same place under a new id lives on
                    changes.append(ContactTerminated(aor, contact.uri, contact.event))
                continue
            if contact.id in contacts or len(contacts) < MOST_CONTACTS:
                contacts[contact.id] = contact.uri
            if contact.event is ContactEvent.SHORTENED:
                changes.append(Shortened(aor, contact.uri, contact.expires))
