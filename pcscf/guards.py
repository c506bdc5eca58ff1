"""The guards of our sockets, looked at while we run: nothing but ESP at protected ports, no core on the phones' side.

A guard that somebody takes away is put back, and said so. Where it cannot be, the protected ports are served no more
until it is there: the guard on the sockets holds meanwhile, but one is not enough.
"""

import contextlib
import socket
from collections.abc import Callable, Sequence

from pcscf.vocabulary import Interface
from xfrm import guard
from xfrm.backend import Backend
from xfrm.links import links_of
from xfrm.model import IPAddress, Loss


class Guards:
    """Those of one process. `gm`, `mw`: our addresses on both sides. `tell` hears what happened, for people."""

    def __init__(
        self, backend: Backend, gm: Sequence[IPAddress], mw: Sequence[IPAddress], tell: Callable[[str], None]
    ) -> None:
        self._backend = backend
        self._gm = tuple(gm)
        self._mw = tuple(mw)
        self._tell = tell
        self._of_core: list[socket.socket] = []
        self._refused: tuple[int, ...] = ()
        """Interfaces of the phones by which nothing of the core may come."""
        self.lost = 0
        """How often something was gone."""
        self.fault = ""
        """Why protected ports are not served; "" while they are."""

    def guard(self, guarded: socket.socket, interface: Interface) -> None:
        """Guard a socket before anything is read from it or written to it. Raises XfrmError."""
        if interface is Interface.GM_PROTECTED:
            self._backend.guard(guarded)
        elif interface is Interface.MW:
            self.keep_from_phones(guarded)

    def keep_from_phones(self, guarded: socket.socket) -> None:
        """Let nothing in that comes by an interface of the phones, as long as the socket is open. Raises OSError."""
        if not self._of_core:
            self._refused = only_of_phones(self._gm, self._mw)
        if guarded.getsockname()[1]:  # it has a port of ours, and is no connection of ours to be
            self._of_core = [*(each for each in self._of_core if each.fileno() >= 0), guarded]
        guard.refuse_interfaces(guarded, self._refused)

    def look(self) -> None:
        """See that all is there, and put back what is not. Costs some tens of microseconds; every second."""
        try:
            losses = self._backend.restore()
        except OSError as error:  # then nobody knows
            losses = (Loss("the guards of protected ports", f"they cannot be looked at: {error.strerror or error}"),)
        faults = [f"{loss.what}: {loss.error}" for loss in losses if loss.error]
        for loss in losses:
            if not loss.error:
                self.lost += 1
                self._tell(f"the {loss.what} was gone, by somebody's hand; it was put back")
        fault = "; ".join(faults)
        if fault and fault != self.fault:
            self.lost += len(faults)
            self._tell(f"protected ports are not served: {fault}")
        elif self.fault and not fault:
            self._tell("all guards are there; protected ports are served again")
        self.fault = fault
        with contextlib.suppress(OSError):  # then those of before are refused
            self._look_at_interfaces()

    def _look_at_interfaces(self) -> None:
        """Addresses move. Raises OSError."""
        refused = only_of_phones(self._gm, self._mw)
        if refused == self._refused:
            return
        self._refused = refused
        for each in self._of_core:
            if each.fileno() >= 0:
                guard.refuse_interfaces(each, refused)


def only_of_phones(gm: Sequence[IPAddress], mw: Sequence[IPAddress]) -> tuple[int, ...]:
    """The interfaces with an address of Gm and none of Mw, by number: what comes by them is not of the core.

    Not the loopback interface, by which whatever runs beside us comes.
    """
    links = links_of((*gm, *mw))
    ours = {link for address in mw for link in links[address]}
    return tuple(sorted({link for address in gm for link in links[address]} - ours - {socket.if_nametoindex("lo")}))
