"""Typed views of header values, made when somebody asks (RFC 3261 20, 25; RFC 2617; RFC 3329).

Each `parse_*` takes the text of one value and raises ParseError(400) for what it cannot read.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from pcscf.sip.message import Message, split_list
from pcscf.sip.parse import MOST_PARAMS, TOKEN, ParseError, quoted

Params = tuple[tuple[str, str], ...]
"""Parameters in order: lower-case name, value without its quotes, "" for a bare name."""

# Spaces are matched possessively: 30,000 of them in one Via cost seconds to a pattern that may give them back.
_QUOTED = r'"(?:[^"\\]++|\\.)*+"'
_PARAM = re.compile(rf'\s*+;\s*+({TOKEN})\s*+(?:=\s*+({_QUOTED}|[^\s;,"<>]++))?\s*+', re.DOTALL | re.ASCII)
_VIA = re.compile(
    rf"SIP\s*+/\s*+2\.0\s*+/\s*+({TOKEN})\s++(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)"
    r"\s*+(?::\s*+([0-9]{1,5}))?\s*+(?=;|$)",
    re.IGNORECASE | re.ASCII,
)
_DISPLAY = re.compile(rf"(?:{_QUOTED}\s*+|[A-Za-z0-9.!%*_+`'~\s\u0080-\U0010ffff-]*+)<", re.DOTALL | re.ASCII)
_TOKEN = re.compile(TOKEN)
_NOT_IN_ADDRESS = re.compile(r'[\s,?"<>]')
_NOT_IN_BRACKETS = re.compile(r"[\s<]")
KEPT_OCTETS = 512
"""Longer values and their parameters are not kept, so that a peer cannot fill memory with them."""
_CSEQ = re.compile(rf"([0-9]{{1,10}})\s++({TOKEN})", re.ASCII)
_SCHEME = re.compile(rf"({TOKEN})\s++", re.ASCII)
_AUTH_PARAM = re.compile(rf'\s*+({TOKEN})\s*+=\s*+({_QUOTED}|[^\s",]*+)\s*+(,|$)', re.DOTALL | re.ASCII)


def _param(params: Params, name: str) -> str | None:
    for key, value in params:  # asked several times for each message: twice as fast as a generator
        if key == name:
            return value
    return None


class Via(NamedTuple):
    """One Via value. `transport` in upper case, `host` as written (IPv6 in brackets stripped), `port` 0 if absent."""

    transport: str
    host: str
    port: int
    params: Params

    def param(self, name: str) -> str | None:
        return _param(self.params, name)

    @property
    def branch(self) -> str:
        return _param(self.params, "branch") or ""


class NameAddr(NamedTuple):
    """From, To, Contact, Route, Path ...: `uri` is the text between the brackets."""

    display: str
    uri: str
    params: Params

    def param(self, name: str) -> str | None:
        return _param(self.params, name)


class CSeq(NamedTuple):
    number: int
    method: str


class Auth(NamedTuple):
    """Authorization, WWW-Authenticate ...: scheme in lower case; its parameters if it is Digest (RFC 2617)."""

    scheme: str
    params: Params

    def param(self, name: str) -> str | None:
        return _param(self.params, name)


class Mechanism(NamedTuple):
    """One entry of Security-Client/-Server/-Verify (RFC 3329 2.2): name in lower case, parameters in order."""

    name: str
    params: Params

    def param(self, name: str) -> str | None:
        return _param(self.params, name)


def top_via(message: Message) -> str:
    """The text of the first Via value: who answers, and which transaction it is. Raises ParseError if there is none."""
    values = split_list(message.first("via") or "")
    if not values:
        raise ParseError("the message has no Via")
    return values[0]


def parse_via(value: str) -> Via:
    """Read one Via value (RFC 3261 20.42). Kept for a while: the way of one message asks for its Via several times."""
    return (_via if len(value) <= KEPT_OCTETS else _via.__wrapped__)(value)


@lru_cache(maxsize=256)
def _via(value: str) -> Via:
    text = value.strip()
    found = _VIA.match(text)
    if found is None:
        raise ParseError(f"no Via: {quoted(value, 80)}")
    port = int(found[3] or 0)
    if port > 0xFFFF:
        raise ParseError(f"Via: port {port} is above 65535")
    return Via(
        transport=found[1].upper(), host=found[2].strip("[]"), port=port, params=_params(text, found.end(), "Via")
    )


def parse_name_addr(value: str) -> NameAddr:
    """Read a name-addr or addr-spec with header parameters (RFC 3261 20.10); `*` (Contact) is the uri "*"."""
    return (_name_addr if len(value) <= KEPT_OCTETS else _name_addr.__wrapped__)(value)


@lru_cache(maxsize=1024)
def _name_addr(value: str) -> NameAddr:
    text = value.strip()
    if text == "*":
        return NameAddr(display="", uri="*", params=())
    found = _DISPLAY.match(text)
    if found is None:
        uri, semicolon, _ = text.partition(";")
        uri = uri.rstrip()
        if _NOT_IN_ADDRESS.search(uri) or ":" not in uri:
            raise ParseError(f"no address: {quoted(value, 80)}")
        end = text.index(";") if semicolon else len(text)
        return NameAddr(display="", uri=uri, params=_params(text, end, "address"))
    end = text.find(">", found.end())
    if end < 0 or _NOT_IN_BRACKETS.search(uri := text[found.end() : end]) or ":" not in uri:
        raise ParseError(f"no address: {quoted(value, 80)}")
    return NameAddr(display=_unquote(found[0][:-1].strip()), uri=uri, params=_params(text, end + 1, "address"))


def parse_cseq(value: str) -> CSeq:
    """Read CSeq; the number is below 2**31 (RFC 3261 8.1.1.5)."""
    found = _CSEQ.fullmatch(value.strip())
    if found is None or int(found[1]) >= 1 << 31:
        raise ParseError(f"no CSeq: {quoted(value)}")
    return CSeq(int(found[1]), found[2])


def parse_auth(value: str) -> Auth:
    """Read a challenge or credentials. Parameters of another scheme than Digest are left out."""
    text = value.strip()
    found = _SCHEME.match(text)
    if found is None:
        raise ParseError(f"no authentication scheme: {quoted(text, 20)}")
    scheme = found[1].lower()
    if scheme != "digest":
        return Auth(scheme=scheme, params=())
    params = _auth_params(text, found.end())
    if params is None:
        raise ParseError("Digest parameters cannot be read")  # without the value: it may hold keys
    return Auth(scheme=scheme, params=tuple((name, _unquote(raw)) for name, raw, _, _ in params))


def parse_mechanism(value: str) -> Mechanism:
    """Read one security mechanism; parameter order, case and spacing are free (RFC 3329 2.2)."""
    text = value.strip()
    end = text.find(";")
    name = (text if end < 0 else text[:end]).rstrip()
    if not _TOKEN.fullmatch(name):
        raise ParseError(f"no security mechanism: {quoted(value, 80)}")
    return Mechanism(name.lower(), () if end < 0 else _params(text, end, "security mechanism"))


def drop_auth_params(value: str, names: frozenset[str]) -> str:
    """Take parameters out of an auth value in place: everything else keeps its bytes, commas come out right.

    A value that cannot be read ends where one of the names first stands in it: better harmed than shown. For the same
    reason a parameter goes whose quoted text holds one of them with a long hexadecimal value.
    """
    lowered = value.lower()
    if not any(map(lowered.__contains__, names)):
        return value
    named, hidden = _patterns(names)
    found = _SCHEME.match(value)
    params = None if found is None else _auth_params(value, found.end())
    if found is None or params is None:
        first = named.search(value)
        return value if first is None else value[: first.start()].rstrip(" \t,")
    kept = [value[start:end] for name, raw, start, end in params if name not in names and not hidden.search(raw)]
    if len(kept) == len(params):
        return value
    return (value[: found.end()] + ",".join(kept).lstrip()).rstrip()


@lru_cache(maxsize=8)
def _patterns(names: frozenset[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Where one of the names stands, and where it stands with a long hexadecimal value."""
    words = "|".join(map(re.escape, sorted(names)))
    return (
        re.compile(rf"(?i)(?<![A-Za-z0-9_.-])(?:{words})(?![A-Za-z0-9_.-])"),
        re.compile(rf"(?i)(?<![A-Za-z0-9_.-])(?:{words})[^0-9A-Za-z]++[0-9a-f]{{16}}"),
    )


