"""The initial registration through the core: what each side sees, on which port, in which order (digest F1 to F6)."""

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pcscf.observe import MessageSeen
from pcscf.vocabulary import FlowClosed
from tests.unit.core.world import CK, CORE, IK, NONCE, REALM, Phone, World, answer, challenge, offer, ok, repeat_spis
from xfrm.model import SaId


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> Phone:
    return Phone(world)


def test_first_register_as_the_core_sees_it(world: World, phone: Phone) -> None:
    """F2, C2: what was added and what was taken out."""
    seen = phone.first(extra='P-Access-Network-Info: IEEE-802.11\r\nX-Own: "kept"  \r\n')
    assert seen.lines("via")[0].startswith("SIP/2.0/UDP 10.46.0.1:5060;branch=z9hG4bK")
    assert seen.lines("via")[1] == "SIP/2.0/UDP 10.45.0.2:5060;branch=z9hG4bKreg11;received=10.45.0.2;rport=5060"
    assert seen.first("max-forwards") == "69"
    assert re.fullmatch(r"<sip:term-[0-9a-f]{16}@10\.46\.0\.1:5060;lr>", seen.first("path") or "")
    assert seen.values("require") == ["path"]
    assert seen.first("proxy-require") is None and seen.first("security-client") is None
    assert seen.first("p-visited-network-id") == '"visited.example"'
    assert re.fullmatch(
        r'icid-value="[0-9a-f]{32}";icid-generated-at=10\.46\.0\.1;orig-ioi="visited\.example"',
        seen.first("p-charging-vector") or "",
    )
    assert (seen.first("authorization") or "").endswith(',integrity-protected="no"')
    assert seen.first("p-access-network-info") == "IEEE-802.11"
    assert 'X-Own: "kept"  ' in seen.to_bytes().decode()


def test_challenge_as_the_phone_sees_it(world: World, phone: Phone) -> None:
    """F3, F4, C3: no keys, our whole list with one set of numbers."""
    response = phone.challenged(more=',qop="auth,auth-int"')
    assert response.status == 401
    assert response.lines("www-authenticate") == [
        f'Digest realm="{REALM}",nonce="{NONCE}",algorithm=AKAv1-MD5,qop="auth,auth-int"'
    ]
    assert len(response.lines("via")) == 1
    entries = response.values("security-server")
    numbers = set(re.findall(r"spi-c=(\d+);spi-s=(\d+);port-c=(\d+);port-s=(\d+)", ",".join(entries)))
    assert len(entries) == 5 and len(numbers) == 1, "the whole list, with one set of numbers"
    spi_c, spi_s, port_c, port_s = map(int, numbers.pop())
    assert spi_c != spi_s and min(spi_c, spi_s) >= 1_000_000_000
    assert (port_c, port_s) == (5104, 5100)
    assert entries[0].startswith("ipsec-3gpp;q=0.833;alg=null;ealg=aes-gcm;prot=esp;mod=trans;")


def test_four_sas_by_the_standard_before_the_challenge_leaves(world: World, phone: Phone) -> None:
    """A1, A3, A5, A7: addresses, ports, keys, lifetime; installed before the 401 goes."""
    phone.challenged()
    assert world.order.index("InstallSecurity") < len(world.order) - 1 - world.order[::-1].index("Send")
    server = phone.security_server
    spi_ps, spi_pc = phone.number("spi-s", server), phone.number("spi-c", server)
    us, ue = ip_address("10.45.0.1"), ip_address("10.45.0.2")
    table = {
        SaId(us, spi_ps): (ue, 31800, us, 5100),
        SaId(ue, 45597): (us, 5100, ue, 31800),
        SaId(ue, 45598): (us, 5104, ue, 31801),
        SaId(us, spi_pc): (ue, 31801, us, 5104),
    }
    found = {
        sa_id: (sa.selector.source, sa.selector.source_port, sa.selector.destination, sa.selector.destination_port)
        for sa_id, sa in world.kernel.sas.items()
    }
    assert found == table
    for sa in world.kernel.sas.values():
        assert bytes(sa.integrity_key).hex() == IK + "00000000"
        assert bytes(sa.encryption_key).hex() == CK
        assert sa.lifetime == 300 and sa.replay_window >= 32


