"""What crosses the border between UE and core, and what does not (TS 24.229 4.4; digest B5, B6, C1, C2, C4, C7, C8).

One table, header by crossing: keep, drop or rewrite. Nothing else lists headers that cross the border: an edit of a
message looks each header up in the `table` of its crossing. What no rule names passes: a proxy does not judge what it
does not know. `docs/trust.md` is made of RULES by `python -m tests.trust --write`.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import NamedTuple
from urllib.parse import unquote

from pcscf.aka import without_keys
from pcscf.sip.fields import drop_auth_params, parse_name_addr
from pcscf.sip.message import Header, Message, header, split_list
from pcscf.sip.parse import ParseError

SEC_AGREE = "sec-agree"


class Crossing(StrEnum):
    """A message that crosses the border: where it goes, and what it is. REGISTER has its own."""

    __hash__ = str.__hash__  # that of Enum is Python code

    REQUEST_UP = "request up"
    RESPONSE_UP = "response up"
    REGISTER_UP = "REGISTER up"
    REQUEST_DOWN = "request down"
    RESPONSE_DOWN = "response down"
    REGISTER_DOWN = "REGISTER down"
    """A response to a REGISTER."""


class Certainty(StrEnum):
    """How sure a rule is."""

    SURE = "sure"
    """The digest, a public summary of the clause or another open implementation says the same."""
    REMEMBERED = "remembered"
    """The clause is about this header; nothing at hand says what it asks."""
    OURS = "our decision"


Action = Callable[[Header], Header | None]
"""What becomes of a header; None: it is dropped."""


def keep(item: Header) -> Header:
    return item


def drop(_: Header) -> None:
    return None


def hop(item: Header) -> Header:
    """Written anew by the edit of the crossing: the work of a proxy, not of trust."""
    raise AssertionError(f"{item.name} is for the edit itself")


def without_sec_agree(item: Header) -> Header | None:
    """Option tags less sec-agree; None if nothing is left (RFC 3329 2.3.1)."""
    if item.value == SEC_AGREE:  # as phones say it in each request
        return None
    return _less(item, lambda tag: tag.lower() == SEC_AGREE)


def without_indicator(item: Header) -> Header:
    """Credentials without integrity-protected, which only we may say (digest A10)."""
    value = drop_auth_params(item.value, _INDICATOR)
    return item if value == item.value else _again(item, value)


def without_network_provided(item: Header) -> Header | None:
    """Where the UE says it is, but nothing that claims to come from the network (RFC 7315 4.4)."""
    if "network-provided" not in item.value.lower():
        return item
    return _less(item, lambda value: "network-provided" in value.lower())


def supported_only(item: Header) -> Header | None:
    """P-Early-Media: that the UE understands it, never what it would authorise (RFC 5009 8)."""
    return _less(item, lambda value: value.lower() != "supported")


def without_isup_cause(item: Header) -> Header | None:
    """Reason without Q.850: a UE has no ISUP to quote from (RFC 6432)."""
    return _less(item, lambda value: value.partition(";")[0].strip().lower() == "q.850")


def no_psap_callback(item: Header) -> Header | None:
    """Priority, but for psap-callback: that is the word of a PSAP's network (RFC 7090)."""
    return None if is_psap_callback(item.value) else item


def without_claims(item: Header) -> Header:
    """An address without cpc, oli and verstat: what kind of caller it is, and who has verified that."""
    value = _without_parameters(item.value, _CLAIMS)
    return item if value == item.value else _again(item, value)


def without_caller_category(item: Header) -> Header:
    """An address without cpc and oli: the UE may know verstat, but not these."""
    value = _without_parameters(item.value, _CATEGORY)
    return item if value == item.value else _again(item, value)


def without_iotl(item: Header) -> Header:
    """Routes without iotl, which says between which networks a request travels (RFC 7549)."""
    value = _without_parameters(item.value, _IOTL)
    return item if value == item.value else _again(item, value)


def anonymous_history(item: Header) -> Header:
    """History-Info whose private entries name nobody (RFC 7044 10.1.2)."""
    value = item.value
    if "?" not in value or ("%" not in value and "privacy" not in value.lower()):
        return item
    entries = split_list(value)
    if not any(map(_is_private, entries)):
        return item
    return _again(item, ", ".join(_anonymous(entry) if _is_private(entry) else entry for entry in entries))


