"""UEs that live at random, one deed in twenty with a fault, over a network that loses: no bug, and nothing is left.

A minute of it. `make long` goes on until memory can be seen to stop growing, which takes more than two; by hand still
longer: PCSCF_TEST_SOAK_SECONDS=3600 pytest -s tests/interop/test_soak.py. The timers take one to five minutes more.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pcscf.admin.views import Status
from pcscf.lab.control import tell
from tests.interop.crowd import Told, started
from tests.interop.plant import REALM, Plant, plant
from tests.interop.test_load import is_over, problems, resident, status, until
from tests.interop.test_many import PAIRS, subscribers, ue

UES = int(os.environ.get("PCSCF_TEST_SOAK_UES", "300"))
SECONDS = float(os.environ.get("PCSCF_TEST_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("PCSCF_TEST_SOAK_SEED", "1"))
ACCIDENTS = 20
"""Of a thousand packets each way are lost, and as many come twice."""
SHARE_OF_ANSWERS = "0.05"
"""Of the core's that are lost, come twice, or come late."""
ADDRESSES = ("10.45.0.2", "10.45.0.3", "10.45.0.4", "fd00:45::2")
T1 = 0.5
"""Of Gm on both sides, in seconds: four times as much happens in a run as with the 2 seconds of the standard."""
LONGEST = 190 + 32 + 32 + 32
"""Seconds a transaction can last after the last message: timer C, CANCEL without an answer, lingering on both sides."""
MOST_FAILED = 0.05
"""Of all deeds, for one in twenty is done wrong."""
KEPT = 30_000
"""Octets a transaction may take: its messages, its passage, and those that have ended but wait for an alarm to pass."""
SLACK = 10_000_000
"""Octets by which memory may differ for no reason: the allocator gives back whole arenas only."""
TEMP_LIFETIME = 30
FILLED = 45.0
"""Seconds until nothing of the beginning is held any more: a challenge, 64*T1. (The few INVITEs of timer C are not.)"""


class Watch:
    """Looks at the P-CSCF while the UEs live: memory, and what it holds."""

    def __init__(self, running: Plant) -> None:
        self._running = running
        self.samples: list[tuple[int, Status]] = []

    def look(self) -> None:
        now = status(self._running)
        assert now.sas == 4 * now.sets, now
        self.samples.append((resident(now.pid), now))

    def check_memory(self) -> str:
        """What has ended is given back: memory is what the transactions under way explain, and stops growing.

        That it stops shows only in a run whose middle third begins when nothing of the beginning is held any more.
        There is no collecting of garbage from outside; the median of a third is after many of its collections.
        """
        third = len(self.samples) // 3
        start = self.samples[0][0]
        (was, held), (now, holds) = (
            (median(size for size, _ in part), median(each.transactions for _, each in part))
            for part in (self.samples[third : 2 * third], self.samples[2 * third :])
        )
        then = f"{was / 1e6:.1f} with {held:.0f} transactions, {now / 1e6:.1f} with {holds:.0f}"
        said = f"memory {start / 1e6:.1f} MB, {then}"
        assert now - start < SLACK + KEPT * holds, said
        if SECONDS / 3 > FILLED:
            assert now - was < SLACK + KEPT * max(0.0, holds - held), said
        return said


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plant]:
    core = [f"--control={tmp_path / 'core.sock'}", f"--unreliable={SHARE_OF_ANSWERS}"]
    with plant(
        tmp_path,
        core=core,
        subscribers=subscribers(tmp_path, UES),
        PCSCF_GM__T1=str(T1),
        PCSCF_IPSEC__TEMP_LIFETIME=str(TEMP_LIFETIME),
        PCSCF_LIMITS__CONNECTIONS_PER_SOURCE="1000",
        PCSCF_LIMITS__PENDING_PER_SOURCE="200",
    ) as made:
        bad_weather(made)
        yield made


def bad_weather(running: Plant) -> None:
    """Lose packets of Gm on their way in, on both sides of it, and double some of the ESP on its way out."""
    some = f"numgen random mod 1000 < {ACCIDENTS} counter"
    for host, interface in (("ue", "gm-ue"), ("pcscf", "gm")):
        lines = [
            "add table inet weather",
            "add chain inet weather input { type filter hook input priority -200; }",
            *(
                f'add rule inet weather input iifname "{interface}" {what} {some} drop'
                for what in ("meta l4proto 50", "udp sport 5060", "udp dport 5060")
            ),
            "add table ip weather",
            "add chain ip weather output { type filter hook output priority 200; }",
            f'add rule ip weather output meta l4proto 50 {some} dup to ip daddr device "{interface}"',
        ]
        running.execute(host, "nft", "\n".join(lines))


def accidents(running: Plant) -> dict[str, int]:
    """How many packets were lost and doubled; then the weather is good."""
    counts: Counter[str] = Counter()
    for host, (family, what) in product(("ue", "pcscf"), (("inet", "lost"), ("ip", "doubled"))):
        text = running.execute(host, "nft", "-j", "list", "table", family, "weather")
        for item in json.loads(text)["nftables"]:
            for expression in item.get("rule", {}).get("expr", ()):
                counts[what] += expression.get("counter", {}).get("packets", 0)
        running.execute(host, "nft", "delete", "table", family, "weather")
    return dict(counts)


