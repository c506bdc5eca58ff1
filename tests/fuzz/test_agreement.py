"""An offer that was seen before in like form is read as one that was not."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pcscf import security
from pcscf.security import AgreementError

NUMBER = st.sampled_from(["1000", "1001", "100", "10001", "?", "", "x", "4294967295"])
PARAM = st.one_of(
    st.sampled_from(
        [
            "alg=hmac-sha-1-96",
            "alg=hmac-md5-96",
            "alg=null",
            "ealg=aes-gcm",
            "ealg=null",
            "ealg=aes-cbc",
            "prot=esp",
            "prot=ah",
            "mod=trans",
            "mod=tun",
            "q=0.1",
            "mediasec",
            'x="spi-c=1000"',
            "x-spi-c=1000",
        ]
    ),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["spi-c", "spi-s", "port-c", "port-s", "SPI-C"]),
        st.sampled_from(["=", " = "]),
        NUMBER,
    ),
)
USUAL = "alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=1000;spi-s=1001;port-c=8000;port-s=8001"
ENTRY = st.builds(
    lambda name, usual, params: ";".join([name, *([USUAL] if usual else []), *params]),
    st.sampled_from(["ipsec-3gpp", "tls", "IPSEC-3GPP"]),
    st.booleans(),
    st.lists(PARAM, max_size=7),
)


@settings(max_examples=400)
@given(st.lists(ENTRY, min_size=1, max_size=4))
def test_known_templates_change_nothing(entries: list[str]) -> None:
    text = ", ".join(entries)
    plain: tuple[object, ...]
    quick: tuple[object, ...]
    try:
        pairs, said = security._pairs(text)
        plain = (pairs, *map(security._number, security.NUMBERS, said))
    except AgreementError as error:
        plain = (error.status,)
    try:
        found = security.parse_proposal([text])
        quick = (found.pairs, found.spi_uc, found.spi_us, found.port_uc, found.port_us)
    except AgreementError as error:
        quick = (error.status,)
    one_spi_for_two = len(plain) > 1 and plain[1] == plain[2]
    assert quick == ((400,) if one_spi_for_two else plain)
