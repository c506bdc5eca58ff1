"""`pcscf trace --follow`: the ladder grows while a UE talks, for one user or all, over a restart of the P-CSCF."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pcscf.lab.network import Network
from tests.interop.phone import Phone, number, user
from tests.interop.plant import CONFIG, Plant, plant

WITHIN = 10.0


@contextmanager
def following(running: Plant, name: str, *options: str) -> Iterator[Path]:
    """The command in the background; what it says."""
    said = running.folder / f"{name}.said"
    command = [
        sys.executable,
        "-m",
        "pcscf",
        "trace",
        "--follow",
        f"--control={running.folder / 'control.sock'}",
        *options,
    ]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "130"})
    try:
        yield said
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) in (0, 130)
        assert "Traceback" not in said.read_text(), said.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(said: Path, *words: str) -> str:
    end = time.monotonic() + WITHIN
    while not all(word in said.read_text() for word in words):
        assert time.monotonic() < end, said.read_text()
        time.sleep(0.05)
    return said.read_text()


def test_the_ladder_is_followed(tmp_path: Path) -> None:
    with (
        plant(tmp_path, network=Network(f"pcscf-follow-{os.getpid()}")) as running,
        following(running, "all") as everybody,
        following(running, "one", "--user", number(1)) as one,
        following(running, "messages", "--method", "MESSAGE", "--json") as messages,
    ):
        with (
            Phone(running, "first", user(1), "10.45.0.2") as first,
            Phone(running, "second", user(2), "10.45.0.3") as second,
        ):
            second.ok("register")
            first.ok("register")
            first.ok(f"message {number(2)} hello")
            text = until(everybody, "UE 10.45.0.2", "UE 10.45.0.3", "4 SAs installed", "══ MESSAGE ══ spi")
            assert text.splitlines()[0].split() == ["UE", "P-CSCF", "core"]
            text = until(one, "══ REGISTER ══ spi", "══ MESSAGE ══ spi", "first of our list that the UE offered")
            assert text.count("── REGISTER ── clear") == 1, "the other UE is not shown"
            text = until(messages, '"MESSAGE"', "200 OK")
            assert "REGISTER" not in text and '"401 ' not in text
        running.kill("pcscf")
        until(everybody, "waiting for it to come back")
        running.started("again", "pcscf", "run", f"--config={CONFIG}", **running.settings)
        with Phone(running, "third", user(3), "10.45.0.4") as third:
            third.ok("register")
            until(everybody, "the P-CSCF was started anew", "UE 10.45.0.4")
