"""Datagrams and streams: what the parser itself refuses, with which status, and the limits. Torture is elsewhere."""

import pytest

from pcscf.sip.message import Request, Response
from pcscf.sip.parse import Limits, ParseError, StreamParser, parse

LINES = [
    b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
    b"From: <sip:a@home.example>;tag=1",
    b"To: <sip:b@home.example>",
    b"Call-ID: c1",
    b"CSeq: 7 MESSAGE",
]


def message(
    *extra: bytes, start: bytes = b"MESSAGE sip:b@home.example SIP/2.0", without: bytes = b"", body: bytes = b""
) -> bytes:
    lines = [line for line in LINES if not without or not line.startswith(without)]
    return b"\r\n".join([start, *lines, *extra, b"\r\n"]) + body


def refusal(data: bytes, limits: Limits | None = None) -> ParseError:
    with pytest.raises(ParseError) as raised:
        parse(data, limits or Limits())
    return raised.value


def test_a_request_is_read() -> None:
    request = parse(message(b"l: 2", b"X-Folded: one", b"  two", body=b"hi"))
    assert isinstance(request, Request)
    assert (request.method, request.uri, request.body) == ("MESSAGE", "sip:b@home.example", b"hi")
    assert request.first("x-folded") == "one two"
    assert request.first("content-length") == "2"


def test_a_response_is_read() -> None:
    response = parse(message(start=b"SIP/2.0 486 Busy Here"))
    assert isinstance(response, Response)
    assert (response.status, response.reason) == (486, "Busy Here")


def test_the_version_goes_out_in_upper_case_whatever_came_in() -> None:
    assert parse(message(start=b"MESSAGE sip:b sip/2.0")).start_line == "MESSAGE sip:b SIP/2.0"
    assert parse(message(start=b"sip/2.0 200 OK")).start_line == "SIP/2.0 200 OK"


def test_empty_lines_before_a_message_and_octets_behind_its_body_are_dropped() -> None:
    assert parse(b"\r\n\r\n" + message(b"Content-Length: 2", body=b"hi, there")).body == b"hi"


def test_without_content_length_a_datagram_is_all_body() -> None:
    assert parse(message(body=b"hi, there")).body == b"hi, there"


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (message(without=b"Via"), 400, "without via"),
        (message(without=b"CSeq"), 400, "without cseq"),
        (message(b"t: <sip:c@home.example>"), 400, "two to"),
        (message(b"Max-Forwards: 1", b"Max-Forwards: 70"), 400, "two max-forwards"),
        (message(b"l: 1", b"Content-Length: 1", body=b"x"), 400, "two content-length"),
        (message(b"Content-Length: 1,1", body=b"x"), 400, "no number"),
        (message("Content-Length: ١".encode(), body=b"x"), 400, "no number"),
        (message(b"CSeq: 2147483648 MESSAGE", without=b"CSeq"), 400, "CSeq number"),
        (message(b"CSeq: 1", without=b"CSeq"), 400, "CSeq method"),
        (message(b"CSeq: 1 MESSAGE X", without=b"CSeq"), 400, "CSeq method"),
        (message(b"CSeq: 1 message", without=b"CSeq"), 400, "CSeq method"),
        (message(b"no colon"), 400, "no header line"),
        (message(b"B@d: x"), 400, "no header line"),
        (message(b": empty name"), 400, "no header line"),
        (message("\N{KELVIN SIGN}: timer".encode()), 400, "no header line"),
        (message(b"X: lone\nLF"), 400, "lone"),
        (message(b"X: lone\rCR"), 400, "lone"),
        (message(b"X: a\0b"), 400, "NUL"),
        (message(start=b"MESSAGE sip:b@home.example SIP/3.0"), 505, "not SIP/2.0"),
        (message(start=b"MESSAGE sip:b@home.example HTTP/1.1"), 400, "not SIP/2.0"),
        (message(start="MESSAGE sip:b@home.example ſip/2.0".encode()), 400, "not SIP/2.0"),
        (message(start="ſIP/2.0 200 OK".encode()), 400, ""),
        (message(start=b"MESSAGE SIP/2.0"), 400, "no start line"),
        (message(start=b"M(SSAGE sip:b SIP/2.0"), 400, "no start line"),
        (message(start=b"SIP/2.0 99 Early"), 400, "no status line"),
        (message(start=b"SIP/2.0 700 Late"), 400, "no status line"),
        (b" X: y\r\n\r\n", 400, ""),
        (b"MESSAGE sip:b SIP/2.0\r\n X: y\r\n\r\n", 400, "continuation"),
        (b"MESSAGE sip:b SIP/2.0\r\nX: y\r\n", 400, "no empty line"),
        (b"", 400, "no empty line"),
    ],
)
def test_what_no_receiver_could_work_with_is_refused(data: bytes, status: int, says: str) -> None:
    error = refusal(data)
    assert error.status == status
    assert says in str(error)


def test_what_a_peer_may_send_is_limited() -> None:
    data = message(b"Content-Length: 4", body=b"four")
    head = data.index(b"\r\n\r\n")
    assert parse(data, Limits(head=head, headers=6, body=4)).body == b"four"
    listed = data.replace(b"Call-ID: c1", b"Call-ID: c,,1")
    assert parse(listed, Limits(commas=2)) and refusal(listed, Limits(commas=1)).status == 513
    for limits in (Limits(head=head - 1), Limits(headers=5), Limits(body=3)):
        assert refusal(data, limits).status == 513
        with pytest.raises(ParseError) as raised:
            list(StreamParser(limits).feed(data))
        assert raised.value.status == 513


def test_a_stream_does_not_wait_for_the_end_of_endless_headers() -> None:
    stream = StreamParser(Limits(head=100))
    assert list(stream.feed(b"X" * 103)) == []
    with pytest.raises(ParseError) as raised:
        list(stream.feed(b"X"))
    assert raised.value.status == 513


def test_keep_alives_on_a_stream_are_counted_once() -> None:
    """RFC 5626 3.5.1."""
    stream = StreamParser()
    whole = message(b"Content-Length: 0")
    assert [each.start_line for each in stream.feed(b"\r\n\r\n" + whole + b"\r\n\r\n\r\n\r\n")] == [
        "MESSAGE sip:b@home.example SIP/2.0"
    ]
    assert stream.take_pings() == 3
    assert list(stream.feed(b"\r\n")) == [] and stream.take_pings() == 0  # half a ping
    assert list(stream.feed(b"\r\n")) == [] and stream.take_pings() == 1


def test_a_stream_gives_what_came_before_a_fault_and_nothing_after() -> None:
    stream = StreamParser()
    good, bad = message(b"Content-Length: 0"), message()
    taken = []
    with pytest.raises(ParseError, match="no Content-Length"):
        for each in stream.feed(good + bad + good):
            taken.append(each)
    assert len(taken) == 1
    with pytest.raises(ParseError, match="no Content-Length"):
        list(stream.feed(good))


def test_a_line_of_blanks_does_not_go_on() -> None:
    """Step 1, 16: it continues a header for us (RFC 3261 7.3.1); others might take it for the end of all headers."""
    read = parse(message(b"X-Folded: one", b" \t", b"  two", b" ", b"Content-Length: 0"))
    assert read.first("x-folded") == "one two"
    assert b"X-Folded: one\r\n  two\r\nContent-Length: 0\r\n" in read.to_bytes()
