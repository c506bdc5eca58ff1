"""`pcscf lab`: phones register, write, call and leave over ESP through a real P-CSCF, and the wire is the witness.

Every part is the command an operator would run, in a namespace of its own: `pcscf run`, `pcscf scscf`, `pcscf ue`.
What is verified, and how it is shown, is `report`.
"""

import asyncio
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pcscf.admin.client import ControlClient
from pcscf.admin.views import SaRow
from pcscf.lab.capture import Capture
from pcscf.lab.control import ControlError, tell
from pcscf.lab.network import Network, NetworkError
from pcscf.lab.process import Process
from pcscf.lab.report import Done, Moment, Phone, Report, verify
from pcscf.sip.uri import parse_uri
from xfrm.backend import BackendName
from xfrm.model import IPAddress, PortRange, SaId

SETTLE_WITHIN = 5.0
CORE = 0
OPTIONS = {"UDP": "--udp-only", "TCP": "--tcp"}


class Turn(NamedTuple):
    """What one UE is to do, or the core (0). `{2}` is the number of UE 2, `{user1}` the private identity of UE 1.

    `sets`: the states of all sets of that UE afterwards, the first made first; None for those it had.
    """

    who: int
    words: str
    sets: str | None = None
    counts: bool = False
    """Take counters and capture before this."""


