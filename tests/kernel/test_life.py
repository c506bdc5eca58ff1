"""Install, update, expire, remove, die: what exists afterwards, and that nothing leaves in clear at any moment."""

import socket
from collections import Counter
from ipaddress import IPv4Address

import pytest

from tests.kernel.agent import Agent, Peer
from tests.kernel.wire import clear, spis
from tests.kernel.world import CLEAR_PORT, P_PORTS, PORT_PC, PORT_PS, SECOND, USUAL, P, SaSet, World
from xfrm.model import KernelError


def test_a_refused_sa_rolls_the_batch_back(world: World) -> None:
    """The third of four is refused: none is left, the error names it and shows no key (field trap 1)."""
    standing, made = world.set(4), world.set(4)
    world.p(Agent.install, [standing.sas[2]])
    batch = [*made.sas[:2], standing.sas[2], made.sas[3]]
    with pytest.raises(KernelError) as refused:
        world.p(Agent.install, batch)
    assert refused.value.index == 2
    assert str(standing.sas[2].spi) in str(refused.value) and str(USUAL) in str(refused.value)
    assert standing.sas[2].integrity_key.hex() not in str(refused.value)
    assert list(world.p(Agent.records)) == [standing.ids[2]]
    assert world.sa_count(world.p) == 1


def test_update_moves_the_end_and_keeps_counters_and_sequence(world: World, version: int) -> None:
    made = world.set(version, lifetime=30)
    world.udp(made)
    world.install(made)
    for data in (b"one", b"two"):
        world.ue(Agent.send, "uc", data, made.p, PORT_PS)
        assert world.p(Agent.receive, "ps") == data
    before = world.p(Agent.records)
    assert world.p(Agent.count) == len(before) > 0
    for end in (world.ue, world.p):
        end(Agent.pump, 1.1)  # an age of at least a second: UPDSA counts from the installation
        end(Agent.update, made.ids, 100)
    after = world.p(Agent.records)
    assert [record.packets for record in after.values()] == [record.packets for record in before.values()]
    ages = [record.sa.lifetime - 100 for record in after.values()]
    assert all(1 <= age <= 10 for age in ages)
    world.ue(Agent.send, "uc", b"three", made.p, PORT_PS)
    assert world.p(Agent.receive, "ps") == b"three"
    assert [packet.sequence for packet in world.seen()] == [1, 2, 3]
    world.p(Agent.update, made.ids, 1)
    assert set(world.p(Agent.expirations, 4)) == set(made.ids)


def test_update_names_the_sa_that_is_gone_and_updates_the_rest(world: World) -> None:
    made = world.set(4, lifetime=30)
    world.p(Agent.install, made.sas)
    world.p(Agent.remove, made.ids[1:2])
    with pytest.raises(KernelError) as refused:
        world.p(Agent.update, made.ids, 500)
    assert refused.value.index == 1
    assert [record.sa.lifetime >= 500 for record in world.p(Agent.records).values()] == [True] * 3


def test_the_backstop_ends_an_sa_and_reports_it_once(world: World, version: int) -> None:
    """The kernel's hard limit: the SA is gone, told once, and the port stays shut."""
    made, other = world.set(version, lifetime=1), world.set(version)
    world.udp(made)
    world.install(made, other)
    assert Counter(world.p(Agent.expirations, 4)) == Counter(made.ids)
    assert world.p(Agent.expirations) == []
    assert set(world.p(Agent.records)) == set(other.ids)
    world.p(Agent.send, "pc", b"late", made.ue, made.port_us)
    assert world.ue(Agent.receive, "us", 0.2) is None
    assert not world.seen()


def test_removal_closes_the_ports(world: World, version: int) -> None:
    """After its SAs are gone a socket that still sends, UDP or TCP, puts nothing on the wire (field traps 3, 19)."""
    made = world.set(version)
    world.udp(made)
    world.p(Agent.bind, "listener", socket.SOCK_STREAM, made.p, PORT_PS)
    world.ue(Agent.bind, "stream", socket.SOCK_STREAM, made.ue, made.port_uc)
    world.p(Agent.listen, "listener")
    world.install(made)
    assert world.ue(Agent.connect, "stream", made.p, PORT_PS)
    assert world.p(Agent.accept, "listener", "accepted")
    world.seen()
    for end in (world.ue, world.p):
        end(Agent.remove, made.ids)
        end(Agent.remove, made.ids)  # gone already is no error
        assert world.sa_count(end) == 0
    world.p(Agent.send, "pc", b"200", made.ue, made.port_us)
    world.p(Agent.write, "accepted", b"200")
    world.ue(Agent.write, "stream", b"BYE")
    world.ue(Agent.send, "uc", b"BYE", made.p, PORT_PS)
    assert world.p(Agent.receive, "ps", 0.5) is None
    assert not world.seen()


