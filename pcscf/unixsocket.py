"""The place of a Unix socket that we are to listen on."""

import errno
import socket
import stat
from pathlib import Path


def clear_way(path: Path) -> None:
    """Remove the socket of a process that is gone; nothing else. Raises OSError, in words for people."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "something else is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another process is running with it")
