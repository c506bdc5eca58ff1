"""The attack list on real packets: what an attacker sends on Gm, and that nothing comes of it.

For each attack: the exact answer where there is one, nothing of it at the core, words for it in the journal, and a
victim that sends, receives and keeps its SAs, lifetime and registration all the while (`Field.under`).
"""

import asyncio
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, TCP, UDP

from pcscf.lab.call import CallState
from pcscf.lab.fault import Fault
from pcscf.sip.message import Request, Response, response_to
from tests.interop.attacker import (
    ATTACKER,
    ESP,
    PATIENCE,
    PCSCF,
    SILENCE,
    STRANGER,
    VICTIM,
    Field,
    battlefield,
    datagrams,
    edit,
    heard_by,
    impi,
    in_clear,
    register_in_clear,
    token,
    user,
    written,
)
from tests.interop.plant import REALM


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with battlefield(tmp_path_factory.mktemp("attack"), "pcscf-attack") as made:
        yield made


# In clear


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "SUBSCRIBE", "BYE"])
def test_a_request_in_clear_is_refused(field: Field, method: str, tcp: bool) -> None:
    async def attack() -> None:
        for who in (field.attacker, field.neighbour):
            transport = "TCP" if tcp else "UDP"
            data = in_clear(who.address, who.ue.settings.port, method, transport=transport)
            assert await who.ask(data, who.clear(tcp=tcp)) == 403

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert seen.says(f"{method} in clear; only REGISTER may come without IPsec; 403") == 2


def test_a_response_in_clear_is_dropped(field: Field) -> None:
    async def attack() -> None:
        for tcp in (False, True):
            fields = {
                "Via": "SIP/2.0/UDP 10.45.0.1:5060;branch=z9hG4bKnone",
                "From": f"<{user(1)}>;tag=1",
                "To": f"<{user(2)}>;tag=2",
                "Call-ID": token(),
                "CSeq": "1 INVITE",
                "Content-Length": "0",
            }
            field.attacker.put(written("SIP/2.0 200 OK", fields), field.attacker.clear(tcp=tcp))
        await asyncio.sleep(0.1)

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert seen.says("a 200 response from a UE to nothing we asked; dropped") == 2


def test_clear_sip_at_protected_ports_is_dropped(field: Field) -> None:
    """From protected ports of a UE with SAs, from others, with the victim's address: counted, and no SIP."""
    sent = 0
    lone = 40_000

    async def attack() -> None:
        nonlocal sent
        for who, source in ((field.attacker, ATTACKER), (field.victim, VICTIM), (field.attacker, STRANGER)):
            over = who.ue.set_in_use
            assert over is not None
            data = register_in_clear(source, lone)
            for own in (over.agreed.port_ps, over.agreed.port_pc, 5101, 5104, 5111):
                for port in (over.offer.port_uc, over.offer.port_us, lone):
                    datagram = UDP(sport=port, dport=own) / data
                    field.inject(source, 17, bytes_of(source, datagram))
                    field.inject(source, 6, bytes_of(source, TCP(sport=port, dport=own, flags="S", seq=1)))
                    sent += 2
        await asyncio.sleep(0.1)

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert seen.clear_drops == sent == 90
    assert not heard_by(seen.records, lone)
    assert not [each for each in seen.gm if each.protocol in (6, 1)], "a SYN was answered, or a port is shown as closed"
    assert all(each.protocol == ESP for each in seen.gm if each.destination != STRANGER)


def bytes_of(source: IPv4Address, packet: UDP | TCP) -> bytes:
    """A transport packet with the checksum that it has between these two."""
    whole = bytes(IP(src=str(source), dst=str(PCSCF)) / packet)
    return whole[20:]


# Identities


