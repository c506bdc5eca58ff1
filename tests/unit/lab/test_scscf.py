"""The core on real sockets of the loopback interface, driven by hand over UDP and TCP."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest

from pcscf.lab.bindings import ContactEvent
from pcscf.lab.challenge import CoreFault, Manners
from pcscf.lab.control import ControlError
from pcscf.lab.endpoint import Seen
from pcscf.lab.scscf import Scscf
from pcscf.lab.unreliable import LATE, Unreliable
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.message import Request, Response, response_to
from pcscf.sip.parse import StreamParser, parse
from tests.unit.lab.calling import ALICE, BOB, BOB_CONTACT, BOB_IMPI, Counter, request_text, subscribers
from tests.unit.lab.registering import answer, nonce_of, register, register_text, settings
from tests.unit.lab.vectors import IMPI, REALM, VECTORS

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
        self.messages: list[Response | Request] = []

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def via(self) -> str:
        return f"SIP/2.0/{self.transport} {LOOPBACK}:{self.port}"

    async def connect(self, port: int) -> None:
        await asyncio.get_running_loop().sock_connect(self._socket, (LOOPBACK, port))

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self, wait: float = 2.0) -> Response:
        message = await self._next(wait)
        assert isinstance(message, Response), message
        return message

    async def asked(self, wait: float = 2.0) -> Request:
        message = await self._next(wait)
        assert isinstance(message, Request), message
        return message

    async def _next(self, wait: float) -> Response | Request:
        async with asyncio.timeout(wait):
            while not self.messages:
                data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
                self.messages += self._parser.feed(data) if self._stream else [parse(data)]
        return self.messages.pop(0)

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


@asynccontextmanager
async def running(transport: str = "UDP", *, unreliable: float = 0.0, **changes: object) -> AsyncIterator["Plant"]:
    """A core, and a P-CSCF of one socket by which both users are registered."""
    scscf = Scscf(
        settings(port=free_port(), address=IPv4Address(LOOPBACK), **changes),
        subscribers(),
        random_octets=Counter(),
        unreliable=Unreliable(unreliable),
    )
    await scscf.start()
    plant = Plant(scscf, Client(transport))
    broken: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: broken.append(context))
    try:
        await plant.pcscf.connect(scscf.settings.port)
        path = f"<sip:t@{LOOPBACK}:{plant.pcscf.port};lr>"
        plant.register(IMPI, "<sip:10.45.0.2:31801>", path)
        plant.register(BOB_IMPI, f"<{BOB_CONTACT}>", path)
        yield plant
        assert broken == []
    finally:
        plant.pcscf.close()
        await scscf.close()


class Plant:
    def __init__(self, scscf: Scscf, pcscf: Client) -> None:
        self.scscf = scscf
        self.pcscf = pcscf
        self._branch = 0

    def register(self, impi: str, contact: str, path: str) -> None:
        registrar = self.scscf.registrar
        registrar.set_faults(impi, [CoreFault.ACCEPT_WITHOUT_CHALLENGE])
        asked = register(impi=impi, to=f"sip:{impi}", contact=contact, without=("Path",), extra=(f"Path: {path}",))
        assert registrar.register(asked, asyncio.get_running_loop().time())
        registrar.set_faults(impi, [])
        registrar.take_changes()

    async def send(self, method: str = "MESSAGE", uri: str = BOB, **parts: Any) -> None:
        self._branch += 1
        ours = f"<sip:orig@{LOOPBACK}:{self.scscf.settings.port};lr>"
        without = ("Record-Route", *parts.pop("without", ()))
        extra = (f"Record-Route: <sip:{LOOPBACK}:{self.pcscf.port};lr>", *parts.pop("extra", ()))
        more = {"branch": f"z9hG4bKp{self._branch}", "route": ours, "via": self.pcscf.via, **parts}
        await self.pcscf.send(request_text(method, uri, without=without, extra=extra, **more))

    async def answer(self, request: Request, status: int = 200) -> None:
        await self.pcscf.send(response_to(request, status, to_tag="b1").to_bytes())


@pytest.mark.parametrize("manners", Manners)
def test_a_request_to_another_user_and_its_answer(manners: Manners) -> None:
    async def scenario() -> None:
        async with running(manners=manners) as plant:
            await plant.send(body="hello")
            asked = await plant.pcscf.asked()
            assert (asked.uri, asked.body) == (BOB_CONTACT, b"hello")
            await plant.answer(asked)
            response = await plant.pcscf.receive()
            assert response.status == 200
            assert [value.partition(";")[0] for value in response.values("via")] == [
                plant.pcscf.via,
                "SIP/2.0/UDP 10.45.0.2:31801",
            ]

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_path_with_tcp_gets_a_connection_of_our_own(transport: str) -> None:
    async def scenario() -> None:
        arrived: asyncio.Queue[tuple[Request, asyncio.StreamWriter]] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            parser = StreamParser()
            while data := await reader.read(65536):
                for message in parser.feed(data):
                    assert isinstance(message, Request)
                    arrived.put_nowait((message, writer))

        server = await asyncio.start_server(serve, LOOPBACK, 0)
        port = server.sockets[0].getsockname()[1]
        async with running(transport) as plant:
            plant.register(BOB_IMPI, f"<{BOB_CONTACT}>", f"<sip:t@{LOOPBACK}:{port};transport=tcp;lr>")
            peers = set()
            for cseq in (1, 2):
                await plant.send(cseq=cseq)
                request, writer = await arrived.get()
                peers.add(writer.get_extra_info("peername")[1])
                assert request.values("via")[0].startswith("SIP/2.0/TCP")
                writer.write(response_to(request, 200, to_tag="b1").to_bytes())
                assert (await plant.pcscf.receive()).status == 200
            assert len(peers) == 1 and plant.scscf.settings.port not in peers
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_call_to_a_number(transport: str) -> None:
    async def scenario() -> None:
        async with running(transport) as plant:
            await plant.send("INVITE", f"sip:echo@{REALM}", body="v=0\r\nm=audio 5000 RTP/AVP 8\r\n")
            responses = [await plant.pcscf.receive() for _ in range(3)]
            assert [each.status for each in responses] == [100, 180, 200]
            if transport == "UDP":
                assert (await plant.pcscf.receive()).to_bytes() == responses[2].to_bytes(), "until the ACK"
            target = parse_name_addr(responses[2].first("contact") or "").uri
            tag = parse_name_addr(responses[2].first("to") or "").param("tag") or ""
            await plant.send("ACK", target, to_tag=tag, route="")
            await plant.send("BYE", target, to_tag=tag, route="", cseq=2)
            assert (await plant.pcscf.receive()).status == 200
            assert plant.scscf.answering.calls == {}

    asyncio.run(scenario())


def test_cancel_and_hang_up() -> None:
    async def scenario() -> None:
        async with running() as plant:
            uri = f"sip:noanswer@{REALM}"
            await plant.send("INVITE", uri, branch="z9hG4bKinvite")
            assert [(await plant.pcscf.receive()).status for _ in range(2)] == [100, 180]
            await plant.send("CANCEL", uri, branch="z9hG4bKinvite")
            assert [(await plant.pcscf.receive()).status for _ in range(2)] == [200, 487]
            await plant.send("ACK", uri, branch="z9hG4bKinvite", to_tag="x")
            await plant.send("INVITE", f"sip:echo@{REALM}", call_id="c2")
            *_, ok = [await plant.pcscf.receive() for _ in range(3)]
            tag = parse_name_addr(ok.first("to") or "").param("tag") or ""
            await plant.send("ACK", f"sip:{LOOPBACK}:{plant.scscf.settings.port}", to_tag=tag, route="", call_id="c2")
            await plant.send("OPTIONS", f"sip:{LOOPBACK}:{plant.scscf.settings.port}", route="")
            assert (await plant.pcscf.receive()).status == 200
            assert plant.scscf.hang_up("echo") == 1
            assert (await plant.pcscf.asked()).method == "BYE"
            with pytest.raises(ControlError, match="none of echo"):
                plant.scscf.hang_up("nobody")

    asyncio.run(scenario())


def test_a_message_comes_back() -> None:
    async def scenario() -> None:
        async with running() as plant:
            await plant.send(uri=f"sip:echo@{REALM}", extra=("Content-Type: text/plain",), body="hello")
            assert (await plant.pcscf.receive()).status == 200
            echo = await plant.pcscf.asked()
            assert (echo.uri, echo.body, echo.first("content-type")) == ("sip:10.45.0.2:31801", b"hello", "text/plain")
            await plant.answer(echo)

    asyncio.run(scenario())


def test_a_refusal_is_answered_here_and_its_ack_ends_here() -> None:
    async def scenario() -> None:
        async with running() as plant:
            await plant.send("INVITE", f"sip:nobody@{REALM}", branch="z9hG4bKx")
            refused = await plant.pcscf.receive()
            assert (refused.status, refused.reason) == (404, f"sip:nobody@{REALM} is unknown here")
            await plant.send("ACK", f"sip:nobody@{REALM}", branch="z9hG4bKx", to_tag="y")
            with pytest.raises(TimeoutError):
                await plant.pcscf.receive(wait=0.6)

    asyncio.run(scenario())


def test_watchers_are_told_what_commands_do() -> None:
    async def scenario() -> None:
        async with running() as plant:
            core = plant.scscf
            await plant.send("SUBSCRIBE", ALICE, extra=("Event: reg", "Expires: 600000"))
            assert (await plant.pcscf.receive()).status == 200

            async def told() -> str:
                notify = await plant.pcscf.asked()
                await plant.answer(notify)
                await asyncio.sleep(0.01)
                return notify.body.decode()

            assert 'state="full"' in await told()
            core.shorten(IMPI, 3600)
            assert 'state="partial"' in (body := await told()) and 'event="shortened"' in body
            (alice, bob) = core.registered()
            assert alice == {
                "impi": IMPI,
                "contact": "<sip:10.45.0.2:31801>",
                "path": [f"<sip:t@{LOOPBACK}:{plant.pcscf.port};lr>"],
                "seconds": 3600,
            }
            core.deregister(IMPI, ContactEvent.REJECTED)
            assert 'event="rejected"' in await told()
            assert core.registered() == [bob]
            with pytest.raises(ControlError, match="not registered"):
                core.deregister(IMPI)
            with pytest.raises(ControlError, match="not registered"):
                core.shorten(IMPI, 1)
            for refused in (core.deregister, core.rechallenge, core.fault):
                with pytest.raises(ControlError, match="no subscriber nobody"):
                    refused("nobody")

    asyncio.run(scenario())


def test_what_cannot_be_read_is_answered_or_dropped() -> None:
    async def scenario() -> None:
        async with running() as plant:
            await plant.send(route="<<>>")
            assert (await plant.pcscf.receive()).status == 400
            for route in ("<<>>", ""):
                await plant.send(
                    "ACK",
                    f"sip:{LOOPBACK}:{plant.scscf.settings.port}",
                    route=route,
                    without=("To",),
                    extra=("To: <<>",),
                )
            await plant.pcscf.send(b"SIP/2.0 200 OK\r\nVia: nonsense\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n")
            await plant.send(uri=f"sip:busy@{REALM}")
            assert (await plant.pcscf.receive()).status == 486

    asyncio.run(scenario())


def test_an_answer_whose_connection_is_gone_goes_to_the_via() -> None:
    async def scenario() -> None:
        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.put_nowait(await reader.readuntil(b"\r\n"))
            writer.close()

        server = await asyncio.start_server(serve, LOOPBACK, 0)
        async with running() as plant:
            gone = Client("TCP")
            await gone.connect(plant.scscf.settings.port)
            port = server.sockets[0].getsockname()[1]
            ours = f"<sip:orig@{LOOPBACK}:{plant.scscf.settings.port};lr>"
            await gone.send(request_text(via=f"SIP/2.0/TCP {LOOPBACK}:{port}", route=ours))
            asked = await plant.pcscf.asked()
            gone.close()
            await asyncio.sleep(0.01)
            await plant.answer(asked)
            async with asyncio.timeout(2):
                assert await arrived.get() == b"SIP/2.0 200 OK\r\n"
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_a_subscription_ends_by_itself() -> None:
    async def scenario() -> None:
        async with running() as plant:
            await plant.send("SUBSCRIBE", ALICE, extra=("Event: reg", "Expires: 600000"))
            assert (await plant.pcscf.receive()).status == 200
            await plant.answer(await plant.pcscf.asked())
            (subscription,) = plant.scscf.notifier.subscriptions.values()
            subscription.expires_at = 0.0
            plant.scscf.shorten(BOB_IMPI, 3600)  # makes it look at its clock
            assert (await plant.pcscf.asked()).lines("subscription-state") == ["terminated;reason=timeout"]

    asyncio.run(scenario())


def test_a_registration_ends_by_itself() -> None:
    async def scenario() -> None:
        async with running() as plant:
            await plant.send("SUBSCRIBE", ALICE, extra=("Event: reg", "Expires: 600000"))
            assert (await plant.pcscf.receive()).status == 200
            await plant.answer(await plant.pcscf.asked())
            await asyncio.sleep(0.01)
            plant.scscf.shorten(IMPI, 0.05)
            await plant.answer(await plant.pcscf.asked())
            assert b'event="expired"' in (await plant.pcscf.asked()).body

    asyncio.run(scenario())


def test_answers_that_are_lost_or_come_twice() -> None:
    async def scenario() -> None:
        async with running() as plant:
            plant.scscf.fault(IMPI, CoreFault.DROP_RESPONSE)
            for uri in (f"sip:busy@{REALM}", BOB):  # an answer of our own, and one that is passed back
                for expected in (False, True):
                    await plant.send(uri=uri, branch=f"z9hG4bK{len(uri)}")
                    if uri == BOB:
                        await plant.answer(await plant.pcscf.asked())
                    if expected:
                        await plant.pcscf.receive()
                    else:
                        with pytest.raises(TimeoutError):
                            await plant.pcscf.receive(wait=0.05)
            plant.scscf.fault(IMPI, CoreFault.DUPLICATE_RESPONSE)
            await plant.send(uri=f"sip:busy@{REALM}")
            assert [(await plant.pcscf.receive()).status for _ in range(2)] == [486, 486]
            plant.scscf.fault(IMPI)
            await plant.send(uri=f"sip:busy@{REALM}")
            await plant.pcscf.receive()
            with pytest.raises(TimeoutError):
                await plant.pcscf.receive(wait=0.05)

    asyncio.run(scenario())


def test_an_unreliable_core_answers_twice_or_late_over_tcp() -> None:
    async def scenario() -> None:
        async with running("TCP", unreliable=1.0) as plant:
            for _ in range(8):
                await plant.send(uri=f"sip:busy@{REALM}")
            at_once = 0
            with pytest.raises(TimeoutError):
                while True:
                    await plant.pcscf.receive(wait=LATE / 4)
                    at_once += 1
            assert 0 < at_once < 16 and at_once % 2 == 0

    asyncio.run(scenario())
