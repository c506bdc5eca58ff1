"""Emergency requests: who may make them, where they go, and what is said instead (digest C10, TS 24.229 5.2.10)."""

from dataclasses import replace

import pytest

from pcscf.emergency import EmergencyMode, EmergencySettings, is_emergency
from pcscf.originating import OriginatingSettings
from pcscf.register import Without
from pcscf.sip.message import Request, Response
from pcscf.vocabulary import Flow
from tests.unit.core.world import CORE, REALM, Phone, World, answer, from_core, ok, settings

NUMBERS = frozenset({"112", "911"})
ECSCF = "sip:10.46.0.2:5090"
TO_ECSCF: Flow = CORE._replace(remote_port=5090)


def world_of(mode: EmergencyMode, *, unregistered: bool = False) -> World:
    emergency = EmergencySettings(mode=mode, ecscf=ECSCF, numbers=NUMBERS, unregistered=unregistered)
    return World(OriginatingSettings(emergency=emergency))


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("urn:service:sos", True),
        ("URN:service:SOS.fire", True),
        ("urn:service:sosx", False),
        ("urn:service:counseling", False),
        ("tel:112", True),
        ("tel:911;phone-context=home", True),
        (f"sip:112@{REALM};user=phone", True),
        (f"sip:911@{REALM}", True),
        (f"sip:1129@{REALM}", False),
        (f"sip:bob@{REALM}", False),
        ("sip:112", False),
        ("http://112", False),
    ],
)
def test_recognised_by_urn_and_number(uri: str, found: bool) -> None:
    request = Request(method="INVITE", uri=uri, headers=(), body=b"")
    assert is_emergency(request, NUMBERS) is found


def test_a_registered_ue_is_led_to_the_e_cscf() -> None:
    """Its Route does not count; the asserted identity does."""
    world = world_of(EmergencyMode.ROUTE)
    phone = Phone(world)
    phone.registered()
    world.receive(
        phone.request("INVITE", "urn:service:sos", route="<sip:10.45.0.1:5100;lr>, <sip:evil;lr>"), phone.uplink
    )
    (_, trying), (flow, at_ecscf) = world.sent
    assert isinstance(trying, Response) and trying.status == 100
    assert flow == TO_ECSCF and at_ecscf.values("route") == [f"<{ECSCF};lr>"]
    assert at_ecscf.values("p-asserted-identity") == [f"<sip:+15551230001@{REALM}>"]


def test_elsewhere_by_380() -> None:
    world = world_of(EmergencyMode.ALTERNATIVE)
    phone = Phone(world)
    phone.registered()
    world.receive(phone.request("INVITE", "tel:112"), phone.uplink)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 380)
    assert (response.first("content-type") or "").startswith("application/3gpp-ims+xml")
    assert b"<type>emergency</type>" in response.body and response.first("content-length") == str(len(response.body))


def test_refused() -> None:
    world = world_of(EmergencyMode.REFUSE)
    phone = Phone(world)
    phone.registered()
    world.receive(phone.request("INVITE", "tel:112"), phone.uplink)
    assert world.at_phone()[1].status == 403


def in_clear(phone: Phone, method: str, uri: str, **changes: str) -> bytes:
    phone.security_server = "x;port-s=5060"
    data = phone.request(method, uri, route="", **changes)  # type: ignore[arg-type]
    return data.replace(b"Security-Verify: x;port-s=5060\r\n", b"").replace(b"10.45.0.2:31801", b"10.45.0.2:5060")


@pytest.mark.parametrize(
    ("mode", "unregistered", "status"),
    [
        (EmergencyMode.ROUTE, False, 403),
        (EmergencyMode.REFUSE, True, 403),
        (EmergencyMode.ALTERNATIVE, False, 380),
    ],
)
def test_in_clear_only_where_the_operator_allows_it(mode: EmergencyMode, unregistered: bool, status: int) -> None:
    world = world_of(mode, unregistered=unregistered)
    phone = Phone(world)
    world.receive(in_clear(phone, "INVITE", "urn:service:sos"), phone.clear)
    responses = [
        message.status for flow, message in world.sent if isinstance(message, Response) and flow == phone.clear
    ]
    assert responses[-1] == status and TO_ECSCF not in [flow for flow, _ in world.sent]


