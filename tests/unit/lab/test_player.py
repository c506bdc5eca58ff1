"""Scripts played by phones of the lab, and what they say of it."""

import asyncio
import json
from typing import Any

from pcscf.lab.fault import Fault
from pcscf.lab.player import Player, StepResult
from pcscf.lab.script import parse_script
from pcscf.sip.message import Request
from tests.unit.lab.passing import REALM, Known, Lab, with_lab

Said = list[StepResult]


def play(first: str, second: str, *, clean: bool = True, start: float = 0.0) -> tuple[Said, Said, list[Player], Lab]:
    """Two scripts at the same time, the second a moment earlier if `start` says so."""
    players: list[Player] = []

    async def scenario(lab: Lab) -> None:
        players.extend(Player(ue) for ue in lab.ues)

        async def delayed() -> None:
            await asyncio.sleep(start)
            await players[0].play(parse_script(first, REALM))

        await asyncio.gather(delayed(), players[1].play(parse_script(second, REALM)))
        reports.extend(player.report() for player in players)

    reports: list[object] = []
    lab = with_lab(scenario, clean=clean)
    json.dumps(reports)
    return players[0].results, players[1].results, players, lab


def reasons(*said: Said) -> list[str]:
    return [f"{each.step}: {each.reason}" for results in said for each in results if not each.ok]


def test_the_story_of_two_phones() -> None:
    first, second, players, _ = play(
        "message bob hello; expect-message hi within 2; call bob within 3; hold; resume; reregister; update; hangup; "
        "expect-complaints none; deregister",
        "expect-message hello within 2; message alice hi; expect-call within 3; answer; expect-hangup within 3; "
        "expect-complaints none; deregister",
    )
    assert not reasons(first, second)
    assert [each.status for each in first if each.name in ("message", "call", "reregister", "deregister")] == [200] * 4
    assert all(player.ok for player in players)


def test_the_report_of_a_script() -> None:
    reports: list[dict[str, Any]] = []

    async def scenario(lab: Lab) -> None:
        bob = Player(lab.ues[1])
        await asyncio.gather(
            Player(lab.ues[0]).play(parse_script("message bob hex:00ff", REALM)),
            bob.play(parse_script("expect-message within 2", REALM)),
        )
        reports.append(json.loads(json.dumps(bob.report())))

    with_lab(scenario)
    (report,) = reports
    assert report.keys() == {"impi", "ok", "steps", "ladder", "complaints", "messages", "calls"}
    (step,) = report["steps"]
    assert (step["name"], step["ok"], step["step"]) == ("expect-message", True, "expect-message within 2")
    assert step["details"]["message"]["hex"] == "00ff"
    (message,) = report["messages"]
    assert message["content_type"] == "application/vnd.3gpp.sms" and message["sender"] == f"sip:alice@{REALM}"
    last = report["ladder"][-1]
    assert last["summary"] == "200 OK" and not last["incoming"] and last["spi"]


def test_expected_refusals_and_a_cancel() -> None:
    first, second, _, lab = play(
        "call bob and expect 486; call bob and expect 603; ring bob; wait 0.1; hangup",
        "answer busy; expect-call within 2; answer decline; expect-call within 2; answer never; expect-call within 2; "
        "expect-hangup within 2",
    )
    # The second habit is set when the first call has come: whoever is faster, the statuses tell.
    assert not reasons(first[:1]) and first[0].status == 486
    assert len(lab.pcscf.of("INVITE")) >= 2
    assert second[1].ok


def test_ring_then_answered_after_a_while() -> None:
    first, second, _, _ = play(
        "ring bob; answered within 2; hangup", "answer after 0.2; expect-call; expect-hangup within 3", start=0.1
    )
    assert not reasons(first)
    assert not second[0].reason
    assert first[1].seconds >= 0.1


def test_the_first_step_that_fails_ends_it_and_the_phone_leaves() -> None:
    first, _, players, lab = play("call bob within 0.3; message bob never-sent", "wait 0.5")
    assert [(each.name, each.ok) for each in first] == [("call", False)]
    assert "no answer in 0.3 s" in first[0].reason
    assert not players[0].ok and not lab.ues[0].gm.sets
    assert lab.pcscf.of("CANCEL") and not lab.pcscf.of("MESSAGE")
    assert lab.pcscf.of("REGISTER")[-1].first("expires") == "0"


def test_steps_that_cannot_be_done_say_why() -> None:
    for text, words in (
        ("hangup", "there is no call"),
        ("expect-call within 0", "no call came in 0 s"),
        ("expect-message hello within 0", "no such message in 0 s; unread: none"),
        ("reboot; message bob hello", "MESSAGE needs a registration"),
    ):
        first, _, _, _ = play(text, "wait 0")
        assert words in first[-1].reason, first[-1]


def test_a_refused_message_fails_and_another_status_is_said() -> None:
    async def scenario(lab: Lab) -> None:
        lab.pcscf.own_answer = lambda request: 404 if request.method == "MESSAGE" else 0
        player = Player(lab.ues[0])
        await player.play(parse_script("message bob hello", REALM))
        (said,) = player.results
        assert (said.ok, said.status) == (False, 404)

    with_lab(scenario)


def test_faults_come_and_go_and_complaints_fail_a_script() -> None:
    def leak(request: Request, to: Known) -> list[Request]:
        from pcscf.sip.message import header

        return [request.with_headers([*request.headers, header("P-Charging-Vector", "a=b")])]

    async def scenario(lab: Lab) -> None:
        alice, bob = (Player(ue) for ue in lab.ues)
        await alice.play(parse_script("fault forbidden-headers; message bob one; fault none; message bob two", REALM))
        assert alice.ok
        lab.pcscf.on_request = leak
        await alice.play(parse_script("message bob three", REALM))
        await bob.play(parse_script("expect-complaints none", REALM))
        assert not bob.ok and "P-Charging-Vector" in bob.results[0].reason
        assert Fault.FORBIDDEN_HEADERS not in lab.ues[0].settings.faults

    lab = with_lab(scenario, clean=False)
    assert [bool(each.lines("p-charging-vector")) for each in lab.pcscf.of("MESSAGE")] == [True, False, False]
