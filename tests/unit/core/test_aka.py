"""AKA digest and key expansion against the vectors of the digest (A12, B2, E3, E4): TS 35.208 sets 1, 3 and 4."""

import pytest

from pcscf.aka import AkaKeys, ChallengeError, digest_response, expand, strip_keys, take_challenge
from pcscf.sip.message import Response, header
from xfrm.algorithms import ENCRYPTION, INTEGRITY, VALID_PAIRS, Pair
from xfrm.model import Key

USER = "001010123456789@ims.mnc001.mcc001.3gppnetwork.org"
REALM = "ims.mnc001.mcc001.3gppnetwork.org"
SETS = {
    1: {
        "ck": "b40ba9a3c58b2a05bbf0d987b21bf8cb",
        "ik": "f769bcd751044604127672711c6d3441",
        "res": "a54211d5e3ba50bf",
        "nonce": "I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M=",
        "plain": "486f3ee163ac4a424493c7ee626d3794",
        "auth": "cbefdcc54c81aa658d67da2fba29638c",
        "auth-int": "17755ff7bbf167d364a531859619f40c",
        "rspauth": "5abd9db7ea133e69c22e31fd1dd29f65",
        "empty": "180933893eb8c4519e87ae2c9d5a1955",
        "gmac": "dbc2b1c2",
        "gcm": "89273db6",
    },
    3: {
        "ck": "5dbdbb2954e8f3cde665b046179a5098",
        "ik": "59a92d3b476a0443487055cf88b2307b",
        "res": "8011c48c0c214ed2",
        "nonce": "n3yNAhrM9NshPM/wx/caaq5KOptMl3JcnKvD6ZuvcoE=",
        "plain": "fa285adc03f0e209bbe03f2cd0fc5f0c",
        "auth": "a5b62778893ef6a0aa2f1a749beac73c",
        "auth-int": "e9c17cd0224b98dab7c6703217c52cbf",
        "rspauth": "eafade9c7142702682d735456b7c93bb",
        "empty": "b5427256b56bf45b1e46a24072fc3e38",
        "gmac": "bcf31f7f",
        "gcm": "2a196eb0",
    },
    4: {
        "ck": "e203edb3971574f5a94b0d61b816345d",
        "ik": "0c4524adeac041c4dd830d20854fc46b",
        "res": "f365cd683cd92e96",
        "nonce": "zoPbxUrAJ0oVfBf4DQF71vvZigs8hp4JdKWCIMuoTEk=",
        "plain": "e18fe9c042c52a10882cf9d24e6a83fd",
        "auth": "7c355f56f6e5ccc95968aee917e3f933",
        "auth-int": "74336ebaa2d677e2ea06031da0e968ef",
        "rspauth": "f5b0870e8ac042b70909011e84d0a51d",
        "empty": "d05e1d8c0640e2b488d5b01edfe67640",
        "gmac": "17077c95",
        "gcm": "e6920056",
    },
}


def keys(number: int) -> AkaKeys:
    return AkaKeys(ck=Key.fromhex(SETS[number]["ck"]), ik=Key.fromhex(SETS[number]["ik"]))


def response(number: int, *, password: bytes | None = None, method: str = "REGISTER", qop: str = "") -> str:
    vector = SETS[number]
    return digest_response(
        username=USER,
        realm=REALM,
        password=bytes.fromhex(vector["res"]) if password is None else password,
        method=method,
        uri=f"sip:{REALM}",
        nonce=vector["nonce"],
        qop=qop,
        nc="00000001",
        cnonce="0a4f113b",
    )


@pytest.mark.parametrize("number", SETS)
def test_digest(number: int) -> None:
    vector = SETS[number]
    assert response(number) == vector["plain"]
    assert response(number, qop="auth") == vector["auth"]
    assert response(number, qop="auth-int") == vector["auth-int"]
    assert response(number, method="", qop="auth") == vector["rspauth"]
    assert response(number, password=b"") == vector["empty"], "the password of a synchronisation failure is empty"


@pytest.mark.parametrize("number", SETS)
def test_key_expansion(number: int) -> None:
    ck, ik = SETS[number]["ck"], SETS[number]["ik"]

    def expanded(pair: str) -> tuple[str, str]:
        integrity, encryption = expand(keys(number), Pair.parse(pair))
        return bytes(integrity).hex(), bytes(encryption).hex()

    assert expanded("hmac-sha-1-96/aes-cbc") == (f"{ik}00000000", ck)
    assert expanded("hmac-md5-96/null") == (ik, "")
    assert expanded("aes-gmac/null") == (ik + SETS[number]["gmac"], "")
    assert expanded("null/aes-gcm") == ("", ck + SETS[number]["gcm"])
    triple = bytes.fromhex(expanded("hmac-sha-1-96/des-ede3-cbc")[1])
    before = bytes.fromhex(ck + ck[:16])
    assert all(octet.bit_count() % 2 for octet in triple), "odd parity (RFC 2451)"
    assert [octet & 0xFE for octet in triple] == [octet & 0xFE for octet in before]


@pytest.mark.parametrize("pair", sorted(VALID_PAIRS, key=str), ids=str)
def test_key_sizes_are_those_of_the_algorithm_table(pair: Pair) -> None:
    integrity, encryption = expand(keys(1), pair)
    algorithm = INTEGRITY[pair.integrity]
    assert len(integrity) == (algorithm.key if algorithm else 0)
    assert len(encryption) == ENCRYPTION[pair.encryption].key


def unauthorized(*values: str) -> Response:
    headers = tuple(header("WWW-Authenticate", value) for value in values)
    return Response(status=401, reason="Unauthorized", headers=headers)


CHALLENGE = 'Digest realm="r", nonce="n", algorithm=AKAv1-MD5, ck="{ck}", ik="{ik}", qop="auth,auth-int"'.format(
    **SETS[1]
)


def test_keys_are_taken_out_in_place() -> None:
    response = unauthorized(CHALLENGE)
    challenge = take_challenge(response)
    assert (challenge.nonce, challenge.keys) == ("n", keys(1))
    assert strip_keys(response).lines("www-authenticate") == [
        'Digest realm="r", nonce="n", algorithm=AKAv1-MD5, qop="auth,auth-int"'
    ]
    assert "b40b" not in repr(challenge)


@pytest.mark.parametrize(
    "values",
    [
        (),
        ('Digest realm="r",nonce="n",algorithm=MD5',),
        (CHALLENGE, CHALLENGE),
        ("Digest broken=",),
        (CHALLENGE.replace('nonce="n"', 'nonce=""'),),
    ],
)
def test_a_challenge_that_secures_nothing(values: tuple[str, ...]) -> None:
    with pytest.raises(ChallengeError) as refused:
        take_challenge(unauthorized(*values))
    assert "b40b" not in str(refused.value)
