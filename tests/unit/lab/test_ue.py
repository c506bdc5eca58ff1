"""The UE against a scripted P-CSCF: published challenges, every fault on demand, and what a strict handset sees.

Digest C11, F1, F5, F12 to F14, from the side of the UE.
"""

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from pcscf.aka import digest_response
from pcscf.lab.fault import Fault
from pcscf.lab.gm import StaticNumbers
from pcscf.lab.outcome import Outcome
from pcscf.lab.phone import UeSettings
from pcscf.lab.ue import Ue
from pcscf.sip.message import header
from pcscf.sip.transaction import TimerProfile
from tests.fake_kernel import FakeKernel
from tests.unit.lab.scripted import PCSCF, Heard, Say, ScriptedPcscf, challenge
from tests.unit.lab.vectors import IMPI, REALM, VECTORS, Vector
from xfrm.model import Sa

SET1, SET3 = VECTORS[0], VECTORS[1]
UE = IPv4Address("127.0.0.1")
OK = Say(
    status=200,
    expires=600_000,
    headers=(
        header("P-Associated-URI", "<sip:+15551230001@example.org>, <tel:+15551230001>"),
        header("Service-Route", "<sip:orig@10.46.0.2:5060;lr>"),
    ),
)
GONE = Say(status=200, expires=0)
FORBIDDEN = Say(status=403)
Steps = Callable[[Ue, ScriptedPcscf], Awaitable[Outcome]]


