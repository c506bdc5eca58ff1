"""From a frame to the IP datagram in it: link layers, IPv4 and IPv6 headers, fragments put together again.

What is cut off by the capture, is no IP, or does not hold together is told apart from what can be used; nothing raises.
"""

import struct
from collections.abc import Iterable
from enum import Enum
from ipaddress import ip_address
from typing import Literal, NamedTuple

from pcscf.capture.file import ETHERNET, LINUX_SLL, LINUX_SLL2
from xfrm.model import IPAddress

TCP, UDP, ESP = 6, 17, 50
LARGEST_DATAGRAM = 65_535 + 40
UNFINISHED = 256
"""Datagrams whose fragments are waited for at a time."""
PIECES = 128
"""Fragments of one datagram: 65,535 octets in pieces of 512 and more."""
_RAW = frozenset((12, 14, 101, 228, 229))
_NULL, _LOOP = 0, 108
_VLAN = frozenset((0x8100, 0x88A8, 0x9100))
_IPV4, _IPV6 = 0x0800, 0x86DD
_OPTIONS = frozenset((0, 43, 60, 135, 139, 140))
"""Extension headers of IPv6 that say their length in units of 8 octets (RFC 8200 4)."""
_FRAGMENT = 44
_SHORT = struct.Struct("!H")
_FRAGMENT_HEAD = struct.Struct("!BxHI")


class Datagram(NamedTuple):
    """One IP datagram. Addresses are packed; `link` is what comes before the IP header, `header` that header.

    `naming` is the place in `header` of the octet that names the protocol. `parts` are the tokens of its fragments.
    """

    version: int
    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    link: bytes
    header: bytes
    naming: int
    cut: bool = False
    """The capture holds less of it than the wire did."""
    parts: tuple[object, ...] = ()

    @property
    def addresses(self) -> tuple[IPAddress, IPAddress]:
        """Source and destination."""
        return ip_address(self.source), ip_address(self.destination)

    def frame(self, protocol: int, payload: bytes) -> bytes:
        """The same frame with this in place of what was in it: one whole datagram, whatever it came in."""
        header = bytearray(self.header)
        header[self.naming] = protocol
        if self.version == 6:
            _SHORT.pack_into(header, 4, len(header) - 40 + len(payload) & 0xFFFF)
        else:
            _SHORT.pack_into(header, 2, len(header) + len(payload) & 0xFFFF)
            header[6:8] = bytes((header[6] & 0x40, 0))
            header[10:12] = b"\0\0"
            total = sum(struct.unpack(f"!{len(header) // 2}H", header))
            total = (total & 0xFFFF) + (total >> 16)
            _SHORT.pack_into(header, 10, ~(total + (total >> 16)) & 0xFFFF)
        return self.link + header + payload


class Held(Enum):
    """A fragment whose datagram is not whole yet."""

    HELD = 0


HELD: Literal[Held.HELD] = Held.HELD


def start_of_ip(link: int, frame: bytes) -> int:
    """Where the IP header begins, -1 where none does. `link` is a LINKTYPE_ number."""
    if link == ETHERNET:
        at = 12
        kind = int.from_bytes(frame[12:14], "big")
        while kind in _VLAN:
            at += 4
            kind = int.from_bytes(frame[at : at + 2], "big")
        return at + 2 if kind in (_IPV4, _IPV6) else -1
    if link in _RAW:
        return 0
    if link == LINUX_SLL:
        return 16 if int.from_bytes(frame[14:16], "big") in (_IPV4, _IPV6) else -1
    if link == LINUX_SLL2:
        return 20 if int.from_bytes(frame[:2], "big") in (_IPV4, _IPV6) else -1
    return 4 if link in (_NULL, _LOOP) else -1


class _Pieces:
    """The fragments of one datagram so far."""

    __slots__ = ("first", "of", "tokens", "total")

    def __init__(self) -> None:
        self.of: dict[int, bytes] = {}
        self.tokens: list[object] = []
        self.first: Datagram | None = None
        self.total = -1

    def whole(self) -> bytes | None:
        """What they hold together, if nothing is missing or overlaps (RFC 5722: overlaps are not believed)."""
        if self.first is None or self.total < 0:
            return None
        end = 0
        for offset in sorted(self.of):
            if offset != end:
                return None
            end += len(self.of[offset])
        return b"".join(self.of[offset] for offset in sorted(self.of)) if end == self.total else None


