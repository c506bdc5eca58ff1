"""Many UEs at once through one P-CSCF: every pair, transport and family; and 200 UEs with 800 SAs."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from pcscf.lab.capture import Capture
from pcscf.lab.network import LAB_CABLES, Network
from tests.interop.plant import CONFIG, REALM, Plant, plant
from xfrm.algorithms import VALID_PAIRS

CLEAR_PACKET = (
    sys.executable,
    "-c",
    "import socket, sys; _, own, own_port, other, port = sys.argv; s = socket.socket(type=socket.SOCK_DGRAM); "
    "s.bind((own, int(own_port))); s.sendto(b'in clear', (other, int(port)))",
)
"""Sends a datagram from a protected port, as a careless process would after the P-CSCF is gone."""
PAIRS = sorted(map(str, VALID_PAIRS))
UES = 200


def subscribers(folder: Path, count: int) -> Path:
    """A file of `count` subscribers, each with a key of its own."""
    entries = []
    for number in range(count):
        impi = f"00101{number:010}@{REALM}"
        entries.append(
            f'[[subscriber]]\nimpi = "{impi}"\nimpus = ["sip:+1555{number:07}@{REALM}"]\n'
            f'k = "{number + 1:032x}"\nopc = "{number + 7:032x}"\n'
        )
    path = folder / "subscribers.toml"
    path.write_text("\n".join(entries))
    return path


@contextmanager
def registered(running: Plant, plan: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """All UEs of a plan, registered and staying; what each said."""
    with (running.folder / "many.log").open("wb") as log:
        process = subprocess.Popen(
            running.network.command("ue", sys.executable, "-m", "tests.interop.many"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, running.log("many")
        yield json.loads(line)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=60)


def standing_rules(running: Plant) -> list[str]:
    """What guards the protected ports in the P-CSCF's namespace: policies of the kernel, rules of the engine."""
    commands = (("ip", "xfrm", "policy", "list", "nosock"), ("ip", "rule"), ("ip", "-6", "rule"))
    return [line for command in commands for line in running.execute("pcscf", *command).splitlines() if line.strip()]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plant]:
    with plant(tmp_path, subscribers=subscribers(tmp_path, UES)) as made:
        yield made


def plan(running: Plant, ues: list[dict[str, Any]]) -> dict[str, Any]:
    return {"backend": "auto", "subscribers": str(running.folder / "subscribers.toml"), "ues": ues}


def ue(number: int, pair: str, *, tcp: bool, address: str) -> dict[str, Any]:
    pcscf = "fd00:45::1" if ":" in address else "10.45.0.1"
    impi = f"00101{number:010}@{REALM}"
    return {"impi": impi, "address": address, "pcscf": pcscf, "tcp": tcp, "offer": pair}


def test_every_pair_transport_and_family(running: Plant) -> None:
    kinds = list(itertools.product(PAIRS, (False, True), ("10.45.0.2", "fd00:45::2")))
    ues = [ue(number, pair, tcp=tcp, address=address) for number, (pair, tcp, address) in enumerate(kinds)]
    with registered(running, plan(running, ues)) as said:
        for wanted, each in zip(ues, said, strict=True):
            assert each["registered"] and each["status"] == 200 and not each["complaints"], (wanted, each)
        rows = running.sas()
    for wanted in ues:
        four = [row for row in rows if row.impi == wanted["impi"]]
        assert [f"{row.integrity}/{row.encryption}" for row in four] == [wanted["offer"]] * 4
        assert all(row.state == "active" for row in four)
        carried = [row.packets > 0 for row in four]
        assert carried == ([True, True, False, False] if wanted["tcp"] else [True, False, True, False]), wanted
        assert not any(row.replay_drops or row.integrity_failures for row in four)


def test_200_ues_at_once_hold_800_sas_and_the_same_policies(running: Plant) -> None:
    before = standing_rules(running)
    assert before and not running.sas()
    addresses = ("10.45.0.2", "10.45.0.3", "10.45.0.4", "fd00:45::2")
    ues = [
        ue(number, PAIRS[number % len(PAIRS)], tcp=number % 5 == 0, address=addresses[number % 4])
        for number in range(UES)
    ]
    with registered(running, plan(running, ues)) as said:
        assert sum(each["registered"] for each in said) == UES, [each for each in said if not each["registered"]][:3]
        rows = running.sas()
        assert len(rows) == 4 * UES and {row.state for row in rows} == {"active"}
        assert standing_rules(running) == before
    states = running.execute("pcscf", "ip", "xfrm", "state", "count")
    assert ("800" in states) == (" backend: kernel" in running.log("pcscf")), states


def test_a_killed_p_cscf_leaks_nothing_and_starts_again(running: Plant) -> None:
    """SIGKILL with a UE registered: nothing leaves in clear; the next run takes over and removes what was left."""
    guarded = standing_rules(running)
    with registered(running, plan(running, [ue(0, PAIRS[0], tcp=False, address="10.45.0.2")])) as said:
        assert said[0]["registered"]
        capture = Capture(running.network, "pcscf", "gm")
        capture.start()
        running.kill("pcscf")
        left = running.execute("pcscf", *CLEAR_PACKET, "10.45.0.1", "5104", "10.45.0.2", "20480", check=False)
        time.sleep(0.5)
        capture.stop()
        _, clear = capture.count({ip_address("10.45.0.1"): frozenset(range(5100, 5112))})
        assert not clear, (clear, left)
    config = f"--config={running.folder / 'pcscf.toml'}"
    (running.folder / "pcscf.toml").write_text(CONFIG.read_text())
    # Without the store: with it the kernel's SAs would be taken over, see test_restart.
    running.started("again", "pcscf", "run", config, **{**running.settings, "PCSCF_STORE__ENABLED": "false"})
    assert not running.sas() and "sport 5104" not in running.execute("pcscf", "ip", "xfrm", "state", "list")
    assert len(standing_rules(running)) == len(guarded)
    with registered(running, plan(running, [ue(1, PAIRS[0], tcp=False, address="10.45.0.2")])) as said:
        assert said[0]["registered"] and len(running.sas()) == 4


def test_the_lab_has_the_addresses_these_tests_use() -> None:
    there = {interface for cable in LAB_CABLES for _, _, interfaces in cable.ends for interface in interfaces}
    assert {ip_interface("10.45.0.4/24"), ip_interface("fd00:45::2/64")} <= there
    assert Network().hosts == ["core", "pcscf", "ue"]
