"""What a peer can cost us: every expression and every reader of its text, with the worst input that we accept.

Measured is the time of this process, the least of several runs, with an empty memory of earlier texts. An input that
takes long is measured beside one a quarter as long, two doublings apart, for a busy machine disturbs one of them as
easily as an allocation; that it seems too slow must hold in every one of several attempts.
"""

import ast
import gc
import importlib
import math
import pkgutil
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

import pcscf
import xfrm
from pcscf import reginfo
from pcscf.passage import Refusal
from pcscf.security import AgreementError
from pcscf.sip import fields
from pcscf.sip.parse import ParseError, parse
from pcscf.vocabulary import Received
from tests.unit import hostile
from tests.unit.core.hostile_messages import HEADERS, PLACES, Scene, with_header
from tests.unit.hostile import FILLINGS, HEAD, Reader, filled, octets_of

LONGEST = 0.020
"""Seconds for one input."""
DOUBLED = 2.5
"""How much more twice the input may cost."""
LOOKED_AT = 0.004
"""An input that takes less is not measured again: what grows with the square would still be below the limit."""
MEASURABLE, LARGE = 0.001, HEAD
"""Seconds that show how the time grows; octets that nobody can send more of, and whose work fits into the caches."""
ATTEMPTS = 20
ARENAS = 64
"""MiB that are there for the work: the most that a reader needs is some 10."""
USUAL = 0.0032
"""Seconds of `reference` on the machines that these figures are for, when nobody else uses them."""
ANSWERS = (ValueError, AgreementError, Refusal)
"""What readers raise for what they cannot read: ParseError, ReginfoError and ChallengeError are ValueErrors."""


# Every expression there is

OPERATORS = "reads what operators write, or their own files"
OURS = "reads text that we, or tools that we call, made"


def matching(pattern: re.Pattern[str], use: str, *within: tuple[str, str], more: tuple[str, ...] = ()) -> Reader:
    """An expression as it is used, with every filling and some more."""
    arguments = {"sub": ("",)}.get(use, ())
    method = getattr(pattern, use)
    return Reader(lambda text: method(*arguments, text), within or (("", ""),), fillings=(*FILLINGS, *more))


def matching_octets(pattern: re.Pattern[bytes]) -> Reader:
    lines = ("\r\n", "\r", "a \r", "SIP/2.0 200 ", "M SIP", " SIP/2.0")
    around = (("", ""), ("M ", ""), ("SIP/2.0 200 ", ""), ("M a", " SIP/2.0\r"))
    return Reader(lambda text: pattern.match(octets_of(text)), around, fillings=(*FILLINGS, *lines))


def module(name: str) -> dict[str, object]:
    return vars(importlib.import_module(name))


def pattern_of(name: str) -> re.Pattern[str]:
    """The expression of that name: `module:NAME`, `[place]` behind it where it is one of several."""
    place, _, variable = name.partition(":")
    variable, bracket, number = variable.partition("[")
    found = module(place)[variable]
    if bracket:
        assert isinstance(found, list)
        found = found[int(number.rstrip("]"))]
    assert isinstance(found, re.Pattern)
    return found


