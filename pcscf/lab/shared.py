"""One backend for several UEs of a process: the ports of an address are protected once, for all of them.

Every UE must take its ports from the block that is given here (`UeSettings.ports`).
"""

import socket
from collections.abc import Sequence

from xfrm.backend import Backend
from xfrm.model import IPAddress, Loss, PortRange, Sa, SaId, SaRecord


class Shared:
    """A `Backend` that passes everything on, but `protect` to the first who asks for an address."""

    def __init__(self, backend: Backend, ports: PortRange) -> None:
        self._backend = backend
        self._ports = ports
        self._protected: set[IPAddress] = set()
        self.name = backend.name

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        """Protect all of the block on this address. Raises ValueError for ports outside of it, XfrmError."""
        outside = [each for each in ports if not all(port in self._ports for port in each)]
        if outside:
            raise ValueError(f"ports {outside[0]} are outside the block {self._ports} that is shared")
        if address not in self._protected:
            self._backend.protect(address, [self._ports])
            self._protected.add(address)

    def guard(self, guarded: socket.socket) -> None:
        self._backend.guard(guarded)

    def restore(self) -> tuple[Loss, ...]:
        return self._backend.restore()

    def adopt(self, ids: Sequence[SaId]) -> dict[SaId, float]:
        return self._backend.adopt(ids)

    def install(self, sas: Sequence[Sa]) -> None:
        self._backend.install(sas)

    def update(self, ids: Sequence[SaId], lifetime: int) -> None:
        self._backend.update(ids, lifetime)

    def remove(self, ids: Sequence[SaId]) -> None:
        self._backend.remove(ids)

    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]:
        return self._backend.records(ids)

    def count(self) -> int:
        return self._backend.count()

    def drops(self) -> dict[str, int]:
        return self._backend.drops()

    def devices(self) -> tuple[str, ...]:
        return self._backend.devices()

    def expirations(self) -> list[SaId]:
        return self._backend.expirations()

    def filenos(self) -> tuple[int, ...]:
        return self._backend.filenos()

    def process(self, fileno: int) -> None:
        self._backend.process(fileno)

    def leave(self) -> None:
        self._backend.leave()

    def close(self) -> None:
        self._backend.close()
