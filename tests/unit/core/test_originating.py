"""Requests from a UE: identity from the SA, way from the core, nothing else (digest A2, C7, F8 to F11)."""

import re

import pytest

from pcscf.originating import OriginatingSettings
from pcscf.register import Without
from pcscf.sip.message import Request, Response
from pcscf.vocabulary import Flow, FlowClosed
from tests.unit.core.world import CORE, NONCE, REALM, Phone, World, answer, from_core, offer, ok

IMPU = f"<sip:+15551230001@{REALM}>"
ROUTE = "<sip:orig@10.46.0.2:5060;lr>"
SDP = "v=0\r\no=- 1 1 IN IP4 10.45.0.2\r\ns=-\r\nc=IN IP4 10.45.0.2\r\nt=0 0\r\nm=audio 4000 RTP/AVP 96\r\n"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> Phone:
    phone = Phone(world)
    phone.registered()
    return phone


def sent(world: World, phone: Phone, method: str, **changes: object) -> Request:
    """Send a request and give what the core sees of it; an INVITE has had its 100."""
    world.receive(phone.request(method, **changes), phone.uplink)  # type: ignore[arg-type]
    if method == "INVITE":
        flow, trying = world.sent.pop(0)
        assert flow == phone.downlink and isinstance(trying, Response) and trying.status == 100
    return world.at_core()


def refused(world: World, phone: Phone, method: str, **changes: object) -> Response:
    """Send a request that goes no further and give the answer."""
    world.receive(phone.request(method, **changes), phone.uplink)  # type: ignore[arg-type]
    flow, response = world.at_phone()
    assert flow == phone.downlink
    return response


def invited(
    world: World, phone: Phone, *, record: str = "<sip:mo@10.46.0.2:5060;lr=on;ftag=u1>", extra: str = ""
) -> Request:
    """A call of the phone that rings: its dialog is early."""
    at_core = sent(world, phone, "INVITE", extra=extra)
    ours = at_core.first("record-route")
    world.receive(answer(at_core, "183 Session Progress", f"Record-Route: {record}, {ours}\r\nRSeq: 1\r\n"), CORE)
    world.sent.clear()
    return at_core


def test_message_as_the_core_sees_it(world: World, phone: Phone) -> None:
    """F8: own Route popped, the rest the Service-Route; PAI from the SA; PCV; nothing of the agreement."""
    seen = sent(
        world, phone, "MESSAGE", body="hello", extra="P-Preferred-Identity: <tel:+15551230001>\r\nX-Own: kept \r\n"
    )
    assert seen.values("route") == [ROUTE]
    assert seen.values("p-asserted-identity") == ["<tel:+15551230001>"]
    assert not seen.lines("p-preferred-identity") and not seen.lines("record-route")
    assert re.search(r'icid-value="[0-9a-f]{32}"', seen.first("p-charging-vector") or "")
    assert not [item for item in seen.headers if item.name.startswith("security-")] and not seen.lines("require")
    assert seen.first("max-forwards") == "69" and b"X-Own: kept \r\n" in seen.to_bytes()
    assert seen.lines("via")[0].startswith("SIP/2.0/UDP 10.46.0.1:5060;branch=z9hG4bK")
    assert (seen.first("from") or "").startswith("<sip:anonymous@")


def test_a_body_of_bytes_passes_untouched(world: World, phone: Phone) -> None:
    """SMS over IP (application/vnd.3gpp.sms)."""
    body = bytes(range(256))
    data = phone.request("MESSAGE", extra="Content-Type: application/vnd.3gpp.sms\r\n", body="x")
    data = data.replace(b"Content-Length: 1\r\n\r\nx", b"Content-Length: 256\r\n\r\n" + body)
    world.receive(data, phone.uplink)
    assert world.at_core().body == body