QUOTED = (('"', ""), ('"', '"'), ("", '"'), ('a="', ""), ("", ""))
USES: dict[str, tuple[str, tuple[tuple[str, str], ...]] | str] = {
    "pcscf.sip.message:_QUOTED": ("sub", QUOTED),
    "pcscf.sip.message:_TAG": ("search", (("", ""), (";", "tag"), (";tag", ""))),
    "pcscf.sip.message:_LIST_ITEM": ("findall", (*QUOTED, ("<", ""), ('<"', ""), ("<", ">,a"))),
    "pcscf.sip.parse:_TOKEN": ("fullmatch", (("", ""), ("", "("))),
    "pcscf.sip.parse:_STATUS_LINE": ("fullmatch", (("SIP/2.0 200 ", ""), ("SIP/2.0 200 ", "\n"), ("SIP/2.0 ", ""))),
    "pcscf.sip.parse:_LONG_HEX": ("sub", (("", ""), ("a" * 15, "g"))),
    "pcscf.sip.parse:_LONG_HEX_OR_CUT": ("sub", (("", ""), ("a" * 15, "g"))),
    "pcscf.sip.parse:_NOT_IN_URI": ("search", (("", ""),)),
    "pcscf.sip.parse:_PLAIN_LENGTH": ("fullmatch", (("", ""), ("l:", ""), ("l:", "1"), ("", ":1"))),
    "pcscf.sip.fields:_PARAM": ("match", ((";", ""), ("; a =", ""), (';a="', ""), (';a="', '"'), (" ", ";a"))),
    "pcscf.sip.fields:_VIA": ("match", (*hostile.VIA, ("SIP/2.0/UDP [", ""), ("SIP", "/2.0"))),
    "pcscf.sip.fields:_DISPLAY": ("match", (*QUOTED, ("", "<"), ('"', '"<'), ('"" ', ""))),
    "pcscf.sip.fields:_TOKEN": ("fullmatch", (("", ""), ("", "("))),
    "pcscf.sip.fields:_NOT_IN_ADDRESS": ("search", (("", ""),)),
    "pcscf.sip.fields:_NOT_IN_BRACKETS": ("search", (("", ""),)),
    "pcscf.sip.fields:_CSEQ": ("fullmatch", (("", ""), ("1 ", ""), ("1", " a"), ("1 a", "("))),
    "pcscf.sip.fields:_SCHEME": ("match", (("", ""), ("a", ""), ("a", " "))),
    "pcscf.sip.fields:_AUTH_PARAM": (
        "match",
        (("", ""), ("a=", ""), ('a="', ""), ('a="', '"'), ("a", "=b"), (" ", "a")),
    ),
    "pcscf.sip.uri:_HOST_PORT": ("fullmatch", (("", ""), ("[", ""), ("[", "]"), ("a:", ""), ("a", ":"), ("a", ":("))),
    "pcscf.sip.uri:_ESCAPE": ("search", (("", ""), ("", "%"))),
    "pcscf.sip.uri:_NOT_IN_URI": ("search", (("", ""),)),
    "pcscf.sip.uri:_SEPARATORS": ("sub", (("", ""),)),
    "pcscf.sip.uri:_NUMBER": ("fullmatch", (("", ""), ("+", ""), ("", "!"))),
    "pcscf.sip.uri:_RESERVED": ("split", (("", ""), ("", "%2"))),
    "pcscf.routing:_PARAM": ("findall", (*QUOTED, (";", ""))),
    "pcscf.trust:_PARAMETER": ("sub", (*QUOTED, (";", ""), (";cpc", ""), (";cpc=", ""), (';cpc="', ""))),
    "pcscf.printable:_LINE_BREAK": ("sub", (("", ""), ("\r", ""))),
    "pcscf.survival:_UNSENDABLE": ("search", (("", ""),)),
    "pcscf.admin.access:_HOST": ("fullmatch", (("", ""), ("[", ""), ("[", "]"), ("a:", ""), ("a", ":1"))),
    "pcscf.aka:HEX_KEY": ("fullmatch", (("", ""),)),
    "pcscf.reginfo:_NOT_IN_URI": ("search", (("", ""),)),
    **{
        f"pcscf.security:_NUMBERS[{place}]": (
            "search",
            (("", ""), (name, ""), (f"{name}=", ""), (name, "="), (f"{name}=1", "")),
        )
        for place, name in enumerate(("spi-c", "spi-s", "port-c", "port-s"))
    },
    "pcscf.capture.sip:IN_SA": ("match", (("", ""), ("SA ", ""))),
    "pcscf.lab.hops:_FLOW": ("fullmatch", (("", ""), ("udp-", ""), ("udp-1-", ""))),
    "pcscf.lab.hops:_BARE_RPORT": ("sub", (("", ""), (";", ""), (";rport", ""), (";", "rport"))),
    "pcscf.lab.script:_WORD": OPERATORS,
    "pcscf.lab.script:_AFTER_A_STEP": OPERATORS,
    "pcscf.admin.openapi:_IN_PATH": OURS,
}
"""Expression of a module -> how it is used and in what the fillings stand, or why no peer's text comes to it."""
PATTERNS: dict[str, Reader | str] = {
    name: use if isinstance(use, str) else matching(pattern_of(name), use[0], *use[1], more=("; ;tag",))
    for name, use in USES.items()
}
PATTERNS["pcscf.capture.sip:START_LINE"] = matching_octets(module("pcscf.capture.sip")["START_LINE"])  # type: ignore[arg-type]


KEY_PATTERNS = [
    each for names in (("ck", "ik"), ("integrity-protected",)) for each in fields._patterns(frozenset(names))
]


