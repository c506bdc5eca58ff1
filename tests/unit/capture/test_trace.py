"""The ladder of a capture: columns, roles, filters, and what the command prints, writes and refuses."""

import json
import re
from html.parser import HTMLParser
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import pytest

from pcscf.capture.decryption import Cause
from pcscf.capture.page import page
from pcscf.capture.sip import Seen, Unread
from pcscf.capture.trace import Flow, Wanted, shown, to_json, wanted_of
from pcscf.cli import main
from pcscf.sip.parse import parse
from tests.unit.capture.made import association, sealed_frames, write, write_keys
from xfrm.algorithms import Encryption, Integrity, Pair

CBC = Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC)
UE, SIX, GM, MW, CORE = "10.45.0.2", "fd00:45::2", "10.45.0.1", "10.46.0.1", "10.46.0.2"
CK = "00112233445566778899aabbccddeeff"


def seen(
    at: float,
    source: str,
    destination: str,
    start: str,
    *headers: str,
    cseq: str = "1 REGISTER",
    spi: int = 0,
    ports: tuple[int, int] = (5060, 5060),
    call: str = "one",
    transport: Literal["UDP", "TCP"] = "UDP",
    again: bool = False,
) -> Seen:
    lines = [
        start,
        "Via: SIP/2.0/UDP h;branch=z9hG4bKa",
        "From: <sip:alice@home>;tag=1",
        "To: <sip:+15551230002@home>",
        f"Call-ID: {call}",
        f"CSeq: {cseq}",
        *headers,
        "Content-Length: 0",
        "",
        "",
    ]
    return Seen(
        at=int(at * 1e9),
        transport=transport,
        source=ip_address(source),
        source_port=ports[0],
        destination=ip_address(destination),
        destination_port=ports[1],
        spi=spi,
        message=parse("\r\n".join(lines).encode()),
        repeated=again,
    )


REGISTER, INVITE = "REGISTER sip:home SIP/2.0", "INVITE sip:bob@home SIP/2.0"
CHALLENGE = f'WWW-Authenticate: Digest realm="h",nonce="n",ck="{CK}",ik="{CK}"'
USER = 'Authorization: Digest username="alice@private",realm="home",nonce="",response="",uri="sip:home"'
ITEMS: list[Seen | Unread] = [
    seen(0, UE, GM, REGISTER, "Security-Client: ipsec-3gpp", USER),
    seen(0.001, MW, CORE, REGISTER, USER),
    seen(
        0.002, CORE, MW, "SIP/2.0 401 Unauthorized", f'WWW-Authenticate: Digest realm="h",nonce="n",ck="{CK}",ik="{CK}"'
    ),
    seen(0.003, GM, UE, "SIP/2.0 401 Unauthorized", "Security-Server: ipsec-3gpp"),
    seen(0.01, UE, GM, REGISTER, "Security-Verify: ipsec-3gpp", spi=1234567890, ports=(31800, 5100)),
    seen(2.01, UE, GM, REGISTER, "Security-Verify: ipsec-3gpp", spi=1234567890, ports=(31800, 5100), again=True),
    seen(
        3,
        UE,
        GM,
        "INVITE sip:bob@home SIP/2.0",
        cseq="2 INVITE",
        call="two",
        spi=77,
        ports=(31800, 5100),
        transport="TCP",
    ),
    seen(3.1, GM, UE, "SIP/2.0 486 Busy Here", cseq="2 INVITE", call="two", spi=78, ports=(5104, 31801)),
]
NAMES = {ip_address(GM): "P-CSCF", ip_address(MW): "P-CSCF"}


def text(items: list[Seen | Unread], width: int = 100) -> str:
    flow = Flow(items, NAMES, width)
    return "\n".join([flow.sheet.heading(), *(line.text for line in flow.lines())])


def test_hosts_ports_and_ways() -> None:
    wide = text(ITEMS, 130)
    assert wide.splitlines()[0].split() == ["UE", UE, "P-CSCF", CORE]
    for row in ("REGISTER ── UDP clear", "↺ REG", "486 Busy Here ══ UDP spi 78", "INVITE ══ TCP spi 77", "31800 ══"):
        assert row in wide, wide
    kinds = [line.kind for line in Flow(ITEMS, NAMES, 100).lines()]
    assert kinds == ["clear"] * 4 + ["esp"] * 4


def test_roles_are_named_where_they_are_certain() -> None:
    heading = Flow(ITEMS, {}, 200).sheet.heading()
    assert f"UE {UE}" in heading and "P-CSCF" in heading and MW in heading and CORE in heading
    both = [*ITEMS, seen(4, SIX, "fd00:45::1", REGISTER, "Security-Client: ipsec-3gpp")]
    heading = Flow(both, {}, 200).sheet.heading()
    assert heading.count("P-CSCF") == 1, "its two families are one host"
    assert heading.index(f"UE {SIX}") < heading.index("P-CSCF"), "UEs stand to the left"
    unknown = [seen(0, "10.0.0.9", "10.0.0.8", REGISTER)]
    assert Flow(unknown, {}, 100).sheet.heading().split() == ["10.0.0.9", "10.0.0.8"]


