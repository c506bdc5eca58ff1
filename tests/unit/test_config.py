"""The configuration: the lab's file, overrides, and that every mistake is named with its field and value."""

import random
from ipaddress import ip_address
from pathlib import Path

import pytest

from pcscf.config import Config, ConfigError, load
from pcscf.emergency import EmergencyMode, EmergencySettings
from pcscf.nexthop import NextHops
from pcscf.proxy import Settings
from pcscf.register import Without
from pcscf.turn import Turn
from pcscf.vocabulary import Flow

LAB = Path(__file__).parents[2] / "config" / "pcscf.toml"
LEAST = """\
visited_network = "v"
[gm]
addresses = ["10.45.0.1"]
[mw]
addresses = ["10.46.0.1"]
[[mw.next_hops]]
uri = "sip:10.46.0.2"
"""


def ways(config: Config) -> list[str]:
    """Where a request to the home network would go."""
    turn = Turn(random.Random(1).randbytes)
    got: list[list[Flow]] = []
    NextHops(turn, config.settings.hops).to_home(got.append)
    return [str(flow) for flow in got[0]] if got else []


def read(folder: Path, text: str) -> Config:
    path = folder / "pcscf.toml"
    path.write_text(text)
    return load(path)


def test_the_file_of_the_lab() -> None:
    config = load(LAB)
    assert [str(address) for address in config.gm.addresses] == ["10.45.0.1", "fd00:45::1"]
    assert str(config.ipsec.preference[0]) == "null/aes-gcm" and len(config.ipsec.preference) == 8
    assert ways(config) == ["UDP 10.46.0.2:5060 at 10.46.0.1:5060"]
    assert config.settings.hops.probe_interval == 30 and config.mw.nameservers == ()


def test_the_least_that_must_be_said(tmp_path: Path) -> None:
    config = read(tmp_path, LEAST)
    assert [str(pair) for pair in config.ipsec.preference] == [
        "null/aes-gcm",
        "hmac-sha-1-96/aes-cbc",
        "aes-gmac/null",
        "hmac-sha-1-96/null",
    ]
    assert config.ipsec.without == "refuse"


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCSCF_IPSEC__BACKEND", "userspace")
    monkeypatch.setenv("PCSCF_MW__PORT", "5080")
    monkeypatch.setenv("PCSCF_GM__ADDRESSES", '["10.45.0.9"]')
    config = load(LAB)
    assert config.ipsec.backend == "userspace" and config.ipsec.port_ps == 5100
    assert config.mw.port == 5080 and str(config.gm.addresses[0]) == "10.45.0.9"


def test_tcp_toward_the_core_leaves_from_any_port(tmp_path: Path) -> None:
    config = read(tmp_path, LEAST.replace("[mw]", '[mw]\ntransport = "tcp"'))
    assert ways(config) == ["TCP 10.46.0.2:5060 at 10.46.0.1:0"]


def test_next_hops_of_both_families_with_their_ranks(tmp_path: Path) -> None:
    text = LEAST.replace('"10.46.0.1"', '"fd00:46::1", "10.46.0.1"').replace("[mw]", '[mw]\nnameservers = ["fd00::53"]')
    config = read(tmp_path, f'{text}priority = 2\n[[mw.next_hops]]\nuri = "sip:[fd00:46::2]:5070;transport=tcp"\n')
    assert ways(config) == ["TCP [fd00:46::2]:5070 at [fd00:46::1]:0", "UDP 10.46.0.2:5060 at 10.46.0.1:5060"]
    assert [str(address) for address in config.settings.sides.mw] == ["fd00:46::1", "10.46.0.1"]
    assert [str(address) for address in config.mw.nameservers] == ["fd00::53"]