def anonymous_diversion(item: Header) -> Header | None:
    """Diversion whose entries that ask for privacy name nobody (RFC 5806); one that cannot be read is not shown."""
    if "privacy" not in item.value.lower():
        return item
    entries = split_list(item.value)
    shown = list(filter(None, map(_diverted, entries)))
    if shown == entries:
        return item
    return _again(item, ", ".join(shown)) if shown else None


UP = (Crossing.REQUEST_UP, Crossing.RESPONSE_UP, Crossing.REGISTER_UP)
DOWN = (Crossing.REQUEST_DOWN, Crossing.RESPONSE_DOWN, Crossing.REGISTER_DOWN)
ALL = UP + DOWN
REQUESTS_UP = (Crossing.REQUEST_UP, Crossing.REGISTER_UP)
RESPONSES_DOWN = (Crossing.RESPONSE_DOWN, Crossing.REGISTER_DOWN)
REQUESTS = (*REQUESTS_UP, Crossing.REQUEST_DOWN)
RESPONSES = (Crossing.RESPONSE_UP, *RESPONSES_DOWN)

REQUEST_URI = "(Request-URI)"
"""Stands among the rules like a header; no header can have that name."""


class Rule(NamedTuple):
    """What becomes of some headers on some crossings, by which clause of TS 24.229 (or RFC), how sure, and why."""

    headers: str
    """Names, separated by commas."""
    crossings: tuple[Crossing, ...]
    action: Action
    clause: str
    certainty: Certainty
    why: str
    dropped_with: str = ""
    """The kinds of Privacy, separated by commas, with which it is dropped instead (RFC 3323 4.2)."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name.strip().lower() for name in self.headers.split(","))


_SURE, _REMEMBERED, _OURS = Certainty
RULES = (
    # Who somebody is
    Rule("P-Asserted-Identity", UP, drop, "4.4.2, RFC 3325 5", _SURE, "we assert who it is: the user of the SA"),
    Rule("P-Asserted-Identity", DOWN, without_caller_category, "4.4.2, 4.4.12, RFC 3325 7", _SURE,
         "the UE shows who calls, unless that user wants privacy", "id"),
    Rule("P-Preferred-Identity", REQUESTS_UP, drop, "5.2.6.3.1, RFC 3325 9.2", _SURE,
         "it ends here: one of the user's identities may be asserted for it"),
    Rule("P-Preferred-Identity", (Crossing.RESPONSE_UP,), hop, "5.2.6.4.4, RFC 3325 9.2", _SURE,
         "it ends here, as in a request"),
    Rule("P-Preferred-Identity", DOWN, drop, "RFC 3325 9.2", _OURS, "a wish of another UE, addressed to its own proxy"),
    Rule("Remote-Party-ID", UP, drop, "4.4.2", _OURS, "the older P-Asserted-Identity; old gateways believe it"),
    Rule("Remote-Party-ID", DOWN, without_caller_category, "4.4.2", _OURS, "as P-Asserted-Identity", "id"),
    Rule("From", REQUESTS_UP, without_claims, "4.4.12, 7.2A.12", _REMEMBERED,
         "cpc, oli and verstat are said by the network; the rest of From is the UE's own"),
    Rule("From", RESPONSES_DOWN, hop, "RFC 3261 8.2.6.2", _SURE,
         "that of the request, with what was taken out of it: a UE may compare the two"),
    Rule("From", (Crossing.RESPONSE_UP, Crossing.REQUEST_DOWN), keep, "4.4.12", _OURS,
         "it names a dialog for both ends; the network says cpc and oli in P-Asserted-Identity"),
    Rule("Additional-Identity", UP, drop, "4.4.23, 7.2.20", _OURS,
         "a second identity; nothing here can check that it is the user's (the multi-identity service is not served)"),
    Rule("Additional-Identity", (Crossing.REQUEST_DOWN,), keep, "7.2.20", _SURE,
         "tells the UE which of its identities was called"),
    Rule("Additional-Identity", RESPONSES_DOWN, drop, "4.4.23", _SURE, "stays in the trust domain"),
    Rule("Identity, Identity-Info", UP, drop, "RFC 8224", _OURS,
         "who calls is asserted, and so signed, by the network; a signature copied from another call is no proof"),
    Rule("Identity, Identity-Info", DOWN, keep, "RFC 8224", _OURS, "signed end to end; the UE may look"),
    Rule("Attestation-Info, Origination-Id", ALL, drop, "4.4.21, 4.4.22, 7.2.18, 7.2.19", _SURE,
         "how sure the network is of a caller; no UE says or sees it"),
    Rule("Priority-Verstat", ALL, drop, "4.4.24", _REMEMBERED, "the network's verification of Resource-Priority"),
    Rule("P-Served-User", ALL, drop, "4.4.9, RFC 5502", _SURE, "between S-CSCF and AS"),
    Rule("P-Called-Party-ID", UP, drop, "RFC 7315 4.2", _REMEMBERED, "the home network says who was called"),
    Rule("P-Called-Party-ID", (Crossing.REQUEST_DOWN,), keep, "RFC 7315 4.2", _REMEMBERED, "meant for the UE"),
    Rule("P-Called-Party-ID", RESPONSES_DOWN, drop, "RFC 7315 4.2", _OURS, "requests only"),
    Rule("P-Associated-URI", (*UP, Crossing.REQUEST_DOWN, Crossing.RESPONSE_DOWN), drop, "RFC 7315 4.1", _SURE,
         "the registrar says it, and in no other message"),
    Rule("P-Associated-URI", (Crossing.REGISTER_DOWN,), keep, "RFC 7315 4.1", _SURE, "meant for the UE"),
    Rule("Privacy", ALL, keep, "4.4.2, RFC 3323", _SURE, "the id stays in it, and is honoured here"),
    # Where somebody is
    Rule("P-Access-Network-Info", UP, without_network_provided, "4.4.3, 5.2.6.3, RFC 7315 4.4", _SURE,
         "the UE's own cell is for its home network; network-provided is said by the network"),
    Rule("P-Access-Network-Info", DOWN, drop, "4.4.3, RFC 7315 4.4", _SURE, "the cell of somebody else"),
    Rule("Cellular-Network-Info", UP, without_network_provided, "4.4.19, 7.2.15", _OURS,
         "a UE on WLAN says the cell it last camped on (sure); network-provided as in P-Access-Network-Info"),
    Rule("Cellular-Network-Info", DOWN, drop, "4.4.19, 7.2.15", _SURE, "the cell of somebody else"),
    Rule("P-Visited-Network-ID", ALL, drop, "RFC 7315 4.3", _SURE, "we say it, to the home network only"),
    Rule("Geolocation", ALL, keep, "RFC 6442", _OURS, "what the UE says of itself, for whom it wants to know"),
    # Which way
    Rule("Via", ALL, hop, "RFC 3261 16.6, 16.7", _SURE,
         "ours is put on or taken off; in a response of a UE the whole list is that of its request (5.2.6.4.4)"),
    Rule("Max-Forwards", REQUESTS, hop, "RFC 3261 16.6", _SURE, "one less"),
    Rule("Max-Forwards", RESPONSES, keep, "RFC 3261 20.22", _OURS, "means nothing there"),
    Rule("Route", ALL, drop, "5.2.6.3, 5.2.6.4, 5.2.2", _SURE,
         "the saved way is put instead; toward a UE what is left of the core's after our own"),
    Rule("Record-Route", (*UP, Crossing.REGISTER_DOWN), drop, "5.2.6.3, 5.2.6.4.4", _SURE,
         "ours is put instead; in a response of a UE the list of its request"),
    Rule("Record-Route", (Crossing.REQUEST_DOWN,), keep, "5.2.6.4", _SURE, "the UE's route set; ours is put above"),
    Rule("Record-Route", (Crossing.RESPONSE_DOWN,), hop, "5.2.6.3.4", _SURE, "our entry becomes one the UE can reach"),
    Rule("Path", (*UP, Crossing.REQUEST_DOWN, Crossing.RESPONSE_DOWN), drop, "5.2.2, RFC 3327 5.1", _SURE,
         "ours is put instead, in a REGISTER; it belongs into no other message"),
    Rule("Path", (Crossing.REGISTER_DOWN,), keep, "RFC 3327 5.3", _SURE, "the registrar's copy, which the UE may see"),
    Rule("Service-Route", (*UP, Crossing.REQUEST_DOWN, Crossing.RESPONSE_DOWN), drop, "RFC 3608 5", _SURE,
         "the registrar says it, and in no other message"),
    Rule("Service-Route", (Crossing.REGISTER_DOWN,), keep, "RFC 3608 5", _SURE,
         "meant for the UE, letter by letter: it comes back in Route"),
    Rule(REQUEST_URI, REQUESTS, without_iotl, "4.4.15, RFC 7549", _SURE, "iotl is said between networks"),
    Rule(REQUEST_URI, RESPONSES, keep, "", _SURE, "there is none"),
    # What is charged
    Rule("P-Charging-Vector, P-Charging-Function-Addresses", ALL, drop, "5.2.6.3, 5.2.6.4, RFC 7315 4.5, 4.6", _SURE,
         "never from a UE and never to one; ours is put instead"),
    Rule("P-Charge-Info", ALL, drop, "RFC 8496", _OURS, "who pays is said in the network"),
    Rule("Relayed-Charge", ALL, drop, "4.4.17", _SURE, "stays in the trust domain"),
    # What is wanted and what is given
    Rule("P-Asserted-Service", UP, drop, "4.4.5, RFC 6050 4", _SURE, "the S-CSCF asserts it"),
    Rule("P-Asserted-Service", DOWN, drop, "4.4.5, RFC 6050 4", _REMEMBERED,
         "must not leave the trust domain; a UE knows the service by Accept-Contact and Contact"),
    Rule("P-Preferred-Service", UP, keep, "RFC 6050 4", _REMEMBERED, "the UE's wish, for its S-CSCF"),
    Rule("P-Preferred-Service", DOWN, drop, "RFC 6050 4", _OURS, "a wish of another UE, addressed to its own network"),
    Rule("Feature-Caps", UP, drop, "4.4.13", _SURE, "capabilities of network entities"),
    Rule("Feature-Caps", DOWN, keep, "4.4.13, RFC 6809", _REMEMBERED, "a UE acts on them (access transfer)"),
    Rule("Resource-Priority", ALL, drop, "4.4.6, 4.11", _SURE,
         "what a UE asks for is compared with what its subscription allows, and we are told of none"),
    Rule("Priority", REQUESTS_UP, no_psap_callback, "4.4.14, RFC 7090", _SURE,
         "who calls back for a PSAP passes barring and forwarding"),
    Rule("Priority", (*RESPONSES, Crossing.REQUEST_DOWN), keep, "4.4.14, RFC 7090", _OURS,
         "the UE treats a callback of a PSAP as one"),
    Rule("P-Early-Media", UP, supported_only, "4.4.11, RFC 5009 8", _REMEMBERED,
         "a UE says that it knows it (5.1.3.1), but authorises no media"),
    Rule("P-Early-Media", DOWN, keep, "5.1.3.1, RFC 5009", _REMEMBERED,
         "the UE plays what is authorised, instead of its own tone"),
    Rule("P-Private-Network-Indication", ALL, drop, "4.4.10, RFC 7316", _SURE,
         "from a UE it would make any call one of a private network"),
    Rule("P-Answer-State", UP, drop, "RFC 4964", _REMEMBERED, "the word of a PoC server"),
    Rule("P-Answer-State", DOWN, keep, "RFC 4964", _REMEMBERED, "meant for the UE"),
    Rule("P-Media-Authorization", ALL, drop, "RFC 3313", _OURS, "tokens of Release 5, which only we could issue"),
    Rule("Resource-Share, Priority-Share", ALL, drop, "7.2.13, 7.2.16", _OURS, "between P-CSCF and AS"),
    # What was done before
    Rule("History-Info", UP, keep, "4.4.4, RFC 7044", _REMEMBERED,
         "a UE may begin one; whoever acts on it asks P-Asserted-Identity"),
    Rule("History-Info", DOWN, anonymous_history, "4.4.4, RFC 7044 10.1.2", _REMEMBERED,
         "the UE shows who diverted, unless that user wants privacy", "history, header"),
    Rule("Diversion", UP, drop, "RFC 5806", _OURS,
         "only a server that is trusted says who diverted; a UE may begin a History-Info"),
    Rule("Diversion", DOWN, anonymous_diversion, "RFC 5806, RFC 7544", _OURS,
         "the forerunner of History-Info: as that one", "history, header, id"),
    Rule("Reason", (Crossing.RESPONSE_UP,), without_isup_cause, "4.4.7, RFC 6432", _REMEMBERED,
         "an ISUP cause is said by gateways; the UE's own reasons pass"),
    Rule("Reason", (*REQUESTS, *RESPONSES_DOWN), keep, "4.4.7, RFC 3326", _OURS, "the user is told why"),
    Rule("Response-Source", ALL, drop, "4.4.20, 7.2.17", _SURE, "which entity failed; restoration acts on it"),
    Rule("Restoration-Info", ALL, drop, "4.4.16", _SURE, "stays in the trust domain"),
    Rule("Service-Interact-Info", ALL, drop, "4.4.18, 7.2.14", _SURE, "between ASs; no UE is to receive it"),
    # Between servers
    Rule("P-Profile-Key", ALL, drop, "4.4.8, RFC 5002", _SURE, "between I-CSCF and S-CSCF"),
    Rule("P-User-Database", ALL, drop, "RFC 4457", _REMEMBERED, "between I-CSCF and S-CSCF"),
    Rule("P-Refused-URI-List", ALL, drop, "RFC 5318", _REMEMBERED, "between servers of URI lists"),
    Rule("P-DCS-Trace-Party-ID, P-DCS-OSPS, P-DCS-Billing-Info, P-DCS-LAES, P-DCS-Redirect", ALL, drop, "RFC 5503",
         _OURS, "PacketCable: billing and interception, said in the network and never shown"),
    # The agreement on Gm, and authentication
    Rule("Security-Client, Security-Server, Security-Verify", ALL, drop, "5.2.2, RFC 3329", _SURE,
         "between the UE and us; ours is put into a challenge"),
    Rule("Require", (Crossing.REQUEST_UP,), without_sec_agree, "RFC 3329 2.3.1", _SURE, "the tag is for us"),
    Rule("Require", (Crossing.REGISTER_UP,), hop, "5.2.2, RFC 3327 5.1", _SURE, "sec-agree out, path in"),
    Rule("Proxy-Require, Supported", REQUESTS_UP, without_sec_agree, "RFC 3329 2.3.1", _SURE, "the tag is for us"),
    Rule("Require, Proxy-Require, Supported", (Crossing.RESPONSE_UP, *DOWN), keep, "RFC 3261 20.32", _SURE,
         "between the ends"),
    Rule("WWW-Authenticate, Proxy-Authenticate, Authentication-Info, Proxy-Authentication-Info", ALL, without_keys,
         "5.2.2, 7.2A.1", _SURE, "ck and ik are for us alone, whatever the method and the direction"),
    Rule("Authorization", (Crossing.REGISTER_UP,), hop, "5.2.2, 7.2A.2", _SURE,
         "integrity-protected of a UE out, ours in"),
    Rule("Authorization", (Crossing.REQUEST_UP,), without_indicator, "7.2A.2", _SURE, "only we say it"),
    Rule("Proxy-Authorization", REQUESTS_UP, without_indicator, "7.2A.2", _SURE, "only we say it"),
    Rule("Authorization, Proxy-Authorization", (Crossing.RESPONSE_UP, *DOWN), keep, "RFC 3261 22", _OURS,
         "credentials for the other end"),
)  # fmt: skip
"""Every header that the border is about, once for each crossing."""


def table(crossing: Crossing, privacy: frozenset[str] = frozenset()) -> Mapping[str, Action]:
    """Header name -> what becomes of it there; a name that is not in it passes, one with `hop` is for the caller.

    `privacy`: what `privacy` found in the message, and in the request that it answers.
    """
    return _table(crossing, privacy & _PRIVACY if privacy else privacy)


@cache
def _table(crossing: Crossing, privacy: frozenset[str]) -> dict[str, Action]:
    found: dict[str, Action] = {}
    for rule in RULES:
        if crossing in rule.crossings:
            action = drop if privacy.intersection(_kinds(rule)) else rule.action
            found.update({name: action for name in rule.names if action is not keep})
    return found


def _kinds(rule: Rule) -> list[str]:
    return split_list(rule.dropped_with)


_LONGEST_WORD = 32
"""Characters of what is compared with a word: "privacy" with each letter escaped, and some blanks, has no more."""
_NO_PRIVACY: frozenset[str] = frozenset()
_PRIVACY = frozenset(kind for rule in RULES for kind in _kinds(rule))
"""The kinds of privacy that decide about a header."""


def privacy(message: Message) -> frozenset[str]:
    """The kinds of privacy a message asks for (RFC 3323 4.2), on however many lines."""
    if message.first("privacy") is None:
        return _NO_PRIVACY
    return frozenset(
        kind.strip().lower() for line in message.lines("privacy") for kind in line.replace(",", ";").split(";")
    )


def is_psap_callback(priority: str) -> bool:
    """Whether a Priority says that a PSAP calls back somebody who made an emergency call (RFC 7090)."""
    return priority.partition(";")[0].strip().lower() == "psap-callback"


def request_uri(uri: str) -> str:
    """A Request-URI as it crosses, in either direction."""
    return _without_parameters(uri, _IOTL)


_INDICATOR = frozenset({"integrity-protected"})
_CLAIMS = frozenset({"cpc", "oli", "verstat"})
_CATEGORY = frozenset({"cpc", "oli"})
_IOTL = frozenset({"iotl"})
_ANONYMOUS = "sip:anonymous@anonymous.invalid"
_ABOUT_NOBODY = frozenset({"reason", "counter", "privacy"})
"""Parameters of Diversion (RFC 5806) that stay with who is made anonymous."""
_LONGEST_NAME = 3 * max(map(len, _CLAIMS | _IOTL))
"""Characters of such a name where each is escaped."""
_PARAMETER = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|\\?$)|(;\s*+([^;=,<>@?\s"]++)(?:\s*+=\s*+(?:"(?:[^"\\]|\\.)*+(?:"|\\?$)|[^;,<>@?\s"]*+))?+)',
    re.DOTALL,
)
"""A quoted text, which is left alone, or a parameter of a URI or of a header, with its name."""


def _without_parameters(text: str, names: frozenset[str]) -> str:
    """Take parameters out, wherever they stand: in the user part (`+1555;cpc=x@home`), the URI or the header."""
    lowered = text.lower()
    if "%" not in lowered and not any(map(lowered.__contains__, names)):
        return text

    def kept(found: re.Match[str]) -> str:
        named = found[2] or ""
        return "" if len(named) <= _LONGEST_NAME and unquote(named).lower() in names else found[0]

    return _PARAMETER.sub(kept, text)


def _less(item: Header, unwanted: Callable[[str], bool]) -> Header | None:
    """A header of a list less some of its values; None if nothing is left."""
    values = split_list(item.value)
    kept = [value for value in values if not unwanted(value)]
    if len(kept) == len(values):
        return item
    return _again(item, ", ".join(kept)) if kept else None


def _again(item: Header, value: str) -> Header:
    """A header by the name it had, with another value."""
    return header(item.line.partition(":")[0].strip(), value)


def _is_private(entry: str) -> bool:
    """Whether an entry of History-Info asks for privacy: `<sip:bob@home?Privacy=history>;index=1`."""
    _, _, headers = entry.rpartition(">")[0].partition("?")
    pairs = (pair.partition("=") for pair in headers.split("&"))
    return any(_is(name, "privacy") and not _is(value, "none") for name, _, value in pairs)


def _diverted(entry: str) -> str:
    """An entry of Diversion as the UE may see it; "" if it cannot be read."""
    try:
        params = parse_name_addr(entry).params
    except ParseError:
        return ""
    if all(value.strip().lower() == "off" for name, value in params if name == "privacy"):
        return entry
    said = [f";{name}={value}" for name, value in params if name in _ABOUT_NOBODY and _is_word(value)]
    return f"<{_ANONYMOUS}>{''.join(said)}"


def _is_word(text: str) -> bool:
    return len(text) <= _LONGEST_WORD and text.isascii() and text.replace("-", "").isalnum()


def _is(escaped: str, word: str) -> bool:
    """Whether a text, with or without escapes and blanks around it, is this word."""
    text = escaped.strip()
    return len(text) <= _LONGEST_WORD and unquote(text).strip().lower() == word


def _anonymous(entry: str) -> str:
    return f"<{_ANONYMOUS}>{entry.rpartition('>')[2]}"
