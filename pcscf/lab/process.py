"""One command of the lab as a process: `ready` on its standard error, steps to its standard input, JSON lines back."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcscf.lab.network import NetworkError

_HANDING_OVER = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[2], sys.argv[2:])
"""
START_WITHIN = 20.0
RESULT_WITHIN = 40.0
LONGEST_LINE = 1 << 22


class Process:
    """A `pcscf` command on a host of the lab; standard error goes to a log file."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def start(
        self, command: Sequence[str], environment: dict[str, str], given: socket.socket | None = None
    ) -> None:
        """`given`: a listening socket for it, as a service manager hands one over (sd_listen_fds(3))."""
        if given is not None:
            command = (sys.executable, "-c", _HANDING_OVER, str(given.fileno()), *command)
        self._process = await asyncio.create_subprocess_exec(
            *command,
            pass_fds=() if given is None else (given.fileno(),),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
            limit=LONGEST_LINE,
        )
        self._reader = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        with self._log.open("wb") as log:
            async for line in self._process.stderr:
                log.write(line)
                log.flush()
                if line.rstrip().endswith(b" ready"):
                    self._ready.set()

    async def ready(self) -> None:
        """Wait until it says `ready`. Raises NetworkError with its last words if it ends or is late."""
        assert self._reader is not None
        waiter = asyncio.create_task(self._ready.wait())
        await asyncio.wait({waiter, self._reader}, timeout=START_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if not self._ready.is_set():
            raise NetworkError(f"{self.name} did not start: {self.last_words()}")

    async def do(self, step: str) -> dict[str, Any]:
        """Tell it a step; the JSON line it answers. Raises NetworkError if there is none in time."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(f"{step}\n".encode())
            async with asyncio.timeout(RESULT_WITHIN):
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise NetworkError(f"{self.name}: `{step}` had no end in {RESULT_WITHIN:.0f} s; see {self._log}") from None
        except ConnectionError:
            line = b""
        if not line:
            await self.stop()
            raise NetworkError(f"{self.name} ended at `{step}`: {self.last_words()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def last_words(self) -> str:
        text = self._log.read_text(errors="replace").strip() if self._log.exists() else ""
        return text.splitlines()[-1] if text else f"nothing was said (see {self._log})"

    async def stop(self) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(10):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._reader is not None:
            await self._reader
