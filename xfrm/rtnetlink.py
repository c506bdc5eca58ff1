"""The few rtnetlink messages that lead protected ports into a TUN: one link, rules, routes.

Pure encoding, sent through `netlink.Channel`; what they are for is the matter of `divert`. Names and numbers are
those of linux/rtnetlink.h, fib_rules.h and if_link.h. pyroute2 is not used for them because its IPRoute cannot
be called while an asyncio loop runs in the same thread, and cannot set a link's rp_filter.
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from xfrm.model import IPAddress, PortRange
from xfrm.netlink import Request

NETLINK_ROUTE: Final = 0

_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_SETLINK: Final = 19
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_GETROUTE: Final = 26
_RTM_NEWRULE: Final = 32
_RTM_DELRULE: Final = 33
_RTM_GETRULE: Final = 34
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_NLA_F_NESTED: Final = 0x8000

_LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family type index flags change
_ROUTE: Final = struct.Struct("=8BI")  # rtmsg and fib_rule_hdr have the same layout
_ATTRIBUTE: Final = struct.Struct("=HH")
_WORD: Final = struct.Struct("=I")
_PORTS: Final = struct.Struct("=HH")
_PORT: Final = struct.Struct("!H")
_ANY_PORT: Final = 9

_IFF_UP: Final = 1
_IFLA_MTU: Final = 4
_IFLA_TXQLEN: Final = 13
_IFLA_AF_SPEC: Final = 26
_IFLA_INET_CONF: Final = 1
_IPV4_DEVCONF_RP_FILTER: Final = 8
_RP_FILTER_LOOSE: Final = 2
_IFLA_INET6_ADDR_GEN_MODE: Final = 8
_IN6_ADDR_GEN_MODE_NONE: Final = 1

_RTA_DST: Final = 1
_RTA_SRC: Final = 2
_RTA_OIF: Final = 4
_RTA_PRIORITY: Final = 6
_RTA_METRICS: Final = 8
_RTA_TABLE: Final = 15
_RTA_IP_PROTO: Final = 27
_RTA_SPORT: Final = 28
_RTA_DPORT: Final = 29
_RTAX_MTU: Final = 2
_RTAX_ADVMSS: Final = 8
_RTPROT_STATIC: Final = 4
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RTN_UNICAST: Final = 1
_RTN_UNREACHABLE: Final = 7

_IFADDR: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family prefixlen flags scope index
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2

_FRA_SRC: Final = 2
_FRA_PRIORITY: Final = 6
_FRA_TABLE: Final = 15
_FRA_IP_PROTO: Final = 22
_FRA_SPORT_RANGE: Final = 23
_FR_ACT_TO_TBL: Final = 1

_LAST_CHOICE: Final = 0x7FFF_FFFF
"""The metric of the unreachable route: any other default is preferred."""


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def _attributes(payload: bytes, offset: int) -> dict[int, bytes]:
    """The attributes of a message after its structure, by number; of equal ones the last."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found


def _family(address: IPAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def link_up(index: int, *, mtu: int, queue: int) -> Request:
    """Bring a link up with `queue` packets of room, and accept packets from sources routed elsewhere.

    Loose reverse path filtering on the link alone is enough even where `all` is strict: Linux takes the larger
    of the two numbers (net/ipv4/conf in the kernel's ip-sysctl). Set this way it needs no writable /proc/sys.
    """
    filtering = _attribute(_IPV4_DEVCONF_RP_FILTER, _WORD.pack(_RP_FILTER_LOOSE))
    payload = (
        _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP)
        + _attribute(_IFLA_MTU, _WORD.pack(mtu))
        + _attribute(_IFLA_TXQLEN, _WORD.pack(queue))
        + _nested(_IFLA_AF_SPEC, _nested(socket.AF_INET, _nested(_IFLA_INET_CONF, filtering)))
    )
    return Request(_RTM_SETLINK, payload)


def link_without_addresses(index: int) -> Request:
    """Keep IPv6 from giving the link an address and talking about it. Refused where there is no IPv6."""
    mode = _attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_NONE]))
    return Request(_RTM_SETLINK, _LINK.pack(0, 0, index, 0, 0) + _nested(_IFLA_AF_SPEC, _nested(socket.AF_INET6, mode)))


def link(index: int) -> Request:
    """Ask for a link by its number: ENODEV when it is gone."""
    return Request(_RTM_GETLINK, _LINK.pack(0, 0, index, 0, 0))


def no_link_at_all() -> Request:
    """Delete a link that cannot exist: ENODEV from a namespace that is ours, EPERM from another."""
    return Request(_RTM_DELLINK, _LINK.pack(0, 0, 0x7FFF_FFFF, 0, 0))


