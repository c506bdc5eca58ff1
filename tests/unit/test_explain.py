"""From facts to a verdict: a row for each cause, and both where two cannot be told apart."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from pcscf.explain import ADVICE, Facts, SetFacts, Step, Verdict, explain

UE, ELSEWHERE = ip_address("10.45.0.2"), ip_address("10.45.0.9")
WAITING = SetFacts(
    state="temporary", waiting=10, spis=(1001, 1002), alive=True, packets=0, integrity_failures=0, replay_drops=0,
    messages=0, listened=True, seen=(),
)  # fmt: skip
CHALLENGED = tuple(
    (step, 0.0) for step in (Step.REGISTER, Step.TO_CORE, Step.CHALLENGED, Step.INSTALLED, Step.SENT_401)
)
STUCK = Facts(
    impi="alice@home", address=UE, registered=False, expires_in=0, since=10, steps=CHALLENGED, offered="", chosen="",
    why="", core_status=401, auts=0, problems=(), ended="", set=WAITING, drops=(), unable="",
)  # fmt: skip
ACTIVE = replace(WAITING, state="active", packets=5, messages=5, listened=False)
REGISTERED = replace(STUCK, registered=True, expires_in=3600, core_status=200, set=ACTIVE)


def waiting(**changes: Any) -> Facts:
    return replace(STUCK, set=replace(WAITING, **changes))


def problem(text: str) -> Facts:
    return replace(STUCK, problems=("something else", text), set=None)


ROWS: list[tuple[Facts, list[Verdict], str]] = [
    (REGISTERED, [Verdict.HEALTHY], "registered for another 3600 s"),
    (replace(REGISTERED, set=replace(ACTIVE, replay_drops=2)), [Verdict.REPLAY_DROPS], "2 packets"),
    (replace(REGISTERED, set=replace(ACTIVE, integrity_failures=3)), [Verdict.ICV_FAILURES], "3 packets"),
    (
        replace(STUCK, set=None, core_status=200, ended="deregistered by the UE"),
        [Verdict.ENDED],
        "deregistered by the UE",
    ),
    (
        replace(
            STUCK,
            steps=(*CHALLENGED, (Step.REGISTERED, 1.0)),
            set=replace(WAITING, state="gone", alive=False, ended="superseded (deregistered by the operator)"),
            ended="deregistered by the operator",
        ),
        [Verdict.ENDED],
        "deregistered by the operator",
    ),
    (waiting(waiting=0.5), [Verdict.UNDER_WAY], "0.5 s ago"),
    (waiting(messages=1), [Verdict.UNDER_WAY], "10.0 s ago"),
    (replace(STUCK, core_status=0, set=None, since=0.5), [Verdict.UNDER_WAY], "0.5 s"),
    (replace(STUCK, core_status=0, set=None), [Verdict.NO_ANSWER_FROM_CORE], "for 10.0 s"),
    (problem("REGISTER failed with 504: the core: no answer"), [Verdict.NO_ANSWER_FROM_CORE], "504"),
    (problem("REGISTER failed: the core answered 403 Forbidden (Warning: x)"), [Verdict.CORE_REJECTED], "Warning: x"),
    (problem("REGISTER failed with 500: the 401 has no ik"), [Verdict.CHALLENGE_UNUSABLE], "no ik"),
    (
        problem("REGISTER failed with 403: the core challenged the answer to its own challenge"),
        [Verdict.WRONG_RES],
        "own",
    ),
    (
        problem("REGISTER failed with 500: the SAs could not be installed: File exists"),
        [Verdict.SA_REFUSED],
        "File exists",
    ),
    (problem("Security-Verify entry 1 differs from Security-Server"), [Verdict.AGREEMENT_DIFFERS], "entry 1"),
    (problem("REGISTER refused with 494: no common algorithm: the UE offers x"), [Verdict.REFUSED], "no common"),
    (problem("the UE found the network's MAC wrong"), [Verdict.WRONG_MAC], "MAC wrong"),
    (replace(STUCK, auts=2), [Verdict.RESYNCHRONISATION_LOOP], "2 times"),
    (replace(STUCK, auts=1), [Verdict.RESYNCHRONISATION_LOOP], "did not answer the challenge that followed"),
    (STUCK, [Verdict.NO_ESP], "no ESP of the UE has come since"),
    (waiting(ended="expired", alive=False), [Verdict.NO_ESP], "the set has ended: expired"),
    (waiting(integrity_failures=4), [Verdict.ICV_FAILURES], "4 ESP packets"),
    (waiting(replay_drops=4), [Verdict.REPLAY_DROPS], "4 ESP packets"),
    (
        waiting(seen=(("foreign ESP", UE, 77, 3),)),
        [Verdict.UNKNOWN_SPI],
        "SPI 77 (3 times); those of this set are 1001 and 1002",
    ),
    (waiting(packets=2, seen=(("ESP", ELSEWHERE, 1001, 2),)), [Verdict.OTHER_ADDRESS], "came from 10.45.0.9"),
    (waiting(seen=(("TCP SYN", UE, 5100, 3),)), [Verdict.CLEAR_AT_PROTECTED_PORT], "3 TCP SYN to port 5100"),
    (waiting(seen=(("UDP", UE, 5100, 1),)), [Verdict.CLEAR_AT_PROTECTED_PORT], "1 UDP to port 5100"),
    (waiting(packets=3), [Verdict.UNPROTECTED_ONLY], "3 ESP packets were opened"),
    (waiting(packets=3, listened=False), [Verdict.UNPROTECTED_ONLY, Verdict.OTHER_ADDRESS], "3 ESP"),
    (waiting(listened=False), [Verdict.NO_ESP, Verdict.UNKNOWN_SPI], "no ESP of the UE"),
    (
        waiting(integrity_failures=1, seen=(("foreign ESP", UE, 7, 1),)),
        [Verdict.ICV_FAILURES, Verdict.UNKNOWN_SPI],
        "wrong integrity",
    ),
]


@pytest.mark.parametrize(("facts", "verdicts", "words"), ROWS)
def test_a_verdict(facts: Facts, verdicts: list[Verdict], words: str) -> None:
    found = explain(facts)
    assert [cause.verdict for cause in found] == verdicts and words in found[0].text, found
    assert all(cause.advice for cause in found)


def test_who_could_not_listen_says_so() -> None:
    facts = replace(waiting(listened=False), unable="Operation not permitted", drops=(("XfrmInNoStates", 7),))
    text = explain(facts)[1].text
    assert "Operation not permitted" in text and "XfrmInNoStates 7" in text


def test_every_verdict_is_reached_and_has_advice() -> None:
    assert {verdict for _, verdicts, _ in ROWS for verdict in verdicts} == set(Verdict) == set(ADVICE)
