"""Where messages go, whatever a phone says: the core's route or ours up, the phone's own SAs down (C7, C8, C10, A2)."""

from dataclasses import replace

import pytest

from pcscf.emergency import EmergencyMode, EmergencySettings
from pcscf.originating import OriginatingSettings
from pcscf.sip.message import Request, Response
from pcscf.vocabulary import Flow
from tests.unit.core.world import CORE, REALM, Phone, World, answer, from_core, ok, settings

S_CSCF: Flow = CORE._replace(remote_port=6060)
"""Where the Service-Route of these tests leads."""
ELSEWHERE = [
    "sip:bob@203.0.113.9:7777",
    "sip:bob@10.46.0.2:5060;maddr=203.0.113.9",
    "sip:bob@203.0.113.9;transport=tcp",
    "sip:bob@evil.example",
    "sip:bob@[2001:db8::9]:22",
    "sips:bob@203.0.113.9",
    "tel:+15550000",
    "urn:service:counseling",
]
"""Request-URIs of a phone that lead to nobody of the core."""


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> Phone:
    return registered(world)


def registered(world: World, service_route: str = "<sip:orig@10.46.0.2:6060;lr>") -> Phone:
    phone = Phone(world)
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    accepted = ok(world.at_core()).decode().replace("<sip:orig@10.46.0.2:5060;lr>", service_route)
    accepted = "\r\n".join(line for line in accepted.split("\r\n") if line != "Service-Route: ")
    world.receive(accepted.encode(), CORE)
    assert world.at_phone()[1].status == 200
    return phone


def asked(
    world: World, phone: Phone, method: str, uri: str = "sip:bob@home", **changes: object
) -> tuple[Flow, Request]:
    """Send a request; where it went, and as what."""
    world.receive(phone.request(method, uri, **changes), phone.uplink)  # type: ignore[arg-type]
    requests = [(flow, message) for flow, message in world.sent if isinstance(message, Request)]
    world.sent.clear()
    ((flow, request),) = requests
    assert "Resolve" not in world.order, "a name of the phone was looked up"
    return flow, request


def called(world: World, phone: Phone, method: str = "INVITE", *, route: str = "<sip:orig@10.46.0.2:6060;lr>") -> None:
    """A dialog of the phone in which nobody of the core recorded a route."""
    way = f"<sip:10.45.0.1:5100;lr>, {route}" if route else "<sip:10.45.0.1:5100;lr>"
    flow, at_core = asked(world, phone, method, route=way)
    world.receive(answer(at_core, "200 OK", "Expires: 600\r\n", record=True), flow)
    world.sent.clear()


OWN = "<sip:10.45.0.1:5100;lr>"


@pytest.mark.parametrize("uri", ELSEWHERE)
@pytest.mark.parametrize("method", ["BYE", "ACK", "UPDATE", "INFO", "INVITE", "REFER"])
def test_the_request_uri_of_a_dialog_without_routes_chooses_no_address(
    world: World, phone: Phone, method: str, uri: str
) -> None:
    """Step 1, 19: it went to any host and port the phone named, from our Mw side."""
    called(world, phone)
    flow, request = asked(world, phone, method, uri, route=OWN, to_tag="core", cseq=2, branch=f"z9hG4bK{method}x")
    assert flow == S_CSCF and request.uri == uri and not request.lines("route")


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_nor_does_that_of_a_subscription(world: World, phone: Phone, uri: str) -> None:
    """Step 1, 19: the notifier is the S-CSCF itself and records no route; a refresh finds it again."""
    called(world, phone, "SUBSCRIBE")
    flow, request = asked(world, phone, "SUBSCRIBE", uri, route=OWN, to_tag="core", cseq=2)
    assert flow == S_CSCF and request.uri == uri


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_nor_does_it_without_a_service_route(world: World, uri: str) -> None:
    """Step 1, 19: the configured core is what is left."""
    phone = registered(world, "")
    called(world, phone, route="")
    flow, request = asked(world, phone, "BYE", uri, route=OWN, to_tag="core", cseq=2)
    assert flow == CORE and request.uri == uri


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_nor_does_it_in_a_dialog_that_the_core_began(world: World, phone: Phone, uri: str) -> None:
    """Step 1, 19: the Contact of the caller is what another phone said."""
    (registration,) = world.proxy.registrar
    invite = from_core("INVITE", registration).decode()
    lines = [line for line in invite.split("\r\n") if not line.startswith("Record-Route")]
    world.receive("\r\n".join(lines).encode(), CORE)
    at_phone = world.sent[-1][1]
    world.sent.clear()
    assert isinstance(at_phone, Request)
    world.receive(answer(at_phone, "200 OK", tag="u9", record=True), phone.uplink)
    world.sent.clear()
    flow, request = asked(world, phone, "BYE", uri, route=OWN, to_tag="peer", from_tag="u9", call_id="mt1")
    assert flow == S_CSCF and request.uri == uri


