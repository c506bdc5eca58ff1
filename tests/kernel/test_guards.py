"""Two guards on each backend: what comes in clear is not handled, in whatever form, with either of them alone.

Step 1, 1 and 2 (TS 33.203 7.1). Each form is sent to an unprotected port first: what the kernel throws away by itself
proves nothing.
"""

import socket
import struct
from collections.abc import Iterable, Iterator

import pytest

from tests.kernel.agent import Agent, Guards
from tests.kernel.clear_forms import SEGMENT, forms
from tests.kernel.wire import TCP, UDP, Packet, clear_udp, packets, tcp_flags, tcp_segment, with_checksum
from tests.kernel.wire import clear as clear_packets
from tests.kernel.world import CLEAR_PORT, PORT_PC, PORT_PS, SaSet, World
from xfrm.algorithms import Encryption, Integrity, Pair

NULL = Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL)
GUARDS: tuple[Guards, ...] = ("both", "first", "second")
FLUSHES = {
    "kernel": (
        "ip xfrm policy flush",
        "ip xfrm policy delete dst {address} dport 5100 dir in",
        "ip xfrm policy update dst {address} dport 5100 dir in tmpl proto esp reqid 0x33203 mode transport level use",
        "ip xfrm policy update dst {address} dport 5100 dir in priority 0",
    ),
    "userspace": (
        "nft flush ruleset",
        "nft delete table inet {tun}",
        "nft flush chain inet {tun} input",
        "nft insert rule inet {tun} input accept",
    ),
}
"""What takes the first guard away, or opens it, for datagrams that come in."""
DETOURS = (
    "ip -{version} rule delete pref 3320",
    "ip -{version} route flush table {table}",
    "ip link set {tun} down",
    "ip -{version} rule add pref 100 from {address} unreachable",
    "ip -{version} rule add pref 100 from all lookup main",
)
"""What leads packets that leave past the userspace backend."""
_ETHERTYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}
_SYN, _SYN_ACK, _PSH_ACK = 0x02, 0x12, 0x18


def udp_segment(made: SaSet, source_port: int, port: int, name: str) -> bytes:
    data = name.encode().ljust(SEGMENT, b".")
    segment = struct.pack("!4H", source_port, port, 8 + len(data), 0) + data
    return with_checksum(made.ue, made.p, UDP, segment)


def send_all(world: World, made: SaSet, like: Packet, port: int, source_port: int) -> None:
    """Send every form of a datagram from the UE's address and this port of it."""
    for name, make in forms(made.ue, made.p, UDP):
        for packet in make(udp_segment(made, source_port, port, name)):
            world.far(Agent.inject, "tap", like.frame[:12] + _ETHERTYPE[made.ue.version] + packet)


def named(datagrams: Iterable[bytes]) -> set[str]:
    return {data.decode().rstrip(".") for data in datagrams}


def from_the_ue(world: World, made: SaSet) -> Packet:
    """A packet of the UE inside ESP, which was received: its Ethernet header is good for others."""
    world.ue(Agent.send, "uc", b"in ESP", made.p, PORT_PS)
    assert world.p(Agent.receive, "ps") == b"in ESP"
    return next(packet for packet in world.seen() if packet.source == made.ue)


@pytest.fixture
def guarded(world: World) -> Iterator[World]:
    """A world whose first guard may be taken away: it is put back."""
    yield world
    world.p(Agent.restore)


