"""What floods a P-CSCF: a process of its own on the host of the phones, which says what it really sent.

    python -m tests.bench.flooder PLAN

The plan is JSON, see `Plan`. Out: `ready`, and after a line in, one JSON line with what was done. It ends by itself
after its seconds. One source is an ordinary socket; many are frames with the source addresses of others.
"""

import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import NamedTuple

REALM = "ims.mnc001.mcc001.3gppnetwork.org"
PCSCF = "10.45.0.1"
ONE = "10.45.0.100"
"""The source address of a flood from one source; no phone has it."""
MANY = IPv4Network("10.45.128.0/18")
"""Source addresses of others: nobody is there to hear the answers."""
BOUND = IPv4Network("10.45.192.0/18")
"""Source addresses of TCP connections: all of them are the flooder's own."""
PORT = 5060
FIRST_KNOWN, KNOWN = 101, 1000
"""Subscribers that the core knows and no phone of the benchmark is."""
VARIETY = 1000
"""Different messages at least."""
SLOT = 0.002
LATE = 0.02
"""Seconds of which what was not sent in time is made up for at once; more would be a burst that nobody ordered."""
QUEUED = 50_000
"""Octets in the socket of the P-CSCF up to which as many requests as it can take are sent."""
AT_ONCE = 40
OPENED_FIRST = 1000.0
OPENED_AGAIN = 200.0
"""Connections that are opened each second: at first, and in place of those that were closed."""
HALF = (
    f"REGISTER sip:{REALM} SIP/2.0\r\nVia: SIP/2.0/TCP {ONE}:{PORT};branch=z9hG4bKslow\r\nMax-Forwards: 70\r\n"
    f"From: <sip:slow@{REALM}>;tag=slow\r\nTo: <sip:slow@{REALM}>\r\nCall-ID: slow\r\nX-Slow: "
).encode()
NUMBER = "\0"
"""Where the number of a message goes, eight digits."""

Parts = list[bytes]
"""A message, cut where its number goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send: `rate` a second for `seconds`; or `total` as fast as the process `pid` takes them."""

    kind: str
    sources: int
    rate: int
    seconds: float
    total: int = 0
    pid: int = 0
    gateway: str = ""
    """Hardware address of the P-CSCF on Gm."""
    interface: str = "gm-ue"


# What is said. `address` and `port` are the sender's, `index` tells the messages of a pool apart.


def register(address: str, port: int, index: int, *, user: str, offer: bool = True, authorization: bool = True) -> str:
    """A first REGISTER."""
    ports = f"port-c={10_000 + 2 * index};port-s={10_001 + 2 * index}"
    client = f"ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;spi-c=1{NUMBER};spi-s=2{NUMBER};{ports}"
    credentials = f'Digest username="{user}",realm="{REALM}",uri="sip:{REALM}",nonce="",response=""'
    agreement = f"Security-Client: {client}\r\n" if offer else ""
    who = f"Authorization: {credentials}\r\n" if authorization else ""
    return (
        f"REGISTER sip:{REALM} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {address}:{port};branch=z9hG4bK{NUMBER};rport\r\nMax-Forwards: 70\r\n"
        f"From: <sip:{user}>;tag=f{NUMBER}\r\nTo: <sip:{user}>\r\nCall-ID: f{NUMBER}@{address}\r\nCSeq: 1 REGISTER\r\n"
        f"Contact: <sip:{address}:{port}>\r\nExpires: 600000\r\nSupported: path\r\n"
        f"Require: sec-agree\r\nProxy-Require: sec-agree\r\n{agreement}{who}Content-Length: 0\r\n\r\n"
    )


def refused(address: str, port: int, index: int) -> str:
    """A REGISTER that needs no core to be refused."""
    user = f"901700{NUMBER}@{REALM}"
    return register(address, port, index, user=user, offer=index % 2 == 0, authorization=index % 2 == 1)


def unknown(address: str, port: int, index: int) -> str:
    """A good REGISTER of a user that the core does not know."""
    return register(address, port, index, user=f"901700{NUMBER}@{REALM}")


def known(address: str, port: int, index: int) -> str:
    """A good REGISTER of a user that the core knows: it is challenged."""
    return register(address, port, index, user=f"00101{FIRST_KNOWN + index % KNOWN:010}@{REALM}")


def options(address: str, port: int, index: int) -> str:
    """OPTIONS in clear."""
    return (
        f"OPTIONS sip:{PCSCF} SIP/2.0\r\nVia: SIP/2.0/UDP {address}:{port};branch=z9hG4bK{NUMBER};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:o{index}@{REALM}>;tag=f{NUMBER}\r\nTo: <sip:{PCSCF}>\r\n"
        f"Call-ID: f{NUMBER}@{address}\r\nCSeq: 1 OPTIONS\r\nContact: <sip:{address}:{port}>\r\n"
        "Content-Length: 0\r\n\r\n"
    )


