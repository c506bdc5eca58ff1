"""Which network interfaces have which addresses of this host, by netlink."""

import contextlib
from collections.abc import Sequence

from xfrm.model import IPAddress
from xfrm.netlink import Channel
from xfrm.rtnetlink import NETLINK_ROUTE, all_addresses, parse_address


def links_of(addresses: Sequence[IPAddress]) -> dict[IPAddress, tuple[int, ...]]:
    """The numbers of the interfaces that have each address; none for one that is not of this host. Raises OSError."""
    found: dict[IPAddress, tuple[int, ...]] = dict.fromkeys(addresses, ())
    with contextlib.closing(Channel(NETLINK_ROUTE)) as channel:
        for payload in channel.dump(all_addresses()):
            parsed = parse_address(payload)
            if parsed is not None and parsed[0] in found:
                found[parsed[0]] += (parsed[1],)
    return found
