"""The configurations in config/ are good, their zones are, and every name that one asks for is in its zone."""

import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path

import dns.name
import dns.rdatatype
import dns.zone
import pytest

from pcscf.cli import main
from pcscf.config import load
from pcscf.nexthop import read_uri
from tests.interop.plant import ROOT

CONFIG = ROOT / "config"
EXAMPLES = sorted(path for path in CONFIG.glob("*.toml") if path.stem != "subscribers")
ZONES = sorted(CONFIG.glob("*.zone"))
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"


def test_there_is_what_the_page_names() -> None:
    page = (CONFIG / "README.md").read_text()
    assert {path.name for path in EXAMPLES} == {name for name in page.replace("(", " ").replace(")", " ").split()
                                                 if name.endswith(".toml") and (CONFIG / name).exists()
                                                 and "`" not in name}  # fmt: skip
    assert {path.stem for path in EXAMPLES} - {path.stem for path in ZONES} == {"pcscf"}, "the lab needs no DNS"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_passes_the_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(path)]) == 0
    assert "visited_network" in capsys.readouterr().out


@pytest.mark.parametrize("zone", ZONES, ids=lambda path: path.stem)
def test_named_accepts_the_zone(zone: Path) -> None:
    assert shutil.which("named-checkzone"), "install bind9-utils"
    done = subprocess.run(["named-checkzone", "-i", "full", DOMAIN, str(zone)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("OK\n"), done.stdout + done.stderr
    assert "warning" not in done.stdout.lower(), done.stdout


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem != "pcscf"], ids=lambda path: path.stem)
def test_every_name_leads_to_an_address_of_the_core(path: Path) -> None:
    config = load(path)
    zone = dns.zone.from_file(str(path.with_suffix(".zone")), DOMAIN, relativize=False)

    def records(name: dns.name.Name, kind: dns.rdatatype.RdataType) -> list[str]:
        found = zone.get_rdataset(name, kind)
        return [str(each) for each in found or ()]

    gm = set(map(str, config.gm.addresses))
    ours = dns.name.from_text(f"pcscf.{DOMAIN}")
    assert gm == {*records(ours, dns.rdatatype.A), *records(ours, dns.rdatatype.AAAA)}, "what phones may look up"
    for hop in config.mw.next_hops:
        query = read_uri(hop.uri, config.mw.core_transport)
        try:
            targets = [str(ip_address(query.host))]
        except ValueError:
            servers = records(dns.name.from_text(f"_sip._udp.{query.host}"), dns.rdatatype.SRV)
            assert servers, hop.uri
            names = [dns.name.from_text(server.split()[3]) for server in servers]
            targets = [each for name in names for kind in (dns.rdatatype.A, dns.rdatatype.AAAA)
                       for each in records(name, kind)]  # fmt: skip
        assert targets and all(any(ip_address(each) in network for network in config.mw.peers) for each in targets)
        assert {ip_address(each).version for each in targets} >= {each.version for each in config.mw.addresses}
