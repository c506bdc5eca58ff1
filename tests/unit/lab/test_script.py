"""Scripts of steps as data, and errors that help."""

import pytest

from pcscf.lab.fault import Fault
from pcscf.lab.script import NAMES, ScriptError, ScriptStep, address, parse_script, parse_step

REALM = "home.example"


def steps(text: str) -> list[ScriptStep]:
    return list(parse_script(text, REALM))


def test_a_whole_script() -> None:
    found = steps("register; message sip:bob@x.example hello there; call bob; wait 2; hangup; deregister")
    assert [each.name for each in found] == ["register", "message", "call", "wait", "hangup", "deregister"]
    assert (found[1].to, found[1].body) == ("sip:bob@x.example", "hello there")
    assert (found[2].to, found[2].status, found[3].seconds) == ("sip:bob@home.example", 200, 2)
    assert found[1].text == "message sip:bob@x.example hello there"


def test_lines_comments_quotes_and_semicolons() -> None:
    text = '# first\nregister\n\nmessage bob "a; b \\" c"; options sip:bob@x;user=phone;hangup\n'
    found = steps(text)
    assert [each.name for each in found] == ["register", "message", "options", "hangup"]
    assert found[1].body == 'a; b " c' and found[2].to == "sip:bob@x;user=phone"


def test_sms_over_ip_is_octets() -> None:
    assert steps("message bob hex:00ff")[0].body == b"\x00\xff"


@pytest.mark.parametrize(
    ("to", "uri"),
    [
        ("bob", "sip:bob@home.example"),
        ("+15551230002", "sip:+15551230002@home.example"),
        ("*31#", "sip:*31%23@home.example"),
        ("bob@other.example", "sip:bob@other.example"),
        ("tel:+15551230002", "tel:+15551230002"),
        ("sip:bob@[fd00::1]:5060", "sip:bob@[fd00::1]:5060"),
        ("urn:service:sos", "urn:service:sos"),
    ],
)
def test_short_names_are_completed(to: str, uri: str) -> None:
    assert address(to, REALM) == uri


@pytest.mark.parametrize(
    ("text", "name", "field", "value"),
    [
        ("call bob and expect 486", "call", "status", 486),
        ("call bob within 5 and expect 486", "call", "within", 5.0),
        ("call bob and expect 486 within 5", "call", "within", 5.0),
        ("ring bob within 3", "ring", "within", 3.0),
        ("expect-message", "expect-message", "body", ""),
        ("expect-message hello there within 4", "expect-message", "body", "hello there"),
        ("expect-message within 4", "expect-message", "within", 4.0),
        ("expect-call within 0.5", "expect-call", "within", 0.5),
        ("answer", "answer", "habit", "after"),
        ("answer after 2", "answer", "seconds", 2.0),
        ("answer busy", "answer", "habit", "busy"),
        ("fault silent lose", "fault", "faults", frozenset({Fault.SILENT, Fault.LOSE})),
        ("fault none", "fault", "faults", frozenset()),
    ],
)
def test_the_words_of_a_step(text: str, name: str, field: str, value: object) -> None:
    (step,) = steps(text)
    assert (step.name, getattr(step, field)) == (name, value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("register; wait 1; cal bob", "step 3: `cal` is no step; did you mean call?"),
        ("xyzzy", "`xyzzy` is no step, of register"),
        ("", "the script has no step"),
        ("call", "to whom?"),
        ("call <bob>", "no URI, name or number"),
        ("message bob", "what is the text?"),
        ("message bob hex:0", "not hexadecimal"),
        ('message bob "open', "a quote is not closed"),
        ("call bob and expect 99", "expect which status? 99"),
        ("call bob now", "nothing can follow here, found `now`"),
        ("wait", "how many seconds?"),
        ("wait soon", "'soon' is no number of seconds"),
        ("wait inf", "not from 0 to 86400"),
        ("wait -1", "not from 0 to 86400"),
        ("answer maybe", "after SECONDS, busy, decline or never"),
        ("expect-call within", "within how many seconds?"),
        ("fault silence", "did you mean silent?"),
        ("fault", "which fault?"),
        ("register now", "nothing can follow here"),
        ("expect-complaints some", "only `none`"),
    ],
)
def test_errors_name_the_step_and_help(text: str, words: str) -> None:
    with pytest.raises(ScriptError) as refused:
        steps(text)
    assert words in str(refused.value)


def test_every_step_is_in_the_grammar() -> None:
    from pcscf.lab.script import GRAMMAR

    assert all(name in GRAMMAR for name in NAMES)
    assert parse_step(" hangup \n", 7, REALM).name == "hangup"
