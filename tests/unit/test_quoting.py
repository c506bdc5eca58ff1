"""What errors quote of peers: never a key of a challenge, however broken the challenge is."""

import logging
import re
import time
from pathlib import Path

import pytest

from pcscf.sip.parse import LONG_HEX, ParseError, quoted
from tests.bench.load import Phone
from tests.unit.driven import AT_CORE, KEYS, Driven, accept, answer, challenge_to, drive

CK, IK = "b40ba9a3c58b2a05bbf0d987b21bf8cb", "f769bcd751044604127672711c6d3441"
BOTH = f'ck="{CK}",ik="{IK}"'
REST = 'algorithm=AKAv1-MD5,nonce="I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M="'
CHALLENGES = [
    f'WWW-Authenticate: Digest {REST},\r\nck="{CK}",\r\nik="{IK}"',  # folds that lost their blank
    f'WWW-Authenticate: Digest {REST},\r\nik="{IK}", ck="{CK.upper()}"',
    f"{BOTH}",
    f"WWW-Authenticate Digest {BOTH},{REST}",
    f"WWW-Authenticate; {BOTH}",
    f": {BOTH}",
    f"WWW-Authenticate: {BOTH}",
    f"WWW-Authenticate: ={BOTH}",
    f'WWW-Authenticate: "{CK}" {BOTH}',
    f"WWW-Authenticate: ,{CK}{IK}",
    f"WWW-Authenticate: {CK} {IK}",
    f"WWW-Authenticate: ({IK}, {REST}",
    f"WWW-Authenticate: {IK}, {REST}",
    f'WWW-Authenticate: Digest {REST},ck="{CK},ik={IK}',
    f'WWW-Authenticate: Digest {REST},ck="{CK}"ik="{IK}"',
    f"WWW-Authenticate: Digest {REST},ck={CK} ik={IK}",
    f"WWW-Authenticate: Digest {BOTH}",
    f"WWW-Authenticate: Digest {REST},ck=\"{CK}0\",ik=\"{IK[:-1]}\"",
    f"WWW-Authenticate: Digest {REST},{BOTH},{BOTH}",
    f"WWW-Authenticate: Digest {REST},{BOTH}\r\nWWW-Authenticate: Digest {REST},{BOTH}",
    f"WWW-Authenticate: Digest {REST},{BOTH}\r\nCSeq: {CK} {IK}",
    f"WWW-Authenticate: Digest {REST},{BOTH}\r\nContent-Length: {CK}",
]  # fmt: skip
"""Header lines in which a core may put the keys of a 401, or whatever is left of them on the way."""
ELSEWHERE = [
    (rb"SIP/2.0 401 Unauthorized", f"SIP/2.0 4x1 {BOTH}"),
    (rb"SIP/2.0 401 Unauthorized", f"SIP/3.0 401 {CK}"),
    (rb"SIP/2.0 401 Unauthorized", f"{CK} {IK} {CK}"),
    (rb"SIP/2.0 401 Unauthorized", BOTH),
    (rb"SIP/2.0 401 Unauthorized", f"REGISTER sip:{CK} {IK}"),
    (rb"SIP/2.0 401 Unauthorized", f"REGISTER <{CK}{IK}> SIP/2.0"),
    (rb"SIP/2.0 401 Unauthorized", f"SIP/2.0 403 {BOTH}"),
    (rb"(?m)^CSeq: \d+ \w+", f"CSeq: {CK}{IK} REGISTER"),
    (rb"(?m)^CSeq: \d+ \w+", f"CSeq: 1 {CK}"),
    (rb"(?m)^CSeq: \d+ \w+", f"CSeq: 1 REGISTER {BOTH}"),
    (rb"Content-Length: 0", f"Content-Length: {CK}"),
    (rb"(?m)^Via: ", f"Via: {CK}{IK};"),
    (rb"(?m)^Via: ", f"Via: SIP/2.0/UDP h {CK}{IK};"),
    (rb"Content-Length: 0", f'Warning: 399 core "{BOTH}"\r\nReason: {IK};{BOTH}\r\nContent-Length: 0'),
]
"""What stands where else in the answer."""
ACCEPTED = [f"Contact: <sip:{CK}", f"Contact: {CK}{IK}", f"Contact: <sip:x@h>;{CK}<", f"P-Associated-URI: {CK} {IK}",
            f"P-Associated-URI: <{CK}:{IK}>", f"P-Associated-URI: <sip:@{CK}>",
            f"P-Associated-URI: <sip:a@b@{CK}>"]  # fmt: skip


