"""A P-CSCF of a few lines that says what the test tells it to, over UDP on the loopback interface.

It owns a clear port, a port_ps and two port_pc, so that it can offer two sets in turn.
"""

import asyncio
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from pcscf.sip.fields import parse_auth, parse_mechanism
from pcscf.sip.message import Header, Request, header, response_to
from pcscf.sip.parse import parse
from tests.unit.lab.vectors import REALM

PCSCF = IPv4Address("127.0.0.1")
PORTS = ("clear", "ps", "pc1", "pc2")
OUR_LIST = ((0.9, "aes-gmac", "null"), (0.5, "hmac-sha-1-96", "aes-cbc"), (0.1, "hmac-md5-96", "null"))


@dataclass(frozen=True, slots=True)
class Heard:
    """A request as the P-CSCF got it: on which of its ports, and from which of the UE's."""

    request: Request
    on: str
    port: int

    def param(self, name: str) -> str | None:
        """A parameter of Authorization."""
        return parse_auth(self.request.first("authorization") or "").param(name)

    def offered(self, name: str) -> int:
        """A number of the first Security-Client entry."""
        return int(parse_mechanism(self.request.values("security-client")[0]).param(name) or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """An answer; status 0 is silence. `on`: the port it leaves from if that is not where it belongs.

    `server`: the number of the set that Security-Server offers, 0 for none; `server_text` stands in its place.
    `expires`: of the UE's contact, given back.
    """

    status: int
    headers: tuple[Header, ...] = ()
    on: str = ""
    server: int = 0
    server_text: str = ""
    expires: int | None = None


def challenge(nonce: str, *, server: int = 1, server_text: str = "", extra: str = "", on: str = "") -> Say:
    value = f'Digest realm="{REALM}",nonce="{nonce}",algorithm=AKAv1-MD5{extra}'
    return Say(status=401, headers=(header("WWW-Authenticate", value),), server=server, server_text=server_text, on=on)


@dataclass
class ScriptedPcscf:
    """Answers the n-th request with the n-th line of the script."""

    script: list[Say]
    heard: list[Heard] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    _sockets: dict[str, asyncio.DatagramTransport] = field(default_factory=dict)

    async def start(self) -> None:
        for name in PORTS:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Socket(self), local_addr=(str(PCSCF), 0)
            )
            self._sockets[name] = transport
            self.ports[name] = transport.get_extra_info("sockname")[1]

    def close(self) -> None:
        for transport in self._sockets.values():
            transport.close()

    def security_server(self, number: int) -> str:
        """Our whole list for the first or second set."""
        spi = 1_000_000_000 + 10 * number
        numbers = f"spi-c={spi + 1};spi-s={spi + 2};port-c={self.ports[f'pc{number}']};port-s={self.ports['ps']}"
        return ", ".join(
            f"ipsec-3gpp;q={q};alg={alg};ealg={ealg};prot=esp;mod=trans;{numbers}" for q, alg, ealg in OUR_LIST
        )

    def ask(self, data: bytes, on: str, to: int) -> None:
        """Send a request to a port of the UE."""
        self._sockets[on].sendto(data, (str(PCSCF), to))

    def received(self, data: bytes, transport: asyncio.BaseTransport, address: tuple[str, int]) -> None:
        message = parse(data)
        on = next(name for name, each in self._sockets.items() if each is transport)
        if not isinstance(message, Request):
            self.heard.append(Heard(Request(method="(response)", uri="", headers=message.headers), on, address[1]))
            return
        if any(each.request.headers[0] == message.headers[0] for each in self.heard):
            return  # a retransmission
        self.heard.append(Heard(message, on, address[1]))
        say = self.script.pop(0)
        if not say.status:
            return
        headers = list(say.headers)
        if say.server or say.server_text:
            headers.append(header("Security-Server", say.server_text or self.security_server(say.server)))
        if say.expires is not None:
            headers.append(header("Contact", f"{message.first('contact')};expires={say.expires}"))
        leave_by = say.on or ("clear" if on == "clear" else "pc1")
        port = address[1] if on == "clear" else _port_us(message)
        response = response_to(message, say.status, headers=headers, to_tag="p")
        self._sockets[leave_by].sendto(response.to_bytes(), (address[0], port))


def _port_us(request: Request) -> int:
    """The UE's port_us."""
    return int(parse_mechanism(request.values("security-client")[0]).param("port-s") or 0)


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, owner: ScriptedPcscf) -> None:
        self._owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._owner.received(data, self._transport, addr)
