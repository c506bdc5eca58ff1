"""What goes out on a stream is what a strict reader takes from it, message by message, whatever came in by datagram.

The reader here is not the proxy's own: it knows the start line, the lines up to an empty one, and Content-Length.
"""

import re

import pytest

from pcscf.registration import Registration
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError, StreamParser, parse
from pcscf.vocabulary import Flow, Interface, Malformed
from tests.unit.core import world as table
from tests.unit.core.world import CORE, Phone, World, answer, from_core

SMUGGLED = (
    b"MESSAGE sip:bob@home SIP/2.0\r\nVia: SIP/2.0/TCP 10.46.0.1:5060;branch=z9hG4bKsmuggled\r\n"
    b"From: <sip:a@b>;tag=1\r\nTo: <sip:bob@home>\r\nCall-ID: smuggled\r\n"
    b"CSeq: 1 MESSAGE\r\nP-Asserted-Identity: <sip:boss@home>\r\n"
    b"Content-Length: 0\r\n\r\n"
)
"""What the sender would like to be taken for a request of ours."""
FORMS = {
    "none": "",
    "plain": "Content-Length: {}\r\n",
    "without a blank": "content-length:{}\r\n",
    "compact": "l: {}\r\n",
    "zeros in front": "Content-Length: 000{}\r\n",
    "compact, zeros in front": "L:0{}\r\n",
    "blanks before the colon": "Content-Length \t: {}\r\n",
    "folded": "Content-Length:\r\n {}\r\n",
    "folded to nothing": "Content-Length: {}\r\n \t\r\n",
    "blanks behind": "Content-Length: {}  \r\n",
}
"""Ways to say Content-Length (RFC 3261 7.3.1, 20.14), or not to say it."""
CORE_TCP = CORE._replace(transport="TCP", local_port=0)
FAR = "sip:bob@10.46.0.2:5060"
METHODS = ("MESSAGE", "INFO", "OPTIONS", "PUBLISH", "SUBSCRIBE", "REFER", "NOTIFY", "UPDATE", "PRACK")


