"""`xfrm.netlink` on the routing protocol of this kernel, which anybody may ask."""

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from xfrm.netlink import Answer, Channel, Request, _refusal

RTM_GETLINK = 18
RTM_NEWLINK = 16
LOOPBACK = 1
NO_SUCH_LINK = 0x7FFFFFFF


def link(index: int) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel(socket.NETLINK_ROUTE)
    yield made
    made.close()


def test_each_request_has_its_answer(channel: Channel) -> None:
    """More requests than one sendmsg takes, good and refused ones mixed: answers come in their order."""
    indexes = [LOOPBACK if number % 3 else NO_SUCH_LINK for number in range(200)]
    answers = channel.batch([Request(RTM_GETLINK, link(index)) for index in indexes])
    assert [answer.errno for answer in answers] == [0 if index == LOOPBACK else errno.ENODEV for index in indexes]
    assert all((b"lo\0" in answer.payload) == (not answer.errno) for answer in answers)


def test_a_dump_is_whole(channel: Channel) -> None:
    payloads = channel.dump(Request(RTM_GETLINK, link(0)))
    assert sorted(struct.unpack_from("=i", payload, 4)[0] for payload in payloads) == sorted(
        index for index, _ in socket.if_nameindex()
    )


class Changing(Channel):
    """The first `times` dumps are marked as changed while they were made (NLM_F_DUMP_INTR)."""

    times = 0

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        messages = super()._receive()
        changed = 0x10 if self._sequence <= self.times else 0
        return [(kind, flags | changed, sequence, payload) for kind, flags, sequence, payload in messages]


def test_a_dump_that_changed_meanwhile_is_asked_again() -> None:
    changing = Changing(socket.NETLINK_ROUTE)
    changing.times = 2
    assert len(changing.dump(Request(RTM_GETLINK, link(0)))) == len(socket.if_nameindex())
    assert changing._sequence == 3
    changing.times = 100
    with pytest.raises(InterruptedError):
        changing.dump(Request(RTM_GETLINK, link(0)))
    changing.close()


def test_a_refused_dump_raises(channel: Channel) -> None:
    with pytest.raises(OSError) as refused:
        channel.dump(Request(RTM_NEWLINK, link(0)))
    assert refused.value.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.ENODEV)


def test_a_failing_socket_is_the_answer(channel: Channel) -> None:
    """A batch does not raise: its caller must know what to roll back."""
    channel.close()
    (answer,) = channel.batch([Request(RTM_GETLINK, link(LOOPBACK))])
    assert answer == Answer(errno.EBADF, answer.text) and answer.text


@pytest.mark.parametrize("capped", [False, True])
def test_the_kernels_words(capped: bool) -> None:
    """The text follows the refused request, of which a kernel without CAP_ACK repeats all."""
    request = struct.pack("=IHHII", 16 if capped else 40, 16, 5, 1, 0) + (b"" if capped else bytes(24))
    text = b"Requested type not found\0"
    payload = struct.pack("=i", -93) + request + struct.pack("=HH", 4 + len(text), 1) + text
    assert _refusal(0x300 if capped else 0x200, payload) == (93, "Requested type not found")
    assert _refusal(0x100, payload) == (93, "")
