"""Calls and messages of two phones through the P-CSCF on real ESP: at every step the SAs, their counters, the wire.

Which SA must carry what is the port table of TS 33.203 7.1 (digest A1, A2, F9).
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from pcscf.admin.views import SaRow
from pcscf.lab.capture import Capture
from pcscf.lab.control import tell
from pcscf.observe import MessageSeen
from pcscf.vocabulary import Interface
from tests.interop.phone import Phone, number, user
from tests.interop.plant import Plant, plant
from xfrm.model import SaId

PROTECTED = frozenset((5100, 5101, *range(5104, 5112)))
PCSCF = (ip_address("10.45.0.1"), ip_address("fd00:45::1"))
CALL = Counter(
    ["INVITE", "100 Trying", "183 Session Progress", "PRACK", "UPDATE", "180 Ringing", "PRACK", "ACK"] + ["200 OK"] * 4
)
"""What each side of a call with preconditions sees until it is established (digest F10)."""
SETTLE_WITHIN = 20.0


class Way(NamedTuple):
    """How both phones talk, and which of their SAs that must move."""

    option: str
    own: set[int]
    """By what a phone asks itself, and its answer."""
    asked: set[int]
    """By what the P-CSCF asks in a short request, and the phone's answer."""
    called: set[int]
    """Of a phone that gets a call: its INVITE is longer than 1300 octets."""


UDP = Way("--udp-only", {1, 3}, {1, 3}, {1, 3, 4})
TCP = Way("--tcp", {1, 2}, {1, 2}, {1, 2})
FAMILIES = {4: ("10.45.0.2", "10.45.0.3"), 6: ("fd00:45::2", "fd00:45::3")}


@dataclass(slots=True)
class Witness:
    """Looks at the P-CSCF and the wire between the steps of phones."""

    running: Plant
    capture: Capture
    counted: dict[SaId, int] = field(default_factory=dict)

    def settled(self) -> list[SaRow]:
        """The SAs when nothing is on its way any more: their counters stand still and the wire agrees with them."""
        end = time.monotonic() + SETTLE_WITHIN
        before: list[SaRow] = []
        while True:
            rows = self.running.sas()
            esp, _ = self.capture.count({})
            counters = {SaId(row.destination, row.spi): row.packets for row in rows if row.packets}
            if counters == {sa_id: seen for sa_id, seen in esp.items() if sa_id in counters} and _packets(
                rows
            ) == _packets(before):
                return rows
            assert time.monotonic() < end, (counters, esp)
            before = rows
            time.sleep(0.1)

    def moved(self) -> dict[tuple[str, str], set[int]]:
        """(user, state of the set) -> which of the four SAs have carried something since this was asked last."""
        rows = self.settled()
        moved: dict[tuple[str, str], set[int]] = {}
        for set_id in sorted({row.set_id for row in rows}):
            four = [row for row in rows if row.set_id == set_id]
            places = {
                place
                for place, row in enumerate(four, start=1)
                if row.packets > self.counted.get(SaId(row.destination, row.spi), 0)
            }
            if places:
                moved[four[0].impi, four[0].state] = places
        self.counted = {SaId(row.destination, row.spi): row.packets for row in rows}
        return moved

    def holds(self, *sets: tuple[str, str]) -> None:
        """There are exactly these sets, (user, state), of four SAs each, in the P-CSCF and in the kernel."""
        rows = self.running.sas()
        assert Counter((row.impi, row.state) for row in rows) == Counter(sets * 4)
        if " backend: kernel" in self.running.log("pcscf"):
            said = self.running.execute("pcscf", "ip", "xfrm", "state", "count")
            assert said.split()[-1] == str(4 * len(sets)), said

    def rode(self, address: str, since: float) -> list[MessageSeen]:
        """The messages of a phone inside ESP since then."""
        return [
            record
            for record in self.running.journal()
            if isinstance(record, MessageSeen)
            and record.flow.interface is Interface.GM_PROTECTED
            and record.flow.remote == ip_address(address)
            and record.at > since
        ]


