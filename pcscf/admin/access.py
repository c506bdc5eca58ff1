"""Who may ask what of the API: bearer tokens in files of the state directory, and web pages of which origin.

No cookies: a browser sends nothing of its own accord, so that a page elsewhere can do nothing in an operator's name.
"""

import hmac
import os
import re
import secrets
from collections.abc import Sequence
from enum import IntEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import web

from pcscf import PcscfError
from pcscf.admin.problem import Refused
from pcscf.folder import owned_file, private_folder

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)


class AccessError(PcscfError):
    """Tokens cannot be made or read; `str` is for people."""


class Scope(IntEnum):
    """What a token is good for; each includes those before it."""

    READ = 1
    """To look: for Prometheus, and for people who only watch."""
    ADMIN = 2
    """To act."""
    KEYS = 3
    """To read keys, while key export is on."""

    @property
    def file(self) -> str:
        return f"{self.name.lower()}.token"


class Access(Protocol):
    """Says what a request may do."""

    def scope(self, request: web.Request) -> Scope:
        """Raises Refused: 401, 403."""


class Hosts:
    """Under which names a browser may come. Whoever owns another name can point it here: DNS rebinding.

    An address cannot be pointed elsewhere, nor can `localhost`; of the rest those of the operator's origins are good.
    """

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._names = {"localhost", *(urlsplit(each).hostname or "" for each in origins)} - {""}

    def admit(self, request: web.Request) -> None:
        """Raises Refused: 421 for a request to a name that is not ours."""
        given = request.headers.getall("Host", [])
        if len(given) != 1 or not self._is_ours(given[0]):
            named = (
                f"is not called {given[0][:100]}" if len(given) == 1 else "needs to know under which name it is asked"
            )
            raise Refused(
                421, f"this API {named}; ask it by address, or put the origin of that name into admin.origins"
            )

    def _is_ours(self, given: str) -> bool:
        found = _HOST.fullmatch(given)
        if found is None:
            return False
        host = found[1].lower()
        if host in self._names:
            return True
        try:
            ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


class OwnerOnly:
    """For the control socket, which the file system lets nobody else open."""

    def scope(self, request: web.Request) -> Scope:
        return Scope.KEYS


class Tokens:
    """For TCP: one token for each scope, made at first start. `origins` may call beside the page itself."""

    def __init__(self, folder: Path, origins: Sequence[str] = ()) -> None:
        """Raises AccessError."""
        try:
            private_folder(folder)
            self._tokens = {scope: _token(folder / scope.file) for scope in Scope}
        except OSError as error:
            raise AccessError(
                f"state directory {folder}: {error.strerror}; set `state` to a place you may write, or admin.enabled = "
                "false"
            ) from error
        self._origins = frozenset(origins)

    def scope(self, request: web.Request) -> Scope:
        """Raises Refused: 403 for a page of another origin, 401 without a token of ours."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._origins and origin != f"{request.scheme}://{request.host}":
            raise Refused(403, f"a page of {origin[:100]} may not call this API; admin.origins says which may")
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            octets = given.strip().encode("utf-8", "surrogateescape")  # a header need be no UTF-8
            for scope, token in self._tokens.items():
                if hmac.compare_digest(octets, token.encode()):
                    return scope
        raise Refused(
            401, "a bearer token is needed; it lies in the state directory of the P-CSCF, as it said at start"
        )


def _token(path: Path) -> str:
    """The token of a file that only its owner may read; made where there is none. Raises OSError, AccessError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        try:
            descriptor = owned_file(path, os.O_RDONLY)
        except OSError as error:
            raise AccessError(f"token {path}: {error.strerror}") from None
        with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
            found = file.readline().strip()
        if len(found) < 32:
            raise AccessError(f"token {path}: too short to be one; remove it, and it is made anew") from None
        return found
    made = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{made}\n")
    return made
