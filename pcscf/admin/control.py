"""The control socket: a local HTTP service that only the owner of the process may ask, and its client.

`views` says what the answers look like.
"""

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from pcscf import PcscfError
from pcscf.admin import views
from pcscf.admin.facts import UnknownUe, explanation
from pcscf.admin.views import ExplanationRow, Hops, Inside, JournalRow, RegistrationRow, SaRow, Status, Switch
from xfrm.model import XfrmError
from xfrm.wireshark import line_of

INSIDE = web.AppKey("inside", Inside)
ANSWER_WITHIN = 10.0
RowT = TypeVar("RowT", bound=BaseModel)


class ControlError(PcscfError):
    """The control socket cannot be made or asked; `str` is for people. `status`: that of HTTP, where one came."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Control:
    """Serves one control socket. `start`, then `stop`."""

    def __init__(self, inside: Inside, path: Path) -> None:
        self._path = path
        app = web.Application()
        app[INSIDE] = inside
        app.add_routes(
            [
                web.get("/status", _status),
                web.get("/sas", _sas),
                web.get("/registrations", _registrations),
                web.get("/journal", _journal),
                web.get("/hops", _hops),
                web.get("/keys", _keys),
                web.get("/explain", _explain),
                web.post("/hops", _switch_hop),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
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


def _rows(rows: list[RowT]) -> web.Response:
    return web.json_response(text=f"[{','.join(row.model_dump_json() for row in rows)}]")


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _status(request: web.Request) -> web.Response:
    return web.json_response(text=request.app[INSIDE].status.model_dump_json())


async def _sas(request: web.Request) -> web.Response:
    inside = request.app[INSIDE]
    return _rows(views.sa_rows(inside.records(), inside.registrar, _now()))


async def _registrations(request: web.Request) -> web.Response:
    return _rows(views.registration_rows(request.app[INSIDE].registrar, _now()))


async def _journal(request: web.Request) -> web.Response:
    after = request.query.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) < 16):
        raise web.HTTPBadRequest(text=f"after={after[:20]} is no record number")
    return _rows(views.journal_rows(request.app[INSIDE].journal, int(after)))


async def _hops(request: web.Request) -> web.Response:
    return web.json_response(text=views.hop_rows(request.app[INSIDE].hops, _now()).model_dump_json())


async def _keys(request: web.Request) -> web.Response:
    inside = request.app[INSIDE]
    if not inside.key_export:
        raise web.HTTPForbidden(text="key export is off")
    return web.Response(text="".join(f"{line_of(each.sa)}\n" for each in inside.records()))


async def _explain(request: web.Request) -> web.Response:
    try:
        found = explanation(request.app[INSIDE], request.query.get("ue", ""), _now())
    except UnknownUe as error:
        raise web.HTTPNotFound(text=str(error)) from error
    except XfrmError as error:
        raise web.HTTPServiceUnavailable(text=f"the counters of SAs could not be read: {error}") from error
    return web.json_response(text=found.model_dump_json())


async def _switch_hop(request: web.Request) -> web.Response:
    try:
        wanted = Switch.model_validate_json(await request.read())
    except ValidationError as error:
        raise web.HTTPBadRequest(text="a JSON object with `name` and `enabled` is needed") from error
    if not request.app[INSIDE].switch_hop(wanted.name, enabled=wanted.enabled):
        raise web.HTTPNotFound(text=f"no next hop {wanted.name[:100]}")
    return web.Response(status=204)


class ControlClient:
    """Asks the control socket of a running P-CSCF. Every method raises ControlError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def status(self) -> Status:
        return Status.model_validate_json(await self._get("/status"))

    async def sas(self) -> list[SaRow]:
        return TypeAdapter(list[SaRow]).validate_json(await self._get("/sas"))

    async def registrations(self) -> list[RegistrationRow]:
        return TypeAdapter(list[RegistrationRow]).validate_json(await self._get("/registrations"))

    async def journal(self, after: int = 0) -> list[JournalRow]:
        return TypeAdapter(list[JournalRow]).validate_json(await self._get(f"/journal?after={after}"))

    async def hops(self) -> Hops:
        return Hops.model_validate_json(await self._get("/hops"))

    async def explain(self, ue: str) -> ExplanationRow:
        """Where the registration of a UE is, and why. A UE that is not known raises ControlError, too."""
        return ExplanationRow.model_validate_json(await self._get(f"/explain?ue={quote(ue, safe='')}"))

    async def keys(self) -> str:
        """The lines of Wireshark's esp_sa; refused unless keys are exported."""
        try:
            return (await self._get("/keys")).decode()
        except ControlError as error:
            if error.status == 403:
                raise ControlError(
                    "this P-CSCF exports no keys; start it with `keys.file` in its configuration, or ESPKEYLOGFILE in "
                    "its environment"
                ) from error
            raise

    async def switch_hop(self, name: str, *, enabled: bool) -> None:
        """Take a next hop out of use, or back. A name that is none raises ControlError, too."""
        try:
            await self._ask("POST", "/hops", Switch(name=name, enabled=enabled).model_dump_json().encode())
        except ControlError as error:
            if error.status == 404:
                raise ControlError(f"no next hop {name}; `pcscf hops` shows their names") from error
            raise

    async def _get(self, target: str) -> bytes:
        return await self._ask("GET", target)

    async def _ask(self, method: str, target: str, body: bytes | None = None) -> bytes:
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._path)), timeout=timeout) as session,
                session.request(method, f"http://pcscf{target}", data=body) as answer,
            ):
                said = await answer.read()
                if answer.status >= 400:
                    raise ControlError(said.decode(errors="replace"), answer.status)
                return said
        except (aiohttp.ClientConnectorError, FileNotFoundError, ConnectionError, PermissionError) as error:
            if isinstance(getattr(error, "os_error", error), PermissionError):
                raise ControlError(
                    f"{self._path}: permission denied; only the user who runs the P-CSCF may ask"
                ) from error
            raise ControlError(
                f"no P-CSCF answers at {self._path}; start one with `pcscf run`, or give its socket with --control"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ControlError(f"{self._path}: {str(error) or 'no answer in time'}") from error
