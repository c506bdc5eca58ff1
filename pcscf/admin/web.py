"""The API and the page for operators on a TCP port, behind tokens, under names of ours, and never for phones."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence, Set
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import web

from pcscf import PcscfError, service
from pcscf.admin.access import Access, Hosts
from pcscf.admin.api import Service, application
from pcscf.admin.operations import OPERATIONS
from xfrm.model import IPAddress, bracketed

PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/ladder.js": ("ladder.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/api.js": ("api.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


CONNECTIONS = 128
"""At this many those of the older half end that have no request in work."""
IDLE = 75.0
"""Seconds that a connection stays after an answer."""


class Site(web.BaseSite):
    """Serves on a listening socket, with no more connections than the P-CSCF can spare descriptors for.

    aiohttp bounds neither their number nor the time until the first request. `refused`: as of `Web`.
    """

    __slots__ = ("_busy", "_refused", "_socket")

    def __init__(
        self, runner: web.AppRunner, listening: socket.socket, busy: Set[object], refused: Collection[IPAddress]
    ) -> None:
        super().__init__(runner)
        self._socket = listening
        self._busy = busy
        self._refused = refused

    @property
    def name(self) -> str:
        return str(self._socket.getsockname())

    async def start(self) -> None:
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(self._at_the_door, sock=self._socket)

    def _at_the_door(self) -> asyncio.Protocol:
        return _Door(self._connection, self._refused)

    def _connection(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None
        there = server.connections
        if len(there) >= CONNECTIONS:
            for connection in there[: CONNECTIONS // 2]:
                if connection not in self._busy:
                    connection.force_close()
        return server() if len(there) < 2 * CONNECTIONS else _Refused()


class _Refused(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class WebError(PcscfError):
    """The port cannot be had; `str` is for people."""


class Web:
    """Serves on one address and port, or on the socket that a service manager gives. `start`, then `stop`.

    `origins`: their hosts are names of ours. `refused`: own addresses at which nobody is served, as those of Gm where
    it listens on all. `guard` is given what listens on all addresses, or on one of the core's side, since a phone may
    have a way there through this host; `guarded` are those of the core's side.
    """

    def __init__(
        self,
        work: Service,
        access: Access,
        address: IPv4Address | IPv6Address,
        port: int,
        *,
        origins: Sequence[str] = (),
        refused: Collection[IPAddress] = (),
        guard: Callable[[socket.socket], None] = lambda listening: None,
        guarded: Collection[IPAddress] = (),
    ) -> None:
        self._address = address
        self._port = port
        self._guard = guard
        self._guarded = frozenset(guarded)
        self._refused = frozenset(refused)
        self._hosts = Hosts(origins)
        app = application(work, access, OPERATIONS)
        app.middlewares.append(self._under_our_name)
        for path, (name, media) in PAGE.items():
            app.router.add_get(path, _file(name, media))
        self._busy: set[object] = set()
        """Connections with a request in work."""
        app.middlewares.append(self._note_busy)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=IDLE)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{bracketed(self._address)}:{self._port}/"

    async def start(self) -> None:
        """Listen. Raises WebError."""
        await self._runner.setup()
        try:
            listening = service.listening_socket() or self._bound()
            own = _address(listening.getsockname())
            if own is not None and (own.is_unspecified or own in self._guarded):
                self._guard(listening)
            await Site(self._runner, listening, self._busy, self._refused).start()
        except OSError as error:
            await self._runner.cleanup()
            raise WebError(
                f"admin API at {self._address} port {self._port}: {error.strerror}; set admin.address and admin.port, "
                "or admin.enabled = false"
            ) from error

    def _bound(self) -> socket.socket:
        """Not listening yet: nobody connects before it is guarded. Raises OSError."""
        bound = socket.socket(socket.AF_INET if self._address.version == 4 else socket.AF_INET6)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._address.version == 6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((str(self._address), self._port))
        except OSError:
            bound.close()
            raise
        return bound

    async def stop(self) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _note_busy(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._busy.add(request.protocol)
        try:
            return await handler(request)
        finally:
            self._busy.discard(request.protocol)

    @web.middleware
    async def _under_our_name(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._hosts.admit(request)
        return await handler(request)


class _Door(asyncio.Protocol):
    """Looks at which address of ours a connection has come to, before a byte of it is read."""

    def __init__(self, admitted: Callable[[], asyncio.BaseProtocol], refused: Collection[IPAddress]) -> None:
        self._admitted = admitted
        self._refused = refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if _own_address(transport) in self._refused:
            transport.abort()
            return
        protocol = self._admitted()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _own_address(transport: asyncio.Transport) -> IPAddress | None:
    return _address(transport.get_extra_info("sockname"))


def _address(name: object) -> IPAddress | None:
    """None on a Unix socket."""
    if not isinstance(name, tuple):
        return None
    address = ip_address(str(name[0]).partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _file(name: str, media: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    body = files("pcscf.admin").joinpath("page", name).read_bytes()

    async def give(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=media, charset="utf-8", headers=HEADERS)

    return give
