"""50 calls a second for a minute, with SIPp as the far side of them all: nothing fails, and nothing is left.

Half of the calls come from SIPp to the UEs, half go from the UEs to SIPp, which stands in Service-Route.
"""

import asyncio
import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from pcscf.admin.views import Status
from pcscf.lab.control import tell
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.uri import parse_uri
from tests.interop.crowd import Told, started
from tests.interop.plant import REALM, Plant, plant
from tests.interop.test_many import PAIRS, subscribers, ue

HERE = Path(__file__).parent
UES = 24
RATE = 25.0
"""Calls a second each way."""
MESSAGES = 5.0
SECONDS = float(os.environ.get("PCSCF_TEST_LOAD_SECONDS", "60"))
T1 = 0.5
"""Of the P-CSCF on Gm, in seconds: so that the longest timer is 32 s and not 128."""
GRACE = 5.0
"""Seconds that timers may be late: the machine is busy."""
FAR = f"sip:far@{REALM}"
SLACK = 6_000_000
"""Octets by which memory may grow in the second load; it is three times that if nothing of the first is given back."""
TCP = UES // 2
HELD = (UES, UES, 4 * UES, 2 * TCP)
"""Registrations, sets, SAs; connections: a UE over TCP keeps the one in clear and the protected one."""


def status(running: Plant) -> Status:
    return asyncio.run(running.client.status())


def resident(pid: int) -> int:
    """Resident memory of a process in octets."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def problems(running: Plant) -> list[str]:
    """All the proxy did not like: its log has them all, the journal only the last."""
    return [line for line in running.log("pcscf").splitlines() if " WARNING " in line or "Traceback" in line]


class Sipp:
    """One SIPp on the host of the core; its scenario is sipp_WHAT.xml, what it writes WHAT-NAME.*."""

    def __init__(self, running: Plant, what: str, name: str, *arguments: str) -> None:
        self._running = running
        self._name = f"{what}-{name}"
        scenario, statistics = HERE / f"sipp_{what}.xml", running.folder / f"{self._name}.csv"
        command = ("sipp", "10.46.0.1:5060", "-sf", str(scenario), "-i", "10.46.0.2", "-nostdin", "-t", "u1")
        traces = ("-trace_err", "-error_file", str(running.folder / f"{self._name}.errors"))
        figures = ("-trace_stat", "-stf", str(statistics), "-fd", "1")
        with (running.folder / f"{self._name}.log").open("wb") as log:
            self._process = Popen(
                running.network.command("core", *command, *traces, *figures, *arguments), stdout=log, stderr=log
            )

    def wait(self, within: float) -> None:
        self._process.wait(timeout=within)

    def stop(self) -> None:
        """Let it end when its calls have ended; at once the second time."""
        for _ in range(2):
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGUSR1)
                time.sleep(1)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def errors(self) -> str:
        path = self._running.folder / f"{self._name}.errors"
        return path.read_text(errors="replace")[:3000] if path.exists() else ""

    @property
    def figures(self) -> dict[str, int]:
        """Calls that were successful, calls that failed, and what was sent again."""
        with (self._running.folder / f"{self._name}.csv").open() as file:
            last = list(csv.DictReader(file, delimiter=";"))[-1]
        names = {"good": "SuccessfulCall(C)", "failed": "FailedCall(C)", "again": "Retransmissions(C)"}
        return {ours: int(last[theirs]) for ours, theirs in names.items()}


def callees(running: Plant) -> Path:
    """Where the core finds each UE, as SIPp's scenario reads it."""
    lines = ["SEQUENTIAL"]
    for each in json.loads(tell(running.folder / "core.sock", "registered")):
        impi, contact, path = each["impi"], parse_name_addr(each["contact"]).uri, each["path"][0]
        assert path.startswith("<") and path.endswith(";lr>"), path
        identity = f"sip:+1555{int(impi[5:15]):07}@{REALM}"
        transport = parse_uri(contact).param("transport") or "udp"
        lines.append(f"{identity};{contact.partition(';')[0]};{transport};{path[1:-4]}")
    file = running.folder / "callees.csv"
    file.write_text("\n".join([*lines, ""]))
    return file


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plant]:
    assert shutil.which("sipp"), "install sip-tester"
    core = [f"--control={tmp_path / 'core.sock'}", "--service-route=sip:orig@10.46.0.2:5080;lr"]
    with plant(tmp_path, core=core, subscribers=subscribers(tmp_path, UES), PCSCF_GM__T1=str(T1)) as made:
        yield made


