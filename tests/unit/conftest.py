"""What the unit tests share."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure first: after thousands of tests free memory lies in small pieces, and long texts cost more for it."""
    items.sort(key=lambda item: item.path.name != "test_worst_case.py")
