"""Messages and OPTIONS between phones, what a strict handset says, and what a phone does wrong on demand."""

import asyncio

import pytest

from pcscf.lab.endpoint import NoAnswer
from pcscf.lab.fault import FORBIDDEN, Fault
from pcscf.lab.line import NotRegistered
from pcscf.lab.ue import Ue
from pcscf.sip.message import Header, Request, Response, header
from pcscf.sip.transaction import TimerProfile
from pcscf.vocabulary import Flow, Interface
from tests.fake_kernel import FakeKernel
from tests.unit.lab.passing import REALM, Known, Lab, PassingPcscf, header_of, settings, with_lab

BOB, ALICE = f"sip:bob@{REALM}", f"sip:alice@{REALM}"
SMS = "application/vnd.3gpp.sms"

ways = pytest.mark.parametrize(
    ("version", "tcp"), [(4, False), (4, True), (6, False), (6, True)], ids=["UDP4", "TCP4", "UDP6", "TCP6"]
)


async def messages(lab: Lab) -> None:
    alice, bob = lab.ues
    assert (await alice.message(BOB, "hello")).status == 200
    assert (await bob.message(ALICE, b"\x00\xff", SMS)).status == 200
    assert [(each.sender, each.text) for each in bob.reception.messages] == [(ALICE, "hello")]
    assert [(each.content_type, each.body) for each in alice.reception.messages] == [(SMS, b"\x00\xff")]
    assert alice.reception.messages[0].text == "00ff"
    assert (await alice.options(BOB)).status == 200


@ways
def test_messages_both_ways_and_options(version: int, tcp: bool) -> None:
    lab = with_lab(messages, pcscf=PassingPcscf(version=version), tcp=tcp)
    pcscf = lab.pcscf
    first = pcscf.of("MESSAGE")[0]
    flow, over = pcscf.flow_of(first), lab.known[0].sets[0]
    assert (flow.transport, flow.remote_port) == ("TCP" if tcp else "UDP", over.port_uc)
    assert not first.lines("contact"), "RFC 3428 forbids a Contact"
    (answer,) = [each for each in pcscf.said(200, "MESSAGE") if header_of(each, "to").startswith(f"<{BOB}")]
    flow, theirs = pcscf.flow_of(answer), lab.known[1].sets[0]
    assert flow.remote_port == (theirs.port_us if tcp else theirs.port_uc), "over TCP on the connection it came on"


def test_a_large_message_goes_over_tcp() -> None:
    async def scenario(lab: Lab) -> None:
        assert (await lab.ues[0].message(BOB, "x" * 1200)).status == 200

    lab = with_lab(scenario)
    (message,) = lab.pcscf.of("MESSAGE")
    assert lab.pcscf.flow_of(message).transport == "TCP" and "/TCP" in header_of(message, "via")


def test_what_the_network_may_ask_a_phone_and_what_not() -> None:
    async def scenario(lab: Lab) -> None:
        bob = lab.known[1]
        for number, method in enumerate(("OPTIONS", "REFER", "NOTIFY", "CANCEL"), start=1):
            lab.pcscf.ask(bob, method, number=number)
        await asyncio.sleep(0.1)
        assert lab.pcscf.said(200, "OPTIONS") and lab.pcscf.said(405, "REFER")
        assert lab.pcscf.said(481, "NOTIFY") and lab.pcscf.said(481, "CANCEL")
        assert lab.ues[1].diary.complaints() == ("the REFER has no Record-Route of the P-CSCF",)

    with_lab(scenario, clean=False)


def test_nothing_is_sent_without_a_set() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.ues[0].deregister()
        with pytest.raises(NotRegistered):
            await lab.ues[0].message(BOB, "hello")
        with pytest.raises(NotRegistered):
            lab.ues[0].call(BOB)

    with_lab(scenario)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("P-Charging-Vector: icid-value=1", "holds P-Charging-Vector"),
        ("P-Charging-Function-Addresses: ccf=1.2.3.4", "holds P-Charging-Function-Addresses"),
        ("Security-Server: tls", "holds Security-Server"),
        ("Require: sec-agree", "asks for sec-agree"),
        ("Route: <sip:127.0.0.9:5;lr>", "still has a Route"),
        ("Via: SIP/2.0/UDP 127.0.0.9:5060;branch=z9hG4bKother", "not port_ps"),
        ("Via: SIP/2.0/TCP 127.0.0.9:{ps};branch=z9hG4bKother", "says TCP"),
    ],
)
def test_a_strict_handset_complains_of_requests(extra: str, words: str) -> None:
    async def scenario(lab: Lab) -> None:
        lab.pcscf.ask(lab.known[1], "OPTIONS", extra=(extra.replace("{ps}", str(lab.pcscf.ports["ps"])),))
        await asyncio.sleep(0.05)
        (complaint,) = lab.ues[1].diary.complaints()
        assert words in complaint

    with_lab(scenario, clean=False)


