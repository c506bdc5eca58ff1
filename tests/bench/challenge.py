"""CPU microseconds of the proxy process for one REGISTER -> 401, through real UDP sockets, with 4 SAs installed.

The proxy is a process of its own with nothing else in it; phones and core are this process, whose cost does not count.
"""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

from pcscf.config import Config
from pcscf.server import Server, settle_memory
from tests.bench.load import Call, challenge
from tests.fake_kernel import FakeKernel
from xfrm.backend import Backend, Choice
from xfrm.kernel import Kernel

GM, MW, CORE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
UE_PORT = 5070
CORE_PORT = 5080
IP_PKTINFO = 8
PAUSE = 0.004
WINDOW = 32
"""Challenges under way at a time: a busy proxy, not a waiting one."""


def backend(name: str) -> Backend:
    return Kernel() if name == "kernel" else FakeKernel()


def config() -> Config:
    return Config(
        visited_network="bench",
        gm={"addresses": [GM]},  # type: ignore[arg-type]
        mw={"address": MW, "next_hop": CORE, "next_hop_port": CORE_PORT},  # type: ignore[arg-type]
        ipsec={"legacy_algorithms": True},  # type: ignore[arg-type]
    )


async def proxy(name: str) -> None:
    """The process that is measured: says its CPU seconds and SAs for each line it is given."""
    server = Server(config(), Choice(backend(name), "bench"))
    await server.start()
    settle_memory()
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def asked() -> None:
        if not os.read(sys.stdin.fileno(), 1):
            done.set()
            return
        print(json.dumps([time.process_time(), len(server.records())]), flush=True)

    loop.add_reader(sys.stdin.fileno(), asked)
    print("[]", flush=True)
    await done.wait()
    await server.stop()


def measure(name: str, count: int) -> dict[str, object]:
    """Run `count` challenges after a warm-up of a tenth of them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.challenge", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    question, answer = process.stdin, process.stdout
    assert question is not None and answer is not None

    def ask() -> tuple[float, int]:
        question.write(b"?")
        question.flush()
        cpu, sas = json.loads(answer.readline())
        return cpu, sas

    try:
        assert answer.readline() == b"[]\n", "the proxy did not start"
        with Phones() as phones:
            warm = max(1, count // 10)
            phones.run(range(warm))
            before, sas_before = ask()
            started = time.monotonic()
            phones.run(range(warm, warm + count))
            wall = time.monotonic() - started
            after, sas_after = ask()
        assert sas_after - sas_before == 4 * count, f"{sas_after - sas_before} SAs for {count} challenges"
    finally:
        question.close()
        process.wait(timeout=30)
        answer.close()
    return {
        "name": "challenge",
        "cpu_us": round((after - before) / count * 1e6, 1),
        "wall_us": round(wall / count * 1e6, 1),
        "count": count,
        "backend": name,
    }


class Phones:
    """All phones on one socket, each with a source address of its own, and the core on another."""

    def __init__(self) -> None:
        self._ue = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ue.bind(("0.0.0.0", UE_PORT))
        self._core = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._core.bind((CORE, CORE_PORT))
        for each in (self._ue, self._core):
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

    def __enter__(self) -> "Phones":
        return self

    def __exit__(self, *failure: object) -> None:
        self._ue.close()
        self._core.close()

    def run(self, numbers: range) -> None:
        """Challenge every phone of the range, in bursts: this process sleeps while the proxy works."""
        waiting = answered = idle = 0
        calls = iter(numbers)
        while answered < len(numbers):
            while waiting < WINDOW and (number := next(calls, None)) is not None:
                call = Call(number)
                source = struct.pack("=i4s4s", 0, socket.inet_aton(call.address), bytes(4))
                ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, source)]
                self._ue.sendmsg([call.register(UE_PORT)], ancillary, 0, (GM, 5060))
                waiting += 1
            time.sleep(PAUSE)
            idle += 1
            for data, sender in _waiting(self._core):
                self._core.sendto(challenge(data), sender)
            for data, _ in _waiting(self._ue):
                assert b" 401 " in data[:16] and b"Security-Server" in data and b"ck=" not in data, data[:80]
                waiting -= 1
                answered += 1
                idle = 0
            assert idle < 2000, f"no answer after {answered} challenges"


def _waiting(udp: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    while True:
        try:
            yield udp.recvfrom(65_536)
        except BlockingIOError:
            return


if __name__ == "__main__":
    asyncio.run(proxy(sys.argv[1]))
