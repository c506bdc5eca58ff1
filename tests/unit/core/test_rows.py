"""Every row of the two tables of the life of a set (digest A8, A9), by the name it has in the table of clauses.

`test_life` and `test_registering` play whole stories; here is what each row says, over UDP and over TCP.
"""

from collections import Counter

import pytest

from pcscf.registration import Registration
from pcscf.sip.message import Request, Response
from pcscf.vocabulary import Flow
from tests.unit.core.world import CORE, NONCE, REALM, Phone, World, answer, challenge, from_core, offer, ok

SECOND = "bm9uY2UtMg=="
THIRD = "bm9uY2UtMw=="


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["UDP", "TCP"])
def phone(world: World, request: pytest.FixtureRequest) -> Phone:
    """A phone that is switched on."""
    return Phone(world, transport=request.param)


@pytest.fixture
def user(phone: Phone) -> Phone:
    """A phone that is registered: its set is the S1 of the tables."""
    phone.registered()
    return phone


def only(world: World) -> Registration:
    (registration,) = world.proxy.registrar
    return registration


def states(world: World) -> Counter[str]:
    return Counter(each.state.value for registration in world.proxy.registrar for each in registration.sets)


def rebooted(phone: Phone) -> Phone:
    """The same phone without its SAs: it starts in clear with numbers of its own."""
    return Phone(
        phone.world,
        transport=phone.transport,
        call_id="reg2",
        offer=offer("hmac-sha-1-96/aes-cbc", spi=60001, port=33000),
    )


def downlink_port(world: World) -> int:
    """The port of ours from which a request of the core leaves to the UE now, over UDP."""
    world.receive(from_core("MESSAGE", only(world), call_id=f"probe{len(world.raw)}"), CORE)
    flow, _ = world.to_phone()
    assert (flow.transport, flow.remote_port) == ("UDP", 31801)
    return flow.local_port


def port_pc(phone: Phone) -> int:
    return phone.number("port-c", phone.security_server)


def test_sm1_in_clear(world: World, user: Phone) -> None:
    """A8 "SM1 unprotected": nothing on the sets there are, not even their lifetime."""
    before = [(each.id, each.state, each.expires) for each in only(world).sets]
    kernel, batches = dict(world.kernel.sas), world.kernel.batches
    world.receive(rebooted(user).register(), user.clear)
    assert (world.at_core().first("authorization") or "").endswith('integrity-protected="no"')
    assert [(each.id, each.state, each.expires) for each in only(world).sets] == before
    assert (world.kernel.sas, world.kernel.batches) == (kernel, batches)
    assert downlink_port(world) == port_pc(user)


def test_sm1_on_a_set(world: World, user: Phone) -> None:
    """A8 "SM1 protected": on an established set, and its 401 comes back there."""
    assert user.rechallenged(user.again()).status == 401


def test_sm1_on_a_set_that_is_not_established(world: World, phone: Phone) -> None:
    """A8 "SM1 protected": a REGISTER that begins a procedure on a temporary set never gets to the core."""
    phone.challenged()
    world.receive(phone.reregister(phone.again(), authorization='nonce="",response=""'), phone.uplink)
    assert world.at_phone()[1].status in (403, 494)


@pytest.mark.parametrize("protected", [False, True])
def test_the_401(world: World, user: Phone, protected: bool) -> None:
    """A8 "401 to forward": the former TEMP goes, a new one comes; on S1 or in clear as SM1, never on TEMP."""

    def procedure(number: int, nonce: str) -> tuple[Flow, Response]:
        numbers = {"spi": 60001 + 1000 * number, "port": 33000 + 1000 * number}
        if protected:
            world.receive(user.reregister(user.again(**numbers)), user.uplink)  # type: ignore[arg-type]
        else:
            lost = rebooted(user)
            lost.call_id, lost.offer = f"lost{number}", offer("hmac-sha-1-96/aes-cbc", **numbers)
            world.receive(lost.register(), lost.clear)
        world.receive(challenge(world.at_core(), nonce=nonce), CORE)
        return world.at_phone()

    seen = []
    for number, nonce in enumerate((SECOND, THIRD)):
        flow, response = procedure(number, nonce)
        assert response.status == 401 and flow == (user.downlink if protected else user.clear)
        assert states(world) == {"active": 1, "temporary": 1} and len(world.kernel.sas) == 8
        seen.append({sa.selector.source_port for sa in world.kernel.sas.values()})
    assert 33000 in seen[0] and 33000 not in seen[1] and 34000 in seen[1]


