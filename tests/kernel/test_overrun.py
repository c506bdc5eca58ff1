"""Netlink says less than happened: events that were lost, lists longer than any buffer."""

import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.kernel.agent import Agent
from tests.kernel.world import PORT_PC, USUAL, World
from xfrm.model import Key, Sa, SaId, Selector

CROWD = 4000


def install_crowd(agent: Agent) -> list[SaId]:
    """Install more SAs than an event socket can queue the ends of."""
    sas = [
        Sa(
            selector=Selector(
                source=IPv4Address("10.203.0.1"),
                source_port=PORT_PC,
                destination=IPv4Address(int(IPv4Address("10.205.0.1")) + number),
                destination_port=8000,
            ),
            spi=1_500_000_000 + number,
            integrity=USUAL.integrity,
            encryption=USUAL.encryption,
            integrity_key=Key(bytes(20)),
            encryption_key=Key(bytes(16)),
            lifetime=600,
        )
        for number in range(CROWD)
    ]
    agent.install(sas)
    return [sa.id for sa in sas]


def lost_events(_: Agent) -> int:
    """Sum the `Drops` column of the netlink sockets of XFRM."""
    rows = [line.split() for line in Path("/proc/net/netlink").read_text().splitlines()]
    protocol, drops = rows[0].index("Eth"), rows[0].index("Drops")
    return sum(int(row[drops]) for row in rows[1:] if row[protocol] == "6")


@pytest.mark.kernel_objects
def test_lost_expiries_are_found_by_a_dump(kernel_world: World) -> None:
    world = kernel_world
    peer = world.peer("p", "kernel")
    crowd = peer(install_crowd)
    keeper = world.set(4)
    peer(Agent.install, keeper.sas)
    assert len(peer(Agent.records)) == CROWD + 4, "a dump of many parts is whole"
    peer(Agent.update, crowd, 1)
    end = time.monotonic() + 30
    while peer(Agent.records).keys() != set(keeper.ids) and time.monotonic() < end:
        time.sleep(0.2)
    assert peer(lost_events) > 0, "the queue held all: this test proves nothing"
    expired = peer(Agent.expirations)
    assert sorted(expired, key=hash) == sorted(crowd, key=hash)
    assert peer(Agent.expirations) == []
    peer(Agent.close)
    assert world.sa_count(world.wire) == 0