def test_a_killed_process_leaks_nothing_and_is_taken_over(own_world: World, version: int) -> None:
    """kill -9 with live traffic from another process's socket: ESP or silence, then the next run starts clean."""
    world = own_world
    made = world.set(version)
    world.ue(Agent.bind, "us", socket.SOCK_DGRAM, made.ue, made.port_us)
    world.ue(Agent.bind, "uc", socket.SOCK_DGRAM, made.ue, made.port_uc)
    holder = world.peer("p", None)
    holder(Agent.bind, "pc", socket.SOCK_DGRAM, made.p, PORT_PC)
    holder(Agent.bind, "ps", socket.SOCK_DGRAM, made.p, PORT_PS)
    world.install(made)
    holder(Agent.send, "pc", b"alive", made.ue, made.port_us)
    assert world.ue(Agent.receive, "us") == b"alive"
    policies = world.policy_count(world.p)

    def burst() -> None:
        for _ in range(20):
            holder(Agent.send, "pc", b"orphan", made.ue, made.port_us)
            world.ue(Agent.send, "uc", b"to nobody", made.p, PORT_PS)
            holder(Agent.pump, 0.01)

    world.p.kill()
    burst()
    # What came in clear would be taken now: the dead process still keeps it out.
    world.ue(Agent.bind, "clear", socket.SOCK_DGRAM, made.ue, CLEAR_PORT)
    world.ue(Agent.send, "clear", b"clear", made.p, PORT_PS)
    received = []
    while (data := holder(Agent.receive, "ps", 0.2)) is not None:
        received.append(data)
    assert b"clear" not in received
    assert [packet.source for packet in clear(world.seen())] == [made.ue]

    world.p = world.peer("p", world.esp)
    world.p(Agent.protect, P[version], P_PORTS)
    assert world.sa_count(world.p) == 0
    assert world.policy_count(world.p) == policies
    burst()
    assert not [packet for packet in world.seen() if packet.source == made.p]

    again = world.set(version)
    world.install(again)
    world.ue(Agent.bind, "new", socket.SOCK_DGRAM, again.ue, again.port_us)
    holder(Agent.send, "pc", b"back", again.ue, again.port_us)
    assert world.ue(Agent.receive, "new") == b"back"
    assert again.sas[2].spi in spis(world.seen())


def test_two_instances_in_one_namespace(own_world: World, version: int) -> None:
    """Different addresses, same reqid: neither start nor end of one touches the other (field trap 9)."""
    world = own_world
    made = world.set(version)
    world.udp(made)
    world.install(made)
    second = world.peer("p", world.esp)
    second(Agent.protect, SECOND[version], P_PORTS)
    theirs = SaSet(400, USUAL, made.ue, SECOND[version])
    second(Agent.install, theirs.sas)
    world.ue(Agent.install, theirs.sas)
    second(Agent.bind, "ps", socket.SOCK_DGRAM, theirs.p, PORT_PS)
    world.ue(Agent.bind, "theirs", socket.SOCK_DGRAM, theirs.ue, theirs.port_uc)
    assert set(second(Agent.records)) == set(theirs.ids)
    assert set(world.p(Agent.records)) == set(made.ids)

    def works(end: Peer, socket_name: str, name: str, to: SaSet) -> bool:
        world.ue(Agent.send, name, b"hello", to.p, PORT_PS)
        return end(Agent.receive, socket_name) == b"hello"

    assert works(second, "ps", "theirs", theirs) and works(world.p, "ps", "uc", made)
    second(Agent.close)
    assert works(world.p, "ps", "uc", made)
    assert not clear(world.seen())


def test_protecting_again_keeps_what_is_installed(own_world: World) -> None:
    made = own_world.set(4)
    own_world.p(Agent.install, made.sas)
    policies = own_world.policy_count(own_world.p)
    own_world.p(Agent.protect, P[4], P_PORTS)
    assert set(own_world.p(Agent.records)) == set(made.ids)
    assert own_world.policy_count(own_world.p) == policies


def test_many_users(own_world: World) -> None:
    """200 UEs are 800 SAs and not one policy more; the list is whole and a clean stop leaves nothing (field trap 7)."""
    world = own_world
    policies = world.policy_count(world.p)
    users = [
        SaSet(n, USUAL, IPv4Address(int(IPv4Address("10.204.0.1")) + n), IPv4Address(str(P[4]))) for n in range(200)
    ]
    for user in users:
        world.p(Agent.install, user.sas)
    assert set(world.p(Agent.records)) == {identity for user in users for identity in user.ids}
    assert (world.sa_count(world.p), world.policy_count(world.p)) == (800, policies)
    world.p(Agent.update, [identity for user in users for identity in user.ids], 3000)
    assert all(record.sa.lifetime >= 3000 for record in world.p(Agent.records).values())
    world.p(Agent.close)
    world.p(Agent.close)
    if world.esp == "kernel":
        assert world.p(Agent.command, "ip", "xfrm", "state") == ""
        assert world.p(Agent.command, "ip", "xfrm", "policy") == ""