def members(count: int) -> list[dict[str, Any]]:
    """UEs of every pair, half of them over TCP, on three addresses."""
    addresses = ("10.45.0.2", "10.45.0.3", "10.45.0.4")
    return [
        ue(number, PAIRS[number % len(PAIRS)], tcp=number < TCP, address=addresses[number % 3])
        for number in range(count)
    ]


def until(running: Plant, holds: Callable[[Status], bool], within: float) -> Status:
    """Ask until it holds, at most so many seconds; what was true last."""
    end = time.monotonic() + within
    while not holds(now := status(running)) and time.monotonic() < end:
        time.sleep(0.5)
    return now


def is_over(now: Status) -> bool:
    """Whether no transaction is left."""
    return not now.transactions and not now.passages


def test_fifty_calls_a_second(running: Plant) -> None:
    with started(running, "load", "load") as ues:
        ues.tell(
            {"subscribers": str(running.folder / "subscribers.toml"), "ues": members(UES), "large_over_tcp": False}
        )
        assert ues.answer() == []
        before = status(running)
        assert quiet(before) == HELD
        memory = [resident(before.pid)]
        load(running, ues, SECONDS, "first")
        after = status(running)
        assert after.dialogs == 0 and quiet(after) == HELD, after
        memory.append(resident(before.pid))
        left = until(running, is_over, 64 * T1 + GRACE)
        assert (left.transactions, left.passages, left.dialogs) == (0, 0, 0) and quiet(left) == HELD, left
        memory.append(resident(before.pid))
        load(running, ues, SECONDS / 6, "second")
        memory.append(resident(before.pid))
        print(f"memory before, after, after the timers, after some more: {memory}")
        assert memory[3] - memory[2] < SLACK, f"what has ended gave nothing back: {memory}"
    assert not problems(running), problems(running)[:5]


def quiet(now: Status) -> tuple[int, int, int, int]:
    """What must be the same before, meanwhile and afterwards."""
    return now.registered, now.sets, now.sas, now.connections


def load(running: Plant, ues: Told, seconds: float, name: str) -> None:
    """Calls and messages both ways for some seconds, and not one of them may fail."""
    calls, messages = round(RATE * seconds), round(MESSAGES * seconds)
    rates = ("-r", f"{RATE:g}", "-m", str(calls), "-l", "2000")
    answering = Sipp(running, "answering", name, "-p", "5080")
    calling = Sipp(running, "calling", name, "-p", "5070", "-inf", str(callees(running)), *rates)
    try:
        ues.tell({"to": FAR, "calls": RATE, "messages": MESSAGES, "seconds": seconds})
        most = watch(running, seconds)
        said = ues.answer()
        calling.wait(within=40)
    finally:
        calling.stop()
        answering.stop()
    print(f"SIPp calling {calling.figures}, answering {answering.figures}; UEs {said['counts']}; {most}")
    assert said["failures"] == [] and said["complaints"] == {}, said
    assert (said["counts"]["calls"], said["counts"]["messages"]) == (calls, messages), said
    assert (calling.figures["good"], calling.figures["failed"]) == (calls, 0), calling.errors
    assert said["counts"]["calls answered"] == calls, said
    assert (answering.figures["good"], answering.figures["failed"]) == (calls + messages, 0), answering.errors


def watch(running: Plant, seconds: float) -> str:
    """Sees to it that every UE keeps its SAs and connections all the time; what was under way in the fullest moment."""
    end = time.monotonic() + seconds
    most = status(running)
    while time.monotonic() < end:
        now = status(running)
        assert quiet(now) == HELD, now
        most = max(most, now, key=lambda each: each.transactions)
        time.sleep(1)
    return f"at most {most.transactions} transactions, {most.passages} passages, {most.dialogs} dialogs"
