"""What the core refuses, with which status, and that nothing of it reaches the other side (digest A6, A9, B1, C2)."""

import math
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from pcscf.register import Without
from pcscf.sip.message import Request
from pcscf.sip.parse import ParseError
from pcscf.vocabulary import FlowClosed, Interface, Malformed
from tests.unit.core.world import CORE, NONCE, REALM, Phone, World, answer, from_core, offer, ok, settings


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> Phone:
    return Phone(world)


def refused(world: World, data: bytes, phone: Phone, *, protected: bool = False) -> int:
    """Send it and give the status; nothing may have gone to the core."""
    world.receive(data, phone.uplink if protected else phone.clear)
    flow, response = world.at_phone()
    assert flow == (phone.downlink if protected else phone.clear)
    return response.status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"security": ""}, 421),
        ({"security": "", "extra": "Supported: sec-agree\r\n"}, 494),
        ({"security": "Security-Client: tls\r\n"}, 494),
        ({"security": f"Security-Client: {offer('hmac-sha-256-128/aes-cbc')}\r\n"}, 494),
        ({"security": f"Security-Client: {offer('hmac-md5-96/des-ede3-cbc')}\r\n"}, 494),
        ({"security": f"Security-Client: {offer('hmac-sha-1-96/null', port=5060)}\r\n"}, 400),
        ({"security": f"Security-Client: {offer('hmac-sha-1-96/null', spi=4294967295)}\r\n"}, 400),
        ({"security": f"Security-Client: {offer('hmac-sha-1-96/null', spi=100)}\r\n"}, 400),
        ({"security": "Security-Client: ipsec-3gpp;alg=hmac-sha-1-96;spi-c=1000\r\n"}, 400),
        ({"security": "Security-Client: ;;;\r\n"}, 400),
        ({"extra": "Proxy-Require: x-unknown\r\n"}, 420),
        ({"extra": 'Authorization: Digest username="b"\r\n'}, 400),
    ],
)
def test_first_register(world: World, phone: Phone, change: dict[str, str], status: int) -> None:
    assert refused(world, phone.register(**change), phone) == status  # type: ignore[arg-type]
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_no_agreement_names_what_we_would_take_but_no_numbers(world: World, phone: Phone) -> None:
    """B1: 421 with Security-Server and Require."""
    world.receive(phone.register(security=""), phone.clear)
    response = world.at_phone()[1]
    assert response.status == 421 and response.values("require") == ["sec-agree"]
    assert "alg=null;ealg=aes-gcm" in response.values("security-server")[0]
    assert "spi" not in ",".join(response.values("security-server"))


def test_no_hops_left(world: World, phone: Phone) -> None:
    data = phone.register().replace(b"Max-Forwards: 70", b"Max-Forwards: 0")
    assert refused(world, data, phone) == 483


def test_unknown_extension_is_named(world: World, phone: Phone) -> None:
    world.receive(phone.register(extra="Proxy-Require: x-unknown\r\n"), phone.clear)
    assert world.at_phone()[1].values("unsupported") == ["x-unknown"]


def test_no_authorization(world: World, phone: Phone) -> None:
    data = b"\r\n".join(line for line in phone.register().split(b"\r\n") if not line.startswith(b"Authorization"))
    assert refused(world, data, phone) == 403


@pytest.mark.parametrize(
    "change",
    [
        {"verify": ""},
        {"verify": "ipsec-3gpp;alg=null;ealg=aes-gcm;spi-c=1000000001;spi-s=1000000002;port-c=5104;port-s=5100"},
        {"client": ""},
        {"client": offer("hmac-sha-1-96/null")},
        {"client": offer("hmac-sha-1-96/aes-cbc hmac-sha-1-96/null", spi=45599)},
    ],
)
def test_a_broken_agreement_ends_the_temporary_set(world: World, phone: Phone, change: dict[str, str]) -> None:
    """A9, field traps 15 and 37: what is missing or changed is answered 494 inside ESP."""
    phone.challenged()
    world.receive(phone.answer(**change), phone.uplink)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 494)
    assert response.first("security-server") == phone.security_server
    world.receive(phone.answer(), phone.uplink)
    assert world.at_phone()[1].status == 403, "a set that is closing authenticates nobody"
    world.wait(130)
    assert not world.kernel.sas


def test_one_entry_dropped_from_security_verify(world: World, phone: Phone) -> None:
    phone.challenged()
    shorter = phone.security_server.rpartition(", ")[0]
    assert refused(world, phone.answer(verify=shorter), phone, protected=True) == 494


@pytest.mark.parametrize(
    "spaced",
    [
        lambda value: value.replace(";", " ; ").replace("=", " = "),
        lambda value: value.upper(),
        lambda value: ", ".join(";".join([e.split(";")[0], *sorted(e.split(";")[1:])]) for e in value.split(", ")),
    ],
)
def test_security_verify_is_compared_by_meaning(world: World, phone: Phone, spaced: object) -> None:
    """A7 step 6, A11, B1: case, spaces and order of parameters are free."""
    phone.challenged()
    world.receive(phone.answer(verify=spaced(phone.security_server)), phone.uplink)  # type: ignore[operator]
    assert world.at_core().method == "REGISTER"


