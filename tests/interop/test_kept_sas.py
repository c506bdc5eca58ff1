"""SAs of the userspace backend that go on in the next process: no sequence number twice, no packet accepted twice."""

import errno
import resource
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.kernel.agent import Agent, Peer
from tests.kernel.wire import ESP, clear
from tests.kernel.world import P_PORTS, PORT_PC, PORT_PS, UE, P, SaSet, World
from xfrm.kept import Kept
from xfrm.model import KernelError, SaId
from xfrm.userspace import Userspace


def keep(agent: Agent, path: Path) -> None:
    agent._backend = Userspace(Kept(path))


def adopt(agent: Agent, ids: Sequence[SaId]) -> dict[SaId, float]:
    return agent.backend.adopt(ids)


def leave(agent: Agent) -> None:
    agent.backend.leave()


def limit_files(agent: Agent, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sas"


@pytest.fixture
def world(file: Path) -> Iterator[World]:
    with World("userspace", 901) as made:
        made.p(Agent.close)
        made.p(keep, file)
        protect(made.p)
        yield made


def protect(peer: Peer) -> None:
    for each in (4, 6):
        peer(Agent.protect, P[each], P_PORTS)


def next_run(world: World, file: Path, made: SaSet, ids: Sequence[SaId]) -> dict[SaId, float]:
    """Another process takes over as a P-CSCF does: bind, adopt, protect."""
    world.p = world.peer("p", "userspace")
    world.p(keep, file)
    world.p(Agent.bind, "ps", socket.SOCK_DGRAM, made.p, PORT_PS)
    world.p(Agent.bind, "pc", socket.SOCK_DGRAM, made.p, PORT_PC)
    ends = world.p(adopt, ids)
    protect(world.p)
    return ends


def exchange(world: World, made: SaSet, count: int) -> None:
    for each in range(count):
        world.ue(Agent.send, "uc", b"up %d" % each, made.p, PORT_PS)
        world.p(Agent.send, "pc", b"down %d" % each, made.ue, made.port_us)
        assert world.p(Agent.receive, "ps") == b"up %d" % each
        assert world.ue(Agent.receive, "us") == b"down %d" % each


def sequences(world: World) -> tuple[list[int], list[int]]:
    """Of the ESP packets on the wire since the last call: those to the P-CSCF and those to the UE."""
    esp = [packet for packet in world.seen() if packet.protocol == ESP]
    return [each.sequence for each in esp if each.destination in P.values()], [
        each.sequence for each in esp if each.destination in UE.values()
    ]


def test_after_a_kill_sequence_numbers_go_on_and_replays_are_refused(world: World, file: Path, version: int) -> None:
    made = world.set(version, lifetime=500)
    world.udp(made)
    world.install(made)
    exchange(world, made, 5)
    frames = [packet.frame for packet in world.seen() if packet.protocol == ESP and packet.destination == made.p]
    before = world.p(Agent.records)
    world.p.kill()
    ends = next_run(world, file, made, made.ids)
    after = world.p(Agent.records)
    assert set(ends) == set(before) == set(after)
    for each in made.ids:
        old, new = before[each], after[each]
        assert (new.sa, new.packets, new.bytes) == (old.sa, old.packets, old.bytes)
        assert new.added == pytest.approx(old.added, abs=0.1)
        assert ends[each] == pytest.approx(old.added + 500, abs=0.1)
    for frame in frames:
        world.far(Agent.inject, "tap", frame)
    assert world.p(Agent.receive, "ps", 0.5) is None
    assert sum(record.replay_drops for record in world.p(Agent.records).values()) == 5
    world.seen()
    exchange(world, made, 3)
    assert sequences(world) == ([6, 7, 8], [6, 7, 8])
    assert not clear(world.seen())


def test_what_is_not_taken_over_is_gone(world: World, file: Path, version: int) -> None:
    mine, orphan = world.set(version), world.set(version)
    world.udp(mine)
    world.install(mine, orphan)
    world.p.kill()
    assert set(next_run(world, file, mine, mine.ids)) == set(mine.ids)
    assert set(world.p(Agent.records)) == set(mine.ids)
    world.p.kill()
    assert set(next_run(world, file, mine, (*mine.ids, *orphan.ids))) == set(mine.ids)
    exchange(world, mine, 1)


def test_a_removed_one_and_an_updated_one_stay_so(world: World, file: Path, version: int) -> None:
    mine, removed = world.set(version), world.set(version)
    world.udp(mine)
    world.install(mine, removed)
    world.p(Agent.remove, removed.ids)
    world.p(Agent.update, mine.ids, 100)
    was = world.p(Agent.records)[mine.ids[0]]
    world.p.kill()
    ends = next_run(world, file, mine, (*mine.ids, *removed.ids))
    assert set(ends) == set(mine.ids)
    assert ends[mine.ids[0]] == pytest.approx(was.added + 100, abs=1.0)
    assert world.p(Agent.records)[mine.ids[0]].sa.lifetime == was.sa.lifetime == 100


def test_a_clean_end_leaves_ports_closed_and_sas_kept(world: World, file: Path, version: int) -> None:
    made = world.set(version)
    world.udp(made)
    world.install(made)
    exchange(world, made, 2)
    world.seen()
    world.p(leave)
    world.p(Agent.send, "pc", b"clear", made.ue, made.port_us)
    assert not world.seen(), "nothing leaves without the process"
    world.p.stop()
    assert set(next_run(world, file, made, made.ids)) == set(made.ids)
    exchange(world, made, 1)
    assert sequences(world) == ([3], [3])
    world.p(Agent.close)
    assert not file.exists()


def test_without_room_nothing_is_installed(world: World, file: Path) -> None:
    world.p(limit_files, file.stat().st_size)
    sets = [world.set(4) for _ in range(70)]
    with pytest.raises(KernelError) as refused:
        world.p(Agent.install, [sa for made in sets for sa in made.sas])
    assert (refused.value.errno, refused.value.index) == (errno.EFBIG, 256)
    assert "keeping SA" in str(refused.value) and world.p(Agent.records) == {}
    world.udp(sets[0])
    world.install(sets[0])
    exchange(world, sets[0], 1)
    world.p.kill()
    assert set(next_run(world, file, sets[0], [each for made in sets for each in made.ids])) == set(sets[0].ids)