def _key_patterns(text: str) -> object:
    return [each.search(text) for each in KEY_PATTERNS]


MADE_IN_FUNCTIONS: dict[str, Reader | str] = {
    "pcscf.sip.fields:_patterns": Reader(
        _key_patterns, (("", ""), ("ck", ""), ("ck=", ""), ("ck", "="), ('ck="', "0123456789abcdef"))
    ),
    "pcscf.capture.trace:_names": Reader(lambda text: re.compile(r"(?<![\w.+-])aaaa(?![\w+-])", re.I).search(text)),
    "pcscf.admin.operations:_trace": Reader(lambda text: re.sub(r"[^\w.-]+", "_", text)),
    "pcscf.lab.registrar:_respond": Reader(lambda text: re.sub(r"[^\x20-\x7e]", "?", text)),
    "pcscf.lab.fault:edited": Reader(
        lambda text: re.subn(r"(?<=spi-s=)\d+", lambda found: "1", text, count=1),
        (("", ""), ("spi-s=", "")),
        fillings=(*FILLINGS, "spi-s="),
    ),
    "pcscf.lab.bindings:_param": Reader(lambda text: re.fullmatch(r"[A-Za-z0-9.!%*_+`'~-]+", text)),
    "pcscf.lab.subscribers:canonical": Reader(lambda text: re.sub(r"[-.()]", "", text)),
    "pcscf.lab.script:address": OPERATORS,
    "pcscf.lab.script:_to_somebody": OPERATORS,
    "pcscf.lab.script:_words": OPERATORS,
    "pcscf.admin.openapi:_identity": OURS,
}
"""Function that makes or uses an expression of its own -> the same one, or why no peer's text comes to it."""


@cache
def modules() -> dict[str, list[str]]:
    """Every module of both packages, imported, and the functions of it that call `re`; "" is the module itself."""
    found = {}
    for package in (pcscf, xfrm):
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not each.name.endswith("__main__"):
                path = importlib.import_module(each.name).__file__
                assert path is not None
                tree = ast.parse(Path(path).read_text())
                assert not hidden_import(tree), f"{each.name}: import re itself, that its uses are found"
                found[each.name] = list(calls_of_re(tree))
    return found


def hidden_import(tree: ast.Module) -> bool:
    """Whether expressions come in by another name than `re`."""
    return any(
        (isinstance(node, ast.ImportFrom) and node.module in ("re", "regex"))
        or (
            isinstance(node, ast.Import)
            and any(each.name == "regex" or (each.name == "re" and each.asname) for each in node.names)
        )
        for node in ast.walk(tree)
    )


def calls_of_re(tree: ast.AST, where: str = "") -> Iterator[str]:
    """The functions that call `re`; "" where a module does."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from calls_of_re(node, node.name)
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = node.func.value
            if isinstance(named, ast.Name) and named.id == "re" and node.func.attr != "escape":
                yield where
        if isinstance(node, ast.Lambda):
            yield from calls_of_re(node, where or "lambda")
        else:
            yield from calls_of_re(node, where)


def patterns_in(name: str, value: object, depth: int = 0) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Expressions that a variable holds, itself, in a list, or in a class."""
    if isinstance(value, re.Pattern):
        yield name, value
    elif isinstance(value, list | tuple) and depth < 3:
        for place, each in enumerate(value):
            yield from patterns_in(f"{name}[{place}]", each, depth + 1)
    elif isinstance(value, dict) and depth < 3:
        for key, each in list(value.items()):
            yield from patterns_in(f"{name}[{key!r}]", each, depth + 1)
    elif isinstance(value, type) and depth < 2:
        for key, each in list(vars(value).items()):
            yield from patterns_in(f"{name}.{key}", each, depth + 1)


def test_every_expression_of_a_module_has_its_hostile_input() -> None:
    """Step 1, 4: whoever adds an expression says here what the worst is that it may see."""
    found: dict[int, list[str]] = {}
    for name in modules():
        for variable, value in list(module(name).items()):
            for inner, pattern in patterns_in(variable, value):
                found.setdefault(id(pattern), []).append(f"{name}:{inner}")
    missing = [names for names in found.values() if not any(name in PATTERNS for name in names)]
    assert not missing, "no hostile input for these"
    assert not PATTERNS.keys() - {name for names in found.values() for name in names}, "these are gone"
    made = sum(where == "" for calls in modules().values() for where in calls)
    kept = {name.partition("[")[0] for names in found.values() for name in names if name in PATTERNS}
    assert made == len(kept), "an expression that is made when a module is imported is not kept where it is seen"


