"""What only the userspace backend can get wrong: its TUN, rules, routes and packet filter, and who owns them.

What both backends must do is tested in tests/kernel. Runs on the host's kernel: TUN and nftables, no ESP.
"""

import asyncio
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.kernel.agent import Agent, Peer
from tests.kernel.wire import clear
from tests.kernel.world import CLEAR_PORT, P_PORTS, PORT_PC, PORT_PS, SECOND, UE, UE_PORTS, USUAL, P, SaSet, World
from xfrm.model import IPAddress, KernelError, PortRange
from xfrm.userspace import Drops, Userspace

ROOT = Path(__file__).parents[2]
IPV6_FLOWINFO_SEND = 33


@pytest.fixture
def world() -> Iterator[World]:
    with World("userspace", 900) as made:
        yield made


def traces(peer: Peer) -> list[str]:
    """Every link, rule, route and packet filter of a namespace."""
    commands = ("ip -o link", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all")
    return [peer(Agent.command, *command.split()) for command in (*commands, "nft list tables")]


def tables(peer: Peer) -> list[str]:
    return peer(Agent.command, "nft", "list", "tables").splitlines()


def drops(agent: Agent) -> Drops:
    assert isinstance(agent.backend, Userspace)
    return agent.backend.dropped


def protect_in_a_loop(agent: Agent, address: IPAddress, port: int) -> None:
    """As a server does: while its asyncio loop runs."""

    async def start() -> None:
        agent.backend.protect(address, [PortRange(first=port)])

    asyncio.run(start())


def bind_to_device(agent: Agent, name: str, port: int, version: int) -> None:
    """A socket that no rule by source address catches: bound to an interface, and to no address."""
    bound = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"gm")
    bound.bind(("", port))
    agent._sockets[name] = bound


def send_esp(_: Agent, address: IPAddress, packet: bytes) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ESP) as raw:
        raw.sendto(packet, (str(address), 0))


def start(world: World, version: int) -> SaSet:
    """A set at both ends, with its UDP sockets."""
    made = world.set(version)
    world.udp(made)
    world.install(made)
    return made


def works(world: World, made: SaSet) -> bool:
    """One datagram each way."""
    world.ue(Agent.send, "uc", b"up", made.p, PORT_PS)
    world.p(Agent.send, "pc", b"down", made.ue, made.port_us)
    return world.p(Agent.receive, "ps") == b"up" and world.ue(Agent.receive, "us") == b"down"


def test_close_leaves_nothing(world: World, version: int) -> None:
    address = SECOND[version]
    before = traces(world.wire)
    second = world.peer("p", "userspace")
    second(protect_in_a_loop, address, PORT_PS)
    second(Agent.protect, address, P_PORTS)
    second(Agent.install, SaSet(1, USUAL, ip_address("10.203.0.2" if version == 4 else "fd00:203::2"), address).sas)
    assert len(tables(world.wire)) == len(before[-1].splitlines()) + 1
    second(Agent.close)
    assert traces(world.wire) == before


def test_ports_can_be_added(world: World, version: int) -> None:
    """A second `protect` of an address closes and diverts more of its ports, and keeps the first."""
    second = world.peer("p", "userspace")
    second(Agent.protect, SECOND[version], P_PORTS[:1])
    second(Agent.protect, SECOND[version], P_PORTS)
    made = SaSet(1, USUAL, ip_address("10.203.0.2" if version == 4 else "fd00:203::2"), SECOND[version])
    second(Agent.install, made.sas)
    world.ue(Agent.install, made.sas)
    world.p, first = second, world.p
    world.udp(made)
    assert works(world, made)
    assert not clear(world.seen())
    world.ue(Agent.bind, "clear", socket.SOCK_DGRAM, made.ue, CLEAR_PORT)
    for port in (PORT_PS, PORT_PC):
        world.ue(Agent.send, "clear", b"clear", made.p, port)
    second(Agent.pump, 0.1)
    assert (second(Agent.clear_drops), first(Agent.clear_drops)) == (2, 0)


@pytest.mark.parametrize("ports", [P_PORTS, (PortRange(first=5088, count=32),)], ids=["same", "overlapping"])
def test_a_live_owner_keeps_its_ports(world: World, version: int, ports: tuple[PortRange, ...]) -> None:
    made = start(world, version)
    before = traces(world.wire)
    intruder = world.peer("p", "userspace")
    with pytest.raises(KernelError, match="another process") as refused:
        intruder(Agent.protect, P[version], ports)
    assert refused.value.errno in (errno.EBUSY, errno.EADDRINUSE)
    intruder(Agent.close)
    assert traces(world.wire) == before
    assert works(world, made)


def test_a_run_with_other_ports_takes_over_what_a_killed_one_left(world: World, version: int) -> None:
    """Else the dead run's packet filter, which knows another TUN, would drop all that comes."""
    world.p.kill()
    left = len(tables(world.wire))
    world.p = world.peer("p", "userspace")
    world.p(Agent.protect, P[version], (PortRange(first=PORT_PS), PortRange(first=PORT_PC, count=4)))
    assert len(tables(world.wire)) == left
    assert works(world, start(world, version))
    assert not clear(world.seen())