def default_route(version: int, table: int, index: int, *, mtu: int = 0, advmss: int = 0) -> Request:
    """Add a default route out of link `index`; an MTU of 0 is the link's."""
    metrics = b""
    if mtu:
        metrics = _nested(
            _RTA_METRICS, *(_attribute(k, _WORD.pack(v)) for k, v in ((_RTAX_MTU, mtu), (_RTAX_ADVMSS, advmss)))
        )
    scope = _RT_SCOPE_LINK if version == 4 else _RT_SCOPE_UNIVERSE
    payload = _route(version, table, scope, _RTN_UNICAST) + _attribute(_RTA_OIF, _WORD.pack(index)) + metrics
    return Request(_RTM_NEWROUTE, payload, _NLM_F_CREATE | _NLM_F_EXCL)


def unreachable(version: int, table: int, *, remove: bool = False) -> Request:
    """Add or remove the route that is left when all others of the table are gone."""
    payload = _route(version, table, _RT_SCOPE_UNIVERSE, _RTN_UNREACHABLE)
    payload += _attribute(_RTA_PRIORITY, _WORD.pack(_LAST_CHOICE))
    if remove:
        return Request(_RTM_DELROUTE, payload)
    return Request(_RTM_NEWROUTE, payload, _NLM_F_CREATE | _NLM_F_EXCL)


def route_of(source: IPAddress, destination: IPAddress, protocol: int, source_port: int) -> Request:
    """Ask by which link a packet from one of our addresses and ports would leave; the answer is for `leaves_by`."""
    family, width = _family(source), 8 * len(source.packed)
    payload = (
        _ROUTE.pack(family, width, width, 0, 0, 0, 0, 0, 0)
        + _attribute(_RTA_DST, destination.packed)
        + _attribute(_RTA_SRC, source.packed)
        + _attribute(_RTA_IP_PROTO, bytes([protocol]))
        + _attribute(_RTA_SPORT, _PORT.pack(source_port))
        + _attribute(_RTA_DPORT, _PORT.pack(_ANY_PORT))
    )
    return Request(_RTM_GETROUTE, payload)


def leaves_by(payload: bytes) -> int:
    """The index of the link in an answer to `route_of`; 0 when it names none."""
    link = _attributes(payload, _ROUTE.size).get(_RTA_OIF)
    return int(_WORD.unpack(link)[0]) if link else 0


def _route(version: int, table: int, scope: int, kind: int) -> bytes:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    header = _ROUTE.pack(family, 0, 0, 0, 0, _RTPROT_STATIC, scope, kind, 0)
    return header + _attribute(_RTA_TABLE, _WORD.pack(table))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`from source, this protocol, these source ports: look the route up in this table`."""

    priority: int
    source: IPAddress
    protocol: int
    first_port: int
    last_port: int
    table: int

    def overlaps(self, source: IPAddress, ports: PortRange) -> bool:
        """Whether the rule is for this address and at least one of these ports."""
        return self.source == source and self.first_port < ports.first + ports.count and ports.first <= self.last_port


def add_rule(rule: Rule) -> Request:
    """Add a rule; EEXIST when there is an equal one."""
    return Request(_RTM_NEWRULE, _rule(rule), _NLM_F_CREATE | _NLM_F_EXCL)


def delete_rule(rule: Rule) -> Request:
    """Delete a rule; ENOENT when there is none like it."""
    return Request(_RTM_DELRULE, _rule(rule))


def _rule(rule: Rule) -> bytes:
    packed = rule.source.packed
    return (
        _ROUTE.pack(_family(rule.source), 0, 8 * len(packed), 0, 0, 0, 0, _FR_ACT_TO_TBL, 0)
        + _attribute(_FRA_PRIORITY, _WORD.pack(rule.priority))
        + _attribute(_FRA_SRC, packed)
        + _attribute(_FRA_IP_PROTO, bytes([rule.protocol]))
        + _attribute(_FRA_SPORT_RANGE, _PORTS.pack(rule.first_port, rule.last_port))
        + _attribute(_FRA_TABLE, _WORD.pack(rule.table))
    )


def all_rules(version: int) -> Request:
    """Ask for every rule of an address family. Each answer is for `parse_rule`."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return Request(_RTM_GETRULE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def parse_rule(payload: bytes) -> Rule | None:
    """Read a rule; None for one of another kind than ours."""
    attributes = _attributes(payload, _ROUTE.size)
    try:
        first, last = _PORTS.unpack(attributes[_FRA_SPORT_RANGE])
        return Rule(
            priority=_WORD.unpack(attributes[_FRA_PRIORITY])[0],
            source=ip_address(attributes[_FRA_SRC]),
            protocol=attributes[_FRA_IP_PROTO][0],
            first_port=first,
            last_port=last,
            table=_WORD.unpack(attributes[_FRA_TABLE])[0],
        )
    except KeyError:
        return None


def all_addresses() -> Request:
    """Ask for the addresses of every link. Each answer is for `parse_address`."""
    return Request(_RTM_GETADDR, _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def parse_address(payload: bytes) -> tuple[IPAddress, int, int] | None:
    """An address of this host, the index of its link and the length of its prefix; None for another family."""
    family, prefix, _, _, index = _IFADDR.unpack_from(payload)
    attributes = _attributes(payload, _IFADDR.size)
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if family not in (socket.AF_INET, socket.AF_INET6) or packed is None:
        return None
    return ip_address(packed), index, prefix
