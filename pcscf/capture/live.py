"""Frames of one network interface as they pass, and what is recorded of them.

`Tap` takes frames in a thread of its own, so that nothing that is done with them loses any. `Recorder` writes two views
side by side: the wire, and what was inside its ESP.
"""

import errno
import fcntl
import os
import queue
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from pcscf.capture.decryption import KNOWN_FLOWS, Decryption, KeyRing, Opened
from pcscf.capture.file import ETHERNET, RAW, CaptureError, Interface, Packet, Writer
from pcscf.capture.frames import ESP, TCP, UDP, Datagram, Reassembly
from pcscf.capture.sip import DECRYPTED, START_LINE
from pcscf.folder import owned_file
from xfrm.wireshark import SaLine

RECEIVE_BUFFER = 32 << 20
SNAP = 262_144
LOOK_EVERY = 0.25
"""Seconds between two looks for new keys while SPIs are unknown."""
LOOKS = 4
"""For the keys of one SPI."""
FLUSH_EVERY = 1.0
CLEAR_PORTS = frozenset((5060, 5061))
_ICMP = (1, 58)
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_PACKET_STATISTICS = 6
_SOL_PACKET = 263
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_SIOCGIFHWADDR = 0x8927
_TIMESPEC = struct.Struct("@qq")
_LINKS = {1: ETHERNET, 772: ETHERNET, 65534: RAW, 778: RAW, 768: RAW, 776: RAW}
"""ARPHRD_ type -> LINKTYPE_: Ethernet, loopback, none (TUN), and tunnels over IP."""
_LOOPBACK = 772


class Tap:
    """Takes every frame of an interface of this thread's network namespace between `start` and `stop`.

    `sink` is called in another thread. Raises CaptureError: no such interface, no right, an unknown kind of link.
    """

    def __init__(self, interface: str, sink: Callable[[Packet], None]) -> None:
        self.interface = interface
        self._sink = sink
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError as error:
            raise CaptureError("capturing needs CAP_NET_RAW: run it as root (sudo)") from error
        try:
            kind = self._kind(interface)
            if kind not in _LINKS:
                raise CaptureError(f"interface {interface} is of kind {kind}, not Ethernet, loopback or an IP tunnel")
            self.link = _LINKS[kind]
            self._once = kind == _LOOPBACK
            self._grow()
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise CaptureError(f"interface {interface}: {error.strerror}; `ip link` shows those there are") from error
        except CaptureError:
            self._socket.close()
            raise
        self._socket.settimeout(0.05)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._take, name="capture", daemon=True)
        self.trouble = ""
        """What ended it before `stop`."""

    def _kind(self, interface: str) -> int:
        request = struct.pack("16sH14x", interface.encode()[:15], 0)
        answer = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, request)
        return int(struct.unpack_from("H", answer, 16)[0])

    def _grow(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def _exists(self) -> bool:
        time.sleep(0.05)
        try:
            self._kind(self.interface)
        except OSError:
            return False
        return True

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> int:
        """Take no more; how many frames the kernel had to drop."""
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._socket.close()
        return int(struct.unpack("II", statistics)[1])

    def _take(self) -> None:
        space = socket.CMSG_SPACE(_TIMESPEC.size)
        buffer = memoryview(bytearray(SNAP))
        while not self._done.is_set():
            try:
                length, ancillary, _, sender = self._socket.recvmsg_into([buffer], space)
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno == errno.ENETDOWN and self._exists():  # it may come up again
                    continue
                self.trouble = error.strerror or str(error)
                return
            if self._once and sender[2] == _PACKET_OUTGOING:
                continue
            at = time.time_ns()
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) >= _TIMESPEC.size:
                    seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                    at = seconds * 1_000_000_000 + nanoseconds
            self._sink(Packet(at, 0, bytes(buffer[:length]), length))


class KeySource(Protocol):
    """Where keys come from while SAs come to be."""

    def fresh(self) -> list[SaLine]:
        """All lines there are, if there may be new ones."""

    def describe(self, spi: int) -> str:
        """Whose SA that is, as far as is known; else ""."""


class View(Protocol):
    """Where packets go: the wire is interface 0, what was inside ESP is 1."""

    def wire(self, packet: Packet) -> None: ...
    def inside(self, packet: Packet) -> None: ...


