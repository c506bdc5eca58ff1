"""Calls between two phones of the lab over a P-CSCF that passes on."""

import asyncio
from dataclasses import replace

import pytest

from pcscf.lab.call import Call, CallFailed, CallState
from pcscf.lab.callee import Answering, Habit
from pcscf.sip.fields import parse_cseq
from pcscf.sip.message import Request, Response, header
from pcscf.vocabulary import Flow
from tests.unit.lab.passing import QUICK, REALM, Known, Lab, PassingPcscf, header_of, with_lab

BOB = f"sip:bob@{REALM}"
AT_ONCE = Answering(habit=Habit.AFTER)

ways = pytest.mark.parametrize(
    ("version", "tcp"), [(4, False), (4, True), (6, False), (6, True)], ids=["UDP4", "TCP4", "UDP6", "TCP6"]
)


@ways
def test_a_call_with_preconditions(version: int, tcp: bool) -> None:
    async def scenario(lab: Lab) -> None:
        alice, bob = lab.ues
        bob.answer_as(AT_ONCE)
        call = alice.call(BOB)
        assert await call.until(CallState.ESTABLISHED, within=5) is CallState.ESTABLISHED, call.reason
        await asyncio.sleep(0.05)
        theirs = bob.reception.calls[0]
        assert theirs.state is CallState.ESTABLISHED
        for each in (call.report, theirs.report):
            assert each.preconditions and each.local_ready and each.remote_ready, each
        await call.hangup()
        assert await theirs.until(within=2) is CallState.ENDED and theirs.reason == "the peer hung up"

    lab = with_lab(scenario, pcscf=PassingPcscf(version=version), tcp=tcp)
    heard = [each.method for each in lab.pcscf.of("PRACK")]
    assert heard == ["PRACK", "PRACK"]
    assert len(lab.pcscf.of("UPDATE")) == 1 and len(lab.pcscf.of("ACK")) == 1


async def established(lab: Lab) -> tuple[Call, Call]:
    lab.ues[1].answer_as(AT_ONCE)
    call = lab.ues[0].call(BOB)
    assert await call.until(CallState.ESTABLISHED, within=5) is CallState.ESTABLISHED, call.reason
    theirs = lab.ues[1].reception.calls[-1]
    assert await theirs.until(CallState.ESTABLISHED, within=1) is CallState.ESTABLISHED
    return call, theirs


def test_what_an_invite_and_the_requests_in_its_dialog_carry() -> None:
    async def scenario(lab: Lab) -> None:
        call, _ = await established(lab)
        await call.hangup()

    lab = with_lab(scenario)
    pcscf, (over,) = lab.pcscf, lab.known[0].sets
    (invite,), ps = pcscf.of("INVITE"), pcscf.ports["ps"]
    assert invite.values("route") == [f"<sip:127.0.0.9:{ps};lr>", "<sip:orig@127.0.0.9:5999;lr>"]
    assert invite.values("p-preferred-identity") == [f"<sip:alice@{REALM}>"]
    assert header_of(invite, "from").startswith(f"<sip:alice@{REALM}>;tag=")
    assert f"<sip:127.0.0.2:{over.port_us}>" in header_of(invite, "contact")
    assert header_of(invite, "via").startswith(f"SIP/2.0/TCP 127.0.0.2:{over.port_us};branch=")
    assert "rport" not in header_of(invite, "via")
    assert header_of(invite, "security-verify").startswith("ipsec-3gpp;q=0.5")
    assert invite.values("require") == invite.values("proxy-require") == ["sec-agree"]
    assert invite.lines("p-access-network-info")
    assert len(invite.to_bytes()) > 1300
    assert b"a=curr:qos local none" in invite.body and b"a=des:qos mandatory local sendrecv" in invite.body
    flow = pcscf.flow_of(invite)
    assert (flow.transport, flow.remote_port, flow.local_port) == ("TCP", over.port_uc, ps)
    bob_us = lab.known[1].sets[0].port_us
    for name in ("PRACK", "UPDATE", "ACK", "BYE"):
        request = pcscf.of(name)[0]
        assert request.values("route") == [f"<sip:127.0.0.9:{ps};lr>"], "the recorded route, no Service-Route"
        assert request.uri.startswith(f"sip:127.0.0.3:{bob_us}")
        assert not request.lines("p-preferred-identity")
        assert bool(request.lines("security-verify")) is (name != "ACK")
        assert pcscf.flow_of(request).transport == "UDP" or len(request.to_bytes()) > 1300
    assert header_of(pcscf.of("PRACK")[0], "rack") == "1 1 INVITE"
    (update,) = pcscf.of("UPDATE")
    assert b"a=curr:qos local sendrecv" in update.body
    progress = [each.status for each, _ in pcscf.heard if isinstance(each, Response) and each.first("rseq")]
    assert progress == [183, 180]


