"""What `xfrm.kernel` tells people when the kernel refuses; what it does is proven in tests/kernel."""

import errno
import re
from ipaddress import IPv4Address, IPv6Address

import pytest

from xfrm.algorithms import Pair
from xfrm.kernel import _lacking, _probe_sa
from xfrm.netlink import Answer

GCM = _probe_sa(Pair.parse("null/aes-gcm"), IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
SHA = _probe_sa(Pair.parse("hmac-sha-1-96/aes-cbc"), IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2"))


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (Answer(errno.EPERM), "NET_ADMIN"),
        (Answer(errno.EPROTONOSUPPORT, "Requested type not found"), "modprobe esp6 .*Requested type not found"),
        (Answer(errno.ENOSYS), "hmac-sha-1-96/aes-cbc: modprobe .*Function not implemented"),
        (Answer(errno.ENOENT, "No such algorithm"), "modprobe .*No such algorithm"),
        (Answer(errno.ENOBUFS), "IPv6.*No buffer space"),
    ],
)
def test_a_refused_probe_says_what_to_do(answer: Answer, advice: str) -> None:
    assert re.search(advice, _lacking(answer, SHA))


def test_an_sa_is_described_without_its_key() -> None:
    assert str(SHA) == f"SA {SHA.spi} from [2001:db8::1]:9 to [2001:db8::2]:9 (hmac-sha-1-96/aes-cbc)"
    assert str(GCM) == f"SA {GCM.spi} from 192.0.2.1:9 to 192.0.2.2:9 (null/aes-gcm)"
