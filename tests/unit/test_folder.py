"""Folders and files that only we may write: what somebody else could exchange is refused, and said so."""

import asyncio
import os
from pathlib import Path

import pytest

from pcscf.admin.access import AccessError, Scope, Tokens
from pcscf.admin.control import Control, ControlError
from pcscf.capture.file import CaptureError
from pcscf.capture.live import Recorder
from pcscf.folder import Untrusted, private_folder, trusted_place
from pcscf.keylog import KeyLog, KeyLogError
from pcscf.store import FILE, Store, StoreError

STRANGER = 54_321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


def test_a_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    private_folder(tmp_path / "a" / "b")


def test_a_link_that_an_administrator_made_is_followed(tmp_path: Path) -> None:
    """As /var/lib/pcscf is one to /var/lib/private/pcscf under systemd's DynamicUser."""
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "private")
    store = Store(tmp_path / "state")
    store.close()
    assert (tmp_path / "private" / FILE).exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777, 0o777])
def test_where_others_may_write_nothing_is_kept(mode: int, tmp_path: Path) -> None:
    """Step 1, 14."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    told = f"others may write into {folder}; chmod go-w {folder}"
    with pytest.raises(StoreError, match=told):
        Store(folder)
    with pytest.raises(AccessError, match=told):
        Tokens(folder)
    assert not list(folder.iterdir())


def test_nor_below_such_a_folder_unless_it_is_sticky(tmp_path: Path) -> None:
    """Step 1, 14: whoever may write above may exchange what is below."""
    shared = tmp_path / "shared"
    (shared / "ours").mkdir(parents=True, mode=0o700)
    shared.chmod(0o777)
    with pytest.raises(Untrusted, match=f"others may write into {shared}, above"):
        private_folder(shared / "ours")
    with pytest.raises(KeyLogError, match="others may write"):
        KeyLog(shared / "keys")
    shared.chmod(0o1777)  # as /tmp
    private_folder(shared / "ours")
    log = KeyLog(shared / "keys")
    log.close()


def test_every_link_on_the_way_lies_where_nobody_else_may_write(tmp_path: Path) -> None:
    """Step 1, 14: `a/link -> x/link2 -> c` was trusted although anybody could turn `link2` around in x."""
    for name in ("a", "x", "c", "c/state"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "x" / "second").symlink_to("../c")
    (tmp_path / "a" / "first").symlink_to(tmp_path / "x" / "second")
    for named in ("a/first", "a/first/state", "a/first/../c/state", "x/../a/first/state"):
        private_folder(tmp_path / named)
    (tmp_path / "x").chmod(0o777)
    for named in ("a/first", "a/first/state", "a/first/../c/state", "x/../a/first/state"):
        with pytest.raises(Untrusted, match=f"others may write into {tmp_path / 'x'}, above"):
            private_folder(tmp_path / named)
    private_folder(tmp_path / "c")
    (tmp_path / "x").chmod(0o755)
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="Too many levels"):
        trusted_place(tmp_path / "round" / "file")


@needs_root
def test_a_link_of_somebody_else_in_a_sticky_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1, 14: it is theirs, so they can turn it around."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "ours").mkdir(mode=0o700)
    link = tmp_path / "sticky" / "link"
    link.symlink_to(tmp_path / "ours")
    trusted_place(link / "file")
    os.lchown(link, STRANGER, STRANGER)
    with pytest.raises(Untrusted, match="is a link of another user"):
        trusted_place(link / "file")
    with pytest.raises(OSError, match=r"another user|Permission denied"):
        private_folder(link)


@needs_root
def test_nor_where_somebody_else_owns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 14; who became root by sudo may own it."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    (tmp_path / "theirs" / "ours").mkdir(parents=True, mode=0o700)
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    with pytest.raises(Untrusted, match=f"belongs to another user .uid {STRANGER}.; chown it"):
        private_folder(tmp_path / "theirs")
    with pytest.raises(Untrusted, match=r"above .*, belongs to another user"):
        private_folder(tmp_path / "theirs" / "ours")
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    private_folder(tmp_path / "theirs" / "ours")
    trusted_place(tmp_path / "theirs" / "ours")


def test_no_link_and_no_second_name_is_opened(tmp_path: Path) -> None:
    """Step 1, 14: store and tokens went where links led."""
    victim = tmp_path / "victim"
    victim.write_text("x" * 64)
    victim.chmod(0o600)
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    for name in (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal"):
        (folder / name).symlink_to(victim)
        with pytest.raises(StoreError, match="link"):
            Store(folder)
        (folder / name).unlink()
    (folder / FILE).unlink(missing_ok=True)
    os.link(victim, folder / FILE)
    with pytest.raises(StoreError, match="another name"):
        Store(folder)
    (folder / Scope.READ.file).symlink_to(victim)
    with pytest.raises(AccessError, match=r"read\.token: a symbolic link"):
        Tokens(folder)
    (folder / Scope.READ.file).unlink()
    os.mkfifo(folder / Scope.READ.file, 0o600)
    with pytest.raises(AccessError, match="not an ordinary file"):
        Tokens(folder)
    os.link(victim, tmp_path / "keys")
    with pytest.raises(KeyLogError, match="another name"):
        KeyLog(tmp_path / "keys")
    with pytest.raises(CaptureError, match="another name"):
        Recorder(tmp_path / "keys", "lo", 1)
    (tmp_path / "capture").symlink_to(victim)
    with pytest.raises(CaptureError, match="symbolic link"):
        Recorder(tmp_path / "capture", "lo", 1)
    assert victim.read_text() == "x" * 64


@needs_root
@pytest.mark.parametrize("name", [FILE, "read.token"])
def test_no_file_of_somebody_else_is_opened(name: str, tmp_path: Path) -> None:
    """Step 1, 14."""
    (tmp_path / name).write_text("x" * 64)
    (tmp_path / name).chmod(0o600)
    os.chown(tmp_path / name, STRANGER, STRANGER)
    with pytest.raises((StoreError, AccessError), match="somebody else's"):
        Store(tmp_path) if name == FILE else Tokens(tmp_path)


def test_a_store_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / FILE).touch(mode=0o644)
    Store(tmp_path).close()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_control_socket_has_its_folder_for_itself(tmp_path: Path) -> None:
    """Step 1, 14."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(ControlError, match=r"others may write into .*; chmod go-w"):
        asyncio.run(Control(None, tmp_path / "run" / "control.sock").start())  # type: ignore[arg-type]