def test_a_phone_without_tcp_sends_its_invite_over_udp() -> None:
    async def scenario(lab: Lab) -> None:
        await established(lab)

    lab = with_lab(scenario, large_over_tcp=False)
    (invite,) = lab.pcscf.of("INVITE")
    assert lab.pcscf.flow_of(invite).transport == "UDP" and "/UDP" in header_of(invite, "via")


def test_hold_resume_and_update_by_both_sides() -> None:
    async def scenario(lab: Lab) -> None:
        call, theirs = await established(lab)
        await call.hold()
        assert (call.stream.direction, theirs.stream.direction) == ("sendonly", "recvonly")
        await call.resume()
        assert (call.stream.direction, theirs.stream.direction) == ("sendrecv", "sendrecv")
        await theirs.hold()
        assert (call.stream.direction, theirs.stream.direction) == ("recvonly", "sendonly")
        await theirs.resume()
        await call.update()
        await theirs.update()
        await theirs.hangup()
        assert await call.until(within=1) is CallState.ENDED

    lab = with_lab(scenario)
    assert len(lab.pcscf.of("INVITE")) == 5
    versions = [int(each.body.split(b"o=- 1 ")[1].split()[0]) for each in lab.pcscf.of("INVITE")[:3]]
    assert versions == sorted(set(versions)), "each description has a higher version"


@pytest.mark.parametrize(("habit", "status"), [(Habit.BUSY, 486), (Habit.DECLINE, 603)])
def test_a_call_that_is_refused(habit: Habit, status: int) -> None:
    async def scenario(lab: Lab) -> None:
        lab.ues[1].answer_as(Answering(habit=habit))
        call = lab.ues[0].call(BOB)
        assert await call.until(CallState.ESTABLISHED, within=5) is CallState.ENDED
        assert call.status == status
        await asyncio.sleep(0.02)

    lab = with_lab(scenario)
    assert len(lab.pcscf.of("ACK")) == 1


def test_cancel_while_it_rings() -> None:
    async def scenario(lab: Lab) -> None:
        call = lab.ues[0].call(BOB)
        assert await call.until(CallState.RINGING, within=5) is CallState.RINGING
        await call.hangup()
        assert (call.state, call.status) == (CallState.ENDED, 487)
        assert lab.ues[1].reception.calls[0].status == 487

    lab = with_lab(scenario)
    (invite,), (cancel,) = lab.pcscf.of("INVITE"), lab.pcscf.of("CANCEL")
    assert cancel.headers[0] == invite.headers[0] and cancel.values("route") == invite.values("route")
    assert not cancel.lines("security-verify") and lab.pcscf.flow_of(cancel) == lab.pcscf.flow_of(invite)


def test_the_callee_picks_up_later_and_hangs_up() -> None:
    async def scenario(lab: Lab) -> None:
        call = lab.ues[0].call(BOB)
        assert await call.until(CallState.RINGING, within=5) is CallState.RINGING
        lab.ues[1].answer_as(AT_ONCE)
        assert await call.until(CallState.ESTABLISHED, within=5) is CallState.ESTABLISHED
        theirs = lab.ues[1].reception.calls[0]
        await theirs.until(CallState.ESTABLISHED, within=1)
        await theirs.hangup()
        assert await call.until(within=1) is CallState.ENDED and call.reason == "the peer hung up"

    with_lab(scenario)


