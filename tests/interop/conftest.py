"""A plant that the tests of one module share."""

from collections.abc import Iterator

import pytest

from tests.interop.plant import Plant, plant


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with plant(tmp_path_factory.mktemp("plant")) as made:
        yield made