def test_a_request_carries_the_identity_of_its_sa(field: Field) -> None:
    victim = f"<{user(1)}>"

    async def attack() -> None:
        for change, more in (
            ({"P-Preferred-Identity": victim}, ()),
            ({"P-Asserted-Identity": victim}, ()),
            ({"P-Asserted-Identity": f'"x" {victim}, <tel:+15551230001>'}, ()),
            ({"From": f"{victim};tag={token()}"}, (f"P-Asserted-Identity : {victim}", f"p-asserted-identity:{victim}")),
            ({"P-Preferred-Identity": f"{victim}, <{user(2)}>"}, (f"P-Preferred-Identity: {victim}",)),
        ):
            data = field.attacker.says("MESSAGE", change, more=more)
            assert await field.attacker.ask(data, field.attacker.protected()) in (403, 404)

    seen = field.under(attack)
    assert seen.methods == ["MESSAGE"] * 5
    for request in seen.requests:
        assert request.values("p-asserted-identity") == [f"<{user(2)}>"]
        assert not request.lines("p-preferred-identity")


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"Authorization": "{victim}"}, 403, "Authorization names another user than the SA belongs to"),
        ({"Authorization": "{twice}"}, 400, "username"),
        ({"To": f"<sip:{impi(1)}>"}, 403, "is not an identity of the user the SA belongs to"),
        ({"To": f"<{user(1)}>", "From": f"<{user(1)}>;tag=1"}, 403, "is not an identity of the user the SA belongs to"),
        ({"Authorization": None}, 403, "REGISTER without Authorization"),
    ],
    ids=["username", "second-username", "to", "to-public", "no-authorization"],
)
def test_register_of_another_user_on_an_sa_is_refused(
    field: Field, change: dict[str, str | None], status: int, words: str
) -> None:
    async def attack() -> None:
        attacker = field.attacker
        own = attacker.ue._authorization
        said = {
            "{victim}": own.replace(impi(2), impi(1)),
            "{twice}": f'{own},username="{impi(1)}"',
        }
        changed = {name: said.get(value, value) if value else None for name, value in change.items()}
        assert await attacker.ask(attacker.registers(changed), attacker.protected()) == status
        assert len(await field.sas(attacker)) == 4

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert seen.says(f"REGISTER refused with {status}") == seen.says(words) == 1


def test_two_credentials_are_refused(field: Field) -> None:
    async def attack() -> None:
        attacker = field.attacker
        more = [f"Authorization: {attacker.ue._authorization.replace(impi(2), impi(1))}"]
        assert await attacker.ask(attacker.registers(more=more), attacker.protected()) == 400

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert seen.says("two Digest Authorization headers") == 1


# SPIs and ports of another


def foreign(field: Field) -> tuple[str, str]:
    """Security-Verify and Security-Client of the victim."""
    over = field.victim.ue.set_in_use
    assert over is not None
    return over.server, over.offer.header_lines()[0]


@pytest.mark.parametrize("procedure", ["re-registration", "deregistration"])
def test_another_users_set_cannot_be_named(field: Field, procedure: str) -> None:
    """Field trap 15: an authenticated UE that names another's SPIs would delete them."""

    async def attack() -> None:
        attacker = field.attacker
        verify, client = foreign(field)
        expires = "0" if procedure == "deregistration" else "600000"
        change = {"Security-Verify": verify, "Security-Client": client, "Expires": expires}
        assert await attacker.ask(attacker.registers(change), attacker.protected()) == 494
        assert len(await field.sas(attacker)) == 4
        if procedure == "deregistration":
            change = {"Security-Client": client, "Expires": "0"}
            assert await attacker.ask(attacker.registers(change), attacker.protected()) == 200
            rows = await field.client.registrations()
            assert not [row for row in rows if row.address == ATTACKER and row.registered]
            await attacker.ue.reboot()

    seen = field.under(attack)
    assert seen.methods == (["REGISTER"] if procedure == "deregistration" else [])
    assert seen.says("Security-Verify entry 1 differs from Security-Server") == 1


def test_another_users_set_in_the_answer_to_the_challenge(field: Field) -> None:
    async def attack() -> None:
        verify, _ = foreign(field)

        def forge(request: Request) -> Request:
            return edit(request, {"Security-Verify": verify}) if request.first("security-verify") else request

        field.attacker.ue.forge = forge
        assert (await field.attacker.ue.register()).status == 494

    seen = field.under(attack)
    assert seen.methods == ["REGISTER"], "the answer to the challenge reached the core"
    assert seen.says("Security-Verify entry 1 differs from Security-Server") == 1


