"""The proxy that is measured: a process of its own with nothing else in it, which says its CPU time when asked."""

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Self

from pcscf.config import Config
from pcscf.server import Server, settle_memory
from tests.fake_kernel import FakeKernel
from xfrm.backend import Backend, Choice
from xfrm.kernel import Kernel

GM, MW, CORE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
CORE_PORT = 5080


def backend(name: str) -> Backend:
    return Kernel() if name == "kernel" else FakeKernel()


def config() -> Config:
    return Config(
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


class MeasuredProxy:
    """A proxy process on a backend, from entering to leaving."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.measured", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"started\n", "the proxy did not start"
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
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


async def proxy(name: str) -> None:
    """Serve until standard input ends."""
    server = Server(config(), Choice(backend(name), "bench"))
    await server.start()
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
    await server.stop()


if __name__ == "__main__":
    asyncio.run(proxy(sys.argv[1]))
