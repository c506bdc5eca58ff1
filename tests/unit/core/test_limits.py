"""What peers can make us hold, and cannot keep from others: transactions, challenges, dialogs (step 1: 5, 7 and 8).

Floods go straight into the proxy: what is asserted is what it holds afterwards, and that a phone is served as ever.
"""

import gc
import tracemalloc
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from pcscf import passage
from pcscf.dialog import MOST_EMERGENCIES, MOST_FORKS, MOST_OF_ONE
from pcscf.emergency import EmergencyMode, EmergencySettings
from pcscf.originating import OriginatingSettings
from pcscf.register import Without
from pcscf.registration import SaSet
from pcscf.sip import fields
from pcscf.sip.message import Request, Response, header
from pcscf.sip.parse import parse
from pcscf.tally import Tally
from pcscf.vocabulary import Action, Flow, Interface, Received, Send, Tick
from tests.unit.core.world import CORE, GM, Phone, World, answer, challenge, from_core, offer, ok, settings

LONGEST = 1200
"""Octets of an answer to somebody who may have forged where it is."""


def world_of(mode: EmergencyMode = EmergencyMode.ALTERNATIVE, *, unregistered: bool = False, **limits: int) -> World:
    emergency = EmergencySettings(
        mode=mode, ecscf="sip:10.46.0.2:5060", numbers=frozenset({"112"}), unregistered=unregistered
    )
    world = World()
    world.use(replace(settings(OriginatingSettings(emergency=emergency)), **limits))  # type: ignore[arg-type]
    return world


def clear(address: str = "10.45.9.9", port: int = 5060) -> Flow:
    return Flow("UDP", Interface.GM, GM, 5060, ip_address(address), port)


def numbered(template: Request, number: int) -> Request:
    """The same request in another transaction of another dialog."""
    changed = {"via": f"SIP/2.0/UDP 10.45.9.9:5060;branch=z9hG4bKflood{number};rport", "call-id": f"flood{number}"}
    return template.with_headers(
        header(item.name.title(), changed[item.name]) if item.name in changed else item for item in template.headers
    )


def register(**changes: Any) -> Request:
    """A REGISTER in clear that goes to the core, or, with `security=""`, one that we refuse."""
    message = parse(Phone(World(), address="10.45.9.9").register(**changes))
    assert isinstance(message, Request)
    return message


def send(world: World, request: Request, flow: Flow) -> list[Send]:
    """What leaves because of one request, while nobody looks at the whole world."""
    actions: list[Action] = world.proxy.handle(Received(request, flow), world.now)
    return [action for action in actions if isinstance(action, Send)]


def to_core(sent: list[Send]) -> Request:
    (only,) = [parse(each.data) for each in sent if each.flow.interface is Interface.MW]
    assert isinstance(only, Request)
    return only


def statuses(sent: list[Send]) -> list[int]:
    found = [parse(each.data) for each in sent]
    return [each.status for each in found if isinstance(each, Response)]


def serves(world: World, phone: Phone, name: str) -> None:
    """The phone sends a MESSAGE and gets one, inside ESP."""
    world.sent.clear()
    world.receive(phone.request("MESSAGE", call_id=f"mo{name}"), phone.uplink)
    world.receive(answer(world.at_core(), "200 OK"), CORE)
    assert world.at_phone()[1].status == 200
    contact = next(each for each in world.proxy.registrar if each.registered)
    world.receive(from_core("MESSAGE", contact, call_id=f"mt{name}"), CORE)
    assert world.to_phone()[1].method == "MESSAGE"
    world.sent.clear()


# 5: what a source in clear can make us hold


def test_refused_registers_leave_nothing_behind() -> None:
    """Step 1, 5: refusals need no transaction; 5,000 of them fill no table of 1,000, and a phone registers."""
    world, template = world_of(), register(security="")
    for number in range(5000):
        assert statuses(send(world, numbered(template, number), clear())) == [421]
    assert world.proxy.load.transactions == 0 and len(world.proxy.registrar) == 0
    assert world.proxy.deadline is None
    assert Phone(world).registered().status == 200


