"""The control socket: the API on a Unix socket that only the owner of the process may open."""

import os
from pathlib import Path

from aiohttp import web

from pcscf import PcscfError
from pcscf.admin.access import OwnerOnly
from pcscf.admin.api import Service, application
from pcscf.admin.operations import OPERATIONS
from pcscf.folder import private_folder
from pcscf.unixsocket import clear_way


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
            private_folder(path.parent, mode=0o750)
            clear_way(path)
            await self._runner.setup()
            mask = os.umask(0o177)
            try:
                await web.UnixSite(self._runner, str(path)).start()
            finally:
                os.umask(mask)
        except OSError as error:
            raise ControlError(f"control socket {path}: {error.strerror}; set `control` to another place") from error
        self._own = True

    async def stop(self) -> None:
        await self._runner.cleanup()
        if self._own:
            self._path.unlink(missing_ok=True)
