"""The subscriptions to reg event, played against a core made of text, on a clock that is set by hand.

Transactions and next hops are the real ones, so that what is seen is what goes on the wire (digest C6, F7).
"""

import random
import re
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from pcscf.nexthop import ConfiguredHop, HopSettings, NextHops
from pcscf.observe import Problem
from pcscf.regevent import LINGER, NOTIFY_WAIT, RegEvents, RegEventSettings
from pcscf.reginfo import Change, ContactEvent, ContactTerminated, IdentityActive, IdentityTerminated, Shortened
from pcscf.registrar import Registrar
from pcscf.routing import CoreSide
from pcscf.signalling import Signalling
from pcscf.sip.message import Request, Response, header
from pcscf.sip.parse import parse
from pcscf.turn import Turn
from pcscf.vocabulary import Flow, Interface, Note, Resolve, Send
from xfrm.model import PortRange

IMPI = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
AOR = "sip:+15551230001@ims.mnc001.mcc001.3gppnetwork.org"
TEL = "tel:+15551230001"
CONTACT = "sip:10.45.0.2:31801"
PATH = "sip:term-8f3a@10.46.0.1:5060;lr"
CORE = Flow("UDP", Interface.MW, ip_address("10.46.0.1"), 5060, ip_address("10.46.0.2"), 5060)
OTHER = CORE._replace(remote=ip_address("10.46.0.3"))
NOTIFIER = CORE._replace(remote_port=6060)
ACCEPTED = "Expires: 600000\r\nContact: <sip:10.46.0.2:6060>\r\n"


def contact(event: str = "registered", *, state: str = "active", uri: str = CONTACT, expires: int = 540_000) -> str:
    """A contact as a real core writes it."""
    return (
        f'\t\t<contact id="0x7f27d5d20e58" state="{state}" event="{event}" expires="{expires}" q="0.500">\r\n'
        f'\t\t\t<uri>{uri}</uri>\r\n\t\t\t<unknown-param name="+g.3gpp.smsip"></unknown-param>\r\n\t\t</contact>\r\n'
    )


def registration(aor: str = AOR, *contacts: str, state: str = "active") -> str:
    inside = "".join(contacts or [contact()])
    return f'\t<registration aor="{aor}" id="{aor}" state="{state}">\r\n{inside}\t</registration>\r\n'


def reginfo(version: int, *registrations: str, state: str = "full") -> str:
    inside = "".join(registrations or [registration(AOR), registration(TEL)])
    return (
        f'<?xml version="1.0"?>\r\n<reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="{version}" '
        f'state="{state}">\r\n{inside}</reginfo>\r\n'
    )


