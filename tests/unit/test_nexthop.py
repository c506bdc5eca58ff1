"""Next hops by playbook: the real transactions, a clock set by hand, a core and a DNS made of lines of this file."""

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address

import pytest

from pcscf import hops, nexthop
from pcscf.hops import HOP_LIFE, Hop, HopEvent, HopState
from pcscf.nexthop import ConfiguredHop, HopSettings, NextHops, Then
from pcscf.observe import Problem
from pcscf.registrar import Registrar
from pcscf.signalling import Signalling
from pcscf.sip.message import Request, Response, response_to
from pcscf.sip.parse import parse
from pcscf.turn import Turn
from pcscf.vocabulary import Action, Flow, Interface, Note, Query, Resolve, Resolved, Send, Target
from xfrm.model import PortRange

OURS = (ip_address("10.46.0.1"), ip_address("fd00:46::1"))
INTERVAL = 30.0


def udp(remote: str, port: int = 5060) -> Flow:
    address = ip_address(remote)
    return Flow("UDP", Interface.MW, OURS[address.version == 6], 5060, address, port)


def tcp(remote: str, port: int = 5060) -> Flow:
    return udp(remote, port)._replace(transport="TCP", local_port=0)


A, B, C = udp("10.46.0.2"), udp("10.46.0.3"), udp("10.46.0.4")
HOME = Query("ims.example")


def server(address: str, priority: int = 1, weight: int = 1, transport: str = "UDP", port: int = 5060) -> Target:
    return Target(transport, ip_address(address), port, priority, weight)  # type: ignore[arg-type]


class NoUsers:
    """Nobody expects requests here."""

    def arrived(self, request: Request, transaction: object) -> None:
        raise AssertionError(request)

    def acknowledged(self, request: Request, flow: Flow) -> None:
        raise AssertionError(request)

    def ended(self, transaction: object) -> None:
        raise AssertionError(transaction)