@pytest.mark.parametrize("size", [0, 500, 7000, 30_000], ids=lambda size: f"{size} octets")
def test_padding_is_not_kept(size: int) -> None:
    """Step 1, 5: however long the Vias are, of 400 refused and 400 forwarded REGISTERs no more is held than of half.

    Those that the core has not answered are held whole, 50 of a source; those with more in their Vias than fits into
    an answer, and those that are refused, not at all.
    """
    world = world_of()
    padding = (header("Via", f"SIP/2.0/UDP 10.45.9.8;branch=z9hG4bK{'x' * size}"),) if size else ()
    templates = register(security=""), register()

    def flood(first: int, last: int) -> None:
        for number in range(first, last):
            for template in templates:
                request = numbered(template, number)
                send(world, request.with_headers((*request.headers, *padding)), clear())

    def held() -> int:
        """Octets, without the caches of parsed values: those have a limit of their own."""
        for cache in (fields._via, fields._name_addr, fields._plain_param):
            cache.cache_clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        flood(0, 200)
        before = held()
        flood(200, 400)
        assert held() - before < 50_000
    finally:
        tracemalloc.stop()
    assert world.proxy.load.transactions == (2 * 50 if size < LONGEST else 0)


def test_what_is_too_long_for_an_answer_gets_none() -> None:
    """Step 1, 5 and 7: over UDP not even a refusal where the Vias alone are too long; a long REGISTER gets 513."""
    world = world_of()
    vias = header("Via", f"SIP/2.0/UDP 10.45.9.8;branch=z9hG4bK{'x' * LONGEST}")
    for each in (register(), register(security="")):
        assert send(world, each.with_headers((*each.headers, vias)), clear()) == []
        assert send(world, each.with_headers((*each.headers, vias)), clear()._replace(transport="TCP"))
    (sent,) = send(world, register(extra=f"X-Long: {'x' * 9000}\r\n"), clear())
    assert statuses([sent]) == [513] and len(sent.data) <= LONGEST
    assert world.proxy.load.transactions == 0


def test_a_refused_register_that_comes_again_gets_the_same_answer() -> None:
    """Step 1, 5: without a transaction, the To tag is the same for a retransmission and not for another (8.2.7)."""
    world, template = world_of(), register(security="")
    first, again, other = (
        parse(send(world, numbered(template, number), clear())[0].data).first("to") for number in (1, 1, 2)
    )
    assert first == again != other
    stranger = world_of()
    stranger.proxy._turn._secret = b"another process"
    assert parse(send(stranger, numbered(template, 1), clear())[0].data).first("to") != first


def test_a_source_has_its_share() -> None:
    """Step 1, 5: REGISTERs that the core leaves unanswered are 50 of one source; another source is served."""
    world, template = world_of(), register()
    for number in range(50):
        to_core(send(world, numbered(template, number), clear()))
    (refusal,) = send(world, numbered(template, 50), clear(port=5999))
    assert statuses([refusal]) == [503] and parse(refusal.data).first("retry-after")
    assert to_core(send(world, numbered(template, 51), clear("10.45.9.10")))
    assert Phone(world).registered().status == 200


def test_a_64_is_one_source() -> None:
    """Step 1, 5: a UE has a whole /64, and may take any address of it (TS 23.401 5.3.1.2.2)."""
    world, template = world_of(), register()
    found = []
    for number in range(1, 60):
        flow = clear()._replace(local=ip_address("fd00:45::1"), remote=ip_address(f"2001:db8:0:1::{number}"))
        found += statuses(send(world, numbered(template, number), flow))
    assert found == [503] * 9
    other = clear()._replace(local=ip_address("fd00:45::1"), remote=ip_address("2001:db8:0:2::1"))
    assert to_core(send(world, numbered(template, 60), other))


