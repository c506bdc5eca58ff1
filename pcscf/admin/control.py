"""The control socket: the API on a Unix socket that only the owner of the process may open."""

import os
import socket
import stat
from pathlib import Path

from aiohttp import web

from pcscf import PcscfError
from pcscf.admin.access import OwnerOnly
from pcscf.admin.api import Service, application
from pcscf.admin.operations import OPERATIONS


class ControlError(PcscfError):
    """The control socket cannot be made; `str` is for people."""


class Control:
    """Serves one control socket. `start`, then `stop`."""

    def __init__(self, service: Service, path: Path) -> None:
        self._path = path
        self._runner = web.AppRunner(application(service, OwnerOnly(), OPERATIONS), access_log=None)
        self._own = False

    async def start(self) -> None:
        """Listen with mode 0600. Raises ControlError: another instance listens there, or the place is not writable."""
        path = self._path
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            _clear_way(path)
            await self._runner.setup()
            mask = os.umask(0o177)
            try:
                await web.UnixSite(self._runner, str(path)).start()
            finally:
                os.umask(mask)
        except OSError as error:
            raise ControlError(
                f"control socket {path}: {error.strerror}; set `control` to a place you may write"
            ) from error
        self._own = True

    async def stop(self) -> None:
        await self._runner.cleanup()
        if self._own:
            self._path.unlink(missing_ok=True)


def _clear_way(path: Path) -> None:
    """Remove the socket of a process that is gone; nothing else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError(f"control socket {path}: something else is there; set `control` to another place")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ControlError(f"control socket {path}: another P-CSCF is running with it")
