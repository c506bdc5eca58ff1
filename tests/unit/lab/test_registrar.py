"""The core's REGISTER procedure against published vectors, driven by hand (digest C12, B2, E2, E3)."""

from base64 import b64decode, b64encode
from typing import Any

import pytest

from pcscf.aka import ChallengeError, take_challenge
from pcscf.lab.bindings import ContactEvent
from pcscf.lab.challenge import CoreFault, Manners
from pcscf.lab.hss import Hss
from pcscf.lab.registrar import Registrar, Reply
from pcscf.lab.usim import MacFailure, SyncFailure, Usim
from pcscf.sip.message import Response
from tests.unit.lab.registering import answer, nonce_of, register, settings
from tests.unit.lab.vectors import IMPI, VECTORS, Vector

by_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
SET1 = VECTORS[0]
RES1 = bytes.fromhex(SET1.f2)


def core(vector: Vector = SET1, **changes: Any) -> Registrar:
    """A core whose next vector is the published one: SEQ and IND each go up by one, so SQN by 33."""
    rand = bytes.fromhex(vector.rand)

    def random_octets(count: int) -> bytes:
        return rand if count == 16 else bytes(range(count))

    subscriber = vector.subscriber(sqn=int(vector.sqn, 16) - 33)
    return Registrar(settings(**changes), Hss({IMPI: subscriber}, random_octets), random_octets)


def reply(registrar: Registrar, now: float = 0.0, **parts: Any) -> Response:
    got = registrar.register(register(**parts), now)
    assert isinstance(got, Reply)
    return got.response


def registered(registrar: Registrar, now: float = 0.0, *, qop: str = "") -> Response:
    nonce = nonce_of(reply(registrar, now))
    return reply(registrar, now, flag="yes", cseq=2, authorization=answer(nonce, RES1, qop=qop))


@by_vector
def test_the_challenge_is_the_published_vector(vector: Vector) -> None:
    response = reply(core(vector))
    challenge = take_challenge(response)
    assert challenge.nonce == vector.nonce
    assert (challenge.keys.ck.hex(), challenge.keys.ik.hex()) == (vector.f3, vector.f4)


@by_vector
@pytest.mark.parametrize("qop", ["", "auth", "auth-int"])
def test_the_published_response_registers(vector: Vector, qop: str) -> None:
    registrar = core(vector, qop="auth,auth-int")
    nonce = nonce_of(reply(registrar))
    credentials = {"": vector.response, "auth": vector.response_auth, "auth-int": vector.response_auth_int}[qop]
    quality = f',qop={qop},nc=00000001,cnonce="0a4f113b"' if qop else ""
    ok = reply(registrar, flag="yes", cseq=2, authorization=f'nonce="{nonce}",response="{credentials}"{quality}')
    assert ok.status == 200
    assert ok.values("path") == ["<sip:term-8f3a@10.46.0.1:5060;lr;ob>"]
    assert ok.values("service-route") == ["<sip:orig@127.0.0.1:5060;lr>"]
    assert [value[:17] for value in ok.values("p-associated-uri")] == ["<sip:+15551230001", "<tel:+15551230001"]
    assert ok.values("contact") == [
        '<sip:10.45.0.2:31801>;+sip.instance="<urn:gsma:imei:35000000-000000-0>";expires=600000'
    ]
    assert 'icid-value="p1-1a2b3c"' in ok.lines("p-charging-vector")[0]
    assert "term-ioi=" in ok.lines("p-charging-vector")[0]
    assert len(registrar.bindings(IMPI, 0)) == 1


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"authorization": answer(SET1.nonce, b"wrong")}, "wrong response"),
        ({"authorization": answer(SET1.nonce, SET1.f2.encode())}, "wrong response"),  # RES as text is no RES
        ({"call_id": "other", "authorization": answer(SET1.nonce, RES1)}, "Call-ID"),
        ({"authorization": answer(SET1.nonce, RES1, qop="auth")}, "qop auth was not offered"),
        ({"authorization": answer("AAAA", RES1)}, "nonce"),
        ({"authorization": f'nonce="{SET1.nonce}",response=""'}, "MAC"),
    ],
)
def test_what_does_not_answer_the_challenge_is_forbidden(parts: dict[str, Any], words: str) -> None:
    registrar = core()
    nonce_of(reply(registrar))
    refused = reply(registrar, flag="yes", cseq=2, **parts)
    assert (refused.status, words in refused.reason) == (403, True), refused.reason
    assert registrar.bindings(IMPI, 0) == []


