"""The port of the API and the page: how many may be connected to it."""

import asyncio
import contextlib
import socket
from pathlib import Path

from aiohttp import ClientConnectionError
from yarl import URL

from pcscf.admin.web import CONNECTIONS
from tests.unit.admin.serving import Operator, with_api


def test_octets_that_are_no_text_are_no_bug(tmp_path: Path) -> None:
    """Step 1, 20: `Bearer \\xff` was answered with 500 and a traceback, by whoever has no token."""

    async def work(operator: Operator) -> None:
        url = URL(operator.url)
        for name, status in ((b"Authorization: Bearer ", 401), (b"Authorization: \xff", 401), (b"Origin: ", 403)):
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(b"GET /api/status HTTP/1.1\r\nHost: 127.0.0.1\r\n" + name + b"\xff\xed\xb3\xbf\r\n\r\n")
            async with asyncio.timeout(5):
                assert (await reader.readline()).split()[1] == str(status).encode(), name
            writer.close()

    with_api(tmp_path, work)


def test_a_socket_that_listens_on_all_addresses_is_guarded(tmp_path: Path) -> None:
    """Step 1, 20: before it listens; what listens on loopback is not, since no phone is there."""
    for address, guarded, times in (("0.0.0.0", (), 1), ("127.0.0.1", ("127.0.0.1",), 1), ("127.0.0.1", (), 0)):
        seen: list[bool] = []

        def guard(bound: socket.socket, seen: list[bool] = seen) -> None:
            seen.append(bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)))

        async def work(operator: Operator) -> None:
            assert (await operator.asked("/api/status"))[0] == 200

        with_api(tmp_path, work, address=address, guard=guard, guarded=guarded)
        assert seen == [False] * times


def test_idle_connections_take_neither_the_descriptors_nor_the_page(tmp_path: Path) -> None:
    """Step 1, 6: who connects to the page and says nothing is one of a bounded number."""

    async def work(operator: Operator) -> None:
        url = URL(operator.url)
        with contextlib.ExitStack() as stack:
            idle = []
            for number in range(4 * CONNECTIONS):
                link = stack.enter_context(socket.create_connection((url.host, url.port)))
                link.setblocking(False)
                idle.append(link)
                if number % 16 == 0:
                    await asyncio.sleep(0)
            answered = 0
            async with asyncio.timeout(10):
                while answered != 200:  # one that comes in the middle of the crowd may have to come again
                    with contextlib.suppress(ClientConnectionError):
                        answered, _ = await operator.asked("/api/status")
            ended = 0
            for link in idle:
                with contextlib.suppress(BlockingIOError):
                    try:
                        ended += link.recv(1) == b""
                    except ConnectionResetError:
                        ended += 1
            assert len(idle) - ended <= 2 * CONNECTIONS

    with_api(tmp_path, work)
