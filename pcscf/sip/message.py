"""SIP messages as values: header lines that keep their bytes, and the few edits a proxy makes.

A message is immutable; an edit makes a new one that shares every untouched header. Serialising an untouched message
gives the bytes it was parsed from, but for the version, which we send in upper case (RFC 3261 7.1), and for a
Content-Length that was absent or could be misread. Parsing is `parse`, meaning of a value is `fields` and `uri` (RFC
3261 7, 7.3.1).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
"""Compact form -> long form, lower case (RFC 3261 7.3.3 and the IANA registry)."""


# An unterminated quote runs to the end: a pattern that fails there begins anew at each quote behind a backslash.
_QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_TAG = re.compile(r";\s*+tag\s*+=", re.IGNORECASE | re.ASCII)


_LIST_ITEM = re.compile(
    r'(?:[^,"<]++|"(?:[^"\\]|\\.)*+(?:"|\\?$)|<(?:[^>"]++|"(?:[^"\\]|\\.)*+(?:"|\\?$))*+(?:>|$))++', re.DOTALL
)


_new_tuple = tuple.__new__
"""What a NamedTuple calls to make itself, without the detour: a message that goes on gets half a dozen new headers."""


class Header(NamedTuple):
    """One header line. `name` is the long form in lower case, `value` unfolded and trimmed.

    `line` is the line as it goes on the wire, without its CRLF (folded lines keep theirs inside).
    """

    name: str
    value: str
    line: str


def header(name: str, value: str) -> Header:
    """Make a header we send. Raises ValueError when the value would break out of its line."""
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError(f"{name}: a header value cannot hold a line break")
    key = name.lower()
    return _new_tuple(Header, (COMPACT.get(key, key), value, f"{name}: {value}"))


def split_list(value: str) -> list[str]:
    """Split at the commas of a list value, not at those inside quotes or angle brackets (RFC 3261 7.3.1).

    Items are trimmed; empty items are left out.
    """
    if "," not in value:
        stripped = value.strip()
        return [stripped] if stripped else []
    parts = _LIST_ITEM.findall(value) if '"' in value or "<" in value else value.split(",")
    return [item for part in parts if (item := part.strip())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What requests and responses share."""

    headers: tuple[Header, ...]
    body: bytes = b""

    @property
    def start_line(self) -> str:
        raise NotImplementedError

    def first(self, name: str) -> str | None:
        """The value of the first header of that (long, lower-case) name, or None."""
        for item in self.headers:
            if item[0] == name:
                return item[1]
        return None

    def lines(self, name: str) -> list[str]:
        """The value of each header line of that name, in order."""
        return [item[1] for item in self.headers if item[0] == name]

    def values(self, name: str) -> list[str]:
        """The comma-separated values of all header lines of that name, in order (RFC 3261 7.3.1)."""
        return [value for item in self.headers if item[0] == name for value in split_list(item[1])]

    def without(self, *names: str) -> Self:
        """This message less every header of these names."""
        return self.with_headers(item for item in self.headers if item[0] not in names)

    def with_headers(self, headers: Iterable[Header]) -> Self:
        """This message with these headers in place of its own."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The message as it goes on the wire. Does not add or mend Content-Length: whoever sets a body does."""
        head = "\r\n".join([self.start_line, *[item[2] for item in self.headers], "\r\n"])
        return head.encode("utf-8", "surrogateescape") + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """A request. `uri` is the Request-URI as text."""

    method: str
    uri: str

    @property
    def start_line(self) -> str:
        return f"{self.method} {self.uri} SIP/2.0"

    def with_headers(self, headers: Iterable[Header]) -> "Request":
        return Request(method=self.method, uri=self.uri, headers=tuple(headers), body=self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Message):
    """A response. `status` is 100 to 699."""

    status: int
    reason: str

    @property
    def start_line(self) -> str:
        return f"SIP/2.0 {self.status} {self.reason}"

    def with_headers(self, headers: Iterable[Header]) -> "Response":
        return Response(status=self.status, reason=self.reason, headers=tuple(headers), body=self.body)


REASONS = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    424: "Bad Location Information",
    425: "Bad Alert Message",
    428: "Use Identity Header",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    436: "Bad Identity Info",
    437: "Unsupported Credential",
    438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    470: "Consent Needed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    555: "Push Notification Service Not Supported",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}


def response_to(
    request: Request,
    status: int,
    *,
    reason: str = "",
    headers: Iterable[Header] = (),
    to_tag: str = "",
    body: bytes = b"",
) -> Response:
    """Answer a request: its Vias, From, To, Call-ID and CSeq, then `headers` (RFC 3261 8.2.6).

    `to_tag` is added to a To without tag; leave it empty for 100 only.
    """
    copied: list[Header] = []
    for item in request.headers:
        if item[0] in ("via", "from", "call-id", "cseq"):
            copied.append(item)
        elif item[0] == "to":
            tagged = not to_tag or _TAG.search(_QUOTED.sub("", item[1]).rpartition(">")[2])
            copied.append(item if tagged else header("To", f"{item[1]};tag={to_tag}"))
    copied.extend(headers)
    copied.append(header("Content-Length", str(len(body))))
    return Response(status=status, reason=reason or REASONS.get(status, "Unknown"), headers=tuple(copied), body=body)
