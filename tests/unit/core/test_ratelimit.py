"""What of a flood is written down, and what of others beside it."""

from ipaddress import ip_address

import pytest

from pcscf.observe import Attempt, MessageSeen, Problem, ProblemKind, Record, RegistrationChanged, SetChanged, SetEvent
from pcscf.ratelimit import NAMED, SOURCES, JournalLimit, LeftOut, Origin, Rate, RateLimit, Rates, origin_of
from pcscf.vocabulary import Flow, Interface
from xfrm.model import IPAddress

GM, UE = ip_address("10.45.0.1"), ip_address("10.45.0.2")
FLOW = Flow("UDP", Interface.GM, GM, 5060, UE, 5060)
MW = Flow("UDP", Interface.MW, GM, 5060, ip_address("10.46.0.2"), 5060)


def stranger(number: int) -> IPAddress:
    return ip_address((10 << 24) + (9 << 16) + number)


def limit() -> RateLimit:
    rates = Rates(Rate(3, 1), Rate(10, 2))
    return RateLimit(unusual=rates, usual=rates)


def test_each_source_and_all_of_them() -> None:
    it = limit()
    assert [it.admits(Origin("junk", "a"), 0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert it.admits(Origin("junk", "a"), 1.0) and not it.admits(Origin("junk", "a"), 1.5)
    assert it.admits(Origin("other", "a"), 1.5), "another kind has its own share"
    assert sum(it.admits(Origin("junk", str(number)), 2.0) for number in range(100)) == 10
    assert sum(it.admits(Origin("junk", str(number)), 7.0) for number in range(100)) == 10


def test_what_was_left_out_is_told_once_when_it_is_over_or_goes_on() -> None:
    it = limit()
    for number in range(8):
        it.admits(Origin("junk", "a"), number / 10)
    assert it.left_out(1.0) == []
    assert it.left_out(3.0) == [LeftOut("junk", 5, 1, "a")] and it.left_out(3.0) == []
    for number in range(130):
        it.admits(Origin("junk", "a"), 10 + number / 10)
        assert (it.left_out(10 + number / 10) != []) is (number == 103)
    it = limit()
    for number in range(3 * NAMED):
        it.admits(Origin("junk", number), 0.0)
    (told,) = it.left_out(5.0)
    assert str(told) == f"{3 * NAMED - 10} more of this kind were left out: junk, from {NAMED} or more sources"


def test_memory_is_bounded() -> None:
    it = limit()
    for number in range(3 * SOURCES):
        it.admits(Origin("junk", number), 0.0)
    assert len(it._each) == SOURCES and len(it._left["junk"].sources) == NAMED


def junk(number: int) -> list[Record]:
    """What an OPTIONS of a stranger in clear causes."""
    flow = FLOW._replace(remote=stranger(number))
    return [
        MessageSeen(0, True, flow, 0, "OPTIONS", f"junk{number}"),
        Problem(at=0, flow=flow, impi="", detail="in clear", kind=ProblemKind.IN_CLEAR),
        MessageSeen(0, False, flow, 0, "403 Forbidden", f"junk{number}"),
    ]


def registering(ue: IPAddress, call_id: str) -> list[Record]:
    """What a REGISTER in clear causes."""
    flow = FLOW._replace(remote=ue)
    return [
        MessageSeen(0, True, flow, 0, "REGISTER", call_id),
        Attempt(0, "alice", "sip:alice", ue, 0, call_id, False, "x"),
        MessageSeen(0, False, MW, 0, "REGISTER", call_id, f"branch of {ue} {call_id}"),
        MessageSeen(0, True, MW, 0, "401 Unauthorized", call_id, f"branch of {ue} {call_id}"),
        MessageSeen(0, False, flow, 0, "401 Unauthorized", call_id),
    ]


@pytest.mark.parametrize("sources", [1, 5000])
def test_junk_of_strangers_does_not_push_a_phone_out_of_the_journal(sources: int) -> None:
    """Step 1, 9: 20,000 messages in 100 seconds leave most of the journal to others."""
    it = JournalLimit(lambda flow: False)
    written = 0
    for number in range(20_000):
        now = number / 200
        written += sum(it.admits(record, now) for record in junk(number % sources))
        if number % 500 == 0:
            assert all(it.admits(record, now) for record in registering(UE, f"call{number}"))
    assert written < 5000
    told = sum(each.number for each in it.left_out(1000.0))
    assert 40_000 - written <= told <= 60_000 - written, "answers to what was left out need not be counted"


def test_what_a_left_out_register_causes_is_left_out_too_and_then_all_is_as_before() -> None:
    """Step 1, 9: a crowd that registers does not fill the journal by way of the core either."""
    it = JournalLimit(lambda flow: False)
    written = [[it.admits(record, 0.0) for record in registering(stranger(n), f"c{n}")] for n in range(5000)]
    assert [True] * 5 in written and written[-1] == [False] * 5
    assert len([each for each in written if each[2]]) == 2000
    protected = FLOW._replace(interface=Interface.GM_PROTECTED)
    assert it.admits(MessageSeen(0, True, protected, 7, "REGISTER", "c4999"), 0.0)
    assert it.admits(MessageSeen(0, False, MW, 0, "REGISTER", "c4999", "another"), 0.0), "the UE has come with its SA"
    assert it.admits(RegistrationChanged(at=0, impi="x", registered=True, detail=""), 0.0)
    late = MessageSeen(0, True, MW, 0, "401 Unauthorized", "c4999", f"branch of {stranger(4999)} c4999")
    assert not it.left_out(1.0) and not it.admits(late, 1.0)
    assert it.left_out(3.0) and it.admits(late, 3.0), "the flood is over"


def test_who_knows_a_call_id_does_not_have_the_call_left_out() -> None:
    """Step 1, 9: a stranger sends requests with the Call-ID of a call, or of a UE's REGISTER, over its rate."""
    it = JournalLimit(lambda flow: False)
    hostile = FLOW._replace(remote=stranger(1))
    protected = FLOW._replace(interface=Interface.GM_PROTECTED)
    for method in ("OPTIONS", "REGISTER", "INVITE", "BYE"):
        for _ in range(200):
            it.admits(MessageSeen(0, True, hostile, 0, method, "call"), 0.0)
        assert not it.admits(MessageSeen(0, True, hostile, 0, method, "call"), 0.0)
        for record in (
            MessageSeen(0, False, MW, 0, "INVITE", "call"),
            MessageSeen(0, True, MW, 0, "180 Ringing", "call"),
            MessageSeen(0, True, MW, 0, "BYE", "call"),
            MessageSeen(0, False, protected, 7, "BYE", "call"),
            MessageSeen(0, True, protected, 7, "REGISTER", "call"),
            MessageSeen(0, False, MW, 0, "REGISTER", "call", f"of the UE {method}"),
        ):
            assert it.admits(record, 0.0), (method, record)
        it.admits(MessageSeen(0, True, hostile, 0, "REGISTER", "call"), 0.0)
        assert it.admits(MessageSeen(0, True, MW, 0, "401 Unauthorized", "call", f"of the UE {method}"), 0.0)
        for each in registering(UE, "call"):
            it.admits(each, 0.0)
    written = [it.admits(record, 0.0) for record in registering(stranger(1), "call")]
    assert written == [False, False, False, False, True], "the last is the first answer in clear there"


def step(ue: IPAddress, number: int, event: SetEvent, *, unproven: bool) -> SetChanged:
    return SetChanged(
        at=0, impi="alice", ue=ue, set_id=number, event=event, state="temporary", spis=(1, 2, 3, 4), detail="",
        unproven=unproven,
    )  # fmt: skip


@pytest.mark.parametrize("sources", [1, 20_000])
def test_sets_that_nobody_proves_to_have_do_not_fill_the_journal(sources: int) -> None:
    """Step 1, 9: 600 REGISTERs in clear with a known IMPI wrote 1,201 steps in 6 s, and pushed everybody out."""
    it = JournalLimit(lambda flow: False)
    written = 0
    for number in range(20_000):
        now, ue = number / 200, stranger(number % sources)
        for event in (SetEvent.INSTALLED, SetEvent.SUPERSEDED):
            written += it.admits(step(ue, number, event, unproven=True), now)
            assert it.admits(step(ue, number, event, unproven=False), now), "those of who is inside ESP"
        assert it.admits(step(UE, number, SetEvent.AUTHENTICATED, unproven=False), now)
    assert written <= (600 if sources == 1 else 12_100)
    assert any(each.kind == "set of SAs that nobody has proven to have" for each in it.left_out(1000.0))


def test_the_log_has_shares_apart_for_sets_that_are_proven() -> None:
    """Step 1, 9."""
    kinds = {origin_of(step(UE, 1, SetEvent.INSTALLED, unproven=each)).kind for each in (True, False)}
    assert len(kinds) == 2


def test_a_contact_without_ipsec_and_what_is_inside_esp_are_always_written() -> None:
    it = JournalLimit({FLOW}.__contains__)
    message = MessageSeen(0, True, FLOW, 0, "MESSAGE", "x")
    protected = message._replace(flow=FLOW._replace(interface=Interface.GM_PROTECTED), spi=5)
    problem = Problem(at=0, flow=FLOW, impi="", detail="x")
    for record in (message, protected, problem):
        assert all(it.admits(record, 0.0) for _ in range(5000))
    for flow in (protected.flow, MW):
        hostile = Problem(at=0, flow=flow, impi="", detail="x", kind=ProblemKind.MALFORMED)
        assert all(it.admits(hostile, 0.0) for _ in range(5000)), "its messages are written, too"


def test_kinds_do_not_depend_on_what_peers_say() -> None:
    kinds = {origin_of(MessageSeen(0, True, FLOW, 0, f"M{number}", f"c{number}")).kind for number in range(100)}
    assert kinds == {"message in clear"}


def test_the_addresses_of_one_network_of_ipv6_are_one_source() -> None:
    """A UE has a whole /64: with an address for each datagram it would use up what there is for all."""
    it = JournalLimit(lambda flow: False)
    network = int(ip_address("2001:db8::"))
    flows = [FLOW._replace(remote=ip_address(network + number)) for number in range(1, 500)]
    assert sum(it.admits(MessageSeen(0, True, flow, 0, "REGISTER", str(flow)), 0.0) for flow in flows) == 50
    (told,) = it.left_out(10.0)
    assert str(told) == "449 more of this kind were left out: REGISTER in clear, from 2001:db8::/64"
