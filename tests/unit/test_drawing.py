"""A ladder of any number of hosts: ports at the ends, the way whole, the text cut, arrows across columns."""

from pcscf.drawing import DASHED, DOUBLE, Arrow, Sheet

SHEET = Sheet(("UE 10.45.0.2", "P-CSCF", "10.46.0.2"), (30, 30))


def test_the_heading_stands_above_the_columns() -> None:
    heading = SHEET.heading()
    line = " " * 9 + SHEET.line([Arrow(0, 1, "5060", "5100", True, "a"), Arrow(1, 2, "5061", "5070", True, "b")])
    assert heading.split() == ["UE", "10.45.0.2", "P-CSCF", "10.46.0.2"]
    for name, left, right in (("P-CSCF", "5100", "5061"), ("UE 10.45.0.2", "5060", "5060")):
        middle = heading.index(name) + len(name) // 2
        assert line.index(left) - 2 <= middle <= line.index(right) + 4


def test_arrows_of_both_directions_and_signs() -> None:
    assert SHEET.line([Arrow(0, 1, "5060", "5100", True, "REGISTER", "UDP spi 77", DOUBLE)]) == (
        "  5060 ══ REGISTER ══ UDP spi 77 ═══▶ 5100"
    )
    assert SHEET.line([Arrow(1, 2, "5060", "5070", False, "200 OK", "clear")]) == (
        "                                            5060 ◀─ 200 OK ── clear ─────────── 5070"
    )
    assert SHEET.line([Arrow(0, 1, "", "", True, "ESP", "spi 1", DASHED)]) == "       ╌╌ ESP ╌╌ spi 1 ╌╌╌╌╌╌╌╌╌╌╌╌╌▶ "


def test_an_arrow_across_a_column_reaches_the_far_end() -> None:
    near = SHEET.line([Arrow(1, 2, "5060", "5070", True, "ACK")])
    far = SHEET.line([Arrow(0, 2, "5060", "5070", True, "ACK")])
    assert near.index("▶") == far.index("▶") and near.index("5070") == far.index("5070")


def test_the_way_is_never_cut() -> None:
    arrow = Arrow(0, 1, "5060", "5100", True, "488 Not Acceptable Here and more", "TCP spi 4294967295", DOUBLE)
    assert SHEET.line([arrow]) == "  5060 ══ 48… ══ TCP spi 4294967295 ▶ 5100"


def test_side_by_side_and_on_itself() -> None:
    both = SHEET.line([Arrow(0, 1, "1", "2", True, "a"), Arrow(1, 2, "3", "4", True, "a")])
    assert both.count("▶") == 2 and both.index("2") < both.index("3")
    assert SHEET.itself(1, "word").index("word") == both.index("3")