@pytest.mark.parametrize("guards", GUARDS)
def test_no_form_of_a_clear_datagram_is_received(guarded: World, version: int, guards: Guards) -> None:
    """Step 1, 1 and 2."""
    world = guarded
    made = world.set(version)
    world.install(made)
    world.udp(made, guards)
    like = from_the_ue(world, made)
    world.p(Agent.bind, "clear", socket.SOCK_DGRAM, made.p, CLEAR_PORT)
    send_all(world, made, like, CLEAR_PORT, made.port_uc)
    arrived = named(world.p(Agent.receive_all, "clear"))
    if version == 4:
        assert len(arrived) >= 20 and {"plain", "40 NOPs", "router alert", "in pieces of 8, last first"} <= arrived
    else:
        assert len(arrived) >= 60 and {"headers none", "headers H", "headers D", "headers F",
                                       "headers HDFd", "headers  fragment  cut at 8"} <= arrived  # fmt: skip
    if guards == "second":
        world.p(Agent.lose_the_first_guard)
    for name, port, source_port in (
        ("ps", PORT_PS, made.port_uc),
        ("pc", PORT_PC, made.port_us),
        ("ps", PORT_PS, 5060),
    ):
        send_all(world, made, like, port, source_port)
        assert named(world.p(Agent.receive_all, name)) == set()
    from_the_ue(world, made)


@pytest.mark.parametrize("guards", GUARDS)
def test_no_form_of_a_clear_syn_is_answered(guarded: World, version: int, guards: Guards) -> None:
    """Step 1, 1 and 2, for connections."""
    world = guarded
    made = world.set(version)
    world.install(made)
    world.bind(made, socket.SOCK_STREAM, guards)
    world.p(Agent.bind, "clear", socket.SOCK_STREAM, made.p, CLEAR_PORT)
    for name in ("ps", "clear"):
        world.p(Agent.listen, name)
    assert world.ue(Agent.connect, "uc", made.p, PORT_PS)
    assert world.p(Agent.accept, "ps", "accepted")
    like = next(packet for packet in world.seen() if packet.source == made.ue)
    if guards == "second":
        world.p(Agent.lose_the_first_guard)

    def answers(port: int) -> int:
        """SYN-ACKs in clear to SYNs of every form, each from a port of its own."""
        for number, (_, make) in enumerate(forms(made.ue, made.p, TCP)):
            syn = tcp_segment((made.ue, 30_000 + number), (made.p, port), (1000, 0), _SYN, bytes(SEGMENT - 20))
            for packet in make(syn):
                world.far(Agent.inject, "tap", like.frame[:12] + _ETHERTYPE[version] + packet)
        seen = packets(world.wire(Agent.frames, "tap", 0.3))
        return tcp_flags(seen, port).count(_SYN_ACK)

    assert answers(CLEAR_PORT) >= (20 if version == 4 else 60)
    assert answers(PORT_PS) == 0
    assert not world.p(Agent.accept, "ps", "another", 0.2)
    world.ue(Agent.write, "uc", b"in ESP")
    assert world.p(Agent.read, "accepted", 6) == b"in ESP"


@pytest.mark.parametrize("guards", GUARDS)
def test_no_clear_segment_gets_into_a_connection(guarded: World, version: int, guards: Guards) -> None:
    """Step 1, 1 and 2: with the right sequence numbers, which an attacker on the way of null encryption can read."""
    world = guarded
    made = world.set(version, NULL)
    world.install(made)
    world.bind(made, socket.SOCK_STREAM, guards)
    world.p(Agent.listen, "ps")
    assert world.ue(Agent.connect, "uc", made.p, PORT_PS)
    assert world.p(Agent.accept, "ps", "accepted")
    world.ue(Agent.write, "uc", b"in ESP")
    assert world.p(Agent.read, "accepted", 6) == b"in ESP"
    last = [packet for packet in world.seen() if packet.source == made.ue][-1]
    sequence, acknowledged = struct.unpack_from("!II", last.payload, 12)
    numbers = sequence + data_in(last), acknowledged
    if guards == "second":
        world.p(Agent.lose_the_first_guard)
    for _, make in forms(made.ue, made.p, TCP):
        forged = tcp_segment((made.ue, made.port_uc), (made.p, PORT_PS), numbers, _PSH_ACK, bytes(SEGMENT))
        for packet in make(forged):
            world.far(Agent.inject, "tap", last.frame[:12] + _ETHERTYPE[version] + packet)
    assert world.p(Agent.read, "accepted", 1, 0.3) == b""
    if guards == "second" and world.esp == "userspace":
        return  # the kernel finds no socket for such a segment and has us tell the UE so, inside ESP: a reset
    world.ue(Agent.write, "uc", b"again in ESP")
    assert world.p(Agent.read, "accepted", 12) == b"again in ESP"


