"""`kill -9` at random points, with the SAs where they really are: store, live sets and SAs agree after each."""

from pathlib import Path

from tests.interop.kills import killed


def test_kills_leave_nothing_that_does_not_agree(tmp_path: Path, esp: str) -> None:
    killed(tmp_path, 20, esp)