def emergency(address: str, port: int, index: int) -> str:
    """An emergency INVITE as short as can be."""
    return (
        f"INVITE urn:service:sos SIP/2.0\r\nv:SIP/2.0/UDP {address}:{port};branch=z9hG4bK{NUMBER}\r\n"
        f"f:<sip:a@b>;tag=1\r\nt:<sip:s>\r\ni:{NUMBER}\r\nCSeq:1 INVITE\r\n\r\n"
    )


def mixed(address: str, port: int, index: int) -> str:
    """Any request that is refused."""
    return options(address, port, index) if index % 3 == 2 else refused(address, port, index)


def junk(address: str, port: int, index: int) -> Parts:
    """No SIP, or not quite: random octets, text, a request that ends early, a length that is none."""
    random = Random(index)
    whole = options(address, port, index).replace(NUMBER, f"{index:08}").encode()
    match index % 4:
        case 0:
            return [random.randbytes(random.randrange(1, 1200))]
        case 1:
            return [whole[: random.randrange(10, len(whole) - 10)]]
        case 2:
            return [whole.replace(b"Content-Length: 0", b"Content-Length: -" + b"9" * random.randrange(1, 300))]
    return [bytes(random.choices(range(33, 127), k=random.randrange(20, 800))) + b"\r\n\r\n"]


TEXTS: dict[str, Callable[[str, int, int], str]] = {
    "register-refused": refused,
    "register-unknown": unknown,
    "register-known": known,
    "options": options,
    "emergency": emergency,
    "refused": mixed,
}


def message(kind: str, address: str, port: int, index: int) -> Parts:
    """One message of a pool."""
    if kind == "junk":
        return junk(address, port, index)
    return TEXTS[kind](address, port, index).encode().split(NUMBER.encode())


def addresses(network: IPv4Network, sources: int) -> list[str]:
    """So many addresses all over a network."""
    step = (network.num_addresses - 2) // sources
    return [str(network[1 + step * each]) for each in range(sources)]


# How it is said


def frame(gateway: bytes, own: bytes, address: str, parts: Parts) -> Parts:
    """The message in UDP, IPv4 and Ethernet, cut at the same places. UDP without a checksum, as IPv4 allows."""
    length = sum(map(len, parts)) + (len(parts) - 1) * 8
    udp = struct.pack("!HHHH", PORT, PORT, 8 + length, 0)
    ends = IPv4Address(address).packed + IPv4Address(PCSCF).packed
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + length, 0, 0, 64, socket.IPPROTO_UDP, 0) + ends
    total = sum(struct.unpack("!10H", ip))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", total ^ 0xFFFF) + ip[12:]
    return [gateway + own + b"\x08\x00" + ip + udp + parts[0], *parts[1:]]


def sender(plan: Plan) -> tuple[Callable[[bytes], object], list[Parts]]:
    """What sends one datagram, and the pool of what is sent."""
    if plan.sources == 1:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((ONE, 0))
        udp.connect((PCSCF, PORT))
        port = udp.getsockname()[1]
        return udp.send, [message(plan.kind, ONE, port, index) for index in range(VARIETY)]
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind((plan.interface, 0))
    gateway, own = bytes.fromhex(plan.gateway.replace(":", "")), raw.getsockname()[4]
    sources = addresses(MANY, plan.sources)
    pool = []
    for index in range(max(VARIETY, plan.sources)):
        address = sources[index % plan.sources]
        pool.append(frame(gateway, own, address, message(plan.kind, address, PORT, index)))
    return raw.send, pool


def datagrams(pool: list[Parts]) -> Iterator[bytes]:
    """The messages of a pool in turn, each with a number of its own."""
    for number, parts in zip(count(1), cycle(pool), strict=False):
        yield parts[0] if len(parts) == 1 else f"{number:08}".encode().join(parts)


def at_a_rate(plan: Plan, send: Callable[[bytes], object], pool: list[Parts]) -> dict[str, float]:
    """So many a second. What could not be sent in time is not sent at all but for a short while."""
    sent = octets = 0
    begun = now = time.monotonic()
    due = 0.0
    source = datagrams(pool)
    while (now := time.monotonic()) < begun + plan.seconds:
        ahead = plan.rate * (now - begun)
        due = max(due, ahead - plan.rate * LATE)
        while due < ahead:
            data = next(source)
            due += 1
            with suppress(OSError):  # a full queue: not sent, not counted
                send(data)
                sent += 1
                octets += len(data)
        time.sleep(SLOT)
    return {"sent": sent, "octets": octets, "seconds": time.monotonic() - begun}


