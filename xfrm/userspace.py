"""ESP in transport mode done by this process, for kernels that have none: the `Backend` beside `kernel`.

Moves packets between the TUN and the raw socket of each protected address (`divert` sets them up), finds the SA,
has `esp` seal or open, checks the selector, counts, and ends lifetimes (RFC 4301 5, RFC 4303 3.3 and 3.4).
The transport checksums inside ESP cover the same addresses at both ends and pass through unchanged.
TOS and TTL of a received IPv4 packet are kept; of a sent one, and in IPv6, they are the defaults.

Counters mean what they mean in the kernel: `bytes` counts transport header and data, no padding and no ESP.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from math import inf
from time import monotonic, time
from typing import Final

from xfrm import guard
from xfrm.divert import TCP, UDP, Divert, missing
from xfrm.esp import IntegrityFailure, Malformed, Opener, Replayed, Sealer, SequenceExhausted
from xfrm.kept import Kept, Resumed
from xfrm.model import BackendUnavailable, IPAddress, KernelError, Loss, PortRange, Sa, SaId, SaRecord, XfrmError

PACKETS_PER_CALL: Final = 64
LOWEST_SPI: Final = 256
"""Those below are reserved (RFC 4303 2.1)."""
DUMMY: Final = 59
"""The next header of packets to be thrown away without a word (RFC 4303 2.6)."""

_BUFFER: Final = 1 << 16
_IPV4_START: Final = struct.Struct("!BBHHHBBH")
_IPV6_START: Final = struct.Struct("!IHBB")
_PORTS: Final = struct.Struct("!HH")
_DONT_FRAGMENT: Final = 0x4000
_HOP_LIMIT: Final = 64


@dataclass(slots=True)
class Drops:
    """Packets thrown away that no SA counts: what /proc/net/xfrm_stat is for the kernel backend."""

    no_sa: int = 0
    """Left a protected port toward a peer without an SA."""
    unknown_spi: int = 0
    last_unknown_spi: int | None = None
    selector_mismatch: int = 0
    """Opened well, but addresses, ports or protocol are not the SA's: somebody used another's SA."""
    malformed: int = 0
    sequence_exhausted: int = 0
    undeliverable: int = 0
    """The raw socket or the TUN refused the packet."""


class _Association:
    """An SA in use, its counters and lifetime. Times are of the monotonic clock."""

    __slots__ = (
        "added", "bytes", "deadline", "integrity_failures", "last_used", "packets", "replay_drops", "sa", "slot"
    )  # fmt: skip

    def __init__(self, sa: Sa, now: float) -> None:
        self.sa = sa
        self.bytes = 0
        self.packets = 0
        self.replay_drops = 0
        self.integrity_failures = 0
        self.added = now
        self.last_used: float | None = None
        self.deadline = now + sa.lifetime if sa.lifetime else inf
        self.slot = 0
        """Its place in the file of kept SAs, where there is one."""

    def resume(self, left: Resumed) -> None:
        """Go on where an earlier process ended."""
        self.slot, self.added, self.deadline, self.last_used = left.slot, left.added, left.deadline, left.last_used
        self.packets, self.bytes = left.packets, left.bytes

    def limit(self, now: float, lifetime: int) -> None:
        """End `lifetime` seconds from now; the SA's own lifetime goes on counting from its start."""
        self.deadline = now + lifetime if lifetime else inf
        self.sa = replace(self.sa, lifetime=int(now - self.added) + lifetime if lifetime else 0)

    def record(self, epoch: float) -> SaRecord:
        """`epoch` is the wall time when the monotonic clock was 0."""
        return SaRecord(
            sa=self.sa,
            bytes=self.bytes,
            packets=self.packets,
            replay_drops=self.replay_drops,
            integrity_failures=self.integrity_failures,
            added=epoch + self.added,
            last_used=None if self.last_used is None else epoch + self.last_used,
        )