def test_a_strict_handset_complains_of_an_identity_that_wants_privacy_and_of_a_foreign_request_uri() -> None:
    def private(request: Request, to: Known) -> list[Request]:
        changed = request.with_headers([*request.headers, header("Privacy", "id")])
        return [Request(method=changed.method, uri=BOB, headers=changed.headers, body=changed.body)]

    async def scenario(lab: Lab) -> None:
        lab.pcscf.on_request = private
        await lab.ues[0].message(BOB, "hello")
        first, second = lab.ues[1].diary.complaints()
        assert "although Privacy asks for id" in first and "not our contact" in second

    with_lab(scenario, clean=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: it.with_headers([*it.headers, header("Via", "SIP/2.0/UDP 1.2.3.4;branch=z9hG4bKx")]), "2 Vias"),
        (lambda it: it.with_headers([*it.headers, header("Require", "sec-agree")]), "Require: sec-agree"),
        (lambda it: it.with_headers([*it.headers, header("P-Charging-Vector", "a=b")]), "holds P-Charging-Vector"),
        (
            lambda it: it.with_headers([*it.headers, header("WWW-Authenticate", 'Digest realm="a",ik="00"')]),
            "still holds ik",
        ),
    ],
)
def test_a_strict_handset_complains_of_responses(change: object, words: str) -> None:
    async def scenario(lab: Lab) -> None:
        lab.pcscf.on_response = lambda response: [change(response)]  # type: ignore[operator]
        await lab.ues[0].message(BOB, "hello")
        (complaint,) = lab.ues[0].diary.complaints()
        assert words in complaint

    with_lab(scenario, clean=False)


def test_a_record_route_with_another_port_is_noticed_by_both_sides() -> None:
    def moved(message: Request | Response) -> list[Header]:
        value = "<sip:127.0.0.9:5060;lr>"
        return [header("Record-Route", value) if each.name == "record-route" else each for each in message.headers]

    async def scenario(lab: Lab) -> None:
        lab.pcscf.on_request = lambda request, to: [request.with_headers(moved(request))]
        lab.ues[0].call(BOB)
        await asyncio.sleep(0.1)
        for ue in lab.ues:
            assert any("not port_ps of the P-CSCF" in each for each in ue.diary.complaints())

    with_lab(scenario, clean=False)


