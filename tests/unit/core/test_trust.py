"""Every header on every crossing of the border, through the proxy (TS 24.229 4.4; B5, B6, C1, C2, C4, C7, C8)."""

import ast
from collections import Counter
from itertools import count, product
from pathlib import Path
from time import process_time

import pytest

from pcscf import aka, messages, trust
from pcscf.originating import OriginatingSettings
from pcscf.sip.message import COMPACT, Request, Response
from pcscf.sip.parse import parse
from pcscf.trust import RULES, Crossing
from tests import trust as document
from tests.unit.core.world import CK, CORE, IK, REALM, Phone, World, answer, challenge, from_core, ok

NAMES = [name for rule in RULES for name in rule.names]
ACTIONS = {(name, each): rule.action for rule in RULES for name in rule.names for each in rule.crossings}

ONE_OF_ITS_KIND = {"from", "via", "max-forwards", trust.REQUEST_URI.lower()}
"""What a message has once and must have: tested below by themselves."""
AGREED = {
    ("security-verify", Crossing.REQUEST_UP),
    ("security-verify", Crossing.REGISTER_UP),
    ("security-client", Crossing.REGISTER_UP),
    ("route", Crossing.REQUEST_UP),
    ("route", Crossing.REQUEST_DOWN),
    ("authorization", Crossing.REGISTER_UP),
}
"""What another value would have refused: the one that every message of the tests holds is looked for instead."""

ADDRESS = "<sip:{}@elsewhere>"
EXAMPLES = {
    "p-associated-uri": ADDRESS,
    "p-asserted-identity": ADDRESS,
    "p-preferred-identity": ADDRESS,
    "p-called-party-id": ADDRESS,
    "remote-party-id": ADDRESS,
    "history-info": "<sip:{}@elsewhere>;index=1",
    "record-route": "<sip:{};lr>",
    "route": "<sip:{};lr>",
    "path": "<sip:{};lr>",
    "service-route": "<sip:{};lr>",
    "security-client": "ipsec-3gpp;alg={}",
}
"""Values that can be read; any other header is given the mark alone."""

PATH = '"A;cpc=x" <sip:+1;CPC=payphone;phone-context=a@home;user=phone;o%6ci=61>;x'
REWRITES: dict[trust.Action, list[tuple[str, str | None]]] = {
    trust.without_caller_category: [
        (PATH, '"A;cpc=x" <sip:+1;phone-context=a@home;user=phone>;x'),
        ("<tel:+1555; cpc = operator ;oli=0>, <sip:a@b;verstat=No>", "<tel:+1555 >, <sip:a@b;verstat=No>"),
    ],
    trust.without_network_provided: [
        ("3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1", "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1"),
        ("3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1;network-provided", None),
        ("IEEE-802.11;x, 3GPP-NR-FDD;y; Network-Provided", "IEEE-802.11;x"),
    ],
    trust.supported_only: [("Supported", "Supported"), ("sendrecv", None), ("sendonly, supported, gated", "supported")],
    trust.without_isup_cause: [
        ('SIP;cause=486;text="Q.850"', 'SIP;cause=486;text="Q.850"'),
        ("q.850 ;cause=16", None),
        ('SIP;cause=603, Q.850;cause=21;text="a, b"', "SIP;cause=603"),
    ],
    trust.no_psap_callback: [("emergency", "emergency"), ("PSAP-Callback", None), ("psap-callback ;x", None)],
    trust.anonymous_history: [
        ("<sip:a@b>;index=1, <sip:c@d>;index=1.1;mp=1", "<sip:a@b>;index=1, <sip:c@d>;index=1.1;mp=1"),
        (
            '<sip:a@b>;index=1, "C" <sip:c@d?x=y&Privacy=history>;index=1.1',
            "<sip:a@b>;index=1, <sip:anonymous@anonymous.invalid>;index=1.1",
        ),
        ("<sip:c@d?privac%79=HISTORY>;index=1", "<sip:anonymous@anonymous.invalid>;index=1"),
        ("<sip:a@b?Privacy=none>;index=1", "<sip:a@b?Privacy=none>;index=1"),
    ],
    trust.anonymous_diversion: [  # Step 1, 18: it passed as it was
        ("<sip:a@b>;reason=no-answer, <tel:+1>", "<sip:a@b>;reason=no-answer, <tel:+1>"),
        ("<sip:a@b>;privacy=off;x=y", "<sip:a@b>;privacy=off;x=y"),
        (
            '"A" <sip:a@b>;reason=user-busy;Privacy="FULL";x=bob, <sip:c@d>;privacy=off, <sip:e@f>',
            "<sip:anonymous@anonymous.invalid>;reason=user-busy;privacy=FULL, <sip:c@d>;privacy=off, <sip:e@f>",
        ),
        ("sip:a@b;privacy=uri", "<sip:anonymous@anonymous.invalid>;privacy=uri"),
        ("<sip:a@b>;privacy=off;privacy=name", "<sip:anonymous@anonymous.invalid>;privacy=off;privacy=name"),
        ('<sip:a@b>;privacy;reason="a bob"', "<sip:anonymous@anonymous.invalid>"),
        ("alice;privacy=full", None),
        ("alice;privacy=full, <sip:c@d>", "<sip:c@d>"),
        ("<sip:a@b>;privacy=full;<, <sip:c@d>", None),
    ],
    trust.without_sec_agree: [("sec-agree", None), ("SEC-agree , sec-agree", None)],
    trust.without_indicator: [
        ('Digest username="a",realm="b"', 'Digest username="a",realm="b"'),
        ('Digest username="a", Integrity-Protected="yes",realm="b"', 'Digest username="a",realm="b"'),
    ],
    aka.without_keys: [
        ('Digest realm="a",nonce="b"', 'Digest realm="a",nonce="b"'),
        (f'Digest realm="a",IK="{IK}", nonce="b",ck={CK}', 'Digest realm="a", nonce="b"'),
        (f'Digest realm="a", Digest realm="b",ck="{CK}"', 'Digest realm="a", Digest realm="b"'),
    ],
}
"""What a function makes of a value; None: nothing is left."""


