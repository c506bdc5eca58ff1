"""The SIP in a capture: over UDP and TCP, whole or in fragments, in clear or inside ESP.

TCP streams are put in order with a bounded memory; one that is joined in the middle, or has a gap, goes on at the next
segment that begins with a start line. What a capture shows twice is given once.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from pcscf.capture.decryption import Cause, Closed, Decryption
from pcscf.capture.file import SECOND, Packet, Reader
from pcscf.capture.frames import ESP, HELD, TCP, UDP, Datagram, Reassembly
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError, StreamParser, parse
from xfrm.model import IPAddress

DECRYPTED = "decrypted"
"""Description of an interface whose packets stand beside the ESP they were in."""
IN_SA = re.compile(r"SA (\d{1,10})\b")
"""Comment of such a packet: the SPI it rode on."""
START_LINE = re.compile(rb"(?:[A-Za-z0-9.!%*_+`'~-]{1,32} \S+ SIP/2\.0|SIP/2\.0 [1-6][0-9]{2} [^\r\n]*)\r?\n", re.I)
SAME_PACKET = SECOND // 500
"""Within this time the same datagram twice is one that the capture shows twice; no SIP timer is as short."""
REPEATED_WITHIN = 140 * SECOND
"""Later than 64 * T1 of Gm a copy is no retransmission (TS 24.229 7.7)."""
STREAMS = 4096
SEGMENTS = 64
GAP = 2 * SECOND
"""A segment that is later than this does not come any more."""
REMEMBERED = 20_000
SHUT_SHOWN = 3
"""ESP packets of one SA that stay shut; of more there is only the number, in `Decryption.shut`."""
STEP = 20_000
"""Packets between two calls of `tick`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One SIP message on the wire. `at` is nanoseconds since the epoch, `spi` 0 in clear."""

    at: int
    transport: Literal["UDP", "TCP"]
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    spi: int
    message: Request | Response
    repeated: bool = False
    """Sent before: a retransmission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """What should be SIP and cannot be shown: ESP that stays shut, or a message that is malformed."""

    at: int
    source: IPAddress
    destination: IPAddress
    spi: int
    cause: Cause | None
    text: str
    source_port: int = 0
    destination_port: int = 0


@dataclass(slots=True)
class _Stream:
    """One direction of a TCP connection. `next` is the sequence number that is expected, -1: not joined yet."""

    next: int = -1
    parser: StreamParser | None = None
    early: dict[int, bytes] = field(default_factory=dict)
    since: int = 0
    """When the first of the early segments came."""
    latest: tuple[int, Datagram, int] | None = None
    """Time, datagram and SPI of the last early segment."""


