"""SAs of the userspace backend in a file that outlives the process: keys, lifetimes, sequence numbers, counters.

The file is mapped into memory, so that writing costs no system call and what was written is there after a `kill -9`.
It is worth nothing after a reboot: the times in it are of this boot's clock, and what a disk has kept of a sequence
number may be too low. One process at a time; the caller sees to that. Who can read it can read the traffic: mode 0600.

An outbound sequence number is written before its packet leaves, an inbound one before its content is delivered: none is
used again (RFC 4303 3.3.3), and no packet that was accepted before is accepted after (3.4.3).
"""

import mmap
import os
import stat
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from math import inf, isfinite, isnan
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from xfrm.algorithms import ENCRYPTION, INTEGRITY, VALID_PAIRS, Encryption, Integrity, Pair
from xfrm.model import Key, Sa, Selector, XfrmError

MAGIC: Final = b"pcscfSA1"
SLOT: Final = 256
"""Octets of one SA. The first slot is the head of the file: MAGIC and the name of the boot."""
_MORE: Final = 256
"""Slots by which the file grows."""

# Native sizes: each number of `_MOVING` is one store of the processor, whole or not there.
_MOVING: Final = struct.Struct("@QQQd")
_ENDING: Final = struct.Struct("@dQ")
_LASTING: Final = struct.Struct("@dIHHHBBBB16s16s24s24s40s40s")
_ENDING_AT: Final = _MOVING.size
_LASTING_AT: Final = _ENDING_AT + _ENDING.size
_USED_AT: Final = SLOT - 1
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Resumed(NamedTuple):
    """An SA of an earlier process. Times are of the monotonic clock, of which a boot has one."""

    slot: int
    sa: Sa
    inbound: bool
    added: float
    deadline: float
    sequence: int
    """The last one sent, or the highest that was accepted."""
    packets: int
    bytes: int
    last_used: float | None


class Kept:
    """The file. One of another boot, or damaged, counts for nothing and begins anew. Raises XfrmError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        head = MAGIC + _BOOT.read_bytes().strip()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            about = os.fstat(self._file)
            if not stat.S_ISREG(about.st_mode) or about.st_mode & 0o077 or about.st_uid != os.geteuid():
                raise XfrmError(f"{path} must be a file that nobody else may open: it holds keys (chmod 600)")
            size = about.st_size
            if size and (os.pread(self._file, len(head), 0) != head or size % SLOT):
                size = 0
                os.ftruncate(self._file, 0)
            if not size:
                size = SLOT * (1 + _MORE)
                os.posix_fallocate(self._file, 0, size)
                os.pwrite(self._file, head, 0)
            self._map = mmap.mmap(self._file, size)
        except XfrmError:
            os.close(self._file)
            raise
        except OSError as error:
            raise XfrmError(f"{path}: {error.strerror}; it is to keep the SAs of this process") from error
        self._free: list[int] = []
        self._earlier: list[int] = []
        for slot in range(SLOT, size, SLOT):
            (self._earlier if self._map[slot + _USED_AT] else self._free).append(slot)

    def earlier(self) -> Iterator[Resumed]:
        """What an earlier process left and has not ended, oldest first; once. All of it goes on counting as used."""
        slots, self._earlier = self._earlier, []
        resumed = []
        for slot in slots:
            try:
                each = self._read(slot)
            except ValueError:
                self.free(slot)
                continue
            if each.deadline <= monotonic():
                self.free(slot)
            else:
                resumed.append(each)
        yield from sorted(resumed, key=lambda each: each.added)

    def _read(self, slot: int) -> Resumed:
        """Raises ValueError for what `add` and its like never wrote."""
        sequence, packets, octets, last_used = _MOVING.unpack_from(self._map, slot)
        deadline, lifetime = _ENDING.unpack_from(self._map, slot + _ENDING_AT)
        (
            added, spi, source_port, destination_port, window, inbound, address, integrity_size, encryption_size,
            source, destination, integrity, encryption, integrity_key, encryption_key,
        ) = _LASTING.unpack_from(self._map, slot + _LASTING_AT)  # fmt: skip
        sa = Sa(
            selector=Selector(
                source=ip_address(source[:address]),
                destination=ip_address(destination[:address]),
                source_port=source_port,
                destination_port=destination_port,
            ),
            spi=spi,
            integrity=Integrity(integrity.rstrip(b"\0").decode()),
            encryption=Encryption(encryption.rstrip(b"\0").decode()),
            integrity_key=Key(integrity_key[:integrity_size]),
            encryption_key=Key(encryption_key[:encryption_size]),
            lifetime=lifetime,
            replay_window=window,
        )
        _check(sa)
        if isnan(deadline) or not isfinite(added) or isnan(last_used) or sequence >= 1 << 32 or inbound > 1:
            raise ValueError("times or numbers that no SA has")
        used = None if last_used == inf else last_used
        return Resumed(slot, sa, bool(inbound), added, deadline, sequence, packets, octets, used)

    def add(self, sa: Sa, *, inbound: bool, added: float, deadline: float) -> int:
        """The slot that keeps `sa` from now on. Raises OSError when the disk is full."""
        if not self._free:
            size = len(self._map)
            os.posix_fallocate(self._file, size, SLOT * _MORE)  # a page that finds no room later would end the process
            self._map.resize(size + SLOT * _MORE)
            self._free.extend(range(size, size + SLOT * _MORE, SLOT))
        slot = self._free.pop()
        selector = sa.selector
        source, destination = selector.source.packed, selector.destination.packed
        _MOVING.pack_into(self._map, slot, 0, 0, 0, inf)
        _ENDING.pack_into(self._map, slot + _ENDING_AT, deadline, sa.lifetime)
        _LASTING.pack_into(
            self._map, slot + _LASTING_AT,
            added, sa.spi, selector.source_port, selector.destination_port, sa.replay_window, inbound,
            len(source), len(sa.integrity_key), len(sa.encryption_key), source, destination,
            sa.integrity.encode(), sa.encryption.encode(), bytes(sa.integrity_key), bytes(sa.encryption_key),
        )  # fmt: skip
        self._map[slot + _USED_AT] = 1
        return slot

    def move(self, slot: int, sequence: int, packets: int, octets: int, now: float) -> None:
        """A packet is about to leave, or to be delivered."""
        _MOVING.pack_into(self._map, slot, sequence, packets, octets, now)

    def limit(self, slot: int, deadline: float, lifetime: int) -> None:
        """The SA ends then, `lifetime` seconds from its start."""
        _ENDING.pack_into(self._map, slot + _ENDING_AT, deadline, lifetime)

    def free(self, slot: int) -> None:
        """Forget an SA, its keys first of all."""
        self._map[slot + _USED_AT] = 0
        self._map[slot : slot + SLOT] = bytes(SLOT)
        self._free.append(slot)

    def close(self, *, forget: bool) -> None:
        """`forget`: remove the file with what is in it."""
        if forget:
            self._map[:] = bytes(len(self._map))
            self.path.unlink(missing_ok=True)
        self._map.close()
        os.close(self._file)


def _check(sa: Sa) -> None:
    """Raises ValueError for an SA that cannot be: damaged octets."""
    integrity, ends = INTEGRITY[sa.integrity], sa.selector
    if (
        Pair(sa.integrity, sa.encryption) not in VALID_PAIRS
        or len(sa.integrity_key) != (integrity.key if integrity is not None else 0)
        or len(sa.encryption_key) != ENCRYPTION[sa.encryption].key
        or not (ends.source_port and ends.destination_port and sa.spi and sa.replay_window)
    ):
        raise ValueError("what stands there is no SA")