@dataclass
class Table:
    """The subscriptions of a proxy and the core they talk to."""

    enabled: bool = True
    limit: int = 100
    home: tuple[str, ...] = ("sip:10.46.0.2:5060",)
    transport: str = "UDP"
    now: float = 1000.0
    sent: list[tuple[Flow, Request | Response]] = field(default_factory=list)
    changes: list[tuple[str, Change]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    end_on_change: bool = False
    cseq: int = 0
    branch: int = 0
    raw: set[bytes] = field(default_factory=set)
    """Every datagram that went out: the same again is a retransmission, and not looked at."""

    def __post_init__(self) -> None:
        self.turn = Turn(random.Random(1).randbytes)
        self.turn.begin(self.now)
        ports = PortRange(first=5100, count=2)
        registrar = Registrar(self.turn, ports_ps=ports, ports_pc=ports, pending=100, pending_per_source=4)
        self.signalling = Signalling(self.turn, registrar, limit=1000, per_source=100)
        homes = tuple(ConfiguredHop(uri=uri, priority=place) for place, uri in enumerate(self.home, 1))
        self.hops = NextHops(
            self.turn,
            HopSettings(home=homes, addresses=(CORE.local,), transport=self.transport),  # type: ignore[arg-type]
        )
        settings = RegEventSettings(
            core=CoreSide(port=5060, visited_network="visited.example"), enabled=self.enabled, limit=self.limit
        )
        self.events = RegEvents(self.turn, self.signalling, self.hops, settings, self.changed)

    def changed(self, impi: str, change: Change) -> None:
        self.changes.append((impi, change))
        if self.end_on_change:
            self.events.deregistered(impi)

    def taken(self) -> list[Change]:
        """What changed since the last look."""
        changes, self.changes = self.changes, []
        assert all(impi == IMPI for impi, _ in changes)
        return [change for _, change in changes]

    def begin(self) -> list[object]:
        return self.turn.begin(self.now)  # type: ignore[return-value]

    def end(self, actions: list[object]) -> None:
        for action in actions:
            match action:
                case Send(data, flow, _):
                    if data not in self.raw or data.startswith(b"SIP"):
                        self.sent.append((flow, parse(data)))
                    self.raw.add(data)
                case Note(Problem() as problem):
                    self.problems.append(problem.detail)
                case Resolve():
                    raise AssertionError("a name in a test with addresses")
                case _:
                    pass

    def registered(self, impi: str = IMPI, impu: str = f'"Alice" <{AOR}>', path: str = PATH) -> None:
        actions = self.begin()
        self.events.registered(impi, impu, path)
        self.end(actions)

    def deregistered(self, impi: str = IMPI) -> None:
        actions = self.begin()
        self.events.deregistered(impi)
        self.end(actions)

    def receive(self, data: str, flow: Flow) -> bool:
        """Let a message come as the proxy takes it; whether it was for the subscriptions."""
        message = parse(data.encode("utf-8", "surrogateescape"))
        actions = self.begin()
        ours = isinstance(message, Response) or self.events.owns(message)
        if ours:
            self.signalling.receive(message, flow, self.events)
        self.end(actions)
        return ours

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = [each for each in (self.events.deadline, self.signalling.deadline) if each is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            actions = self.begin()
            self.signalling.expire(self.events)
            self.events.expire()
            self.end(actions)
        self.now = end

    def subscribe(self, flow: Flow = CORE) -> Request:
        """The one SUBSCRIBE that went out since the last look."""
        assert [each for each, _ in self.sent] == [flow], self.sent
        ((_, message),) = self.sent
        self.sent.clear()
        assert isinstance(message, Request) and message.method == "SUBSCRIBE"
        return message

    def answer(self, request: Request, status: str = "200 OK", extra: str = ACCEPTED, *, flow: Flow = CORE) -> None:
        """Let the core answer a SUBSCRIBE."""
        copied = "".join(
            f"{each.line}\r\n" for each in request.headers if each.name in ("via", "from", "call-id", "cseq")
        )
        to = request.first("to") or ""
        to += "" if ";tag=" in to else ";tag=core"
        self.receive(f"SIP/2.0 {status}\r\n{copied}To: {to}\r\n{extra}Content-Length: 0\r\n\r\n", flow)

    def notify(
        self,
        request: Request,
        body: str = "",
        *,
        state: str = "active;expires=540000",
        tag: str = "core",
        extra: str = "",
        event: str = "reg",
        content: str = "application/reginfo+xml",
        cseq: int = 0,
        again: bool = False,
        contact: str = "<sip:10.46.0.2:6060>",
    ) -> Response | None:
        """Let the core notify in the dialog of a SUBSCRIBE, and give the answer; None: no dialog of ours."""
        self.cseq = cseq or self.cseq + 1
        self.branch += not again
        before = len(self.sent)
        to = request.first("from")
        ours = self.receive(
            f"NOTIFY sip:10.46.0.1:5060 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 10.46.0.2:6060;branch=z9hG4bK{self.branch}\r\n"
            f"Max-Forwards: 70\r\nFrom: <{AOR}>;tag={tag}\r\nTo: {to}\r\n"
            f"Call-ID: {request.first('call-id')}\r\nCSeq: {self.cseq} NOTIFY\r\n"
            f"Contact: {contact}\r\n{extra}"
            + f"Event: {event}\r\n" * bool(event)
            + f"Subscription-State: {state}\r\n" * bool(state)
            + f"Content-Type: {content}\r\n" * bool(body and content)
            + f"Content-Length: {len(body.encode())}\r\n\r\n{body}",
            NOTIFIER,
        )
        if not ours:
            return None
        flow, response = self.sent.pop(before)
        assert flow == NOTIFIER and isinstance(response, Response)
        return response

    def notified(self, request: Request, body: str = "", **more: object) -> None:
        response = self.notify(request, body, **more)  # type: ignore[arg-type]
        assert response is not None and response.status == 200, response

    def subscribed(self, version: int = 2) -> Request:
        """A user registers and its subscription works. Gives the first SUBSCRIBE."""
        self.registered()
        request = self.subscribe()
        self.answer(request)
        self.notified(request, reginfo(version))
        assert self.taken() == [IdentityActive(AOR), IdentityActive(TEL)]
        return request


def tag(value: str | None) -> str:
    found = re.search(r";tag=(\w+)", value or "")
    return found[1] if found else ""


# SUBSCRIBE


def test_the_first_registration_subscribes() -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    assert request.uri == AOR
    assert request.first("to") == f"<{AOR}>"
    assert re.fullmatch(r"<sip:10\.46\.0\.1:5060>;tag=\w+", request.first("from") or "")
    assert request.first("p-asserted-identity") == f"<{PATH}>"
    assert request.first("contact") == "<sip:10.46.0.1:5060>"
    assert request.first("event") == "reg"
    assert request.first("accept") == "application/reginfo+xml"
    assert request.first("expires") == "600000"
    assert request.first("max-forwards") == "70"
    assert request.first("route") is None
    assert (request.first("via") or "").startswith("SIP/2.0/UDP 10.46.0.1:5060;branch=z9hG4bK")
    assert "icid-value=" in (request.first("p-charging-vector") or "")
    assert 'orig-ioi="visited.example"' in (request.first("p-charging-vector") or "")
    assert len(request.first("call-id") or "") >= 16 and request.first("cseq") == "1 SUBSCRIBE"


def test_over_tcp_the_contact_says_so() -> None:
    table = Table(transport="TCP")
    table.registered()
    request = table.subscribe(CORE._replace(transport="TCP", local_port=0))
    assert request.first("contact") == "<sip:10.46.0.1:5060;transport=tcp>"
    assert (request.first("via") or "").startswith("SIP/2.0/TCP 10.46.0.1:5060;")


def test_a_registration_again_subscribes_no_second_time() -> None:
    table = Table()
    request = table.subscribed()
    table.registered()
    table.registered(path="sip:term-new@10.46.0.1:5060;lr")
    assert not table.sent
    table.wait(600_000)
    refresh = table.sent[0][1]
    assert refresh.first("call-id") == request.first("call-id")
    assert refresh.first("p-asserted-identity") == "<sip:term-new@10.46.0.1:5060;lr>"


def test_each_user_has_its_own() -> None:
    table = Table(limit=2)
    for impi in ("a", "b", "c"):
        table.registered(impi)
    assert len({message.first("call-id") for _, message in table.sent}) == len(table.sent) == len(table.events) == 2
    assert "there are 2 already" in table.problems[-1]
    table.deregistered("a")
    table.registered("c")
    assert len(table.events) == 2 and len(table.sent) == 3


def test_switched_off_nothing_is_sent() -> None:
    table = Table(enabled=False)
    table.registered()
    table.deregistered()
    assert not table.sent and table.events.deadline is None


def test_an_unreadable_default_identity() -> None:
    table = Table()
    table.registered(impu="<nonsense")
    table.registered(impu="<http://x>")
    assert not table.sent and len(table.events) == 0
    assert all("default identity is unreadable" in each for each in table.problems)


# Time


def test_refresh_600_s_before_the_end_in_the_dialog() -> None:
    table = Table()
    request = table.subscribed()
    table.wait(540_000 - 600 - 1)
    assert not table.sent
    table.wait(2)
    refresh = table.subscribe(NOTIFIER)
    assert refresh.uri == "sip:10.46.0.2:6060"
    assert refresh.first("call-id") == request.first("call-id")
    assert refresh.first("from") == request.first("from")
    assert refresh.first("to") == f"<{AOR}>;tag=core"
    assert refresh.first("cseq") == "2 SUBSCRIBE"
    assert refresh.first("p-asserted-identity") == f"<{PATH}>"
    table.answer(refresh, extra="Expires: 600000\r\n", flow=NOTIFIER)
    table.wait(599_399)
    assert not table.sent
    table.wait(2)
    assert table.subscribe(NOTIFIER).first("cseq") == "3 SUBSCRIBE"


@pytest.mark.parametrize(("granted", "at"), [(1200, 600), (1201, 601), (3600, 3000), (1000, 500), (100, 50), (4, 30)])
def test_when_a_subscription_is_refreshed(granted: int, at: int) -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    table.answer(request, extra=f"Expires: {granted}\r\nContact: <sip:10.46.0.2:6060>\r\n")
    table.notified(request, reginfo(0), state="active")
    table.wait(at - 0.1)
    assert not table.sent
    table.wait(0.2)
    assert len(table.sent) == 1


def test_a_notifier_may_shorten_it() -> None:
    table = Table()
    request = table.subscribed()
    table.notified(request, reginfo(3, state="partial"), state="active;expires=100")
    table.wait(49)
    assert not table.sent
    table.wait(2)
    table.subscribe(NOTIFIER)


def test_a_notifier_cannot_make_it_longer_than_asked_for() -> None:
    table = Table()
    request = table.subscribed()
    table.notified(request, state="active;expires=9999999")
    table.wait(599_401)
    table.subscribe(NOTIFIER)


def test_no_notify_after_the_answer() -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe())
    table.wait(NOTIFY_WAIT + 0.1)
    assert not table.sent and "again in 60 s: no NOTIFY told the whole state within 32 s" in table.problems[-1]
    table.wait(60)
    again = table.subscribe(NOTIFIER)  # in its dialog, so that the core does not come to hold two
    assert again.first("cseq") == "2 SUBSCRIBE"
    table.answer(again, flow=NOTIFIER)
    table.notified(again, reginfo(1))
    table.wait(7200)
    assert not table.sent


def test_alarms_do_not_pile_up() -> None:
    table = Table()
    request = table.subscribed()
    for version in range(4, 4000, 2):
        table.notified(request, reginfo(version, state="partial"))
        for flow, message in list(table.sent):
            assert isinstance(message, Request)
            table.sent.clear()
            table.answer(message, flow=flow)
            table.notified(request, reginfo(version + 1))
        table.wait(40)
    assert len(table.events._alarms) < 100
    assert len(table.events._attempts) <= 1


# Failures: the service goes on


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "489 Bad Event"])
def test_what_lasts_is_tried_once_an_hour(status: str) -> None:
    table = Table()
    table.registered()
    for _ in range(3):
        request = table.subscribe()
        table.answer(request, status, "")
        assert f"again in 3600 s: the core answered {status}" in table.problems[-1]
        assert AOR in table.problems[-1]
        table.wait(3599)
        assert not table.sent
        table.wait(1)
    assert table.subscribe().first("call-id") != request.first("call-id")