class Core:
    """`NextHops` on a table. Keeps what it sent, asked and said; flows that waited come into `ways`."""

    def __init__(self, *home: str | ConfiguredHop, seed: int = 1, **changes: object) -> None:
        self.turn = Turn(random.Random(seed).randbytes)
        entries = tuple(
            each if isinstance(each, ConfiguredHop) else ConfiguredHop(uri=each, priority=priority)
            for priority, each in enumerate(home, start=1)
        )
        settings = replace(HopSettings(home=entries, addresses=OURS), **changes)  # type: ignore[arg-type]
        self.hops = NextHops(self.turn, settings)
        registrar = Registrar(
            self.turn,
            ports_ps=PortRange(first=5100, count=2),
            ports_pc=PortRange(first=5104, count=8),
            pending=100,
            pending_per_source=4,
        )
        self.signalling = Signalling(self.turn, registrar, limit=100, per_source=100)
        self.hops.use(self.signalling)
        self.now = 1000.0
        self.actions: list[Action] = self.turn.begin(self.now)
        self.log: list[Action] = []
        self.ways: list[list[Flow]] = []

    def turns(self) -> None:
        self.log += self.actions
        self.actions = self.turn.begin(self.now)

    def home(self) -> list[Flow] | None:
        """The ways home; None: the request waits."""
        return self._asked(self.hops.to_home)

    def uri(self, uri: str) -> list[Flow] | None:
        return self._asked(partial(self.hops.to_uri, uri))

    def _asked(self, ask: Callable[[Then], None]) -> list[Flow] | None:
        got: list[list[Flow]] = []
        waiting = [True]

        def then(flows: list[Flow]) -> None:
            (got if waiting else self.ways).append(flows)

        ask(then)
        waiting.clear()
        self.turns()
        return got[0] if got else None

    def resolved(self, query: Query, *targets: Target, ttl: float = 60, error: str = "") -> None:
        self.hops.resolved(Resolved(query, targets, ttl, error))
        self.turns()

    def wait(self, seconds: float) -> None:
        """Let time pass, ringing at each deadline."""
        end = self.now + seconds
        while True:
            times = [at for at in (self.hops.deadline, self.signalling.deadline) if at is not None and at <= end]
            if not times:
                break
            self.now = max(self.now, *times[:1], min(times))
            self.turns()
            self.signalling.expire(NoUsers())
            self.hops.expire()
            self.turns()
        self.now = end
        self.turns()

    def fail(self, flow: Flow, why: str = "no answer in 32 s", **more: float) -> None:
        self.hops.failed(flow, why, **more)
        self.turns()

    def work(self, flow: Flow) -> None:
        self.hops.answered(flow)
        self.turns()

    def disable(self, name: str) -> bool:
        return self._switched(self.hops.disable(name))

    def enable(self, name: str) -> bool:
        return self._switched(self.hops.enable(name))

    def _switched(self, known: bool) -> bool:
        assert not known or self.hops.deadline == self.now, "at once"
        self.hops.expire()
        self.turns()
        return known

    def probes(self) -> list[tuple[Flow, Request]]:
        """The probes since the last look, without retransmissions."""
        seen: dict[str, tuple[Flow, Request]] = {}
        for action in self.log:
            if isinstance(action, Send):
                message = parse(action.data)
                assert isinstance(message, Request) and message.method == "OPTIONS" and action.connect
                seen.setdefault(message.first("call-id") or "", (action.flow, message))
        self.log = [each for each in self.log if not isinstance(each, Send)]
        return list(seen.values())

    def answer(self, flow: Flow, request: Request, status: int = 200) -> None:
        response = response_to(request, status, to_tag="core")
        assert isinstance(response, Response)
        self.signalling.receive(response, flow, NoUsers())
        self.turns()

    def asked(self) -> list[Query]:
        found = [each.query for each in self.log if isinstance(each, Resolve)]
        self.log = [each for each in self.log if not isinstance(each, Resolve)]
        return found

    def problems(self) -> list[str]:
        found = [each.record.detail for each in self.log if isinstance(each, Note) and isinstance(each.record, Problem)]
        self.log = [each for each in self.log if not isinstance(each, Note)]
        return found

    def hop(self, flow: Flow) -> Hop:
        return next(each for each in self.hops.hops() if each.flow == flow)

    def state(self, flow: Flow) -> HopState:
        return self.hop(flow).state


def two(**changes: object) -> Core:
    return Core("sip:10.46.0.2", "sip:10.46.0.3", **changes)  # type: ignore[arg-type]


# Order


def test_lowest_priority_first() -> None:
    assert two().home() == [A, B]
    swapped = Core(ConfiguredHop(uri="sip:10.46.0.2", priority=7), ConfiguredHop(uri="sip:10.46.0.3", priority=2))
    assert swapped.home() == [B, A]


def test_weights_share_the_load_within_a_priority() -> None:
    core = Core(
        ConfiguredHop(uri="sip:10.46.0.2", weight=3),
        ConfiguredHop(uri="sip:10.46.0.3", weight=1),
        ConfiguredHop(uri="sip:10.46.0.4", weight=0),
        ConfiguredHop(uri="sip:10.46.0.5", priority=2, weight=1000),
    )
    firsts: Counter[Flow] = Counter()
    for _ in range(4000):
        ways = core.home()
        assert ways is not None and set(ways[:3]) == {A, B, C} and ways[3] == udp("10.46.0.5")
        firsts[ways[0]] += 1
    # Of 0..4 drawn, 0 is the hop without weight, 1 to 3 the first, 4 the second (RFC 2782).
    assert 2200 < firsts[A] < 2600 and 650 < firsts[B] < 950 and 650 < firsts[C] < 950


def test_one_hop_twice_is_one_way() -> None:
    assert Core("sip:10.46.0.2", "sip:10.46.0.2:5060;transport=udp").home() == [A]


def test_settings_of_one_flow() -> None:
    for flow in (A, tcp("10.46.0.2", 5070), udp("fd00:46::2")):
        turn = Turn(random.Random(1).randbytes)
        got: list[list[Flow]] = []
        lonely = NextHops(turn, HopSettings.only(flow))
        lonely.to_home(got.append)
        assert got == [[flow]] and lonely.deadline is None