class Border:
    """One registered phone, and messages that cross the border."""

    def __init__(self) -> None:
        self.world = World(OriginatingSettings())
        self.phone = Phone(self.world)
        self.phone.registered()
        self._numbers = count(10)

    def crossed(self, crossing: Crossing, lines: str) -> Request | Response:
        """The message with these lines, as it comes out on the other side."""
        world, phone, number = self.world, self.phone, next(self._numbers)
        (registration,) = world.proxy.registrar
        match crossing:
            case Crossing.REQUEST_UP:
                world.receive(phone.request("MESSAGE", cseq=number, extra=lines), phone.uplink)
            case Crossing.RESPONSE_UP:
                world.receive(from_core("MESSAGE", registration, cseq=number), CORE)
                world.receive(answer(world.to_phone()[1], "200 OK", lines), phone.uplink)
            case Crossing.REQUEST_DOWN:
                world.receive(from_core("MESSAGE", registration, cseq=number, extra=lines), CORE)
            case Crossing.RESPONSE_DOWN:
                world.receive(phone.request("MESSAGE", cseq=number), phone.uplink)
                world.receive(answer(world.at_core(), "200 OK", lines), CORE)
            case Crossing.REGISTER_UP | Crossing.REGISTER_DOWN:
                up = crossing is Crossing.REGISTER_UP
                world.receive(phone.reregister(phone, extra=lines if up else ""), phone.uplink)
                if not up:
                    world.receive(ok(world.at_core(), extra=lines), CORE)
        _, message = world.take()
        if number % 50 == 0:
            world.wait(200)  # for the transactions that linger
            world.sent.clear()
        return message


@pytest.fixture(scope="module")
def border() -> Border:
    return Border()


def spelled(name: str, value: str) -> list[str]:
    """Header lines that all say the same to whoever reads SIP."""
    title = name.title()
    ways = [f"{title}: {value}", f"{name}:{value}", f"{name.upper()} : {value}", f"{title}\t:\t{value}"]
    ways += [f"{title}:\r\n {value}", f"{title}:\r\n\t\r\n  {value} \t"]
    return ways + [f"{short}: {value}" for short, long in COMPACT.items() if long == name]


def test_every_header_has_one_rule_on_every_crossing() -> None:
    named = Counter((name, crossing) for rule in RULES for name in rule.names for crossing in rule.crossings)
    assert set(named.values()) == {1}
    assert named.keys() == set(product(NAMES, Crossing))
    assert all(rule.clause or rule.headers == trust.REQUEST_URI for rule in RULES) and all(rule.why for rule in RULES)


