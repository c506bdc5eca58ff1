"""What the core begins: it ends a registration, wants it renewed sooner, challenges again (digest C5, C6)."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pcscf.admin.views import RegistrationRow
from pcscf.lab.control import tell
from pcscf.observe import MessageSeen, RegistrationChanged
from pcscf.sip.transaction import GM_TIMERS
from pcscf.vocabulary import Interface
from tests.interop.phone import Phone, number, user
from tests.interop.plant import Plant, plant

A, B = user(1), user(2)
HERE, THERE = "10.45.0.2", "10.45.0.3"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plant]:
    with plant(tmp_path, core=[f"--control={tmp_path / 'core.sock'}"]) as made:
        yield made


def registration(running: Plant, impi: str) -> RegistrationRow:
    return next(row for row in asyncio.run(running.client.registrations()) if row.impi == impi)


def states(running: Plant, impi: str) -> list[str]:
    """The states of the sets of a user, the first made first."""
    sets = {row.set_id: row.state for row in running.sas() if row.impi == impi}
    return [sets[set_id] for set_id in sorted(sets)]


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, f"it did not happen: {what}"
        time.sleep(0.05)


def heard(running: Plant, address: str, summary: str) -> int:
    """How often the P-CSCF has sent this to a UE inside ESP."""
    return sum(
        isinstance(record, MessageSeen)
        and not record.incoming
        and record.flow.interface is Interface.GM_PROTECTED
        and str(record.flow.remote) == address
        and record.summary == summary
        for record in running.journal()
    )


def test_the_core_ends_a_registration(running: Plant) -> None:
    """`rejected`: the UE that watches it hears of it on its SAs and gives up; nothing reaches it any more."""
    with Phone(running, "alice", A, HERE) as alice, Phone(running, "bob", B, THERE, "--tcp") as bob:
        alice.ok("register")
        alice.ok("subscribe")
        bob.ok("register")
        told = heard(running, HERE, "NOTIFY")
        tell(running.folder / "core.sock", f"deregister {A} rejected")
        until(lambda: not registration(running, A).registered, "the P-CSCF has ended it")
        until(lambda: heard(running, HERE, "NOTIFY") > told, "the UE was told inside ESP")
        ends = [each for each in running.journal() if isinstance(each, RegistrationChanged) and not each.registered]
        assert [(each.impi, each.detail) for each in ends] == [(A, "ended by the core: rejected")]
        left = [row for row in running.sas() if row.impi == A]
        assert len(left) == 4 and all(
            row.expires_in is not None and row.expires_in <= GM_TIMERS.timeout for row in left
        )
        assert bob.do(f"message {number(1)} hello")["status"] == 404
        until(lambda: "there is none" in alice.do(f"message {number(2)} hello")["reason"], "it has taken its SAs down")
        alice.ok("register")
        assert states(running, A) == ["active"], "the sets of the ended registration are gone"
        bob.ok(f"message {number(1)} welcome-back")
        alice.ok("expect-message welcome-back")
        alice.ok("expect-complaints none")


def test_a_ue_that_does_not_watch_is_refused_after_the_end(running: Plant) -> None:
    with Phone(running, "alice", A, HERE) as alice:
        alice.ok("register")
        tell(running.folder / "core.sock", f"deregister {A} deactivated")
        until(lambda: not registration(running, A).registered, "the P-CSCF has ended it")
        assert alice.do(f"message {number(2)} hello")["status"] == 403
        alice.ok("register")
        assert states(running, A) == ["active"] and registration(running, A).registered


def test_deactivated_makes_a_ue_that_watches_register_anew(running: Plant) -> None:
    with Phone(running, "alice", A, HERE) as alice:
        alice.ok("register")
        alice.ok("subscribe")
        (before,) = {row.set_id for row in running.sas()}
        tell(running.folder / "core.sock", f"deregister {A} deactivated")
        until(
            lambda: registration(running, A).registered and before not in {row.set_id for row in running.sas()},
            "it has registered anew",
        )
        assert states(running, A) == ["active"]


def test_the_core_shortens_a_registration(running: Plant) -> None:
    """The P-CSCF takes the shorter time; the UE that watches re-authenticates at once and has all of it again."""
    with Phone(running, "alice", A, HERE) as alice, Phone(running, "bob", B, THERE, "--tcp") as bob:
        alice.ok("register")
        bob.ok("register")
        bob.ok("subscribe")
        tell(running.folder / "core.sock", f"shorten {A} 60")
        until(lambda: (registration(running, A).expires_in or 0) <= 60, "the P-CSCF knows that it is shorter")
        assert states(running, A) == ["active"], "it still runs"
        assert all((row.expires_in or 0) > 600 for row in running.sas()), "a lifetime is never cut for that"
        tell(running.folder / "core.sock", f"shorten {B} 60")
        until(lambda: states(running, B) == ["active", "new"], "it has re-authenticated")
        until(lambda: (registration(running, B).expires_in or 0) > 600, "it has its time again")
        assert states(running, A) == ["active"]


def test_the_core_challenges_again(running: Plant) -> None:
    """Only the next REGISTER of that user, once: a second set, and the one after is a mere refresh."""
    with Phone(running, "alice", A, HERE) as alice:
        alice.ok("register")
        alice.ok("reregister")
        assert states(running, A) == ["active"]
        tell(running.folder / "core.sock", f"rechallenge {A}")
        alice.ok("reregister")
        assert states(running, A) == ["active", "new"]
        alice.ok("reregister")
        assert states(running, A) == ["old", "active"], "its REGISTER has taken the new set into use"
