"""The life of a registration and its sets after the first one, row by row (digest A8, A9, C4, C5, F12 to F14)."""

from collections import Counter
from ipaddress import ip_address

import pytest

from pcscf.observe import RegistrationChanged
from pcscf.registration import SET_LIFE, Registration, SaSet, SetState
from pcscf.vocabulary import FlowClosed
from tests.unit.core.world import CORE, NONCE, REALM, Phone, World, answer, challenge, from_core, offer, ok


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


def states(world: World) -> Counter[str]:
    return Counter(each.state.value for registration in world.proxy.registrar for each in registration.sets)


def sets(world: World) -> list[SaSet]:
    return only(world).sets


def message_goes_to(world: World) -> int:
    """The port_pc from which the next request to the phone leaves."""
    world.receive(from_core("MESSAGE", only(world), call_id=f"mt{world.now}{len(world.raw)}"), CORE)
    flow, _ = world.to_phone()
    assert flow.remote_port == 31801
    return flow.local_port


def test_reregistration_without_challenge_lives_on(world: World, phone: Phone) -> None:
    """F12a: inside the set, `yes`, the offer dropped, the lifetime moved."""
    world.wait(1000)
    after = phone.again()
    world.receive(phone.reregister(after), phone.uplink)
    seen = world.at_core()
    assert (seen.first("authorization") or "").endswith('integrity-protected="yes"')
    assert not seen.lines("security-client") and not seen.lines("security-verify")
    batches = world.kernel.batches
    world.receive(ok(seen), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 200)
    assert world.kernel.batches == batches and states(world) == {"active": 1}
    assert sets(world)[0].expires == world.now + 600_030
    assert set(world.kernel.lifetimes.values()) == {600_090}


def test_a_shorter_registration_never_cuts_a_set_short(world: World, phone: Phone) -> None:
    end = sets(world)[0].expires
    world.receive(phone.reregister(phone.again()), phone.uplink)
    world.receive(ok(world.at_core(), expires=60), CORE)
    assert world.at_phone()[1].status == 200
    assert sets(world)[0].expires == end


def test_reauthentication_installs_a_second_set_beside_the_first(world: World, phone: Phone) -> None:
    """F12b: the 401 on S1, port_pc rotated, port_ps fixed, eight SAs, SM7 on the new one."""
    after = phone.again()
    phone.rechallenged(after)
    assert len(world.kernel.sas) == 8 and states(world) == {"active": 1, "temporary": 1}
    assert after.number("port-s", after.security_server) == phone.number("port-s", phone.security_server) == 5100
    assert after.number("port-c", after.security_server) != phone.number("port-c", phone.security_server)
    world.receive(after.answer(), after.uplink)
    assert (world.at_core().first("authorization") or "").endswith('integrity-protected="yes"')


def test_the_old_set_serves_until_the_ue_is_seen_on_the_new_one(world: World, phone: Phone) -> None:
    """A8: NEW after the 200; downlink stays on S1; the first message on NEW moves it, S1 is OLD and goes in 128 s."""
    after = phone.reauthenticated()
    assert states(world) == {"active": 1, "new": 1}
    old_port, new_port = phone.downlink.local_port, after.downlink.local_port
    assert message_goes_to(world) == old_port
    world.receive(after.request("MESSAGE"), after.uplink)
    world.at_core()
    assert states(world) == {"old": 1, "active": 1}
    assert message_goes_to(world) == new_port
    world.wait(127)
    assert states(world)["old"] == 1
    world.wait(2)
    assert states(world) == {"active": 1} and len(world.kernel.sas) == 4


def test_a_response_on_the_new_set_moves_it_as_well(world: World, phone: Phone) -> None:
    after = phone.reauthenticated()
    world.receive(from_core("MESSAGE", only(world)), CORE)
    _, message = world.to_phone()
    world.receive(answer(message, "200 OK"), after.uplink)
    assert states(world) == {"old": 1, "active": 1}
    assert world.take()[0] == CORE


