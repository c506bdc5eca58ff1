"""Leads the traffic of protected ports through this process: TUN, raw ESP socket, rules, routes, packet filter.

Ordinary UDP and TCP sockets on the protected ports stay as they are. What leaves them is routed into a TUN by their
source address, protocol and port; what comes to them is dropped by nftables unless it came out of that TUN. What
is read from the TUN and written to it is the matter of `userspace`.

Names in the kernel follow from address and ports: a hash of both gives the TUN and the nftables table their name
(`esp` and seven hexadecimal digits) and two routing tables their numbers, so that another instance never meets
ours, and a new run finds what a killed one left. The TUN is the proof of life: only a live process has it. A killed
process leaves the packet filter and the unreachable routes, and with them its ports stay closed.

Everything here acts on the network namespace of the calling thread.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import islice
from typing import Final

from xfrm.buffers import receive_room, send_room
from xfrm.model import IPAddress, KernelError, Loss, PortRange
from xfrm.netlink import Channel, Request
from xfrm.nftables import Tables
from xfrm.rtnetlink import (
    NETLINK_ROUTE,
    Rule,
    add_rule,
    all_addresses,
    all_rules,
    default_route,
    delete_rule,
    leaves_by,
    link,
    link_up,
    link_without_addresses,
    no_link_at_all,
    parse_address,
    parse_rule,
    route_of,
    unreachable,
)

TUN_DEVICE: Final = "/dev/net/tun"
TUN_MTU: Final = 65_535
"""No datagram is cut before it is sealed: ESP is fragmented after (RFC 4303 3.3.4)."""
TUN_QUEUE: Final = 20_000
"""Packets. The default of 500 loses bursts."""
TCP_MTU: Final = 1_400
"""With ESP around it a segment still fits 1,500 octets."""
TCP_ADVMSS: Final = 1_340
SOCKET_BUFFER: Final = 8 << 20

ESP: Final = 50
TCP: Final = 6
UDP: Final = 17

RULE_PRIORITY: Final = 3320
_CHAINS: Final = ("input", "output")
_SOMEWHERE: Final[dict[int, IPAddress]] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
"""A destination that nobody is at (RFC 5737, RFC 3849): the way there shows the way of all."""
_TABLES: Final = 0x4000_0000
_IDENTITIES: Final = 1 << 28

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 1
_IFF_NO_PI: Final = 0x1000
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0


def missing() -> list[str]:
    """What the userspace backend lacks here, each with what to do, for people."""
    lacks: list[str] = []
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = f"load module tun; in a container pass --device {TUN_DEVICE}"
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = f"run as root, or open it to this user: sudo chmod 666 {TUN_DEVICE}"
        lacks.append(f"{TUN_DEVICE}: {error.strerror} ({remedy})")
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, ESP).close()
    except OSError as error:
        lacks.append(f"raw sockets: {error.strerror} (run as root or with CAP_NET_RAW)")
    with contextlib.closing(Channel(NETLINK_ROUTE)) as channel:
        administrator = channel.batch([no_link_at_all()])[0].errno != errno.EPERM
        if not administrator:
            lacks.append("permission to change this network namespace (run as root or with CAP_NET_ADMIN)")
        try:
            channel.dump(all_rules(4))
        except OSError as error:
            lacks.append(f"policy routing: {error.strerror} (kernel option IP_MULTIPLE_TABLES)")
    if shutil.which("nft") is None:
        lacks.append("the program nft (install package nftables)")
    elif administrator:
        probe = _filter_table("esp_probe") + _filter_rules("esp_probe", IPv4Address("127.0.0.1"), [PortRange(first=1)])
        try:
            _nft("checking for nftables", "--check", "--file", "-", script=probe)
        except KernelError as error:
            lacks.append(f"nftables: {error.text} (kernel option NF_TABLES_INET)")
    return lacks


class Divert:
    """The protected ports of one local address. `tun` and `raw` are there, not blocking, once `protect` was called."""

    def __init__(self, address: IPAddress) -> None:
        self.address = address
        self.tun = -1
        self._raw: socket.socket | None = None
        self._ports: list[PortRange] = []
        self._identity = 0
        self._link = 0
        self._channel = Channel(NETLINK_ROUTE)
        self._filter = Tables()
        self._generation = b""
        """Of all tables, when ours was seen to be as we made it."""
        self._fingerprint = b""

    @property
    def name(self) -> str:
        """Of the TUN and of the nftables table."""
        return _name(self._identity)

    @property
    def raw(self) -> socket.socket:
        """Sends and receives the ESP packets of the address."""
        assert self._raw is not None, "protect comes first"
        return self._raw

    def protect(self, ports: Sequence[PortRange]) -> None:
        """Divert these ports, beside those diverted before. Raises KernelError; the ports then stay closed.

        The order is the point: the packet filter and the unreachable routes are there before the first rule and
        the first route, so that at no moment a packet finds a way in clear.
        """
        new = [each for each in dict.fromkeys(ports) if each not in self._ports]
        if not new:
            return
        if self.tun >= 0:
            _nft(f"closing ports {_text(new)}", "--file", "-", script=_filter_rules(self.name, self.address, new))
        else:
            self._open(new)
        self._fingerprint = self._read_filter()
        self._add_rules(new)
        self._ports += new

    def _add_rules(self, ports: Sequence[PortRange]) -> None:
        self._batch(f"routing ports {_text(ports)}", [add_rule(each) for each in self._rules(ports)], but=errno.EEXIST)

    def _open(self, ports: Sequence[PortRange]) -> None:
        self._identity = _identify(self.address, ports)
        abandoned = self._abandoned(ports)
        self.tun = _open_tun(self.name)
        self._link = socket.if_nametoindex(self.name)
        self._close_ports(ports)
        self._add_last_routes()
        self._channel.batch([link_without_addresses(self._link)])
        self._bring_up()
        self._raw = _open_raw(self.address)
        for identity in abandoned:
            self._remove(identity)

    def _close_ports(self, ports: Sequence[PortRange]) -> None:
        """Make the packet filter anew."""
        script = _filter_table(self.name) + _filter_rules(self.name, self.address, ports)
        _nft(f"closing ports {_text(ports)} of {self.address}", "--file", "-", script=script)

    def _add_last_routes(self) -> None:
        last = [unreachable(self.address.version, table) for table in _tables(self._identity)]
        self._batch("adding an unreachable route", last, but=errno.EEXIST)

    def _bring_up(self) -> None:
        """Have the TUN carry what the two routing tables get."""
        version = self.address.version
        self._batch(f"bringing up {self.name}", [link_up(self._link, mtu=TUN_MTU, queue=TUN_QUEUE)])
        if version == 6:
            with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{self.name}/disable_ipv6", "w") as file:
                file.write("0")
        udp_table, tcp_table = _tables(self._identity)
        routes = [
            default_route(version, udp_table, self._link),
            default_route(version, tcp_table, self._link, mtu=TCP_MTU, advmss=TCP_ADVMSS),
        ]
        self._batch(f"routing into {self.name}", routes, but=errno.EEXIST)

    def restore(self) -> list[Loss]:
        """Put back what somebody took away of the packet filter, the rules and the routes; what it was.

        A TUN that is gone does not come back: the sockets are bound to it, and stay closed. Looking needs no new file
        descriptor, of which others may have taken the last.
        """
        if self.tun < 0:
            return []
        if self._channel.batch([link(self._link)])[0].errno == errno.ENODEV:
            return [Loss(f"device {self.name} of {self.address}", "it cannot be made anew; restart to serve again")]
        losses = []
        for what, is_there, put_back in (
            ("packet filter", self._is_filtered, self._filter_again),
            ("way into " + self.name, self._is_routed, self._route_again),
        ):
            try:
                if is_there():
                    continue
                put_back()
                error = "" if is_there() else "it was put back, and is gone again"
            except OSError as refusal:
                error = refusal.strerror or str(refusal)
            losses.append(Loss(f"{what} for {self.address} ports {_text(self._ports)}", error))
        return losses

    def _is_filtered(self) -> bool:
        generation = self._filter.generation()
        if generation == self._generation:
            return True
        if self._read_filter() != self._fingerprint:
            return False
        self._generation = generation
        return True

    def _filter_again(self) -> None:
        self._close_ports(self._ports)
        self._fingerprint = self._read_filter()

    def _read_filter(self) -> bytes:
        """Raises KernelError."""
        try:
            return self._filter.fingerprint(self.name, _CHAINS)
        except OSError as error:
            operation = f"reading the packet filter of {self.address}"
            raise KernelError(error.errno or errno.EIO, index=0, operation=operation, text=str(error)) from error

    def _is_routed(self) -> bool:
        """Whether packets from the protected ports would go into the TUN."""
        asked = [
            route_of(self.address, destination, protocol, port)
            for destination in self._destinations()
            for each in self._ports
            for port in (each.first, each.first + each.count - 1)
            for protocol in (UDP, TCP)
        ]
        answers = self._channel.batch(asked)
        return all(not answer.errno and leaves_by(answer.payload) == self._link for answer in answers)

    def _destinations(self) -> list[IPAddress]:
        """Where phones may be: far away, and beside us, since a rule of somebody else may lead away only these.

        Raises OSError.
        """
        found = [_SOMEWHERE[self.address.version]]
        if self.address.is_loopback:  # whose neighbours are all of this host
            return found
        ours = [each for each in map(parse_address, self._channel.dump(all_addresses())) if each is not None]
        addresses = {address for address, _, _ in ours}
        for address, _, prefix in ours:
            if address == self.address:
                beside: Iterator[IPAddress] = ip_network((address, prefix), strict=False).hosts()
                found += islice((each for each in islice(beside, len(addresses) + 1) if each not in addresses), 1)
        return found

    def _route_again(self) -> None:
        self._add_last_routes()
        self._bring_up()
        self._add_rules(self._ports)

    def clear_drops(self) -> int:
        """How many packets came to the protected ports in clear and were dropped; 0 while the filter is gone."""
        try:
            return self._filter.packets(self.name, "clear_in")
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Undo everything: from here on the ports are ordinary ports. Raises KernelError."""
        try:
            if self.tun >= 0:
                self._remove(self._identity)
        finally:
            self.leave()

    def leave(self) -> None:
        """Let go of the ports as a killed process does: they stay closed."""
        self._channel.close()
        self._filter.close()
        if self._raw is not None:
            self._raw.close()
            self._raw = None
        if self.tun >= 0:
            os.close(self.tun)
            self.tun = -1

    def _rules(self, ports: Sequence[PortRange]) -> list[Rule]:
        return [
            Rule(
                priority=RULE_PRIORITY,
                source=self.address,
                protocol=protocol,
                first_port=each.first,
                last_port=each.first + each.count - 1,
                table=table,
            )
            for each in ports
            for protocol, table in zip((UDP, TCP), _tables(self._identity), strict=True)
        ]

    def _installed_rules(self) -> list[Rule]:
        """Rules of this program, of whichever instance, for our address family."""
        parsed = map(parse_rule, self._channel.dump(all_rules(self.address.version)))
        return [
            rule
            for rule in parsed
            if rule is not None and rule.priority == RULE_PRIORITY and 0 <= rule.table - _TABLES < 2 * _IDENTITIES
        ]

    def _abandoned(self, ports: Sequence[PortRange]) -> set[int]:
        """Instances with other port ranges that have some of our ports and whose process is dead.

        Raises KernelError EADDRINUSE if one of them lives.
        """
        overlapping = {
            (rule.table - _TABLES) // 2
            for rule in self._installed_rules()
            if any(rule.overlaps(self.address, each) for each in ports)
        } - {self._identity}
        for identity in overlapping:
            try:
                socket.if_nametoindex(_name(identity))
            except OSError:
                continue
            operation = f"protecting ports {_text(ports)} of {self.address}"
            words = f"another process has some of them ({_name(identity)})"
            raise KernelError(errno.EADDRINUSE, index=0, operation=operation, text=words)
        return overlapping

    def _remove(self, identity: int) -> None:
        tables = _tables(identity)
        rules = [delete_rule(rule) for rule in self._installed_rules() if rule.table in tables]
        self._batch("deleting a rule", rules, but=errno.ENOENT)
        routes = [unreachable(self.address.version, table, remove=True) for table in tables]
        self._batch("deleting an unreachable route", routes, but=errno.ESRCH)
        table = f"inet {_name(identity)}"
        _nft("deleting the packet filter", "--file", "-", script=f"add table {table}\ndelete table {table}\n")

    def _batch(self, operation: str, requests: Sequence[Request], *, but: int = 0) -> None:
        """Send all; raise KernelError for the first refusal that is not `but`."""
        for index, answer in enumerate(self._channel.batch(requests)):
            if answer.errno not in (0, but):
                raise KernelError(answer.errno, index=index, operation=operation, text=answer.text)


