"""Somebody else's IPsec in the same namespace survives our start, our work, our death and our end."""

import socket

import pytest

from tests.kernel.agent import Agent, Peer
from tests.kernel.wire import clear, spis
from tests.kernel.world import P_PORTS, PORT_PS, SECOND, UE, P, World
from xfrm.model import DEFAULT_REQID, KernelError

FOREIGN_REQID = "7"
FOREIGN_PORT = 4711
AUTHENTICATION = ("auth-trunc", "hmac(sha1)", "0x" + "5a" * 20, "96", "enc", "ecb(cipher_null)", "")


def ip_xfrm(peer: Peer, text: str, *more: str) -> str:
    return peer(Agent.command, "ip", "xfrm", *text.split(), *more)


def everything(peer: Peer) -> tuple[list[str], list[str]]:
    """States and policies of a namespace, in no order; a state's text has its sequence numbers too."""
    blocks = [ip_xfrm(peer, f"{kind} list").replace("\nsrc", "\n\nsrc").split("\n\n") for kind in ("state", "policy")]
    states, policies = (sorted(block.strip() for block in found) for found in blocks)
    return states, policies


@pytest.mark.kernel_objects
def test_foreign_ipsec_survives(kernel_world: World) -> None:
    world = kernel_world
    # A foreign SA with traffic to the UE: another port, another reqid.
    ends = f"src {UE[4]} dst {P[4]}"
    flow = f"{ends} proto udp dport {FOREIGN_PORT}"
    for peer, direction in ((world.far, "out"), (world.wire, "in")):
        ip_xfrm(peer, f"state add {ends} proto esp spi 0x7000 reqid {FOREIGN_REQID} mode transport", *AUTHENTICATION)
        ip_xfrm(peer, f"policy add dir {direction} {flow} tmpl proto esp reqid {FOREIGN_REQID} mode transport")
    # Our reqid at an address and at a port we never protect, and our ports and address under another reqid.
    for spi, addresses, reqid, port in (
        ("0x7001", "src 198.51.100.1 dst 198.51.100.2", DEFAULT_REQID, PORT_PS),
        ("0x7002", ends, DEFAULT_REQID, PORT_PS + 1),
        ("0x7003", ends, FOREIGN_REQID, PORT_PS),
    ):
        state = f"state add {addresses} proto esp spi {spi} reqid {reqid} mode transport"
        ip_xfrm(world.wire, state, *AUTHENTICATION, *f"sel {addresses} sport 4000 dport {port}".split())
    ip_xfrm(world.wire, f"state add {ends} proto esp spi 0x7004 reqid {DEFAULT_REQID} mode tunnel", *AUTHENTICATION)
    before = everything(world.wire)
    assert (len(before[0]), len(before[1])) == (5, 1)

    doomed, heir = world.peer("p", "kernel"), world.peer("p", "kernel")
    made = world.set(4)
    doomed(Agent.protect, P[4], P_PORTS)
    doomed(Agent.install, made.sas)
    assert len(everything(world.wire)[0]) == 5 + 4
    doomed.kill()
    heir(Agent.protect, P[4], P_PORTS)
    assert everything(world.wire)[0] == before[0], "only the dead run's SAs go"
    heir(Agent.install, made.sas)
    world.wire(Agent.bind, "foreign", socket.SOCK_DGRAM, P[4], FOREIGN_PORT)
    world.far(Agent.bind, "sender", socket.SOCK_DGRAM, UE[4], FOREIGN_PORT)
    world.seen()
    heir(Agent.close)
    assert everything(world.wire) == before
    world.far(Agent.send, "sender", b"still protected", P[4], FOREIGN_PORT)
    assert world.wire(Agent.receive, "foreign") == b"still protected"
    seen = world.seen()
    assert spis(seen) == {0x7000} and not clear(seen)


@pytest.mark.kernel_objects
def test_a_foreign_policy_on_our_port_is_not_replaced(kernel_world: World) -> None:
    world = kernel_world
    selector = f"dir in src 0.0.0.0/0 dst {SECOND[4]} dport {PORT_PS}"
    ip_xfrm(world.wire, f"policy add {selector} tmpl proto esp reqid {FOREIGN_REQID} mode transport")
    before = everything(world.wire)
    newcomer = world.peer("p", "kernel")
    with pytest.raises(KernelError, match=f"{SECOND[4]} ports {PORT_PS} .*another IPsec user"):
        newcomer(Agent.protect, SECOND[4], P_PORTS)
    newcomer(Agent.close)
    assert everything(world.wire) == before
