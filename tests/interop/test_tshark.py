"""tshark opens the capture of an aes-cbc registration with the keys on its command line (reference: Wireshark 4.0)."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether

from pcscf.lab.capture import Capture
from tests.interop.plant import SUBSCRIBERS, plant

SUITES = {
    "hmac-sha-1-96/aes-cbc": ("AES-CBC [RFC3602]", "HMAC-SHA-1-96 [RFC2404]"),
    "hmac-md5-96/des-ede3-cbc": ("TripleDES-CBC [RFC2451]", "HMAC-MD5-96 [RFC2403]"),
}


@pytest.mark.parametrize("pair", ["hmac-sha-1-96/aes-cbc", "hmac-md5-96/des-ede3-cbc"])
def test_tshark_shows_the_protected_register(tmp_path: Path, pair: str) -> None:
    assert shutil.which("tshark"), "install tshark"
    with plant(tmp_path) as running:
        gm, mw = Capture(running.network, "pcscf", "gm"), Capture(running.network, "pcscf", "mw")
        gm.start()
        mw.start()
        said = running.start(
            "ue", "ue", "ue", "register", f"--subscribers={SUBSCRIBERS}", "--json", f"--offer={pair}",
            "--address=10.45.0.2", "--pcscf=10.45.0.1",
        ).communicate(timeout=60)[0]  # fmt: skip
        outcome = json.loads(said)
        assert outcome["registered"], outcome
        gm.stop()
        mw.stop()
        gm.write(tmp_path / "gm.pcapng")
        mw.write(tmp_path / "mw.pcapng")
        rows = running.sas()
    challenge = next(
        bytes(packet[UDP].payload)
        for packet in (Ether(frame) for frame in mw.frames)
        if UDP in packet and b"401 " in bytes(packet[UDP].payload)[:16]
    ).decode()
    ck, ik = (re.search(rf'{name}="([0-9a-f]+)"', challenge)[1] for name in ("ck", "ik"))  # type: ignore[index]
    cipher_key = ck if "aes" in pair else ck + ck[:16]
    authentication_key = ik if "md5" in pair else ik + "00000000"
    encryption, authentication = SUITES[pair]
    options = ["-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"]
    options += ["-o", "udp.try_heuristic_first:TRUE", "-o", "tcp.try_heuristic_first:TRUE"]  # a UE's ports are any
    for row in rows:
        fields = ("IPv4", row.source, row.destination, f"0x{row.spi:08x}", encryption, f"0x{cipher_key}")
        line = ",".join(f'"{field}"' for field in (*fields, authentication, f"0x{authentication_key}"))
        options += ["-o", f"uat:esp_sa:{line}"]
    shown = subprocess.run(
        ["tshark", "-r", str(tmp_path / "gm.pcapng"), *options, "-Y", "esp && sip", "-T", "fields",
         "-e", "esp.spi", "-e", "esp.icv_good", "-e", "sip.Method", "-e", "sip.Status-Code",
         "-e", "sip.Security-Verify"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [int(line[0], 16) for line in lines] == [rows[0].spi, rows[2].spi], shown.stdout + shown.stderr
    assert [line[1] for line in lines] == ["1", "1"], "the ICV is good with the keys of Annex I"
    assert lines[0][2] == "REGISTER" and "ipsec-3gpp" in lines[0][4] and lines[1][3] == "200"