def test_the_answer_goes_back_inside_esp(world: World, phone: Phone) -> None:
    at_core = sent(world, phone, "MESSAGE")
    extra = (
        "P-Charging-Vector: icid-value=x\r\nP-Charging-Function-Addresses: ccf=x\r\nP-Asserted-Identity: <sip:b@h>\r\n"
    )
    world.receive(answer(at_core, "200 OK", extra), CORE)
    flow, response = world.at_phone()
    assert flow == phone.downlink and len(response.lines("via")) == 1
    assert not [item.name for item in response.headers if item.name.startswith("p-charging")]
    assert response.values("p-asserted-identity") == ["<sip:b@h>"]


@pytest.mark.parametrize("where", ["request", "response"])
def test_privacy_of_the_answering_user(world: World, phone: Phone, where: str) -> None:
    """B5: Privacy: id takes the asserted identity of the other side out."""
    privacy = "Privacy: id\r\n"
    at_core = sent(world, phone, "MESSAGE", extra=privacy if where == "request" else "")
    extra = "P-Asserted-Identity: <sip:b@h>\r\n" + (privacy if where == "response" else "")
    world.receive(answer(at_core, "200 OK", extra), CORE)
    assert not world.at_phone()[1].lines("p-asserted-identity")


@pytest.mark.parametrize(
    "extra",
    [
        f"P-Preferred-Identity: <sip:001010000000002@{REALM}>\r\n",
        "P-Preferred-Identity: <sip:victim@home>\r\nP-Asserted-Identity: <sip:victim@home>\r\n",
        "P-Preferred-Identity: rubbish\r\n",
        "",
    ],
)
def test_the_identity_is_the_sas_and_nobody_elses(world: World, phone: Phone, extra: str) -> None:
    """F14: user A's identity on B's SA: PAI is B's default, never A."""
    seen = sent(world, phone, "MESSAGE", extra=extra)
    assert seen.values("p-asserted-identity") == [IMPU]


@pytest.mark.parametrize(
    "line",
    [
        "P-Asserted-Identity: <sip:victim@home>",
        "P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.mmtel",
        "P-Charging-Vector: icid-value=mine",
        "P-Charging-Function-Addresses: ccf=10.0.0.1",
        "P-Visited-Network-ID: elsewhere",
        "P-Called-Party-ID: <sip:a@b>",
        "P-Served-User: <sip:a@b>",
        "Record-Route: <sip:mine;lr>",
        "Path: <sip:mine;lr>",
        "Service-Route: <sip:mine;lr>",
        "Feature-Caps: *",
        'P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp="1";network-provided',
    ],
)
def test_headers_a_ue_may_not_set(world: World, phone: Phone, line: str) -> None:
    """C1, B6: what a UE is not trusted with."""
    assert line not in sent(world, phone, "MESSAGE", extra=f"{line}\r\n").to_bytes().decode()


@pytest.mark.parametrize(
    "route",
    [
        "<sip:10.45.0.1:5100;lr>",
        "<sip:10.45.0.1:5100;lr>, <sip:evil.example;lr>",
        "<sip:10.45.0.1:5100;lr>, <sip:term@10.46.0.2:5060;lr>",
        f"<sip:10.45.0.1:5100;lr>, {ROUTE}, <sip:evil.example;lr>",
        "<sip:evil.example;lr>",
    ],
)
def test_a_route_that_is_not_the_service_route(world: World, phone: Phone, route: str) -> None:
    """C7 step 2, B4: 400 with a Warning; none at all is the saved one."""
    if route == "<sip:10.45.0.1:5100;lr>":
        assert sent(world, phone, "MESSAGE", route=route).values("route") == [ROUTE], "no Route at all: ours"
        return
    response = refused(world, phone, "MESSAGE", route=route)
    assert response.status == 400 and "Service-Route" in (response.first("warning") or "")


def test_a_wrong_route_may_be_corrected(phone: Phone) -> None:
    world = phone.world = World(OriginatingSettings(overwrite_route=True))
    phone.cseq = 0
    phone.registered()
    seen = sent(world, phone, "MESSAGE", route="<sip:10.45.0.1:5100;lr>, <sip:evil.example;lr>")
    assert seen.values("route") == [ROUTE]


