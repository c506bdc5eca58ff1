"""Session descriptions and their preconditions."""

import pytest

from pcscf.sip.parse import ParseError
from pcscf.sip.sdp import Qos, parse_sdp, read_qos

OFFER = (
    b"v=0\r\no=- 1 1 IN IP4 10.45.0.2\r\ns=-\r\nc=IN IP4 10.45.0.2\r\nb=AS:41\r\nt=0 0\r\n"
    b"m=audio 49152 RTP/AVP 104 101\r\nb=AS:41\r\na=rtpmap:104 AMR-WB/16000/1\r\na=curr:qos local none\r\n"
    b"a=curr:qos remote none\r\na=des:qos mandatory local sendrecv\r\na=des:qos optional remote sendrecv\r\n"
    b"a=sendonly\r\nm=video 0 RTP/AVP 96\r\n"
)


def test_a_description_is_read_and_written_back_as_it_was() -> None:
    session = parse_sdp(OFFER)
    assert session.to_bytes() == OFFER
    audio, video = session.media
    assert (audio.kind, audio.port, audio.formats, video.port) == ("audio", 49152, ("104", "101"), 0)
    assert (audio.direction, video.direction, session.direction) == ("sendonly", "sendrecv", "sendonly")
    assert audio.qos == Qos(desired_local="mandatory", desired_remote="optional") and video.qos is None
    assert audio.directed("inactive").direction == "inactive"


def test_a_direction_of_the_whole_session() -> None:
    assert (
        parse_sdp(OFFER.replace(b"a=sendonly\r\n", b"").replace(b"t=0", b"a=inactive\r\nt=0")).direction == "inactive"
    )


def test_preconditions_are_written_as_they_are_read() -> None:
    qos = Qos(local="sendrecv", remote="none", desired_local="mandatory", desired_remote="none", confirm_remote=True)
    assert read_qos(qos.attributes()) == qos
    assert read_qos(("curr:qos e2e none", "des:qos mandatory e2e sendrecv")) == Qos()
    assert read_qos(("sendrecv",)) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        OFFER.replace(b"v=0", b"v=1"),
        OFFER.replace(b"s=-\r\n", b""),
        OFFER.replace(b" IN IP4 10.45.0.2\r\ns", b"\r\ns"),
        OFFER.replace(b"49152", b"port"),
        OFFER.replace(b"49152", b"70000"),
        OFFER.replace(b"RTP/AVP 104 101", b"RTP/AVP"),
        OFFER + b"nonsense\r\n",
        OFFER + b"m=audio 1 RTP/AVP 0\r\n" * 40,
        OFFER + b"a=x\r\n" * 10_000,
    ],
)
def test_what_is_no_description_is_refused(body: bytes) -> None:
    with pytest.raises(ParseError) as refused:
        parse_sdp(body)
    assert refused.value.status == 488


@pytest.mark.parametrize("line", ["curr:qos", "curr:qos local", "curr:qos local up", "des:qos must local sendrecv"])
def test_what_is_no_precondition_is_refused(line: str) -> None:
    with pytest.raises(ParseError):
        read_qos((line,))