# URIs


@pytest.mark.parametrize(
    ("uri", "flow"),
    [
        ("sip:orig@10.46.0.2;lr", A),
        ("sip:orig@10.46.0.2:6060;lr", udp("10.46.0.2", 6060)),
        ("sip:10.46.0.2;transport=TCP;lr", tcp("10.46.0.2")),
        ("sip:10.46.0.2;transport=udp", A),
        ("sip:[fd00:46::2];lr", udp("fd00:46::2")),
        ("sip:10.46.0.1:5070", udp("10.46.0.1", 5070)),
    ],
)
def test_an_address_is_known_at_once(uri: str, flow: Flow) -> None:
    core = two()
    assert core.uri(uri) == [flow] and not core.asked() and not core.problems()


def test_the_configured_transport_is_taken_where_the_uri_does_not_say() -> None:
    core = two(transport="TCP")
    assert core.home() == [tcp("10.46.0.2"), tcp("10.46.0.3")] and core.uri("sip:10.46.0.9") == [tcp("10.46.0.9")]
    core.uri("sip:ims.example:5070")
    core.uri("sip:ims.example;transport=udp")
    core.uri("sip:IMS.example.")
    assert core.asked() == [Query("ims.example", 5070, "TCP"), Query("ims.example", 0, "UDP"), HOME]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sips:10.46.0.2", "only sip: is served toward the core, not sips"),
        ("tel:+15551230001", "not tel"),
        ("mailto:x@y", "not supported"),
        ("sip:10.46.0.2;maddr=10.9.9.9", "maddr"),
        ("sip:10.46.0.2;transport=sctp", "transport sctp"),
        ("sip:10.46.0.2;transport", "transport "),
        ("sip:10.46.0.2:99999", "port"),
        ("sip:.", "no host"),
        ("", "no URI"),
        ("sip:10.46.0.1:5060", "10.46.0.1:5060 cannot be reached"),
        ("sip:0.0.0.0", "0.0.0.0:5060 cannot be reached"),
        ("sip:224.0.1.75", "224.0.1.75:5060 cannot be reached"),
        ("sip:[::ffff:10.46.0.2]", "cannot be reached"),
    ],
)
def test_refused_uris_are_named(uri: str, words: str) -> None:
    core = two()
    assert core.uri(uri) == []
    (problem,) = core.problems()
    assert words in problem and problem.startswith("no next hop: ")


def test_a_family_without_address_of_ours() -> None:
    core = two(addresses=OURS[:1])
    assert core.uri("sip:[fd00:46::2]") == [] and "[fd00:46::2]:5060 cannot be reached" in core.problems()[0]
    core.uri("sip:ims.example")
    core.resolved(HOME, server("fd00:46::2"), server("10.46.0.2", 2))
    assert core.ways == [[A]]


# States


def test_a_failed_hop_comes_last_and_a_good_probe_brings_it_back() -> None:
    core = two(probe_interval=INTERVAL)
    core.wait(0)
    for flow, request in core.probes():
        core.answer(flow, request)
    core.fail(A)
    assert core.home() == [B, A] and core.state(A) is HopState.PROBING and core.hop(A).words == "no answer in 32 s"
    assert core.problems() == ["next hop 10.46.0.2:5060/udp is probing now: no answer in 32 s"]
    core.wait(0)
    ((flow, request),) = core.probes()
    assert flow == A
    core.answer(flow, request)
    assert core.home() == [A, B] and core.problems() == [
        "next hop 10.46.0.2:5060/udp is active now: a probe was answered"
    ]


def test_what_a_probe_looks_like() -> None:
    core = Core("sip:[fd00:46::2]:5070;transport=tcp", probe_interval=INTERVAL)
    core.wait(0)
    ((flow, request),) = core.probes()
    assert flow == tcp("fd00:46::2", 5070) and request.uri == "sip:[fd00:46::2]:5070;transport=tcp"
    assert request.first("max-forwards") == "0" and request.first("cseq") == "1 OPTIONS"
    via = request.first("via") or ""
    assert via.startswith("SIP/2.0/TCP [fd00:46::1]:5060;branch=z9hG4bK")
    assert (request.first("from") or "").startswith("<sip:[fd00:46::1]:5060>;tag=")
    assert request.first("to") == "<sip:[fd00:46::2]:5070;transport=tcp>"


