"""Lines of the log: whose, what, where from, in which dialog; for people and as JSON; never twice."""

import json
import logging
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pcscf import logs
from pcscf.observe import MessageSeen, Problem, RegistrationChanged, SetChanged, SetEvent
from pcscf.vocabulary import Flow, Interface

UE = ip_address("10.45.0.2")
FLOW = Flow("UDP", Interface.GM, ip_address("10.45.0.1"), 5060, UE, 5060)
PROBLEM = Problem(at=1, flow=FLOW, impi="alice@home", detail="REGISTER refused with 494: why", call_id="one@two")
CHANGED = RegistrationChanged(at=1, impi="alice@home", registered=True, detail="sip:alice@home for 600 s", call_id="x")
SET = SetChanged(
    at=1, impi="alice@home", ue=UE, set_id=3, event=SetEvent.USED, state="active", spis=(1, 2, 3, 4), detail="%s and {}"
)
MESSAGE = MessageSeen(1, True, FLOW, 0, "REGISTER", "one")


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """The handlers and levels of the tests themselves."""
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
