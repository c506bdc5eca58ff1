"""`python -m tests.interop.kills FOLDER TIMES KERNEL`: a proxy that is killed at random points, with one store.

Each life is a process of its own: it adopts what the one before left, then registers, re-authenticates and deregisters
until SIGKILL. KERNEL is one of the ESP backends, or `fake`: one that outlives them in a file, with the semantics of the
real: a batch is all or nothing, what nobody adopts is removed when the ports are taken. After each life the store, the
live sets and the SAs are held against each other. Prints one JSON line.
"""

import json
import os
import pickle
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcscf.lab.network import Network
from pcscf.proxy import Proxy
from pcscf.restart import Restart
from pcscf.store import Store
from pcscf.vocabulary import Action, Event
from tests.fake_kernel import FakeKernel
from tests.interop.plant import Plant
from tests.unit.core.world import CORE, GM, PORTS_PC, PORTS_PS, Phone, World, answer, offer, settings
from xfrm.backend import Backend
from xfrm.kept import Kept
from xfrm.kernel import Kernel
from xfrm.model import IPAddress, PortRange, Sa, SaId, SaRecord
from xfrm.userspace import Userspace

PHONES = 12
MOST_TOLD = 7
"""What phones hear of a life before its last moments begin."""
PATIENCE = 10.0
LONGEST_LIFE = {"fake": 0.030, "kernel": 1.000, "userspace": 0.250}
"""Seconds; a life may also end before it has done anything."""


@dataclass
class LastingKernel(FakeKernel):
    """Every change is one write to a file that the next process reads. What a killed one began to write never was."""

    path: Path = Path()
    adopted: set[SaId] = field(default_factory=set)

    def __post_init__(self) -> None:
        with self.path.open("a+b") as file:
            file.seek(0)
            while True:
                try:
                    added, removed = pickle.load(file)
                except (EOFError, pickle.UnpicklingError):
                    break
                for sa in added:
                    self.sas[sa.id], self.lifetimes[sa.id] = sa, sa.lifetime
                for each in removed:
                    self.sas.pop(each, None)
                    self.lifetimes.pop(each, None)
        whole = self.path.with_suffix(".new")
        whole.write_bytes(pickle.dumps((list(self.sas.values()), [])))
        whole.replace(self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _write(self, added: Sequence[Sa], removed: Sequence[SaId]) -> None:
        os.write(self._file, pickle.dumps((list(added), list(removed))))

    def adopt(self, ids: Sequence[SaId]) -> dict[SaId, float]:
        found = super().adopt(ids)
        self.adopted.update(found)
        return found

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        orphans = [each for each in self.sas if each not in self.adopted]
        self.remove(orphans)

    def install(self, sas: Sequence[Sa]) -> None:
        super().install(sas)
        self._write(sas, [])

    def remove(self, ids: Sequence[SaId]) -> None:
        super().remove(ids)
        self._write([], ids)

    def end(self) -> None:
        os.close(self._file)


@dataclass
class RealKernel(FakeKernel):
    """A backend of ours, read back after each change."""

    real: Backend = field(kw_only=True)

    def _look(self) -> None:
        self.sas = {each.sa.id: each.sa for each in self.real.records()}

    def adopt(self, ids: Sequence[SaId]) -> dict[SaId, float]:
        found = self.real.adopt(ids)
        self._look()
        return found

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        self.real.protect(address, ports)

    def install(self, sas: Sequence[Sa]) -> None:
        self.real.install(sas)
        self._look()

    def update(self, ids: Sequence[SaId], lifetime: int) -> None:
        self.real.update(ids, lifetime)

    def remove(self, ids: Sequence[SaId]) -> None:
        self.real.remove(ids)
        self._look()

    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]:
        return self.real.records(ids)

    def count(self) -> int:
        """Of the whole namespace, whosever they are."""
        return self.real.count()

    def end(self) -> None:
        self.real.leave()


def lasting(folder: Path, kernel: str) -> LastingKernel | RealKernel:
    if kernel == "fake":
        return LastingKernel(path=folder / "kernel")
    return RealKernel(real=Kernel() if kernel == "kernel" else Userspace(Kept(folder / "esp-sas")))


