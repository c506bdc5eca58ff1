"""Typed views of header values, made when somebody asks (RFC 3261 20, 25; RFC 2617; RFC 3329).

Each `parse_*` takes the text of one value and raises ParseError(400) for what it cannot read.
"""

from dataclasses import dataclass

Params = tuple[tuple[str, str], ...]
"""Parameters in order: lower-case name, value without its quotes, "" for a bare name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Via:
    """One Via value. `transport` in upper case, `host` as written (IPv6 in brackets stripped), `port` 0 if absent."""

    transport: str
    host: str
    port: int
    params: Params

    def param(self, name: str) -> str | None: ...
    @property
    def branch(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NameAddr:
    """From, To, Contact, Route, Path ...: `uri` is the text between the brackets."""

    display: str
    uri: str
    params: Params

    def param(self, name: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class CSeq:
    number: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Authorization, WWW-Authenticate ...: scheme in lower case and its parameters (RFC 3261 25.1, RFC 2617)."""

    scheme: str
    params: Params

    def param(self, name: str) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """One entry of Security-Client/-Server/-Verify (RFC 3329 2.2): name in lower case, parameters in order."""

    name: str
    params: Params

    def param(self, name: str) -> str | None: ...


def parse_via(value: str) -> Via: ...
def parse_name_addr(value: str) -> NameAddr:
    """Also accepts `*` (Contact) as uri "*"."""
def parse_cseq(value: str) -> CSeq: ...
def parse_auth(value: str) -> Auth: ...
def parse_mechanism(value: str) -> Mechanism: ...
def drop_auth_params(value: str, names: frozenset[str]) -> str:
    """Take parameters out of an auth value in place: everything else keeps its bytes, commas come out right."""