def test_routes_are_compared_uri_by_uri(world: World, phone: Phone) -> None:
    route = '<SIP:10.45.0.1:5100;lr>,"Core" <sip:orig@10.46.0.2:5060;LR>;x=y'
    assert sent(world, phone, "MESSAGE", route=route).values("route") == [ROUTE]


def test_no_hops_left_and_unknown_extensions(world: World, phone: Phone) -> None:
    data = phone.request("MESSAGE").replace(b"Max-Forwards: 70", b"Max-Forwards: 0")
    world.receive(data, phone.uplink)
    assert world.at_phone()[1].status == 483
    response = refused(world, phone, "MESSAGE", cseq=2, extra="Proxy-Require: x-unknown\r\n")
    assert response.status == 420 and response.values("unsupported") == ["x-unknown"]


def test_a_wrong_security_verify_in_any_request(world: World, phone: Phone) -> None:
    right, phone.security_server = phone.security_server, phone.security_server.replace("spi-c=", "spi-c=1")
    data = phone.request("MESSAGE")
    phone.security_server = right
    world.receive(data, phone.uplink)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 494)
    assert response.first("security-server") == right


@pytest.mark.parametrize("method", ["PUBLISH", "INFO", "XYZZY", "NOTIFY", "OPTIONS"])
def test_other_methods_pass(world: World, phone: Phone, method: str) -> None:
    assert sent(world, phone, method).method == method


def test_options_to_ourselves(world: World, phone: Phone) -> None:
    def asked(method: str, cseq: int, extra: str = "") -> Response:
        return refused(world, phone, method, uri="sip:10.45.0.1:5100", route="", cseq=cseq, extra=extra)

    response = asked("OPTIONS", 1)
    assert response.status == 200 and "INVITE" in (response.first("allow") or "")
    assert "sec-agree" in (response.first("supported") or "")
    assert asked("OPTIONS", 2, "Require: x\r\n").values("unsupported") == ["x"]
    assert asked("MESSAGE", 3).status == 405


def test_a_call_from_invite_to_bye(world: World, phone: Phone) -> None:
    """F10, F11: Record-Route rewritten both ways; PRACK, UPDATE, ACK and BYE go by the route set."""
    at_core = sent(world, phone, "INVITE", body=SDP, extra="Supported: 100rel, precondition\r\n")
    ours = at_core.first("record-route") or ""
    (registration,) = world.proxy.registrar
    assert ours == f"<sip:{registration.path_token}@10.46.0.1:5060;lr>"
    theirs = "<sip:mt@10.46.0.9:6060;lr=on>, <sip:mo@10.46.0.2:5060;lr=on;ftag=u1>"
    progress = answer(
        at_core, "183 Session Progress", f"Record-Route: {theirs}, {ours}\r\nRequire: 100rel\r\nRSeq: 1\r\n"
    )
    world.receive(progress, CORE)
    flow, response = world.at_phone()
    assert flow == phone.downlink
    assert response.values("record-route") == [
        "<sip:mt@10.46.0.9:6060;lr=on>",
        "<sip:mo@10.46.0.2:5060;lr=on;ftag=u1>",
        "<sip:10.45.0.1:5100;lr>",
    ]
    way = "<sip:10.45.0.1:5100;lr>, <sip:mo@10.46.0.2:5060;lr=on;ftag=u1>, <sip:mt@10.46.0.9:6060;lr=on>"
    beyond = ["<sip:mo@10.46.0.2:5060;lr=on;ftag=u1>", "<sip:mt@10.46.0.9:6060;lr=on>"]
    for cseq, method in enumerate(("PRACK", "UPDATE"), start=2):
        seen = sent(world, phone, method, uri="sip:bob@10.46.0.99", route=way, to_tag="core", cseq=cseq)
        assert seen.values("route") == beyond and not seen.lines("p-asserted-identity")
        world.receive(answer(seen, "200 OK", tag=""), CORE)
        assert world.at_phone()[1].status == 200
    world.receive(answer(at_core, "200 OK", f"Record-Route: {theirs}, {ours}\r\n"), CORE)
    assert world.at_phone()[1].status == 200
    ack = sent(world, phone, "ACK", uri="sip:bob@10.46.0.99", route=way, to_tag="core", cseq=1, branch="z9hG4bKack")
    assert ack.values("route") == beyond and ack.uri == "sip:bob@10.46.0.99"
    assert len(world.proxy.dialogs) == 1
    bye = sent(world, phone, "BYE", uri="sip:bob@10.46.0.99", route=way, to_tag="core", cseq=5)
    world.receive(answer(bye, "200 OK", tag=""), CORE)
    assert world.at_phone()[1].status == 200 and not len(world.proxy.dialogs)
    world.wait(200)
    assert not len(world.proxy._relay) and not len(world.proxy._signalling._transactions)


