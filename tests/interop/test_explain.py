"""Every reason why a registration is stuck, made by a fault of the simulators or in the namespaces, and named.

Runs on the ESP that is there: userspace natively, the kernel's under User-Mode Linux.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pcscf.admin.client import ClientError
from pcscf.admin.views import ExplanationRow
from pcscf.lab.capture import Capture
from tests.interop.phone import Phone, number, user
from tests.interop.plant import REALM, Plant, plant

NAMED_WITHIN = 12.0
FAULTY_CORE = {7: "no-answer", 8: "sqn-loop", 9: "missing-ik"}
PEOPLE = 18


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    faults = [f"--fault={user(who)}={fault}" for who, fault in FAULTY_CORE.items()]
    with plant(folder, core=faults, subscribers=write_subscribers(folder)) as made:
        yield made


def write_subscribers(folder: Path) -> Path:
    """As many as there are tests: what went wrong before is not to be found again."""
    path = folder / "subscribers.toml"
    rows = [
        f'[[subscriber]]\nimpi = "{user(each)}"\nimpus = ["sip:{number(each)}@{REALM}"]\n'
        f'k = "{os.urandom(16).hex()}"\nopc = "{os.urandom(16).hex()}"\namf = "0000"\nsqn = 0\n'
        for each in range(1, PEOPLE + 1)
    ]
    path.write_text("\n".join(rows))
    return path


def explain(running: Plant, ue: str) -> ExplanationRow:
    return asyncio.run(running.client.explain(ue))


def until(running: Plant, ue: str, verdict: str) -> ExplanationRow:
    """The explanation once it has this verdict; fails with the last that was given."""
    end = time.monotonic() + NAMED_WITHIN
    said: object = None
    while time.monotonic() < end:
        try:
            found = explain(running, ue)
        except ClientError as error:
            said = str(error)
        else:
            said = found.causes, found.evidence, found.steps
            if found.causes[0].verdict == verdict:
                return found
        time.sleep(0.2)
    raise AssertionError(f"{verdict} was not said of {ue}, but {said}")


@contextmanager
def registering(running: Plant, who: int, *options: str, address: str = "10.45.0.2") -> Iterator[None]:
    """A UE that tries to register meanwhile, whatever comes of it."""
    name = f"ue{who}"
    process = running.start(
        name, "ue", "ue", "register", "--json", f"--subscribers={running.subscribers}", f"--impi={user(who)}",
        f"--address={address}", "--pcscf=10.45.0.1", *options,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


STUCK = [
    pytest.param(1, ("--fault=ignore-challenge",), "no-esp-since-401", "no ESP", id="silent"),
    pytest.param(2, ("--fault=wrong-spi",), "unknown-spi", "ESP came with SPI", id="unknown-spi"),
    pytest.param(3, ("--fault=wrong-ik", "--offer=hmac-sha-1-96/aes-cbc"), "icv-failures", "wrong integrity", id="ik"),
    pytest.param(18, ("--fault=wrong-ik", "--offer=aes-gmac/null"), "icv-failures", "wrong integrity", id="ik-gmac"),
    pytest.param(4, ("--fault=clear-to-protected",), "clear-at-protected-port", "UDP to port 51", id="clear-udp"),
    pytest.param(17, ("--fault=clear-to-protected", "--tcp"), "clear-at-protected-port", "TCP SYN to port", id="syn"),
    pytest.param(5, ("--fault=edit-security-verify",), "agreement-differs", "Security-Verify entry 1", id="verify"),
    pytest.param(6, ("--fault=wrong-res",), "core-rejected", "the core answered 403", id="wrong-res"),
    pytest.param(7, (), "no-answer-from-core", "nothing to the REGISTER", id="core-silent"),
    pytest.param(8, (), "resynchronisation-loop", "auts", id="sqn-loop"),
    pytest.param(9, (), "challenge-unusable", "ik", id="no-keys"),
    pytest.param(10, ("--fault=wrong-k",), "wrong-mac", "MAC wrong", id="wrong-k"),
]


def test_nobody_listens_when_nobody_is_stuck(running: Plant) -> None:
    def packet_sockets() -> int:
        return len(running.execute("pcscf", "cat", "/proc/net/packet").splitlines()) - 1

    def within(seconds: float, true: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while not true() and time.monotonic() < end:
            time.sleep(0.1)
        return true()

    assert packet_sockets() == 0
    with registering(running, 16, "--fault=ignore-challenge"):
        assert within(30, lambda: packet_sockets() == 1)


@pytest.mark.parametrize(("who", "options", "verdict", "words"), STUCK)
def test_a_cause_is_named(running: Plant, who: int, options: tuple[str, ...], verdict: str, words: str) -> None:
    with registering(running, who, *options):
        said = until(running, user(who), verdict)
    assert words in said.causes[0].text, said
    assert not said.registered
    assert said.causes[0].advice
    assert len(said.causes) == 1, said.causes


def test_a_healthy_registration_is_called_healthy(running: Plant) -> None:
    with Phone(running, "healthy", user(11), "10.45.0.3") as phone:
        phone.ok("register")
        phone.ok("message echo hello")
        said = explain(running, user(11))
        assert [cause.verdict for cause in said.causes] == ["healthy"], said
        assert said.registered and all(step.at is not None for step in said.steps), said.steps
        assert "ipsec-3gpp" in said.offered and said.chosen
        by_number = explain(running, "+15551230011")
        moving = {"causes": by_number.causes, "evidence": by_number.evidence}  # seconds left, packets counted
        assert by_number == said.model_copy(update=moving)
        phone.ok("deregister")
    assert until(running, user(11), "ended").causes[0].text == "deregistered by the UE"


def test_replayed_packets_are_named(running: Plant) -> None:
    with Phone(running, "replayed", user(12), "10.45.0.3") as phone:
        capture = Capture(running.network, "ue", "gm-ue")
        capture.start()
        phone.ok("register")
        phone.ok("message echo short")
        capture.stop()
        of_us, whole = bytes((10, 45, 0, 3)), (b"\0\0", b"\x40\0")
        esp = [frame for frame in capture.frames if frame[23] == 50 and frame[26:30] == of_us]
        frames = [frame for frame in esp if frame[20:22] in whole]
        assert frames
        with running.network.inside("ue"):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with raw:
            raw.bind(("gm-ue", 0))
            raw.send(frames[0])
            raw.send(frames[0])
        said = until(running, user(12), "replay-drops")
        assert "2 packets" in said.causes[0].text and said.registered


@contextmanager
def nat(running: Plant) -> Iterator[None]:
    """ESP of 10.45.0.2 leaves as if it were of 10.45.0.4; SIP in clear stays what it is."""
    rule = ("POSTROUTING", "-p", "50", "-s", "10.45.0.2", "-j", "SNAT", "--to-source", "10.45.0.4")
    for command in ("iptables-nft", "iptables-legacy"):
        assert shutil.which(command), "install iptables"
        done = subprocess.run(
            running.network.command("ue", command, "-w", "-t", "nat", "-A", *rule), capture_output=True, text=True
        )
        if not done.returncode:
            break
    assert not done.returncode, done.stderr
    try:
        yield
    finally:
        running.execute("ue", command, "-w", "-t", "nat", "-D", *rule)


def test_nat_is_named(running: Plant) -> None:
    with nat(running), registering(running, 13):
        said = until(running, user(13), "other-address")
    assert "came from 10.45.0.4, but the UE registered from 10.45.0.2" in said.causes[0].text


def test_what_the_kernel_refuses_is_named(running: Plant) -> None:
    """The UE's SPI is taken by somebody else's SA. The userspace backend is alone with its SAs: it refuses none."""
    if asyncio.run(running.client.status()).backend != "kernel":
        states = running.execute("pcscf", "ip", "xfrm", "state")
        assert not states, "the userspace backend puts nothing into the kernel that could be in the way"
        return
    running.execute(
        "pcscf", "ip", "xfrm", "state", "add", "src", "10.45.0.1", "dst", "10.45.0.2", "proto", "esp", "spi", "700001",
        "mode", "transport", "auth", "hmac(sha1)", f"0x{'00' * 20}", "enc", "ecb(cipher_null)", "",
    )  # fmt: skip
    with registering(running, 14, "--static=31700,31701,700001,700002"):
        said = until(running, user(14), "sa-refused")
    assert "File exists" in said.causes[0].text


def test_the_command_says_it_in_words_and_json(running: Plant) -> None:
    with registering(running, 15, "--fault=wrong-spi"):
        until(running, user(15), "unknown-spi")
        command = [sys.executable, "-m", "pcscf", "explain", f"--control={running.folder / 'control.sock'}"]
        done = subprocess.run([*command, user(15)], capture_output=True, text=True)
        assert done.returncode == 1 and "unknown-spi: ESP came with SPI" in done.stdout, done.stdout + done.stderr
        assert "→ the UE must send with spi-s" in done.stdout
        row = json.loads(subprocess.run([*command, "--json", user(15)], capture_output=True, text=True).stdout)
        assert row["causes"][0]["verdict"] == "unknown-spi"
        done = subprocess.run([*command, "nobody@nowhere"], capture_output=True, text=True)
        assert done.returncode == 1 and "no UE nobody@nowhere is known" in done.stderr
        assert user(15) in done.stderr


def test_logs_are_clean(running: Plant, tmp_path: Path) -> None:
    assert "Traceback" not in running.log("pcscf"), running.log("pcscf")