def test_a_repeated_answer_to_the_challenge_does_not_move_it(world: World, phone: Phone) -> None:
    after = phone.again()
    phone.rechallenged(after)
    data = after.answer()
    world.receive(data, after.uplink)
    world.receive(ok(world.at_core()), CORE)
    world.at_phone()
    world.receive(data, after.uplink)
    assert world.at_phone()[0] == after.downlink and states(world) == {"active": 1, "new": 1}


def test_the_new_set_takes_over_when_the_old_one_is_about_to_end(world: World, phone: Phone) -> None:
    after = phone.reauthenticated()
    first = sets(world)[0]
    first.expires = world.now + 5
    assert message_goes_to(world) == after.downlink.local_port
    assert states(world) == {"old": 1, "active": 1}


def test_the_new_set_takes_over_when_the_old_one_has_ended(world: World, phone: Phone) -> None:
    after = phone.reauthenticated()
    world.expired(sets(world)[0].ids[0])
    assert states(world) == {"active": 1}
    assert message_goes_to(world) == after.downlink.local_port


def test_nothing_but_authentication_on_a_temporary_set(world: World, phone: Phone) -> None:
    """A8: a message on the wrong SA is discarded; other traffic stays on the old set."""
    after = phone.again()
    phone.rechallenged(after)
    world.receive(after.request("MESSAGE"), after.uplink)
    assert world.silent() and "MESSAGE on a set of SAs that is temporary" in world.problems[-1]
    world.receive(phone.request("MESSAGE"), phone.uplink)
    assert world.at_core().method == "MESSAGE"


def test_three_sets_at_once_and_never_more(world: World, phone: Phone) -> None:
    """A6 rule 3: old, in use and temporary: twelve SAs, six in each direction."""
    second = phone.reauthenticated()
    world.receive(second.request("MESSAGE"), second.uplink)
    world.at_core()
    third = second.again(spi=61001, port=34000)
    second.rechallenged(third, "bm9uY2UtMw==")
    assert states(world) == {"old": 1, "active": 1, "temporary": 1} and len(world.kernel.sas) == 12
    world.receive(third.answer(), third.uplink)
    world.receive(ok(world.at_core()), CORE)
    world.at_phone()
    assert states(world) == {"active": 1, "new": 1}, "every other older set is gone at the 200"
    fourth = second.again(spi=62001, port=35000)
    second.rechallenged(fourth, "bm9uY2UtNA==")
    assert sum(states(world).values()) == 3 and len(world.kernel.sas) == 12
    assert len({each.parameters.port_pc for each in sets(world)}) == 3


def test_from_the_old_set_only_no_is_said_to_the_core(world: World, phone: Phone) -> None:
    """A10: `yes` is for the set of the latest authentication."""
    after = phone.reauthenticated()
    world.receive(phone.reregister(after.again(spi=61001, port=34000)), phone.uplink)
    assert (world.at_core().first("authorization") or "").endswith('integrity-protected="no"')


def test_a_failed_reauthentication_leaves_the_registration(world: World, phone: Phone) -> None:
    """A9, F14: 403 on the old set, the temporary one goes, the user stays registered (field trap 39)."""
    after = phone.again()
    phone.rechallenged(after)
    world.receive(after.answer(), after.uplink)
    world.receive(answer(world.at_core(), "403 Forbidden"), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 403)
    assert only(world).registered and message_goes_to(world) == phone.downlink.local_port
    world.wait(130)
    assert states(world) == {"active": 1} and len(world.kernel.sas) == 4


def test_over_tcp_the_refusal_keeps_its_connection(world: World) -> None:
    phone = Phone(world, transport="TCP")
    phone.registered()
    after = phone.again()
    phone.rechallenged(after)
    world.receive(after.answer(), after.uplink)
    world.receive(answer(world.at_core(), "403 Forbidden"), CORE)
    assert world.at_phone()[0] == after.uplink


def test_a_broken_agreement_in_reauthentication_is_told_on_the_old_set(world: World, phone: Phone) -> None:
    after = phone.again()
    phone.rechallenged(after)
    world.receive(after.answer(verify="ipsec-3gpp;alg=null"), after.uplink)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 494)
    world.wait(130)
    assert states(world) == {"active": 1}


def test_an_unanswered_reauthentication_ends_alone(world: World, phone: Phone) -> None:
    phone.rechallenged(phone.again())
    world.wait(241)
    assert states(world) == {"active": 1} and only(world).registered and len(world.kernel.sas) == 4


