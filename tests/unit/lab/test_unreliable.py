"""Accidents of answers: the same ones with the same seed, of the share that was asked for."""

from collections import Counter

import pytest

from pcscf.lab.unreliable import AT_ONCE, LATE, Unreliable


def test_the_share_and_its_thirds() -> None:
    network = Unreliable(0.3)
    met = Counter(network.delays(reliable=False) for _ in range(10_000))
    assert 6_800 < met[AT_ONCE] < 7_200
    for accident in ((), (0.0, 0.0), (LATE,)):
        assert 850 < met[accident] < 1_150


def test_a_reliable_transport_loses_nothing() -> None:
    network = Unreliable(1.0)
    assert {network.delays(reliable=True) for _ in range(1_000)} == {(0.0, 0.0), (LATE,)}


def test_the_seed_decides() -> None:
    runs = [[each.delays(reliable=False) for _ in range(100)] for each in (Unreliable(0.5), Unreliable(0.5))]
    assert runs[0] == runs[1]
    other = Unreliable(0.5, seed=2)
    assert runs[0] != [other.delays(reliable=False) for _ in range(100)]
    assert {Unreliable(0.0).delays(reliable=False)} == {AT_ONCE}


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="no share"):
        Unreliable(share)