class Opening:
    """Decides what of the wire belongs to Gm, opens it, and gives both to a view."""

    def __init__(
        self, source: KeySource, link: int, view: View, *, ports: Iterable[int], everything: bool = False
    ) -> None:
        self._source = source
        self._link = link
        self._view = view
        self._ports = CLEAR_PORTS | frozenset(ports)
        self._everything = everything
        self._reassembly = Reassembly()
        self.decryption = Decryption(KeyRing(source.fresh()))
        self._next_look = 0.0
        self._looked: Counter[bytes] = Counter()
        self._known: set[int] = set()
        self.packets = 0
        self.esp = 0

    def renew(self) -> None:
        """A new file begins: SAs are described in it again."""
        self._known.clear()

    def take(self, packet: Packet) -> None:
        """One frame."""
        datagram = self._reassembly.feed(self._link, packet.data)
        if datagram is None and not self._everything:
            return
        if isinstance(datagram, Datagram) and not (self._everything or self._of_gm(datagram)):
            return
        self.packets += 1
        if not isinstance(datagram, Datagram) or datagram.protocol != ESP:
            self._view.wire(packet)
            return
        self.esp += 1
        self._look_for_keys(datagram)
        found = self.decryption.open(datagram)
        if not isinstance(found, Opened):
            self._view.wire(packet)
            return
        comment = self._comment(found)
        self._view.wire(packet._replace(comment="" if found.spi in self._known else comment))
        self._known.add(found.spi)
        data = datagram.frame(found.protocol, found.payload)
        self._view.inside(Packet(packet.at, 1, data, len(data), comment))

    def _of_gm(self, datagram: Datagram) -> bool:
        if datagram.protocol in (UDP, TCP):
            ports = datagram.payload
            ends = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:4], "big")
            start = 8 if datagram.protocol == UDP else 4 * (ports[12] >> 4) if len(ports) > 12 else 0
            return not self._ports.isdisjoint(ends) or START_LINE.match(ports[start : start + 2048]) is not None
        return datagram.protocol == ESP or datagram.protocol in _ICMP

    def _look_for_keys(self, datagram: Datagram) -> None:
        spi = datagram.payload[:4]
        if self.decryption.keys.candidates(datagram.source, datagram.destination, spi):
            return
        # Somebody else's ESP stays unknown: it is not to make us ask for ever.
        key, now = datagram.destination + spi, time.monotonic()
        if now < self._next_look or self._looked[key] >= LOOKS or len(self._looked) > KNOWN_FLOWS:
            return
        self._looked[key] += 1
        self._next_look = now + LOOK_EVERY
        self.decryption.keys.add(self._source.fresh())

    def _comment(self, found: Opened) -> str:
        line = found.line
        comment = f"SA {found.spi}"
        if line is None:
            return f"{comment}, null encryption, integrity not checked"
        comment += f" {line.source or '*'} → {line.destination or '*'} {line.integrity}/{line.encryption}"
        whose = self._source.describe(found.spi)
        return f"{comment} {whose}" if whose else comment


class Recorder:
    """A `View` that writes pcapng files: one that goes on, or several of a size, the oldest of them going first.

    A file that somebody moves away or deletes is begun anew under its name. Raises CaptureError, OSError.
    """

    def __init__(self, path: Path, interface: str, link: int, *, size: int = 0, files: int = 0) -> None:
        self._path = path
        self._interfaces: Sequence[Interface] = (
            Interface(link=link, name=interface, description="as on the wire"),
            Interface(link=link, name=f"{interface}-decrypted", description=DECRYPTED),
        )
        self._size = size
        self._files = files
        self._number = 0
        self._written: list[Path] = []
        self.on_new_file: Callable[[], None] = lambda: None
        self._open()

    def wire(self, packet: Packet) -> None:
        # Both views of a packet belong into one file, so a new one begins before the first.
        if self._size and self._stream.tell() >= self._size:
            self.renew()
        self._writer.write(packet)

    def inside(self, packet: Packet) -> None:
        self._writer.write(packet)

    def flush(self) -> None:
        """Let everybody read what is there. Begins anew where the file was taken away."""
        self._stream.flush()
        try:
            there = os.stat(self._current)
            mine = os.fstat(self._stream.fileno())
            gone = (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev)
        except FileNotFoundError:
            gone = True
        if gone:
            self.renew()

    def renew(self) -> None:
        """Begin the next file, or the same anew."""
        self._stream.close()
        self._open()

    def close(self) -> None:
        self._stream.close()

    def _open(self) -> None:
        self._current = self._path
        if self._size:
            self._number += 1
            self._current = self._path.with_name(f"{self._path.stem}-{self._number:04}{self._path.suffix}")
        try:
            descriptor = owned_file(self._current, os.O_WRONLY | os.O_CREAT, secret=False)
            os.fchmod(descriptor, 0o600)  # what was there before may have been open to others
            os.ftruncate(descriptor, 0)
        except OSError as error:
            raise CaptureError(f"{self._current}: {error.strerror}") from error
        self._stream: BinaryIO = os.fdopen(descriptor, "wb", buffering=1 << 18)
        self._writer = Writer(self._stream, self._interfaces)
        self._stream.flush()
        self.on_new_file()
        if self._size:
            self._written.append(self._current)
            while self._files and len(self._written) > self._files:
                self._written.pop(0).unlink(missing_ok=True)


def follow(frames: "queue.SimpleQueue[Packet]", take: Callable[[Packet], None], flush: Callable[[], None]) -> None:
    """Take what waits for at most a while, then flush: one turn of a recording."""
    end = time.monotonic() + FLUSH_EVERY
    while (left := end - time.monotonic()) > 0:
        try:
            take(frames.get(timeout=min(left, 0.1)))
        except queue.Empty:
            if frames.empty():
                break
    flush()


def drain(frames: "queue.SimpleQueue[Packet]", take: Callable[[Packet], None]) -> None:
    """Take what is left."""
    while not frames.empty():
        take(frames.get())