def shown(text: str) -> bool:
    """Whether so much of a key stands there as may not."""
    lowered = text.lower()
    return any(key[at : at + LONG_HEX] in lowered for key in (CK, IK) for at in range(len(key) - LONG_HEX + 1))


def test_no_broken_challenge_has_its_keys_in_log_journal_or_api(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Step 1, 12 and 17: the core's own words are quoted where they cannot be read, and they may be keys."""
    caplog.set_level(logging.DEBUG)

    async def work(driven: Driven) -> None:
        number = 0

        def check(said: object) -> None:
            records = [str(record) for _, record in driven.server.journal.after(0)]
            assert not [each for each in (*records, caplog.text) if shown(each)], said
            caplog.clear()

        def challenged(place: bytes, text: str) -> None:
            nonlocal number
            number += 1
            driven.challenge(Phone(number), of_core=lambda it: re.sub(place, lambda _: text.encode(), it, count=1))
            check(text)

        for lines in CHALLENGES:
            challenged(rb"WWW-Authenticate: [^\r]*", lines)
        said = str([row.record for row in await driven.client.journal()])
        assert "no header line: " in said and not shown(said)
        for place, text in ELSEWHERE:
            challenged(place, text)
        for value in ACCEPTED:
            number += 1
            phone = Phone(number)
            assert driven.challenge(phone)
            driven.receive(driven.anew(phone.answer()), driven.protected(phone))
            request = driven.to_core()
            assert request is not None
            name = value.partition(":")[0].encode()
            driven.receive(re.sub(rb"(?m)^" + name + rb": [^\r]*", value.encode(), accept(request), count=1), AT_CORE)
            check(value)
        phone = Phone(number + 1)
        driven.receive(phone.register(5070), driven.clear(phone))
        request = driven.to_core()
        assert request is not None
        driven.receive(answer(request, f"403 {BOTH}", f'Warning: 399 core "{BOTH}"\r\n'.encode()), AT_CORE)
        check("403")
        assert KEYS in challenge_to(request), "these are the keys that are looked for"

    drive(tmp_path, work)


def test_what_is_quoted_is_short_and_says_what_it_was() -> None:
    assert quoted("sip:alice@home") == "'sip:alice@home'"
    assert quoted("x" * 500) == repr("x" * 60) and quoted("a\r\nb", 2) == r"'a\r'"
    assert quoted("imsi 001010123456789") == "'imsi 001010123456789'", "15 digits are an identity"
    for before in range(70):
        for length in (LONG_HEX, 32, 5000):
            assert not shown(quoted("x" * before + (CK * 200)[:length] + "x" * 70))
            assert not re.search("[0-9a-f]{4}", quoted("x" * before + (CK * 200)[:length])), "nor the begin of one"


def test_quoting_takes_no_longer_for_long_texts() -> None:
    def seconds(text: str) -> float:
        return min(_timed(text) for _ in range(5))

    assert seconds("a" * 3_000_000) < 100 * seconds("a" * 100)


def _timed(text: str) -> float:
    began = time.perf_counter()
    for _ in range(200):
        quoted(text)
    return time.perf_counter() - began


def test_a_parse_error_says_where() -> None:
    assert str(ParseError(f"no address: {quoted(BOTH)}")) == 'no address: \'ck="…",ik="…\''
