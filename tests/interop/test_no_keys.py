"""With key export off no command, log, answer, core dump or file of ours holds a key: all are searched for all of them.

The search is shown to find: with key export on the key file holds what is looked for.
"""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from pcscf.admin.operations import OPERATIONS
from pcscf.aka import AkaKeys, expand
from pcscf.lab.capture import Capture
from pcscf.lab.control import tell
from pcscf.lab.network import Network
from tests.interop.phone import Phone, user
from tests.interop.plant import ROOT, Plant, plant
from xfrm.algorithms import VALID_PAIRS
from xfrm.model import Key

PCSCF = (sys.executable, "-m", "pcscf")
CHALLENGE = re.compile(rb'WWW-Authenticate(?=[^\r\n]*\bck="([0-9a-f]{32})")(?=[^\r\n]*\bik="([0-9a-f]{32})")')
UE = quote(f"{user(1)}~10.45.0.2", safe="")
ROUTES = [
    each.path.replace("{ue}", UE)
    for each in OPERATIONS
    if each.method == "GET" and each.path != "/api/stream" and "{number" not in each.path
]
SHUT = ("/api/keys", "/api/keys/profile")


def shapes(secret: bytes) -> list[bytes]:
    """How octets may look: as they are, hexadecimal in both cases, base64 wherever they begin in it."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for before in range(3):
        coded = base64.b64encode(bytes(before) + secret)
        # Without what depends on the octets before and behind.
        found.append(coded[4 if before else 0 : -4])
    return found


def secrets(frames: Iterable[bytes]) -> list[bytes]:
    """ck and ik of every challenge on the way from the core, and all that is derived from them for ESP."""
    found: set[bytes] = set()
    for frame in frames:
        for match in CHALLENGE.finditer(frame):
            ck, ik = (bytes.fromhex(part.decode()) for part in match.groups())
            found |= {ck, ik}
            for pair in VALID_PAIRS:
                found.update(filter(None, map(bytes, expand(AkaKeys(ck=Key(ck), ik=Key(ik)), pair))))
    return sorted(found)


def leaks(places: dict[str, bytes], wanted: Iterable[bytes]) -> list[str]:
    """Where one of the secrets stands in one of its shapes."""
    patterns = [shape for secret in wanted for shape in shapes(secret)]
    return [name for name, text in places.items() if any(pattern in text for pattern in patterns)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def talked(folder: Path, key_file: Path | None = None) -> Iterator[tuple[Plant, list[bytes]]]:
    """A plant in which a UE has registered, re-authenticated and written, and the keys of all that."""
    network = Network(f"pcscf-keys-{os.getpid()}")
    with plant(
        folder, core=(f"--control={folder / 'core.sock'}",), network=network, ESPKEYLOGFILE=str(key_file or "")
    ) as running:
        capture = Capture(network, "pcscf", "mw")
        capture.start()
        with Phone(running, "ue", user(1), "10.45.0.2", "--udp-only", "--offer=hmac-sha-1-96/aes-cbc") as phone:
            phone.ok("register")
            tell(folder / "core.sock", f"rechallenge {user(1)}")
            phone.ok("reregister")
            phone.ok("message echo hello")
            time.sleep(0.3)
            capture.stop()
            found = secrets(capture.frames)
            assert len(found) > 8, "two challenges, and what is derived from them"
            yield running, found


def everything_said(running: Plant) -> dict[str, bytes]:
    """What every command and every operation of the API says."""
    control = f"--control={running.folder / 'control.sock'}"
    config = f"--config={ROOT / 'config' / 'pcscf.toml'}"
    once: tuple[tuple[str, ...], ...] = (
        ("sa", control), ("sa", control, "--json"), ("hops", control), ("hops", control, "--json"),
        ("check", config), ("check", config, "--json"), ("doctor", config, "--json"),
        ("explain", control, user(1)), ("explain", control, user(1), "--json"), ("keys", control),
        ("keys", control, "--json"), ("keys", control, "--profile", str(running.folder / "profile")),
    )  # fmt: skip
    said: dict[str, bytes] = {}
    for command in once:
        done = subprocess.run(running.network.command("pcscf", *PCSCF, *command), capture_output=True, timeout=60)
        assert b"Traceback" not in done.stderr, done.stderr
        said[" ".join(command)] = done.stdout + done.stderr
    for command in (
        ("trace", "--follow", "--json", control),
        ("capture", "-i", "gm", "-o", str(running.folder / "gm.pcapng"), control, config),
    ):
        process = subprocess.Popen(
            running.network.command("pcscf", *PCSCF, *command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        said[" ".join(command)] = process.communicate(timeout=30)[0]
    return said


async def routes(running: Plant) -> dict[str, bytes]:
    connector = aiohttp.UnixConnector(str(running.folder / "control.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        said = {}

        async def ask(route: str) -> bytes:
            async with session.get(URL(f"http://pcscf{route}", encoded=True)) as answer:
                body = await answer.read()
                assert answer.status == (403 if route in SHUT else 200), (route, body)
            said[route] = str(answer.headers).encode() + body
            return body

        for route in ROUTES:
            await ask(route)
        await ask(f"/api/ues/{UE}/trace?form=html")
        for row in json.loads(await ask(f"/api/ues/{UE}/ladder")):
            if row["whole"]:
                await ask(f"/api/ues/{UE}/messages/{row['number']}")
        async with session.get("http://pcscf/api/stream") as stream:
            said["stream"] = b""
            while b'"sample"' not in said["stream"]:
                said["stream"] += await stream.content.readline()
        return said


def processes(running: Plant) -> dict[str, int]:
    return {name: process.pid for name, process in running._processes}


def test_nothing_tells_a_key(tmp_path: Path) -> None:
    with talked(tmp_path) as (running, wanted):
        said = everything_said(running) | asyncio.run(routes(running))
        for name, process in processes(running).items():
            limits = Path(f"/proc/{process}/limits").read_text()
            assert re.search(r"Max core file size +0 +0 ", limits), (name, limits)
    assert b"exports no keys" in said[f"keys --control={tmp_path / 'control.sock'}"]
    assert b'"kind":"attempt"' in said["/api/journal"]
    texts = [text for route, text in said.items() if "/messages/" in route]
    assert len(texts) > 20 and any(b"401 Unauthorized" in text and b"WWW-Authenticate" in text for text in texts)
    assert b"MESSAGE" in said[f"trace --follow --json --control={tmp_path / 'control.sock'}"]
    places = said | files(tmp_path)
    assert any(name.endswith("pcscf.log") for name in places)
    assert leaks(places, wanted) == []


def test_a_process_without_export_may_not_be_dumped() -> None:
    """As another user: its /proc belongs to root once it may not be dumped, before that to the user."""
    script = (
        "import sys; import pcscf.keylog as keylog; sys.argv[1] == 'closed' and keylog.leave_no_core(); "
        "print(flush=True); input()"
    )
    owners = {}
    for which in ("open", "closed"):
        process = subprocess.Popen(
            [sys.executable, "-c", script, which],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=65534, group=65534, extra_groups=[],
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"\n"
        owners[which] = Path(f"/proc/{process.pid}/maps").stat().st_uid
        process.communicate(b"\n")
    assert owners == {"open": 65534, "closed": 0}


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    keys = tmp_path / "keys.esp_sa"
    with talked(tmp_path, keys) as (running, wanted):
        assert "KEY EXPORT IS ON" in running.log("pcscf")
        done = subprocess.run(
            [*PCSCF, "keys", f"--control={tmp_path / 'control.sock'}"], capture_output=True, check=True
        )
    assert keys.stat().st_mode & 0o777 == 0o600
    found = leaks(files(tmp_path) | {"keys": done.stdout}, wanted)
    assert str(keys) in found and "keys" in found
    assert str(tmp_path / "pcscf.log") not in found, "not in the log even then"
    secret = wanted[0]
    for shape in (
        secret,
        secret.hex().encode(),
        base64.b64encode(b"a" + secret + b"b"),
        base64.b64encode(b"ab" + secret),
    ):
        assert leaks({"x": b"before " + shape + b" after"}, wanted) == ["x"]


def test_nobody_else_may_ask_for_keys() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # it is the socket that refuses
        network = Network(f"pcscf-keys-{os.getpid()}")
        with plant(folder, network=network, ESPKEYLOGFILE=str(folder / "keys")):
            command = [*PCSCF, "keys", f"--control={folder / 'control.sock'}"]
            assert subprocess.run(command, capture_output=True).returncode == 0
            done = subprocess.run(command, capture_output=True, text=True, user=65534, group=65534, extra_groups=[])
    assert (done.returncode, done.stdout) == (1, "")
    assert "permission denied; only the user who runs the P-CSCF may ask" in done.stderr


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: path.touch(mode=0o644), "others may read it"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to("/dev/null"), "symbolic link"),
        (lambda path: os.mkfifo(path, 0o600), "name"),
    ],
)
def test_a_key_file_that_will_not_do_is_refused(tmp_path: Path, prepare: object, words: str) -> None:
    path = tmp_path / "keys"
    assert callable(prepare)
    prepare(path)
    done = subprocess.run(
        [*PCSCF, "run", f"--config={ROOT / 'config' / 'pcscf.toml'}"],
        env={**os.environ, "ESPKEYLOGFILE": str(path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1 and f"key file {path}: " in done.stderr and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