@pytest.mark.parametrize("status", [200, 404, 405, 483, 500, 501, 600])
def test_any_final_answer_shows_life(status: int) -> None:
    core = Core("sip:10.46.0.2", probe_interval=INTERVAL)
    core.fail(A)
    core.wait(0)
    ((flow, request),) = core.probes()
    core.answer(flow, request, 100)
    assert core.state(A) is HopState.PROBING
    core.answer(flow, request, status)
    assert core.state(A) is HopState.ACTIVE


@pytest.mark.parametrize("status", [408, 503])
def test_answers_that_show_no_life(status: int) -> None:
    core = Core("sip:10.46.0.2", probe_interval=INTERVAL)
    core.wait(0)
    ((flow, request),) = core.probes()
    core.answer(flow, request, status)
    assert core.state(A) is HopState.PROBING and f"answered {status}" in core.hop(A).words


def test_probes_in_vain_make_a_hop_inactive_and_it_is_offered_where_nothing_else_is_left() -> None:
    core = two(probe_interval=INTERVAL)
    core.fail(A)
    for number in range(1, hops.PROBES + 1):
        assert core.state(A) is HopState.PROBING
        core.wait(0)
        sent = dict(core.probes())
        assert A in sent and core.hop(A).probes == number
        if B in sent:
            core.answer(B, sent[B])
        core.wait(32)
        core.probes()
        assert core.hop(A).probes_failed == number and "no answer" in core.hop(A).words
        if number < hops.PROBES:
            core.wait(INTERVAL - 0.001)
            for flow, request in core.probes():
                assert flow == B
                core.answer(flow, request)
            core.now += 0.001
    assert core.state(A) is HopState.INACTIVE and core.home() == [B]
    core.disable("10.46.0.3:5060/udp")
    assert core.home() == [A]
    core.wait(INTERVAL)
    ((flow, request),) = core.probes()
    assert flow == A
    core.answer(flow, request)
    core.enable("10.46.0.3:5060/udp")
    assert core.home() == [A, B], "back where it was"


def test_active_hops_are_probed_at_the_interval() -> None:
    core = two(probe_interval=INTERVAL)
    for _ in range(4):
        core.wait(0)
        sent = core.probes()
        assert [flow for flow, _ in sent] == [A, B]
        for flow, request in sent:
            core.answer(flow, request)
        core.wait(INTERVAL - 0.5)
        assert core.probes() == []
        core.now += 0.5
    ids = {request.first("call-id") for _, request in sent}
    assert len(ids) == 2 and core.hop(A).probes == 4 and core.hop(A).probes_failed == 0


def test_an_active_hop_whose_probe_is_lost_is_failed() -> None:
    core = two(probe_interval=INTERVAL)
    core.wait(0)
    _, (flow, request) = core.probes()
    core.answer(flow, request)
    core.wait(32)
    assert core.state(A) is HopState.PROBING and core.home() == [B, A]


def test_the_probe_that_shows_a_failure_counts_among_those_in_vain() -> None:
    core = Core("sip:10.46.0.2", probe_interval=INTERVAL)
    core.wait(hops.PROBES * 32 + (hops.PROBES - 1) * INTERVAL)
    assert core.hop(A).probes_failed == hops.PROBES and core.state(A) is HopState.INACTIVE


def test_a_lost_connection_fails_the_probe() -> None:
    core = Core("sip:10.46.0.2;transport=tcp", probe_interval=INTERVAL)
    core.wait(0)
    ((flow, _),) = core.probes()
    core.signalling.flow_lost(flow)
    assert core.state(flow) is HopState.PROBING and "cannot be reached" in core.hop(flow).words
    core.wait(INTERVAL)
    assert len(core.probes()) == 1, "not at once: a refusal comes at once, too"


