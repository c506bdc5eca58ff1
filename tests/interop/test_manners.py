"""A core with the manners of a real one (Kamailio 5.6): what it sends and demands, from the first REGISTER to the last.

What the P-CSCF may not learn from the lab's own manners: lifetimes in Contact alone and cut by a tenth, a challenge for
every REGISTER, `lr=on` and doubled Record-Route, Vias and headers of the far side left in, NOTIFY by UDP with a version
that starts anywhere, `terminated` in the body only.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from pcscf.lab.capture import Capture
from pcscf.observe import Problem, RegistrationChanged
from tests.interop.phone import Phone, number, user
from tests.interop.plant import Plant, plant


@pytest.fixture(params=["udp", "tcp"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plant]:
    core = ["--manners=kamailio", f"--transport={request.param}", f"--control={tmp_path / 'core.sock'}"]
    with plant(tmp_path, core=core, PCSCF_MW__TRANSPORT=str(request.param)) as made:
        yield made


def tell(running: Plant, *words: str) -> int:
    """Have the core do something; the exit status."""
    process = running.start("tell", "core", "scscf-tell", str(running.folder / "core.sock"), *words)
    process.communicate(timeout=20)
    return process.returncode


def at_mw(capture: Capture) -> list[str]:
    """The SIP messages seen on Mw, as text; a TCP segment of the lab holds whole messages."""
    texts = []
    for frame in capture.frames:
        packet = Ether(frame)
        payload = packet.getlayer(UDP) or packet.getlayer(TCP)
        if IP in packet and payload is not None and bytes(payload.payload).strip(b"\0\r\n"):
            texts.append(bytes(payload.payload).decode("utf-8", "replace"))
    return texts


def test_the_whole_day(running: Plant) -> None:
    """Register, message, call, re-registration in the call, deregistration: all answered, nothing left."""
    capture = Capture(running.network, "pcscf", "mw")
    capture.start()
    try:
        with (
            Phone(running, "one", user(1), "10.45.0.2", "--ports=20000-20007") as one,
            Phone(running, "two", user(2), "10.45.0.3", "--tcp", "--ports=20008-20015") as two,
        ):
            one.ok("register")
            two.ok("register")
            ends = [each.detail for each in running.journal() if isinstance(each, RegistrationChanged)]
            assert all(each.endswith("for 540000 s") for each in ends), "a tenth less than asked for, in Contact alone"
            one.ok(f"message {number(2)} hello")
            two.ok("expect-message hello within 10")
            two.ok(f"message {number(1)} {'long ' * 300}")
            one.ok("expect-message within 10")
            two.ok("answer after 0")
            one.ok(f"call {number(2)}")
            one.ok("reregister")
            one.ok(f"message {number(2)} again")
            states = [row.state for row in running.sas() if row.impi == user(1)]
            assert sorted(set(states)) == ["active", "old"] and len(states) == 8, "every REGISTER is challenged"
            one.ok("hangup")
            assert one.do(f"message {number(3)} absent")["status"] == 404
            assert one.do("message nobody hello")["status"] == 604
            two.ok("deregister")
            one.ok("deregister")
    finally:
        capture.stop()
    seen = at_mw(capture)
    text = "\n".join(seen)
    assert "SIP/2.0 100" in text and "Path: <sip:term-" in text
    assert any(each.startswith("SIP/2.0 401") and "\r\nPath:" in each for each in seen), "the 401 echoes the Path"
    assert any(each.startswith("NOTIFY") and 'state="terminated"' in each for each in seen)
    assert any(each.startswith("INVITE") and each.count("\r\nVia:") >= 3 for each in seen)
    assert "lr=on" in text
    for name in ("P-Asserted-Identity", "P-Charging-Vector", "P-Visited-Network-ID"):
        assert name in text
    for word in ("Security-", "sec-agree", "P-Preferred-Identity"):
        assert word not in text, f"{word} reached the core"
    assert {row.state for row in running.sas()} <= {"closing"}
    problems = [each.detail for each in running.journal() if isinstance(each, Problem)]
    assert not problems, problems


def test_a_phone_sees_nothing_of_it(running: Plant) -> None:
    """The UE complains of what no strict handset would take: leaks, wrong ports, wrong Vias."""
    with (
        Phone(running, "one", user(1), "10.45.0.2", "--ports=20000-20007") as one,
        Phone(running, "two", user(2), "10.45.0.3", "--ports=20008-20015") as two,
    ):
        for phone in (one, two):
            assert not phone.ok("register").get("complaints")
        two.ok("answer after 0")
        one.ok(f"call {number(2)}")
        one.ok("hangup")
        one.ok(f"message {number(2)} hello")
        for phone in (one, two):
            assert not phone.ok("deregister").get("complaints")


def test_a_lifetime_below_what_it_grants(running: Plant) -> None:
    """5 seconds become 27 with a 200, never 423."""
    with Phone(running, "one", user(1), "10.45.0.2", "--ports=20000-20007", "--expires=5") as one:
        one.ok("register")
        (change,) = [each for each in running.journal() if isinstance(each, RegistrationChanged)]
        assert change.detail.endswith("for 27 s")


def test_ended_by_the_core(running: Plant) -> None:
    """The body says `terminated` while Subscription-State stays `active`."""
    with Phone(running, "one", user(1), "10.45.0.2", "--ports=20000-20007") as one:
        one.ok("register")
        assert tell(running, "deregister", user(1)) == 0
        one.do("wait 0.5")
        changes = [each for each in running.journal() if isinstance(each, RegistrationChanged)]
        assert [each.registered for each in changes] == [True, False] and "core" in changes[-1].detail
        assert one.do(f"message {number(2)} hello")["status"] == 403
