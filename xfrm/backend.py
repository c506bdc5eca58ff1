"""The one interface of the two ESP backends, and the choice between them.

`Kernel` lets Linux XFRM do ESP; `Userspace` does it in this process where the kernel has no ESP.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from xfrm.model import IPAddress, Loss, PortRange, Sa, SaId, SaRecord

BackendName = Literal["auto", "kernel", "userspace"]


class Backend(Protocol):
    """Holds the SAs of one process. Not thread-safe; nothing in it waits."""

    @property
    def name(self) -> str:
        """`kernel` or `userspace`."""

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        """From now on let nothing but ESP in or out of these local ports (TS 33.203 7.1).

        Takes over what an earlier run of the same address and ports left behind, removes that run's SAs,
        and touches nobody else's. Call it after the sockets are bound: the bind is the proof of ownership.
        Raises KernelError.
        """

    def guard(self, guarded: socket.socket) -> None:
        """Let nothing but ESP in or out of a socket that is bound to a protected port, whatever becomes of `protect`.

        The second guard, on the socket itself; what a listening socket accepts inherits it. Datagrams that are waiting
        came before it. Raises KernelError.
        """

    def restore(self) -> tuple[Loss, ...]:
        """Look whether all that `protect` set up is there, and put back what is not; what was gone. Ask every second.

        Until then nothing has passed: `guard` holds meanwhile. Never blocks; raises nothing.
        """

    def adopt(self, ids: Sequence[SaId]) -> dict[SaId, float]:
        """Take over those of these SAs that an earlier run left; when each ends, in seconds since the epoch.

        Call it before `protect`, which removes what was not taken over. Raises XfrmError.
        """

    def install(self, sas: Sequence[Sa]) -> None:
        """Add all of `sas` or none. Raises KernelError naming the refused one, after rolling back the others."""

    def update(self, ids: Sequence[SaId], lifetime: int) -> None:
        """Let the SAs end `lifetime` seconds from now. Raises KernelError; the refused one keeps its lifetime."""

    def remove(self, ids: Sequence[SaId]) -> None:
        """Delete SAs; one that is gone already is no error. Raises KernelError for any other refusal."""

    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]:
        """The SAs this process owns, or those of `ids` that it has, with their counters. Raises XfrmError."""

    def count(self) -> int:
        """SAs there are: those of this process, or of the whole network namespace where the kernel counts.

        Cheap however many there are. Raises XfrmError.
        """

    def drops(self) -> dict[str, int]:
        """Packets thrown away that no SA counts, by cause; of the whole network namespace where the kernel counts."""

    def devices(self) -> tuple[str, ...]:
        """Network devices of its own, where opened packets come by again (none for the kernel)."""

    def expirations(self) -> list[SaId]:
        """SAs that reached their hard lifetime since the last call. Ask every second or so; never blocks."""

    def filenos(self) -> tuple[int, ...]:
        """File descriptors that `process` wants to hear about when readable (none for the kernel)."""

    def process(self, fileno: int) -> None:
        """Move the packets waiting on one of `filenos`; bounded work per call, never blocks.

        Raises XfrmError when nothing can come of this descriptor any more: do not wait for it again.
        """

    def leave(self) -> None:
        """End as `close` does, but let what can stay without this process stay for the next run, failing closed."""

    def close(self) -> None:
        """Remove our SAs and policies. Close the protected sockets first: until then nothing leaves in clear."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend taken and, for people, why."""

    backend: Backend
    reason: str


def open_backend(name: BackendName, keep: Path | None = None) -> Choice:
    """Open a backend; `auto` takes the kernel where a probe SA can be added, else userspace.

    `keep`: the file where userspace keeps SAs, with their keys, for the next run; the kernel needs none.
    Raises BackendUnavailable, saying what is missing, and XfrmError for the file.
    """
    from xfrm.kernel import Kernel, probe

    if name == "userspace":
        return Choice(_userspace(keep), "configured")
    missing = probe()
    if not missing:
        return Choice(Kernel(), "configured" if name == "kernel" else "the kernel accepted a probe SA")
    if name == "kernel":
        from xfrm.model import BackendUnavailable

        raise BackendUnavailable("kernel", missing)
    return Choice(_userspace(keep), f"the kernel has no ESP for us; first of all it lacks {missing[0]}")


def _userspace(keep: Path | None) -> Backend:
    from xfrm.kept import Kept
    from xfrm.userspace import Userspace

    return Userspace(Kept(keep) if keep is not None else None)
