"""A command of the lab as a process: it is ready, does steps, is late, dies; each said in words."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pcscf.lab import process
from pcscf.lab.network import NetworkError
from pcscf.lab.process import Process

ECHO = "import sys, json\nfor line in sys.stdin: print(json.dumps({'step': line.strip()}), flush=True)"


def run(folder: Path, source: str, then: Callable[[Process], Awaitable[None]]) -> None:
    async def go() -> None:
        made = Process("it", folder / "it.log")
        await made.start((sys.executable, "-c", source), {"GIVEN": "x"})
        try:
            await then(made)
        finally:
            await made.stop()

    asyncio.run(go())


def test_it_is_ready_and_does_steps(tmp_path: Path) -> None:
    async def then(made: Process) -> None:
        await made.ready()
        assert await made.do("register") == {"step": "register"}
        assert await made.do("call bob") == {"step": "call bob"}

    run(tmp_path, f"import os, sys; print(os.environ['GIVEN'], 'ready', file=sys.stderr, flush=True)\n{ECHO}", then)
    assert (tmp_path / "it.log").read_text() == "x ready\n"


def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    async def then(made: Process) -> None:
        with pytest.raises(NetworkError, match="it did not start: no such file"):
            await made.ready()

    run(tmp_path, "import sys; sys.exit('no such file')", then)


def test_one_that_dies_at_a_step_says_why(tmp_path: Path) -> None:
    async def then(made: Process) -> None:
        with pytest.raises(NetworkError, match="it ended at `register`: out of memory"):
            await made.do("register")
        with pytest.raises(NetworkError, match="it ended at `call`"):
            await made.do("call")

    run(tmp_path, "import sys; sys.stdin.readline(); sys.exit('out of memory')", then)


def test_one_that_is_late_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RESULT_WITHIN", 0.05)

    async def then(made: Process) -> None:
        with pytest.raises(NetworkError, match="`register` had no end in 0 s"):
            await made.do("register")

    run(tmp_path, "import sys; sys.stdin.readline(); sys.stdin.readline()", then)
