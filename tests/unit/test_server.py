"""The server on loopback with a fake kernel: actions carried out, bugs survived, the control socket asked."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from pcscf import logs
from pcscf.admin.api import service_of
from pcscf.admin.client import ClientError, ControlClient
from pcscf.admin.control import Control, ControlError
from pcscf.cli import main
from pcscf.config import Config
from pcscf.observe import MessageSeen, Problem
from pcscf.ratelimit import RateLimit
from pcscf.registration import Binding, ContactKey
from pcscf.resolve import Resolver
from pcscf.server import Server
from pcscf.sip.parse import ParseError, parse
from pcscf.vocabulary import Flow, Interface, Query, Resolve, Resolved, Target
from tests.bench.load import Phone, challenge
from tests.fake_kernel import FakeKernel
from xfrm.backend import Choice

GM, MW, CORE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
IK, CK = "f769bcd751044604127672711c6d3441", "b40ba9a3c58b2a05bbf0d987b21bf8cb"
CLEAR, CORE_PORT = 15060, 15080


def config(**ipsec: object) -> Config:
    return Config(
        visited_network="test",
        gm={"addresses": [GM], "port": CLEAR},  # type: ignore[arg-type]
        mw={  # type: ignore[arg-type]
            "addresses": [MW],
            "port": CLEAR,
            "probe_interval": 0,
            "next_hops": [{"uri": f"sip:{CORE}:{CORE_PORT}"}],
        },
        ipsec={"port_ps": 15100, "port_pc": 15104, "legacy_algorithms": True, **ipsec},  # type: ignore[arg-type]
    )


def udp(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    made.setblocking(False)
    return made


async def receive(sock: socket.socket) -> bytes:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(sock, 65_536)


def with_server(work: Callable[[Server, FakeKernel], Awaitable[None]]) -> FakeKernel:
    kernel = FakeKernel()

    async def run() -> None:
        server = Server(config(), Choice(kernel, "a test"))
        await server.start()
        try:
            await work(server, kernel)
        finally:
            await server.stop()

    asyncio.run(run())
    return kernel


async def challenged(phone: Phone, port: int = 5070) -> bytes:
    """Register one phone as far as the 401, with a core of our own. From another port it is another REGISTER."""
    with udp(phone.address, port) as ue, udp(CORE, CORE_PORT) as core:
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(ue, phone.register(port), (GM, CLEAR))
        await loop.sock_sendto(core, challenge(await receive(core)), (MW, CLEAR))
        return await receive(ue)


def nothing_new() -> tuple[list[str], list[str]]:
    return [], []


def test_challenge_through_real_sockets() -> None:
    async def work(server: Server, kernel: FakeKernel) -> None:
        answer = await challenged(Phone(1))
        assert answer.startswith(b"SIP/2.0 401 ") and b"Security-Server: " in answer and b"ck=" not in answer
        assert len(kernel.sas) == 4 and len(server.records()) == 4
        seen = [record for _, record in server.journal.after(0) if isinstance(record, MessageSeen)]
        assert len(seen) == 4

    kernel = with_server(work)
    assert kernel.closed and not kernel.sas, "a clean stop removes everything"
    ((address, ports),) = kernel.protected
    assert str(address) == GM and [str(each) for each in ports] == ["15100-15101", "15104-15111"]


@pytest.mark.parametrize("sources", [1, 5000])
def test_junk_fills_neither_the_journal_nor_the_log(
    sources: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1, 9: what a phone did stays to be explained, and everything is counted."""
    monkeypatch.setattr(logs, "_limit", RateLimit(unusual=logs.PROBLEMS, usual=logs.REGISTRATIONS))
    junk = parse(b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.9\r\nFrom: <sip:a>;tag=1\r\nTo: <sip:b>\r\n"
                 b"Call-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n")  # fmt: skip

    async def work(server: Server, kernel: FakeKernel) -> None:
        assert (await challenged(Phone(1))).startswith(b"SIP/2.0 401 ")
        phone = [record for _, record in server.journal.after(0)]
        caplog.clear()
        for number in range(12_000):
            address = ip_address((127 << 24) + (9 << 16) + number % sources)
            flow = Flow("UDP", Interface.GM, ip_address(GM), CLEAR, address, 5060)
            server._on_malformed(ParseError("no empty line ends the headers"), flow)
            server._on_message(junk, flow)
        assert [record for _, record in server.journal.after(0)][: len(phone)] == phone
        assert server.tally.problems >= 24_000
        assert len(caplog.text) < 200_000
        (told,) = [each for each in server._journal_limit.left_out(1e9) if each.kind == "malformed at gm"]
        assert told.number > 10_000 and told.sources == min(sources, 1024)

    with_server(work)


