"""Documents as cores write them, and as nobody should; and what one changes of what was known.

RFC 3680, digest C6.
"""

import copy

import pytest

from pcscf import reginfo
from pcscf.reginfo import (
    Change,
    Contact,
    ContactEvent,
    ContactState,
    ContactTerminated,
    DocumentState,
    IdentityActive,
    IdentityTerminated,
    KnownState,
    Outcome,
    RegInfo,
    ReginfoError,
    Registration,
    RegistrationState,
    Shortened,
)

AOR = "sip:+15551230001@ims.mnc001.mcc001.3gppnetwork.org"
TEL = "tel:+15551230001"
CONTACT = "sip:10.45.0.2:31801"

MINIMAL = f"""<reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="0" state="full">
 <registration aor="{AOR}" id="a1" state="active">
  <contact id="c1" state="active" event="registered" expires="600000"><uri>{CONTACT}</uri></contact>
 </registration></reginfo>""".encode()

OF_A_REAL_CORE = f"""<?xml version="1.0"?>
<reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="2" state="full">
\t<registration aor="{TEL}" id="0x7f27d5d1f6c8" state="active">
\t\t<contact id="0x7f27d5d20e58" state="active" event="created" expires="540000" q="0.500" duration-registered="7">
\t\t\t<uri>{CONTACT};alias=10.45.0.2~31801~1</uri>
\t\t\t<unknown-param name="+sip.instance">"&lt;urn:gsma:imei:35622410-483840-0&gt;"</unknown-param>
\t\t\t<unknown-param name="+g.3gpp.smsip"></unknown-param>
\t\t</contact>
\t</registration>
\t<registration aor="{AOR}" id="0x7f27d5d1f5b0" state="active">
\t\t<contact id="0x7f27d5d20e58" state="active" event="registered" expires="540000" q="0.500">
\t\t\t<uri>{CONTACT};alias=10.45.0.2~31801~1</uri>
\t\t\t<unknown-param name="+g.3gpp.smsip"></unknown-param>
\t\t</contact>
\t</registration>
</reginfo>
""".encode()

WITH_GRUU = f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- RFC 5628 -->
<r:reginfo xmlns:r="urn:ietf:params:xml:ns:reginfo" xmlns:gr="urn:ietf:params:xml:ns:gruuinfo"
           version="5" state="partial" gr:x="y">
  <r:registration aor="{AOR}" id="a" state="active">
    <r:contact id="1" state="active" event="shortened" expires="180" gr:y="z">
      <gr:uri>sip:not-this-one@example.com</gr:uri>
      <r:uri>
        {CONTACT}<gr:more>not this</gr:more>
      </r:uri>
      <r:display-name>Alice</r:display-name>
      <gr:pub-gruu uri="sip:alice@example.com;gr=1"><r:uri>sip:nor-this@example.com</r:uri></gr:pub-gruu>
    </r:contact>
    <gr:contact id="no" state="never"/>
  </r:registration>
  <x xmlns="urn:other"><r:registration aor="sip:elsewhere@example.com" id="b" state="active"/></x>