class Life(World):
    """A world whose registrations and SAs outlive it."""

    def __init__(self, folder: Path, kernel: str) -> None:
        super().__init__()
        self.kernel = self.lasting = lasting(folder, kernel)
        self.proxy = Proxy(settings(), random_octets=os.urandom)
        self.store = Store(folder)
        self.restart = Restart(self.store, self.proxy)
        self.adopted = self.restart.adopt(self.kernel, self.now)
        self.kernel.protect(GM, (PORTS_PS, PORTS_PC))
        self.told = os.open(folder / "told", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        # SIGKILL can end a write at the edge of a page; half a line was told to nobody.
        os.ftruncate(self.told, os.pread(self.told, os.fstat(self.told).st_size, 0).rfind(b"\n") + 1)
        decide = self.proxy.handle

        def handle(event: Event, now: float) -> list[Action]:
            actions = decide(event, now)
            self.restart.save(now)
            return actions

        self.proxy.handle = handle  # type: ignore[method-assign]

    def _check_what_survives(self) -> None:
        pass  # that is what all of this is about

    def end(self) -> None:
        self.store.close()
        self.lasting.end()
        os.close(self.told)

    def tell(self, user: str, what: str) -> None:
        """What a phone knows now: `unsure` while something is under way, `gone`, or the Security-Server of its set."""
        os.write(self.told, f"{user} {what}\n".encode())

    def act(self, dice: random.Random) -> None:
        """One phone does something."""
        number = dice.randrange(PHONES)
        base = dice.randrange(1 << 20)
        phone = Phone(
            self, f"10.45.1.{number}", user=f"00101{number:010}@home",
            offer=offer("hmac-sha-1-96/aes-cbc", spi=5000 + 8 * base, port=20000 + 2 * dice.randrange(20000)),
            call_id=f"c{base}",
        )  # fmt: skip
        self.tell(phone.user, "unsure")
        phone.registered()
        self.tell(phone.user, phone.security_server)
        for step in range(dice.randrange(3)):
            port = 20000 + 2 * dice.randrange(20000)
            self.tell(phone.user, "unsure")
            phone = phone.reauthenticated(spi=5000 + 8 * base + 2 * step + 2, port=port)
            self.tell(phone.user, phone.security_server)
        if dice.random() < 0.4:
            after = phone.again()
            self.tell(phone.user, "unsure")
            self.receive(phone.reregister(after, expires=0), phone.uplink)
            self.receive(answer(self.at_core(), "200 OK"), CORE)
            self.sent.clear()
            self.tell(phone.user, "gone")


def live(folder: Path, seed: int, kernel: str) -> None:
    """Until killed."""
    life = Life(folder, kernel)
    dice = random.Random(seed)
    while True:
        life.act(dice)


def findings(folder: Path, kernel: str) -> tuple[list[str], dict[str, int]]:
    """What does not agree after a life, and what there is."""
    life = Life(folder, kernel)
    wrong = []
    sets = {sa_id for each in life.proxy.registrar for one in each.sets for sa_id in one.ids}
    there = {each.sa.id for each in life.kernel.records()}
    if sets != there or life.kernel.count() != len(sets):
        wrong.append(f"{len(sets)} SAs believed, {len(there)} ours, {life.kernel.count()} in the kernel")
    if life.adopted.lost or life.adopted.unreadable:
        wrong.append(life.adopted.text)
    life.end()
    again = Store(folder)
    stored = {json.loads(text)["token"] for text in again.take().registrations.values()}
    again.close()
    if stored != {each.path_token for each in life.proxy.registrar}:
        wrong.append("the store and the registrations differ")
    known = dict(line.split(" ", 1) for line in (folder / "told").read_text().splitlines() if " " in line)
    servers = {each.key.impi: {one.security_server for one in each.sets} for each in life.proxy.registrar}
    for user, what in known.items():
        if what == "gone" and user in servers:
            wrong.append(f"{user} has deregistered and is registered")
        elif what not in ("gone", "unsure") and what not in servers.get(user, ()):
            wrong.append(f"{user} was told of a set that is not there")
    return wrong, {"registrations": len(life.proxy.registrar), "sas": len(there)}


def heard(folder: Path) -> int:
    """How often a phone was told something."""
    return (folder / "told").read_bytes().count(b"\n")


def grown(folder: Path, before: int, times: int) -> None:
    """Wait until phones were told something so many times more; a machine that is busy needs longer for it."""
    end = time.monotonic() + PATIENCE
    with (folder / "told").open("rb") as told:
        seen = -before
        while seen < times and time.monotonic() < end:
            if new := told.read():
                seen += new.count(b"\n")
            else:
                time.sleep(0.0005)


def main(folder: Path, times: int, kernel: str) -> dict[str, Any]:
    """Kill and look, so many times."""
    dice = random.Random(1)
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    first, others = Life(folder, kernel), random.Random(times)  # a seed no life has
    for _ in range(PHONES):
        first.act(others)  # what is loaded only once, here and in the kernel, is not what is killed
    first.end()
    for number in range(times):
        before = heard(folder)
        child = os.fork()
        if not child:
            try:
                live(folder, number, kernel)
            except BaseException as error:
                print(f"life {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        grown(folder, before, dice.randrange(MOST_TOLD))
        time.sleep(dice.uniform(0, LONGEST_LIFE[kernel]))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            wrong.append(f"life {number} ended by itself")
        found, counts = findings(folder, kernel)
        wrong += [f"after life {number}: {each}" for each in found]
        seen.update(counts)
        seen["with SAs"] += counts["sas"] > 0
        seen["told"] += heard(folder) - before
    return {"times": times, "wrong": wrong, "mean": {name: round(count / times, 1) for name, count in seen.items()}}


def killed(folder: Path, times: int, kernel: str) -> None:
    """All of it, in namespaces of its own, as a test."""
    with Network(f"pcscf-kills-{os.getpid()}") as network:
        command = (sys.executable, "-m", "tests.interop.kills", str(folder), str(times), kernel)
        said = json.loads(Plant(network, folder).execute("pcscf", *command, timeout=600))
    assert said["wrong"] == [], said["wrong"][:5]
    assert said["times"] == times and said["mean"]["registrations"] > 3 and said["mean"]["told"] > 3, said
    print(kernel, said)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
