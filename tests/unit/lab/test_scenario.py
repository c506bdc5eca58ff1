"""The verdict of `pcscf lab`: each thing it holds against another can also be found wrong; and the story it plays."""

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from pcscf.admin.views import SaRow, Status
from pcscf.lab.report import Check, Done, Moment, Phone, Report, verify
from pcscf.lab.scenario import CORE, STORY
from pcscf.lab.script import parse_step
from pcscf.lab.subscribers import load_subscribers
from pcscf.observe import MessageSeen, Record
from pcscf.vocabulary import Flow, Interface
from xfrm.model import SaId

SUBSCRIBER = next(iter(load_subscribers(Path(__file__).parents[3] / "config" / "subscribers.toml").values()))
UE, PCSCF = ip_address("10.45.0.2"), ip_address("10.45.0.1")
PORTS = ((31800, 5100), (5100, 31800), (5104, 31801), (31801, 5104))
CLEAR = Flow("UDP", Interface.GM, PCSCF, 5060, UE, 5060)
UP = Flow("UDP", Interface.GM_PROTECTED, PCSCF, 5100, UE, 31800)
DOWN = Flow("UDP", Interface.GM_PROTECTED, PCSCF, 5104, UE, 31801)


def row(place: int, packets: int, **changes: object) -> SaRow:
    uplink = place in (0, 3)
    values: dict[str, object] = {
        "set_id": 1,
        "impi": SUBSCRIBER.impi,
        "state": "active",
        "uplink": uplink,
        "spi": 1000 + place,
        "source": UE if uplink else PCSCF,
        "destination": PCSCF if uplink else UE,
        "source_port": PORTS[place][0],
        "destination_port": PORTS[place][1],
        "integrity": "hmac-sha-1-96",
        "encryption": "aes-cbc",
        "packets": packets,
        "bytes": 0,
        "replay_drops": 0,
        "integrity_failures": 0,
        "expires_in": 1.0,
        "idle": None,
    }
    return SaRow.model_validate(values | changes)


def seen(summary: str, flow: Flow, spi: int, *, incoming: bool, at: float = 1.0) -> MessageSeen:
    return MessageSeen(at, incoming, flow, spi, summary, "call")


def world() -> Report:
    """One UE that registered over UDP and deregistered."""
    phone = Phone(
        number=1,
        subscriber=SUBSCRIBER,
        address=UE,
        pcscf=PCSCF,
        transport="UDP",
        offers=("hmac-sha-1-96/aes-cbc",),
    )
    records: list[Record] = [
        seen("REGISTER", CLEAR, 0, incoming=True),
        seen("401 Unauthorized", CLEAR, 0, incoming=False),
        seen("REGISTER", UP, 1000, incoming=True),
        seen("200 OK", DOWN, 1002, incoming=False),
    ]
    esp = Counter({SaId(PCSCF, 1000): 1, SaId(UE, 1002): 1})
    rows = [row(0, 1), row(1, 0), row(2, 1), row(3, 0)]
    return Report(
        status=Status(version="1", pid=1, started=0.0, backend="kernel", reason="", gm=[], registered=1, sets=1),
        capture=Path("gm.pcapng"),
        phones=[phone],
        steps=[
            Done(
                text="UE 1: register",
                titled=True,
                at=0.5,
                ok=True,
                status=200,
                sas=4,
                sets={1: "active"},
                expected={1: "active"},
            )
        ],
        counted=Moment(sas=rows, esp=esp, clear=[], records=records),
        ended=Moment(sas=[each.model_copy(update={"state": "closing"}) for each in rows], esp=esp, clear=[],
                     records=records),
        sip_in_clear=["REGISTER sip:home SIP/2.0", "SIP/2.0 401 Unauthorized"],
    )  # fmt: skip


def counted(report: Report) -> Moment:
    assert report.counted is not None
    return report.counted


def ended(report: Report) -> Moment:
    assert report.ended is not None
    return report.ended


def failed(checks: list[Check]) -> list[str]:
    return [check.text for check in checks if not check.holds]


def test_everything_in_order() -> None:
    assert not failed(verify(world()))


def test_nothing_checked_is_not_good() -> None:
    report = world()
    assert not report.good
    report.counted = None
    assert failed(verify(report)) == ["nothing was counted"]


@pytest.mark.parametrize(
    "changes",
    [
        {"ok": False, "status": 403, "reason": "refused"},
        {"sas": 8},
        {"sets": {1: "new"}},
        {"sets": {1: "active active"}, "sas": 8},
        {"sets": {1: ""}, "sas": 0},
    ],
)
def test_a_step_that_went_wrong(changes: dict[str, object]) -> None:
    report = world()
    report.steps[0] = replace(report.steps[0], **changes)  # type: ignore[arg-type]
    assert failed(verify(report))