def test_the_numbers_of_another_users_offer_are_the_attackers_own(field: Field) -> None:
    """At another address equal SPIs and ports name other SAs."""

    async def attack() -> None:
        _, client = foreign(field)
        data = register_in_clear(ATTACKER, 5060, {"Security-Client": client}, number=2)
        assert await field.attacker.ask(data, field.attacker.clear()) == 401
        waiting = [row for row in await field.client.sas() if row.state == "temporary"]
        assert len(waiting) == 4 and all(ATTACKER in (row.source, row.destination) for row in waiting)

    assert field.under(attack).methods == ["REGISTER"]


def test_ports_and_spis_of_another_user_at_one_address_are_refused(field: Field) -> None:
    """The neighbour has the victim's address: what it offers must not be the victim's."""

    async def attack() -> None:
        over = field.victim.ue.set_in_use
        assert over is not None
        numbers = "spi-c=4000000001;spi-s=4000000002"
        ports = f"port-c={over.offer.port_uc};port-s={over.offer.port_us}"
        start = "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans"
        peer = await field.stranger(VICTIM, 5091)
        flow = field.neighbour.clear()._replace(local_port=5091)
        for offer, status in (
            (f"{start};{numbers};{ports}", 403),
            (f"{start};spi-c={over.offer.spi_uc};spi-s={over.offer.spi_us};port-c=31810;port-s=31811", 503),
        ):
            data = register_in_clear(VICTIM, 5091, {"Security-Client": offer}, number=3)
            assert await peer.ask(data, flow) == status

    seen = field.under(attack)
    assert seen.methods == ["REGISTER"], "the second can be found out only when the core has challenged"
    assert seen.says("belongs to an SA of another user (TS 33.203 7.1)") == 1
    assert seen.says("is in use by an earlier SA; offer another") == 1


# The agreement in the answer to the challenge


def _swapped(value: str) -> str:
    first, second, *rest = value.split(", ")
    return ", ".join([second, first, *rest])


AGREEMENTS: dict[str, Callable[[str], str | None]] = {
    "edited": lambda value: value.replace("spi-c=", "spi-c=1", 1),
    "another port": lambda value: value.replace("port-s=", "port-s=1", 1),
    "dropped": lambda value: None,
    "empty": lambda value: "",
    "reordered": _swapped,
    "shortened": lambda value: value.rpartition(", ")[0],
    "weakened": lambda value: value.replace("ealg=aes-cbc", "ealg=null"),
    "lengthened": lambda value: f"{value}, {value.partition(', ')[0]}",
    "one more parameter": lambda value: f"{value};x=1",
}


@pytest.mark.parametrize("change", AGREEMENTS)
@pytest.mark.parametrize("name", ["Security-Verify", "Security-Client"])
def test_a_changed_agreement_ends_the_registration(field: Field, name: str, change: str) -> None:
    async def attack() -> None:
        attacker = field.attacker
        before = await field.sas(attacker)

        def forge(request: Request) -> Request:
            value = request.first(name.lower())
            if request.first("security-verify") is None or value is None:
                return request
            return edit(request, {name: AGREEMENTS[change](value)})

        attacker.ue.forge = forge
        outcome = await attacker.ue.register()
        assert outcome.status == 494, outcome.reason
        assert [row.spi for row in await field.sas(attacker)] == [row.spi for row in before], "it lost its own set"

    seen = field.under(attack)
    assert seen.methods == ["REGISTER"], "the answer to the challenge reached the core"
    assert seen.says("REGISTER refused with 494: Security-") == 1


# Forged in clear


