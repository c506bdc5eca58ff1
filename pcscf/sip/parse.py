"""Bytes to messages: a datagram at once, a TCP stream as it comes (RFC 3261 7, 18.3; limits of ours)."""

from dataclasses import dataclass

from pcscf.sip.message import Message, Request, Response


class ParseError(ValueError):
    """The peer's fault. `status` is the SIP status to answer with; `message` what could be read, for answering."""

    def __init__(self, text: str, *, status: int = 400, message: Message | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may send: octets of head and body, number of header lines."""

    head: int = 32_768
    headers: int = 256
    body: int = 65_536


def parse(data: bytes, limits: Limits = Limits()) -> Request | Response:  # noqa: B008
    """Parse one datagram. Bytes beyond Content-Length are dropped; fewer are an error (RFC 3261 18.3)."""
    raise NotImplementedError


class StreamParser:
    """Frames one TCP connection. Feed bytes, take whole messages; CRLF keep-alives are counted, not messages."""

    def feed(self, data: bytes) -> list[Request | Response]:
        """Raises ParseError; the connection is then beyond repair and must be closed."""
        raise NotImplementedError

    def take_pings(self) -> int:
        """Double-CRLF keep-alives seen since the last call (RFC 5626 3.5.1): answer each with one CRLF."""
        raise NotImplementedError