@pytest.mark.parametrize("status", ["481 Gone", "500 Server Internal Error", "302 Moved", "480 Away", "603 Decline"])
def test_others_are_tried_again_with_patience(status: str) -> None:
    table = Table()
    table.registered()
    for wait in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        request = table.subscribe()
        table.answer(request, status, "")
        assert f"again in {wait} s: the core answered {status}" in table.problems[-1]
        assert table.notify(request, reginfo(1)) is None  # refused is refused
        table.wait(wait - 1)
        assert not table.sent
        table.wait(1)
    request = table.subscribe()
    table.answer(request)
    table.notified(request, reginfo(0))
    table.notified(request, state="terminated;reason=giveup")
    assert "again in 60 s" in table.problems[-1]


def test_retry_after_is_heeded() -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe(), "503 Busy", "Retry-After: 900 (maintenance);duration=1\r\n")
    table.wait(899)
    assert not table.sent
    table.wait(1)
    table.subscribe()


def test_nobody_is_left_alone_for_longer_than_an_hour() -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe(), "500 No", "Retry-After: 999999\r\n")
    table.wait(3600)
    table.subscribe()


@pytest.mark.parametrize("seconds", ["99999999999999", "-1", "soon", "\u0665"])
def test_a_strange_retry_after(seconds: str) -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe(), "500 No", f"Retry-After: {seconds}\r\n")
    table.wait(60)
    table.subscribe()


