"""Protected SIP ports carry ESP and nothing else: every algorithm pair, UDP and TCP, IPv4 and IPv6.

Digest A1, A12, F14, on the wire.
"""

import socket

import pytest

from tests.kernel.agent import Agent
from tests.kernel.wire import clear, spis
from tests.kernel.world import CLEAR_PORT, PORT_PC, PORT_PS, World
from xfrm.algorithms import VALID_PAIRS, Pair

PAIRS = sorted(VALID_PAIRS, key=str)


@pytest.fixture(params=PAIRS, ids=str)
def pair(request: pytest.FixtureRequest) -> Pair:
    assert isinstance(request.param, Pair)
    return request.param


def test_udp(world: World, version: int, pair: Pair) -> None:
    before = [(world.sa_count(end), world.policy_count(end)) for end in (world.ue, world.p)]
    made = world.set(version, pair)
    world.udp(made)
    world.install(made)
    up = [b"REGISTER", b"x" * 1200, b"y" * 4000]  # the last is fragmented: ESP of more than one frame
    for data in up:
        world.ue(Agent.send, "uc", data, made.p, PORT_PS)
        assert world.p(Agent.receive, "ps") == data
    world.p(Agent.send, "pc", b"401", made.ue, made.port_us)
    assert world.ue(Agent.receive, "us") == b"401"

    seen = world.seen()
    assert not clear(seen)
    assert spis(seen) == {made.sas[0].spi, made.sas[2].spi}
    for end in (world.ue, world.p):
        records = end(Agent.records)
        assert [records[identity].packets for identity in made.ids] == [len(up), 0, 1, 0]
        assert records[made.ids[0]].bytes >= sum(map(len, up))
        assert {record.sa for record in records.values()} == set(made.sas), "keys and all, as installed"
        assert records[made.ids[1]].last_used is None
    during = [(world.sa_count(end), world.policy_count(end)) for end in (world.ue, world.p)]
    assert during == [(sas + 4, policies) for sas, policies in before]


def test_tcp(world: World, version: int, pair: Pair) -> None:
    made = world.set(version, pair)
    world.bind(made, socket.SOCK_STREAM)
    world.install(made)
    data = b"z" * 20_000
    # The UE opens uc -> ps (SAs 1 and 2), the P-CSCF opens pc -> us (SAs 3 and 4).
    for near, far, here, there, to, port in (
        (world.ue, world.p, "uc", "ps", made.p, PORT_PS),
        (world.p, world.ue, "pc", "us", made.ue, made.port_us),
    ):
        far(Agent.listen, there)
        assert near(Agent.connect, here, to, port)
        assert far(Agent.accept, there, "accepted")
        near(Agent.write, here, data)
        assert far(Agent.read, "accepted", len(data)) == data
        far(Agent.write, "accepted", b"200")
        assert near(Agent.read, here, 3) == b"200"

    seen = world.seen()
    assert not clear(seen)
    assert spis(seen) == {sa.spi for sa in made.sas}
    assert all(record.packets for end in (world.ue, world.p) for record in end(Agent.records).values())


def test_clear_text_is_dropped_and_counted(world: World, version: int) -> None:
    """TS 33.203 7.1: a protected port takes nothing in clear, from whatever port it comes (field trap 43)."""
    made = world.set(version)
    world.udp(made)
    world.install(made)
    world.ue(Agent.bind, "clear", socket.SOCK_DGRAM, made.ue, CLEAR_PORT)
    world.ue(Agent.bind, "stream", socket.SOCK_STREAM, made.ue, CLEAR_PORT)
    world.p(Agent.bind, "listener", socket.SOCK_STREAM, made.p, PORT_PC)
    world.p(Agent.listen, "listener")
    drops = world.p(Agent.clear_drops)
    for port in (PORT_PS, PORT_PC):
        world.ue(Agent.send, "clear", b"MESSAGE", made.p, port)
    assert not world.ue(Agent.connect, "stream", made.p, PORT_PC, 0.3)
    assert not world.p(Agent.accept, "listener", "accepted", 0)
    assert world.p(Agent.receive, "ps", 0.1) is None
    assert world.p(Agent.receive, "pc", 0) is None
    assert world.p(Agent.clear_drops) >= drops + 3
    # The pool of port_pc is 5104-5111: its last port is shut, the one after it is not ours.
    world.p(Agent.bind, "last", socket.SOCK_DGRAM, made.p, PORT_PC + 7)
    world.p(Agent.bind, "next", socket.SOCK_DGRAM, made.p, PORT_PC + 8)
    for port in (PORT_PC + 7, PORT_PC + 8):
        world.ue(Agent.send, "clear", b"MESSAGE", made.p, port)
    assert world.p(Agent.receive, "next") == b"MESSAGE"
    assert world.p(Agent.receive, "last", 0) is None
    assert all(packet.source == made.ue for packet in clear(world.seen())), "the P-CSCF answered in clear"


def test_two_users_behind_one_address(world: World, version: int) -> None:
    """Sets that differ only in the UE's ports and their SPIs do not meet."""
    first, second = world.set(version), world.set(version)
    world.install(first, second)
    world.p(Agent.bind, "ps", socket.SOCK_DGRAM, first.p, PORT_PS)
    for made, name in ((first, "one"), (second, "two")):
        world.ue(Agent.bind, name, socket.SOCK_DGRAM, made.ue, made.port_uc)
        world.ue(Agent.send, name, name.encode(), made.p, PORT_PS)
        assert world.p(Agent.receive, "ps") == name.encode()
    assert spis(world.seen()) == {first.sas[0].spi, second.sas[0].spi}
    assert [world.p(Agent.records)[made.ids[0]].packets for made in (first, second)] == [1, 1]
