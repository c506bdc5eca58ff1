"""Typed views of header values: what they make of what phones and cores send, and what they refuse."""

import time
from collections.abc import Callable

import pytest

from pcscf.sip.fields import (
    Auth,
    CSeq,
    Mechanism,
    NameAddr,
    Via,
    drop_auth_params,
    parse_auth,
    parse_cseq,
    parse_mechanism,
    parse_name_addr,
    parse_via,
)
from pcscf.sip.parse import ParseError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa;rport",
            Via(transport="UDP", host="192.0.2.1", port=5060, params=(("branch", "z9hG4bKa"), ("rport", ""))),
        ),
        ("sip/2.0/tcp [2001:DB8::1]", Via(transport="TCP", host="2001:DB8::1", port=0, params=())),
        (
            "SIP / 2.0 / UDP\th.example : 65535 ; BRANCH = x",
            Via(transport="UDP", host="h.example", port=65535, params=(("branch", "x"),)),
        ),
        (
            "SIP/2.0/UDP h;received=2001:db8::2",
            Via(transport="UDP", host="h", port=0, params=(("received", "2001:db8::2"),)),
        ),
    ],
)
def test_via(value: str, expected: Via) -> None:
    assert parse_via(value) == expected


def test_a_via_knows_its_branch_and_parameters() -> None:
    via = parse_via("SIP/2.0/UDP h;rport;branch=z9hG4bKa")
    assert (via.branch, via.param("rport"), via.param("received")) == ("z9hG4bKa", "", None)
    assert parse_via("SIP/2.0/UDP h").branch == ""


@pytest.mark.parametrize(
    ("value", "display", "uri", "params"),
    [
        ("sip:a@h;tag=1", "", "sip:a@h", (("tag", "1"),)),
        ("<sip:a@h;lr>;Tag=1;x", "", "sip:a@h;lr", (("tag", "1"), ("x", ""))),
        ('"A \\"B\\" > <C, D" <sip:a@h>', 'A "B" > <C, D', "sip:a@h", ()),
        ("Anna B <sip:a@h>", "Anna B", "sip:a@h", ()),
        ("Jürg\udcff<sip:a@h>", "Jürg\udcff", "sip:a@h", ()),
        ("<tel:+1-201;phone-context=x>", "", "tel:+1-201;phone-context=x", ()),
        (
            '<sip:1@h>;+sip.instance="<urn:gsma:imei:1-2>";reg-id=1',
            "",
            "sip:1@h",
            (("+sip.instance", "<urn:gsma:imei:1-2>"), ("reg-id", "1")),
        ),
        ('sip:1@h;+sip.instance="<urn:uuid:1>"', "", "sip:1@h", (("+sip.instance", "<urn:uuid:1>"),)),
        ("*", "", "*", ()),
    ],
)
def test_name_addr(value: str, display: str, uri: str, params: tuple[tuple[str, str], ...]) -> None:
    assert parse_name_addr(value) == NameAddr(display=display, uri=uri, params=params)


def test_cseq() -> None:
    assert parse_cseq("0009  INVITE") == CSeq(9, "INVITE")
    assert parse_cseq("2147483647 X") == CSeq(2147483647, "X")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            'Digest realm="ims.example", nonce = "A,=\\"b==", qop="auth,auth-int",algorithm=AKAv1-MD5',
            Auth(
                scheme="digest",
                params=(
                    ("realm", "ims.example"),
                    ("nonce", 'A,="b=='),
                    ("qop", "auth,auth-int"),
                    ("algorithm", "AKAv1-MD5"),
                ),
            ),
        ),
        ('DIGEST username="",response=', Auth(scheme="digest", params=(("username", ""), ("response", "")))),
        ("Basic YTpi", Auth(scheme="basic", params=())),
    ],
)
def test_auth(value: str, expected: Auth) -> None:
    assert parse_auth(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "ipsec-3gpp; alg=hmac-sha-1-96; ealg=aes-cbc;prot=esp; mod=trans;spi-c=0045597;port-c=8000",
            Mechanism(
                name="ipsec-3gpp",
                params=(
                    ("alg", "hmac-sha-1-96"),
                    ("ealg", "aes-cbc"),
                    ("prot", "esp"),
                    ("mod", "trans"),
                    ("spi-c", "0045597"),
                    ("port-c", "8000"),
                ),
            ),
        ),
        ("IPsec-3GPP ;Q = 0.5", Mechanism(name="ipsec-3gpp", params=(("q", "0.5"),))),
        ("tls", Mechanism(name="tls", params=())),
    ],
)
def test_mechanism(value: str, expected: Mechanism) -> None:
    assert parse_mechanism(value) == expected


