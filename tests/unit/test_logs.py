"""Lines of the log: whose, what, where from, in which dialog; for people and as JSON; never twice."""

import json
import logging
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pcscf import logs
from pcscf.observe import MessageSeen, Problem, ProblemKind, RegistrationChanged, SetChanged, SetEvent
from pcscf.vocabulary import Flow, Interface

UE = ip_address("10.45.0.2")
FLOW = Flow("UDP", Interface.GM, ip_address("10.45.0.1"), 5060, UE, 5060)
PROBLEM = Problem(
    at=1,
    flow=FLOW,
    impi="alice@home",
    detail="REGISTER refused with 494: why",
    call_id="one@two",
    kind=ProblemKind.REFUSED,
)
CHANGED = RegistrationChanged(at=1, impi="alice@home", registered=True, detail="sip:alice@home for 600 s", call_id="x")
SET = SetChanged(
    at=1, impi="alice@home", ue=UE, set_id=3, event=SetEvent.USED, state="active", spis=(1, 2, 3, 4), detail="%s and {}"
)
MESSAGE = MessageSeen(1, True, FLOW, 0, "REGISTER", "one")


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handlers and levels of the tests themselves, and no limit that an earlier one has used up."""
    monkeypatch.setattr(logs, "_limit", None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "console")
    for record in (PROBLEM, CHANGED, SET, MESSAGE):
        logs.write(record)
    lines = [line[24:] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "WARNING alice@home: REGISTER refused with 494: why (UDP 10.45.0.2:5060 at 10.45.0.1:5060, Call-ID one@two)",
        "INFO    alice@home: registered: sip:alice@home for 600 s (Call-ID x)",
        "INFO    alice@home: set 3: taken into use, now active (%s and {})",
    ]


def test_lines_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug", "json")
    logs.write(PROBLEM)
    logs.write(MESSAGE)
    logs.log.error("a bug", exc_info=ValueError("x"))
    problem, message, bug = map(json.loads, capsys.readouterr().err.splitlines())
    assert problem.pop("time").endswith("+00:00")
    assert problem == {
        "level": "warning",
        "text": "REGISTER refused with 494: why",
        "event": "Problem",
        "kind": "refused",
        "ue": "alice@home",
        "call_id": "one@two",
        "flow": "UDP 10.45.0.2:5060 at 10.45.0.1:5060",
    }
    assert (message["level"], message["event"], message["call_id"]) == ("debug", "MessageSeen", "one")
    assert "ValueError: x" in bug["traceback"]


def test_levels_and_another_style_later(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("warning", "console")
    logs.write(CHANGED)
    assert capsys.readouterr().err == ""
    logs.set_up("info", "json")
    logs.write(CHANGED)
    assert len(capsys.readouterr().err.splitlines()) == 1, "the line before is not written in both styles"


def flood(sources: int, count: int) -> int:
    """So many octets of log for a flood of datagrams that are no SIP, in ten seconds of it."""
    now = 100.0
    clock = iter([now + 10 * number / count for number in range(count)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: next(clock))
        for number in range(count):
            source = ip_address((10 << 24) + number % sources)
            flow = FLOW._replace(remote=source)
            logs.write(Problem(at=1, flow=flow, impi="", detail="not a SIP message: x" * 5, kind=ProblemKind.MALFORMED))
        patch.setattr(time, "monotonic", lambda: now + 13)
        logs.tell_left_out()
    return count


@pytest.mark.parametrize("sources", [1, 5000])
def test_a_flood_is_a_few_lines_and_their_number(sources: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Step 1, 9: 20,000 junk datagrams in ten seconds, of one source or of 5,000."""
    logs.set_up("info", "console")
    logs.write(PROBLEM)
    flood(sources, 20_000)
    logs.write(PROBLEM)
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert len(text) < 100_000
    assert "alice@home" in lines[0] and "alice@home" in lines[-1], "another kind has a share of its own"
    (told,) = [line for line in lines if "left out" in line]
    written = sum("not a SIP message" in line for line in lines)
    whose = "10.0.0.0" if sources == 1 else "1024 or more sources"
    assert f"log: {20_000 - written} more of this kind were left out: malformed at gm, from {whose}" in told
    assert written >= (20 if sources == 1 else 200)


def test_debugging_is_limited_and_so_is_what_others_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Step 1, 9: messages when debugging, and tracebacks of the event loop."""
    logs.set_up("debug", "console")
    for number in range(20_000):
        logs.write(MESSAGE._replace(flow=FLOW._replace(remote=ip_address((10 << 24) + number)), summary="OPTIONS"))
        logging.getLogger("asyncio").error("socket.accept() out of system resource", exc_info=OSError(24, "x"))
    logging.getLogger("asyncio").error("something else")
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "OPTIONS from" in line]) < 2000
    assert len([line for line in lines if "out of system" in line]) < 40
    assert "something else" in lines[-1]