def test_without_probing_a_failed_hop_rests_and_the_next_request_is_the_probe() -> None:
    core = two()
    assert core.hops.deadline is None
    core.fail(A)
    assert core.home() == [B, A]
    core.wait(hops.REST - 1)
    assert core.home() == [B, A]
    core.wait(1)
    assert core.home() == [A, B] and not core.probes()


def test_a_request_that_is_answered_brings_a_hop_back() -> None:
    core = two()
    core.fail(A)
    core.work(A)
    assert core.home() == [A, B] and (core.hop(A).answered, core.hop(A).failed) == (1, 1)


@pytest.mark.parametrize("interval", [0.0, INTERVAL])
def test_a_hop_that_asks_for_rest_is_left_alone(interval: float) -> None:
    core = two(probe_interval=interval)
    core.wait(0)
    for flow, request in core.probes():
        core.answer(flow, request)
    core.fail(A, "503 Service Unavailable", rest=100)
    core.wait(99)
    assert core.state(A) is HopState.PROBING and A not in dict(core.probes())
    core.wait(1)
    assert (A in dict(core.probes())) if interval else core.home() == [A, B]


def test_no_hop_may_ask_for_rest_without_end() -> None:
    core = two()
    core.fail(A, "503 Service Unavailable", rest=1e9)
    core.wait(hops.LONGEST_REST)
    assert core.state(A) is HopState.ACTIVE


def test_the_operator_has_the_last_word() -> None:
    core = two(probe_interval=INTERVAL)
    core.wait(0)
    (flow, request), _ = core.probes()
    assert core.disable("10.46.0.2:5060/UDP") and core.disable("10.46.0.2:5060/udp")
    core.answer(flow, request)
    core.work(A)
    core.fail(A)
    assert core.state(A) is HopState.DISABLED and core.home() == [B]
    core.fail(B)
    core.wait(500)
    assert A not in dict(core.probes()) and core.home() == [B], "rather the inactive one"
    assert core.enable("10.46.0.2:5060/udp") and core.home() == [A]
    core.wait(0)
    assert A in dict(core.probes())
    assert not core.disable("10.46.0.99:5060/udp") and not core.enable("nonsense")


def test_all_disabled_is_nowhere_to_go() -> None:
    core = Core("sip:10.46.0.2")
    core.disable("10.46.0.2:5060/udp")
    core.problems()
    assert core.home() == [] and core.problems() == ["no next hop: 10.46.0.2:5060/udp is disabled"]


def drive(core: Core, event: HopEvent) -> None:
    """Let an event happen to hop A by its cause."""
    match event:
        case HopEvent.ANSWERED:
            core.hops.answered(A)
        case HopEvent.FAILED:
            core.hops.failed(A, "a test")
        case HopEvent.GIVEN_UP:
            core.hop(A).in_a_row = hops.PROBES - 1
            core.hops._hops.probed(core.hop(A), "a test")
        case HopEvent.RESTED:
            core.hop(A).alarm, core.hop(A).due = math.inf, core.now
            core.hops._hops._look_at(core.hop(A))
        case HopEvent.DISABLED:
            core.disable("10.46.0.2:5060/udp")
        case HopEvent.ENABLED:
            core.enable("10.46.0.2:5060/udp")


EXPECTED = {
    HopState.ACTIVE: "ACTIVE PROBING PROBING ACTIVE DISABLED ACTIVE",
    HopState.PROBING: "ACTIVE PROBING INACTIVE ACTIVE DISABLED PROBING",
    HopState.INACTIVE: "ACTIVE INACTIVE INACTIVE INACTIVE DISABLED INACTIVE",
    HopState.DISABLED: "DISABLED DISABLED DISABLED DISABLED DISABLED ACTIVE",
}
"""State -> the next state for each event in the order of HopEvent. A failed probe of an active hop is a failure."""


