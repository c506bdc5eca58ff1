"""The dialogs of the UEs by themselves: opened once, kept, ended with their last usage (digest C7, C8, C9)."""

import math
from ipaddress import ip_address

import pytest

from pcscf.dialog import Dialog, DialogKey, Dialogs, Usage
from pcscf.registration import ContactKey, Registration

KEY = DialogKey("call", "ue", "peer")
ROUTE = ("<sip:mo@10.46.0.2;lr>",)


def registration(number: int = 1) -> Registration:
    return Registration(key=ContactKey(f"{number}@home", ip_address("10.45.0.2"), ""), path_token=f"term-{number}")


@pytest.fixture
def dialogs() -> Dialogs:
    return Dialogs()


@pytest.fixture
def call(dialogs: Dialogs) -> Dialog:
    return dialogs.open(KEY, registration(), ROUTE, Usage.CALL)


def test_a_new_one(dialogs: Dialogs, call: Dialog) -> None:
    assert dialogs.find(KEY) is call and len(dialogs) == dialogs.count(call.registration) == 1
    assert call.early and call.route == ROUTE and call.usages == {Usage.CALL} and call.expires == math.inf
    assert dialogs.deadline is None


def test_the_name_has_a_side(dialogs: Dialogs, call: Dialog) -> None:
    assert dialogs.find(DialogKey("call", "peer", "ue")) is None
    assert dialogs.find(DialogKey("other", "ue", "peer")) is None


def test_opened_again_it_is_the_same_with_its_first_route_and_its_owner(dialogs: Dialogs, call: Dialog) -> None:
    again = dialogs.open(KEY, registration(2), ("<sip:evil;lr>",), Usage.SUBSCRIPTION)
    assert again is call and call.route == ROUTE and call.registration.path_token == "term-1"
    assert call.usages == set(Usage) and len(dialogs) == 1


def test_it_ends_with_its_last_usage(dialogs: Dialogs, call: Dialog) -> None:
    """RFC 5057: a transfer within a call."""
    dialogs.open(KEY, call.registration, ROUTE, Usage.SUBSCRIPTION)
    dialogs.end(call, Usage.CALL)
    assert dialogs.find(KEY) is call
    dialogs.end(call, Usage.CALL)
    assert dialogs.find(KEY) is call, "the same usage ends once"
    dialogs.end(call, Usage.SUBSCRIPTION)
    assert dialogs.find(KEY) is None and dialogs.count(call.registration) == 0


def test_closing_one_that_is_gone_leaves_its_successor(dialogs: Dialogs, call: Dialog) -> None:
    dialogs.close(call)
    dialogs.close(call)
    successor = dialogs.open(KEY, call.registration, ROUTE, Usage.CALL)
    dialogs.close(call)
    dialogs.end(call, Usage.CALL)
    assert dialogs.find(KEY) is successor and dialogs.count(call.registration) == 1


def test_a_contact_goes_with_all_its_dialogs_and_with_nobody_elses(dialogs: Dialogs, call: Dialog) -> None:
    """TS 24.229 5.2.8.1.4."""
    other = registration(2)
    dialogs.open(DialogKey("call2", "ue", "peer"), call.registration, ROUTE, Usage.CALL)
    kept = dialogs.open(DialogKey("call3", "ue", "peer"), other, ROUTE, Usage.CALL)
    assert (dialogs.count(call.registration), dialogs.count(other)) == (2, 1)
    dialogs.close_all(call.registration)
    dialogs.close_all(call.registration)
    assert len(dialogs) == 1 and dialogs.find(kept.key) is kept and dialogs.count(call.registration) == 0


def test_what_nobody_keeps_expires(dialogs: Dialogs, call: Dialog) -> None:
    dialogs.keep(call, 100.0)
    assert dialogs.deadline == 100.0
    dialogs.expire(99.9)
    assert dialogs.find(KEY) is call
    dialogs.expire(100.0)
    assert dialogs.find(KEY) is None and dialogs.deadline is None


def test_what_has_ended_does_not_wait_for_its_deadline(dialogs: Dialogs, call: Dialog) -> None:
    """Else memory grows with every subscription of a week that a UE makes and ends."""
    dialogs.keep(call, 700_000.0)
    for number in range(1000):
        key = DialogKey(f"call{number}", "ue", "peer")
        made = dialogs.open(key, call.registration, ROUTE, Usage.SUBSCRIPTION)
        dialogs.keep(made, 600_000.0 + number)
        dialogs.close(made)
    assert len(dialogs._deadlines) < 100
    dialogs.expire(700_000.0)
    assert dialogs.find(KEY) is None


def test_kept_again_it_lives_on(dialogs: Dialogs, call: Dialog) -> None:
    dialogs.keep(call, 100.0)
    dialogs.keep(call, 200.0)
    dialogs.expire(150.0)
    assert dialogs.find(KEY) is call and dialogs.deadline == 200.0
    dialogs.expire(200.0)
    assert dialogs.find(KEY) is None


def test_kept_for_less_it_ends_sooner(dialogs: Dialogs, call: Dialog) -> None:
    dialogs.keep(call, 200.0)
    dialogs.keep(call, 100.0)
    dialogs.expire(100.0)
    assert dialogs.find(KEY) is None
    dialogs.expire(200.0)
    assert dialogs.deadline is None


def test_an_alarm_of_a_dialog_that_ended_hurts_no_successor(dialogs: Dialogs, call: Dialog) -> None:
    dialogs.keep(call, 100.0)
    dialogs.close(call)
    successor = dialogs.open(KEY, call.registration, ROUTE, Usage.CALL)
    dialogs.expire(100.0)
    assert dialogs.find(KEY) is successor and dialogs.deadline is None