def test_what_has_its_answer_gives_way_to_what_has_none() -> None:
    """Step 1, 5: challenged REGISTERs of a source are kept to be answered again, and only as long as there is room."""
    world, template = world_of(), register()
    for number in range(120):
        at_core = to_core(send(world, numbered(template, number), clear()))
        world.receive(challenge(at_core), CORE)
    assert world.proxy.load.transactions <= 50 + 120  # ours toward the core linger for 5 s
    sent = send(world, numbered(template, 119), clear())
    assert statuses(sent) == [401], "the last is answered again"
    world.wait(10)
    assert world.proxy.load.transactions == 50


def test_a_refusal_of_the_core_is_not_kept() -> None:
    """Step 1, 5: neither the transaction with the phone nor the REGISTER that waits for the one with the core."""
    world, template = world_of(), register()
    for number in range(60):
        at_core = to_core(send(world, numbered(template, number), clear()))
        world.receive(answer(at_core, "403 Forbidden"), CORE)
        world.take()
    assert not world.proxy._register._exchanges
    world.wait(10)
    assert world.proxy.load.transactions == 0


def test_a_challenge_that_is_kept_holds_bytes_only() -> None:
    """Step 1, 5: until timer J nothing of the parsed REGISTER, nor of its parsed answer."""
    world = world_of()
    at_core = to_core(send(world, register(extra=f"X-Long: {'x' * 5000}\r\n"), clear()))
    world.receive(challenge(at_core), CORE)
    (kept,) = world.proxy._signalling._servers
    assert (
        not kept.request.headers and kept.sent is not None and [item.name for item in kept.sent.headers] == ["call-id"]
    )
    assert not world.proxy._register._exchanges


def test_five_thousand_sources_leave_room_for_what_is_inside_esp() -> None:
    """Step 1, 5: all of clear has a part of the table; phones inside ESP and the core have theirs."""
    world, template = world_of(), register()
    phone = Phone(world)
    phone.registered()
    found = []
    for number in range(5000):
        address = f"10.{100 + number // 2500}.{number // 50 % 50}.{number % 50}"
        found += statuses(send(world, numbered(template, number), clear(address)))
    assert found == [503] * (5000 - 250)
    serves(world, phone, "full")
    world.receive(phone.request("INVITE"), phone.uplink)
    assert to_core([Send(data, flow) for (flow, _), data in zip(world.sent, world.raw[-2:], strict=True)])
    world.sent.clear()
    after = phone.again()
    assert phone.rechallenged(after).status == 401, "and registers anew"


def test_one_phone_inside_esp_leaves_room_for_another() -> None:
    """Step 1, 5: its unanswered requests are limited; those that are answered give way."""
    world = world_of()
    phone, other = Phone(world), Phone(world, address="10.45.0.3", user="002@home", call_id="reg2")
    phone.registered()
    other.registered()
    for number in range(60):
        world.receive(phone.request("MESSAGE", call_id=f"many{number}"), phone.uplink)
        assert isinstance(world.sent[-1][1], Request) is (number < 50)
    world.sent.clear()
    world.receive(other.request("MESSAGE"), other.uplink)
    assert world.at_core().method == "MESSAGE"
    for number in range(100):
        world.receive(other.request("MESSAGE", call_id=f"busy{number}"), other.uplink)
        world.receive(answer(world.at_core(), "200 OK"), CORE)
        assert world.at_phone()[1].status == 200


def test_a_flood_of_the_core_leaves_room_for_phones() -> None:
    """Step 1, 5."""
    world = world_of(transactions=80)
    phone = Phone(world)
    phone.registered()
    (contact,) = world.proxy.registrar
    for number in range(60):
        world.receive(from_core("MESSAGE", contact, call_id=f"many{number}"), CORE)
    assert sum(isinstance(message, Response) and message.status == 503 for _, message in world.sent) == 30
    world.sent.clear()
    world.receive(phone.request("MESSAGE"), phone.uplink)
    assert world.at_core().method == "MESSAGE"


# 5: challenges nobody answers


def challenged(world: World, number: int, address: str) -> None:
    phone = Phone(world, address=address, user=f"{number}@home", call_id=f"reg{number}", clear_port=6000 + number)
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=50_000 + 2 * number, port=20_000 + 2 * number)
    assert phone.challenged().status == 401


