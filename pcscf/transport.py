"""UDP sockets and TCP connections: bytes in as parsed messages on a `Flow`, bytes out on a `Flow`.

One of the two places of asyncio (the other is `server`). Knows ports and connections; what a port means is the core's.
A datagram or connection leaves from exactly the flow's local address and port, or not at all.
"""

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address

from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError, StreamParser, parse
from pcscf.vocabulary import Flow, Interface
from xfrm.guard import discard_waiting
from xfrm.model import IPAddress

DATAGRAMS_PER_WAKEUP = 64
CONNECTION_BACKLOG = 262_144
"""Octets that may wait on one TCP connection before it is given up."""
KNOWN_FLOWS = 8192
CONNECT_TIMEOUT = 8.0
CLOSING = 0.3
"""Seconds that a peer has to answer our FIN when all is closed."""
LAST_ACK = 0.02
"""Seconds for the kernel's last ACK to be on its way."""

MessageHandler = Callable[[Request | Response, Flow], None]
MalformedHandler = Callable[[ParseError, Flow], None]
ClosedHandler = Callable[[Flow, str], None]


class Transport:
    """All sockets of one process.

    `on_closed(flow, reason)` says that a TCP connection ended or could not be made, or that a datagram was refused,
    `on_refused(flow)` that its source has too many connections to get another. `guard(socket, interface)` is called
    with each socket before anything is read from it or written to it; it raises OSError for one that is not to be used.
    """

    def __init__(
        self,
        on_message: MessageHandler,
        on_malformed: MalformedHandler,
        on_closed: ClosedHandler,
        *,
        connections_per_source: int = 64,
        on_refused: Callable[[Flow], None] = lambda flow: None,
        guard: Callable[[socket.socket, Interface], None] = lambda guarded, interface: None,
    ) -> None:
        self.on_message = on_message
        self.on_malformed = on_malformed
        self.on_closed = on_closed
        self.connections_per_source = connections_per_source
        self.on_refused = on_refused
        self._guard = guard
        self._closed_udp: list[tuple[socket.socket, IPAddress, int, Interface]] = []
        """Bound, and not read yet."""
        self._udp: dict[tuple[IPAddress, int], socket.socket] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: dict[Flow, _Connection] = {}
        self._sources: Counter[IPAddress] = Counter()
        self._crowds: set[IPAddress] = set()
        """Sources that have as many connections as they may; told once."""
        self._connecting: dict[Flow, tuple[asyncio.Task[None], bytearray]] = {}
        self._buffer = memoryview(bytearray(65_536))
        self.closing = False
        """What still comes is not looked at."""

    async def listen_udp(self, address: IPAddress, port: int, interface: Interface, *, closed: bool = False) -> None:
        """Bind one UDP socket. Raises OSError. No SO_REUSEADDR: a second instance must not steal datagrams.

        `closed`: it takes the port, and is neither read nor written before `open_udp`.
        """
        udp = _bound(address, port, socket.SOCK_DGRAM)
        self._closed_udp.append((udp, address, port, interface))
        if not closed:
            self.open_udp()

    def open_udp(self) -> None:
        """Guard the UDP sockets that are closed, throw away what came before that, and read them. Raises OSError."""
        while self._closed_udp:
            udp, address, port, interface = self._closed_udp[0]
            self._guard(udp, interface)
            if interface is Interface.GM_PROTECTED:
                discard_waiting(udp)
            self._closed_udp.pop(0)
            self._udp[address, port] = udp
            flows: dict[tuple[str, int], Flow] = {}
            asyncio.get_running_loop().add_reader(udp, self._drain, udp, address, port, interface, flows)

    async def listen_tcp(self, address: IPAddress, port: int, interface: Interface) -> None:
        """Accept TCP connections on one address and port. Raises OSError."""
        tcp = _bound(address, port, socket.SOCK_STREAM)
        try:
            self._guard(tcp, interface)
        except OSError:
            tcp.close()
            raise
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self, interface), sock=tcp, backlog=512
        )
        self._servers.append(server)

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
        connection = self._connections.get(flow)
        if connection is not None:
            connection.send(data)
        elif flow in self._connecting:
            backlog = self._connecting[flow][1]
            if len(backlog) + len(data) > CONNECTION_BACKLOG:
                self._connecting[flow][0].cancel()
            else:
                backlog += data
        elif connect:
            task = asyncio.get_running_loop().create_task(self._connect(flow))
            self._connecting[flow] = (task, bytearray(data))
        else:
            self._report(flow, "the TCP connection is gone")

    def close_flow(self, flow: Flow) -> None:
        """Close a TCP connection after what is queued has been sent; UDP flows have nothing to close."""
        connection = self._connections.get(flow)
        if connection is not None:
            connection.close()
        elif flow in self._connecting:
            self._connecting[flow][0].cancel()

    def reset_flow(self, flow: Flow) -> None:
        """Break a TCP connection: the peer gets a reset, what is queued is lost."""
        connection = self._connections.get(flow)
        if connection is not None:
            connection.reset()

    def __len__(self) -> int:
        """TCP connections there are now."""
        return len(self._connections)

    def is_open(self, flow: Flow) -> bool:
        """Whether a TCP connection exists on this flow now."""
        return flow in self._connections

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
        for server in self._servers:
            server.close()
        for task, _ in list(self._connecting.values()):
            task.cancel()
        if self._connections:
            for connection in list(self._connections.values()):
                connection.finish()
            end = loop.time() + CLOSING
            while self._connections and loop.time() < end:
                await asyncio.sleep(LAST_ACK / 2)
            for connection in list(self._connections.values()):
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
        buffer = self._buffer
        for _ in range(DATAGRAMS_PER_WAKEUP):
            try:
                size, sender = udp.recvfrom_into(buffer)
            except BlockingIOError:
                return
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
            try:
                message = parse(data)
            except ParseError as error:
                self.on_malformed(error, flow)
            else:
                self.on_message(message, flow)
            if udp.fileno() < 0:
                return  # closed by what the message caused

    async def _connect(self, flow: Flow) -> None:
        loop = asyncio.get_running_loop()
        tcp = _socket(flow.remote, socket.SOCK_STREAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((str(flow.local), flow.local_port))
            self._guard(tcp, flow.interface)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.sock_connect(tcp, (str(flow.remote), flow.remote_port))
            await loop.create_connection(lambda: _Connection(self, flow.interface, flow), sock=tcp)
        except (OSError, asyncio.CancelledError) as error:
            tcp.close()
            self._connecting.pop(flow, None)
            if isinstance(error, asyncio.CancelledError):
                raise
            words = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            self.on_closed(flow, f"connecting to {flow.remote} port {flow.remote_port} failed: {words}")
            return
        _, backlog = self._connecting.pop(flow)
        connection = self._connections.get(flow)
        if connection is not None:
            connection.send(bytes(backlog))

    def _report(self, flow: Flow, reason: str) -> None:
        """Tell of a failure later, never from inside `send`."""
        asyncio.get_running_loop().call_soon(self.on_closed, flow, reason)

    def opened(self, connection: "_Connection", flow: Flow) -> bool:
        if self._sources[flow.remote] >= self.connections_per_source:
            if flow.remote not in self._crowds:
                self._crowds.add(flow.remote)
                self.on_refused(flow)
            return False
        self._sources[flow.remote] += 1
        self._connections[flow] = connection
        return True

    def closed(self, connection: "_Connection", flow: Flow, reason: str) -> None:
        self._sources[flow.remote] -= 1
        self._crowds.discard(flow.remote)
        if not self._sources[flow.remote]:
            del self._sources[flow.remote]
        if self._connections.get(flow) is connection:
            del self._connections[flow]
        self.on_closed(flow, reason)


class _Connection(asyncio.Protocol):
    """One TCP connection, accepted or made by us (then its flow is given)."""

    def __init__(self, owner: Transport, interface: Interface, flow: Flow | None = None) -> None:
        self._owner = owner
        self._interface = interface
        self._flow = flow
        self._parser = StreamParser()
        self._stream: asyncio.Transport | None = None
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._stream = transport
        if self._flow is None:
            local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
            if remote is None:
                transport.abort()
                return
            self._flow = Flow(
                "TCP",
                self._interface,
                ip_address(local[0].partition("%")[0]),
                local[1],
                ip_address(remote[0].partition("%")[0]),
                remote[1],
            )
        self._counted = self._owner.opened(self, self._flow)
        if not self._counted:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._flow is not None and self._stream is not None
        if self._owner.closing:
            return
        try:
            for message in self._parser.feed(data):
                self._owner.on_message(message, self._flow)
        except ParseError as error:
            self._owner.on_malformed(error, self._flow)
            self._stream.close()
            return
        if pings := self._parser.take_pings():
            self.send(b"\r\n" * pings)

    def connection_lost(self, error: Exception | None) -> None:
        if self._counted and self._flow is not None:
            self._owner.closed(self, self._flow, str(error) if error else "closed")

    def send(self, data: bytes) -> None:
        assert self._stream is not None
        if self._stream.get_write_buffer_size() + len(data) > CONNECTION_BACKLOG:
            self._stream.abort()
        else:
            self._stream.write(data)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def finish(self) -> None:
        """Say that nothing more comes; it is lost when the peer has said so, too."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.write_eof()

    def reset(self) -> None:
        if self._stream is not None:
            tcp = self._stream.get_extra_info("socket")
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._stream.abort()


def _socket(address: IPAddress, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, kind)
    made.setblocking(False)
    if kind is socket.SOCK_STREAM:  # a message must not wait for the acknowledgement of the one before
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.version == 6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _bound(address: IPAddress, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket with this address and port. Raises OSError that names both."""
    made = _socket(address, kind)
    try:
        if kind is socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(address), port))
    except OSError as error:
        made.close()
        word = "TCP" if kind is socket.SOCK_STREAM else "UDP"
        raise OSError(error.errno, f"{address} port {port}/{word}: {error.strerror}") from error
    return made