</r:reginfo>""".encode()


def test_the_minimal_document() -> None:
    contact = Contact(id="c1", state=ContactState.ACTIVE, event=ContactEvent.REGISTERED, expires=600_000, uri=CONTACT)
    registration = Registration(aor=AOR, id="a1", state=RegistrationState.ACTIVE, contacts=(contact,))
    assert reginfo.parse(MINIMAL) == RegInfo(version=0, state=DocumentState.FULL, registrations=(registration,))


def test_a_document_of_a_real_core() -> None:
    document = reginfo.parse(OF_A_REAL_CORE)
    assert (document.version, document.state) == (2, DocumentState.FULL)
    assert [each.aor for each in document.registrations] == [TEL, AOR]
    assert [len(each.contacts) for each in document.registrations] == [1, 1]
    assert document.registrations[0].contacts[0].event is ContactEvent.CREATED
    assert document.registrations[1].contacts[0].uri == f"{CONTACT};alias=10.45.0.2~31801~1"
    assert document.registrations[1].contacts[0].expires == 540_000


def test_what_is_not_of_reginfo_is_left_alone() -> None:
    document = reginfo.parse(WITH_GRUU)
    assert [each.aor for each in document.registrations] == [AOR]
    (contact,) = document.registrations[0].contacts
    assert (contact.uri, contact.event, contact.expires) == (CONTACT, ContactEvent.SHORTENED, 180)


def test_the_document_does_not_choose_among_all_codecs() -> None:
    named = b'<?xml version="1.0" encoding="unicode_escape"?>' + MINIMAL.replace(b"10.45", b"\\x31\\x30.45")
    assert reginfo.parse(named).registrations[0].contacts[0].uri == CONTACT.replace("10.45", r"\x31\x30.45")
    assert reginfo.parse(MINIMAL.decode().encode("utf-16")) == reginfo.parse(MINIMAL)


def changed(old: str, new: str) -> bytes:
    assert old.encode() in MINIMAL
    return MINIMAL.replace(old.encode(), new.encode(), 1)


DOCTYPE = '<!DOCTYPE reginfo [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
HOSTILE = {
    "nothing": (b"", "no XML"),
    "text": (b"registered", "no XML"),
    "cut short": (MINIMAL[:-5], "no XML"),
    "two documents": (MINIMAL + MINIMAL, "no XML"),
    "NUL": (changed("sip:10", "sip:\0"), "no XML"),
    "not UTF-8": (MINIMAL.replace(b"10.45", b"\xff\xfe"), "no XML"),
    "entities": (DOCTYPE.encode() + MINIMAL.replace(b"10.45.0.2", b"&b;"), "document type"),
    "external": (b'<!DOCTYPE reginfo SYSTEM "file:///etc/passwd">' + MINIMAL, "document type"),
    "an entity nobody knows": (changed("10.45.0.2", "&b;"), "no XML"),
    "another root": (b'<presence xmlns="urn:ietf:params:xml:ns:pidf"/>', "not reginfo"),
    "another namespace": (changed("ns:reginfo", "ns:other"), "not reginfo"),
    "no namespace": (changed(' xmlns="urn:ietf:params:xml:ns:reginfo"', ""), "not reginfo"),
    "no version": (changed(' version="0"', ""), "without version"),
    "a negative version": (changed('version="0"', 'version="-1"'), "version is no number"),
    "an Arabic version": (changed('version="0"', 'version="\u0663"'), "version is no number"),
    "a large version": (changed('version="0"', f'version="{1 << 32}"'), "version is no number"),
    "a huge version": (changed('version="0"', f'version="{"9" * 5000}"'), "version has more than"),
    "another state": (changed('state="full"', 'state="half"'), "'half', not one of full, partial"),
    "no aor": (changed(f'aor="{AOR}"', ""), "without aor"),
    "an empty aor": (changed(f'aor="{AOR}"', 'aor=" "'), "without aor"),
    "an aor without scheme": (changed(f'aor="{AOR}"', 'aor="bob"'), "aor is no URI"),
    "line breaks in an aor": (changed("@ims", "&#13;&#10;X: y@ims"), "aor is no URI"),
    "brackets in a contact": (changed(CONTACT, "&lt;sip:x&gt;"), "contact URI is no URI"),
    "a long contact": (changed(CONTACT, "sip:" + "x" * 1100), "more than 1024"),
    "no contact URI": (changed(f"<uri>{CONTACT}</uri>", ""), "contact URI is no URI"),
    "two contact URIs": (changed("</contact>", "<uri>sip:x</uri></contact>"), "two URIs"),
    "an unknown contact event": (changed('event="registered"', 'event="bored"'), "event is 'bored'"),
    "no contact event": (changed('event="registered"', ""), "without event"),
    "expires as words": (changed('expires="600000"', 'expires="soon"'), "expires is no number"),
    "too large": (MINIMAL + b" " * 65_536, "octets"),
    "too deep": (changed("</reginfo>", "<a>" * 20 + "</a>" * 20 + "</reginfo>"), "deep"),
    "too many elements": (changed("</reginfo>", "<a/>" * 5000 + "</reginfo>"), "elements"),
    "too many registrations": (
        changed("</reginfo>", '<registration aor="sip:x" id="1" state="init"/>' * 256 + "</reginfo>"),
        "registrations",
    ),
    "too many contacts": (
        changed(
            "</registration>",
            '<contact id="1" state="active" event="created"><uri>sip:x</uri></contact>' * 64 + "</registration>",
        ),
        "contacts",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused_with_words(name: str) -> None:
    body, words = HOSTILE[name]
    with pytest.raises(ReginfoError, match=words):
        reginfo.parse(body)


# What a document changes

ACTIVE, GONE = ContactState.ACTIVE, ContactState.TERMINATED


def contact(event: str, *, state: ContactState = ACTIVE, uri: str = CONTACT, contact_id: str = "c1") -> Contact:
    return Contact(id=contact_id, state=state, event=ContactEvent(event), expires=60, uri=uri)


def registration(*contacts: Contact, aor: str = AOR, state: str = "active") -> Registration:
    return Registration(aor=aor, id=aor, state=RegistrationState(state), contacts=contacts)


def take(
    known: KnownState, version: int, *registrations: Registration, full: bool = False
) -> tuple[Outcome, list[Change]]:
    state = DocumentState.FULL if full else DocumentState.PARTIAL
    return known.take(RegInfo(version=version, state=state, registrations=registrations))


def started(version: int = 2) -> KnownState:
    known = KnownState()
    identities = (registration(contact("registered")), registration(contact("created"), aor=TEL))
    assert take(known, version, *identities, full=True) == (Outcome.TAKEN, [IdentityActive(AOR), IdentityActive(TEL)])
    return known


@pytest.mark.parametrize("version", [0, 2, 5])
def test_the_first_version_may_be_any(version: int) -> None:
    assert started(version).version == version


def test_a_partial_document_changes_what_it_names() -> None:
    known = started()
    gone = registration(contact("rejected", state=GONE), aor=TEL, state="terminated")
    assert take(known, 3, gone) == (Outcome.TAKEN, [IdentityTerminated(TEL, ContactEvent.REJECTED)])
    assert take(known, 4, registration(contact("refreshed"))) == (Outcome.TAKEN, [])
    assert list(known.identities) == [AOR]


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("full", [True, False])
def test_an_old_version_is_discarded(version: int, full: bool) -> None:
    known = started(2)
    assert take(known, version, full=full) == (Outcome.OLD, [])
    assert list(known.identities) == [AOR, TEL] and known.version == 2


def test_a_gap_is_seen_until_the_whole_state_comes() -> None:
    known = started(2)
    gone = registration(contact("expired", state=GONE), aor=TEL, state="terminated")
    assert take(known, 4, gone) == (Outcome.GAP, [IdentityTerminated(TEL, ContactEvent.EXPIRED)])
    assert take(known, 5, registration(contact("refreshed")))[0] is Outcome.GAP
    assert take(known, 9, registration(contact("refreshed")), full=True) == (Outcome.TAKEN, [])
    assert take(known, 10, registration(contact("refreshed")))[0] is Outcome.TAKEN


def test_a_partial_document_first_is_a_gap() -> None:
    assert take(KnownState(), 7, registration(contact("registered"))) == (Outcome.GAP, [IdentityActive(AOR)])


def test_what_the_whole_state_does_not_name_is_gone() -> None:
    known = started()
    assert take(known, 3, registration(contact("registered")), full=True) == (
        Outcome.TAKEN,
        [IdentityTerminated(TEL, None)],
    )


def test_what_has_gone_while_there_was_no_subscription_is_seen() -> None:
    known = started(5)
    known.restart()
    assert not known.complete
    assert take(copy.deepcopy(known), 0, registration(contact("refreshed"))) == (Outcome.GAP, [])
    assert take(known, 0, registration(contact("registered")), full=True) == (
        Outcome.TAKEN,
        [IdentityTerminated(TEL, None)],
    )


def test_init_ends_what_was_known_and_nothing_else() -> None:
    known = started()
    other = registration(aor="sip:new@x", state="init")
    assert take(known, 3, registration(state="init"), other) == (Outcome.TAKEN, [IdentityTerminated(AOR, None)])


def test_an_unknown_identity_may_be_terminated() -> None:
    gone = registration(contact("unregistered", state=GONE), state="terminated")
    assert take(KnownState(), 1, gone, full=True)[1] == [IdentityTerminated(AOR, ContactEvent.UNREGISTERED)]


@pytest.mark.parametrize("event", ["rejected", "deactivated", "unregistered", "expired", "probation"])
def test_one_contact_of_two_is_terminated(event: str) -> None:
    known = started()
    two = registration(contact("registered"), contact("registered", uri="sip:other", contact_id="c2"))
    assert take(known, 3, two) == (Outcome.TAKEN, [])
    assert take(known, 4, registration(contact(event, state=GONE))) == (
        Outcome.TAKEN,
        [ContactTerminated(AOR, CONTACT, ContactEvent(event))],
    )
    assert known.identities[AOR] == {"c2": "sip:other"}


def test_a_contact_that_the_whole_state_does_not_name_is_gone() -> None:
    known = started()
    other = contact("registered", uri="sip:other", contact_id="c2")
    assert take(known, 3, registration(other), registration(other, aor=TEL), full=True)[1] == [
        ContactTerminated(AOR, CONTACT, None),
        ContactTerminated(TEL, CONTACT, None),
    ]


def test_a_contact_under_a_new_id_lives_on() -> None:
    known = started()
    again = registration(contact("registered", contact_id="c2"), contact("expired", state=GONE, contact_id="c1"))
    assert take(known, 3, again) == (Outcome.TAKEN, [])
    again = registration(contact("registered", contact_id="c3"))
    assert take(known, 4, again, registration(contact("created"), aor=TEL), full=True) == (Outcome.TAKEN, [])


def test_the_core_wants_the_user_to_authenticate() -> None:
    assert take(started(), 3, registration(contact("shortened")))[1] == [Shortened(AOR, CONTACT, 60)]


def test_what_is_remembered_has_a_limit() -> None:
    known = KnownState()
    for number in range(3 * reginfo.MOST_REGISTRATIONS):
        take(known, number, registration(contact("registered"), aor=f"sip:{number}@x"))
    for number in range(3 * reginfo.MOST_CONTACTS):
        take(known, 1000 + number, registration(contact("registered", contact_id=f"c{number}"), aor="sip:0@x"))
    assert len(known.identities) == reginfo.MOST_REGISTRATIONS
    assert len(known.identities["sip:0@x"]) == reginfo.MOST_CONTACTS
