"""The command line: every failure is a line for people on standard error, and `--json` is JSON."""

import json
from pathlib import Path

import pytest

from pcscf import doctor
from pcscf.cli import main, parser
from pcscf.config import load

LAB = str(Path(__file__).parents[2] / "config" / "pcscf.toml")


def test_check_shows_the_effective_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", LAB]) == 0
    assert "ipsec.port_ps = 5100" in capsys.readouterr().out.splitlines()
    assert main(["check", "-c", LAB, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mw"]["next_hops"] == [
        {"uri": "sip:10.46.0.2:5060", "priority": 1, "weight": 1}
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "-c", "nowhere.toml"], "pcscf: nowhere.toml: No such file or directory\n"),
        (["run", "-c", "nowhere.toml"], "pcscf: nowhere.toml: No such file or directory\n"),
        (["sa", "--control", "/nowhere/control.sock"], "no P-CSCF answers at /nowhere/control.sock"),
        (["hops", "--control", "/nowhere/control.sock"], "no P-CSCF answers at /nowhere/control.sock"),
        (["hops", "--disable", "x", "--control", "/nowhere/control.sock"], "no P-CSCF answers at"),
        (["scscf", "--address", "127.0.0.1", "--subscribers", "nowhere.toml"], "nowhere.toml: No such file"),
        (["ue", "register", "--address", "127.0.0.1", "--pcscf", "::1"], "different families"),
        (["ue", "register", "--address", "127.0.0.1", "--pcscf", "127.0.0.2", "--impi", "x@y"], "no subscriber x@y"),
        (["scscf", "--address", "127.0.0.1", "--fault", "x@y=no-answer"], "no subscriber x@y"),
    ],
)
def test_failures_are_lines_for_people(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert words in said.err and said.err.startswith("pcscf: ") and "Traceback" not in said.err and not said.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["hops", "--enable", "x", "--disable", "x"],
        ["ue", "register", "--address", "x", "--pcscf", "127.0.0.1"],
        ["ue", "register", "--address", "127.0.0.1", "--pcscf", "127.0.0.2", "--offer", "hmac-sha-1-96/aes-gcm"],
        ["ue", "register", "--address", "127.0.0.1", "--pcscf", "127.0.0.2", "--fault", "laziness"],
        ["scscf", "--address", "127.0.0.1", "--port", "0"],
        ["scscf", "--address", "127.0.0.1", "--fault", "someone=laziness"],
        ["scscf", "--address", "127.0.0.1", "--service-route", "nowhere"],
    ],
)
def test_misuse_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "usage: pcscf" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "check", "doctor", "sa", "hops", "scscf", "lab"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    assert "examples:" in capsys.readouterr().out


def test_doctor_names_what_is_missing_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "-c", LAB, "--json"])
    said = json.loads(capsys.readouterr().out)
    findings = {each["subject"]: each for each in said["findings"]}
    assert status == 1 and not said["fit"], "nobody has the addresses of the lab outside its namespaces"
    gm = findings["gm address 10.45.0.1"]
    assert gm["verdict"] == "problem" and gm["text"] == "no interface has it" and gm["remedy"]
    assert {"kernel ESP", "userspace ESP", "CAP_NET_ADMIN", "CAP_NET_RAW", "time"} <= findings.keys()
    assert main(["doctor", "-c", LAB]) == 1
    assert "cannot run here" in capsys.readouterr().out


def test_doctor_knows_how_many_lone_fragments_stop_reassembly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 1, 11: the defaults are too small, and the remedy makes them good."""
    monkeypatch.setattr(doctor, "SETTINGS", tmp_path)
    values = {"ipv4/ipfrag_high_thresh": 4 << 20, "ipv4/ipfrag_time": 30}
    values |= {"ipv6/ip6frag_high_thresh": 256 << 20, "ipv6/ip6frag_time": 2}

    def findings() -> dict[str, dict[str, str]]:
        for name, value in values.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(f"{value}\n")
        main(["doctor", "-c", LAB, "--json"])
        said = json.loads(capsys.readouterr().out)["findings"]
        return {each["subject"]: each for each in said if each["subject"].startswith("fragments")}

    found = findings()
    assert found.keys() == {"fragments of IPv4", "fragments of IPv6"}, "what the kernel does not have is not named"
    assert found["fragments of IPv6"]["verdict"] == "ok" and found["fragments of IPv6"]["remedy"] == ""
    four = found["fragments of IPv4"]
    assert four["verdict"] == "warning" and four["text"].startswith("about 136 lone fragments a second")
    assert four["remedy"].startswith("sysctl -w ")
    for setting in four["remedy"].split()[2:]:
        name, _, value = setting.partition("=")
        values[name.removeprefix("net.").replace(".", "/", 1)] = int(value)
    assert findings()["fragments of IPv4"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("kernel", "userspace", "fit"),
    [((), [], True), (("esp4",), [], True), ((), ["/dev/net/tun"], True), (("esp4",), ["/dev/net/tun"], False)],
)
def test_one_backend_is_enough(
    monkeypatch: pytest.MonkeyPatch, kernel: tuple[str, ...], userspace: list[str], fit: bool
) -> None:
    monkeypatch.setattr("xfrm.kernel.probe", lambda: kernel)
    monkeypatch.setattr("xfrm.divert.missing", lambda: userspace)
    monkeypatch.setattr(doctor, "_capabilities", list)
    assert doctor.is_fit(doctor.examine(None)) is fit
    bad = [each for each in doctor.examine(None) if each.verdict is doctor.Verdict.BAD]
    assert all(each.remedy for each in bad)


def test_a_configured_backend_must_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCSCF_IPSEC__BACKEND", "kernel")
    monkeypatch.setattr("xfrm.kernel.probe", lambda: ("esp4",))
    findings = {each.subject: each for each in doctor.examine(load(Path(LAB)))}
    assert findings["ipsec.backend = kernel"].verdict is doctor.Verdict.BAD
