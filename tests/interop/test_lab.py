"""`pcscf lab` as a newcomer runs it: the exit status, what it prints, the capture it leaves."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from pcscf.lab.capture import clear_sip, tally
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
    assert [len(ue["sas"]) for ue in report["ues"]] == [8, 4, 4], "the first has an old set, too"
    states = [[sa["state"] for sa in ue["sas"][::4]] for ue in report["ues"]]
    assert states == [["old", "active"], ["active"], ["active"]]
    assert {(sa["integrity"], sa["encryption"]) for ue in report["ues"] for sa in ue["sas"]} == {
        ("hmac-sha-1-96", "aes-cbc"),
        ("null", "aes-gcm"),
        ("aes-gmac", "null"),
    }
    assert all(step["ok"] for step in report["steps"]) and not report["left_out"]
    sas = [step["sas"] for step in report["steps"]]
    assert sas[:3] == [4, 8, 12] and set(sas[3:]) == {12, 16}
    for ue in report["ues"]:
        text = "\n".join(ue["ladder"])
        assert text.count("── clear ─") == 2 and 10 <= len(ue["ladder"]) <= 65
    caller, called, _ = ("\n".join(ue["ladder"]) for ue in report["ues"])
    for method in ("INVITE", "PRACK", "UPDATE", "ACK"):
        assert f"══ {method} ══ spi" in caller and f"◀═ {method} ══ spi" in called
    assert "◀═ BYE ══ spi" in caller and caller.count("4 SAs installed") == 2
    assert "ck=" not in done.stdout and "ik=" not in done.stdout


def test_the_capture_it_leaves_is_readable_and_shows_the_same(folder: Path) -> None:
    from scapy.utils import rdpcap

    frames = [bytes(packet) for packet in rdpcap(str(folder / "gm.pcapng"))]
    esp, _ = tally(frames, {})
    assert len(esp) == 8, "two of each set carry something"
    assert sum(esp.values()) > 60
    assert len(clear_sip(frames)) == 6


def test_lab_prints_ladder_and_table(folder: Path) -> None:
    started = time.monotonic()
    done = lab(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith("ESP backend   ")
    assert (
        done.stdout.rstrip()
        .splitlines()[-1]
        .startswith(
            "3 of 3 UEs registered, wrote, called and left; 16 SAs; every protected message seen as ESP in the capture "
            "and counted by its SA"
        )
    )
    assert time.monotonic() - started < 20


def configured(folder: Path, algorithms: str) -> str:
    text = re.sub(
        r"algorithms = \[.*?\]",
        f"algorithms = [{algorithms}]",
        (ROOT / "config" / "pcscf.toml").read_text(),
        flags=re.S,
    )
    (folder / "pcscf.toml").write_text(text)
    return f"--config={folder / 'pcscf.toml'}"


def test_lab_fails_when_an_sa_is_another_than_it_must_be(folder: Path, tmp_path: Path) -> None:
    """Everything works, but with another algorithm than the one the third UE wants first."""
    other = configured(tmp_path, '"null/aes-gcm", "hmac-sha-1-96/aes-cbc", "hmac-sha-1-96/null"')
    done = lab(folder, other)
    assert done.returncode == 1 and "not as it must be: UE 3" in done.stdout, done.stdout + done.stderr
    assert "FAILED" not in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_lab_fails_when_a_ue_cannot_register(folder: Path, tmp_path: Path) -> None:
    """It says what failed and what was not done, and still shows the ladder up to there."""
    done = lab(folder, configured(tmp_path, '"null/aes-gcm"'))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in done.stdout and "not as it must be: UE 1: register" in done.stdout
    assert "not as it must be: not done: UE 1: call" in done.stdout and "── REGISTER ── clear" in done.stdout
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


def test_it_can_be_watched_until_interrupted(tmp_path: Path) -> None:
    lab = subprocess.Popen(
        [sys.executable, "-m", "pcscf", "lab", f"--output={tmp_path}", "--watch"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert lab.stderr is not None
    try:
        line = next(line for line in lab.stderr if "dashboard" in line)
        url, _, token = line.split()[1].partition("#token=")
        request = urllib.request.Request(f"{url}api/samples", headers={"Authorization": f"Bearer {token}"})
        end = time.monotonic() + 60
        # Told once to the end, and begun again: they are registered, gone, and registered again.
        for wanted in (3, 0, 3):
            while True:
                assert lab.poll() is None and time.monotonic() < end
                with urllib.request.urlopen(request, timeout=10) as answer:
                    samples = json.load(answer)
                if samples and samples[-1]["registered"] == wanted:
                    break
                time.sleep(0.2)
    finally:
        lab.send_signal(signal.SIGINT)
        lab.communicate(timeout=60)
    assert lab.returncode == 130
    assert "pcscf-lab" not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
