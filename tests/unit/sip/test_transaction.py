"""Playbooks of the four transaction machines: what goes in when, and all that must come out of it.

A playbook is a list of steps at absolute times. Between steps the clock fires every timer at its own deadline, so a
line of the expected log is also the proof that nothing else happened in between.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from pcscf.sip.message import Request, Response, response_to
from pcscf.sip.parse import ParseError, parse
from pcscf.sip.share import Share
from pcscf.sip.transaction import (
    CORE_TIMERS,
    GM_TIMERS,
    Answered,
    Arrived,
    Ended,
    Failed,
    Output,
    Refused,
    TimedOut,
    TimerProfile,
    Transaction,
    Transactions,
    Transmit,
)
from tests.instructions import instructions

UE, CORE = "the UE's flow", "the core's flow"


def request(
    method: str = "MESSAGE",
    *,
    branch: str = "z9hG4bK1",
    sent_by: str = "192.0.2.1:5060",
    uri: str = "sip:b@h",
    more: str = "",
) -> Request:
    text = (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {sent_by};branch={branch}\r\nVia: SIP/2.0/UDP 192.0.2.9\r\n"
        f"From: <sip:a@h>;tag=f\r\nTo: <sip:b@h>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n{more}\r\n"
    )
    message = parse(text.encode())
    assert isinstance(message, Request)
    return message


def answer(to: Request, status: int) -> Response:
    return response_to(to, status, to_tag="t")


@dataclass
class Play:
    """One transaction layer, a clock, and the log of what came out."""

    timers: TimerProfile = CORE_TIMERS
    reliable: bool = False
    limit: int = 100
    now: float = 0.0
    log: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layer: Transactions[str] = Transactions(limit=self.limit)

    def until(self, now: float) -> None:
        """Let time pass, firing every timer exactly when it is due."""
        while (deadline := self.layer.deadline) is not None and deadline <= now:
            self.now = max(self.now, deadline)
            self._note(list(self.layer.expire(deadline)))
        self.now = now

    def request(self, message: Request, flow: str = CORE) -> Transaction[str]:
        transaction, outputs = self.layer.request(
            message, flow, timers=self.timers, reliable=self.reliable, now=self.now
        )
        self._note(outputs)
        return transaction

    def receive(self, message: Request | Response, flow: str = UE, scope: str | None = None) -> Transaction[str] | None:
        outputs = self.layer.receive(
            message, flow, timers=self.timers, reliable=self.reliable, now=self.now, scope=scope
        )
        self._note(outputs)
        return next((output.transaction for output in outputs if isinstance(output, Arrived)), None)

    def respond(self, transaction: Transaction[str], status: int, flow: str | None = None) -> None:
        self._note(self.layer.respond(transaction, answer(transaction.request, status), self.now, flow=flow))

    def fail(self, transaction: Transaction[str]) -> None:
        self._note(self.layer.transport_failed(transaction, self.now))

    def _note(self, outputs: list[Output[str]]) -> None:
        for output in outputs:
            self.log.append((round(self.now, 3), describe(output)))

    def take(self) -> list[tuple[float, str]]:
        taken, self.log = self.log, []
        return taken

    @property
    def over(self) -> bool:
        return len(self.layer) == 0


def name(message: Request | Response) -> str:
    return message.method if isinstance(message, Request) else str(message.status)


def describe(output: Output[str]) -> str:
    match output:
        case Transmit(data, message, flow, again):
            assert data == message.to_bytes()
            return f"{'again' if again else 'send'} {name(message)} on {flow}"
        case Arrived(message, transaction):
            return f"arrived {message.method}{'' if transaction else ' without transaction'}"
        case Answered(response, transaction):
            return f"answered {response.status}{'' if transaction else ' without transaction'}"
        case Refused(message, flow):
            return f"refused {message.method} on {flow}"
        case TimedOut():
            return "timed out"
        case Failed():
            return "failed"
        case Ended():
            return "ended"


def at(times: list[float], text: str) -> list[tuple[float, str]]:
    return [(time, text) for time in times]


PROFILES = pytest.mark.parametrize("timers", [CORE_TIMERS, GM_TIMERS], ids=["core", "gm"])
TRANSPORTS = pytest.mark.parametrize("reliable", [False, True], ids=["unreliable", "reliable"])


def test_the_timers_of_gm_are_those_of_ts_24_229_7_7() -> None:
    assert (GM_TIMERS.t1, GM_TIMERS.t2, GM_TIMERS.t4, GM_TIMERS.timeout) == (2, 16, 17, 128)
    assert (CORE_TIMERS.t1, CORE_TIMERS.t2, CORE_TIMERS.t4, CORE_TIMERS.timeout) == (0.5, 4, 5, 32)


# Client, nobody answers: timers A and B, E and F.


@pytest.mark.parametrize(
    ("timers", "method", "repeats"),
    [
        (CORE_TIMERS, "INVITE", [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]),
        (CORE_TIMERS, "MESSAGE", [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]),
        (GM_TIMERS, "INVITE", [2, 6, 14, 30, 62, 126]),
        (GM_TIMERS, "MESSAGE", [2, 6, 14, 30, 46, 62, 78, 94, 110, 126]),
    ],
)
def test_an_unanswered_request_is_repeated_and_given_up(
    timers: TimerProfile, method: str, repeats: list[float]
) -> None:
    play = Play(timers)
    play.request(request(method))
    play.until(1000)
    end = timers.timeout
    expected = [(0, f"send {method} on {CORE}"), *at(repeats, f"again {method} on {CORE}")]
    assert play.take() == [*expected, (end, "timed out"), (end, "ended")]
    assert play.over and play.layer.deadline is None


@PROFILES
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_reliable_transport_is_trusted_until_the_end(timers: TimerProfile, method: str) -> None:
    play = Play(timers, reliable=True)
    play.request(request(method))
    play.until(1000)
    end = timers.timeout
    assert play.take() == [(0, f"send {method} on {CORE}"), (end, "timed out"), (end, "ended")]


# INVITE client


@PROFILES
@TRANSPORTS
def test_invite_client_refused(timers: TimerProfile, reliable: bool) -> None:
    play = Play(timers, reliable)
    sent = request("INVITE")
    play.request(sent)
    play.receive(answer(sent, 180), CORE)
    play.until(300)  # a 1xx ends both timers A and B (17.1.1.2)
    play.receive(answer(sent, 486), CORE)
    play.until(301)
    play.receive(answer(sent, 486), CORE)
    play.until(1000)
    ack, linger = f"send ACK on {CORE}", 0 if reliable else timers.timeout
    start = [(0, f"send INVITE on {CORE}"), (0, "answered 180"), (300, ack), (300, "answered 486")]
    if reliable:  # timer D is zero, and what comes after finds no transaction
        assert play.take() == [*start, (300, "ended"), (301, "answered 486 without transaction")]
    else:
        assert play.take() == [*start, (301, ack), (300 + linger, "ended")]


@PROFILES
@TRANSPORTS
def test_invite_client_accepted_passes_every_2xx_for_timer_m(timers: TimerProfile, reliable: bool) -> None:
    play = Play(timers, reliable)
    sent = request("INVITE")
    play.request(sent)
    play.receive(answer(sent, 200), CORE)
    play.until(1)
    play.receive(answer(sent, 200), CORE)
    play.receive(answer(sent, 486), CORE)  # a fork's late refusal: absorbed (RFC 6026 8.4)
    play.receive(answer(sent, 180), CORE)
    play.until(1000)
    play.receive(answer(sent, 200), CORE)
    assert play.take() == [
        (0, f"send INVITE on {CORE}"),
        (0, "answered 200"),
        (1, "answered 200"),
        (timers.timeout, "ended"),
        (1000, "answered 200 without transaction"),
    ]


def test_the_ack_to_a_failure_is_made_of_the_invite_and_the_failure() -> None:
    play = Play()
    sent = request("INVITE", uri="sip:b@h;x=1", more="Route: <sip:r1;lr>\r\nRoute: <sip:r2;lr>\r\nRequire: 100rel\r\n")
    play.request(sent)
    outputs = play.layer.receive(answer(sent, 404), CORE, timers=CORE_TIMERS, reliable=False, now=1)
    transmit = outputs[0]
    assert isinstance(transmit, Transmit)
    assert transmit.message.to_bytes().decode().split("\r\n") == [
        "ACK sip:b@h;x=1 SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1",
        "Max-Forwards: 70",
        "From: <sip:a@h>;tag=f",
        "Call-ID: c",
        "Route: <sip:r1;lr>",
        "Route: <sip:r2;lr>",
        "To: <sip:b@h>;tag=t",
        "CSeq: 1 ACK",
        "Content-Length: 0",
        "",
        "",
    ]


# Other clients


@PROFILES
@TRANSPORTS
@pytest.mark.parametrize("status", [200, 404])
def test_client_answered(timers: TimerProfile, reliable: bool, status: int) -> None:
    play = Play(timers, reliable)
    sent = request()
    play.request(sent)
    play.receive(answer(sent, status), CORE)
    play.until(0.1)
    play.receive(answer(sent, status), CORE)
    play.until(1000)
    start = [(0, f"send MESSAGE on {CORE}"), (0, f"answered {status}")]
    if reliable:
        assert play.take() == [*start, (0, "ended"), (0.1, f"answered {status} without transaction")]
    else:  # timer K absorbs repetitions
        assert play.take() == [*start, (timers.t4, "ended")]


@PROFILES
def test_client_goes_on_asking_slowly_after_a_1xx(timers: TimerProfile) -> None:
    play = Play(timers)
    sent = request()
    play.request(sent)
    play.receive(answer(sent, 100), CORE)
    play.until(1000)
    repeats = [timers.t1 + step * timers.t2 for step in range(8)]
    assert play.take() == [
        (0, f"send MESSAGE on {CORE}"),
        (0, "answered 100"),
        *at(repeats, f"again MESSAGE on {CORE}"),
        (timers.timeout, "timed out"),
        (timers.timeout, "ended"),
    ]


# INVITE server


@PROFILES
@TRANSPORTS
def test_invite_server_refuses(timers: TimerProfile, reliable: bool) -> None:
    play = Play(timers, reliable)
    came = request("INVITE")
    transaction = play.receive(came)
    assert transaction is not None
    play.receive(came)  # nothing sent yet that could be sent again
    play.respond(transaction, 100)
    play.receive(came)
    play.respond(transaction, 486)
    play.receive(came)
    play.until(timers.t1 * 2)
    play.receive(request("ACK"))
    play.receive(request("ACK"))
    play.receive(came)
    play.until(1000)
    start = [
        (0, "arrived INVITE"),
        (0, f"send 100 on {UE}"),
        (0, f"again 100 on {UE}"),
        (0, f"send 486 on {UE}"),
        (0, f"again 486 on {UE}"),
    ]
    log = play.take()
    if reliable:  # timer I is zero: the transaction ends with its ACK, the second ACK and INVITE find none
        end = timers.t1 * 2
        assert log[:8] == [
            *start,
            (end, "ended"),
            (end, "arrived ACK without transaction"),
            (end, "arrived INVITE"),
        ]
    else:
        assert log == [*start, (timers.t1, f"again 486 on {UE}"), (timers.t1 * 2 + timers.t4, "ended")]


@pytest.mark.parametrize(
    ("timers", "repeats"),
    [
        (CORE_TIMERS, [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]),
        (GM_TIMERS, [2, 6, 14, 30, 46, 62, 78, 94, 110, 126]),
    ],
)
@TRANSPORTS
def test_invite_server_gives_up_on_an_ack(timers: TimerProfile, repeats: list[float], reliable: bool) -> None:
    play = Play(timers, reliable)
    transaction = play.receive(request("INVITE"))
    assert transaction is not None
    play.respond(transaction, 403)
    play.until(1000)
    assert play.take() == [
        (0, "arrived INVITE"),
        (0, f"send 403 on {UE}"),
        *([] if reliable else at(repeats, f"again 403 on {UE}")),
        (timers.timeout, "timed out"),
        (timers.timeout, "ended"),
    ]


@PROFILES
@TRANSPORTS
def test_invite_server_accepts_and_stays_for_timer_l(timers: TimerProfile, reliable: bool) -> None:
    play = Play(timers, reliable)
    came = request("INVITE")
    transaction = play.receive(came)
    assert transaction is not None
    play.respond(transaction, 200)
    play.until(1)
    play.receive(came)  # absorbed: the user repeats its 2xx, not the transaction (RFC 6026 8.5)
    play.respond(transaction, 200)
    play.respond(transaction, 500)
    play.receive(request("ACK"))
    play.until(1000)
    assert play.take() == [
        (0, "arrived INVITE"),
        (0, f"send 200 on {UE}"),
        (1, f"send 200 on {UE}"),
        (1, "arrived ACK without transaction"),
        (timers.timeout, "ended"),
    ]


# Other servers


@PROFILES
@TRANSPORTS
@pytest.mark.parametrize("status", [200, 404])
def test_server(timers: TimerProfile, reliable: bool, status: int) -> None:
    play = Play(timers, reliable)
    came = request("REGISTER")
    transaction = play.receive(came)
    assert transaction is not None
    play.receive(came)
    play.respond(transaction, 100)
    play.receive(came)
    play.respond(transaction, status)
    play.respond(transaction, 500)  # a second final answer is absorbed
    if not reliable:
        play.until(timers.timeout - 1)
        play.receive(came)
    play.until(1000)
    last = timers.timeout - 1
    assert play.take() == [
        (0, "arrived REGISTER"),
        (0, f"send 100 on {UE}"),
        (0, f"again 100 on {UE}"),
        (0, f"send {status} on {UE}"),
        *([(0, "ended")] if reliable else [(last, f"again {status} on {UE}"), (timers.timeout, "ended")]),
    ]


# Flows


def test_an_answer_sent_again_takes_the_flow_it_took_before() -> None:
    play = Play(GM_TIMERS)
    came = request("REGISTER")
    transaction = play.receive(came, "from port_uc")
    assert transaction is not None
    play.respond(transaction, 401, flow="to port_us")
    play.receive(came, "from port_uc")
    assert play.take()[1:] == [(0, "send 401 on to port_us"), (0, "again 401 on to port_us")]


def test_an_invites_answer_is_repeated_by_the_timer_on_its_flow_too() -> None:
    play = Play(GM_TIMERS)
    transaction = play.receive(request("INVITE"), "from port_uc")
    assert transaction is not None
    play.respond(transaction, 183, flow="to port_us")
    play.respond(transaction, 486, flow="to port_us")
    play.until(2)
    assert play.take()[1:] == [
        (0, "send 183 on to port_us"),
        (0, "send 486 on to port_us"),
        (2, "again 486 on to port_us"),
    ]


# Which transaction is it?


@pytest.mark.parametrize(
    ("second", "scope"),
    [
        (request(), "another peer"),
        (request(branch="z9hG4bK2"), None),
        (request(sent_by="192.0.2.2:5060"), None),
        (request(sent_by="192.0.2.1:5061"), None),
        (request("OPTIONS"), None),
        (request("CANCEL"), None),
        (request("INVITE"), None),
    ],
    ids=["scope", "branch", "host", "port", "method", "cancel", "invite"],
)
def test_what_is_another_transaction(second: Request, scope: str | None) -> None:
    play = Play()
    play.receive(request())
    play.receive(second, scope=scope)
    assert len(play.layer) == 2
    assert [what for _, what in play.take()] == ["arrived MESSAGE", f"arrived {second.method}"]


def test_the_flow_is_no_part_of_it() -> None:
    """A peer may come back by another way: a UE on its next set of SAs, the core on another connection."""
    play = Play()
    play.receive(request())
    play.receive(request(), "another flow")
    assert len(play.layer) == 1


def test_an_answer_of_somebody_else_is_none() -> None:
    play = Play()
    play.request(request())
    play.receive(answer(request(), 200), scope="another peer")
    assert play.take()[-1] == (0, "answered 200 without transaction") and not play.over


def test_the_branch_alone_names_a_transaction_whatever_else_has_changed() -> None:
    play = Play()
    play.receive(request(uri="sip:b@h"))
    play.receive(request(uri="sip:other@h", more="X: y\r\n"))
    assert len(play.layer) == 1


@pytest.mark.parametrize("branch", ["z9hG4bK", "old", "Z9HG4BKx"])
def test_a_branch_without_id_is_matched_as_in_rfc_2543(branch: str) -> None:
    play = Play()
    transaction = play.receive(request("INVITE", branch=branch))
    assert transaction is not None
    play.receive(request("INVITE", branch=branch))
    assert len(play.layer) == 1
    play.receive(request("INVITE", branch=branch, uri="sip:other@h"))  # the same branch on another call
    play.receive(request("INVITE", branch=branch), scope="another peer")
    assert len(play.layer) == 3
    play.respond(transaction, 486)
    play.receive(request("ACK", branch=branch))
    play.until(CORE_TIMERS.t4)
    assert len(play.layer) == 2
    assert play.take()[-1] == (CORE_TIMERS.t4, "ended")


def test_an_ack_from_another_peer_does_not_confirm() -> None:
    play = Play(reliable=True)
    transaction = play.receive(request("INVITE"))
    assert transaction is not None
    play.respond(transaction, 486)
    play.receive(request("ACK"), scope="another peer")
    assert play.take()[2:] == [(0, "arrived ACK without transaction")]
    assert not play.over


def test_a_response_belongs_to_the_request_with_its_branch_and_method() -> None:
    play = Play()
    invite, cancel = request("INVITE"), request("CANCEL")
    first, second = play.request(invite), play.request(cancel)
    got = [
        output.transaction
        for sent in (cancel, invite, request("INVITE", branch="z9hG4bK2"))
        for output in play.layer.receive(answer(sent, 200), CORE, timers=CORE_TIMERS, reliable=False, now=0)
        if isinstance(output, Answered)
    ]
    assert got == [second, first, None]


def test_a_request_of_ours_needs_a_branch() -> None:
    with pytest.raises(ParseError, match="branch"):
        Play().request(request(branch="old"))


def test_a_message_without_via_has_no_transaction() -> None:
    play = Play()
    for message in (request().without("via"), answer(request(), 200).without("via")):
        with pytest.raises(ParseError, match="Via"):
            play.receive(message)
    assert play.over


# Limits and failures


def test_a_new_request_beyond_the_limit_is_refused_and_leaves_nothing_behind() -> None:
    play = Play(limit=2)
    play.request(request("OPTIONS"))  # the limit is on what peers can make
    play.take()
    for number in range(3):
        play.receive(request(branch=f"z9hG4bK{number}"))
    assert [what for _, what in play.take()] == ["arrived MESSAGE", "arrived MESSAGE", f"refused MESSAGE on {UE}"]
    assert len(play.layer) == 3
    play.receive(request("ACK", branch="z9hG4bK9"))  # an ACK makes nothing
    assert [what for _, what in play.take()] == ["arrived ACK without transaction"]


def flood(play: Play, number: int, share: Share[Transaction[str]], peer: str) -> Transaction[str] | None:
    message = request(branch=f"z9hG4bK{peer}{number}")
    outputs = play.layer.receive(
        message, UE, timers=play.timers, reliable=False, now=play.now, share=share, peer=peer, scope=peer
    )
    play._note(outputs)
    return next((output.transaction for output in outputs if isinstance(output, Arrived)), None)


def test_a_peer_at_its_share_loses_what_it_was_answered_first() -> None:
    """Step 1, 5: a transaction with its final answer gives way; where all wait for one, the new request is refused."""
    play, share = Play(), Share[Transaction[str]](10, 2)
    first, second = (flood(play, number, share, "a") for number in range(2))
    assert first is not None and second is not None
    flood(play, 2, share, "a")
    play.take()
    play.respond(second, 200)
    third = flood(play, 3, share, "a")
    assert third is not None
    assert [what for _, what in play.take()] == [f"send 200 on {UE}", "ended", "arrived MESSAGE"]
    flood(play, 4, share, "b")
    assert [what for _, what in play.take()] == ["arrived MESSAGE"]
    play.respond(first, 200)
    play.respond(third, 200)
    play.until(1000)
    assert len(share) == 1 and share.peers == 1


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_refusal_that_is_forgotten_is_sent_once_for_each_request(method: str) -> None:
    """Step 1, 5 and 7: no transaction is left and no timer runs (RFC 3261 8.2.7)."""
    play = Play()
    for _ in range(2):
        transaction = play.receive(request(method))
        assert transaction is not None
        play._note(play.layer.respond(transaction, answer(transaction.request, 403), play.now, forget=True))
        assert [what for _, what in play.take()] == [f"arrived {method}", f"send 403 on {UE}", "ended"]
        assert play.over and play.layer.deadline is None


def test_nothing_is_repeated_to_an_address_that_may_be_forged() -> None:
    """Step 1, 7: no timer G; a retransmission is answered, and timer H ends it."""
    play = Play()
    received = partial(play.layer.receive, request("INVITE"), UE, timers=play.timers, reliable=False, unproven=True)
    (arrived,) = received(now=0)
    assert isinstance(arrived, Arrived) and arrived.transaction is not None
    play.respond(arrived.transaction, 486)
    play.until(10)
    play._note(received(now=10))
    play.until(1000)
    assert play.take() == [
        (0, f"send 486 on {UE}"), (10, f"again 486 on {UE}"), (32, "timed out"), (32, "ended"),
    ]  # fmt: skip


def test_alarms_of_what_is_over_cost_no_more_among_many() -> None:
    """Step 1, 10: they are taken out when there are as many as of the living, not after every few."""

    def churn(living: int) -> int:
        play = Play(limit=100_000)
        for number in range(living):
            play.request(request(branch=f"z9hG4bKlives{number}"))

        def work() -> None:
            for number in range(300):
                message = request(branch=f"z9hG4bK{number}")
                play.request(message)
                play.receive(answer(message, 200), CORE)
                play.now += 0.001

        return instructions(work)

    few, many = churn(50), churn(12_000)
    assert many < 1.3 * few, f"{few} instructions among 50, {many} among 12,000"


def test_an_alarm_of_what_is_over_keeps_no_message() -> None:
    """Step 1, 5: a transaction that gave way has its alarm for another two minutes."""
    play = Play(limit=2)
    over = []
    for number in range(6):
        asked = request(branch=f"z9hG4bK{number}")
        transaction = play.receive(asked)
        assert transaction is not None
        play.respond(transaction, 404)
        over.append(transaction)
    assert [bool(each.data) for each in over] == [False] * 4 + [True] * 2
    assert all(each.sent is None and not each.request.headers for each in over[:4])


def server(method: str, *statuses: int) -> Callable[[Play], Transaction[str]]:
    def play_it(play: Play) -> Transaction[str]:
        transaction = play.receive(request(method))
        assert transaction is not None
        for status in statuses:
            play.respond(transaction, status)
        return transaction

    return play_it


def client(method: str, *statuses: int) -> Callable[[Play], Transaction[str]]:
    def play_it(play: Play) -> Transaction[str]:
        transaction = play.request(request(method))
        for status in statuses:
            play.receive(answer(transaction.request, status), CORE)
        return transaction

    return play_it


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (client("INVITE"), None),
        (client("INVITE", 180), None),
        (client("INVITE", 486), None),  # its ACK could not be sent
        (client("INVITE", 200), CORE_TIMERS.timeout),
        (client("MESSAGE"), None),
        (client("MESSAGE", 100), None),
        (client("MESSAGE", 200), CORE_TIMERS.t4),
        (server("INVITE", 100), None),
        (server("INVITE", 486), None),
        (server("INVITE", 200), CORE_TIMERS.timeout),
        (server("MESSAGE", 100), None),
        (server("MESSAGE", 200), CORE_TIMERS.timeout),  # it stays, to answer a repetition once more
    ],
)
def test_a_transport_failure_ends_what_still_waits(
    begin: Callable[[Play], Transaction[str]], end: float | None
) -> None:
    play = Play()
    transaction = begin(play)
    play.take()
    play.fail(transaction)
    assert play.take() == ([(0, "failed"), (0, "ended")] if end is None else [])
    play.until(1000)
    assert play.take() == ([] if end is None else [(end, "ended")])
    assert play.over


def test_a_late_clock_fires_what_is_due_once() -> None:
    play = Play()
    play.request(request())
    play.take()
    play.now = 20
    play._note(list(play.layer.expire(20)))
    assert play.take() == [(20, f"again MESSAGE on {CORE}")]
    play._note(list(play.layer.expire(40)))
    assert [what for _, what in play.take()] == ["timed out", "ended"]
