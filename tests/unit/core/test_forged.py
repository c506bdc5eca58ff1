"""What somebody who forges an address, or a far end that means ill, cannot take from a UE."""

import math
from dataclasses import replace
from ipaddress import IPv4Network, ip_address

import pytest

from pcscf.dialog import Usage
from pcscf.emergency import EmergencyMode, EmergencySettings
from pcscf.originating import OriginatingSettings
from pcscf.register import TIME_TO_ANSWER, Without
from pcscf.registration import MOST_IDENTITIES, Binding, SetState
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError, parse
from pcscf.vocabulary import Flow, FlowClosed, Malformed, Order, Ordered
from tests.unit.core.world import CORE, REALM, Phone, World, answer, challenge, from_core, offer, ok, settings

ECSCF = "sip:10.46.0.2:5090"
WAY = "<sip:10.45.0.1:5100;lr>"


@pytest.fixture
def world() -> World:
    world = World()
    world.use(replace(settings(), pending_per_source=64))
    return world


@pytest.fixture
def phone(world: World) -> Phone:
    return Phone(world)


def forged(phone: Phone, number: int, *, user: str = "", instance: str = "", port_us: int = 31801) -> Phone:
    """A REGISTER in clear from the phone's address, by somebody with other numbers but the phone's port_us."""
    numbers = offer("hmac-sha-1-96/aes-cbc", spi=70000 + 2 * number, port=40000 + 2 * number)
    return replace(
        phone,
        user=user or f"forger@{REALM}",
        instance=instance or f"<urn:x:{number}>",
        call_id=f"forged{number}",
        cseq=0,
        offer=numbers.replace(f"port-s={40001 + 2 * number}", f"port-s={port_us}"),
    )


# Ports


def test_forged_challenges_leave_a_refresh_its_port(world: World, phone: Phone) -> None:
    """Step 1, 5: eight challenges in clear to its port_us took every port_pc, and it got 503 inside ESP."""
    phone.registered()
    for number in range(8):
        assert forged(phone, number).challenged().status == 401
    after = phone.reauthenticated()
    world.receive(after.request("MESSAGE"), after.uplink)
    assert world.at_core().method == "MESSAGE"


def test_of_challenges_in_clear_the_oldest_makes_room(world: World, phone: Phone) -> None:
    """Step 1, 5: a phone that comes while forged ones hold all port_pc, or both port_ps, of its ports gets in."""
    for number in range(9):
        assert forged(phone, number).challenged().status == 401
    assert len(list(world.proxy.registrar)) == 8 and world.set_events.count("superseded") == 1
    for number in (20, 21):
        same_client_port = forged(phone, number, port_us=50000 + number)
        same_client_port.offer = same_client_port.offer.replace(f"port-c={40000 + 2 * number}", "port-c=31800")
        assert same_client_port.challenged().status == 401
    assert phone.registered().status == 200


def test_a_challenge_inside_esp_or_answered_keeps_its_ports(world: World, phone: Phone) -> None:
    """Step 1, 5: neither is taken by one in clear, however many come."""
    phone.registered()
    after = phone.again()
    phone.rechallenged(after)
    (own,) = [each for each in world.proxy.registrar if each.key.impi == phone.user]
    waiting = own.unproven
    assert waiting is not None
    for number in range(20):
        forged(phone, number).challenged()
    same_spi = forged(phone, 30, port_us=50000)
    same_spi.offer = same_spi.offer.replace("spi-c=70060", "spi-c=60001")
    assert same_spi.challenged().status == 503
    assert own.unproven is waiting
    world.receive(after.answer(), after.uplink)
    at_core = world.at_core()
    for number in range(20, 40):
        forged(phone, number).challenged()
    world.receive(ok(at_core), CORE)
    assert world.at_phone()[1].status == 200
    assert [each.state for each in own.sets] == [SetState.ACTIVE, SetState.NEW]


# Challenges of the same contact


