"""UDP sockets and TCP connections: bytes in as parsed messages on a `Flow`, bytes out on a `Flow`.

One of the two places of asyncio (the other is `server`). Knows ports and connections; what a port means is the core's.
A datagram or connection leaves from exactly the flow's local address and port, or not at all.
"""

import asyncio
import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from pcscf.connections import CONNECTIONS, CONNECTIONS_PER_SOURCE, Budget, Connections, Full
from pcscf.intake import Intake
from pcscf.rounds import Rounds
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError, StreamParser, parse
from pcscf.sockets import bound, connections_possible, unbound
from pcscf.vocabulary import Flow, Interface
from xfrm.guard import discard_waiting
from xfrm.model import IPAddress

DATAGRAMS_PER_WAKEUP = 64
ROUND = {Interface.GM: 0.001, Interface.GM_PROTECTED: 0.01, Interface.MW: 0.003}
"""Seconds of messages of an interface before the others have their turn: a flood in clear, and what the core answers to
it, keep what is inside ESP waiting for no longer.
"""
MESSAGES_AT_ONCE = 4
"""Of one connection, before others of its interface have their turn."""
ACCEPTED_PER_WAKEUP = 16
ACCEPT_BACKLOG = 512
ACCEPT_AGAIN = 0.5
"""Seconds without accepting when the system has no descriptor or memory for another connection."""
SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
TOLD_EVERY = 60.0
"""Seconds between two lines that say the same of all connections."""
FLOODED = "datagrams in clear come faster than they can be handled: `pcscf status` says how many are not looked at"
CONNECTION_BACKLOG = 262_144
"""Octets that may wait on one TCP connection before it is given up."""
CLEAR_BACKLOG = 131_072
"""The same on one that came in clear: room for two of the longest messages."""
UNREAD = 256
"""Connections of one interface whose peers leave unread what we send; of more the first is given up."""
UNPARSED = {Interface.GM: 16 << 20, Interface.GM_PROTECTED: 64 << 20, Interface.MW: 64 << 20}
"""Octets of messages that are not whole yet, of all connections of an interface; of more the oldest is given up."""
CLOSE_TIMEOUT = 10.0
"""Seconds that a peer has to read what is left when its connection is closed."""
KNOWN_FLOWS = 8192
CONNECT_TIMEOUT = 8.0
CLOSING = 0.3
"""Seconds that a peer has to answer our FIN when all is closed."""
LAST_ACK = 0.02
"""Seconds for the kernel's last ACK to be on its way."""

WHERE = {Interface.GM: "in clear", Interface.GM_PROTECTED: "inside ESP", Interface.MW: "with the core"}
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""

MessageHandler = Callable[[Request | Response, Flow], None]
MalformedHandler = Callable[[ParseError, Flow], None]
ClosedHandler = Callable[[Flow, str], None]