def _packets(rows: list[SaRow]) -> list[int]:
    return [row.packets for row in rows]


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with plant(tmp_path, core=[f"--control={tmp_path / 'core.sock'}"]) as running:
        capture = Capture(running.network, "pcscf", "gm")
        capture.start()
        try:
            yield Witness(running, capture)
        finally:
            capture.stop()


def say(sender: Phone, to: Phone, which: int, text: str) -> None:
    """One phone writes to the other, who is subscriber `which`."""
    sender.ok(f"message {number(which)} {text}")
    assert to.ok(f"expect-message {text}")["details"]["message"]["text"] == text


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("way", [UDP, TCP], ids=["udp", "tcp"])
def test_a_life_of_two_phones(witness: Witness, way: Way, family: int) -> None:
    running = witness.running
    here, there = FAMILIES[family]
    a, b = user(1), user(2)
    with Phone(running, "alice", a, here, way.option) as alice, Phone(running, "bob", b, there, way.option) as bob:

        def in_use(moved: dict[tuple[str, str], set[int]]) -> dict[tuple[str, str], set[int]]:
            """Over TCP the end of the old set's connection may still be going on."""
            return {key: places for key, places in moved.items() if way is UDP or key != (a, "old")}

        alice.ok("register")
        witness.holds((a, "active"))
        bob.ok("register")
        witness.holds((a, "active"), (b, "active"))
        assert witness.moved() == {(a, "active"): way.own, (b, "active"): way.own}

        say(alice, bob, 2, "to-bob")
        assert witness.moved() == {(a, "active"): way.own, (b, "active"): way.asked}
        say(bob, alice, 1, "to-alice")
        assert witness.moved() == {(a, "active"): way.asked, (b, "active"): way.own}

        bob.ok("answer")
        begun = time.monotonic()
        call = alice.ok(f"call {number(2)}")["details"]["call"]
        assert call["state"] == "established" and call["preconditions"], call
        assert bob.ok("expect-call")["details"]["call"]["state"] == "established"
        assert witness.moved() == {(a, "active"): way.own, (b, "active"): way.called}
        for address in (here, there):
            assert Counter(record.summary for record in witness.rode(address, begun)) >= CALL
        witness.holds((a, "active"), (b, "active"))

        tell(running.folder / "core.sock", f"rechallenge {a}")
        alice.ok("reregister")
        witness.holds((a, "active"), (a, "new"), (b, "active"))
        assert witness.moved() == {(a, "active"): way.own, (a, "new"): way.own}

        say(bob, alice, 1, "still-on-the-old-set")
        witness.holds((a, "active"), (a, "new"), (b, "active"))
        moved = witness.moved()
        assert (a, "new") not in moved and moved[a, "active"] == way.asked
        say(alice, bob, 2, "from-the-new-set")
        witness.holds((a, "old"), (a, "active"), (b, "active"))
        assert witness.moved()[a, "active"] == way.own
        begun = time.monotonic()
        say(bob, alice, 1, "on-the-new-set")
        assert witness.moved()[a, "active"] == way.asked
        active = {row.spi for row in running.sas() if (row.impi, row.state) == (a, "active")}
        rode = witness.rode(here, begun)
        assert [record.summary for record in rode] == ["MESSAGE", "200 OK"]
        assert {record.spi for record in rode} <= active

        bob.ok("hangup")
        assert alice.ok("expect-hangup")["details"]["call"]["state"] == "ended"
        assert in_use(witness.moved()) == {(a, "active"): way.asked, (b, "active"): way.own}

        alice.ok("answer")
        begun = time.monotonic()
        call = bob.ok(f"call {number(1)}")["details"]["call"]
        assert call["state"] == "established" and call["preconditions"], call
        assert alice.ok("expect-call")["details"]["call"]["incoming"]
        assert in_use(witness.moved()) == {(a, "active"): way.called, (b, "active"): way.own}
        rode = witness.rode(here, begun)
        assert Counter(record.summary for record in rode) >= CALL and {record.spi for record in rode} <= active
        alice.ok("hangup")
        bob.ok("expect-hangup")
        assert witness.moved()[b, "active"] == way.asked
        witness.holds((a, "old"), (a, "active"), (b, "active"))

        alice.ok("deregister")
        witness.holds((a, "closing"), (a, "closing"), (b, "active"))
        bob.ok("deregister")
        assert {row.state for row in running.sas()} <= {"closing"}
        for phone in (alice, bob):
            phone.ok("expect-complaints none")
    rows = witness.settled()
    assert not any(row.replay_drops or row.integrity_failures for row in rows)
    esp, clear = witness.capture.count({address: PROTECTED for address in PCSCF})
    assert not clear and sum(esp.values()) > 60
    assert Counter(witness.capture.in_clear()) == {
        "REGISTER sip:ims.mnc001.mcc001.3gppnetwork.org SIP/2.0": 2,
        "SIP/2.0 401 Unauthorized": 2,
    }