def as_it_takes_them(plan: Plan, send: Callable[[bytes], object], pool: list[Parts]) -> dict[str, float]:
    """`total` of them, no faster than the P-CSCF reads them."""
    sent = octets = 0
    begun = time.monotonic()
    source = datagrams(pool)
    while sent < plan.total and time.monotonic() < begun + plan.seconds:
        if queued(plan.pid) > QUEUED:
            time.sleep(0.001)
            continue
        for _ in range(min(AT_ONCE, plan.total - sent)):
            data = next(source)
            with suppress(OSError):
                send(data)
                sent += 1
                octets += len(data)
    while queued(plan.pid) and time.monotonic() < begun + plan.seconds:
        time.sleep(0.001)
    return {"sent": sent, "octets": octets, "seconds": time.monotonic() - begun}


class UdpSocket(NamedTuple):
    """Octets that wait in it, and datagrams that it had no room for."""

    waiting: int
    dropped: int


def udp_socket(pid: int, address: str) -> UdpSocket:
    """The one at PORT of this address where a process lives."""
    local = f"{int.from_bytes(IPv4Address(address).packed, sys.byteorder):08X}:{PORT:04X}"
    for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == local:
            return UdpSocket(int(fields[4].partition(":")[2], 16), int(fields[12]))
    raise LookupError(f"there is no UDP socket at {address} port {PORT}")


def queued(pid: int) -> int:
    return udp_socket(pid, PCSCF).waiting


# Slow connections


class SlowConnections:
    """`rate` connections that each say half a request, then an octet a second; what is closed is opened again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        sources = [ONE] if plan.sources == 1 else addresses(BOUND, min(plan.sources, plan.rate))
        self._sources = cycle(sources)
        self._poll = select.epoll()
        self._connecting: dict[int, socket.socket] = {}
        self._open: dict[int, socket.socket] = {}
        self._in_turn: deque[int] = deque()
        self.opened = self.closed_by_peer = self.most = self.octets = 0

    def run(self) -> dict[str, float]:
        begun = time.monotonic()
        opening = 0.0
        attempts = 0
        before = begun
        while (now := time.monotonic()) < begun + self._plan.seconds:
            passed, before = min(now - before, 0.1), now
            opening += passed * (OPENED_FIRST if attempts < self._plan.rate else OPENED_AGAIN)
            opening = min(opening, self._plan.rate - len(self._open) - len(self._connecting), 50.0)
            while opening >= 1:
                opening -= 1
                attempts += 1
                self._connect()
            for descriptor, event in self._poll.poll(0.01, 500):
                self._happened(descriptor, event)
            for _ in range(min(round(passed * len(self._open)), len(self._in_turn))):
                self._say_more()
            self.most = max(self.most, len(self._open))
        return {
            "sent": attempts,
            "octets": self.octets,
            "seconds": time.monotonic() - begun,
            "opened": self.opened,
            "closed_by_peer": self.closed_by_peer,
            "most": self.most,
            "left": len(self._open),
        }

    def _connect(self) -> None:
        tcp = socket.socket()
        tcp.setblocking(False)
        try:
            tcp.bind((next(self._sources), 0))
            with suppress(BlockingIOError):
                tcp.connect((PCSCF, PORT))
        except OSError:
            tcp.close()
            return
        self._connecting[tcp.fileno()] = tcp
        self._poll.register(tcp, select.EPOLLOUT)

    def _happened(self, descriptor: int, event: int) -> None:
        if tcp := self._connecting.pop(descriptor, None):
            if tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._closed(tcp)
                return
            self.opened += 1
            self._open[descriptor] = tcp
            self._in_turn.append(descriptor)
            self._poll.modify(tcp, select.EPOLLIN)
            self._say(tcp, HALF)
        elif tcp := self._open.get(descriptor):
            try:
                gone = not tcp.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                gone = True
            if gone:
                del self._open[descriptor]
                self._closed(tcp)

    def _closed(self, tcp: socket.socket) -> None:
        self.closed_by_peer += 1
        self._poll.unregister(tcp)
        tcp.close()

    def _say_more(self) -> None:
        descriptor = self._in_turn.popleft()
        if tcp := self._open.get(descriptor):
            self._say(tcp, b"x")
            self._in_turn.append(descriptor)

    def _say(self, tcp: socket.socket, data: bytes) -> None:
        with suppress(OSError):  # that it is gone is heard elsewhere
            self.octets += tcp.send(data)


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(OSError):
        os.nice(-10)  # it stands for other machines, which our load does not slow
    if plan.kind == "tcp":
        work = SlowConnections(plan).run
    else:
        send, pool = sender(plan)

        def work() -> dict[str, float]:
            return (as_it_takes_them if plan.total else at_a_rate)(plan, send, pool)

    print("ready", flush=True)
    if sys.stdin.readline():
        print(json.dumps(work()), flush=True)


if __name__ == "__main__":
    main()
