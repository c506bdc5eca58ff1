"""Who may import whom: the rules of the house, proven on the syntax trees of both packages.

`xfrm` and `pcscf.sip` could be published on their own; the core takes time and randomness as arguments and waits for
nothing; the simulators of the lab must be able to disagree with the proxy.
"""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("pcscf", "xfrm")
    for path in sorted((ROOT / package).rglob("*.py"))
}
LONGEST = 600

SIP = {name for name in FILES if name.startswith("pcscf.sip")}
LAB = {name for name in FILES if name.startswith("pcscf.lab")}
ADMIN = {name for name in FILES if name.startswith("pcscf.admin")}
CAPTURE = {name for name in FILES if name.startswith("pcscf.capture")}
XFRM = {name for name in FILES if name.partition(".")[0] == "xfrm"}
SHELL = {
    "pcscf",
    *(
        f"pcscf.{name}"
        for name in (
            "__main__",
            "arguments",
            "cli",
            "config",
            "doctor",
            "forget_command",
            "folder",
            "guards",
            "hep",
            "keylog",
            "logs",
            "resolve",
            "restart",
            "rounds",
            "server",
            "service",
            "sockets",
            "store",
            "tomlfile",
            "transport",
            "unixsocket",
            "witness",
        )
    ),
}
"""What of the proxy itself may meet the world. Any other module directly in `pcscf` is core."""
CORE = FILES.keys() - SIP - LAB - ADMIN - CAPTURE - XFRM - SHELL

WORLD = {"asyncio", "datetime", "logging", "os", "random", "secrets", "socket", "subprocess", "threading", "time"}
WAITING = {"pcscf.resolve", "pcscf.rounds", "pcscf.transport", "pcscf.server", "pcscf.cli"} | LAB | ADMIN | CAPTURE
PROXY = {f"pcscf.{name}" for name in ("proxy", "register", "registrar", "registration", "server", "signalling", "turn")}


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports by its own words: modules of ours in full, of others the top-level name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{module}: a relative import hides its target"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in FILES else node.module)
    return frozenset(name if name in FILES else name.partition(".")[0] for name in names)


def ours(module: str) -> frozenset[str]:
    return imports(module) & FILES.keys()


def reach(module: str) -> set[str]:
    """All modules of ours that come along with this one."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        new = ours(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


def test_the_walk_sees_what_is_there() -> None:
    assert {"pcscf.proxy", "pcscf.register", "pcscf.aka", "pcscf.observe"} <= CORE
    assert "asyncio" in imports("pcscf.transport")
    assert "pcscf.sip.fields" in reach("pcscf.proxy") and "pcscf.sip.fields" not in ours("pcscf.proxy")


@pytest.mark.parametrize("module", FILES)
def test_no_module_is_too_long(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("module", sorted(XFRM))
def test_xfrm_knows_nothing_of_sip(module: str) -> None:
    assert ours(module) <= XFRM


@pytest.mark.parametrize("module", sorted(SIP))
def test_sip_needs_the_standard_library_only(module: str) -> None:
    assert imports(module) <= SIP | (sys.stdlib_module_names - WORLD)


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_never_meets_the_world(module: str) -> None:
    assert imports(module) <= CORE | SIP | {"xfrm.model", "xfrm.algorithms"} | (sys.stdlib_module_names - WORLD)


@pytest.mark.parametrize("module", sorted(FILES.keys() - WAITING))
def test_only_the_outermost_modules_use_asyncio(module: str) -> None:
    assert "asyncio" not in imports(module)


@pytest.mark.parametrize("module", sorted(LAB))
def test_the_lab_can_disagree_with_the_proxy(module: str) -> None:
    assert not ours(module) & PROXY


@pytest.mark.parametrize("module", ["pcscf.lab.ue", "pcscf.lab.scscf"])
def test_a_simulator_does_not_even_reach_the_proxy(module: str) -> None:
    assert not reach(module) & PROXY


@pytest.mark.parametrize("module", sorted(ADMIN))
def test_the_admin_side_does_not_hold_the_server(module: str) -> None:
    assert not ours(module) & {"pcscf.server", "pcscf.proxy", "pcscf.transport"}


@pytest.mark.parametrize("module", sorted(CAPTURE))
def test_a_capture_is_read_without_the_proxy(module: str) -> None:
    assert not ours(module) & (PROXY | LAB | {"pcscf.transport"})


@pytest.mark.parametrize("module", sorted(FILES.keys() - LAB - {"pcscf.cli"}))
def test_nothing_but_the_command_line_needs_the_lab(module: str) -> None:
    assert not ours(module) & LAB
