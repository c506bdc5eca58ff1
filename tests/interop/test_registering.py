"""The UE of the lab against the P-CSCF as processes: every fault of a UE, and what remains of it in the P-CSCF.

Digest F12 to F14, between processes.

Each UE has another user or address than the last and ports of its own, so that nothing of one is seen in the next:
its process ends without deregistering, and the P-CSCF refuses its ports to every other user while its sets live.
"""

import itertools
import json
import time
from typing import Any

import pytest

from pcscf.lab.fault import Fault
from pcscf.observe import Problem, SetChanged
from tests.interop.plant import REALM, SUBSCRIBERS, Plant

USERS = [f"00101000000000{number}@{REALM}" for number in (1, 2, 3)]
ADDRESSES = ["10.45.0.2", "10.45.0.3", "10.45.0.4", "fd00:45::2"]
turns = itertools.count()


def arguments(*more: str, address: str | None = None) -> tuple[list[str], str]:
    """The arguments of `pcscf ue register` for the next user, and the user."""
    turn = next(turns)
    user, own = USERS[turn % 3], address or ADDRESSES[turn % 4]
    pcscf = "fd00:45::1" if ":" in own else "10.45.0.1"
    first = 20_000 + 8 * turn
    fixed = ["ue", "register", f"--subscribers={SUBSCRIBERS}", "--json", f"--impi={user}", f"--address={own}"]
    return [*fixed, f"--pcscf={pcscf}", f"--ports={first}-{first + 7}", *more], user


def register(running: Plant, *more: str, address: str | None = None) -> dict[str, Any]:
    """Register one UE and give its outcome."""
    taken, _ = arguments(*more, address=address)
    process = running.start("ue", "ue", *taken)
    said, _ = process.communicate(timeout=60)
    assert said, running.log("ue")
    found: dict[str, Any] = json.loads(said)
    assert process.returncode == (0 if found["registered"] else 1)
    return found


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (Fault.WRONG_K, 403, "MAC"),
        (Fault.WRONG_RES, 403, ""),
        (Fault.EDIT_SECURITY_VERIFY, 494, ""),
        (Fault.DROP_SECURITY_VERIFY, 494, ""),
        (Fault.EDIT_SECURITY_CLIENT, 494, ""),
        (Fault.FOREIGN_IMPI, 403, ""),
        (Fault.NO_SEC_AGREE, 421, ""),
        (Fault.IGNORE_CHALLENGE, 401, ""),
    ],
)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_faults_that_end_in_a_refusal(running: Plant, fault: Fault, status: int, reason: str, transport: str) -> None:
    found = register(running, f"--fault={fault}", *(["--tcp"] if transport == "tcp" else []))
    assert not found["registered"] and found["status"] == status, found
    assert reason in found["reason"]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_resynchronisation_ends_registered(running: Plant, transport: str) -> None:
    found = register(running, "--fault=old-sqn", *(["--tcp"] if transport == "tcp" else []))
    assert found["registered"] and not found["complaints"], found
    summaries = [step["summary"] for step in found["ladder"] if step["incoming"] and not step["again"]]
    assert [summary[:3] for summary in summaries] == ["401", "401", "200"]


def test_wrong_ik_shows_as_integrity_failures_and_nothing_else(running: Plant) -> None:
    taken, user = arguments("--fault=wrong-ik", "--offer=hmac-sha-1-96/null")
    process = running.start("wrong-ik", "ue", *taken)
    try:
        end = time.monotonic() + 20
        while not (failed := [row for row in running.sas() if row.impi == user and row.integrity_failures]):
            assert time.monotonic() < end, "no integrity failure was counted"
            time.sleep(0.1)
        assert failed[0].state == "temporary" and failed[0].uplink and failed[0].packets == 0
    finally:
        process.terminate()
        process.wait()


def test_clear_sip_to_a_protected_port_is_not_heard(running: Plant) -> None:
    taken, user = arguments("--fault=clear-to-protected")
    before = {row.set_id for row in running.sas()}
    process = running.start("clear", "ue", *taken)
    try:
        end = time.monotonic() + 20
        while not (new := [row for row in running.sas() if row.impi == user and row.set_id not in before]):
            assert time.monotonic() < end, "no challenge"
            time.sleep(0.1)
        time.sleep(1.0)
        rows = [row for row in running.sas() if row.set_id == new[0].set_id]
        assert len(rows) == 4 and {row.state for row in rows} == {"temporary"}
        assert not any(row.packets for row in rows) and process.poll() is None, "the UE still waits for an answer"
    finally:
        process.terminate()
        process.wait()


def test_a_message_in_clear_is_refused(running: Plant) -> None:
    found = register(running, "--fault=non-register-in-clear")
    assert found["registered"] and found["clear_request_status"] == 403


def test_fin_of_an_idle_phone_ends_nothing(running: Plant) -> None:
    found = register(running, "--fault=tcp-fin-after-register", "--tcp")
    assert found["registered"]
    assert len([row for row in running.sas() if row.impi == found["impi"] and row.state == "active"]) >= 4


def test_journal_and_logs_hold_no_key(running: Plant) -> None:
    """The core's keys of every vector are in the messages of Mw; none of them is anywhere else."""
    register(running)
    text = repr(running.journal()) + running.log("pcscf")
    assert "ck=" not in text and "ik=" not in text
    kinds = {type(record) for record in running.journal()}
    assert {SetChanged, Problem} <= kinds


def test_sa_command_shows_what_runs(running: Plant) -> None:
    register(running)
    socket = f"--control={running.folder / 'control.sock'}"
    rows = json.loads(running.start("sa", "ue", "sa", "--json", socket).communicate(timeout=20)[0])
    assert {row["spi"] for row in rows} == {row.spi for row in running.sas()}
    assert not {"key", "integrity_key", "encryption_key"} & set(rows[0])
    shown = running.start("sa", "ue", "sa", socket).communicate(timeout=20)[0].decode()
    assert all(str(row["spi"]) in shown for row in rows), "no SPI is cut short"
