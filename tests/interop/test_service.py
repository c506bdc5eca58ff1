"""`pcscf run` as a service: ready when it serves, reloaded by SIGHUP, stopped in time, with two capabilities only."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pcscf.lab.network import Network
from tests.interop.phone import Phone, user
from tests.interop.plant import CONFIG, ROOT, SUBSCRIBERS, Plant, plant

UNIT = ROOT / "config" / "pcscf.service"
PCSCF = (sys.executable, "-m", "pcscf")


def running_alone(folder: Path, network: Network) -> Plant:
    """A core; the P-CSCF is the test's."""
    made = Plant(network, folder)
    made.started("core", "core", "scscf", "--address=10.46.0.2", f"--subscribers={SUBSCRIBERS}")
    return made


def line_with(running: Plant, words: str, within: float = 10) -> str:
    end = time.monotonic() + within
    while not (found := [line for line in running.log("pcscf").splitlines() if words in line]):
        assert time.monotonic() < end, running.log("pcscf")
        time.sleep(0.05)
    return found[-1]


def test_it_says_when_it_is_ready_reloads_and_stops(tmp_path: Path) -> None:
    config, notified = tmp_path / "pcscf.toml", tmp_path / "notify"
    config.write_text(CONFIG.read_text())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, Network(f"pcscf-unit-{os.getpid()}") as network:
        manager.bind(str(notified))
        manager.settimeout(20)
        running = running_alone(tmp_path, network)
        try:
            environment = {"PCSCF_CONTROL": str(tmp_path / "control.sock"), "NOTIFY_SOCKET": str(notified)}
            process = running.started("pcscf", "pcscf", "run", f"--config={config}", **environment)
            assert manager.recv(1000).decode().splitlines()[0] == "READY=1"
            with Phone(running, "ue", user(1), "10.45.0.2", "--offer=hmac-sha-1-96/null") as phone:
                phone.ok("register")
                text = (
                    config.read_text()
                    .replace('clear = "403"', 'clear = "silence"')
                    .replace("port_pc = 5104", "port_pc = 5112")
                )
                config.write_text(
                    re.sub(r"algorithms = \[.*?\]", 'algorithms = ["hmac-sha-1-96/aes-cbc"]', text, flags=re.S)
                )
                process.send_signal(signal.SIGHUP)
                assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
                assert manager.recv(1000).startswith(b"READY=1")
                assert "gm.clear, ipsec.algorithms" in line_with(running, "configuration reloaded")
                assert "ipsec.port_pc" in line_with(running, "needs a restart")
                phone.ok("message echo still here")
            with Phone(running, "other", user(2), "10.45.0.3", "--offer=hmac-sha-1-96/null") as phone:
                said = phone.do("register")
                assert not said["ok"] and said["status"] == 494, "the new list counts for the next"
            config.write_text("nonsense = 1\n")
            process.send_signal(signal.SIGHUP)
            assert "was not reloaded" in line_with(running, "was not reloaded")
            begun = time.monotonic()
            process.terminate()
            process.wait(timeout=10)
            assert time.monotonic() - begun < 5 and process.returncode == 0
            manager.recv(1000), manager.recv(1000)
            assert manager.recv(1000) == b"STOPPING=1"
        finally:
            running.stop()


def test_two_capabilities_are_enough(tmp_path: Path) -> None:
    """As the unit runs it: another user, these capabilities and no more."""
    assert shutil.which("setpriv"), "install util-linux"
    unit = UNIT.read_text()
    assert (
        re.findall(r"^(?:AmbientCapabilities|CapabilityBoundingSet)=(.*)$", unit, re.M)
        == ["CAP_NET_ADMIN CAP_NET_RAW"] * 2
    )
    capabilities = "-all,+net_admin,+net_raw"
    limits = [f"--{name}={capabilities}" for name in ("bounding-set", "inh-caps", "ambient-caps")]
    with tempfile.TemporaryDirectory() as name, Network(f"pcscf-unit-{os.getpid()}") as network:
        folder = Path(name)
        os.chown(folder, 65534, 65534)
        # As distributions ship the device; where this one is closed, only this process sees another.
        tun = f"mknod {folder}/tun c 10 200; chmod 666 {folder}/tun; mount --bind {folder}/tun /dev/net/tun"
        running = running_alone(tmp_path, network)
        try:
            command = (
                "unshare", "-m", "sh", "-c", f'{tun}; exec "$@"', "sh",
                "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", *limits,
                *PCSCF, "run", f"--config={CONFIG}",
            )  # fmt: skip
            with (tmp_path / "pcscf.log").open("wb") as log:
                process = subprocess.Popen(
                    network.command("pcscf", *command),
                    stderr=log,
                    env={**os.environ, "PCSCF_CONTROL": f"{folder}/control.sock", "PCSCF_STATE": f"{folder}/state"},
                )
            try:
                line_with(running, " ready")
                status = Path(f"/proc/{process.pid}/status").read_text()
                assert re.search(r"^CapBnd:\t0000000000003000$", status, re.M), status
                with Phone(running, "ue", user(1), "10.45.0.2") as phone:
                    phone.ok("register")
                    phone.ok("message echo with two capabilities")
            finally:
                process.terminate()
                process.wait(timeout=10)
        finally:
            running.stop()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "install systemd"
    unit = tmp_path / "pcscf.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/pcscf", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(unit)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_state_on_one_screen(tmp_path: Path) -> None:
    with plant(tmp_path, network=Network(f"pcscf-unit-{os.getpid()}")) as running:
        with Phone(running, "ue", user(1), "10.45.0.2") as phone:
            phone.ok("register")
            command = [*PCSCF, "status", f"--control={tmp_path / 'control.sock'}"]
            said = subprocess.run(
                command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"}
            ).stdout
            assert "registered    1 UEs; 0 try to be" in said and "sets of SAs   1 active" in said
            assert "4 in the" in said and "4 believed" in said and "10.46.0.2:5060/udp" in said
            row = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
            assert row["registered"] == 1 and row["sets_by_state"] == {"active": 1} and row["problems"] == []
        assert asyncio.run(running.client.status()).registered == 1


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_line_for_each_event(tmp_path: Path, style: str) -> None:
    with plant(tmp_path, network=Network(f"pcscf-unit-{os.getpid()}"), PCSCF_LOG__FORMAT=style) as running:
        with Phone(running, "ue", user(1), "10.45.0.2", "--fault=wrong-res") as phone:
            phone.do("register")
        log = running.log("pcscf")
    if style == "json":
        rows = [json.loads(line) for line in log.splitlines()]
        (row,) = [row for row in rows if "the core answered 403" in row["text"] and row["event"] == "Problem"]
        assert row["ue"] == user(1) and row["call_id"] and row["level"] == "warning"
    else:
        assert re.search(rf"WARNING {user(1)}: REGISTER failed: the core answered 403 .*\(Call-ID ", log), log
