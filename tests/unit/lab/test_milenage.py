"""Milenage against TS 35.208 4.3 (digest E1, E2)."""

import pytest

from pcscf.lab.milenage import Milenage
from tests.unit.lab.vectors import VECTORS, Vector


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_every_function_gives_the_published_value(vector: Vector) -> None:
    card = Milenage.from_op(bytes.fromhex(vector.k), bytes.fromhex(vector.op))
    rand, sqn, amf = (bytes.fromhex(text) for text in (vector.rand, vector.sqn, vector.amf))
    assert bytes(card.opc).hex() == vector.opc
    got = [
        bytes(value).hex()
        for value in (
            card.f1(rand, sqn, amf),
            card.f1_star(rand, sqn, amf),
            card.f2(rand),
            card.f3(rand),
            card.f4(rand),
            card.f5(rand),
            card.f5_star(rand),
        )
    ]
    assert got == [vector.f1, vector.f1_star, vector.f2, vector.f3, vector.f4, vector.f5, vector.f5_star]


def test_keys_do_not_show_themselves() -> None:
    card = VECTORS[0].milenage
    assert VECTORS[0].k not in repr(card)
    assert repr(bytes.fromhex(VECTORS[0].k)) not in repr(card)
