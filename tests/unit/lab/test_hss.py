"""Whose identity a URI is. Vectors are tested with the registrar."""

import pytest

from pcscf.lab.hss import Hss
from tests.unit.lab.calling import ALICE, subscribers
from tests.unit.lab.vectors import IMPI, REALM


@pytest.mark.parametrize(
    ("identity", "owner"),
    [
        (ALICE, IMPI),
        (f"{ALICE};user=phone", IMPI),
        (f"sip:+1-555-123-0001@{REALM.upper()}:5060", IMPI),
        ("tel:+15551230001", IMPI),
        ("tel:+1-555-123.0001;phone-context=x", IMPI),
        (f"sip:{IMPI}", None),  # barred
        ("sip:+15551230001@example.org", None),
        ("tel:15551230001", None),
        ("sips:", None),
        ("mailto:a@b", None),
    ],
)
def test_the_owner_of_an_identity(identity: str, owner: str | None) -> None:
    found = Hss(subscribers(), bytes).owner(identity)
    assert (found.impi if found else None) == owner


def test_a_number_in_a_sip_uri_is_its_tel_uri() -> None:
    (alice, _) = subscribers().values()
    only_tel = alice.model_copy(update={"impus": ("tel:+15551230001",)})
    hss = Hss({IMPI: only_tel}, bytes)
    assert hss.owner(ALICE) is only_tel
    assert hss.owner("sip:+15551230001@example.org") is None