def _identify(address: IPAddress, ports: Sequence[PortRange]) -> int:
    digest = hashlib.sha256(f"{address} {_text(ports)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % _IDENTITIES


def _name(identity: int) -> str:
    return f"esp{identity:07x}"


def _tables(identity: int) -> tuple[int, int]:
    """The routing tables for UDP and for TCP."""
    return _TABLES + 2 * identity, _TABLES + 2 * identity + 1


def _text(ports: Sequence[PortRange]) -> str:
    return ", ".join(str(each) for each in sorted(ports, key=lambda each: each.first))


def _open_tun(name: str) -> int:
    """Create the TUN. Raises KernelError EBUSY when a live process has it."""
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(descriptor)
        words = "another process protects the same ports" if error.errno == errno.EBUSY else ""
        raise KernelError(error.errno or errno.EIO, index=0, operation=f"creating {name}", text=words) from error
    return descriptor


def _open_raw(address: IPAddress) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, ESP)
    try:
        receive_room(raw, SOCKET_BUFFER)
        send_room(raw, SOCKET_BUFFER)
        if address.version == 4:
            # Routers on the way may cut ESP; with DF set, the first large packets of a narrow path would be lost.
            raw.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        raw.bind((str(address), 0))
    except OSError as error:
        raw.close()
        operation = f"opening a raw ESP socket on {address}"
        raise KernelError(error.errno or errno.EIO, index=0, operation=operation) from error
    return raw


