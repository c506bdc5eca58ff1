"""What an attacker needs: registered UEs that forge, strangers without a registration, frames of any content.

All of it lives in the namespace `ue`, on one event loop; `Field.under` runs an attack beside an honest victim and says
what the core, the journal and the wire saw of it.
"""

import asyncio
import os
import re
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from pcscf.admin.views import SaRow
from pcscf.lab.gm import pump, release
from pcscf.lab.network import Network
from pcscf.lab.phone import UeSettings
from pcscf.lab.subscribers import load_subscribers
from pcscf.lab.ue import Ue
from pcscf.observe import MessageSeen, Problem, Record
from pcscf.sip.message import Header, Request, Response
from pcscf.sip.parse import ParseError, parse
from pcscf.transport import Transport
from pcscf.vocabulary import Flow, Interface
from tests.interop.plant import REALM, SUBSCRIBERS, Plant, plant
from xfrm.backend import open_backend
from xfrm.esp import Sealer
from xfrm.model import IPAddress, SaId
from xfrm.userspace import Userspace

PCSCF = IPv4Address("10.45.0.1")
CORE = IPv4Address("10.46.0.2")
VICTIM, ATTACKER, STRANGER = map(IPv4Address, ("10.45.0.2", "10.45.0.3", "10.45.0.4"))
NOBODY = f"sip:nobody@{REALM}"
"""A Request-URI that the core knows nothing of: it answers by itself."""
WELL = b"all is well"
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
ESP, UDP = 50, 17
MTU = 1400
RECEIVE_BUFFER = 8 << 20
SO_RCVBUFFORCE = 33
SILENCE = 0.3
"""Seconds after which no answer will come: all there is to wait for is on this machine."""
PATIENCE = 5.0


def token() -> str:
    return os.urandom(8).hex()


def branch() -> str:
    return f"z9hG4bK{token()}"


def user(number: int) -> str:
    """The default identity of a subscriber of the lab, from 1."""
    return f"sip:+1555123{number:04}@{REALM}"


def impi(number: int) -> str:
    return f"00101{number:010}@{REALM}"


def written(start: str, fields: Mapping[str, str | None], more: Iterable[str] = (), body: bytes = b"") -> bytes:
    """A message as it is said, right or wrong: start line, header lines (None: left out), more lines, body."""
    lines = [start, *(f"{name}: {value}" for name, value in fields.items() if value is not None), *more]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def in_clear(
    source: IPAddress,
    port: int,
    method: str,
    change: Mapping[str, str | None] | None = None,
    *,
    uri: str = NOBODY,
    transport: str = "UDP",
    more: Iterable[str] = (),
    body: bytes = b"",
) -> bytes:
    """A request without any protection, with some header lines changed."""
    fields: dict[str, str | None] = {
        "Via": f"SIP/2.0/{transport} {source}:{port};branch={branch()};rport",
        "Max-Forwards": "70",
        "From": f"<{user(2)}>;tag={token()}",
        "To": f"<{uri}>",
        "Call-ID": token(),
        "CSeq": f"1 {method}",
        "Contact": f"<sip:{source}:{port}>",
        "Content-Length": str(len(body)),
    }
    return written(f"{method} {uri} SIP/2.0", fields | dict(change or {}), more, body)


def register_in_clear(
    source: IPAddress,
    port: int,
    change: Mapping[str, str | None] | None = None,
    *,
    number: int = 1,
    authorization: str = 'nonce="",response=""',
    transport: str = "UDP",
    more: Iterable[str] = (),
) -> bytes:
    """A first REGISTER of whoever it says, with an offer of its own."""
    name = impi(number)
    first = 1 << 31 | int.from_bytes(os.urandom(3), "big") << 1
    numbers = f"spi-c={first};spi-s={first + 1};port-c=31800;port-s=31801"
    fields: dict[str, str | None] = {
        "From": f"<sip:{name}>;tag={token()}",
        "To": f"<sip:{name}>",
        "Expires": "600000",
        "Supported": "path",
        "Require": "sec-agree",
        "Proxy-Require": "sec-agree",
        "Security-Client": f"ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;{numbers}",
        "Authorization": f'Digest username="{name}",realm="{REALM}",uri="sip:{REALM}",{authorization}',
    }
    uri = f"sip:{REALM}"
    return in_clear(source, port, "REGISTER", fields | dict(change or {}), uri=uri, transport=transport, more=more)