def test_silence_goes_to_the_next_way_and_then_rests() -> None:
    table = Table(home=("sip:10.46.0.2", "sip:10.46.0.3"))
    table.registered()
    first = table.subscribe()
    table.wait(31.9)
    assert not table.sent
    table.wait(0.2)
    second = table.subscribe(OTHER)
    assert second.first("call-id") == first.first("call-id")
    assert second.first("via") != first.first("via") and second.first("cseq") == "2 SUBSCRIBE"
    table.wait(32)
    assert not table.sent and "again in 60 s: no answer in time from UDP 10.46.0.3:5060" in table.problems[-1]


def test_503_goes_to_the_next_way() -> None:
    table = Table(home=("sip:10.46.0.2", "sip:10.46.0.3"))
    table.registered()
    table.answer(table.subscribe(), "503 Busy", "")
    request = table.subscribe(OTHER)
    table.answer(request, flow=OTHER)
    table.notified(request, reginfo(0))
    assert not table.problems[1:] and table.taken()


def test_no_way_at_all() -> None:
    table = Table(home=())
    table.registered()
    assert not table.sent and "again in 60 s: there is no way to the core" in table.problems[-1]


def test_too_brief() -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe(), "423 Interval Too Brief", "Min-Expires: 700000\r\n")
    again = table.subscribe()
    assert again.first("expires") == "700000" and again.first("cseq") == "2 SUBSCRIBE"
    table.answer(again, extra="Expires: 700000\r\n")
    table.notified(again, reginfo(0), state="active")
    table.wait(699_000)
    assert not table.sent
    table.wait(401)
    assert table.subscribe(NOTIFIER).first("expires") == "700000"