def test_a_forged_register_does_not_end_a_reauthentication_inside_esp(world: World, phone: Phone) -> None:
    """Step 1, 5: one REGISTER in clear with the phone's names ended it. It gets 503, and nothing is kept."""
    phone.registered()
    after = phone.again()
    phone.rechallenged(after)
    batches = world.kernel.batches
    intruder = forged(phone, 1, user=phone.user, instance=phone.instance, port_us=50001)
    response = intruder.challenged()
    assert response.status == 503 and response.first("retry-after") == "5"
    assert world.kernel.batches == batches, "no SAs are made of those keys"
    world.receive(after.answer(), after.uplink)
    at_core = world.at_core()
    world.wait(TIME_TO_ANSWER + 1)
    world.sent.clear()
    assert forged(phone, 2, user=phone.user, instance=phone.instance, port_us=50003).challenged().status == 503
    world.sent.clear()
    world.receive(ok(at_core), CORE)
    assert world.at_phone()[1].status == 200


def test_a_forged_register_does_not_end_a_challenge_that_is_being_answered(world: World, phone: Phone) -> None:
    """Step 1, 5: nor the first one, whose answer is with the core."""
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    at_core = world.at_core()
    assert forged(phone, 1, user=phone.user, instance=phone.instance, port_us=50001).challenged().status == 503
    world.receive(ok(at_core), CORE)
    assert world.at_phone()[1].status == 200


def test_a_phone_that_restarts_during_its_reauthentication_gets_in(world: World, phone: Phone) -> None:
    """Step 1, 5: the challenge inside ESP gives way to it when it has waited longer than a phone takes to answer."""
    phone.registered()
    phone.rechallenged(phone.again())
    restarted = forged(phone, 1, user=phone.user, instance=phone.instance, port_us=50001)
    assert restarted.challenged().status == 503
    world.wait(TIME_TO_ANSWER)
    assert restarted.registered().status == 200
    (own,) = world.proxy.registrar
    assert [each.state for each in own.sets] == [SetState.ACTIVE]


def test_many_challenges_of_one_user_take_nothing_from_a_neighbour(world: World, phone: Phone) -> None:
    """Step 1, 5: behind one address the oldest of the source went, which was the neighbour's."""
    phone.challenged()
    for number in range(100):
        forged(phone, number, port_us=50000 + number).challenged()
    assert len(world.proxy.registrar.pending) == 64
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200


def test_the_operators_challenge_is_not_evaded(world: World, phone: Phone) -> None:
    """Step 1, 5: a challenge that nobody answers did for it, and the next REGISTER was vouched for again."""
    phone.registered()
    (own,) = world.proxy.registrar
    world.handle(Ordered(phone.user, own.key.address, Order.REAUTHENTICATE))
    phone.rechallenged(phone.again())
    world.wait(241)
    world.receive(phone.reregister(phone.again(spi=60101, port=33100)), phone.uplink)
    seen = world.at_core()
    assert (seen.first("authorization") or "").endswith('integrity-protected="no"') and own.to_challenge
    world.receive(challenge(seen, nonce="b3RoZXI="), CORE)
    world.sent.clear()
    phone.reauthenticated(spi=60201, port=33200)
    assert not own.to_challenge


# Identities


def test_one_identity_is_one_binding_however_it_is_written(world: World, phone: Phone) -> None:
    """Step 1, 5: every way to write it made another binding, without end (RFC 3261 10.3)."""
    phone.registered()
    (own,) = world.proxy.registrar
    for number in range(100):
        to = f"To: <sip:+15551230001@{REALM.upper() if number % 2 else REALM};x={number}>".encode()
        data = phone.reregister(phone.again(), expires=600_000).replace(f"To: <sip:{phone.user}>".encode(), to)
        world.receive(data, phone.uplink)
        world.receive(ok(world.at_core()), CORE)
        assert world.at_phone()[1].status == 200
    assert len(own.bindings) == 2
    world.proxy.registrar.unbind(own, f"sip:+15551230001@{REALM};x=other", "over")
    assert not own.bindings, "with it goes what was registered along with it"


def test_identities_of_one_contact_are_few(world: World, phone: Phone) -> None:
    """Step 1, 5: of too many that are registered each on its own, the one that would end first makes room."""
    phone.registered()
    (own,) = world.proxy.registrar
    for number in range(200):
        binding = Binding(expires=world.now + 1000 + number, associated_uris=(f"<sip:{number}@home>",))
        world.proxy.registrar.bind(own, f"sip:{number}@home", binding)
    assert len(own.bindings) == len(own.associated_uris) - 1 == MOST_IDENTITIES
    assert f"sip:{phone.user}" in own.bindings and "sip:199@home" in own.bindings


