"""A phone of the lab as a process that does what it is told: `pcscf ue -x -` on the host `ue` of a plant.

    with Phone(running, "alice", user(1), "10.45.0.2", "--tcp") as alice:
        alice.ok("register")
        alice.begin(f"call {number(2)}")  # others may be told what to do meanwhile
        assert alice.result()["ok"]

Users are those of the plant, by default of config/subscribers.toml.
"""

import json
import os
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

from tests.interop.plant import REALM, Plant

ANSWER_WITHIN = 120.0
END_WITHIN = 30.0


def user(which: int) -> str:
    """The private identity of a subscriber of the lab, from 1."""
    return f"00101{which:010}@{REALM}"


def number(which: int) -> str:
    """What to dial for a subscriber of the lab, from 1."""
    return f"+1555123{which:04}"


class Phone:
    """One UE; its log is NAME.log in the folder of the plant. `options` are those of `pcscf ue`."""

    def __init__(self, plant: Plant, name: str, user: str, address: str, *options: str) -> None:
        self.name = name
        self.user = user
        self.address = address
        self._log = plant.folder / f"{name}.log"
        self._asked: list[str] = []
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                plant.network.command(
                    "ue", sys.executable, "-m", "pcscf", "ue", "-x", "-", f"--subscribers={plant.subscribers}",
                    f"--impi={user}", f"--address={address}",
                    f"--pcscf={'fd00:45::1' if ':' in address else '10.45.0.1'}", *options,
                ),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, env=os.environ,
            )  # fmt: skip

    def do(self, step: str, timeout: float = ANSWER_WITHIN) -> dict[str, Any]:
        """Do one step and give its result: `ok`, `status`, `reason`, `seconds`, `details`."""
        self.begin(step)
        return self.result(timeout)

    def ok(self, step: str, timeout: float = ANSWER_WITHIN) -> dict[str, Any]:
        """Do one step that must succeed."""
        said = self.do(step, timeout)
        assert said["ok"], f"{self.name}: {said}"
        return said

    def begin(self, step: str) -> None:
        """Have it do a step, and do not wait; several are done one after the other."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n".encode())
        self._asked.append(step)

    def result(self, timeout: float = ANSWER_WITHIN) -> dict[str, Any]:
        """The result of the oldest step begun whose result was not taken yet."""
        step = self._asked.pop(0)
        said: dict[str, Any] = json.loads(self._line(step, timeout))
        return said

    def end(self) -> int:
        """No more steps; the exit status: 0 only if every step did what it should. It does not deregister."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        return self._process.wait(END_WITHIN)

    def kill(self) -> None:
        """It is gone without a word, as with a flat battery."""
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _line(self, step: str, timeout: float) -> bytes:
        """Unbuffered, so that what `select` says holds; the phone writes whole lines."""
        out = self._process.stdout
        assert out is not None
        started = time.monotonic()
        readable, _, _ = select.select([out], [], [], timeout)
        assert readable, f"{self.name} had no result of `{step}` after {time.monotonic() - started:.0f} s: {self.log}"
        line: bytes = out.readline()
        assert line, f"{self.name} ended at `{step}` with {self._process.wait(END_WITHIN)}: {self.log}"
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end()
        except subprocess.TimeoutExpired:
            self.kill()
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()