def test_protected_register_as_the_core_sees_it(world: World, phone: Phone) -> None:
    """F5, A10: `yes`, and nothing of the agreement."""
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    seen = world.at_core()
    assert (seen.first("authorization") or "").endswith(',integrity-protected="yes"')
    assert not [item.name for item in seen.headers if item.name.startswith("security-")]
    assert "sec-agree" not in seen.to_bytes().decode()


@pytest.mark.parametrize("address", ["10.45.0.2", "fd00:45::2"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_registration_over_each_transport_and_family(world: World, address: str, transport: str) -> None:
    phone = Phone(world, address=address, transport=transport)
    response = phone.registered()
    assert response.status == 200
    assert [each.registered for each in world.proxy.registrar] == [True]
    assert set(world.kernel.lifetimes.values()) == {600_000 + 30 + 60}


def test_the_200_keeps_what_is_the_phones_and_loses_what_is_the_networks(world: World, phone: Phone) -> None:
    """F6, C4, B6: Service-Route and P-Associated-URI are kept; charging stays inside."""
    response = phone.registered()
    names = [item.name for item in response.headers]
    assert not {"p-charging-vector", "p-charging-function-addresses", "require", "security-server"} & set(names)
    (registration,) = world.proxy.registrar
    assert registration.service_route == ("<sip:orig@10.46.0.2:5060;lr>",)
    assert registration.associated_uris == (f"<sip:+15551230001@{REALM}>", "<tel:+15551230001>")


def test_retransmissions_are_answered_from_the_transaction(world: World, phone: Phone) -> None:
    first = phone.register()
    world.receive(first, phone.clear)
    at_core = world.at_core()
    world.receive(first, phone.clear)
    assert world.silent(), "absorbed while the core thinks"
    sent = challenge(at_core)
    phone.challenged(at_core)
    batches = world.kernel.batches
    world.receive(first, phone.clear)
    again = world.at_phone()[1]
    assert again.status == 401 and again.first("security-server") == phone.security_server
    world.receive(sent, CORE)
    assert world.silent() and world.kernel.batches == batches, "a second 401 of the core allocates nothing"


def test_wrong_res_is_refused_on_the_new_set_which_then_goes(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    world.receive(answer(world.at_core(), "403 Forbidden"), CORE)
    flow, response = world.at_phone()
    assert flow == phone.downlink and response.status == 403
    world.wait(127)
    assert len(world.kernel.sas) == 4, "kept while the UE may repeat its REGISTER"
    world.wait(2)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_unanswered_challenge_ends_after_four_minutes(world: World, phone: Phone) -> None:
    phone.challenged()
    world.wait(239)
    assert len(world.kernel.sas) == 4
    world.wait(2)
    assert not world.kernel.sas and world.set_events[-1] == "expired"


@pytest.mark.parametrize(
    ("authorization", "why"), [('auts="uoU/PBIctV7bggBAq0E=",response=""', "AUTS"), ('response=""', "MAC")]
)
def test_failed_network_authentication_starts_over(world: World, phone: Phone, authorization: str, why: str) -> None:
    """A9, F14: in clear; the former TEMP is void, the next one has the new numbers."""
    phone.challenged()
    first_server = phone.security_server
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=50001, port=32000)
    at_core = phone.first(authorization=f'nonce="{NONCE}",{authorization}')
    assert (at_core.first("authorization") or "").endswith('integrity-protected="no"')
    assert not world.kernel.sas and "restarted by the UE" in world.set_events, "the old challenge is void"
    phone.challenged(at_core, nonce="bm9uY2UtMg==")
    assert phone.security_server != first_server
    assert {sa.selector.source_port for sa in world.kernel.sas.values()} == {32000, 32001, 5100, 5104}
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200


def test_a_forged_restart_ends_nobodys_challenge(world: World, phone: Phone) -> None:
    phone.challenged()
    phone.first(authorization='nonce="guessed",response=""')
    assert len(world.kernel.sas) == 4


def test_registration_ends_with_its_sas(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    world.receive(ok(world.at_core(), expires=3600), CORE)
    world.sent.clear()
    world.wait(3631)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_deregistration_answers_inside_esp_before_the_sas_go(world: World, phone: Phone) -> None:
    phone.registered()
    offer_before = phone.offer
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=60001, port=33000)
    verify = f"Security-Client: {phone.offer}\r\nSecurity-Verify: {phone.security_server}\r\n"
    leaving = phone.register(authorization=f'nonce="{NONCE}",response="x"', security=verify, sent_by=31801, expires=0)
    phone.offer = offer_before
    world.receive(leaving, phone.uplink)
    world.receive(ok(world.at_core(), expires=0), CORE)
    flow, response = world.at_phone()
    assert flow == phone.downlink and response.status == 200 and len(world.kernel.sas) == 4
    world.receive(leaving, phone.uplink)
    assert world.at_phone()[0] == phone.downlink, "a retransmission still gets its 200 inside ESP"
    world.wait(130)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_static_ports_after_a_reboot_leave_the_old_set_until_the_phone_has_proven_itself(world: World) -> None:
    phone = Phone(world)
    phone.registered()
    old = set(world.kernel.sas)
    again = Phone(world, call_id="reg2", offer=offer("hmac-sha-1-96/aes-cbc", spi=45601))
    again.challenged()
    assert set(world.kernel.sas) > old and again.number("port-s", again.security_server) == 5101
    world.receive(again.answer(), again.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200
    assert not set(world.kernel.sas) & old and len(world.kernel.sas) == 4


def test_another_users_ports_at_the_same_address_are_refused(world: World, phone: Phone) -> None:
    phone.registered()
    thief = Phone(world, user=f"001010000000002@{REALM}", call_id="reg9", offer=offer("hmac-sha-1-96/null", spi=777))
    world.receive(thief.register(), thief.clear)
    assert world.at_phone()[1].status == 403, "nothing went to the core"
    assert len(world.kernel.sas) == 4


def test_two_phones_behind_one_address(world: World, phone: Phone) -> None:
    phone.registered()
    other = Phone(
        world,
        user=f"001010000000002@{REALM}",
        call_id="reg9",
        clear_port=5070,
        instance="<urn:other>",
        offer=offer("hmac-sha-1-96/null", spi=777, port=40000),
    )
    other.registered()
    paths = {each.path_token for each in world.proxy.registrar}
    assert len(world.kernel.sas) == 8 and len(paths) == 2


def test_a_phone_that_moved_leaves_its_old_address(world: World, phone: Phone) -> None:
    phone.registered()
    moved = replace(phone, address="10.45.0.77", call_id="reg3", cseq=0)
    moved.registered()
    assert {sa_id.destination for sa_id in world.kernel.sas} == {ip_address("10.45.0.1"), ip_address("10.45.0.77")}


def test_tcp_fin_of_an_idle_phone_is_no_deregistration(world: World) -> None:
    """Field trap 21."""
    phone = Phone(world, transport="TCP")
    phone.registered()
    world.handle(FlowClosed(phone.uplink, "closed"))
    assert len(world.kernel.sas) == 4 and [each.registered for each in world.proxy.registrar] == [True]


def test_silent_core_gives_504(world: World, phone: Phone) -> None:
    phone.first()
    world.wait(33)
    last = [message for flow, message in world.sent if flow != CORE][-1]
    assert last.start_line.startswith("SIP/2.0 504")


def test_200_ues_hold_800_sas(world: World) -> None:
    for number in range(200):
        address = f"10.45.{1 + number // 100}.{1 + number % 100}"
        phone = Phone(world, address=address, user=f"0010100000{number:05}@{REALM}", call_id=f"ue{number}")
        assert phone.registered().status == 200
    assert len(world.kernel.sas) == 800


def test_the_journal_tells_the_ladder_with_ports_and_spis(world: World, phone: Phone) -> None:
    phone.registered()
    seen = [record for _, record in world.journal.after(0) if isinstance(record, MessageSeen)]
    server = phone.security_server
    assert [(each.summary, each.incoming, each.flow.interface.value, each.spi) for each in seen] == [
        ("REGISTER", True, "gm", 0),
        ("REGISTER", False, "mw", 0),
        ("401 Unauthorized", True, "mw", 0),
        ("401 Unauthorized", False, "gm", 0),
        ("REGISTER", True, "gm-protected", phone.number("spi-s", server)),
        ("REGISTER", False, "mw", 0),
        ("200 OK", True, "mw", 0),
        ("200 OK", False, "gm-protected", 45598),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "P-Asserted-Identity: <sip:victim@home>",
        "P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.mmtel",
        "P-Charging-Vector: icid-value=mine",
        "P-Charging-Function-Addresses: ccf=10.0.0.1",
        "P-Visited-Network-ID: elsewhere",
        "P-Called-Party-ID: <sip:a@b>",
        "P-Associated-URI: <sip:a@b>",
        "Path: <sip:mine;lr>",
        "Service-Route: <sip:mine;lr>",
        "P-Profile-Key: <sip:a@b>",
        "P-User-Database: <aaa://x>",
        "Feature-Caps: *",
        'P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp="1";network-provided',
    ],
)
def test_what_a_ue_is_not_trusted_with_goes_no_further(world: World, phone: Phone, line: str) -> None:
    """C1, C2 step 6, B6: the trust domain ends here."""
    assert line not in phone.first(extra=f"{line}\r\n").to_bytes().decode()


def test_where_it_came_from_is_what_we_saw_and_not_what_it_says(world: World, phone: Phone) -> None:
    data = phone.register().replace(b";rport", b';received=203.0.113.1;rport=9;x="a;received=1;b"')
    world.receive(data, phone.clear)
    via = world.at_core().lines("via")[1]
    assert via == 'SIP/2.0/UDP 10.45.0.2:5060;branch=z9hG4bKreg11;x="a;received=1;b";received=10.45.0.2;rport=5060'


def test_the_cores_own_security_headers_do_not_reach_the_phone(world: World, phone: Phone) -> None:
    response = phone.challenged(
        extra="Security-Server: tls\r\nSecurity-Verify: x\r\nP-Charging-Vector: icid-value=1\r\n"
    )
    assert len(response.lines("security-server")) == 1 and "tls" not in phone.security_server
    assert not response.lines("security-verify") and not response.lines("p-charging-vector")


def test_one_path_for_one_contact(world: World, phone: Phone) -> None:
    """B4: the token in it is how a request toward this UE will find its set."""
    at_core = phone.first()
    path = at_core.first("path")
    phone.challenged(at_core)
    world.receive(phone.answer(), phone.uplink)
    assert world.at_core().first("path") == path
    (registration,) = world.proxy.registrar
    assert path == f"<sip:{registration.path_token}@10.46.0.1:5060;lr>"


def test_our_spis_have_ten_digits_and_are_not_the_ues(world: World, phone: Phone) -> None:
    """A4: ten digits, and none of the UE's."""
    repeat_spis(world, [5, 999_999_999, 1_000_000_001, 1_000_000_002, 1_000_000_003, 1_000_000_004])
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=1_000_000_001)
    phone.challenged()
    own = {sa_id.spi for sa_id in world.kernel.sas if sa_id.destination == ip_address("10.45.0.1")}
    assert own == {1_000_000_003, 1_000_000_004}, "the same keys serve both directions: no SPI may be in both"


def test_a_set_that_ends_takes_its_connections_with_it(world: World) -> None:
    phone = Phone(world, transport="TCP")
    phone.challenged()
    world.wait(241)
    assert phone.uplink in world.closed


def test_a_retransmission_is_answered_for_the_whole_of_timer_j_of_gm(world: World, phone: Phone) -> None:
    first = phone.register()
    world.receive(first, phone.clear)
    phone.challenged(world.at_core())
    world.wait(100)
    world.receive(first, phone.clear)
    assert world.at_phone()[1].status == 401


def test_nothing_toward_a_phone_opens_a_connection(world: World) -> None:
    """A request of ours may; an answer stays on the connection of its request (digest A2)."""
    phone = Phone(world, transport="TCP")
    phone.registered()
    assert world.connects == {CORE}
