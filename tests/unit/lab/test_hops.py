"""Requests passed on and responses passed back, with nothing remembered in between."""

from dataclasses import replace
from ipaddress import IPv6Address, ip_address

import pytest

from pcscf.lab.bindings import Refusal
from pcscf.lab.challenge import Manners
from pcscf.lab.hops import Way, branch_of, flow_to, passed_back, passed_on, sender_of, stamped
from pcscf.sip.fields import parse_via
from pcscf.sip.message import response_to
from pcscf.vocabulary import Flow, Interface
from tests.unit.lab.calling import BOB_CONTACT, BOB_PATH, CORE, FROM_PCSCF, PCSCF, request
from tests.unit.lab.registering import settings

SETTINGS = settings(address=CORE)
WAY = Way(BOB_CONTACT, (BOB_PATH,), FROM_PCSCF)
V6 = Flow("TCP", Interface.MW, IPv6Address("fd00:46::2"), 0, IPv6Address("fd00:46::1"), 41234)


@pytest.mark.parametrize("vias", [1, 3])
@pytest.mark.parametrize(
    ("flow", "address"),
    [
        (FROM_PCSCF, CORE),
        (FROM_PCSCF._replace(transport="TCP", remote_port=40001), CORE),
        (V6, V6.local),
    ],
)
def test_a_response_goes_back_as_the_request_came(vias: int, flow: Flow, address: object) -> None:
    ours = settings(address=address)
    asked = request()
    forward = passed_on(asked, WAY._replace(vias=vias), ours, came_by=flow)
    assert len(forward.request.values("via")) == len(asked.values("via")) + vias
    back = passed_back(response_to(forward.request, 200, to_tag="b"), ours)
    assert back is not None
    response, way = back
    assert way == flow
    assert response.values("via") == asked.values("via")


def test_a_response_to_a_request_of_our_own_is_not_passed_back() -> None:
    own = passed_on(request().without("via"), WAY, SETTINGS, came_by=None).request
    assert len(own.values("via")) == 1
    assert passed_back(response_to(own, 200, to_tag="b"), SETTINGS) is None
    assert passed_back(response_to(request(), 200, to_tag="b"), SETTINGS) is None


def test_retransmission_cancel_and_ack_get_one_branch_and_another_request_another() -> None:
    branches = {branch_of(request(method)) for method in ("INVITE", "CANCEL", "ACK")}
    assert len(branches) == 1
    assert branch_of(request("INVITE", branch="z9hG4bKp2")) not in branches
    old = {branch_of(request("INVITE", branch="1", call_id=name)) for name in ("x", "y")}
    assert len(old) == 2


def test_the_way_is_written_into_the_request() -> None:
    forward = passed_on(request(route="<sip:orig@10.46.0.2:5060;lr>"), WAY, SETTINGS, came_by=FROM_PCSCF)
    assert forward.flow == FROM_PCSCF
    assert forward.request.uri == BOB_CONTACT
    assert forward.request.values("route") == [BOB_PATH]
    assert forward.request.first("max-forwards") == "68"
    kamailio = settings(address=CORE, manners=Manners.KAMAILIO)
    first = passed_on(request(), WAY, kamailio, came_by=FROM_PCSCF).request.headers[0]
    assert (first.name, first.value) == ("route", BOB_PATH)


def test_received_and_rport() -> None:
    asked = request(via="SIP/2.0/UDP 10.46.0.1:5060;rport")
    via = parse_via(stamped(asked, FROM_PCSCF._replace(remote_port=6000)).values("via")[0])
    assert (via.param("rport"), via.param("received")) == ("6000", "10.46.0.1")
    elsewhere = stamped(request(), FROM_PCSCF._replace(remote=ip_address("10.46.0.9")))
    assert parse_via(elsewhere.values("via")[0]).param("received") == "10.46.0.9"
    assert stamped(request(), FROM_PCSCF) == request()


def test_flows() -> None:
    assert flow_to("sip:10.46.0.1", SETTINGS) == FROM_PCSCF
    tcp = Flow("TCP", Interface.MW, CORE, 0, PCSCF, 5070)
    assert flow_to("sip:t@10.46.0.1:5070;transport=tcp;lr", SETTINGS) == tcp
    assert flow_to("sip:t@10.46.0.1;transport=tcp", SETTINGS, transport="udp") == FROM_PCSCF
    for uri, words in (
        ("sip:pcscf.example", "names no address"),
        ("sip:[fd00::1]", "speaks IPv4"),
        ("sip:10.46.0.1;transport=sctp", "neither UDP nor TCP"),
    ):
        with pytest.raises(Refusal, match=words):
            flow_to(uri, SETTINGS)
    response = response_to(request(via="SIP/2.0/TCP 10.46.0.1:5070"), 200)
    assert sender_of(response, SETTINGS) == tcp
    assert replace(SETTINGS, port=5061).service_route == "<sip:orig@10.46.0.2:5061;lr>"
    assert replace(SETTINGS, service_route_uri="sip:far:5080;lr").service_route == "<sip:far:5080;lr>"