def test_what_comes_on_the_wrong_port_is_ignored() -> None:
    async def scenario(lab: Lab) -> None:
        pcscf, bob = lab.pcscf, lab.known[1]
        real = bob.sets[0]
        pcscf.ask(bob, "OPTIONS")
        await asyncio.sleep(0.05)
        assert len(pcscf.said(200, "OPTIONS")) == 1
        text = (
            f"OPTIONS {BOB} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.9:{pcscf.ports['ps']};branch=z9hG4bKw\r\n"
            "From: <sip:p@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: w\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        wrong = Flow("UDP", Interface.GM_PROTECTED, pcscf.address, pcscf.ports["ps"], bob.address, real.port_uc)
        pcscf.transport.send(text, wrong)
        pcscf.transport.send(text, wrong._replace(local_port=pcscf.ports["clear"]))
        await asyncio.sleep(0.05)
        assert len(pcscf.said(200, "OPTIONS")) == 1
        first, second = lab.ues[1].diary.complaints()
        assert "by UDP it belongs at port_us" in first and "outside every SA" in second

    with_lab(scenario, clean=False)


# Faults on demand


def heard_with(fault: Fault) -> Request:
    async def scenario(lab: Lab) -> None:
        lab.pcscf.own_answer = lambda request: 403
        lab.ues[0].set_faults(frozenset({fault}))
        assert (await lab.ues[0].message(BOB, "hello")).status == 403

    return with_lab(scenario).pcscf.of("MESSAGE")[0]


def test_the_route_on_demand() -> None:
    assert len(heard_with(Fault.ROUTE_SKIPS_SERVICE_ROUTE).values("route")) == 1
    assert heard_with(Fault.ROUTE_OF_ANOTHER).values("route")[1] == "<sip:orig@192.0.2.1:5060;lr>"
    assert heard_with(Fault.WRONG_K).values("route")[1] == "<sip:orig@127.0.0.9:5999;lr>"


def test_headers_on_demand() -> None:
    forged = heard_with(Fault.FOREIGN_IDENTITY)
    stranger = f"<sip:alicex@{REALM}>"
    assert forged.values("p-preferred-identity") == forged.values("p-asserted-identity") == [stranger]
    assert header_of(forged, "from").startswith(stranger)
    assert all(heard_with(Fault.FORBIDDEN_HEADERS).lines(name.lower()) for name, _ in FORBIDDEN)
    assert "spi-s=1000000013" in header_of(heard_with(Fault.EDIT_SECURITY_VERIFY), "security-verify")
    assert not heard_with(Fault.DROP_SECURITY_VERIFY).lines("security-verify")
    good = heard_with(Fault.WRONG_K)
    assert "spi-s=1000000012" in header_of(good, "security-verify") and not good.lines("p-asserted-identity")


def test_silence_and_late_answers_on_demand() -> None:
    async def scenario(lab: Lab) -> None:
        bob = lab.known[0]
        lab.ues[0].set_faults(frozenset({Fault.SILENT}))
        lab.pcscf.ask(bob, "OPTIONS", number=1)
        await asyncio.sleep(0.1)
        assert not lab.pcscf.said(200, "OPTIONS")
        lab.ues[0].set_faults(frozenset({Fault.LATE_ANSWER}))
        lab.pcscf.ask(bob, "OPTIONS", number=2)
        await asyncio.sleep(0.1)
        assert not lab.pcscf.said(200, "OPTIONS")
        await asyncio.sleep(0.2)
        assert len(lab.pcscf.said(200, "OPTIONS")) == 1

    with_lab(scenario, late=0.2)


def test_losses_on_demand_are_made_good_and_always_the_same() -> None:
    async def scenario(lab: Lab) -> None:
        lab.ues[0].set_faults(frozenset({Fault.LOSE}))
        for _ in range(6):
            assert (await lab.ues[0].message(BOB, "hello")).status == 200
        answers.append([step.again for step in lab.ues[0].diary.steps() if step.summary == "MESSAGE"])

    answers: list[list[bool]] = []
    for _ in range(2):
        with_lab(scenario, loss=0.5, seed=7, timers=TimerProfile(t1=0.02, t2=0.04, t4=0.1))
    assert answers[0] == answers[1] and any(answers[0])


@pytest.mark.parametrize("fault", [Fault.TCP_FIN_AFTER_REGISTER, Fault.TCP_RESET])
def test_a_phone_that_breaks_its_connection_is_reached_over_another(fault: Fault) -> None:
    async def scenario(lab: Lab) -> None:
        alice, bob = lab.ues
        await asyncio.sleep(0.05)
        (over,) = alice.gm.sets
        assert not alice.gm.is_connected(over)
        assert (await bob.message(ALICE, "hello")).status == 200
        assert (await alice.message(BOB, "hello")).status == 200

    with_lab(scenario, tcp=True, faults=frozenset({fault}))


def test_after_a_reset_the_answer_may_come_over_a_connection_of_the_network() -> None:
    async def scenario(lab: Lab) -> None:
        pcscf, (alice, _) = lab.pcscf, lab.ues
        pcscf.own_answer = lambda request: 1
        asking = asyncio.create_task(alice.message(BOB, "hello"))
        await asyncio.sleep(0.15)
        (message,) = pcscf.of("MESSAGE")
        flow, known = pcscf.flow_of(message), lab.known[0]
        assert not pcscf.transport.is_open(flow) and not asking.done()
        pcscf._answer(message, 202, flow, known, known.sets[0])
        assert (await asking).status == 202

    with_lab(scenario, tcp=True, faults=frozenset({Fault.TCP_RESET}))


def test_a_connection_that_cannot_be_made_is_told_at_once() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.pcscf.transport.close()
        await asyncio.sleep(0.05)
        with pytest.raises(NoAnswer, match=r"connecting to 127\.0\.0\.9"):
            await lab.ues[0].message(BOB, "hello")

    with_lab(scenario, tcp=True, patience=5.0)


def test_an_invite_in_clear_on_demand() -> None:
    async def run() -> None:
        pcscf = PassingPcscf()
        await pcscf.start()
        ue = Ue(settings(pcscf, 0, faults=frozenset({Fault.CLEAR_INVITE}), patience=0.2), FakeKernel())
        heard: list[str] = []
        received = pcscf.received

        def watch(message: Request | Response, flow: Flow) -> None:
            if isinstance(message, Request) and message.method != "REGISTER":
                heard.append(f"{message.method} {flow.interface}")
            else:
                received(message, flow)

        pcscf.transport.on_message = watch
        await ue.start()
        outcome = await ue.register()
        assert outcome.registered and outcome.clear_request_status == 0
        assert set(heard) == {"INVITE gm"}
        await ue.close()
        await pcscf.transport.close()

    asyncio.run(run())