def test_an_emergency_call_of_a_ue_that_is_not_registered() -> None:
    """It goes without an identity, its dialog works in both directions, and nothing else may come that way."""
    world = world_of(EmergencyMode.ROUTE, unregistered=True)
    phone = Phone(world)
    world.receive(in_clear(phone, "INVITE", "urn:service:sos"), phone.clear)
    _, (flow, at_ecscf) = world.sent
    world.sent.clear()
    assert flow == TO_ECSCF and not at_ecscf.lines("p-asserted-identity")
    assert isinstance(at_ecscf, Request)
    world.receive(in_clear(phone, "MESSAGE", "sip:bob@home"), phone.clear)
    assert world.at_phone()[1].status == 403
    world.receive(answer(at_ecscf, "200 OK", record=True), TO_ECSCF)
    back, response = world.at_phone()
    assert back == phone.clear and response.values("record-route") == ["<sip:10.45.0.1:5060;lr>"]
    (guest,) = world.proxy.registrar
    bye = from_core("BYE", guest, call_id="call1", from_tag="core", to_tag="u1")
    world.receive(bye, CORE)
    flow, request = world.to_phone()
    assert flow == phone.clear
    world.receive(answer(request, "200 OK"), phone.clear)
    world.take()
    world.wait(300)
    assert not len(world.proxy.dialogs) and not len(world.proxy.registrar), "the guest has gone"


def test_who_registers_without_ipsec_during_an_emergency_call_can_end_it() -> None:
    """The call is the guest's, from the same flow: its BYE got 403."""
    emergency = EmergencySettings(mode=EmergencyMode.ROUTE, ecscf=ECSCF, numbers=NUMBERS, unregistered=True)
    world = World(OriginatingSettings(emergency=emergency), without=Without.ADMIT)
    phone = Phone(world)
    world.receive(in_clear(phone, "INVITE", "urn:service:sos"), phone.clear)
    at_ecscf = world.sent[-1][1]
    assert isinstance(at_ecscf, Request)
    world.receive(answer(at_ecscf, "200 OK"), TO_ECSCF)
    world.sent.clear()
    world.receive(phone.register(security=""), phone.clear)
    world.receive(ok(world.at_core()), CORE)
    assert world.proxy.registrar.registered == 1 and len(world.proxy.registrar) == 2
    world.sent.clear()
    world.receive(in_clear(phone, "BYE", "sip:psap", to_tag="core"), phone.clear)
    ((flow, bye),) = world.sent
    assert flow == TO_ECSCF and isinstance(bye, Request)
    world.sent.clear()
    world.receive(answer(bye, "200 OK"), TO_ECSCF)
    assert world.at_phone()[1].status == 200
    world.wait(300)
    assert not len(world.proxy.dialogs) and len(world.proxy.registrar) == 1, "the guest has gone, the contact stays"


def test_guests_of_one_address_are_few() -> None:
    world = world_of(EmergencyMode.ROUTE, unregistered=True)
    for port in range(6000, 6006):
        phone = Phone(world, clear_port=port)
        world.receive(in_clear(phone, "INVITE", "urn:service:sos", call_id=f"c{port}"), phone.clear)
    refused = [message for _, message in world.sent if isinstance(message, Response) and message.status == 403]
    assert len(refused) == 2 and len(world.proxy.registrar) == 4


def test_a_refused_guest_does_not_stay() -> None:
    world = world_of(EmergencyMode.ALTERNATIVE)
    for turn in range(3):
        for port in range(6000, 6004):
            phone = Phone(world, clear_port=port)
            world.receive(in_clear(phone, "INVITE", "urn:service:sos", call_id=f"c{port}{turn}"), phone.clear)
        assert [message.status for _, message in world.sent if isinstance(message, Response)] == [380] * 4
        world.sent.clear()
        world.wait(300)
        world.sent.clear()
        assert not len(world.proxy.registrar)


def test_silence_instead_of_403() -> None:
    world = World()
    world.use(replace(settings(), silent_in_clear=True))
    phone = Phone(world)
    world.receive(in_clear(phone, "MESSAGE", "sip:bob@home"), phone.clear)
    assert world.silent() and "dropped" in world.problems[-1]