def test_a_caller_without_100rel_gets_a_plain_180_and_the_answer_in_the_200() -> None:
    def plain(request: Request, to: Known) -> list[Request]:
        return [request.without("supported")]

    async def scenario(lab: Lab) -> None:
        lab.pcscf.on_request = plain
        call, theirs = await established(lab)
        assert call.stream.answered and theirs.stream.answered

    lab = with_lab(scenario)
    ringing = lab.pcscf.said(180, "INVITE")
    assert ringing and not any(each.lines("rseq") for each in ringing)
    assert lab.pcscf.said(200, "INVITE")[0].body and not lab.pcscf.of("PRACK")


def test_without_preconditions_nobody_waits_for_resources() -> None:
    async def scenario(lab: Lab) -> None:
        lab.ues[1].answer_as(AT_ONCE)
        call = lab.ues[0].call(BOB, preconditions=False)
        assert await call.until(CallState.ESTABLISHED, within=5) is CallState.ESTABLISHED
        assert not call.report.preconditions and call.stream.answered

    lab = with_lab(scenario)
    assert not lab.pcscf.of("UPDATE") and b"qos" not in lab.pcscf.of("INVITE")[0].body


def test_the_200_comes_again_until_its_ack_and_the_ack_with_it() -> None:
    acks = 0

    def lose_two(request: Request, to: Known) -> list[Request]:
        nonlocal acks
        acks += request.method == "ACK"
        return [] if request.method == "ACK" and acks < 3 else [request]

    async def scenario(lab: Lab) -> None:
        lab.pcscf.on_request = lose_two
        _, theirs = await established(lab)
        await asyncio.sleep(0.5)
        assert theirs.alive

    lab = with_lab(scenario, timers=QUICK)
    assert acks == 3 and len(lab.pcscf.said(200, "INVITE")) == 3


def test_no_ack_at_all_ends_the_call_with_a_bye() -> None:
    async def scenario(lab: Lab) -> None:
        lab.pcscf.on_request = lambda request, to: [] if request.method == "ACK" else [request]
        _, theirs = await established(lab)
        assert await theirs.until(within=3) is CallState.ENDED
        assert lab.ues[1].diary.complaints() == ("no ACK came for our 200",)
        await asyncio.sleep(0.05)

    lab = with_lab(scenario, timers=QUICK, clean=False)
    assert len(lab.pcscf.of("BYE")) == 1


def test_of_forked_answers_the_first_wins_and_the_others_get_ack_and_bye() -> None:
    def fork(response: Response) -> list[Response]:
        if parse_cseq(header_of(response, "cseq")).method != "INVITE" or response.status < 180:
            return [response]
        to = header_of(response, "to")
        other = [header("To", f"{to}x") if each.name == "to" else each for each in response.headers]
        twin = response.with_headers(each for each in other if each.name not in ("require", "rseq"))
        return [response, twin]

    async def scenario(lab: Lab) -> None:
        lab.pcscf.on_response = fork
        lab.pcscf.own_answer = lambda request: (
            (200 if request.method == "BYE" else 1) if header_of(request, "to").endswith("x") else 0
        )
        call, theirs = await established(lab)
        await asyncio.sleep(0.1)
        assert call.early_dialogs == 2 and call.state is CallState.ESTABLISHED
        assert call.dialog is not None and not call.dialog.remote.endswith("x")
        assert theirs.alive

    lab = with_lab(scenario)
    losers = [each.method for each, _ in lab.pcscf.heard if header_of(each, "to").endswith("x") and each in
              lab.pcscf.of("ACK") + lab.pcscf.of("BYE")]  # fmt: skip
    assert losers == ["ACK", "BYE"]


def test_reauthentication_in_a_call_moves_it_to_the_new_set() -> None:
    async def scenario(lab: Lab) -> None:
        alice = lab.ues[0]
        call, theirs = await established(lab)
        old = alice.set_in_use
        outcome = await alice.reregister()
        assert outcome.registered and len(alice.gm.sets) == 2
        new = alice.set_in_use
        assert new is not None and old is not None and new.offer.port_uc != old.offer.port_uc
        await theirs.update()  # the network does not know yet that we use the new one
        assert len(alice.gm.sets) == 2
        await call.hold()
        await asyncio.sleep(0.15)
        assert alice.gm.sets == [new], "the network has used the new set, so the old one went"
        await theirs.update()
        await call.hangup()

    lab = with_lab(scenario)
    hold, bye = lab.pcscf.of("INVITE")[1], lab.pcscf.of("BYE")[0]
    new = lab.known[0].sets[-1]
    assert lab.pcscf.flow_of(hold).remote_port == lab.pcscf.flow_of(bye).remote_port == new.port_uc


