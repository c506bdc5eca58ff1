"""The annotated flows of the digest, F1 to F14, with the ports and the SA of every message, over UDP and over TCP.

Which SA carries a message is looked up in the kernel by its selector and named by its SPI as the headers gave it: row
1 to 4 of the four SAs (digest A1), so that the tables of ports (digest A2, F9) are checked as they stand.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pcscf.registration import Registration
from pcscf.sip.message import Request, Response
from pcscf.vocabulary import Flow, FlowClosed, Interface
from tests.unit.core.test_withdrawing import AOR, reginfo
from tests.unit.core.world import (
    CK,
    CORE,
    IK,
    NONCE,
    REALM,
    Phone,
    World,
    answer,
    challenge,
    from_core,
    offer,
    ok,
    settings,
)

SECOND = "bm9uY2UtMg=="
ROUTE = "<sip:orig@10.46.0.2:5060;lr>"
BEYOND = "<sip:mo@10.46.0.2:5060;lr=on;ftag=u1>"
PS, PC = 5100, 5104
SDP = (
    "v=0\r\no=- 1 1 IN IP4 10.45.0.2\r\ns=-\r\nc=IN IP4 10.45.0.2\r\nt=0 0\r\nm=audio 4000 RTP/AVP 96\r\n"
    "a=curr:qos local none\r\na=curr:qos remote none\r\na=des:qos mandatory local sendrecv\r\n"
)
both = pytest.mark.parametrize("transport", ["UDP", "TCP"])


@pytest.fixture
def world() -> World:
    return World()


def ue_a(world: World, transport: str = "UDP") -> Phone:
    """UE-A of the digest: port_uc 31800, port_us 31801."""
    return Phone(world, transport=transport, offer=offer("hmac-sha-1-96/aes-cbc", spi=1_000_000_101))


def ue_b(world: World, transport: str = "UDP") -> Phone:
    """UE-B of the digest: port_uc 41800, port_us 41801."""
    return Phone(
        world,
        address="10.45.0.3",
        transport=transport,
        user=f"001010000000002@{REALM}",
        call_id="regb",
        instance="<urn:b>",
        offer=offer("hmac-sha-1-96/aes-cbc", spi=1_000_000_201, port=41800),
    )


def registration_of(world: World, phone: Phone) -> Registration:
    (found,) = [each for each in world.proxy.registrar if str(each.key.address) == phone.address]
    return found


def sa(phone: Phone, flow: Flow, *, up: bool = False) -> int:
    """The row of the four SAs that carries a message on this flow: up from the UE, or down to it."""
    ours, theirs = (flow.local, flow.local_port), (flow.remote, flow.remote_port)
    way = (*theirs, *ours) if up else (*ours, *theirs)
    (spi,) = [
        sa_id.spi
        for sa_id, each in phone.world.kernel.sas.items()
        for ends in [each.selector]
        if (ends.source, ends.source_port, ends.destination, ends.destination_port) == way
    ]
    rows = [
        phone.number("spi-s", phone.security_server),
        phone.number("spi-c", phone.offer),
        phone.number("spi-s", phone.offer),
        phone.number("spi-c", phone.security_server),
    ]
    return rows.index(spi) + 1


def connection(phone: Phone) -> Flow:
    """A TCP connection that the P-CSCF opened: port_pc to port_us."""
    ends = (phone.number("port-c", phone.security_server), phone.number("port-s", phone.offer))
    return phone.uplink._replace(transport="TCP", local_port=ends[0], remote_port=ends[1])


def up(phone: Phone, data: bytes, flow: Flow | None = None) -> tuple[str, int, int, int]:
    """The UE sends; gives transport, source port, destination port and SA row."""
    way = flow or phone.uplink
    row = sa(phone, way, up=True)
    phone.world.receive(data, way)
    return way.transport, way.remote_port, way.local_port, row


def down(phone: Phone) -> tuple[tuple[str, int, int, int], Request | Response]:
    """The one message to the UE since the last look, and transport, source port, destination port and SA row."""
    sent = [each for each in phone.world.sent if each[0].interface is not Interface.MW]
    (flow, message) = sent[0]
    assert len(sent) == 1, sent
    phone.world.sent.remove((flow, message))
    assert str(flow.remote) == phone.address
    return (flow.transport, flow.local_port, flow.remote_port, sa(phone, flow)), message


def clear(flow: Flow) -> tuple[int, int, Interface]:
    return flow.remote_port, flow.local_port, flow.interface


def status(message: Request | Response) -> int:
    assert isinstance(message, Response)
    return message.status


def authorization(request: Request) -> str:
    return request.first("authorization") or ""


UP = {"UDP": ("UDP", 31800, PS, 1), "TCP": ("TCP", 31800, PS, 1)}
"""A up, by the transport of the message."""
DOWN = {"UDP": ("UDP", PC, 31801, 3), "TCP": ("TCP", PS, 31800, 2)}
"""A down: a response, or over TCP whatever takes the connection of the UE."""


@both
def test_registration(world: World, transport: str) -> None:
    """F1, F2, F3, F4, F5, F6: in clear from 5060 to 5060, the challenge, then each message on its SA."""
    phone = ue_a(world, transport)
    assert clear(phone.clear) == (5060, 5060, Interface.GM)
    at_core = phone.first()
    assert authorization(at_core).endswith('response="",integrity-protected="no"')
    assert at_core.values("require") == ["path"] and at_core.values("p-visited-network-id") == ['"visited.example"']
    world.receive(challenge(at_core), CORE)
    ((flow, response),) = world.sent
    assert clear(flow) == (5060, 5060, Interface.GM) and flow == phone.clear and status(response) == 401
    assert (response.first("www-authenticate") or "").endswith("algorithm=AKAv1-MD5")
    assert IK not in str(response) and CK not in str(response) and len(world.kernel.sas) == 4
    phone.security_server, phone.nonce = response.first("security-server") or "", NONCE
    world.sent.clear()
    assert up(phone, phone.answer()) == UP[transport]
    at_core = world.at_core()
    assert authorization(at_core).endswith('integrity-protected="yes"')
    assert at_core.lines("via")[1].startswith(f"SIP/2.0/{transport} 10.45.0.2:31801;")
    world.receive(ok(at_core), CORE)
    way, response = down(phone)
    assert way == DOWN[transport] and status(response) == 200
    registration = registration_of(world, phone)
    assert registration.sets[0].expires == world.now + 600_030
    assert registration.associated_uris[0] == f"<sip:+15551230001@{REALM}>"


def test_the_subscription_of_the_p_cscf(world: World) -> None:
    """F7: SUBSCRIBE, 200, NOTIFY full, 200 on Mw alone."""
    world.use(replace(settings(), reg_event=True))
    phone = ue_a(world)
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core()), CORE)
    (_, _), (flow, subscribe) = world.sent
    world.sent.clear()
    assert flow == CORE and isinstance(subscribe, Request) and subscribe.method == "SUBSCRIBE"
    assert (subscribe.uri, subscribe.first("event")) == (AOR, "reg")
    assert "10.46.0.1" in (subscribe.first("from") or "") and "10.46.0.1" in subscribe.values("p-asserted-identity")[0]
    world.receive(answer(subscribe, "200 OK", "Expires: 600000\r\nContact: <sip:10.46.0.2:5060>\r\n"), CORE)
    body = reginfo(0, "active")
    head = (
        f"NOTIFY {(subscribe.first('contact') or '').strip('<>')} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 10.46.0.2:5060;branch=z9hG4bKn1\r\nMax-Forwards: 70\r\n"
        f"From: {subscribe.first('to')};tag=core\r\nTo: {subscribe.first('from')}\r\n"
        f"Call-ID: {subscribe.first('call-id')}\r\nCSeq: 1 NOTIFY\r\nEvent: reg\r\n"
        f"Subscription-State: active;expires=600000\r\nContent-Type: application/reginfo+xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    world.receive(head.encode() + body, CORE)
    flow, response = world.take()
    assert flow == CORE and status(response) == 200


@both
def test_the_subscription_of_the_ue(world: World, transport: str) -> None:
    """F8: SUBSCRIBE up, 200 down with our Record-Route entry made reachable, NOTIFY down, its 200 up."""
    phone = ue_a(world, transport)
    phone.registered()
    assert up(phone, phone.request("SUBSCRIBE", AOR, extra="Event: reg\r\nExpires: 600000\r\n")) == UP[transport]
    at_core = world.at_core()
    assert at_core.values("route") == [ROUTE]
    assert at_core.values("p-asserted-identity") == [f"<{AOR}>"] and not at_core.lines("security-verify")
    ours = at_core.values("record-route")
    world.receive(answer(at_core, "200 OK", "Expires: 600000\r\n", record=True), CORE)
    way, response = down(phone)
    assert way == DOWN[transport] and status(response) == 200
    assert len(ours) == 1 and response.values("record-route") == ["<sip:10.45.0.1:5100;lr>"]
    uri = f"sip:10.45.0.2:31801;transport={transport.lower()}"
    notify = from_core(
        "NOTIFY", registration_of(world, phone), uri, call_id="call1", from_tag="core", to_tag="u1",
        extra="Event: reg\r\nSubscription-State: active\r\n",
    )  # fmt: skip
    world.receive(notify, CORE)
    way, request = down(phone)
    assert way == DOWN[transport] and request.lines("via")[0].startswith(f"SIP/2.0/{transport} 10.45.0.1:5100;")
    assert isinstance(request, Request)
    assert up(phone, answer(request, "200 OK")) == UP[transport]
    assert world.take()[0] == CORE


def test_a_long_notify_to_a_ue_that_talks_udp(world: World) -> None:
    """F8, A2: over 1300 octets we connect from port_pc to port_us on SA 3, and its answer comes back on SA 4."""
    phone = ue_a(world)
    phone.registered()
    world.receive(from_core("NOTIFY", registration_of(world, phone), body="x" * 1400), CORE)
    assert world.sent[0][0] in world.connects
    way, request = down(phone)
    assert way == ("TCP", PC, 31801, 3) and isinstance(request, Request)
    assert up(phone, answer(request, "200 OK"), connection(phone)) == ("TCP", 31801, PC, 4)
    assert world.take()[0] == CORE


MESSAGES = {
    "UDP": (("UDP", PC, 41801, 3), ("UDP", 41800, PS, 1), ("UDP", PC, 31801, 3)),
    "TCP on a connection of ours": (("TCP", PC, 41801, 3), ("TCP", 41801, PC, 4), ("TCP", PS, 31800, 2)),
    "TCP on the connection of B": (("TCP", PS, 41800, 2), ("TCP", 41800, PS, 1), ("TCP", PS, 31800, 2)),
}
"""P to B, B to P, P to A."""


@pytest.mark.parametrize("how", MESSAGES)
def test_message(world: World, how: str) -> None:
    """F9: A to B and back; every leg on the ports of the table. P is not in the Record-Route."""
    transport = how[:3]
    a, b = ue_a(world, transport), ue_b(world, transport)
    a.registered()
    b.registered()
    if "ours" in how:
        world.handle(FlowClosed(b.uplink, "closed"))
    to_b, from_b, to_a = MESSAGES[how]
    assert up(a, a.request("MESSAGE", body="hello")) == UP[transport]
    at_core = world.at_core()
    assert at_core.values("p-asserted-identity") == [f"<sip:+15551230001@{REALM}>"] and not at_core.lines(
        "record-route"
    )
    uri = f"sip:10.45.0.3:41801;transport={transport.lower()}"
    extra = "Privacy: id\r\nP-Called-Party-ID: <tel:+15551230001>\r\n"
    world.receive(from_core("MESSAGE", registration_of(world, b), uri, extra=extra, body="hello"), CORE)
    way, request = down(b)
    assert way == to_b and isinstance(request, Request) and request.body == b"hello"
    assert not request.lines("p-asserted-identity") and not request.lines("p-charging-vector")
    assert up(b, answer(request, "200 OK"), connection(b) if "ours" in how else None) == from_b
    flow, response = world.take()
    assert flow == CORE and response.values("p-asserted-identity") == ["<tel:+15551230001>"]
    world.receive(answer(at_core, "200 OK"), CORE)
    way, response = down(a)
    assert way == to_a and status(response) == 200


class Call:
    """A call from A to B, the core between them made of text; each step checks the ports of both legs."""

    def __init__(self, world: World, a: Phone, b: Phone, transport: str) -> None:
        self.world, self.a, self.b = world, a, b
        self.transport = transport
        self.to_b = {"UDP": ("UDP", PC, 41801, 3), "TCP": ("TCP", PS, 41800, 2)}[transport]
        self.from_b = (transport, 41800, PS, 1)
        self.way = f"<sip:10.45.0.1:5100;lr>, {BEYOND}"
        self.uri = f"sip:10.45.0.3:41801;transport={transport.lower()}"

    def request(self, method: str, cseq: int, *, body: str = "", extra: str = "") -> tuple[Request, Request]:
        """A up, then B down; gives the request as the core and as B have it."""
        first = method == "INVITE"
        changes: dict[str, str] = {} if first else {"route": self.way, "to_tag": "core"}
        branch = f"z9hG4bKa{method}{cseq}"
        data = self.a.request(method, cseq=cseq, body=body, extra=extra, branch=branch, **changes)
        assert up(self.a, data) == UP[self.transport]
        if first:
            way, trying = down(self.a)
            assert way == DOWN[self.transport] and status(trying) == 100
        at_core = self.world.at_core()
        assert at_core.values("route") == ([ROUTE] if first else [BEYOND])
        to_tag = "" if first else "b1"
        branch = f"z9hG4bKmt{method}{cseq}"
        self.world.receive(
            from_core(
                method, registration_of(self.world, self.b), self.uri, cseq=cseq, to_tag=to_tag, body=body, extra=extra,
                branch=branch,
            ),
            CORE,
        )  # fmt: skip
        way, at_b = down(self.b)
        assert way == self.to_b and isinstance(at_b, Request)
        assert at_b.lines("via")[0].startswith(f"SIP/2.0/{self.transport} 10.45.0.1:5100;")
        if first:
            assert at_b.values("record-route")[0] == "<sip:10.45.0.1:5100;lr>"
            assert status(self.world.take()[1]) == 100, "and to the core"
        return at_core, at_b

    def response(self, at_core: Request, at_b: Request, words: str, extra: str = "") -> None:
        """B up, then A down."""
        record = at_b.first("record-route") is not None and at_b.method == "INVITE"
        assert up(self.b, answer(at_b, words, extra, tag="b1", record=record)) == self.from_b
        flow, response = self.world.take()
        assert flow == CORE and status(response) == int(words[:3])
        above = f"Record-Route: {BEYOND}, {at_core.first('record-route')}\r\n" if record else ""
        self.world.receive(answer(at_core, words, above + extra), CORE)
        way, response = down(self.a)
        assert way == DOWN[self.transport] and status(response) == int(words[:3])
        if record:
            assert response.values("record-route") == [BEYOND, "<sip:10.45.0.1:5100;lr>"]


@pytest.fixture(params=["UDP", "TCP"])
def call(world: World, request: pytest.FixtureRequest) -> Call:
    a, b = ue_a(world, request.param), ue_b(world, request.param)
    a.registered()
    b.registered()
    return Call(world, a, b, request.param)


def established(call: Call) -> None:
    at_core, at_b = call.request("INVITE", 1, extra="Supported: 100rel, precondition\r\n")
    call.response(at_core, at_b, "200 OK")
    call.request("ACK", 1)


def test_call_with_preconditions(call: Call) -> None:
    """F10: INVITE, 100, 183, PRACK, UPDATE, 180, PRACK, 200, ACK: ten steps, the ports of every one on both legs."""
    rel = "Require: 100rel\r\nRSeq: {}\r\n"
    invite, invite_b = call.request("INVITE", 1, body=SDP, extra="Supported: 100rel, precondition\r\n")
    assert up(call.b, answer(invite_b, "100 Trying", tag="")) == call.from_b
    assert call.world.silent(), "its 100 stops here"
    call.response(invite, invite_b, "183 Session Progress", rel.format(1))
    call.response(*call.request("PRACK", 2, extra="RAck: 1 1 INVITE\r\n"), "200 OK")
    call.response(*call.request("UPDATE", 3, body=SDP), "200 OK")
    call.response(invite, invite_b, "180 Ringing", rel.format(2))
    call.response(*call.request("PRACK", 4, extra="RAck: 2 1 INVITE\r\n"), "200 OK")
    call.response(invite, invite_b, "200 OK")
    call.request("ACK", 1)
    assert call.world.silent(), "an ACK has no answer"
    assert len(call.world.proxy.dialogs) == 2


def test_each_request_of_a_dialog_has_a_transport_of_its_own(world: World) -> None:
    """F10: the INVITE over TCP by its size on connections of ours and of A, the PRACK over UDP."""
    a, b = ue_a(world), ue_b(world)
    a.registered()
    b.registered()
    tcp = a.uplink._replace(transport="TCP")
    a.transport = "TCP"
    assert up(a, a.request("INVITE", body=SDP + "a=x\r\n" * 300), tcp) == ("TCP", 31800, PS, 1)
    way, _ = down(a)
    assert way == ("TCP", PS, 31800, 2)
    at_core = world.at_core()
    world.receive(from_core("INVITE", registration_of(world, b), "sip:10.45.0.3:41801", body="x" * 1400), CORE)
    way, at_b = down(b)
    assert way == ("TCP", PC, 41801, 3) and isinstance(at_b, Request)
    world.sent.clear()
    early = answer(at_b, "183 Session Progress", "Require: 100rel\r\nRSeq: 1\r\n", tag="b1", record=True)
    assert up(b, early, connection(b)) == ("TCP", 41801, PC, 4)
    assert world.take()[0] == CORE
    above = f"Record-Route: {BEYOND}, {at_core.first('record-route')}\r\n"
    world.receive(answer(at_core, "183 Session Progress", above + "RSeq: 1\r\n"), CORE)
    way, _ = down(a)
    assert way == ("TCP", PS, 31800, 2)
    a.transport = "UDP"
    prack = a.request("PRACK", route=f"<sip:10.45.0.1:5100;lr>, {BEYOND}", to_tag="core", cseq=2)
    assert up(a, prack) == ("UDP", 31800, PS, 1)
    at_core = world.at_core()
    uri = "sip:10.45.0.3:41801"
    world.receive(from_core("PRACK", registration_of(world, b), uri, to_tag="b1", cseq=2), CORE)
    way, prack_b = down(b)
    assert way == ("UDP", PC, 41801, 3) and isinstance(prack_b, Request)
    assert up(b, answer(prack_b, "200 OK")) == ("UDP", 41800, PS, 1)
    world.sent.clear()
    world.receive(answer(at_core, "200 OK", tag=""), CORE)
    way, _ = down(a)
    assert way == ("UDP", PC, 31801, 3)


def test_long_ringing(world: World) -> None:
    """F10: the connection of A died while it rang; A gets its 200 on one of ours, on SA 3 and never from 5060."""
    a, b = ue_a(world, "TCP"), ue_b(world, "TCP")
    a.registered()
    b.registered()
    call = Call(world, a, b, "TCP")
    invite, invite_b = call.request("INVITE", 1)
    call.response(invite, invite_b, "180 Ringing")
    world.handle(FlowClosed(a.uplink, "closed"))
    assert world.silent()
    assert up(b, answer(invite_b, "200 OK", tag="b1", record=True)) == ("TCP", 41800, PS, 1)
    assert world.take()[0] == CORE
    world.receive(answer(invite, "200 OK", f"Record-Route: {BEYOND}, {invite.first('record-route')}\r\n"), CORE)
    assert world.sent[0][0] in world.connects
    way, response = down(a)
    assert way == ("TCP", PC, 31801, 3) and status(response) == 200


def test_cancel(call: Call) -> None:
    """F11: CANCEL A up, its 200 and the 487 A down; CANCEL B down, its answers B up; each ACK hop by hop."""
    world, a, b = call.world, call.a, call.b
    invite, invite_b = call.request("INVITE", 1)
    call.response(invite, invite_b, "180 Ringing")
    assert up(a, a.request("CANCEL", branch="z9hG4bKaINVITE1")) == UP[call.transport]
    way, response = down(a)
    assert way == DOWN[call.transport] and status(response) == 200
    assert world.at_core().method == "CANCEL"
    world.receive(from_core("CANCEL", registration_of(world, b), call.uri, branch="z9hG4bKmtINVITE1"), CORE)
    way, cancel_b = down(b)
    assert way == call.to_b and isinstance(cancel_b, Request) and cancel_b.method == "CANCEL"
    assert cancel_b.lines("via") == invite_b.lines("via")[:1]
    assert status(world.take()[1]) == 200
    assert up(b, answer(cancel_b, "200 OK")) == call.from_b
    assert up(b, answer(invite_b, "487 Request Terminated", tag="b1")) == call.from_b
    way, ack = down(b)
    assert way == call.to_b and isinstance(ack, Request) and ack.method == "ACK"
    assert status(world.take()[1]) == 487
    world.receive(answer(invite, "487 Request Terminated"), CORE)
    way, response = down(a)
    assert way == DOWN[call.transport] and status(response) == 487
    assert world.at_core().method == "ACK"
    assert up(a, a.request("ACK", to_tag="core", branch="z9hG4bKaINVITE1")) == UP[call.transport]
    assert world.silent()


def test_bye_of_a(call: Call) -> None:
    """F11: BYE A up and B down, its 200 B up and A down; the dialogs are gone."""
    established(call)
    call.response(*call.request("BYE", 5), "200 OK")
    assert not len(call.world.proxy.dialogs)


def test_bye_of_b(call: Call) -> None:
    """F11: the other way round."""
    established(call)
    world, a, b = call.world, call.a, call.b
    way = "<sip:10.45.0.1:5100;lr>, <sip:mt@10.46.0.2:5060;lr=on;ftag=peer>"
    bye = b.request("BYE", "sip:caller@home", route=way, to_tag="peer", from_tag="b1", call_id="mt1")
    assert up(b, bye) == call.from_b
    at_core = world.at_core()
    uri = f"sip:10.45.0.2:31801;transport={call.transport.lower()}"
    registration = registration_of(world, a)
    world.receive(from_core("BYE", registration, uri, call_id="call1", from_tag="core", to_tag="u1"), CORE)
    ports, bye_a = down(a)
    assert ports == DOWN[call.transport] and isinstance(bye_a, Request)
    assert up(a, answer(bye_a, "200 OK")) == UP[call.transport]
    assert world.take()[0] == CORE
    world.receive(answer(at_core, "200 OK"), CORE)
    ports, response = down(b)
    assert ports == call.to_b and status(response) == 200 and not len(world.proxy.dialogs)


@both
def test_reregistration_without_challenge(world: World, transport: str) -> None:
    """F12a: on S1 both ways, `yes`, no new SAs, the lifetime moved."""
    phone = ue_a(world, transport)
    phone.registered()
    world.wait(1000)
    after = phone.again(spi=1_000_000_103, port=31802)
    assert up(phone, phone.reregister(after)) == UP[transport]
    at_core = world.at_core()
    assert authorization(at_core).endswith('integrity-protected="yes"')
    world.receive(ok(at_core), CORE)
    way, response = down(phone)
    assert way == DOWN[transport] and status(response) == 200
    assert len(world.kernel.sas) == 4 and registration_of(world, phone).sets[0].expires == world.now + 600_030


@both
def test_reregistration_with_challenge(world: World, transport: str) -> None:
    """F12b: the 401 on S1, SM7 and its 200 on S2; then requests to A on S1 until A is seen on S2."""
    phone = ue_a(world, transport)
    phone.registered()
    after = phone.again(spi=1_000_000_103, port=31802)
    assert up(phone, phone.reregister(after)) == UP[transport]
    world.receive(challenge(world.at_core(), nonce=SECOND), CORE)
    way, response = down(phone)
    assert way == DOWN[transport] and status(response) == 401
    after.security_server, after.nonce = response.first("security-server") or "", SECOND
    second = after.number("port-c", after.security_server)
    assert second != PC and after.number("port-s", after.security_server) == PS
    assert up(after, after.answer()) == (transport, 31802, PS, 1)
    world.receive(ok(world.at_core()), CORE)
    way, response = down(after)
    assert (
        way == {"UDP": ("UDP", second, 31801, 3), "TCP": ("TCP", PS, 31802, 2)}[transport] and status(response) == 200
    )
    registration = registration_of(world, phone)
    world.receive(from_core("MESSAGE", registration), CORE)
    assert down(phone)[0] == ("UDP", PC, 31801, 3), "still on S1"
    assert up(after, after.request("MESSAGE")) == (transport, 31802, PS, 1)
    world.at_core()
    world.receive(from_core("MESSAGE", registration, call_id="mt2"), CORE)
    assert down(after)[0] == ("UDP", second, 31801, 3), "and now on S2"
    world.wait(129)
    assert len(world.kernel.sas) == 4
    if transport == "TCP":
        assert phone.uplink in world.closed, "the connections of S1 go with it"


@both
def test_a_ue_that_lost_its_sas(world: World, transport: str) -> None:
    """F12c: as F1; when it succeeds S1 is deleted at once."""
    ue_a(world, transport).registered()
    lost = ue_a(world, transport)
    lost.call_id, lost.offer = "reg2", offer("hmac-sha-1-96/aes-cbc", spi=1_000_000_103, port=31802)
    lost.challenged(nonce=SECOND)
    assert len(world.kernel.sas) == 8
    assert up(lost, lost.answer()) == (transport, 31802, PS, 1)
    world.receive(ok(world.at_core()), CORE)
    assert status(down(lost)[1]) == 200 and len(world.kernel.sas) == 4


@both
def test_deregistration(world: World, transport: str) -> None:
    """F13: up on the set in use with `yes`, its 200 down on the same, again for a retransmission; then all is gone."""
    phone = ue_a(world, transport)
    phone.registered()
    data = phone.reregister(phone.again(), expires=0)
    assert up(phone, data) == UP[transport]
    at_core = world.at_core()
    assert authorization(at_core).endswith('integrity-protected="yes"')
    world.receive(answer(at_core, "200 OK"), CORE)
    way, response = down(phone)
    assert way == DOWN[transport] and status(response) == 200
    if transport == "UDP":
        assert up(phone, data) == UP[transport]
        assert down(phone)[0] == DOWN[transport]
        world.wait(127)
        assert len(world.kernel.sas) == 4
        world.wait(2)
    else:
        world.wait(18)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def wrong_k(world: World, phone: Phone) -> None:
    phone.challenged()
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=50001, port=32000)
    at_core = phone.first(authorization=f'nonce="{NONCE}",response=""')
    assert not world.kernel.sas and authorization(at_core).endswith('"no"')


def sqn_too_old(world: World, phone: Phone) -> None:
    phone.challenged()
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=50001, port=32000)
    at_core = phone.first(authorization=f'nonce="{NONCE}",auts="uoU/PBIctV7bggBAq0E=",response=""')
    assert 'auts="uoU/PBIctV7bggBAq0E="' in authorization(at_core)
    phone.challenged(at_core, nonce=SECOND)
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert status(down(phone)[1]) == 200


def res_wrong(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    world.receive(answer(world.at_core(), "403 Forbidden"), CORE)
    way, response = down(phone)
    assert way == ("UDP", PC, 31801, 3) and status(response) == 403
    world.wait(129)
    assert not world.kernel.sas


def wrong_ik(world: World, phone: Phone) -> None:
    phone.challenged()
    world.wait(241)
    assert world.silent() and not world.kernel.sas


def edited_security_verify(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(verify=phone.security_server.rpartition(", ")[0]), phone.uplink)
    assert status(down(phone)[1]) == 494 and world.silent()


def edited_security_client(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(client=offer("hmac-sha-1-96/null", spi=1_000_000_101)), phone.uplink)
    assert status(down(phone)[1]) in range(400, 500) and world.silent()


def other_than_register_in_clear(world: World, phone: Phone) -> None:
    world.receive(phone.register().replace(b"REGISTER", b"MESSAGE"), phone.clear)
    assert status(world.at_phone()[1]) == 403


def sm7_from_another_address(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(), phone.uplink._replace(remote=ue_b(world).clear.remote))
    assert world.silent()


def identity_of_another(world: World, phone: Phone) -> None:
    phone.registered()
    other = ue_b(world)
    other.registered()
    extra = f"P-Preferred-Identity: <sip:{phone.user}>\r\n"
    world.receive(other.request("MESSAGE", extra=extra), other.uplink)
    assert world.at_core().values("p-asserted-identity") == [f"<sip:+15551230001@{REALM}>"]


def route_of_its_own(world: World, phone: Phone) -> None:
    phone.registered()
    route = "<sip:10.45.0.1:5100;lr>, <sip:evil.example;lr>"
    world.receive(phone.request("MESSAGE", route=route), phone.uplink)
    assert status(down(phone)[1]) == 400 and world.silent()


@pytest.mark.parametrize(
    "leg",
    [
        wrong_k,
        sqn_too_old,
        res_wrong,
        wrong_ik,
        edited_security_verify,
        edited_security_client,
        other_than_register_in_clear,
        sm7_from_another_address,
        identity_of_another,
        route_of_its_own,
    ],
)
def test_failure_legs(world: World, leg: Callable[[World, Phone], None]) -> None:
    """F14, as far as SIP sees it; wrong IK, clear packets to port_ps and replayed ESP on the wire: tests/kernel."""
    leg(world, ue_a(world))


def test_long_ringing_of_b() -> None:
    """F10: B rings; its idle connection ends (FIN). No second INVITE; its 200 comes on a connection of its own."""
    world = World()
    a, b = ue_a(world, "TCP"), ue_b(world, "TCP")
    a.registered()
    b.registered()
    call = Call(world, a, b, "TCP")
    invite, invite_b = call.request("INVITE", 1)
    call.response(invite, invite_b, "180 Ringing")
    world.handle(FlowClosed(b.uplink, "closed"))
    assert world.silent(), "a second INVITE to a phone that rings"
    assert up(b, answer(invite_b, "200 OK", tag="b1", record=True)) == ("TCP", 41800, PS, 1)
    assert world.take()[0] == CORE
