"""Any bytes are a document or a ReginfoError with words; what is read of one is safe to show and to compare."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pcscf import reginfo
from pcscf.reginfo import KnownState, Outcome, RegInfo, ReginfoError
from tests.unit.test_reginfo import HOSTILE, MINIMAL, OF_A_REAL_CORE, WITH_GRUU

GOOD = (MINIMAL, OF_A_REAL_CORE, WITH_GRUU)
TEXT = st.sampled_from(
    ["", " ", "active", "terminated", "init", "full", "-1", "7", "&#10;", "&lt;", "sip:a@b", "\u0663"]
)
ATTRIBUTE = st.builds(
    '{}="{}"'.format, st.sampled_from(["version", "state", "aor", "id", "event", "expires", "xmlns", "xmlns:a"]), TEXT
)
PIECE = st.one_of(
    st.builds(
        "<{}{} {}>".format,
        st.sampled_from(["", "/", "?", "!", "a:"]),
        st.sampled_from(["reginfo", "registration", "contact", "uri", "x", "DOCTYPE", "[CDATA["]),
        st.lists(ATTRIBUTE, max_size=3).map(" ".join),
    ),
    TEXT,
)


def read(body: bytes) -> RegInfo | None:
    try:
        document = reginfo.parse(body)
    except ReginfoError as error:
        assert str(error) and len(str(error)) < 300
        return None
    for registration in document.registrations:
        for uri in (registration.aor, *(each.uri for each in registration.contacts)):
            assert uri and not any(each in uri for each in " \r\n\t\0<>")
    return document


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes(body: bytes) -> None:
    read(body)


@settings(max_examples=300)
@given(st.sampled_from(GOOD), st.data())
def test_a_document_with_a_fault(body: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 40)))
    other = data.draw(st.one_of(st.binary(max_size=6), PIECE.map(str.encode)))
    read(body[:start] + other + body[end:])


@settings(max_examples=300)
@given(st.lists(PIECE, max_size=12))
def test_pieces(pieces: list[str]) -> None:
    read("".join(pieces).encode())


@settings(max_examples=100)
@given(st.lists(st.sampled_from([*GOOD, *(body for body, _ in HOSTILE.values())]), max_size=8))
def test_the_version_only_grows(bodies: list[bytes]) -> None:
    known = KnownState()
    for body in bodies:
        before = known.version
        if (document := read(body)) is not None:
            outcome, changes = known.take(document)
            assert (outcome is Outcome.OLD) == (before is not None and document.version <= before)
            assert outcome is not Outcome.OLD or not changes
        assert before is None or (known.version or 0) >= before
