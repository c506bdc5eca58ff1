"""An SDP answer that takes every medium of an offer as it is (RFC 3264 6, RFC 3312 5). No media flows."""

from collections.abc import Iterator

from xfrm.model import IPAddress

FIRST_MEDIA_PORT = 49_152
_TURNED = {"sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive", "sendrecv": "sendrecv"}
_KEPT = ("rtpmap:", "fmtp:", "ptime:", "maxptime:")


def has_preconditions(offer: bytes) -> bool:
    return b"a=des:qos" in offer


def is_ready(offer: bytes) -> bool:
    """Whether the other side has its resources, or needs none."""
    return not has_preconditions(offer) or b"a=curr:qos local none" not in offer


def answer_to(offer: bytes, address: IPAddress, *, version: int = 1) -> bytes:
    """The answer. Our own resources are there at once; of the other side's we want to hear when they are not."""
    family = f"IN IP{address.version} {address}"
    lines = ["v=0", f"o=- 1 {version} {family}", "s=-", f"c={family}", "t=0 0"]
    media = _sections(offer.decode("utf-8", "replace").splitlines())
    for number, section in enumerate(media):
        kind, _, rest = section[0].removeprefix("m=").partition(" ")
        port, _, formats = rest.partition(" ")
        lines.append(f"m={kind} {0 if port == '0' else FIRST_MEDIA_PORT + 2 * number} {formats}")
        lines += [line for line in section if line.startswith("b=")]
        lines += _attributes([line[2:] for line in section if line.startswith("a=")])
    return "".join(f"{line}\r\n" for line in lines).encode()


def _sections(lines: list[str]) -> list[list[str]]:
    sections: list[list[str]] = []
    for line in lines:
        if line.startswith("m="):
            sections.append([])
        if sections:
            sections[-1].append(line)
    return sections


def _attributes(attributes: list[str]) -> Iterator[str]:
    for text in attributes:
        if text in _TURNED:
            yield f"a={_TURNED[text]}"
        elif text.startswith(_KEPT):
            yield f"a={text}"
        elif text.startswith("curr:qos local "):
            theirs = text.removeprefix("curr:qos local ")
            yield "a=curr:qos local sendrecv"
            yield f"a=curr:qos remote {theirs}"
            if theirs == "none":
                yield "a=conf:qos remote sendrecv"
        elif text.startswith("des:qos ") and len(words := text.split()) == 4:
            yield f"a=des:qos {words[1]} {'remote' if words[2] == 'local' else 'local'} {words[3]}"


def offer_of(address: IPAddress) -> bytes:
    """What we offer where the INVITE had no offer."""
    family = f"IN IP{address.version} {address}"
    lines = ("v=0", f"o=- 1 1 {family}", "s=-", f"c={family}", "t=0 0", "m=audio 49152 RTP/AVP 8", "a=sendrecv")
    return "".join(f"{line}\r\n" for line in lines).encode()