@pytest.mark.parametrize("brief", ["", "Min-Expires: 600000\r\n", "Min-Expires: 9999999999\r\n", "Min-Expires: x\r\n"])
def test_too_brief_without_sense(brief: str) -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe(), "423 Interval Too Brief", brief)
    assert not table.sent and "again in 60 s" in table.problems[-1]


def test_too_brief_twice() -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe(), "423 Interval Too Brief", "Min-Expires: 700000\r\n")
    table.answer(table.subscribe(), "423 Interval Too Brief", "Min-Expires: 700001\r\n")
    assert not table.sent and "again in 60 s" in table.problems[-1]


def test_a_lost_dialog_is_made_anew() -> None:
    table = Table()
    request = table.subscribed(version=9)
    table.wait(539_401)
    refresh = table.subscribe(NOTIFIER)
    table.answer(refresh, "481 Subscription Does Not Exist", "", flow=NOTIFIER)
    anew = table.subscribe()
    assert anew.first("call-id") != request.first("call-id") and anew.first("to") == f"<{AOR}>"
    table.answer(anew)
    assert table.notify(request, reginfo(10)) is None
    table.notified(anew, reginfo(0, registration(AOR)))
    assert table.taken() == [IdentityTerminated(TEL, None)]  # it went while nobody told us


def test_a_refresh_that_fails_leaves_the_subscription() -> None:
    table = Table()
    request = table.subscribed()
    table.wait(539_401)
    table.answer(table.subscribe(NOTIFIER), "500 Trouble", "", flow=NOTIFIER)
    assert "again in 60 s" in table.problems[-1]
    table.notified(
        request, reginfo(3, registration(TEL, state="terminated"), state="partial"), state="active;expires=590"
    )
    assert table.taken() == [IdentityTerminated(TEL, None)]
    table.wait(294)
    assert not table.sent
    table.wait(2)
    assert table.subscribe(NOTIFIER).first("call-id") == request.first("call-id")


def test_a_refresh_that_fails_to_the_end_is_followed_by_a_new_subscription() -> None:
    table = Table()
    request = table.subscribed()
    table.wait(539_401)
    for _ in range(30):
        flow, message = table.sent.pop()
        table.sent.clear()
        assert isinstance(message, Request)
        table.answer(message, "500 Trouble", "", flow=flow)
        if message.first("call-id") != request.first("call-id"):
            assert table.now > 1000 + 540_000 and message.uri == AOR
            return
        table.wait(table.events.deadline - table.now if table.events.deadline else 0)
    raise AssertionError("no new subscription")


def test_accepted_for_no_time() -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe(), extra="Expires: 0\r\n")
    assert "accepted for 0 seconds" in table.problems[-1]


def test_an_answer_without_expires_or_with_a_longer_one() -> None:
    for extra in ("", "Expires: 9999999\r\n"):
        table = Table()
        table.registered()
        request = table.subscribe()
        table.answer(request, extra=extra)
        table.notified(request, reginfo(0), state="active")
        table.wait(599_399)
        assert not table.sent
        table.wait(2)
        assert len(table.sent) == 1


# NOTIFY and its dialog


def test_the_notify_may_come_before_the_answer() -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    table.notified(request, reginfo(5))
    assert table.taken() == [IdentityActive(AOR), IdentityActive(TEL)]
    table.answer(request)
    table.wait(539_399)
    assert not table.sent
    table.wait(2)
    assert tag(table.subscribe(NOTIFIER).first("to")) == "core"


@pytest.mark.parametrize("state", ["active", "active;expires=540000"])
def test_the_notify_alone_makes_the_subscription(state: str) -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    table.notified(request, reginfo(5), state=state)
    table.wait(32.1)  # nobody answers the SUBSCRIBE
    table.notified(request, reginfo(6, registration(TEL, contact("expired", state="terminated"), state="terminated")))
    assert IdentityTerminated(TEL, ContactEvent.EXPIRED) in table.taken()
    table.wait(7200)
    assert not table.sent