def data_in(packet: Packet) -> int:
    """Octets of data in a null-encrypted ESP packet of TCP: without its head, the padding and the ICV."""
    padding = packet.payload[-14]
    tcp = packet.payload[8 : len(packet.payload) - 14 - padding]
    return len(tcp) - 4 * (tcp[12] >> 4)


def test_a_guard_that_is_flushed_is_put_back(guarded: World, version: int) -> None:
    """Step 1, 2: and until then a datagram in clear comes in where there is no second guard, so that this is a test."""
    world = guarded
    made = world.set(version)
    world.install(made)
    world.udp(made, "first")
    like = from_the_ue(world, made)
    clear = clear_udp(like, made.port_uc, PORT_PS, b"in clear")
    assert world.p(Agent.restore) == ()
    for command in FLUSHES[world.esp]:
        shell(world, made, command)
        world.far(Agent.inject, "tap", clear)
        assert world.p(Agent.receive, "ps") == b"in clear", command
        losses = world.p(Agent.restore)
        assert losses and not any(loss.error for loss in losses), command
        world.far(Agent.inject, "tap", clear)
        assert world.p(Agent.receive, "ps", 0.2) is None, command
        assert world.p(Agent.restore) == ()
        from_the_ue(world, made)


@pytest.mark.userspace_objects
def test_a_way_that_is_bent_is_put_right(guarded: World, version: int) -> None:
    """Step 1, 2: what leaves a protected port leaves in ESP or not at all, and in ESP again after the next look."""
    world = guarded
    made = world.set(version)
    world.install(made)
    world.udp(made)
    for command in DETOURS:
        shell(world, made, command)
        world.p(Agent.send, "pc", b"lost", made.ue, made.port_us)
        if "pref 100" in command:
            assert [loss.error for loss in world.p(Agent.restore)] == ["it was put back, and is gone again"]
            shell(world, made, command.replace("rule add", "rule delete"))
        else:
            assert [loss.error for loss in world.p(Agent.restore)] == [""], command
        assert not clear_packets(world.seen()), command
        while world.ue(Agent.receive, "us", 0.1):
            pass
        world.p(Agent.send, "pc", b"in ESP", made.ue, made.port_us)
        assert world.ue(Agent.receive, "us") == b"in ESP", command
        assert world.p(Agent.restore) == ()


@pytest.mark.userspace_objects
def test_a_device_that_is_gone_is_told_and_nothing_passes(own_world: World, version: int) -> None:
    """Step 1, 2: the sockets are bound to the TUN and to nothing else."""
    world = own_world
    made = world.set(version)
    world.install(made)
    world.udp(made)
    like = from_the_ue(world, made)
    shell(world, made, "ip link delete {tun}")
    losses = world.p(Agent.restore)
    assert len(losses) == 1 and "cannot be made anew" in losses[0].error
    world.p(Agent.lose_the_first_guard)
    world.far(Agent.inject, "tap", clear_udp(like, made.port_uc, PORT_PS, b"in clear"))
    assert world.p(Agent.receive, "ps", 0.2) is None
    world.p(Agent.send, "pc", b"in clear", made.ue, made.port_us)
    assert not [packet for packet in clear_packets(world.seen()) if packet.source == made.p]


def shell(world: World, made: SaSet, command: str) -> None:
    """Run a command in the P-CSCF's namespace."""
    tun = dict(world.p(Agent.devices)).get(made.p, "")
    table = 0x4000_0000 + 2 * int(tun.removeprefix("esp") or "0", 16)
    filled = command.format(address=made.p, tun=tun, version=made.p.version, table=table)
    world.wire(Agent.command, *filled.split())