def strictly_read(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Start line and body of each message of a stream; whatever could be read in two ways is a failure."""
    messages = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        assert end, f"no empty line: {head[:200]!r}"
        start, *lines = head.split(b"\r\n")
        assert re.fullmatch(rb"[A-Z]+ \S+ SIP/2\.0|SIP/2\.0 [1-6][0-9][0-9] [^\r\n]*", start), start
        assert not any(re.fullmatch(rb"[ \t]*", line) for line in lines), "a line that looks empty"
        named = [line for line in lines if re.match(rb"(?i)(content-length|l)[ \t]*:", line)]
        assert len(named) == 1, (start, named)
        found = re.fullmatch(rb"(?i:content-length|l): ?(0|[1-9][0-9]*)", named[0])
        assert found, named[0]
        size = int(found[1])
        assert len(stream) >= size, (start, named[0], len(stream))
        messages.append((start, stream[:size]))
        stream = stream[size:]
    return messages


def formed(data: bytes, form: str) -> bytes:
    """The same message with a request for its body, and its length said in this form."""
    head = data.partition(b"\r\n\r\n")[0]
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length:")]
    said = FORMS[form].format(len(SMUGGLED)).encode().removesuffix(b"\r\n")
    return b"\r\n".join([*lines, *([said] if said else []), b"", SMUGGLED])


class Wire(World):
    """Every datagram that comes carries the body above; what goes out by TCP is kept, flow by flow."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.streams: dict[Flow, bytes] = {}
        self.meant: dict[Flow, list[tuple[bytes, bytes]]] = {}
        self._looked = 0
        super().__init__()

    def receive(self, data: bytes, flow: Flow) -> None:
        super().receive(formed(data, self.form) if flow.transport == "UDP" else data, flow)

    def check(self) -> None:
        super().check()
        new, self._looked = self.raw[self._looked :], len(self.raw)
        for data, (flow, message) in zip(new, self.sent[-len(new) :] if new else (), strict=True):
            if flow.transport == "TCP":
                self.streams[flow] = self.streams.get(flow, b"") + data
                self.meant.setdefault(flow, []).append((message.start_line.encode(), message.body))

    def read_back(self) -> list[str]:
        """The start lines of all that went out by TCP, each checked against what was meant."""
        for flow, stream in self.streams.items():
            assert strictly_read(stream) == self.meant[flow]
            assert [(each.start_line.encode(), each.body) for each in StreamParser().feed(stream)] == self.meant[
                flow
            ], "our own reader takes it for something else"
        return [line.decode() for each in self.meant.values() for line, _ in each]

    def last(self, *, to_core: bool) -> Request | Response:
        """What went there last."""
        side = [message for flow, message in self.sent if (flow.interface is Interface.MW) is to_core]
        self.sent.clear()
        return side[-1]

    def request_of(self, *, to_core: bool) -> Request:
        message = self.last(to_core=to_core)
        assert isinstance(message, Request), message
        return message


def serve(wire: Wire, phone: Phone, core: Flow) -> None:
    """Messages of every kind through the proxy, both ways."""
    phone.registered()
    registration: Registration = next(iter(wire.proxy.registrar))
    # From the UE
    for method in METHODS[:6]:
        wire.receive(phone.request(method, call_id=f"up{method}"), phone.uplink)
        wire.receive(answer(wire.request_of(to_core=True), "200 OK", record=True), core)
        wire.sent.clear()
    wire.receive(phone.request("INVITE", call_id="call"), phone.uplink)
    sent = wire.request_of(to_core=True)
    wire.receive(answer(sent, "180 Ringing", tag="far", record=True), core)
    wire.receive(answer(sent, "200 OK", tag="far", record=True), core)
    wire.sent.clear()
    for number, method in enumerate(("ACK", "INFO", "UPDATE", "PRACK", "INVITE", "BYE")):
        cseq = 1 if method == "ACK" else number + 1
        wire.receive(
            phone.request(method, FAR, call_id="call", to_tag="far", cseq=cseq, route="", branch=f"z9hG4bKin{number}"),
            phone.uplink,
        )
        request = wire.request_of(to_core=True)
        if method != "ACK":
            wire.receive(answer(request, "486 Busy" if method == "INVITE" else "200 OK", record=True), core)
        wire.sent.clear()
    wire.receive(phone.request("INVITE", call_id="gone", branch="z9hG4bKgone"), phone.uplink)
    sent = wire.request_of(to_core=True)
    wire.receive(answer(sent, "180 Ringing", tag="far", record=True), core)
    wire.receive(phone.request("CANCEL", call_id="gone", branch="z9hG4bKgone"), phone.uplink)
    wire.receive(answer(sent, "487 Request Terminated"), core)
    # What we answer ourselves
    wire.receive(phone.request("MESSAGE", call_id="no1", route="<sip:elsewhere;lr>"), phone.uplink)
    wire.receive(phone.request("BYE", call_id="no2", to_tag="unknown"), phone.uplink)
    wire.receive(phone.request("OPTIONS", "sip:10.45.0.1:5100", call_id="no3", route=""), phone.uplink)
    wire.receive(phone.request("MESSAGE", call_id="no4"), phone.clear)
    wire.receive(from_core("MESSAGE", registration, call_id="no5").replace(b"sip:term", b"sip:nobody"), core)
    with pytest.raises(ParseError) as caught:
        parse(phone.request("MESSAGE", extra="no header line\r\n"))
    wire.handle(Malformed(caught.value, phone.uplink))
    with pytest.raises(ParseError) as caught:
        parse(from_core("MESSAGE", registration, extra="no header line\r\n"))
    wire.handle(Malformed(caught.value, core))
    wire.sent.clear()
    # To the UE
    place = "sip:10.45.0.2:31801" + (";transport=tcp" if phone.transport == "TCP" else "")
    for method in METHODS[:6]:
        wire.receive(from_core(method, registration, place, call_id=f"down{method}"), core)
        wire.receive(answer(wire.request_of(to_core=False), "200 OK", tag="ue"), phone.uplink)
        wire.sent.clear()
    wire.receive(from_core("INVITE", registration, place, call_id="in"), core)
    sent = wire.request_of(to_core=False)
    for status in ("100 Trying", "180 Ringing", "183 Session Progress", "200 OK"):
        wire.receive(answer(sent, status, tag="ue", record=True), phone.uplink)
    wire.sent.clear()
    for number, method in enumerate(("ACK", "INFO", "UPDATE", "PRACK", "INVITE", "BYE")):
        cseq = 1 if method == "ACK" else number + 1
        wire.receive(
            from_core(method, registration, place, call_id="in", to_tag="ue", cseq=cseq, branch=f"z9hG4bKto{number}"),
            core,
        )
        request = wire.request_of(to_core=False)
        if method != "ACK":
            wire.receive(answer(request, "488 No" if method == "INVITE" else "200 OK", record=True), phone.uplink)
        wire.sent.clear()
    wire.receive(from_core("INVITE", registration, place, call_id="out", branch="z9hG4bKout"), core)
    sent = wire.request_of(to_core=False)
    wire.receive(answer(sent, "180 Ringing", tag="ue"), phone.uplink)
    wire.receive(from_core("CANCEL", registration, place, call_id="out", branch="z9hG4bKout"), core)
    wire.receive(answer(sent, "487 Request Terminated", tag="ue"), phone.uplink)
    wire.receive(from_core("MESSAGE", registration, place, call_id="busy"), core)
    wire.receive(answer(wire.request_of(to_core=False), "503 Service Unavailable", tag="ue"), phone.uplink)
    wire.sent.clear()
    phone.reauthenticated()
    wire.wait(700)


@pytest.mark.parametrize("form", FORMS)
def test_a_phone_by_datagram_and_a_core_by_stream(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 16: a 200 without Content-Length became a request of ours to the core, with an asserted identity."""
    monkeypatch.setattr(table, "CORE", CORE_TCP)
    wire = Wire(form)
    serve(wire, Phone(wire), CORE_TCP)
    lines = wire.read_back()
    assert len(lines) > 40
    kinds = {line.partition(" ")[0] if not line.startswith("SIP/2.0") else line[8:11] for line in lines}
    assert kinds >= {"REGISTER", "INVITE", "ACK", "CANCEL", "BYE", *METHODS} - {"NOTIFY"}
    assert kinds >= {"100", "180", "183", "200", "480", "487", "488", "500", "400"}, kinds


@pytest.mark.parametrize("form", FORMS)
def test_a_phone_by_stream_and_a_core_by_datagram(form: str) -> None:
    """Step 1, 16: toward a UE as well."""
    wire = Wire(form)
    serve(wire, Phone(wire, transport="TCP"), CORE)
    lines = wire.read_back()
    assert len(lines) > 40
    kinds = {line.partition(" ")[0] if not line.startswith("SIP/2.0") else line[8:11] for line in lines}
    assert kinds >= {"INVITE", "ACK", "CANCEL", "BYE", *METHODS} - {"NOTIFY"}
    assert kinds >= {"100", "180", "200", "400", "401", "403", "481", "486", "487"}, kinds


@pytest.mark.parametrize("form", FORMS)
def test_every_message_that_is_read_says_how_long_its_body_is(form: str) -> None:
    """Step 1, 16: by datagram and by stream, also where more octets follow than it says."""
    data = formed(CANCEL_OF_NOTHING, form)
    message = parse(data)
    assert strictly_read(message.to_bytes() * 2) == [(b"CANCEL sip:x SIP/2.0", SMUGGLED)] * 2
    if FORMS[form]:
        (streamed,) = StreamParser().feed(data)
        assert streamed == message
        assert parse(data + b"and more").to_bytes() == message.to_bytes()


CANCEL_OF_NOTHING = (
    b"CANCEL sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x>\r\n"
    b"Call-ID: 1\r\nCSeq: 1 CANCEL\r\nContent-Length: 0\r\n\r\n"
)


def test_a_message_that_says_it_twice_is_refused() -> None:
    """Step 1, 16: in whatever spelling, and even where both say the same."""
    for second in (b"l: 0\r\n", b"Content-Length : 0\r\n", b"CONTENT-LENGTH: 9\r\n"):
        with pytest.raises(ParseError, match="two content-length"):
            parse(CANCEL_OF_NOTHING.replace(b"Content-Length: 0\r\n", b"Content-Length: 0\r\n" + second))