@pytest.mark.parametrize("crossing", Crossing)
def test_what_is_kept_and_what_is_dropped(border: Border, crossing: Crossing) -> None:
    """Step 1, 18: in every spelling, on several lines and in lists."""
    marks = count(1)
    for name in dict.fromkeys(NAMES):
        action = ACTIONS[name, crossing]
        rewritten = action not in (trust.keep, trust.drop, trust.hop)
        if name in ONE_OF_ITS_KIND or (name, crossing) in AGREED or rewritten or name.endswith("require"):
            continue
        example = EXAMPLES.get(name, "{}")
        pairs = [f"mark{next(marks)}x", f"mark{next(marks)}x"]
        lines = [line for mark in pairs[:1] for line in spelled(name, example.format(mark))]
        lines.append(f"{name}: {example.format(pairs[0])}, {example.format(pairs[1])}")
        text = border.crossed(crossing, "".join(f"{line}\r\n" for line in lines)).to_bytes().decode()
        if action is trust.keep:
            kept = (line.replace("\r\n\t\r\n", "\r\n") for line in lines)  # no line of blanks alone goes on
            assert all(f"\r\n{line}\r\n" in text for line in kept), f"{name} is not kept"
        elif (name, crossing) != ("record-route", Crossing.RESPONSE_DOWN):
            assert "mark" not in text, f"{name} crosses: {text}"


@pytest.mark.parametrize("crossing", Crossing)
def test_what_is_rewritten(border: Border, crossing: Crossing) -> None:
    """Step 1, 17 and 18: what a function takes out is not on the other side, and the rest is."""
    used = set()
    for name in dict.fromkeys(NAMES):
        action = ACTIONS[name, crossing]
        if name in ONE_OF_ITS_KIND or action not in REWRITES:
            assert name in ONE_OF_ITS_KIND or action in (trust.keep, trust.drop, trust.hop), f"{name} has no example"
            continue
        used.add(action)
        before = Counter(border.crossed(crossing, "").lines(name))
        for value, expected in REWRITES[action]:
            if name == "proxy-require" and value != "sec-agree":
                continue  # refused with 420
            for line in spelled(name, value):
                after = Counter(border.crossed(crossing, f"{line}\r\n").lines(name))
                assert list((after - before).elements()) == ([] if expected is None else [expected]), line
                assert not before - after
    assert used, "nothing was tried"


@pytest.mark.parametrize(
    ("name", "kind", "crossing"),
    [
        (rule.names[0], kind, crossing)
        for rule in RULES
        for kind in rule.dropped_with.split(", ")
        for crossing in rule.crossings
        if kind
    ],
)
@pytest.mark.parametrize("privacy", ["Privacy: {}", "privacy:user ; {}", "Privacy: user\r\nPRIVACY : {};critical"])
def test_what_privacy_hides(border: Border, name: str, kind: str, crossing: Crossing, privacy: str) -> None:
    """B5; Step 1, 18: on whichever line it stands."""
    line = f"{name}: <sip:hidden@elsewhere>\r\n"
    assert "hidden" in border.crossed(crossing, line).to_bytes().decode()
    for spelling in (kind, kind.upper()):
        asked = f"{line}{privacy.format(spelling)}\r\n"
        assert "hidden" not in border.crossed(crossing, asked).to_bytes().decode()


def test_what_every_message_of_a_ue_holds_ends_here(border: Border) -> None:
    """Its Route, agreement and indicator are those of the tests' phone: none of them is on the other side."""
    seen = border.crossed(Crossing.REQUEST_UP, "")
    assert seen.values("route") == ["<sip:orig@10.46.0.2:5060;lr>"] and not seen.lines("security-verify")
    register = border.crossed(Crossing.REGISTER_UP, "")
    assert not [item.name for item in register.headers if item.name.startswith("security-")]
    assert [line.count("integrity-protected") for line in register.lines("authorization")] == [1]
    down = border.crossed(Crossing.REQUEST_DOWN, "")
    assert not down.lines("route") and len(down.lines("via")) == 3


@pytest.mark.parametrize("crossing", [Crossing.REQUEST_UP, Crossing.REGISTER_UP])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<sip:+1;cpc=payphone;oli=0@home>;tag=x", "<sip:+1@home>;tag=x"),
        ("tel:+1;CPC=x;tag=x", "tel:+1;tag=x"),
        ('"verstat;cpc=a" <tel:+1;verstat=TN-Validation-Passed>;tag=x', '"verstat;cpc=a" <tel:+1>;tag=x'),
        ("<tel:+1;ver%73tat=TN-Validation-Passed>;tag=x", "<tel:+1>;tag=x"),
        ("<sip:%2B1@home>;tag=x", "<sip:%2B1@home>;tag=x"),
    ],
)
def test_from_says_nothing_for_the_network(before: str, after: str, crossing: Crossing) -> None:
    """Step 1, 18: cpc, oli and verstat (TS 24.229 4.4.12). The answer shows the UE what it wrote (RFC 3261 8.2.6.2)."""
    world = World()
    phone = Phone(world)
    phone.registered()
    data = phone.request("MESSAGE") if crossing is Crossing.REQUEST_UP else phone.reregister(phone)
    lines = [f"From: {before}" if line.startswith("From:") else line for line in data.decode().split("\r\n")]
    world.receive("\r\n".join(lines).encode(), phone.uplink)
    at_core = world.at_core()
    assert at_core.lines("from") == [after]
    world.receive(answer(at_core, "404 Not Found"), CORE)
    assert [message.lines("from") for _, message in world.sent if isinstance(message, Response)] == [[before]]


