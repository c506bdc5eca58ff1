"""`pcscf ue` as people and other programs start it."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pcscf.cli import main
from pcscf.lab import ue_command
from tests.fake_kernel import FakeKernel
from tests.unit.lab.passing import PassingPcscf, free_port, subscriber
from xfrm.backend import Choice
from xfrm.model import IPAddress


@contextmanager
def running() -> Iterator[PassingPcscf]:
    """The P-CSCF of the tests on a loop of its own."""
    pcscf = PassingPcscf()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(pcscf.start(), loop).result(5)
        yield pcscf
    finally:
        asyncio.run_coroutine_threadsafe(pcscf.transport.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setattr(ue_command, "open_backend", lambda name: Choice(FakeKernel(), "it is a test"))
    subscribers = tmp_path / "subscribers.toml"
    one = subscriber(0)
    subscribers.write_text(
        f'[[subscriber]]\nimpi = "{one.impi}"\nimpus = {json.dumps(list(one.impus))}\nk = "{1:032x}"\n'
        'opc = "cd63cb71954a9f4e48a5994e37a02baf"\n'
    )
    with running() as pcscf:
        own: IPAddress = pcscf.address.__class__("127.0.0.2")
        assert free_port(own)
        yield [
            f"--subscribers={subscribers}",
            f"--address={own}",
            f"--pcscf={pcscf.address}",
            f"--port={pcscf.ports['clear']}",
        ]


def test_register_as_ever(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ue", "register", *arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["registered"] and said["status"] == 200 and len(said["ladder"]) == 4
    assert main(["ue", "register", *arguments, "--fault=ignore-challenge"]) == 1
    assert "not registered: the challenge is ignored" in capsys.readouterr().out


def test_a_script(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ue", *arguments, "-x", "register; wait 0; deregister", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and [step["name"] for step in report["steps"]] == ["register", "wait", "deregister"]
    assert main(["ue", *arguments, "-x", "register; hangup; deregister"]) == 1
    shown = capsys.readouterr().out
    assert "ok        register: 200 registered" in shown
    assert "FAILED    hangup: there is no call" in shown and "not done  deregister" in shown


def test_steps_from_standard_input(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"register\ncal bob\n# nothing\nreregister\nderegister\n")
    os.close(writing)
    with open(reading) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert main(["ue", *arguments, "-x", "-"]) == 1
    said: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["name"], each["ok"]) for each in said] == [
        ("register", True),
        ("", False),
        ("reregister", True),
        ("deregister", True),
    ]
    assert "did you mean call?" in said[1]["reason"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "either `register` or -x SCRIPT is needed"),
        (["register", "-x", "register"], "either `register` or -x SCRIPT is needed"),
        (["-x", "regster"], "did you mean register?"),
    ],
)
def test_what_cannot_be_started(
    arguments: list[str], more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["ue", *arguments, *more])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2 or status == 1
    assert words in capsys.readouterr().err


def test_the_help_lists_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ue", "--help"])
    assert "expect-message [TEXT] [within N]" in capsys.readouterr().out