def test_only_the_parameter_sos_makes_an_emergency_registration(phone: Phone) -> None:
    """Step 1, 5: a parameter that merely begins so kept the user's state unwatched."""
    world = phone.world = World()
    world.use(replace(settings(), reg_event=True))
    phone.challenged()
    world.receive(phone.answer().replace(b"31801>;+sip", b"31801;sosage>;+sip"), phone.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert [message.method for _, message in world.sent if isinstance(message, Request)] == ["SUBSCRIBE"]


# Calls


def called(world: World, phone: Phone, answered: str = "", **changes: str) -> None:
    """A call of the phone that is up."""
    world.receive(phone.request("INVITE", **changes), phone.uplink)  # type: ignore[arg-type]
    invite = world.sent[-1][1]
    assert isinstance(invite, Request)
    world.receive(answer(invite, "200 OK", answered, record=True), CORE)
    world.sent.clear()


def asked_by_peer(world: World, phone: Phone, method: str, status: str) -> None:
    """The far end of the call asks something, and the phone answers so."""
    (own,) = world.proxy.registrar
    world.receive(from_core(method, own, call_id="call1", from_tag="core", to_tag="u1"), CORE)
    _, request = [each for each in world.sent if isinstance(each[1], Request)][-1]
    assert isinstance(request, Request)
    world.sent.clear()
    world.receive(answer(request, status), phone.uplink)
    world.sent.clear()


def hangs_up(world: World, phone: Phone) -> int | None:
    """The status of the BYE of the phone."""
    world.receive(phone.request("BYE", route=WAY, to_tag="core", cseq=9), phone.uplink)
    _, message = world.sent[-1]
    world.sent.clear()
    if isinstance(message, Response):
        return message.status
    world.receive(answer(message, "200 OK"), CORE)
    _, message = world.take()
    assert isinstance(message, Response)
    return message.status


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("BYE", "420 Bad Extension"),
        ("BYE", "401 Unauthorized"),
        ("NOTIFY", "481 Subscription Does Not Exist"),
        ("NOTIFY", "408 Request Timeout"),
        ("PRACK", "481 Call/Transaction Does Not Exist"),
        ("REFER", "481 Call/Transaction Does Not Exist"),
        ("MESSAGE", "481 Call/Transaction Does Not Exist"),
        ("SUBSCRIBE", "481 Call/Transaction Does Not Exist"),
    ],
)
def test_a_far_end_cannot_have_a_call_forgotten(world: World, phone: Phone, method: str, status: str) -> None:
    """Step 1, 8: what the phone refuses leaves its call as it was, and it can hang up (RFC 5057 5.1)."""
    phone.registered()
    called(world, phone)
    asked_by_peer(world, phone, method, status)
    assert hangs_up(world, phone) == 200


@pytest.mark.parametrize("method", ["INVITE", "UPDATE", "INFO", "BYE"])
def test_a_bye_goes_on_after_the_far_end_says_481(world: World, phone: Phone, method: str) -> None:
    """Step 1, 8: the UE ends the call with BYE then (RFC 3261 12.2.1.2); after 481 to that there is none."""
    phone.registered()
    called(world, phone)
    world.receive(phone.request(method, route=WAY, to_tag="core", cseq=2), phone.uplink)
    (request,) = [message for flow, message in world.sent if isinstance(message, Request)]
    world.receive(answer(request, "481 Call/Transaction Does Not Exist"), CORE)
    world.sent.clear()
    assert hangs_up(world, phone) == (481 if method == "BYE" else 200)


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("BYE", "200 OK"),
        ("BYE", "481 Call/Transaction Does Not Exist"),
        ("BYE", "408 Request Timeout"),
        ("INVITE", "481 Call/Transaction Does Not Exist"),
        ("UPDATE", "481 Call/Transaction Does Not Exist"),
        ("INFO", "481 Call/Transaction Does Not Exist"),
    ],
)
def test_a_call_that_an_end_no_longer_knows_is_over(world: World, phone: Phone, method: str, status: str) -> None:
    """Step 1, 8: RFC 3261 12.2.1.2, RFC 5057 5.1."""
    phone.registered()
    called(world, phone)
    asked_by_peer(world, phone, method, status)
    assert not len(world.proxy.dialogs)


