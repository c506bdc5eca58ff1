"""The values of IPsec in transport mode: selectors, security associations, policies, and what went wrong.

Addresses are `ipaddress` objects, SPIs and ports are host order integers, times are seconds. Identity (`SaId`)
and contents (`Sa`) are two types. Nothing here touches a socket.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from xfrm.algorithms import Encryption, Integrity

IPAddress = IPv4Address | IPv6Address

DEFAULT_REQID = 0x33203
REPLAY_WINDOW = 64
"""Packets. TS 33.203 6.3 wants anti-replay on every SA."""


def bracketed(address: IPAddress) -> str:
    """An address as it stands before a port: IPv6 in brackets (RFC 3986 3.2.2)."""
    return str(address) if address.version == 4 else f"[{address}]"


class Key(bytes):
    """Key material that does not show itself: `repr`, `str` and format give only the length."""

    def __repr__(self) -> str:
        return f"<key of {len(self)} octets>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """The one flow an SA carries: both addresses, both ports, UDP and TCP alike (TS 33.203 7.1)."""

    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise ValueError(f"an SA cannot join {self.source} and {self.destination}: different families")

    def __str__(self) -> str:
        source, destination = bracketed(self.source), bracketed(self.destination)
        return f"from {source}:{self.source_port} to {destination}:{self.destination_port}"


class SaId(NamedTuple):
    """What names an SA in the host: ESP, destination address and SPI (RFC 4301 4.1)."""

    destination: IPAddress
    spi: int

    def __str__(self) -> str:
        return f"SA {self.spi} to {self.destination}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sa:
    """One unidirectional ESP transport-mode SA. `lifetime` is its hard limit in seconds from install; 0 is none.

    An AEAD pair has its key (cipher key, then salt) in the field of its role and the other key empty.
    """

    selector: Selector
    spi: int
    integrity: Integrity
    encryption: Encryption
    integrity_key: Key
    encryption_key: Key
    lifetime: int = 0
    replay_window: int = REPLAY_WINDOW

    @property
    def id(self) -> SaId:
        return SaId(self.selector.destination, self.spi)

    def __str__(self) -> str:
        return f"SA {self.spi} {self.selector} ({self.integrity}/{self.encryption})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaRecord:
    """An SA as the backend holds it now, with its counters. Times are seconds since the epoch."""

    sa: Sa
    bytes: int
    packets: int
    replay_drops: int
    integrity_failures: int
    added: float
    last_used: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRange:
    """`count` ports from `first`: an aligned power of two, so that a port mask covers it."""

    first: int
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or self.count & (self.count - 1) or self.first % self.count:
            raise ValueError(f"ports {self.first}+{self.count} are no aligned power of two")
        if not 0 < self.first <= self.first + self.count - 1 <= 0xFFFF:
            raise ValueError(f"ports {self.first}+{self.count} are outside 1..65535")

    @property
    def mask(self) -> int:
        return 0x10000 - self.count

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.first <= port < self.first + self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.count))

    def __str__(self) -> str:
        return str(self.first) if self.count == 1 else f"{self.first}-{self.first + self.count - 1}"


class Direction(StrEnum):
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`Nothing passes these ports of this local address except as ESP in transport mode`, in one direction.

    Constant for a process: SAs come and go under it (design: SAs carry their own selector).
    """

    direction: Direction
    address: IPAddress
    ports: PortRange


class Loss(NamedTuple):
    """Something that guards protected ports was found gone: `what`, and why it could not be put back ("": it was)."""

    what: str
    error: str = ""


class XfrmError(OSError):
    """Base of what a backend raises. `errno` is set where a system call said so."""


class KernelError(XfrmError):
    """The kernel (or the engine) refused one message of a batch; the rest of the batch was undone.

    `index` is its place in the batch, `operation` says what was asked (no key in it), `text` the kernel's words.
    """

    def __init__(self, errno: int, *, index: int, operation: str, text: str = "") -> None:
        words = text or os.strerror(errno)
        super().__init__(errno, f"{operation} refused: {words}")
        self.index = index
        self.operation = operation
        self.text = words


class BackendUnavailable(XfrmError):
    """This backend cannot work here. `missing` lists what is absent, each with what to do, for people."""

    def __init__(self, name: str, missing: Sequence[str]) -> None:
        super().__init__(f"{name} ESP backend cannot work here: " + "; ".join(missing))
        self.missing = tuple(missing)
