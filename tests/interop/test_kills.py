"""1,000 times `kill -9` at random points: the store opens, and store, live sets and SAs agree."""

import json
import subprocess
import sys
from pathlib import Path

from tests.interop.plant import ROOT


def test_1000_kills_leave_nothing_that_does_not_agree(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.interop.kills", str(tmp_path), "1000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    said = json.loads(done.stdout)
    assert said["wrong"] == [], (said["wrong"][:5], done.stderr[-2000:])
    assert said["times"] == 1000 and said["mean"]["registrations"] > 3, said
    print(said)
