"""The text of the last messages, so that an operator who looks at the journal can read one whole.

Bounded by octets. Keys of a challenge are taken out before anything is kept.
"""

from bisect import bisect_left
from collections import deque

from pcscf.aka import strip_keys
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError, parse


class MessageLog:
    """Texts by the running number of their journal record. `room`: octets; 0 keeps nothing."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._numbers: deque[int] = deque()
        self._texts: deque[bytes] = deque()
        self._octets = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def keep(self, number: int, text: bytes) -> None:
        """Keep what was sent under a number higher than all before."""
        self._numbers.append(number)
        self._texts.append(text)
        self._octets += len(text)
        while self._octets > self.room:
            self._numbers.popleft()
            self._octets -= len(self._texts.popleft())

    def find(self, number: int) -> bytes | None:
        """The message of a record; None if it is none, or kept no more."""
        place = bisect_left(self._numbers, number)
        if place < len(self._numbers) and self._numbers[place] == number:
            return self._texts[place]
        return None


def without_keys(message: Request | Response) -> bytes:
    """What came, as it may be shown."""
    return strip_keys(message).to_bytes()


def sent_without_keys(data: bytes) -> bytes:
    """What was sent, as it may be shown. Only what has a header of an authentication is read again."""
    lowered = data.lower()
    if b"authenticat" not in lowered and b"authorization" not in lowered:
        return data
    try:
        return without_keys(parse(data))
    except ParseError:
        return b""
