"""Bytes to messages: a datagram at once, a TCP stream as it comes (RFC 3261 7, 18.3; limits of ours).

Checks what every receiver must be able to rely on: a start line, header lines, the five headers that name a
transaction, CSeq and Content-Length. What else a header means is found out in `fields` when somebody asks.

Every message that is given has one Content-Length, which is that of its body: over UDP it may be absent, or longer than
a reader of a stream would take it for, and whoever passes the message on over TCP would send its body as more messages.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pcscf.sip.message import COMPACT, Header, Message, Request, Response, header

TOKEN = r"[A-Za-z0-9.!%*_+`'~-]+"
"""`token` of RFC 3261 25.1, as a regular expression."""

BLANK = " \t"
"""WSP of RFC 3261 25.1: str.strip() alone takes more."""

_TOKEN = re.compile(TOKEN)
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9]{2}) (.*)", re.IGNORECASE | re.ASCII | re.DOTALL)
_NOT_IN_URI = re.compile(r'[\s<>"]')
_PLAIN_LENGTH = re.compile(r"[A-Za-z-]+:[ \t]*(0|[1-9][0-9]{0,9})")
LONG_HEX = 16
"""Hexadecimal digits in a row that may be a key, or the part of one that says too much of it."""
_LONG_HEX = re.compile(rf"[0-9A-Fa-f]{{{LONG_HEX},}}+")
_LONG_HEX_OR_CUT = re.compile(rf"{_LONG_HEX.pattern}|[0-9A-Fa-f]{{4,15}}+\Z")
_MANDATORY = frozenset({"via", "from", "to", "call-id", "cseq"})
_ONCE = frozenset({"from", "to", "call-id", "cseq", "content-length", "max-forwards"})


_new_tuple = tuple.__new__
"""What a NamedTuple calls to make itself, without the detour: there are twenty headers in a message."""


class ParseError(ValueError):
    """The peer's fault. `status` is the SIP status to answer with; `message` what could be read, for answering."""

    def __init__(self, text: str, *, status: int = 400, message: Message | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.message = message


def without_keys_in(text: str) -> str:
    """A text for people without what may be a key of a challenge: 16 hexadecimal digits or more, wherever they are."""
    return _LONG_HEX.sub("…", text)


def quoted(text: str, most: int = 60) -> str:
    """What a peer said, for an error: so much of it, and no key, of whatever broken challenge the text is a part."""
    if len(text) <= most:
        return repr(without_keys_in(text))
    return repr(_LONG_HEX_OR_CUT.sub("…", text[:most]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may send: octets of head and body, number of header lines and, in all of them, of commas.

    Together they leave room in a UDP datagram for what a proxy adds: whatever comes over TCP can go on over UDP.
    """

    head: int = 32_768
    headers: int = 256
    commas: int = 1024
    """Ten times what long lists of identities and contacts have: a value of a list costs more than its octets."""
    body: int = 30_000


LIMITS = Limits()

MOST_PARAMS = 64
"""Parameters of one value or URI: three times as many as the longest Contact of a phone has."""


def parse(data: bytes, limits: Limits = LIMITS) -> Request | Response:
    """Parse one datagram. Bytes beyond Content-Length are dropped; fewer are an error (RFC 3261 18.3).

    Without Content-Length all is body, and the message gets one.
    """
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        raise ParseError("no empty line ends the headers")
    message, length = _head(data[start:end], limits)
    body = data[end + 4 :]
    if length is not None:
        if length > len(body):
            raise ParseError(f"Content-Length is {length}, the datagram has {len(body)}", message=message)
        body = body[:length]
    if len(body) > limits.body:
        raise ParseError(f"a body of {len(body)} octets; {limits.body} are allowed", status=513, message=message)
    if length is None:
        message = message.with_headers((*message.headers, header("Content-Length", str(len(body)))))
    return _with_body(message, body) if body else message


class StreamParser:
    """Frames one TCP connection. Feed bytes, take whole messages; CRLF keep-alives are counted, not messages."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._searched = 0
        self._head: Request | Response | None = None
        self._head_octets = 0
        self._length = 0
        self._pings = 0

    def feed(self, data: bytes) -> Iterator[Request | Response]:
        """Give the messages that are whole now; take them all before the next feed.

        Raises ParseError after the messages before the fault; the connection is then beyond repair and must be closed.
        """
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    @property
    def held(self) -> int:
        """Octets of a message that is not whole yet."""
        return len(self._buffer) + (0 if self._head is None else self._head_octets)

    def take_pings(self) -> int:
        """Double-CRLF keep-alives seen since the last call (RFC 5626 3.5.1): answer each with one CRLF."""
        pings, self._pings = self._pings, 0
        return pings

    def _next(self) -> Request | Response | None:
        buffer = self._buffer
        if self._head is None:
            while buffer.startswith(b"\r\n"):
                if buffer.startswith(b"\r\n\r\n"):
                    self._pings += 1
                    del buffer[:4]
                elif len(buffer) == 2 or buffer == b"\r\n\r":
                    return None  # half a keep-alive
                else:
                    del buffer[:2]
            end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
            if end < 0:
                self._searched = len(buffer)
                if len(buffer) > self._limits.head + 3:  # all but the last octet of the empty line may be here
                    raise _too_long(self._limits)
                return None
            head, length = _head(bytes(buffer[:end]), self._limits)
            if length is None:
                raise ParseError("no Content-Length on a stream (RFC 3261 18.3)", message=head)
            if length > self._limits.body:
                raise ParseError(f"a body of {length} octets", status=513, message=head)
            self._head, self._length, self._head_octets = head, length, end
            del buffer[: end + 4]
        if len(buffer) < self._length:
            return None
        body = bytes(buffer[: self._length])
        del buffer[: self._length]
        message, self._head, self._searched = self._head, None, 0
        return _with_body(message, body) if body else message


def _with_body(message: Request | Response, body: bytes) -> Request | Response:
    if isinstance(message, Request):
        return Request(method=message.method, uri=message.uri, headers=message.headers, body=body)
    return Response(status=message.status, reason=message.reason, headers=message.headers, body=body)


def _too_long(limits: Limits) -> ParseError:
    return ParseError(f"more than {limits.head} octets of headers", status=513)


def _head(data: bytes, limits: Limits) -> tuple[Request | Response, int | None]:
    """Read start line and headers; also gives Content-Length, None if absent. It is written in a form that all read."""
    if len(data) > limits.head:
        raise _too_long(limits)
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\r\n")
    if len(lines) > limits.headers + 1:
        raise ParseError(f"{len(lines) - 1} header lines; {limits.headers} are allowed", status=513)
    breaks = len(lines) - 1
    if text.count("\n") != breaks or text.count("\r") != breaks or "\0" in text:
        raise ParseError("a lone CR, a lone LF or a NUL among the headers")
    if (commas := text.count(",")) > limits.commas:
        raise ParseError(f"{commas} commas among the headers; {limits.commas} are allowed", status=513)
    headers: list[Header] = []
    folded: dict[int, list[str]] = {}
    bad = ""
    for line in lines[1:]:
        raw, colon, value = line.partition(":")
        canonical = _KNOWN.get(raw)
        if canonical is None:
            if line.startswith((" ", "\t")):
                if not headers:
                    raise ParseError("the first header line is a continuation")
                folded.setdefault(len(headers) - 1, []).append(line)
                continue
            canonical = _canonical(raw)
        if canonical and colon:
            headers.append(_new_tuple(Header, (canonical, value.strip(BLANK), line)))
        else:
            bad = bad or f"no header line: {quoted(line, 40)}"
    for place, more in folded.items():
        name, value, line = headers[place]
        said = [each for each in more if each.strip(BLANK)]  # a line of blanks might be taken for the empty line
        value = " ".join(filter(None, [value, *[each.strip(BLANK) for each in said]]))
        headers[place] = Header(name, value, "\r\n".join([line, *said]))
    message, problem, status = _start_line(lines[0], tuple(headers))
    length: Header | None = None
    try:
        length = _check(message, headers)
    except ParseError as error:
        bad = bad or str(error)
    if problem or bad:
        raise ParseError(problem or bad, status=status if problem else 400, message=message)
    if length is None:
        return message, None
    if plain := _PLAIN_LENGTH.fullmatch(length.line):
        return message, int(plain[1])
    # Folded, with zeros in front or a blank before the colon: what others may read otherwise goes on in plain form.
    octets = int(length.value)
    written = header("Content-Length", str(octets))
    return message.with_headers(written if item is length else item for item in headers), octets


def _canonical(raw: str) -> str:
    """The long form of a header name in lower case; "" if it is no token."""
    name = raw.rstrip(BLANK)
    if not _TOKEN.fullmatch(name):  # before lower(): the Kelvin sign would become the k of Supported
        return ""
    name = name.lower()
    return COMPACT.get(name, name)


_USUAL = """
    Via From To Call-ID CSeq Contact Max-Forwards Expires Supported Require Proxy-Require Allow Accept Authorization
    WWW-Authenticate Security-Client Security-Server Security-Verify Content-Length Content-Type Route Record-Route
    Path Service-Route P-Access-Network-Info P-Associated-URI P-Visited-Network-ID P-Charging-Vector User-Agent
    P-Preferred-Identity P-Asserted-Identity Server Event v f t i m l k c
    Session-Expires Min-SE Accept-Contact P-Preferred-Service P-Early-Media RSeq RAck Reason Privacy Date
    Content-Disposition Subscription-State Allow-Events P-Called-Party-Id P-Asserted-Service
"""
_KNOWN = {name: _canonical(name) for name in _USUAL.split()}
"""Spellings of almost every header there is on Gm, so that they need not be looked at by letter."""


def _start_line(line: str, headers: tuple[Header, ...]) -> tuple[Request | Response, str, int]:
    """The message that the start line begins, what is wrong with the line ("" if nothing) and the status for it."""
    if line[:4].upper() == "SIP/":
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise ParseError(f"no status line: {quoted(line)}")
        return Response(status=int(found[1]), reason=found[2], headers=headers), "", 0
    parts = line.split(" ")
    method, uri, version = parts[0], " ".join(parts[1:-1]), parts[-1]
    message = Request(method=method, uri=uri, headers=headers)
    if len(parts) < 3 or not _TOKEN.fullmatch(method):
        raise ParseError(f"no start line: {quoted(line)}")
    if version.lower() != "sip/2.0":
        wrong_version = version.lower().startswith("sip/")
        return message, f"version {quoted(version, 20)} is not SIP/2.0", 505 if wrong_version else 400
    if not uri or _NOT_IN_URI.search(uri):
        return message, f"no Request-URI: {quoted(uri)}", 400
    return message, "", 0


def _check(message: Request | Response, headers: list[Header]) -> Header | None:
    """Raises ParseError for headers that no receiver could work with; gives Content-Length, which is a number."""
    seen = {item[0]: item for item in headers}
    if len(seen) < len(headers):
        names = [item[0] for item in headers]
        for name in _ONCE:
            if names.count(name) > 1:
                raise ParseError(f"two {name} headers")
    missing = _MANDATORY - seen.keys()
    if missing:
        raise ParseError(f"without {', '.join(sorted(missing))}")
    number, method, *rest = [*seen["cseq"][1].split(None, 2), "", ""]
    if not (number.isascii() and number.isdigit() and len(number) <= 10 and int(number) < 1 << 31):
        raise ParseError(f"CSeq number is no integer below 2**31: {quoted(number, 40)}")
    if not method or any(rest) or (isinstance(message, Request) and method != message.method):
        raise ParseError(f"CSeq method {quoted(method, 30)} is not that of the start line")
    length = seen.get("content-length")
    if length is None:
        return None
    digits = length[1]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise ParseError(f"Content-Length is no number: {quoted(digits, 40)}")
    return length
