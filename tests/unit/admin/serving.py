"""A server with a fake kernel whose API is served on a TCP port of loopback, and somebody who asks."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from pcscf.admin.access import Scope, Tokens
from pcscf.admin.api import Service, service_of
from pcscf.admin.web import Web
from pcscf.server import Server
from tests.fake_kernel import FakeKernel
from tests.unit.test_server import config
from xfrm.backend import Choice


class Operator:
    """Asks with a token. `asked` gives status and what came: JSON decoded, else text."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, server: Server, service: Service, folder: Path
    ) -> None:
        self.session = session
        self.url = url
        self.server = server
        self.service = service
        self.folder = folder

    def token(self, scope: Scope) -> str:
        return (self.folder / scope.file).read_text().strip()

    async def asked(
        self,
        target: str,
        method: str = "GET",
        *,
        scope: Scope | None = Scope.ADMIN,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        more = dict(headers or {})
        if scope is not None:
            more.setdefault("Authorization", f"Bearer {self.token(scope)}")
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if data is not None:
            more.setdefault("Content-Type", "application/json")
        async with self.session.request(
            method, URL(f"{self.url}{target}", encoded=True), data=data, headers=more
        ) as answer:
            raw = await answer.read()
            if "json" in answer.content_type:
                return answer.status, json.loads(raw)
            return answer.status, raw

    async def got(self, target: str, **more: Any) -> Any:
        """What must be there."""
        status, said = await self.asked(target, **more)
        assert status in (200, 204), (status, said)
        return said


def with_api(
    folder: Path,
    work: Callable[[Operator], Awaitable[None]],
    *,
    reload: Callable[[], tuple[list[str], list[str]]] = lambda: ([], []),
    origins: tuple[str, ...] = (),
    address: str = "127.0.0.1",
    refused: tuple[str, ...] = (),
    guard: Callable[[socket.socket], None] = lambda bound: None,
    guarded: tuple[str, ...] = (),
) -> None:
    """Serve, ask, and end everything."""

    async def run() -> None:
        server = Server(config(), Choice(FakeKernel(), "a test"))
        await server.start()
        service = service_of(server, reload)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        web = Web(
            service, Tokens(folder, origins), IPv4Address(address), port,
            origins=origins, refused=[IPv4Address(each) for each in refused],
            guard=guard, guarded=[IPv4Address(each) for each in guarded],
        )  # fmt: skip
        await web.start()
        service.history.start()
        try:
            async with aiohttp.ClientSession() as session:
                await work(
                    Operator(session, web.url.rstrip("/").replace("0.0.0.0", "127.0.0.1"), server, service, folder)
                )
        finally:
            await service.feed.stop()
            await service.history.stop()
            await web.stop()
            await server.stop()

    asyncio.run(run())