def test_481_ends_the_usage_it_is_about(world: World, phone: Phone) -> None:
    """Step 1, 8: a call and a subscription in one dialog end each on its own."""
    phone.registered()
    called(world, phone)
    (dialog,) = world.proxy.dialogs
    world.receive(phone.request("SUBSCRIBE", route=WAY, to_tag="core", cseq=2), phone.uplink)
    subscribe = world.at_core()
    world.receive(answer(subscribe, "200 OK", "Expires: 600\r\n"), CORE)
    world.sent.clear()
    assert dialog.usages == {Usage.CALL, Usage.SUBSCRIPTION}
    asked_by_peer(world, phone, "NOTIFY", "481 Subscription Does Not Exist")
    assert dialog.usages == {Usage.CALL}


def test_a_bye_that_nobody_answers_ends_the_call(world: World, phone: Phone) -> None:
    """Step 1, 8: RFC 3261 12.2.1.2."""
    phone.registered()
    called(world, phone)
    world.receive(phone.request("BYE", route=WAY, to_tag="core", cseq=9), phone.uplink)
    world.wait(200)
    assert not len(world.proxy.dialogs)


@pytest.mark.parametrize("supported", ["", "Supported: 100rel\r\n"])
def test_a_session_timer_counts_only_where_the_ue_knows_it(world: World, phone: Phone, supported: str) -> None:
    """Step 1, 8: the far end's word had the call forgotten after half a minute, and the BYE got 481."""
    phone.registered()
    called(world, phone, "Session-Expires: 1;refresher=uas\r\n", extra=supported)
    world.wait(300)
    (dialog,) = world.proxy.dialogs
    assert dialog.expires == math.inf
    assert hangs_up(world, phone) == 200


def test_no_session_is_shorter_than_min_se(world: World, phone: Phone) -> None:
    """Step 1, 8: 90 s (RFC 4028 5)."""
    phone.registered()
    called(world, phone, "Session-Expires: 1;refresher=uas\r\n", extra="Supported: timer\r\n")
    world.wait(89)
    assert hangs_up(world, phone) == 200
    called(world, phone, "Session-Expires: 1\r\n", extra="Supported: timer\r\n", call_id="call2")
    world.wait(123)
    assert not len(world.proxy.dialogs)


# In clear


def emergency_world(*, unregistered: bool = True, silent: bool = False) -> World:
    emergency = EmergencySettings(mode=EmergencyMode.ROUTE, ecscf=ECSCF, unregistered=unregistered)
    world = World(OriginatingSettings(emergency=emergency))
    world.use(replace(settings(OriginatingSettings(emergency=emergency)), silent_in_clear=silent))
    return world


def emergency_call(phone: Phone, call_id: str = "sos") -> bytes:
    phone.security_server = "x;port-s=5060"
    return phone.request("INVITE", "urn:service:sos", route="", call_id=call_id)


@pytest.mark.parametrize("fault", ["no Via", "too long", "no room"])
def test_there_is_no_guest_of_whose_request_nothing_is_kept(fault: str) -> None:
    """Step 1, 5 and 8: the place of one that got no transaction was taken for ever."""
    world = emergency_world()
    phone = Phone(world)
    data = emergency_call(phone)
    if fault == "no Via":
        data = data.replace(b"Via: SIP/2.0/UDP 10.45.0.2:31801", b"Via: x")
    elif fault == "too long":
        data = data.replace(b"Max-Forwards", b"X-Long: " + b"x" * 9000 + b"\r\nMax-Forwards")
    else:
        world.proxy._signalling.allow(0, 0)
    for port in range(6000, 6010):
        world.receive(data, phone.clear._replace(remote_port=port))
    assert not len(world.proxy.registrar) and not world.proxy.registrar._guests.peers


def test_a_guest_makes_no_new_calls_when_guests_are_not_served_any_more() -> None:
    """Step 1, 5: after the operator's change; the call there is goes on."""
    world = emergency_world()
    phone = Phone(world)
    world.receive(emergency_call(phone), phone.clear)
    invite = world.sent[-1][1]
    assert isinstance(invite, Request)
    world.receive(answer(invite, "200 OK"), CORE._replace(remote_port=5090))
    world.sent.clear()
    later = emergency_world(unregistered=False).proxy._settings
    world.proxy.adopt(later)
    world.receive(emergency_call(phone, "second"), phone.clear)
    refused = [message.status for _, message in world.sent if isinstance(message, Response)]
    assert refused[-1] == 403 and not any(isinstance(message, Request) for _, message in world.sent)
    world.sent.clear()
    world.receive(phone.request("BYE", "sip:psap", route="", to_tag="core", call_id="sos", cseq=2), phone.clear)
    assert isinstance(world.take()[1], Request)


