"""What UEs that leave their challenge unanswered really send, seen before IPsec judges it.

The kernel counts what it drops for the whole host and names nobody. So while a UE is stuck, and only then, a packet
socket listens for its ESP, for its packets in clear at protected ports, and for its SPIs from other addresses. A filter
of classic BPF in the kernel lets nothing else come up. When nobody is stuck there is no socket and no cost.
"""

import ctypes
import errno
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from xfrm.model import IPAddress, PortRange, SaId, SaRecord

WATCHED = 16
"""Sets at a time: the filter is walked for every packet."""
REMEMBERED = 512
"""Sets whose evidence is kept after they are gone."""
SIGHTINGS = 16
"""Different ones of a set."""
PACKETS_PER_LOOK = 256
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_SO_ATTACH_FILTER = 26
_HEAD = 128
_TCP, _UDP, _ESP = 6, 17, 50
_SYN, _ACK = 2, 16


class Kind(StrEnum):
    """What was seen of a UE."""

    ESP = "ESP"
    """With an SPI of the set, from wherever."""
    FOREIGN_ESP = "foreign ESP"
    """With another SPI."""
    CLEAR_UDP = "UDP"
    TCP_SYN = "TCP SYN"
    CLEAR_TCP = "TCP"


class Sighting(NamedTuple):
    """Packets of one kind. `number` is the SPI of ESP, else our port."""

    kind: Kind
    source: IPAddress
    number: int


class Stuck(NamedTuple):
    """A set that waits: where its UE should be, and the two SPIs and addresses of ours it should send to."""

    set_id: int
    ue: IPAddress
    pcscf: IPAddress
    ids: tuple[SaId, ...]


@dataclass(slots=True)
class Evidence:
    """What is known of one stuck set. `records` are its SAs as they were last seen."""

    seen: dict[Sighting, int] = field(default_factory=dict)
    records: list[SaRecord] = field(default_factory=list)
    listened: bool = False
    """Somebody listened: that nothing was seen means that nothing came."""

    def count(self, sighting: Sighting) -> None:
        if sighting in self.seen or len(self.seen) < SIGHTINGS:
            self.seen[sighting] = self.seen.get(sighting, 0) + 1


class Witness:
    """Give it the stuck sets every second or so. Acts on the network namespace of the thread."""

    def __init__(self, ports: Sequence[PortRange], devices: Callable[[], tuple[str, ...]]) -> None:
        self._ports = ports
        self._devices = devices
        self._socket: socket.socket | None = None
        self._stuck: tuple[Stuck, ...] = ()
        self._buffer = bytearray(_HEAD)
        self._evidence: OrderedDict[int, Evidence] = OrderedDict()
        self.unable = ""
        """Why it cannot listen; "" while it can."""

    def evidence(self, set_id: int) -> Evidence | None:
        """What is known of a set that is or was stuck."""
        self._look()
        return self._evidence.get(set_id)

    def watch(self, stuck: Sequence[Stuck], records: Callable[[Sequence[SaId]], list[SaRecord]]) -> None:
        """Take in what came since the last call, then listen for these. `records` gives the counters of SAs."""
        self._look()
        for each in stuck[:WATCHED]:
            self._of(each.set_id).records = records(each.ids)
        if (wanted := tuple(stuck[:WATCHED])) == self._stuck:
            return
        self._stuck = wanted
        if not wanted:
            self.close()
            return
        try:
            if self._socket is None:
                # What comes before the filter is there is of no concern, and is told apart all the same.
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
                self._socket.setblocking(False)
            _attach(self._socket, program(wanted))
        except OSError as error:
            self.unable = error.strerror or str(error)
            self.close()
            return
        self.unable = ""
        for each in wanted:
            self._of(each.set_id).listened = True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _of(self, set_id: int) -> Evidence:
        found = self._evidence.get(set_id)
        if found is None:
            found = self._evidence[set_id] = Evidence()
            if len(self._evidence) > REMEMBERED:
                self._evidence.popitem(last=False)
        return found

    def _look(self) -> None:
        if self._socket is None:
            return
        own = self._devices()
        for _ in range(PACKETS_PER_LOOK):
            try:
                length, (device, _, kind, *_) = self._socket.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # the interface went; others go on
                    self.unable = error.strerror or str(error)
                    return
                continue
            if kind != _PACKET_OUTGOING and device not in own:
                self._saw(self._buffer[: min(length, _HEAD)])

    def _saw(self, packet: bytearray) -> None:
        read = _read(bytes(packet))
        if read is None:
            return
        source, destination, protocol, body = read
        spi = int.from_bytes(body[:4], "big")
        port = int.from_bytes(body[2:4], "big")
        for each in self._stuck:
            if destination != each.pcscf:
                continue
            if protocol == _ESP:
                ours = any(spi == sa_id.spi for sa_id in each.ids if sa_id.destination == each.pcscf)
                if ours:
                    self._of(each.set_id).count(Sighting(Kind.ESP, source, spi))
                elif source == each.ue:
                    self._of(each.set_id).count(Sighting(Kind.FOREIGN_ESP, source, spi))
            elif source == each.ue and any(port in ports for ports in self._ports):
                self._of(each.set_id).count(Sighting(_in_clear(protocol, body), source, port))


