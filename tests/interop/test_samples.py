"""pcap-samples opened by others: tshark with a profile of `pcscf keys --profile`, and scapy packet by packet."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP as ScapyEsp
from scapy.layers.ipsec import SecurityAssociation
from scapy.layers.l2 import Ether

from pcscf.capture.decryption import Cause, Decryption, KeyRing, Opened
from pcscf.capture.file import Reader
from pcscf.capture.frames import ESP, Datagram, Reassembly
from pcscf.cli import main
from tests.samples import FOLDER, README, Sample, make, samples
from xfrm.algorithms import Encryption, Integrity
from xfrm.wireshark import SaLine, read

SAMPLES = samples()
CIPHERS = {Encryption.NULL: "NULL", Encryption.AES_CBC: "AES-CBC", Encryption.DES_EDE3_CBC: "3DES"}
HASHES = {Integrity.HMAC_SHA_1_96: "HMAC-SHA1-96", Integrity.HMAC_MD5_96: "HMAC-MD5-96"}
FIELDS = ("esp.spi", "esp.icv_good", "esp.icv_bad", "sip.Method", "sip.Status-Code", "_ws.malformed")


def keys(sample: Sample) -> Path:
    return FOLDER / f"{sample.name}.esp_sa"


def capture(sample: Sample) -> Path:
    return FOLDER / f"{sample.name}.pcapng"


def follows(wanted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether all that is wanted is found in its order, with others in between."""
    left: Iterator[str] = iter(found)
    return all(each in left for each in wanted)


def tshark(sample: Sample, folder: Path) -> list[list[str]]:
    """What tshark shows of the ESP and SIP of a sample with the profile made of its keys."""
    config = folder / sample.name
    assert main(["keys", "--profile", str(config), "-k", str(keys(sample))]) == 0
    options = [item for field in FIELDS for item in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-r", str(capture(sample)), "-Y", "esp || sip", "-T", "fields", "-E", "occurrence=f", *options],
        capture_output=True, text=True, timeout=60, env={**os.environ, "WIRESHARK_CONFIG_DIR": str(config)},
    )  # fmt: skip
    assert done.returncode == 0 and "rror" not in done.stderr, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    folder = tmp_path_factory.mktemp("profiles")
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda sample: tshark(sample, folder), SAMPLES)
        return dict(zip((sample.name for sample in SAMPLES), found, strict=True))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_tshark_opens_it(sample: Sample, shown: dict[str, list[list[str]]]) -> None:
    rows = shown[sample.name]
    esp = [row for row in rows if row[0]]
    assert esp and not any(row[5] for row in rows), rows
    if sample.bad:
        assert {row[2] for row in esp} == {"1"}, "nothing that the UE sends verifies"
    else:
        assert {(row[1], row[2]) for row in esp} == {("1", "0")}, rows
    assert follows(sample.order, [row[3] or row[4] for row in rows]), rows


def test_a_profile_of_ones_own_is_chosen_by_its_name(tmp_path: Path) -> None:
    sample = next(each for each in SAMPLES if each.name == "aes-gmac-udp4")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESHARK", "XDG"))}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pcscf", "keys", "--profile", "gm", "-k", str(keys(sample))],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "wireshark -C gm CAPTURE\n"
    shown = subprocess.run(
        ["tshark", "-C", "gm", "-r", str(capture(sample)), "-Y", "esp.icv_good == 1 && sip.Method == INVITE"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(shown.stdout.splitlines()) == 1, shown.stdout + shown.stderr


def oracle(line: SaLine, packet: Datagram) -> bytes:
    """What scapy finds in an ESP packet."""
    gmac, aead = line.integrity is Integrity.AES_GMAC, line.encryption is Encryption.AES_GCM
    association = SecurityAssociation(
        ScapyEsp,
        spi=line.spi,
        crypt_algo="AES-NULL-GMAC" if gmac else "AES-GCM" if aead else CIPHERS[line.encryption],
        crypt_key=bytes(line.integrity_key if gmac else line.encryption_key),
        auth_algo=HASHES.get(line.integrity, "NULL"),
        auth_key=bytes(line.integrity_key) if line.integrity in HASHES else None,
    )
    data = packet.frame(ESP, packet.payload)[len(packet.link) :]
    opened = association.decrypt((IP if packet.version == 4 else IPv6)(data))
    return bytes(opened.payload)


def lines_of(sample: Sample) -> dict[int, SaLine]:
    found, complaints = read(keys(sample).read_text())
    assert not complaints
    return {line.spi: line for line in found if line.spi is not None}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_every_packet_is_what_scapy_finds(sample: Sample) -> None:
    lines = lines_of(sample)
    decryption, reassembly = Decryption(KeyRing(lines.values()), null_without_keys=False), Reassembly()
    opened = 0
    with Reader(capture(sample)) as reader:
        for packet in reader:
            datagram = reassembly.feed(1, packet.data)
            if not isinstance(datagram, Datagram) or datagram.protocol != ESP:
                continue
            found = decryption.open(datagram)
            if isinstance(found, Opened):
                assert oracle(lines[found.spi], datagram) == found.payload
                inside = Ether(datagram.frame(found.protocol, found.payload))
                assert inside.haslayer("UDP" if found.protocol == 17 else "TCP")
                opened += 1
    causes = {cause for cause, *_ in decryption.shut}
    assert causes == ({Cause.BAD_ICV} if sample.bad else {Cause.REPLAYED} if sample.replayed else set())
    assert bool(opened) is not sample.bad


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_ladder_has_its_messages(sample: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(capture(sample)), "-k", str(keys(sample)), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    said = [str(row["status"]) if row["status"] else row["method"] for row in rows if "status" in row]
    assert follows(sample.order, said), said
    assert all(row["spi"] for row in rows if row.get("method") not in ("REGISTER", None)), (
        "nothing but REGISTER in clear"
    )


def test_all_are_there_and_listed() -> None:
    names = {sample.name for sample in SAMPLES}
    assert {path.stem for path in FOLDER.glob("*.pcapng")} == names == {path.stem for path in FOLDER.glob("*.esp_sa")}
    page = (FOLDER / README).read_text()
    assert all(f"({name}.pcapng)" in page for name in names)
    assert max(path.stat().st_size for path in FOLDER.glob("*.pcapng")) < 60_000


def test_they_can_be_made_anew(tmp_path: Path) -> None:
    made = make(tmp_path, "replay")
    assert [sample.name for sample in made] == ["replay"]
    done = subprocess.run(
        [sys.executable, "-m", "pcscf", "decrypt", "replay.pcapng", "-k", "replay.esp_sa", "-o", "clear.pcapng"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "not opened, replayed: 1" in done.stderr, done.stderr
    assert b"MESSAGE sip:" in (tmp_path / "clear.pcapng").read_bytes()