def test_while_it_authenticates(world: World, user: Phone) -> None:
    """A8 "during auth": other traffic stays on S1 in both directions; on TEMP it is discarded without an answer."""
    after = user.again()
    user.rechallenged(after)
    for request in ("MESSAGE", "INVITE", "ACK"):
        world.receive(after.request(request), after.uplink)
        assert world.silent()
    world.receive(answer(user_request(world, user), "200 OK"), after.uplink)
    assert world.silent(), "a response is on the wrong SA too"
    world.receive(user.request("MESSAGE", call_id="m"), user.uplink)
    assert world.at_core().method == "MESSAGE"
    assert downlink_port(world) == port_pc(user) and states(world) == {"active": 1, "temporary": 1}


def user_request(world: World, phone: Phone) -> Request:
    """A request of the core as the phone has it."""
    world.receive(from_core("MESSAGE", only(world), call_id="asked"), CORE)
    flow, request = world.to_phone()
    assert flow.local_port == port_pc(phone)
    return request


def test_sm7_on_temp(world: World, user: Phone) -> None:
    """A8 "SM7": on TEMP it goes to the core as `yes`."""
    after = user.again()
    user.rechallenged(after, SECOND)
    world.receive(after.answer(), after.uplink)
    assert (world.at_core().first("authorization") or "").endswith('integrity-protected="yes"')


def test_sm7_in_clear(world: World, phone: Phone) -> None:
    """A8 "SM7": in clear it is no answer: `no`, and a 200 of the core to it is not passed on."""
    phone.challenged()
    fresh = offer("hmac-sha-1-96/aes-cbc", spi=50001, port=32000)
    world.receive(phone.answer(client=fresh, sent_by=5060), phone.clear)
    at_core = world.at_core()
    assert (at_core.first("authorization") or "").endswith('integrity-protected="no"')
    world.receive(ok(at_core), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.clear, 500)
    assert not any(each.registered for each in world.proxy.registrar)


def test_200_after_sm1_in_clear(world: World, user: Phone) -> None:
    """A8 "200, SM1 was unprotected": on TEMP, which is ACTIVE at once; every older set goes."""
    lost = rebooted(user)
    lost.challenged(nonce=SECOND)
    world.receive(lost.answer(), lost.uplink)
    assert states(world) == {"active": 1, "temporary": 1}
    world.receive(ok(world.at_core()), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (lost.downlink, 200)
    assert states(world) == {"active": 1} and len(world.kernel.sas) == 4
    assert {sa.selector.source_port for sa in world.kernel.sas.values()} >= {33000, 33001}, "and those are its own"


def test_200_after_sm1_on_s1(world: World, user: Phone) -> None:
    """A8 "200, SM1 was protected": on TEMP, which is NEW; S1 stays and carries what we send, older ones go."""
    second = user.reauthenticated()
    world.receive(second.request("MESSAGE", call_id="seen"), second.uplink)
    world.at_core()
    assert states(world) == {"old": 1, "active": 1}
    third = second.again(spi=61001, port=34000)
    second.rechallenged(third, THIRD)
    world.receive(third.answer(), third.uplink)
    world.receive(ok(world.at_core()), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (third.downlink, 200)
    assert states(world) == {"active": 1, "new": 1}
    assert downlink_port(world) == port_pc(second)


def test_the_first_uplink_on_new(world: World, user: Phone) -> None:
    """A8 "first further uplink on NEW": we send on NEW, which is ACTIVE; S1 ends its transactions and goes."""
    ringing = user_request(world, user)
    after = user.reauthenticated()
    world.receive(after.request("MESSAGE"), after.uplink)
    world.at_core()
    assert states(world) == {"old": 1, "active": 1} and downlink_port(world) == port_pc(after)
    world.receive(answer(ringing, "200 OK"), user.uplink)
    assert world.take()[0] == CORE, "what was pending on S1 ends there"
    world.wait(129)
    assert states(world) == {"active": 1} and len(world.kernel.sas) == 4


def test_s1_near_its_end(world: World, user: Phone) -> None:
    """A8 "first further uplink on NEW": or when S1 is about to end, without a word of the UE."""
    after = user.reauthenticated()
    world.wait(only(world).sets[0].expires - world.now - 5)
    assert downlink_port(world) == port_pc(after)


def test_lifetime_exceeded(world: World, phone: Phone) -> None:
    """A8 "lifetime exceeded": kernel, application and the procedure that made it; at expiry + 30 s."""
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core(), expires=600), CORE)
    world.sent.clear()
    world.wait(629)
    assert len(world.kernel.sas) == 4
    world.wait(2)
    assert not world.kernel.sas and not len(world.proxy.registrar)
    world.receive(phone.request("MESSAGE"), phone.uplink)
    assert world.silent()