def test_phones_that_take_tcp_for_what_is_large(witness: Witness) -> None:
    """As real ones do (RFC 3261 18.1.1): one dialog over both transports, each message on the SA of its ports."""
    here, there = FAMILIES[4]
    with Phone(witness.running, "alice", user(1), here) as alice, Phone(witness.running, "bob", user(2), there) as bob:
        alice.ok("register")
        bob.ok("register")
        assert witness.moved() == {(user(1), "active"): {1, 3}, (user(2), "active"): {1, 3}}
        bob.ok("answer")
        begun = time.monotonic()
        assert alice.ok(f"call {number(2)}")["details"]["call"]["preconditions"]
        bob.ok("expect-call")
        bob.ok("hangup")
        alice.ok("expect-hangup")
        moved = witness.moved()
        assert moved[user(1), "active"] >= {1, 2} and moved[user(2), "active"] >= {1, 3, 4}
        for address in (here, there):
            rode = witness.rode(address, begun)
            assert Counter(record.summary for record in rode) >= CALL + Counter(["BYE"])
            assert {record.flow.transport for record in rode if record.summary == "INVITE"} == {"TCP"}
            assert {record.flow.transport for record in rode} == {"TCP", "UDP"}
        witness.holds((user(1), "active"), (user(2), "active"))
        for phone in (alice, bob):
            phone.ok("deregister")
            phone.ok("expect-complaints none")
    assert not witness.capture.count({address: PROTECTED for address in PCSCF})[1]


@pytest.mark.parametrize("way", [UDP, TCP], ids=["udp", "tcp"])
def test_old_sets_end_and_the_call_goes_on(tmp_path: Path, way: Way) -> None:
    """64*T1 after the UE moved its old set is gone, and after the deregistration all are; T1 is 0.1 s here."""
    here, there = FAMILIES[4]
    a, b = user(1), user(2)
    with plant(tmp_path, core=[f"--control={tmp_path / 'core.sock'}"], PCSCF_GM__T1="0.1") as running:
        capture = Capture(running.network, "pcscf", "gm")
        capture.start()
        witness = Witness(running, capture)

        def until(*sets: tuple[str, str]) -> None:
            end = time.monotonic() + SETTLE_WITHIN
            while len(running.sas()) != 4 * len(sets):
                assert time.monotonic() < end, running.sas()
                time.sleep(0.2)
            witness.holds(*sets)

        with Phone(running, "alice", a, here, way.option) as alice, Phone(running, "bob", b, there, way.option) as bob:
            alice.ok("register")
            bob.ok("register")
            bob.ok("answer")
            alice.ok(f"call {number(2)}")
            tell(tmp_path / "core.sock", f"rechallenge {a}")
            alice.ok("reregister")
            say(alice, bob, 2, "from-the-new-set")
            witness.holds((a, "old"), (a, "active"), (b, "active"))
            until((a, "active"), (b, "active"))
            say(bob, alice, 1, "after-the-old-one")
            alice.ok("hangup")
            bob.ok("expect-hangup")
            alice.ok("deregister")
            bob.ok("deregister")
            until()
        capture.stop()
        assert not capture.count({address: PROTECTED for address in PCSCF})[1]
