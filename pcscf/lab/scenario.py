"""`pcscf lab`: three phones register over ESP through a real P-CSCF to the lab's core, and the wire is the witness.

Every part is the command an operator would run, in a namespace of its own: `pcscf run`, `pcscf scscf`, `pcscf ue`.
Verified are the counters of the P-CSCF's SAs against the packets captured on Gm.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcscf import ladder
from pcscf.admin.control import ControlClient
from pcscf.admin.views import SaRow, Status
from pcscf.lab.capture import Capture
from pcscf.lab.network import Network, NetworkError
from pcscf.lab.subscribers import Subscriber
from pcscf.observe import MessageSeen, Record
from pcscf.vocabulary import Interface
from xfrm.backend import BackendName
from xfrm.model import IPAddress, PortRange, SaId

START_WITHIN = 20.0
REGISTER_WITHIN = 30.0
SETTLE_WITHIN = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """One UE of the scenario. `offers` in its order."""

    number: int
    subscriber: Subscriber
    address: IPAddress
    pcscf: IPAddress
    transport: str
    offers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified, or was found not to hold."""

    text: str
    holds: bool


@dataclass(slots=True, kw_only=True)
class Report:
    """What the scenario showed."""

    status: Status
    capture: Path
    phones: list[Phone]
    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)
    sas: dict[int, list[SaRow]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return bool(self.checks) and all(check.holds for check in self.checks)

    def ladder(self, phone: Phone) -> list[str]:
        return ladder.lines(ladder.of_ue(self.records, phone.address))

    def to_json(self) -> dict[str, Any]:
        return {
            "good": self.good,
            "backend": self.status.backend,
            "backend_reason": self.status.reason,
            "capture": str(self.capture),
            "checks": [{"text": check.text, "holds": check.holds} for check in self.checks],
            "ues": [
                {
                    "number": phone.number,
                    "impi": phone.subscriber.impi,
                    "transport": phone.transport,
                    "address": str(phone.address),
                    "outcome": self.outcomes[phone.number],
                    "sas": [row.model_dump(mode="json") for row in self.sas[phone.number]],
                    "ladder": self.ladder(phone),
                }
                for phone in self.phones
            ],
        }


class _Process:
    """One `pcscf` command on a host of the lab; standard error goes to a log file."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def start(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
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

    async def result(self) -> dict[str, Any]:
        """The JSON line it writes. Raises NetworkError if it writes none in time."""
        assert self._process is not None and self._process.stdout is not None
        try:
            async with asyncio.timeout(REGISTER_WITHIN):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise NetworkError(f"{self.name} had no result after {REGISTER_WITHIN:.0f} s; see {self._log}") from None
        if not line:
            raise NetworkError(f"{self.name} ended without a result: {self.last_words()}")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What to run. `ports` are the protected ports of the P-CSCF; `tell` hears what goes on."""

    config: Path
    subscribers: Path
    output: Path
    backend: BackendName
    phones: tuple[Phone, ...]
    ports: tuple[PortRange, ...]
    core: tuple[IPAddress, int]
    tell: Callable[[str], None]

    async def run(self, network: Network) -> Report:
        """Run it to the end. Raises NetworkError for what cannot even be tried."""
        self.output.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pcscf-lab-")))
            control = folder / "control.sock"
            capture = Capture(network, "pcscf", "gm")
            capture.start()
            stack.callback(capture.stop)
            self.tell("starting core and P-CSCF")
            core = self._process(stack, "core")
            pcscf = self._process(stack, "pcscf")
            address, port = self.core
            await core.start(
                self._command(
                    network,
                    "core",
                    "scscf",
                    f"--address={address}",
                    f"--port={port}",
                    f"--subscribers={self.subscribers}",
                ),
                {},
            )
            await pcscf.start(
                self._command(network, "pcscf", "run", f"--config={self.config}"),
                {"PCSCF_CONTROL": str(control), "PCSCF_IPSEC__BACKEND": self.backend},
            )
            await asyncio.gather(core.ready(), pcscf.ready())
            client = ControlClient(control)
            report = Report(status=await client.status(), capture=self.output / "gm.pcapng", phones=list(self.phones))
            for phone in self.phones:
                self.tell(f"UE {phone.number} registers")
                ue = self._process(stack, f"ue{phone.number}")
                await ue.start(self._command(network, "ue", *self._ue_arguments(phone)), {})
                report.outcomes[phone.number] = await ue.result()
            self.tell("verifying")
            rows, esp, clear = await self._settled(client, capture)
            for phone in self.phones:
                report.sas[phone.number] = [row for row in rows if row.impi == phone.subscriber.impi]
            report.records = [row.decoded() for row in await client.journal()]
            capture.write(report.capture)
            report.checks = list(verify(report, rows, esp, clear))
        return report

    def _process(self, stack: AsyncExitStack, name: str) -> _Process:
        process = _Process(name, self.output / f"{name}.log")
        stack.push_async_callback(process.stop)
        return process

    def _command(self, network: Network, host: str, *arguments: str) -> tuple[str, ...]:
        return network.command(host, sys.executable, "-m", "pcscf", *arguments)

    def _ue_arguments(self, phone: Phone) -> list[str]:
        return [
            "ue",
            "register",
            f"--subscribers={self.subscribers}",
            f"--impi={phone.subscriber.impi}",
            f"--address={phone.address}",
            f"--pcscf={phone.pcscf}",
            f"--backend={self.backend}",
            *(["--tcp"] if phone.transport == "TCP" else []),
            *(f"--offer={offer}" for offer in phone.offers),
            "--stay",
            "--json",
        ]

    async def _settled(self, client: ControlClient, capture: Capture) -> tuple[list[SaRow], Counter[SaId], list[str]]:
        """Counters and capture of one moment: asked again while packets are still on their way between the two."""
        protected = {phone.pcscf: frozenset(port for ports in self.ports for port in ports) for phone in self.phones}
        loop = asyncio.get_running_loop()
        end = loop.time() + SETTLE_WITHIN
        while True:
            rows = await client.sas()
            await asyncio.sleep(0.2)
            again = await client.sas()
            esp, clear = capture.count(protected)
            counted = {SaId(row.destination, row.spi): row.packets for row in again if row.packets}
            still = [row.packets for row in rows] == [row.packets for row in again]
            if (still and counted == dict(esp)) or loop.time() > end:
                return again, esp, clear


def verify(report: Report, rows: list[SaRow], esp: Counter[SaId], clear: list[str]) -> list[Check]:
    """Hold the UEs' words, the P-CSCF's counters and the capture against each other."""
    checks: list[Check] = []
    for phone in report.phones:
        checks += _verify_phone(phone, report, esp)
    known = {SaId(row.destination, row.spi) for row in rows}
    strangers = sorted(str(sa_id.spi) for sa_id in esp.keys() - known)
    expected = 4 * len(report.phones)
    checks += [
        Check(f"{len(rows)} SAs in the P-CSCF, {expected} expected", len(rows) == expected),
        Check(f"ESP of unknown SPIs in the capture: {', '.join(strangers) or 'none'}", not strangers),
        Check(f"packets in clear at protected ports in the capture: {'; '.join(clear[:5]) or 'none'}", not clear),
    ]
    return checks


def _verify_phone(phone: Phone, report: Report, esp: Counter[SaId]) -> list[Check]:
    name = f"UE {phone.number}"
    outcome, rows = report.outcomes[phone.number], report.sas[phone.number]
    complaints = outcome.get("complaints") or []
    registered = outcome.get("registered") is True and outcome.get("status") == 200
    checks = [
        Check(f"{name}: {'registered' if registered else outcome.get('reason')}", registered),
        Check(f"{name}: what a strict handset would not take: {'; '.join(complaints) or 'nothing'}", not complaints),
        Check(
            f"{name}: four active SAs with the algorithms of its first offer",
            len(rows) == 4
            and all(row.state == "active" and f"{row.integrity}/{row.encryption}" == phone.offers[0] for row in rows),
        ),
        Check(
            f"{name}: nothing dropped by its SAs", not any(row.replay_drops or row.integrity_failures for row in rows)
        ),
    ]
    for row in rows:
        seen = esp[SaId(row.destination, row.spi)]
        checks.append(
            Check(f"{name}: SPI {row.spi} counted {row.packets} packets, the capture has {seen}", row.packets == seen)
        )
    # Digest A2: over UDP a UE sends on SA 1 and hears on SA 3, over a connection of its own it hears on SA 2.
    carried = [bool(row.packets) for row in rows]
    expected = [True, True, False, False] if phone.transport == "TCP" else [True, False, True, False]
    checks.append(Check(f"{name}: packets on the right ones of its SAs", carried == expected))
    spis = {row.spi for row in rows}
    rode = [
        record.summary
        for record in ladder.of_ue(report.records, phone.address)
        if isinstance(record, MessageSeen) and record.flow.interface is Interface.GM_PROTECTED and record.spi in spis
    ]
    checks.append(Check(f"{name}: inside ESP went {', '.join(rode) or 'nothing'}", rode == ["REGISTER", "200 OK"]))
    return checks