def test_all_identities_deregistered(world: World, user: Phone) -> None:
    """A8 "all IMPUs deregistered": every set goes, after the answer is out and its transaction over."""
    after = user.reauthenticated()
    world.receive(after.reregister(after.again(spi=62001, port=35000), expires=0), after.uplink)
    world.receive(answer(world.at_core(), "200 OK"), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (after.downlink, 200) and world.secured(flow)
    world.wait(18 if user.transport == "TCP" else 129)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_wrong_ik(world: World, phone: Phone) -> None:
    """A9 "wrong IK": SIP sees nothing; TEMP ends after four minutes, and the procedure is forgotten."""
    phone.challenged()
    world.wait(239)
    assert states(world) == {"temporary": 1}
    world.wait(2)
    assert not world.kernel.sas and not len(world.proxy.registrar) and world.silent()


def test_res_wrong_after_sm1_in_clear(world: World, phone: Phone) -> None:
    """A9 "RES wrong": SM1 was in clear, so the 403 goes on the new set, which ends after its transaction."""
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    world.receive(answer(world.at_core(), "403 Forbidden"), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 403)
    world.wait(18 if phone.transport == "TCP" else 129)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_res_wrong_after_sm1_on_s1(world: World, user: Phone) -> None:
    """A9 "RES wrong": SM1 was on S1, so the 403 goes there; over TCP it keeps its connection. Still registered."""
    after = user.again()
    user.rechallenged(after)
    world.receive(after.answer(), after.uplink)
    world.receive(answer(world.at_core(), "403 Forbidden"), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (after.uplink if user.transport == "TCP" else user.downlink, 403)
    world.wait(129)
    assert states(world) == {"active": 1} and only(world).registered


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param('response=""', id='A9 "MAC failure"'),
        pytest.param('auts="uoU/PBIctV7bggBAq0E=",response=""', id='A9 "sync failure"'),
        pytest.param('auts="uoU/PBIctV7bggBAq0E=",response="180933893eb8c4519e87ae2c9d5a1955"', id="with a response"),
    ],
)
def test_network_authentication_fails(world: World, user: Phone, authorization: str, protected: bool) -> None:
    """A9 "MAC failure", A9 "sync failure": TEMP goes, the REGISTER passes, the next 401 makes one of new numbers."""
    old = user if protected else rebooted(user)
    if protected:
        user.rechallenged(user.again(), SECOND)
    else:
        old.challenged(nonce=SECOND)
    numbers = offer("hmac-sha-1-96/aes-cbc", spi=61001, port=34000).replace("port-s=34001", "port-s=31801")
    credentials = f'nonce="{SECOND}",{authorization}'
    newer = user.again(spi=61001, port=34000)
    if protected:
        world.receive(user.reregister(newer, authorization=credentials), user.uplink)
    else:
        old.offer = numbers
        world.receive(old.register(authorization=credentials), old.clear)
        newer = old
    assert states(world) == {"active": 1}, "TEMP is gone, S1 is not touched"
    at_core = world.at_core()
    value = at_core.first("authorization") or ""
    assert credentials in value and value.endswith(f'integrity-protected="{"yes" if protected else "no"}"')
    world.receive(challenge(at_core, nonce=THIRD), CORE)
    flow, response = world.at_phone()
    assert response.status == 401 and flow == (user.downlink if protected else user.clear)
    newer.security_server, newer.nonce = response.first("security-server") or "", THIRD
    world.receive(newer.answer(), newer.uplink)
    world.receive(ok(world.at_core()), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (newer.downlink, 200)


def test_a_newer_challenge(world: World, user: Phone) -> None:
    """A9 "newer challenge": a 401 to another REGISTER of the contact makes the former TEMP void."""
    first = user.again()
    user.rechallenged(first, SECOND)
    second = user.again(spi=61001, port=34000)
    user.rechallenged(second, THIRD)
    assert states(world) == {"active": 1, "temporary": 1}
    world.receive(first.answer(), first.uplink)
    assert world.silent()
    world.receive(second.answer(), second.uplink)
    assert world.at_core().method == "REGISTER"


@pytest.mark.parametrize("protected", [False, True])
def test_sm7_unanswered(world: World, user: Phone, protected: bool) -> None:
    """A9 "SM7 unanswered": the UE gets a 504 inside ESP, and starts anew on S1 or in clear as if nothing had been."""
    after = user.again()
    user.rechallenged(after, SECOND)
    world.receive(after.answer(), after.uplink)
    world.sent.clear()
    world.wait(33)
    answers = [(flow, message.status) for flow, message in world.sent if isinstance(message, Response)]
    assert [status for _, status in answers] == [504] and world.secured(answers[0][0])
    world.sent.clear()
    assert only(world).registered
    if protected:
        user.cseq = 10
        next_one = user.again(spi=61001, port=34000)
        user.rechallenged(next_one, THIRD)
    else:
        next_one = rebooted(user)
        next_one.challenged(nonce=THIRD)
    world.receive(next_one.answer(), next_one.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200


def test_no_common_algorithm(world: World, phone: Phone) -> None:
    """A9 "no common algorithm": an error to SM1, nothing forwarded, nothing installed."""
    phone.offer = offer("hmac-md5-96/des-ede3-cbc")
    world.receive(phone.register(), phone.clear)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.clear, 494) and not world.kernel.batches


def test_no_common_algorithm_on_s1(world: World, user: Phone) -> None:
    """A9 "no common algorithm": in a re-registration the same, on S1, and the UE stays registered."""
    batches = world.kernel.batches
    world.receive(user.reregister(user.again(pairs="hmac-md5-96/des-ede3-cbc")), user.uplink)
    flow, response = world.at_phone()
    assert (flow, response.status) == (user.downlink, 494)
    assert world.kernel.batches == batches and states(world) == {"active": 1} and only(world).registered


def test_the_ue_takes_no_proposal(world: World, user: Phone) -> None:
    """A9 "proposal unacceptable to the UE": silence; TEMP ends alone."""
    user.rechallenged(user.again())
    world.wait(241)
    assert states(world) == {"active": 1} and only(world).registered and world.silent()


@pytest.mark.parametrize("change", [{"verify": "ipsec-3gpp;alg=null"}, {"verify": ""}, {"client": ""}])
def test_the_agreement_is_broken(world: World, phone: Phone, change: dict[str, str]) -> None:
    """A9 "agreement mismatch": 494 inside ESP, nothing forwarded, TEMP ends."""
    phone.challenged()
    world.receive(phone.answer(**change), phone.uplink)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 494)
    world.wait(129)
    assert not world.kernel.sas and not len(world.proxy.registrar)


