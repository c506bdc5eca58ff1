"""Keys for a capture that goes on: from a key file that grows, or from the P-CSCF that runs."""

import asyncio
from pathlib import Path

from pcscf.admin.client import ClientError, ControlClient
from pcscf.admin.views import SaRow
from pcscf.capture.file import CaptureError
from xfrm.wireshark import SaLine, read


class KeyFile:
    """Reads a file of esp_sa lines again whenever it has changed. It may come to be later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._was: tuple[int, int] | None = None
        self.trouble = ""

    def fresh(self) -> list[SaLine]:
        """The lines, if the file has changed. Raises CaptureError: it may not be read."""
        try:
            found = self._path.stat()
            now = found.st_size, found.st_mtime_ns
            if now == self._was:
                return []
            text = self._path.read_text(errors="replace")
        except FileNotFoundError:
            self.trouble = f"key file {self._path} is not there (yet)"
            return []
        except OSError as error:
            raise CaptureError(f"key file {self._path}: {error.strerror}") from error
        self._was, self.trouble = now, ""
        return read(text)[0]

    def describe(self, spi: int) -> str:
        return ""


class LiveKeys:
    """Asks the control socket of a P-CSCF. `trouble` says why there are no keys."""

    def __init__(self, control: Path) -> None:
        self._client = ControlClient(control)
        self._rows: dict[int, SaRow] = {}
        self.trouble = ""

    def fresh(self) -> list[SaLine]:
        """The keys of the SAs alive now."""
        try:
            text, rows = asyncio.run(self._ask())
        except ClientError as error:
            self.trouble = str(error)
            return []
        self.trouble = ""
        self._rows |= {row.spi: row for row in rows}
        return read(text)[0]

    async def _ask(self) -> tuple[str, list[SaRow]]:
        return await self._client.keys(), await self._client.sas()

    def describe(self, spi: int) -> str:
        row = self._rows.get(spi)
        if row is None:
            return ""
        ports = f"{row.source_port} → {row.destination_port}"
        return f"{'UE → P-CSCF' if row.uplink else 'P-CSCF → UE'} ports {ports} {row.impi}"
