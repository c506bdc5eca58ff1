"""What one nftables table holds, read by netlink: whether anybody has changed it, and what its counter says.

Making tables is `nft`'s (in `divert`): its language is the documented interface. Reading takes no process and some
tens of microseconds. Names and numbers are those of linux/netfilter/nf_tables.h.
"""

import hashlib
import struct
from typing import Final

from xfrm.netlink import Channel, Request

NETLINK_NETFILTER: Final = 12

_NFTABLES: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GETCHAIN: Final = _NFTABLES | 4
_GETRULE: Final = _NFTABLES | 7
_GETGEN: Final = _NFTABLES | 16
_GETOBJ: Final = _NFTABLES | 19
_FAMILY_INET: Final = 1
_HEAD: Final = struct.Struct("!BBH")  # nfgenmsg: family version resource
_ATTRIBUTE: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("!I")
_TABLE: Final = 1
"""`NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_OBJ_TABLE`."""
_GENERATION: Final = 1
_CHAIN_NAME: Final = 3
_OBJECT_NAME: Final = 2
_OBJECT_TYPE: Final = 3
_OBJECT_DATA: Final = 4
_COUNTER: Final = 1
_COUNTER_PACKETS: Final = 2
_FLAGS: Final = 0xC000
"""NLA_F_NESTED and NLA_F_NET_BYTEORDER, beside the number of an attribute."""


class Tables:
    """Reads the tables of family `inet` of a network namespace. Raises OSError for what the kernel refuses."""

    def __init__(self) -> None:
        self._channel = Channel(NETLINK_NETFILTER)

    def close(self) -> None:
        self._channel.close()

    def generation(self) -> bytes:
        """Changes whenever somebody changes any table of the namespace."""
        return _attributes(self._ask(_GETGEN, b""))[_GENERATION]

    def fingerprint(self, table: str, chains: tuple[str, ...]) -> bytes:
        """Of the chains of a table and their rules, in order; of a table that is gone it is another one.

        No rule may have a counter of its own: it would change with each packet.
        """
        digest = hashlib.sha256()
        name = _text(_TABLE, table)
        try:
            for chain in chains:
                digest.update(self._ask(_GETCHAIN, name + _text(_CHAIN_NAME, chain)))
        except FileNotFoundError:
            return b""
        for rule in self._channel.dump(Request(_GETRULE, _HEAD.pack(_FAMILY_INET, 0, 0) + name)):
            digest.update(rule[_HEAD.size :])
        return digest.digest()

    def packets(self, table: str, counter: str) -> int:
        """What a named counter has counted."""
        wanted = _text(_TABLE, table) + _text(_OBJECT_NAME, counter) + _attribute(_OBJECT_TYPE, _NUMBER.pack(_COUNTER))
        data = _attributes(self._ask(_GETOBJ, wanted)).get(_OBJECT_DATA, b"")
        return int.from_bytes(_attributes(data).get(_COUNTER_PACKETS, b""), "big")

    def _ask(self, kind: int, attributes: bytes) -> bytes:
        """The attributes of the one answer. Raises OSError."""
        answer = self._channel.batch([Request(kind, _HEAD.pack(_FAMILY_INET, 0, 0) + attributes)])[0]
        if answer.errno:
            raise OSError(answer.errno, f"reading nftables: {answer.text or 'refused'}")
        return answer.payload[_HEAD.size :]


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _attributes(payload: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & ~_FLAGS] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found
