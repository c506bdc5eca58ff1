"""Properties of the SIP package that must hold for any input: what comes in is kept or refused, and nothing breaks."""

import re
import string
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pcscf.sip.fields import (
    drop_auth_params,
    parse_auth,
    parse_cseq,
    parse_mechanism,
    parse_name_addr,
    parse_via,
)
from pcscf.sip.message import COMPACT, Message, Request, Response, response_to, split_list
from pcscf.sip.parse import Limits, ParseError, StreamParser, parse
from pcscf.sip.transaction import GM_TIMERS, Transactions
from pcscf.sip.uri import parse_uri, same_uri
from tests.unit.sip.torture.invalid import INVALID
from tests.unit.sip.torture.semantics import SEMANTICS
from tests.unit.sip.torture.valid import VALID

fuzz = settings(max_examples=150)

TOKEN_CHARS = string.ascii_letters + string.digits + "-.!%*_+`'~"
tokens = st.text(TOKEN_CHARS, min_size=1, max_size=12)
blanks = st.sampled_from(["", "", " ", "\t", "  ", " \t "])
folds = st.sampled_from(["", " ", "\r\n ", "  \r\n\t", "\r\n \t "])
uris = st.sampled_from(["sip:home.example", "sip:+15550100@[2001:db8::1]:5060;lr?a=b", "tel:+1-201", "urn:service:sos"])
KNOWN = {*COMPACT, *COMPACT.values(), "cseq", "max-forwards"}


@st.composite
def header_lines(draw: st.DrawFn, name: str, value: bytes) -> bytes:
    """A line of that name in any case or its compact form, with the spaces and folds that RFC 3261 7.3.1 allows."""
    spelled = draw(st.sampled_from([name, *(short for short, long in COMPACT.items() if long == name)]))
    cased = "".join(draw(st.sampled_from([char.lower(), char.upper()])) for char in spelled)
    return f"{cased}{draw(blanks)}:{draw(folds)}".encode() + value + draw(blanks).encode()


@st.composite
def unknown_headers(draw: st.DrawFn) -> bytes:
    """An extension header: any octets but CR, LF and NUL, folded anywhere."""
    name = draw(tokens.filter(lambda text: text.lower() not in KNOWN))
    octets = st.binary(max_size=20).map(lambda data: bytes(octet for octet in data if octet not in b"\r\n\0"))
    parts = draw(st.lists(octets, min_size=1, max_size=3))
    return f"{name}{draw(blanks)}:".encode() + b"\r\n ".join(parts)


