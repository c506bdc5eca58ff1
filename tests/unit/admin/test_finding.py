"""Whom a name means, among very many: SIP has its turn while everybody is looked at (Step 1, 10)."""

import asyncio
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from pcscf.admin.facts import SLICE, UnknownUe, find
from pcscf.observe import Journal
from pcscf.registration import ContactKey, Registration

MANY = 5000


class Contacts:
    """As much of a registrar as a name is looked for in."""

    def __init__(self) -> None:
        first = int(IPv4Address("10.0.0.1"))
        keys = [ContactKey(f"u{number}@home", IPv4Address(first + number), "") for number in range(MANY)]
        self._all = [Registration(key=key, path_token=f"t{number}") for number, key in enumerate(keys)]

    def __iter__(self) -> Any:
        return iter(self._all)

    def of_user(self, impi: str) -> list[Registration]:
        return [each for each in self._all if each.key.impi == impi]


@pytest.mark.parametrize("name", ["nobody@home", "nobody@home~10.9.9.9", "u4999", "10.0.0.7"])
def test_looking_at_everybody_stops_nobody(name: str) -> None:
    inside: Any = SimpleNamespace(registrar=Contacts(), journal=Journal())

    async def run() -> int:
        looking = asyncio.create_task(find(inside, name))
        rounds = 0
        while not looking.done():
            await asyncio.sleep(0)
            rounds += 1
        if name.startswith("nobody"):
            with pytest.raises(UnknownUe):
                await looking
        else:
            assert await looking in [(each.key.impi, each.key.address) for each in inside.registrar]
        return rounds

    assert asyncio.run(run()) >= MANY / SLICE
