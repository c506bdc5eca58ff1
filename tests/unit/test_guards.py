"""The guards of our sockets with a fake kernel: which have one, and what becomes of service without (Step 1, 2)."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from pcscf.guards import Guards, only_of_phones
from pcscf.observe import MessageSeen, Problem
from pcscf.server import Server
from pcscf.vocabulary import Interface
from tests.bench.load import Phone
from tests.fake_kernel import FakeKernel
from tests.unit.admin.serving import Operator, with_api
from tests.unit.test_server import GM, config, udp, with_server
from xfrm.backend import Choice
from xfrm.links import links_of
from xfrm.model import IPAddress, Loss, PortRange

PROTECTED = [15100, 15101, *range(15104, 15112)]


def test_every_socket_of_a_protected_port_is_guarded() -> None:
    """Datagrams, and what listens for connections on both port_ps."""

    async def work(server: Server, kernel: FakeKernel) -> None:
        assert sorted(kernel.guarded) == sorted([(GM, port) for port in [*PROTECTED, 15100, 15101]])

    with_server(work)


class LateKernel(FakeKernel):
    """Somebody sends to a protected port between its bind and its guards."""

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        super().protect(address, ports)
        with udp("127.0.0.9", 5070) as stranger:
            stranger.sendto(Phone(1).register(5070), (GM, 15100))


def test_what_came_before_the_guards_is_thrown_away() -> None:
    kernel = LateKernel()

    async def run() -> None:
        server = Server(config(), Choice(kernel, "a test"))
        await server.start()
        try:
            with udp("127.0.0.9", 5070) as stranger:
                stranger.sendto(Phone(2).register(5070), (GM, 15100))
            async with asyncio.timeout(5):
                while not server.journal.written:
                    await asyncio.sleep(0.001)
            found = [each.detail for _, each in server.journal.after(0) if isinstance(each, Problem)]
            assert found == ["a message at a protected port belongs to no SA; dropped"]
        finally:
            await server.stop()

    asyncio.run(run())


def test_without_a_guard_that_can_be_put_back_protected_ports_are_not_served(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        server = operator.server
        assert isinstance(server.backend, FakeKernel)
        assert (await operator.asked("/api/ready"))[0] == 200
        server.backend.losses = (Loss("packet filter", "no nft"),)
        server.guards.look()
        status, said = await operator.asked("/api/ready")
        assert status == 503 and "protected ports are not served: packet filter: no nft" in said["detail"]
        assert (await operator.got("/api/status"))["fault"] == "packet filter: no nft"
        metrics = (await operator.got("/metrics")).decode()
        assert "pcscf_protected_ports_served 0.0" in metrics and "pcscf_guards_lost_total 1.0" in metrics
        with udp("127.0.0.9", 5070) as stranger:
            stranger.sendto(Phone(1).register(5070), (GM, 15100))
            stranger.sendto(b"OPTIONS sip:x SIP/2.0\r\n\r\n", (GM, 15060))  # in clear: it is heard
            async with asyncio.timeout(5):
                while not any("not a SIP message" in each.detail for each in problems(server)):
                    await asyncio.sleep(0.001)
        assert not [each for each in problems(server) if "protected port belongs" in each.detail]
        assert not [each for _, each in server.journal.after(0) if isinstance(each, MessageSeen)]
        server.backend.losses = (Loss("packet filter"),)
        server.guards.look()
        assert (await operator.asked("/api/ready"))[0] == 200
        assert [each.detail for each in problems(server)][-2:] == [
            "the packet filter was gone, by somebody's hand; it was put back",
            "all guards are there; protected ports are served again",
        ]

    with_api(tmp_path, work)


def problems(server: Server) -> list[Problem]:
    return [each for _, each in server.journal.after(0) if isinstance(each, Problem)]


def test_guards_that_cannot_be_looked_at_end_service() -> None:
    class Blind(FakeKernel):
        def restore(self) -> tuple[Loss, ...]:
            raise OSError(105, "No buffer space available")

    told: list[str] = []
    guards = Guards(Blind(), [IPv4Address(GM)], [IPv4Address(GM)], told.append)
    guards.look()
    guards.look()
    assert "No buffer space" in guards.fault and len(told) == 1
    assert guards.lost == 1, "what is gone all the while is lost once"


def test_interfaces_of_the_phones_are_refused_to_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 3: not the one that both sides share, and never the loopback interface."""
    one, two, three = map(ip_address, ("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    links = {one: (7,), two: (7, 8), three: (9, socket.if_nametoindex("lo"))}
    monkeypatch.setattr("pcscf.guards.links_of", lambda addresses: links)
    assert only_of_phones([one], [three]) == (7,)
    assert only_of_phones([one, two], [three]) == (7, 8)
    assert only_of_phones([one], [two]) == ()
    assert only_of_phones([three], [one]) == (9,)


def test_addresses_of_this_host_are_found() -> None:
    here, nowhere = ip_address("127.0.0.1"), ip_address("203.0.113.77")
    assert links_of([here, nowhere]) == {here: (socket.if_nametoindex("lo"),), nowhere: ()}


def test_a_socket_of_the_core_follows_addresses_that_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 3: what the loopback interface brings is refused once it is one of the phones'."""
    refused: list[tuple[int, ...]] = [(12345,)]
    monkeypatch.setattr("pcscf.guards.only_of_phones", lambda gm, mw: refused[0])
    guards = Guards(FakeKernel(), [], [], lambda said: None)
    with udp("127.0.0.9", 5070) as sender, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as core:
        core.bind(("127.0.0.8", 0))
        core.settimeout(2)
        guards.guard(core, Interface.MW)
        sender.sendto(b"one", core.getsockname())
        assert core.recv(9) == b"one"
        refused[0] = (socket.if_nametoindex("lo"),)
        guards.look()
        sender.sendto(b"two", core.getsockname())
        refused[0] = (12345,)
        guards.look()
        sender.sendto(b"three", core.getsockname())
        assert core.recv(9) == b"three"
