"""What a phone is to do, as text: steps between semicolons or on lines, made into data before anything happens.

    register; message bob hello there; call +15551230002; wait 2; hangup; deregister

`GRAMMAR` lists the steps. Doing them is `player`.
"""

import difflib
import math
import re
from dataclasses import dataclass

from pcscf import PcscfError
from pcscf.lab.fault import Fault

LONGEST_WAIT = 86_400.0
WITHIN = 30.0
"""Seconds that `call`, `ring` and the expect- steps wait unless they say `within`."""

GRAMMAR = """\
register                                        in clear, as at power-on
reregister | deregister                         inside the SAs
reboot                                          lose everything but the card
subscribe                                       to one's own registration (reg event), and obey it
message TO TEXT                                 TEXT may be "quoted"; hex:0a1b sends SMS over IP (vnd.3gpp.sms)
expect-message [TEXT] [within N]
options TO
call TO [within N] [and expect STATUS]          until it is answered; STATUS is 200 unless said
ring TO [within N]                              until it rings, and go on
answered [within N]                             wait until the call of `ring` is answered
hold | resume | update | hangup                 of the newest call; hangup of one that rings is CANCEL
answer [after N | busy | decline | never]       the call that rings, else the next ones; after 0 unless said
expect-call [within N]
expect-hangup [within N]                        the peer ends the call
expect-complaints none                          fail if a strict handset would not have taken something
fault NAME ... | none                           be wrong from now on
wait SECONDS"""
"""Every step, for people. TO is a URI, or a name or number that the realm completes: bob, +15551230002."""


class ScriptError(PcscfError):
    """The script cannot be read; `str` names the step and the word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptStep:
    """One step. `text` is how it was written; fields that its `name` does not use keep their defaults."""

    name: str
    text: str
    to: str = ""
    body: str | bytes = ""
    within: float = WITHIN
    seconds: float = 0.0
    status: int = 200
    habit: str = ""
    faults: frozenset[Fault] = frozenset()


ALONE = ("register", "reregister", "deregister", "reboot", "subscribe", "hold", "resume", "update", "hangup")
WITH_TIME = ("expect-call", "expect-hangup", "answered")
TO_SOMEBODY = ("message", "options", "call", "ring")
NAMES = (
    *ALONE,
    *WITH_TIME,
    *TO_SOMEBODY,
    "expect-message",
    "expect-complaints",
    "answer",
    "fault",
    "wait",
)
_WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^\s"]+)')
_AFTER_A_STEP = re.compile(rf"\s|$|(?:{'|'.join(sorted(NAMES, key=len, reverse=True))})(?:[\s;]|$)")
"""What follows a semicolon that ends a step: those in URIs are followed by a parameter."""


def parse_script(text: str, realm: str) -> tuple[ScriptStep, ...]:
    """Read a whole script; empty steps and lines that begin with # are left out. Raises ScriptError."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = [each for each in _split("\n".join(lines)) if each.strip()]
    steps = tuple(_step(each.strip(), number, realm) for number, each in enumerate(found, start=1))
    if not steps:
        raise ScriptError(f"the script has no step; the steps are:\n{GRAMMAR}")
    return steps


def parse_step(text: str, number: int, realm: str) -> ScriptStep:
    """Read one step. `number` is for errors. Raises ScriptError."""
    return _step(text.strip(), number, realm)


def address(to: str, realm: str) -> str:
    """A full URI: one that is given stays, a name, number or user@host is completed. Raises ValueError."""
    if re.match(r"(sips?|tel|urn):\S", to, re.IGNORECASE):
        return to
    if not re.fullmatch(r"[A-Za-z0-9+*#._~!-]+(@[A-Za-z0-9.:\[\]-]+)?", to):
        raise ValueError(f"{to!r} is no URI, name or number")
    user = to.replace("#", "%23")
    return f"sip:{user}" if "@" in to else f"sip:{user}@{realm}"


def _split(text: str) -> list[str]:
    """At line ends, and at semicolons outside quotes that are followed by a space or a step, so not inside URIs."""
    parts, start, quoted, place = [], 0, False, 0
    while place < len(text):
        char = text[place]
        if char == "\\" and quoted:
            place += 1
        elif char == '"':
            quoted = not quoted
        elif not quoted and (char == "\n" or (char == ";" and _AFTER_A_STEP.match(text, place + 1))):
            parts.append(text[start:place])
            start = place + 1
        place += 1
    return [*parts, text[start:]]


