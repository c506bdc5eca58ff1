"""The UE's end of Gm: its sockets, its sets of SAs, and which message may ride on what (TS 33.203 7.1, digest A1, A2).

What is said is `handset`, when is `ue`. The backend belongs to whoever made it: several UEs may share one.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from pcscf.aka import AkaKeys
from pcscf.keylog import KeyLog
from pcscf.lab.agreement import Offer, SecuritySet
from pcscf.lab.endpoint import Endpoint, Listener, Seen
from pcscf.sip.fields import parse_cseq, parse_via, top_via
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import TimerProfile, Transaction
from pcscf.vocabulary import Flow, Interface
from xfrm.algorithms import Pair
from xfrm.backend import Backend
from xfrm.model import IPAddress, PortRange, XfrmError

BLOCK = 8
"""Ports of a UE that may choose: port_us, and seven that take turns as port_uc."""
LOWEST_BLOCK, BLOCKS = 20_000, 1_500
"""Below the range from which Linux takes ports for others."""
BLOCK_TRIES = 50
CLOSING_WAIT = 0.5
"""Seconds for the FIN of a connection to leave before its SAs go."""
PENDING_CHECK = 0.05
"""Seconds between two looks at the pending transactions of an old set."""


@dataclass(frozen=True, slots=True)
class StaticNumbers:
    """Ports, and perhaps SPIs, of a phone that offers the same for ever (digest A11). SPI 0: a new one each time."""

    port_uc: int
    port_us: int
    spi_uc: int = 0
    spi_us: int = 0


class Gm:
    """Sockets and SAs of one UE. `sets` are those alive, the newest last."""

    def __init__(
        self,
        backend: Backend,
        address: IPAddress,
        clear_port: int,
        *,
        ports: PortRange | None,
        static: StaticNumbers | None,
        timers: TimerProfile,
        patience: float,
        on_seen: Callable[[Seen, int], None],
        on_complaint: Callable[[str], None],
        on_request: Callable[[Request, Transaction[Flow], SecuritySet], None],
        on_ack: Callable[[Request, SecuritySet], None],
        random_octets: Callable[[int], bytes],
        is_lost: Callable[[], bool] = lambda: False,
        key_log: KeyLog | None = None,
    ) -> None:
        if ports is not None and ports.count < 2:
            raise ValueError(f"ports {ports} are too few: one is port_us, another port_uc")
        self.sets: list[SecuritySet] = []
        self._backend = backend
        self._address = address
        self._clear_port = clear_port
        self._ports = ports
        self._static = static
        self._patience = patience
        self._on_seen = on_seen
        self._on_complaint = on_complaint
        self._on_request = on_request
        self._on_ack = on_ack
        self._random_octets = random_octets
        self._is_lost = is_lost
        self._key_log = key_log
        self._endpoint = Endpoint(
            self._requested,
            timers=timers,
            on_seen=self._saw,
            admit=self._admit,
            on_ack=self._acknowledged,
            delays=self._delays,
            guard=self._guard,
        )
        self._expected: dict[tuple[str, str], tuple[Collection[Flow], Collection[Flow]]] = {}
        """Branch and method of a request of ours -> the flows on which alone a 2xx, and a refusal, may come."""
        self._accepted: set[SecuritySet] = set()
        self._turn = 0
        self._ends: dict[SecuritySet, float] = {}
        self._retiring: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and protect the protected ports, then the clear one. Raises OSError, XfrmError; nothing stays bound."""
        transport = self._endpoint.transport
        try:
            ranges = await self._bind()
            self._backend.protect(self._address, ranges)
            pump(self._backend)
            transport.open_udp()
            port_us = self._static.port_us if self._static else ranges[0].first
            await transport.listen_tcp(self._address, port_us, Interface.GM_PROTECTED)
            await transport.listen_udp(self._address, self._clear_port, Interface.GM)
        except BaseException:
            await self._endpoint.close()
            raise

    def _guard(self, guarded: socket.socket, interface: Interface) -> None:
        if interface is Interface.GM_PROTECTED:
            self._backend.guard(guarded)

    async def close(self) -> None:
        """Close the sockets, then remove the SAs: in this order nothing can leave in clear."""
        if self._retiring is not None:
            self._retiring.cancel()
        await self._endpoint.close()
        self._forget(self.sets)

    async def _bind(self) -> list[PortRange]:
        if self._static is not None:
            numbers = self._static
            ranges = [PortRange(first=port) for port in sorted({numbers.port_uc, numbers.port_us})]
            await self._bind_all(ranges)
            return ranges
        if self._ports is not None:
            await self._bind_all([self._ports])
            return [self._ports]
        for _ in range(BLOCK_TRIES):
            place = int.from_bytes(self._random_octets(4), "big") % BLOCKS
            ports = PortRange(first=LOWEST_BLOCK + place * BLOCK, count=BLOCK)
            try:
                await self._bind_all([ports])
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                await self._endpoint.transport.close()
            else:
                self._ports = ports
                return [ports]
        raise OSError(errno.EADDRINUSE, f"found no {BLOCK} free ports on {self._address}")

    async def _bind_all(self, ranges: Iterable[PortRange]) -> None:
        for each in ranges:
            for port in range(each.first, each.first + each.count):
                await self._endpoint.transport.listen_udp(self._address, port, Interface.GM_PROTECTED, closed=True)

    # Sets

    @property
    def in_use(self) -> SecuritySet | None:
        """The set that carries what we send: the newest whose REGISTER was accepted (TS 33.203 7.4.1a)."""
        return next((each for each in reversed(self.sets) if each in self._accepted), None)

    def new_offer(self, pairs: tuple[Pair, ...], lines: tuple[str, ...]) -> Offer:
        """Fresh SPIs and a port_uc that no set of ours has (TS 33.203 7.1, 7.4); port_us stays."""
        fixed = self._static
        spi_uc = (fixed.spi_uc if fixed else 0) or self._free_spi(set())
        return Offer(
            spi_uc=spi_uc,
            spi_us=(fixed.spi_us if fixed else 0) or self._free_spi({spi_uc}),
            port_uc=fixed.port_uc if fixed else self._next_port_uc(),
            port_us=fixed.port_us if fixed else self._block.first,
            pairs=pairs,
            lines=lines,
        )

    @property
    def _block(self) -> PortRange:
        assert self._ports is not None, "start comes first"
        return self._ports

    def _next_port_uc(self) -> int:
        """The next of the block in turn that no set has; if all are taken, the next."""
        choices = [
            self._block.first + 1 + (self._turn + step) % (self._block.count - 1)
            for step in range(self._block.count - 1)
        ]
        busy = {each.offer.port_uc for each in self.sets}
        port_uc = next((port for port in choices if port not in busy), choices[0])
        self._turn = port_uc - self._block.first
        return port_uc

    def _free_spi(self, taken: set[int]) -> int:
        for each in self.sets:
            taken |= {each.offer.spi_uc, each.offer.spi_us, each.agreed.spi_pc, each.agreed.spi_ps}
        while (spi := int.from_bytes(self._random_octets(4), "big")) < 256 or spi in taken:
            continue
        return spi

    def install(self, new: SecuritySet, keys: AkaKeys, lifetime: int) -> None:
        """Install the four SAs of a set. Raises XfrmError, and then the set does not exist."""
        sas = new.associations(keys, lifetime)
        self._backend.install(sas)
        if self._key_log is not None:
            self._key_log.add(sas)
        self.sets.append(new)
        self._ends[new] = asyncio.get_running_loop().time() + lifetime

    def extend(self, each: SecuritySet, lifetime: int) -> None:
        """Let a set live this long, and never shorter than any set did before (digest A8). Raises XfrmError."""
        now = asyncio.get_running_loop().time()
        end = max([now + lifetime, *self._ends.values()])
        self._backend.update(each.ids, round(end - now))
        self._ends[each] = end

    async def remove(self, sets: Iterable[SecuritySet]) -> None:
        """Close the connections of these sets, then remove their SAs."""
        going = [each for each in sets if each in self.sets]
        flows = [flow for each in going for flow in each.connections]
        transport = self._endpoint.transport
        for flow in flows:
            transport.close_flow(flow)
        deadline = asyncio.get_running_loop().time() + CLOSING_WAIT
        while any(map(transport.is_open, flows)) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        self._forget(going)

    async def reboot(self) -> None:
        """Lose every set and connection; the network hears nothing of the protected ones."""
        flows = [flow for each in self.sets for flow in each.connections]
        self._forget(self.sets)
        for flow in flows:
            self._endpoint.transport.close_flow(flow)
        await asyncio.sleep(0)

    def prune(self) -> None:
        """Forget the sets whose lifetime is over; their SAs are gone."""
        now = asyncio.get_running_loop().time()
        self._forget([each for each in self.sets if self._ends[each] <= now])

    def hang_up(self, each: SecuritySet, *, reset: bool = False) -> None:
        """Close the TCP connections of a set, or break them with a reset, and keep the set."""
        for flow in each.connections:
            if reset:
                self._endpoint.transport.reset_flow(flow)
            else:
                self._endpoint.transport.close_flow(flow)

    def is_connected(self, each: SecuritySet) -> bool:
        """Whether a TCP connection of ours lives on this set."""
        return self._endpoint.transport.is_open(each.uplink(tcp=True))

    def _forget(self, sets: Iterable[SecuritySet]) -> None:
        for each in [each for each in sets if each in self.sets]:  # two may have waited to remove the same
            self.sets.remove(each)
            self._accepted.discard(each)
            del self._ends[each]
            self._backend.remove(each.ids)

    # Messages

    async def send_clear(self, request: Request, pcscf: IPAddress, port: int, *, tcp: bool) -> Response:
        """Send in clear and wait. Raises NoAnswer."""
        if tcp:
            flow = Flow("TCP", Interface.GM, self._address, 0, pcscf, port)
        else:
            flow = Flow("UDP", Interface.GM, self._address, self._clear_port, pcscf, port)
        return await self._send(request, flow, ({flow}, {flow}))

    async def send_protected(
        self, request: Request, over: SecuritySet, refused_over: SecuritySet | None = None, *, tcp: bool
    ) -> Response:
        """Send inside the SAs of a set and wait; only those may bring the answer. Raises NoAnswer.

        A refusal may also come on `refused_over`, the set on which the procedure began (digest A9).
        """
        ways = (_ways_back(over, tcp=tcp), _ways_back(refused_over or over, tcp=tcp))
        return await self._send(request, over.uplink(tcp=tcp), ways)

    async def _send(self, request: Request, flow: Flow, ways: tuple[Collection[Flow], Collection[Flow]]) -> Response:
        key = _key(request)
        self._expected[key] = ways
        try:
            return await self._endpoint.request(request, flow, patience=self._patience)
        finally:
            del self._expected[key]

    def begin(self, request: Request, over: SecuritySet, listener: Listener, *, tcp: bool) -> Transaction[Flow]:
        """Send inside the SAs of a set and go on; the listener hears what comes where it may."""
        key = _key(request)
        self._expected[key] = (_ways_back(over, tcp=tcp),) * 2

        def ended() -> None:
            self._expected.pop(key, None)
            listener.on_end()

        heard = Listener(on_response=listener.on_response, on_failure=listener.on_failure, on_end=ended)
        return self._endpoint.begin(request, over.uplink(tcp=tcp), heard)

    def abandon(self, transaction: Transaction[Flow]) -> None:
        """Send a request of `begin` no more."""
        self._endpoint.abandon(transaction)

    def transmit(self, request: Request, over: SecuritySet, *, tcp: bool, again: bool = False) -> None:
        """Send an ACK of a 2xx inside the SAs of a set."""
        self._endpoint.transmit(request, over.uplink(tcp=tcp), again=again)

    def reply(self, transaction: Transaction[Flow], response: Response) -> None:
        """Answer a request of the network: by UDP from port_uc, over TCP on its connection (digest A2).

        If the connection or the set has gone, on the set in use; without one nothing leaves.
        """
        flow = transaction.flow
        carrier = self._set_of(flow) or self.in_use
        if carrier is None:
            return
        tcp = flow.transport == "TCP"
        if not (tcp and self._endpoint.transport.is_open(flow)):
            flow = carrier.uplink(tcp=tcp)
        self._endpoint.respond(transaction, response, flow)

    def _admit(self, message: Request | Response, flow: Flow) -> bool:
        """Whether a message came where it may (digest A6, mirrored)."""
        carrier = self._set_of(flow)
        if isinstance(message, Response):
            try:
                expected = self._expected.get(_key(message))
            except ParseError:
                return False
            if expected is not None and flow not in expected[0] and not (message.status >= 300 and flow in expected[1]):
                asked = " or ".join(map(str, expected[0]))
                self._on_complaint(f"the {message.status} came on {flow}, expected on {asked}; ignored")
                return False
            if parse_cseq(message.first("cseq") or "").method == "REGISTER":
                if message.status == 200 and carrier is not None:
                    self._accepted.add(carrier)
                return True
        elif carrier is None:
            self._on_complaint(f"{message.method} came on {flow}, outside every SA; ignored")
            return False
        elif flow.transport == "UDP" and flow.local_port != carrier.offer.port_us:
            self._on_complaint(f"{message.method} came on {flow}: by UDP it belongs at port_us; ignored")
            return False
        elif carrier not in self._accepted:
            self._on_complaint(f"{message.method} came on {flow}, a set that is not established yet; ignored")
            return False
        if carrier is not None and carrier is self.in_use and carrier is not self.sets[0] and self._retiring is None:
            self._retiring = asyncio.get_running_loop().create_task(self._retire(carrier))
        return True

    async def _retire(self, new: SecuritySet) -> None:
        """The network uses the new set: end the old ones when what is pending on them has ended (TS 33.203 7.4.1a)."""
        try:
            old = self.sets[: self.sets.index(new)]
            flows = {flow for each in old for flow in _flows(each)}
            while self._endpoint.busy(flows):
                await asyncio.sleep(PENDING_CHECK)
            await self.remove(old)
        finally:
            self._retiring = None

    def _set_of(self, flow: Flow) -> SecuritySet | None:
        if flow.interface is not Interface.GM_PROTECTED:
            return None
        return next((each for each in self.sets if each.spi(flow, incoming=True)), None)

    def _saw(self, seen: Seen) -> None:
        carrier = self._set_of(seen.flow)
        self._on_seen(seen, carrier.spi(seen.flow, incoming=seen.incoming) if carrier else 0)

    def _requested(self, request: Request, transaction: Transaction[Flow]) -> None:
        if carrier := self._set_of(transaction.flow):  # else its SAs went in the meantime
            self._on_request(request, transaction, carrier)

    def _acknowledged(self, request: Request, flow: Flow) -> None:
        if carrier := self._set_of(flow):
            self._on_ack(request, carrier)

    def _delays(self, message: Request | Response, flow: Flow, again: bool) -> tuple[float, ...]:
        return () if flow.transport == "UDP" and self._is_lost() else (0.0,)


