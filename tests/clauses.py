"""The table of clauses in CONTRIBUTING.md: which module does what a clause says, and which tests show it.

It is made of the citations in docstrings and of nothing else. `python -m tests.clauses` prints it; with `--write` it
goes into CONTRIBUTING.md. A citation is

- an item of the project's list of requirements: "digest A8", "A8, A9", "C2 to C4", "C7 step 2", "F12b"; "digest D";
- a row of the two tables of the life of a set, in quotes: A8 "SM7";
- a clause of a standard that an item is about: "TS 33.203 7.4", "TS 24.229 5.2.6.3", "RFC 3329".
"""

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- clauses: made by python -m tests.clauses --write -->", "<!-- end of clauses -->"

ITEMS = {
    "A1": ("the four SAs of a set", "TS 33.203 7.1"),
    "A2": ("which port for what", "TS 33.203 7.1"),
    "A3": ("parameters that are not negotiated", "TS 33.203 6.3"),
    "A4": ("choosing SPIs", "TS 33.203 7.2"),
    "A5": ("selectors", "TS 33.203 7.1"),
    "A6": ("the table of SAs, and the checks on it", "TS 33.203 7.1"),
    "A7": ("setting a set up", "TS 33.203 7.2"),
    "A8": ("the life of a set", "TS 33.203 7.4"),
    "A9": ("error cases", "TS 33.203 7.3"),
    "A10": ("integrity-protected", "TS 33.203 6.1.5"),
    "A11": ("syntax of the three Security headers", "TS 33.203 Annex H"),
    "A12": ("expanding keys", "TS 33.203 Annex I"),
    "A13": ("NAT: ESP in UDP", "TS 33.203 Annex M"),
    "A14": ("IMS AKA or without IPsec", "TS 33.203 Annex P"),
    "A14 other schemes": ("SIP Digest, TLS, GIBA, NBA", "TS 33.203 Annex N"),
    "B1": ("sec-agree", "RFC 3329"),
    "B2": ("AKAv1-MD5", "RFC 3310"),
    "B3": ("AKAv2", "RFC 4169"),
    "B4": ("Path and Service-Route", "RFC 3327"),
    "B5": ("asserted identity, privacy", "RFC 3325"),
    "B6": ("P-headers", "RFC 7315"),
    "B7": ("instances, flows, keep-alive", "RFC 5626"),
    "C0": ("transports and timers", "TS 24.229 7.7"),
    "C1": ("general; headers a UE may not set", "TS 24.229 5.2.1"),
    "C2": ("REGISTER from the UE", "TS 24.229 5.2.2"),
    "C3": ("401 to REGISTER", "TS 24.229 5.2.2"),
    "C4": ("200 to REGISTER", "TS 24.229 5.2.2"),
    "C5": ("deregistration", "TS 24.229 5.2.5"),
    "C6": ("our subscription to reg event", "TS 24.229 5.2.3"),
    "C7": ("requests from the UE", "TS 24.229 5.2.6.3"),
    "C8": ("requests to the UE", "TS 24.229 5.2.6.4"),
    "C9": ("calls and their release", "TS 24.229 5.2.8"),
    "C9 bearer": ("release when the bearer is lost", "TS 24.229 5.2.8.1.1"),
    "C10": ("emergency", "TS 24.229 5.2.10"),
    "C10 SigComp": ("compression", "TS 24.229 8"),
    "C11": ("the simulated UE", "TS 24.229 5.1"),
    "C12": ("the simulated core", "TS 24.229 5.4"),
    "D": ("reg event documents", "RFC 3680"),
    "E1": ("Milenage", "TS 35.206"),
    "E2": ("its test sets", "TS 35.208"),
    "E3": ("digest vectors", ""),
    "E4": ("key expansion vectors", ""),
    "F1": ("SM1, in clear", ""),
    "F2": ("SM1 as the core sees it", ""),
    "F3": ("the 401 with its keys", ""),
    "F4": ("SM6, in clear", ""),
    "F5": ("SM7, inside ESP", ""),
    "F6": ("the 200, inside ESP", ""),
    "F7": ("SUBSCRIBE of the P-CSCF", ""),
    "F8": ("SUBSCRIBE of the UE", ""),
    "F9": ("MESSAGE", ""),
    "F10": ("INVITE with preconditions", ""),
    "F11": ("CANCEL and BYE", ""),
    "F12": ("registering again", ""),
    "F13": ("deregistration", ""),
    "F14": ("failures", ""),
}
"""Item of the list of requirements: (what it is about, the clause of a standard that it condenses)."""