def test_what_stays_shut_is_dashed() -> None:
    ue, gm = ip_address(UE), ip_address(GM)
    shut = [
        Unread(at=at, source=ue, destination=gm, spi=9, cause=Cause.UNKNOWN_SPI, text="ESP, shut") for at in range(2)
    ]
    lines = Flow([*shut, *ITEMS], NAMES, 100).lines()
    assert [line.kind for line in lines[:2]] == ["shut"] * 2 and "╌╌ ESP, shut ╌╌ spi 9" in lines[0].text


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Wanted(), 8),
        (Wanted(user="alice@private"), 6),
        (Wanted(user="sip:bob@home"), 2),
        (Wanted(user="+15551230002"), 8),
        (Wanted(user="+1555123000"), 0),
        (Wanted(user=CORE), 6),
        (Wanted(call_id="tw"), 2),
        (Wanted(methods=frozenset({"INVITE"})), 2),
        (Wanted(methods=frozenset({"INVITE"}), user="alice@private"), 0),
        (Wanted(call_id="none"), 0),
    ],
)
def test_filters(wanted: Wanted, count: int) -> None:
    assert len(wanted_of(ITEMS, wanted)) == count


def test_keys_of_a_challenge_are_not_shown() -> None:
    item = ITEMS[2]
    assert isinstance(item, Seen)
    for said in (
        shown(item.message),
        json.dumps(to_json(item)),
        page("x", Flow([item], {}, 100), Flow([item], {}, 100).lines()),
    ):
        assert "nonce" in said and CK not in said
    odd = seen(
        0, CORE, MW, "SIP/2.0 401 Unauthorized", f'WWW-Authenticate: Digest realm=h, CK = {CK} , Ik="{CK.upper()}"'
    )
    assert CK not in shown(odd.message).lower()


class Tags(HTMLParser):
    """Which elements a page has, and what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


def test_a_page_of_strangers_words_holds_no_more_than_words() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&</pre></details>"
    item = seen(
        0,
        UE,
        GM,
        f"SIP/2.0 200 {evil}",
        f"Subject: {evil}",
        call=evil.replace(" ", ""),
    )
    flow = Flow([item], {}, 120)
    made = page(evil, flow, flow.lines())
    tags = Tags()
    tags.feed(made)
    assert set(tags.names) == {
        "html", "head", "meta", "title", "style", "body", "h1", "p", "div", "pre", "details", "summary",
    }  # fmt: skip
    assert not {name for name, _ in tags.attributes} & {"src", "href", "onerror", "onclick", "action"}
    assert "default-src 'none'" in made and tags.names.count("details") == 1


def capture(tmp_path: Path) -> tuple[Path, Path]:
    sa = association(CBC, 4)
    return write(tmp_path / "x.pcapng", sealed_frames(sa, 2), step=10**9), write_keys(tmp_path / "keys", sa)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, keys = capture(tmp_path)
    assert main(["trace", str(source), "-k", str(keys), "--width", "90"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("0.000     31800 ══ MESSAGE ══ UDP spi 1000000101 ═") and lines[1].endswith("▶ 5100")
    assert "↺ MESSAGE" in lines[2] and len(lines) == 3
    assert main(["trace", str(source), "-k", str(keys), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["method"], first["spi"], first["call_id"], second["repeated"]) == ("MESSAGE", 1000000101, "one", True)
    html, svg = tmp_path / "x.html", tmp_path / "x.svg"
    assert main(["trace", str(source), "-k", str(keys), "--html", str(html), "--svg", str(svg)]) == 0
    assert "MESSAGE sip:bob@home SIP/2.0" in html.read_text() and svg.read_text().startswith("<svg")
    assert re.search(r"MESSAGE", svg.read_text())


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = capture(tmp_path)
    (tmp_path / "text").write_text("no capture")
    for arguments, words in (
        (["text"], "neither pcap nor pcapng"),
        (["none"], "none: No such file or directory"),
        (
            ["x.pcapng", "-k", "keys", "--user", "nobody"],
            "no SIP to show; 2 messages are there that the filters leave out",
        ),
        (["x.pcapng", "-k", "none"], "none: No such file or directory"),
        (["x.pcapng", "-k", "keys", "--html", "no/x.html"], "No such file or directory"),
        (["--follow", "--control", "nowhere"], "no P-CSCF answers at"),
    ):
        there = [
            str(tmp_path / word) if word in ("text", "none", "x.pcapng", "keys", "nowhere") else word
            for word in arguments
        ]
        assert main(["trace", *there]) == 1
        said = capsys.readouterr().err
        assert words in said and "Traceback" not in said, said
    for misused in ([], ["--follow", str(source)], [str(source), "--host", "x"], [str(source), "--host", "x=y"]):
        with pytest.raises(SystemExit) as exit_:
            main(["trace", *misused])
        assert exit_.value.code == 2
    capsys.readouterr()
    assert main(["trace", str(source)]) == 0, "dashed arrows are something to show"
    both = capsys.readouterr()
    assert "ESP, not opened: unknown SPI" in both.out and "give its keys with -k" in both.err
    many = write(tmp_path / "many.pcapng", sealed_frames(association(CBC, 4), 50))
    assert main(["trace", str(many)]) == 0
    both = capsys.readouterr()
    assert both.out.count("not opened") == 3, "not the same line without end"
    assert "50 packets of SPI 1000000101 to 10.45.0.1 stay shut (unknown SPI); 3 are shown" in both.err
