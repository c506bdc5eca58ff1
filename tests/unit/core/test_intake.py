"""Datagrams in clear that wait: a phone does not wait behind a flood (Step 1, 5)."""

from ipaddress import ip_address

from pcscf.intake import MOST, MOST_OF_ONE, ROOM, Intake
from pcscf.vocabulary import Flow, Interface

GM = ip_address("10.45.0.1")


def flow(source: str, port: int = 5060) -> Flow:
    return Flow("UDP", Interface.GM, GM, 5060, ip_address(source), port)


def taken(intake: Intake) -> list[tuple[str, bytes]]:
    found = []
    while (each := intake.take()) is not None:
        found.append((str(each[0].remote), each[1]))
    return found


def test_who_has_nothing_waiting_comes_first() -> None:
    intake = Intake()
    for number in range(5):
        intake.put(flow("10.45.0.9", 1000 + number), b"flood %d" % number)
    intake.take()
    intake.put(flow("10.45.0.2"), b"phone")
    intake.put(flow("10.45.0.3"), b"another")
    assert [data for _, data in taken(intake)] == [b"another", b"phone", *(b"flood %d" % n for n in range(1, 5))]


def test_each_source_has_its_turn_and_its_own_order() -> None:
    intake = Intake()
    for number in range(3):
        for source in ("10.45.0.2", "10.45.0.3"):
            intake.put(flow(source), b"%d" % number)
    order = taken(intake)
    assert [data for source, data in order if source == "10.45.0.2"] == [b"0", b"1", b"2"]
    assert {source for source, _ in order[:2]} == {"10.45.0.2", "10.45.0.3"}


def test_one_source_has_its_share_and_all_have_a_limit() -> None:
    intake = Intake()
    for number in range(2 * MOST_OF_ONE):
        intake.put(flow("10.45.0.9", number + 1), b"x")
    assert len(intake) == intake.lost == MOST_OF_ONE
    for number in range(2 * MOST):
        intake.put(flow(f"10.46.{number >> 8}.{number & 255}"), b"spoofed")
    assert len(intake) == MOST
    intake.put(flow("10.45.0.2"), b"phone")
    assert taken(intake)[0] == ("10.45.0.2", b"phone")
    assert len(intake) == 0 and intake.take() is None


def test_long_datagrams_have_less_room() -> None:
    intake = Intake()
    for number in range(200):
        intake.put(flow(f"10.46.0.{number}"), bytes(60_000))
    assert len(intake) * 60_000 <= ROOM


def test_a_64_of_ipv6_is_one_source() -> None:
    intake = Intake()
    for number in range(2 * MOST_OF_ONE):
        intake.put(flow(f"fd00:45::{number:x}"), b"x")
    assert len(intake) == MOST_OF_ONE
