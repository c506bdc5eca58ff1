"""All 49 messages of RFC 4475: which are accepted and kept to the byte, which are refused, by whom and with what."""

from collections.abc import Callable

import pytest

from pcscf.sip.fields import parse_auth, parse_cseq, parse_name_addr, parse_via
from pcscf.sip.message import Message, Request
from pcscf.sip.parse import ParseError, StreamParser, parse
from pcscf.sip.uri import parse_uri
from tests.unit.sip.torture.invalid import INVALID
from tests.unit.sip.torture.semantics import SEMANTICS
from tests.unit.sip.torture.valid import VALID

MESSAGES = VALID | INVALID | SEMANTICS

Refused = dict[str, int]
"""Header ("request-uri" for that one) -> status of the ParseError that its typed view raises."""

ACCEPTED: Refused = {}

VERDICTS: dict[str, int | Refused] = {
    # 3.1.1 valid
    "wsinv": ACCEPTED,
    # Ours differs: a NUL among the headers is refused even where a quoted-pair allows it. It ends a string in too much
    # of what stands behind a P-CSCF. Without the NUL the message is accepted, see below.
    "intmeth": 400,
    "esc01": ACCEPTED,
    "escnull": ACCEPTED,
    "esc02": ACCEPTED,
    "lwsdisp": ACCEPTED,
    "longreq": ACCEPTED,
    "dblreq": ACCEPTED,
    "semiuri": ACCEPTED,
    "transports": ACCEPTED,
    "mpart01": ACCEPTED,
    "unreason": ACCEPTED,
    "noreason": ACCEPTED,
    # 3.1.2 invalid
    "badinv01": {"via": 400, "contact": 400},
    "clerr": 400,
    "ncl": 400,
    "scalar02": 400,
    "scalarlg": 400,
    "quotbal": {"to": 400},
    "ltgtruri": 400,
    "lwsruri": 400,
    "lwsstart": 400,
    "trws": 400,
    # "An element could choose to be liberal": headers in a Request-URI are parsed, and nobody acts on them.
    "escruri": ACCEPTED,
    # "An element not concerned with the Date may accept": a proxy is not.
    "baddate": ACCEPTED,
    "regbadct": {"contact": 400},
    "badaspec": {"to": 400},
    "baddn": {"from": 400, "to": 400},
    "badvers": 505,
    "mismatch01": 400,
    "mismatch02": 400,
    "bigcode": 400,
    # 3.2 transaction layer; which transaction it makes is a test of its own
    "badbranch": ACCEPTED,
    # 3.3 application layer
    "insuf": 400,
    "unkscm": {"request-uri": 416},
    "novelsc": {"request-uri": 416},
    "unksm2": {"from": 416, "to": 416, "contact": 416},
    "bext01": ACCEPTED,
    "invut": ACCEPTED,
    "regaut01": ACCEPTED,
    "multi01": 400,
    "mcl01": 400,
    "bcast": ACCEPTED,
    "zeromf": ACCEPTED,
    "cparam01": ACCEPTED,
    "cparam02": ACCEPTED,
    "regescrt": ACCEPTED,
    "sdp01": ACCEPTED,
    # 3.4 RFC 2543
    "inv2543": ACCEPTED,
}

VIEWS: dict[str, Callable[[str], object]] = {
    "via": parse_via,
    "from": lambda value: parse_uri(parse_name_addr(value).uri),
    "to": lambda value: parse_uri(parse_name_addr(value).uri),
    "contact": lambda value: parse_uri(parse_name_addr(value).uri),
    "route": lambda value: parse_uri(parse_name_addr(value).uri),
    "record-route": lambda value: parse_uri(parse_name_addr(value).uri),
    "cseq": parse_cseq,
    "authorization": parse_auth,
}


def refusals(message: Message) -> Refused:
    """Look at everything there is a typed view of."""
    values = [(name, view, value) for name, view in VIEWS.items() for value in message.values(name)]
    if isinstance(message, Request):
        values.append(("request-uri", parse_uri, message.uri))
    refused: Refused = {}
    for name, view, value in values:
        try:
            view(value)
        except ParseError as error:
            refused[name] = error.status
    return refused


def sent(name: str) -> bytes:
    """What goes on of an accepted message: the very octets, but for Content-Length and what stands behind its body."""
    data = MESSAGES[name]
    match name:
        case "dblreq":
            return data.partition(b"INVITE")[0]
        case "wsinv":
            return data.replace(b"Content-Length   : 150", b"Content-Length: 150")
        case "inv2543":
            head, _, body = data.partition(b"\r\n\r\n")
            return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
    return data


def test_there_is_a_verdict_on_each_of_the_49() -> None:
    assert len(MESSAGES) == 49
    assert VERDICTS.keys() == MESSAGES.keys()


@pytest.mark.parametrize("name", MESSAGES)
def test_verdict(name: str) -> None:
    data, verdict = MESSAGES[name], VERDICTS[name]
    if isinstance(verdict, int):
        with pytest.raises(ParseError) as raised:
            parse(data)
        assert raised.value.status == verdict
        return
    message = parse(data)
    assert message.to_bytes() == sent(name)
    assert refusals(message) == verdict