def test_a_reused_nc_is_forbidden() -> None:
    registrar = core(qop="auth")
    nonce = nonce_of(reply(registrar))
    credentials = answer(nonce, RES1, qop="auth", nc="00000002")
    assert reply(registrar, flag="yes", cseq=2, authorization=credentials).status == 403


def test_an_answer_in_clear_or_too_late_is_challenged_again() -> None:
    registrar = core()
    nonce = nonce_of(reply(registrar))
    assert nonce_of(reply(registrar, flag="no", cseq=2, authorization=answer(nonce, RES1))) != nonce
    registrar = core()
    nonce = nonce_of(reply(registrar))
    assert reply(registrar, 240.0, flag="yes", cseq=2, authorization=answer(nonce, RES1)).status == 401


def test_without_integrity_protected() -> None:
    assert reply(core(), flag=None).status == 403
    registrar = core(require_integrity=False)
    nonce = nonce_of(reply(registrar, flag=None))
    assert reply(registrar, flag=None, cseq=2, authorization=answer(nonce, RES1)).status == 200
    assert reply(core(), flag="maybe").status == 400


def test_a_protected_register_outside_a_challenge_follows_the_policy() -> None:
    for reauth, status in (("never", 200), ("always", 401)):
        registrar = core(reauth=reauth)
        assert registered(registrar).status == 200
        again = reply(registrar, 10.0, flag="yes", cseq=3, authorization=answer(SET1.nonce, b"last"))
        assert again.status == status
    # in clear it is always challenged, and where nothing is registered too
    assert reply(registrar, 10.0, flag="no", cseq=4).status == 401
    assert reply(core(), flag="yes").status == 401


def test_rechallenge_asks_for_one_authentication() -> None:
    registrar = core()
    registered(registrar)
    registrar.rechallenge(IMPI)
    nonce = nonce_of(reply(registrar, 10.0, flag="yes", cseq=3, authorization=answer(SET1.nonce, b"last")))
    assert reply(registrar, 11.0, flag="yes", cseq=4, authorization=answer(nonce, RES1)).status == 200
    assert reply(registrar, 12.0, flag="yes", cseq=5, authorization=answer(nonce, RES1)).status == 200


def test_changes_are_told_once_and_in_order() -> None:
    registrar = core()
    registered(registrar)
    reply(registrar, 1.0, flag="yes", cseq=3, authorization=answer(SET1.nonce, RES1), expires="3600")
    assert registrar.deadline == 3601.0
    assert registrar.shorten(IMPI, 60, 2.0)
    assert reply(registrar, 3.0, flag="yes", cseq=4).status == 401, "shortened: the next REGISTER is challenged"
    registrar.expire(61.0)
    registrar.expire(62.0)
    assert not registrar.deregister(IMPI, ContactEvent.REJECTED)
    told = [
        (change.subscriber.impi, [str(each.event) for each in change.contacts]) for change in registrar.take_changes()
    ]
    assert told == [(IMPI, [event]) for event in ("registered", "refreshed", "shortened", "expired")]
    assert registrar.take_changes() == [] and registrar.deadline is None
    assert registrar.registered_as(IMPI) == f"sip:{IMPI}"


def test_a_register_after_an_abandoned_challenge() -> None:
    registrar = core()
    registered(registrar)
    nonce_of(reply(registrar, cseq=3, call_id="rebooted"))
    again = reply(registrar, flag="yes", cseq=4, authorization=answer(SET1.nonce, RES1))
    assert again.status == 200


