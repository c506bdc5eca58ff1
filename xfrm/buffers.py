"""Room in the kernel for what waits at a socket."""

import socket
from typing import Final

_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33


def receive_room(opened: socket.socket, octets: int) -> None:
    """Let so much wait to be read; where we may not go above the limit of the system, as much as it allows."""
    _set(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF, octets)


def send_room(opened: socket.socket, octets: int) -> None:
    """The same for what waits to leave."""
    _set(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF, octets)


def _set(opened: socket.socket, forced: int, plain: int, octets: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, forced, octets)
    except PermissionError:  # root of a user namespace
        opened.setsockopt(socket.SOL_SOCKET, plain, octets)
