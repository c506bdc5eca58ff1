"""Many UEs of the lab in one process that do something together; `load` and `soak` say what.

One backend and one block of ports for all. A plan names the subscribers and, for each UE, who and where it is.
"""

import asyncio
import json
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, Literal

from pydantic import BaseModel

from pcscf.lab.gm import pump, release
from pcscf.lab.phone import UeSettings
from pcscf.lab.shared import Shared
from pcscf.lab.subscribers import load_subscribers
from pcscf.lab.ue import Ue
from pcscf.sip.transaction import GM_TIMERS, TimerProfile
from tests.interop.plant import Plant
from xfrm.algorithms import Pair
from xfrm.backend import open_backend
from xfrm.model import PortRange

ALL_PORTS = PortRange(first=20_480, count=4096)
PORTS_EACH = 8
CLEAR_PORT = 6500
MOST_FAILURES = 200
"""Whose words are kept."""


class Member(BaseModel):
    """One UE of a crowd."""

    impi: str
    address: str
    pcscf: str
    tcp: bool
    offer: str


class CrowdPlan(BaseModel):
    """A crowd: who belongs to it, and how they are."""

    backend: Literal["auto", "kernel", "userspace"] = "auto"
    subscribers: Path
    ues: list[Member]
    t1: float = GM_TIMERS.t1
    """Of their SIP timers; T2 and T4 in the ratio of the standard."""
    patience: float = GM_TIMERS.timeout
    large_over_tcp: bool = True
    seed: int = 1


@dataclass(slots=True)
class Crowd:
    """The UEs and what is counted of them."""

    ues: list[Ue]
    marks: list[tuple[int, int]]
    """How far the diary of each had come at the last report."""
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str, why: object) -> None:
        """Count a failure, and keep the first words of it for people."""
        self.counts[f"{what} failed"] += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(f"{what}: {why}")

    def report(self) -> dict[str, Any]:
        """What happened since the last report, what the UEs did not like, and what was sent again."""
        marks, self.marks = self.marks, [ue.diary.mark for ue in self.ues]
        seen = list(zip(self.ues, marks, strict=True))
        steps = [step for ue, mark in seen for step in ue.diary.steps(mark)]
        again = sum(step.again for step in steps if not step.incoming)
        said = {
            "counts": {**self.counts, "messages on the wire": len(steps), "retransmissions of UEs": again},
            "failures": list(self.failures),
            "complaints": Counter(each for ue, mark in seen for each in ue.diary.complaints(mark)),
        }
        self.counts.clear()
        self.failures.clear()
        return said


@asynccontextmanager
async def crowd(plan: CrowdPlan) -> AsyncIterator[Crowd]:
    """The UEs of a plan with their sockets open, not registered; closed without a word at the end."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    subscribers = load_subscribers(plan.subscribers)
    backend = Shared(open_backend(plan.backend).backend, ALL_PORTS)
    pump(backend)
    on_address: Counter[str] = Counter()
    ues: list[Ue] = []
    try:
        for number, wanted in enumerate(plan.ues):
            place = on_address[wanted.address]
            on_address[wanted.address] += 1
            settings = UeSettings(
                subscriber=subscribers[wanted.impi],
                address=ip_address(wanted.address),
                pcscf=ip_address(wanted.pcscf),
                tcp=wanted.tcp,
                port=CLEAR_PORT + place,
                ports=PortRange(first=ALL_PORTS.first + PORTS_EACH * place, count=PORTS_EACH),
                offers=(Pair.parse(wanted.offer),),
                timers=TimerProfile(t1=plan.t1, t2=8 * plan.t1, t4=8.5 * plan.t1),
                patience=plan.patience,
                large_over_tcp=plan.large_over_tcp,
                seed=plan.seed + number,
            )
            ues.append(Ue(settings, backend))
            await ues[-1].start()
        yield Crowd(ues, [ue.diary.mark for ue in ues])
    finally:
        await asyncio.gather(*(ue.close() for ue in ues))
        release(backend)


def say(answer: object) -> None:
    """One JSON line to whoever started us."""
    print(json.dumps(answer), flush=True)


async def told() -> str:
    """The next line from whoever started us, "" at the end."""
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


class Told:
    """A crowd's process as its test sees it: one JSON line each way."""

    def __init__(self, process: Popen[bytes], running: Plant, name: str) -> None:
        self._process = process
        self._running = running
        self._name = name
        self.pid = process.pid

    def tell(self, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._name} has ended: {self._running.log(self._name)}"
        return json.loads(line)


@contextmanager
def started(running: Plant, module: str, name: str) -> Iterator[Told]:
    """A module of this folder as a process on the host of the UEs; standard error goes to NAME.log."""
    with (running.folder / f"{name}.log").open("wb") as log:
        process = Popen(
            running.network.command("ue", sys.executable, "-m", f"tests.interop.{module}"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=log,
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Told(process, running, name)
    except BaseException:
        process.kill()  # it may be in the middle of something that takes long
        raise
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=60)