def free_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind((str(UE), 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Played:
    """What came of a script: the outcome, what the P-CSCF heard, and the UE's SAs before it was closed."""

    outcome: Outcome
    heard: list[Heard]
    sas: list[Sa]
    kernel: FakeKernel
    server: str
    """Security-Server of the first set."""
    lifetimes: frozenset[int] = frozenset()


async def only_register(ue: Ue, pcscf: ScriptedPcscf) -> Outcome:
    return await ue.register()


def play(
    script: list[Say], *faults: Fault, vector: Vector = SET1, sqn: int = 0, steps: Steps = only_register, **changes: Any
) -> Played:
    """Run one UE against one script."""
    kernel = FakeKernel()

    async def scenario() -> Played:
        pcscf = ScriptedPcscf(list(script))
        await pcscf.start()
        defaults: dict[str, Any] = {
            "subscriber": vector.subscriber(sqn=sqn),
            "address": UE,
            "pcscf": PCSCF,
            "pcscf_port": pcscf.ports["clear"],
            "port": free_port(),
            "timers": TimerProfile(t1=0.1, t2=0.4, t4=0.5),
            "patience": 0.5,
            "faults": frozenset(faults),
        }
        ue = Ue(UeSettings(**{**defaults, **changes}), kernel)
        await ue.start()
        try:
            outcome = await steps(ue, pcscf)
            played = Played(outcome, pcscf.heard, list(kernel.sas.values()), kernel, pcscf.security_server(1))
            lifetimes.update(kernel.lifetimes.values())
        finally:
            await ue.close()
            pcscf.close()
        assert not kernel.sas, "a closed UE leaves no SA"
        assert not pcscf.script, "the script was not played to its end"
        return played

    lifetimes: set[int] = set()
    played = asyncio.run(scenario())
    return replace(played, lifetimes=frozenset(lifetimes))


by_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


@by_vector
def test_a_registration(vector: Vector) -> None:
    played = play([challenge(vector.nonce), OK], vector=vector)
    outcome, (first, second) = played.outcome, played.heard
    assert (outcome.registered, outcome.status, outcome.expires) == (True, 200, 600_000), outcome.reason
    assert outcome.complaints == ()
    assert outcome.service_route == ("<sip:orig@10.46.0.2:5060;lr>",)
    assert (first.on, first.param("response"), first.param("nonce")) == ("clear", "", "")
    assert (second.on, second.param("response")) == ("ps", vector.response)
    assert second.request.lines("security-client") == first.request.lines("security-client")
    assert second.request.lines("security-verify") == [played.server]
    assert second.request.first("call-id") == first.request.first("call-id")
    assert second.request.first("cseq") == "2 REGISTER"
    port_us = second.offered("port-s")
    via, contact = second.request.first("via") or "", second.request.first("contact") or ""
    assert f":{port_us};branch=" in via and "rport" not in via
    assert f":{port_us}>" in contact
    (used,) = outcome.sets
    assert str(used.agreed.pair) == "hmac-sha-1-96/aes-cbc"  # the best of the P-CSCF's list that the UE offers
    assert [(step.incoming, step.summary, step.spi) for step in outcome.ladder] == [
        (False, "REGISTER", 0),
        (True, "401 Unauthorized", 0),
        (False, "REGISTER", used.agreed.spi_ps),
        (True, "200 OK", used.offer.spi_us),
    ]
    assert {bytes(sa.integrity_key).hex() for sa in played.sas} == {vector.f4 + "00000000"}
    assert {bytes(sa.encryption_key).hex() for sa in played.sas} == {vector.f3}
    assert played.lifetimes == {600_030}


def test_the_four_sas_are_those_of_ts_33_203() -> None:
    played = play([challenge(SET1.nonce), OK])
    second, (used,) = played.heard[1], played.outcome.sets
    ps, pc = used.agreed.port_ps, used.agreed.port_pc
    uc, us = second.offered("port-c"), second.offered("port-s")
    assert second.port == uc
    assert {(sa.spi, sa.selector.source_port, sa.selector.destination_port) for sa in played.sas} == {
        (1_000_000_012, uc, ps),
        (second.offered("spi-c"), ps, uc),
        (second.offered("spi-s"), pc, us),
        (1_000_000_011, us, pc),
    }
    (block,) = played.kernel.protected[0][1]
    assert uc in block and us in block and block.count == 8


def test_a_new_offer_takes_no_port_or_spi_of_a_living_set() -> None:
    async def steps(ue: Ue, pcscf: ScriptedPcscf) -> Outcome:
        outcome = await ue.register()
        used = outcome.sets[0].offer
        offers = [ue.gm.new_offer((), ()) for _ in range(20)]
        assert used.port_uc not in {each.port_uc for each in offers}
        assert len({each.port_uc for each in offers}) == 6
        assert {each.port_us for each in offers} == {used.port_us}
        return outcome

    play([challenge(SET1.nonce), OK], steps=steps)


def test_qop_auth_is_answered_with_its_nc() -> None:
    second = play([challenge(SET1.nonce, extra=',qop="auth-int,auth"'), OK]).heard[1]
    assert (second.param("qop"), second.param("nc")) == ("auth", "00000001")
    expected = digest_response(
        username=IMPI,
        realm=REALM,
        password=bytes.fromhex(SET1.f2),
        method="REGISTER",
        uri=f"sip:{REALM}",
        nonce=SET1.nonce,
        qop="auth",
        nc="00000001",
        cnonce=second.param("cnonce") or "",
    )
    assert second.param("response") == expected


@by_vector
def test_an_old_sqn_is_answered_with_the_published_auts_and_twice_is_enough(vector: Vector) -> None:
    script = [challenge(vector.nonce), challenge(vector.nonce)]
    played = play(script, vector=vector, sqn=int(vector.sqn_ms, 16))
    first, second = played.heard
    assert not played.outcome.registered and "2 invalid challenges" in played.outcome.reason
    assert (second.on, second.param("auts")) == ("clear", vector.auts_base64)
    assert second.param("response") == vector.response_empty
    assert second.request.first("call-id") == first.request.first("call-id")
    for name in ("spi-c", "spi-s", "port-c"):
        assert first.offered(name) != second.offered(name)
    assert first.offered("port-s") == second.offered("port-s")
    assert not played.sas


def test_after_a_wrong_mac_a_good_challenge_registers() -> None:
    damaged = base64.b64decode(SET1.nonce)
    damaged = damaged[:-1] + bytes([damaged[-1] ^ 1])
    played = play([challenge(base64.b64encode(damaged).decode()), challenge(SET1.nonce), OK])
    _, second, third = played.heard
    assert played.outcome.registered
    assert (second.on, second.param("response"), second.param("auts")) == ("clear", "", None)
    assert (third.on, third.param("response")) == ("ps", SET1.response)
    assert third.request.lines("security-client") == second.request.lines("security-client")


def test_cards_that_are_wrong_on_demand() -> None:
    wrong = play([challenge(SET1.nonce), FORBIDDEN], Fault.WRONG_K)
    assert (wrong.outcome.registered, wrong.outcome.status) == (False, 403)
    assert (wrong.heard[1].param("nonce"), wrong.heard[1].param("response")) == (SET1.nonce, "")
    ahead = play([challenge(SET3.nonce), FORBIDDEN], Fault.OLD_SQN, vector=SET3, sqn=int(SET3.sqn, 16) - 33)
    assert ahead.heard[1].param("auts")


@pytest.mark.parametrize(
    ("fault", "shows"),
    [
        (
            Fault.EDIT_SECURITY_VERIFY,
            lambda played, heard: (
                heard.request.lines("security-verify") == [played.server.replace("1000000012", "1000000013", 1)]
            ),
        ),
        (Fault.DROP_SECURITY_VERIFY, lambda played, heard: heard.request.lines("security-verify") == []),
        (
            Fault.EDIT_SECURITY_CLIENT,
            lambda played, heard: heard.offered("spi-s") == played.heard[0].offered("spi-s") + 1,
        ),
        (Fault.WRONG_RES, lambda played, heard: heard.param("response") != SET1.response),
        (
            Fault.FOREIGN_IMPI,
            lambda played, heard: heard.param("username") == IMPI.replace("789@", "780@"),
        ),
        (Fault.CLEAR_TO_PROTECTED, lambda played, heard: heard.port == played.heard[0].port),
    ],
)
def test_what_is_wrong_in_the_answer_on_demand(fault: Fault, shows: Callable[[Played, Heard], bool]) -> None:
    answer = Say(status=0) if fault is Fault.CLEAR_TO_PROTECTED else Say(status=494)
    played = play([challenge(SET1.nonce), answer], fault)
    assert (played.outcome.registered, played.outcome.status) == (False, answer.status)
    assert played.heard[1].on == "ps"
    assert shows(played, played.heard[1])
    assert not played.sas, "a set that was not accepted must go"
    # and a good UE shows none of it
    good = play([challenge(SET1.nonce), OK])
    assert not shows(good, good.heard[1])


def test_a_wrong_ik_changes_the_keys_and_nothing_else() -> None:
    played = play([challenge(SET1.nonce), OK], Fault.WRONG_IK)
    assert {bytes(sa.integrity_key).hex()[:32] for sa in played.sas} == {SET1.f4[:-1] + "0"}
    assert played.heard[1].param("response") == SET1.response


def test_without_a_security_agreement() -> None:
    refused = play([Say(status=421)], Fault.NO_SEC_AGREE)
    assert (refused.outcome.registered, refused.outcome.status) == (False, 421)
    (only,) = refused.heard
    assert not any(only.request.lines(name) for name in ("security-client", "require", "proxy-require"))
    admitted = play([challenge(SET1.nonce, server=0), OK], Fault.NO_SEC_AGREE)
    assert admitted.outcome.registered and not admitted.sas
    assert [each.on for each in admitted.heard] == ["clear", "clear"]


def test_an_ignored_challenge_and_silence() -> None:
    ignored = play([challenge(SET1.nonce)], Fault.IGNORE_CHALLENGE)
    assert (ignored.outcome.registered, ignored.outcome.status) == (False, 401)
    silent = play([Say(status=0)])
    assert (silent.outcome.registered, silent.outcome.status) == (False, 0)
    assert "no answer" in silent.outcome.reason
    assert any(step.again for step in silent.outcome.ladder), "SIP over UDP is sent again"


def test_a_message_in_clear_on_demand() -> None:
    played = play([challenge(SET1.nonce), OK, FORBIDDEN], Fault.NON_REGISTER_IN_CLEAR)
    assert (played.outcome.registered, played.outcome.clear_request_status) == (True, 403)
    assert (played.heard[2].request.method, played.heard[2].on) == ("MESSAGE", "clear")


def test_odd_offers_and_static_numbers() -> None:
    lines = ("tls;q=0.9", "IPSEC-3GPP ; ALG=hmac-sha-1-96;spi-c={spi_c};spi-s={spi_s};port-c={port_c};port-s={port_s}")
    static = StaticNumbers(port_uc=free_port(), port_us=free_port(), spi_uc=45597, spi_us=45598)
    played = play([FORBIDDEN], offer_lines=lines, static=static)
    sent = played.heard[0].request.lines("security-client")
    assert sent[0] == "tls;q=0.9"
    assert sent[1].endswith(f"spi-c=45597;spi-s=45598;port-c={static.port_uc};port-s={static.port_us}")
    assert {each.first for each in played.kernel.protected[0][1]} == {static.port_uc, static.port_us}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([challenge(SET1.nonce, extra=f',ik="{SET1.f4}"'), OK], "still holds ik"),
        ([challenge(SET1.nonce), replace(OK, headers=(*OK.headers, header("Require", "sec-agree")))], "Require"),
        ([challenge(SET1.nonce), replace(OK, headers=(*OK.headers, header("P-Charging-Vector", "a=b")))], "Charging"),
        ([challenge(SET1.nonce), replace(OK, expires=None)], "does not list our contact"),
    ],
)
def test_a_strict_handset_complains(script: list[Say], words: str) -> None:
    played = play(script)
    assert played.outcome.registered
    assert len(played.outcome.complaints) == 1 and words in played.outcome.complaints[0], played.outcome.complaints
    assert SET1.f4 not in repr(played.outcome)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ([challenge(SET1.nonce, server=0)], 401),
        ([challenge(SET1.nonce, server_text="tls;q=1")], 401),
        ([challenge("c2hvcnQ=")], 401),
        ([OK], 200),
        ([challenge(SET1.nonce), challenge(SET1.nonce)], 401),
        ([Say(status=503)], 503),
    ],
)
def test_what_ends_a_registration(script: list[Say], status: int) -> None:
    played = play(script)
    assert (played.outcome.registered, played.outcome.status) == (False, status)
    assert not played.sas


