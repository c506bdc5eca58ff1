"""Requests to a UE: by token to the set in use, and what each side may see (digest A2, C8, F9, F10; real-core.md)."""

import pytest

from pcscf.registration import Registration
from pcscf.sip.message import Request, Response
from pcscf.vocabulary import FlowClosed
from tests.unit.core.world import CORE, REALM, Phone, World, answer, from_core, offer

IMPU = f"<sip:+15551230001@{REALM}>"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> Phone:
    phone = Phone(world)
    phone.registered()
    return phone


def only(world: World) -> Registration:
    (registration,) = world.proxy.registrar
    return registration


def delivered(world: World, phone: Phone, method: str = "MESSAGE", **changes: object) -> Request:
    """A request of the core as the phone sees it."""
    world.receive(from_core(method, only(world), **changes), CORE)  # type: ignore[arg-type]
    if method == "INVITE":
        flow, trying = world.sent.pop(0)
        assert flow == CORE and isinstance(trying, Response) and trying.status == 100
    flow, request = world.to_phone()
    assert flow == phone.downlink
    return request


def test_message_as_the_ue_sees_it(world: World, phone: Phone) -> None:
    """F9: Via with port_ps, no charging, no access network or visited network of the other side; PAI stays."""
    seen = delivered(world, phone, extra=f"P-Called-Party-ID: {IMPU}\r\nX-Own: kept \r\n", body="hi")
    assert seen.uri == "sip:10.45.0.2:31801" and not seen.lines("route")
    assert seen.lines("via")[0].startswith("SIP/2.0/UDP 10.45.0.1:5100;branch=z9hG4bK") and len(seen.lines("via")) == 3
    assert seen.first("max-forwards") == "59" and seen.body == b"hi"
    names = {item.name for item in seen.headers}
    assert not names & {"p-charging-vector", "p-access-network-info", "p-visited-network-id"}
    assert seen.values("p-asserted-identity") == ["<sip:caller@home>"]
    assert seen.values("p-called-party-id") == [IMPU]
    assert seen.values("record-route") == ["<sip:mt@10.46.0.2:5060;lr=on;ftag=peer>"], "not ours: no dialog comes of it"
    assert b"X-Own: kept \r\n" in seen.to_bytes()


def test_privacy_of_the_calling_user(world: World, phone: Phone) -> None:
    """B5: Privacy: id."""
    assert not delivered(world, phone, extra="Privacy: user;id\r\n").lines("p-asserted-identity")


def test_the_answer_as_the_core_sees_it(world: World, phone: Phone) -> None:
    """5.2.6.4.4: who answers is the called identity; what the UE claims is taken out; icid and term-ioi."""
    seen = delivered(world, phone, extra="P-Called-Party-ID: <tel:+15551230001>\r\n")
    extra = (
        "P-Asserted-Identity: <sip:victim@home>\r\nP-Charging-Vector: icid-value=evil\r\nFeature-Caps: *\r\n"
        "P-Access-Network-Info: x;network-provided\r\n"
    )
    world.receive(answer(seen, "200 OK", extra), phone.uplink)
    flow, response = world.take()
    assert flow == CORE and len(response.lines("via")) == 2
    assert response.values("p-asserted-identity") == ["<tel:+15551230001>"]
    assert response.values("p-charging-vector") == ['icid-value=far;orig-ioi=home;term-ioi="visited.example"']
    assert b"evil" not in response.to_bytes() and b"victim" not in response.to_bytes()
    assert not response.lines("p-access-network-info") and not response.lines("feature-caps")


@pytest.mark.parametrize(
    ("preferred", "called", "asserted"),
    [
        ("", "", IMPU),
        ("<tel:+15551230001>", "", "<tel:+15551230001>"),
        ("<sip:victim@home>", "", IMPU),
        ("<tel:+15551230001>", IMPU, "<tel:+15551230001>"),
    ],
)
def test_who_answers(world: World, phone: Phone, preferred: str, called: str, asserted: str) -> None:
    """Without P-Called-Party-ID (a real core sends none) the default identity."""
    seen = delivered(world, phone, extra=f"P-Called-Party-ID: {called}\r\n" if called else "")
    world.receive(answer(seen, "200 OK", f"P-Preferred-Identity: {preferred}\r\n" if preferred else ""), phone.uplink)
    assert world.take()[1].values("p-asserted-identity") == [asserted]


