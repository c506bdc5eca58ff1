"""A P-CSCF and a core as processes in the namespaces of the lab, for tests that bring their own UE.

Everything is started as a user would: the command `pcscf`, configuration by file and environment.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pcscf.admin.client import ControlClient
from pcscf.admin.views import SaRow
from pcscf.lab.network import Network
from pcscf.observe import Record

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "pcscf.toml"
SUBSCRIBERS = ROOT / "config" / "subscribers.toml"
REALM = "ims.mnc001.mcc001.3gppnetwork.org"
START_WITHIN = 30.0


class Plant:
    """The running processes; `folder` holds their logs, the control socket and the state."""

    def __init__(self, network: Network, folder: Path, subscribers: Path = SUBSCRIBERS, **settings: str) -> None:
        """`settings`: of the P-CSCF, as environment."""
        self.subscribers = subscribers
        self.settings: dict[str, str] = {"PCSCF_CONTROL": str(folder / "control.sock"), **settings}
        self.network = network
        self.folder = folder
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, host: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `pcscf ARGUMENTS` on a host; standard error goes to NAME.log."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.network.command(host, sys.executable, "-m", "pcscf", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PCSCF_STATE": str(self.folder / "state"), **environment},
            )
        self._processes.append((name, process))
        return process

    def started(self, name: str, host: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start it and wait until it says `ready`."""
        process = self.start(name, host, *arguments, **environment)
        end = time.monotonic() + START_WITHIN
        while not any(line.endswith((" ready", '"ready"}')) for line in self.log(name).splitlines()):
            assert process.poll() is None and time.monotonic() < end, f"{name} did not start: {self.log(name)}"
            time.sleep(0.05)
        return process

    def kill(self, name: str) -> None:
        """SIGKILL: it has no chance to tidy up. `nsenter` has become the command, so this is its own process."""
        process = next(process for known, process in self._processes if known == name)
        process.kill()
        process.wait()

    def end(self, name: str) -> None:
        """SIGTERM, and wait."""
        process = next(process for known, process in self._processes if known == name)
        process.terminate()
        assert process.wait(timeout=20) == 0, self.log(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def execute(self, host: str, *command: str, timeout: float = 60, check: bool = True) -> str:
        """Run a command on a host and give what it says."""
        done = subprocess.run(
            self.network.command(host, *command), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def token(self, scope: str = "admin") -> str:
        """Of the API."""
        return (self.folder / "state" / f"{scope}.token").read_text().strip()

    @property
    def client(self) -> ControlClient:
        return ControlClient(self.folder / "control.sock")

    def sas(self) -> list[SaRow]:
        return asyncio.run(self.client.sas())

    def journal(self) -> list[Record]:
        return [row.decoded() for row in asyncio.run(self.client.journal())]

    def stop(self) -> None:
        for _, process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def plant(
    folder: Path,
    *,
    core: Sequence[str] = (),
    subscribers: Path = SUBSCRIBERS,
    network: Network | None = None,
    **settings: str,
) -> Iterator[Plant]:
    """Namespaces, core and P-CSCF, ready; all gone afterwards. `core` are more arguments of `pcscf scscf`."""
    with network or Network(f"pcscf-test-{os.getpid()}") as made:
        running = Plant(made, folder, subscribers, **settings)
        try:
            running.started("core", "core", "scscf", "--address=10.46.0.2", f"--subscribers={subscribers}", *core)
            running.started("pcscf", "pcscf", "run", f"--config={CONFIG}", **running.settings)
            yield running
        finally:
            running.stop()
