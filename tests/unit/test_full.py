"""Connections without end: who makes room, who stays, and what a process does that has no descriptors left."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest

from pcscf.connections import LOOKED_AT, LOOKS, SPARED, Budget, Connections, Crowds, Full
from pcscf.vocabulary import Flow, Interface
from tests.unit.test_transport import HERE, MESSAGE


@dataclass(eq=False)
class Link:
    """A connection as the table sees it."""

    flow: Flow
    heard: float = 0.0


PORTS = iter(range(1, 1_000_000))


def flow(source: str, interface: Interface = Interface.GM) -> Flow:
    return Flow("TCP", interface, HERE, 5060, ip_address(source), next(PORTS))


class Table:
    """The table under test, with connections that come as `transport` lets them."""

    def __init__(self, limit: int, per_source: int = 64) -> None:
        self.kept: set[Flow] = set()
        self.asked = 0
        self.table: Connections[Link] = Connections(limit, per_source, self._keeps)
        self.ended: list[Link] = []

    def _keeps(self, flow: Flow) -> bool:
        self.asked += 1
        return flow in self.kept

    def __contains__(self, link: Link | None) -> bool:
        return link is not None and link in self.table

    def come(
        self, source: str, now: float, interface: Interface = Interface.GM, *, speaks: bool = False
    ) -> Link | None:
        link = Link(flow(source, interface))
        room = self.table.room(link.flow, now)
        if room.ends is not None:
            self.table.discard(room.ends)
            self.ended.append(room.ends)
        elif room.full is not None:
            return None
        self.table.add(link, now)
        if speaks:
            self.table.hear(link, now)
        return link


def test_one_with_thousands_of_connections_keeps_nobody_out_and_ends_nobody_else() -> None:
    """Step 1, 6: at the limit the crowd makes room, the longest silent first."""
    it = Table(limit=200)
    phone = it.come("10.0.0.1", 0.0, speaks=True)
    for number in range(2000):
        assert it.come(f"10.9.0.{number % 4}", 1.0 + number) is not None
    other = it.come("10.0.0.2", 3000.0)
    assert phone in it and other in it and len(it.table) == 100, "half is for what is in clear"
    assert {str(each.flow.remote)[:5] for each in it.ended} == {"10.9."}
    assert [each.heard for each in it.ended] == sorted(each.heard for each in it.ended)


def test_a_network_of_ipv6_is_one_crowd() -> None:
    """Step 1, 6: one who has a /64 has more addresses than connections."""
    it = Table(limit=20)
    phone = it.come("fd00:1::1", 0.0)
    for number in range(100):
        it.come(f"fd00:9::{number:x}", 1.0 + number)
    assert phone in it and len(it.table) == 10


def test_a_newcomer_of_the_largest_crowd_displaces_its_own() -> None:
    """Step 1, 6: two that are equally many do not displace each other."""
    it = Table(limit=8)
    for number in range(4):
        it.come(f"10.0.0.{1 + number % 2}", float(number))
    for number in range(10):
        it.come("10.0.0.2", 10.0 + number)
    assert {str(each.flow.remote) for each in it.ended} == {"10.0.0.2"}


def test_registered_contacts_in_clear_stay() -> None:
    """Step 1, 6: neither their own source nor anybody else makes them end, and the search stays short."""
    it = Table(limit=200, per_source=100)
    contacts = [it.come("10.0.0.1", 0.0, speaks=True) for _ in range(60)]
    it.kept.update(each.flow for each in contacts if each is not None)
    strangers = [it.come(f"10.1.{number}.1", 1.0) for number in range(40)]
    before = it.asked
    for number in range(50):
        it.come(f"10.2.{number}.1", 2.0)
    assert all(each in it for each in contacts)
    assert it.asked - before <= 50 + 60 + LOOKS
    assert not any(each in it for each in strangers)
    few = Table(limit=200, per_source=3)
    mine = [few.come("10.0.0.1", 0.0, speaks=True) for _ in range(3)]
    few.kept.update(each.flow for each in mine if each is not None)
    assert few.come("10.0.0.1", 100.0) is None


def test_at_the_limit_of_a_source_its_silent_ones_make_room_and_those_that_wait_for_an_answer_do_not() -> None:
    """Step 1, 6: half-open or forgotten connections of a phone do not keep it out."""
    it = Table(limit=200, per_source=3)
    busy = it.come("10.0.0.1", 100.0, speaks=True)
    for number in range(20):
        assert it.come("10.0.0.1", 101.0 + number / 10) is not None
    assert busy in it
    it = Table(limit=200, per_source=3)
    old = [it.come("10.0.0.1", 100.0, speaks=True) for _ in range(3)]
    assert it.come("10.0.0.1", 100.0 + SPARED / 2) is None
    assert it.table.room(flow("10.0.0.1"), 100.0).full is Full.SOURCE
    assert it.come("10.0.0.1", 100.0 + SPARED) is not None
    assert it.ended == old[:1]


def test_what_is_in_clear_takes_nothing_from_esp_and_the_core() -> None:
    """Step 1, 6: each side has its share, and the two sides of a UE are counted apart."""
    it = Table(limit=64, per_source=10)
    for number in range(100):
        it.come("10.0.0.1", float(number))
        it.come(f"10.0.1.{number}", float(number))
    assert len(it.table) == 32
    for _ in range(10):
        assert it.come("10.0.0.1", 0.0, Interface.GM_PROTECTED) is not None, "whatever it has in clear"
    for number in range(14):
        assert it.come(f"10.5.0.{number}", 0.0, Interface.GM_PROTECTED) is not None
    assert len(it.table) == 56
    for number in range(16):
        core = f"10.6.0.{number}"
        assert (it.come(core, 0.0, Interface.MW) is not None) is (number < 16)
    assert it.come("10.6.0.99", 0.0, Interface.MW) is None, "the core has a quarter at most"
    assert len(it.table) == 64
    for number in range(20):
        assert it.come(f"10.7.0.{number}", 0.0, Interface.GM_PROTECTED) is not None, "it goes before what is in clear"
    assert all(each.flow.interface is Interface.GM for each in it.ended)


def test_a_phone_inside_esp_displaces_its_own_forgotten_connections() -> None:
    """Step 1, 6: 64 that a phone has forgotten do not keep the next one out."""
    it = Table(limit=200, per_source=3)
    links = [it.come("10.0.0.1", float(number), Interface.GM_PROTECTED) for number in range(3)]
    assert links[0] is not None
    it.table.hear(links[0], 20.0)
    assert it.come("10.0.0.1", 21.0, Interface.GM_PROTECTED) is not None
    assert it.ended == [links[1]]


def test_idle_ones_are_found_without_looking_at_the_others() -> None:
    """Step 1, 6: a look costs what there is to end, never what there is."""
    it = Table(limit=20_000, per_source=20_000)
    links = [it.come("10.0.0.1", float(number), speaks=True) for number in range(2000)]
    assert links[5] is not None and links[7] is not None
    it.kept.add(links[7].flow)
    it.table.hear(links[5], 2000.0)
    assert it.table.idle(110.0, 120.0) == [] and it.asked == 0
    assert it.table.idle(130.0, 120.0) == [each for at, each in enumerate(links[:11]) if at not in (5, 7)]
    assert it.asked == 10
    assert len(it.table.idle(5000.0, 120.0)) <= LOOKED_AT


def test_the_largest_crowd_is_known_at_every_step() -> None:
    crowds: Crowds[Link] = Crowds()
    links = {name: [Link(flow("10.0.0.1")) for _ in range(count)] for name, count in (("a", 3), ("b", 5), ("c", 1))}
    for name, those in links.items():
        for each in those:
            crowds.add(name, each)
    largest = [crowds.largest]
    for each in links["b"][:4]:
        crowds.discard("b", each)
    largest.append(crowds.largest)
    assert largest == ["b", "a"] and crowds.size("b") == 1
    for name in links:
        for each in links[name]:
            crowds.discard(name, each)
            crowds.discard(name, each)
    assert crowds.largest is None and len(crowds) == 0


def test_what_is_held_together_is_bounded_and_the_first_gives_way() -> None:
    """Step 1, 6: half messages of thousands of connections."""
    budget: Budget[Link] = Budget(100)
    first, second = Link(flow("10.0.0.1")), Link(flow("10.0.0.2"))
    assert budget.hold(first, 60) is None and budget.hold(second, 40) is None
    assert budget.hold(second, 41) is first
    assert budget.hold(first, 0) is None and budget.held == 41
    assert budget.hold(first, 59) is None and budget.hold(first, 60) is second


class Child:
    """The process of `tests.unit.listening`."""

    def __init__(self, *arguments: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.listening", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def report(self) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + 20
        while not condition(report := self.report()):
            assert time.monotonic() < end, report
            time.sleep(0.02)
        return report

    def load(self, seconds: float) -> float:
        """The share of a core that it uses."""
        before, begun = self.report()["cpu"], time.monotonic()
        time.sleep(seconds)
        return float(self.report()["cpu"] - before) / (time.monotonic() - begun)


@contextmanager
def child(*arguments: int) -> Iterator[Child]:
    made = Child(*arguments)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def connect(port: int, number: int) -> socket.socket:
    made = socket.socket()
    made.bind((f"127.0.7.{1 + number % 250}", 0))
    made.settimeout(10)
    made.connect((str(HERE), port))
    return made


def test_more_connections_than_descriptors() -> None:
    """Step 1, 6: 1,500 idle connections under 1,024 descriptors cost a line, no core, and keep nobody out."""
    with child(1024) as it, ExitStack() as stack:
        for number in range(1500):
            stack.enter_context(connect(it.port, number))
        report = it.until(lambda now: now["open"] == now["limit"] // 2)
        assert report["limit"] == 1024 - 256
        assert it.load(1.0) < 0.3
        for number in (3, 400):
            new = stack.enter_context(connect(it.port, number))
            new.sendall(MESSAGE)
            assert new.recv(100) == b"answer"
        assert len(it.report()["told"]) == 1
        it.process.kill()
        assert it.process.stderr is not None and it.process.stderr.read() == ""


def test_accepting_pauses_while_there_is_no_descriptor() -> None:
    """Step 1, 6: what the limit could not foresee is said once and costs no core, and it goes on afterwards."""
    with child(64, 10_000) as it, ExitStack() as stack:
        links = [stack.enter_context(connect(it.port, number)) for number in range(150)]
        it.until(lambda now: bool(now["told"]))
        assert it.load(1.5) < 0.3
        for each in links:
            each.close()
        new = stack.enter_context(connect(it.port, 7))
        new.sendall(MESSAGE)
        assert new.recv(100) == b"answer"
        (told,) = it.report()["told"]
        assert told.startswith("no TCP connections can be accepted: Too many open files")
        it.process.kill()
        assert it.process.stderr is not None and it.process.stderr.read() == ""


@pytest.mark.parametrize("count", [1500])
def test_slow_connections_do_not_keep_a_phone_out(count: int) -> None:
    """Step 1, 6: half a message each, and a phone registers as if nobody was there."""
    with child(1024) as it, ExitStack() as stack:
        for number in range(count):
            slow = stack.enter_context(connect(it.port, number))
            slow.sendall(MESSAGE[:30])
        phone = stack.enter_context(connect(it.port, 249))
        for piece in (MESSAGE[:50], MESSAGE[50:]):
            phone.sendall(piece)
        assert phone.recv(100) == b"answer"
