"""Gm recorded and opened while it happens: `pcscf capture`, Wireshark's extcap, tcpdump with a key file.

Runs on the ESP that is there: userspace natively, the kernel's under User-Mode Linux.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pcscf.admin.client import ClientError
from pcscf.capture.file import Packet, Reader
from pcscf.capture.sip import DECRYPTED
from pcscf.lab.network import Network
from pcscf.observe import MessageSeen
from tests.interop.phone import Phone, user
from tests.interop.plant import ROOT, Plant, plant

PCSCF = (sys.executable, "-m", "pcscf")
WAIT = 60.0
FOREIGN_PORTS = (22222, 27960)
"""Wireshark's names for them are rtpproxy and quake3."""
SIP_FIRST = ("-o", "udp.try_heuristic_first:TRUE", "-o", "tcp.try_heuristic_first:TRUE")
"""The ports of a UE are any."""
TALK = ["REGISTER", "REGISTER", "MESSAGE"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    with plant(folder, ESPKEYLOGFILE=str(folder / "keys.esp_sa")) as made:
        yield made


def until(true: Callable[[], bool], what: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.1)


def packet_sockets(*inside: str) -> int:
    """How many there are in a network namespace."""
    done = subprocess.run([*inside, "cat", "/proc/net/packet"], capture_output=True, text=True, check=True)
    return len(done.stdout.splitlines()) - 1


def talk(running: Plant, name: str, number: int, *options: str, address: str = "10.45.0.2") -> None:
    with Phone(running, name, user(number), address, *options) as phone:
        phone.ok("register")
        phone.ok(f"message echo said by {name}")
        # A phone that is gone before it has answered the echo gets it again, into the next capture.
        until(lambda: answered_last(running, address), running.journal)


def answered_last(running: Plant, address: str) -> bool:
    """Whether the UE has answered the MESSAGE that went to it last."""
    of_ue = [each for each in running.journal() if isinstance(each, MessageSeen) and str(each.flow.remote) == address]
    sent = [place for place, each in enumerate(of_ue) if not each.incoming and each.summary == "MESSAGE"]
    return bool(sent) and any(each.incoming and each.summary[:3] == "200" for each in of_ue[sent[-1] :])


@contextmanager
def in_namespace(
    running: Plant, *command: str, ready: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process beside the P-CSCF, from when it says that it is ready to its end."""
    log = folder / "process.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            running.network.command("pcscf", *command),
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
        )
    try:
        until(lambda: ready in log.read_text() or process.poll() is not None, log.read_text)
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def sip(path: Path, *options: str, config: Path | None = None) -> list[str]:
    """Methods and statuses that tshark sees."""
    assert shutil.which("tshark"), "install tshark"
    environment = {**os.environ, **({"WIRESHARK_CONFIG_DIR": str(config)} if config else {})}
    fields = (*SIP_FIRST, "-Y", "sip", "-T", "fields", "-e", "sip.Method", "-e", "sip.Status-Code")
    done = subprocess.run(
        ["tshark", "-r", str(path), *options, *fields], capture_output=True, text=True, env=environment, check=True
    )
    return [line.strip() for line in done.stdout.splitlines()]


def packets(path: Path) -> list[tuple[Packet, str]]:
    with Reader(path) as reader:
        found = [(packet, reader.interfaces[packet.interface].description) for packet in reader]
        assert not reader.damage, reader.damage
    return found


def capturing(running: Plant, output: Path, *options: str) -> tuple[str, ...]:
    control = f"--control={running.folder / 'control.sock'}"
    return (
        *PCSCF,
        "capture",
        "-i",
        "gm",
        "-o",
        str(output),
        control,
        f"--config={ROOT / 'config/pcscf.toml'}",
        *options,
    )


def test_both_views_are_recorded(running: Plant, tmp_path: Path) -> None:
    output = tmp_path / "gm.pcapng"
    command = capturing(running, output, "--json")
    with in_namespace(running, *command, ready="capturing on gm", folder=tmp_path) as process:
        talk(running, "udp", 1, "--offer=null/aes-gcm")
        talk(running, "tcp", 2, "--tcp", "--offer=hmac-sha-1-96/aes-cbc", address="10.45.0.3")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        said = json.loads(process.communicate(timeout=30)[0])
    assert process.returncode == 0 and said["shut"] == [] and said["dropped"] == 0, said
    assert said["opened"] > 8, said
    assert output.stat().st_mode & 0o777 == 0o600
    found = packets(output)
    inside = [packet for packet, view in found if view == DECRYPTED]
    assert len(inside) == said["opened"]
    assert all(packet.data[23] in (6, 17) for packet in inside)
    comments = {packet.comment for packet, view in found if view != DECRYPTED and packet.comment}
    assert any(
        re.fullmatch(rf"SA \d+ 10.45.0.2 → 10.45.0.1 null/aes-gcm UE → P-CSCF .* {user(1)}", c) for c in comments
    )
    shown = sip(output)
    for method in TALK:
        assert method in shown, shown
    done = subprocess.run([*PCSCF, "trace", str(output), "--json"], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert not [row for row in rows if row.get("error")], rows
    registers = [row for row in rows if row["method"] == "REGISTER" and row["status"] is None]
    assert len(registers) == 4, "each message once, though two views show it"
    assert sum(bool(row["spi"]) for row in registers) == 2


def test_rotation_by_size_and_by_somebody_else(running: Plant, tmp_path: Path) -> None:
    output = tmp_path / "gm.pcapng"
    command = capturing(running, output)
    with in_namespace(running, *command, ready="capturing on gm", folder=tmp_path):
        talk(running, "before", 1)
        time.sleep(1.5)
        output.rename(tmp_path / "old.pcapng")
        until(output.exists, lambda: "no new file")
        talk(running, "after", 1)
        time.sleep(0.3)
    for path, words in ((tmp_path / "old.pcapng", b"said by before"), (output, b"said by after")):
        inside = [packet.data for packet, view in packets(path) if view == DECRYPTED]
        assert any(words in data for data in inside), path
    assert any(packet.comment for packet, view in packets(output) if view != DECRYPTED), "SAs are described anew"


def test_a_size_begins_another_file(tmp_path: Path) -> None:
    from pcscf.capture.live import Recorder

    recorder = Recorder(tmp_path / "gm.pcapng", "gm", 1, size=10_000, files=2)
    for number in range(40):
        recorder.wire(Packet(number, 0, bytes(1000), 1000))
    recorder.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["gm-0003.pcapng", "gm-0004.pcapng"]
    assert sum(len(packets(path)) for path in tmp_path.iterdir()) < 40


def refused(command: Sequence[str], running: Plant) -> str:
    done = subprocess.run(running.network.command("pcscf", *command), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_what_cannot_be_captured_is_said(running: Plant, tmp_path: Path) -> None:
    no_interface = [*capturing(running, tmp_path / "x.pcapng")]
    no_interface[no_interface.index("gm")] = "nowhere"
    assert "interface nowhere: No such device; `ip link` shows" in refused(no_interface, running)
    assert "No such file or directory" in refused(capturing(running, tmp_path / "no" / "x.pcapng"), running)


def test_wireshark_captures_live_through_extcap(running: Plant, tmp_path: Path) -> None:
    config = tmp_path / "config"
    environment = {"WIRESHARK_CONFIG_DIR": str(config), "HOME": str(tmp_path)}
    done = subprocess.run(
        [*PCSCF, "extcap", "--install"], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert f"made {config / 'extcap' / 'pcscf-extcap'}" in done.stdout
    listed = subprocess.run(
        ["tshark", "-D"], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout
    assert "ims-gm (IMS Gm, decrypted)" in listed
    key_file = running.folder / "keys.esp_sa"
    subprocess.run(
        [*PCSCF, "keys", "--profile", "gm", "-k", str(key_file)],
        env={**os.environ, **environment}, check=True, capture_output=True,
    )  # fmt: skip
    shown = tmp_path / "shown"
    command = (
        "tshark", "-C", "gm", "-i", "ims-gm", "-o", "extcap.ims_gm.interface:gm", "-l", "-Y", "sip", "-T", "fields",
        "-e", "sip.Method", "-e", "sip.Status-Code", "-e", "udp.dstport",
    )  # fmt: skip
    process_environment = environment | {"ESPKEYLOGFILE": str(key_file)}
    with in_namespace(
        running, "sh", "-c", f"exec {' '.join(command)} > {shown}", ready="Capturing on", folder=tmp_path,
        environment=process_environment,
    ):  # fmt: skip
        # tshark says so before the first frame can come.
        until(lambda: packet_sockets(*running.network.command("pcscf")) == 1, (tmp_path / "process.log").read_text)
        # Wireshark takes these ports for another protocol's; the profile has it look first.
        ports = ",".join(map(str, FOREIGN_PORTS))
        talk(running, "live", 3, "--offer=hmac-sha-1-96/aes-cbc", "--udp-only", f"--static={ports}")
        until(
            lambda: "MESSAGE" in shown.read_text(), lambda: (shown.read_text(), (tmp_path / "process.log").read_text())
        )
    lines = [line.split("\t") for line in shown.read_text().splitlines()]
    assert [(line[0] or line[1]) for line in lines[:4]] == ["REGISTER", "401", "REGISTER", "200"], lines
    assert int(lines[2][2]) in (5100, 5101), "the second one rode in ESP"
    assert int(lines[3][2]) in FOREIGN_PORTS
    subprocess.run(
        [*PCSCF, "extcap", "--uninstall"], env={**os.environ, **environment}, check=True, capture_output=True
    )
    assert not list(tmp_path.glob("**/pcscf-extcap"))


def test_extcap_shows_the_lab_while_it_runs(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "WIRESHARK_CONFIG_DIR": str(tmp_path / "config"),
        "HOME": str(tmp_path),
        "ESPKEYLOGFILE": str(tmp_path / "keys.esp_sa"),
    }
    subprocess.run([*PCSCF, "extcap", "--install"], env=environment, capture_output=True, check=True)
    lab = subprocess.Popen(
        [*PCSCF, "lab", "--output", str(tmp_path / "lab")], env=environment, cwd=ROOT, stdout=subprocess.PIPE
    )
    inside = ("nsenter", "--net=/run/netns/pcscf-lab-pcscf", "--")
    there = [*inside, "ip", "link", "show", "gm", "up"]
    until(lambda: not subprocess.run(there, capture_output=True).returncode, lambda: "the lab made no interface gm")
    lab.send_signal(signal.SIGSTOP)  # the story goes on when tshark is there
    time.sleep(0.1)
    command = (
        *inside, "tshark", "-i", "ims-gm", "-o", "extcap.ims_gm.interface:gm", "-l", "-a", "duration:60",
        *SIP_FIRST, "-Y", "sip",
        "-T", "fields", "-e", "sip.Method", "-e", "udp.dstport", "-e", "tcp.dstport",
    )  # fmt: skip
    log, before = tmp_path / "tshark.log", packet_sockets(*inside)
    with (tmp_path / "shown").open("wb") as shown, log.open("wb") as stderr:
        tshark = subprocess.Popen(command, env=environment, stdout=shown, stderr=stderr)
    until(lambda: packet_sockets(*inside) == before + 1, log.read_text)
    lab.send_signal(signal.SIGCONT)
    said = lab.communicate(timeout=120)[0].decode()
    assert lab.returncode == 0 and f"pcscf trace {tmp_path / 'lab' / 'gm.pcapng'} -k" in said, said
    until(lambda: "REGISTER\t510" in (tmp_path / "shown").read_text(), (tmp_path / "shown").read_text)
    tshark.terminate()
    tshark.wait(timeout=20)
    done = subprocess.run(
        [*PCSCF, "trace", str(tmp_path / "lab" / "gm.pcapng"), "-k", str(tmp_path / "keys.esp_sa"), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = json.loads(done.stdout)
    assert not [row for row in rows if "error" in row], "every packet of all three UEs opens"
    assert {"REGISTER", "MESSAGE", "INVITE", "PRACK", "BYE"} <= {row["method"] for row in rows if row["spi"]}


def test_tcpdump_and_the_key_file_open_it_afterwards(running: Plant, tmp_path: Path) -> None:
    assert shutil.which("tcpdump"), "install tcpdump"
    output, keys = tmp_path / "gm.pcap", running.folder / "keys.esp_sa"
    command = ("tcpdump", "-i", "gm", "-w", str(output), "-U", "-Z", "root", "--immediate-mode")
    with in_namespace(running, *command, ready="listening on gm", folder=tmp_path):
        talk(running, "dumped", 1, "--offer=hmac-sha-1-96/aes-cbc", "--udp-only")
        time.sleep(0.5)
    assert "MESSAGE" not in sip(output)
    clear = tmp_path / "clear.pcapng"
    subprocess.run([*PCSCF, "decrypt", str(output), "-k", str(keys), "-o", str(clear)], check=True, capture_output=True)
    wanted = ["REGISTER", "401", "REGISTER", "200", "MESSAGE"]
    opened = sip(clear)
    start = opened.index("REGISTER")  # under load the last answer to an earlier phone may come before it
    assert opened[start : start + 5] == wanted
    config = tmp_path / "config"
    config.mkdir()
    shutil.copy(keys, config / "esp_sa")
    options = ("-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE")
    assert sip(output, *options, config=config)[:5] == wanted, "the key file is Wireshark's esp_sa as it is"


def test_without_key_export_only_null_is_opened(tmp_path: Path) -> None:
    with plant(tmp_path, network=Network(f"pcscf-shut-{os.getpid()}")) as running:
        with pytest.raises(ClientError, match="exports no keys"):
            asyncio.run(running.client.keys())
        output = tmp_path / "gm.pcapng"
        with in_namespace(running, *capturing(running, output), ready="capturing on gm", folder=tmp_path):
            talk(running, "shut", 1, "--offer=hmac-sha-1-96/aes-cbc")
            talk(running, "open", 2, "--offer=hmac-sha-1-96/null", address="10.45.0.3")
            time.sleep(0.3)
        said = (tmp_path / "process.log").read_text()
    assert "this P-CSCF exports no keys" in said and "only null encryption is opened" in said
    assert "not opened, unknown SPI" in said
    inside = b"".join(packet.data for packet, view in packets(output) if view == DECRYPTED)
    assert b"said by open" in inside and b"said by shut" not in inside
