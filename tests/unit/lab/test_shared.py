"""Several phones on one backend."""

from ipaddress import ip_address

import pytest

from pcscf.lab.shared import Shared
from tests.fake_kernel import FakeKernel
from xfrm.model import PortRange

ONE, OTHER = ip_address("10.45.0.2"), ip_address("10.45.0.3")


def test_the_block_is_protected_once_for_each_address() -> None:
    kernel, block = FakeKernel(), PortRange(first=20_480, count=4096)
    shared = Shared(kernel, block)
    for first in (20_480, 20_484):
        shared.protect(ONE, [PortRange(first=first, count=4)])
    shared.protect(OTHER, [PortRange(first=20_480, count=4)])
    assert kernel.protected == [(ONE, (block,)), (OTHER, (block,))]


def test_ports_outside_the_block_are_refused() -> None:
    kernel = FakeKernel()
    shared = Shared(kernel, PortRange(first=20_480, count=8))
    with pytest.raises(ValueError, match="outside the block"):
        shared.protect(ONE, [PortRange(first=20_480, count=16)])
    assert not kernel.protected
