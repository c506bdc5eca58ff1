"""UDP sockets and TCP connections on loopback: whole messages on the flow they came on, bytes out on the flow named."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_address

import pytest

from pcscf import transport
from pcscf.intake import MOST_OF_ONE
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from pcscf.transport import CLOSING, CONNECTION_BACKLOG, FLOODED, Transport
from pcscf.vocabulary import Flow, Interface

HERE = ip_address("127.0.0.1")
MESSAGE = (
    b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a>;tag=1\r\nTo: <sip:b>\r\n"
    b"Call-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)


class Heard:
    """A transport and what it reported."""

    def __init__(self, *, connections_per_source: int = 64, keeps: Callable[[Flow], bool] = lambda flow: False) -> None:
        self.messages: list[tuple[Request | Response, Flow]] = []
        self.malformed: list[tuple[ParseError, Flow]] = []
        self.closed: list[tuple[Flow, str]] = []
        self.told: list[tuple[str, Flow | None]] = []
        self.transport = Transport(
            lambda message, flow: self.messages.append((message, flow)),
            lambda error, flow: self.malformed.append((error, flow)),
            lambda flow, reason: self.closed.append((flow, reason)),
            connections_per_source=connections_per_source,
            keeps=keeps,
            on_trouble=lambda detail, flow: self.told.append((detail, flow)),
        )


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((str(HERE), 0))
        port: int = probe.getsockname()[1]
        return port


async def listening() -> tuple[Heard, int]:
    """A transport that takes TCP connections, and the port."""
    heard, port = Heard(), free_port(socket.SOCK_STREAM)
    await heard.transport.listen_tcp(HERE, port, Interface.GM)
    return heard, port


def within(work: Coroutine[object, object, None]) -> None:
    """Run it; a test that would wait for ever fails instead."""
    asyncio.run(asyncio.wait_for(work, 20))


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def test_a_flood_in_clear_waits_for_what_is_inside_esp() -> None:
    """Step 1, 5: what is inside ESP comes among the first of two thousand."""

    async def run() -> None:
        heard = Heard()
        clear, protected = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
        await heard.transport.listen_udp(HERE, clear, Interface.GM)
        await heard.transport.listen_udp(HERE, protected, Interface.GM_PROTECTED)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for _ in range(2000):
                peer.sendto(MESSAGE, (str(HERE), clear))
            for _ in range(20):
                peer.sendto(MESSAGE, (str(HERE), protected))
        await until(lambda: sum(flow.local_port == protected for _, flow in heard.messages) == 20)
        ports = [flow.local_port for _, flow in heard.messages]
        await heard.transport.close()
        assert max(place for place, port in enumerate(ports) if port == protected) < 500

    within(run())


def test_what_waits_in_clear_is_not_handled_after_the_end() -> None:
    """Step 1, 5: of a flood, in the round after that in which all was closed."""

    async def run() -> None:
        heard, port = Heard(), free_port(socket.SOCK_DGRAM)
        await heard.transport.listen_udp(HERE, port, Interface.GM)
        heard.transport.on_message = lambda message, flow: time.sleep(0.002)  # longer than a round
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for _ in range(200):
                peer.sendto(MESSAGE, (str(HERE), port))
        await until(lambda: len(heard.transport._intake))
        await heard.transport.close()
        heard.transport.on_message = lambda message, flow: heard.messages.append((message, flow))
        for _ in range(30):
            await asyncio.sleep(0)
        assert not heard.messages

    within(run())


def test_what_there_is_no_time_to_look_at_is_counted_and_told_once() -> None:
    """Step 1, 5: whatever is not handled of a flood is known to be lost."""

    async def run() -> None:
        heard, port, sent = Heard(), free_port(socket.SOCK_DGRAM), 500
        await heard.transport.listen_udp(HERE, port, Interface.GM)

        def slowly(message: Request | Response, flow: Flow) -> None:
            time.sleep(0.002)  # longer than a round
            heard.messages.append((message, flow))

        heard.transport.on_message = slowly
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for _ in range(sent):
                peer.sendto(MESSAGE, (str(HERE), port))
        await until(lambda: len(heard.messages) + heard.transport.clear_lost == sent)
        assert sent - MOST_OF_ONE - 100 < heard.transport.clear_lost < sent
        assert [detail for detail, _ in heard.told] == [FLOODED]
        lost = heard.transport.clear_lost
        await heard.transport.close()
        assert heard.transport.clear_lost == lost

    within(run())


def test_many_messages_of_one_read_do_not_stop_the_others() -> None:
    """Step 1, 6: thousands of them over many connections, and a datagram inside ESP comes among the first."""

    async def run() -> None:
        heard, port = await listening()
        protected = free_port(socket.SOCK_DGRAM)
        await heard.transport.listen_udp(HERE, protected, Interface.GM_PROTECTED)
        connections, each = 20, 300
        peers = [socket.create_connection((str(HERE), port)) for _ in range(connections)]
        await until(lambda: len(heard.transport) == connections)
        for peer in peers:
            peer.sendall(MESSAGE * each)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
            phone.sendto(MESSAGE, (str(HERE), protected))
        await until(lambda: len(heard.messages) == connections * each + 1)
        place = [flow.local_port for _, flow in heard.messages].index(protected)
        ends = {flow: place for place, (_, flow) in enumerate(heard.messages) if flow.transport == "TCP"}
        assert min(ends.values()) > connections * each / 2, "they have their turns, too"
        peers[0].sendall(MESSAGE)
        await until(lambda: len(heard.messages) == connections * each + 2)
        for peer in peers:
            peer.close()
        await heard.transport.close()
        assert place < connections * each / 3

    within(run())


def test_nothing_is_handled_of_a_connection_that_was_ended() -> None:
    """Step 1, 6: by the first of its messages, of many that came with it."""

    async def run() -> None:
        heard, port = await listening()

        def end(message: Request | Response, flow: Flow) -> None:
            heard.messages.append((message, flow))
            heard.transport.reset_flow(flow)

        heard.transport.on_message = end
        with socket.create_connection((str(HERE), port)) as peer:
            peer.sendall(MESSAGE * 50)
            await until(lambda: heard.closed)
        assert len(heard.messages) == 1
        await heard.transport.close()

    within(run())


def test_datagrams_in_and_out() -> None:
    async def run() -> None:
        heard = Heard()
        port = free_port(socket.SOCK_DGRAM)
        await heard.transport.listen_udp(HERE, port, Interface.GM)
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.bind((str(HERE), 0))
        peer.settimeout(2)
        for data in (MESSAGE, b"\r\n\r\n", b"\0\0\0\0", b"nonsense", MESSAGE):
            peer.sendto(data, (str(HERE), port))
        await until(lambda: len(heard.messages) == 2)
        assert [str(error) for error, _ in heard.malformed] == ["no empty line ends the headers"]
        flow = heard.messages[0][1]
        assert flow == Flow("UDP", Interface.GM, HERE, port, HERE, peer.getsockname()[1])
        heard.transport.send(b"answer", flow)
        data, sender = peer.recvfrom(100)
        assert (data, sender[1]) == (b"answer", port)
        heard.transport.send(b"lost", flow._replace(local_port=1))
        await until(lambda: heard.closed)
        assert "no UDP socket" in heard.closed[0][1]
        peer.close()
        await heard.transport.close()

    within(run())


def test_a_second_instance_cannot_steal_a_port() -> None:
    async def run() -> None:
        first, second = Heard(), Heard()
        port = free_port(socket.SOCK_DGRAM)
        await first.transport.listen_udp(HERE, port, Interface.GM)
        with pytest.raises(OSError, match=rf"127\.0\.0\.1 port {port}/UDP: Address already in use"):
            await second.transport.listen_udp(HERE, port, Interface.GM)
        await first.transport.close()

    within(run())


def test_a_stream_in_pieces_with_keepalives() -> None:
    async def run() -> None:
        heard, port = await listening()
        reader, writer = await asyncio.open_connection(str(HERE), port)
        for piece in (MESSAGE[:30], MESSAGE[30:] + b"\r\n\r\n" + MESSAGE[:5], MESSAGE[5:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        await until(lambda: len(heard.messages) == 2)
        assert await reader.readexactly(2) == b"\r\n", "double CRLF is answered with one (RFC 5626 3.5.1)"
        flow = heard.messages[0][1]
        assert heard.transport.is_open(flow)
        heard.transport.send(b"answer", flow)
        assert await reader.readexactly(6) == b"answer"
        writer.close()
        await until(lambda: heard.closed)
        assert heard.closed[0][0] == flow and not heard.transport.is_open(flow)
        assert not len(heard.transport._table), "nothing is kept of a source that has gone"
        await heard.transport.close()

    within(run())


def test_a_stream_that_is_no_sip_is_closed() -> None:
    async def run() -> None:
        heard, port = await listening()
        reader, writer = await asyncio.open_connection(str(HERE), port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        assert len(heard.malformed) == 1
        writer.close()
        await heard.transport.close()

    within(run())


def test_connecting_uses_the_local_port_of_the_flow_and_reports_refusal() -> None:
    async def run() -> None:
        here, there = Heard(), Heard()
        port, own = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
        await there.transport.listen_tcp(HERE, port, Interface.MW)
        flow = Flow("TCP", Interface.GM, HERE, own, HERE, port)
        here.transport.send(MESSAGE[:40], flow)
        here.transport.send(MESSAGE[40:], flow)
        await until(lambda: there.messages)
        assert there.messages[0][1].remote_port == own
        here.transport.close_flow(flow)
        await until(lambda: here.closed and there.closed)
        nobody = Flow("TCP", Interface.GM, HERE, 0, HERE, free_port(socket.SOCK_STREAM))
        here.transport.send(b"x", nobody, connect=False)
        here.transport.send(b"x", nobody)
        await until(lambda: len(here.closed) == 3)
        assert here.closed[1][1] == "the TCP connection is gone"
        assert "failed" in here.closed[2][1]
        await here.transport.close()
        await there.transport.close()

    within(run())


def test_connections_of_one_source_are_bounded() -> None:
    async def run() -> None:
        heard = Heard(connections_per_source=2)
        port = free_port(socket.SOCK_STREAM)
        await heard.transport.listen_tcp(HERE, port, Interface.GM)
        writers = []
        for _ in range(2):
            _, writer = await asyncio.open_connection(str(HERE), port)
            writer.write(MESSAGE)
            writers.append(writer)
        await until(lambda: len(heard.messages) == 2)
        with pytest.raises(ConnectionResetError), socket.socket() as third:
            third.connect((str(HERE), port))
            await until(lambda: heard.told)
            third.recv(1)
        ((told, flow),) = heard.told
        assert told.startswith("127.0.0.1 has 2 connections; no more are taken") and flow is not None
        writers[0].close()
        await until(lambda: heard.closed)
        _, fourth = await asyncio.open_connection(str(HERE), port)
        fourth.write(MESSAGE)
        await until(lambda: len(heard.messages) == 3)
        for writer in (*writers[1:], fourth):
            writer.close()
        await heard.transport.close()

    within(run())


def test_a_peer_that_does_not_read_is_given_up() -> None:
    async def run() -> None:
        heard, port = await listening()
        silent = socket.create_connection((str(HERE), port))
        silent.sendall(MESSAGE)
        await until(lambda: heard.messages)
        flow = heard.messages[0][1]
        for _ in range(400):
            heard.transport.send(bytes(CONNECTION_BACKLOG // 4), flow)
            await asyncio.sleep(0)
        await until(lambda: heard.closed)
        silent.close()
        await heard.transport.close()

    within(run())


def test_no_connection_outlives_the_end() -> None:
    """One peer answers our FIN, the other leaves it unanswered and sends on: a reset is all it gets."""

    async def run() -> None:
        heard, port = await listening()
        reader, writer = await asyncio.open_connection(str(HERE), port)
        silent = socket.create_connection((str(HERE), port))
        for each in (writer.write, silent.sendall):
            each(MESSAGE)
        await until(lambda: len(heard.messages) == 2)
        polite = next(flow for _, flow in heard.messages if flow.remote_port == writer.get_extra_info("sockname")[1])
        heard.transport.send(b"the last of it", polite)
        closing = asyncio.create_task(heard.transport.close())
        assert await reader.read() == b"the last of it", "what was queued is sent before the FIN"
        writer.close()
        silent.sendall(MESSAGE)
        begun = time.monotonic()
        await closing
        assert CLOSING / 2 < time.monotonic() - begun < 3 * CLOSING
        assert len(heard.closed) == 2 and len(heard.messages) == 2, "what comes now is not looked at"
        assert silent.recv(1) == b""
        with pytest.raises(ConnectionError):
            silent.sendall(MESSAGE)
            silent.recv(1)
        silent.close()

    within(run())


def test_clear_connections_that_say_nothing_end_and_registered_contacts_stay() -> None:
    """Step 1, 6: CRLF pings and half messages are nothing; a contact without IPsec keeps its connection."""

    async def run() -> None:
        contact: set[Flow] = set()
        heard = Heard(keeps=contact.__contains__)
        port = free_port(socket.SOCK_STREAM)
        await heard.transport.listen_tcp(HERE, port, Interface.GM)
        links = [await asyncio.open_connection(str(HERE), port) for _ in range(4)]
        silent, kept, talking, slow = (
            heard_flow(port, writer.get_extra_info("sockname")[1], Interface.GM) for _, writer in links
        )
        contact.add(kept)
        await until(lambda: len(heard.transport) == 4)
        begun = time.monotonic()
        while time.monotonic() - begun < 1.2:
            links[2][1].write(MESSAGE)
            links[3][1].write(b"\r\n\r\n")
            await asyncio.sleep(0.05)
            heard.transport.end_idle(0.6)
        assert {flow for flow, _ in heard.closed} == {silent, slow}
        assert heard.transport.is_open(kept) and heard.transport.is_open(talking)
        assert await links[0][0].read() == b"", "a FIN, no reset"
        contact.clear()
        begun = time.monotonic()
        while heard.transport.is_open(kept):
            assert time.monotonic() - begun < 5
            heard.transport.end_idle(0.6)
            await asyncio.sleep(0.05)
        for _, writer in links:
            writer.close()
        await heard.transport.close()

    within(run())


def heard_flow(port: int, remote_port: int, interface: Interface) -> Flow:
    return Flow("TCP", interface, HERE, port, HERE, remote_port)


def test_half_messages_of_all_connections_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 6: the oldest half message ends, whole messages of others come through."""
    monkeypatch.setitem(transport.UNPARSED, Interface.GM, 100_000)

    async def run() -> None:
        heard, port = await listening()
        half = MESSAGE[:-4] + b"\r\nX: " + bytes(30_000).replace(b"\0", b"x")
        links = []
        for number in range(5):
            links.append(await asyncio.open_connection(str(HERE), port))
            links[-1][1].write(half)
            await until(lambda: len(heard.transport) + len(heard.closed) > number)  # noqa: B023
        await until(lambda: len(heard.closed) == 2)
        assert {reason for _, reason in heard.closed} == {"half a message for too long"}
        links[-1][1].write(b"\r\n\r\n")
        await until(lambda: heard.messages)
        assert heard.transport._unparsed[Interface.GM].held < 100_000
        for _, writer in links:
            writer.close()
        await heard.transport.close()
        assert heard.transport._unparsed[Interface.GM].held == 0

    within(run())


