"""Telling the lab's core what to do while it runs: a unix stream socket, one command a line, one line of answer.

An answer begins with `ok` or `error:`. The commands are those of `scscf`; here they are read, carried and answered.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pcscf import PcscfError
from pcscf.lab.bindings import ContactEvent
from pcscf.lab.challenge import CoreFault
from pcscf.unixsocket import clear_way

LINE_OCTETS = 4096
PATIENCE = 5.0
COMMANDS = (
    "deregister IMPI [deactivated|rejected|unregistered]",
    "shorten IMPI SECONDS",
    "rechallenge IMPI",
    "fault IMPI FAULT... | none",
    "hangup NUMBER",
    "registered",
)
ENDS = (ContactEvent.DEACTIVATED, ContactEvent.REJECTED, ContactEvent.UNREGISTERED)


class ControlError(PcscfError):
    """The socket cannot be used, or a command was refused; `str` is for people."""


class Core(Protocol):
    """What can be told. Each raises ControlError."""

    def deregister(self, impi: str, event: ContactEvent = ...) -> None: ...
    def shorten(self, impi: str, seconds: float) -> None: ...
    def rechallenge(self, impi: str) -> None: ...
    def fault(self, impi: str, *faults: CoreFault) -> None: ...
    def hang_up(self, number: str) -> int: ...
    def registered(self) -> list[dict[str, object]]: ...


def command(core: Core, line: str) -> str:
    """Carry out one line: `ok`, `ok` and what was asked for, or `error: ...`."""
    try:
        said = _command(core, line.split())
    except ControlError as error:
        return f"error: {error}"
    return f"ok {said}" if said else "ok"


def _command(core: Core, words: list[str]) -> str:
    match words:
        case ["deregister", impi]:
            core.deregister(impi)
        case ["deregister", impi, event] if event in ENDS:
            core.deregister(impi, ContactEvent(event))
        case ["shorten", impi, seconds] if seconds.isascii() and seconds.isdigit() and 0 < int(seconds[:7]) < 1_000_000:
            core.shorten(impi, int(seconds))
        case ["rechallenge", impi]:
            core.rechallenge(impi)
        case ["fault", impi, "none"]:
            core.fault(impi)
        case ["fault", impi, *faults] if faults:
            if unknown := [name for name in faults if name not in list(CoreFault)]:
                raise ControlError(f"{unknown[0]!r} is none of {', '.join(CoreFault)}")
            core.fault(impi, *map(CoreFault, faults))
        case ["hangup", number]:
            return f"{core.hang_up(number)} calls"
        case ["registered"]:
            return json.dumps(core.registered())
        case _:
            raise ControlError(f"{' '.join(words)!r} is no command; there are: {'; '.join(COMMANDS)}")
    return ""


class Control:
    """Serves one socket; `run` carries out a line and gives the answer. `start`, then `close`."""

    def __init__(self, path: Path, run: Callable[[str], str]) -> None:
        self._path = path
        self._run = run
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen with mode 0600, in place of a core that is gone. Raises ControlError."""
        mask = os.umask(0o177)
        try:
            clear_way(self._path)
            self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=LINE_OCTETS)
        except OSError as error:
            raise ControlError(f"control socket {self._path}: {error.strerror}") from error
        finally:
            os.umask(mask)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.close()
            self._path.unlink(missing_ok=True)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                writer.write(f"{self._run(line.decode('utf-8', 'replace'))}\n".encode())
                await writer.drain()
        except ValueError:
            writer.write(f"error: a line has at most {LINE_OCTETS} octets\n".encode())
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def tell(path: Path, line: str) -> str:
    """Say one command to a running core and give what follows `ok`. Raises ControlError."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(PATIENCE)
        try:
            stream.connect(str(path))
            stream.sendall(f"{line}\n".encode())
            with stream.makefile("r", encoding="utf-8") as answers:
                answer = answers.readline().rstrip("\n")
        except OSError as error:
            raise ControlError(f"no core listens on {path}: {error.strerror or error}") from error
    word, _, rest = answer.partition(" ")
    if word != "ok":
        raise ControlError(rest if word == "error:" else f"{path} gave no answer")
    return rest