def _step(text: str, number: int, realm: str) -> ScriptStep:
    words = _words(text, number)
    name, rest = words[0], words[1:]

    def wrong(why: str) -> ScriptError:
        return ScriptError(f"step {number}: {text!r}: {why}")

    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
        raise ScriptError(
            f"step {number}: `{name}` is no step"
            + (f"; did you mean {near[0]}?" if near else f", of {', '.join(NAMES)}")
        )
    try:
        if name in TO_SOMEBODY:
            if not rest:
                raise ValueError("to whom? A URI, name or number is needed")
            to = address(rest[0], realm)
            return _to_somebody(name, text, to, rest[1:])
        if name in WITH_TIME:
            within, rest = _within(rest)
            _nothing_more(rest)
            return ScriptStep(name=name, text=text, within=within)
        match name:
            case "expect-message":
                within, rest = _within(rest)
                return ScriptStep(name=name, text=text, body=_body(" ".join(rest)), within=within)
            case "expect-complaints":
                if rest != ["none"]:
                    raise ValueError("only `none` can be expected")
                return ScriptStep(name=name, text=text)
            case "answer":
                return _answer(text, rest)
            case "fault":
                return ScriptStep(name=name, text=text, faults=_faults(rest))
            case "wait":
                if not rest:
                    raise ValueError("how many seconds?")
                seconds = _seconds(rest[0])
                _nothing_more(rest[1:])
                return ScriptStep(name=name, text=text, seconds=seconds)
        _nothing_more(rest)
        return ScriptStep(name=name, text=text)
    except ValueError as error:
        raise wrong(str(error)) from None


def _to_somebody(name: str, text: str, to: str, rest: list[str]) -> ScriptStep:
    if name == "message":
        if not rest:
            raise ValueError("what is the text?")
        return ScriptStep(name=name, text=text, to=to, body=_body(" ".join(rest)))
    status = 200
    within = WITHIN
    if name == "call":
        within, rest = _within(rest)
        if rest[:1] == ["and"]:
            rest = rest[1:]
        if rest[:1] == ["expect"]:
            word = rest[1] if len(rest) > 1 else ""
            if not re.fullmatch(r"[2-6][0-9]{2}", word):
                raise ValueError(f"expect which status? {word or 'nothing'} is none from 200 to 699")
            status, rest = int(word), rest[2:]
            if rest:
                within, rest = _within(rest)
    elif name == "ring":
        within, rest = _within(rest)
    _nothing_more(rest)
    return ScriptStep(name=name, text=text, to=to, status=status, within=within)


def _answer(text: str, rest: list[str]) -> ScriptStep:
    match rest:
        case []:
            return ScriptStep(name="answer", text=text, habit="after")
        case ["after", seconds]:
            return ScriptStep(name="answer", text=text, habit="after", seconds=_seconds(seconds))
        case ["busy" | "decline" | "never" as habit]:
            return ScriptStep(name="answer", text=text, habit=habit)
    raise ValueError("answer goes on with nothing, after SECONDS, busy, decline or never")


def _faults(rest: list[str]) -> frozenset[Fault]:
    if not rest:
        raise ValueError("which fault? `fault none` ends them")
    if rest == ["none"]:
        return frozenset()
    for word in rest:
        if word not in list(Fault):
            near = difflib.get_close_matches(word, list(Fault), n=1)
            raise ValueError(f"`{word}` is no fault" + (f"; did you mean {near[0]}?" if near else ""))
    return frozenset(Fault(word) for word in rest)


def _within(rest: list[str]) -> tuple[float, list[str]]:
    """Take `within N` out, where it stands first or last."""
    for place in (0, len(rest) - 2):
        if 0 <= place < len(rest) and rest[place] == "within":
            if place + 1 == len(rest):
                raise ValueError("within how many seconds?")
            return _seconds(rest[place + 1]), [*rest[:place], *rest[place + 2 :]]
    return WITHIN, rest


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        raise ValueError(f"{word!r} is no number of seconds") from None
    if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST_WAIT):
        raise ValueError(f"{word} seconds are not from 0 to {LONGEST_WAIT:.0f}")
    return seconds


def _body(text: str) -> str | bytes:
    if text.startswith("hex:"):
        try:
            return bytes.fromhex(text[4:])
        except ValueError:
            raise ValueError(f"{text} is not hexadecimal") from None
    return text


def _nothing_more(rest: list[str]) -> None:
    if rest:
        raise ValueError(f"nothing can follow here, found `{' '.join(rest)}`")


def _words(text: str, number: int) -> list[str]:
    """Words; a quoted one loses its quotes and may hold spaces and semicolons."""
    words, place = [], 0
    while place < len(text.rstrip()):
        found = _WORD.match(text, place)
        if found is None:
            raise ScriptError(f"step {number}: {text!r}: a quote is not closed")
        word = found[1]
        words.append(re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word)
        place = found.end()
    if not words:
        raise ScriptError(f"step {number} is empty")
    return words
