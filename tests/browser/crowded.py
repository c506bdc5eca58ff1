"""`python -m tests.browser.crowded FOLDER PORT UES`: a P-CSCF with a fake kernel and so many registrations.

They are made in the core, without sockets. Then it serves the API and does what standard input says, a line each:
`cpu` prints its CPU seconds; `events RATE SECONDS` refuses messages in clear, at about three journal records each.
"""

import asyncio
import logging
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

from pcscf.admin.access import Tokens
from pcscf.admin.api import service_of
from pcscf.admin.web import Web
from pcscf.server import settle_memory
from tests.crowd import Crowd


async def main(folder: Path, port: int, ues: int) -> None:
    logging.getLogger("pcscf").setLevel(logging.ERROR)
    settle_memory()
    crowd = Crowd(ues)
    service = service_of(crowd.server, lambda: ([], []))
    web = Web(service, Tokens(folder), IPv4Address("127.0.0.1"), port)
    await web.start()
    service.history.start()
    settle_memory()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    number = 0
    while line := (await reader.readline()).decode().split():
        if line[0] == "events":
            rate, end = float(line[1]), time.monotonic() + float(line[2])
            due = time.monotonic()
            while time.monotonic() < end:
                number += 1
                crowd.refuse(number % ues)
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        print(time.process_time(), flush=True)
    await service.feed.stop()
    await service.history.stop()
    await web.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