def test_a_ue_that_calls_itself(world: World, phone: Phone) -> None:
    """Both legs have the token of the same contact: only the entry of this one is rewritten (RFC 3261 16.6 step 4)."""
    at_core = sent(world, phone, "INVITE", body=SDP)
    ours = at_core.first("record-route") or ""
    core = "<sip:10.46.0.2:5060;lr>"
    listed = f"Record-Route: {ours}\r\nRecord-Route: {core}, {ours}\r\n"
    world.receive(answer(at_core, "183 Session Progress", listed), CORE)
    gm = "<sip:10.45.0.1:5100;lr>"
    assert world.at_phone()[1].values("record-route") == [ours, core, gm]
    seen = sent(world, phone, "PRACK", route=f"{gm}, {core}, {ours}", to_tag="core", cseq=2)
    assert seen.values("route") == [core, ours]


def test_the_core_ends_the_call(world: World, phone: Phone) -> None:
    at_core = invited(world, phone)
    world.receive(answer(at_core, "200 OK", record=True), CORE)
    world.at_phone()
    (registration,) = world.proxy.registrar
    world.receive(from_core("BYE", registration, call_id="call1", from_tag="core", to_tag="u1"), CORE)
    flow, bye = world.to_phone()
    assert flow == phone.downlink and not bye.lines("route")
    world.receive(answer(bye, "200 OK"), phone.uplink)
    assert world.take()[0] == CORE and not len(world.proxy.dialogs)


def test_a_dialog_that_is_none_or_somebody_elses(world: World, phone: Phone) -> None:
    assert refused(world, phone, "BYE", to_tag="nothing").status == 481
    invited(world, phone)
    other = Phone(
        world,
        user=f"001010000000002@{REALM}",
        call_id="b",
        clear_port=5070,
        instance="<urn:b>",
        offer=offer("hmac-sha-1-96/null", spi=7000, port=41000),
    )
    other.registered()
    response = refused(world, other, "BYE", to_tag="core", cseq=9)
    assert response.status == 403 and len(world.proxy.dialogs) == 1


def test_a_route_that_is_not_the_dialogs(world: World, phone: Phone) -> None:
    invited(world, phone)
    assert refused(world, phone, "UPDATE", to_tag="core", cseq=2).status == 400, "the Service-Route is for initial ones"


def test_an_ack_outside_of_dialogs_goes_nowhere(world: World, phone: Phone) -> None:
    world.receive(phone.request("ACK", to_tag="x"), phone.uplink)
    assert world.silent()


def test_forked_answers_are_dialogs_of_their_own(world: World, phone: Phone) -> None:
    at_core = sent(world, phone, "INVITE")
    for tag in ("a", "b"):
        world.receive(answer(at_core, "180 Ringing", record=True, tag=tag), CORE)
        assert world.at_phone()[1].status == 180
    assert len(world.proxy.dialogs) == 2
    world.receive(answer(at_core, "200 OK", record=True, tag="b"), CORE)
    world.at_phone()
    world.wait(200)
    assert len(world.proxy.dialogs) == 1, "the one that came to nothing is gone with its INVITE"