def edit(request: Request, changes: Mapping[str, str | None]) -> Request:
    """The request with these values, whatever they hold, in place of all headers of these names; None: without."""
    kept = [item for item in request.headers if item.name not in {name.lower() for name in changes}]
    made = [Header(name.lower(), value, f"{name}: {value}") for name, value in changes.items() if value is not None]
    return request.with_headers([*kept, *made])


class Forger(Ue):
    """A UE whose REGISTERs pass through `forge` before they leave."""

    forge: Callable[[Request], Request] = staticmethod(lambda request: request)

    def _request(self, *arguments: Any, **more: Any) -> Request:
        return self.forge(super()._request(*arguments, **more))


class Peer:
    """One end of Gm that says raw bytes and hears all there is."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.heard: deque[tuple[Request | Response, Flow]] = deque()
        self._news = asyncio.Event()
        inner = transport.on_message

        def listen(message: Request | Response, flow: Flow) -> None:
            self.heard.append((message, flow))
            self._news.set()
            inner(message, flow)

        transport.on_message = listen

    def put(self, data: bytes, flow: Flow) -> None:
        self.transport.send(data, flow)

    async def ask(self, data: bytes, flow: Flow, *, within: float = PATIENCE) -> int:
        """Say a request and wait for its final response; the status, 0 for silence. A refused INVITE gets its ACK."""
        self.heard.clear()
        self.put(data, flow)
        named = re.search(rb"\r\nCall-ID: ([0-9a-f@.]+)\r\n", data)
        call_id = named[1].decode() if named else ""
        said = re.search(rb"\r\nCSeq: ([0-9]+ [A-Z]+)\r\n", data)
        cseq = said[1].decode() if said else ""

        def answers(message: Request | Response) -> bool:
            if not isinstance(message, Response) or message.status < 200:
                return False
            return message.first("call-id") == call_id and message.first("cseq") == cseq

        found = await self.next(answers, within=within)
        if data.startswith(b"INVITE ") and isinstance(found, Response) and found.status >= 300:
            self.put(data.replace(b"INVITE ", b"ACK ", 1).replace(b" INVITE\r\n", b" ACK\r\n", 1), flow)
        return found.status if isinstance(found, Response) else 0

    async def next(
        self, wanted: Callable[[Request | Response], bool], *, within: float = PATIENCE
    ) -> Request | Response | None:
        """The first message heard of this kind, now or within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not (found := [message for message, _ in self.heard if wanted(message)]):
                    self._news.clear()
                    await self._news.wait()
                return found[0]
        return None


class Attacker(Peer):
    """A registered UE, `ue`, and what it can say beside."""

    def __init__(self, ue: Forger) -> None:
        super().__init__(ue.gm._endpoint.transport)
        self.ue = ue

    @property
    def address(self) -> IPAddress:
        return self.ue.settings.address

    def clear(self, *, tcp: bool = False) -> Flow:
        """The way in clear, from the UE's own address."""
        if tcp:
            return Flow("TCP", Interface.GM, self.address, 0, PCSCF, 5060)
        return Flow("UDP", Interface.GM, self.address, self.ue.settings.port, PCSCF, 5060)

    def protected(self, *, tcp: bool = False) -> Flow:
        """The way inside the SAs in use."""
        assert self.ue.set_in_use is not None
        return self.ue.set_in_use.uplink(tcp=tcp)

    def says(
        self,
        method: str,
        change: Mapping[str, str | None] | None = None,
        *,
        uri: str = NOBODY,
        tcp: bool = False,
        more: Iterable[str] = (),
        body: bytes = b"",
    ) -> bytes:
        """An honest request for inside the SAs, with some header lines changed."""
        over, told = self.ue.set_in_use, self.ue.line.registered
        assert over is not None and told is not None
        fields: dict[str, str | None] = {
            "Via": f"SIP/2.0/{'TCP' if tcp else 'UDP'} {self.address}:{over.offer.port_us};branch={branch()}",
            "Max-Forwards": "70",
            "Route": ", ".join((f"<sip:{PCSCF}:{over.agreed.port_ps};lr>", *told.service_route)),
            "From": f"<{self.ue.line.me}>;tag={token()}",
            "To": f"<{uri}>",
            "Call-ID": token(),
            "CSeq": f"1 {method}",
            "Require": "sec-agree",
            "Proxy-Require": "sec-agree",
            "Security-Verify": over.server,
            "Content-Type": "text/plain" if body else None,
            "Content-Length": str(len(body)),
        }
        return written(f"{method} {uri} SIP/2.0", fields | dict(change or {}), more, body)

    def registers(self, change: Mapping[str, str | None] | None = None, *, more: Iterable[str] = ()) -> bytes:
        """A REGISTER inside the SAs in use, as honest as a refresh is."""
        over = self.ue.set_in_use
        assert over is not None
        name = self.ue.settings.subscriber.impi
        fields: dict[str, str | None] = {
            "Route": None,
            "From": f"<sip:{name}>;tag={token()}",
            "To": f"<sip:{name}>",
            "Contact": f'<sip:{self.address}:{over.offer.port_us}>;+sip.instance="<{self.ue._identity.instance}>"',
            "Expires": "600000",
            "Supported": "path",
            "Security-Client": self.ue._offer().header_lines()[0],
            "Authorization": self.ue._authorization,
        }
        return self.says("REGISTER", fields | dict(change or {}), uri=f"sip:{REALM}", more=more)