@pytest.mark.parametrize("state", ["active", "active;expires=540000"])
def test_a_subscription_of_a_notify_alone_is_asked_for_in_its_dialog(state: str) -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    table.notified(request, reginfo(5), state=state)
    table.wait(32.1 + 60)
    again = table.subscribe(NOTIFIER)
    assert again.first("call-id") == request.first("call-id") and tag(again.first("to")) == "core"


def test_another_branch_of_a_fork_is_not_ours() -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    table.answer(request)
    table.notified(request, reginfo(5), tag="first")
    assert table.notify(request, reginfo(6), tag="core") is None
    table.wait(539_401)
    assert tag(table.subscribe(NOTIFIER).first("to")) == "first"


@pytest.mark.parametrize("change", ["call-id", "our tag", "no tag"])
def test_a_notify_of_no_dialog(change: str) -> None:
    table = Table()
    request = table.subscribed()
    wrong = {
        "call-id": (request.first("call-id") or "", "another"),
        "our tag": (tag(request.first("from")), "another"),
        "no tag": (f";tag={tag(request.first('from'))}", ""),
    }[change]
    other = parse(request.to_bytes().replace(wrong[0].encode(), wrong[1].encode()))
    assert isinstance(other, Request)
    assert table.notify(other, reginfo(3, registration(TEL, state="terminated"))) is None
    assert not table.taken()


def test_only_notify_is_ours() -> None:
    table = Table()
    request = table.subscribed()
    there = [header("To", request.first("from") or ""), header("From", f"<{AOR}>;tag=core")]
    headers = (*there, *request.without("from", "to").headers)
    assert table.events.owns(Request(method="NOTIFY", uri="sip:10.46.0.1", headers=headers))
    assert not table.events.owns(Request(method="OPTIONS", uri="sip:10.46.0.1", headers=headers))
    assert not table.events.owns(Response(status=200, reason="OK", headers=headers))


def test_refreshes_follow_the_route_of_the_answer() -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    record = "Record-Route: <sip:mo@10.46.0.9:4060;lr=on>, <sip:10.46.0.8;lr>\r\n"
    table.answer(request, extra=f"{ACCEPTED}{record}")
    table.notified(request, reginfo(0), extra="Record-Route: <sip:10.46.0.7;lr>\r\n", contact="<sip:10.46.0.2:7070>")
    table.wait(539_401)
    refresh = table.subscribe(CORE._replace(remote=ip_address("10.46.0.8")))
    assert refresh.values("route") == ["<sip:10.46.0.8;lr>", "<sip:mo@10.46.0.9:4060;lr=on>"]
    assert refresh.uri == "sip:10.46.0.2:7070"


def test_refreshes_follow_the_route_of_the_notify() -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    table.notified(
        request, reginfo(0), extra="Record-Route: <sip:10.46.0.7;lr>\r\nRecord-Route: <sip:10.46.0.8;lr>\r\n"
    )
    table.answer(request, extra="Expires: 9\r\nContact: <sip:10.46.0.4>\r\nRecord-Route: <sip:10.46.0.9;lr>\r\n")
    table.wait(539_401)
    refresh = table.subscribe(CORE._replace(remote=ip_address("10.46.0.7")))
    assert refresh.values("route") == ["<sip:10.46.0.7;lr>", "<sip:10.46.0.8;lr>"]
    assert refresh.uri == "sip:10.46.0.2:6060"


def test_an_answer_with_a_faulty_contact_still_accepts() -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    table.answer(request, extra="Expires: 600000\r\nContact: <tel:+1>\r\n")
    assert "is no place to send to" in table.problems[-1]
    table.notified(request, reginfo(0))
    table.wait(539_401)
    table.subscribe(NOTIFIER)