def test_a_refused_call_leaves_nothing(world: World, phone: Phone) -> None:
    at_core = invited(world, phone)
    world.receive(answer(at_core, "486 Busy Here"), CORE)
    messages = [message for flow, message in world.sent if flow == CORE]
    assert [message.method for message in messages if isinstance(message, Request)] == ["ACK"], "hop by hop"
    assert [message.status for flow, message in world.sent if isinstance(message, Response)] == [486]
    world.sent.clear()
    ack = phone.request("ACK", to_tag="core", branch="z9hG4bKINVITE1call1")
    world.receive(ack, phone.uplink)
    assert world.silent(), "the ACK of the UE ends here"
    world.wait(200)
    assert not len(world.proxy.dialogs) and not len(world.proxy._relay)


def test_cancel_is_hop_by_hop(world: World, phone: Phone) -> None:
    """F11: 200 to the CANCEL, CANCEL to the core with our branch, 487 back, ACK to the core."""
    at_core = invited(world, phone)
    world.receive(phone.request("CANCEL", branch="z9hG4bKINVITE1call1"), phone.uplink)
    (to_ue, own), (to_core, cancel) = world.sent
    world.sent.clear()
    assert to_ue == phone.downlink and isinstance(own, Response) and own.status == 200
    assert to_core == CORE and isinstance(cancel, Request) and cancel.method == "CANCEL"
    assert cancel.lines("via") == at_core.lines("via")[:1] and cancel.first("cseq") == "1 CANCEL"
    assert cancel.values("route") == at_core.values("route")
    world.receive(answer(cancel, "200 OK"), CORE)
    world.receive(answer(at_core, "487 Request Terminated"), CORE)
    assert [message.status for _, message in world.sent if isinstance(message, Response)] == [487]


def test_cancel_before_the_core_said_anything_waits_for_it(world: World, phone: Phone) -> None:
    """RFC 3261 9.1: no CANCEL before a provisional response."""
    at_core = sent(world, phone, "INVITE")
    world.receive(phone.request("CANCEL", branch="z9hG4bKINVITE1call1"), phone.uplink)
    assert world.at_phone()[1].status == 200
    world.receive(answer(at_core, "100 Trying", tag=""), CORE)
    assert world.at_core().method == "CANCEL"


def test_cancel_of_nothing(world: World, phone: Phone) -> None:
    assert refused(world, phone, "CANCEL").status == 481


def test_a_core_that_never_ends_a_cancelled_call(world: World, phone: Phone) -> None:
    invited(world, phone)
    world.receive(phone.request("CANCEL", branch="z9hG4bKINVITE1call1"), phone.uplink)
    world.wait(200)
    assert 487 in [message.status for _, message in world.sent if isinstance(message, Response)]
    world.wait(200)
    assert not len(world.proxy._relay) and not len(world.proxy.dialogs)


def test_timer_c_ends_a_call_that_rings_for_ever(world: World, phone: Phone) -> None:
    """RFC 3261 16.8: more than three minutes without a word; each provisional response starts it anew."""
    at_core = invited(world, phone)
    world.wait(170)
    world.receive(answer(at_core, "180 Ringing"), CORE)
    world.sent.clear()
    world.wait(170)
    assert world.silent()
    world.wait(25)
    assert "CANCEL" in [message.method for _, message in world.sent if isinstance(message, Request)]
    world.wait(60)
    assert 408 in [message.status for _, message in world.sent if isinstance(message, Response)]


def test_a_core_that_does_not_answer(world: World, phone: Phone) -> None:
    sent(world, phone, "MESSAGE")
    world.wait(33)
    assert [message.status for flow, message in world.sent if flow == phone.downlink] == [408]  # type: ignore[union-attr]


@pytest.mark.parametrize(("method", "state"), [("MESSAGE", "active"), ("INVITE", "probing")])
def test_silence_speaks_of_the_next_hop_only_where_it_must_answer(
    world: World, phone: Phone, method: str, state: str
) -> None:
    """A user who writes to a phone that is off does not put the core out of its turn; an INVITE has a 100."""
    sent(world, phone, method)
    world.wait(40)
    (hop,) = world.proxy.hops.hops()
    assert hop.state.value == state


