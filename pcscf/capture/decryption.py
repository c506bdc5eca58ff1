"""Opens the ESP of a capture with keys from `esp_sa` lines, and says of each packet that stays shut why (RFC 4303).

Null encryption is opened without a key, too, where what is inside leaves no doubt.
"""

import struct
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from pcscf.capture.frames import TCP, UDP, Datagram
from xfrm.esp import IntegrityFailure, Malformed, Opener, Replayed
from xfrm.wireshark import SaLine

KNOWN_FLOWS = 100_000
"""SPIs of addresses whose keys have been looked up; strangers' could be without end."""
_NULL_SHAPES = ((8, 12), (8, 16), (16, 16))
"""Octets before and after the payload: HMAC-96, others of 128 bits, AES-GMAC with its IV."""
_SPI = struct.Struct("!I")
_PADDING = tuple(bytes(range(1, count + 1)) for count in range(4))


class Cause(StrEnum):
    """Why a packet stays shut."""

    UNKNOWN_SPI = "unknown SPI"
    BAD_ICV = "bad ICV"
    REPLAYED = "replayed"
    MALFORMED = "malformed"
    CUT = "cut off by the capture"


ADVICE = {
    Cause.UNKNOWN_SPI: "the keys of this SA are not given: they are of another run, or it is somebody else's ESP",
    Cause.BAD_ICV: "the keys given for this SPI are not those it was sealed with: another run, or a wrong IK",
    Cause.REPLAYED: "this sequence number was there before: the capture shows packets twice, or somebody replays them",
    Cause.MALFORMED: "a length or the padding is not what the algorithms of this SA make",
    Cause.CUT: "capture whole packets (tcpdump -s 0)",
}


class Opened(NamedTuple):
    """What was inside. `line` is None for null encryption without a key: then nobody has checked its integrity."""

    protocol: int
    payload: bytes
    spi: int
    line: SaLine | None


class Closed(NamedTuple):
    """A packet that stays shut."""

    cause: Cause
    spi: int


class _Candidate:
    """One line of keys in use."""

    __slots__ = ("line", "opener")

    def __init__(self, line: SaLine) -> None:
        self.line = line
        self.opener = Opener(line, 0 if line.checked else line.icv)


class KeyRing:
    """Lines of keys; of several for one SPI the last is tried first."""

    def __init__(self, lines: Iterable[SaLine] = ()) -> None:
        self._lines: dict[SaLine, _Candidate] = {}
        self._found: dict[tuple[bytes, bytes, bytes], list[_Candidate]] = {}
        self.add(lines)

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, lines: Iterable[SaLine]) -> int:
        """Take lines in; how many of them are new."""
        before = len(self._lines)
        for line in lines:
            if line not in self._lines:
                self._lines[line] = _Candidate(line)
        if len(self._lines) > before:
            self._found.clear()
        return len(self._lines) - before

    def candidates(self, source: bytes, destination: bytes, spi: bytes) -> list[_Candidate]:
        """What may open packets of this flow, the newest first."""
        key = source, destination, spi
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= KNOWN_FLOWS:
                self._found.clear()
            number = int.from_bytes(spi, "big")
            found = self._found[key] = [
                each
                for line, each in reversed(self._lines.items())
                if (line.spi is None or line.spi == number)
                and line.version == (4 if len(source) == 4 else 6)
                and (line.source is None or line.source.packed == source)
                and (line.destination is None or line.destination.packed == destination)
            ]
        return found


class Decryption:
    """Opens datagrams, and counts. `shut` counts what stayed shut by cause, SPI and packed addresses."""

    def __init__(self, keys: KeyRing, *, null_without_keys: bool = True) -> None:
        self.keys = keys
        self.opened = 0
        self.unchecked = 0
        """Of those opened: null encryption without a key."""
        self.shut: Counter[tuple[Cause, int, bytes, bytes]] = Counter()
        self._null = null_without_keys

    def open(self, datagram: Datagram) -> Opened | Closed:
        """Open one ESP datagram."""
        packet = datagram.payload
        if datagram.cut or len(packet) < 8:
            return self._closed(Cause.CUT if datagram.cut else Cause.MALFORMED, datagram)
        candidates = self.keys.candidates(datagram.source, datagram.destination, packet[:4])
        cause = Cause.UNKNOWN_SPI
        for each in candidates:
            try:
                payload, protocol = each.opener.open(packet)
            except IntegrityFailure:
                cause = Cause.BAD_ICV
            except Replayed:
                cause = Cause.REPLAYED
            except Malformed:
                cause = Cause.MALFORMED if cause is Cause.UNKNOWN_SPI else cause
            else:
                self.opened += 1
                return Opened(protocol, payload, _SPI.unpack_from(packet)[0], each.line)
        if not candidates and self._null and (found := _null(datagram)) is not None:
            self.opened += 1
            self.unchecked += 1
            return found
        return self._closed(cause, datagram)

    def _closed(self, cause: Cause, datagram: Datagram) -> Closed:
        spi = int.from_bytes(datagram.payload[:4], "big")
        key = cause, spi, datagram.source, datagram.destination
        if key in self.shut or len(self.shut) < KNOWN_FLOWS:
            self.shut[key] += 1
        return Closed(cause, spi)


def _null(datagram: Datagram) -> Opened | None:
    """What null encryption leaves open to everybody, if it fits in every detail (RFC 2410).

    Of a million packets of other people's ciphertext two would look like TCP but for its checksum.
    """
    packet = datagram.payload
    for before, after in _NULL_SHAPES:
        end = len(packet) - after
        if end - before < 10 or end - before & 3:
            continue
        protocol, count = packet[end - 1], packet[end - 2]
        # Nobody pads null encryption by more than it takes to the next 4 octets.
        if count > 3 or protocol not in (UDP, TCP):
            continue
        last = end - 2 - count
        payload = packet[before:last]
        if packet[last : end - 2] != _PADDING[count] or not all(map(any, (payload[:2], payload[2:4]))):
            continue
        if protocol == UDP:
            fits = len(payload) >= 8 and int.from_bytes(payload[4:6], "big") == len(payload)
        else:
            fits = len(payload) >= 20 and 20 <= 4 * (payload[12] >> 4) <= len(payload) and not payload[12] & 15
            fits = fits and _sums_up(datagram, payload)
        if fits:
            return Opened(protocol, payload, _SPI.unpack_from(packet)[0], None)
    return None


def _sums_up(datagram: Datagram, segment: bytes) -> bool:
    """Whether the checksum of a TCP segment is right (RFC 9293 3.1, RFC 8200 8.1)."""
    head = datagram.source + datagram.destination + struct.pack("!II", len(segment), TCP)
    octets = head + segment + bytes(len(segment) & 1)
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    return total % 0xFFFF == 0