@pytest.mark.parametrize("status", ["400 Bad Request", "480 Gone", "500 Broken", "600 Busy"])
def test_other_failures_of_sm1(world: World, user: Phone, status: str) -> None:
    """A9 "any other failure": in clear if SM1 was, on S1 if SM1 was; S1 and the registration stay."""
    world.receive(user.reregister(user.again()), user.uplink)
    world.receive(answer(world.at_core(), status), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (user.downlink, int(status[:3]))
    lost = rebooted(user)
    world.receive(lost.register(), lost.clear)
    world.receive(answer(world.at_core(), status), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (lost.clear, int(status[:3]))
    assert states(world) == {"active": 1} and only(world).registered and len(world.kernel.sas) == 4


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Broken"])
def test_other_failures_after_a_mac_failure(world: World, user: Phone, status: str) -> None:
    """A9 "any other failure": the 4xx to a MAC failure on S1 goes on S1; the new set is gone already."""
    user.rechallenged(user.again(), SECOND)
    data = user.reregister(user.again(spi=61001, port=34000), authorization=f'nonce="{SECOND}",response=""')
    world.receive(data, user.uplink)
    world.receive(answer(world.at_core(), status), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (user.downlink, int(status[:3]))
    assert states(world) == {"active": 1} and only(world).registered


def test_contacts_are_independent(world: World, user: Phone) -> None:
    """A9: another contact of the same user has procedures and sets of its own."""
    other = Phone(
        world, address="10.45.0.3", call_id="other", instance="<urn:2>", offer=offer("hmac-sha-1-96/null", spi=7000)
    )
    user.rechallenged(user.again())
    other.challenged(nonce=NONCE)
    assert states(world) == {"active": 1, "temporary": 2}
    assert {each.key.impi for each in world.proxy.registrar} == {f"001010000000001@{REALM}"}


def test_sm7_on_s1_is_not_yes() -> None:
    """A8 "SM7", A10: the answer to a challenge on S1 instead of TEMP: discarded, refused, or `no`; never `yes`."""
    world = World()
    phone = Phone(world)
    phone.registered()
    after = phone.again()
    phone.rechallenged(after, "bm9uY2UtMg==")
    credentials = 'nonce="bm9uY2UtMg==",algorithm=AKAv1-MD5,response="486f3ee163ac4a424493c7ee626d3794"'
    world.receive(phone.reregister(after, authorization=credentials), phone.uplink)
    seen = [str(message.first("authorization")) for flow, message in world.sent if flow == CORE]
    assert not seen or seen[0].endswith('integrity-protected="no"')