def test_a_next_hop_may_be_a_name(tmp_path: Path) -> None:
    config = read(tmp_path, LEAST.replace("sip:10.46.0.2", "sip:ims.example;transport=tcp"))
    assert config.mw.hop_addresses == [] and ways(config) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("10.45.0.1", "0.0.0.0"), "gm.addresses.0: a wildcard address cannot be one end of an SA"),
        (('"10.45.0.1"', '"::"'), "gm.addresses.0: a wildcard"),
        (('"10.45.0.1"', '"::ffff:10.45.0.1"'), "mixes the families; write 10.45.0.1"),
        (('"10.45.0.1"', '"10.45.0.1", "10.45.0.1"'), "gm.addresses: an address is listed twice"),
        (
            ('"10.45.0.1"', '"gm.example"'),
            "gm.addresses.0: not an IPv4 or IPv6 address; names are not looked up (value: gm.example)",
        ),
        (
            ("10.46.0.2", "[fd00::2]"),
            "mw: next hop sip:[fd00::2] and our addresses (10.46.0.1) are of different families",
        ),
        (('"sip:10.46.0.2"', '"10.46.0.2"'), "mw.next_hops.0.uri: not a SIP URI; write for example sip:10.46.0.2:5060"),
        (("sip:10.46.0.2", "sips:10.46.0.2"), "only sip: is served toward the core, not sips"),
        (("sip:10.46.0.2", "sip:10.46.0"), "10.46.0 is neither a name nor an address of a host"),
        (("sip:10.46.0.2", "sip:0.0.0.0"), "0.0.0.0 is neither a name nor an address of a host"),
        (("sip:10.46.0.2", "sip:10.46.0.2;transport=tls"), "transport tls is not served"),
        (("sip:10.46.0.2", "sip:10.46.0.1"), "next hop sip:10.46.0.1 is this P-CSCF itself"),
        (("[[mw", '[[mw.next_hops]]\nuri = "sip:10.46.0.2:5060"\n[[mw'), "next hop sip:10.46.0.2 is listed twice"),
        (("[[mw.next_hops]]", "[[mw.next_hops]]\npriority = -1"), "mw.next_hops.0.priority"),
        (("[[mw.next_hops]]", "[[mw.next_hops]]\nweight = 65536"), "mw.next_hops.0.weight"),
        (('[[mw.next_hops]]\nuri = "sip:10.46.0.2"', ""), "mw.next_hops: Field required"),
        (('[[mw.next_hops]]\nuri = "sip:10.46.0.2"', "next_hops = []"), "mw.next_hops"),
        (('"10.46.0.1"', '"10.46.0.1", "10.46.0.3"'), "mw.addresses: two addresses of one family"),
        (("[mw]", "[mw]\nprobe_interval = 0.5"), "mw.probe_interval: at least 1 second, or 0 for no probing"),
        (("[mw]", '[mw]\nnameservers = ["dns.example"]'), "mw.nameservers.0"),
        (("[mw]", "[mw]\nport = 70000"), "mw.port"),
        (("[mw]", "[ipsec]\nport_ps = 5060\n[mw]"), "5060 cannot be a protected port"),
        (("[mw]", "[ipsec]\nport_ps = 5106\n[mw]"), "overlap"),
        (("[mw]", "[ipsec]\nport_pc = 5105\n[mw]"), "no aligned power of two"),
        (("[mw]", '[ipsec]\nalgorithms = ["hmac-sha-1-96/aes-gcm"]\n[mw]'), "ipsec.algorithms.0"),
        (("[mw]", '[ipsec]\nalgorithms = ["hmac-md5-96/null"]\n[mw]'), "needs legacy_algorithms = true"),
        (("[mw]", "[ipsec]\nalgorithms = []\n[mw]"), "ipsec.algorithms"),
        (("[mw]", "[ipsec]\nbackned = 1\n[mw]"), "ipsec.backned: Extra inputs are not permitted (value: 1)"),
        (("[mw]", '[gm]\nclear = "silence"\n[mw]'), "not TOML"),
        (("[gm]", '[gm]\nclear = "drop"'), "gm.clear: Input should be '403' or 'silence' (value: drop)"),
        (("[gm]", "[gm]\nclear = 403"), "gm.clear: Input should be '403' or 'silence' (value: 403)"),
        (("[gm]", '[gm]\nwrong_route = "ignore"'), "gm.wrong_route: Input should be 'refuse' or 'correct'"),
        (
            ("[mw]", '[ipsec]\nsa_conflict = "lenient"\n[mw]'),
            "ipsec.sa_conflict: Input should be 'replace' or 'strict'",
        ),
        (
            ("[mw]", '[ipsec]\nwithout = "never"\n[mw]'),
            "ipsec.without: Input should be 'refuse', '421', '494' or 'admit'",
        ),
        (("[mw]", "[ipsec]\ntemp_lifetime = 0\n[mw]"), "ipsec.temp_lifetime"),
        (("[mw]", '[[ipsec.networks]]\nnetwork = "10.9.0.0/16"\n[mw]'), "ipsec.networks.0.without: Field required"),
        (("[mw]", '[[ipsec.networks]]\nnetwork = "lab"\nwithout = "admit"\n[mw]'), "ipsec.networks.0.network"),
        (("[mw]", '[[ipsec.networks]]\nnetwork = "10.9.0.1/16"\nwithout = "admit"\n[mw]'), "ipsec.networks.0.network"),
        (("[mw]", '[emergency]\nmode = "route"\n[mw]'), 'emergency: mode = "route" needs ecscf, the URI of the E-CSCF'),
        (("[mw]", '[emergency]\nmode = "route"\necscf = "sips:e.home"\n[mw]'), "only sip: is served toward the core"),
        (("[mw]", '[emergency]\nmode = "hope"\n[mw]'), "emergency.mode: Input should be"),
        (("[mw]", '[emergency]\nnumbers = ["sos"]\n[mw]'), "emergency.numbers.0: String should match pattern"),
        (("[mw]", "[emergency]\nnumbers = [112]\n[mw]"), "emergency.numbers.0"),
        (("[mw]", '[emergency]\nunregistered = "perhaps"\n[mw]'), "emergency.unregistered"),
        (("[mw]", '[reg_event]\nenabled = "often"\n[mw]'), "reg_event.enabled"),
        (("[mw]", "[reg_event]\nenable = true\n[mw]"), "reg_event.enable: Extra inputs are not permitted"),
        (('"v"', "'a\"b'"), "visited_network"),
        (("[gm]", "[gm"), "not TOML"),
        (("visited_network", "visited_networks"), "visited_network: Field required"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, LEAST.replace(*change))
    assert words in str(refused.value) and str(tmp_path / "pcscf.toml") in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml")