def test_no_way_around_the_rules(world: World, version: int) -> None:
    """A socket bound to the device leaves through neither TUN nor wire."""
    made = world.set(version)
    other = f"{SECOND[version]}/{24 if version == 4 else 64}"
    world.wire(Agent.command, "ip", "addr", "del", other, "dev", "gm")  # or the kernel may choose it as source
    world.p(bind_to_device, "loose", PORT_PC, version)
    world.p(Agent.send, "loose", b"clear", made.ue, made.port_us)
    world.p(Agent.bind, "free", socket.SOCK_DGRAM, made.p, CLEAR_PORT)
    world.p(Agent.send, "free", b"may", made.ue, CLEAR_PORT)
    assert [packet.payload[:2] for packet in world.seen()] == [CLEAR_PORT.to_bytes(2, "big")]


def test_clear_fragments_do_not_slip_through(world: World, version: int) -> None:
    """The packet filter sees IPv6 fragments before they are put together: the first one, with the ports, must go."""
    made = start(world, version)
    world.ue(Agent.bind, "clear", socket.SOCK_DGRAM, made.ue, CLEAR_PORT)
    world.ue(Agent.send, "clear", bytes(4000), made.p, PORT_PS)
    assert world.p(Agent.receive, "ps", 0.3) is None
    assert world.p(Agent.clear_drops) == 1
    assert len(clear(world.seen())) == 3


def send_labelled(agent: Agent, data: bytes, destination: IPAddress, port: int, label: int) -> None:
    """A datagram in clear with an IPv6 flow label of our choice."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as labelled:
        labelled.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1)
        labelled.sendto(data, (str(destination), port, label, 0))


def test_a_flow_label_that_looks_like_a_port_costs_no_fragment(world: World) -> None:
    """Where a later fragment has no port, nftables takes these octets for it: a long 401 in clear was lost for ever."""
    start(world, 6)
    world.ue(Agent.bind, "open", socket.SOCK_DGRAM, UE[6], CLEAR_PORT)
    world.p(send_labelled, bytes(1500), UE[6], CLEAR_PORT, UE_PORTS[0].first)
    assert world.ue(Agent.receive, "open", 2.0) is not None
    assert world.ue(Agent.clear_drops) == 0


def test_strict_reverse_path_filtering_of_the_host_does_no_harm(world: World) -> None:
    """The TUN asks for loose filtering, and the larger number counts; not every kernel would need it."""
    for name in ("all", "default", "gm"):
        world.wire(Agent.command, "sysctl", "-w", f"net.ipv4.conf.{name}.rp_filter=1")
    second = world.peer("p", "userspace")
    second(Agent.protect, SECOND[4], P_PORTS)
    settings = world.wire(Agent.command, "sysctl", "-ar", r"ipv4\.conf\.esp.*\.rp_filter").splitlines()
    assert [line.split()[-1] for line in settings] == ["2"] * 3
    assert works(world, start(world, 4))


def test_what_no_sa_counts_is_counted(world: World, version: int) -> None:
    made = start(world, version)
    world.far(send_esp, made.p, (4_000_000_000).to_bytes(4, "big") + bytes(60))
    world.far(send_esp, made.p, made.sas[0].spi.to_bytes(4, "big") + bytes(3))
    world.p(Agent.send, "pc", b"to nobody", made.ue, CLEAR_PORT)
    world.p(Agent.pump, 0.2)
    seen = world.p(drops)
    assert (seen.unknown_spi, seen.last_unknown_spi, seen.malformed, seen.no_sa) == (1, 4_000_000_000, 1, 1)
    assert works(world, made)


def test_an_sa_of_somebody_elses_address_is_refused(world: World) -> None:
    made = SaSet(1, USUAL, ip_address("10.203.0.2"), ip_address("10.203.0.77"))
    with pytest.raises(KernelError) as refused:
        world.p(Agent.install, made.sas)
    assert (refused.value.errno, refused.value.index) == (errno.EADDRNOTAVAIL, 0)
    assert world.p(Agent.records) == {}


def run(script: str, *prefix: str, path: str = os.environ["PATH"]) -> str:
    """Run Python in a process started by `prefix`; return what it prints."""
    command = [*prefix, sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": path}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_works_for_the_root_of_a_user_namespace() -> None:
    script = """
import subprocess
from ipaddress import ip_address
from xfrm.model import PortRange
from xfrm.userspace import Userspace
for words in ("link add gm type veth peer far", "link set gm up", "link set far up", "addr add 10.203.0.1/24 dev gm",
              "addr add fd00:203::1/64 dev gm nodad"):
    subprocess.run(["ip", *words.split()], check=True)
backend = Userspace()
for address in ("10.203.0.1", "fd00:203::1"):
    backend.protect(ip_address(address), [PortRange(first=5100)])
print(len(backend.filenos()), backend.clear_drops())
backend.close()
"""
    assert run(script, "unshare", "-Urnm").split() == ["4", "0"]


def test_says_everything_that_is_missing() -> None:
    script = """
from xfrm.model import BackendUnavailable
from xfrm.userspace import Userspace
try:
    Userspace()
except BackendUnavailable as error:
    print(error, *error.missing, sep="\\n")
"""
    setpriv = shutil.which("setpriv")
    hidden = f'mount -t tmpfs none /dev/net && exec {setpriv} --bounding-set=-all --inh-caps=-all "$@"'
    said = run(script, "/usr/bin/unshare", "-m", "/bin/sh", "-c", f"PATH=/usr/bin:/bin; {hidden}", "sh", path="/none")
    title, *missing = said.splitlines()
    assert title.startswith("userspace ESP backend cannot work here")
    words = ("/dev/net/tun", "CAP_NET_RAW", "CAP_NET_ADMIN", "nft")
    assert [word for word, line in zip(words, missing, strict=True) if word in line] == list(words)