def _filter_table(name: str) -> str:
    """Lines for nft that make the table anew, whatever it held."""
    hook = "{ type filter hook %s priority 0; policy accept; }"
    return (
        f"add table inet {name}\ndelete table inet {name}\nadd table inet {name}\n"
        f"add counter inet {name} clear_in\n"
        f"add chain inet {name} input {hook % 'input'}\n"
        f"add chain inet {name} output {hook % 'output'}\n"
    )


def _filter_rules(name: str, address: IPAddress, ports: Sequence[PortRange]) -> str:
    """Lines for nft that drop what passes the ports in clear. Protocols by number: /etc/protocols may be absent.

    The rule of the output chain meets what the rules of routing cannot: a socket bound to a device, or a rule of
    somebody else with a lower number.
    """
    ip = "ip" if address.version == 4 else "ip6"
    numbers = _text(ports)
    clear = f"meta l4proto {{ {TCP}, {UDP} }}"
    # IPv6 is filtered before it is put together. A later fragment has no ports, and nftables would take octets of the
    # flow label for one.
    parts = ("",) if address.version == 4 else ("exthdr frag missing ", "frag frag-off 0 ")
    return "".join(
        f"add rule inet {name} input {ip} daddr {address} {part}{clear} th dport {{ {numbers} }} "
        f'iifname != "{name}" counter name clear_in drop\n'
        for part in parts
    ) + (
        f'add rule inet {name} output {ip} saddr {address} {clear} th sport {{ {numbers} }} oifname != "{name}" drop\n'
    )


def _nft(operation: str, *arguments: str, script: str = "") -> str:
    """Run nft and return what it prints. Raises KernelError with its words."""
    done = subprocess.run(["nft", *arguments], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        number = errno.EPERM if "not permitted" in done.stderr else errno.EIO
        raise KernelError(number, index=0, operation=operation, text=words[0] if words else f"nft: {done.returncode}")
    return done.stdout