class _Inbound(_Association):
    __slots__ = ("addresses", "checksum", "gateway", "key", "opener", "ports", "source")

    def __init__(self, sa: Sa, now: float, gateway: "_Gateway") -> None:
        super().__init__(sa, now)
        selector = sa.selector
        self.gateway = gateway
        self.key = sa.spi.to_bytes(4, "big")
        self.opener = Opener(sa)
        self.ports = _PORTS.pack(selector.source_port, selector.destination_port)
        self.addresses = selector.source.packed + selector.destination.packed
        # The source as the socket names it: the kernel writes some IPv6 addresses differently than `ipaddress`.
        self.source = socket.inet_ntop(gateway.family, selector.source.packed)
        self.checksum = sum(struct.unpack(f"!{len(self.addresses) // 2}H", self.addresses))

    def resume(self, left: Resumed) -> None:
        super().resume(left)
        self.opener.window.resume(left.sequence)

    def attach(self) -> None:
        self.gateway.inbound[self.key] = self

    def detach(self) -> None:
        del self.gateway.inbound[self.key]


class _Outbound(_Association):
    __slots__ = ("destination", "gateway", "key", "sealer")

    def __init__(self, sa: Sa, now: float, gateway: "_Gateway") -> None:
        super().__init__(sa, now)
        selector = sa.selector
        self.gateway = gateway
        self.sealer = Sealer(sa)
        self.destination = (str(selector.destination), 0)
        ports = _PORTS.pack(selector.source_port, selector.destination_port)
        self.key = selector.source.packed + selector.destination.packed + ports

    def resume(self, left: Resumed) -> None:
        super().resume(left)
        self.sealer.sequence = left.sequence

    def attach(self) -> None:
        self.gateway.outbound.setdefault(self.key, []).append(self)

    def detach(self) -> None:
        equal = self.gateway.outbound[self.key]
        equal.remove(self)
        if not equal:
            del self.gateway.outbound[self.key]