class SipReader:
    """Takes packets in their order and gives what SIP they complete. Never raises for what they hold."""

    def __init__(self, decryption: Decryption) -> None:
        self._decryption = decryption
        self._reassembly = Reassembly()
        self._streams: OrderedDict[tuple[bytes, bytes, bytes], _Stream] = OrderedDict()
        self._heard: OrderedDict[tuple[bytes, bytes, bytes], int] = OrderedDict()

    def feed(self, packet: Packet, link: int, spi: int = 0) -> Iterator[Seen | Unread]:
        """What this packet completes. `spi`: the SA it rode on, where the capture was opened already."""
        datagram = self._reassembly.feed(link, packet.data)
        if datagram is None or datagram is HELD:
            return
        if datagram.protocol == ESP:
            opened = self._decryption.open(datagram)
            if isinstance(opened, Closed):
                key = opened.cause, opened.spi, datagram.source, datagram.destination
                if opened.cause is not Cause.REPLAYED and self._decryption.shut[key] <= SHUT_SHOWN:
                    source, destination = datagram.addresses
                    yield Unread(
                        at=packet.at,
                        source=source,
                        destination=destination,
                        spi=opened.spi,
                        cause=opened.cause,
                        text=f"ESP, not opened: {opened.cause}",
                    )
                return
            datagram = datagram._replace(protocol=opened.protocol, payload=opened.payload)
            spi = opened.spi
        if datagram.protocol == UDP and len(datagram.payload) > 8:
            yield from self._udp(packet.at, datagram, spi)
        elif datagram.protocol == TCP and len(datagram.payload) >= 20 and not datagram.cut:
            yield from self._tcp(packet.at, datagram, spi)

    def _udp(self, at: int, datagram: Datagram, spi: int) -> Iterator[Seen | Unread]:
        payload = datagram.payload[8:]
        if START_LINE.match(payload.lstrip(b"\r\n")[:2048]) is None:
            return
        key = datagram.source + datagram.destination, datagram.payload[:4], payload
        before = self._heard.get(key)
        self._remember(key, at)
        if before is not None and at - before < SAME_PACKET:
            return
        repeated = before is not None and at - before < REPEATED_WITHIN
        try:
            yield _seen(at, "UDP", datagram, spi, parse(payload), repeated=repeated)
        except ParseError as error:
            yield _unread(at, datagram, spi, error)

    def _remember(self, key: tuple[bytes, bytes, bytes], at: int) -> None:
        self._heard[key] = at
        self._heard.move_to_end(key)
        if len(self._heard) > REMEMBERED:
            self._heard.popitem(last=False)

    def _tcp(self, at: int, datagram: Datagram, spi: int) -> Iterator[Seen | Unread]:
        segment = datagram.payload
        start = 4 * (segment[12] >> 4)
        data = segment[start:]
        key = datagram.source, datagram.destination, segment[:4]
        sequence = int.from_bytes(segment[4:8], "big")
        if segment[13] & 2:  # SYN
            self._join(key, sequence + 1 & 0xFFFF_FFFF)
            return
        if not data or start < 20:
            return
        stream = self._streams.get(key)
        if stream is None:
            if START_LINE.match(data.lstrip(b"\r\n")[:2048]) is None:
                return
            stream = self._join(key, sequence)
        behind = stream.next - sequence & 0xFFFF_FFFF
        if behind >= 1 << 31:  # ahead of what is expected
            if not stream.early:
                stream.since = at
            stream.early.setdefault(sequence, data)
            stream.latest = at, datagram, spi
            if len(stream.early) >= SEGMENTS or at - stream.since > GAP:
                yield from self._skip(stream)
            return
        yield from self._take(at, datagram, spi, stream, data[behind:])
        yield from self._early(at, datagram, spi, stream)

    def finish(self) -> Iterator[Seen | Unread]:
        """What still waits for segments that did not come."""
        for stream in self._streams.values():
            yield from self._skip(stream)

    def _skip(self, stream: _Stream) -> Iterator[Seen | Unread]:
        """A gap will not be filled: go on where a message begins behind it."""
        while stream.early and stream.latest is not None:
            first = min(stream.early, key=lambda each: each - stream.next & 0xFFFF_FFFF)
            stream.next, stream.parser = first, None
            yield from self._early(*stream.latest, stream)

    def _early(self, at: int, datagram: Datagram, spi: int, stream: _Stream) -> Iterator[Seen | Unread]:
        """Take the early segments whose turn has come."""
        while stream.early:
            ahead = next((each for each in stream.early if stream.next - each & 0xFFFF_FFFF < 1 << 31), None)
            if ahead is None:
                return
            late = stream.early.pop(ahead)
            yield from self._take(at, datagram, spi, stream, late[stream.next - ahead & 0xFFFF_FFFF :])

    def _join(self, key: tuple[bytes, bytes, bytes], sequence: int) -> _Stream:
        stream = self._streams[key] = _Stream(sequence, StreamParser())
        self._streams.move_to_end(key)
        if len(self._streams) > STREAMS:
            self._streams.popitem(last=False)
        return stream

    def _take(self, at: int, datagram: Datagram, spi: int, stream: _Stream, data: bytes) -> Iterator[Seen | Unread]:
        stream.next = stream.next + len(data) & 0xFFFF_FFFF
        if stream.parser is None:
            if START_LINE.match(data.lstrip(b"\r\n")[:2048]) is None:
                return
            stream.parser = StreamParser()
        try:
            for message in stream.parser.feed(data):
                yield _seen(at, "TCP", datagram, spi, message)
        except ParseError as error:
            stream.parser = None
            # What is no SIP at all is none of ours: RTSP, HTTP and the like.
            if START_LINE.match(data.lstrip(b"\r\n")[:2048]) is not None:
                yield _unread(at, datagram, spi, error)


def _seen(
    at: int,
    transport: Literal["UDP", "TCP"],
    datagram: Datagram,
    spi: int,
    message: Request | Response,
    *,
    repeated: bool = False,
) -> Seen:
    ports = datagram.payload
    return Seen(
        at=at,
        transport=transport,
        source=ip_address(datagram.source),
        source_port=int.from_bytes(ports[:2], "big"),
        destination=ip_address(datagram.destination),
        destination_port=int.from_bytes(ports[2:4], "big"),
        spi=spi,
        message=message,
        repeated=repeated,
    )


def _unread(at: int, datagram: Datagram, spi: int, error: ParseError) -> Unread:
    source, destination = datagram.addresses
    return Unread(
        at=at,
        source=source,
        destination=destination,
        spi=spi,
        cause=None,
        text=f"malformed SIP: {error}",
        source_port=int.from_bytes(datagram.payload[:2], "big"),
        destination_port=int.from_bytes(datagram.payload[2:4], "big"),
    )


def read_sip(
    reader: Reader, decryption: Decryption, tick: Callable[[], None] = lambda: None
) -> Iterator[Seen | Unread]:
    """The SIP of a file. Of ESP that stands there opened too, the opened packet is taken. `tick`: packets go by."""
    sip = SipReader(decryption)
    waiting: Packet | None = None
    for number, packet in enumerate(reader):
        if number % STEP == 0:
            tick()
        interface = reader.interfaces[packet.interface]
        inside = interface.description == DECRYPTED
        if waiting is not None:
            if not (inside and packet.at == waiting.at):
                yield from sip.feed(waiting, reader.interfaces[waiting.interface].link)
            waiting = None
        if inside:
            found = IN_SA.match(packet.comment)
            yield from sip.feed(packet, interface.link, int(found[1]) if found else 0)
        else:
            waiting = packet
    if waiting is not None:
        yield from sip.feed(waiting, reader.interfaces[waiting.interface].link)
    yield from sip.finish()
