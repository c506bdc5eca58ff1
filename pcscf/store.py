"""What survives a restart, in SQLite in the state directory: texts under names, and nothing of what they mean.

Written before what was decided is carried out, so that whoever heard of it is right after a `kill -9`, too. A file that
cannot be read, or is somebody else's, is set aside and said so.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pcscf import PcscfError
from pcscf.folder import Untrusted, owned_file, private_folder

FILE = "store.sqlite"
APPLICATION = 0x50435343
"""`PCSC`: SQLite keeps it in the head of the file."""
VERSION = 1
TABLES = ("registration", "dialog")
BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite makes beside its file."""
log = logging.getLogger("pcscf")


class StoreError(PcscfError):
    """The store cannot be used; `str` is for people."""


class Stored(NamedTuple):
    """Texts by name."""

    registrations: dict[str, str]
    dialogs: dict[str, str]


class Store:
    """One file, of one process at a time. Raises StoreError."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            private_folder(folder)
            # SQLite opens by name: nobody else can exchange what was looked at here, since the folder is ours alone.
            _make(self.path)
            for each in BESIDE:
                if (beside := self.path.with_name(f"{FILE}{each}")).is_symlink():
                    raise Untrusted(f"{beside} is a link; remove it")
        except OSError as error:
            raise StoreError(
                f"store {self.path}: {error.strerror}; set `state` to a place you may write, or store.enabled = false"
            ) from error
        self._database, self._stored = self._opened()
        self._complained = False

    def _opened(self) -> tuple[sqlite3.Connection, Stored]:
        try:
            return self._open()
        except sqlite3.OperationalError as error:
            raise StoreError(f"store {self.path}: {error}; does another P-CSCF use it?") from error
        except (sqlite3.DatabaseError, _Foreign) as error:
            aside = self.path.with_name(f"{FILE}.{time.strftime('%Y%m%d-%H%M%S')}.aside")
            try:
                self.path.rename(aside)
                for each in BESIDE:
                    self.path.with_name(f"{FILE}{each}").unlink(missing_ok=True)
                _make(self.path)
            except OSError as failure:
                raise StoreError(f"store {self.path}: {error}, and {failure.strerror}") from failure
            told = "store %s cannot be used (%s); it is set aside as %s, phones must register again"
            log.warning(told, self.path, error, aside)
        try:
            return self._open()
        except sqlite3.Error as error:
            raise StoreError(f"store {self.path}: {error}") from error

    def _open(self) -> tuple[sqlite3.Connection, Stored]:
        """Raises sqlite3.Error, _Foreign."""
        database = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
        database.text_factory = _text  # one row that is no UTF-8 is not to cost the others
        try:
            # Nobody else reads or writes while we live; the lock goes with the process.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
            (objects,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if objects and application != APPLICATION:
                raise _Foreign("it is not of a P-CSCF")
            if objects and version != VERSION:
                raise _Foreign(f"it is of version {version}, this is {VERSION}")
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _Foreign(" ".join(str(verdict).split()))
            database.execute("PRAGMA journal_mode = WAL")
            # A process that is killed loses nothing that way. A machine that loses power has lost its SAs, too, and a
            # file that has suffered is set aside.
            database.execute("PRAGMA synchronous = OFF")
            for table in TABLES:
                database.execute(f"CREATE TABLE IF NOT EXISTS {table} (name TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")
            if not objects:
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {VERSION}")
            tables = [dict(database.execute(f"SELECT name, body FROM {table}")) for table in TABLES]
        except BaseException:
            database.close()
            raise
        return database, Stored(*tables)

    def take(self) -> Stored:
        """What was stored when it was opened; once."""
        stored, self._stored = self._stored, Stored({}, {})
        return stored

    def write(self, registrations: Mapping[str, str | None], dialogs: Mapping[str, str | None]) -> bool:
        """Keep these texts, forget those that are None: all of it, or nothing and False. Told of once, as a full disk.

        A single text that cannot be stored is left out.
        """
        database = self._database
        try:
            database.execute("BEGIN")
            for table, rows in zip(TABLES, (registrations, dialogs), strict=True):
                for name, body in rows.items():
                    try:
                        _put(database, table, name, body)
                    except (sqlite3.DataError, UnicodeError, OverflowError) as error:
                        self._complain(error)
            database.execute("COMMIT")
        except sqlite3.Error as error:
            self._complain(error)
            with contextlib.suppress(sqlite3.Error):
                if database.in_transaction:
                    database.execute("ROLLBACK")
            return False
        self._complained = False
        return True

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            log.warning("store %s: %s; what happens now does not survive a restart", self.path, error)
        self._complained = True

    def close(self) -> None:
        self._database.close()


def _make(path: Path) -> None:
    """An empty file, or what is there, for us alone. Raises OSError."""
    descriptor = owned_file(path, os.O_RDWR | os.O_CREAT, secret=False)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _put(database: sqlite3.Connection, table: str, name: str, body: str | None) -> None:
    if body is None:
        # As octets: a damaged name may be no text.
        octets = name.encode("utf-8", "surrogateescape")
        database.execute(f"DELETE FROM {table} WHERE name = CAST(? AS TEXT)", (octets,))
    else:
        database.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (name, body))


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


class _Foreign(Exception):
    """A database that is not ours."""