@pytest.mark.parametrize(
    "change",
    [
        {"user": f"001010000000009@{REALM}"},
        {"authorization": f'nonce="{NONCE}",response=""'},
        {"authorization": 'nonce="another",response="486f3ee163ac4a424493c7ee626d3794"'},
    ],
)
def test_only_the_answer_of_its_own_user_may_come_on_a_temporary_set(
    world: World, phone: Phone, change: dict[str, str]
) -> None:
    phone.challenged()
    assert refused(world, phone.answer(**change), phone, protected=True) == 403


def test_another_identity_on_an_established_set(world: World, phone: Phone) -> None:
    phone.registered()
    verify = f"Security-Client: {phone.offer}\r\nSecurity-Verify: {phone.security_server}\r\n"
    data = phone.register(security=verify, sent_by=31801).replace(
        b"To: <sip:001010000000001", b"To: <sip:001010000000002"
    )
    assert refused(world, data, phone, protected=True) == 403


def test_via_of_another_address_inside_esp(world: World, phone: Phone) -> None:
    phone.challenged()
    data = phone.answer().replace(b"UDP 10.45.0.2", b"UDP 10.45.0.3")
    assert refused(world, data, phone, protected=True) == 400


def test_in_clear_only_register(world: World, phone: Phone) -> None:
    """Field trap 29: not even from the address of a UE that is registered."""
    phone.registered()
    assert refused(world, phone.register().replace(b"REGISTER", b"INVITE"), phone) == 403
    assert "INVITE in clear" in world.problems[-1]


def test_a_protected_port_without_sa_answers_nothing(world: World, phone: Phone) -> None:
    phone.challenged()
    stranger = phone.uplink._replace(remote=ip_address("10.45.0.99"))
    world.receive(phone.answer(), stranger)
    world.handle(Malformed(ParseError("x"), stranger))
    assert world.silent()


def test_garbage_is_answered_where_it_can_be(world: World, phone: Phone) -> None:
    with pytest.raises(ParseError) as caught:
        world.receive(phone.register().replace(b"Content-Length: 0", b"Content-Length: x"), phone.clear)
    world.handle(Malformed(caught.value, phone.clear))
    assert world.at_phone()[1].status == 400


def test_sm7_from_another_port_than_offered_has_no_set(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(), phone.uplink._replace(remote_port=31999))
    assert world.silent()


def test_accepted_in_clear_without_a_challenge(world: World, phone: Phone) -> None:
    world.receive(ok(phone.first()), CORE)
    assert world.at_phone()[1].status == 500 and not len(world.proxy.registrar)