class Reassembly:
    """Datagrams out of frames. A token given with a frame comes back in `Datagram.parts` or from `abandoned`."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[bytes, bytes, int, int], _Pieces] = {}
        self._given_up: list[object] = []
        self.incomplete = 0
        """Datagrams that were given up because fragments were missing."""

    def feed(self, link: int, frame: bytes, token: object = None) -> Datagram | Literal[Held.HELD] | None:
        """The datagram of a frame, or that its last fragment completes; None for what is no sound IP."""
        at = start_of_ip(link, frame)
        if at < 0 or len(frame) < at + 20:
            return None
        version = frame[at] >> 4
        if version == 4:
            start = at + 4 * (frame[at] & 15)
            end = at + (frame[at + 2] << 8 | frame[at + 3])
            if end == at:
                end = len(frame)  # left to the network card to fill in
            if start < at + 20 or end < start:
                return None
            flags = frame[at + 6] << 8 | frame[at + 7]
            datagram = Datagram(
                4,
                frame[at + 12 : at + 16],
                frame[at + 16 : at + 20],
                frame[at + 9],
                frame[start:end],
                frame[:at],
                frame[at:start],
                9,
                end > len(frame),
            )
            if not flags & 0x3FFF:
                return datagram
            identity = frame[at + 4] << 8 | frame[at + 5]
            return self._piece(datagram, identity, 8 * (flags & 0x1FFF), bool(flags & 0x2000), token)
        return self._ipv6(frame, at, token) if version == 6 and len(frame) >= at + 40 else None

    def _ipv6(self, frame: bytes, at: int, token: object) -> Datagram | Literal[Held.HELD] | None:
        length = frame[at + 4] << 8 | frame[at + 5]
        end = at + 40 + length if length else len(frame)
        protocol, naming, start = frame[at + 6], 6, at + 40
        fragment: tuple[int, int, bool] | None = None
        while protocol in _OPTIONS or protocol == _FRAGMENT:
            if len(frame) < start + 8:
                return None
            if protocol == _FRAGMENT:
                if fragment is not None:
                    return None
                protocol, offset, identity = _FRAGMENT_HEAD.unpack_from(frame, start)
                fragment = identity, offset & 0xFFF8, bool(offset & 1)
                # The header leaves the chain: a whole datagram has none.
                frame = frame[: at + naming] + bytes((protocol,)) + frame[at + naming + 1 : start] + frame[start + 8 :]
                end -= 8
                if fragment[1]:
                    break  # only the first goes on with headers
            else:
                protocol, naming = frame[start], start - at
                start += 8 * (frame[start + 1] + 1)
        if end < start:
            return None
        datagram = Datagram(
            6,
            frame[at + 8 : at + 24],
            frame[at + 24 : at + 40],
            protocol,
            frame[start:end],
            frame[:at],
            frame[at:start],
            naming,
            end > len(frame),
        )
        return datagram if fragment is None else self._piece(datagram, *fragment, token)

    def _piece(
        self, datagram: Datagram, identity: int, offset: int, more: bool, token: object
    ) -> Datagram | Literal[Held.HELD] | None:
        if not offset and not more:
            return datagram  # an atomic fragment (RFC 6946)
        # The first fragment of IPv6 may name another protocol than the others only behind more headers: none of Gm.
        key = datagram.source, datagram.destination, datagram.version, identity
        pieces = self._waiting.get(key)
        if pieces is None:
            if len(self._waiting) >= UNFINISHED:
                self._give_up(next(iter(self._waiting)))
            pieces = self._waiting[key] = _Pieces()
        pieces.tokens.append(token)
        if datagram.cut or len(pieces.tokens) > PIECES or offset + len(datagram.payload) > LARGEST_DATAGRAM:
            self._give_up(key)
            return HELD
        pieces.of.setdefault(offset, datagram.payload)
        if not offset:
            pieces.first = datagram
        if not more:
            pieces.total = offset + len(datagram.payload)
        payload = pieces.whole()
        if payload is None or pieces.first is None:
            return HELD
        del self._waiting[key]
        return pieces.first._replace(payload=payload, parts=tuple(pieces.tokens))

    def _give_up(self, key: tuple[bytes, bytes, int, int]) -> None:
        self._given_up += [token for token in self._waiting.pop(key).tokens if token is not None]
        self.incomplete += 1

    def abandoned(self, *, all_of_them: bool = False) -> Iterable[object]:
        """The tokens of fragments that were given up since the last call; at the end of all, of those held too."""
        if all_of_them:
            for key in list(self._waiting):
                self._give_up(key)
        tokens, self._given_up = self._given_up, []
        return tokens
