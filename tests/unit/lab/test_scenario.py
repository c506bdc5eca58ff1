"""The verdict of `pcscf lab`: each thing it holds against another can also be found wrong."""

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from pcscf.admin.views import SaRow, Status
from pcscf.lab.scenario import Check, Phone, Report, verify
from pcscf.lab.subscribers import load_subscribers
from pcscf.observe import MessageSeen, Record
from pcscf.vocabulary import Flow, Interface
from xfrm.model import SaId

SUBSCRIBER = next(iter(load_subscribers(Path(__file__).parents[3] / "config" / "subscribers.toml").values()))
UE, PCSCF = ip_address("10.45.0.2"), ip_address("10.45.0.1")
PORTS = ((31800, 5100), (5100, 31800), (5104, 31801), (31801, 5104))


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


def seen(summary: str, spi: int, *, incoming: bool) -> Record:
    flow = Flow("UDP", Interface.GM_PROTECTED, PCSCF, 5100, UE, 31800)
    return MessageSeen(0.0, incoming, flow, spi, summary, "call")


def world() -> tuple[Report, list[SaRow], Counter[SaId], list[str]]:
    phone = Phone(
        number=1,
        subscriber=SUBSCRIBER,
        address=UE,
        pcscf=PCSCF,
        transport="UDP",
        offers=("hmac-sha-1-96/aes-cbc",),
    )
    rows = [row(0, 1), row(1, 0), row(2, 1), row(3, 0)]
    report = Report(
        status=Status(pid=1, backend="kernel", reason="", gm=[], registered=1, sets=1),
        capture=Path("gm.pcapng"),
        phones=[phone],
        outcomes={1: {"registered": True, "status": 200, "complaints": []}},
        sas={1: rows},
        records=[seen("REGISTER", 1000, incoming=True), seen("200 OK", 1002, incoming=False)],
    )
    return report, rows, Counter({SaId(PCSCF, 1000): 1, SaId(UE, 1002): 1}), []


def failed(checks: list[Check]) -> list[str]:
    return [check.text for check in checks if not check.holds]


def test_everything_in_order() -> None:
    assert not failed(verify(*world()))


def test_nothing_checked_is_not_good() -> None:
    report, *_ = world()
    assert not report.good


@pytest.mark.parametrize(
    "outcome",
    [
        {"registered": False, "status": 403, "reason": "refused"},
        {"registered": True, "status": 200, "complaints": ["Require: sec-agree"]},
    ],
)
def test_a_ue_that_is_not_content(outcome: dict[str, object]) -> None:
    report, rows, esp, clear = world()
    report.outcomes[1] = outcome
    assert failed(verify(report, rows, esp, clear))


@pytest.mark.parametrize(
    "esp",
    [
        Counter[SaId](),
        Counter({SaId(PCSCF, 1000): 2, SaId(UE, 1002): 1}),
        Counter({SaId(PCSCF, 1000): 1, SaId(UE, 1002): 1, SaId(UE, 7777): 1}),
    ],
)
def test_a_capture_that_disagrees_with_the_counters(esp: Counter[SaId]) -> None:
    report, rows, _, clear = world()
    assert failed(verify(report, rows, esp, clear))


def test_a_clear_packet_at_a_protected_port() -> None:
    report, rows, esp, _ = world()
    assert failed(verify(report, rows, esp, ["UDP 10.45.0.2 port 31800 to 10.45.0.1 port 5100"]))


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"state": "temporary"}),
        (0, {"replay_drops": 1}),
        (2, {"integrity_failures": 1}),
        (1, {"encryption": "null"}),
    ],
)
def test_an_sa_that_is_not_as_it_must_be(place: int, changes: dict[str, object]) -> None:
    report, rows, esp, clear = world()
    rows[place] = rows[place].model_copy(update=changes)
    assert failed(verify(report, rows, esp, clear))


def test_packets_on_another_sa_of_the_set() -> None:
    report, rows, _, clear = world()
    rows[0], rows[3] = row(0, 0), row(3, 1)
    esp = Counter({SaId(PCSCF, 1003): 1, SaId(UE, 1002): 1})
    assert failed(verify(report, rows, esp, clear))


def test_a_200_that_came_in_clear() -> None:
    report, rows, esp, clear = world()
    report.records.pop()
    assert failed(verify(report, rows, esp, clear))


def test_a_phone_over_tcp_hears_on_sa_2() -> None:
    report, rows, esp, clear = world()
    report.phones[0] = replace(report.phones[0], transport="TCP")
    assert failed(verify(report, rows, esp, clear))
