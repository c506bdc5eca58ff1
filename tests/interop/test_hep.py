"""SIP mirrored as HEPv3: decoded as HEP with the SIP inside, in order, and no key is in it.

Debian's tshark has no dissector of HEP, so it gets one here; sngrep is the reader that others use.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcscf.capture.decryption import Decryption, KeyRing
from pcscf.capture.file import Reader
from pcscf.capture.sip import Seen, read_sip
from pcscf.lab.capture import Capture
from pcscf.lab.network import Network
from pcscf.sip.message import Request
from tests.interop.phone import Phone, user
from tests.interop.plant import plant

LUA = Path(__file__).with_name("hep.lua")
UE, GM, MW, CORE = "10.45.0.2", "10.45.0.1", "10.46.0.1", "10.46.0.2"
REGISTRATION = [
    (UE, GM, "REGISTER"),
    (MW, CORE, "REGISTER"),
    (CORE, MW, "401"),
    (GM, UE, "401"),
    (UE, GM, "REGISTER"),
    (MW, CORE, "REGISTER"),
    (CORE, MW, "200"),
    (GM, UE, "200"),
]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A capture of what came to the collector while a UE registered and wrote."""
    folder = tmp_path_factory.mktemp("hep")
    network = Network(f"pcscf-hep-{os.getpid()}")
    with plant(folder, network=network, PCSCF_HEP__COLLECTOR="10.46.0.2:9060") as running:
        for host, interface in (("pcscf", "mw"), ("core", "mw-core")):
            running.execute(host, "ip", "link", "set", interface, "mtu", "9000")
        capture = Capture(running.network, "core", "mw-core")
        capture.start()
        with Phone(running, "mirrored", user(1), UE, "--udp-only") as phone:
            phone.ok("register")
            phone.ok("message echo mirrored")
            phone.ok("deregister")
        capture.stop()
        capture.write(folder / "mw.pcapng")
        assert "10.46.0.2:9060: Connection refused; messages are missing there" in running.log("pcscf")
    yield folder / "mw.pcapng"


def test_tshark_decodes_hep_with_the_sip_inside(mirrored: Path) -> None:
    shown = subprocess.run(
        ["tshark", "-X", f"lua_script:{LUA}", "-r", str(mirrored), "-Y", "hep", "-T", "fields",
         "-e", "hep.src_ip4", "-e", "hep.dst_ip4", "-e", "sip.Method", "-e", "sip.Status-Code",
         "-e", "hep.dst_port", "-e", "hep.correlation_id", "-e", "sip.Call-ID", "-e", "hep.capture_id"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [(row[0], row[1], row[2] or row[3]) for row in rows[:8]] == REGISTRATION, shown.stdout
    assert int(rows[4][4]) in (5100, 5101), "what rode in ESP has the protected ports"
    assert all(row[5] and row[5] == row[6] for row in rows), "the correlation is the Call-ID"
    assert {row[7] for row in rows} == {"2001"}
    assert "MESSAGE" in [row[2] for row in rows]


def test_sngrep_reads_it(mirrored: Path, tmp_path: Path) -> None:
    assert shutil.which("sngrep"), "install sngrep"
    out = tmp_path / "sngrep.pcap"
    subprocess.run(
        ["sngrep", "-N", "-q", "-E", "-I", str(mirrored), "-O", str(out), "udp", "port", "9060"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    with Reader(out) as reader:
        found = [each for each in read_sip(reader, Decryption(KeyRing())) if isinstance(each, Seen)]
    said = [
        (str(each.source), str(each.destination), each.message.start_line.split()[each.message.start_line[:3] == "SIP"])
        for each in found
    ]
    once = list(dict.fromkeys(zip(said, (each.message.first("cseq") for each in found), strict=True)))
    assert [each for each, _ in once[:8]] == REGISTRATION, said
    assert any(isinstance(each.message, Request) and each.message.body == b"mirrored" for each in found)


def test_no_key_is_mirrored(mirrored: Path) -> None:
    with Reader(mirrored) as reader:
        challenges = [packet.data for packet in reader if b"HEP3" in packet.data and b"WWW-Authenticate" in packet.data]
    assert challenges
    for each in challenges:
        assert b"nonce=" in each and b"ck=" not in each and b"ik=" not in each