def _auth_params(text: str, position: int) -> list[tuple[str, str, int, int]] | None:
    """Name, raw value, start and end of each parameter; None if the text is not wholly a few parameters."""
    params: list[tuple[str, str, int, int]] = []
    end = len(text)
    comma = True
    while position < end:
        found = _AUTH_PARAM.match(text, position)
        if found is None or len(params) == MOST_PARAMS:
            return None
        comma = bool(found[3])
        params.append((found[1].lower(), found[2], position, found.start(3)))
        position = found.end()
    return None if comma else params


def _params(text: str, position: int, what: str) -> Params:
    if position >= len(text):
        return ()
    plain = text[position:].replace("; ", ";")
    if plain[0] == ";" and plain.isascii() and plain.isprintable() and not any(map(plain.__contains__, ' "<>,')):
        parts = plain[1:].split(";", MOST_PARAMS)  # the common case, without a match for each parameter
        if len(parts) > MOST_PARAMS:
            raise _too_many(what)
        pairs = tuple(map(_plain_param if len(plain) <= KEPT_OCTETS else _plain_param.__wrapped__, parts))
        if None not in pairs:
            return pairs  # type: ignore[return-value]
        raise ParseError(f"{what}: no parameter: {quoted(parts[pairs.index(None)])}")
    params: list[tuple[str, str]] = []
    end = len(text)
    while position < end:
        if len(params) == MOST_PARAMS:
            raise _too_many(what)
        found = _PARAM.match(text, position)
        if found is None:
            raise ParseError(f"{what}: parameters cannot be read: {quoted(text[position:])}")
        raw = found[2]
        params.append((found[1].lower(), _unquote(raw) if raw else ""))
        position = found.end()
    return tuple(params)


def _too_many(what: str) -> ParseError:
    return ParseError(f"{what}: more than {MOST_PARAMS} parameters")


@lru_cache(maxsize=4096)
def _plain_param(part: str) -> tuple[str, str] | None:
    """One parameter without quotes or spaces; None if it is none. Most come again and again: `prot=esp`, `lr`."""
    name, equals, value = part.partition("=")
    if not _TOKEN.fullmatch(name) or (equals and not value):
        return None
    return name.lower(), value


def _unquote(raw: str) -> str:
    if not raw.startswith('"'):
        return raw
    inner = raw[1:-1]
    if "\\" not in inner:
        return inner
    return "\\".join([part.replace("\\", "") for part in inner.split("\\\\")])
