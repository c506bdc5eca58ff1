"""A kernel of dictionaries: holds SAs as the real backends do, encrypts nothing, refuses what it is told to."""

import errno
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from xfrm.model import IPAddress, KernelError, Loss, PortRange, Sa, SaId, SaRecord


@dataclass
class FakeKernel:
    """Implements `xfrm.backend.Backend`. `refuse`: the place in the next batch that is refused.

    `guarded`: address and port of each socket that was; `losses`: what the next look at the guards finds.
    """

    name: str = "fake"
    sas: dict[SaId, Sa] = field(default_factory=dict)
    lifetimes: dict[SaId, int] = field(default_factory=dict)
    protected: list[tuple[IPAddress, tuple[PortRange, ...]]] = field(default_factory=list)
    guarded: list[tuple[str, int]] = field(default_factory=list)
    losses: tuple[Loss, ...] = ()
    refuse: int | None = None
    batches: int = 0
    closed: bool = False

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        self.protected.append((address, tuple(ports)))

    def guard(self, guarded: socket.socket) -> None:
        self.guarded.append(guarded.getsockname()[:2])

    def restore(self) -> tuple[Loss, ...]:
        return self.losses

    def adopt(self, ids: Sequence[SaId]) -> dict[SaId, float]:
        return {each: time.time() + self.lifetimes[each] for each in ids if each in self.sas}

    def install(self, sas: Sequence[Sa]) -> None:
        self.batches += 1
        for index, sa in enumerate(sas):
            if index == self.refuse or sa.id in self.sas:
                raise KernelError(errno.EEXIST, index=index, operation=f"adding SA {sa.spi}")
        for sa in sas:
            sa_id = sa.id
            self.sas[sa_id] = sa
            self.lifetimes[sa_id] = sa.lifetime

    def update(self, ids: Sequence[SaId], lifetime: int) -> None:
        for index, sa_id in enumerate(ids):
            if sa_id not in self.sas:
                raise KernelError(errno.ESRCH, index=index, operation=f"updating SA {sa_id.spi}")
            self.lifetimes[sa_id] = lifetime

    def remove(self, ids: Sequence[SaId]) -> None:
        for sa_id in ids:
            self.sas.pop(sa_id, None)
            self.lifetimes.pop(sa_id, None)

    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]:
        return [
            SaRecord(
                sa=sa,
                bytes=0,
                packets=0,
                replay_drops=0,
                integrity_failures=0,
                added=time.time(),
                last_used=None,
            )
            for sa in (self.sas.values() if ids is None else map(self.sas.get, ids))
            if sa is not None
        ]

    def count(self) -> int:
        return len(self.sas)

    def drops(self) -> dict[str, int]:
        return {}

    def devices(self) -> tuple[str, ...]:
        return ()

    def expirations(self) -> list[SaId]:
        return []

    def filenos(self) -> tuple[int, ...]:
        return ()

    def process(self, fileno: int) -> None:
        raise AssertionError("there is nothing to process")

    def leave(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True
        self.sas.clear()