@pytest.mark.parametrize(
    ("view", "value"),
    [
        (parse_via, ""),
        (parse_via, "SIP/3.0/UDP h"),
        (parse_via, "SIP/2.0/UDP"),
        (parse_via, "SIP/2.0/UDP h:65536"),
        (parse_via, "SIP/2.0/UDP h:x"),
        (parse_via, "SIP/2.0/UDP h;"),
        (parse_via, "SIP/2.0/UDP h, SIP/2.0/UDP g"),
        (parse_via, "SIP/2.0/UDP \N{KELVIN SIGN}"),
        (parse_name_addr, ""),
        (parse_name_addr, "nowhere"),
        (parse_name_addr, "<sip:a@h"),
        (parse_name_addr, "<>"),
        (parse_name_addr, "<sip:a@h> x"),
        (parse_name_addr, "sip:a@h?x=y"),
        (parse_name_addr, "sip:a@h;x=<y>"),
        (parse_name_addr, "sip:a@h, sip:b@h"),
        (parse_name_addr, '"open <sip:a@h>'),
        (parse_name_addr, "<<sip:a@h>>"),
        (parse_name_addr, "<sip:a@h>;=x"),
        (parse_cseq, "1"),
        (parse_cseq, "2147483648 INVITE"),
        (parse_cseq, "-1 INVITE"),
        (parse_cseq, "1 INV ITE"),
        (parse_auth, ""),
        (parse_auth, "Digest"),
        (parse_auth, 'Digest realm="open'),
        (parse_auth, 'Digest realm="a" nonce="b"'),
        (parse_auth, 'Digest realm="a",'),
        (parse_mechanism, ""),
        (parse_mechanism, "ipsec-3gpp alg=x"),
        (parse_mechanism, "ipsec-3gpp;alg=a b"),
    ],
)
def test_what_cannot_be_read_is_a_400(view: Callable[[str], object], value: str) -> None:
    with pytest.raises(ParseError) as raised:
        view(value)
    assert raised.value.status == 400


def test_an_unreadable_challenge_is_not_quoted_in_the_error() -> None:
    with pytest.raises(ParseError) as raised:
        parse_auth('Digest ck="0011223344556677')
    assert "0011" not in str(raised.value)


BLANKS = " " * 30_000


@pytest.mark.parametrize(
    ("view", "value"),
    [
        (parse_via, f"SIP/2.0/UDP h{BLANKS}x"),
        (parse_via, f"SIP/2.0/UDP h:{BLANKS}x"),
        (parse_name_addr, f"a{BLANKS},<sip:h>"),
        (parse_name_addr, f"<sip:h>;x={BLANKS}"),
        (parse_auth, f'Digest a={BLANKS}"'),
        (parse_auth, f"Digest a{BLANKS}"),
        (parse_mechanism, f"ipsec-3gpp{BLANKS}x"),
        (parse_cseq, f"1{BLANKS}("),
    ],
)
def test_refusing_a_long_value_takes_no_longer_than_reading_it(view: Callable[[str], object], value: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ParseError):
        view(value)
    assert time.perf_counter() - start < 1  # linear: under a millisecond; quadratic: some eight seconds


KEYS = frozenset({"ck", "ik"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('Digest realm="r",nonce="n",ck="00",ik="11"', 'Digest realm="r",nonce="n"'),
        ('Digest ck="00", realm="r", ik="11", nonce="n,ck"', 'Digest realm="r", nonce="n,ck"'),
        ('Digest  CK = 00 , realm = "r"', 'Digest  realm = "r"'),
        ('Digest ck="0\\"0"', "Digest"),
        ('Digest ck="00",ck="11"', "Digest"),
        ('Digest  realm="r" , nonce="n"', 'Digest  realm="r" , nonce="n"'),
        ('Digest back="x",x-ck="y"', 'Digest back="x",x-ck="y"'),
        # one inside another's quoted text
        ('Digest realm="r, ck=\\"00112233445566778899aabbccddeeff",nonce="n"', 'Digest nonce="n"'),
        ('Digest realm="r",opaque="ik=0011223344556677"', 'Digest realm="r"'),
        # unreadable from here on
        ('Digest realm="r", ck="00" junk, nonce="n"', 'Digest realm="r"'),
        ('Digest realm="r", ck=00 11', 'Digest realm="r"'),
        ('Digest realm="r" nonce="n"', 'Digest realm="r" nonce="n"'),
        ('ck="00"', ""),
    ],
)
def test_parameters_are_taken_out_and_the_rest_keeps_its_bytes(value: str, expected: str) -> None:
    assert drop_auth_params(value, KEYS) == expected