def test_peers_that_do_not_read_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 6: what waits for peers that do not read has a bound for all of them together."""
    monkeypatch.setattr(transport, "UNREAD", 2)

    async def run() -> None:
        heard, port = await listening()
        links = []
        for number in range(4):
            link = socket.socket()
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.connect((str(HERE), port))
            links.append(link)
            link.sendall(MESSAGE)
            await until(lambda: len(heard.messages) > number)  # noqa: B023
            flow = heard.messages[-1][1]
            unread = heard.transport._unread[Interface.GM]
            for _ in range(10_000):
                before = unread.held
                heard.transport.send(bytes(20_000), flow)
                if unread.held > before or len(heard.closed) > max(0, number - 2):
                    break
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        await until(lambda: len(heard.closed) == 2)
        assert [reason for _, reason in heard.closed] == ["what we send is not read"] * 2
        for link in links:
            link.close()
        await heard.transport.close()

    within(run())


def test_closing_does_not_wait_for_a_peer_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 6: a connection that is closed is gone a few seconds later, whatever its peer does."""
    monkeypatch.setattr(transport, "CLOSE_TIMEOUT", 0.2)

    async def run() -> None:
        heard, port = await listening()
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect((str(HERE), port))
        link.sendall(MESSAGE)
        await until(lambda: heard.messages)
        flow = heard.messages[0][1]
        while not heard.transport._unread[Interface.GM].held:
            heard.transport.send(bytes(20_000), flow)
            await asyncio.sleep(0)
        heard.transport.close_flow(flow)
        await until(lambda: heard.closed)
        link.close()
        await heard.transport.close()

    within(run())


def test_connections_that_we_open_count_and_a_failure_to_make_a_socket_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Step 1, 6: without a descriptor there is an answer, not an exception that nobody hears."""

    async def run() -> None:
        heard = Heard()
        wish = Flow("TCP", Interface.MW, HERE, 0, HERE, free_port(socket.SOCK_STREAM))

        def none_left(address: object, kind: object) -> socket.socket:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(transport, "unbound", none_left)
            heard.transport.send(b"x", wish)
            assert len(heard.transport._table) == 1
            await until(lambda: heard.closed)
        assert "Too many open files" in heard.closed[0][1] and not len(heard.transport._table)
        heard.transport._table.limit = 0
        heard.transport.send(b"x", wish)
        await until(lambda: len(heard.closed) == 2)
        assert "as many as there may be" in heard.closed[1][1]
        await heard.transport.close()

    within(run())
