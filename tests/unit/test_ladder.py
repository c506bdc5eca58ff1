"""What people see: the ladder of one UE, and a line for each record, as they are printed."""

from ipaddress import ip_address

from pcscf import ladder
from pcscf.observe import Attempt, MessageSeen, Problem, Record, RegistrationChanged, SetChanged, SetEvent, describe
from pcscf.vocabulary import Flow, Interface

UE, OTHER, PCSCF = ip_address("10.45.0.2"), ip_address("10.45.0.3"), ip_address("10.45.0.1")
CLEAR = Flow("UDP", Interface.GM, PCSCF, 5060, UE, 5060)
UPLINK = Flow("UDP", Interface.GM_PROTECTED, PCSCF, 5100, UE, 31800)
DOWNLINK = Flow("UDP", Interface.GM_PROTECTED, PCSCF, 5104, UE, 31801)
MW = Flow("UDP", Interface.MW, ip_address("10.46.0.1"), 5060, ip_address("10.46.0.2"), 5060)

RECORDS: list[Record] = [
    MessageSeen(9.0, True, CLEAR._replace(remote=OTHER), 0, "REGISTER", "other"),
    MessageSeen(10.0, True, CLEAR, 0, "REGISTER", "a"),
    MessageSeen(10.001, False, MW, 0, "REGISTER", "a"),
    MessageSeen(10.001, False, MW, 0, "REGISTER", "other"),
    MessageSeen(10.003, True, MW, 0, "401 Unauthorized", "a"),
    SetChanged(
        at=10.004,
        impi="user@home",
        ue=UE,
        set_id=1,
        event=SetEvent.INSTALLED,
        state="temporary",
        spis=(1000000101, 1000000102, 2000000201, 2000000202),
        detail="hmac-sha-1-96/null: first of our list that the UE offered (hmac-sha-1-96/null)",
    ),
    MessageSeen(10.005, False, CLEAR, 0, "401 Unauthorized", "a"),
    MessageSeen(10.01, True, UPLINK, 2000000202, "REGISTER", "a"),
    Problem(at=10.011, flow=UPLINK, impi="user@home", detail="REGISTER refused with 494: Security-Verify is missing"),
    MessageSeen(10.012, False, DOWNLINK, 1000000102, "494 Security Agreement Required", "a"),
    RegistrationChanged(at=10.013, impi="user@home", registered=False, detail="the registration expired"),
    RegistrationChanged(at=10.014, impi="somebody@else", registered=True, detail="not of this UE"),
]

SHOWN = """\
             UE                                         P-CSCF                                   core
0.000      5060 ── REGISTER ── clear ──────────────▶ 5060
0.001                                                      5060 ── REGISTER ───────────────▶ 5060
0.003                                                      5060 ◀─ 401 Unauthorized ──────── 5060
0.004            4 SAs installed: 2000000202 1000000101 1000000102 2000000201
                 hmac-sha-1-96/null: first of our list that the UE offered (hmac-sha-1-96/null)
0.005      5060 ◀─ 401 Unauthorized ── clear ─────── 5060
0.010     31800 ══ REGISTER ══ spi 2000000202 ═════▶ 5100
0.011          ! REGISTER refused with 494: Security-Verify is missing
0.012     31801 ◀═ 494 Security… ══ spi 1000000102 ═ 5104
0.013            not registered any more: the registration expired"""

# Two users behind one address, one after the other.
SHARED: list[Record] = [
    MessageSeen(1.0, True, CLEAR, 0, "REGISTER", "his"),
    Attempt(1.0, "he@home", "sip:he@home", UE, 0, "his", False, ""),
    MessageSeen(1.0, False, MW, 0, "REGISTER", "his"),
    SetChanged(at=1.1, impi="he@home", ue=UE, set_id=1, event=SetEvent.INSTALLED, state="temporary",
               spis=(11, 12, 13, 14), detail="", call_id="his"),
    MessageSeen(1.2, True, CLEAR, 0, "REGISTER", "hers"),
    Attempt(1.2, "she@home", "sip:she@home", UE, 0, "hers", False, ""),
    SetChanged(at=1.3, impi="she@home", ue=UE, set_id=2, event=SetEvent.INSTALLED, state="temporary",
               spis=(21, 22, 23, 24), detail="", call_id="hers"),
    MessageSeen(1.4, True, UPLINK, 14, "MESSAGE", "his words"),
    MessageSeen(1.4, False, MW, 0, "MESSAGE", "his words"),
    MessageSeen(1.5, True, UPLINK, 24, "MESSAGE", "her words"),
]  # fmt: skip