class Transport:
    """All sockets of one process.

    `on_closed(flow, reason)` says that a TCP connection ended or could not be made, or that a datagram was refused,
    `on_trouble(detail, flow)` that connections are refused, once for many. `keeps(flow)` says whether a connection must
    stay although it is idle. `guard(socket, interface)` is called with each socket before anything is read from it or
    written to it; it raises OSError for one that is not to be used.
    """

    def __init__(
        self,
        on_message: MessageHandler,
        on_malformed: MalformedHandler,
        on_closed: ClosedHandler,
        *,
        connections: int = CONNECTIONS,
        connections_per_source: int = CONNECTIONS_PER_SOURCE,
        keeps: Callable[[Flow], bool] = lambda flow: False,
        on_trouble: Callable[[str, Flow | None], None] = lambda detail, flow: None,
        guard: Callable[[socket.socket, Interface], None] = lambda guarded, interface: None,
    ) -> None:
        self.on_message = on_message
        self.on_malformed = on_malformed
        self.on_closed = on_closed
        self._guard = guard
        self._closed_udp: list[tuple[socket.socket, IPAddress, int, Interface]] = []
        """Bound, and not read yet."""
        self.on_trouble = on_trouble
        self._udp: dict[tuple[IPAddress, int], socket.socket] = {}
        self._listeners: dict[socket.socket, Interface] = {}
        self._paused: asyncio.TimerHandle | None = None
        self._table: Connections[_Connection] = Connections(connections, connections_per_source, keeps)
        self.allow(connections, connections_per_source)
        self._open: dict[Flow, _Connection] = {}
        self._adopting: set[asyncio.Task[None]] = set()
        self._connecting: dict[Flow, tuple[asyncio.Task[None], bytearray]] = {}
        self._unparsed: dict[Interface, Budget[_Connection]] = {side: Budget(most) for side, most in UNPARSED.items()}
        self._unread: dict[Interface, Budget[_Connection]] = {side: Budget(UNREAD) for side in Interface}
        self.rounds = {side: Rounds(seconds) for side, seconds in ROUND.items()}
        self._intake = Intake()
        self._taking_in = False
        """Whether what came in clear waits for the next round."""
        self._crowded: set[IPAddress] = set()
        """Sources that have as many connections as they may; told once."""
        self._told: dict[str, float] = {}
        self._buffer = memoryview(bytearray(65_536))
        self.closing = False
        """What still comes is not looked at."""

    def allow(self, connections: int, per_source: int) -> None:
        """So many connections at most from now on, in all and of each source; fewer where descriptors are short."""
        self._table.limit = min(connections, connections_possible())
        self._table.per_source = per_source

    @property
    def clear_lost(self) -> int:
        """Datagrams in clear that came from phones faster than they could be handled, and were not looked at."""
        return self._intake.lost

    @property
    def limit(self) -> int:
        """TCP connections there may be."""
        return self._table.limit

    async def listen_udp(self, address: IPAddress, port: int, interface: Interface, *, closed: bool = False) -> None:
        """Bind one UDP socket. Raises OSError. No SO_REUSEADDR: a second instance must not steal datagrams.

        `closed`: it takes the port, and is neither read nor written before `open_udp`.
        """
        udp = bound(address, port, socket.SOCK_DGRAM)
        self._closed_udp.append((udp, address, port, interface))
        if not closed:
            self.open_udp()

    def open_udp(self) -> None:
        """Guard the UDP sockets that are closed, throw away what came before that, and read them. Raises OSError."""
        while self._closed_udp:
            udp, address, port, interface = self._closed_udp[0]
            self._guard(udp, interface)
            if interface is not Interface.GM:
                discard_waiting(udp)
            self._closed_udp.pop(0)
            self._udp[address, port] = udp
            flows: dict[tuple[str, int], Flow] = {}
            asyncio.get_running_loop().add_reader(udp, self._drain, udp, address, port, interface, flows)

    async def listen_tcp(self, address: IPAddress, port: int, interface: Interface) -> None:
        """Accept TCP connections on one address and port. Raises OSError."""
        tcp = bound(address, port, socket.SOCK_STREAM)
        try:
            self._guard(tcp, interface)
        except OSError:
            tcp.close()
            raise
        tcp.listen(ACCEPT_BACKLOG)
        self._listeners[tcp] = interface
        asyncio.get_running_loop().add_reader(tcp, self._accept, tcp, interface)

    def send(self, data: bytes, flow: Flow, *, connect: bool = True) -> None:
        """Send on a flow. Without a TCP connection open one from the flow's local port, if `connect`.

        Never raises for what the network does: a failure comes back through `on_closed`.
        """
        if flow.transport == "UDP":
            udp = self._udp.get((flow.local, flow.local_port))
            if udp is None:
                self._report(flow, f"no UDP socket on {flow.local} port {flow.local_port}")
                return
            try:
                udp.sendto(data, (str(flow.remote), flow.remote_port))
            except OSError as error:
                self._report(flow, f"sending failed: {error.strerror}")
            return
        connection = self._open.get(flow)
        if connection is not None:
            connection.send(data)
        elif flow in self._connecting:
            backlog = self._connecting[flow][1]
            if len(backlog) + len(data) > CONNECTION_BACKLOG:
                self._connecting[flow][0].cancel()
            else:
                backlog += data
        elif connect and (made := self._make_room(flow, ours=True)) is not None:
            task = asyncio.get_running_loop().create_task(self._connect(made))
            self._connecting[flow] = (task, bytearray(data))
        elif connect:
            self._report(flow, f"{self.limit} TCP connections are open, as many as there may be")
        else:
            self._report(flow, "the TCP connection is gone")

    def close_flow(self, flow: Flow) -> None:
        """Close a TCP connection after what is queued has been sent; UDP flows have nothing to close."""
        connection = self._open.get(flow)
        if connection is not None:
            connection.close()
        elif flow in self._connecting:
            self._connecting[flow][0].cancel()

    def reset_flow(self, flow: Flow) -> None:
        """Break a TCP connection: the peer gets a reset, what is queued is lost."""
        connection = self._open.get(flow)
        if connection is not None:
            connection.reset()

    def __len__(self) -> int:
        """TCP connections there are now."""
        return len(self._open)

    def is_open(self, flow: Flow) -> bool:
        """Whether a TCP connection exists on this flow now."""
        return flow in self._open

    def end_idle(self, seconds: float) -> None:
        """End connections on Gm over which no whole message came for so long. Call it every second or few."""
        for connection in self._table.idle(time.monotonic(), seconds):
            if connection.flow.interface is Interface.GM:
                connection.close(f"idle for {seconds:g} s")
            else:
                connection.reset("its SAs are gone")  # nothing could say good-bye

    async def close(self) -> None:
        """Close every socket, and let no connection outlive that.

        A closed one whose FIN is not acknowledged goes on in the kernel, when nothing protects its ports any more: that
        is reset. One whose FIN is cut off keeps the peer from connecting again.
        """
        self.closing = True
        loop = asyncio.get_running_loop()
        for udp in self._udp.values():
            loop.remove_reader(udp)
            udp.close()
        self._udp.clear()
        for udp, *_ in self._closed_udp:
            udp.close()
        self._closed_udp.clear()
        self._intake.clear()  # what waits there is not looked at either
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        for tcp in self._listeners:
            loop.remove_reader(tcp)
            tcp.close()
        self._listeners.clear()
        for task, _ in list(self._connecting.values()):
            task.cancel()
        if len(self._table):
            for connection in self._table:
                connection.finish()
            end = loop.time() + CLOSING
            while len(self._table) and loop.time() < end:
                await asyncio.sleep(LAST_ACK / 2)
            for connection in self._table:
                connection.reset()
            await asyncio.sleep(LAST_ACK)
        self.closing = False

    def _drain(
        self,
        udp: socket.socket,
        address: IPAddress,
        port: int,
        interface: Interface,
        flows: dict[tuple[str, int], Flow],
    ) -> None:
        buffer, rounds, intake = self._buffer, self.rounds[interface], self._intake
        in_clear, lost = interface is Interface.GM, intake.lost
        for _ in range(DATAGRAMS_PER_WAKEUP):
            if not in_clear and not rounds.has_room():
                return
            try:
                size, sender = udp.recvfrom_into(buffer)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error about an earlier datagram; the transaction's timer decides
            key = (sender[0], sender[1])
            flow = flows.get(key)
            if flow is None:
                if len(flows) >= KNOWN_FLOWS:
                    flows.clear()
                remote = ip_address(sender[0].partition("%")[0])
                flow = flows[key] = Flow("UDP", interface, address, port, remote, sender[1])
            data = bytes(buffer[:size])
            if not data.strip(b"\r\n\0"):
                continue  # a keep-alive (RFC 5626 3.5.1 allows CRLF; phones send zeros too)
            if in_clear:
                intake.put(flow, data)
                continue
            self._handle(data, flow)
            if udp.fileno() < 0:
                return  # closed by what the message caused
        if intake.lost > lost:
            self._tell_once("clear", FLOODED)
        if in_clear and not self._taking_in:
            self._take_in()

    def _take_in(self) -> None:
        """Handle datagrams in clear as long as a round has room for them, the rest in the next."""
        rounds, intake = self.rounds[Interface.GM], self._intake
        self._taking_in = False
        while len(intake) and not self.closing:
            if not rounds.has_room():
                self._taking_in = True
                rounds.wait(self._take_in)
                return
            if (waiting := intake.take()) is not None:
                self._handle(waiting[1], waiting[0])

    def _handle(self, data: bytes, flow: Flow) -> None:
        try:
            message = parse(data)
        except ParseError as error:
            self.on_malformed(error, flow)
        else:
            self.on_message(message, flow)

    def _accept(self, tcp: socket.socket, interface: Interface) -> None:
        for _ in range(ACCEPTED_PER_WAKEUP):
            try:
                made, peer = tcp.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in SHORT_OF:
                    self._pause(error)
                    return
                continue  # that connection is gone already (accept(2) hands on errors of the network)
            made.setblocking(False)
            local = made.getsockname()
            here, there = (ip_address(each[0].partition("%")[0]) for each in (local, peer))
            connection = self._make_room(Flow("TCP", interface, here, local[1], there, peer[1]))
            if connection is None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                made.close()
                continue
            task = asyncio.get_running_loop().create_task(self._adopt(made, connection))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    async def _adopt(self, tcp: socket.socket, connection: "_Connection") -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, tcp)
        except OSError as error:
            tcp.close()
            connection.connection_lost(error)

    def _pause(self, error: OSError) -> None:
        """Accept nothing for a while: the next attempt would fail as this one did, and at once."""
        told = f"no TCP connections can be accepted: {error.strerror}; trying again every {ACCEPT_AGAIN} s"
        self._tell_once("accept", told)
        if self._paused is None:
            loop = asyncio.get_running_loop()
            for tcp in self._listeners:
                loop.remove_reader(tcp)
            self._paused = loop.call_later(ACCEPT_AGAIN, self._resume)

    def _resume(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
            for tcp, interface in self._listeners.items():
                asyncio.get_running_loop().add_reader(tcp, self._accept, tcp, interface)

    def _make_room(self, flow: Flow, *, ours: bool = False) -> "_Connection | None":
        """A place for one more connection, if there is one or another makes room."""
        now, in_clear = time.monotonic(), flow.interface is Interface.GM
        room = self._table.room(flow, now, ours=ours)
        if room.ends is not None:
            self._table.discard(room.ends)  # its descriptor is free a moment later: there is a reserve
            room.ends.reset("made room for another connection")
        if room.full is Full.ALL:
            taken = "a new one ends the longest idle one in clear" if room.ends else "no more are taken"
            told = f"there are {len(self._table)} TCP connections, too many {WHERE[flow.interface]}: {taken}"
            self._tell_once(f"full {flow.interface}", f"{told} (limits.connections)")
        elif room.full is Full.SOURCE and flow.remote not in self._crowded:
            self._crowded.add(flow.remote)
            taken = "a new one ends the longest idle one" if room.ends else "no more are taken"
            told = f"{flow.remote} has {self._table.per_source} connections; {taken} (limits.connections_per_source)"
            self.on_trouble(told, flow)
        if room.full is not None and room.ends is None:
            return None
        connection = _Connection(self, flow, CLEAR_BACKLOG if in_clear and not ours else CONNECTION_BACKLOG)
        self._table.add(connection, now)
        return connection

    def _tell_once(self, kind: str, detail: str) -> None:
        now = time.monotonic()
        if now - self._told.get(kind, -TOLD_EVERY) >= TOLD_EVERY:
            self._told[kind] = now
            self.on_trouble(detail, None)

    async def _connect(self, connection: "_Connection") -> None:
        flow, loop = connection.flow, asyncio.get_running_loop()
        tcp: socket.socket | None = None
        try:
            tcp = unbound(flow.remote, socket.SOCK_STREAM)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((str(flow.local), flow.local_port))
            self._guard(tcp, flow.interface)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.sock_connect(tcp, (str(flow.remote), flow.remote_port))
            await loop.create_connection(lambda: connection, sock=tcp)
        except (OSError, asyncio.CancelledError) as error:
            if connection.is_made:
                connection.reset()
            elif tcp is not None:
                tcp.close()
            self._connecting.pop(flow, None)
            self._table.discard(connection)
            if isinstance(error, asyncio.CancelledError):
                raise
            words = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            self.on_closed(flow, f"connecting to {flow.remote} port {flow.remote_port} failed: {words}")
            return
        _, backlog = self._connecting.pop(flow)
        if self._open.get(flow) is connection:
            connection.send(bytes(backlog))

    def _report(self, flow: Flow, reason: str) -> None:
        """Tell of a failure later, never from inside `send`."""
        asyncio.get_running_loop().call_soon(self.on_closed, flow, reason)

    def opened(self, connection: "_Connection") -> None:
        self._open[connection.flow] = connection

    def heard(self, connection: "_Connection") -> None:
        """A whole message came."""
        self._table.hear(connection, time.monotonic())

    def holds(self, connection: "_Connection", octets: int) -> None:
        """So many octets wait for the rest of their message."""
        self._hold(self._unparsed[connection.flow.interface], connection, octets, "half a message for too long")

    def unread(self, connection: "_Connection", *, so: bool) -> None:
        """The peer leaves unread what we send, or no more."""
        self._hold(self._unread[connection.flow.interface], connection, int(so), "what we send is not read")

    def _hold(self, budget: "Budget[_Connection]", connection: "_Connection", amount: int, reason: str) -> None:
        first = budget.hold(connection, amount)
        while first is not None:
            first.reset(reason)
            first = budget.hold(first, 0)

    def closed(self, connection: "_Connection", reason: str) -> None:
        flow = connection.flow
        self._table.discard(connection)
        self._unparsed[flow.interface].hold(connection, 0)
        self._unread[flow.interface].hold(connection, 0)
        self._crowded.discard(flow.remote)
        if self._open.get(flow) is connection:
            del self._open[flow]
        if self._paused is not None:
            asyncio.get_running_loop().call_soon(self._resume)  # its descriptor is free then
        self.on_closed(flow, reason)


class _Connection(asyncio.Protocol):
    """One TCP connection, accepted or made by us."""

    def __init__(self, owner: Transport, flow: Flow, backlog: int) -> None:
        self.flow = flow
        self.heard = 0.0
        self._owner = owner
        self._parser = StreamParser()
        self._messages: Iterator[Request | Response] = iter(())
        """Those that are whole, and not handled yet."""
        self._held = 0
        self._backlog = backlog
        self._stream: asyncio.Transport | None = None
        self._reason = ""
        """Why we ended it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._stream = transport
        transport.set_write_buffer_limits(high=0)  # so that we hear of it when a peer does not read
        self._owner.opened(self)
        if self._reason:
            self.reset()

    @property
    def is_made(self) -> bool:
        return self._stream is not None

    def data_received(self, data: bytes) -> None:
        if self._owner.closing or self._reason or self._stream is None:
            return
        self._messages = self._parser.feed(data)
        self._go_on()

    def _go_on(self) -> None:
        """Handle what has come; of many messages some, and the rest in later rounds of the loop."""
        owner, rounds = self._owner, self._owner.rounds[self.flow.interface]
        try:
            for _ in range(MESSAGES_AT_ONCE):
                if owner.closing or self._reason or self._stream is None or self._stream.is_closing():
                    return  # nothing of it counts any more
                if not rounds.has_room():
                    break
                message = next(self._messages, None)
                if message is None:
                    self._read_on()
                    return
                owner.heard(self)
                owner.on_message(message, self.flow)
        except ParseError as error:
            owner.on_malformed(error, self.flow)
            self.close("not a SIP message")
            return
        if self._stream is not None:
            self._stream.pause_reading()
            self._hold()
            rounds.wait(self._go_on)

    def _read_on(self) -> None:
        """All whole messages are handled."""
        if pings := self._parser.take_pings():
            self.send(b"\r\n" * pings)
        self._hold()
        if self._stream is not None:
            self._stream.resume_reading()

    def _hold(self) -> None:
        if (held := self._parser.held) != self._held:
            self._held = held
            self._owner.holds(self, held)

    def pause_writing(self) -> None:
        self._owner.unread(self, so=True)

    def resume_writing(self) -> None:
        self._owner.unread(self, so=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._stream = None
        self._owner.closed(self, self._reason or (str(error) if error else "closed"))

    def send(self, data: bytes) -> None:
        if self._stream is None or self._stream.is_closing():
            return  # what is lost with it is told when it is gone
        if self._stream.get_write_buffer_size() + len(data) > self._backlog:
            self._stream.abort()
        else:
            self._stream.write(data)

    def close(self, reason: str = "") -> None:
        """End it when the peer has read what is queued; it has a few seconds for that."""
        self._reason = self._reason or reason
        if self._stream is not None:
            self._stream.close()
            if self._stream.get_write_buffer_size():
                asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.reset)

    def finish(self) -> None:
        """Say that nothing more comes; it is lost when the peer has said so, too."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.write_eof()

    def reset(self, reason: str = "reset") -> None:
        """End it at once: the peer gets a reset, what is queued is lost."""
        self._reason = self._reason or reason
        if self._stream is not None:
            tcp = self._stream.get_extra_info("socket")
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._stream.abort()
