"""SIP, SIPS and tel URIs (RFC 3261 19.1, RFC 3966): parse on demand, compare by the rules."""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from pcscf.sip.parse import MOST_PARAMS, ParseError, quoted

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_URI = re.compile(r'[\x00-\x20<>"\x7f]')
_SEPARATORS = re.compile(r"[-.()]")
_NUMBER = re.compile(r"\+?[0-9A-Fa-f*#().-]+")
_RESERVED = re.compile(r"(%(?:2[4-6BCF]|3[ABDF]|40))", re.IGNORECASE)
"""Escapes of RFC 2396's reserved characters and of % itself: undone, they would mean something else (19.1.4)."""
_DISTINCTIVE = ("user", "ttl", "method", "maddr", "transport")
"""Parameters that make two URIs differ when only one has them (RFC 3261 19.1.4)."""

LONGEST = 4096
"""Characters of a URI that is read; those with the most to say (Refer-To with Replaces, GRUUs) have a few hundred."""

KEPT = 256
"""Characters of a URI that is kept, so that a peer cannot fill memory with them."""

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uri:
    """A parsed URI. `host` is lower case, IPv6 without brackets; `port` 0 when absent.

    `user` (with the password) has its escapes undone but those of reserved characters and %, which are in upper case.
    `params` and `headers` hold lower-case names and unescaped values ("" for a bare name), in order of appearance.
    A tel URI has its number in `user` and an empty `host`.
    """

    scheme: str
    user: str = ""
    host: str = ""
    port: int = 0
    params: Pairs = ()
    headers: Pairs = ()

    def param(self, name: str) -> str | None:
        """The value of a parameter, "" for a bare one (`;lr`), None when absent."""
        return next((value for key, value in self.params if key == name), None)

    def __str__(self) -> str:
        user = quote(self.user, safe="%&=+$,;?/-_.!~*'():#", errors="surrogateescape")
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        params = "".join(f";{_escape(name)}{'=' if value else ''}{_escape(value)}" for name, value in self.params)
        headers = "&".join(f"{_escape(name, '')}={_escape(value, '')}" for name, value in self.headers)
        at = "@" if user and host else ""
        return f"{self.scheme}:{user}{at}{host}{port}{params}{'?' if headers else ''}{headers}"


def parse_uri(text: str) -> Uri:
    """Parse one URI, without angle brackets. Raises ParseError (400; 416 for a scheme that is none of ours).

    Kept for a while: a document of the core names many URIs that are each compared with all of a user.
    """
    return (_parse if len(text) <= KEPT else _parse.__wrapped__)(text)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Uri:
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    if not colon or not rest:
        raise ParseError(f"no URI: {quoted(text)}")
    if len(text) > LONGEST:
        raise ParseError(f"a URI of {len(text)} characters; {LONGEST} are read: {quoted(text)}")
    if scheme not in ("sip", "sips", "tel"):
        raise ParseError(f"URI scheme {quoted(scheme, 20)} is not supported", status=416)
    if _NOT_IN_URI.search(rest) or _ESCAPE.search(rest):
        raise ParseError(f"a character that no URI may hold: {quoted(text)}")
    if scheme == "tel":
        number, _, params = rest.partition(";")
        if not _NUMBER.fullmatch(number):
            raise ParseError(f"no telephone number: {quoted(number, 40)}")
        return Uri(scheme="tel", user=number, params=_params(params))
    user, at, host_part = rest.rpartition("@")
    if at and not user:
        raise ParseError(f"an empty user part: {quoted(text)}")
    if "@" in user:
        raise ParseError(f"two @, so two hosts to choose from: {quoted(text)}")
    host_part, _, headers = host_part.partition("?")
    host_port, _, params = host_part.partition(";")
    found = _HOST_PORT.fullmatch(host_port)
    if found is None:
        raise ParseError(f"no host and port: {quoted(host_port)}")
    port = int(found[2] or 0)
    if port > 0xFFFF:
        raise ParseError(f"port {port} is above 65535")
    if headers.count("&") >= MOST_PARAMS:
        raise ParseError(f"more than {MOST_PARAMS} headers in a URI: {quoted(text)}")
    return Uri(
        scheme=scheme,
        user=_unescape_user(user),
        host=found[1].strip("[]").lower(),
        port=port,
        params=_params(params),
        headers=tuple(
            (_unescape(name).lower(), _unescape(value))
            for name, _, value in (item.partition("=") for item in headers.split("&") if item)
        ),
    )


def same_uri(left: Uri, right: Uri) -> bool:
    """Whether two URIs are equal by RFC 3261 19.1.4 (host and parameter names without case, escapes undone)."""
    if left.scheme != right.scheme:
        return False
    if left.scheme == "tel":
        same_number = _SEPARATORS.sub("", left.user).lower() == _SEPARATORS.sub("", right.user).lower()
        return same_number and _folded(left.params) == _folded(right.params)
    if (left.user, left.host, left.port) != (right.user, right.host, right.port):
        return False
    ours, theirs = _folded(left.params), _folded(right.params)
    for name in ours.keys() | theirs.keys():
        in_both = name in ours and name in theirs
        if (in_both and ours[name] != theirs[name]) or (not in_both and name in _DISTINCTIVE):
            return False
    return _folded(left.headers) == _folded(right.headers)


def _params(text: str) -> Pairs:
    if not text:
        return ()
    if text.count(";") >= MOST_PARAMS:
        raise ParseError(f"more than {MOST_PARAMS} URI parameters: {quoted(text)}")
    pairs = []
    for item in text.split(";"):
        name, _, value = item.partition("=")
        if not name:
            raise ParseError(f"an empty URI parameter: {quoted(text)}")
        pairs.append((_unescape(name).lower(), _unescape(value)))
    return tuple(pairs)


def _folded(pairs: Pairs) -> dict[str, str]:
    return {name: value.lower() for name, value in pairs}


def _unescape(text: str) -> str:
    return unquote(text, errors="surrogateescape") if "%" in text else text


def _unescape_user(text: str) -> str:
    return "".join(part.upper() if place % 2 else _unescape(part) for place, part in enumerate(_RESERVED.split(text)))


def _escape(text: str, also_safe: str = "&") -> str:
    return quote(text, safe=f"[]/:+$-_.!~*'(){also_safe}", errors="surrogateescape")