def test_retransmissions_are_absorbed_and_answered_alike(world: World, phone: Phone) -> None:
    data = phone.request("MESSAGE")
    world.receive(data, phone.uplink)
    at_core = world.at_core()
    world.receive(data, phone.uplink)
    assert world.silent()
    world.receive(answer(at_core, "200 OK"), CORE)
    first = world.at_phone()
    world.receive(data, phone.uplink)
    assert world.at_phone() == first


def test_over_tcp_the_answer_takes_the_connection_of_its_request(world: World) -> None:
    """A2: port_ps -> port_uc on SA 2; when it is gone, port_pc -> port_us, never in clear (field trap 26)."""
    phone = Phone(world, transport="TCP")
    phone.registered()
    at_core = sent(world, phone, "MESSAGE")
    world.receive(answer(at_core, "200 OK"), CORE)
    assert world.at_phone()[0] == phone.uplink
    at_core = sent(world, phone, "MESSAGE", cseq=2)
    world.handle(FlowClosed(phone.uplink, "closed"))
    world.receive(answer(at_core, "200 OK"), CORE)
    flow, _ = world.at_phone()
    ends = (flow.transport, flow.local_port, flow.remote_port)
    assert ends == ("TCP", 5104, 31801) and flow in world.connects and world.secured(flow)


def test_the_answer_of_a_request_on_a_set_that_has_gone(world: World, phone: Phone) -> None:
    """A call that rings through a re-authentication: its answer goes on the set in use."""
    at_core = invited(world, phone)
    after = phone.reauthenticated()
    world.receive(after.request("MESSAGE", call_id="m"), after.uplink)
    world.sent.clear()
    world.wait(150)
    world.sent.clear()
    world.receive(answer(at_core, "200 OK", record=True), CORE)
    assert world.at_phone()[0] == after.downlink


def test_ack_and_cancel_may_come_on_the_next_set(world: World, phone: Phone) -> None:
    at_core = invited(world, phone)
    after = phone.reauthenticated()
    world.receive(after.request("CANCEL", branch="z9hG4bKINVITE1call1"), after.uplink)
    assert [type(message).__name__ for _, message in world.sent] == ["Response", "Request"]
    world.sent.clear()
    world.receive(answer(at_core, "487 Request Terminated"), CORE)
    world.sent.clear()
    world.receive(after.request("ACK", to_tag="core", branch="z9hG4bKINVITE1call1"), after.uplink)
    world.wait(40)
    assert not [1 for _, message in world.sent if isinstance(message, Response)], "the 487 is not repeated any more"


def test_subscriptions_end_with_their_last_notify(world: World, phone: Phone) -> None:
    at_core = sent(world, phone, "SUBSCRIBE", extra="Event: reg\r\nExpires: 600\r\n")
    world.receive(answer(at_core, "200 OK", "Expires: 600\r\n", record=True), CORE)
    world.at_phone()
    (registration,) = world.proxy.registrar
    assert len(world.proxy.dialogs) == 1
    for cseq, state in enumerate(("active", "terminated;reason=noresource"), start=1):
        notify = from_core(
            "NOTIFY", registration, call_id="call1", from_tag="core", to_tag="u1", cseq=cseq,
            extra=f"Event: reg\r\nSubscription-State: {state}\r\n",
        )  # fmt: skip
        world.receive(notify, CORE)
        _, request = world.to_phone()
        world.receive(answer(request, "200 OK"), phone.uplink)
        world.sent.clear()
    assert not len(world.proxy.dialogs)


def test_a_subscription_nobody_refreshes_is_forgotten(world: World, phone: Phone) -> None:
    at_core = sent(world, phone, "SUBSCRIBE", extra="Event: reg\r\n")
    world.receive(answer(at_core, "200 OK", "Expires: 600\r\n", record=True), CORE)
    world.wait(640)
    assert not len(world.proxy.dialogs)


