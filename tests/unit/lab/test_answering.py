"""The far side: calls and messages to the answering numbers, with a clock by hand."""

from typing import Any

import pytest

from pcscf.lab.answering import Act, Ask, Say
from pcscf.lab.bindings import Refusal
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.message import Request, Response
from tests.unit.lab.calling import ALICE, World, both_registered, dialog_request, request
from tests.unit.lab.vectors import REALM

PLAIN = "v=0\r\no=- 1 1 IN IP4 10.45.0.2\r\ns=-\r\nc=IN IP4 10.45.0.2\r\nt=0 0\r\n" + (
    "m=audio 5000 RTP/AVP 96 8\r\nb=AS:41\r\na=rtpmap:96 AMR/8000\r\na=fmtp:96 mode-set=7\r\na=sendonly\r\na=x:y\r\n"
    "m=video 0 RTP/AVP 99\r\n"
)
NOT_READY = (
    PLAIN
    + "m=audio 5002 RTP/AVP 8\r\na=curr:qos local none\r\na=curr:qos remote none\r\n"
    + ("a=des:qos mandatory local sendrecv\r\na=des:qos optional remote sendrecv\r\n")
)
READY = NOT_READY.replace("local none", "local sendrecv")
SDP = ("Content-Type: application/sdp",)
RELIABLE = (*SDP, "Supported: 100rel, precondition")


def invite(number: str = "echo", *, body: str = PLAIN, extra: tuple[str, ...] = SDP, **parts: Any) -> Request:
    return request("INVITE", f"sip:{number}@{REALM}", body=body, extra=extra, **parts)


def call(world: World, number: str = "echo", now: float = 0.0, **parts: Any) -> list[Response]:
    asked = invite(number, **parts)
    return responses(world.answering.requested(asked, number, "invite", now))


def responses(acts: list[Act]) -> list[Response]:
    assert all(isinstance(act, Say) for act in acts), acts
    return [act.response for act in acts if isinstance(act, Say)]


def statuses(acts: list[Act]) -> list[tuple[object, int]]:
    return [(act.key, act.response.status) for act in acts if isinstance(act, Say)]


def tag_of(response: Response) -> str:
    return parse_name_addr(response.first("to") or "").param("tag") or ""


def inside(world: World, method: str, response: Response, now: float = 1.0, **parts: Any) -> list[Act]:
    target = parse_name_addr(response.first("contact") or "").uri
    asked = dialog_request(method, target, to_tag=tag_of(response), route="", **parts)
    return world.answering.in_dialog(asked, method, now)


def acknowledge(world: World, response: Response, cseq: int = 1) -> None:
    target = parse_name_addr(response.first("contact") or "").uri
    world.answering.acknowledged(dialog_request("ACK", target, to_tag=tag_of(response), route="", cseq=cseq))


def test_a_plain_call() -> None:
    world = both_registered()
    trying, ringing, ok = call(world)
    assert [each.status for each in (trying, ringing, ok)] == [100, 180, 200]
    assert tag_of(trying) == "" and tag_of(ringing) == tag_of(ok) != ""
    assert ok.lines("record-route") == ["<sip:10.46.0.1:5060;lr>"]
    assert ok.lines("contact") == ["<sip:echo@10.46.0.2:5060>"]
    assert ok.lines("p-asserted-identity") == [f"<sip:echo@{REALM}>"]
    assert "term-ioi=" in ok.lines("p-charging-vector")[0]
    assert ok.body.decode().splitlines()[3:] == [
        "c=IN IP4 10.46.0.2",
        "t=0 0",
        "m=audio 49152 RTP/AVP 96 8",
        "b=AS:41",
        "a=rtpmap:96 AMR/8000",
        "a=fmtp:96 mode-set=7",
        "a=recvonly",
        "m=video 0 RTP/AVP 99",
    ]
    acknowledge(world, ok)
    assert world.answering.deadline is None
    with pytest.raises(Refusal, match="no such call"):
        world.answering.in_dialog(request("CANCEL", f"sip:echo@{REALM}"), "cancel", 1.0)
    held = statuses(inside(world, "INVITE", ok, cseq=2, branch="z9hG4bKr", body=PLAIN, extra=SDP))
    assert held == [("INVITE", 100), ("INVITE", 200)]
    with pytest.raises(Refusal, match="not over"):
        inside(world, "INVITE", ok, cseq=3)
    acknowledge(world, ok, cseq=1)
    assert world.answering.deadline is not None, "the ACK to the first INVITE is not that of the second"
    acknowledge(world, ok, cseq=2)
    assert world.answering.deadline is None
    for method in ("INFO", "OPTIONS", "MESSAGE", "UPDATE"):
        assert statuses(inside(world, method, ok)) == [(method, 200)]
    assert statuses(inside(world, "BYE", ok)) == [("BYE", 200)]
    with pytest.raises(Refusal) as refused:
        inside(world, "BYE", ok)
    assert refused.value.status == 481