@pytest.mark.parametrize("uri", ["sip:bob@home;IOTL=homeA-homeB;x=y", "sip:bob@home;x=y;i%6ftl=a"])
def test_the_request_uri_says_nothing_between_networks(uri: str) -> None:
    """Step 1, 18: iotl (TS 24.229 4.4.15), in both directions."""
    world = World()
    phone = Phone(world)
    phone.registered()
    world.receive(phone.request("MESSAGE", uri), phone.uplink)
    assert world.at_core().uri == "sip:bob@home;x=y"
    (registration,) = world.proxy.registrar
    world.receive(from_core("MESSAGE", registration, uri), CORE)
    assert world.to_phone()[1].uri == "sip:bob@home;x=y"


@pytest.mark.parametrize("header", ["X-Unknown", "P-TTA-VoLTE-Info", "Session-ID", "Geolocation", "Call-Info"])
def test_what_no_rule_names_passes(border: Border, header: str) -> None:
    line = f"{header}: <sip:a@b>;mark\r\n"
    for crossing in Crossing:
        assert line.encode() in border.crossed(crossing, line).to_bytes(), crossing


CHALLENGE = f'Digest realm="{REALM}",nonce="n",algorithm=AKAv1-MD5,ik="{IK}",ck="{CK}"'
CARRIERS = ["WWW-Authenticate", "Proxy-Authenticate", "www-authenticate ", "Authentication-Info"]


def has_keys(data: bytes) -> bool:
    text = data.decode().lower()
    return IK in text or CK in text or any(f"{name}=" in text for name in aka.KEY_PARAMS)


@pytest.mark.parametrize("name", CARRIERS)
@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required", "183 Session Progress"])
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "SUBSCRIBE", "OPTIONS", "PUBLISH", "XYZZY"])
def test_no_key_reaches_the_phone_whatever_it_asked(method: str, status: str, name: str) -> None:
    """Step 1, 17: ck and ik in a challenge to any method, and what the API shows of it."""
    world = World()
    phone = Phone(world)
    phone.registered()
    world.receive(phone.request(method), phone.uplink)
    at_core = next(message for flow, message in world.sent if flow == CORE)
    assert isinstance(at_core, Request)
    world.raw.clear()
    data = answer(at_core, status, f"{name}: {CHALLENGE}\r\n")
    assert has_keys(data) and not has_keys(messages.without_keys(parse(data)))
    world.receive(data, CORE)
    assert [parse(each).first(name.strip().lower()) for each in world.raw if b'nonce="n"' in each]
    assert not any(map(has_keys, world.raw))


@pytest.mark.parametrize("name", CARRIERS)
def test_no_key_in_a_request_and_none_to_the_core(name: str) -> None:
    """Step 1, 17: a challenge header where none belongs."""
    world = World()
    phone = Phone(world)
    phone.registered()
    world.raw.clear()
    line = f"{name}: {CHALLENGE}\r\n"
    (registration,) = world.proxy.registrar
    world.receive(from_core("MESSAGE", registration, extra=line), CORE)
    _, at_phone = world.to_phone()
    world.receive(answer(at_phone, "401 Unauthorized", line), phone.uplink)
    world.receive(phone.request("MESSAGE", extra=line), phone.uplink)
    assert len([each for each in world.raw if b'nonce="n"' in each]) == 3
    assert not any(map(has_keys, world.raw))
    assert not has_keys(messages.without_keys(parse(from_core("MESSAGE", registration, extra=line))))


