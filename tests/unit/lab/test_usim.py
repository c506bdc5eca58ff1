"""The card: published challenges accepted, and each of the two refusals for its own reason (digest E1, E2)."""

import pytest

from pcscf.lab.usim import MacFailure, SyncFailure, Usim
from tests.unit.lab.vectors import VECTORS, Vector

by_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


@by_vector
def test_a_fresh_challenge_is_answered_once(vector: Vector) -> None:
    usim = Usim(vector.milenage)
    rand, autn = bytes.fromhex(vector.rand), bytes.fromhex(vector.autn)
    answer = usim.authenticate(rand, autn)
    assert [bytes(value).hex() for value in (answer.res, answer.keys.ck, answer.keys.ik)] == [
        vector.f2,
        vector.f3,
        vector.f4,
    ]
    assert vector.f2 not in repr(answer)
    with pytest.raises(SyncFailure):
        usim.authenticate(rand, autn)


@by_vector
def test_an_old_sqn_gives_the_published_auts(vector: Vector) -> None:
    usim = Usim(vector.milenage, sqn=int(vector.sqn_ms, 16))
    with pytest.raises(SyncFailure) as failure:
        usim.authenticate(bytes.fromhex(vector.rand), bytes.fromhex(vector.autn))
    assert failure.value.auts.hex() == vector.auts


@by_vector
def test_a_changed_autn_is_a_mac_failure_and_moves_nothing(vector: Vector) -> None:
    usim = Usim(vector.milenage)
    rand, autn = bytes.fromhex(vector.rand), bytearray.fromhex(vector.autn)
    for octet in range(16):
        changed = bytearray(autn)
        changed[octet] ^= 1
        with pytest.raises(MacFailure):
            usim.authenticate(rand, bytes(changed))
    assert usim.authenticate(rand, bytes(autn)).res.hex() == vector.f2


def test_freshness_is_kept_for_each_ind() -> None:
    card = VECTORS[0].milenage
    usim = Usim(card)
    rand = bytes(16)

    def challenge(seq: int, ind: int) -> bytes:
        sqn = (seq << 5 | ind).to_bytes(6, "big")
        hidden = bytes(a ^ b for a, b in zip(sqn, card.f5(rand), strict=True))
        return hidden + bytes(2) + card.f1(rand, sqn, bytes(2))

    usim.authenticate(rand, challenge(7, 1))
    usim.authenticate(rand, challenge(5, 2))  # older, but of an IND that has seen nothing newer (Annex C.2)
    with pytest.raises(SyncFailure):
        usim.authenticate(rand, challenge(7, 1))