def test_an_idle_connection_in_clear_ends_and_the_same_of_a_contact_without_ipsec_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Step 1, 6: what `limits.idle_connection` ends, and what it leaves."""
    monkeypatch.setattr("pcscf.server.EXPIRATIONS_EVERY", 0.1)

    async def work(server: Server, kernel: FakeKernel) -> None:
        limits = server.config.limits.model_copy(update={"idle_connection": 0.5})
        server.reload(server.config.model_copy(update={"limits": limits}))
        links = [await asyncio.open_connection(GM, CLEAR) for _ in range(2)]
        flows = [
            Flow("TCP", Interface.GM, ip_address(GM), CLEAR, ip_address(GM), writer.get_extra_info("sockname")[1])
            for _, writer in links
        ]
        contact = server.registrar.obtain(ContactKey("alice@home", ip_address(GM), ""), "token")
        server.registrar.admit_in_clear(contact, flows[0])
        contact.bindings["sip:alice@home"] = Binding(expires=float("inf"), associated_uris=("sip:alice@home",))
        async with asyncio.timeout(5):
            assert await links[1][0].read() == b""
        assert server._transport.is_open(flows[0]) and not server._transport.is_open(flows[1])
        server.registrar.admit_in_clear(contact, None)
        async with asyncio.timeout(5):
            assert await links[0][0].read() == b""
        protected = flows[0]._replace(interface=Interface.GM_PROTECTED)
        assert not server._keeps(protected), "its SAs are gone"
        for _, writer in links:
            writer.close()

    with_server(work)


def test_the_log_tells_everything_but_the_keys(caplog: pytest.LogCaptureFixture) -> None:
    async def work(server: Server, kernel: FakeKernel) -> None:
        await challenged(Phone(1))
        assert {bytes(sa.integrity_key).hex()[:32] for sa in kernel.sas.values()} == {IK}

    with caplog.at_level("DEBUG"):
        with_server(work)
    assert "4 SAs installed" in caplog.text and "REGISTER from UDP 127.1." in caplog.text
    assert IK[:8] not in caplog.text and CK[:8] not in caplog.text


def test_a_refusal_of_the_kernel_is_answered_500() -> None:
    async def work(server: Server, kernel: FakeKernel) -> None:
        kernel.refuse = 2
        assert (await challenged(Phone(1))).startswith(b"SIP/2.0 500 ")
        assert not kernel.sas

    with_server(work)


def test_without_a_store_nobody_is_remembered_who_only_tried() -> None:
    """Step 1, 5: what has changed is told to the store; without one it would hold every contact that there ever was."""

    async def work(server: Server, kernel: FakeKernel) -> None:
        assert (await challenged(Phone(1))).startswith(b"SIP/2.0 401 ")
        assert not server.registrar.touched and not server.proxy.dialogs.touched

    with_server(work)


def test_the_timer_of_the_core_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        kernel = FakeKernel()
        server = Server(config(temp_lifetime=1), Choice(kernel, "a test"))
        await server.start()
        await challenged(Phone(1))
        assert len(kernel.sas) == 4
        async with asyncio.timeout(3):
            while kernel.sas:
                await asyncio.sleep(0.05)
        await server.stop()

    asyncio.run(run())


def test_a_bug_is_journalled_answered_500_and_stops_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(server: Server, kernel: FakeKernel) -> None:
        honest = server.proxy.handle

        def buggy(event: object, now: float) -> object:
            monkeypatch.setattr(server.proxy, "handle", honest)
            raise KeyError("what nobody thought of")

        monkeypatch.setattr(server.proxy, "handle", buggy)
        with udp("127.1.0.9", 5070) as ue:
            await asyncio.get_running_loop().sock_sendto(ue, Phone(8).register(5070), (GM, CLEAR))
            assert (await receive(ue)).startswith(b"SIP/2.0 500 ")
        problems = [record.detail for _, record in server.journal.after(0) if isinstance(record, Problem)]
        assert problems == ["a bug in the proxy: KeyError"]
        assert (await challenged(Phone(1))).startswith(b"SIP/2.0 401 ")

    with_server(work)
    assert "what nobody thought of" in caplog.text


def test_a_taken_port_leaves_nothing_behind() -> None:
    async def run() -> None:
        kernel = FakeKernel()
        with udp(GM, 15105), pytest.raises(OSError, match=r"127\.0\.0\.1 port 15105/UDP"):
            await Server(config(), Choice(kernel, "a test")).start()
        assert kernel.closed
        again = Server(config(), Choice(FakeKernel(), "a test"))
        await again.start()
        await again.stop()

    asyncio.run(run())


def test_control_socket(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "control.sock"

    async def work(server: Server, kernel: FakeKernel) -> None:
        control, client = Control(service_of(server, nothing_new), path), ControlClient(path)
        with pytest.raises(ClientError, match="no P-CSCF answers"):
            await client.status()
        await control.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await challenged(Phone(1))
        status = await client.status()
        assert (status.pid, status.backend, status.sets, status.registered) == (os.getpid(), "fake", 1, 0)
        assert (status.sas, status.transactions, status.passages, status.dialogs, status.connections) == (4, 2, 0, 0, 0)
        rows = await client.sas()
        assert [row.uplink for row in rows] == [True, False, False, True] and len({row.spi for row in rows}) == 4
        assert {row.state for row in rows} == {"temporary"} and 230 < (rows[0].expires_in or 0) <= 240
        (registration,) = await client.registrations()
        assert registration.impi == f"001010000000001@{server.config.visited_network}" or registration.sets == [1]
        journal = await client.journal()
        assert [row.decoded() for row in journal] == [record for _, record in server.journal.after(0)]
        assert await client.journal(after=journal[-1].number) == []
        with pytest.raises(ControlError, match="another process is running with it"):
            await Control(service_of(server, nothing_new), path).start()
        await control.stop()
        assert not path.exists()

    with_server(work)


def test_the_socket_of_a_killed_process_is_taken_over_and_other_files_are_not(tmp_path: Path) -> None:
    async def work(server: Server, kernel: FakeKernel) -> None:
        path = tmp_path / "control.sock"
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))
        control = Control(service_of(server, nothing_new), path)
        await control.start()
        await control.stop()
        path.write_text("mine")
        with pytest.raises(ControlError, match="something else is there"):
            await Control(service_of(server, nothing_new), path).start()
        assert path.read_text() == "mine"

    with_server(work)


def test_next_hops_are_shown_and_switched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "control.sock"
    name = f"{CORE}:{CORE_PORT}/udp"

    async def command(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, ["hops", "--control", str(path), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    async def work(server: Server, kernel: FakeKernel) -> None:
        control = Control(service_of(server, nothing_new), path)
        await control.start()
        assert (await challenged(Phone(1))).startswith(b"SIP/2.0 401 ")
        (row,) = json.loads((await command("--json"))[1])["hops"]
        assert (row["name"], row["state"], row["answered"], row["configured"]) == (name, "active", 1, True)
        status, shown, _ = await command("--disable", name)
        assert status == 0 and "disabled by the operator" in shown and name in shown
        with udp("127.1.0.9", 5070) as ue:
            await asyncio.get_running_loop().sock_sendto(ue, Phone(8).register(5070), (GM, CLEAR))
            assert (await receive(ue)).startswith(b"SIP/2.0 504 ")
        assert "active" in (await command("--enable", name))[1]
        assert (await challenged(Phone(2))).startswith(b"SIP/2.0 401 ")
        assert await command("--disable", "x") == (1, "", "pcscf: no next hop x; `pcscf hops` shows their names\n")
        await control.stop()

    with_server(work)


def test_a_stop_does_not_wait_for_the_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()
    left: list[bool] = []

    async def never(self: Resolver, query: Query) -> Resolved:
        asked.set()
        try:
            await asyncio.sleep(3600)
        finally:
            left.append(True)
        raise AssertionError

    monkeypatch.setattr(Resolver, "resolve", never)

    async def run() -> None:
        server = Server(config(), Choice(FakeKernel(), "a test"))
        await server.start()
        server._carry_out(Resolve(Query("core.example")))
        await asked.wait()
        await server.stop()
        assert left == [True]

    asyncio.run(run())


def test_a_name_is_resolved_by_the_dns_and_its_servers_are_probed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resolve goes out, Resolved comes back, the first alarm rings without any message."""

    async def resolved(self: Resolver, query: Query) -> Resolved:
        return Resolved(query, (Target("UDP", ip_address(CORE), CORE_PORT, 1, 1),), 60.0)

    monkeypatch.setattr(Resolver, "resolve", resolved)

    async def run() -> None:
        hops = [{"uri": "sip:core.example"}, {"uri": f"sip:{CORE}:{CORE_PORT}", "priority": 2}]
        mw = {"addresses": [MW], "port": CLEAR, "probe_interval": 60, "next_hops": hops}
        base = config()
        server = Server(
            Config(**(base.model_dump() | {"mw": mw, "ipsec": base.ipsec, "gm": base.gm})),
            Choice(FakeKernel(), "a test"),
        )
        with udp(CORE, CORE_PORT) as core:
            await server.start()
            assert (await receive(core)).startswith(f"OPTIONS sip:{CORE}:{CORE_PORT} SIP/2.0".encode())
        assert (await challenged(Phone(1))).startswith(b"SIP/2.0 401 ")
        control = Control(service_of(server, nothing_new), tmp_path / "control.sock")
        await control.start()
        assert await asyncio.to_thread(main, ["hops", "--control", str(tmp_path / "control.sock")]) == 0
        await control.stop()
        assert f"core.example: {CORE}:{CORE_PORT}/udp; not asked again for 60 s" in capsys.readouterr().out
        await server.stop()

    asyncio.run(run())