@by_vector
def test_the_published_auts_moves_the_sqn(vector: Vector) -> None:
    registrar = core(vector)
    nonce = nonce_of(reply(registrar))
    credentials = f'nonce="{nonce}",response="{vector.response_empty}",auts="{vector.auts_base64}"'
    challenge = take_challenge(reply(registrar, flag="no", cseq=2, authorization=credentials))
    autn = b64decode(challenge.nonce)[16:]
    card = Usim(vector.milenage, sqn=int(vector.sqn_ms, 16))
    answered = card.authenticate(bytes.fromhex(vector.rand), autn)
    assert answered.res.hex() == vector.f2


@pytest.mark.parametrize(
    ("auts", "status"), [("uoU/PBIctV7bggBAq0A=", 403), ("uoU/PBIctV4=", 403), ("not base64!", 400)]
)
def test_a_wrong_auts_is_refused(auts: str, status: int) -> None:
    registrar = core()
    nonce = nonce_of(reply(registrar))
    assert reply(registrar, cseq=2, authorization=f'nonce="{nonce}",response="",auts="{auts}"').status == status
    assert reply(core(), authorization=f'nonce="{nonce}",response="",auts="{auts}"').status == 403


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ({"without": ("Path",)}, 400, "Path is missing"),
        ({"without": ("Require",)}, 400, "Require: path"),
        ({"without": ("P-Visited-Network-ID",)}, 400, "P-Visited-Network-ID"),
        ({"without": ("P-Charging-Vector",)}, 400, "icid-value"),
        ({"without": ("Path",), "extra": ("Path: <sip:term@10.46.0.1:5060>",)}, 400, "no lr"),
        ({"extra": ("Security-Client: ipsec-3gpp;alg=null",)}, 400, "Security-Client"),
        ({"extra": ("Security-Verify: ipsec-3gpp;alg=null",)}, 400, "Security-Verify"),
        ({"extra": ("Proxy-Require: sec-agree",)}, 400, "Proxy-Require: sec-agree"),
        ({"extra": ("Require: Sec-Agree",)}, 400, "Require: sec-agree"),
        ({"without": ("Authorization",)}, 403, "without Authorization"),
        ({"impi": "nobody@example.org"}, 403, "unknown subscriber"),
        ({"to": "sip:someone@else.example"}, 403, "not this subscriber's"),
        ({"expires": "soon"}, 400, "Expires"),
        ({"expires": "59"}, 423, "Interval Too Brief"),
    ],
)
def test_what_the_pcscf_must_do_is_checked(parts: dict[str, Any], status: int, words: str) -> None:
    refused = reply(core(min_expires=60), **parts)
    assert (refused.status, words in refused.reason) == (status, True), refused.reason
    assert (refused.first("min-expires") is not None) == (status == 423)


@pytest.mark.parametrize("parts", [{"expires": "0"}, {"expires": "0", "contact": "*"}])
def test_deregistration(parts: dict[str, Any]) -> None:
    registrar = core()
    registered(registrar)
    credentials = answer(SET1.nonce, RES1)
    assert reply(registrar, flag="no", cseq=3, **parts).status == 401
    gone = reply(registrar, flag="yes", cseq=4, authorization=credentials, **parts)
    assert (gone.status, gone.values("contact"), registrar.bindings(IMPI, 0)) == (200, [], [])


def test_a_registration_ends_and_a_restarted_ue_replaces_its_contact() -> None:
    registrar = core()
    registered(registrar)
    other_port = '<sip:10.45.0.2:41801>;+sip.instance="<urn:gsma:imei:35000000-000000-0>"'
    moved = reply(registrar, flag="yes", cseq=3, contact=other_port, authorization=answer(SET1.nonce, RES1))
    assert [value.partition(">")[0] for value in moved.values("contact")] == ["<sip:10.45.0.2:41801"]
    assert registrar.bindings(IMPI, 599_999.0)
    assert registrar.bindings(IMPI, 600_000.0) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (CoreFault.MISSING_IK, "0 values of ik"),
        (CoreFault.MISSING_CK, "0 values of ck"),
        (CoreFault.NO_AKA_KEYS, "0 values of ck"),
        (CoreFault.SHORT_CK, "30 characters"),
        (CoreFault.BAD_HEX, "not 32 hexadecimal"),
        (CoreFault.TWO_CHALLENGES, "2 AKAv1-MD5 challenges"),
    ],
)
@pytest.mark.parametrize("manners", Manners)
def test_challenges_without_usable_keys(fault: CoreFault, words: str, manners: Manners) -> None:
    registrar = core(manners=manners)
    registrar.set_faults(IMPI, [fault])
    with pytest.raises(ChallengeError, match=words):
        take_challenge(reply(registrar))
    registrar.set_faults(IMPI, [])
    assert take_challenge(reply(registrar, cseq=2)).keys.ik.hex() == SET1.f4


