"""What is published: sdist and wheel hold what they should and nothing else, and the wheel runs on its own."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.interop.plant import ROOT

PAGE = ("index.html", "app.js", "api.js", "charts.js", "ladder.js", "style.css", "icon.svg")
EXAMPLES = ("pcscf.toml", "subscribers.toml", "pcscf.service")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built from a copy of what git knows: what lies about here is not to help."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(
        ["tar", "--null", "--files-from=-", "--create", f"--file={source}/all.tar"], cwd=ROOT, input=files, check=True
    )
    subprocess.run(["tar", "--extract", "--file=all.tar"], cwd=source, check=True)
    (source / "all.tar").unlink()
    subprocess.run(
        [sys.executable, "-m", "build", f"--outdir={output}", str(source)], check=True, capture_output=True, cwd=output
    )
    return output


def test_the_wheel_holds_the_code_the_page_and_the_examples(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"pcscf/admin/page/{name}" for name in PAGE} <= names
    assert {f"pcscf/examples/{name}" for name in EXAMPLES} <= names
    assert {"pcscf/cli.py", "xfrm/kernel.py", "xfrm/esp_gmac.lua"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pcscf", "xfrm", next(top for top in tops if top.endswith(".dist-info"))}
    assert not [name for name in names if "test" in name or name.endswith((".pyc", ".png", ".pcapng"))]


def test_the_sdist_holds_what_builds_and_tests_it(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "config/pcscf.toml"} <= names
    assert {"docker/grafana/dashboard.json", "pcap-samples/README.md", "tests/unit/test_cli.py"} <= names
    tops = {name.split("/")[0] for name in names if name}
    assert tops <= {"pcscf", "xfrm", "config", "tests", "docker", "pcap-samples", "pyproject.toml", "README.md",
                    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO", ".gitignore"}  # fmt: skip


def test_the_wheel_alone_plays_the_lab(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    subprocess.run(
        [tmp_path / "venv/bin/pip", "install", "-q", "--disable-pip-version-check", str(wheel)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    pcscf = tmp_path / "venv/bin/pcscf"
    help_text = subprocess.run([pcscf, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "pcscf run -c" in help_text and "forget" in help_text
    done = subprocess.run([pcscf, "lab", "--json"], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0 and '"good": true' in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "lab" / "gm.pcapng").exists()
