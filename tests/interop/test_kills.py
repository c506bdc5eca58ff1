"""`kill -9` at random points, again and again: the store opens, and store, live sets and SAs agree.

`make long` does it more often, as does by hand: PCSCF_TEST_KILLS=10000 pytest -s tests/interop/test_kills.py.
"""

import os
from pathlib import Path

from tests.interop.kills import killed

KILLS = int(os.environ.get("PCSCF_TEST_KILLS", "200"))


def test_kills_leave_nothing_that_does_not_agree(tmp_path: Path) -> None:
    killed(tmp_path, KILLS, "fake")
