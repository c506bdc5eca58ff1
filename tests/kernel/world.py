"""Two network namespaces, UE and P-CSCF, joined by a veth pair that a tap watches; and the sets of SAs between them."""

import contextlib
import itertools
import os
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Self

from pyroute2 import IPRoute, netns

from tests.kernel.agent import Agent, Guards, Peer
from tests.kernel.wire import Packet, packets
from xfrm.algorithms import ENCRYPTION, INTEGRITY, Encryption, Integrity, Pair
from xfrm.model import IPAddress, Key, PortRange, Sa, SaId, Selector

PORT_PS: Final = 5100
PORT_PC: Final = 5104
P_PORTS: Final = (PortRange(first=PORT_PS), PortRange(first=PORT_PC, count=8))
UE_PORTS: Final = (PortRange(first=20480, count=1024),)
CLEAR_PORT: Final = 15060
"""A port of the UE that nobody protects."""

UE: Final[dict[int, IPAddress]] = {4: IPv4Address("10.203.0.2"), 6: IPv6Address("fd00:203::2")}
P: Final[dict[int, IPAddress]] = {4: IPv4Address("10.203.0.1"), 6: IPv6Address("fd00:203::1")}
SECOND: Final[dict[int, IPAddress]] = {4: IPv4Address("10.203.0.3"), 6: IPv6Address("fd00:203::3")}
"""Of the P-CSCF's namespace, for a second instance in it."""

USUAL: Final = Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC)
_IFA_F_NODAD: Final = 0x02


class SaSet:
    """The four SAs of one AKA run (TS 33.203 7.1), numbered as in its table: UE->P, P->UE, P->UE, UE->P."""

    def __init__(
        self, number: int, pair: Pair, ue: IPAddress, p: IPAddress, *, lifetime: int = 60, window: int | None = None
    ) -> None:
        self.ue, self.p = ue, p
        self.port_uc, self.port_us = (UE_PORTS[0].first + (2 * number + n) % UE_PORTS[0].count for n in (0, 1))
        integrity, encryption = INTEGRITY[pair.integrity], ENCRYPTION[pair.encryption]
        integrity_key = Key(os.urandom(integrity.key) if integrity else b"")
        encryption_key = Key(os.urandom(encryption.key))
        flows = (
            (ue, self.port_uc, p, PORT_PS),
            (p, PORT_PS, ue, self.port_uc),
            (p, PORT_PC, ue, self.port_us),
            (ue, self.port_us, p, PORT_PC),
        )
        self.sas = tuple(
            Sa(
                selector=Selector(source=source, source_port=port, destination=destination, destination_port=to),
                spi=1_000_000_000 + 4 * number + place,
                integrity=pair.integrity,
                encryption=pair.encryption,
                integrity_key=integrity_key,
                encryption_key=encryption_key,
                lifetime=lifetime,
                **({} if window is None else {"replay_window": window}),
            )
            for place, (source, port, destination, to) in enumerate(flows)
        )

    @property
    def ids(self) -> tuple[SaId, ...]:
        return tuple(sa.id for sa in self.sas)


class World:
    """`ue` and `p` are the ends with a backend; `wire` is in the P-CSCF's namespace and `far` in the UE's, without."""

    def __init__(self, esp: str, number: int) -> None:
        self.esp = esp
        self._exits = contextlib.ExitStack()
        self._numbers = itertools.count()
        self._names = {end: f"kt{os.getpid()}-{number}-{end}" for end in ("ue", "p")}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as exits:
            for name in self._names.values():
                netns.create(name)
                exits.callback(netns.remove, name)
            self._join()
            self._exits = exits
            self.far, self.wire = self.peer("ue", None), self.peer("p", None)
            self.ue, self.p = self.peer("ue", self.esp), self.peer("p", self.esp)
            for version in (4, 6):
                self.ue(Agent.protect, UE[version], UE_PORTS)
                self.p(Agent.protect, P[version], P_PORTS)
            self.wire(Agent.tap, "tap", "gm")
            self.far(Agent.tap, "tap", "gm")
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def peer(self, end: str, backend: str | None) -> Peer:
        """Start one more agent in the namespace of `end`."""
        made = Peer(self._names[end], backend)
        self._exits.callback(made.stop)
        return made

    def _join(self) -> None:
        with IPRoute(netns=self._names["ue"]) as near:
            near.link("add", ifname="gm", kind="veth", peer={"ifname": "gm", "net_ns_fd": self._names["p"]})
        for end, addresses in (("ue", (UE,)), ("p", (P, SECOND))):
            with IPRoute(netns=self._names[end]) as route:
                for name in ("lo", "gm"):
                    route.link("set", index=route.link_lookup(ifname=name)[0], state="up")
                for address in addresses:
                    index = route.link_lookup(ifname="gm")[0]
                    route.addr("add", index=index, address=str(address[4]), prefixlen=24)
                    route.addr("add", index=index, address=str(address[6]), prefixlen=64, flags=_IFA_F_NODAD)

    def set(self, version: int, pair: Pair = USUAL, **rest: int) -> SaSet:
        """Make four SAs with ports and SPIs no other set of this world has."""
        return SaSet(next(self._numbers), pair, UE[version], P[version], **rest)

    def install(self, *sets: SaSet) -> None:
        """Install sets at both ends."""
        for end in (self.ue, self.p):
            end(Agent.install, [sa for made in sets for sa in made.sas])

    def udp(self, made: SaSet, guards: Guards = "both") -> None:
        """Bind the UDP sockets of a set: `uc` and `us` of the UE, `ps` and `pc` of the P-CSCF, with these guards."""
        self.bind(made, socket.SOCK_DGRAM, guards)

    def bind(self, made: SaSet, kind: socket.SocketKind, guards: Guards = "both") -> None:
        self.ue(Agent.bind, "uc", kind, made.ue, made.port_uc, "both")
        self.ue(Agent.bind, "us", kind, made.ue, made.port_us, "both")
        self.p(Agent.bind, "ps", kind, made.p, PORT_PS, guards)
        self.p(Agent.bind, "pc", kind, made.p, PORT_PC, guards)

    def seen(self) -> list[Packet]:
        """IP packets on the wire since the last call."""
        return packets(self.wire(Agent.frames, "tap"))

    def sa_count(self, peer: Peer) -> int:
        """SAs of a namespace, as someone else counts them."""
        if self.esp == "userspace":
            return len(peer(Agent.records))
        return int(peer(Agent.command, "ip", "xfrm", "state", "count").split()[-1])

    def policy_count(self, peer: Peer) -> int:
        """Kernel policies of a namespace (the userspace backend needs none)."""
        words = peer(Agent.command, "ip", "xfrm", "policy", "count").split()
        return sum(int(words[words.index(name) + 1]) for name in ("IN", "OUT"))

    def tidy(self) -> None:
        """Take sockets and SAs away, so that the next test finds a fresh world."""
        for end in (self.ue, self.p):
            end(Agent.drop_sockets)
            end(Agent.remove, list(end(Agent.records)))
        self.seen()
        self.far(Agent.frames, "tap")