OTHERS = UPLINK._replace(remote=OTHER, remote_port=41800)
TO_OTHER = DOWNLINK._replace(remote=OTHER, remote_port=41801)
CALL: list[Record] = [
    MessageSeen(1.0, True, UPLINK, 202, "INVITE", "call"),
    MessageSeen(1.0, False, DOWNLINK, 102, "100 Trying", "call"),
    MessageSeen(1.0, False, MW, 0, "INVITE", "call"),
    MessageSeen(1.1, True, MW, 0, "INVITE", "call"),
    MessageSeen(1.1, False, MW, 0, "100 Trying", "call"),
    MessageSeen(1.1, False, TO_OTHER, 302, "INVITE", "call"),
    MessageSeen(1.2, True, MW, 0, "100 Trying", "call"),
    MessageSeen(1.3, True, OTHERS, 402, "486 Busy Here", "call"),
    MessageSeen(1.3, False, MW, 0, "486 Busy Here", "call"),
    MessageSeen(1.3, False, TO_OTHER, 302, "ACK", "call"),
    MessageSeen(1.4, True, MW, 0, "486 Busy Here", "call"),
    MessageSeen(1.4, False, DOWNLINK, 102, "486 Busy Here", "call"),
    MessageSeen(1.4, False, MW, 0, "ACK", "call"),
]
"""One call on both its legs, as the journal has it."""

CALLER = """\
0.000     31800 ══ INVITE ══ spi 202 ══════════════▶ 5100  5060 ── INVITE ─────────────────▶ 5060
0.000     31801 ◀═ 100 Trying ══ spi 102 ═══════════ 5104
0.200                                                      5060 ◀─ 100 Trying ────────────── 5060
0.400     31801 ◀═ 486 Busy Here ══ spi 102 ════════ 5104  5060 ◀─ 486 Busy Here ─────────── 5060
0.400                                                      5060 ── ACK ────────────────────▶ 5060"""

CALLED = """\
0.100     41801 ◀═ INVITE ══ spi 302 ═══════════════ 5104  5060 ◀─ INVITE ────────────────── 5060
0.100                                                      5060 ── 100 Trying ─────────────▶ 5060
0.300     41800 ══ 486 Busy Here ══ spi 402 ═══════▶ 5100  5060 ── 486 Busy Here ──────────▶ 5060
0.300     41801 ◀═ ACK ══ spi 302 ══════════════════ 5104"""


def test_the_ladder_of_one_ue() -> None:
    lines = [ladder.heading(), *ladder.lines(ladder.of_ue(RECORDS, UE))]
    assert [line.rstrip() for line in lines] == SHOWN.splitlines()


def test_each_of_two_ues_sees_its_leg_of_a_call() -> None:
    assert ladder.lines(ladder.of_ue(CALL, UE), 1.0) == CALLER.splitlines()
    assert ladder.lines(ladder.of_ue(CALL, OTHER), 1.0) == CALLED.splitlines()


def test_a_record_in_a_line() -> None:
    assert describe(RECORDS[7]) == "REGISTER from UDP 10.45.0.2:31800 at 10.45.0.1:5100, on SPI 2000000202"
    assert describe(RECORDS[1]) == "REGISTER from UDP 10.45.0.2:5060 at 10.45.0.1:5060, in clear"


def test_users_of_one_address_are_told_apart() -> None:
    calls = [[each.call_id for each in ladder.of_user(SHARED, UE, f"{who}@home")] for who in ("he", "she")]
    assert calls == [["his", "his", "his", "his words", "his words"], ["hers", "hers", "her words"]]