STORY = (
    Turn(1, "register", "active"),
    Turn(2, "register", "active"),
    Turn(3, "register", "active"),
    Turn(1, "message {2} hello"),
    Turn(2, "expect-message hello"),
    Turn(2, "message {1} hello, too"),
    Turn(1, "expect-message hello, too"),
    Turn(2, "answer"),
    Turn(1, "call {2}"),
    Turn(2, "expect-call"),
    Turn(CORE, "rechallenge {user1}"),
    Turn(1, "reregister", "active new"),
    Turn(2, "message {1} still on your old set"),
    Turn(1, "expect-message still on your old set"),
    Turn(1, "message {2} from my new set", "old active"),
    Turn(2, "expect-message from my new set"),
    Turn(2, "hangup"),
    Turn(1, "expect-hangup"),
    Turn(1, "deregister", "closing closing", counts=True),
    Turn(2, "deregister", "closing"),
    Turn(3, "deregister", "closing"),
    Turn(1, "expect-complaints none"),
    Turn(2, "expect-complaints none"),
    Turn(3, "expect-complaints none"),
)
PAUSE = 5.0
"""Seconds between two tellings of the story."""
UNTITLED = ("expect-message", "expect-call", "expect-hangup", "expect-complaints", "answer")
"""Steps that cause no message of their own."""


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
    page: socket.socket | None = None
    """Where the P-CSCF is to serve its page; then the story is told again and again, until it is interrupted."""
    on_page: Callable[[str], None] = lambda token: None
    """Told the token of the page."""

    async def run(self, network: Network) -> Report:
        """Run it to the end, or to the first step that fails. Raises NetworkError for what cannot even be tried."""
        self.output.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pcscf-lab-")))
            capture = Capture(network, "pcscf", "gm")
            capture.start()
            stack.callback(capture.stop)
            self.tell("starting core, P-CSCF and UEs")
            ues = await self._start(stack, network, folder)
            client = ControlClient(folder / "control.sock")
            report = Report(status=await client.status(), capture=self.output / "gm.pcapng", phones=list(self.phones))
            try:
                await self._play(report, ues, client, capture, folder / "core.sock")
                while self.page is not None and not report.left_out:
                    self.tell("once more in a moment; Ctrl-C ends it")
                    await asyncio.sleep(PAUSE)
                    await self._play(report, ues, client, capture, folder / "core.sock")
                self.tell("verifying")
                report.ended = await self._moment(client, capture)
            finally:
                capture.write(report.capture)
            report.sip_in_clear = capture.in_clear()
            report.checks = verify(report)
        return report

    async def _start(self, stack: AsyncExitStack, network: Network, folder: Path) -> dict[int, Process]:
        """Start everything; the UEs wait for their first step. Raises NetworkError."""

        async def start(
            name: str, host: str, *arguments: str, given: socket.socket | None = None, **environment: str
        ) -> Process:
            process = Process(name, self.output / f"{name}.log")
            stack.push_async_callback(process.stop)
            await process.start(network.command(host, sys.executable, "-m", "pcscf", *arguments), environment, given)
            return process

        address, port = self.core
        subscribers = f"--subscribers={self.subscribers}"
        control = f"--control={folder / 'core.sock'}"
        core = await start("core", "core", "scscf", f"--address={address}", f"--port={port}", subscribers, control)
        pcscf = await start(
            "pcscf",
            "pcscf",
            "run",
            f"--config={self.config}",
            given=self.page,
            PCSCF_CONTROL=str(folder / "control.sock"),
            PCSCF_STATE=str(folder / "state"),
            PCSCF_IPSEC__BACKEND=self.backend,
        )
        ues = {
            phone.number: await start(f"ue{phone.number}", "ue", "ue", "-x", "-", subscribers, *self._arguments(phone))
            for phone in self.phones
        }
        await asyncio.gather(core.ready(), pcscf.ready())
        if self.page is not None:
            self.on_page((folder / "state" / "admin.token").read_text().strip())
        return ues

    def _arguments(self, phone: Phone) -> list[str]:
        return [
            f"--impi={phone.subscriber.impi}",
            f"--address={phone.address}",
            f"--pcscf={phone.pcscf}",
            f"--backend={self.backend}",
            OPTIONS[phone.transport],
            *(f"--offer={offer}" for offer in phone.offers),
        ]

    async def _play(
        self, report: Report, ues: dict[int, Process], client: ControlClient, capture: Capture, core: Path
    ) -> None:
        """Take one step after the other, and look at the SAs after each."""
        names = {f"user{phone.number}": phone.subscriber.impi for phone in self.phones}
        numbers = ["", *(_number(phone) for phone in self.phones)]
        expected = {phone.number: "" for phone in self.phones}
        for place, turn in enumerate(STORY):
            words = turn.words.format(*numbers, **names)
            if turn.counts:
                report.counted = await self._moment(client, capture)
            self.tell(_text(turn, words))
            at = asyncio.get_running_loop().time()
            if turn.who == CORE:
                said = await self._tell_core(core, words)
            else:
                said = await self._tell_ue(ues[turn.who], words)
                if turn.words == "register":
                    report.outcomes[turn.who] = said["details"].get("outcome", {})
            if turn.sets is not None:
                expected = {**expected, turn.who: turn.sets}
            rows = await client.sas()
            report.steps.append(
                Done(
                    text=_text(turn, words),
                    titled=words.partition(" ")[0] not in UNTITLED,
                    at=at,
                    ok=said["ok"],
                    status=said["status"],
                    reason=said["reason"],
                    seconds=said["seconds"],
                    sas=len(rows),
                    sets={phone.number: _states(phone, rows) for phone in self.phones},
                    expected=expected,
                )
            )
            if not said["ok"]:
                report.left_out = [_text(each, each.words.format(*numbers, **names)) for each in STORY[place + 1 :]]
                break

    async def _tell_ue(self, ue: Process, words: str) -> dict[str, Any]:
        """What it answers; its silence or end is a step that failed, so that the ladder is shown all the same."""
        try:
            return await ue.do(words)
        except NetworkError as error:
            return {"ok": False, "status": 0, "reason": str(error), "seconds": 0.0, "details": {}}

    async def _tell_core(self, core: Path, words: str) -> dict[str, Any]:
        said = {"ok": True, "status": 0, "reason": "", "seconds": 0.0}
        try:
            await asyncio.to_thread(tell, core, words)
        except ControlError as error:
            said |= {"ok": False, "reason": str(error)}
        return said

    async def _moment(self, client: ControlClient, capture: Capture) -> Moment:
        """Counters and capture of one moment: asked again while packets are still on their way between the two."""
        protected = {phone.pcscf: frozenset(port for ports in self.ports for port in ports) for phone in self.phones}
        loop = asyncio.get_running_loop()
        end = loop.time() + SETTLE_WITHIN
        rows = await client.sas()
        while True:
            await asyncio.sleep(0.1)
            before, rows = rows, await client.sas()
            esp, clear = capture.count(protected)
            counted = {SaId(row.destination, row.spi): row.packets for row in rows if row.packets}
            still = [row.packets for row in rows] == [row.packets for row in before]
            if (still and counted == dict(esp)) or loop.time() > end:
                records = [row.decoded() for row in await client.journal()]
                return Moment(sas=rows, esp=Counter(esp), clear=clear, records=records)


def _number(phone: Phone) -> str:
    """What to dial for it."""
    identity = phone.subscriber.impus[0]
    return parse_uri(identity).user or identity


def _text(turn: Turn, words: str) -> str:
    return f"core: {words}" if turn.who == CORE else f"UE {turn.who}: {words}"


def _states(phone: Phone, rows: list[SaRow]) -> str:
    """The states of its sets, in the order in which they were made."""
    sets = {row.set_id: row.state for row in rows if row.impi == phone.subscriber.impi}
    return " ".join(sets[set_id] for set_id in sorted(sets))
