"""Which way a request takes at the core, and what a P-CSCF is refused (digest C12)."""

from typing import Any

import pytest

from pcscf.lab.bindings import ContactEvent, Refusal
from pcscf.lab.challenge import Manners
from pcscf.lab.hops import Forward
from pcscf.lab.serving import Here, Place
from pcscf.sip.message import Request
from pcscf.vocabulary import Flow
from tests.unit.lab.calling import (
    ALICE,
    BOB,
    BOB_CONTACT,
    BOB_IMPI,
    BOB_PATH,
    CORE,
    FROM_PCSCF,
    PCSCF,
    World,
    both_registered,
    dialog_request,
    request,
)
from tests.unit.lab.vectors import IMPI, REALM

KAMAILIO: dict[str, Any] = {"manners": Manners.KAMAILIO}


def forwarded(world: World, asked: Request, flow: Flow = FROM_PCSCF) -> Forward:
    decision = world.serving.decide(asked, flow, 1.0)
    assert isinstance(decision, Forward), decision
    return decision


@pytest.mark.parametrize("method", ["MESSAGE", "INVITE", "OPTIONS", "SUBSCRIBE", "PUBLISH", "REFER", "INFO", "FLY"])
@pytest.mark.parametrize("uri", [BOB, "tel:+15551230002", "tel:+1-555-123-0002", f"{BOB};user=phone"])
def test_the_terminating_leg(method: str, uri: str) -> None:
    sent, flow = forwarded(both_registered(), request(method, uri))
    assert flow == FROM_PCSCF
    assert sent.uri == BOB_CONTACT
    assert sent.values("route") == [BOB_PATH]
    assert sent.lines("p-called-party-id") == [f"<{uri}>"]
    assert sent.lines("p-asserted-identity") == [f"<{ALICE}>"]
    assert 'icid-value="p1-77"' in sent.lines("p-charging-vector")[0]
    assert sent.lines("p-access-network-info") == []
    recorded = ["<sip:10.46.0.2:5060;lr>", "<sip:10.46.0.1:5060;lr>"]
    assert sent.values("record-route") == (recorded if method in ("INVITE", "SUBSCRIBE", "REFER") else [])


def test_tcp_of_the_path_is_a_connection_of_our_own() -> None:
    world = both_registered(transport="tcp")
    world.register_bob(path="<sip:term-b0b@10.46.0.1:5070;transport=tcp;lr>")
    sent, flow = forwarded(world, request("INVITE"))
    assert (flow.transport, flow.local_port, flow.remote, flow.remote_port) == ("TCP", 0, PCSCF, 5070)
    assert sent.values("record-route")[0] == "<sip:10.46.0.2:5060;transport=tcp;lr>"
    assert sent.values("via")[0].startswith("SIP/2.0/TCP 10.46.0.2:5060")


def test_the_newest_contact_is_taken() -> None:
    world = both_registered()
    world.register_bob(contact="<sip:10.45.0.9:7000>")
    assert forwarded(world, request()).request.uri == "sip:10.45.0.9:7000"


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ({"without": ("P-Asserted-Identity",)}, 403, "P-Asserted-Identity is missing"),
        ({"extra": (f"P-Asserted-Identity: <{BOB}>",)}, 403, "not one user's"),
        (
            {"without": ("P-Asserted-Identity",), "extra": (f"P-Asserted-Identity: <sip:{IMPI}>",)},
            403,
            "not one user's",
        ),
        ({"extra": (f"P-Preferred-Identity: <{ALICE}>",)}, 400, "P-Preferred-Identity"),
        ({"extra": ("Security-Verify: ipsec-3gpp;alg=null",)}, 400, "Security-Verify"),
        ({"extra": ("Require: sec-agree",)}, 400, "Require: sec-agree"),
        ({"extra": ("Proxy-Require: precondition, Sec-Agree",)}, 400, "Proxy-Require: sec-agree"),
        ({"extra": ("Supported: sec-agree",)}, 400, "Supported: sec-agree"),
        ({"without": ("P-Charging-Vector",)}, 400, "icid-value"),
        ({"without": ("Max-Forwards",)}, 400, "Max-Forwards is missing"),
        ({"without": ("Max-Forwards",), "extra": ("Max-Forwards: 0",)}, 483, "Too Many Hops"),
        ({"without": ("Max-Forwards",), "extra": ("Max-Forwards: many",)}, 400, "no number"),
        ({"via": "SIP/2.0/UDP 10.45.0.2:31801"}, 400, "top Via"),
        ({"to_tag": "b1"}, 400, "in a dialog"),
        ({"route": "<sip:orig@10.46.0.2:5060;lr>, <sip:elsewhere@10.46.0.7;lr>"}, 400, "more than the Service-Route"),
        ({"route": "<sip:orig@10.46.0.7:5060;lr>"}, 403, "does not lead"),
        ({"route": "<sip:10.46.0.2:5060;lr>, <sip:10.46.0.9;lr>"}, 403, "neither in a dialog"),
        ({"route": ""}, 403, "did not come by the Service-Route"),
    ],
)
def test_what_the_pcscf_must_do_is_checked(parts: dict[str, Any], status: int, words: str) -> None:
    world = both_registered()
    with pytest.raises(Refusal) as refused:
        world.serving.decide(request(**parts), FROM_PCSCF, 1.0)
    assert (refused.value.status, words in str(refused.value)) == (status, True), refused.value
    forwarded(world, request())