class Wire:
    """The frames of one interface: those since the last `take`, and more of one's own."""

    def __init__(self, network: Network, host: str, interface: str) -> None:
        with network.inside(host):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.bind((interface, ETH_P_ALL))
        self._socket.setblocking(False)

    def take(self, *, incoming: bool) -> list[bytes]:
        """What came to this end, or left it, since the last time; the other direction is forgotten."""
        frames = []
        with suppress(BlockingIOError):
            while True:
                frame, address = self._socket.recvfrom(1 << 17)
                if (address[2] != PACKET_OUTGOING) is incoming:
                    frames.append(frame)
        return frames

    def put(self, frame: bytes) -> None:
        self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()


class Datagram(NamedTuple):
    """The payload of an IPv4 packet, put together from its fragments. The ports are 0 where it is not UDP."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    ports: tuple[int, int]
    data: bytes
    frame: bytes
    """The (first) frame that carried it."""


def datagrams(frames: Iterable[bytes]) -> list[Datagram]:
    found: list[Datagram] = []
    parts: dict[bytes, list[tuple[int, bytes, bytes]]] = {}
    for frame in frames:
        if frame[12:14] != b"\x08\x00":
            continue
        packet = frame[14 : 14 + int.from_bytes(frame[16:18], "big")]
        offset = int.from_bytes(packet[6:8], "big")
        piece = ((offset & 0x1FFF) * 8, packet[4 * (packet[0] & 15) :], frame)
        pieces = parts.setdefault(packet[4:6] + packet[9:10] + packet[12:20], [])
        pieces.append(piece)
        if offset & 0x2000:
            continue
        pieces.sort()
        whole = b"".join(each for _, each, _ in pieces)
        del parts[packet[4:6] + packet[9:10] + packet[12:20]]
        is_udp = packet[9] == UDP
        ports = (int.from_bytes(whole[:2], "big"), int.from_bytes(whole[2:4], "big")) if is_udp else (0, 0)
        addresses = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        found.append(Datagram(*addresses, packet[9], ports, whole[8:] if is_udp else whole, pieces[0][2]))
    return found


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was seen of an attack. Nothing of the victim's own is in it."""

    core: list[bytes] = field(default_factory=list)
    """Datagrams that the core got, without the P-CSCF's own (OPTIONS, SUBSCRIBE, answers to NOTIFY)."""
    destinations: set[IPAddress] = field(default_factory=set)
    """Where the P-CSCF sent something on Mw, or wanted to (ARP)."""
    gm: list[Datagram] = field(default_factory=list)
    """What the P-CSCF sent on Gm."""
    records: list[Record] = field(default_factory=list)
    clear_drops: int = 0
    """Packets that the P-CSCF dropped because they came to protected ports in clear."""
    opened: int = 0
    """Packets that its ESP engine found good."""

    @property
    def requests(self) -> list[Request]:
        return [message for message in map(parse, self.core) if isinstance(message, Request)]

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.requests]

    @property
    def problems(self) -> list[str]:
        return [record.detail for record in self.records if isinstance(record, Problem)]

    def says(self, words: str) -> int:
        """How many Problems hold these words."""
        return sum(words in each for each in self.problems)

    def nothing_at_the_core(self) -> None:
        assert not self.core, f"the core got {[each[:200] for each in self.core[:5]]}"


