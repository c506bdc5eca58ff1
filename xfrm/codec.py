"""Model to bytes of `linux/xfrm.h` and back: the payloads of XFRM netlink messages, without the netlink header.

Pure: no socket, no clock. Structures are packed by `struct` with the kernel's names beside them, their sizes are
asserted at import. Byte order lives here and nowhere else: addresses, ports and SPIs are big endian, the rest native.
What to do with the bytes is the matter of `kernel`.

Every SA is ESP in transport mode with its own selector; every policy asks for one required ESP transform of our
reqid and names no SA, so that the kernel picks one by selector (RFC 4301 4.4, TS 33.203 7.1).
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from xfrm.algorithms import ENCRYPTION, INTEGRITY, Encryption, Integrity
from xfrm.model import Direction, IPAddress, Key, Policy, Sa, SaId, SaRecord, Selector


class Message(IntEnum):
    """`XFRM_MSG_*`: the netlink message types."""

    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    GETSADINFO = 0x23


_Token = TypeVar("_Token", Integrity, Encryption)

GROUP_EXPIRE: Final = 2
"""`XFRMNLGRP_EXPIRE`."""


class Attribute(IntEnum):
    """`XFRMA_*`: the attributes after a message's structure."""

    ALG_CRYPT = 2
    TMPL = 5
    LASTUSED = 15
    ALG_AEAD = 18
    ALG_AUTH_TRUNC = 20
    REPLAY_ESN_VAL = 23
    PROTO = 25


_OF_THE_TRANSFORM: Final = (
    Attribute.ALG_AUTH_TRUNC,
    Attribute.ALG_CRYPT,
    Attribute.ALG_AEAD,
    Attribute.REPLAY_ESN_VAL,
)
"""What a state needs beside its structure to be built again."""

IPPROTO_ESP: Final = 50
XFRM_INF: Final = 0xFFFFFFFFFFFFFFFF
PRIORITY: Final = 0
"""Of our policies: the highest, so that no other user's policy can open a protected port."""

_FAMILY: Final = {4: 2, 6: 10}  # AF_INET and AF_INET6 of Linux, whatever host runs the tests
_VERSION: Final = {family: version for version, family in _FAMILY.items()}
_WIDTH: Final = {4: 32, 6: 128}

# xfrm_selector: daddr saddr dport dport_mask sport sport_mask | family prefixlen_d prefixlen_s proto ifindex user
_SELECTOR_ADDRESSES: Final = struct.Struct("!16s16s4H")
_SELECTOR_REST: Final = struct.Struct("=HBBBxxxiI")
_ID: Final = struct.Struct("!16sIBxxx")  # xfrm_id: daddr spi proto
_LIFETIME: Final = struct.Struct("=8Q")  # xfrm_lifetime_cfg: byte packet add use, each soft then hard (add, use: s)
_CURRENT: Final = struct.Struct("=4Q")  # xfrm_lifetime_cur: bytes packets add_time use_time
_STATS: Final = struct.Struct("=3I")  # xfrm_stats: replay_window replay integrity_failed
_INFO_REST: Final = struct.Struct("=IIHBBB7x")  # seq reqid family mode replay_window flags
_POLICY_REST: Final = struct.Struct("=IIBBBB4x")  # priority index dir action flags share
_POLICY_ID_REST: Final = struct.Struct("=IBxxx")  # index dir
# xfrm_user_tmpl after its id: family saddr reqid mode share optional aalgos ealgos calgos
_TEMPLATE_REST: Final = struct.Struct("=Hxx16sIBBBxIII")
_ALGORITHM: Final = struct.Struct("=64sI")  # xfrm_algo: name, key length in bits
_ALGORITHM_TRUNCATED: Final = struct.Struct("=64sII")  # xfrm_algo_auth and _aead: name, key bits, ICV bits
_REPLAY: Final = struct.Struct("=6I")  # xfrm_replay_state_esn: bmp_len oseq seq oseq_hi seq_hi replay_window
_COUNT: Final = struct.Struct("=I")
_SAD_CNT: Final = 1
"""`XFRMA_SAD_CNT` of NEWSADINFO: a number space of its own."""
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length, type
_LAST_USED: Final = struct.Struct("=Q")

