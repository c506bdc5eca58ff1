"""Capture files: pcap and pcapng are read, pcapng is written.

Written here because a file of a million packets is to go through in seconds: see `python -m tests.bench decrypt`.
Formats after draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. What a damaged file still holds is given out, then
`damage` says what is wrong.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from pcscf import PcscfError

SECOND = 1_000_000_000
"""Nanoseconds."""
LARGEST_BLOCK = 16 << 20
"""Octets; no link has packets of this size, so a longer block is damage."""
ETHERNET, RAW, LINUX_SLL, LINUX_SLL2 = 1, 101, 113, 276
"""LINKTYPE_ values."""
_PCAP = {
    bytes.fromhex("a1b2c3d4"): (">", 1000),
    bytes.fromhex("d4c3b2a1"): ("<", 1000),
    bytes.fromhex("a1b23c4d"): (">", 1),
    bytes.fromhex("4d3cb2a1"): ("<", 1),
}
"""Magic -> byte order, nanoseconds of a unit of the fraction."""
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED, _OLD_PACKET = 0x0A0D0D0A, 1, 3, 6, 2
_MAGIC = 0x1A2B3C4D
_END, _COMMENT = 0, 1
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_TSOFFSET = 2, 3, 9, 14
_CHUNK = 1 << 20


class CaptureError(PcscfError):
    """The file is no capture, or cannot be read; `str` is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What packets were taken from. `link` is the LINKTYPE_ number."""

    link: int
    name: str = ""
    description: str = ""


class Packet(NamedTuple):
    """One frame. `at` is nanoseconds since the epoch, `interface` an index, `length` the octets it had on the wire."""

    at: int
    interface: int
    data: bytes
    length: int
    comment: str = ""


class _Damaged(Exception):
    """The rest of the file cannot be read."""


class Reader:
    """Iterates over the packets of a file, once. Raises CaptureError for what is no capture at all.

    `interfaces` grows while a pcapng file is read; `position` of `size` octets are done.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.interfaces: list[Interface] = []
        self.damage = ""
        self.position = 0
        try:
            self._file: BinaryIO = path.open("rb")
            self.size = path.stat().st_size
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}") from error
        self._buffer = b""
        self._start = 0
        try:
            magic = self._peek(4)
        except OSError as error:
            self._file.close()
            raise CaptureError(f"{path}: {error.strerror}") from error
        if magic in _PCAP:
            self._packets = self._pcap(*_PCAP[magic])
        elif magic == _SECTION.to_bytes(4, "big"):
            self._packets = self._pcapng()
        else:
            self._file.close()
            found = "it is empty" if not magic else f"it begins with {magic.hex(' ')}"
            raise CaptureError(f"{path}: neither pcap nor pcapng: {found}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Packet]:
        try:
            yield from self._packets
        except _Damaged as error:
            self.damage = str(error)
        except OSError as error:
            self.damage = f"reading failed: {error.strerror}"

    def _peek(self, count: int) -> bytes:
        """The next octets, fewer at the end of the file; they stay the next."""
        if len(self._buffer) - self._start < count:
            self._buffer = self._buffer[self._start :] + self._file.read(max(_CHUNK, count))
            self._start = 0
        return self._buffer[self._start : self._start + count]

    def _pcap(self, order: str, unit: int) -> Iterator[Packet]:
        head = self._take(24, "the header of the file")
        self.interfaces.append(Interface(link=struct.unpack(f"{order}I", head[20:24])[0] & 0x0FFF_FFFF))
        record = struct.Struct(f"{order}IIII")
        number = 0
        while head := self._peek(16):
            number += 1
            if len(head) < 16:
                raise _Damaged(f"packet {number} is cut off in its header")
            seconds, fraction, captured, length = record.unpack(head)
            if captured > LARGEST_BLOCK:
                raise _Damaged(f"packet {number} claims {captured} octets")
            self._advance(16)
            data = self._take(captured, f"packet {number}")
            yield Packet(seconds * SECOND + fraction * unit, 0, data, length)

    def _pcapng(self) -> Iterator[Packet]:
        order, first, number = "<", 0, 0
        units: list[tuple[int, int, int]] = []
        enhanced = struct.Struct("<IIIII")
        two = struct.Struct("<II")
        while head := self._peek(12):
            number += 1
            if len(head) < 12:
                raise _Damaged(f"block {number} is cut off in its header")
            if head[:4] == b"\n\r\r\n":
                order = "<" if head[8:12] == _MAGIC.to_bytes(4, "little") else ">"
                if order == ">" and head[8:12] != _MAGIC.to_bytes(4, "big"):
                    raise _Damaged(f"block {number} begins a section of unknown byte order")
                two, enhanced = struct.Struct(f"{order}II"), struct.Struct(f"{order}IIIII")
                first = len(self.interfaces)
                units.clear()
            kind, total = two.unpack_from(head)
            if total < 12 or total % 4 or total > LARGEST_BLOCK:
                raise _Damaged(f"block {number} claims {total} octets")
            block = self._take(total, f"block {number}")
            if block[-4:] != block[4:8]:
                raise _Damaged(f"block {number} ends with another length than it begins with")
            if kind == _ENHANCED:
                if total < 32:
                    raise _Damaged(f"packet block {number} is too short")
                index, high, low, captured, length = enhanced.unpack_from(block, 8)
                if index >= len(units) or captured > total - 32:
                    raise _Damaged(f"packet block {number} is not as long as it says, or of an unknown interface")
                unit, divisor, offset = units[index]
                end = 28 + captured
                comment = ""
                if end + 8 <= total:
                    comment = _option(block[(end + 3) & ~3 : -4], _COMMENT, order)
                at = (high << 32 | low) * unit // divisor + offset
                yield Packet(at, first + index, block[28:end], length, comment)
            elif kind == _INTERFACE:
                if total < 20:
                    raise _Damaged(f"interface block {number} is too short")
                (link,) = struct.unpack_from(f"{order}H", block, 8)
                options = block[16:-4]
                units.append(_unit(options, order))
                self.interfaces.append(
                    Interface(
                        link=link,
                        name=_option(options, _IF_NAME, order),
                        description=_option(options, _IF_DESCRIPTION, order),
                    )
                )
            elif kind == _SIMPLE and units and total >= 16:
                (length,) = struct.unpack_from(f"{order}I", block, 8)
                yield Packet(0, first, block[12 : 12 + min(length, total - 16)], length)
            elif kind == _OLD_PACKET and total >= 32:
                index, _, high, low, captured, length = struct.unpack_from(f"{order}HHIIII", block, 8)
                if index < len(units) and captured <= total - 32:
                    unit, divisor, offset = units[index]
                    at = (high << 32 | low) * unit // divisor + offset
                    yield Packet(at, first + index, block[28 : 28 + captured], length)

    def _advance(self, count: int) -> None:
        self._start += count
        self.position += count

    def _take(self, count: int, what: str) -> bytes:
        """Raises _Damaged when the file ends before."""
        data = self._peek(count)
        if len(data) < count:
            raise _Damaged(f"{what} is cut off: {len(data)} of {count} octets are there")
        self._start += count
        self.position += count
        return data


def _options(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    head = struct.Struct(f"{order}HH")
    while at + 4 <= len(data):
        code, length = head.unpack_from(data, at)
        if code == _END:
            return
        yield code, data[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)


def _option(data: bytes, wanted: int, order: str) -> str:
    """The text of an option, "" without it."""
    return next((value.decode(errors="replace") for code, value in _options(data, order) if code == wanted), "")


def _unit(options: bytes, order: str) -> tuple[int, int, int]:
    """Of time stamps: nanoseconds are ticks * first // second + third."""
    found = dict(_options(options, order))
    resolution = (found.get(_IF_TSRESOL) or b"\6")[0]
    offset = found.get(_IF_TSOFFSET, b"")
    offset_seconds = struct.unpack(f"{order}q", offset)[0] if len(offset) == 8 else 0
    divisor = 1 << (resolution & 0x7F) if resolution & 0x80 else 10 ** min(resolution, 30)
    return SECOND, divisor, offset_seconds * SECOND


class Writer:
    """Writes pcapng with nanoseconds onto a stream, which it does not close. Raises OSError."""

    def __init__(self, stream: BinaryIO, interfaces: Sequence[Interface], *, comment: str = "") -> None:
        self._stream = stream
        self._write = stream.write
        options = _packed(_COMMENT, comment.encode()) if comment else b""
        self._block(_SECTION, struct.pack("<IHHq", _MAGIC, 1, 0, -1) + _closed(options))
        for each in interfaces:
            self.add_interface(each)

    def add_interface(self, interface: Interface) -> None:
        """One more; its index is the next."""
        options = _packed(_IF_TSRESOL, b"\x09")
        if interface.name:
            options += _packed(_IF_NAME, interface.name.encode())
        if interface.description:
            options += _packed(_IF_DESCRIPTION, interface.description.encode())
        self._block(_INTERFACE, struct.pack("<HHI", interface.link, 0, 0) + _closed(options))

    def write(self, packet: Packet) -> None:
        at, interface, data, length, comment = packet
        captured = len(data)
        padding = -captured & 3
        options = _closed(_packed(_COMMENT, comment.encode())) if comment else b""
        total = 32 + captured + padding + len(options)
        self._write(
            _PACKET_HEAD(_ENHANCED, total, interface, at >> 32, at & 0xFFFF_FFFF, captured, length)
            + data
            + _PADDING[padding]
            + options
            + _TOTAL(total)
        )

    def flush(self) -> None:
        self._stream.flush()

    def _block(self, kind: int, body: bytes) -> None:
        total = struct.pack("<I", len(body) + 12)
        self._write(struct.pack("<I", kind) + total + body + total)


_PACKET_HEAD = struct.Struct("<IIIIIII").pack
_TOTAL = struct.Struct("<I").pack
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")


def _packed(code: int, value: bytes) -> bytes:
    value = value[:0xFFFF]
    return struct.pack("<HH", code, len(value)) + value + _PADDING[-len(value) & 3]


def _closed(options: bytes) -> bytes:
    return options + b"\0\0\0\0" if options else b""