@contextmanager
def battlefield(folder: Path, prefix: str) -> Iterator["Field"]:
    """A plant and a loop in its namespace `ue`; `prefix` names the namespaces."""
    network = Network(prefix)
    with (
        plant(folder, network=network, PCSCF_IPSEC__BACKEND="userspace") as running,
        network.inside("ue"),
        asyncio.Runner() as runner,
    ):
        made = Field(running, runner)
        try:
            yield made
        finally:
            made.close()


class Field:
    """A plant, a victim (user 1), an attacker (user 2) and a neighbour at the victim's address (user 3)."""

    def __init__(self, running: Plant, runner: asyncio.Runner) -> None:
        self.running = running
        self.client = running.client
        self.core = Wire(running.network, "core", "mw-core")
        self.gm = Wire(running.network, "ue", "gm-ue")
        self._runner = runner
        self._cards = load_subscribers(SUBSCRIBERS)
        self._more: list[Forger] = []
        self._strangers: list[Transport] = []
        self._number = 0
        self._read = 0
        runner.run(self._start())

    async def _start(self) -> None:
        choice = open_backend("userspace")
        assert isinstance(choice.backend, Userspace)
        self.backend = choice.backend
        self.victim = Attacker(await self.ue(1, VICTIM))
        self.attacker = Attacker(await self.ue(2, ATTACKER))
        self.neighbour = Attacker(await self.ue(3, VICTIM, port=5070))
        await self.registered(self.victim)
        leaving = next(each for each in datagrams(self.gm.take(incoming=False)) if each.protocol == ESP)
        self._ethernet = Ether(dst=leaving.frame[:6], src=leaving.frame[6:12])

    def close(self) -> None:
        async def close() -> None:
            for transport in self._strangers:
                await transport.close()
            for ue in self._more:
                await ue.close()
            release(self.backend)

        self._runner.run(close())
        self.core.close()
        self.gm.close()

    async def ue(self, number: int, address: IPAddress, port: int = 5060) -> Forger:
        """One more UE, not yet registered."""
        settings = UeSettings(
            subscriber=self._cards[impi(number)], address=address, pcscf=PCSCF, port=port, patience=PATIENCE, late=0.6,
            large_over_tcp=False,
        )  # fmt: skip
        made = Forger(settings, self.backend)
        await made.start()
        pump(self.backend)
        self._more.append(made)
        return made

    async def registered(self, who: Attacker) -> Attacker:
        """The UE, registered if it is not."""
        who.ue.forge = lambda request: request
        if not who.ue.registered or who.ue.set_in_use is None:
            outcome = await who.ue.register()
            assert outcome.registered, outcome
        return who

    async def stranger(self, address: IPAddress = STRANGER, port: int = 5090) -> Peer:
        """Somebody without a registration."""
        transport = Transport(lambda message, flow: None, lambda error, flow: None, lambda flow, reason: None)
        await transport.listen_udp(address, port, Interface.GM)
        self._strangers.append(transport)
        return Peer(transport)

    def inject(self, source: IPAddress, protocol: int, payload: bytes, destination: IPAddress = PCSCF) -> None:
        """Put an IPv4 packet on Gm, whoever it says it is from."""
        identification = int.from_bytes(os.urandom(2), "big")
        whole = IP(src=str(source), dst=str(destination), proto=protocol, id=identification) / payload
        for part in whole.fragment(MTU):
            self.gm.put(bytes(self._ethernet / part))

    def sealer(self, who: Attacker) -> Sealer:
        """What seals the packets of a UE to port_ps, at its present sequence number."""
        assert who.ue.set_in_use is not None
        association = self.backend._associations[SaId(PCSCF, who.ue.set_in_use.agreed.spi_ps)]
        sealer: Sealer = association.sealer  # type: ignore[union-attr]
        return sealer

    async def sas(self, who: Attacker) -> list[SaRow]:
        """The SAs of a user in the P-CSCF that are in use."""
        name = who.ue.settings.subscriber.impi
        return [row for row in await self.client.sas() if row.impi == name and row.state == "active"]

    async def uplink(self, who: Attacker) -> SaRow:
        """The SA that carries what a UE sends by UDP."""
        assert who.ue.set_in_use is not None
        spi = who.ue.set_in_use.agreed.spi_ps
        return next(row for row in await self.client.sas() if row.spi == spi)

    # The victim

    def under(self, attack: Callable[[], Awaitable[None]]) -> Seen:
        """Run an attack; the victim sends and receives before and after, and nothing of its own has changed."""
        return self._runner.run(self._under(attack))

    async def well(self) -> None:
        """The victim sends itself a message, through the core and back."""
        victim = self.victim.ue
        self._number += 1
        text = f"{WELL.decode()} {self._number}"
        victim.reception.unread.clear()
        response = await victim.message(user(1), text)
        assert response.status == 200, f"the victim's message got {response.status} {response.reason}"
        assert text in [each.text for each in victim.reception.unread]

    async def _condition(self) -> tuple[list[tuple[int, int, str]], float, list[tuple[str, bool]]]:
        rows = await self.sas(self.victim)
        contacts = [row for row in await self.client.registrations() if row.address == VICTIM and row.registered]
        left = min(row.expires_in or 0.0 for row in rows) if rows else 0.0
        return (
            [(row.set_id, row.spi, row.state) for row in rows],
            left,
            [(row.impi, row.registered) for row in contacts if row.impi == self.victim.ue.settings.subscriber.impi],
        )

    async def _under(self, attack: Callable[[], Awaitable[None]]) -> Seen:
        loop = asyncio.get_running_loop()
        for each in (self.victim, self.attacker, self.neighbour):
            await self.registered(each)
            each.heard.clear()
        await self.well()
        before, started = await self._condition(), loop.time()
        await self._news()
        drops, opened = self._clear_drops(), self._opened()
        self.core.take(incoming=True)
        self.gm.take(incoming=True)
        await attack()
        await asyncio.sleep(0.02)
        await self.well()
        seen = Seen(clear_drops=self._clear_drops() - drops, opened=self._opened() - opened)
        seen.records = await self._news()
        after = await self._condition()
        assert before[0] == after[0] and len(after[0]) == 4, f"the victim's SAs: {before[0]}, then {after[0]}"
        assert before[2] == after[2] == [(impi(1), True)], f"the victim's registration: {before[2]}, then {after[2]}"
        assert after[1] >= before[1] - (loop.time() - started) - 1, "the victim's lifetime was cut"
        assert not seen.says("a bug in the proxy"), self.running.log("pcscf")[-3000:]
        frames = self.core.take(incoming=True)
        seen.destinations = set(_destinations(frames))
        seen.core = _without_ours(datagrams(frames))
        seen.gm = datagrams(self.gm.take(incoming=True))
        return seen

    async def _news(self) -> list[Record]:
        """What the journal says since the last time."""
        rows = await self.client.journal(self._read)
        self._read = max((row.number for row in rows), default=self._read)
        return [row.decoded() for row in rows]

    def _clear_drops(self) -> int:
        said = self.running.execute("pcscf", "nft", "list", "counters")
        return sum(map(int, re.findall(r"counter clear_in \{\s*packets (\d+)", said)))

    def _opened(self) -> int:
        """What the engine of the P-CSCF put into its TUN devices."""
        said = self.running.execute("pcscf", "cat", "/proc/net/dev")
        return sum(int(found[1]) for found in re.finditer(r"^\s*esp\w+:\s*\d+\s+(\d+)", said, re.MULTILINE))