ROWS = {
    "A8": (
        "SM1 unprotected",
        "SM1 protected",
        "401 to forward",
        "during auth",
        "SM7",
        "200, SM1 was unprotected",
        "200, SM1 was protected",
        "first further uplink on NEW",
        "lifetime exceeded",
        "all IMPUs deregistered",
    ),
    "A9": (
        "wrong IK",
        "RES wrong",
        "MAC failure",
        "sync failure",
        "newer challenge",
        "SM7 unanswered",
        "no common algorithm",
        "proposal unacceptable to the UE",
        "agreement mismatch",
        "any other failure",
    ),
}
"""The rows of the tables in A8 and A9. Their modules are those of the item: the life of a set is one table in code."""

EXCEPTIONS = {
    "A13": "not in this version: NAT is noticed and refused by the Via check, ESP in UDP comes later",
    "A14 other schemes": "out of scope: IMS AKA with IPsec, or nothing by the operator's choice",
    "B3": "not needed beside IPsec; an unknown algorithm is refused without its keys",
    "C9 bearer": "needs Rx or N5: a hook for later",
    "C10 SigComp": "optional and never advertised",
}
"""Items that need neither module nor test, and why."""

ALSO: dict[str, tuple[str, ...]] = {
    "RFC 3608": ("B4",),
    "RFC 3323": ("B5",),
    "RFC 3455": ("B6",),
    "TS 33.203 6.1": ("A10",),
    "TS 33.203 6.2": ("A3",),
    "TS 33.203 6.3": ("A3",),
    "TS 33.203 7.1": ("A5", "A6"),
    "TS 33.203 7.2": ("A4", "A7"),
    "TS 33.203 7.5": ("A8",),
    "TS 24.229 4.2": ("C0",),
    "TS 24.229 5.2.4": ("C5",),
    "TS 24.229 5.2.6": ("C7",),
    "TS 24.229 5.2.7": ("C9",),
    "TS 24.229 5.2.9": ("C9",),
    "TS 24.229 7.6": ("C10",),
}
"""Clauses of a standard that several items, or none by that very number, are about: the items they count for."""

OTHERS = re.compile(r"G[1-5]$")
"""The open points of the list of requirements: they exist, but are decisions and no rows."""
ITEM = re.compile(r"(?<![\w.])([A-G])(\d{1,2})[a-c]?(?![\w])(?:(?:\s+to\s+|-)([A-G])(\d{1,2})(?!\w))?")
DOCUMENT = re.compile(r"\bdigest (?:[A-F]\d+(?: to [A-F]\d+)?, )*D\b")
ROW = re.compile(r'(A[89]) "([^"]+)"')
RFC = re.compile(r"RFC \d{4}")
CLAUSE = r"(?:Annex [A-Z]|\d+(?:\.\d+[A-Za-z]?)*)"
TS = re.compile(rf"(TS \d\d\.\d{{3}})(?: ({CLAUSE})((?:(?:, | and | to ){CLAUSE})*))?")


class UnknownItem(ValueError):
    """A docstring cites what there is not."""


@dataclass(slots=True)
class Line:
    """One line of the table."""

    modules: set[str]
    tests: set[str]


