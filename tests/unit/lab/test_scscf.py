"""The core on real sockets of the loopback interface, driven by hand over UDP and TCP."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import pytest

from pcscf.lab.challenge import CoreFault, Manners
from pcscf.lab.endpoint import Seen
from pcscf.lab.scscf import Scscf
from pcscf.sip.message import Response
from pcscf.sip.parse import StreamParser, parse
from tests.unit.lab.registering import answer, nonce_of, register_text, settings
from tests.unit.lab.vectors import IMPI, VECTORS

RES1 = bytes.fromhex(VECTORS[0].f2)
RAND1 = bytes.fromhex(VECTORS[0].rand)
LOOPBACK = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def core(seen: list[Seen], **changes: object) -> AsyncIterator[Scscf]:
    subscribers = {IMPI: VECTORS[0].subscriber(sqn=0)}
    scscf = Scscf(
        settings(port=free_port(), address=IPv4Address(LOOPBACK), **changes),
        subscribers,
        on_seen=seen.append,
        random_octets=lambda count: RAND1[:count],
    )
    await scscf.start()
    try:
        yield scscf
    finally:
        await scscf.close()


class Client:
    """One socket of ours; what it sends and receives is bytes of SIP."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self._stream = transport == "TCP"
        self._socket = socket.socket(type=socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((LOOPBACK, 0))
        self._parser = StreamParser()
        self.responses: list[Response] = []

    @property
    def via(self) -> str:
        return f"SIP/2.0/{self.transport} {LOOPBACK}:{self._socket.getsockname()[1]}"

    async def connect(self, port: int) -> None:
        await asyncio.get_running_loop().sock_connect(self._socket, (LOOPBACK, port))

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self, wait: float = 2.0) -> Response:
        async with asyncio.timeout(wait):
            while not self.responses:
                data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
                for message in self._parser.feed(data) if self._stream else [parse(data)]:
                    assert isinstance(message, Response)
                    self.responses.append(message)
        return self.responses.pop(0)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_registration_on_the_wire(transport: str) -> None:
    async def scenario() -> None:
        seen: list[Seen] = []
        client = Client(transport)
        async with core(seen) as scscf:
            await client.connect(scscf.settings.port)
            await client.send(register_text(via=client.via))
            nonce = nonce_of(await client.receive())
            wrong = register_text(via=client.via, cseq=2, flag="yes", authorization=answer(nonce, b"wrong"))
            await client.send(wrong)
            assert (await client.receive()).status == 403
            await client.send(register_text(via=client.via, cseq=3))
            again = nonce_of(await client.receive())
            right = register_text(via=client.via, cseq=4, flag="yes", authorization=answer(again, RES1))
            await client.send(right)
            accepted = await client.receive()
            assert accepted.status == 200
            await client.send(right)  # a retransmission gets the same answer, UDP only
            if transport == "UDP":
                assert (await client.receive()).to_bytes() == accepted.to_bytes()
        client.close()
        assert [each.incoming for each in seen[:4]] == [True, False, True, False]

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_other_requests(transport: str) -> None:
    async def scenario() -> None:
        client = Client(transport)
        async with core([]) as scscf:
            await client.connect(scscf.settings.port)
            for place, (uri, status) in enumerate(
                [("tel:+15551230001", 405), ("sip:nobody@example.org", 404)], start=1
            ):
                text = (
                    f"MESSAGE {uri} SIP/2.0\r\nVia: {client.via};branch=z9hG4bKm{place}\r\nFrom: <sip:a@b>;tag=1\r\n"
                    f"To: <{uri}>\r\nCall-ID: m{place}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
                )
                await client.send(text.encode())
                assert (await client.receive()).status == status
        client.close()

    asyncio.run(scenario())


def test_silence_and_delay_on_demand() -> None:
    async def scenario() -> None:
        client = Client("UDP")
        seen: list[Seen] = []
        async with core(seen, late=0.2) as scscf:
            await client.connect(scscf.settings.port)
            scscf.registrar.set_faults(IMPI, [CoreFault.NO_ANSWER])
            await client.send(register_text(via=client.via))
            with pytest.raises(TimeoutError):
                await client.receive(wait=0.15)
            scscf.registrar.set_faults(IMPI, [CoreFault.LATE_401])
            await client.send(register_text(via=client.via, cseq=2))
            with pytest.raises(TimeoutError):
                await client.receive(wait=0.1)
            assert (await client.receive()).status == 401
            await client.send(register_text(via=client.via, cseq=3))
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert seen[-1].incoming, "a closed core says nothing more"
        client.close()

    asyncio.run(scenario())


def test_kamailio_says_100_first() -> None:
    async def scenario() -> None:
        client = Client("UDP")
        async with core([], manners=Manners.KAMAILIO) as scscf:
            await client.connect(scscf.settings.port)
            await client.send(register_text(via=client.via))
            assert [(await client.receive()).status, (await client.receive()).status] == [100, 401]
        client.close()

    asyncio.run(scenario())