def test_a_via_of_a_ue_is_found_behind_the_address_of_the_pcscf() -> None:
    world = both_registered()
    world.register(contact="<mailto:a@b>")
    forwarded(world, request(via="SIP/2.0/UDP 10.46.0.1:31801"))
    world.register_bob(contact="<sip:10.46.0.1:31801>")
    with pytest.raises(Refusal, match="that of a UE"):
        world.serving.decide(request(via="SIP/2.0/UDP 10.46.0.1:31801"), FROM_PCSCF, 1.0)


def test_who_asserts_must_be_registered_and_the_pcscf_in_the_dialog() -> None:
    world = both_registered()
    with pytest.raises(Refusal, match="Record-Route"):
        world.serving.decide(request("INVITE", without=("Record-Route",)), FROM_PCSCF, 1.0)
    world.registrar.deregister(IMPI, ContactEvent.DEACTIVATED)
    with pytest.raises(Refusal, match="not registered"):
        world.serving.decide(request(), FROM_PCSCF, 1.0)


@pytest.mark.parametrize(("changes", "unknown"), [({}, 404), (KAMAILIO, 604)])
def test_nobody_there(changes: dict[str, Any], unknown: int) -> None:
    world = both_registered(**changes)
    for uri in (f"sip:nobody@{REALM}", "sip:bob@example.org", f"sip:{BOB_IMPI}", "tel:+15559999999"):
        with pytest.raises(Refusal) as refused:
            world.serving.decide(request(uri=uri), FROM_PCSCF, 1.0)
        assert refused.value.status == unknown
    world.registrar.deregister(BOB_IMPI, ContactEvent.DEACTIVATED)
    with pytest.raises(Refusal) as refused:
        world.serving.decide(request(), FROM_PCSCF, 1.0)
    assert refused.value.status == 404


def test_cancel_ack_and_an_invite_again_go_where_the_invite_went() -> None:
    world = both_registered()
    invite = forwarded(world, request("INVITE"))
    world.registrar.deregister(BOB_IMPI, ContactEvent.DEACTIVATED)
    for method in ("INVITE", "CANCEL", "ACK"):
        again = forwarded(world, request(method))
        assert (again.flow, again.request.uri) == (invite.flow, invite.request.uri)
        assert again.request.values("route") == invite.request.values("route")
        assert again.request.values("via")[0] == invite.request.values("via")[0]
    with pytest.raises(Refusal):
        world.serving.decide(request("INVITE", branch="z9hG4bKp9"), FROM_PCSCF, 1.0)
    assert world.serving.decide(request("ACK", branch="z9hG4bKp9"), FROM_PCSCF, 1.0) == Here(Place.DIALOG)
    assert world.serving.decide(request("CANCEL", branch="z9hG4bKpx"), FROM_PCSCF, 1.0) == Here(Place.DIALOG)