def heard_by(records: Sequence[Record], flow_port: int) -> list[MessageSeen]:
    """The SIP messages that came from a port."""
    return [each for each in records if isinstance(each, MessageSeen) and each.flow.remote_port == flow_port]


def _destinations(frames: Iterable[bytes]) -> Iterable[IPAddress]:
    for frame in frames:
        if frame[12:14] == b"\x08\x00":
            yield ip_address(frame[30:34])
        elif frame[12:14] == b"\x08\x06":
            yield ip_address(frame[38:42])


def _without_ours(found: Iterable[Datagram]) -> list[bytes]:
    """What the core got, less the messages of the victim to itself and what the P-CSCF says of its own."""
    sip = [each.data for each in found if each.protocol == UDP and each.ports[1] == 5060 and each.destination == CORE]
    own = {_call_id(each) for each in sip if b"\r\n\r\n" + WELL in each}
    return [each for each in sip if _call_id(each) not in own and not _is_of_the_proxy(each)]


def _call_id(data: bytes) -> str:
    with suppress(ParseError):
        return parse(data).first("call-id") or ""
    return ""


def _is_of_the_proxy(data: bytes) -> bool:
    try:
        message = parse(data)
    except ParseError:
        return False
    method = (message.first("cseq") or "").split()[-1]
    if isinstance(message, Response):
        return method == "NOTIFY"
    return method in ("OPTIONS", "SUBSCRIBE") and len(message.values("via")) == 1
