"""`kill -9` under load, and a restart: with kernel ESP nobody notices; in userspace it is said who must come back."""

import os
import re
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pcscf.lab.capture import Capture
from pcscf.lab.network import Network
from pcscf.observe import Attempt, RegistrationChanged
from tests.bench.measured import CORE, CORE_PORT, GM, MW
from tests.interop.crowd import started
from tests.interop.phone import Phone, user
from tests.interop.plant import CONFIG, Plant, plant
from tests.interop.test_many import plan, subscribers, ue

UES = 100
COUNTS = (100, 1000, 10_000) if os.environ.get("PCSCF_LONG") else (100,)
"""Under User-Mode Linux the others take minutes: `make bench` does them."""
PAIRS = ("hmac-sha-1-96/aes-cbc", "null/aes-gcm", "hmac-sha-1-96/null", "aes-gmac/null")
ADDRESSES = ("10.45.0.2", "10.45.0.3", "10.45.0.4", "fd00:45::2")
WITH_KEYS: dict[str, Any] = {"PCSCF_IPSEC__BACKEND": "userspace", "PCSCF_STORE__USERSPACE_KEYS": "true"}
"""Settings with which nobody notices in userspace, either: see test_restart_with_keys."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plant]:
    with plant(tmp_path, subscribers=subscribers(tmp_path, UES)) as made:
        yield made


def again(running: Plant, name: str) -> float:
    """Start the P-CSCF anew with the state of the one before; seconds until it serves."""
    begun = time.monotonic()
    running.started(name, "pcscf", "run", f"--config={CONFIG}", **running.settings)
    return time.monotonic() - begun


def on_kernel(running: Plant) -> bool:
    return "ESP backend: kernel" in running.log("pcscf")


def sas_stay(running: Plant) -> bool:
    return on_kernel(running) or running.settings.items() >= WITH_KEYS.items()


def kept(running: Plant) -> list[tuple[int, str, int]]:
    """What is live: set, UE, SPI."""
    return sorted((row.set_id, row.impi, row.spi) for row in running.sas())


def connections(running: Plant, host: str) -> set[tuple[str, str, str]]:
    """State, local end, remote end of each TCP connection that is open, or on its way to be closed."""
    shown = re.sub(r"%\w+", "", running.execute(host, "ss", "-Htan"))  # the device to which a protected socket is bound
    rows = (line.split() for line in shown.splitlines())
    return {(state, local, remote) for state, _, _, local, remote, *_ in rows if state not in ("LISTEN", "TIME-WAIT")}


def half_open(running: Plant) -> set[tuple[str, str, str]]:
    """TCP connections that UEs have and the P-CSCF has not, or not any more."""
    there = {(state, remote, local) for state, local, remote in connections(running, "pcscf") if state == "ESTAB"}
    return connections(running, "ue") - there


def test_100_ues_do_not_notice_that_it_was_killed(running: Plant) -> None:
    ues_go_on(running)


def ues_go_on(running: Plant) -> None:
    members = [ue(each, PAIRS[each % 4], tcp=each % 5 == 0, address=ADDRESSES[each // 4 % 4]) for each in range(UES)]
    with started(running, "restarting", "restarting") as crowd:
        crowd.tell(plan(running, members))
        assert crowd.answer() == [True] * UES
        before = kept(running)
        assert len(before) == 4 * UES
        crowd.tell("go on")
        assert crowd.answer() == "writing"
        time.sleep(2)
        running.kill("pcscf")
        took = again(running, "again")
        print(f"{took:.2f} s from start to serving, with {UES} registrations stored: {adopted(running, 'again')}")
        if not sas_stay(running):
            said = [r for r in running.journal() if isinstance(r, RegistrationChanged)]
            assert len(said) == UES and not any(each.registered for each in said)
            assert f"{UES} lost their SAs and must register again" in running.log("again")
            assert kept(running) == []
            return
        until = time.monotonic() + 20
        while left := half_open(running):  # what is sent there is lost; who sends is told by a reset
            assert time.monotonic() < until, left
            time.sleep(0.1)
        crowd.tell("and now")
        assert crowd.answer() == [200] * UES
        assert kept(running) == before, "no SA lost, none orphaned"
        assert not [r for r in running.journal() if isinstance(r, Attempt)], "nobody was challenged again"
        if on_kernel(running):
            assert f"{4 * UES}" in running.execute("pcscf", "ip", "xfrm", "state", "count")


def adopted(running: Plant, name: str) -> str:
    return next(line for line in running.log(name).splitlines() if "from the run before" in line)


def test_a_call_goes_on_and_the_life_of_sets_does(running: Plant) -> None:
    call_goes_on(running)


def call_goes_on(running: Plant) -> None:
    with (
        Phone(running, "alice", user(1), "10.45.0.2", "--udp-only") as alice,
        Phone(running, "bob", user(2), "10.45.0.3") as bob,
    ):
        alice.ok("register")
        bob.ok("register")
        alice.begin(f"call +1555{2:07}")
        bob.ok("answer")
        assert alice.result()["ok"]
        running.kill("pcscf")
        again(running, "again")
        if not sas_stay(running):  # whose SAs end with their process
            assert "2 lost their SAs and must register again" in running.log("again") and kept(running) == []
            for phone in (alice, bob):
                phone.ok("reboot")
                phone.ok("register")
            alice.ok("message echo on new SAs")
            return
        alice.ok("update")
        alice.ok("reregister")
        alice.ok("message echo on the same set")
        bob.ok("hangup")
        alice.ok("expect-hangup")
        # A clean restart is no other: what is there stays.
        before = kept(running)
        running.end("again")
        assert "stay for the next start" in running.log("again")
        again(running, "once-more")
        assert kept(running) == before
        bob.ok("message echo still here")
        alice.ok("deregister")
        bob.ok("deregister")
    assert {row.state for row in running.sas()} <= {"closing"}


def test_after_the_end_nothing_is_said_in_clear(tmp_path: Path) -> None:
    """Without a store SAs and policies go. A TCP connection whose FIN is not acknowledged must not go on then."""
    with (
        plant(tmp_path, PCSCF_STORE__ENABLED="false") as running,
        Phone(running, "alice", user(1), "10.45.0.2", "--tcp") as alice,
    ):
        alice.ok("register")
        capture = Capture(running.network, "pcscf", "gm")
        capture.start()
        try:
            running.execute("ue", "ip", "route", "add", "blackhole", "10.45.0.1/32")
            running.end("pcscf")
            assert "SAs and policies removed" in running.log("pcscf")
            time.sleep(2)
            running.execute("ue", "ip", "route", "del", "blackhole", "10.45.0.1/32")
            esp, clear = capture.count({ip_address("10.45.0.1"): frozenset(range(5100, 5112))})
        finally:
            capture.stop()
    assert esp and not clear


@pytest.mark.parametrize("count", COUNTS)
def test_the_time_from_start_to_serving(count: int, tmp_path: Path) -> None:
    """Printed, and nobody is lost with the kernel's ESP. Registrations are made in the core, the start is a user's."""
    state = tmp_path / "state"
    file = tmp_path / "pcscf.toml"
    file.write_text(
        f'visited_network = "bench"\ncontrol = "{tmp_path}/control.sock"\nstate = "{state}"\n'
        f'[gm]\naddresses = ["{GM}"]\n[ipsec]\nlegacy_algorithms = true\n[reg_event]\nenabled = false\n'
        f'[mw]\naddresses = ["{MW}"]\nprobe_interval = 0\nnext_hops = [{{ uri = "sip:{CORE}:{CORE_PORT}" }}]\n'
    )
    with Network(f"pcscf-start-{os.getpid()}") as network:
        running = Plant(network, tmp_path)
        try:
            running.execute("pcscf", sys.executable, "-m", "tests.crowd", str(state), str(count), timeout=600)
            begun = time.monotonic()
            running.started("again", "pcscf", "run", f"--config={file}")
            took = time.monotonic() - begun
            print(f"{took:.2f} s from start to serving with {count} stored: {adopted(running, 'again')}")
            kernel = "ESP backend: kernel" in running.log("again")
            wanted = f"{count} registrations with {count} sets" if kernel else f"{count} lost their SAs"
            assert wanted in running.log("again")
            states = running.execute("pcscf", "ip", "xfrm", "state", "count")
            assert not kernel or str(4 * count) in states
            forget = ("pcscf", sys.executable, "-m", "pcscf", "forget", f"--config={file}")
            assert running.execute(*forget, check=False) == "", "not while it runs"
            running.end("again")
            assert f"{count if kernel else 0} registrations are forgotten" in running.execute(*forget)
            assert not (state / "store.sqlite").exists()
            assert "10.45" not in running.execute("pcscf", "ip", "xfrm", "policy") and "127" not in running.execute(
                "pcscf", "ip", "xfrm", "state"
            )
        finally:
            running.stop()


def test_a_store_that_is_no_store_is_set_aside(running: Plant) -> None:
    running.end("pcscf")
    state = running.folder / "state"
    (state / "store.sqlite").write_bytes(b"this is no database, and long enough to be looked at" * 100)
    for rest in ("store.sqlite-wal", "store.sqlite-shm"):
        (state / rest).unlink(missing_ok=True)
    again(running, "again")
    log = running.log("again")
    assert "cannot be used (file is not a database); it is set aside as" in log
    (aside,) = state.glob("store.sqlite.*.aside")
    assert aside.read_bytes().startswith(b"this is no database")
    with Phone(running, "alice", user(1), "10.45.0.2") as alice:
        alice.ok("register")
        other: Any = running.start(
            "second", "pcscf", "run", f"--config={CONFIG}", PCSCF_CONTROL=str(running.folder / "second.sock")
        )
        assert other.wait(timeout=30) == 1
        assert "does another P-CSCF use it?" in running.log("second")
        alice.ok("message echo undisturbed")
