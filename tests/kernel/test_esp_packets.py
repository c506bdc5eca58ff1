"""Packets of `xfrm.esp` against the backend under test: with `--esp=kernel`, against Linux."""

import socket

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from tests.kernel.agent import PATIENCE, Agent
from tests.kernel.world import PORT_PC, PORT_PS, World
from xfrm.algorithms import VALID_PAIRS, Pair
from xfrm.esp import Opener, Sealer
from xfrm.model import Sa

ESP = 50
UDP_NUMBER = 17


def send_sealed(_: Agent, sa: Sa, payloads: list[bytes]) -> None:
    """Send one ESP packet for each payload, sealed by `xfrm.esp`."""
    sealer = Sealer(sa)
    flow = sa.selector
    with _raw(sa) as raw:
        for payload in payloads:
            header = (IP if flow.source.version == 4 else IPv6)(src=str(flow.source), dst=str(flow.destination))
            packet = bytes(header / UDP(sport=flow.source_port, dport=flow.destination_port) / payload)
            raw.sendto(sealer.seal(packet[len(header) :], UDP_NUMBER), (str(flow.destination), 0))


def tap_esp(agent: Agent, sa: Sa) -> None:
    """Listen for the packets of an SA; `open_tapped` reads them."""
    agent._sockets["esp"] = _raw(sa)


def open_tapped(agent: Agent, sa: Sa, count: int) -> list[bytes]:
    """Open `count` ESP packets with `xfrm.esp`; return what the UDP datagrams inside carried."""
    opener = Opener(sa)
    data = []
    for _ in range(count):
        packet = agent.receive("esp")
        assert packet is not None
        payload, next_header = opener.open(packet[20:] if sa.selector.source.version == 4 else packet)
        assert next_header == UDP_NUMBER
        data.append(payload[8:])
    agent._sockets.pop("esp").close()
    return data


def _raw(sa: Sa) -> socket.socket:
    family = socket.AF_INET if sa.selector.source.version == 4 else socket.AF_INET6
    raw = socket.socket(family, socket.SOCK_RAW, ESP)
    raw.settimeout(PATIENCE)
    return raw


@pytest.mark.parametrize("pair", sorted(VALID_PAIRS, key=str), ids=str)
def test_our_packets_and_theirs(world: World, version: int, pair: Pair) -> None:
    made = world.set(version, pair)
    world.p(Agent.install, made.sas)
    world.p(Agent.bind, "ps", socket.SOCK_DGRAM, made.p, PORT_PS)
    world.p(Agent.bind, "pc", socket.SOCK_DGRAM, made.p, PORT_PC)
    payloads = [b"", b"x", bytes(range(200)), bytes(8000)]
    world.far(send_sealed, made.sas[0], payloads)
    assert [world.p(Agent.receive, "ps") for _ in payloads] == payloads
    world.far(tap_esp, made.sas[2])
    for payload in payloads:
        world.p(Agent.send, "pc", payload, made.ue, made.port_us)
        world.p(Agent.pump, 0.01)
    assert world.far(open_tapped, made.sas[2], len(payloads)) == payloads
