"""Export of keys, off unless somebody asks for it: lines of Wireshark's `esp_sa`, appended when SAs come to be.

The counterpart of SSLKEYLOGFILE is ESPKEYLOGFILE; `keys.file` of the configuration goes before it.
While it is off, this process leaves no core either, since its memory holds keys.
"""

import ctypes
import logging
import os
import resource
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pcscf import PcscfError
from pcscf.folder import Untrusted, owned_file, trusted_place
from xfrm.model import Sa
from xfrm.wireshark import line_of

VARIABLE = "ESPKEYLOGFILE"
_PR_SET_DUMPABLE = 4
log = logging.getLogger("pcscf")


class KeyLogError(PcscfError):
    """The key file cannot be used; `str` is for people."""


class KeyLog:
    """Appends to one file, which only its owner may read. Raises KeyLogError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            trusted_place(path)
            self._descriptor = owned_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except Untrusted as error:
            raise KeyLogError(f"key file {path}: {error.strerror}") from error
        except OSError as error:
            raise KeyLogError(f"key file {path}: {error.strerror}; name a file that you may write") from error
        self._complained = False

    def add(self, sas: Sequence[Sa]) -> None:
        """Write a set down. A disk that is full is told of once, and is no reason not to serve the UE."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [f"# {at} {len(sas)} SAs of {sas[0].selector.source}", *map(line_of, sas)]
        try:
            os.write(self._descriptor, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            if not self._complained:
                log.warning("key file %s: %s; keys are missing from it", self.path, error.strerror)
            self._complained = True

    def close(self) -> None:
        os.close(self._descriptor)


def open_key_log(configured: str, environment: Mapping[str, str]) -> KeyLog | None:
    """The key file that is asked for, loudly; None if none is, and then no core is dumped. Raises KeyLogError."""
    name = configured or environment.get(VARIABLE, "")
    if not name:
        leave_no_core()
        return None
    made = KeyLog(Path(name))
    log.warning("KEY EXPORT IS ON: the keys of every SA go to %s; who reads it reads the traffic", made.path)
    return made


def leave_no_core() -> None:
    """Let neither a crash nor a debugger of the same user write down the memory of this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