@pytest.mark.parametrize(
    ("more", "status", "words", "name"),
    [
        ({"event": "presence"}, 489, "'presence'", "allow-events"),
        ({"event": ""}, 489, "Event is ''", "allow-events"),
        ({"content": "text/plain"}, 415, "text/plain", "accept"),
        ({"content": ""}, 415, "''", "accept"),
        ({"extra": "Content-Encoding: gzip\r\n"}, 415, "gzip", "accept"),
        ({"body": "<reginfo"}, 400, "no XML", None),
        ({"body": "<!DOCTYPE a><reginfo/>"}, 400, "document type", None),
        ({"contact": "<nonsense>"}, 400, "no address", None),
        ({"contact": "<http://x>"}, 400, "not supported", None),
        ({"extra": "Record-Route: <sip:a@b@c>\r\n"}, 400, "two @", None),
        ({"cseq": 1}, 500, "CSeq 1 comes after 1", None),
    ],
)
def test_a_notify_that_cannot_be_used_changes_nothing(
    more: dict[str, object], status: int, words: str, name: str | None
) -> None:
    table = Table()
    request = table.subscribed()
    gone = reginfo(3, registration(AOR, state="terminated"), registration(TEL, state="terminated"))
    response = table.notify(request, **({"body": gone, "state": "terminated;reason=noresource"} | more))  # type: ignore[arg-type]
    assert response is not None and response.status == status and words in response.reason
    assert words in table.problems[-1]
    assert name is None or response.first(name)
    assert not table.taken() and not table.sent
    table.notified(request, reginfo(3, state="partial"), cseq=50)  # the dialog and its version are as before
    table.wait(530_000)
    assert not table.sent


def test_a_body_of_strange_characters_is_answered_in_plain_words() -> None:
    table = Table()
    request = table.subscribed()
    response = table.notify(request, reginfo(3, registration("\u202e\U0001f600")))
    assert response is not None and response.status == 400 and response.reason.isascii()
    response = table.notify(request, event="a\u0007\u00e9")
    assert response is not None and response.status == 489 and response.reason.isprintable()


def test_a_retransmitted_notify_gets_the_same_answer() -> None:
    table = Table()
    request = table.subscribed()
    body = reginfo(3, registration(TEL, contact("expired", state="terminated"), state="terminated"), state="partial")
    table.notified(request, body, cseq=7)
    assert len(table.taken()) == 1
    table.notified(request, body, cseq=7, again=True)
    assert not table.taken() and not table.problems


def test_a_notify_without_body_and_without_state() -> None:
    table = Table()
    request = table.subscribed()
    table.notified(request, state="")
    table.notified(request, state="pending;;=;x=y;expires=z")
    assert not table.taken() and not table.sent and not table.problems


# What documents say


def test_a_real_core_ends_a_registration_but_not_the_subscription() -> None:
    table = Table()
    request = table.subscribed()
    gone = contact("expired", state="terminated", expires=0)
    table.notified(
        request,
        reginfo(3, registration(TEL, gone, state="terminated"), registration(AOR, gone, state="terminated")),
        state="active;expires=539000",
    )
    assert table.taken() == [
        IdentityTerminated(TEL, ContactEvent.EXPIRED),
        IdentityTerminated(AOR, ContactEvent.EXPIRED),
    ]


@pytest.mark.parametrize("event", ["rejected", "deactivated", "unregistered", "expired"])
def test_a_contact_is_terminated(event: str) -> None:
    table = Table()
    request = table.subscribed()
    table.notified(request, reginfo(3, registration(AOR, contact(event, state="terminated")), state="partial"))
    assert table.taken() == [ContactTerminated(AOR, CONTACT, ContactEvent(event))]


def test_the_core_asks_for_authentication() -> None:
    table = Table()
    request = table.subscribed()
    table.notified(request, reginfo(3, registration(AOR, contact("shortened", expires=180)), state="partial"))
    assert table.taken() == [Shortened(AOR, CONTACT, 180)]


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_document_is_answered_and_discarded(version: int) -> None:
    table = Table()
    request = table.subscribed(version=2)
    table.notified(request, reginfo(version, registration(AOR, state="terminated")))
    assert not table.taken() and f"version {version} after version 2" in table.problems[-1]


def test_a_gap_asks_for_the_whole_state() -> None:
    table = Table()
    request = table.subscribed(version=2)
    table.notified(request, reginfo(4, state="partial"))
    assert "a document before version 4 is missing" in table.problems[-1]
    refresh = table.subscribe(NOTIFIER)
    assert refresh.first("call-id") == request.first("call-id")
    table.answer(refresh, flow=NOTIFIER)
    table.notified(request, reginfo(5, registration(AOR)))
    assert table.taken() == [IdentityTerminated(TEL, None)]
    table.notified(request, reginfo(7, state="partial"))
    refresh = table.subscribe(NOTIFIER)  # the next gap is a new one
    table.answer(refresh, flow=NOTIFIER)
    table.notified(request, reginfo(8, state="partial"))
    assert not table.sent and "again in 120 s: a document before version 8 is missing" in table.problems[-1]