def texts(path: Path) -> Iterator[str]:
    """The docstrings of a file: of the module, its classes and functions, and those below constants and fields."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def cited(text: str) -> set[str]:
    """The items and rows that a docstring cites. Raises UnknownItem."""
    found: set[str] = set()
    for letter, first, last_letter, last in ITEM.findall(text):
        if last and letter == last_letter:
            found.update(f"{letter}{number}" for number in range(int(first), int(last) + 1))
        else:
            found.add(f"{letter}{first}")
            if last:
                found.add(f"{last_letter}{last}")
    for name in found:
        if name not in ITEMS and not OTHERS.match(name):
            raise UnknownItem(f"{name}, which is no item")
    for item, row in ROW.findall(text):
        if row not in ROWS[item]:
            raise UnknownItem(f'{item} "{row}", which is no row of it')
        found.add(f'{item} "{row}"')
    if DOCUMENT.search(text):
        found.add("D")
    for name in RFC.findall(text):
        found.update(_about(name))
    for document, clause, more in TS.findall(text):
        if not clause:
            found.update(_about(document))
        for each in (clause, *re.findall(CLAUSE, more)):
            found.update(_about(f"{document} {each}"))
    return found & _names()


def _names() -> set[str]:
    rows = {f'{item} "{row}"' for item, names in ROWS.items() for row in names}
    return ITEMS.keys() | rows


def _about(clause: str) -> set[str]:
    """The items that a clause of a standard counts for: those of the longest number it begins with."""
    while clause:
        if clause in ALSO:
            return set(ALSO[clause])
        if items := {name for name, (_, where) in ITEMS.items() if where == clause}:
            return items
        clause = clause.rpartition(".")[0] if clause.rpartition(".")[0].count(".") > 1 else ""
    return set()


def table() -> dict[str, Line]:
    """Item or row -> the modules and the test files that cite it. Raises UnknownItem with the file."""
    lines = {name: Line(set(), set()) for name in _names()}
    sources = [path for package in ("pcscf", "xfrm") for path in (ROOT / package).rglob("*.py")]
    for path in [*sources, *(ROOT / "tests").rglob("test_*.py")]:
        is_test = path.is_relative_to(ROOT / "tests")
        name = path.relative_to(ROOT / "tests" if is_test else ROOT).with_suffix("").as_posix()
        for text in texts(path):
            try:
                items = cited(text)
            except UnknownItem as error:
                raise UnknownItem(f'{path.relative_to(ROOT)}: "{text.splitlines()[0]}" cites {error}') from None
            for item in items:
                (lines[item].tests if is_test else lines[item].modules).add(name)
    for item, names in ROWS.items():
        for row in names:
            lines[f'{item} "{row}"'].modules = lines[item].modules
    return lines


def unanswered(lines: dict[str, Line]) -> list[str]:
    """What has no module or no test and is no exception, and exceptions that are none any more."""
    found = []
    for name, line in lines.items():
        if name in EXCEPTIONS:
            if line.modules and line.tests:
                found.append(f"{name} has modules and tests, and is an exception")
        elif not line.tests:
            found.append(f"{name} has no test")
        elif not line.modules and name not in ("E1", "E2", "E3", "E4"):
            found.append(f"{name} has no module")
    return sorted(found)


def page(lines: dict[str, Line]) -> str:
    """The table as it stands between the markers of CONTRIBUTING.md."""
    out = ["| item | what | standard | modules | tests |", "|---|---|---|---|---|"]
    for name, (what, standard) in ITEMS.items():
        out.append(_line(name, what, standard, lines[name]))
        out += [_line("", f"{name} {row}", "", lines[f'{name} "{row}"'], short=True) for row in ROWS.get(name, ())]
    return "\n".join(out)


def _line(name: str, what: str, standard: str, line: Line, *, short: bool = False) -> str:
    modules, tests = _listed(line.modules, "pcscf/"), _listed(line.tests, "unit/")
    if name in EXCEPTIONS:
        modules, tests = f"none: {EXCEPTIONS[name]}", tests or ""
    elif short:
        modules = "as above"
    return f"| {name} | {what} | {standard} | {modules} | {tests} |"


def _listed(names: set[str], prefix: str) -> str:
    shown = sorted(name.removeprefix(prefix).replace("test_", "") for name in names)
    return ", ".join(shown)


def parts(text: str) -> tuple[str, str, str]:
    """CONTRIBUTING.md before, between and after the markers. Raises ValueError without them."""
    before, found, rest = text.partition(BEGIN)
    between, also_found, after = rest.partition(END)
    if not found or not also_found:
        raise ValueError(f"{PAGE.name} has no markers {BEGIN} and {END}")
    return before + BEGIN, between.strip("\n"), END + after


def main() -> None:
    """Print the table or write it into CONTRIBUTING.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.clauses", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}, between its markers")
    arguments = parser.parse_args()
    lines = table()
    if arguments.write:
        before, _, after = parts(PAGE.read_text())
        PAGE.write_text(f"{before}\n{page(lines)}\n{after}")
    else:
        print(page(lines))
    for each in unanswered(lines):
        print(each)


if __name__ == "__main__":
    main()
