"""How the torture messages of RFC 4475 are written down here: CRLF lines, and the one session description."""


def message(head: bytes, body: bytes = b"") -> bytes:
    return head.strip(b"\n").replace(b"\n", b"\r\n") + b"\r\n\r\n" + body


def lines(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in lines)


def sdp(address: bytes, times: bytes = b"0 0", video: bytes = b"m=video 3227 RTP/AVP 31") -> bytes:
    return lines(
        b"v=0",
        b"o=mhandley 29739 7272939 IN IP4 " + address,
        b"s=-",
        b"c=IN IP4 " + address,
        b"t=" + times,
        b"m=audio 49217 RTP/AVP 0 12",
        video,
        b"a=rtpmap:31 LPC",
    )
