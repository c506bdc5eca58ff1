"""The wire of the lab: every frame of one interface, written to a pcapng file and counted.

The count is the lab's witness: which SPIs were seen, and whether anything passed protected ports in clear.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pcscf.capture.file import ETHERNET, Interface, Packet, Writer
from pcscf.capture.frames import ESP, TCP, UDP, Datagram, Reassembly
from pcscf.capture.live import Tap
from pcscf.capture.sip import START_LINE
from pcscf.lab.network import Network
from xfrm.model import IPAddress, SaId


class Capture:
    """Takes frames in a thread of its own between `start` and `stop`. Raises CaptureError."""

    def __init__(self, network: Network, host: str, interface: str) -> None:
        self._taken: list[Packet] = []
        with network.inside(host):
            self._tap = Tap(interface, self._taken.append)
        self._interface = interface

    def start(self) -> None:
        self._tap.start()

    def stop(self) -> None:
        self._tap.stop()

    @property
    def packets(self) -> list[Packet]:
        """What was taken so far."""
        return self._taken.copy()

    @property
    def frames(self) -> list[bytes]:
        """The frames so far."""
        return [packet.data for packet in self._taken.copy()]

    def write(self, path: Path) -> None:
        """Write what was taken so far. Raises OSError."""
        write_capture(path, self._interface, self.packets)

    def count(self, protected: dict[IPAddress, frozenset[int]]) -> tuple[Counter[SaId], list[str]]:
        """ESP packets by destination and SPI, and a line for each packet that passed a protected port in clear."""
        return tally(self.frames, protected)

    def in_clear(self) -> list[str]:
        """The start line of each SIP message that went in clear, in their order."""
        return clear_sip(self.frames)


def write_capture(path: Path, interface: str, packets: Iterable[Packet]) -> None:
    """Write packets of one Ethernet interface. Raises OSError."""
    with path.open("wb") as stream:
        writer = Writer(stream, [Interface(link=ETHERNET, name=interface)])
        for packet in packets:
            writer.write(packet)


def _datagrams(frames: Iterable[bytes]) -> Iterator[Datagram]:
    reassembly = Reassembly()
    for frame in frames:
        datagram = reassembly.feed(ETHERNET, frame)
        if isinstance(datagram, Datagram):
            yield datagram


def tally(frames: Iterable[bytes], protected: dict[IPAddress, frozenset[int]]) -> tuple[Counter[SaId], list[str]]:
    """Count ESP packets; name every UDP or TCP packet with a protected port of a protected address."""
    esp: Counter[SaId] = Counter()
    clear: list[str] = []
    for datagram in _datagrams(frames):
        source, destination = datagram.addresses
        ports = datagram.payload
        if datagram.protocol == ESP:
            esp[SaId(destination, int.from_bytes(ports[:4], "big"))] += 1
        elif datagram.protocol in (UDP, TCP):
            ends = (source, int.from_bytes(ports[:2], "big")), (destination, int.from_bytes(ports[2:4], "big"))
            if any(port in protected.get(address, ()) for address, port in ends):
                name = "UDP" if datagram.protocol == UDP else "TCP"
                clear.append(f"{name} {source} port {ends[0][1]} to {destination} port {ends[1][1]}")
    return esp, clear


def clear_sip(frames: Iterable[bytes]) -> list[str]:
    """The start lines of SIP outside ESP; inside, null encryption would show it, too."""
    found: list[str] = []
    for datagram in _datagrams(frames):
        payload = datagram.payload
        if datagram.protocol in (UDP, TCP) and len(payload) > 12:
            start = 8 if datagram.protocol == UDP else 4 * (payload[12] >> 4)
            found += [line.decode(errors="replace").rstrip() for line in START_LINE.findall(payload[start:])]
    return found