@pytest.mark.parametrize("state", HopState)
@pytest.mark.parametrize("event", HopEvent)
def test_every_row_of_the_table(state: HopState, event: HopEvent) -> None:
    core = Core("sip:10.46.0.2")
    core.hop(A).state = state
    drive(core, event)
    following = HopState[EXPECTED[state].split()[list(HopEvent).index(event)]]
    assert core.state(A) is following
    if following is not state:
        assert core.hop(A).since == core.now
        assert HOP_LIFE[state].get(event, HOP_LIFE[state].get(HopEvent.FAILED)) is following


# Names


def test_a_name_is_resolved_once_and_kept_for_its_ttl() -> None:
    core = Core("sip:ims.example")
    assert core.home() is None and core.home() is None
    assert core.asked() == [HOME], "one question for both"
    core.resolved(HOME, server("10.46.0.3", 2), server("10.46.0.2"), ttl=60)
    assert core.ways == [[A, B], [A, B]]
    core.wait(59)
    assert core.home() == [A, B] and not core.asked()
    core.wait(1)
    assert core.home() is None and core.asked() == [HOME]


@pytest.mark.parametrize(("ttl", "kept"), [(0.0, 5.0), (2.0, 5.0), (60.0, 60.0), (86_400.0, 3600.0)])
def test_ttl_is_honoured_within_reason(ttl: float, kept: float) -> None:
    core = Core("sip:ims.example")
    core.home()
    core.resolved(HOME, server("10.46.0.2"), ttl=ttl)
    core.wait(kept - 0.1)
    assert core.home() == [A]
    core.wait(0.1)
    assert core.home() is None


def test_a_name_that_does_not_exist_is_believed_for_a_while() -> None:
    core = Core("sip:ims.example")
    core.home()
    core.resolved(HOME, error="ims.example does not exist (NXDOMAIN)", ttl=30)
    assert core.ways == [[]]
    assert core.problems() == [
        "ims.example: ims.example does not exist (NXDOMAIN)",
        "no next hop: ims.example: ims.example does not exist (NXDOMAIN)",
    ]
    core.wait(29)
    assert core.home() == [] and core.asked() == [HOME], "asked once"
    core.wait(1)
    assert core.home() is None


def test_a_resolution_that_never_comes_is_given_up() -> None:
    core = Core("sip:ims.example", "sip:10.46.0.3")
    assert core.home() is None
    core.wait(9.9)
    assert core.ways == []
    core.wait(0.1)
    assert core.ways == [[B]] and core.problems() == ["ims.example: no answer in 10 s"]
    assert core.home() == [B], "no second wait at once"
    core.resolved(HOME, server("10.46.0.2"))
    assert core.home() == [A, B], "late is better than never"


def test_when_the_dns_is_gone_the_former_addresses_stay_in_use() -> None:
    core = Core("sip:ims.example")
    core.home()
    core.resolved(HOME, server("10.46.0.2"))
    core.wait(61)
    assert core.home() is None
    core.resolved(HOME, error="the DNS refuses", ttl=0)
    assert core.ways == [[A], [A]] and core.home() == [A]
    assert "its former addresses stay in use" in core.problems()[0]
    (answer,) = core.hops.names()
    assert answer.error == "the DNS refuses"
    core.wait(30)
    assert core.home() is None
    core.resolved(HOME, error="does not exist", ttl=30)
    assert core.ways[-1] == [], "what the DNS says itself is believed"


def test_the_order_of_names_and_addresses_is_that_of_their_priorities() -> None:
    core = Core("sip:10.46.0.4", "sip:ims.example", "sip:two.example;transport=tcp")
    assert core.home() is None
    assert core.asked() == [HOME, Query("two.example", 0, "TCP")]
    core.resolved(Query("two.example", 0, "TCP"), server("10.46.0.2", transport="TCP"))
    assert core.ways == [], "one is missing"
    core.resolved(HOME, server("10.46.0.3", 9), server("10.46.0.2", 3))
    assert core.ways == [[C, A, B, tcp("10.46.0.2")]]