def test_challenged_again_while_answering(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    at_core = world.at_core()
    data = answer(at_core, "401 Unauthorized", 'WWW-Authenticate: Digest realm="x",nonce="y",algorithm=AKAv1-MD5\r\n')
    world.receive(data, CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 403)


def test_admitted_without_ipsec_by_configuration(phone: Phone) -> None:
    """A14: no indicator, no Security-Server and no keys."""
    world = phone.world = World(without=Without.ADMIT)
    at_core = phone.first(security="")
    assert "integrity-protected" not in (at_core.first("authorization") or ""), "this is not IMS AKA (digest A14)"
    response = phone.challenged(at_core)
    assert response.status == 401 and response.first("security-server") is None
    assert b"ck=" not in world.raw[-1] and b"ik=" not in world.raw[-1]
    world.receive(phone.register(security="", authorization=f'nonce="{NONCE}",response="x"'), phone.clear)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200 and not world.kernel.sas


def test_interfaces_are_told_apart_by_socket_not_by_text(world: World, phone: Phone) -> None:
    data = phone.register(sent_by=31801)
    world.receive(data, phone.clear)
    assert (world.at_core().first("authorization") or "").endswith('"no"')
    assert phone.clear.interface is Interface.GM


def test_a_late_answer_of_the_core_finds_its_set_gone_and_is_not_sent(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    late = world.at_core()
    world.expired(next(iter(world.kernel.sas)))
    world.receive(ok(late), CORE)
    assert world.silent() and "a reply has lost its SA; not sent" in world.problems


def test_a_response_from_a_ue_answers_nothing_of_ours(world: World, phone: Phone) -> None:
    """The branch toward the core is no secret to somebody who sees Mw; the side it comes from is what counts."""
    at_core = phone.first()
    world.receive(ok(at_core), phone.clear)
    assert world.silent() and not len(world.proxy.registrar)
    assert phone.challenged(at_core).status == 401, "the real one still counts"


def test_a_second_register_cannot_end_the_set_whose_answer_is_under_way(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    at_core = world.at_core()
    assert refused(world, phone.answer(verify="ipsec-3gpp;alg=null"), phone, protected=True) == 494
    for number in range(9):
        other = Phone(world, user=f"{number}@{REALM}", call_id=f"o{number}")
        other.offer = offer("hmac-sha-1-96/null", spi=2000 + 2 * number, port=20000 + 2 * number)
        other.challenged()
    world.receive(ok(at_core), CORE)
    assert world.at_phone()[1].status == 200


def test_an_ack_in_clear_gets_no_answer(world: World, phone: Phone) -> None:
    world.receive(phone.register().replace(b"REGISTER", b"ACK"), phone.clear)
    assert world.silent()


def test_an_spi_in_use_is_refused_until_it_is_free(world: World, phone: Phone) -> None:
    phone.registered()
    again = Phone(world, call_id="again", offer=offer("hmac-sha-1-96/null", port=39000))
    response = again.challenged()
    assert response.status == 503 and response.first("retry-after") == "5"
    assert len(world.kernel.sas) == 4


@pytest.mark.parametrize(
    "lines",
    [
        "ipsec-3gpp;alg=hmac-sha-1-96;spi-c=1000;spi-s=1000;port-c=8000;port-s=8001",
        ", ".join([offer("hmac-sha-1-96/null")] * 33),
        f"{offer('hmac-sha-1-96/null')}, {offer('hmac-md5-96/null', spi=50000)}",
    ],
)
def test_contradictions_and_floods_in_an_offer(world: World, phone: Phone, lines: str) -> None:
    assert refused(world, phone.register(security=f"Security-Client: {lines}\r\n"), phone) == 400


def test_media_security_is_another_agreement(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(verify=f"sdes-srtp;mediasec, {phone.security_server}"), phone.uplink)
    assert world.at_core().method == "REGISTER"


def test_garbage_at_a_protected_port_without_sa_is_not_answered(world: World, phone: Phone) -> None:
    phone.challenged()
    with pytest.raises(ParseError) as caught:
        world.receive(phone.answer().replace(b"Content-Length: 0", b"Content-Length: x"), phone.uplink)
    world.handle(Malformed(caught.value, phone.uplink._replace(remote_port=9)))
    assert world.silent()
    world.handle(Malformed(caught.value, phone.uplink))
    assert world.at_phone()[0] == phone.downlink


def test_the_port_toward_the_core_believes_its_peers_only(phone: Phone) -> None:
    """A UE with a route to that port is not the core."""
    world = phone.world
    world.use(replace(settings(), peers=(ip_network("10.46.0.0/24"),)))
    phone.registered()
    (registration,) = world.proxy.registrar
    data = from_core("MESSAGE", registration)
    world.receive(data, CORE._replace(remote=ip_address("10.45.0.66")))
    assert world.silent() and "not from the core" in world.problems[-1]
    world.receive(data, CORE)
    assert world.to_phone()[0] == phone.downlink


def test_a_datagram_that_was_not_sent_is_sent_again(world: World, phone: Phone) -> None:
    """One send error toward the core is not the end of everybody's requests: the timers decide."""
    phone.first()
    world.handle(FlowClosed(CORE, "sending failed: No buffer space available"))
    assert world.silent() and "No buffer space" in world.problems[-1]
    world.wait(0.6)
    assert world.at_core().method == "REGISTER"


def test_forged_challenges_with_a_phones_numbers_keep_nobody_out(world: World, phone: Phone) -> None:
    """Every port_ps for the victim's port_uc, and its SPIs, taken by challenges nobody answers: the next has them."""
    for number in range(3):
        forger = Phone(world, user=f"00101000000009{number}@{REALM}", call_id=f"f{number}")
        forger.offer = phone.offer if number == 2 else offer("hmac-sha-1-96/null", spi=7000 + 2 * number)
        assert forger.challenged().status == 401
    assert phone.registered().status == 200


def test_a_dialog_named_like_another_ues_is_left_alone(world: World, phone: Phone) -> None:
    """B makes the core answer with the tags of A's dialog: A's stays A's."""
    phone.registered()
    other = Phone(
        world,
        user=f"001010000000002@{REALM}",
        call_id="b",
        clear_port=5070,
        instance="<urn:b>",
        offer=offer("hmac-sha-1-96/null", spi=7000, port=41000),
    )
    other.registered()
    for each, more in ((phone, ""), (other, "Session-Expires: 90\r\n")):
        world.receive(each.request("INVITE", branch=f"z9hG4bK{each.call_id}"), each.uplink)
        (invite,) = [message for flow, message in world.sent if flow == CORE]
        world.sent.clear()
        assert isinstance(invite, Request)
        world.receive(answer(invite, "200 OK", more, record=True), CORE)
        world.sent.clear()
    (dialog,) = world.proxy.dialogs._dialogs.values()
    assert dialog.registration.key.impi == phone.user and dialog.expires == math.inf


def test_a_lifetime_of_thousands_of_digits_is_no_number(world: World, phone: Phone) -> None:
    """Python would refuse to read it, and the answer of the core would be lost with it."""
    phone.challenged()
    data = phone.answer().replace(b"Expires: 600000", b"Expires: " + b"9" * 5000)
    world.receive(data, phone.uplink)
    world.receive(answer(world.at_core(), "200 OK"), CORE)
    assert world.at_phone()[1].status == 200
    (registration,) = world.proxy.registrar
    assert registration.expires == world.now + 600_000
