"""The wire of the lab: every frame of one interface, written to a pcapng file and counted.

The count is the lab's witness: which SPIs were seen, and whether anything passed protected ports in clear.
"""

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter

from pcscf.lab.network import Network
from xfrm.model import IPAddress, SaId

START_LINE = re.compile(rb"(?:[A-Z]+ \S+ SIP/2\.0|SIP/2\.0 [1-6][0-9]{2} [^\r\n]*)\r\n")
ETH_P_ALL = 0x0003
RECEIVE_BUFFER = 8 << 20


class Capture:
    """Takes frames in a thread of its own between `start` and `stop`."""

    def __init__(self, network: Network, host: str, interface: str) -> None:
        with network.inside(host):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.bind((interface, ETH_P_ALL))
        self._socket.settimeout(0.05)
        self._frames: list[tuple[float, bytes]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._take, name="capture", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()

    def write(self, path: Path) -> None:
        """Write what was taken so far. Raises OSError."""
        writer = PcapNgWriter(str(path))
        try:
            for at, frame in self._frames.copy():
                packet = Ether(frame)
                packet.time = at
                writer.write(packet)
        finally:
            writer.close()

    def count(self, protected: dict[IPAddress, frozenset[int]]) -> tuple[Counter[SaId], list[str]]:
        """ESP packets by destination and SPI, and a line for each packet that passed a protected port in clear."""
        return tally((frame for _, frame in self._frames.copy()), protected)

    def in_clear(self) -> list[str]:
        """The start line of each SIP message that went in clear, in their order."""
        return clear_sip(frame for _, frame in self._frames.copy())

    def _take(self) -> None:
        while not self._done.is_set():
            try:
                frame = self._socket.recv(65_536)
            except TimeoutError:
                continue
            self._frames.append((time.time(), frame))


def tally(frames: Iterable[bytes], protected: dict[IPAddress, frozenset[int]]) -> tuple[Counter[SaId], list[str]]:
    """Count ESP packets; name every UDP or TCP packet with a protected port of a protected address."""
    esp: Counter[SaId] = Counter()
    clear: list[str] = []
    for frame in frames:
        packet = Ether(frame)
        network = packet.getlayer(IP) or packet.getlayer(IPv6)
        if network is None:
            continue
        source, destination = ip_address(network.src), ip_address(network.dst)
        fragment = packet.getlayer(IPv6ExtHdrFragment)
        if fragment.offset if fragment else getattr(network, "frag", 0):
            continue  # the first fragment has spoken for the packet
        if ESP in packet:
            esp[SaId(destination, packet[ESP].spi)] += 1
            continue
        transport = packet.getlayer(UDP) or packet.getlayer(TCP)
        if transport is None:
            continue
        ends = ((source, transport.sport), (destination, transport.dport))
        if any(port in protected.get(address, ()) for address, port in ends):
            clear.append(f"{transport.name} {source} port {transport.sport} to {destination} port {transport.dport}")
    return esp, clear


def clear_sip(frames: Iterable[bytes]) -> list[str]:
    """The start lines of SIP outside ESP; inside, null encryption would show it, too."""
    found: list[str] = []
    for frame in frames:
        packet = Ether(frame)
        transport = packet.getlayer(UDP) or packet.getlayer(TCP)
        if transport is not None and ESP not in packet:
            found += [line.decode(errors="replace").rstrip() for line in START_LINE.findall(bytes(transport.payload))]
    return found
