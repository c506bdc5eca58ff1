"""The kernel backend: Linux XFRM does ESP, this module tells it which SAs and policies there shall be.

Responsible for: all or nothing of a batch, what belongs to us (our reqid and the set of SAs this object made),
taking over after a killed run, and words for people when the kernel refuses. Bytes are `codec`'s, sockets `netlink`'s.
Keeps no key: what `records` shows is read back from the kernel.

Nobody else's IPsec is touched: never a flush, never a state of another reqid or of a local address we do not protect.
"""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from xfrm import codec, guard
from xfrm.algorithms import ENCRYPTION, INTEGRITY, Encryption, Integrity, Pair
from xfrm.codec import Identity, Message, UnknownState
from xfrm.model import (
    DEFAULT_REQID,
    Direction,
    IPAddress,
    KernelError,
    Key,
    Loss,
    Policy,
    PortRange,
    Sa,
    SaId,
    SaRecord,
    Selector,
    XfrmError,
)
from xfrm.netlink import Answer, Channel, Overrun, Request

_NETLINK_XFRM: Final = 6
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_STATISTICS: Final = Path("/proc/thread-self/net/xfrm_stat")
_GONE: Final = (0, errno.ESRCH)
"""Answers to a deletion after which the thing does not exist."""


class Kernel:
    """`xfrm.backend.Backend` on Linux XFRM. Needs CAP_NET_ADMIN over the network namespace it is made in."""

    def __init__(self, *, reqid: int = DEFAULT_REQID) -> None:
        self._reqid = reqid
        self._requests = Channel(_NETLINK_XFRM)
        try:
            self._events = Channel(_NETLINK_XFRM, groups=[codec.GROUP_EXPIRE])
        except OSError:
            self._requests.close()
            raise
        self._ours: set[SaId] = set()
        self._policies: list[Policy] = []
        self._closed = False

    @property
    def name(self) -> str:
        return "kernel"

    def adopt(self, ids: Sequence[SaId]) -> dict[SaId, float]:
        """See Backend."""
        wanted = set(ids)
        if not wanted:
            return {}
        found = {
            state.id: codec.parse_end(payload)
            for payload in self._dump()
            if (state := _ours_or_none(payload, self._reqid)) and state.id in wanted
        }
        self._ours.update(found)
        return found

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        """Put the constant policies on these ports, then delete the SAs an earlier run left on them.

        Policies come first: while the old SAs go, nothing passes in clear. Raises KernelError; what was
        protected until then stays so until `close`.
        """
        wanted = [
            Policy(direction=direction, address=address, ports=range_) for range_ in ports for direction in Direction
        ]
        for index, policy in enumerate(wanted):
            if policy not in self._policies:
                self._protect(index, policy)
                self._policies.append(policy)
        left = [
            state.id
            for state in self._states()
            if state.id not in self._ours and _is_local(state.selector, address, ports)
        ]
        self._delete(left)

    def _protect(self, index: int, policy: Policy) -> None:
        """Add a policy, or replace the one with the same selector if its template carries our reqid."""
        payload = codec.new_policy(policy, self._reqid)
        answer = self._ask(Message.NEWPOLICY, payload, _NLM_F_CREATE | _NLM_F_EXCL)
        if answer.errno == errno.EEXIST:
            present = self._ask(Message.GETPOLICY, codec.policy_id(policy))
            if codec.policy_reqids(present.payload) == (self._reqid,):
                answer = self._ask(Message.UPDPOLICY, payload)
            else:
                answer = answer._replace(text="another IPsec user has a policy with this selector")
        if answer.errno:
            operation = f"policy {policy.direction} for {policy.address} ports {policy.ports}"
            raise KernelError(answer.errno, index=index, operation=operation, text=answer.text)

    def guard(self, guarded: socket.socket) -> None:
        """See Backend: a policy of the socket's own, which no flush of policies removes."""
        guard.require_esp(guarded, self._reqid)

    def restore(self) -> tuple[Loss, ...]:
        """See Backend. One netlink message for each policy."""
        answers = self._requests.batch([Request(Message.GETPOLICY, codec.policy_id(each)) for each in self._policies])
        losses = []
        for policy, answer in zip(self._policies, answers, strict=True):
            if not answer.errno and codec.holds(answer.payload, policy, self._reqid):
                continue
            # Whoever put something else in its place: the selector was ours first.
            put_back = self._ask(Message.UPDPOLICY, codec.new_policy(policy, self._reqid))
            error = (put_back.text or os.strerror(put_back.errno)) if put_back.errno else ""
            losses.append(Loss(f"policy {policy.direction} for {policy.address} ports {policy.ports}", error))
        return tuple(losses)

    def install(self, sas: Sequence[Sa]) -> None:
        """Add all of `sas` or none. Raises KernelError naming the first the kernel refused."""
        answers = self._requests.batch(
            [Request(Message.NEWSA, codec.new_sa(sa, self._reqid), _NLM_F_CREATE | _NLM_F_EXCL) for sa in sas]
        )
        added = [sa.id for sa, answer in zip(sas, answers, strict=True) if not answer.errno]
        self._ours.update(added)
        if len(added) < len(sas):
            with contextlib.suppress(KernelError):  # the first refusal is what is told; `close` tries these again
                self.remove(added)
            index = next(place for place, answer in enumerate(answers) if answer.errno)
            raise _refused(answers[index], index, f"adding {sas[index]}")

    def update(self, ids: Sequence[SaId], lifetime: int) -> None:
        """Let the SAs end `lifetime` seconds from now; counters and sequence numbers stay.

        The kernel counts a lifetime from the day the SA was added, and UPDSA wants the whole state, keys
        included: so each state is read, its limit changed in place, and sent back.
        Raises KernelError naming the first that was refused; the others are updated.
        """
        refused: dict[int, Answer] = {}
        changes: dict[int, Request] = {}
        now = int(time.time())
        read = self._requests.batch([Request(Message.GETSA, codec.sa_id(identity)) for identity in ids])
        for index, answer in enumerate(read):
            if answer.errno or ids[index] not in self._ours:
                refused[index] = answer if answer.errno else Answer(errno.ESRCH, "not an SA of this process")
                continue
            age = now - codec.parse_identity(answer.payload).added
            payload = codec.updated_sa(answer.payload, max(1, age + lifetime))
            changes[index] = Request(Message.UPDSA, payload)
        answers = self._requests.batch(list(changes.values()))
        refused |= {index: answer for index, answer in zip(changes, answers, strict=True) if answer.errno}
        if refused:
            index = min(refused)
            raise _refused(refused[index], index, f"changing the lifetime of {ids[index]}")

    def remove(self, ids: Sequence[SaId]) -> None:
        """Delete those of `ids` that are ours. Raises KernelError for a refusal other than 'gone already'."""
        self._delete([identity for identity in ids if identity in self._ours])

    def _delete(self, ids: Sequence[SaId]) -> None:
        answers = self._requests.batch([Request(Message.DELSA, codec.sa_id(identity)) for identity in ids])
        self._ours.difference_update(
            identity for identity, answer in zip(ids, answers, strict=True) if answer.errno in _GONE
        )
        for index, answer in enumerate(answers):
            if answer.errno not in _GONE:
                raise _refused(answer, index, f"deleting {ids[index]}")

    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]:
        """Read our SAs from the kernel, keys and counters included. Raises XfrmError."""
        if ids is not None:
            ours = [Request(Message.GETSA, codec.sa_id(identity)) for identity in ids if identity in self._ours]
            return [codec.parse_record(each.payload) for each in self._requests.batch(ours) if not each.errno]
        return [
            codec.parse_record(payload)
            for payload in self._dump()
            if (state := _ours_or_none(payload, self._reqid)) and state.id in self._ours
        ]

    def count(self) -> int:
        """SAs in this network namespace, whosever they are, at a cost that does not grow. Raises XfrmError."""
        answer = self._ask(Message.GETSADINFO, codec.sad_info())
        if answer.errno:
            raise _refused(answer, 0, "counting SAs")
        return codec.parse_sad_count(answer.payload)

    def drops(self) -> dict[str, int]:
        """The counters of /proc/net/xfrm_stat that are not 0: of all IPsec in this network namespace."""
        try:
            lines = _STATISTICS.read_text().splitlines()
        except OSError:
            return {}
        counters = (line.split() for line in lines)
        return {name: int(value) for name, value in counters if value != "0"}

    def devices(self) -> tuple[str, ...]:
        """None."""
        return ()

    def expirations(self) -> list[SaId]:
        """Return our SAs that reached their hard limit since the last call; a lost event is found by a dump."""
        expired: list[SaId] = []
        try:
            for kind, payload in self._events.events():
                if kind == Message.EXPIRE:
                    expired += self._expired(payload)
        except Overrun:
            # The queue is bounded and the state is not lost: what we own and the kernel has not, has expired.
            gone = self._ours - {state.id for state in self._states()}
            self._ours -= gone
            expired += gone
        return expired

    def _expired(self, payload: bytes) -> list[SaId]:
        try:
            state, hard = codec.parse_expire(payload)
        except UnknownState:
            return []
        if not hard or state.reqid != self._reqid or state.id not in self._ours:
            return []
        self._ours.discard(state.id)
        return [state.id]

    def filenos(self) -> tuple[int, ...]:
        """None: the kernel moves the packets."""
        return ()

    def process(self, fileno: int) -> None:
        """Nothing to move: `filenos` offers no descriptor. Raises ValueError."""
        raise ValueError(f"file descriptor {fileno} is not one of the kernel backend's")

    def leave(self) -> None:
        """Close the sockets only; SAs and policies stay."""
        if not self._closed:
            self._closed = True
            self._requests.close()
            self._events.close()

    def close(self) -> None:
        """Delete our SAs, then our policies, then close the sockets; a second time does nothing. Raises KernelError."""
        if self._closed:
            return
        self._closed = True
        try:
            self._delete(list(self._ours))
            requests = [Request(Message.DELPOLICY, codec.policy_id(policy)) for policy in self._policies]
            for index, answer in enumerate(self._requests.batch(requests)):
                if answer.errno not in (*_GONE, errno.ENOENT):
                    policy = self._policies[index]
                    raise _refused(answer, index, f"deleting policy {policy.direction} for {policy.address}")
        finally:
            self._requests.close()
            self._events.close()

    def _ask(self, message: Message, payload: bytes, flags: int = 0) -> Answer:
        return self._requests.batch([Request(message, payload, flags)])[0]

    def _dump(self) -> list[bytes]:
        try:
            return self._requests.dump(Request(Message.GETSA, codec.all_sas()))
        except OSError as error:
            raise XfrmError(error.errno, f"listing the SAs of this host failed: {error.strerror}") from error

    def _states(self) -> list[Identity]:
        """Every state of our reqid, this process's or not."""
        return [state for payload in self._dump() if (state := _ours_or_none(payload, self._reqid))]


