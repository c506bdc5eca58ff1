"""Session descriptions as far as signalling needs them (RFC 8866, RFC 3264), with the preconditions of RFC 3312.

Lines this module does not know are kept and written back in their place.
"""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from pcscf.sip.parse import ParseError, quoted

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
STRENGTHS = ("none", "optional", "mandatory", "failure", "unknown")
QOS_DIRECTIONS = ("none", "send", "recv", "sendrecv")
LONGEST = 32_768
"""Octets of a description that are read."""
MOST_STREAMS = 32
MIRROR = {"sendonly": "recvonly", "recvonly": "sendonly"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One m= line and what belongs to it. `attributes` are a= values; `others` the lines before them, whole."""

    kind: str
    port: int
    protocol: str
    formats: tuple[str, ...]
    others: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    @property
    def direction(self) -> str:
        """`sendrecv` unless a line says otherwise (RFC 8866 6.7)."""
        return next((each for each in self.attributes if each in DIRECTIONS), "sendrecv")

    @property
    def qos(self) -> "Qos | None":
        """Its preconditions, None without. Raises ParseError."""
        return read_qos(self.attributes)

    def directed(self, direction: str) -> "Media":
        kept = tuple(each for each in self.attributes if each not in DIRECTIONS)
        return replace(self, attributes=(*kept, direction))


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A whole description. `lines` are those between o= and the first m=, whole."""

    origin: str
    lines: tuple[str, ...]
    media: tuple[Media, ...]

    def to_bytes(self) -> bytes:
        out = ["v=0", f"o={self.origin}", *self.lines]
        for each in self.media:
            out += [f"m={each.kind} {each.port} {each.protocol} {' '.join(each.formats)}", *each.others]
            out += [f"a={value}" for value in each.attributes]
        return ("\r\n".join(out) + "\r\n").encode()

    @property
    def direction(self) -> str:
        """Of the first stream; one for the whole session counts when the stream has none."""
        whole = next((line[2:] for line in self.lines if line[2:] in DIRECTIONS and line[:2] == "a="), "sendrecv")
        if not self.media:
            return whole
        own = [each for each in self.media[0].attributes if each in DIRECTIONS]
        return own[0] if own else whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Qos:
    """Segmented preconditions of one stream (RFC 3312 5), as its writer sees them: `local` is the writer's side."""

    local: str = "none"
    remote: str = "none"
    desired_local: str = "none"
    """Strength."""
    desired_remote: str = "none"
    confirm_remote: bool = False
    """The writer asks to be told when the other side is ready."""

    def attributes(self) -> tuple[str, ...]:
        lines = [
            f"curr:qos local {self.local}",
            f"curr:qos remote {self.remote}",
            f"des:qos {self.desired_local} local sendrecv",
            f"des:qos {self.desired_remote} remote sendrecv",
        ]
        return (*lines, "conf:qos remote sendrecv") if self.confirm_remote else tuple(lines)


def read_qos(attributes: tuple[str, ...]) -> Qos | None:
    """The preconditions among a= values; those end to end (`e2e`) are not read. Raises ParseError."""
    found = Qos()
    seen = False
    for value in attributes:
        name, _, rest = value.partition(":")
        words = rest.split()
        if name not in ("curr", "des", "conf") or words[:1] != ["qos"]:
            continue
        seen = True
        match name, words[1:]:
            case "curr", ["local", direction] if direction in QOS_DIRECTIONS:
                found = replace(found, local=direction)
            case "curr", ["remote", direction] if direction in QOS_DIRECTIONS:
                found = replace(found, remote=direction)
            case "des", [strength, "local", direction] if strength in STRENGTHS and direction in QOS_DIRECTIONS:
                found = replace(found, desired_local=strength)
            case "des", [strength, "remote", direction] if strength in STRENGTHS and direction in QOS_DIRECTIONS:
                found = replace(found, desired_remote=strength)
            case "conf", ["remote", direction] if direction in QOS_DIRECTIONS:
                found = replace(found, confirm_remote=True)
            case _, ["e2e", *_] | [_, "e2e", _]:
                pass
            case _:
                if name != "conf":
                    raise ParseError(f"no precondition of RFC 3312: a={quoted(value)}", status=488)
    return found if seen else None


def parse_sdp(body: bytes) -> Session:
    """Read a description: v=, o=, s= and every m= line must be whole. Raises ParseError (488)."""
    if len(body) > LONGEST:
        raise ParseError(f"a session description of {len(body)} octets; {LONGEST} are read", status=488)
    lines = [line for line in body.decode("utf-8", "replace").replace("\r\n", "\n").split("\n") if line]
    if len(lines) < 3 or lines[0] != "v=0" or not lines[1].startswith("o="):
        raise ParseError("no session description: it begins with v=0 and o=", status=488)
    origin = lines[1][2:]
    if len(origin.split()) != 6:
        raise ParseError(f"o= has not six fields: {quoted(origin)}", status=488)
    head: list[str] = []
    media: list[tuple[Media, list[str], list[str]]] = []  # each with its other lines and its attributes
    for line in lines[2:]:
        if len(line) < 2 or line[1] != "=":
            raise ParseError(f"no line of a session description: {quoted(line)}", status=488)
        if line.startswith("m="):
            if len(media) == MOST_STREAMS:
                raise ParseError(f"more than {MOST_STREAMS} streams", status=488)
            media.append((_media(line[2:]), [], []))
        elif not media:
            head.append(line)
        elif line.startswith("a="):
            media[-1][2].append(line[2:])
        else:
            media[-1][1].append(line)
    if not any(line.startswith("s=") for line in head):
        raise ParseError("a session description without s=", status=488)
    streams = (replace(each, others=tuple(others), attributes=tuple(values)) for each, others, values in media)
    return Session(origin=origin, lines=tuple(head), media=tuple(streams))


def connection_line(address: IPv4Address | IPv6Address) -> str:
    """`c=` of one address."""
    return f"c=IN IP{address.version} {address}"


def _media(value: str) -> Media:
    parts = value.split()
    number = parts[1].partition("/")[0] if len(parts) > 3 else ""
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and int(number) <= 0xFFFF):
        raise ParseError(f"no media line: {quoted(value)}", status=488)
    kind, _, protocol, *formats = parts
    return Media(kind=kind, port=int(number), protocol=protocol, formats=tuple(formats))
