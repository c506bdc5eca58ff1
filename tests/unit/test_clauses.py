"""The table of clauses in CONTRIBUTING.md is what the docstrings say, and leaves no requirement without a test."""

from pathlib import Path

import pytest

from tests import clauses
from tests.clauses import EXCEPTIONS, ITEMS, PAGE, ROWS, UnknownItem, cited


def test_the_page_says_what_the_code_says() -> None:
    _, written, _ = clauses.parts(PAGE.read_text())
    assert written == clauses.page(clauses.table()), "run python -m tests.clauses --write"


def test_every_item_and_row_has_a_module_and_a_test_or_a_reason_why_not() -> None:
    assert clauses.unanswered(clauses.table()) == []
    assert all(EXCEPTIONS.values()) and EXCEPTIONS.keys() <= ITEMS.keys()


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("One row (digest A1 row 3).", {"A1"}),
        ("A8, A9: and field trap 17.", {"A8", "A9"}),
        ("Edits (digest C2 to C4).", {"C2", "C3", "C4"}),
        ("F8-F11", {"F8", "F9", "F10", "F11"}),
        ("F12a: in C7 step 2", {"F12", "C7"}),
        ("Digest A9, G4", {"A9"}),
        ("The package (digest C6, D).", {"C6", "D"}),
        ("By NAPTR, SRV, then A and AAAA; IPv4 B C D", set()),
        ("CK1, CK2 and OUT2; 10.45.0.2; x.A1", set()),
        ('A8 "SM7", A9 "RES wrong": so', {"A8", 'A8 "SM7"', "A9", 'A9 "RES wrong"'}),
        ("TS 33.203 7.4.2a", {"A8"}),
        ("TS 33.203 7.2 and Annex H", {"A4", "A7", "A11"}),
        ("TS 24.229 5.2.6.3, 5.2.6.4", {"C7", "C8"}),
        ("TS 24.229 5.2.6.4.4, RFC 3329 2.3.1", {"C8", "B1"}),
        ("TS 24.229 5.2.8.1.4", {"C9"}),
        ("TS 24.229 9.9, TS 29.228", set()),
    ],
)
def test_what_a_docstring_cites(text: str, items: set[str]) -> None:
    assert cited(text) == items


@pytest.mark.parametrize("text", ["digest A15", "C2 to C14", "F15", "E5", "B8", 'A8 "SM9"', "G6"])
def test_what_there_is_not_cannot_be_cited(text: str) -> None:
    with pytest.raises(UnknownItem):
        cited(text)


def test_a_wrong_citation_is_named_with_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tmp_path / "pcscf" / "x.py"
    module.parent.mkdir()
    module.write_text('"""Good (digest A1)."""\n\nLIMIT = 1\n"""Bad (digest A20)."""\n')
    monkeypatch.setattr(clauses, "ROOT", tmp_path)
    with pytest.raises(UnknownItem, match=r'pcscf/x\.py: "Bad \(digest A20\)\." cites A20, which is no item'):
        clauses.table()


def test_a_citation_that_goes_leaves_a_hole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in {"pcscf/x.py": "A1, A2", "tests/unit/test_x.py": "A1"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'"""{text}"""\n')
    monkeypatch.setattr(clauses, "ROOT", tmp_path)
    holes = clauses.unanswered(clauses.table())
    assert "A2 has no test" in holes and "A1 has no test" not in holes and 'A8 "SM7" has no test' in holes
    assert not set(EXCEPTIONS) & {hole.rpartition(" has ")[0] for hole in holes}


def test_the_rows_are_those_of_the_two_tables() -> None:
    assert {item: len(rows) for item, rows in ROWS.items()} == {"A8": 10, "A9": 10}
