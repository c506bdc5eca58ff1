"""The subscriber file: the shipped one loads, and a wrong one is refused without showing a key."""

from pathlib import Path

import pytest

from pcscf.lab.subscribers import SubscribersError, load_subscribers
from tests.unit.lab.vectors import VECTORS

SHIPPED = Path(__file__).parents[3] / "config" / "subscribers.toml"
ONE = """
[[subscriber]]
impi = "a@example.org"
impus = ["sip:a@example.org"]
k = "465b5ce8b199b49faa5f0a2ee238a6bc"
op = "cdc202d5123e20f62b6d676ac72cb318"
"""


def test_the_shipped_file() -> None:
    subscribers = load_subscribers(SHIPPED)
    assert [impi.partition("@")[0] for impi in subscribers] == [f"00101000000000{n}" for n in (1, 2, 3)]
    first = next(iter(subscribers.values()))
    assert first.impus[1] == "tel:+15551230001"
    assert first.temporary_impu not in first.impus


def test_op_is_turned_into_opc(tmp_path: Path) -> None:
    path = tmp_path / "subscribers.toml"
    path.write_text(ONE)
    assert load_subscribers(path)["a@example.org"].milenage == VECTORS[0].milenage


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ONE.replace("a6bc", "a6"), "subscriber.0.k: 15 octets, 16 (32 hexadecimal digits) are needed"),
        (ONE.replace("a6bc", "a6bz"), "subscriber.0.k: not a key in hexadecimal"),
        (ONE.replace("op =", "opx ="), "subscriber.0.opx: Extra inputs are not permitted"),
        (ONE + 'opc = "cd63cb71954a9f4e48a5994e37a02baf"', "subscriber.0: give either op or opc"),
        (ONE + 'amf = "00"', "subscriber.0.amf: 4 hexadecimal digits are needed"),
        (ONE + "sqn = 281474976710656", "subscriber.0.sqn"),
        (ONE + ONE, "subscribers: a@example.org is listed twice"),
        ("", "subscriber: Field required"),
        ("[[", "not TOML"),
    ],
)
def test_what_is_wrong_is_named_and_no_key_is_shown(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "subscribers.toml"
    path.write_text(text)
    with pytest.raises(SubscribersError) as error:
        load_subscribers(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "465b5ce8" not in str(error.value) + repr(error.value.__cause__)
