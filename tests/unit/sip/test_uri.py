"""URIs: parsing, writing, and the comparison examples of RFC 3261 19.1.4."""

import pytest

from pcscf.sip.parse import ParseError
from pcscf.sip.uri import Uri, parse_uri, same_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sip:h", Uri(scheme="sip", host="h")),
        (
            "SIPS:Alice:pw@HOST.example:5061;Transport=TCP;lr?Subject=a%20b&x=",
            Uri(
                scheme="sips",
                user="Alice:pw",
                host="host.example",
                port=5061,
                params=(("transport", "TCP"), ("lr", "")),
                headers=(("subject", "a b"), ("x", "")),
            ),
        ),
        ("sip:a@[2001:DB8::1]:5060", Uri(scheme="sip", user="a", host="2001:db8::1", port=5060)),
        ("sip:%61%3a%40@h", Uri(scheme="sip", user="a%3A%40", host="h")),
        (
            "sip:+1;phone-context=x@h;user=phone",
            Uri(scheme="sip", user="+1;phone-context=x", host="h", params=(("user", "phone"),)),
        ),
        ("tel:+1-201-555-0100;isub=1", Uri(scheme="tel", user="+1-201-555-0100", params=(("isub", "1"),))),
    ],
)
def test_a_uri_is_read(text: str, expected: Uri) -> None:
    assert parse_uri(text) == expected


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("sip:%61lice@Atlanta.example;Lr", "sip:alice@atlanta.example;lr"),
        ("sip:a%3ab@h", "sip:a%3Ab@h"),
        ("sip:a@[2001:DB8::1]:5060;x=%3B", "sip:a@[2001:db8::1]:5060;x=%3B"),
        ("sip:h?a=1%262", "sip:h?a=1%262"),
        ("sip:%00@h", "sip:%00@h"),
        ("tel:+1-201;isub=1", "tel:+1-201;isub=1"),
    ],
)
def test_a_uri_is_written(text: str, written: str) -> None:
    assert str(parse_uri(text)) == written


def test_a_bare_parameter_is_not_an_absent_one() -> None:
    uri = parse_uri("sip:h;lr")
    assert (uri.param("lr"), uri.param("maddr")) == ("", None)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", 400),
        ("sip", 400),
        ("sip:", 400),
        ("sip:@h", 400),
        ("sip:a@", 400),
        ("sip:a@evil@h", 400),
        ("sip:a@h;x=y@evil", 400),
        ("sip:h:65536", 400),
        ("sip:h:", 400),
        ("sip:[::1", 400),
        ("sip:a b@h", 400),
        ("sip:a%4@h", 400),
        ("sip:h;;lr", 400),
        ("sip:<a>@h", 400),
        ("sip:a\x7f@h", 400),
        ("tel:", 400),
        ("tel:call-me", 400),
        ("http://h", 416),
        ("urn:service:sos", 416),
    ],
)
def test_what_is_no_uri_of_ours_is_refused(text: str, status: int) -> None:
    with pytest.raises(ParseError) as raised:
        parse_uri(text)
    assert raised.value.status == status


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlAnTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
        ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("tel:+1-201-555-0100", "tel:+1(201)555.0100"),
        ("tel:12a;x=1", "tel:12A;X=1"),
    ],
)
def test_uris_that_are_the_same(left: str, right: str) -> None:
    assert same_uri(parse_uri(left), parse_uri(right))
    assert same_uri(parse_uri(right), parse_uri(left))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=off", "sip:carol@chicago.com;security=on"),
        ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
        ("sip:a%3Ab@h", "sip:a:b@h"),
        ("tel:+1201", "tel:1201"),
        ("tel:1201;phone-context=a", "tel:1201"),
    ],
)
def test_uris_that_differ(left: str, right: str) -> None:
    assert not same_uri(parse_uri(left), parse_uri(right))
    assert not same_uri(parse_uri(right), parse_uri(left))
