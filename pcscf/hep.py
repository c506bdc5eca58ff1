"""SIP mirrored to a collector: each message in a HEPv3 packet over UDP, as Homer and sngrep take them.

What rode in ESP goes there opened, so the collector belongs where the core is. Keys of a challenge never go there.
Chunks after the HEP3 document of sipcapture.org: vendor 0, type, length with its own 6 octets, value.
"""

import errno
import logging
import os
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address

from pcscf.aka import strip_keys
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError, parse
from pcscf.vocabulary import Flow
from xfrm.model import bracketed

_AF = {4: 2, 6: 10}
_PROTOCOL = {"UDP": 17, "TCP": 6}
_SIP = 1
_FAMILY, _IP_PROTOCOL, _SOURCE_4, _DESTINATION_4, _SOURCE_6, _DESTINATION_6 = 1, 2, 3, 4, 5, 6
_SOURCE_PORT, _DESTINATION_PORT, _SECONDS, _MICROSECONDS = 7, 8, 9, 10
_KIND, _CAPTURE_ID, _PASSWORD, _PAYLOAD, _CORRELATION = 11, 12, 14, 15, 17
_HEAD = struct.Struct("!HHH")
log = logging.getLogger("pcscf")


LARGEST = 0xFFFF
"""Octets of a packet and of a chunk: their lengths have 16 bits."""


class Mirror:
    """Sends to one collector and never waits, and never raises: what cannot be sent at once is counted in `lost`."""

    def __init__(
        self, address: IPv4Address | IPv6Address, port: int, *, capture_id: int, password: str, name: str = "collector"
    ) -> None:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._to = (str(address), port)
        self._fixed = _chunk(_CAPTURE_ID, struct.pack("!I", capture_id)) + _chunk(_KIND, bytes((_SIP,)))
        if password:
            self._fixed += _chunk(_PASSWORD, password.encode())
        self._where = f"{name} {bracketed(address)}:{port}"
        self._connected = False
        self._told = False
        self.sent = 0
        self.lost = 0

    def received(self, message: Request | Response, flow: Flow) -> None:
        """Mirror what came in."""
        self._mirror(message, flow, incoming=True)

    def leaving(self, data: bytes, flow: Flow) -> None:
        """Mirror what goes out."""
        try:
            message = parse(data)
        except ParseError:
            return
        self._mirror(message, flow, incoming=False)

    def _mirror(self, message: Request | Response, flow: Flow, *, incoming: bool) -> None:
        try:
            self._send(hep(flow, strip_keys(message), incoming=incoming, at=time.time(), fixed=self._fixed))
        except OSError as error:
            self.lost += 1
            self._tell(error)
        except Exception:
            self.lost += 1
            if self.lost == 1:
                log.exception("a bug in the mirror; messages are missing at the %s", self._where)
        else:
            self.sent += 1

    def _send(self, packet: bytes) -> None:
        """Raises OSError."""
        if not self._connected:  # connected, a socket hears that nobody is there
            self._socket.connect(self._to)
            self._connected = True
        try:
            self._socket.send(packet)
        except ConnectionRefusedError as error:  # of a packet before
            self._tell(error)
            self._socket.send(packet)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            log.warning("%s: %s; messages are missing there", self._where, error.strerror)
        self._told = True

    def close(self) -> None:
        self._socket.close()


def hep(flow: Flow, message: Request | Response, *, incoming: bool, at: float, fixed: bytes) -> bytes:
    """One packet. `fixed`: chunks that are the same in all of them; the Call-ID is the correlation.

    Raises OSError for a message that no packet can hold.
    """
    (source, source_port), (destination, destination_port) = flow.ends(incoming=incoming)
    four = source.version == 4
    microseconds = int(at * 1_000_000)
    chunks = b"".join(
        (
            _chunk(_FAMILY, bytes((_AF[source.version],))),
            _chunk(_IP_PROTOCOL, bytes((_PROTOCOL[flow.transport],))),
            _chunk(_SOURCE_4 if four else _SOURCE_6, source.packed),
            _chunk(_DESTINATION_4 if four else _DESTINATION_6, destination.packed),
            _chunk(_SOURCE_PORT, source_port.to_bytes(2, "big")),
            _chunk(_DESTINATION_PORT, destination_port.to_bytes(2, "big")),
            _chunk(_SECONDS, (microseconds // 1_000_000).to_bytes(4, "big")),
            _chunk(_MICROSECONDS, (microseconds % 1_000_000).to_bytes(4, "big")),
            fixed,
            _chunk(_CORRELATION, (message.first("call-id") or "").encode(errors="surrogateescape")),
            _chunk(_PAYLOAD, message.to_bytes()),
        )
    )
    size = len(chunks) + 6
    if size > LARGEST:
        raise _too_long(size)
    return b"HEP3" + size.to_bytes(2, "big") + chunks


def _too_long(size: int) -> OSError:
    return OSError(errno.EMSGSIZE, f"{os.strerror(errno.EMSGSIZE)} for HEP: {size} octets")


def _chunk(kind: int, value: bytes) -> bytes:
    """Raises OSError where the length does not fit."""
    if len(value) > LARGEST - _HEAD.size:
        raise _too_long(len(value))
    return _HEAD.pack(0, kind, len(value) + _HEAD.size) + value