def test_hops_learned_from_the_dns_have_states_and_are_forgotten() -> None:
    core = Core("sip:ims.example")
    core.home()
    core.resolved(HOME, server("10.46.0.2", 1), server("10.46.0.3", 2), ttl=3600)
    core.fail(A)
    assert core.home() == [B, A] and not core.hop(A).configured
    core.wait(hops.KEPT - 1)
    assert len(core.hops.hops()) == 2
    core.uri("sip:10.46.0.3")
    core.wait(2)
    assert [each.flow for each in core.hops.hops()] == [B], "only what was used is kept"
    core.wait(hops.KEPT)
    assert core.hops.hops() == [] and core.hops.deadline is None


def test_learned_entry_points_are_probed_and_other_servers_only_while_they_fail() -> None:
    core = Core("sip:ims.example", probe_interval=INTERVAL)
    core.home()
    core.resolved(HOME, server("10.46.0.2"), ttl=3600)
    assert core.uri("sip:10.46.0.3") == [B]
    core.wait(INTERVAL)
    ((flow, request),) = core.probes()
    assert flow == A
    core.answer(flow, request)
    core.fail(B)
    core.wait(0)
    ((flow, request),) = core.probes()
    assert flow == B
    core.answer(flow, request)
    core.wait(INTERVAL)
    assert [each for each, _ in core.probes()] == [A]


def test_another_server_is_probed_as_long_as_it_fails() -> None:
    core = Core("sip:10.46.0.2", probe_interval=INTERVAL)
    core.uri("sip:10.46.0.3")
    core.fail(B)
    core.wait(3 * (32 + INTERVAL))
    assert core.hop(B).probes == 4 and core.state(B) is HopState.INACTIVE


def test_a_disabled_hop_is_not_forgotten() -> None:
    core = Core("sip:10.46.0.2")
    core.uri("sip:10.46.0.3")
    core.disable("10.46.0.3:5060/udp")
    core.wait(2 * hops.KEPT)
    assert core.uri("sip:10.46.0.3") == []
    core.enable("10.46.0.3:5060/udp")
    core.wait(2 * hops.KEPT)
    assert [each.flow for each in core.hops.hops()] == [A]


# Limits


def test_requests_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nexthop, "WAITING", 3)
    core = Core("sip:ims.example", ConfiguredHop(uri="sip:10.46.0.3", priority=2))
    assert [core.home() for _ in range(4)] == [None, None, None, [B]], "what is known is better than nothing"
    assert core.uri("sip:other.example") == [] and core.asked() == [HOME]
    core.resolved(HOME, server("10.46.0.2"))
    assert core.ways == [[A, B]] * 3
    assert core.uri("sip:other.example") is None, "there is room again"


def test_questions_and_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nexthop, "ANSWERS", 3)
    core = Core("sip:10.46.0.2")
    asked = [core.uri(f"sip:h{number}.example") for number in range(5)]
    assert asked == [None, None, None, [], []] and len(core.asked()) == 3
    for number in range(3):
        core.resolved(Query(f"h{number}.example"), server("10.46.0.3"), ttl=100 + number)
    assert core.uri("sip:new.example") is None
    core.resolved(Query("new.example"), server("10.46.0.3"))
    assert {each.query.host for each in core.hops.names()} == {"h1.example", "h2.example", "new.example"}


def test_learned_hops_are_bounded_and_the_configured_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hops, "HOPS", 4)
    core = two(probe_interval=INTERVAL)
    core.disable("10.46.0.3:5060/udp")
    for number in range(10, 40):
        assert core.uri(f"sip:10.46.0.{number}") == [udp(f"10.46.0.{number}")]
        core.now += 0.001
        core.turns()
    kept = [each.flow for each in core.hops.hops()]
    assert kept[:2] == [A, B] and set(kept[2:]) == {udp("10.46.0.38"), udp("10.46.0.39")}
    core.wait(2 * hops.KEPT)
    assert [each.flow for each in core.hops.hops()] == [A, B]


def test_alarms_do_not_pile_up() -> None:
    core = two(probe_interval=INTERVAL)
    for _ in range(200):
        core.fail(A)
        core.work(A)
        core.home()
        core.wait(1)
    assert len(core.hops._hops._alarms) <= INTERVAL, "those of the last interval, not all 200"