def waiting(world: World) -> list[str]:
    return [each.key.impi.partition("@")[0] for each in world.proxy.registrar if each.unproven]


def test_unanswered_challenges_have_a_limit_for_all() -> None:
    """Step 1, 5: the oldest of the source that has the most gives way, and those of few stay."""
    world = world_of(pending=6)
    challenged(world, 0, "10.45.0.20")
    for number in range(1, 5):
        challenged(world, number, "10.45.0.21")
    challenged(world, 5, "10.45.0.22")
    assert waiting(world) == ["0", "1", "2", "3", "4", "5"]
    challenged(world, 6, "10.45.0.23")
    assert waiting(world) == ["0", "2", "3", "4", "5", "6"]
    challenged(world, 7, "10.45.0.24")
    challenged(world, 8, "10.45.0.25")
    assert waiting(world) == ["0", "4", "5", "6", "7", "8"]
    challenged(world, 9, "10.45.0.26")
    assert waiting(world) == ["4", "5", "6", "7", "8", "9"], "where all have one, the oldest"
    world.wait(300)
    assert not len(world.proxy.registrar.pending) and not waiting(world)


def test_a_challenge_inside_esp_never_gives_way() -> None:
    """Step 1, 5: not to those in clear, and it takes nobody's place."""
    world = world_of(pending=2)
    phone = Phone(world)
    phone.registered()
    after = phone.again()
    assert phone.rechallenged(after).status == 401
    for number in range(10):
        challenged(world, number, f"10.45.0.{20 + number % 3}")
        challenged(world, 10 + number, phone.address)
    world.receive(after.answer(), after.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200
    assert len(waiting(world)) == 2


def test_a_challenge_that_was_answered_never_gives_way() -> None:
    """Step 1, 5: from the answer inside ESP to what the core says of it."""
    world = world_of(pending=1)
    phone = Phone(world)
    phone.challenged()
    world.receive(phone.answer(), phone.uplink)
    at_core = world.at_core()
    for number in range(10):
        challenged(world, number, phone.address)
    world.receive(ok(at_core), CORE)
    assert world.at_phone()[1].status == 200


def test_spis_of_dropped_challenges_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 5: they wait before they serve again, but not in any number."""
    monkeypatch.setattr("pcscf.spis.MOST_FREED", 20)
    world = world_of(pending=2)
    for number in range(50):
        challenged(world, number, "10.45.0.20")
    assert len(world.proxy.registrar.allocator._spis) <= 20 + 2 * 3


def test_what_gave_way_is_not_kept_by_its_alarm() -> None:
    """Step 1, 5: that of a challenge is minutes away, and a flood makes many thousand meanwhile."""

    def alive() -> int:
        gc.collect()
        return sum(type(each) is SaSet for each in gc.get_objects())

    world, before = world_of(pending=3), alive()
    for number in range(40):
        challenged(world, number, "10.45.0.20")
    world.proxy.registrar.touched.clear()  # they have been stored
    assert alive() - before == 3


def test_guests_have_a_limit_for_all() -> None:
    """Step 1, 5: emergency callers that are not registered, of whatever address."""
    world = world_of(EmergencyMode.ROUTE, unregistered=True, pending=5)
    found = []
    for number in range(8):
        flow = clear(f"10.45.9.{number + 1}")
        found += statuses(send(world, numbered(emergency(flow), number), flow))
    assert found == [100] * 5 + [403] * 3
    until_silent(world, 1000)
    assert len(world.proxy.registrar) == 0
    assert statuses(send(world, numbered(emergency(clear()), 9), clear())) == [100], "there is room again"


def test_a_guest_of_whose_request_nothing_came_does_not_stay() -> None:
    """It was too long, found no room, or is repeated when all else of the guest is over: each took a place for ever."""
    world = world_of(EmergencyMode.ROUTE, unregistered=True, transactions=4, transactions_per_source=1)
    long = replace(emergency(clear()), body=b"x" * 9000)
    assert statuses(send(world, long, clear())) == [513] and len(world.proxy.registrar) == 0
    found = []
    for number in range(2):
        flow = clear(f"10.45.9.{number + 1}")
        found += statuses(send(world, numbered(emergency(flow), number), flow))
    assert found == [100, 503] and len(world.proxy.registrar) == 1

    world, flow = world_of(EmergencyMode.ROUTE, unregistered=True), clear()
    for number, status in ((1, "200 OK"), (2, "404 Not Found")):
        upward = to_core(send(world, numbered(emergency(flow, method="OPTIONS"), number), flow))
        world.proxy.handle(Received(parse(answer(upward, status)), CORE), world.now)
        until_silent(world, 60)
    until_silent(world, 10)
    assert len(world.proxy.registrar) == 0, "the first is over, and so the guest is forgotten"
    assert statuses(send(world, numbered(emergency(flow, method="OPTIONS"), 2), flow)) == [404], "repeated"
    assert len(world.proxy.registrar) == 0


def test_a_guest_is_forgotten_with_a_call_that_nobody_ends() -> None:
    """Neither BYE nor session timer: the place of the guest was taken for ever."""
    world, flow = world_of(EmergencyMode.ROUTE, unregistered=True), clear()
    contact = header("Contact", "<sip:10.45.9.9>")
    invite = emergency(flow)
    invite = invite.with_headers((*invite.headers, contact))
    up = to_core(send(world, invite, flow))
    world.proxy.handle(Received(parse(answer(up, "200 OK")), CORE), world.now)
    until_silent(world, 5 * 3600)
    assert world.proxy.load.dialogs == 1 and len(world.proxy.registrar) == 1
    until_silent(world, 2 * 3600)
    assert world.proxy.load == (0, 0, 0) and len(world.proxy.registrar) == 0


def test_values_without_end_are_not_kept_by_caches() -> None:
    """Step 1, 5: each has so many entries, of so many octets."""
    long = "x" * 3000
    kept = passage._route_uri.cache_info().currsize
    assert passage.route_uri(f"<sip:h;x={long}>").host == "h"
    assert passage._route_uri.cache_info().currsize == kept
    assert (passage._host_in.cache_info().maxsize or 0) * 32_768 < 1 << 22, "as long as a whole message may be"
    vias = fields._via.cache_info().currsize
    assert fields.parse_via(f"SIP/2.0/UDP 10.45.0.2;branch=z9hG4bK{long}").host == "10.45.0.2"
    assert fields._via.cache_info().currsize == vias
    world = world_of()
    world.proxy.handle(Tick(), world.now)
    world.proxy.hops.to_uri(f"sip:10.46.0.2;x={long}", lambda ways: None)
    assert not any(long in uri for uri in world.proxy.hops._literals)


def test_a_peer_makes_up_no_label_without_end() -> None:
    """Step 1, 5: what is counted by method and status has a number for each that is registered, and few more."""
    tally = Tally()
    for status in range(200, 700):
        tally.answered(f"X{status}", status)
        tally.answered("INVITE", status)
    assert tally.outcomes["INVITE", 299] == 0 < tally.outcomes["INVITE", 200] and tally.outcomes["OTHER", 486] == 1
    assert len(tally.outcomes) < 200 and tally.outcomes.total() == 1000


# 7: no more comes back than was sent


def emergency(flow: Flow, *, method: str = "INVITE", padding: int = 0) -> Request:
    text = (
        f"{method} urn:service:sos SIP/2.0\r\nVia: SIP/2.0/UDP {flow.remote};branch=z9hG4bK1\r\n"
        f"From: <sip:a@h>;tag=1\r\nTo: <urn:service:sos>\r\nCall-ID: c{'x' * padding}\r\nCSeq: 1 {method}\r\n\r\n"
    )
    message = parse(text.encode())
    assert isinstance(message, Request)
    return message


def until_silent(world: World, seconds: float = 400) -> list[Send]:
    """What timers send."""
    end, sent = world.now + seconds, []
    while (deadline := world.proxy.deadline) is not None and deadline <= end:
        world.now = max(world.now, deadline)
        sent += [action for action in world.proxy.handle(Tick(), world.now) if isinstance(action, Send)]
    world.now = end
    return sent


@pytest.mark.parametrize(
    ("mode", "unregistered", "status"),
    [
        (EmergencyMode.ALTERNATIVE, False, 380),
        (EmergencyMode.ROUTE, False, 403),
        (EmergencyMode.REFUSE, False, 403),
    ],
)
def test_a_spoofed_invite_gets_one_answer_a_datagram(mode: EmergencyMode, unregistered: bool, status: int) -> None:
    """Step 1, 7: no timer G to an address that has not proven itself; a retransmission is answered again."""
    world, flow = world_of(mode, unregistered=unregistered), clear()
    (sent,) = send(world, emergency(flow), flow)
    assert statuses([sent]) == [status] and len(sent.data) <= LONGEST
    assert (b"<type>emergency</type>" in sent.data) is (status == 380), "it says what to do"
    assert send(world, emergency(flow), flow) == [sent]
    assert until_silent(world) == []
    assert send(world, emergency(flow, method="ACK"), flow) == []
    assert world.proxy.load == (0, 0, 0) and len(world.proxy.registrar) == 0


@pytest.mark.parametrize(("padding", "sent_at_all"), [(850, True), (3000, False)])
def test_no_answer_is_longer_than_1200(padding: int, sent_at_all: bool) -> None:
    """Step 1, 7: first the body goes; where what must be copied is too long by itself nothing is sent."""
    world, flow = world_of(), clear()
    sent = send(world, emergency(flow, padding=padding), flow)
    assert len(sent) == sent_at_all
    if sent:
        response = parse(sent[0].data)
        assert len(sent[0].data) <= LONGEST and not response.body and response.first("content-length") == "0"
        assert not response.lines("content-type") and statuses(sent) == [380]
    whole = send(world, emergency(flow, padding=padding), flow._replace(transport="TCP"))
    assert parse(whole[0].data).body, "a connection has proven where it comes from"


def test_other_requests_in_clear_get_one_short_answer() -> None:
    """Step 1, 7."""
    world, flow = world_of(), clear()
    for method in ("MESSAGE", "OPTIONS", "SUBSCRIBE", "INVITE"):
        request = replace(emergency(flow, method=method), uri="sip:bob@home")
        assert statuses(send(world, request, flow)) == [403]
        long = replace(emergency(flow, method=method, padding=3000), uri="sip:bob@home")
        assert send(world, long, flow) == []
    assert until_silent(world) == [] and world.proxy.load.transactions == 0


def test_no_timer_repeats_answers_to_a_guest() -> None:
    """Step 1, 7: a routed emergency caller that is not registered is answered when it asks, and kept until then."""
    world, flow = world_of(EmergencyMode.ROUTE, unregistered=True), clear()
    trying, invite = send(world, emergency(flow), flow)
    assert statuses([trying]) == [100] and len(trying.data) <= LONGEST
    assert send(world, emergency(flow), flow) == [trying], "one for each datagram"
    busy = answer(to_core([invite]), "486 Busy Here")
    got = world.proxy.handle(Received(parse(busy), CORE), world.now)
    assert statuses([each for each in got if isinstance(each, Send) and each.flow == flow]) == [486]
    assert statuses(send(world, emergency(flow), flow)) == [486]
    assert until_silent(world) == []
    assert world.proxy.load == (0, 0, 0) and len(world.proxy.registrar) == 0


def test_a_registered_contact_in_clear_is_answered_until_it_says_so() -> None:
    """It has shown where it is: timer G as RFC 3261 17.2.1 has it."""
    world = World(without=Without.ADMIT)
    phone = Phone(world)
    phone.security_server = "x;port-s=5060"
    world.receive(phone.register(security=""), phone.clear)
    world.receive(ok(world.at_core()), CORE)
    world.sent.clear()
    world.receive(phone.request("INVITE", route="<sip:evil;lr>"), phone.clear)
    world.wait(200)
    assert [message.status for _, message in world.sent if isinstance(message, Response)] == [400] * 11


# 8: dialogs


@pytest.fixture
def world() -> World:
    return world_of(EmergencyMode.ROUTE, transactions=10_000, transactions_per_source=1000)


@pytest.fixture
def phone(world: World) -> Phone:
    phone = Phone(world)
    phone.registered()
    return phone


def call(world: World, phone: Phone, number: int, uri: str = "sip:bob@home", status: str = "200 OK") -> int:
    """A call of the phone; the answer it gets."""
    world.receive(phone.request("INVITE", uri, call_id=f"call{number}"), phone.uplink)
    requests = [message for flow, message in world.sent if flow == CORE and isinstance(message, Request)]
    if requests:
        world.receive(answer(requests[0], status, record=True), CORE)
    _, last = world.sent[-1]
    world.sent.clear()
    assert isinstance(last, Response)
    return last.status


def subscribe(world: World, phone: Phone, number: int) -> int:
    world.receive(phone.request("SUBSCRIBE", call_id=f"sub{number}", extra="Event: presence\r\n"), phone.uplink)
    if isinstance(world.sent[-1][1], Request):
        world.receive(answer(world.at_core(), "200 OK", "Expires: 3600\r\n", record=True), CORE)
    return world.at_phone()[1].status


def test_one_invite_makes_few_dialogs(world: World, phone: Phone) -> None:
    """Step 1, 8: of 500 answers with 500 tags 16 make a dialog; the others are dropped, but a 2xx gets through."""
    world.receive(phone.request("INVITE"), phone.uplink)
    invite = world.sent[-1][1]
    assert isinstance(invite, Request)
    world.sent.clear()
    for number in range(500):
        world.receive(answer(invite, "180 Ringing", tag=f"t{number}", record=True), CORE)
    assert len(world.sent) == len(world.proxy.dialogs) == MOST_FORKS
    assert "dropped" in world.problems[-1]
    world.sent.clear()
    world.receive(answer(invite, "200 OK", tag="t499", record=True), CORE)
    assert world.at_phone()[1].status == 200 and len(world.proxy.dialogs) == MOST_FORKS
    assert [each.key.peer_tag for each in world.proxy.dialogs if not each.early] == ["t499"]
    world.receive(phone.request("BYE", call_id="call1", to_tag="t499", cseq=2, route=None), phone.uplink)
    world.sent.clear()
    for number in range(500):
        world.receive(answer(invite, "200 OK", tag=f"o{number}", record=True), CORE)
    assert len(world.proxy.dialogs) == MOST_FORKS


def test_a_ue_makes_few_dialogs_of_one_invite(world: World, phone: Phone) -> None:
    """Step 1, 8: likewise where the callee is ours."""
    (contact,) = world.proxy.registrar
    world.receive(from_core("INVITE", contact), CORE)
    invite = next(message for _, message in world.sent if isinstance(message, Request))
    world.sent.clear()
    for number in range(100):
        world.receive(answer(invite, "183 Session Progress", tag=f"t{number}"), phone.downlink)
    assert len(world.sent) == len(world.proxy.dialogs) == MOST_FORKS


def test_forks_of_one_call_are_one_call(world: World, phone: Phone) -> None:
    """Step 1, 8: six calls that ring at many phones leave room for a seventh."""
    for number in range(6):
        world.receive(phone.request("INVITE", call_id=f"fork{number}"), phone.uplink)
        invite = world.sent[-1][1]
        assert isinstance(invite, Request)
        for fork in range(MOST_FORKS):
            world.receive(answer(invite, "180 Ringing", tag=f"t{fork}", record=True), CORE)
        world.sent.clear()
    assert len(world.proxy.dialogs) == 6 * MOST_FORKS > MOST_OF_ONE
    assert call(world, phone, 7) == 200


def test_subscriptions_starve_no_call(world: World, phone: Phone) -> None:
    """Step 1, 8: the 65th SUBSCRIBE is refused, and calls go on in both directions."""
    assert [subscribe(world, phone, number) for number in range(MOST_OF_ONE + 1)] == [200] * MOST_OF_ONE + [503]
    assert call(world, phone, 1) == 200
    (contact,) = world.proxy.registrar
    world.receive(from_core("INVITE", contact), CORE)
    assert [message.method for _, message in world.sent if isinstance(message, Request)] == ["INVITE"]


def test_calls_starve_no_subscription_and_no_emergency(world: World, phone: Phone) -> None:
    """Step 1, 8: nor do emergency calls starve others; of too many the oldest is let go."""
    assert [call(world, phone, number) for number in range(MOST_OF_ONE + 1)] == [200] * MOST_OF_ONE + [503]
    (contact,) = world.proxy.registrar
    world.receive(from_core("INVITE", contact), CORE)
    assert world.take()[1].status == 486  # type: ignore[union-attr]
    assert subscribe(world, phone, 1) == 200
    for number in range(100, 101 + MOST_EMERGENCIES):
        assert call(world, phone, number, "urn:service:sos", "180 Ringing") == 180
    kept = [each.key.call_id for each in world.proxy.dialogs if each.emergency]
    assert kept == [f"call{number}" for number in range(101, 101 + MOST_EMERGENCIES)]


def test_emergencies_starve_no_call(world: World, phone: Phone) -> None:
    """Step 1, 8."""
    for number in range(MOST_OF_ONE + 1):
        assert call(world, phone, number, "urn:service:sos") == 200
    assert call(world, phone, 1000) == 200


def test_calls_that_ring_at_once_are_counted(world: World, phone: Phone) -> None:
    """Step 1, 8: what was let in before any had rung makes no dialog beyond the limit; its 2xx gets through."""
    invites = []
    for number in range(MOST_OF_ONE + 2):
        world.receive(phone.request("INVITE", call_id=f"call{number}"), phone.uplink)
        invites.append(world.sent[-1][1])
        world.sent.clear()
    for invite in invites:
        assert isinstance(invite, Request)
        world.receive(answer(invite, "180 Ringing", record=True), CORE)
    assert len(world.proxy.dialogs) == len(world.sent) == MOST_OF_ONE
    world.sent.clear()
    assert isinstance(invites[-1], Request)
    world.receive(answer(invites[-1], "200 OK", record=True), CORE)
    assert world.at_phone()[1].status == 200


def test_unanswered_requests_starve_no_emergency() -> None:
    """Step 1, 8: of a contact that has as many transactions as it may an emergency call is served all the same."""
    world = world_of(EmergencyMode.ROUTE)
    phone = Phone(world)
    phone.registered()
    for number in range(51):
        world.receive(phone.request("MESSAGE", call_id=f"waits{number}"), phone.uplink)
    assert isinstance(world.sent[-1][1], Response) and world.sent[-1][1].status == 503
    world.sent.clear()
    assert call(world, phone, 1, "urn:service:sos") == 200
    assert call(world, phone, 2) == 503


def test_a_psap_that_calls_back_finds_a_ue_that_is_busy(world: World, phone: Phone) -> None:
    """Step 1, 8: its call is an emergency call, too (RFC 7090)."""
    for number in range(MOST_OF_ONE):
        assert call(world, phone, number) == 200
    (contact,) = world.proxy.registrar
    world.receive(from_core("INVITE", contact, extra="Priority: psap-callback\r\n"), CORE)
    invite = next(message for _, message in world.sent if isinstance(message, Request))
    world.sent.clear()
    world.receive(answer(invite, "180 Ringing", tag="ue"), phone.downlink)
    assert len(world.proxy.dialogs) == MOST_OF_ONE + 1


def test_a_tag_of_the_callee_lets_nobody_past_the_limit(world: World, phone: Phone) -> None:
    """Step 1, 8: an INVITE with a To tag of no dialog begins one."""
    for number in range(MOST_OF_ONE):
        assert call(world, phone, number) == 200
    (contact,) = world.proxy.registrar
    world.receive(from_core("INVITE", contact, to_tag="made-up"), CORE)
    assert world.take()[1].status == 486  # type: ignore[union-attr]
