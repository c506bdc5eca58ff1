"""The reg event seen by the phone it is about."""

import asyncio
from ipaddress import ip_address

import pytest

from pcscf.lab.watching import Todo, read_reginfo, todo
from pcscf.sip.parse import ParseError
from tests.unit.lab.passing import REALM, Known, Lab, header_of, with_lab

ADDRESS = ip_address("127.0.0.2")


def reginfo(state: str, event: str, *, port: int = 31801, version: int = 0, expires: str = "") -> str:
    more = f' expires="{expires}"' if expires else ""
    return (
        f'<?xml version="1.0"?><reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="{version}" state="full">'
        f'<registration aor="sip:alice@{REALM}" id="a1" state="{state}">'
        f'<contact id="c1" state="{state}" event="{event}"{more}><uri>sip:127.0.0.2:{port}</uri></contact>'
        "</registration></reginfo>"
    )


@pytest.mark.parametrize(
    ("state", "event", "wanted"),
    [
        ("active", "registered", Todo.NOTHING),
        ("active", "shortened", Todo.REREGISTER),
        ("terminated", "deactivated", Todo.REGISTER),
        ("terminated", "rejected", Todo.STOP),
        ("terminated", "unregistered", Todo.STOP),
    ],
)
def test_what_a_document_asks_for(state: str, event: str, wanted: Todo) -> None:
    version, contacts = read_reginfo(reginfo(state, event, version=3, expires="60").encode())
    assert (version, contacts[0].expires, contacts[0].aor) == (3, 60, f"sip:alice@{REALM}")
    assert todo(contacts, ADDRESS, 31801) is wanted
    assert todo(contacts, ADDRESS, 31802) is Todo.NOTHING, "somebody else's contact"


@pytest.mark.parametrize("body", [b"", b"<a/>", b"<reginfo version='1'/>", b"<!DOCTYPE x><reginfo/>"])
def test_what_is_no_document(body: bytes) -> None:
    with pytest.raises(ParseError):
        read_reginfo(body)


def notify(lab: Lab, phone: Known, number: int, body: str) -> None:
    (subscribe,) = lab.pcscf.of("SUBSCRIBE")
    lab.pcscf.ask(
        phone,
        "NOTIFY",
        number=number,
        body=body,
        extra=(
            f"Call-ID: {header_of(subscribe, 'call-id')}",
            f"To: {header_of(subscribe, 'from')}",
            f"From: {header_of(subscribe, 'to')};tag=s",
            "Event: reg",
            "Subscription-State: active;expires=600000",
            f"Record-Route: <sip:127.0.0.9:{lab.pcscf.ports['ps']};lr>",
        ),
    )


async def watching(lab: Lab, state: str, event: str) -> None:
    # Refusals need no Record-Route, and the P-CSCF of the tests makes none with its own 200.
    lab.pcscf.own_answer = lambda request: 200 if request.method == "SUBSCRIBE" else 0
    ue, phone = lab.ues[0], lab.known[0]
    assert (await ue.subscribe()).status == 200
    (subscribe,) = lab.pcscf.of("SUBSCRIBE")
    assert subscribe.uri == f"sip:alice@{REALM}" and header_of(subscribe, "event") == "reg"
    used = ue.set_in_use
    assert used is not None
    notify(lab, phone, 1, reginfo("active", "registered", port=used.offer.port_us, version=0))
    await asyncio.sleep(0.05)
    assert ue.registered and ue.set_in_use is used
    notify(lab, phone, 2, reginfo(state, event, port=used.offer.port_us, version=1, expires="60"))
    await asyncio.sleep(0.2)


def registers(lab: Lab) -> int:
    return len(lab.pcscf.of("REGISTER"))


def test_shortened_means_to_register_again_inside_the_sas() -> None:
    async def scenario(lab: Lab) -> None:
        await watching(lab, "active", "shortened")
        assert registers(lab) == 4 and lab.ues[0].registered
        third = lab.pcscf.of("REGISTER")[2]
        assert lab.pcscf.flow_of(third).interface == "gm-protected"
        used = lab.ues[0].set_in_use
        assert used is not None
        notify(lab, lab.known[0], 3, reginfo("terminated", "rejected", port=used.offer.port_us, version=1))
        await asyncio.sleep(0.1)
        assert lab.ues[0].registered, "an old document"
        assert any("version 1 after 1" in each for each in lab.ues[0].diary.complaints())

    with_lab(scenario, phones=1, clean=False)


def test_deactivated_means_to_register_anew_in_clear() -> None:
    async def scenario(lab: Lab) -> None:
        await watching(lab, "terminated", "deactivated")
        assert registers(lab) == 4 and lab.ues[0].registered
        third = lab.pcscf.of("REGISTER")[2]
        assert lab.pcscf.flow_of(third).interface == "gm"
        assert lab.ues[0].reception.watch is None

    with_lab(scenario, phones=1, clean=False)


def test_rejected_means_to_stop() -> None:
    async def scenario(lab: Lab) -> None:
        await watching(lab, "terminated", "rejected")
        assert registers(lab) == 2 and not lab.ues[0].registered and not lab.ues[0].gm.sets
        assert len(lab.pcscf.said(200, "NOTIFY")) == 2, "answered before the SAs went"

    with_lab(scenario, phones=1, clean=False)