@pytest.mark.parametrize("uri", [each for each in ELSEWHERE if each.startswith("sip")])
def test_nor_does_it_outside_of_dialogs(world: World, phone: Phone, uri: str) -> None:
    (registration,) = world.proxy.registrar
    for cseq, each in enumerate((uri, f"sip:{registration.path_token}@10.46.0.1:5060"), start=1):
        flow, _ = asked(world, phone, "MESSAGE", each, route=f"{OWN}, <sip:orig@10.46.0.2:6060;lr>", cseq=cseq)
        assert flow == S_CSCF


ROUTES = ["<sip:orig@10.46.0.2:6060;lr;maddr=203.0.113.9>", "<sip:203.0.113.9:7;lr>", "<sip:orig@10.46.0.2:7;lr>"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_route_of_the_phone_is_followed_nowhere(route: str, overwrite: bool) -> None:
    """Step 1, 19: refused, or the saved one is taken; within a dialog, too."""
    world = World(OriginatingSettings(overwrite_route=overwrite))
    phone = registered(world)
    called(world, phone)
    for cseq, tag in enumerate(("", "core"), start=2):
        data = phone.request("INFO" if tag else "MESSAGE", route=f"{OWN}, {route}", to_tag=tag, cseq=cseq)
        world.receive(data, phone.uplink)
        flow, message = world.take()
        if overwrite:
            assert flow == S_CSCF and b"203.0.113.9" not in message.to_bytes()
        else:
            assert flow == phone.downlink and isinstance(message, Response) and message.status == 400


@pytest.mark.parametrize("guest", [False, True])
def test_an_emergency_dialog_without_routes_stays_with_the_e_cscf(guest: bool) -> None:
    """Step 1, 19: neither the Request-URI nor the S-CSCF of the user, which never heard of the call."""
    ecscf = EmergencySettings(mode=EmergencyMode.ROUTE, ecscf="sip:10.46.0.2:5090", unregistered=True)
    world = World(OriginatingSettings(emergency=ecscf))
    to_ecscf: Flow = CORE._replace(remote_port=5090)
    phone = Phone(world)
    if not guest:
        phone = registered(world)
    else:
        phone.security_server = "x;port-s=5060"
    at = phone.clear if guest else phone.uplink

    def request(method: str, uri: str, **changes: object) -> bytes:
        data = phone.request(method, uri, **changes)  # type: ignore[arg-type]
        return data.replace(b"Security-Verify: x;port-s=5060\r\n", b"")

    world.receive(request("INVITE", "urn:service:sos", route=""), at)
    flow, at_ecscf = world.sent[-1]
    assert flow == to_ecscf and isinstance(at_ecscf, Request)
    world.receive(answer(at_ecscf, "200 OK", record=True), to_ecscf)
    world.sent.clear()
    own = "<sip:10.45.0.1:5060;lr>" if guest else OWN
    for cseq, method in enumerate(("ACK", "BYE"), start=1):
        data = request(method, ELSEWHERE[0], route=own, to_tag="core", cseq=cseq, branch=f"z9hG4bK{method}y")
        world.receive(data, at)
        flow, sent = world.take()
        assert flow == to_ecscf and isinstance(sent, Request) and sent.uri == ELSEWHERE[0]


def test_a_cancel_takes_the_way_of_its_invite(world: World, phone: Phone) -> None:
    flow, invite = asked(world, phone, "INVITE", route=f"{OWN}, <sip:orig@10.46.0.2:6060;lr>")
    world.receive(answer(invite, "180 Ringing"), flow)
    world.sent.clear()
    way, cancel = asked(world, phone, "CANCEL", ELSEWHERE[0], branch="z9hG4bKINVITE1call1")
    assert way == flow and cancel.uri == invite.uri


def test_a_contact_or_refer_to_of_the_phone_is_nobodys_address(world: World, phone: Phone) -> None:
    extra = "Refer-To: <sip:c@203.0.113.9?Route=%3Csip:203.0.113.9%3E>\r\nContact: <sip:u@203.0.113.9>\r\n"
    called(world, phone)
    flow, _ = asked(world, phone, "REFER", route=OWN, to_tag="core", cseq=2, extra=extra)
    assert flow == S_CSCF
    flow, _ = asked(world, phone, "BYE", route=OWN, to_tag="core", cseq=3)
    assert flow == S_CSCF


@pytest.mark.parametrize("status", ["302 Moved Temporarily", "305 Use Proxy", "380 Alternative Service"])
def test_a_redirection_is_passed_on_and_not_followed(world: World, phone: Phone, status: str) -> None:
    contact = "Contact: <sip:x@203.0.113.9>\r\n"
    flow, at_core = asked(world, phone, "MESSAGE", route=f"{OWN}, <sip:orig@10.46.0.2:6060;lr>")
    world.receive(answer(at_core, status, contact), flow)
    assert world.at_phone()[0] == phone.downlink
    (registration,) = world.proxy.registrar
    world.receive(from_core("MESSAGE", registration), CORE)
    world.receive(answer(world.to_phone()[1], status, contact), phone.uplink)
    assert world.take()[0] == CORE


VIAS = [
    b"SIP/2.0/UDP 203.0.113.9:7777;branch=z9hG4bKv",
    b"SIP/2.0/UDP 203.0.113.9:7777;branch=z9hG4bKv;rport",
    b"SIP/2.0/UDP 203.0.113.9;branch=z9hG4bKv;received=203.0.113.8;rport=9",
    b"SIP/2.0/UDP 10.45.0.2;branch=z9hG4bKv;maddr=203.0.113.9;ttl=1",
    b"SIP/2.0/TCP evil.example;branch=z9hG4bKv",
]


@pytest.mark.parametrize("via", VIAS)
def test_the_via_of_a_phone_leads_its_answer_to_no_other_address(world: World, via: bytes) -> None:
    """Step 1, 19: in clear to where it came from; inside ESP to its SA."""
    stranger = Phone(world)
    for data in (stranger.register(), stranger.register().replace(b"REGISTER", b"MESSAGE")):
        at = data.index(b"Via: ") + 5
        world.receive(data[:at] + via + data[data.index(b"\r\n", at) :], stranger.clear)
        for flow, message in world.sent:
            assert flow == CORE or flow.remote == stranger.clear.remote, message
        world.sent.clear()
    phone = registered(world)
    data = phone.request("MESSAGE", route="<sip:203.0.113.9;lr>")
    at = data.index(b"Via: ") + 5
    world.receive(data[:at] + via + data[data.index(b"\r\n", at) :], phone.uplink)
    assert world.at_phone()[0] == phone.downlink


@pytest.mark.parametrize("status", ["183 Session Progress", "200 OK", "486 Busy Here"])
def test_a_phones_answer_leads_nobody_of_the_core_astray(world: World, phone: Phone, status: str) -> None:
    """Step 1, 19; 5.2.6.4.4: the Vias below ours and the Record-Route list are those of the request, not of the UE."""
    (registration,) = world.proxy.registrar
    sent = from_core("INVITE", registration)
    world.receive(sent, CORE)
    at_phone = world.sent[-1][1]
    assert isinstance(at_phone, Request)
    forged = "Via: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bKevil\r\n"
    own = at_phone.lines("via")[0]
    for extra, lines in (
        (forged, [own]),
        ("", [own]),
        (f"Record-Route: <sip:203.0.113.9;lr>\r\n{forged}", [f"{own}, SIP/2.0/UDP 203.0.113.9;branch=z9hG4bKx"]),
    ):
        world.sent.clear()
        message = replace(at_phone, headers=tuple(item for item in at_phone.headers if item.name != "via"))
        data = answer(message, status, f"Via: {lines[0]}\r\n{extra}", tag="u9")
        world.receive(data, phone.uplink)
        flow, response = next(each for each in world.sent if isinstance(each[1], Response))
        assert flow == CORE and b"203.0.113.9" not in response.to_bytes()
        assert response.values("via") == [
            "SIP/2.0/UDP 10.46.0.2:5060;branch=z9hG4bKINVITE1mt1",
            "SIP/2.0/UDP 10.46.0.9:5060;branch=z9hG4bKfar",
        ]
        recorded = [f"<sip:{registration.path_token}@10.46.0.1:5060;lr>", "<sip:mt@10.46.0.2:5060;lr=on;ftag=peer>"]
        assert response.values("record-route") == (recorded if not status.startswith("486") else [])
        if not status.startswith("183"):
            break


@pytest.mark.parametrize(
    ("uri", "transport"),
    [
        ("sip:u@203.0.113.9:7777", "UDP"),
        ("sip:u@10.45.0.2;maddr=203.0.113.9", "UDP"),
        ("sip:transport=tcp@10.45.0.2:31801", "UDP"),
        ("sip:u@10.45.0.2:31801;x=transport=tcp", "UDP"),
        ("sip:u@203.0.113.9;Transport=TCP", "TCP"),
    ],
)
def test_a_request_finds_the_phone_by_its_token_alone(world: World, phone: Phone, uri: str, transport: str) -> None:
    """Step 1, 19: the Contact in a Request-URI chooses the transport, never an address."""
    (registration,) = world.proxy.registrar
    world.receive(from_core("MESSAGE", registration, uri), CORE)
    flow, request = world.to_phone()
    assert flow == phone.downlink._replace(transport=transport)  # type: ignore[arg-type]
    assert request.uri == uri


def test_a_phones_notify_is_none_of_our_subscription() -> None:
    """The target of our own SUBSCRIBE is the core's word: from Gm nobody can change it."""
    world = World()
    world.use(replace(settings(), reg_event=True))
    phone = Phone(world)
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core()), CORE)
    subscribe = next(message for flow, message in world.sent if flow == CORE)
    assert isinstance(subscribe, Request) and subscribe.method == "SUBSCRIBE"
    world.sent.clear()
    own_tag = (subscribe.first("from") or "").partition("tag=")[2]
    extra = "Event: reg\r\nSubscription-State: active;expires=9\r\nContact: <sip:203.0.113.9>\r\n"
    notify = phone.request(
        "NOTIFY", f"sip:{REALM}", to_tag=own_tag, from_tag="core", call_id=subscribe.first("call-id") or "", extra=extra
    )
    world.receive(notify, phone.uplink)
    assert world.at_phone()[1].status == 481
    world.receive(answer(subscribe, "200 OK", "Expires: 600\r\nContact: <sip:10.46.0.2:6060>\r\n"), CORE)
    world.wait(1000)
    refreshed = [flow for flow, message in world.sent if isinstance(message, Request)]
    assert refreshed and {flow.remote for flow in refreshed} == {CORE.remote}