@pytest.mark.parametrize("method", ["ACK", "BYE", "PRACK", "UPDATE", "INFO", "INVITE", "NOTIFY"])
def test_a_dialog_follows_its_route_set(method: str) -> None:
    world = both_registered()
    route = "<sip:10.46.0.2:5060;lr>, <sip:10.46.0.9:5062;lr>"
    sent, flow = forwarded(world, dialog_request(method, BOB_CONTACT, route=route))
    assert (str(flow.remote), flow.remote_port, flow.transport) == ("10.46.0.9", 5062, "UDP")
    assert (sent.uri, sent.values("route")) == (BOB_CONTACT, ["<sip:10.46.0.9:5062;lr>"])
    assert sent.lines("p-called-party-id") == []
    last, flow = forwarded(world, dialog_request(method, BOB_CONTACT, route="<sip:10.46.0.2;lr>", branch="z9hG4bKp2"))
    assert (str(flow.remote), flow.remote_port, last.values("route")) == ("10.45.0.3", 41801, [])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"P-Preferred-Identity: <{ALICE}>", "P-Preferred-Identity"),
        ("Security-Verify: ipsec-3gpp;alg=null", "Security-Verify"),
        ("Proxy-Require: sec-agree", "sec-agree"),
    ],
)
def test_what_belongs_to_gm_may_not_come_in_a_dialog_either(line: str, words: str) -> None:
    world = both_registered()
    route = "<sip:10.46.0.2:5060;lr>, <sip:10.46.0.9:5062;lr>"
    with pytest.raises(Refusal, match=words):
        world.serving.decide(dialog_request("BYE", BOB_CONTACT, route=route, extra=(line,)), FROM_PCSCF, 1.0)
    forwarded(world, dialog_request("ACK", BOB_CONTACT, route=route, extra=(line,)))


def test_what_ends_here() -> None:
    world = both_registered()

    def place(asked: Request) -> Forward | Here:
        return world.serving.decide(asked, FROM_PCSCF, 1.0)

    reg = ("Event: reg",)
    assert place(request(uri=f"sip:echo@{REALM}")) == Here(Place.NUMBER, "echo")
    assert place(request("SUBSCRIBE", ALICE, extra=reg)) == Here(Place.REG_EVENT, ALICE)
    assert place(request("SUBSCRIBE", ALICE, extra=reg, route="")) == Here(Place.REG_EVENT, ALICE)
    assert place(request("SUBSCRIBE", ALICE, extra=reg, route=f"<sip:{CORE}:5060;lr>")) == Here(Place.REG_EVENT, ALICE)
    assert isinstance(place(request("SUBSCRIBE", extra=("Event: presence",))), Forward)
    assert place(dialog_request("BYE", f"sip:echo@{CORE}:5060", route="")) == Here(Place.DIALOG)
    assert place(request("OPTIONS", f"sip:{CORE}", route="")) == Here(Place.OURSELVES)
    with pytest.raises(Refusal, match="icid-value"):
        place(request("SUBSCRIBE", ALICE, extra=reg, route="", without=("P-Charging-Vector",)))


def test_the_manners_of_kamailio() -> None:
    world = both_registered(**KAMAILIO)
    careless = request(
        "INVITE",
        route="",
        without=("P-Charging-Vector",),
        extra=("Require: sec-agree", 'P-Visited-Network-ID: "v"', "P-Asserted-Identity: <sip:liar@example.org>"),
    )
    sent, _ = forwarded(world, careless)
    assert (sent.headers[0].name, sent.headers[0].value) == ("route", BOB_PATH)
    assert len(sent.values("via")) == len(careless.values("via")) + 3
    assert sent.values("p-asserted-identity") == [f"<{ALICE}>"]
    assert sent.lines("p-access-network-info") and sent.lines("p-visited-network-id")
    assert sent.lines("p-called-party-id") == []
    mt, mo, pcscf = sent.values("record-route")
    assert mt.startswith("<sip:mt@10.46.0.2:5060;lr=on;ftag=a1;did=")
    assert mo.startswith("<sip:mo@10.46.0.2:5060;lr=on;ftag=a1;did=")
    assert pcscf == "<sip:10.46.0.1:5060;lr>"
    over_tcp = request("INVITE", via="SIP/2.0/TCP 10.46.0.1:5060", branch="z9hG4bKp2")
    sent, _ = forwarded(world, over_tcp, FROM_PCSCF._replace(transport="TCP"))
    ours = sent.values("record-route")[:-1]
    assert len(ours) == 4 and all(";r2=on;lr=on" in each for each in ours)
    assert [";transport=tcp" in each for each in ours] == [False, True, False, True]
    asked = dialog_request("BYE", BOB_CONTACT, route=f"{', '.join(ours)}, <sip:10.46.0.1:5060;lr>")
    bye, _ = forwarded(world, asked)
    assert bye.values("route") == ["<sip:10.46.0.1:5060;lr>"]
    assert len(bye.values("via")) == len(asked.values("via")) + 2
