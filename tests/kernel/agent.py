"""One end of a Gm under test: a process in a network namespace with an ESP backend, sockets and a packet tap.

`Peer` is the handle in the test: `peer(Agent.install, sas)` runs that method in the process and returns or raises
what it did. While an agent waits for anything it moves the packets of its backend, as a server's loop would.
"""

import contextlib
import multiprocessing
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Concatenate, Final, Literal, ParamSpec, TypeVar

from pyroute2 import netns

from xfrm import guard
from xfrm.backend import Backend
from xfrm.kernel import Kernel
from xfrm.model import IPAddress, KernelError, Loss, PortRange, Sa, SaId, SaRecord
from xfrm.userspace import Userspace

P = ParamSpec("P")
T = TypeVar("T")

Guards = Literal["none", "first", "second", "both"]
PATIENCE: Final = 5.0
"""Seconds until a packet that should come is given up; generous, User-Mode Linux is slow."""

_ETH_P_ALL: Final = 3
_SO_RCVBUFFORCE: Final = 33
_SOCKET_BUFFER: Final = 1 << 22


class Agent:
    """What a process in a namespace can be asked to do."""

    def __init__(self, backend: Backend | None) -> None:
        self._backend = backend
        self._sockets: dict[str, socket.socket] = {}
        self._over: set[int] = set()
        """Descriptors of the backend of which nothing comes any more."""

    # The backend

    @property
    def backend(self) -> Backend:
        assert self._backend is not None, "this agent has no backend"
        return self._backend

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        self.backend.protect(address, ports)

    def install(self, sas: Sequence[Sa]) -> None:
        self.backend.install(sas)

    def update(self, ids: Sequence[SaId], lifetime: int) -> None:
        self.backend.update(ids, lifetime)

    def remove(self, ids: Sequence[SaId]) -> None:
        self.backend.remove(ids)

    def records(self) -> dict[SaId, SaRecord]:
        return {record.sa.id: record for record in self.backend.records()}

    def expirations(self, count: int = 0, patience: float = PATIENCE) -> list[SaId]:
        """Ask until `count` SAs were reported, or `patience` seconds are over."""
        expired = self.backend.expirations()
        end = time.monotonic() + patience
        while len(expired) < count and time.monotonic() < end:
            self.pump(0.1)
            expired += self.backend.expirations()
        return expired

    def close(self) -> None:
        self.backend.close()

    def count(self) -> int:
        return self.backend.count()

    def clear_drops(self) -> int:
        """Packets dropped in this namespace because a protected port wants ESP and got clear text."""
        if isinstance(self._backend, Userspace):
            return self._backend.clear_drops()
        return self.statistics()["XfrmInTmplMismatch"]

    # Sockets, by a name the test gives

    def bind(self, name: str, kind: socket.SocketKind, address: IPAddress, port: int, guards: Guards = "none") -> None:
        """Make a socket. `guards`: of a protected port, "both", or only one of the two that the backend has."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        bound = socket.socket(family, kind)
        bound.setblocking(False)
        if kind is socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((str(address), port))
        if guards in ("both", "second"):
            self.backend.guard(bound)
        elif guards == "first" and isinstance(self._backend, Kernel) and address.version == 6:
            guard.only_plain_headers(bound)
        self._sockets[name] = bound

    def lose_the_first_guard(self) -> None:
        """What an operator's flush does."""
        command = "nft flush ruleset" if isinstance(self._backend, Userspace) else "ip xfrm policy flush"
        self.command(*command.split())

    def devices(self) -> tuple[tuple[IPAddress, str], ...]:
        """The device of each protected address."""
        if not isinstance(self._backend, Userspace):
            return ()
        return tuple((address, each.divert.name) for address, each in self._backend._gateways.items())

    def restore(self) -> tuple[Loss, ...]:
        return self.backend.restore()

    def send(self, name: str, data: bytes, address: IPAddress, port: int) -> bool:
        """Send a datagram; false when the kernel says no at once (that or silence: both are 'not sent')."""
        try:
            self._sockets[name].sendto(data, (str(address), port))
        except OSError:
            return False
        return True

    def receive(self, name: str, patience: float = PATIENCE) -> bytes | None:
        """A datagram, or None when none came in time."""
        if not self._ready(self._sockets[name], selectors.EVENT_READ, patience):
            return None
        return self._sockets[name].recv(1 << 16)

    def listen(self, name: str) -> None:
        self._sockets[name].listen()

    def connect(self, name: str, address: IPAddress, port: int, patience: float = PATIENCE) -> bool:
        connecting = self._sockets[name]
        with contextlib.suppress(BlockingIOError):
            try:
                connecting.connect((str(address), port))
            except (PermissionError, ConnectionError):
                return False
        ready = self._ready(connecting, selectors.EVENT_WRITE, patience)
        return ready and connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    def accept(self, listener: str, name: str, patience: float = PATIENCE) -> bool:
        if not self._ready(self._sockets[listener], selectors.EVENT_READ, patience):
            return False
        self._sockets[name], _ = self._sockets[listener].accept()
        self._sockets[name].setblocking(False)
        return True

    def write(self, name: str, data: bytes) -> int:
        """Put bytes on a TCP connection without waiting for the peer; how many its buffer took."""
        return self._sockets[name].send(data)

    def read(self, name: str, count: int, patience: float = PATIENCE) -> bytes:
        """Up to `count` bytes of a TCP connection, fewer when they did not come in time."""
        data = b""
        while len(data) < count and self._ready(self._sockets[name], selectors.EVENT_READ, patience):
            part = self._sockets[name].recv(1 << 16)
            if not part:
                break
            data += part
        return data

    def receive_all(self, name: str, settle: float = 0.3) -> list[bytes]:
        """Datagrams until none came for `settle` seconds."""
        found = []
        while (data := self.receive(name, settle)) is not None:
            found.append(data)
        return found

    def drop_sockets(self) -> None:
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()

    # The wire

    def tap(self, name: str, interface: str) -> None:
        """Start to see every frame on an interface; `frames` gives them."""
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _SOCKET_BUFFER)
        opened.bind((interface, 0))
        self._sockets[name] = opened

    def frames(self, name: str, settle: float = 0.05) -> list[bytes]:
        """Frames seen since the last call, having waited until none came for `settle` seconds."""
        seen: list[bytes] = []
        while self._ready(self._sockets[name], selectors.EVENT_READ, settle):
            seen.append(self._sockets[name].recv(1 << 17))
        return seen

    def inject(self, name: str, frame: bytes) -> None:
        self._sockets[name].send(frame)

    # The namespace

    def statistics(self) -> dict[str, int]:
        """`/proc/net/xfrm_stat` of this namespace."""
        lines = Path("/proc/net/xfrm_stat").read_text().splitlines()
        return {name: int(number) for name, number in (line.split() for line in lines)}

    def command(self, *words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def pump(self, seconds: float) -> None:
        self._ready(None, 0, seconds)

    def _ready(self, waited: socket.socket | Connection | None, events: int, patience: float | None) -> bool:
        """Wait for a descriptor, moving the backend's packets meanwhile. `patience` None waits for ever."""
        end = None if patience is None else time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            if waited is not None:
                selector.register(waited, events)
            for fileno in set(self._backend.filenos()) - self._over if self._backend else ():
                selector.register(fileno, selectors.EVENT_READ)
            while True:
                left = None if end is None else end - time.monotonic()
                if left is not None and left < 0:
                    return False
                ready = [key.fd for key, _ in selector.select(left)]
                for fileno in ready:
                    if waited is None or fileno != waited.fileno():
                        try:
                            self.backend.process(fileno)
                        except KernelError:
                            self._over.add(fileno)
                            selector.unregister(fileno)
                if waited is not None and waited.fileno() in ready:
                    return True

    def serve(self, requests: Connection) -> None:
        """Do what is asked until told to end."""
        while True:
            self._ready(requests, selectors.EVENT_READ, None)
            try:
                asked = requests.recv()
            except EOFError:
                return
            if asked is None:
                return
            method, arguments, named = asked
            try:
                answer = (True, method(self, *arguments, **named))
            except KernelError as error:  # its constructor does not survive pickling
                answer = (False, (error.errno, error.index, error.operation, error.text))
            except Exception as error:
                answer = (False, error)
            requests.send(answer)


def _main(namespace: str, backend: str | None, requests: Connection, other_end: Connection) -> None:
    other_end.close()
    netns.setns(namespace)
    made: dict[str | None, Callable[[], Backend | None]] = {
        "kernel": Kernel,
        "userspace": Userspace,
        None: lambda: None,
    }
    Agent(made[backend]()).serve(requests)


class Peer:
    """A process running an `Agent` in `namespace`."""

    def __init__(self, namespace: str, backend: str | None) -> None:
        self.namespace = namespace
        context = multiprocessing.get_context("fork")
        self._requests, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(namespace, backend, theirs, self._requests), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, method: Callable[Concatenate[Agent, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._requests.send((method, args, kwargs))
        good, answer = self._requests.recv()
        if good:
            result: T = answer
            return result
        if isinstance(answer, tuple):
            number, index, operation, text = answer
            raise KernelError(number, index=index, operation=operation, text=text)
        raise answer

    def kill(self) -> None:
        """SIGKILL: nothing is cleaned up."""
        self._process.kill()
        self._process.join()
        self._requests.close()

    def stop(self) -> None:
        """End the process; its backend is not closed (that is a test's own step)."""
        if self._process.is_alive():
            self._requests.send(None)  # siblings forked later hold a copy of the pipe: closing it ends nothing
            self._process.join()
        self._requests.close()