@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required", "403 Forbidden", "200 OK"])
def test_no_key_in_any_answer_to_a_register(status: str) -> None:
    world = World()
    phone = Phone(world)
    at_core = phone.first()
    world.raw.clear()
    more = "".join(f"{name}: {CHALLENGE}\r\n" for name in ("Proxy-Authenticate", "Authentication-Info"))
    if status.startswith("401"):
        world.receive(challenge(at_core, extra=more), CORE)
    else:
        world.receive(answer(at_core, status, f"WWW-Authenticate: {CHALLENGE}\r\n{more}"), CORE)
    assert world.raw and not any(map(has_keys, world.raw))


NEVER_FROM_A_UE = (
    "P-Asserted-Identity",
    "P-Asserted-Service",
    "P-Profile-Key",
    "P-Served-User",
    "P-Private-Network-Indication",
    "Feature-Caps",
    "Restoration-Info",
    "Relayed-Charge",
    "Service-Interact-Info",
    "Response-Source",
    "Attestation-Info",
    "Origination-Id",
    "Additional-Identity",
    "Priority-Verstat",
    "Resource-Priority",
    "P-Charging-Vector",
    "P-Charging-Function-Addresses",
    "P-Visited-Network-ID",
    "P-Called-Party-ID",
    "P-User-Database",
    "P-Associated-URI",
    "P-Refused-URI-List",
    "P-DCS-LAES",
    "P-DCS-Billing-Info",
    "P-Media-Authorization",
    "Path",
    "Service-Route",
    "Record-Route",
    "Security-Server",
)
NEVER_TO_A_UE = (
    "P-Access-Network-Info",
    "Cellular-Network-Info",
    "P-Charging-Vector",
    "P-Charging-Function-Addresses",
    "P-Visited-Network-ID",
    "P-Served-User",
    "P-Profile-Key",
    "P-User-Database",
    "P-Private-Network-Indication",
    "Restoration-Info",
    "Relayed-Charge",
    "Service-Interact-Info",
    "Response-Source",
    "Attestation-Info",
    "Origination-Id",
    "Resource-Priority",
    "P-DCS-LAES",
    "Security-Client",
)


@pytest.mark.parametrize(
    ("name", "crossing"), [*product(NEVER_FROM_A_UE, trust.UP), *product(NEVER_TO_A_UE, trust.DOWN)]
)
def test_what_the_standard_forbids(border: Border, name: str, crossing: Crossing) -> None:
    """Step 1, 18: said here by name, so that no rule of the table can be changed without this."""
    line = f"{name}: <sip:mark@elsewhere;lr>\r\n"
    assert b"mark@" not in border.crossed(crossing, line).to_bytes()


@pytest.mark.parametrize("status", ["183 Session Progress", "200 OK", "486 Busy Here"])
def test_the_called_phones_cell_stays_with_its_network(status: str) -> None:
    """Step 1, 18: P-Access-Network-Info of a 183 or 200 reached the caller."""
    world = World()
    phone = Phone(world)
    phone.registered()
    world.receive(phone.request("INVITE"), phone.uplink)
    at_core = world.sent[-1][1]
    assert isinstance(at_core, Request)
    world.sent.clear()
    cell = "P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=secret\r\nCellular-Network-Info: secret\r\n"
    world.receive(answer(at_core, status, cell), CORE)
    (told,) = [message for flow, message in world.sent if flow == phone.downlink]
    assert isinstance(told, Response) and b"secret" not in told.to_bytes()


def test_nothing_else_lists_headers_that_cross() -> None:
    """Step 1, 18: three modules had three lists."""
    named = set(NAMES)
    for path in (Path(trust.__file__).parent).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Set | ast.List | ast.Tuple):
                texts = {each.value for each in node.elts if isinstance(each, ast.Constant)}
                listed = named.intersection(text.lower() for text in texts if isinstance(text, str))
                challenges = path.name == "aka.py" and all("auth" in name for name in listed)
                assert len(listed) < 3 or challenges, f"{path.name}:{node.lineno} lists {listed}"


def test_a_long_line_of_parameters_takes_linear_time() -> None:
    """Rules of the house: work is linear in what a peer sent."""

    def best(text: str) -> float:
        times = []
        for _ in range(5):
            began = process_time()
            trust.request_uri(text)
            times.append(process_time() - began)
        return min(times)

    for part in ('"', '\\"', ";a ", '";iotl', ";iotl=", "; ;", '";', "a;=\\"):
        short, long = "iotl" + part * (8_000 // len(part)), "iotl" + part * (64_000 // len(part))
        assert best(long) < 40 * max(best(short), 1e-4), part


def test_the_page_says_what_the_code_says() -> None:
    _, written, _ = document.parts(document.PAGE.read_text())
    assert written == document.page(), "run python -m tests.trust --write"
