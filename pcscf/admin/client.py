"""Asks the control socket of a running P-CSCF, for the commands."""

import json
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, TypeAdapter
from yarl import URL

from pcscf import PcscfError
from pcscf.admin.views import ExplanationRow, Hops, JournalRow, RegistrationRow, SaRow, Status
from pcscf.printable import printable

ANSWER_WITHIN = 10.0
LARGEST_PAGE = 5000
RowT = TypeVar("RowT", bound=BaseModel)


class ClientError(PcscfError):
    """The P-CSCF cannot be asked, or refuses; `str` is for people. `status`: that of HTTP, where one came."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class ControlClient:
    """Asks the control socket of a running P-CSCF. Every method raises ClientError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def status(self) -> Status:
        return Status.model_validate_json(await self._get("/api/status"))

    async def sas(self) -> list[SaRow]:
        return await self._all("/api/sas", SaRow)

    async def registrations(self) -> list[RegistrationRow]:
        """Every contact, the newest first."""
        return await self._all("/api/registrations", RegistrationRow)

    async def journal(self, after: int = 0) -> list[JournalRow]:
        return TypeAdapter(list[JournalRow]).validate_json(await self._get(f"/api/journal?after={after}"))

    async def hops(self) -> Hops:
        return Hops.model_validate_json(await self._get("/api/hops"))

    async def explain(self, ue: str) -> ExplanationRow:
        """Where the registration of a UE is, and why. A UE that is not known raises ClientError, too."""
        return ExplanationRow.model_validate_json(
            await self._get(f"/api/ues/{quote(printable(ue), safe='')}/explanation")
        )

    async def keys(self) -> str:
        """The lines of Wireshark's esp_sa; refused unless keys are exported."""
        try:
            return (await self._get("/api/keys")).decode()
        except ClientError as error:
            if error.status == 403:
                raise ClientError(
                    "this P-CSCF exports no keys; start it with `keys.file` in its configuration, or ESPKEYLOGFILE in "
                    "its environment"
                ) from error
            raise

    async def switch_hop(self, name: str, *, enabled: bool) -> None:
        """Take a next hop out of use, or back. A name that is none raises ClientError, too."""
        try:
            body = json.dumps({"enabled": enabled}).encode()
            await self._ask("PUT", f"/api/hops/{quote(printable(name), safe='')}", body)
        except ClientError as error:
            if error.status == 404:
                raise ClientError(f"no next hop {name}; `pcscf hops` shows their names") from error
            raise

    async def _all(self, path: str, model: type[RowT]) -> list[RowT]:
        """A list, page by page."""
        rows: list[RowT] = []
        while True:
            page = json.loads(await self._get(f"{path}?offset={len(rows)}&limit={LARGEST_PAGE}"))
            rows += TypeAdapter(list[model]).validate_python(page["items"])  # type: ignore[valid-type]
            if not page["items"] or len(rows) >= page["total"]:
                return rows

    async def _get(self, target: str) -> bytes:
        return await self._ask("GET", target)

    async def _ask(self, method: str, target: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._path)), timeout=timeout) as session,
                session.request(
                    method, URL(f"http://pcscf{target}", encoded=True), data=body, headers=headers
                ) as answer,
            ):
                said = await answer.read()
                if answer.status >= 400:
                    raise ClientError(_told(said), answer.status)
                return said
        except (aiohttp.ClientConnectorError, FileNotFoundError, ConnectionError, PermissionError) as error:
            if isinstance(getattr(error, "os_error", error), PermissionError):
                raise ClientError(
                    f"{self._path}: permission denied; only the user who runs the P-CSCF may ask"
                ) from error
            raise ClientError(
                f"no P-CSCF answers at {self._path}; start one with `pcscf run`, or give its socket with --control"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ClientError(f"{self._path}: {str(error) or 'no answer in time'}") from error


def _told(said: bytes) -> str:
    """What problem details tell (RFC 9457)."""
    try:
        return str(json.loads(said)["detail"])
    except (ValueError, KeyError, TypeError):
        return said.decode(errors="replace")
