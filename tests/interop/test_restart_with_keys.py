"""`kill -9` and a restart where the operator lets the userspace backend keep its keys: nobody notices there, either."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.phone import Phone, user
from tests.interop.plant import CONFIG, Plant, plant
from tests.interop.test_many import subscribers
from tests.interop.test_restart import UES, WITH_KEYS, again, call_goes_on, ues_go_on

WITHOUT_KEYS = {"PCSCF_STORE__USERSPACE_KEYS": "false"}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plant]:
    with plant(tmp_path, subscribers=subscribers(tmp_path, UES), **WITH_KEYS) as made:
        yield made


def test_100_ues_do_not_notice_that_it_was_killed(running: Plant) -> None:
    ues_go_on(running)


def test_a_call_goes_on_and_the_life_of_sets_does(running: Plant) -> None:
    call_goes_on(running)


def test_keys_are_in_a_file_only_as_long_as_the_operator_wants_it(running: Plant) -> None:
    keys = running.folder / "state" / "esp-sas"
    with Phone(running, "alice", user(1), "10.45.0.2") as alice:
        alice.ok("register")
        assert keys.stat().st_mode & 0o777 == 0o600
        assert "WARNING keys of the SAs are in" in running.log("pcscf")
        running.end("pcscf")
        assert "SAs and policies stay for the next start" in running.log("pcscf")
        running.started("again", "pcscf", "run", f"--config={CONFIG}", **{**running.settings, **WITHOUT_KEYS})
        assert "1 lost their SAs and must register again" in running.log("again")
        assert not keys.exists()
        running.end("again")
        assert "SAs and policies removed" in running.log("again")
        again(running, "once-more")
        alice.ok("reboot")
        alice.ok("register")
    running.kill("once-more")
    assert keys.exists() and "table" in running.execute("pcscf", "nft", "list", "tables")
    said = running.execute(
        "pcscf",
        "env",
        *(f"{name}={value}" for name, value in running.settings.items()),
        f"PCSCF_STATE={running.folder}/state",
        sys.executable,
        "-m",
        "pcscf",
        "forget",
        f"--config={CONFIG}",
    )
    assert "1 registrations are forgotten" in said
    assert not keys.exists() and running.execute("pcscf", "nft", "list", "tables") == ""
