"""The key file: appended, private, and never a reason to refuse a UE."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pcscf.keylog import KeyLog, KeyLogError, open_key_log
from tests.unit.capture.made import association
from xfrm.algorithms import Pair
from xfrm.wireshark import line_of, read

SA = association(Pair.parse("hmac-sha-1-96/aes-cbc"), 4)
GMAC = association(Pair.parse("aes-gmac/null"), 4, spi=9)


def test_sets_are_appended_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for sas in ((SA, GMAC), (GMAC,)):
        log = KeyLog(path)
        log.add(sas)
        log.close()
    lines = path.read_text().splitlines()
    assert [line for line in lines if not line.startswith("# 2")] == [line_of(SA), line_of(GMAC), line_of(GMAC)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert read(path.read_text())[1] == []


def test_what_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o640)
    with pytest.raises(KeyLogError, match="others may read it; chmod 600"):
        KeyLog(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(KeyLogError, match="symbolic link"):
        KeyLog(link)
    with pytest.raises(KeyLogError, match="no/keys: No such file"):
        KeyLog(tmp_path / "no" / "keys")
    with pytest.raises(KeyLogError, match="not an ordinary file"):
        KeyLog(Path("/dev/null"))


def test_a_full_disk_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = KeyLog(tmp_path / "keys")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.add([SA])
        log.add([SA])
    log.add([SA])
    log.close()
    assert [record.message for record in caplog.records] == [
        f"key file {tmp_path / 'keys'}: No space left on device; keys are missing from it"
    ]
    assert line_of(SA) in (tmp_path / "keys").read_text(), "it goes on when there is space again"


def test_the_configuration_goes_before_the_environment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = open_key_log(str(tmp_path / "a"), {"ESPKEYLOGFILE": str(tmp_path / "b")})
    assert log is not None and log.path == tmp_path / "a" and not (tmp_path / "b").exists()
    log.close()
    assert "KEY EXPORT IS ON" in caplog.text


def test_without_export_no_core_is_left() -> None:
    script = (
        "import ctypes, resource, pcscf.keylog as k; dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0); "
        "print(dumpable(), k.open_key_log('', {}), dumpable(), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "1 None 0 (0, 0)\n"