def test_a_200_is_sent_again_until_the_ack_and_then_given_up() -> None:
    world = both_registered()
    *_, ok = call(world)
    again = []
    for now in (0.4, 0.5, 1.4, 1.5, 3.5, 7.5, 11.5):
        again += [now for _ in responses(world.answering.expire(now))]
    assert again == [0.5, 1.5, 3.5, 7.5, 11.5]
    (bye,) = world.answering.expire(32.0)
    assert isinstance(bye, Ask) and bye.request.method == "BYE" and bye.flow is not None
    assert (bye.request.uri, bye.request.values("route")) == ("sip:10.45.0.2:31801", ["<sip:10.46.0.1:5060;lr>"])
    assert (bye.request.lines("from"), bye.request.lines("to")) == (ok.lines("to"), [f"<{ALICE}>;tag=a1"])
    assert world.answering.calls == {}


@pytest.mark.parametrize(("number", "status"), [("busy", 486), ("declined", 603), ("error500", 500)])
def test_numbers_that_refuse(number: str, status: int) -> None:
    world = both_registered()
    assert [each.status for each in call(world, number)] == [100, status]
    assert world.answering.calls == {}


@pytest.mark.parametrize(("number", "seconds", "status"), [("noanswer", 180.0, 480), ("longring", 30.0, 200)])
def test_numbers_that_ring(number: str, seconds: float, status: int) -> None:
    world = both_registered()
    assert [each.status for each in call(world, number)] == [100, 180]
    assert world.answering.deadline == seconds
    assert world.answering.expire(seconds - 1) == []
    assert statuses(world.answering.expire(seconds)) == [("invite", status)]


def test_cancel_and_an_early_bye() -> None:
    world = both_registered()
    call(world, "noanswer")
    cancel = request("CANCEL", f"sip:noanswer@{REALM}")
    assert statuses(world.answering.in_dialog(cancel, "cancel", 1.0)) == [("cancel", 200), ("invite", 487)]
    with pytest.raises(Refusal, match="no such call"):
        world.answering.in_dialog(cancel, "cancel", 1.0)
    _, ringing = call(world, "longring", call_id="c2")
    assert statuses(inside(world, "BYE", ringing, call_id="c2")) == [("BYE", 200), ("invite", 487)]
    assert world.answering.deadline is None


def test_preconditions() -> None:
    world = both_registered()
    trying, progress = call(world, body=NOT_READY, extra=RELIABLE)
    assert (trying.status, progress.status) == (100, 183)
    assert (progress.lines("require"), progress.lines("rseq")) == (["100rel"], ["1"])
    assert [line for line in progress.body.decode().splitlines() if "qos" in line] == [
        "a=curr:qos local sendrecv",
        "a=curr:qos remote none",
        "a=conf:qos remote sendrecv",
        "a=des:qos mandatory remote sendrecv",
        "a=des:qos optional local sendrecv",
    ]
    assert responses(world.answering.expire(0.5)) == [progress], "sent again until its PRACK"
    for rack in ("2 1 INVITE", "1 2 INVITE", "1 1 UPDATE"):
        with pytest.raises(Refusal, match="RAck"):
            inside(world, "PRACK", progress, extra=(f"RAck: {rack}",))
    assert statuses(inside(world, "PRACK", progress, extra=("RAck: 1 1 INVITE",))) == [("PRACK", 200)]
    updated, ringing = inside(world, "UPDATE", progress, 2.0, extra=SDP, body=READY, cseq=3)
    assert isinstance(updated, Say) and b"a=curr:qos remote sendrecv" in updated.response.body
    assert isinstance(ringing, Say) and (ringing.key, ringing.response.status) == ("invite", 180)
    assert ringing.response.lines("rseq") == ["2"] and not ringing.response.body
    last = inside(world, "PRACK", progress, 3.0, extra=("RAck: 2 1 INVITE",), cseq=4)
    assert statuses(last) == [("PRACK", 200), ("invite", 200)]
    assert responses(last)[1].body == b"", "the answer is in the 183"