@pytest.mark.parametrize("authorization", ['auts="uoU/PBIctV7bggBAq0E=",response=""', 'response=""'])
def test_network_authentication_fails_on_an_established_set(world: World, phone: Phone, authorization: str) -> None:
    """A9: on the established set with a new offer: TEMP goes, the next 401 makes one of the new numbers."""
    after = phone.again()
    phone.rechallenged(after)
    newer = phone.again(spi=61001, port=34000)
    data = phone.reregister(newer, authorization=f'nonce="bm9uY2UtMg==",{authorization}')
    world.receive(data, phone.uplink)
    assert states(world) == {"active": 1}
    world.receive(challenge(world.at_core(), nonce="bm9uY2UtMw=="), CORE)
    flow, response = world.at_phone()
    assert flow == phone.downlink and states(world) == {"active": 1, "temporary": 1}
    newer.security_server, newer.nonce = response.first("security-server") or "", "bm9uY2UtMw=="
    world.receive(newer.answer(), newer.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[0] == newer.downlink


def test_the_newest_challenge_wins(world: World, phone: Phone) -> None:
    """A9, field trap 17: a second REGISTER while one is challenged; the set of the first 401 is gone, S1 untouched."""
    first = phone.again()
    phone.rechallenged(first)
    second = phone.again(spi=61001, port=34000)
    phone.rechallenged(second, "bm9uY2UtMw==")
    assert states(world) == {"active": 1, "temporary": 1}
    world.receive(first.answer(), first.uplink)
    assert world.silent()
    world.receive(second.answer(), second.uplink)
    assert world.at_core().method == "REGISTER"


def test_an_unprotected_reregistration_replaces_everything_at_once(world: World, phone: Phone) -> None:
    """F12c, A8: SM1 in clear leaves the old set until the 200, then it is gone at once."""
    lost = Phone(world, call_id="reg2", offer=offer("hmac-sha-1-96/aes-cbc", spi=60001, port=33000))
    lost.challenged(nonce="bm9uY2UtMg==")
    assert states(world) == {"active": 1, "temporary": 1} and message_goes_to(world) == phone.downlink.local_port
    world.receive(lost.answer(), lost.uplink)
    world.receive(ok(world.at_core()), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (lost.downlink, 200)
    assert states(world) == {"active": 1} and len(world.kernel.sas) == 4


def test_a_forged_register_in_clear_hurts_nobody(world: World, phone: Phone) -> None:
    """An attacker knows the user's name: the victim's set stays, with its lifetime, and goes on serving."""
    end = sets(world)[0].expires
    forger = Phone(world, address="10.45.0.66", call_id="forged", offer=offer("hmac-sha-1-96/aes-cbc", spi=9000))
    forger.challenged()
    world.receive(forger.answer(), forger.uplink)
    world.receive(answer(world.at_core(), "403 Forbidden"), CORE)
    world.at_phone()
    world.wait(300)
    assert [each.registered for each in world.proxy.registrar] == [True]
    assert sets(world)[0].expires == end and message_goes_to(world) == phone.downlink.local_port


def deregister(world: World, phone: Phone, *, contact: str | None = None, expires: int = 0) -> bytes:
    data = phone.reregister(phone.again(spi=65001, port=39000), expires=expires)
    if contact is not None:
        start = data.index(b"Contact: ")
        data = data[:start] + f"Contact: {contact}".encode() + data[data.index(b"\r\n", start) :]
    return data


@pytest.mark.parametrize("contact", [None, "*"])
def test_deregistration_inside_esp_and_the_sas_gone_when_its_transaction_is(
    world: World, phone: Phone, contact: str | None
) -> None:
    """F13, field traps 19 and 20: the 200 inside, also again; sets and bindings gone after Timer J."""
    data = deregister(world, phone, contact=contact)
    world.receive(data, phone.uplink)
    world.receive(answer(world.at_core(), "200 OK", "Service-Route: <sip:orig@10.46.0.2:5060;lr>\r\n"), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 200) and states(world) == {"closing": 1}
    world.receive(data, phone.uplink)
    assert world.at_phone()[0] == phone.downlink
    world.wait(129)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_a_challenged_deregistration_ends_all_sets(world: World, phone: Phone) -> None:
    """C5: dereg may be challenged; the sets go together at its end."""
    after = phone.again()
    phone.rechallenged(after, expires=0)
    world.receive(after.answer(expires=0), after.uplink)
    world.receive(answer(world.at_core(), "200 OK"), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (after.downlink, 200) and states(world) == {"closing": 2}
    world.wait(129)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_what_has_ended_does_not_wait_for_the_end_it_was_granted(world: World) -> None:
    """Else every registration stays in memory for the week of its Expires, however soon the UE left."""
    for _ in range(100):
        phone = Phone(world)
        phone.registered()
        world.wait(300)
        world.receive(deregister(world, phone), phone.uplink)
        world.receive(answer(world.at_core(), "200 OK"), CORE)
        world.at_phone()
        world.wait(129)
        assert not len(world.proxy.registrar)
    assert len(world.proxy.registrar._deadlines) < 100


def test_one_of_several_contacts_is_taken_out(world: World, phone: Phone) -> None:
    """C5: this UE takes out the contact of the user's other UE; only that one ends."""
    other = Phone(
        world,
        address="10.45.0.3",
        call_id="other",
        instance="<urn:gsma:imei:2>",
        offer=offer("hmac-sha-1-96/null", spi=7000, port=41000),
    )
    other.registered()
    assert len(world.kernel.sas) == 8
    world.receive(deregister(world, phone, contact="<sip:10.45.0.3:41001>;expires=0"), phone.uplink)
    world.receive(answer(world.at_core(), "200 OK", "Contact: <sip:10.45.0.2:31801>;expires=500000\r\n"), CORE)
    assert world.at_phone()[1].status == 200
    remaining = {str(each.key.address): each.registered for each in world.proxy.registrar}
    assert remaining == {"10.45.0.2": True, "10.45.0.3": False}
    world.wait(129)
    assert {str(each.key.address) for each in world.proxy.registrar} == {"10.45.0.2"}


def test_several_identities_share_the_sets(world: World, phone: Phone) -> None:
    """C5, 5.2.4: the SAs go with the last identity, not before."""
    data = phone.reregister(phone.again()).replace(f"To: <sip:{phone.user}>".encode(), b"To: <tel:+15551230001>")
    world.receive(data, phone.uplink)
    request = world.at_core()
    contact = request.first("contact")
    extra = f"Contact: {contact};expires=3600\r\nP-Associated-URI: <sip:second@{REALM}>\r\n"
    world.receive(answer(request, "200 OK", extra), CORE)
    assert world.at_phone()[1].status == 200 and len(only(world).bindings) == 2
    assert only(world).associated_uris[0] == f"<sip:+15551230001@{REALM}>", "the first stays the default"
    world.receive(deregister(world, phone), phone.uplink)
    world.receive(answer(world.at_core(), "200 OK"), CORE)
    world.at_phone()
    assert only(world).registered and states(world) == {"active": 1}
    world.wait(3601)
    assert not only(world).registered, "the other one has expired"


def test_expiry_ends_sets_thirty_seconds_later(world: World) -> None:
    """A8, C5: at the expiry of the registration + 30 s."""
    phone = Phone(world)
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core(), expires=600), CORE)
    world.at_phone()
    world.wait(601)
    assert not only(world).registered and states(world) == {"active": 1}
    world.receive(phone.request("MESSAGE"), phone.uplink)
    assert world.at_phone()[1].status == 403
    world.wait(30)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_refreshes_add_no_alarms(world: World, phone: Phone) -> None:
    """Field trap 22: N refreshes, one end."""
    alarms = len(world.proxy.registrar._deadlines)
    for _ in range(20):
        world.wait(10)
        world.receive(phone.reregister(phone.again()), phone.uplink)
        world.receive(ok(world.at_core()), CORE)
        world.at_phone()
    assert len(world.proxy.registrar._deadlines) == alarms
    world.wait(700_000)
    ends = [
        record
        for _, record in world.journal.after(0)
        if isinstance(record, RegistrationChanged) and not record.registered
    ]
    assert len(ends) == 1 and not world.kernel.sas


def test_static_ports_after_a_reboot_by_the_letter(phone: Phone) -> None:
    """A6 `sa_conflict = strict`: the ports of a live SA are refused until it ends."""
    world = phone.world = World(strict_ports=True)
    phone.cseq, phone.nonce = 0, ""
    phone.registered()
    again = Phone(world, call_id="reg2", offer=offer("hmac-sha-1-96/aes-cbc", spi=45601))
    world.receive(again.register(), again.clear)
    assert world.at_phone()[1].status == 403 and len(world.kernel.sas) == 4


def test_a_phone_that_keeps_its_port_uc_gets_another_port_ps_and_back(world: World, phone: Phone) -> None:
    """A5, A6: equal selectors never live side by side."""
    second = phone.again(spi=60001, port=31800)
    assert phone.rechallenged(second).status == 401
    assert second.number("port-s", second.security_server) == 5101
    world.receive(second.answer(), second.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[0] == second.downlink


def test_a_fin_ends_nothing_and_the_next_request_connects(world: World) -> None:
    """Field traps 21 and 26: after an idle FIN a long request opens port_pc -> port_us."""
    phone = Phone(world, transport="TCP")
    phone.registered()
    world.handle(FlowClosed(phone.uplink, "closed"))
    assert states(world) == {"active": 1}
    world.receive(from_core("MESSAGE", only(world), body="x" * 1400), CORE)
    flow, _ = world.to_phone()
    assert flow.transport == "TCP" and (flow.local_port, flow.remote_port) == (5104, 31801)
    assert flow in world.connects


def test_a_set_that_ends_before_its_answer_comes_takes_nothing_with_it(world: World, phone: Phone) -> None:
    """The core answers SM7 after TEMP has expired: nothing is sent in clear, the registration stays."""
    after = phone.again()
    phone.rechallenged(after)
    world.receive(after.answer(), after.uplink)
    late = world.at_core()
    world.wait(31)
    for each in sets(world):
        if each.state is SetState.TEMP:
            world.expired(each.ids[0])
    world.sent.clear()
    world.receive(ok(late), CORE)
    assert states(world) == {"active": 1} and only(world).registered
    assert all(flow == phone.downlink for flow, _ in world.sent)


def test_the_table_of_the_life_is_whole() -> None:
    """Every state is left, by its end at least; GONE is not."""
    assert SET_LIFE.keys() == set(SetState)
    for state, rows in SET_LIFE.items():
        ends = {next_state for next_state, _ in rows.values()}
        assert (SetState.GONE in ends) == (state is not SetState.GONE)


def test_two_ues_of_one_user_at_one_address(world: World, phone: Phone) -> None:
    other = Phone(
        world,
        call_id="other",
        clear_port=5070,
        instance="<urn:2>",
        offer=offer("hmac-sha-1-96/null", spi=7000, port=41000),
    )
    other.registered()
    tokens = {each.path_token: each for each in world.proxy.registrar}
    assert len(tokens) == 2 and len(world.kernel.sas) == 8
    for registration in tokens.values():
        world.receive(from_core("MESSAGE", registration, call_id=registration.path_token), CORE)
    ports = {flow.remote_port for flow, _ in world.sent}
    assert ports == {31801, 41001}, "each Path leads to its own UE (field trap 34)"


def test_the_ue_moves_to_another_address(world: World, phone: Phone) -> None:
    """TS 33.203 7.5: the same instance from a new address in clear; the old address's SAs go at its 200."""
    moved = Phone(world, address="10.45.0.77", call_id="reg3")
    moved.registered()
    assert {str(sa_id.destination) for sa_id in world.kernel.sas} == {"10.45.0.1", "10.45.0.77"}
    assert [each.key.address for each in world.proxy.registrar] == [ip_address("10.45.0.77")]


def test_nonce_is_the_one_of_the_challenge(world: World, phone: Phone) -> None:
    after = phone.again()
    phone.rechallenged(after)
    after.nonce = NONCE
    world.receive(after.answer(), after.uplink)
    assert world.at_phone()[1].status == 403, "the answer to an earlier challenge"