class _Gateway:
    """One protected address: its way in and out of the kernel, and its SAs as packets look for them.

    Of several outbound SAs with equal selectors the newest is used.
    """

    def __init__(self, address: IPAddress, drops: Drops, kept: Kept | None) -> None:
        self.divert = Divert(address)
        self.kept = kept
        self.version = address.version
        self.family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self.inbound: dict[bytes, _Inbound] = {}
        self.outbound: dict[bytes, list[_Outbound]] = {}
        self._drops = drops
        self._buffer = bytearray(_BUFFER)

    def seal_waiting(self) -> None:
        """Take packets out of the TUN, seal each and send it. What has no SA goes nowhere."""
        tun = self.divert.tun
        send = self.divert.raw.sendto
        outbound = self.outbound
        kept = self.kept
        drops = self._drops
        # Source, destination and ports stand side by side where no IP option or extension header is between.
        first, last, start, protocol = (12, 24, 20, 9) if self.version == 4 else (8, 44, 40, 6)
        for _ in range(PACKETS_PER_CALL):
            try:
                packet = os.read(tun, _BUFFER)
            except BlockingIOError:
                return
            except OSError as error:
                operation = f"reading {self.divert.name}"
                raise KernelError(error.errno or errno.EIO, index=0, operation=operation) from error
            equal = outbound.get(packet[first:last])
            next_header = packet[protocol]
            if equal is None or next_header not in (UDP, TCP) or not self._is_plain(packet):
                drops.no_sa += next_header in (UDP, TCP)
                continue
            association = equal[-1]
            now = monotonic()
            if now >= association.deadline:
                drops.no_sa += 1
                continue
            payload = packet[start:]
            sealer = association.sealer
            try:
                sealed = sealer.seal(payload, next_header)
            except SequenceExhausted:
                drops.sequence_exhausted += 1
                continue
            association.packets += 1
            association.bytes += len(payload)
            association.last_used = now
            if kept is not None:
                kept.move(association.slot, sealer.sequence, association.packets, association.bytes, now)
            try:
                send(sealed, association.destination)
            except OSError:
                drops.undeliverable += 1

    def _is_plain(self, packet: bytes) -> bool:
        """Whether the header has no options and the packet is whole."""
        if self.version == 6:
            return packet[0] >> 4 == 6
        return packet[0] == 0x45 and not packet[6] & 0x3F and not packet[7]

    def open_waiting(self) -> None:
        """Take ESP packets from the raw socket, open each and put what is inside into the TUN."""
        raw = self.divert.raw
        tun = self.divert.tun
        buffer = self._buffer
        view = memoryview(buffer)
        inbound = self.inbound
        kept = self.kept
        drops = self._drops
        start = 0
        for _ in range(PACKETS_PER_CALL):
            try:
                length, sender = raw.recvfrom_into(buffer)
            except BlockingIOError:
                return
            except OSError:  # of a packet that was sent before
                drops.undeliverable += 1
                continue
            if self.version == 4:
                start = 4 * (buffer[0] & 15)
            association = inbound.get(bytes(view[start : start + 4]))
            now = monotonic()
            if association is None or now >= association.deadline:
                drops.unknown_spi += 1
                drops.last_unknown_spi = int.from_bytes(view[start : start + 4], "big")
                continue
            try:
                payload, next_header = association.opener.open(view[start:length])
            except Replayed:
                association.replay_drops += 1
                continue
            except IntegrityFailure:
                association.integrity_failures += 1
                continue
            except Malformed:
                drops.malformed += 1
                continue
            association.packets += 1
            association.bytes += len(payload)
            association.last_used = now
            if kept is not None:
                highest = association.opener.window.highest
                kept.move(association.slot, highest, association.packets, association.bytes, now)
            if payload[:4] != association.ports or sender[0] != association.source or next_header not in (UDP, TCP):
                drops.selector_mismatch += next_header != DUMMY
                continue
            try:
                os.write(tun, self._ip_header(association, len(payload), next_header) + payload)
            except OSError:
                drops.undeliverable += 1

    def _ip_header(self, association: _Inbound, length: int, next_header: int) -> bytes:
        """The header the packet would have had in clear. For IPv4 the one received is still in the buffer."""
        if self.version == 6:
            return _IPV6_START.pack(6 << 28, length, next_header, _HOP_LIMIT) + association.addresses
        tos, ttl = self._buffer[1], self._buffer[8]
        total = 20 + length
        checksum = association.checksum + (0x4500 | tos) + total + _DONT_FRAGMENT + (ttl << 8 | next_header)
        checksum = (checksum & 0xFFFF) + (checksum >> 16)
        checksum = ~(checksum + (checksum >> 16)) & 0xFFFF
        start = _IPV4_START.pack(0x45, tos, total, 0, _DONT_FRAGMENT, ttl, next_header, checksum)
        return start + association.addresses


