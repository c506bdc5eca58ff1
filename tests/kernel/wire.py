"""Reading and making Ethernet frames of the Gm under test: what is ESP, what is clear."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from xfrm.model import IPAddress

ESP: Final = 50
TCP: Final = 6
UDP: Final = 17
_FRAGMENT_HEADER: Final = 44
_ETHERTYPE: Final = {0x0800: 4, 0x86DD: 6}


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet seen on the wire; `payload` starts after the IP header (and an IPv6 fragment header)."""

    frame: bytes
    protocol: int
    source: IPAddress
    destination: IPAddress
    payload: bytes
    first_fragment: bool

    @property
    def spi(self) -> int:
        return int.from_bytes(self.payload[:4], "big")

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.payload[4:8], "big")


def packets(frames: Iterable[bytes]) -> list[Packet]:
    """Return the IP packets among `frames`, without neighbour discovery and the like (only TCP, UDP, ESP)."""
    found: list[Packet] = []
    for frame in frames:
        version = _ETHERTYPE.get(int.from_bytes(frame[12:14], "big"))
        if version == 4:
            start = 14 + 4 * (frame[14] & 15)
            first = not int.from_bytes(frame[20:22], "big") & 0x1FFF
            end = 14 + int.from_bytes(frame[16:18], "big")
            addresses: tuple[IPAddress, IPAddress] = (IPv4Address(frame[26:30]), IPv4Address(frame[30:34]))
            packet = Packet(frame, frame[23], *addresses, frame[start:end], first)
        elif version == 6:
            protocol, start, first = frame[20], 54, True
            if protocol == _FRAGMENT_HEADER:
                protocol, first = frame[54], not int.from_bytes(frame[56:58], "big") & 0xFFF8
                start += 8
            addresses = (IPv6Address(frame[22:38]), IPv6Address(frame[38:54]))
            packet = Packet(frame, protocol, *addresses, frame[start:], first)
        else:
            continue
        if packet.protocol in (ESP, TCP, UDP):
            found.append(packet)
    return found


def clear(seen: Iterable[Packet]) -> list[Packet]:
    """Those that are not ESP."""
    return [packet for packet in seen if packet.protocol != ESP]


def spis(seen: Iterable[Packet]) -> set[int]:
    return {packet.spi for packet in seen if packet.protocol == ESP and packet.first_fragment}


def clear_udp(like: Packet, source_port: int, destination_port: int, data: bytes) -> bytes:
    """Make a clear UDP frame over the same Ethernet and IP addresses as the packet `like`."""
    segment = struct.pack("!4H", source_port, destination_port, 8 + len(data), 0) + data
    segment = with_checksum(like.source, like.destination, UDP, segment)
    if like.source.version == 6:
        header = struct.pack("!IHBB", 6 << 28, len(segment), UDP, 64) + like.source.packed + like.destination.packed
        return like.frame[:14] + header + segment
    fields = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), 1, 0, 64, UDP)
    addresses = like.source.packed + like.destination.packed
    checksum = struct.pack("!H", _checksum(fields + bytes(2) + addresses))
    return like.frame[:14] + fields + checksum + addresses + segment


def with_checksum(source: IPAddress, destination: IPAddress, protocol: int, segment: bytes) -> bytes:
    """A UDP or TCP segment whose checksum field is 0, with its checksum (RFC 768, RFC 9293 3.1, RFC 8200 8.1)."""
    pseudo = source.packed + destination.packed + struct.pack("!II", len(segment), protocol)
    place = 6 if protocol == UDP else 16
    return segment[:place] + struct.pack("!H", _checksum(pseudo + segment) or 0xFFFF) + segment[place + 2 :]


def tcp_segment(
    source: tuple[IPAddress, int], destination: tuple[IPAddress, int], numbers: tuple[int, int], flags: int, data: bytes
) -> bytes:
    """A TCP segment between two ends, with sequence and acknowledgement numbers."""
    head = struct.pack("!HHIIBBHHH", source[1], destination[1], *numbers, 5 << 4, flags, 0xFFFF, 0, 0)
    return with_checksum(source[0], destination[0], TCP, head + data)


def tcp_flags(seen: Iterable[Packet], source_port: int) -> list[int]:
    """The flags of each TCP segment in clear from a port."""
    return [
        packet.payload[13]
        for packet in seen
        if packet.protocol == TCP and int.from_bytes(packet.payload[:2], "big") == source_port
    ]


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