def test_preconditions_that_are_met_need_no_update() -> None:
    world = both_registered()
    _, progress = call(world, body=READY, extra=RELIABLE)
    acts = inside(world, "PRACK", progress, extra=("RAck: 1 1 INVITE",))
    assert statuses(acts) == [("PRACK", 200), ("invite", 180)]


def test_without_100rel_preconditions_are_not_waited_for_and_required_100rel_is_kept() -> None:
    world = both_registered()
    assert [each.status for each in call(world, body=NOT_READY)] == [100, 180, 200]
    _, ringing = call(world, extra=(*SDP, "Require: 100rel"), call_id="c2")
    assert (ringing.status, ringing.lines("rseq")) == (180, ["1"]) and ringing.body
    acts = inside(world, "PRACK", ringing, extra=("RAck: 1 1 INVITE",), call_id="c2")
    assert statuses(acts) == [("PRACK", 200), ("invite", 200)]


@pytest.mark.parametrize("prack", [False, True])
def test_a_caller_that_does_not_go_on_is_given_up(prack: bool) -> None:
    world = both_registered()
    _, progress = call(world, body=NOT_READY, extra=RELIABLE)
    if prack:
        inside(world, "PRACK", progress, 0.0, extra=("RAck: 1 1 INVITE",))
    assert statuses(world.answering.expire(32.0)) == [("invite", 504)]
    assert world.answering.calls == {}


def test_an_invite_without_offer_gets_one() -> None:
    *_, ok = call(both_registered(), body="", extra=())
    assert b"m=audio" in ok.body


def test_messages() -> None:
    world = both_registered()
    text = request(uri=f"sip:echo@{REALM}", extra=("Content-Type: application/vnd.3gpp.sms",), body="\x00\x01hello")
    ok, echo = world.answering.requested(text, "echo", "message", 0.0)
    assert isinstance(ok, Say) and ok.response.status == 200
    assert isinstance(echo, Ask) and (echo.identity, echo.flow) == (ALICE, None)
    assert (echo.request.body, echo.request.first("content-type")) == (b"\x00\x01hello", "application/vnd.3gpp.sms")
    sent, flow = world.serving.terminate(echo.request, echo.identity, 1.0)
    assert (sent.uri, flow.remote_port) == ("sip:10.45.0.2:31801", 5060)
    assert sent.values("route") == ["<sip:term-8f3a@10.46.0.1:5060;lr;ob>"]
    assert sent.lines("p-called-party-id") == [f"<{ALICE}>"]
    assert sent.lines("p-asserted-identity") == [f"<sip:echo@{REALM}>"]
    assert len(sent.values("via")) == 1
    assert statuses(world.answering.requested(text, "busy", "m", 0.0)) == [("m", 486)]


def test_other_requests() -> None:
    world = both_registered()
    number = f"sip:echo@{REALM}"
    assert statuses(world.answering.requested(request("OPTIONS", number), "echo", "o", 0.0)) == [("o", 200)]
    for method, status in (("SUBSCRIBE", 489), ("PUBLISH", 405), ("FLY", 405)):
        with pytest.raises(Refusal) as refused:
            world.answering.requested(request(method, number), "echo", "k", 0.0)
        assert refused.value.status == status


def test_a_caller_to_whom_there_is_no_way_is_refused() -> None:
    world = both_registered()
    with pytest.raises(Refusal, match="names no address"):
        call(world, contact="<sip:phone.example>", without=("Record-Route",))
    *_, ok = call(world, without=("Record-Route",))
    acknowledge(world, ok)
    with pytest.raises(Refusal, match="names no address"):
        inside(world, "INVITE", ok, cseq=2, contact="<sip:phone.example>")
    (bye,) = world.answering.hang_up("echo")
    assert isinstance(bye, Ask) and bye.request.uri == "sip:10.45.0.2:31801"


def test_hanging_up() -> None:
    world = both_registered()
    *_, ok = call(world)
    assert world.answering.hang_up("echo") == [], "the call is not up before the ACK"
    acknowledge(world, ok)
    (bye,) = world.answering.hang_up("echo")
    assert isinstance(bye, Ask) and bye.request.method == "BYE"
