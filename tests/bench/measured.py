"""The proxy that is measured: a process of its own with nothing else in it, which says its CPU time when asked."""

import asyncio
import json
import os
import subprocess
import sys
import time
from enum import Enum
from ipaddress import IPv4Address
from typing import Self

from pcscf.admin.access import OwnerOnly
from pcscf.admin.api import service_of
from pcscf.admin.web import Web
from pcscf.config import Config
from pcscf.observe import Journal, Record
from pcscf.server import Server, settle_memory
from tests.fake_kernel import FakeKernel
from xfrm.backend import Backend, Choice
from xfrm.kernel import Kernel

GM, MW, CORE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
CORE_PORT = 5080
PAGE_PORT = 8072


def backend(name: str) -> Backend:
    return Kernel() if name == "kernel" else FakeKernel()


class NoJournal(Journal):
    """Forgets at once: what it would cost to have none."""

    def append(self, record: Record) -> None:
        pass


def config(*, message_memory: int = 16) -> Config:
    return Config(
        admin={"message_memory": message_memory},  # type: ignore[arg-type]
        visited_network="bench",
        gm={"addresses": [GM]},  # type: ignore[arg-type]
        mw={  # type: ignore[arg-type]
            "addresses": [MW],
            "probe_interval": 0,
            "next_hops": [{"uri": f"sip:{CORE}:{CORE_PORT}"}],
        },
        ipsec={"legacy_algorithms": True},  # type: ignore[arg-type]
        reg_event={"enabled": False},  # type: ignore[arg-type]
    )


class Seen(Enum):
    """How much is kept of what happens, and who looks."""

    AS_IS = "journal and messages are kept"
    NOT = "nothing is kept"
    BY_A_PAGE = "kept, metrics are read, and a page is open"


class MeasuredProxy:
    """A proxy process on a backend, from entering to leaving."""

    def __init__(self, name: str, seen: Seen = Seen.AS_IS) -> None:
        command = [sys.executable, "-m", "tests.bench.measured", name, seen.value]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._page: subprocess.Popen[bytes] | None = None
        self._seen = seen

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"started\n", "the proxy did not start"
        if self._seen is Seen.BY_A_PAGE:
            page = self._page = subprocess.Popen([sys.executable, "-m", "tests.bench.page"], stdout=subprocess.PIPE)
            assert page.stdout is not None and page.stdout.readline() == b"reading\n", "the page did not open"
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._page is not None:
            self._page.kill()
            self._page.wait()
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def cpu(self) -> float:
        """Its CPU seconds until now."""
        return self._ask(b"c")

    def sas(self) -> int:
        """How many SAs its backend has."""
        return int(self._ask(b"s"))

    def _ask(self, what: bytes) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(what)
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))


async def proxy(name: str, seen: Seen) -> None:
    """Serve until standard input ends."""
    server = Server(config(message_memory=0 if seen is Seen.NOT else 16), Choice(backend(name), "bench"))
    if seen is Seen.NOT:
        server.journal = NoJournal()
    await server.start()
    service = service_of(server, lambda: ([], []))
    web = Web(service, OwnerOnly(), IPv4Address(GM), PAGE_PORT)
    if seen is Seen.BY_A_PAGE:
        await web.start()
        service.history.start()
    settle_memory()
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def asked() -> None:
        match os.read(sys.stdin.fileno(), 1):
            case b"c":
                print(time.process_time(), flush=True)
            case b"s":
                print(len(server.records()), flush=True)
            case _:
                done.set()

    loop.add_reader(sys.stdin.fileno(), asked)
    print("started", flush=True)
    await done.wait()
    await service.feed.stop()
    await service.history.stop()
    await web.stop()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(proxy(sys.argv[1], Seen(sys.argv[2])))