def malformed(data: bytes, flow: Flow) -> Malformed:
    with pytest.raises(ParseError) as caught:
        parse(data)
    assert isinstance(caught.value.message, Request)
    return Malformed(caught.value, flow)


@pytest.mark.parametrize("silent", [False, True])
def test_what_is_no_sip_gets_no_answer_where_silence_is_asked_for(phone: Phone, silent: bool) -> None:
    """Step 1, 7: in clear, of one who has not shown where it is."""
    world = emergency_world(silent=silent)
    data = phone.register().replace(b" SIP/2.0\r\n", b" SIP/9.0\r\n", 1)
    world.handle(malformed(data, phone.clear))
    assert world.silent() is silent


def test_what_is_no_sip_gets_no_answer_toward_the_core_from_elsewhere(phone: Phone) -> None:
    """Step 1, 7: nobody but the core is answered there."""
    world = World()
    world.use(replace(settings(), peers=(IPv4Network("10.46.0.2/32"),)))
    data = phone.register().replace(b" SIP/2.0\r\n", b" SIP/9.0\r\n", 1)
    world.handle(malformed(data, CORE._replace(remote=ip_address("10.46.0.66"))))
    assert world.silent()
    world.handle(malformed(data, CORE))
    assert not world.silent()


def test_a_new_connection_from_the_same_port_is_somebody_else() -> None:
    """Step 1, 5: without IPsec only the connection says who is there. The registration stands; no call reaches it."""
    world = World(without=Without.ADMIT)
    phone = Phone(world, transport="TCP", security_server="x;port-s=5060")
    world.receive(phone.register(security=""), phone.clear)
    world.receive(ok(world.at_core()), CORE)
    world.sent.clear()
    (own,) = world.proxy.registrar
    world.handle(FlowClosed(phone.clear, "reset"))
    world.receive(phone.request("MESSAGE", route=""), phone.clear)
    assert world.at_phone()[1].status == 403 and own.registered
    world.receive(from_core("INVITE", own), CORE)
    assert [message.status for _, message in world.sent if isinstance(message, Response)][-1] == 480
    assert not any(isinstance(message, Request) for _, message in world.sent)
    world.sent.clear()
    world.receive(phone.register(security=""), phone.clear)
    world.receive(ok(world.at_core()), CORE)
    world.sent.clear()
    world.receive(from_core("MESSAGE", own, call_id="mt2"), CORE)
    assert world.to_phone()[0] == phone.clear


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
def test_no_connection_in_clear_outlives_the_process(transport: str) -> None:
    """Step 1, 5: who has it after a restart may be anybody; over UDP the address is as good as before."""
    world, later = World(without=Without.ADMIT), World(without=Without.ADMIT)
    phone = Phone(world, transport=transport)
    world.receive(phone.register(security=""), phone.clear)
    world.receive(ok(world.at_core()), CORE)
    (own,) = world.proxy.registrar
    later.proxy.registrar.restore(own)
    assert (later.proxy.registrar.in_clear(phone.clear) is own) is (transport == "UDP")
    assert later.proxy.registrar.registered == 1


def test_sets_of_an_earlier_run_with_one_number_are_not_both_taken() -> None:
    """Step 1, 14: alarms name a set by its number, and one of the two would never end."""
    world, later = World(), World()
    for number in (1, 2):
        phone = Phone(world, address=f"10.45.0.{20 + number}", user=f"{number}@home", call_id=f"reg{number}")
        phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=50_000 + 2 * number, port=20_000 + 2 * number)
        phone.registered()
    first, second = world.proxy.registrar
    second.sets[0].id = first.sets[0].id
    later.proxy.registrar.restore(first)
    with pytest.raises(ValueError, match="the number of another"):
        later.proxy.registrar.restore(second)
    assert list(later.proxy.registrar) == [first] and later.proxy.registrar.registered == 1


def test_a_datagram_that_was_not_sent_cuts_nobody_off() -> None:
    """UDP has no connection that could be somebody else's."""
    world = World(without=Without.ADMIT)
    phone = Phone(world)
    world.receive(phone.register(security=""), phone.clear)
    world.receive(ok(world.at_core()), CORE)
    world.handle(FlowClosed(phone.clear, "no buffer"))
    assert world.proxy.registrar.in_clear(phone.clear) is not None