def test_wide_range_of_characters_is_accepted_but_for_the_nul() -> None:
    data = MESSAGES["intmeth"].replace(b" NUL:\\\x00", b"")
    message = parse(data)
    assert message.to_bytes() == data
    assert isinstance(message, Request) and message.method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert refusals(message) == ACCEPTED
    assert parse_name_addr(message.lines("to")[0]).display == "BEL:\a DEL:\x7f"
    sender = parse_name_addr(message.lines("from")[0])
    assert (sender.display, sender.param("fromparam''~+*_!.-%")) == ("token1~` token2'+_ token3*%!.-", "работающий")
    assert message.first("call-id") == "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"
    assert parse_uri(message.uri).host == "example.com"


@pytest.mark.parametrize("name", [name for name in MESSAGES if VERDICTS[name] == ACCEPTED and name != "inv2543"])
def test_what_is_accepted_from_a_datagram_is_from_a_stream(name: str) -> None:
    data = MESSAGES[name]
    first, *more = StreamParser().feed(data)
    assert first == parse(data)
    assert len(more) == (1 if name == "dblreq" else 0)


def test_a_stream_needs_a_content_length() -> None:
    with pytest.raises(ParseError, match="Content-Length"):
        list(StreamParser().feed(MESSAGES["inv2543"]))


def test_a_stream_waits_for_the_octets_that_a_datagram_lacks() -> None:
    stream = StreamParser()
    assert list(stream.feed(MESSAGES["clerr"])) == []
    (message,) = stream.feed(bytes(9999 - 154))
    assert len(message.body) == 9999


@pytest.mark.parametrize("name", ["clerr", "badvers", "mismatch01", "mcl01", "insuf", "lwsruri"])
def test_a_refused_request_comes_along_to_be_answered(name: str) -> None:
    with pytest.raises(ParseError) as raised:
        parse(MESSAGES[name])
    request = raised.value.message
    assert isinstance(request, Request)
    assert request.first("via") is not None and request.first("cseq") is not None


def contact(name: str, number: int = 0) -> str:
    return parse(MESSAGES[name]).values("contact")[number]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (lambda: [via.transport for via in map(parse_via, parse(VALID["wsinv"]).values("via"))], ["UDP", "TCP", "UDP"]),
        (lambda: parse_via(parse(VALID["wsinv"]).values("via")[2]).branch, "z9hG4bK30239"),
        (lambda: parse_name_addr(parse(VALID["wsinv"]).lines("from")[0]).display, 'J Rosenberg \\"'),
        (lambda: parse_name_addr(parse(VALID["wsinv"]).lines("to")[0]).param("tag"), "1918181833n"),
        (lambda: parse_name_addr(contact("wsinv")).display, 'Quoted string ""'),
        (
            lambda: parse_name_addr(contact("wsinv")).params,
            (("newparam", "newvalue"), ("secondparam", ""), ("q", "0.33")),
        ),
        (lambda: parse_cseq(parse(VALID["wsinv"]).lines("cseq")[0]).number, 9),
        (lambda: parse(VALID["wsinv"]).lines("subject"), [""]),
        (lambda: parse_uri(parse(VALID["esc01"]).start_line.split()[1]).user, "sips%3Auser%40example.com"),
        (lambda: parse_uri(parse_name_addr(contact("esc01")).uri).params, (("lr", ""), ("name", "value%41"))),
        (lambda: parse_uri(parse_name_addr(contact("escnull", 1)).uri).user, "\0\0"),
        (lambda: len(parse(VALID["esc02"]).lines("contact")), 2),
        (lambda: parse_name_addr(parse(VALID["esc02"]).lines("to")[0]).display, "%Z%45"),
        (lambda: parse_name_addr(parse(VALID["lwsdisp"]).lines("from")[0]).display, "caller"),
        (lambda: len(parse(VALID["longreq"]).values("via")), 34),
        (lambda: parse_uri(parse(VALID["semiuri"]).start_line.split()[1]).user, "user;par=u%40example.net"),
        (lambda: [parse_via(value).transport for value in parse(VALID["transports"]).values("via")][3], "UNKNOWN"),
        (lambda: parse(VALID["unreason"]).start_line[-7:], "простое"),
        (lambda: parse(VALID["noreason"]).start_line, "SIP/2.0 100 "),
        # what stands behind a bare address belongs to the header, what stands inside brackets to the URI
        (lambda: parse_name_addr(contact("cparam01")).param("unknownparam"), ""),
        (lambda: parse_name_addr(contact("cparam02")).params, ()),
        (lambda: parse_uri(parse_name_addr(contact("cparam02")).uri).param("unknownparam"), ""),
        (
            lambda: parse_uri(parse_name_addr(contact("regescrt")).uri).headers,
            (("route", "<sip:sip.example.com>"),),
        ),
        (lambda: parse_auth(parse(SEMANTICS["regaut01"]).lines("authorization")[0]).scheme, "nooneknowsthisscheme"),
        (lambda: parse_name_addr(parse(SEMANTICS["inv2543"]).lines("to")[0]).param("user"), "phone"),
    ],
)
def test_what_the_views_make_of_it(seen: Callable[[], object], expected: object) -> None:
    assert seen() == expected