@pytest.mark.parametrize(
    ("size", "uri", "transport"),
    [
        (10, "sip:10.45.0.2:31801", "UDP"),
        (1400, "sip:10.45.0.2:31801", "TCP"),
        (10, "sip:10.45.0.2:31801;transport=tcp", "TCP"),
    ],
)
def test_transport_by_size_and_by_contact(world: World, phone: Phone, size: int, uri: str, transport: str) -> None:
    """4.2A: over 1300 octets by TCP, from port_pc to port_us, opened by us; the Via says the same."""
    world.receive(from_core("MESSAGE", only(world), uri, body="x" * size), CORE)
    flow, request = world.to_phone()
    assert flow == phone.downlink._replace(transport=transport)  # type: ignore[arg-type]
    assert request.lines("via")[0].startswith(f"SIP/2.0/{transport} 10.45.0.1:5100;")
    assert (flow in world.connects) == (transport == "TCP")
    assert world.secured(flow)


def test_1300_octets_is_the_last_that_goes_over_udp(world: World, phone: Phone) -> None:
    seen = {}
    for number, size in enumerate(range(640, 1000), start=100):
        world.receive(from_core("MESSAGE", only(world), cseq=number, body="x" * size), CORE)
        flow, request = world.to_phone()
        seen[len(request.to_bytes())] = flow.transport
    assert {seen[size] for size in seen if size <= 1300} == {"UDP"} and 1300 in seen
    assert {seen[size] for size in seen if size > 1300} == {"TCP"} and 1301 in seen


def test_an_open_connection_is_used_again(world: World) -> None:
    phone = Phone(world, transport="TCP")
    phone.registered()
    world.receive(from_core("MESSAGE", only(world), body="x" * 1400), CORE)
    flow, request = world.to_phone()
    assert flow == phone.uplink and flow not in world.connects, "the one the UE opened"
    world.receive(answer(request, "200 OK"), phone.uplink)
    assert world.take()[0] == CORE


def test_a_ue_without_tcp_gets_it_over_udp(world: World, phone: Phone) -> None:
    """RFC 3261 18.1.1: when the connection cannot be made, a new transaction over UDP (field trap 33)."""
    world.receive(from_core("MESSAGE", only(world), body="x" * 1400), CORE)
    tcp, first = world.to_phone()
    world.handle(FlowClosed(tcp, "refused"))
    udp, second = world.to_phone()
    assert udp == phone.downlink and second.lines("via")[0] != first.lines("via")[0]
    world.receive(answer(second, "200 OK"), phone.uplink)
    assert world.take()[0] == CORE


def test_a_silent_ue(world: World, phone: Phone) -> None:
    """408 upstream; the registration stays (C8)."""
    delivered(world, phone)
    world.wait(129)
    statuses = [message.status for flow, message in world.sent if flow == CORE and isinstance(message, Response)]
    assert statuses == [408] and only(world).registered


def test_retransmissions_follow_the_timers_of_gm(world: World, phone: Phone) -> None:
    """C0: T1 is 2 s there, and each takes the socket of the first (field trap 27)."""
    delivered(world, phone)
    world.wait(1.9)
    assert world.silent()
    world.wait(0.2)
    assert world.to_phone()[0] == phone.downlink


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Route: <sip:term-", b"Route: <sip:other-"), 480),
        ((b"@10.46.0.1:5060;lr>", b"@10.46.0.7:5060;lr>"), 404),
        ((b"Max-Forwards: 60", b"Max-Forwards: 0"), 483),
    ],
)
def test_what_finds_no_ue(world: World, phone: Phone, change: tuple[bytes, bytes], status: int) -> None:
    world.receive(from_core("MESSAGE", only(world)).replace(*change), CORE)
    flow, response = world.take()
    assert flow == CORE and isinstance(response, Response) and response.status == status


def test_a_token_of_a_ue_that_is_gone(world: World, phone: Phone) -> None:
    registration = only(world)
    world.wait(700_000)
    world.receive(from_core("MESSAGE", registration), CORE)
    assert isinstance(response := world.take()[1], Response) and response.status == 480