OFFER = (
    "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;"
    "spi-c=4000000011;spi-s=4000000012;port-c={uc};port-s={us}"
)
FORGERIES: dict[str, tuple[dict[str, str | None], str]] = {
    "plain": ({}, 'nonce="",response=""'),
    "expires 0": ({"Expires": "0"}, 'nonce="",response=""'),
    "contact *": ({"Expires": "0", "Contact": "*"}, 'nonce="",response=""'),
    "victim's contact": ({"Contact": "{contact};expires=0"}, 'nonce="",response=""'),
    "integrity-protected": ({"Expires": "0"}, 'nonce="",response="",integrity-protected="yes"'),
    "auts": ({}, 'nonce="{nonce}",response="0",auts="uoU/PBIctV7bggBAq0E="'),
    "empty response": ({}, 'nonce="{nonce}",response=""'),
    "wrong response": ({}, 'nonce="{nonce}",response="00000000000000000000000000000000"'),
    "wrong response, expires 0": ({"Expires": "0"}, 'nonce="{nonce}",response="0123456789abcdef0123456789abcdef"'),
}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("source", [STRANGER, VICTIM], ids=["elsewhere", "same-address"])
def test_a_forged_register_in_clear_ends_nothing(field: Field, source: IPv4Address, forgery: str) -> None:
    """Answered wrongly, or left unanswered: what the victim has stays (TS 33.203 7.4, digest A6)."""
    change, authorization = FORGERIES[forgery]
    statuses: list[int] = []

    async def attack() -> None:
        over = field.victim.ue.set_in_use
        assert over is not None
        told = {"{contact}": f"<sip:{VICTIM}:{over.offer.port_us}>"}
        changed = {
            name: value.replace("{contact}", told["{contact}"]) if value else None for name, value in change.items()
        }
        peer = await field.stranger(source, 5092)
        flow = field.victim.clear()._replace(local=source, local_port=5092)
        instance = field.victim.ue._identity.instance
        call_id = token()
        nonce = ""
        for number in (1, 2):
            text = authorization.replace("{nonce}", nonce) if nonce else 'nonce="",response=""'
            common = {"Call-ID": call_id, "CSeq": f"{number} REGISTER"}
            contact = f'<sip:{source}:5092>;+sip.instance="<{instance}>"'
            data = register_in_clear(source, 5092, {"Contact": contact} | common | changed, authorization=text)
            statuses.append(await peer.ask(data, flow))
            for message, _ in peer.heard:
                if found := [item.value for item in message.headers if item.name == "www-authenticate"]:
                    nonce = found[0].partition('nonce="')[2].partition('"')[0]
        await peer.transport.close()

    seen = field.under(attack)
    assert statuses[0] == 401 and statuses[1] in (401, 403), statuses
    for request in seen.requests:
        assert 'integrity-protected="no"' in (request.first("authorization") or "")
        assert 'integrity-protected="yes"' not in (request.first("authorization") or "")


def test_the_victim_can_register_again_beside_a_forged_challenge(field: Field) -> None:
    async def attack() -> None:
        peer = await field.stranger(VICTIM, 5093)
        flow = field.victim.clear()._replace(local_port=5093)
        instance = field.neighbour.ue._identity.instance
        neighbour = field.neighbour
        for again in (neighbour.ue.reregister, neighbour.ue.register):
            change = {
                "Contact": f'<sip:{VICTIM}:5093>;+sip.instance="<{instance}>"',
                "Security-Client": OFFER.format(uc=31820, us=31821),
            }
            assert await peer.ask(register_in_clear(VICTIM, 5093, change, number=3), flow) == 401
            assert (await neighbour.ue.message(user(3), "still here")).status == 200
            assert (await again()).registered
        await peer.transport.close()

    field.under(attack)


def test_a_forged_offer_does_not_keep_another_users_port(field: Field) -> None:
    """Whoever can send from the victim's address once must not block its port_uc until the challenge ends."""

    async def attack() -> None:
        peer = await field.stranger(VICTIM, 5094)
        flow = field.victim.clear()._replace(local_port=5094)
        offer = OFFER.format(uc=31830, us=31831)
        change = {"Security-Client": offer.replace("=40000000", "=40000001")}
        assert await peer.ask(register_in_clear(VICTIM, 5094, change, number=2), flow) == 401
        change = {"Security-Client": offer}
        assert await peer.ask(register_in_clear(VICTIM, 5094, change, number=3), flow) == 401
        await peer.transport.close()

    field.under(attack)