def test_gm_and_mw_cannot_share_a_socket(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a Gm port too"):
        read(tmp_path, LEAST.replace("10.46.0.1", "10.45.0.1"))


def with_keys(folder: Path, text: str) -> Settings:
    """What the core gets of the least file with more before its [mw]; keys without a table are those of gm."""
    return read(folder, LEAST.replace("[mw]", f"{text}\n[mw]", 1)).settings


def test_what_the_core_gets_of_the_least_file(tmp_path: Path) -> None:
    settings = with_keys(tmp_path, "")
    register, originating = settings.register, settings.originating
    assert not settings.silent_in_clear and settings.reg_event
    assert not originating.overwrite_route and not register.strict_ports
    assert register.without is Without.REFUSE and register.without_by_network == ()
    assert register.temp_lifetime == 240, "reg-await-auth (TS 24.229 7.8)"
    expected = EmergencySettings(
        mode=EmergencyMode.ALTERNATIVE, ecscf="", numbers=frozenset({"112", "911"}), unregistered=False
    )
    assert originating.emergency == expected


@pytest.mark.parametrize(("said", "silent"), [("403", False), ("silence", True)])
def test_what_may_not_come_in_clear(tmp_path: Path, said: str, silent: bool) -> None:
    assert with_keys(tmp_path, f'clear = "{said}"').silent_in_clear is silent


@pytest.mark.parametrize(("said", "overwritten"), [("refuse", False), ("correct", True)])
def test_a_wrong_route(tmp_path: Path, said: str, overwritten: bool) -> None:
    assert with_keys(tmp_path, f'wrong_route = "{said}"').originating.overwrite_route is overwritten


@pytest.mark.parametrize(("said", "strict"), [("replace", False), ("strict", True)])
def test_conflicting_sas(tmp_path: Path, said: str, strict: bool) -> None:
    assert with_keys(tmp_path, f'[ipsec]\nsa_conflict = "{said}"').register.strict_ports is strict


@pytest.mark.parametrize("said", ["refuse", "421", "494", "admit"])
def test_ues_without_ipsec(tmp_path: Path, said: str) -> None:
    assert with_keys(tmp_path, f'[ipsec]\nwithout = "{said}"').register.without is Without(said)


def test_ues_without_ipsec_by_network(tmp_path: Path) -> None:
    """The first network that holds the address counts, else what is said for all."""
    networks = {"10.9.1.0/24": "421", "10.9.0.0/16": "admit", "fd00:9::/32": "494"}
    tables = "".join(f'[[ipsec.networks]]\nnetwork = "{each}"\nwithout = "{said}"\n' for each, said in networks.items())
    register = with_keys(tmp_path, tables).register
    said = {
        address: register.without_ipsec(ip_address(address)).value
        for address in ("10.9.1.7", "10.9.2.7", "fd00:9::7", "10.8.0.1", "fd00:8::1")
    }
    assert list(said.values()) == ["421", "admit", "494", "refuse", "refuse"]


def test_emergency(tmp_path: Path) -> None:
    emergency = with_keys(
        tmp_path,
        '[emergency]\nmode = "route"\necscf = "sip:10.46.0.3"\nnumbers = ["112", "110"]\nunregistered = true',
    ).originating.emergency
    assert emergency == EmergencySettings(
        mode=EmergencyMode.ROUTE, ecscf="sip:10.46.0.3", numbers=frozenset({"112", "110"}), unregistered=True
    )


@pytest.mark.parametrize("mode", ["alternative", "refuse"])
def test_emergency_that_is_not_led_on_needs_no_e_cscf(tmp_path: Path, mode: str) -> None:
    assert with_keys(tmp_path, f'[emergency]\nmode = "{mode}"').originating.emergency.mode.value == mode


@pytest.mark.parametrize("enabled", [True, False])
def test_reg_event(tmp_path: Path, enabled: bool) -> None:
    assert with_keys(tmp_path, f"[reg_event]\nenabled = {str(enabled).lower()}").reg_event is enabled


def test_keys_without_a_store_are_refused(tmp_path: Path) -> None:
    assert not load(LAB).store.userspace_keys
    with pytest.raises(ConfigError, match=r"store: userspace_keys keeps .* it needs store.enabled = true"):
        with_keys(tmp_path, "[store]\nenabled = false\nuserspace_keys = true")


def test_new_keys_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCSCF_GM__CLEAR", "silence")
    monkeypatch.setenv("PCSCF_REG_EVENT__ENABLED", "false")
    monkeypatch.setenv("PCSCF_IPSEC__NETWORKS", '[{"network": "10.9.0.0/16", "without": "admit"}]')
    settings = load(LAB).settings
    assert settings.silent_in_clear and not settings.reg_event
    assert settings.register.without_ipsec(ip_address("10.9.0.1")) is Without.ADMIT


@pytest.mark.parametrize(("network", "words"), [("lab", "not a network"), ("10.9.0.1/16", "has host bits set")])
def test_a_network_that_is_none_is_one_finding_in_plain_words(tmp_path: Path, network: str, words: str) -> None:
    """Not pydantic's internals, nor a word about IPv6 for an IPv4 network."""
    text = LEAST.replace("[mw]", f'[[ipsec.networks]]\nnetwork = "{network}"\nwithout = "admit"\n[mw]', 1)
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    found = str(refused.value)
    assert len(found.splitlines()) == 1 and "ipsec.networks.0.network: " in found and words in found
    assert "lax-or-strict" not in found and network in found


def test_t1_of_gm_scales_the_profile(tmp_path: Path) -> None:
    """C0: T2 and T4 keep their ratio; the drain of an old set is 64*T1."""
    timers = read(tmp_path, LEAST.replace("[mw]", "t1 = 0.5\n[mw]", 1)).settings.gm_timers
    assert (timers.t1, timers.t2, timers.t4, timers.timeout) == (0.5, 4.0, 4.25, 32.0)
    assert read(tmp_path, LEAST).settings.gm_timers.timeout == 128.0


def test_the_api_is_not_where_phones_are(tmp_path: Path) -> None:
    """Step 1, 20."""
    with pytest.raises(ConfigError, match=r"admin\.address 10\.45\.0\.1 is a Gm address, where phones are"):
        read(tmp_path, LEAST + '[admin]\naddress = "10.45.0.1"\n')
    config = read(tmp_path, LEAST + '[admin]\naddress = "0.0.0.0"\n')
    assert [str(each) for each in config.without_admin] == ["10.45.0.1"]
    read(tmp_path, LEAST + '[admin]\naddress = "10.45.0.1"\nenabled = false\n')
    local = read(tmp_path, LEAST.replace("10.45.0.1", "127.0.0.1"))
    assert not local.without_admin, "a lab on loopback has no phones there but its own"
