"""Text of peers at its worst: what is repeated, what it stands in, and what of ours reads it.

`test_worst_case` measures each reader with each filling, as long as we accept it. Whole messages are in
`core.hostile_messages`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from pcscf import (
    aka,
    emergency,
    granted,
    messages,
    nexthop,
    passage,
    reginfo,
    register,
    routing,
    security,
    subscription,
    terminating,
    trust,
)
from pcscf.capture import trace
from pcscf.capture.sip import Seen
from pcscf.sip import fields, sdp, uri
from pcscf.sip.message import Request, Response, header, response_to, split_list
from pcscf.sip.parse import LIMITS, StreamParser, parse
from pcscf.vocabulary import Flow, Interface

HEAD = LIMITS.head - 700
"""Octets of a value in a message that is just accepted."""
FILLINGS = (
    '"', '\\"', "\\", '"\\', ",", ", ", ";", "; ", "<", ">", "=", " ", "\t", "%", "%25", "%41", "0", "a", ";a",
    ";a=b", ';a="b"', ';a="\\"', ';a="', "; a = b ", ",a", "<sip:a@b>,", '"a"<a:b>,', '<"', '"<', "&a=b", ":", "@",
    "[", "]", "?", "/", ".", "-", "(", "+1-", "ck=", 'ck="', "ik ", "ck ==", "a=b,", 'a="\\"",', "a= ,", 'a=",',
    "tag=", ";tag ", "\u00e9", "\udc80", "spi-c= ", "spi-c =1 ", "ipsec-3gpp;", "SIP/2.0/UDP h,", "sip:",
    "<sip:a;lr>,", "transport=tcp;", "integrity-protected=", "; rport",
)  # fmt: skip
"""What is repeated: every sign that means something, and the beginnings of what they begin."""

PHONE = Flow("UDP", Interface.GM, ip_address("10.45.0.1"), 5060, ip_address("10.45.0.2"), 5060)
OWN = tuple(f"<sip:user{number}@home.example>" for number in range(20))
SERVER = ", ".join(
    f"ipsec-3gpp;q=0.{number};alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;spi-c=1000;spi-s=1001;port-c=5104;port-s=5100"
    for number in range(1, 6)
)
PROPOSAL = security.parse_proposal([SERVER])


def request(
    *headers: tuple[str, str], method: str = "MESSAGE", to: str = "sip:a@home.example", body: bytes = b""
) -> Request:
    """With these headers besides those that there must be."""
    usual = {
        "Via": "SIP/2.0/UDP 10.45.0.2:5060;branch=z9hG4bKh;rport",
        "From": "<sip:a@home.example>;tag=1",
        "To": "<sip:a@home.example>",
        "Call-ID": "1",
        "CSeq": f"1 {method}",
    }
    names = {name for name, _ in headers}
    made = [header(name, value) for name, value in usual.items() if name not in names]
    made += [header(name, value) for name, value in headers]
    return Request(method=method, uri=to, headers=tuple(made), body=body)


def response(*headers: tuple[str, str], status: int = 200) -> Response:
    return Response(status=status, reason="", headers=request(*headers).headers)


@dataclass(frozen=True)
class Reader:
    """Something of ours that reads a text of a peer. `within`: what may stand before and behind the filling."""

    read: Callable[[str], object]
    within: tuple[tuple[str, str], ...] = (("", ""),)
    size: int = HEAD
    fillings: tuple[str, ...] = FILLINGS

    def texts(self) -> Iterator[tuple[str, str, str]]:
        """Every filling in every place, as what stands before, is repeated, and stands behind."""
        return ((before, filling, behind) for before, behind in self.within for filling in self.fillings)


def filled(before: str, filling: str, behind: str, size: int) -> str:
    """So many octets of a filling, and what it stands in. Always an even number: backslashes would escape the rest."""
    return before + filling * (size // len(octets_of(filling)) & ~1) + behind


def octets_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def lines_of(text: str) -> list[str]:
    """The text as 200 header lines of one name."""
    step = len(text) // 200 + 1
    return [text[place : place + step] for place in range(0, len(text), step)]


VIA = (
    ("", ""),
    ("SIP/2.0/", ""),
    ("SIP/2.0/UDP ", ""),
    ("SIP/2.0/UDP h", ""),
    ("SIP/2.0/UDP h;a=", ""),
    ("SIP/2.0/UDP h:", ""),
)
ADDRESS = (
    ("", ""),
    ('"', ""),
    ('"', '" <sip:a@b>;tag=1'),
    ("<sip:a@b>", ""),
    ("<sip:", ">"),
    ("<sip:", "@b>"),
    ("<sip:a@b;", ">"),
    ("sip:a@b", ""),
)
URI = (
    ("", ""),
    ("sip:", ""),
    ("sip:", "@b"),
    ("sip:a@b", ""),
    ("sip:a@b;", ""),
    ("sip:a@b;c=", ""),
    ("sip:a@b?", ""),
    ("sip:a@[", ""),
    ("tel:", ""),
    ("tel:+1;", ""),
)
AUTH = (
    ("", ""),
    ("Digest ", ""),
    ('Digest a="', ""),
    ('Digest a="', '"'),
    ("Digest a=", ""),
    ("Digest a=b,", ""),
    ("Digest a=b,", "ck=1"),
    ("Digest ck=", ""),
    ('Digest ck="', '",ik=0'),
    ('Digest integrity-protected="', ""),
)
MECHANISM = (
    ("", ""),
    ("ipsec-3gpp;", ""),
    ("ipsec-3gpp", ""),
    ("ipsec-3gpp;alg=", ""),
    (f"{SERVER},", ""),
    ("ipsec-3gpp;spi-c", "=1"),
)


def _twice(text: str) -> object:
    """Compare a URI with one that differs in its last octet."""
    left = uri.parse_uri(text)
    return uri.same_uri(left, uri.parse_uri(text)), str(left), uri.same_uri(left, uri.parse_uri(text + "x"))


def _routes(text: str) -> object:
    values = split_list(text)
    return [(passage.readable(value) and passage.route_uri(value)) for value in values[:1]]


def _granted(text: str) -> object:
    asked, said = request(("Contact", text), method="REGISTER"), response(("Contact", text))
    return granted.read_granted(asked, said, PHONE.remote, {"sip:other@10.45.0.3"})


def _dialog(text: str) -> object:
    dialog = subscription.Dialog(call_id="1", own_tag="1", remote_uri="sip:a@b", began=0, expires=9)
    dialog.accept(response(("Contact", "<sip:a@b>"), ("Record-Route", text)))
    dialog.notify(request(("Contact", text), ("Record-Route", text), method="NOTIFY"))
    return dialog.target


def _captured(text: str) -> object:
    message = request(("Authorization", text), ("WWW-Authenticate", text), ("Contact", text), ("From", text))
    seen = Seen(
        at=0,
        transport="UDP",
        source=PHONE.remote,
        source_port=1,
        destination=PHONE.local,
        destination_port=2,
        spi=0,
        message=message,
    )
    fits = trace.Wanted(user="aaaa").fits(seen), trace.Wanted(user="\\").fits(seen)
    return fits, json.dumps(trace.to_json(seen))


def _told(text: str) -> object:
    """All that a tunnel of headers tells: each in the place where it is read."""
    both = request(
        ("Event", text),
        ("Subscription-State", text),
        ("Content-Type", text),
        ("Privacy", text),
        ("P-Charging-Vector", text),
    )
    return (
        subscription.standing(both),
        subscription.seconds(text),
        granted.first_seconds(text, text),
        trust.privacy(both),
        terminating._answered_vector(text, "home"),
        routing.option_tags(split_list(text)),
    )


def _rewrites() -> dict[str, Reader]:
    """Those of the trust table."""
    found = {rule.action for rule in trust.RULES} - {trust.keep, trust.drop, trust.hop}
    return {f"trust.{each.__name__}": Reader(_rewriting(each), (*ADDRESS, *AUTH[:4])) for each in found}


def _rewriting(action: trust.Action) -> Callable[[str], object]:
    return lambda text: action(header("History-Info", text))


READERS: dict[str, Reader] = {
    "split_list": Reader(split_list, (("", ""), ('"', ""), ("<", ""), ('a,"', ""), ("a,<", ""))),
    "Message.values of 200 lines": Reader(
        lambda text: request(*(("Contact", line) for line in lines_of(text))).values("contact")
    ),
    "response_to, To": Reader(lambda text: response_to(request(("To", text)), 400, to_tag="1"), ADDRESS),
    "parse_via": Reader(fields.parse_via, VIA),
    "parse_name_addr": Reader(fields.parse_name_addr, ADDRESS),
    "parse_cseq": Reader(fields.parse_cseq, (("", ""), ("1 ", ""), ("1", " A"))),
    "parse_auth": Reader(fields.parse_auth, AUTH),
    "parse_mechanism": Reader(fields.parse_mechanism, MECHANISM),
    "drop_auth_params, keys": Reader(lambda text: fields.drop_auth_params(text, aka.KEY_PARAMS), AUTH),
    "drop_auth_params, indicator": Reader(
        lambda text: fields.drop_auth_params(text, frozenset({"integrity-protected"})), AUTH
    ),
    "strip_keys": Reader(
        lambda text: aka.strip_keys(response(("WWW-Authenticate", text), ("Proxy-Authenticate", text))), AUTH
    ),
    "take_challenge": Reader(lambda text: aka.take_challenge(response(("WWW-Authenticate", text), status=401)), AUTH),
    "take_challenge of 200 lines": Reader(
        lambda text: aka.take_challenge(response(*(("WWW-Authenticate", f"Digest {line}") for line in lines_of(text))))
    ),
    "credentials": Reader(lambda text: register._credentials(request(("Authorization", text))), AUTH),
    "parse_uri": Reader(uri.parse_uri, URI),
    "same_uri": Reader(_twice, URI),
    "read_uri": Reader(lambda text: nexthop.read_uri(text, "UDP"), URI),
    "is_emergency": Reader(lambda text: emergency.is_emergency(request(to=text), frozenset({"112", "911"})), URI),
    "route_uri": Reader(_routes, ADDRESS),
    "preferred_of": Reader(lambda text: passage.preferred_of(OWN, split_list(text)), ADDRESS),
    "tag_of": Reader(lambda text: passage.tag_of(request(("To", text)), "to"), ADDRESS),
    "read_granted": Reader(_granted, ADDRESS),
    "instance": Reader(lambda text: register._instance(request(("Contact", text))), ADDRESS),
    "parse_proposal": Reader(lambda text: security.parse_proposal([text]), MECHANISM),
    "parse_proposal of 200 lines": Reader(lambda text: security.parse_proposal(lines_of(text)), MECHANISM),
    "check_verify": Reader(lambda text: security.check_verify([text], SERVER), MECHANISM),
    "check_repeated_client": Reader(lambda text: security.check_repeated_client([text], PROPOSAL), MECHANISM),
    "received_via": Reader(lambda text: routing.received_via(header("Via", text), PHONE), VIA),
    "less_our_via": Reader(lambda text: routing.less_our_via(header("Via", text)), VIA),
    **_rewrites(),
    "request_uri": Reader(trust.request_uri, URI),
    "hops_left": Reader(lambda text: routing.hops_left(request(("Max-Forwards", text)))),
    "told": Reader(_told),
    "a dialog of ours": Reader(_dialog, ADDRESS),
    "messages shown": Reader(lambda text: messages.without_keys(response(("WWW-Authenticate", text))), AUTH),
    "a message of a capture": Reader(_captured, (*AUTH[:4], *ADDRESS[:3]), HEAD // 4),
}


# Whole messages and streams

HEAD_OF_ALL = (
    b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:a@home.example>;tag=1\r\nTo: <sip:b@home.example>\r\n"
    b"Call-ID: c1\r\n"
)
START = b"MESSAGE sip:b@home.example SIP/2.0\r\n"
CSEQ = b"CSeq: 7 MESSAGE\r\n"
LINES = (
    "\r\n",
    "\r\n ",
    "\r\n\t",
    "\r\na:",
    "\r\nContact: ",
    "\r\nm:<a:b>",
    "\r\nTo:a",
    "\r\nx",
    "\n",
    "\r",
    "\0",
    "\r\n\r",
)
"""More to repeat where lines begin and end."""


def _datagram(before: bytes, behind: bytes) -> Callable[[str], object]:
    return lambda text: parse(before + octets_of(text) + behind + b"\r\n")


def _streamed(before: bytes, behind: bytes, step: int) -> Callable[[str], object]:
    """What comes in small pieces."""

    def read(text: str) -> object:
        stream, data = StreamParser(), before + octets_of(text) + behind
        return [list(stream.feed(data[place : place + step])) for place in range(0, len(data), step)]

    return read


WHOLE = START + HEAD_OF_ALL + CSEQ
PLACES = {
    "in front": (b"", WHOLE),
    "method": (b"M", WHOLE[7:]),
    "Request-URI": (b"MESSAGE ", WHOLE[26:]),
    "reason": (b"SIP/2.0 200 ", WHOLE[34:]),
    "name of a header": (WHOLE, b": a\r\n"),
    "value": (WHOLE + b"X: ", b"\r\n"),
    "number of CSeq": (START + HEAD_OF_ALL + b"CSeq: ", b" MESSAGE\r\n"),
    "method of CSeq": (START + HEAD_OF_ALL + b"CSeq: 7 ", b"\r\n"),
    "Content-Length": (WHOLE + b"l:", b"\r\n"),
}
DATAGRAMS = {place: Reader(_datagram(*around), fillings=FILLINGS + LINES) for place, around in PLACES.items()}
STREAMS = {
    f"{place} by {step}": Reader(_streamed(*around, step), fillings=("a", " ", *LINES), size=HEAD if step > 9 else 4000)
    for step in (1, 2, 3, 7, 1000, 65_536)
    for place, around in (
        ("whole", (b"", b"")),
        ("before a message", (b"", WHOLE + b"l: 0\r\n\r\n")),
        ("in a message", (WHOLE + b"X: ", b"\r\n\r\n")),
        ("messages", (WHOLE + b"l: 0\r\n\r\n", b"\r\n\r\n")),
    )
}
"""Of one octet at a time fewer: each piece is a read of its own."""

# Bodies

REGINFO = f'<?xml version="1.0"?><reginfo xmlns="{reginfo.NAMESPACE}" version="0" state="full"'
CONTACT = '<registration aor="sip:a" id="1" state="active"><contact id="1" state="active" event="created"><uri>sip:a'
END = "</uri></contact></registration>"
SDP = "v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\n"
STREAM = "m=audio 1 RTP/AVP 0\r\n"


def read_document(text: str) -> object:
    return reginfo.KnownState().take(reginfo.parse(octets_of(f"{REGINFO}{text}</reginfo>")))


def read_description(text: str) -> object:
    session = sdp.parse_sdp(octets_of(text))
    seen = [(each.direction, each.directed("inactive"), each.qos) for each in session.media]
    return seen, session.direction, session.to_bytes()


def many(pattern: str, count: int) -> str:
    """The pattern with the numbers below `count`."""
    return "".join(pattern.replace("#", str(number)) for number in range(count))


DOCUMENTS: dict[str, Callable[[int], str]] = {
    "a long namespace of many elements": lambda size: f' xmlns:a="{"u" * (size // 2)}">' + "<a:x/>" * (size // 12),
    "a long namespace of many attributes": lambda size: (
        f' xmlns:a="{"u" * (size // 2)}"><a:x' + many(" a:b#=''", size // 24) + "/>"
    ),
    "many attributes": lambda size: many(" b#='1'", size // 9) + ">",
    "many namespaces": lambda size: many(" xmlns:b#='a'", size // 32) + ">" + "<b1:x/>" * (size // 16),
    "many elements": lambda size: ">" + "<a/>" * (size // 4),
    "deep": lambda size: ">" + "<a>" * (size // 3),
    "open quotes": lambda size: ' a="' + "'" * size,
    "less than": lambda size: ">" + "<" * size,
    "ampersands": lambda size: ">" + "&" * size,
    "entities": lambda size: ">" + CONTACT + "&#65;" * (size // 5) + END,
    "text": lambda size: ">" + CONTACT + "a" * size + END,
    "elements in a URI": lambda size: ">" + CONTACT + "<x>a</x>" * (size // 8) + END,
    "blanks": lambda size: ">" + "\n" * size,
    "an open comment": lambda size: "><!-" + "-a" * (size // 2),
    "CDATA": lambda size: "><![CDATA[" + "]" * size,
    "an instruction": lambda size: "><?a" + "?" * size,
    "a long name": lambda size: "><" + "a" * size + "/>",
    "colons": lambda size: "><" + "a:" * (size // 2) + "b/>",
    "registrations": lambda size: ">" + many("<registration aor='sip:#' id='#' state='active'/>", size // 55),
    "contacts": lambda size: ">" + many(f"{CONTACT}{END}".replace("sip:a", "sip:#").replace('"1"', '"#"'), size // 140),
}
DESCRIPTIONS: dict[str, Callable[[int], str]] = {
    "attributes": lambda size: SDP + STREAM + "a=\n" * (size // 3),
    "other lines": lambda size: SDP + STREAM + "b=\n" * (size // 3),
    "lines before": lambda size: SDP + "a=\n" * (size // 3),
    "empty lines": lambda size: SDP + "\r\n" * (size // 2),
    "streams": lambda size: SDP + STREAM * 31 + "a=\n" * ((size - 651) // 3),
    "formats": lambda size: SDP + STREAM[:-2] + " 0" * (size // 2),
    "preconditions": lambda size: SDP + STREAM + "a=curr:qos local none\n" * (size // 22),
    "words of a precondition": lambda size: SDP + STREAM + "a=curr:qos" + " x" * (size // 2),
    "an origin": lambda size: "v=0\r\no=" + "- " * (size // 2) + "\r\ns=-\r\n",
}
