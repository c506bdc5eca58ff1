"""The second guard of a protected port: options of its sockets, which nobody outside of the process can take away.

The first guard is in tables of the host (policies, packet filter), where a flush or a packet that is read another way
than the socket reads it gets past. These ask of the socket itself what a packet is that would be handed to it.
"""

import contextlib
import ctypes
import errno
import socket
import struct
from typing import Final

from xfrm import codec
from xfrm.model import Direction, KernelError

_IP_XFRM_POLICY: Final = 17
_IPV6_XFRM_POLICY: Final = 35
_SO_BINDTODEVICE: Final = 25
_SO_ATTACH_FILTER: Final = 26

_INSTRUCTION: Final = struct.Struct("=HBBI")  # sock_filter: code, jump if true, jump if false, operand
_LOAD_BYTE: Final = 0x30  # BPF_LD | BPF_B | BPF_ABS
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_WHOLE: Final = 0xFFFF_FFFF
_FROM_NETWORK_HEADER: Final = -0x10_0000 & 0xFFFF_FFFF  # SKF_NET_OFF
_INTERFACE: Final = -0x1000 + 8 & 0xFFFF_FFFF  # SKF_AD_OFF + SKF_AD_IFINDEX
_NEXT_HEADER: Final = 6
"""Place of Next Header in an IPv6 header (RFC 8200 3)."""
_DISCARDED_AT_ONCE: Final = 1 << 16


def require_esp(guarded: socket.socket, reqid: int) -> None:
    """Let nothing in or out of a socket that is not in ESP of this reqid: a policy of the socket, beside the host's.

    It asks for any address and any port, so that it does not matter where in a packet the kernel looks for ports; and
    it is not in the host's table of policies, so that flushing that leaves it. Connections that a listening socket
    accepts inherit it. Raises KernelError.
    """
    six = guarded.family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, _IPV6_XFRM_POLICY) if six else (socket.IPPROTO_IP, _IP_XFRM_POLICY)
    try:
        for direction in Direction:
            guarded.setsockopt(level, option, codec.socket_policy(6 if six else 4, direction, reqid))
        if six:
            only_plain_headers(guarded)
    except OSError as error:
        raise _refused("a policy of ESP for a protected socket", error) from error


def only_plain_headers(guarded: socket.socket) -> None:
    """Let in no IPv6 packet with an extension header before its UDP or TCP header (RFC 8200 4).

    Of such a packet the kernel reads the ports at a fixed place, where the extension header is, so that no policy
    for ports applies to it. What came in ESP has none: the header that named ESP names UDP or TCP once it is opened.
    """
    protocol = socket.IPPROTO_TCP if guarded.type is socket.SOCK_STREAM else socket.IPPROTO_UDP
    _attach(
        guarded,
        (_LOAD_BYTE, 0, 0, _FROM_NETWORK_HEADER + _NEXT_HEADER),
        (_JUMP_IF_EQUAL, 0, 1, protocol),
        (_RETURN, 0, 0, _WHOLE),
        (_RETURN, 0, 0, 0),
    )


def require_device(guarded: socket.socket, name: str) -> None:
    """Let nothing in or out of a socket but through this network device, while it is there. Raises KernelError."""
    try:
        guarded.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, name.encode())
    except OSError as error:
        raise _refused(f"binding a protected socket to {name}", error) from error


def refuse_interfaces(guarded: socket.socket, indexes: tuple[int, ...]) -> None:
    """Let nothing in that came by one of these network interfaces. Raises KernelError."""
    last = len(indexes)
    tests = [(_JUMP_IF_EQUAL, last - place, 0, index) for place, index in enumerate(indexes)]
    try:
        _attach(guarded, (_LOAD_WORD, 0, 0, _INTERFACE), *tests, (_RETURN, 0, 0, _WHOLE), (_RETURN, 0, 0, 0))
    except OSError as error:
        raise _refused("refusing packets of some interfaces", error) from error


def discard_waiting(guarded: socket.socket) -> None:
    """Throw away the datagrams that came before a UDP socket, which does not block, was guarded."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(_DISCARDED_AT_ONCE):
            guarded.recv(1)


def _attach(guarded: socket.socket, *program: tuple[int, int, int, int]) -> None:
    """Attach a classic BPF program to a socket. Raises OSError."""
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*each) for each in program))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(code))
    guarded.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _refused(operation: str, error: OSError) -> KernelError:
    return KernelError(error.errno or errno.EIO, index=0, operation=operation)