class Userspace:
    """The `Backend` that needs no ESP in the kernel. Raises BackendUnavailable, listing what is missing.

    Acts on the network namespace of the thread that calls it: call all of it from one.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        """`kept`: where the SAs, with their keys, are for the next run; without it they end with this process."""
        lacks = missing()
        if lacks:
            raise BackendUnavailable("userspace", lacks)
        self._kept = kept
        self.dropped = Drops()
        self._gateways: dict[IPAddress, _Gateway] = {}
        self._associations: dict[SaId, _Inbound | _Outbound] = {}
        self._expired: list[SaId] = []
        self._work: dict[int, Callable[[], None]] = {}

    @property
    def name(self) -> str:
        return "userspace"

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        """See Backend. Raises KernelError; what was closed until then stays closed until `close`."""
        if address.is_unspecified:
            raise KernelError(errno.EADDRNOTAVAIL, index=0, operation=f"protecting {address}", text="name one address")
        self.adopt(())  # what an earlier run left and nobody took over goes
        gateway = self._gateway(address)
        gateway.divert.protect(ports)
        self._work[gateway.divert.tun] = gateway.seal_waiting
        self._work[gateway.divert.raw.fileno()] = gateway.open_waiting

    def guard(self, guarded: socket.socket) -> None:
        """See Backend: the socket has no way but the TUN of its address, and only what this process opened comes by it.

        Raises KernelError for an address that is not protected here.
        """
        address = ip_address(guarded.getsockname()[0])
        gateway = self._gateways.get(address)
        if gateway is None or gateway.divert.tun < 0:
            raise KernelError(errno.EADDRNOTAVAIL, index=0, operation=f"guarding a socket on {address}")
        guard.require_device(guarded, gateway.divert.name)

    def restore(self) -> tuple[Loss, ...]:
        """See Backend."""
        return tuple(loss for gateway in self._gateways.values() for loss in gateway.divert.restore())

    def _gateway(self, address: IPAddress) -> _Gateway:
        gateway = self._gateways.get(address)
        if gateway is None:
            gateway = self._gateways[address] = _Gateway(address, self.dropped, self._kept)
        return gateway

    def adopt(self, ids: Sequence[SaId]) -> dict[SaId, float]:
        """See Backend. None where nothing is kept: then SAs end with their process."""
        if self._kept is None:
            return {}
        epoch = time() - monotonic()
        wanted = set(ids)
        ends: dict[SaId, float] = {}
        for left in self._kept.earlier():
            sa, association = left.sa, None
            if sa.id in wanted and sa.id not in ends:
                # Damaged: its keys do not fit its algorithms, or its addresses are none of this host.
                with contextlib.suppress(ValueError, XfrmError):
                    association = (
                        _Inbound(sa, left.added, self._gateway(sa.selector.destination))
                        if left.inbound
                        else _Outbound(sa, left.added, self._gateway(sa.selector.source))
                    )
            if association is None:
                self._kept.free(left.slot)
                continue
            association.resume(left)
            association.attach()
            self._associations[sa.id] = association
            ends[sa.id] = epoch + left.deadline
        return ends

    def install(self, sas: Sequence[Sa]) -> None:
        """See Backend. An SA is inbound if its destination is protected here, else outbound if its source is."""
        now = monotonic()
        made: dict[SaId, _Inbound | _Outbound] = {}
        for index, sa in enumerate(sas):
            operation = f"adding {sa}"
            if self._live(sa.id, now) is not None or sa.id in made:
                raise KernelError(errno.EEXIST, index=index, operation=operation)
            if not LOWEST_SPI <= sa.spi <= 0xFFFF_FFFF:
                raise KernelError(errno.EINVAL, index=index, operation=operation, text="the SPI is reserved")
            try:
                if gateway := self._gateways.get(sa.selector.destination):
                    made[sa.id] = _Inbound(sa, now, gateway)
                elif gateway := self._gateways.get(sa.selector.source):
                    made[sa.id] = _Outbound(sa, now, gateway)
                else:
                    words = "neither of its addresses is protected here"
                    raise KernelError(errno.EADDRNOTAVAIL, index=index, operation=operation, text=words)
            except ValueError as error:
                raise KernelError(errno.EINVAL, index=index, operation=operation, text=str(error)) from error
        if self._kept is not None:
            self._keep(self._kept, list(made.values()))
        for association in made.values():
            association.attach()
        self._associations |= made

    def _keep(self, kept: Kept, made: Sequence[_Inbound | _Outbound]) -> None:
        """Raises KernelError when there is no room for one; then none is kept."""
        for index, each in enumerate(made):
            try:
                inbound = isinstance(each, _Inbound)
                each.slot = kept.add(each.sa, inbound=inbound, added=each.added, deadline=each.deadline)
            except OSError as error:
                for before in made[:index]:
                    kept.free(before.slot)
                operation = f"keeping {each.sa} in {kept.path}"
                raise KernelError(error.errno or errno.EIO, index=index, operation=operation) from error

    def update(self, ids: Sequence[SaId], lifetime: int) -> None:
        """See Backend. Raises KernelError for the first SA that is gone, after updating the others."""
        now = monotonic()
        refused: KernelError | None = None
        for index, identity in enumerate(ids):
            association = self._live(identity, now)
            if association is not None:
                association.limit(now, lifetime)
                if self._kept is not None:
                    self._kept.limit(association.slot, association.deadline, association.sa.lifetime)
            elif refused is None:
                operation = f"changing the lifetime of {identity}"
                refused = KernelError(errno.ESRCH, index=index, operation=operation)
        if refused is not None:
            raise refused

    def remove(self, ids: Sequence[SaId]) -> None:
        """See Backend."""
        for identity in ids:
            association = self._associations.pop(identity, None)
            if association is not None:
                self._end(association)

    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]:
        """See Backend."""
        now = monotonic()
        epoch = time() - now
        wanted = self._associations.values() if ids is None else map(self._associations.get, ids)
        return [each.record(epoch) for each in wanted if each is not None and now < each.deadline]

    def count(self) -> int:
        """See Backend."""
        return len(self._associations)

    def drops(self) -> dict[str, int]:
        """See Backend. Packets in clear are counted by nftables."""
        drops = self.dropped
        counted = {
            "no SA to send on": drops.no_sa,
            "unknown SPI": drops.unknown_spi,
            "another's SA": drops.selector_mismatch,
            "malformed": drops.malformed,
            "sequence exhausted": drops.sequence_exhausted,
            "undeliverable": drops.undeliverable,
            "in clear": self.clear_drops(),
        }
        return {name: count for name, count in counted.items() if count}

    def devices(self) -> tuple[str, ...]:
        """See Backend."""
        return tuple(gateway.divert.name for gateway in self._gateways.values() if gateway.divert.tun >= 0)

    def expirations(self) -> list[SaId]:
        """See Backend."""
        now = monotonic()
        for identity in list(self._associations):
            self._live(identity, now)
        expired, self._expired = self._expired, []
        return expired

    def filenos(self) -> tuple[int, ...]:
        """See Backend. Two for each protected address: ask again after `protect`."""
        return tuple(self._work)

    def process(self, fileno: int) -> None:
        """See Backend. At most PACKETS_PER_CALL packets. Raises KernelError when its TUN is gone."""
        self._work[fileno]()

    def clear_drops(self) -> int:
        """How many packets came to protected ports in clear and were dropped."""
        return sum(gateway.divert.clear_drops() for gateway in self._gateways.values() if gateway.divert.tun >= 0)

    def leave(self) -> None:
        """See Backend. SAs stay where they are kept; where they are not, nothing stays."""
        if self._kept is None:
            self.close()
            return
        for gateway in self._gateways.values():
            gateway.divert.leave()
        self._clear()
        self._kept.close(forget=False)

    def close(self) -> None:
        """See Backend. Raises KernelError for what could not be undone, after trying all."""
        refused: KernelError | None = None
        for gateway in self._gateways.values():
            try:
                gateway.divert.close()
            except KernelError as error:
                refused = error
        self._clear()
        if self._kept is not None:
            self._kept.close(forget=True)
        if refused is not None:
            raise refused

    def _clear(self) -> None:
        self._gateways.clear()
        self._associations.clear()
        self._work.clear()

    def _live(self, identity: SaId, now: float) -> _Inbound | _Outbound | None:
        """The SA of this name. One past its hard lifetime is put with the expired instead."""
        association = self._associations.get(identity)
        if association is None or now < association.deadline:
            return association
        del self._associations[identity]
        self._end(association)
        self._expired.append(identity)
        return None

    def _end(self, association: _Inbound | _Outbound) -> None:
        association.detach()
        if self._kept is not None:
            self._kept.free(association.slot)
