"""Folders for what only we may write: tokens, the store, keys, the control socket.

Whoever may write into such a folder, or into one above it, can put a link or a file of their own in the place of ours.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

MOST_LINKS = 40
"""That the kernel follows on the way to one file."""


class Untrusted(OSError):
    """Somebody else may write there; `strerror` says what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(0, text)


def private_folder(folder: Path, *, mode: int = 0o700) -> None:
    """Make the folder if there is none. Raises OSError: it cannot be made, or is not ours alone to write into."""
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid not in _trusted():
        raise Untrusted(f"{folder} belongs to another user (uid {found.st_uid}); chown it to the user of the P-CSCF")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Untrusted(f"others may write into {folder}; chmod go-w {folder}, or name a folder within it")
    trusted_place(folder)


def trusted_place(path: Path) -> None:
    """Raises OSError where others can exchange `path` itself, or a link or a folder on the way to it.

    In a sticky folder, as /tmp, nobody can take away what is another's. The groups of root and our own are not others.
    """
    for above, name in _steps(path):
        found = above.stat()
        writers = found.st_mode & stat.S_IWOTH
        if found.st_gid not in (0, os.getegid()):
            writers |= found.st_mode & stat.S_IWGRP
        if found.st_uid not in _trusted():
            raise Untrusted(f"{above}, above {path}, belongs to another user (uid {found.st_uid}); name another place")
        if writers and not found.st_mode & stat.S_ISVTX:
            raise Untrusted(f"others may write into {above}, above {path}; chmod o-w {above}, or name another place")
        if writers and (above / name).is_symlink() and (above / name).lstat().st_uid not in _trusted():
            raise Untrusted(f"{above / name}, on the way to {path}, is a link of another user; name another place")


def _steps(path: Path) -> Iterator[tuple[Path, str]]:
    """Each folder that is looked into on the way, and for which name: link by link, as the kernel goes."""
    at = Path("/")
    links = 0
    ahead = [*reversed((Path.cwd() / path).parts[1:])]
    while ahead:
        name = ahead.pop()
        if name == "..":
            at = at.parent
            continue
        yield at, name
        if (at / name).is_symlink():
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            to = (at / name).readlink()
            ahead += reversed(to.parts[1:] if to.is_absolute() else to.parts)
            at = Path("/") if to.is_absolute() else at
        else:
            at /= name


def owned_file(path: Path, flags: int, *, secret: bool = True) -> int:
    """Open, or make with O_CREAT, a file that is ours, not through a link. Raises OSError that says what is wrong.

    The descriptor is one of an ordinary file that has one name, and that others cannot read if it is `secret`.
    """
    if path.is_symlink():
        raise Untrusted("a symbolic link; name the file itself, or remove it")
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    found = os.fstat(descriptor)
    wrong = ""
    if not stat.S_ISREG(found.st_mode):
        wrong = "not an ordinary file; name another"
    elif found.st_nlink > 1:
        wrong = "it has another name, too (a hard link); remove it"
    elif found.st_uid not in _trusted():
        wrong = "somebody else's; name another, or remove it"
    elif secret and found.st_mode & 0o077:
        wrong = f"others may read it; chmod 600 {path}"
    if wrong:
        os.close(descriptor)
        raise Untrusted(wrong)
    return descriptor


def _trusted() -> set[int]:
    """Users who can do no more harm than they can anyway: root, ourselves, and whoever became root by sudo."""
    ours = os.geteuid()
    called_by = os.environ.get("SUDO_UID", "") if ours == 0 else ""
    return {0, ours, *([int(called_by)] if called_by.isdigit() else [])}
