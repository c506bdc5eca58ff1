"""Making the sockets of `transport`: their options, and how many descriptors there are for them."""

import contextlib
import resource
import socket

from xfrm.buffers import receive_room, send_room
from xfrm.model import IPAddress

RESERVED_DESCRIPTORS = 256
"""For all that is no connection of ours: UDP sockets, the kernel, the store, the API, the DNS."""
MOST_DESCRIPTORS = 1 << 20
ROOM = 4 << 20
"""Octets that may wait at a UDP socket: what comes while others have their turn is not lost, nor what leaves while
answers to addresses that are not there wait for their neighbour (ARP).
"""


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may give itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_possible() -> int:
    """How many TCP connections the descriptors of this process leave room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    return max(soft - RESERVED_DESCRIPTORS, soft // 2)


def unbound(address: IPAddress, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, kind)
    made.setblocking(False)
    if kind is socket.SOCK_STREAM:  # a message must not wait for the acknowledgement of the one before
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.version == 6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def bound(address: IPAddress, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket with this address and port. Raises OSError that names both."""
    made = unbound(address, kind)
    try:
        if kind is socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            receive_room(made, ROOM)
            send_room(made, ROOM)
        made.bind((str(address), port))
    except OSError as error:
        made.close()
        word = "TCP" if kind is socket.SOCK_STREAM else "UDP"
        raise OSError(error.errno, f"{address} port {port}/{word}: {error.strerror}") from error
    return made
