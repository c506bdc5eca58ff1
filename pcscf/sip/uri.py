"""SIP, SIPS and tel URIs (RFC 3261 19.1, RFC 3966): parse on demand, compare by the rules."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Uri:
    """A parsed URI. `host` is lower case, IPv6 without brackets; `port` 0 when absent.

    `params` and `headers` hold lower-case names and unescaped values ("" for a bare name), in order of appearance.
    A tel URI has its number in `user` and an empty `host`.
    """

    scheme: str
    user: str = ""
    host: str = ""
    port: int = 0
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def param(self, name: str) -> str | None:
        """The value of a parameter, "" for a bare one (`;lr`), None when absent."""
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError


def parse_uri(text: str) -> Uri:
    """Parse one URI, without angle brackets. Raises ParseError (400; 416 for a scheme that is none of ours)."""
    raise NotImplementedError


def same_uri(left: Uri, right: Uri) -> bool:
    """Whether two URIs are equal by RFC 3261 19.1.4 (host and parameter names without case, escapes undone)."""
    raise NotImplementedError