# ESP


def test_replayed_esp_is_dropped(field: Field) -> None:
    """Packets of the victim and of the attacker, sent again: counted by their SA, and nothing more."""

    async def attack() -> None:
        for who, number in ((field.victim, 1), (field.attacker, 2)):
            field.gm.take(incoming=False)
            before = await field.uplink(who)
            assert await who.ask(who.says("MESSAGE", {"Security-Verify": None}), who.protected()) == 404
            own = struct.pack("!I", before.spi)
            frames = [each.frame for each in datagrams(field.gm.take(incoming=False)) if each.data[:4] == own]
            assert len(frames) == 1, number
            sent = await field.uplink(who)
            for frame in frames * 5:
                field.gm.put(frame)
            await asyncio.sleep(0.1)
            after = await field.uplink(who)
            assert after.replay_drops == before.replay_drops + 5
            assert (after.packets, after.integrity_failures) == (sent.packets, before.integrity_failures)

    seen = field.under(attack)
    assert seen.methods == ["MESSAGE", "MESSAGE"]


def test_altered_and_reflected_esp_is_dropped(field: Field) -> None:
    async def attack() -> None:
        attacker = field.attacker
        before = await field.uplink(attacker)
        fresh = attacker.says("MESSAGE", {"Security-Verify": None})
        over = attacker.ue.set_in_use
        assert over is not None
        datagram = UDP(sport=over.offer.port_uc, dport=over.agreed.port_ps) / fresh
        sealed = field.sealer(attacker).seal(bytes_of(ATTACKER, datagram), 17)
        for place in (4, 12, len(sealed) // 2, len(sealed) - 1):
            altered = bytearray(sealed)
            altered[place] ^= 1
            field.inject(ATTACKER, ESP, bytes(altered))
        await asyncio.sleep(0.05)
        after = await field.uplink(attacker)
        assert after.integrity_failures == before.integrity_failures + 4 and after.packets == before.packets

        field.gm.take(incoming=True)
        field.gm.take(incoming=False)
        assert await attacker.ask(attacker.says("MESSAGE", {"Security-Verify": None}), attacker.protected()) == 404
        opened = field._opened()
        unknown = field.backend.dropped.unknown_spi
        for each in datagrams(field.gm.take(incoming=True)):
            if each.protocol == ESP:
                field.inject(ATTACKER, ESP, each.data)
        await asyncio.sleep(0.05)
        assert field._opened() == opened, "the P-CSCF took its own packet"
        assert field.backend.dropped.unknown_spi == unknown

    seen = field.under(attack)
    assert seen.methods == ["MESSAGE"]


@pytest.mark.parametrize("case", ["spoofed source", "spoofed source and ports", "ports", "one address"])
def test_one_users_sa_does_not_carry_anothers_traffic(field: Field, case: str) -> None:
    """Good ESP by the key of its sender, that names the victim's address or ports (TS 33.203 7.1 rule 4)."""

    async def attack() -> None:
        who = field.neighbour if case == "one address" else field.attacker
        own, theirs = who.ue.set_in_use, field.victim.ue.set_in_use
        assert own is not None and theirs is not None
        source = ATTACKER if case == "ports" else VICTIM
        port = own.offer.port_uc if case == "spoofed source" else theirs.offer.port_uc
        before = await field.uplink(who)
        opened = field._opened()
        for body in (field.victim.says("MESSAGE"), field.victim.registers({"Expires": "0"})):
            datagram = UDP(sport=port, dport=theirs.agreed.port_ps) / body
            sealed = field.sealer(who).seal(bytes_of(source, datagram), 17)
            field.inject(source, ESP, sealed)
        syn = TCP(sport=port, dport=theirs.agreed.port_ps, flags="S", seq=1)
        field.inject(source, ESP, field.sealer(who).seal(bytes_of(source, syn), 6))
        await asyncio.sleep(0.1)
        assert field._opened() == opened
        after = await field.uplink(who)
        assert after.packets == before.packets + 3 and after.replay_drops == before.replay_drops

    field.under(attack).nothing_at_the_core()


# What belongs to another


def test_an_answer_of_another_ue_is_dropped(field: Field) -> None:
    """Right branch, Call-ID and tags, on the SA of somebody who was not asked."""

    async def attack() -> None:
        caller, called, thief = field.neighbour, field.victim, field.attacker
        called.ue.set_faults(frozenset({Fault.LATE_ANSWER}))
        called.heard.clear()
        caller.heard.clear()
        caller.put(caller.says("MESSAGE", uri=user(1), body=b"for the victim"), caller.protected())
        request = await called.next(lambda message: isinstance(message, Request) and message.method == "MESSAGE")
        assert isinstance(request, Request)
        for status in (200, 486, 603, 180):
            thief.put(response_to(request, status, reason="Stolen", to_tag="t").to_bytes(), thief.protected())
            thief.put(response_to(request, status, reason="Stolen", to_tag="t").to_bytes(), thief.clear())
        answer = await caller.next(lambda message: isinstance(message, Response))
        assert isinstance(answer, Response) and (answer.status, answer.reason) == (200, "OK")
        called.ue.set_faults(frozenset())

    seen = field.under(attack)
    assert not [each for each in seen.core if b"Stolen" in each]
    assert seen.says("response to nothing we asked; dropped") == 4
    assert seen.says("response from a UE to nothing we asked; dropped") == 4


@pytest.mark.parametrize("number", ["longring", "echo"])
def test_another_users_call_cannot_be_ended(field: Field, number: str) -> None:
    async def attack() -> None:
        attacker, victim = field.attacker, field.victim.ue
        wanted = CallState.RINGING if number == "longring" else CallState.ESTABLISHED
        field.victim.heard.clear()
        call = victim.call(f"sip:{number}@{REALM}")
        assert await call.until(wanted, within=PATIENCE) is wanted
        assert call.dialog is not None
        provisional = await field.victim.next(lambda message: isinstance(message, Response))
        assert provisional is not None
        via = provisional.lines("via")[0]
        draft = call.dialog.draft("BYE")
        same = {
            "From": draft.sender,
            "To": draft.recipient,
            "Call-ID": draft.call_id,
            "Route": ", ".join(draft.route or ()),
        }
        for method, status in (("BYE", 403), ("UPDATE", 403), ("INVITE", 403), ("INFO", 403), ("REFER", 403)):
            data = attacker.says(method, same | {"CSeq": f"77 {method}"}, uri=draft.uri)
            assert await attacker.ask(data, attacker.protected()) == status, method
            data = in_clear(ATTACKER, 5060, method, same | {"CSeq": f"78 {method}"}, uri=draft.uri)
            assert await attacker.ask(data, attacker.clear()) == 403, method
        invite = same | {"To": f"<sip:{number}@{REALM}>", "CSeq": "1 CANCEL", "Via": via}
        data = attacker.says("CANCEL", invite, uri=f"sip:{number}@{REALM}")
        assert await attacker.ask(data, attacker.protected()) == 481
        data = in_clear(ATTACKER, 5060, "CANCEL", invite, uri=f"sip:{number}@{REALM}")
        assert await attacker.ask(data, attacker.clear(), within=SILENCE) == 0, "its Via is not where it came from"
        attacker.put(attacker.says("ACK", same, uri=draft.uri), attacker.protected())
        attacker.put(attacker.says("ACK", same, uri=draft.uri), attacker.clear())
        await asyncio.sleep(0.1)
        assert call.state is wanted
        await call.hangup()

    seen = field.under(attack)
    own = "CANCEL" if number == "longring" else "BYE"
    assert [each for each in seen.methods if each not in ("INVITE", "ACK", "PRACK", "UPDATE")] == [own]
    assert seen.methods.count("INVITE") == 1
    assert seen.says("belongs to another user") == 5 or seen.says("ACK goes nowhere") == 1
    assert seen.says("CANCEL of nothing that is under way") == 1
