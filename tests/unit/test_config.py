"""The configuration: the lab's file, overrides, and that every mistake is named with its field and value."""

from pathlib import Path

import pytest

from pcscf.config import Config, ConfigError, load
from pcscf.vocabulary import Interface

LAB = Path(__file__).parents[2] / "config" / "pcscf.toml"
LEAST = 'visited_network = "v"\n[gm]\naddresses = ["10.45.0.1"]\n[mw]\naddress = "10.46.0.1"\nnext_hop = "10.46.0.2"\n'


def read(folder: Path, text: str) -> Config:
    path = folder / "pcscf.toml"
    path.write_text(text)
    return load(path)


def test_the_file_of_the_lab() -> None:
    config = load(LAB)
    assert [str(address) for address in config.gm.addresses] == ["10.45.0.1", "fd00:45::1"]
    assert str(config.ipsec.preference[0]) == "null/aes-gcm" and len(config.ipsec.preference) == 8
    settings = config.settings
    assert settings.register.next_hop.interface is Interface.MW and settings.register.next_hop.local_port == 5060


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
    assert config.settings.register.next_hop.transport == "TCP"
    assert config.settings.register.next_hop.local_port == 0
    assert config.settings.register.core.path_parameters == ";transport=tcp;lr"


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
        (('"10.46.0.2"', '"fd00::2"'), "different families"),
        (("[mw]", "[mw]\nport = 70000"), "mw.port"),
        (("[mw]", "[ipsec]\nport_ps = 5060\n[mw]"), "5060 cannot be a protected port"),
        (("[mw]", "[ipsec]\nport_ps = 5106\n[mw]"), "overlap"),
        (("[mw]", "[ipsec]\nport_pc = 5105\n[mw]"), "no aligned power of two"),
        (("[mw]", '[ipsec]\nalgorithms = ["hmac-sha-1-96/aes-gcm"]\n[mw]'), "ipsec.algorithms.0"),
        (("[mw]", '[ipsec]\nalgorithms = ["hmac-md5-96/null"]\n[mw]'), "needs legacy_algorithms = true"),
        (("[mw]", "[ipsec]\nalgorithms = []\n[mw]"), "ipsec.algorithms"),
        (("[mw]", "[ipsec]\nbackned = 1\n[mw]"), "ipsec.backned: Extra inputs are not permitted (value: 1)"),
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
