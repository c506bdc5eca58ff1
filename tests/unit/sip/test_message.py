"""Messages as values: looking up, editing, answering."""

import pytest

from pcscf.sip.message import Request, header, response_to, split_list
from pcscf.sip.parse import parse

DATA = (
    b"""\
OPTIONS sip:b@home.example SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1 , SIP/2.0/TCP 192.0.2.2;branch=z9hG4bK2
v:SIP/2.0/TCP 192.0.2.3;branch=z9hG4bK3
FROM:  <sip:a@home.example>;tag=1
To: "a,b" <sip:b@home.example>
i: c1
CSeq: 7 OPTIONS
X-Odd :  \xff  kept \x20
Subject: hello
 there
l: 3

""".replace(b"\n", b"\r\n")
    + b"abc"
)


@pytest.fixture
def request_() -> Request:
    message = parse(DATA)
    assert isinstance(message, Request)
    return message


def test_headers_are_found_by_their_long_name(request_: Request) -> None:
    assert request_.first("call-id") == "c1"
    assert request_.first("contact") is None
    assert request_.lines("via")[1] == "SIP/2.0/TCP 192.0.2.3;branch=z9hG4bK3"
    assert [value[-1] for value in request_.values("via")] == ["1", "2", "3"]
    assert request_.values("to") == ['"a,b" <sip:b@home.example>']


def test_an_edit_leaves_the_other_lines_their_bytes(request_: Request) -> None:
    edited = request_.without("via", "call-id").with_headers(
        [header("Via", "SIP/2.0/UDP p.example"), *request_.without("via", "call-id").headers]
    )
    assert edited.to_bytes() == (
        b"OPTIONS sip:b@home.example SIP/2.0\r\nVia: SIP/2.0/UDP p.example\r\n" + DATA[DATA.index(b"FROM") :]
    ).replace(b"i: c1\r\n", b"")
    assert request_.to_bytes() == DATA


def test_a_header_of_ours_is_known_by_its_long_name_and_cannot_break_its_line() -> None:
    assert header("l", "0") == ("content-length", "0", "l: 0")
    for bad in ("a\r\nX: y", "a\nb", "a\0"):
        with pytest.raises(ValueError, match="line break"):
            header("Subject", bad)


def test_an_answer_copies_what_names_the_transaction(request_: Request) -> None:
    answer = response_to(request_, 494, headers=[header("Security-Server", "tls")], to_tag="t1", body=b"why")
    assert answer.start_line == "SIP/2.0 494 Security Agreement Required"
    assert [item.line for item in answer.headers] == [
        "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1 , SIP/2.0/TCP 192.0.2.2;branch=z9hG4bK2",
        "v:SIP/2.0/TCP 192.0.2.3;branch=z9hG4bK3",
        "FROM:  <sip:a@home.example>;tag=1",
        'To: "a,b" <sip:b@home.example>;tag=t1',
        "i: c1",
        "CSeq: 7 OPTIONS",
        "Security-Server: tls",
        "Content-Length: 3",
    ]
    assert answer.body == b"why"
    assert response_to(request_, 100).first("to") == request_.first("to")
    assert response_to(request_, 403, reason="No Thanks").start_line == "SIP/2.0 403 No Thanks"


@pytest.mark.parametrize(
    ("to", "tagged"),
    [
        ("<sip:b@h>", False),
        ("sip:b@h", False),
        ("<sip:b@h;tag=uri>", False),
        ('"x;tag=1" <sip:b@h>', False),
        ("<sip:b@h>;nametag=1", False),
        ('<sip:b@h>;x="a;tag=1"', False),
        ("<sip:b@h>;tag=1", True),
        ("sip:b@h ;  TAG\t= 1", True),
        ('<sip:b@h>;tag=1;x=">"', True),
    ],
)
def test_a_to_gets_a_tag_if_and_only_if_it_has_none(request_: Request, to: str, tagged: bool) -> None:
    request = request_.without("to").with_headers([*request_.without("to").headers, header("To", to)])
    assert response_to(request, 200, to_tag="ours").first("to") == (to if tagged else f"{to};tag=ours")


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("", []),
        (" , ,", []),
        ("a", ["a"]),
        (" a ,b,, c ", ["a", "b", "c"]),
        ('"a,b" , <sip:x,y>,c;d="e\\",f"', ['"a,b"', "<sip:x,y>", 'c;d="e\\",f"']),
        ('"open, end', ['"open, end']),
    ],
)
def test_a_list_is_split_at_its_own_commas(value: str, items: list[str]) -> None:
    assert split_list(value) == items