@st.composite
def messages(draw: st.DrawFn, *, framed: bool | None = None) -> bytes:
    """A legal message, written oddly. `framed`: with Content-Length, as on a stream; None leaves it open."""
    method = draw(tokens)
    if draw(st.booleans()):
        start = f"{method} {draw(uris)} SIP/2.0".encode()
    else:
        reason = draw(st.sampled_from([b"", b"OK", b"= 2 * 3", "простое".encode(), b"\xff\xfe"]))
        start = b"SIP/2.0 %d " % draw(st.integers(100, 699)) + reason
    body = draw(st.binary(max_size=40))
    branch = draw(tokens)
    lines = [
        draw(header_lines("via", f"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{branch}".encode())),
        draw(header_lines("from", b"<sip:a@home.example>;tag=1")),
        draw(header_lines("to", b'"Quoted, \\" > name" <sip:b@home.example>')),
        draw(header_lines("call-id", draw(tokens).encode())),
        draw(header_lines("cseq", f"{draw(st.integers(0, (1 << 31) - 1))} {method}".encode())),
        *draw(st.lists(unknown_headers(), max_size=4)),
    ]
    if framed or (framed is None and draw(st.booleans())):
        lines.append(draw(header_lines("content-length", str(len(body)).encode())))
    return b"\r\n".join([start, *draw(st.permutations(lines)), b"\r\n"]) + body


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message that something happened to: cut, doubled, overwritten."""
    torture = st.sampled_from([*VALID.values(), *INVALID.values(), *SEMANTICS.values()])
    data = draw(messages() | torture)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        put = draw(
            st.binary(max_size=6)
            | st.sampled_from(
                [b"\r\n", b"\n", b"\0", b" ", b":", b",", b";", b'"', b"\\", b"<", b">", b"@", b"\r\n\r\n"]
            )
            | st.just(data[start:end] * 2)
        )
        data = data[:start] + put + data[end:]
    return data


VIEWS: dict[str, Callable[[str], object]] = {
    "via": parse_via,
    "name-addr": parse_name_addr,
    "cseq": parse_cseq,
    "auth": parse_auth,
    "mechanism": parse_mechanism,
    "uri": parse_uri,
}


def look_at_everything(message: Message) -> None:
    """Call every view on every value; ParseError is the only way out that is allowed."""
    for item in message.headers:
        for value in [item.value, *split_list(item.value)]:
            for view in VIEWS.values():
                try:
                    view(value)
                except ParseError as error:
                    assert error.status in (400, 416)


def but_length(data: bytes) -> tuple[list[bytes], bytes]:
    """The lines of the head but for Content-Length, without continuations that are blank, and the body."""
    head, _, body = data.partition(b"\r\n\r\n")
    head = re.sub(rb"\r\n[ \t]+(?=\r\n|\Z)", b"", head)
    lines = re.split(rb"\r\n(?![ \t])", head)
    return [line for line in lines if line.partition(b":")[0].strip().lower() not in (b"content-length", b"l")], body


@fuzz
@given(messages())
def test_an_untouched_message_keeps_its_bytes(data: bytes) -> None:
    """All but blank continuations and Content-Length, of which it has one that is right (Step 1, 16)."""
    message = parse(data)
    assert but_length(message.to_bytes()) == but_length(data)
    assert message.with_headers(message.headers).to_bytes() == message.to_bytes()
    assert message.lines("content-length") == [str(len(message.body))]
    assert message.first("from") == "<sip:a@home.example>;tag=1"
    assert message.first("to") == '"Quoted, \\" > name" <sip:b@home.example>'


@settings(fuzz, max_examples=400)
@given(damaged() | st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_parse_error(data: bytes) -> None:
    try:
        message: Message | None = parse(data)
    except ParseError as error:
        assert error.status in (400, 505, 513)
        message = error.message
    if message is None:
        return
    look_at_everything(message)
    if isinstance(message, Request):
        assert response_to(message, 400, to_tag="ours").to_bytes().startswith(b"SIP/2.0 400 Bad Request\r\n")


@fuzz
@given(damaged())
def test_a_transaction_begins_or_the_message_is_refused(data: bytes) -> None:
    transactions: Transactions[str] = Transactions()
    try:
        message = parse(data)
        outputs = transactions.receive(message, "flow", timers=GM_TIMERS, reliable=False, now=0)
    except ParseError:
        assert len(transactions) == 0
    else:
        assert len(outputs) == 1
        assert isinstance(message, Response) or message.method == "ACK" or len(transactions) == 1


def pieced(*pieces: str | st.SearchStrategy[str], most: int, least: int = 0) -> st.SearchStrategy[str]:
    """Text put together from these pieces."""
    fixed = st.sampled_from([piece for piece in pieces if isinstance(piece, str)])
    strategies = [piece for piece in pieces if not isinstance(piece, str)]
    return st.lists(st.one_of(fixed, *strategies), min_size=least, max_size=most).map("".join)


any_text = pieced(
    *';,:=<>"\\@?&%*[]./ \t\r\n\0',
    *("a", "ck", "sip:", "SIP/2.0/UDP ", "Digest ", "é", "\udcff"),
    st.characters(),
    most=40,
)


@pytest.mark.parametrize("name", VIEWS)
@settings(fuzz, max_examples=300)
@given(text=any_text)
def test_a_view_reads_a_value_or_raises_a_parse_error(name: str, text: str) -> None:
    try:
        VIEWS[name](text)
    except ParseError as error:
        assert error.status in (400, 416)


userinfo = pieced(*"aB1;?/:&=+$,-_.!~*'()", "%40", "%3a", "%25", "%41", "%00", "%ff", most=8)
words = pieced(*"aB1[]/:+$-_.!~*'()", "%26", "%3D", "%3B", "%00", "%e9", least=1, most=6)


@fuzz
@given(
    user=userinfo,
    params=st.lists(st.tuples(words, words | st.sampled_from(["", "&"])), max_size=3),
    headers=st.lists(st.tuples(words, words), max_size=2),
    port=st.integers(1, 65535),
)
def test_a_uri_written_again_is_the_same(
    user: str, params: Sequence[tuple[str, str]], headers: Sequence[tuple[str, str]], port: int
) -> None:
    text = "sip:" + (f"{user}@" if user else "") + f"Host.example:{port}"
    text += "".join(f";{name}={value}" if value else f";{name}" for name, value in params)
    text += "?" + "&".join(f"{name}={value}" for name, value in headers) if headers else ""
    uri = parse_uri(text)
    again = parse_uri(str(uri))
    assert again == uri
    assert same_uri(again, uri)
    assert str(again) == str(uri)


Outcome = tuple[list[bytes], int, tuple[int, str] | None]


def frame(pieces: Sequence[bytes], limits: Limits) -> Outcome:
    """What a connection makes of its bytes in these pieces: messages, keep-alives, and the fault that ended it."""
    stream = StreamParser(limits)
    seen: list[bytes] = []
    pings = 0
    for piece in pieces:
        try:
            for message in stream.feed(piece):
                seen.append(message.to_bytes())
        except ParseError as error:
            with pytest.raises(ParseError) as again:  # what has failed stays failed
                list(stream.feed(messages_after_the_fault))
            assert again.value.status == error.status
            return seen, pings + stream.take_pings(), (error.status, str(error))
        pings += stream.take_pings()
    return seen, pings, None


messages_after_the_fault = VALID["lwsdisp"] * 2


@fuzz
@given(
    parts=st.lists(messages(framed=True) | st.sampled_from([b"\r\n\r\n", b"\r\n", b"\r\n\r\n\r\n"]), max_size=4),
    tail=st.just(b"") | damaged(),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    head_limit=st.integers(100, 400) | st.just(32_768),
    body_limit=st.sampled_from([10, 65_536]),
)
@example(parts=[], tail=VALID["lwsdisp"], cuts=[], head_limit=len(VALID["lwsdisp"]) - 4, body_limit=10)
def test_a_stream_is_read_the_same_however_it_is_cut(
    parts: list[bytes], tail: bytes, cuts: list[int], head_limit: int, body_limit: int
) -> None:
    data = b"".join(parts) + tail
    limits = Limits(head=head_limit, body=body_limit)
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    at_once = frame([data], limits)
    assert frame([data[left:right] for left, right in pairwise(edges)], limits) == at_once
    assert frame([bytes([octet]) for octet in data], limits) == at_once
    if not tail and limits == Limits():
        seen, pings, fault = at_once
        assert b"".join(seen) == b"".join(part for part in parts if part.strip(b"\r\n"))
        assert fault is None
        assert 4 * pings <= sum(len(part) for part in parts if not part.strip(b"\r\n"))


KEY = "5ec2e7a0b1c2d3e4f5061728394a5b6c"
key_names = st.sampled_from(["ck", "CK", "ik", "Ik"])
shown_keys = st.sampled_from(
    [
        '="{}"', "={}", " = {}", '\t=\t"{}"', '="{}', '="{}\\"{}"', '="{}\\"{}" {}', "={} {}", "='{}'", '="{}"{}',
        '="{}","{}"', "={},{}", "=={}", ':"{}"', " {}", '="{}";{}', '"="{}"', '=\\"{}\\"',
    ]
)  # fmt: skip
other_params = st.sampled_from(
    ['realm="ims.example"', 'nonce="A,b==\\" c"', "algorithm=AKAv1-MD5", 'qop="auth,auth-int"', "stale = false", 'x=""']
)


@st.composite
def odd_challenges(draw: st.DrawFn) -> str:
    """A challenge with keys in it, often one that nobody could read."""
    pieces = draw(st.lists(other_params | st.sampled_from(['realm="open', "junk", "", '"']), max_size=3))
    for name in draw(st.lists(key_names, min_size=1, max_size=3)):
        piece = name + draw(shown_keys).replace("{}", KEY)
        pieces.insert(draw(st.integers(0, len(pieces))), piece)
    return draw(st.sampled_from(["Digest ", "digest\t", "AKA ", "", "Digest,"])) + draw(
        st.sampled_from([",", ", ", " , ", " ", ",,"])
    ).join(pieces)


@settings(fuzz, max_examples=600)
@example(f"Digest realm=\"open,ck='{KEY}',\"")
@example(f'Digest realm="open,ck {KEY},"')
@given(odd_challenges())
def test_no_key_survives_in_a_challenge_however_odd(value: str) -> None:
    left = drop_auth_params(value, frozenset({"ck", "ik"}))
    assert not any(KEY[start : start + 8] in left for start in range(len(KEY) - 7)), left


@fuzz
@given(
    params=st.lists(other_params | key_names.map(lambda name: f'{name}="{KEY}"'), min_size=1, max_size=6),
    comma=st.sampled_from([",", ", ", " , ", ",\t"]),
)
def test_the_other_parameters_keep_their_bytes(params: list[str], comma: str) -> None:
    kept = [param for param in params if param.partition("=")[0].lower() not in ("ck", "ik")]
    value = "Digest " + comma.join(params)
    left = drop_auth_params(value, frozenset({"ck", "ik"}))
    if kept == params:
        assert left == value
    for place, param in enumerate(kept):
        before, _, left = left.partition(param)
        assert before.strip() == ("," if place else "Digest")
    assert left == ("" if kept else "Digest")


items = st.sampled_from(
    ["<sip:a@b,c>", '"x, \\", y" <sip:a@b>', "SIP/2.0/UDP h;branch=z", 'a;b="1,2"', "*", '<sip:a>;x="<,>"', "é"]
)


@fuzz
@given(
    st.lists(items, max_size=5), st.lists(st.sampled_from([",", " ,", ", ", ",\t", " , , "]), min_size=5, max_size=5)
)
def test_a_list_is_split_into_what_it_was_joined_from(parts: list[str], commas: list[str]) -> None:
    value = "".join(part + comma for part, comma in zip(parts, commas, strict=False))
    assert split_list(value) == parts


@fuzz
@given(any_text)
def test_splitting_again_changes_nothing(text: str) -> None:
    parts = split_list(text)
    assert all(part and part == part.strip() for part in parts)
    assert split_list(parts[0]) == parts[:1] if parts else not text.replace(",", "").strip()