def test_a_call_with_a_session_timer_is_forgotten_when_nobody_refreshes(world: World, phone: Phone) -> None:
    """C9: no refresh of the session, no dialog."""
    at_core = invited(world, phone, extra="Supported: 100rel, timer\r\n")
    world.receive(answer(at_core, "200 OK", "Session-Expires: 90;refresher=uac\r\n", record=True), CORE)
    world.wait(60)
    assert len(world.proxy.dialogs) == 1
    world.wait(63)
    assert not len(world.proxy.dialogs)


def test_transfer_keeps_its_subscription_after_the_call(world: World, phone: Phone) -> None:
    """RFC 5057: REFER in a call; its NOTIFY may come after the BYE."""
    at_core = invited(world, phone)
    world.receive(answer(at_core, "200 OK", record=True), CORE)
    world.sent.clear()
    way = "<sip:10.45.0.1:5100;lr>, <sip:mo@10.46.0.2:5060;lr=on;ftag=u1>"
    refer = sent(world, phone, "REFER", route=way, to_tag="core", cseq=2, extra="Refer-To: <sip:c@home>\r\n")
    world.receive(answer(refer, "202 Accepted", tag=""), CORE)
    world.sent.clear()
    bye = sent(world, phone, "BYE", route=way, to_tag="core", cseq=3)
    world.receive(answer(bye, "200 OK", tag=""), CORE)
    world.sent.clear()
    assert len(world.proxy.dialogs) == 1


def test_dialogs_go_with_their_registration(world: World, phone: Phone) -> None:
    """C9, TS 24.229 5.2.8.1.4: discarded without signalling."""
    at_core = invited(world, phone)
    world.receive(answer(at_core, "200 OK", record=True), CORE)
    world.sent.clear()
    world.wait(700_000)
    assert not len(world.proxy.dialogs)


def test_a_ue_has_so_many_dialogs_and_no_more(world: World, phone: Phone) -> None:
    for number in range(64):
        world.receive(phone.request("INVITE", call_id=f"c{number}"), phone.uplink)
        (at_core,) = [message for flow, message in world.sent if flow == CORE and isinstance(message, Request)]
        world.sent.clear()
        world.receive(answer(at_core, "200 OK", record=True), CORE)
        world.sent.clear()
    response = refused(world, phone, "INVITE", call_id="more")
    assert response.status == 503


def test_a_ue_admitted_without_ipsec_talks_from_its_own_flow_only(phone: Phone) -> None:
    world = phone.world = World(without=Without.ADMIT)
    phone.cseq = 0
    phone.challenged(phone.first(security=""))
    world.receive(phone.register(security="", authorization=f'nonce="{NONCE}",response="x"'), phone.clear)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200
    phone.offer, phone.security_server = offer("hmac-sha-1-96/null", port=5059), "x;port-s=5060"
    data = phone.request("MESSAGE").replace(b"Security-Verify: x;port-s=5060\r\n", b"")
    world.receive(data, phone.clear)
    assert world.at_core().values("p-asserted-identity") == [IMPU]
    stranger: Flow = phone.clear._replace(remote_port=5999)
    world.receive(data, stranger)
    assert world.at_phone()[1].status == 403
    (registration,) = world.proxy.registrar
    world.receive(from_core("MESSAGE", registration, uri="sip:10.45.0.2:5060"), CORE)
    flow, request = world.to_phone()
    assert flow == phone.clear and request.lines("via")[0].startswith("SIP/2.0/UDP 10.45.0.1:5060;")
    world.receive(answer(request, "200 OK"), phone.clear)
    assert world.take()[0] == CORE


def test_header_injection(world: World, phone: Phone) -> None:
    """Folded lines and quoted breaks in what we copy or compare end as one line or not at all."""
    evil = "P-Preferred-Identity: <tel:+15551230001>\r\n Route: <sip:evil;lr>\r\n"
    seen = sent(world, phone, "MESSAGE", extra=evil)
    assert "evil" not in seen.to_bytes().decode()
    world.receive(phone.request("MESSAGE", cseq=2, extra="Priority: a\r\n\tRoute: <sip:evil;lr>\r\n"), phone.uplink)
    assert world.at_core().values("route") == [ROUTE]
