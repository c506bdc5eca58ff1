"""A phone's half of offer and answer (RFC 3264) with the preconditions of RFC 3312 and 4032. Signalling only: no RTP.

Our resources are there when we say so; the side of the other is what its last description said.
"""

from dataclasses import dataclass, replace

from pcscf.sip.parse import ParseError
from pcscf.sip.sdp import MIRROR, Media, Qos, Session, connection_line, parse_sdp
from xfrm.model import IPAddress

AUDIO_PORT = 49_152
CODECS: tuple[str, ...] = (
    "rtpmap:104 AMR-WB/16000/1",
    "fmtp:104 mode-change-capability=2;max-red=220",
    "rtpmap:102 AMR/8000/1",
    "fmtp:102 mode-change-capability=2;max-red=220",
    "rtpmap:105 telephone-event/16000",
    "fmtp:105 0-15",
    "rtpmap:101 telephone-event/8000",
    "fmtp:101 0-15",
    "ptime:20",
    "maxptime:240",
)
FORMATS = ("104", "102", "105", "101")
KEPT_OF_AN_OFFER = ("rtpmap:", "fmtp:", "ptime:", "maxptime:")


@dataclass(slots=True, kw_only=True)
class Stream:
    """Our one audio stream. `direction` is what we do with it; `preconditions`: both sides speak of them."""

    address: IPAddress
    preconditions: bool = True
    local_ready: bool = False
    remote_ready: bool = False
    direction: str = "sendrecv"
    answered: bool = False
    """Whether one exchange of offer and answer is complete."""
    version: int = 0
    ours: Session | None = None
    """What we last sent, for the order of its streams."""

    def offer(self, direction: str = "") -> bytes:
        """The next offer. Before the first answer it asks of the other side's resources nothing (digest F10)."""
        self.direction = direction or self.direction
        attributes = CODECS
        if self.preconditions:
            wish = "mandatory" if self.answered else "none"
            qos = Qos(
                local=_current(self.local_ready),
                remote=_current(self.remote_ready),
                desired_local="mandatory",
                desired_remote=wish,
            )
            attributes += qos.attributes()
        stream = Media(kind="audio", port=AUDIO_PORT, protocol="RTP/AVP", formats=FORMATS, attributes=attributes)
        return self._say((stream.directed(self.direction),))

    def take(self, answer: bytes) -> None:
        """Read the answer to our offer. Raises ParseError (488)."""
        session = parse_sdp(answer)
        asked = len(self.ours.media) if self.ours else 1
        if len(session.media) != asked:
            raise ParseError(f"the answer has {len(session.media)} streams, the offer {asked}", status=488)
        if not session.media[0].port:
            raise ParseError("the answer refuses the stream", status=488)
        qos = session.media[0].qos
        self.preconditions = self.preconditions and qos is not None
        if qos is not None:
            self.remote_ready = qos.local in ("sendrecv", "send")
        self.direction = MIRROR.get(session.direction, session.direction)
        self.answered = True

    def answer(self, offer: bytes) -> bytes:
        """Answer an offer: its first audio stream is taken, all others are refused. Raises ParseError (488)."""
        session = parse_sdp(offer)
        place = next((i for i, each in enumerate(session.media) if each.kind == "audio" and each.port), None)
        if place is None:
            raise ParseError("the offer has no audio stream", status=488)
        taken = session.media[place]
        qos = taken.qos
        self.preconditions = qos is not None
        if qos is not None:
            self.remote_ready = qos.local in ("sendrecv", "send")
        theirs = session.direction if place == 0 else taken.direction
        self.direction = MIRROR.get(theirs, theirs)
        self.answered = True
        attributes = tuple(each for each in taken.attributes if each.startswith(KEPT_OF_AN_OFFER))
        if self.preconditions:
            attributes += Qos(
                local=_current(self.local_ready),
                remote=_current(self.remote_ready),
                desired_local="mandatory",
                desired_remote="mandatory",
                confirm_remote=not self.remote_ready,
            ).attributes()
        ours = replace(taken, port=AUDIO_PORT, others=(), attributes=attributes).directed(self.direction)
        refused = [replace(each, port=0, others=(), attributes=()) for each in session.media]
        return self._say((*refused[:place], ours, *refused[place + 1 :]))

    def _say(self, media: tuple[Media, ...]) -> bytes:
        self.version += 1
        address = self.address
        self.ours = Session(
            origin=f"- 1 {self.version} IN IP{address.version} {address}",
            lines=("s=-", connection_line(address), "b=AS:41", "t=0 0"),
            media=media,
        )
        return self.ours.to_bytes()


def _current(ready: bool) -> str:
    return "sendrecv" if ready else "none"
