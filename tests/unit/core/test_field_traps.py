"""Faults proven in other P-CSCFs, by number: a test each, or why ours cannot have it.

The design cannot have these, or they are shown elsewhere:

- 2 (a socket an operation, messages one by one): `xfrm.netlink` has one socket, and `install` takes a whole set; the
  test below counts the batches.
- 3, 43 (policies per UE that expire first; policies with exact ports that let clear text pass): our policies are
  constant for the process and match our port alone; tests/kernel shows that nothing clear passes with SAs or without.
- 4 (a refresh or re-authentication that touches policies): there is no policy of a UE to touch.
- 7 (dump buffers too small to clean up): tests/kernel lists and removes 800 SAs; policies do not grow with UEs.
- 9 (two instances deleting each other's SAs): tests/kernel, `protect` and `close` beside a second instance.
- 17 (a challenge repeated, or a resynchronisation, that leaves the wrong set): `test_the_newest_challenge_wins`,
  `test_network_authentication_fails`; SPIs are freed with their set and not before, see 6.
- 19, 20 (deregistration: a 200 in clear, SAs for days, `Contact: *`):
  `test_deregistration_inside_esp_and_the_sas_gone_when_its_transaction_is`,
  `test_a_challenged_deregistration_ends_all_sets`.
- 21 (a FIN taken for a deregistration): `test_a_fin_ends_nothing_and_the_next_request_connects`.
- 22 (one more expiry for each refresh): a set has one deadline; `test_refreshes_add_no_alarms`.
- 23 (contacts restored without their SAs, or the reverse): this version keeps no store, so after a restart it knows
  neither, and a UE is unreachable until it registers again, as after any loss of its P-CSCF. The two cannot disagree:
  its own SAs in the kernel end with it, or after a kill by their hard lifetime; until then they carry nothing in clear.
- 27 (OPTIONS or a retransmission by another socket): a transaction keeps its flow;
  `test_retransmissions_follow_the_timers_of_gm`, `test_options_to_ourselves`.
- 29 (clear text from the address of a registered UE): `test_in_clear_only_register`.
- 33 (another transport within a transaction): the ways are decided once, and another one is another transaction;
  `test_a_ue_without_tcp_gets_it_over_udp`, `test_each_request_of_a_dialog_has_a_transport_of_its_own`.
- 34 (one Path for all): `test_two_ues_of_one_user_at_one_address`, `test_one_path_for_one_contact`.
- 37 (Security-Verify and -Client not compared): `test_a_broken_agreement_ends_the_temporary_set`.
- 39 (requests to a set that never authenticated; own replies in clear):
  `test_a_failed_reauthentication_leaves_the_registration`, `test_a_core_that_does_not_answer`; any reply of ours takes
  the way of its transaction, and the world of these tests fails on what leaves a protected port without an SA.
- 44 (old sets for ever, a new one at once): `test_the_old_set_serves_until_the_ue_is_seen_on_the_new_one`.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcscf.aka import AkaKeys, expand
from pcscf.config import Config, ConfigError, load
from pcscf.register import Without
from pcscf.sip.message import Request, Response
from pcscf.spis import SPI_QUARANTINE
from pcscf.vocabulary import FlowClosed
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
    repeat_spis,
)
from xfrm.algorithms import Pair
from xfrm.model import REPLAY_WINDOW, Key


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> Phone:
    return Phone(world)


@pytest.mark.parametrize("refused", [0, 1, 2, 3])
def test_1_no_challenge_before_the_kernel_has_said_yes_to_all_four(world: World, phone: Phone, refused: int) -> None:
    world.kernel.refuse = refused
    response = phone.challenged()
    assert response.status == 500 and response.first("security-server") is None
    assert not world.kernel.sas and not len(world.proxy.registrar)
    world.kernel.refuse = None
    assert Phone(world, call_id="again").challenged().status == 401, "its ports and SPIs are free again"


def test_2_one_batch_a_set(world: World, phone: Phone) -> None:
    phone.registered()
    assert world.kernel.batches == 1


def test_5_anti_replay_is_always_on(world: World, phone: Phone) -> None:
    phone.challenged()
    assert {sa.replay_window for sa in world.kernel.sas.values()} == {REPLAY_WINDOW} and REPLAY_WINDOW >= 32


def test_6_spis_are_never_those_of_a_live_set_nor_just_freed() -> None:
    """The source of randomness repeats itself, as a wrapped counter does."""
    world = World()
    numbers = [1_000_000_001, 1_000_000_002, 1_000_000_001, 1_000_000_002, 1_000_000_003, 1_000_000_004]
    repeat_spis(world, numbers * 3)
    first, second = Phone(world), Phone(world, address="10.45.0.3", call_id="b", user=f"2@{REALM}")
    first.challenged()
    second.challenged()
    taken = {sa_id.spi for sa_id in world.kernel.sas if str(sa_id.destination) == "10.45.0.1"}
    assert taken == {1_000_000_001, 1_000_000_002, 1_000_000_003, 1_000_000_004}
    world.wait(241)
    assert not world.kernel.sas
    repeat_spis(world, [*numbers, 1_000_000_005, 1_000_000_006])
    Phone(world, call_id="c").challenged()
    fresh = {sa_id.spi for sa_id in world.kernel.sas if str(sa_id.destination) == "10.45.0.1"}
    assert fresh == {1_000_000_005, 1_000_000_006}, "the freed ones are in quarantine"
    world.wait(SPI_QUARANTINE)
    repeat_spis(world, numbers)
    Phone(world, call_id="d").challenged()
    assert {sa_id.spi for sa_id in world.kernel.sas if str(sa_id.destination) == "10.45.0.1"} == set(numbers[:2])


@pytest.mark.parametrize("addresses", [["0.0.0.0"], ["::"], ["10.45.0.1", "::ffff:10.45.0.1"], ["fe80::1"], []])
def test_8_wildcard_and_mixed_addresses_are_refused_at_start(addresses: list[str], tmp_path: object) -> None:
    path = Path(str(tmp_path)) / "pcscf.toml"
    path.write_text(
        f'visited_network = "v"\n[gm]\naddresses = {addresses!r}\n'
        f'[mw]\naddresses = ["10.46.0.1"]\n[[mw.next_hops]]\nuri = "sip:10.46.0.2"\n'.replace("'", '"')
    )
    with pytest.raises(ConfigError, match=r"gm\.addresses"):
        load(path)


def test_8_families_of_the_core_side_must_agree() -> None:
    with pytest.raises(ValueError, match="different families"):
        Config(
            visited_network="v",
            gm={"addresses": ["10.45.0.1"]},  # type: ignore[arg-type]
            mw={"addresses": ["10.46.0.1"], "next_hops": [{"uri": "sip:[fd00::2]"}]},  # type: ignore[arg-type]
        )


def test_10_aead_keys_hold_their_salt_which_is_derived_from_both_keys() -> None:
    keys = AkaKeys(ck=Key.fromhex(CK), ik=Key.fromhex(IK))
    assert bytes(expand(keys, Pair.parse("null/aes-gcm"))[1]).hex() == CK + "89273db6"
    assert bytes(expand(keys, Pair.parse("aes-gmac/null"))[0]).hex() == IK + "dbc2b1c2"


CHALLENGES = [
    f',ik="{IK}",ck="{CK}"',
    f",CK={CK.upper()}, IK = {IK}",
    f',ck="{CK}"',
    f',ik="{IK}",ck="{CK[:-2]}"',
    f',ik="{IK}",ck="{CK}",ck="{CK}"',
    f' ck="{CK}" ik="{IK}"',
    f',x="a\\",ck=",ck="{CK}",ik="{IK}"',
    f',ik="{IK}",ck="{CK}", Digest realm="b",ck="{CK}"',
]


@pytest.mark.parametrize("keys", CHALLENGES)
@pytest.mark.parametrize("admit", [False, True])
@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required", "403 Forbidden", "200 OK"])
def test_11_12_no_key_in_any_message_toward_the_ue_nor_in_the_journal(
    keys: str, admit: bool, secure: bool, status: str
) -> None:
    world = World(without=Without.ADMIT if admit else Without.REFUSE)
    phone = Phone(world)
    world.receive(phone.register() if secure else phone.register(security=""), phone.clear)
    if not admit and not secure:
        assert world.at_phone()[1].status == 421
        return
    at_core = world.at_core()
    headers = "".join(
        f'{name}: Digest realm="{REALM}",nonce="{NONCE}",algorithm=AKAv1-MD5{keys}\r\n'
        for name in ("WWW-Authenticate", "Proxy-Authenticate", "www-authenticate")
    )
    world.receive(answer(at_core, status, headers), CORE)
    assert_no_key(world)
    if secure:
        assert world.at_phone()[1].status in (403, 407, 500)


def assert_no_key(world: World) -> None:
    shown = [b"".join(world.raw), repr(world.journal.after(0)).encode(), repr(world.kernel.sas).encode()]
    for text in shown:
        lowered = text.lower()
        for key in (IK, CK):
            for part in (key[:12], key[10:22], key[-12:]):
                assert part.encode() not in lowered
            assert bytes.fromhex(key)[:6] not in text


@settings(max_examples=300)
@given(
    params=st.lists(
        st.sampled_from(
            [
                f'realm="{REALM}"',
                f'nonce="{NONCE}"',
                "algorithm=AKAv1-MD5",
                f'ik="{IK}"',
                f'ck="{CK}"',
                f"IK={IK}",
                f" ck = {CK}",
                'opaque="a,\\"b"',
                "qop=auth",
                'x="',
                "",
            ]
        ),
        max_size=9,
    ),
    separator=st.sampled_from([",", ", ", " ", ",\r\n "]),
    admit=st.booleans(),
)
def test_11_12_no_key_for_any_challenge(params: list[str], separator: str, admit: bool) -> None:
    world = World(without=Without.ADMIT if admit else Without.REFUSE)
    phone = Phone(world)
    at_core = phone.first(security="" if admit else None)
    world.receive(answer(at_core, "401 Unauthorized", f"WWW-Authenticate: Digest {separator.join(params)}\r\n"), CORE)
    assert_no_key(world)


@pytest.mark.parametrize(
    "keys",
    [
        "",
        f',ck="{CK}"',
        f',ik="{IK}"',
        f',ik="{IK}",ck="{CK[:-1]}"',
        f',ik="{IK}",ck="{CK}0"',
        f',ik="{IK}",ck="{CK[:-1]}g"',
        f',ik="",ck="{CK}"',
        f',ik="{IK}",ck="{CK}",ck="{CK}"',
    ],
)
def test_13_41_a_challenge_without_two_good_keys_gives_an_error(world: World, phone: Phone, keys: str) -> None:
    response = phone.challenged(keys=keys)
    assert response.status == 500 and response.first("security-server") is None
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_14_the_first_of_our_list_wins_and_only_ours_is_named(world: World, phone: Phone) -> None:
    """More of this in test_phones: order, prefixes, q, absent ealg, several lines, tls first."""
    phone.offer = offer("hmac-md5-96/des-ede3-cbc hmac-md5-96/null hmac-sha-1-96/aes-cbc")
    phone.challenged()
    assert "des-ede3-cbc" not in phone.security_server
    assert {str(sa.encryption) for sa in world.kernel.sas.values()} == {"aes-cbc"}


def test_15_another_ues_spis_in_security_verify_end_nobodys_sas(world: World, phone: Phone) -> None:
    phone.registered()
    other = Phone(world, address="10.45.0.3", user=f"2@{REALM}", call_id="b", instance="<urn:b>")
    other.registered()
    before = set(world.kernel.sas)
    lines = f"Security-Client: {other.offer}\r\nSecurity-Verify: {phone.security_server}\r\n"
    world.receive(other.register(security=lines, sent_by=31801, expires=0), other.uplink)
    assert world.at_phone()[1].status == 494 and set(world.kernel.sas) == before


def test_16_no_invented_parameters_in_security_server(world: World, phone: Phone) -> None:
    phone.challenged()
    for entry in phone.security_server.split(", "):
        name, *params = entry.split(";")
        names = [param.partition("=")[0] for param in params]
        assert name == "ipsec-3gpp"
        assert names == ["q", "alg", "ealg", "prot", "mod", "spi-c", "spi-s", "port-c", "port-s"]


def test_18_the_socket_decides_what_is_initial_not_the_via(world: World) -> None:
    phone = Phone(world, clear_port=8000)
    phone.registered()
    assert {sa.selector.destination_port for sa in world.kernel.sas.values()} == {31800, 31801, 5100, 5104}


def test_24_unanswered_challenges_are_short_few_and_make_room(world: World) -> None:
    for number in range(500):
        phone = Phone(
            world,
            user=f"{number}@{REALM}",
            call_id=f"flood{number}",
            offer=offer("hmac-sha-1-96/null", spi=2000 + 2 * number, port=20000 + 2 * number),
        )
        assert phone.challenged().status == 401
        world.now += 0.001
    assert len(world.kernel.sas) == 4 * 4, "the cap of one address"
    assert Phone(world, call_id="honest").registered().status == 200, "and the honest one still gets in"
    world.wait(241)
    assert len(world.kernel.sas) == 4


def test_25_port_ps_stays_port_pc_changes(world: World, phone: Phone) -> None:
    phone.registered()
    again = Phone(world, call_id="reg2", offer=offer("hmac-sha-1-96/null", spi=60001, port=33000))
    before = phone.number("port-c", phone.security_server)
    again.challenged()
    assert again.number("port-s", again.security_server) == phone.number("port-s", phone.security_server)
    assert again.number("port-c", again.security_server) != before


def test_28_what_goes_to_the_ue_names_no_core_side_via(world: World, phone: Phone) -> None:
    """Requests of ours and their Record-Route name port_ps: `test_a_call_to_the_ue_from_invite_to_bye`."""
    response = phone.registered()
    assert response.lines("via") == ["SIP/2.0/UDP 10.45.0.2:31801;branch=z9hG4bKreg12;received=10.45.0.2;rport=31800"]


@pytest.mark.parametrize(
    "claim", ['integrity-protected="yes"', "integrity-protected=yes", 'Integrity-Protected = "yes"']
)
def test_30_integrity_protected_is_ours_alone(world: World, phone: Phone, claim: str) -> None:
    seen = phone.first(authorization=f'nonce="",response="",{claim}')
    value = seen.first("authorization") or ""
    assert value.lower().count("integrity-protected") == 1 and value.endswith('integrity-protected="no"')


def test_31_nothing_of_the_agreement_reaches_the_core(world: World, phone: Phone) -> None:
    seen = phone.first(extra="Security-Verify: x\r\nSecurity-Server: y\r\nSupported: sec-agree, 100rel\r\n")
    text = seen.to_bytes().decode().lower()
    assert "security-" not in text and "sec-agree" not in text
    assert "supported: 100rel" in text


def test_32_a_preloaded_route_goes_no_further(world: World, phone: Phone) -> None:
    seen = phone.first(extra="Route: <sip:10.45.0.1:5060;lr>, <sip:evil.example;lr>\r\n")
    assert seen.first("route") is None


def test_36_a_second_first_register_while_one_is_pending_counts(world: World, phone: Phone) -> None:
    phone.challenged()
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=50001, port=32000)
    phone.call_id, phone.cseq = "reg2", 0
    phone.challenged(nonce="c2Vjb25k")
    assert {sa.selector.destination_port for sa in world.kernel.sas.values()} == {32000, 32001, 5100, 5104}
    assert {sa_id.spi for sa_id in world.kernel.sas} >= {50001, 50002}
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200


def test_36_two_first_registers_before_the_first_challenge(world: World, phone: Phone) -> None:
    first = phone.first()
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=50001, port=32000)
    second = phone.first()
    world.receive(challenge(first), CORE)
    world.sent.clear()
    phone.challenged(second, nonce="c2Vjb25k")
    assert {sa.selector.destination_port for sa in world.kernel.sas.values()} == {32000, 32001, 5100, 5104}


def test_38_another_impi_on_the_sa_of_a_user(world: World, phone: Phone) -> None:
    phone.registered()
    lines = f"Security-Client: {phone.offer}\r\nSecurity-Verify: {phone.security_server}\r\n"
    world.receive(phone.register(security=lines, sent_by=31801, user=f"victim@{REALM}"), phone.uplink)
    assert world.at_phone()[1].status == 403


def test_41_no_common_algorithm_installs_nothing(world: World, phone: Phone) -> None:
    phone.offer = offer("hmac-md5-96/des-ede3-cbc")
    world.receive(phone.register(), phone.clear)
    assert world.at_phone()[1].status == 494 and not world.kernel.batches


def test_42_des_ede3_cbc_keys_are_the_same_on_every_set() -> None:
    pair = Pair.parse("hmac-sha-1-96/des-ede3-cbc")
    world = World(preference=(pair,))
    expected = expand(AkaKeys(ck=Key.fromhex(CK), ik=Key.fromhex(IK)), pair)[1]
    for number in range(3):
        phone = Phone(world, call_id=f"r{number}")
        phone.offer = offer(str(pair), spi=50_001 + 10 * number, port=32000 + 10 * number)
        phone.registered()
        assert {bytes(sa.encryption_key) for sa in world.kernel.sas.values()} == {bytes(expected)}
        assert len(world.kernel.sas) == 4
    assert bytes(expected[:8]) == bytes(expected[16:]) and len(expected) == 24


def test_45_the_200_requires_nothing(world: World, phone: Phone) -> None:
    assert phone.registered().first("require") is None


def test_26_a_lost_tcp_connection_is_not_answered_elsewhere(world: World) -> None:
    """Not in clear and not from 5060: on the connection it came by, or on one of ours inside the set."""
    phone = Phone(world, transport="TCP")
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    at_core = world.at_core()
    world.handle(FlowClosed(phone.uplink, "closed"))
    world.receive(ok(at_core), CORE)
    flow, _ = world.at_phone()
    assert flow == phone.uplink and world.secured(flow)
    world.receive(phone.request("MESSAGE"), phone.uplink)
    at_core = world.at_core()
    world.handle(FlowClosed(phone.uplink, "closed"))
    world.receive(answer(at_core, "200 OK"), CORE)
    flow, _ = world.at_phone()
    assert (flow.transport, flow.local_port, flow.remote_port) == ("TCP", 5104, 31801) and world.secured(flow)


@pytest.mark.parametrize("address", ["10.45.0.2", "fd00:45::2"])
def test_35_our_record_route_is_known_on_every_listener(world: World, address: str) -> None:
    """Both families, and a UE that has the alternate port_ps: PRACK finds its dialog everywhere."""
    Phone(world, address=address).registered()
    phone = Phone(world, address=address, call_id="reg2", offer=offer("hmac-sha-1-96/aes-cbc", spi=45601))
    phone.registered()
    assert phone.number("port-s", phone.security_server) == 5101
    world.receive(phone.request("INVITE"), phone.uplink)
    (at_core,) = [message for flow, message in world.sent if flow == CORE and isinstance(message, Request)]
    world.sent.clear()
    beyond = "<sip:mo@10.46.0.2:5060;lr=on>"
    extra = f"Record-Route: {beyond}, {at_core.first('record-route')}\r\nRSeq: 1\r\n"
    world.receive(answer(at_core, "183 Session Progress", extra), CORE)
    _, ours = world.at_phone()[1].values("record-route")
    assert ours == f"<sip:{'[fd00:45::1]' if ':' in address else '10.45.0.1'}:5101;lr>"
    world.receive(phone.request("PRACK", route=f"{ours}, {beyond}", to_tag="core", cseq=2), phone.uplink)
    assert world.at_core().method == "PRACK"


@pytest.mark.parametrize("contact", ["", "Contact: <<<\r\n", 'Contact: "\r\n', "Contact: *\r\n"])
def test_40_a_message_without_a_good_contact(world: World, phone: Phone, contact: str) -> None:
    """RFC 3428 forbids one; a bad one is the sender's problem. The replies go inside ESP, and the proxy goes on."""
    phone.registered()
    for direction, cseq in (("up", 1), ("down", 2)):
        if direction == "up":
            data = phone.request("MESSAGE", cseq=cseq).replace(b"Contact: <sip:10.45.0.2:31801>\r\n", contact.encode())
            world.receive(data, phone.uplink)
            flow, message = world.take()
            if isinstance(message, Request):
                world.receive(answer(message, "200 OK"), CORE)
                flow, message = world.take()
            assert flow == phone.downlink and isinstance(message, Response)
        else:
            (registration,) = world.proxy.registrar
            world.receive(from_core("MESSAGE", registration, cseq=cseq, extra=contact), CORE)
            flow, request = world.to_phone()
            assert flow == phone.downlink
            world.receive(answer(request, "200 OK", contact), phone.uplink)
            assert world.take()[0] == CORE
    world.receive(phone.request("MESSAGE", cseq=3), phone.uplink)
    assert world.at_core().method == "MESSAGE"


NUMBERED = re.compile(r"(?:^- |\btest_)(\d+(?:(?:, |_)\d+)*)(?= \(|_)", re.MULTILINE)


def test_every_trap_is_answered_and_every_test_named_there_exists() -> None:
    """45 traps: each is a test here or a sentence above that says where, or why not."""
    here = Path(__file__)
    answered = {int(number) for found in NUMBERED.findall(here.read_text()) for number in re.findall(r"\d+", found)}
    assert answered == set(range(1, 46))
    defined = set()
    for path in here.parents[2].rglob("test_*.py"):
        defined.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    assert set(re.findall(r"`(test_\w+)`", __doc__ or "")) <= defined
