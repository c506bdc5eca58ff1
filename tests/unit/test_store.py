"""The store: what was written is there for the next, and a file that cannot be it is set aside."""

import re
import sqlite3
from pathlib import Path

import pytest

from pcscf.store import FILE, VERSION, Store, Stored, StoreError


def test_what_was_written_is_there_for_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    assert store.take() == Stored({}, {})
    store.write({"a": "1", "b": "2"}, {"x": "y"})
    store.write({"a": "3", "b": None, "never": None}, {})
    store.close()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert store.path.stat().st_mode & 0o777 == 0o600
    again = Store(tmp_path / "state")
    assert again.take() == Stored({"a": "3"}, {"x": "y"})
    assert again.take() == Stored({}, {}), "once"
    again.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="does another P-CSCF use it"):
        Store(tmp_path)
    store.close()


def foreign(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE mine (a)")
    database.commit()
    database.close()


def newer(path: Path) -> None:
    store = Store(path.parent)
    store.close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()


def damaged(path: Path) -> None:
    store = Store(path.parent)
    store.write({f"name {number}": "x" * 500 for number in range(500)}, {})
    store.close()
    octets = bytearray(path.read_bytes())
    for place in range(4096, len(octets), 4096):
        octets[place : place + 64] = b"\xff" * 64
    path.write_bytes(octets)


def garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (foreign, "it is not of a P-CSCF"),
        (newer, f"it is of version {VERSION + 1}, this is {VERSION}"),
        (damaged, "malformed|free space|out of order|never used|btreeInitPage"),
        (garbage, "file is not a database"),
    ],
)
def test_a_file_that_cannot_be_it_is_set_aside(
    make: object, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(make)
    make(tmp_path / FILE)
    before = (tmp_path / FILE).read_bytes()
    store = Store(tmp_path)
    assert store.take() == Stored({}, {})
    store.write({"a": "1"}, {})
    store.close()
    (aside,) = tmp_path.glob("*.aside")
    assert aside.read_bytes() == before
    (record,) = caplog.records
    assert "set aside" in record.message and str(aside) in record.message

    assert re.search(words, record.message), record.message


def test_a_place_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="set `state` to a place you may write"):
        Store(tmp_path / "file" / "below")


def test_a_full_disk_is_told_of_once_and_serves_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    store._database.execute("PRAGMA max_page_count = 8")
    for number in range(3):
        store.write({f"{number}": "x" * 100_000}, {})
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "database or disk is full; what happens now does not survive a restart"
    ]
    store.write({"small": "1"}, {})
    store.close()
    again = Store(tmp_path)
    assert again.take().registrations == {"small": "1"}
    again.close()
