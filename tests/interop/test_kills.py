"""1,000 times `kill -9` at random points: the store opens, and store, live sets and SAs agree."""

from pathlib import Path

from tests.interop.kills import killed


def test_1000_kills_leave_nothing_that_does_not_agree(tmp_path: Path) -> None:
    killed(tmp_path, 1000, "fake")
