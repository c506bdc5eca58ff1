"""The API of a running P-CSCF as others judge it: schemathesis by its OpenAPI document, promtool by its metrics."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.phone import Phone, user
from tests.interop.plant import ROOT, Plant

DASHBOARD = ROOT / "docker" / "grafana" / "dashboard.json"
SCRAPE = ROOT / "docker" / "prometheus" / "prometheus.yml"
URL = "http://127.0.0.1:8060"
SUFFIXES = ("_total", "_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def busy(running: Plant) -> Iterator[Plant]:
    """With a UE that is registered and has said something."""
    with Phone(running, "alice", user(1), "10.45.0.2") as phone:
        phone.ok("register")
        phone.ok("message echo hello")
        yield running


def fetch(running: Plant, target: str, scope: str = "read") -> str:
    """Ask from beside the P-CSCF: it listens on the loopback of its namespace."""
    program = (
        "import sys, urllib.request as u; r = u.Request(sys.argv[1]);"
        "r.add_header('Authorization', 'Bearer ' + sys.argv[2]);"
        "print(u.urlopen(r, timeout=20).read().decode())"
    )
    return running.execute("pcscf", sys.executable, "-c", program, f"{URL}{target}", running.token(scope))


def test_promtool_accepts_the_metrics(busy: Plant) -> None:
    assert shutil.which("promtool"), "install prometheus"
    text = fetch(busy, "/metrics")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert values["pcscf_registrations"] == "1.0" and values["pcscf_sas"] == values["pcscf_sas_believed"] == "4.0"
    assert values['pcscf_requests_total{method="REGISTER",status="200"}'] == "1.0"
    assert float(values['pcscf_requests_total{method="MESSAGE",status="200"}']) >= 1
    assert float(values["process_cpu_seconds_total"]) > 0


def test_the_scrape_example_is_good(tmp_path: Path) -> None:
    there = tmp_path / "pcscf.token"
    there.write_text("x\n")
    example = tmp_path / "prometheus.yml"
    example.write_text(SCRAPE.read_text().replace("/var/lib/pcscf/read.token", str(there)))
    done = subprocess.run(["promtool", "check", "config", str(example)], capture_output=True, text=True)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr


def expressions(dashboard: dict[str, Any]) -> list[str]:
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return queries + [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]


def test_the_dashboard_asks_for_metrics_that_exist(busy: Plant, tmp_path: Path) -> None:
    text = fetch(busy, "/metrics")
    # Of what has not happened yet there is the name alone.
    families = set(re.findall(r"^# TYPE (\S+) ", text, re.M))
    known = families | {f"{name}{suffix}" for name in families for suffix in SUFFIXES}
    found = expressions(json.loads(DASHBOARD.read_text()))
    names = {name for each in found for name in re.findall(r"\b(?:pcscf|process)_\w+", each)}
    assert len(names) > 15 and not names - known, names - known
    labels = {
        (name, label)
        for each in found
        for by, name in re.findall(r"by \(([\w, ]+)\) \(?(?:rate\()?(\w+)", each)
        for label in by.split(", ")
    }
    assert labels
    for name, label in labels:
        samples = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        assert not samples or all(f'{label}="' in line for line in samples), (name, label)
    rules = {"groups": [{"name": "all", "rules": [
        {"record": f"r:{number}", "expr": each.replace("$__rate_interval", "1m").replace("$instance", ".*")}
        for number, each in enumerate(found) if not each.startswith("label_values")
    ]}]}  # fmt: skip
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(rules))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_on_other_addresses_than_loopback(busy: Plant) -> None:
    listening = busy.execute("pcscf", "ss", "-Hltn")
    assert "127.0.0.1:8060" in listening and not re.search(r"(10\.4[56]\.0\.1|0\.0\.0\.0|\*|\[::\]):8060", listening)


@pytest.mark.parametrize("known", [False, True], ids=["any names", "names there are"])
def test_schemathesis_finds_nothing_undocumented(busy: Plant, tmp_path: Path, known: bool) -> None:
    """The last ones: they do whatever can be done. No next hop is left then, and it is right not to be ready."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(f'[auth.openapi.token]\nbearer = "{busy.token()}"\n')
    if known:
        with config.open("a") as file:
            file.write(f'[parameters]\nue = "{user(1)}~10.45.0.2"\nhop = "10.46.0.2:5060/udp"\nnumber = 1\n')
    done = subprocess.run(
        busy.network.command(
            "pcscf", sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run",
            f"{URL}/api/openapi.json", "--checks=all", "--max-examples=15", "--seed=1", "--workers=1",
            "--exclude-path=/api/stream", "--suppress-health-check=all", "--request-timeout=20", "--no-color",
            "--generation-database=none", *(("--exclude-path=/api/ready",) if known else ()),
        ),
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"(\d{3,}) generated, \1 passed", done.stdout), done.stdout[-3000:]
    assert "a bug in the API" not in busy.log("pcscf")
