"""Every form in which somebody may send a UDP or TCP segment in clear: options, fragments, extension headers.

The headers are scapy's, so that a mistake of ours in reading packets is not made twice.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

from scapy.layers.inet import IP, IPOption, IPOption_NOP, IPOption_Router_Alert, IPOption_RR
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Raw

from xfrm.model import IPAddress

Form = tuple[str, Callable[[bytes], list[bytes]]]
"""A name, and what makes the IP packets around a segment, in the order in which they are sent."""

_OPTIONS: Final[dict[str, list[Any]]] = {
    "plain": [],
    "one NOP": [IPOption_NOP()],
    "40 NOPs": [IPOption_NOP()] * 40,
    "router alert": [IPOption_Router_Alert()],
    "record route": [IPOption_RR(routers=["0.0.0.0"] * 9)],
    "timestamp": [IPOption(b"\x44\x0c\x05\x00" + bytes(8))],
    "unknown": [IPOption(b"\x9e\x04ab")],
}
_EXTENSIONS: Final[dict[str, tuple[int, Callable[[], Any]]]] = {
    "H": (0, lambda: IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])),
    "D": (60, lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])),
    "R": (43, lambda: IPv6ExtHdrRouting(type=0, segleft=0, addresses=[])),
    "F": (44, lambda: IPv6ExtHdrFragment()),
    "d": (60, lambda: IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=b"ab")])),
    "P": (0, lambda: IPv6ExtHdrHopByHop(options=[HBHOptUnknown(otype=0x13, optdata=bytes(0xEC))])),
    "p": (60, lambda: IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x13, optdata=bytes(0xEC))])),
}
"""Hop-by-hop, destination options, routing, (atomic) fragment, destination options: the order of RFC 8200 4.1.

P and p have octets that are the port 5100 to who looks for ports where the extension header is.
"""
SEGMENT: Final = 40
"""Octets of segment that the cuts of `forms` are for; at least so many are needed."""
_numbers = itertools.count(0x1000)


def forms(source: IPAddress, destination: IPAddress, protocol: int) -> Iterator[Form]:
    """All of them, for one protocol between two addresses."""
    if source.version == 4:
        yield from _four(lambda **fields: IP(src=str(source), dst=str(destination), proto=protocol, **fields))
    else:
        yield from _six(lambda **fields: IPv6(src=str(source), dst=str(destination), **fields), protocol)


def _four(head: Callable[..., Any]) -> Iterator[Form]:
    for name, options in _OPTIONS.items():
        yield name, _pieces_of_four(head, options)
        yield f"{name} cut at 16", _pieces_of_four(head, options, 16)
    for cut in range(8, SEGMENT, 8):
        yield f"cut at {cut}", _pieces_of_four(head, [], cut)
        yield f"cut at {cut}, last first", _backwards(_pieces_of_four(head, [], cut))
    yield "in pieces of 8", _pieces_of_four(head, [], *range(8, SEGMENT, 8))
    yield "in pieces of 8, last first", _backwards(_pieces_of_four(head, [], *range(8, SEGMENT, 8)))


def _pieces_of_four(head: Callable[..., Any], options: list[Any], *cuts: int) -> Callable[[bytes], list[bytes]]:
    def make(segment: bytes) -> list[bytes]:
        number = next(_numbers) & 0xFFFF
        return [
            bytes(
                head(options=options, id=number, frag=start // 8, flags="MF" if more else 0) / Raw(segment[start:end])
            )
            for start, end, more in _spans(cuts, len(segment))
        ]

    return make


def _spans(cuts: tuple[int, ...], size: int) -> Iterator[tuple[int, int, bool]]:
    """Start, end, and whether more follows, of the pieces of `size` octets that are cut there."""
    ends = (*(cut for cut in cuts if cut < size), size)
    for start, end in zip((0, *ends[:-1]), ends, strict=True):
        yield start, end, end < size


def _backwards(make: Callable[[bytes], list[bytes]]) -> Callable[[bytes], list[bytes]]:
    return lambda segment: make(segment)[::-1]


def _six(head: Callable[..., Any], protocol: int) -> Iterator[Form]:
    for chain in _chains():
        yield f"headers {chain or 'none'}", _whole_six(head, chain, protocol)
    for before in ("", "H", "D", "HD", "R"):
        for after in ("", "D", "d"):
            # The first piece of a cut may end within the extension header, and tell nobody of ports.
            for cut in range(8, SEGMENT + 8 * len(after), 8):
                make = _pieces_of_six(head, before, after, protocol, cut)
                yield f"headers {before} fragment {after} cut at {cut}", make
                yield f"headers {before} fragment {after} cut at {cut}, last first", _backwards(make)
    every = _pieces_of_six(head, "", "D", protocol, *range(8, SEGMENT, 8))
    yield "headers fragment D in pieces of 8", every
    yield "headers fragment D in pieces of 8, last first", _backwards(every)


def _chains() -> Iterator[str]:
    for count in range(6):
        for chosen in itertools.combinations("HDRFd", count):
            yield "".join(chosen)
    yield from ("P", "p", "PF", "pF", "DD", "DDDDD", "FD", "FDD", "RD", "FR", "DFD", "HFD", "FF", "DH")


def _whole_six(head: Callable[..., Any], chain: str, protocol: int) -> Callable[[bytes], list[bytes]]:
    return lambda segment: [_chained(head, chain, protocol, segment)]


def _chained(head: Callable[..., Any], chain: str, protocol: int, segment: bytes) -> bytes:
    headers = [_EXTENSIONS[letter] for letter in chain]
    kinds = [*(kind for kind, _ in headers), protocol]
    packet = head(nh=kinds[0])
    for (_, make), following in zip(headers, kinds[1:], strict=True):
        extension = make()
        extension.nh = following
        if isinstance(extension, IPv6ExtHdrFragment):
            extension.id = next(_numbers)
        packet = packet / extension
    return bytes(packet / Raw(segment))


def _pieces_of_six(
    head: Callable[..., Any], before: str, after: str, protocol: int, *cuts: int
) -> Callable[[bytes], list[bytes]]:
    def make(segment: bytes) -> list[bytes]:
        number = next(_numbers)
        first = _EXTENSIONS[after][0] if after else protocol
        inner = b""
        if after:
            extension = _EXTENSIONS[after][1]()
            extension.nh = protocol
            inner = bytes(extension)
        part = inner + segment
        pieces = []
        for start, end, more in _spans(cuts, len(part)):
            fragment = IPv6ExtHdrFragment(id=number, offset=start // 8, m=int(more), nh=first)
            pieces.append(_chained(head, before, 44, bytes(fragment / Raw(part[start:end]))))
        return pieces

    return make