def _in_clear(protocol: int, body: bytes) -> Kind:
    if protocol == _UDP:
        return Kind.CLEAR_UDP
    return Kind.TCP_SYN if body[13:14] and body[13] & (_SYN | _ACK) == _SYN else Kind.CLEAR_TCP


def _read(packet: bytes) -> tuple[IPAddress, IPAddress, int, bytes] | None:
    """Source, destination, protocol and what follows the IP header; None for later fragments and other protocols."""
    if len(packet) < 28:
        return None
    if packet[0] >> 4 == 4:
        if (packet[6] << 8 | packet[7]) & 0x1FFF:
            return None
        start, protocol = 4 * (packet[0] & 15), packet[9]
        source, destination = packet[12:16], packet[16:20]
    elif len(packet) >= 48:
        start, protocol = 40, packet[6]
        source, destination = packet[8:24], packet[24:40]
        if protocol == 44:  # the first fragment
            if (packet[42] << 8 | packet[43]) & 0xFFF8:
                return None
            protocol, start = packet[40], 48
    else:
        return None
    body = packet[start:]
    if protocol not in (_TCP, _UDP, _ESP) or len(body) < 4:
        return None
    return ip_address(source), ip_address(destination), protocol, body


# Classic BPF (Linux Documentation/networking/filter.rst)

_LOAD, _LOAD_BYTE, _LOAD_AT_X, _HEADER_TO_X = 0x20, 0x30, 0x40, 0xB1
_EQUAL, _JUMP, _RETURN, _SHIFT_RIGHT = 0x15, 0x05, 0x06, 0x74
Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""
_ACCEPT: Instruction = (_RETURN, 0, 0, _HEAD)
_REJECT: Instruction = (_RETURN, 0, 0, 0)


def program(stuck: Sequence[Stuck]) -> list[Instruction]:
    """Let pass what comes from one of these UEs, and ESP with one of their inbound SPIs. Offset 0 is the IP header."""
    spis = sorted({sa_id.spi for each in stuck for sa_id in each.ids if sa_id.destination == each.pcscf})
    sources = dict.fromkeys(each.ue for each in stuck)
    known_spi = [step for spi in spis for step in ((_EQUAL, 0, 1, spi), _ACCEPT)]
    four: list[Instruction] = [(_LOAD, 0, 0, 12)]
    for address in sources:
        if isinstance(address, IPv4Address):
            four += [(_EQUAL, 0, 1, int(address)), _ACCEPT]
    four += [(_LOAD_BYTE, 0, 0, 9), (_EQUAL, 1, 0, _ESP), _REJECT]
    four += [(_HEADER_TO_X, 0, 0, 0), (_LOAD_AT_X, 0, 0, 0), *known_spi, _REJECT]
    six: list[Instruction] = []
    for address in sources:
        if isinstance(address, IPv6Address):
            for place, word in enumerate(struct.unpack("!4I", address.packed)):
                # To the end of this address: the loads and comparisons left, and the acceptance.
                six += [(_LOAD, 0, 0, 8 + 4 * place), (_EQUAL, 0, 2 * (3 - place) + 1, word)]
            six.append(_ACCEPT)
    six += [(_LOAD_BYTE, 0, 0, 6), (_EQUAL, 1, 0, _ESP), _REJECT, (_LOAD, 0, 0, 40), *known_spi, _REJECT]
    start: list[Instruction] = [(_LOAD_BYTE, 0, 0, 0), (_SHIFT_RIGHT, 0, 0, 4), (_EQUAL, 1, 0, 4)]
    return [*start, (_JUMP, 0, 0, len(four)), *four, *six]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _attach(sock: socket.socket, steps: Sequence[Instruction]) -> None:
    """Raises OSError."""
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    made = _Program(len(steps), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(made))