def _ways_back(over: SecuritySet, *, tcp: bool) -> Collection[Flow]:
    """Where answers may come: by UDP at port_us, over TCP on our connection or, when it has gone, on the P-CSCF's."""
    return over.connections if tcp else (over.downlink(tcp=False),)


def _flows(each: SecuritySet) -> Iterable[Flow]:
    return (*each.connections, each.uplink(tcp=False), each.downlink(tcp=False))


def _key(message: Request | Response) -> tuple[str, str]:
    """Branch of the top Via and method. Raises ParseError."""
    return parse_via(top_via(message)).branch, parse_cseq(message.first("cseq") or "").method


def pump(backend: Backend) -> None:
    """Have the running loop move the packets of a backend that does ESP itself; again after each `protect`."""
    loop = asyncio.get_running_loop()
    for fileno in backend.filenos():
        loop.add_reader(fileno, _move, backend, fileno)


def _move(backend: Backend, fileno: int) -> None:
    try:
        backend.process(fileno)
    except XfrmError:  # its TUN is gone: nothing comes of it any more
        asyncio.get_running_loop().remove_reader(fileno)


def release(backend: Backend) -> None:
    """Stop pumping a backend and close it, after the UEs on it were closed."""
    loop = asyncio.get_running_loop()
    for fileno in backend.filenos():
        loop.remove_reader(fileno)
    backend.close()
