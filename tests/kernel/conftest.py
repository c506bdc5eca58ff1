"""The world of the kernel tests: two or three network namespaces joined by veth, an agent with a backend in each.

`--esp=kernel` tests Linux XFRM (its own kernel must have ESP: see `tests.kernel.run`), `--esp=userspace` the ESP of
our own process. The tests are the same.
"""

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.kernel.agent import Agent
from tests.kernel.world import World
from xfrm.kernel import probe

_worlds = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--esp", choices=["kernel", "userspace"], help="the backend under test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about objects that the backend under test does not make."""
    foreign = {"userspace": "kernel_objects", "kernel": "userspace_objects"}.get(
        config.getoption("--esp", default=None)
    )
    if foreign is not None:
        left_out = [item for item in items if item.get_closest_marker(foreign)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def esp(request: pytest.FixtureRequest) -> str:
    """The backend under test; a kernel without ESP is a failure here and never a skip."""
    chosen = request.config.getoption("--esp", default=None)
    if chosen is None:
        pytest.fail("say --esp=userspace, or --esp=kernel under a kernel with ESP (tests/kernel/run.py); see make test")
    if os.geteuid() != 0:
        pytest.fail("namespaces, veth and ESP need root: sudo, or unshare -Urnm")
    if chosen == "kernel" and (missing := probe()):
        pytest.fail(f"--esp=kernel: {'; '.join(missing)}")
    return str(chosen)


@pytest.fixture(scope="session")
def lasting_world(esp: str) -> Iterator[World]:
    with World(esp, next(_worlds)) as made:
        yield made


@pytest.fixture
def world(lasting_world: World) -> Iterator[World]:
    """Both ends protected, no SA, nothing seen on the wire yet; shared by the tests that leave it so."""
    yield lasting_world
    lasting_world.tidy()


@pytest.fixture
def own_world(esp: str) -> Iterator[World]:
    """A world to break."""
    with World(esp, next(_worlds)) as made:
        yield made


@pytest.fixture
def kernel_world(own_world: World) -> World:
    """A world to break, for what only XFRM has; nothing is protected in the P-CSCF's namespace."""
    own_world.p(Agent.close)
    return own_world