def test_every_expression_in_a_function_has_its_hostile_input() -> None:
    """Step 1, 4: it is better a constant of its module."""
    made = {f"{name}:{where}" for name, calls in modules().items() for where in calls if where}
    assert not made - MADE_IN_FUNCTIONS.keys(), "make it a constant, or list it here"
    assert not MADE_IN_FUNCTIONS.keys() - made, "these are gone"


# Time

Work = Callable[[], object]


@pytest.fixture(autouse=True, scope="module")
def _only_the_work() -> Iterator[None]:
    """What other tests have left is not the cost of these, nor is memory that the system has to give first.

    The interpreter gives an arena (1 MiB) back as soon as it is empty, and gets it again page by page: where each run
    of the longer input needed one more than the shorter, and nothing lay in it, twice the work took 2.6 times as long.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    filling = [bytes(470) for _ in range(ARENAS << 11)]
    kept = filling[::1000]  # two of each arena, which keep it
    filling.clear()
    yield
    kept.clear()
    gc.enable()
    gc.unfreeze()


@cache
def _memories() -> list[Callable[[], None]]:
    """What forgets all that was read before."""
    names = [name for name in sys.modules if name.startswith(("pcscf", "xfrm"))]
    values = {
        id(value): value
        for name in names
        for value in vars(sys.modules[name]).values()
        if hasattr(value, "cache_clear")
    }
    return [value.cache_clear for value in values.values() if callable(getattr(value, "cache_clear", None))]


def once(work: Work) -> float:
    for forget in _memories():
        forget()
    start = time.process_time()
    with suppress(*ANSWERS):
        work()
    return time.process_time() - start


def least(of_size: Callable[[int], Work], size: int, runs: int = 3) -> float:
    return min(once(of_size(size)) for _ in range(runs))


def compared(of_size: Callable[[int], Work], size: int) -> Iterator[tuple[float, float]]:
    """Seconds for this size, and how much more that is for each doubling from a quarter of it; better each time.

    The two are compared within milliseconds: a machine shared with others is at times half as fast for a while.
    """
    whole = growth = math.inf
    for _ in range(ATTEMPTS):
        now, quarter = least(of_size, size), least(of_size, size // 4)
        whole, growth = min(whole, now), min(growth, math.sqrt(now / max(quarter, 1e-9)))
        yield whole, growth


def reference() -> None:
    """Work of the usual kind, always the same."""
    sum(number for number in range(50_000) if number >= 0)
    ",".join(map(str, range(20_000))).split(",")


def slowdown() -> float:
    """How much slower this machine is just now: others that use it take caches and clock from us, too."""
    return max(1.0, min(once(reference) for _ in range(3)) / USUAL)


def judge(of_size: Callable[[int], Work], size: int, what: str) -> float:
    """Fail if an input of this size takes too long, or much more than a smaller one; gives the seconds it took."""
    seconds = once(of_size(size))
    if seconds < LOOKED_AT:
        return seconds
    if seconds > 10 * LONGEST:  # no noise does that
        pytest.fail(f"{what}: {1000 * seconds:.1f} ms")
    growth = 0.0
    for seconds, growth in compared(of_size, size):
        if seconds < LOOKED_AT or (seconds < LONGEST * slowdown() and growth <= DOUBLED):
            return seconds
    pytest.fail(f"{what}: {1000 * seconds:.1f} ms, {growth:.1f} times as much for twice the input")


def steady(of_size: Callable[[int], Work], size: int, what: str) -> None:
    """Fail if twice as much costs more than it may, at sizes that can be measured, however fast it is."""
    while least(of_size, size, 2) < MEASURABLE and 2 * size <= LARGE:
        size *= 2
    growth = 0.0
    for seconds, growth in compared(of_size, size):
        if seconds < MEASURABLE or growth <= DOUBLED:
            return
    pytest.fail(f"{what}: {growth:.1f} times as much for twice the input, up to {size} octets")


def measure(reader: Reader, name: str) -> None:
    worst: tuple[float, Callable[[int], Work], str] | None = None
    for before, filling, behind in reader.texts():

        def of_size(size: int, before: str = before, filling: str = filling, behind: str = behind) -> Work:
            text = filled(before, filling, behind, size)
            return lambda: reader.read(text)

        what = f"{name} with {before!r}, {filling!r}, {behind!r}"
        seconds = judge(of_size, reader.size, what)
        if worst is None or seconds > worst[0]:
            worst = seconds, of_size, what
    assert worst is not None
    steady(worst[1], reader.size, worst[2])


EXPRESSIONS = {name: each for name, each in (PATTERNS | MADE_IN_FUNCTIONS).items() if isinstance(each, Reader)}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_is_linear(name: str) -> None:
    """Step 1, 4: 16,000 times backslash and quote in To took `_QUOTED` 3 seconds."""
    measure(EXPRESSIONS[name], name)


@pytest.mark.parametrize("name", hostile.READERS)
def test_a_reader_of_values_is_linear(name: str) -> None:
    """Step 1, 4: what reads one header, with all of a message in that header."""
    measure(hostile.READERS[name], name)


@pytest.mark.parametrize("name", hostile.DATAGRAMS)
def test_reading_a_datagram_is_linear(name: str) -> None:
    """Step 1, 4: in whatever place of a message it is."""
    measure(hostile.DATAGRAMS[name], name)


@pytest.mark.parametrize("name", hostile.STREAMS)
def test_reading_a_stream_is_linear(name: str) -> None:
    """Step 1, 4: in pieces of any size, with anything before and in a message."""
    measure(hostile.STREAMS[name], name)


@pytest.mark.parametrize("name", hostile.DOCUMENTS)
def test_reading_a_document_is_linear(name: str) -> None:
    """Step 1, 4: 15,000 octets of a namespace stood 1,200 times in names of attributes: 125 ms."""
    made = hostile.DOCUMENTS[name]
    size = 30_000 - len(hostile.REGINFO) - 200

    def of_size(size: int) -> Work:
        text = made(size)
        return lambda: hostile.read_document(text)

    assert len(made(size)) < reginfo.MOST_OCTETS
    judge(of_size, size, name)
    steady(of_size, size, name)


@pytest.mark.parametrize("name", hostile.DESCRIPTIONS)
def test_reading_a_description_is_linear(name: str) -> None:
    """Step 1, 4: 10,000 attributes of one stream took a quarter of a second."""
    made = hostile.DESCRIPTIONS[name]

    def of_size(size: int) -> Work:
        text = made(size)
        return lambda: hostile.read_description(text)

    judge(of_size, 29_000, name)
    steady(of_size, 15_000, name)


@pytest.mark.parametrize("place", PLACES)
def test_the_proxy_is_linear(place: str) -> None:
    """Step 1, 4: one message in each place where a peer may say something, with each of its headers hostile.

    Each header gets some of the fillings, all of them together get each of them.
    """
    scene, last = Scene(), 0
    shapes = [(name, shape) for name, shapes in HEADERS.items() for shape in shapes]
    for index, (name, (before, behind)) in enumerate(shapes):
        for filling in FILLINGS[index % 15 :: 15]:

            def of_size(
                size: int, name: str = name, before: str = before, filling: str = filling, behind: str = behind
            ) -> Work:
                nonlocal scene, last
                scene.number += 1
                if scene.number > last + 400:
                    scene, last = Scene(scene.number), scene.number
                data, flow = PLACES[place](scene)
                value = filled(before, filling, behind, size - len(data) - 200).replace("@@", str(scene.number))
                data = with_header(data, name, value)
                handle, now = scene.world.proxy.handle, scene.world.now
                return lambda: handle(Received(parse(data), flow), now)

            judge(of_size, HEAD, f"{place}, {name} with {before!r}, {filling!r}, {behind!r}")


def test_a_quote_that_does_not_end_is_answered_at_once() -> None:
    """Step 1, 4: the datagram that took seconds, from a stranger, as it was."""
    scene = Scene()

    def of_size(size: int) -> Work:
        scene.number += 1
        data, flow = PLACES["in_clear"](scene)
        data = with_header(data, "To", '"' + '\\"' * (size // 2))
        return lambda: scene.world.proxy.handle(Received(parse(data), flow), scene.world.now)

    judge(of_size, 31_000, "the datagram")
    with suppress(ParseError):
        assert fields.parse_name_addr('"' + '\\"' * 9) is None, "and it is no address"
