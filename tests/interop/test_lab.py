"""`pcscf lab` as a newcomer runs it: the exit status, what it prints, the capture it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pcscf.lab.capture import tally
from tests.interop.plant import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


def lab(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pcscf", "lab", f"--output={folder}", *more],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_lab_verifies_three_ues(folder: Path) -> None:
    done = lab(folder, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["good"] and len(report["ues"]) == 3 and all(check["holds"] for check in report["checks"])
    assert [len(ue["sas"]) for ue in report["ues"]] == [4, 4, 4]
    assert {(sa["integrity"], sa["encryption"]) for ue in report["ues"] for sa in ue["sas"]} == {
        ("hmac-sha-1-96", "aes-cbc"),
        ("null", "aes-gcm"),
        ("aes-gmac", "null"),
    }
    for ue in report["ues"]:
        text = "\n".join(ue["ladder"])
        assert text.count("══ REGISTER ══ spi") == 1 and text.count("═ 200 OK ══ spi") == 1
        assert text.count("── clear ─") == 2
    assert "ck=" not in done.stdout and "ik=" not in done.stdout


def test_the_capture_it_leaves_is_readable_and_shows_the_same(folder: Path) -> None:
    from scapy.utils import rdpcap

    frames = [bytes(packet) for packet in rdpcap(str(folder / "gm.pcapng"))]
    esp, _ = tally(frames, {})
    assert len(esp) == 6 and sum(esp.values()) >= 6


def test_lab_prints_ladder_and_table(folder: Path) -> None:
    done = lab(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith("ESP backend   ")
    assert (
        done.stdout.rstrip()
        .splitlines()[-1]
        .startswith(
            "3 of 3 UEs registered; 12 SAs; every protected message seen as ESP in the capture and counted by its SA"
        )
    )


def test_lab_fails_when_a_ue_cannot_register(folder: Path, tmp_path: Path) -> None:
    """The core and the cards disagree about a key: the lab must say so and not end with 0."""
    text = (ROOT / "config" / "pcscf.toml").read_text()
    other = tmp_path / "pcscf.toml"
    other.write_text(text.replace('"aes-gmac/null",', ""))
    done = lab(folder, f"--config={other}")
    assert done.returncode == 1 and "not as it must be" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--config=nowhere.toml",), "nowhere.toml: No such file"),
        (("--subscribers=pyproject.toml",), "subscriber"),
    ],
)
def test_lab_says_what_is_wrong_with_its_files(folder: Path, more: tuple[str, ...], words: str) -> None:
    done = lab(folder, *more)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
