"""One netlink socket: batches of requests with one answer each, dumps, and multicast events.

Knows the netlink header and its acknowledgements and nothing of what they carry (that is `codec`).
The kernel handles a request inside `sendmsg`, so every answer is there when it returns: nothing here waits.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from xfrm.buffers import receive_room

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length type flags sequence port
_ERROR: Final = struct.Struct("=i")
_ATTRIBUTE: Final = struct.Struct("=HH")
assert _HEADER.size == 16

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_MULTI: Final = 0x2
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_DUMP: Final = 0x300
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSGERR_ATTR_MSG: Final = 1

_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11

_BATCH: Final = 64
"""Requests in one sendmsg: their answers must fit SO_RCVBUF together."""
_RECEIVE_QUEUE: Final = 1 << 20
_BUFFER: Final = 1 << 16
"""The kernel fills at most 32 KiB for one part of a dump."""
_DUMP_ATTEMPTS: Final = 5


class Request(NamedTuple):
    """One message to send: its type, the payload after the netlink header, and flags beside REQUEST and ACK."""

    type: int
    payload: bytes
    flags: int = 0


class Answer(NamedTuple):
    """What the kernel said to one request: errno (0 is yes), its words if it has any, and the data asked for."""

    errno: int
    text: str = ""
    payload: bytes = b""


class Overrun(OSError):
    """The kernel dropped events because nobody read them: ask for the whole state instead."""


class Channel:
    """A netlink socket of one protocol. Not thread-safe. Raises OSError where the system does."""

    def __init__(self, protocol: int, *, groups: Sequence[int] = ()) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._socket.setblocking(False)
            receive_room(self._socket, _RECEIVE_QUEUE)
            # Without CAP_ACK a refusal repeats the whole request, keys included.
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
            self._socket.bind((0, sum(1 << (group - 1) for group in groups)))
        except OSError:
            self._socket.close()
            raise
        self._buffer = bytearray(_BUFFER)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        self._socket.close()

    def batch(self, requests: Sequence[Request]) -> list[Answer]:
        """Send all and return one answer each, in order; the kernel handles every one, refused or not.

        Raises nothing: where the system fails, the requests it failed for have that errno for an answer.
        """
        answers: list[Answer] = []
        for start in range(0, len(requests), _BATCH):
            answers += self._exchange(requests[start : start + _BATCH])
        return answers

    def _exchange(self, requests: Sequence[Request]) -> list[Answer]:
        first = self._sequence + 1
        self._sequence += len(requests)
        parts: list[bytes] = []
        for sequence, request in enumerate(requests, first):
            flags = _NLM_F_REQUEST | _NLM_F_ACK | request.flags
            parts.append(_HEADER.pack(16 + len(request.payload), request.type, flags, sequence & 0xFFFFFFFF, 0))
            parts.append(request.payload + bytes(-len(request.payload) % 4))
        data: dict[int, bytes] = {}
        answers: dict[int, Answer] = {}
        expected = [sequence & 0xFFFFFFFF for sequence in range(first, first + len(requests))]
        unanswered = Answer(0)
        try:
            self._socket.sendto(b"".join(parts), (0, 0))
            while len(answers) < len(requests):
                for kind, flags, sequence, payload in self._receive():
                    if sequence not in expected:
                        continue  # what an exchange that failed left behind
                    if kind == _NLMSG_ERROR:
                        number, text = _refusal(flags, payload)
                        answers[sequence] = Answer(number, text, data.get(sequence, b""))
                    else:
                        data[sequence] = payload
        except OSError as error:
            unanswered = Answer(error.errno or errno.EIO, f"no answer on the netlink socket: {error.strerror}")
        return [answers.get(sequence, unanswered) for sequence in expected]

    def dump(self, request: Request) -> list[bytes]:
        """Return the payload of every message of a dump, asked again when the kernel says it changed meanwhile."""
        for _ in range(_DUMP_ATTEMPTS):
            payloads = self._dump(request)
            if payloads is not None:
                return payloads
        raise InterruptedError(errno.EINTR, f"netlink dump changed under us {_DUMP_ATTEMPTS} times")

    def _dump(self, request: Request) -> list[bytes] | None:
        self._sequence += 1
        wanted = self._sequence & 0xFFFFFFFF
        flags = _NLM_F_REQUEST | _NLM_F_DUMP | request.flags
        header = _HEADER.pack(16 + len(request.payload), request.type, flags, wanted, 0)
        self._socket.sendto(header + request.payload, (0, 0))
        payloads: list[bytes] = []
        consistent = True
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != wanted:
                    continue
                consistent &= not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_ERROR:
                    number, text = _refusal(flags, payload)
                    raise OSError(number, text or os.strerror(number))
                if kind == _NLMSG_DONE:
                    status = -_ERROR.unpack_from(payload)[0] if len(payload) >= _ERROR.size else 0
                    if status:
                        raise OSError(status, os.strerror(status))
                    return payloads if consistent else None
                payloads.append(payload)
                if not flags & _NLM_F_MULTI:
                    return payloads

    def events(self) -> Iterator[tuple[int, bytes]]:
        """Yield type and payload of the multicast messages waiting now. Raises Overrun when some were lost."""
        while True:
            try:
                messages = self._receive()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise Overrun(error.errno, "netlink events were lost") from error
                raise
            for kind, _, _, payload in messages:
                yield kind, payload

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """Return (type, flags, sequence, payload) of the messages of one datagram.

        Raises BlockingIOError when none waits, EMSGSIZE when one was larger than our buffer.
        """
        # MSG_TRUNC makes netlink return the true length, so that a cut datagram is never taken for a whole one.
        length, (sender, _) = self._socket.recvfrom_into(self._buffer, 0, socket.MSG_TRUNC)
        if length > len(self._buffer):
            raise OSError(errno.EMSGSIZE, f"netlink message of {length} octets")
        if sender:
            return []  # only the kernel, port 0, may speak to us
        messages: list[tuple[int, int, int, bytes]] = []
        offset = 0
        while offset + _HEADER.size <= length:
            size, kind, flags, sequence, _ = _HEADER.unpack_from(self._buffer, offset)
            if size < _HEADER.size or offset + size > length:
                raise OSError(errno.EBADMSG, "netlink message runs over the end of its datagram")
            messages.append((kind, flags, sequence, bytes(self._buffer[offset + _HEADER.size : offset + size])))
            offset += size + (-size % 4)
        return messages


def _refusal(flags: int, payload: bytes) -> tuple[int, str]:
    """Read an nlmsgerr: errno, then the text of its extended acknowledgement (empty if it has none)."""
    number = -_ERROR.unpack_from(payload)[0]
    if not flags & _NLM_F_ACK_TLVS:
        return number, ""
    offset = _ERROR.size + _HEADER.size
    if number and not flags & _NLM_F_CAPPED:  # then the whole request is repeated here
        repeated = _HEADER.unpack_from(payload, _ERROR.size)[0]
        offset = _ERROR.size + repeated + (-repeated % 4)
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            break
        if kind == _NLMSGERR_ATTR_MSG:
            return number, payload[offset + _ATTRIBUTE.size : offset + length].rstrip(b"\0").decode("utf-8", "replace")
        offset += length + (-length % 4)
    return number, ""