def test_challenges_the_card_refuses() -> None:
    registrar = core()
    registrar.set_faults(IMPI, [CoreFault.WRONG_MAC])
    with pytest.raises(MacFailure):
        _authenticate(Usim(SET1.milenage), nonce_of(reply(registrar)))
    registrar.set_faults(IMPI, [CoreFault.OLD_SQN])
    card = Usim(SET1.milenage)
    nonce = nonce_of(reply(registrar, cseq=2))
    with pytest.raises(SyncFailure) as failure:
        _authenticate(card, nonce)
    auts = b64encode(failure.value.auts).decode()
    fresh = nonce_of(reply(registrar, cseq=3, authorization=f'nonce="{nonce}",response="",auts="{auts}"'))
    _authenticate(card, fresh)


def test_other_faults() -> None:
    registrar = core(late=3.0)
    registrar.set_faults(IMPI, [CoreFault.NO_ANSWER])
    assert registrar.register(register(), 0.0) is None
    registrar.set_faults(IMPI, [CoreFault.LATE_401])
    late = registrar.register(register(), 0.0)
    assert late is not None and late.delay == 3.0
    registrar.set_faults(IMPI, [CoreFault.WRONG_REALM])
    assert 'realm="wrong.' in reply(registrar).lines("www-authenticate")[0]
    registrar.set_faults(IMPI, [CoreFault.ACCEPT_WITHOUT_CHALLENGE])
    assert reply(registrar).status == 200
    registrar.set_faults(IMPI, [CoreFault.ACCEPT_WITHOUT_CHALLENGE, CoreFault.LATE_200])
    late = registrar.register(register(cseq=2), 0.0)
    assert late is not None and (late.response.status, late.delay) == (200, 3.0)


def test_the_manners_of_kamailio() -> None:
    registrar = core(manners=Manners.KAMAILIO, transport="tcp")
    first = reply(registrar, flag=None)
    (value,) = first.lines("www-authenticate")
    assert value.endswith(f'ck="{SET1.f3}", ik="{SET1.f4}", qop="auth,auth-int"')
    assert len(first.reason) > len("Unauthorized")
    assert first.values("path") == ["<sip:term-8f3a@10.46.0.1:5060;lr;ob>"]
    credentials = answer(nonce_of(first), RES1, qop="auth")
    ok = reply(registrar, flag="no", cseq=2, authorization=credentials)
    assert ok.status == 200
    assert ok.first("expires") is None
    assert ok.values("contact")[0].endswith(";expires=540000")
    assert ok.values("service-route") == ["<sip:orig@127.0.0.1:5060;lr>"]
    assert reply(registrar, flag="yes", cseq=3, authorization=credentials).status == 401  # every one is challenged
    gone = nonce_of(reply(registrar, flag="yes", cseq=4, expires="0"))
    away = reply(registrar, flag="yes", cseq=5, expires="0", authorization=answer(gone, RES1, qop="auth"))
    assert away.values("contact")[0].endswith(";expires=0")
    assert (away.values("path"), away.values("p-associated-uri")) == ([], [])
    assert reply(registrar, without=("P-Visited-Network-ID",)).status == 400
    brief = nonce_of(reply(registrar, cseq=6, expires="5"))
    short = reply(registrar, cseq=7, expires="5", authorization=answer(brief, RES1, qop="auth"))
    assert short.values("contact")[0].endswith(";expires=27")


def _authenticate(card: Usim, nonce: str) -> None:
    octets = b64decode(nonce)
    card.authenticate(octets[:16], octets[16:])