def test_answers_that_come_on_the_wrong_sa_are_ignored() -> None:
    played = play([challenge(SET1.nonce), replace(OK, on="clear")])
    assert not played.outcome.registered and "no answer" in played.outcome.reason
    assert "200 came on" in played.outcome.complaints[0]


def test_protected_reregistration_unchallenged_then_challenged_then_deregistration() -> None:
    async def steps(ue: Ue, pcscf: ScriptedPcscf) -> Outcome:
        first = await ue.register()
        unchallenged = await ue.reregister()
        assert unchallenged.sets == first.sets
        challenged = await ue.reregister()
        assert challenged.registered, challenged.reason
        assert [len(each.sets) for each in (first, challenged)] == [1, 2]
        old, new = challenged.sets
        assert old.offer.port_us == new.offer.port_us
        assert old.offer.port_uc != new.offer.port_uc
        assert ue.set_in_use is new
        options = (
            f"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP {PCSCF}:{pcscf.ports['ps']};branch=z9hG4bKo\r\n"
            "From: <sip:p@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        )
        pcscf.ask(options.encode(), "pc2", new.offer.port_us)
        await asyncio.sleep(0.1)
        assert ue.gm.sets == [new], "a message of the network on the new set ends the old one"
        return await ue.deregister()

    nonce2 = _next_nonce()
    script = [
        challenge(SET1.nonce),
        OK,
        OK,
        challenge(nonce2, server=2, on="pc1"),
        replace(OK, on="pc2"),
        replace(GONE, on="pc2"),
    ]
    played = play(script, steps=steps)
    assert (played.outcome.registered, played.outcome.reason) == (False, "deregistered")
    assert not played.sas
    _, _, again, third, fourth, reply, gone = played.heard
    assert again.param("response") == SET1.response, "a re-REGISTER repeats the last answer (digest C11)"
    assert again.request.lines("security-verify") == [played.server]
    assert (third.port, fourth.port) == (again.port, third.offered("port-c"))
    assert (reply.request.method, reply.on, reply.port) == ("(response)", "ps", fourth.port)
    assert gone.request.first("expires") == "0"


def _next_nonce() -> str:
    """The challenge after set 1, of the same card."""
    card = SET1.milenage
    rand, sqn, amf = bytes.fromhex(SET3.rand), (int(SET1.sqn, 16) + 33).to_bytes(6, "big"), bytes(2)
    hidden = bytes(a ^ b for a, b in zip(sqn, card.f5(rand), strict=True))
    return base64.b64encode(rand + hidden + amf + card.f1(rand, sqn, amf)).decode()


def test_a_reboot_registers_anew_in_clear() -> None:
    async def steps(ue: Ue, pcscf: ScriptedPcscf) -> Outcome:
        await ue.register()
        await ue.reboot()
        assert ue.set_in_use is None
        return await ue.register()

    played = play([challenge(SET1.nonce), OK, challenge(_next_nonce(), server=2), replace(OK, on="pc2")], steps=steps)
    assert played.outcome.registered and len(played.sas) == 4
    assert played.heard[2].on == "clear"
    assert played.heard[2].request.first("call-id") != played.heard[0].request.first("call-id")


def test_a_phone_with_static_numbers_has_been_off_when_it_registers_again() -> None:
    async def steps(ue: Ue, pcscf: ScriptedPcscf) -> Outcome:
        await ue.register()
        return await ue.register()

    static = StaticNumbers(port_uc=free_port(), port_us=free_port(), spi_uc=45597, spi_us=45598)
    script = [challenge(SET1.nonce), OK, challenge(_next_nonce(), server=2), replace(OK, on="pc2")]
    played = play(script, steps=steps, static=static)
    assert played.outcome.registered, played.outcome.reason
    assert len({each.request.first("call-id") for each in played.heard}) == 2


def test_registering_in_clear_again_ends_the_old_set_only_when_accepted() -> None:
    async def steps(ue: Ue, pcscf: ScriptedPcscf) -> Outcome:
        first = await ue.register()
        refused = await ue.register()
        assert refused.sets == first.sets and refused.registered
        return await ue.register()

    script = [challenge(SET1.nonce), OK, FORBIDDEN, challenge(_next_nonce(), server=2), replace(OK, on="pc2")]
    played = play(script, steps=steps)
    assert played.outcome.registered and len(played.outcome.sets) == 1
    assert played.outcome.sets[0].agreed.spi_ps == 1_000_000_022