_SELECTOR_SIZE: Final = _SELECTOR_ADDRESSES.size + _SELECTOR_REST.size
_ID_AT: Final = _SELECTOR_SIZE
_SOURCE_AT: Final = _ID_AT + _ID.size
_LIFETIME_AT: Final = _SOURCE_AT + 16
_CURRENT_AT: Final = _LIFETIME_AT + _LIFETIME.size
_STATS_AT: Final = _CURRENT_AT + _CURRENT.size
_REST_AT: Final = _STATS_AT + _STATS.size
_INFO_SIZE: Final = _REST_AT + _INFO_REST.size
_POLICY_REST_AT: Final = _SELECTOR_SIZE + _LIFETIME.size + _CURRENT.size
_POLICY_SIZE: Final = _POLICY_REST_AT + _POLICY_REST.size
_POLICY_ID_SIZE: Final = _SELECTOR_SIZE + _POLICY_ID_REST.size
_TEMPLATE_SIZE: Final = _ID.size + _TEMPLATE_REST.size
_USERSA_ID: Final = struct.Struct("!16sI")  # xfrm_usersa_id: daddr spi | family proto
_USERSA_ID_REST: Final = struct.Struct("=HBx")
_EXPIRE_HARD_AT: Final = _INFO_SIZE
_EXPIRE_SIZE: Final = _INFO_SIZE + 8

for _structure, _size, _expected in (
    ("xfrm_selector", _SELECTOR_SIZE, 56),
    ("xfrm_id", _ID.size, 24),
    ("xfrm_usersa_info", _INFO_SIZE, 224),
    ("xfrm_usersa_id", _USERSA_ID.size + _USERSA_ID_REST.size, 24),
    ("xfrm_userpolicy_info", _POLICY_SIZE, 168),
    ("xfrm_userpolicy_id", _POLICY_ID_SIZE, 64),
    ("xfrm_user_tmpl", _TEMPLATE_SIZE, 64),
    ("xfrm_algo", _ALGORITHM.size, 68),
    ("xfrm_algo_auth", _ALGORITHM_TRUNCATED.size, 72),
    ("xfrm_replay_state_esn", _REPLAY.size, 24),
    ("xfrm_user_expire", _EXPIRE_SIZE, 232),
):
    if _size != _expected:
        raise AssertionError(f"struct {_structure} is {_expected} octets in linux/xfrm.h, not {_size}")

_MODE_TRANSPORT: Final = 0
_DIRECTION: Final = {Direction.IN: 0, Direction.OUT: 1}
_ALL_ALGORITHMS: Final = 0xFFFFFFFF
_PORT_EXACT: Final = 0xFFFF
_ANY: Final = bytes(16)
_NO_LIMITS: Final = _LIFETIME.pack(XFRM_INF, XFRM_INF, XFRM_INF, XFRM_INF, 0, 0, 0, 0)
_NOTHING_YET: Final = _CURRENT.pack(0, 0, 0, 0)

# The kernel's name of a transform, and back.
_INTEGRITY_OF: Final = {transform.kernel: name for name, transform in INTEGRITY.items() if transform}
_ENCRYPTION_OF: Final = {transform.kernel: name for name, transform in ENCRYPTION.items()}


class UnknownState(ValueError):
    """A state or policy of the kernel that this model cannot say: another IPsec user's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose a state of the kernel is, without its algorithms: enough to decide whether it is ours."""

    id: SaId
    reqid: int
    selector: Selector
    added: int
    """Seconds since the epoch."""


# Encoding