def test_the_old_set_stays_while_a_request_waits_on_it() -> None:
    async def scenario(lab: Lab) -> None:
        alice = lab.ues[0]
        call = alice.call(BOB)
        assert await call.until(CallState.RINGING, within=5) is CallState.RINGING
        await alice.reregister()
        assert (await alice.options(BOB)).status == 200
        await asyncio.sleep(0.15)
        assert len(alice.gm.sets) == 2, "the INVITE still waits for its answer"
        lab.ues[1].answer_as(AT_ONCE)
        assert await call.until(CallState.ESTABLISHED, within=2) is CallState.ESTABLISHED
        await asyncio.sleep(0.15)
        assert len(alice.gm.sets) == 1
        await call.hangup()

    with_lab(scenario)


def test_a_bye_of_the_caller_before_the_answer_and_an_unknown_dialog() -> None:
    async def scenario(lab: Lab) -> None:
        alice, bob = lab.ues
        call = alice.call(BOB)
        assert await call.until(CallState.RINGING, within=5) is CallState.RINGING
        assert call.dialog is not None
        assert (await alice.line.ask(call.dialog.draft("BYE"))).status == 200
        assert await call.until(within=1) is CallState.ENDED and call.status == 487
        assert (await alice.line.ask(call.dialog.draft("INFO"))).status == 405
        call.dialog.remote += "x"
        assert (await alice.line.ask(call.dialog.draft("INFO"))).status == 481
        assert bob.reception.call is None

    with_lab(scenario)


def test_an_offer_that_cannot_be_read_is_refused() -> None:
    def spoil(request: Request, to: Known) -> list[Request]:
        if request.method != "INVITE":
            return [request]
        return [replace(request, body=request.body.replace(b"m=audio", b"m=video"))]

    async def scenario(lab: Lab) -> None:
        lab.pcscf.on_request = spoil
        call = lab.ues[0].call(BOB)
        assert await call.until(CallState.RINGING, within=5) is CallState.ENDED and call.status == 488

    with_lab(scenario)


def test_an_unanswered_invite_and_a_cancel_that_must_wait() -> None:
    async def scenario(lab: Lab) -> None:
        lab.pcscf.own_answer = lambda request: 1
        call = lab.ues[0].call(BOB)
        with pytest.raises(CallFailed, match="no answer to INVITE"):
            await call.hangup()
        assert not call.alive

    lab = with_lab(scenario, patience=0.2)
    assert not lab.pcscf.of("CANCEL"), "not before the first answer (RFC 3261 9.1)"


def test_while_a_new_set_is_not_accepted_everything_else_stays_on_the_old_one() -> None:
    async def scenario(lab: Lab) -> None:
        pcscf, (alice, bob), known = lab.pcscf, lab.ues, lab.known[0]
        real = pcscf._register

        def hold(request: Request, flow: Flow) -> None:
            if known.temp is None or flow.remote_port != known.temp.port_uc:
                real(request, flow)

        setattr(pcscf, "_register", hold)  # noqa: B010
        call, _ = await established(lab)
        old = alice.set_in_use
        renewing = asyncio.create_task(alice.reregister())
        await asyncio.sleep(0.1)
        assert len(alice.gm.sets) == 2 and alice.set_in_use is old
        assert (await alice.message(BOB, "hello")).status == 200
        assert (await bob.message(f"sip:alice@{REALM}", "hi")).status == 200
        known.down, good = known.temp, known.down
        pcscf.ask(known, "OPTIONS")
        await asyncio.sleep(0.05)
        assert not pcscf.said(200, "OPTIONS")
        assert any("not established yet" in each for each in alice.diary.complaints())
        known.down = good
        outcome = await renewing
        assert outcome.status == 0 and alice.gm.sets == [old], "a set that nobody accepted goes"
        await call.hangup()

    with_lab(scenario, clean=False, patience=0.4)