def test_a_step_that_was_not_taken() -> None:
    report = world()
    report.left_out.append("UE 1: deregister")
    assert failed(verify(report)) == ["not done: UE 1: deregister"]


@pytest.mark.parametrize(
    "esp",
    [
        Counter[SaId](),
        Counter({SaId(PCSCF, 1000): 2, SaId(UE, 1002): 1}),
        Counter({SaId(PCSCF, 1000): 1, SaId(UE, 1002): 1, SaId(UE, 7777): 1}),
    ],
)
def test_a_capture_that_disagrees_with_the_counters(esp: Counter[SaId]) -> None:
    report = world()
    counted(report).esp = ended(report).esp = esp
    assert failed(verify(report))


def test_a_clear_packet_at_a_protected_port() -> None:
    report = world()
    ended(report).clear.append("UDP 10.45.0.2 port 31800 to 10.45.0.1 port 5100")
    assert failed(verify(report))


@pytest.mark.parametrize("line", ["MESSAGE sip:bob@home SIP/2.0", "SIP/2.0 200 OK", "REGISTER sip:home SIP/2.0"])
def test_other_sip_in_clear_on_the_wire(line: str) -> None:
    report = world()
    report.sip_in_clear.append(line)
    assert failed(verify(report))


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"replay_drops": 1}),
        (2, {"integrity_failures": 1}),
        (1, {"encryption": "null"}),
        (1, {"set_id": 2}),
    ],
)
def test_an_sa_that_is_not_as_it_must_be(place: int, changes: dict[str, object]) -> None:
    report = world()
    rows = counted(report).sas
    rows[place] = rows[place].model_copy(update=changes)
    assert failed(verify(report))


def test_packets_on_another_sa_of_the_set() -> None:
    report = world()
    moment = counted(report)
    moment.sas[0], moment.sas[3] = row(0, 0), row(3, 1)
    moment.esp = Counter({SaId(PCSCF, 1003): 1, SaId(UE, 1002): 1})
    assert failed(verify(report))


def test_a_packet_more_than_messages() -> None:
    report = world()
    moment = counted(report)
    moment.sas[0] = row(0, 2)
    moment.esp = Counter({SaId(PCSCF, 1000): 2, SaId(UE, 1002): 1})
    assert failed(verify(report))


def test_udp_to_the_client_port_of_the_ue() -> None:
    """A response that goes back to where its request came from, as without IPsec (digest R-A2.3)."""
    report = world()
    moment = counted(report)
    moment.records[-1] = seen("200 OK", UP, 1001, incoming=False)
    moment.sas[1], moment.sas[2] = row(1, 1), row(2, 0)
    moment.esp = Counter({SaId(PCSCF, 1000): 1, SaId(UE, 1001): 1})
    assert failed(verify(report))


def test_a_connection_counts_both_ways() -> None:
    report = world()
    moment = counted(report)
    moment.records[2] = seen("REGISTER", UP._replace(transport="TCP"), 1000, incoming=True)
    moment.records[3] = seen("200 OK", UP._replace(transport="TCP"), 1001, incoming=False)
    moment.sas[:] = [row(0, 5), row(1, 4), row(2, 0), row(3, 0)]
    moment.esp = ended(report).esp = Counter({SaId(PCSCF, 1000): 5, SaId(UE, 1001): 4})
    assert not failed(verify(report))
    moment.sas[1] = row(1, 0)
    del moment.esp[SaId(UE, 1001)]
    assert failed(verify(report))


@pytest.mark.parametrize(
    "record",
    [
        seen("200 OK", CLEAR, 0, incoming=False),
        seen("MESSAGE", CLEAR, 0, incoming=True),
        seen("200 OK", DOWN, 0, incoming=False),
        seen("200 OK", DOWN._replace(local_port=5105), 1002, incoming=False),
    ],
)
def test_a_message_outside_the_sas(record: Record) -> None:
    report = world()
    counted(report).records.append(record)
    assert failed(verify(report))


def test_a_set_that_stays_after_deregistration() -> None:
    report = world()
    ended(report).sas[0] = row(0, 1)
    assert failed(verify(report))


def test_the_ladder_is_below_its_steps() -> None:
    report = world()
    first, *rest = report.ladder(report.phones[0])
    assert first.strip() == "UE 1: register" and len(rest) == 4 and rest[0].startswith("0.000")


def test_the_story_is_made_of_steps_that_the_ue_knows() -> None:
    for turn in STORY:
        words = turn.words.format("", "+1", "+2", "+3", user1="user")
        if turn.who != CORE:
            parse_step(words, 1, "home")
    assert {turn.who for turn in STORY if turn.words == "register"} == {1, 2, 3}
    assert {turn.who for turn in STORY if turn.words == "deregister"} == {1, 2, 3}
    assert sum(turn.counts for turn in STORY) == 1
