"""The port of the API and the page: how many may be connected to it."""

import asyncio
import contextlib
import socket
from pathlib import Path

from aiohttp import ClientConnectionError
from yarl import URL

from pcscf.admin.web import CONNECTIONS
from tests.unit.admin.serving import Operator, with_api


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