def plan(running: Plant, numbers: range) -> dict[str, Any]:
    """Half of the UEs in each of two processes, on addresses of its own."""
    half = 2 if numbers.start else 0
    return {
        "subscribers": str(running.folder / "subscribers.toml"),
        "ues": [
            ue(number, PAIRS[number % len(PAIRS)], tcp=number % 3 == 0, address=ADDRESSES[half + number % 2])
            for number in numbers
        ],
        "t1": T1,
        "patience": 40.0,
        "seed": SEED,
        "realm": REALM,
        "seconds": SECONDS,
    }


def test_soak(running: Plant) -> None:
    watch = Watch(running)
    halves = range(0, UES // 2), range(UES // 2, UES)
    with started(running, "soak", "soak1") as first, started(running, "soak", "soak2") as second:
        crowds = (first, second)
        for each, half in zip(crowds, halves, strict=True):
            each.tell(plan(running, half))
        assert [each.answer() for each in crowds] == [UES // 2] * 2
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            watch.look()
            time.sleep(1)
        lived = total(crowds)
        replayed = sum(row.replay_drops for row in running.sas())
        happened = accidents(running)
        print(json.dumps(lived, indent=1), happened, f"{replayed} replays dropped by the SAs there are now")
        check_that_they_lived(lived["counts"])
        assert happened["lost"] and happened["doubled"] and replayed
        agreement(running)
        for each in crowds:
            each.tell("leave")
        gone = total(crowds)
        begun = time.monotonic()
        agreement(running)
        print(watch.check_memory(), status(running))
        assert gone["failures"] == [] and gone["counts"]["left"] == UES, gone
        left = until(running, is_over, LONGEST)
        print(f"{time.monotonic() - begun:.0f} s later: {left}")
        assert (left.transactions, left.passages, left.dialogs) == (0, 0, 0), left
        agreement(running)
        assert left.connections <= sum(each["tcp"] for half in halves for each in plan(running, half)["ues"]), left
    assert until(running, lambda now: not now.connections, 10).connections == 0
    bugs = [line for line in running.log("pcscf").splitlines() if "a bug in the proxy" in line or "Traceback" in line]
    print(Counter(line.partition(" WARNING ")[2][:60] for line in problems(running)).most_common(40))
    assert not bugs, running.log("pcscf")[running.log("pcscf").index(bugs[0]) :][:5000]
    assert all("Traceback" not in running.log(name) for name in ("core", "soak1", "soak2"))


def check_that_they_lived(counts: Counter[str]) -> None:
    """The soak proves nothing if most of it was refused."""
    assert counts["call 200"] > UES * SECONDS / 90, counts
    assert counts["message 200"] > UES * SECONDS / 90, counts
    deeds = {
        what: number
        for what, number in counts.items()
        if what not in ("messages on the wire", "retransmissions of UEs")
    }
    failed = sum(number for what, number in deeds.items() if what.endswith(" failed"))
    assert failed < MOST_FAILED * sum(deeds.values()), counts


def total(crowds: tuple[Told, ...]) -> dict[str, Any]:
    """What the crowds report, together."""
    counts: Counter[str] = Counter()
    complaints: Counter[str] = Counter()
    failures: list[str] = []
    for each in crowds:
        said = each.answer()
        counts.update(said["counts"])
        complaints.update(said["complaints"])
        failures += said["failures"]
    return {
        "counts": Counter(dict(sorted(counts.items()))),
        "failures": failures,
        "complaints": dict(complaints.most_common(60)),
    }


def agreement(running: Plant) -> None:
    """What the proxy believes, what the backend holds and what the core knows are the same.

    They are asked one after the other, and a set may end in between: then again.
    """
    for _ in range(5):
        told = disagreements(running)
        if not told:
            return
    raise AssertionError(told)


def disagreements(running: Plant) -> list[str]:
    registrations = asyncio.run(running.client.registrations())
    rows, now = running.sas(), status(running)
    of_the_backend = Counter(row.set_id for row in rows)
    believed = {number: 4 for each in registrations for number in each.sets}
    ours = {each.impi for each in registrations if each.registered}
    theirs = {each["impi"] for each in json.loads(tell(running.folder / "core.sock", "registered"))}
    states = running.execute("pcscf", "ip", "xfrm", "state", "count") if now.backend == "kernel" else f" {now.sas}\n"
    checks = {
        f"sets of the proxy {believed}, of the backend {of_the_backend}": believed == of_the_backend,
        f"{len(rows)} SAs of sets, {now.sas} SAs, {now.sets} sets": len(rows) == now.sas == 4 * now.sets,
        f"{now.sas} SAs, but {states}": f" {now.sas}" in states,
        f"registered here, not at the core: {ours - theirs}; there, not here: {theirs - ours}": ours == theirs,
    }
    return [text for text, holds in checks.items() if not holds]
