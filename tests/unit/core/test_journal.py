"""What the journal keeps: whose and in which dialog, and no more of a peer's words than it takes to know them."""

from dataclasses import replace

import pytest

from pcscf.observe import NAME, OFFER, Attempt, MessageSeen, RegistrationChanged, SetChanged
from tests.unit.core.world import CORE, NONCE, Phone, World, answer, settings
from xfrm.algorithms import Pair

LONG = {"Call-ID: ": 700, "Security-Client: ": 7000}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> Phone:
    return Phone(world)


def attempts(world: World) -> list[Attempt]:
    return [record for _, record in world.journal.after(0) if isinstance(record, Attempt)]


def test_a_registration_is_told_with_its_dialog(world: World, phone: Phone) -> None:
    phone.registered()
    records = [record for _, record in world.journal.after(0)]
    first, second = attempts(world)
    assert (first.spi, first.auts, second.auts) == (0, False, False) and second.spi
    assert str(first.ue) == phone.address and first.offered == phone.offer and first.impi == phone.user
    caused = [record for record in records if not isinstance(record, MessageSeen)]
    assert {record.call_id for record in caused} == {first.call_id}
    assert {type(record) for record in caused} == {Attempt, SetChanged, RegistrationChanged}


def test_a_synchronisation_failure_is_told(world: World, phone: Phone) -> None:
    phone.challenged()
    world.receive(phone.register(authorization=f'nonce="{NONCE}",response="",auts="AAAA"'), phone.clear)
    assert [each.auts for each in attempts(world)] == [False, True]


def test_what_the_core_says_of_a_refusal_is_told(world: World, phone: Phone) -> None:
    at_core = phone.first()
    extra = 'Warning: 399 home "roaming is not allowed"\r\nReason: SIP;cause=403\r\n'
    world.receive(answer(at_core, "403 Forbidden", extra), CORE)
    assert world.problems == [
        'REGISTER failed: the core answered 403 Forbidden (Warning: 399 home "roaming is not allowed"; '
        "Reason: SIP;cause=403)"
    ]


def test_words_without_end_are_cut(world: World, phone: Phone) -> None:
    for name, length in LONG.items():
        text = phone.register().decode()
        line = next(each for each in text.split("\r\n") if each.startswith(name))
        world.receive(text.replace(line, line + ";x=" * (name != "Call-ID: ") + "y" * length).encode(), phone.clear)
    kept = [record for _, record in world.journal.after(0)]
    assert len(attempts(world)) == 2
    assert max(len(each.call_id) for each in attempts(world)) == NAME
    assert max(len(repr(record)) for record in kept) < 2 * (NAME + OFFER)


def test_other_settings_count_for_the_next_message(world: World, phone: Phone) -> None:
    phone.registered()
    other = phone.again(pairs="hmac-sha-1-96/aes-cbc")
    world.proxy.adopt(settings(preference=(Pair.parse("hmac-md5-96/aes-cbc"),)))
    world.receive(other.register(), other.clear)
    assert "no common algorithm" in world.problems[-1]
    world.proxy.adopt(replace(settings(), transactions=0))
    world.receive(other.register(), other.clear)
    assert world.problems[-1] == "too many transactions; 503"