def test_options_of_the_core_to_us(world: World) -> None:
    data = (
        "OPTIONS sip:10.46.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 10.46.0.2:5060;branch=z9hG4bKping\r\n"
        "From: <sip:ping@home>;tag=p\r\nTo: <sip:10.46.0.1>\r\nCall-ID: ping\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    world.receive(data.encode(), CORE)
    flow, response = world.take()
    assert flow == CORE and isinstance(response, Response) and response.status == 200


def test_a_call_to_the_ue_from_invite_to_bye(world: World, phone: Phone) -> None:
    """F10 B side: Record-Route with port_ps toward the UE, the core's own list back; PRACK, ACK, BYE."""
    at_phone = delivered(world, phone, "INVITE", extra="Supported: 100rel\r\n")
    assert at_phone.values("record-route") == ["<sip:10.45.0.1:5100;lr>", "<sip:mt@10.46.0.2:5060;lr=on;ftag=peer>"]
    world.receive(
        answer(at_phone, "183 Session Progress", "RSeq: 1\r\nRequire: 100rel\r\n", tag="u9", record=True), phone.uplink
    )
    flow, response = world.take()
    token = only(world).path_token
    assert flow == CORE
    expected = [f"<sip:{token}@10.46.0.1:5060;lr>", "<sip:mt@10.46.0.2:5060;lr=on;ftag=peer>"]
    assert response.values("record-route") == expected
    prack = delivered(world, phone, "PRACK", call_id="mt1", to_tag="u9", cseq=2)
    world.receive(answer(prack, "200 OK"), phone.uplink)
    assert world.take()[0] == CORE
    tampered = answer(at_phone, "200 OK", "Record-Route: <sip:evil;lr>\r\n", tag="u9")
    world.receive(tampered, phone.uplink)
    assert world.take()[1].values("record-route") == expected, "restored"
    ack = delivered(world, phone, "ACK", call_id="mt1", to_tag="u9", branch="z9hG4bKack")
    assert ack.method == "ACK"
    way = "<sip:10.45.0.1:5100;lr>, <sip:mt@10.46.0.2:5060;lr=on;ftag=peer>"
    bye = phone.request("BYE", "sip:caller@10.46.0.9", route=way, to_tag="peer", from_tag="u9", call_id="mt1")
    world.receive(bye, phone.uplink)
    at_core = world.at_core()
    assert at_core.values("route") == ["<sip:mt@10.46.0.2:5060;lr=on;ftag=peer>"]
    world.receive(answer(at_core, "200 OK"), CORE)
    assert world.at_phone()[1].status == 200 and not len(world.proxy.dialogs)


def test_cancel_of_the_core(world: World, phone: Phone) -> None:
    at_phone = delivered(world, phone, "INVITE")
    world.receive(answer(at_phone, "180 Ringing", tag="u9", record=True), phone.uplink)
    world.sent.clear()
    world.receive(from_core("CANCEL", only(world), branch="z9hG4bKINVITE1mt1"), CORE)
    (to_core, own), (to_ue, cancel) = world.sent
    world.sent.clear()
    assert to_core == CORE and isinstance(own, Response) and own.status == 200
    assert to_ue == phone.downlink and isinstance(cancel, Request) and cancel.method == "CANCEL"
    assert cancel.lines("via") == at_phone.lines("via")[:1]
    world.receive(answer(at_phone, "487 Request Terminated", tag="u9"), phone.uplink)
    methods = [
        message.method for flow, message in world.sent if isinstance(message, Request) and flow == phone.downlink
    ]
    assert methods == ["ACK"]


def test_another_ue_cannot_answer(world: World, phone: Phone) -> None:
    """The branch alone does not decide: a response counts on the SAs of the UE that was asked."""
    seen = delivered(world, phone)
    other = Phone(
        world,
        user=f"001010000000002@{REALM}",
        call_id="b",
        clear_port=5070,
        instance="<urn:b>",
        offer=offer("hmac-sha-1-96/null", spi=7000, port=41000),
    )
    other.registered()
    world.receive(answer(seen, "200 OK"), other.uplink)
    assert world.silent() and "response to nothing we asked" in world.problems[-1]
    world.receive(answer(seen, "200 OK"), phone.clear)
    assert world.silent(), "nor can anybody in clear"


def test_a_ues_answer_that_cannot_be_read(world: World, phone: Phone) -> None:
    """Field trap 40: an unparsable Contact or To of one UE is its own problem."""
    seen = delivered(world, phone, "INVITE")
    data = answer(seen, "200 OK", "Contact: <<<>>>\r\n", tag="u9", record=True).replace(b"To: <sip:", b"To: <<sip:")
    world.receive(data, phone.uplink)
    assert isinstance(response := world.take()[1], Response) and response.status == 502
