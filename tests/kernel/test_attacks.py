"""What an attacker between or behind the ends can send: replayed, altered, forged and misdirected packets.

Digest A3, A5, A9 "wrong IK", F14, on the wire.
"""

import socket
from dataclasses import replace

import pytest

from tests.kernel.agent import Agent
from tests.kernel.wire import ESP, Packet, clear_udp
from tests.kernel.world import CLEAR_PORT, PORT_PS, SaSet, World
from xfrm.algorithms import VALID_PAIRS, Pair


def captured(world: World, made: SaSet, data: bytes) -> Packet:
    """Let the UE send on SA 1 before the P-CSCF has it: an ESP packet nobody has received yet."""
    world.udp(made)
    world.ue(Agent.install, made.sas)
    world.ue(Agent.send, "uc", data, made.p, PORT_PS)
    (packet,) = (packet for packet in world.seen() if packet.protocol == ESP)
    world.p(Agent.install, made.sas)
    return packet


def test_a_replayed_packet_is_dropped(world: World, version: int) -> None:
    made = world.set(version)
    packet = captured(world, made, b"once")
    world.far(Agent.inject, "tap", packet.frame)
    assert world.p(Agent.receive, "ps") == b"once"
    world.far(Agent.inject, "tap", packet.frame)
    assert world.p(Agent.receive, "ps", 0.2) is None
    record = world.p(Agent.records)[made.ids[0]]
    assert (record.packets, record.replay_drops, record.integrity_failures) == (1, 1, 0)


@pytest.mark.parametrize("window", [32, 64])
def test_the_replay_window_takes_what_is_late_once(world: World, window: int) -> None:
    """TS 33.203 6.3, RFC 4303 3.4.3: inside the window late packets pass once, left of it never."""
    made = world.set(4, window=window)
    world.udp(made)
    world.ue(Agent.install, made.sas)
    for number in range(window + 1):
        world.ue(Agent.send, "uc", b"%d" % number, made.p, PORT_PS)
    frames = [packet.frame for packet in world.seen()]
    world.p(Agent.install, made.sas)
    assert world.p(Agent.records)[made.ids[0]].sa.replay_window == window
    for place in (window, 1, 1, 0):
        world.far(Agent.inject, "tap", frames[place])
    assert world.p(Agent.receive, "ps") == b"%d" % window
    assert world.p(Agent.receive, "ps") == b"1"
    assert world.p(Agent.receive, "ps", 0.2) is None


@pytest.mark.parametrize("pair", sorted(VALID_PAIRS, key=str), ids=str)
def test_an_altered_packet_is_an_integrity_failure(world: World, pair: Pair) -> None:
    made = world.set(4, pair)
    packet = captured(world, made, b"as sent")
    start = len(packet.frame) - len(packet.payload)
    for place in (start + 7, start + 24, len(packet.frame) - 1):  # sequence number, IV or payload, ICV
        frame = bytearray(packet.frame)
        frame[place] ^= 2
        world.far(Agent.inject, "tap", bytes(frame))
    assert world.p(Agent.receive, "ps", 0.2) is None
    assert world.p(Agent.records)[made.ids[0]].integrity_failures == 3
    world.far(Agent.inject, "tap", packet.frame)
    assert world.p(Agent.receive, "ps") == b"as sent", "a forged packet moved the replay window"


def test_a_packet_on_another_users_sa_is_dropped(world: World, version: int) -> None:
    """A UE that seals with its own SA a packet from another UE's port is not taken for the other (TS 33.203 A6)."""
    thief, victim = world.set(version), world.set(version)
    world.p(Agent.install, [*thief.sas, *victim.sas])
    stolen = replace(thief.sas[0], selector=victim.sas[0].selector)
    world.ue(Agent.install, [stolen])
    world.udp(victim)
    world.ue(Agent.send, "uc", b"from the victim", victim.p, PORT_PS)
    assert world.p(Agent.receive, "ps", 0.2) is None
    assert [packet.spi for packet in world.seen()] == [thief.sas[0].spi]


def test_a_clear_packet_of_a_protected_flow_is_dropped(world: World, version: int) -> None:
    """The very ports and addresses of an SA, but no ESP."""
    made = world.set(version)
    packet = captured(world, made, b"real")
    drops = world.p(Agent.clear_drops)
    world.far(Agent.inject, "tap", clear_udp(packet, made.port_uc, PORT_PS, b"forged"))
    assert world.p(Agent.receive, "ps", 0.2) is None
    assert world.p(Agent.clear_drops) == drops + 1
    # The same frame to a port nobody protects arrives: it was the policy that dropped it.
    world.p(Agent.bind, "clear", socket.SOCK_DGRAM, made.p, CLEAR_PORT)
    world.far(Agent.inject, "tap", clear_udp(packet, made.port_uc, CLEAR_PORT, b"forged"))
    assert world.p(Agent.receive, "clear") == b"forged"