def _packed(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")


def _attribute(kind: int, value: bytes) -> bytes:
    padding = -len(value) % 4
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(padding)


def _selector(selector: Selector) -> bytes:
    version = selector.source.version
    width = _WIDTH[version]
    return _SELECTOR_ADDRESSES.pack(
        _packed(selector.destination),
        _packed(selector.source),
        selector.destination_port,
        _PORT_EXACT,
        selector.source_port,
        _PORT_EXACT,
    ) + _SELECTOR_REST.pack(_FAMILY[version], width, width, 0, 0, 0)


def _policy_selector(policy: Policy) -> bytes:
    version = policy.address.version
    local, width = _packed(policy.address), _WIDTH[version]
    first, mask = policy.ports.first, policy.ports.mask
    if policy.direction is Direction.IN:
        addresses = _SELECTOR_ADDRESSES.pack(local, _ANY, first, mask, 0, 0)
        return addresses + _SELECTOR_REST.pack(_FAMILY[version], width, 0, 0, 0, 0)
    addresses = _SELECTOR_ADDRESSES.pack(_ANY, local, 0, 0, first, mask)
    return addresses + _SELECTOR_REST.pack(_FAMILY[version], 0, width, 0, 0, 0)


def _algorithms(sa: Sa) -> bytes:
    integrity, encryption = INTEGRITY[sa.integrity], ENCRYPTION[sa.encryption]
    for aead, key in ((integrity, sa.integrity_key), (encryption, sa.encryption_key)):
        if aead is not None and aead.aead:
            return _attribute(
                Attribute.ALG_AEAD,
                _ALGORITHM_TRUNCATED.pack(aead.kernel.encode(), 8 * len(key), 8 * aead.icv) + key,
            )
    if integrity is None:
        raise ValueError(f"{sa.integrity}/{sa.encryption}: an SA without integrity")
    return _attribute(
        Attribute.ALG_AUTH_TRUNC,
        _ALGORITHM_TRUNCATED.pack(integrity.kernel.encode(), 8 * len(sa.integrity_key), 8 * integrity.icv)
        + sa.integrity_key,
    ) + _attribute(
        Attribute.ALG_CRYPT,
        _ALGORITHM.pack(encryption.kernel.encode(), 8 * len(sa.encryption_key)) + sa.encryption_key,
    )


def new_sa(sa: Sa, reqid: int) -> bytes:
    """Payload of NEWSA. 32-bit sequence numbers; a window above 32 travels as a bitmap of its own."""
    words = 0 if sa.replay_window <= 32 else -(-sa.replay_window // 32)
    payload = b"".join(
        (
            _selector(sa.selector),
            _ID.pack(_packed(sa.selector.destination), sa.spi, IPPROTO_ESP),
            _packed(sa.selector.source),
            _LIFETIME.pack(XFRM_INF, XFRM_INF, XFRM_INF, XFRM_INF, 0, sa.lifetime, 0, 0),
            _NOTHING_YET,
            _STATS.pack(0, 0, 0),
            _INFO_REST.pack(
                0,
                reqid,
                _FAMILY[sa.selector.source.version],
                _MODE_TRANSPORT,
                0 if words else sa.replay_window,
                0,
            ),
            _algorithms(sa),
        )
    )
    if words:
        payload += _attribute(
            Attribute.REPLAY_ESN_VAL, _REPLAY.pack(words, 0, 0, 0, 0, sa.replay_window) + bytes(4 * words)
        )
    return payload


def updated_sa(state: bytes, lifetime: int) -> bytes:
    """Payload of UPDSA: the `state` a GETSA gave, with a hard limit `lifetime` seconds after it was added."""
    payload = bytearray(state[:_INFO_SIZE])
    _LIFETIME.pack_into(payload, _LIFETIME_AT, XFRM_INF, XFRM_INF, XFRM_INF, XFRM_INF, 0, lifetime, 0, 0)
    for kind, value in _attributes(state, _INFO_SIZE):
        if kind in _OF_THE_TRANSFORM:
            payload += _attribute(kind, value)
    return bytes(payload)


def sa_id(identity: SaId) -> bytes:
    """Payload of GETSA for one state, and of DELSA."""
    return _USERSA_ID.pack(_packed(identity.destination), identity.spi) + _USERSA_ID_REST.pack(
        _FAMILY[identity.destination.version], IPPROTO_ESP
    )


def all_sas() -> bytes:
    """Payload of a GETSA dump: every ESP state of the host. A dump has no header before its attributes."""
    return _attribute(Attribute.PROTO, bytes([IPPROTO_ESP]))


def sad_info() -> bytes:
    """Payload of GETSADINFO: flags, none."""
    return _COUNT.pack(0)


def new_policy(policy: Policy, reqid: int) -> bytes:
    """Payload of NEWPOLICY and UPDPOLICY: the one template is required, which keeps clear text out."""
    info = _policy_selector(policy) + _policy_info(policy.direction)
    return info + _attribute(Attribute.TMPL, _template(policy.address.version, reqid))


def socket_policy(version: int, direction: Direction, reqid: int) -> bytes:
    """Value of IP_XFRM_POLICY and IPV6_XFRM_POLICY: all that a socket receives, or sends, is in required ESP."""
    anything = _SELECTOR_ADDRESSES.pack(_ANY, _ANY, 0, 0, 0, 0) + _SELECTOR_REST.pack(_FAMILY[version], 0, 0, 0, 0, 0)
    return anything + _policy_info(direction) + _template(version, reqid)


def _policy_info(direction: Direction) -> bytes:
    """xfrm_userpolicy_info after its selector."""
    return _NO_LIMITS + _NOTHING_YET + _POLICY_REST.pack(PRIORITY, 0, _DIRECTION[direction], 0, 0, 0)


def _template(version: int, reqid: int) -> bytes:
    """ESP in transport mode of any SA with this reqid, and nothing without."""
    return _ID.pack(_ANY, 0, IPPROTO_ESP) + _TEMPLATE_REST.pack(
        _FAMILY[version],
        _ANY,
        reqid,
        _MODE_TRANSPORT,
        0,
        0,
        _ALL_ALGORITHMS,
        _ALL_ALGORITHMS,
        _ALL_ALGORITHMS,
    )


def policy_id(policy: Policy) -> bytes:
    """Payload of GETPOLICY for one policy, and of DELPOLICY: the policy with this very selector."""
    return _policy_selector(policy) + _POLICY_ID_REST.pack(0, _DIRECTION[policy.direction])


# Decoding


def _attributes(payload: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size or offset + length > len(payload):
            raise UnknownState(f"attribute {kind} runs over the end of its message")
        yield kind, payload[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)


def _address(raw: bytes, family: int) -> IPAddress:
    return IPv4Address(raw[:4]) if _VERSION[family] == 4 else IPv6Address(raw)


def parse_identity(payload: bytes) -> Identity:
    """Read who a state of a NEWSA message is. Raises UnknownState for an SA that is no ESP transport-mode one."""
    if len(payload) < _INFO_SIZE:
        raise UnknownState(f"a state of {len(payload)} octets")
    _, reqid, family, mode, _, _ = _INFO_REST.unpack_from(payload, _REST_AT)
    destination, spi, protocol = _ID.unpack_from(payload, _ID_AT)
    if protocol != IPPROTO_ESP or mode != _MODE_TRANSPORT or family not in _VERSION or spi == 0:
        raise UnknownState(f"SPI {spi} is no ESP transport-mode SA")
    selected_destination, selected_source, dport, _, sport, _ = _SELECTOR_ADDRESSES.unpack_from(payload)
    return Identity(
        id=SaId(_address(destination, family), spi),
        reqid=reqid,
        selector=Selector(
            source=_address(selected_source, family),
            destination=_address(selected_destination, family),
            source_port=sport,
            destination_port=dport,
        ),
        added=_CURRENT.unpack_from(payload, _CURRENT_AT)[2],
    )


def parse_end(payload: bytes) -> float:
    """Read when a state of a NEWSA message reaches its hard lifetime: seconds since the epoch, or infinity."""
    lasts = _LIFETIME.unpack_from(payload, _LIFETIME_AT)[5]
    return float(_CURRENT.unpack_from(payload, _CURRENT_AT)[2] + lasts) if lasts else math.inf


def parse_record(payload: bytes) -> SaRecord:
    """Read a state of a NEWSA message whole. Raises UnknownState for one that `new_sa` could not have made.

    `last_used` is None where the kernel does not tell: `use_time` is the first use, and older kernels have no more.
    """
    identity = parse_identity(payload)
    counted_bytes, packets, added, _ = _CURRENT.unpack_from(payload, _CURRENT_AT)
    _, replay_drops, integrity_failures = _STATS.unpack_from(payload, _STATS_AT)
    replay_window = _INFO_REST.unpack_from(payload, _REST_AT)[4]
    integrity, encryption = Integrity.NULL, Encryption.NULL
    integrity_key = encryption_key = Key()
    last_used: float | None = None
    for kind, value in _attributes(payload, _INFO_SIZE):
        match kind:
            case Attribute.ALG_AUTH_TRUNC:
                integrity = _named(_INTEGRITY_OF, value)
                integrity_key = Key(value[_ALGORITHM_TRUNCATED.size :])
            case Attribute.ALG_CRYPT:
                encryption = _named(_ENCRYPTION_OF, value)
                encryption_key = Key(value[_ALGORITHM.size :])
            case Attribute.ALG_AEAD:
                key = Key(value[_ALGORITHM_TRUNCATED.size :])
                if _name(value) in _INTEGRITY_OF:
                    integrity, integrity_key = _named(_INTEGRITY_OF, value), key
                else:
                    encryption, encryption_key = _named(_ENCRYPTION_OF, value), key
            case Attribute.REPLAY_ESN_VAL:
                replay_window = _REPLAY.unpack_from(value)[5]
            case Attribute.LASTUSED:
                last_used = float(_LAST_USED.unpack_from(value)[0])
    return SaRecord(
        sa=Sa(
            selector=identity.selector,
            spi=identity.id.spi,
            integrity=integrity,
            encryption=encryption,
            integrity_key=integrity_key,
            encryption_key=encryption_key,
            lifetime=_LIFETIME.unpack_from(payload, _LIFETIME_AT)[5],
            replay_window=replay_window,
        ),
        bytes=counted_bytes,
        packets=packets,
        replay_drops=replay_drops,
        integrity_failures=integrity_failures,
        added=float(added),
        last_used=last_used,
    )


def parse_sad_count(payload: bytes) -> int:
    """Read how many SAs there are, of NEWSADINFO. Raises UnknownState where it does not say."""
    for kind, value in _attributes(payload, _COUNT.size):
        if kind == _SAD_CNT:
            return int(_COUNT.unpack(value)[0])
    raise UnknownState("the kernel does not say how many SAs it has")


def _name(value: bytes) -> str:
    return value[:64].partition(b"\0")[0].decode("ascii", "replace")


def _named(names: dict[str, _Token], value: bytes) -> _Token:
    name = _name(value)
    if name not in names:
        raise UnknownState(f"algorithm {name} is none of TS 33.203 Annex H")
    return names[name]


def parse_expire(payload: bytes) -> tuple[Identity, bool]:
    """Read an EXPIRE event: which SA, and whether the limit was the hard one."""
    if len(payload) < _EXPIRE_SIZE:
        raise UnknownState(f"an expiry of {len(payload)} octets")
    return parse_identity(payload), bool(payload[_EXPIRE_HARD_AT])


def policy_reqids(payload: bytes) -> tuple[int, ...]:
    """Read the reqid of each template of a NEWPOLICY message: whose policy it is."""
    return tuple(
        _TEMPLATE_REST.unpack_from(value, at + _ID.size)[2]
        for kind, value in _attributes(payload, _POLICY_SIZE)
        if kind == Attribute.TMPL
        for at in range(0, len(value) - _TEMPLATE_SIZE + 1, _TEMPLATE_SIZE)
    )


def holds(payload: bytes, policy: Policy, reqid: int) -> bool:
    """Whether a NEWPOLICY message is this very policy, and still asks for what we asked."""
    _, _, direction, action, _, _ = _POLICY_REST.unpack_from(payload, _POLICY_REST_AT)
    templates = [value for kind, value in _attributes(payload, _POLICY_SIZE) if kind == Attribute.TMPL]
    return (
        payload[:_SELECTOR_SIZE] == _policy_selector(policy)
        and (direction, action) == (_DIRECTION[policy.direction], 0)
        and templates == [_template(policy.address.version, reqid)]
    )