def _ours_or_none(payload: bytes, reqid: int) -> Identity | None:
    try:
        state = codec.parse_identity(payload)
    except UnknownState:  # tunnel mode, AH, a larval state: some other user's
        return None
    return state if state.reqid == reqid else None


def _is_local(selector: Selector, address: IPAddress, ports: Sequence[PortRange]) -> bool:
    inbound = selector.destination == address and any(selector.destination_port in range_ for range_ in ports)
    outbound = selector.source == address and any(selector.source_port in range_ for range_ in ports)
    return inbound or outbound


def _refused(answer: Answer, index: int, operation: str) -> KernelError:
    return KernelError(answer.errno, index=index, operation=operation, text=answer.text)


_PROBED: Final = (
    Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL),
    Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC),
    Pair(Integrity.AES_GMAC, Encryption.NULL),
    Pair(Integrity.NULL, Encryption.AES_GCM),
)
"""What TS 33.203 Annex H has today. MD5 and 3DES may be missing: a set that wants them is refused at install."""

_DOCUMENTATION: Final = (
    (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")),
    (IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")),
)
"""Addresses nobody has (RFC 5737, RFC 3849)."""

_PROBE_LIFETIME: Final = 5


def probe() -> tuple[str, ...]:
    """Say what the kernel lacks to do ESP for us, each with what to do about it; empty when nothing is missing.

    Adds a short-lived SA between documentation addresses for each family and algorithm pair, and deletes it.
    """
    try:
        channel = Channel(_NETLINK_XFRM)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            return ("the kernel has no XFRM netlink: modprobe xfrm_user, or a kernel with CONFIG_XFRM_USER",)
        return (f"the XFRM netlink socket cannot be opened: {error.strerror}",)
    missing: list[str] = []
    try:
        for source, destination in _DOCUMENTATION:
            for pair in _PROBED:
                sa = _probe_sa(pair, source, destination)
                new = Request(Message.NEWSA, codec.new_sa(sa, DEFAULT_REQID), _NLM_F_CREATE | _NLM_F_EXCL)
                answer = channel.batch([new])[0]
                if not answer.errno:
                    channel.batch([Request(Message.DELSA, codec.sa_id(sa.id))])
                elif (words := _lacking(answer, sa)) not in missing:
                    missing.append(words)
    finally:
        channel.close()
    return tuple(missing)


def _probe_sa(pair: Pair, source: IPAddress, destination: IPAddress) -> Sa:
    integrity, encryption = INTEGRITY[pair.integrity], ENCRYPTION[pair.encryption]
    return Sa(
        # One per process, so that two probes at the same time do not meet.
        spi=0x10000000 | os.getpid() & 0x0FFFFFFF,
        selector=Selector(source=source, destination=destination, source_port=9, destination_port=9),
        integrity=pair.integrity,
        encryption=pair.encryption,
        integrity_key=Key(os.urandom(integrity.key) if integrity else b""),
        encryption_key=Key(os.urandom(encryption.key)),
        lifetime=_PROBE_LIFETIME,
    )


def _lacking(answer: Answer, sa: Sa) -> str:
    """Turn a refused probe into what is missing and what to do."""
    said = answer.text or os.strerror(answer.errno)
    version = sa.selector.source.version
    pair = Pair(sa.integrity, sa.encryption)
    if answer.errno == errno.EPERM:
        return "CAP_NET_ADMIN over this network namespace: run as root, or with --cap-add NET_ADMIN in a container"
    if answer.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        module = "esp4" if version == 4 else "esp6"
        return f"ESP over IPv{version}: modprobe {module} on the host (probe SA refused: {said!r})"
    if answer.errno in (errno.ENOSYS, errno.ENOENT):
        return f"the algorithms of {pair}: modprobe authenc cbc gcm seqiv echainiv on the host (refused: {said!r})"
    return f"a working SA of {pair} over IPv{version}: the kernel refused the probe SA ({said!r})"