def test_a_core_that_never_tells_the_whole_state_is_not_pestered() -> None:
    table = Table()
    request = table.subscribed(version=2)
    asked = 0
    for minute in range(24 * 60):
        if minute % 10 == 0:
            table.notified(request, reginfo(4 + minute, state="partial"))
        for flow, message in list(table.sent):
            table.sent.clear()
            assert isinstance(message, Request)
            table.answer(message, flow=flow)
            table.notified(request, reginfo(5 + minute, state="partial"))
            asked += 1
        table.wait(60)
    assert 24 <= asked <= 32


def test_full_documents_may_leave_versions_out() -> None:
    table = Table()
    request = table.subscribed(version=2)
    table.notified(request, reginfo(40))
    assert not table.sent and not table.problems


# The end


def test_deregistration_is_quiet_and_late_notifies_are_answered() -> None:
    table = Table()
    request = table.subscribed()
    table.deregistered()
    table.deregistered()
    assert not table.sent and len(table.events) == 0
    table.notified(request, reginfo(3, registration(AOR, state="terminated")), state="terminated;reason=noresource")
    assert not table.taken()
    table.wait(LINGER + 0.1)
    assert table.notify(request, reginfo(4)) is None
    table.wait(700_000)
    assert not table.sent and table.events.deadline is None


def test_deregistered_before_the_answer() -> None:
    table = Table()
    table.registered()
    request = table.subscribe()
    table.deregistered()
    table.answer(request)
    table.notified(request, reginfo(1))
    assert not table.taken()
    table.wait(700_000)
    assert not table.sent


def test_deregistered_while_resting() -> None:
    table = Table()
    table.registered()
    table.answer(table.subscribe(), "500 No", "")
    table.deregistered()
    table.wait(7200)
    assert not table.sent


def test_registered_again_right_after_the_end() -> None:
    table = Table()
    old = table.subscribed()
    table.deregistered()
    table.registered()
    new = table.subscribe()
    assert new.first("call-id") != old.first("call-id")
    table.notified(old, reginfo(3, registration(AOR, state="terminated")), state="terminated")
    assert not table.taken()
    table.answer(new)
    table.notified(new, reginfo(0))
    assert table.taken() == [IdentityActive(AOR), IdentityActive(TEL)]
    table.wait(LINGER + 1)
    table.notified(new, reginfo(1))


def test_a_change_may_be_the_end_of_it() -> None:
    table = Table()
    request = table.subscribed()
    table.end_on_change = True
    gone = (registration(each, contact("rejected", state="terminated"), state="terminated") for each in (AOR, TEL))
    table.notified(request, reginfo(3, *gone), state="terminated;reason=deactivated")
    assert table.taken() == [IdentityTerminated(AOR, ContactEvent.REJECTED)]
    table.wait(7200)
    assert not table.sent and len(table.events) == 0


@pytest.mark.parametrize(
    ("reason", "lived", "wait"),
    [
        ("deactivated", 61, 0),
        ("Timeout", 61, 0),
        ("timeout", 10, 60),
        ("probation", 61, 60),
        ("giveup;retry-after=500", 61, 500),
        ("rejected", 61, 3600),
        ("noresource", 61, 3600),
        ("", 61, 60),
    ],
)
def test_the_core_ends_the_subscription_of_a_registered_user(reason: str, lived: float, wait: float) -> None:
    table = Table()
    request = table.subscribed()
    table.wait(lived)
    table.notified(request, state=f"terminated;reason={reason}" if reason else "Terminated")
    if wait:
        table.wait(wait - 1)
        assert not table.sent
        table.wait(1)
    anew = table.subscribe()
    assert anew.first("call-id") != request.first("call-id") and anew.uri == AOR
    assert table.notify(request, reginfo(3)) is None


def test_a_core_that_ends_it_at_once_is_not_pestered() -> None:
    table = Table()
    table.registered()
    asked = 0
    for _ in range(60):
        for flow, message in list(table.sent):
            table.sent.clear()
            assert isinstance(message, Request)
            table.answer(message, flow=flow)
            table.notified(message, reginfo(0))
            table.notified(message, state="terminated;reason=deactivated")
            asked += 1
        table.wait(10)
    assert 5 <= asked <= 11
