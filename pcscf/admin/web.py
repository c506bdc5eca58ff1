"""The API and the page for operators on a TCP port, behind tokens."""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address

from aiohttp import web

from pcscf import PcscfError, service
from pcscf.admin.access import Access
from pcscf.admin.api import Service, application
from pcscf.admin.operations import OPERATIONS
from xfrm.model import bracketed

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


class WebError(PcscfError):
    """The port cannot be had; `str` is for people."""


class Web:
    """Serves on one address and port, or on the socket that a service manager gives. `start`, then `stop`."""

    def __init__(self, work: Service, access: Access, address: IPv4Address | IPv6Address, port: int) -> None:
        self._address = address
        self._port = port
        app = application(work, access, OPERATIONS)
        for path, (name, media) in PAGE.items():
            app.router.add_get(path, _file(name, media))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{bracketed(self._address)}:{self._port}/"

    async def start(self) -> None:
        """Listen. Raises WebError."""
        await self._runner.setup()
        try:
            given = service.listening_socket()
            if given is not None:
                await web.SockSite(self._runner, given).start()
            else:
                await web.TCPSite(self._runner, str(self._address), self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise WebError(
                f"admin API at {self._address} port {self._port}: {error.strerror}; set admin.address and admin.port, "
                "or admin.enabled = false"
            ) from error

    async def stop(self) -> None:
        await self._runner.cleanup()


def _file(name: str, media: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    body = files("pcscf.admin").joinpath("page", name).read_bytes()

    async def give(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=media, charset="utf-8", headers=HEADERS)

    return give
