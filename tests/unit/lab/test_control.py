"""Commands to a running core: what is read, and the socket it comes by."""

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from pcscf.lab.bindings import ContactEvent
from pcscf.lab.challenge import CoreFault
from pcscf.lab.control import Control, ControlError, command, tell


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def deregister(self, impi: str, event: ContactEvent = ContactEvent.DEACTIVATED) -> None:
        if impi == "nobody":
            raise ControlError("no subscriber nobody")
        self.said.append(("deregister", impi, event))

    def shorten(self, impi: str, seconds: float) -> None:
        self.said.append(("shorten", impi, seconds))

    def rechallenge(self, impi: str) -> None:
        self.said.append(("rechallenge", impi))

    def fault(self, impi: str, *faults: CoreFault) -> None:
        self.said.append(("fault", impi, *faults))

    def hang_up(self, number: str) -> int:
        return 2

    def registered(self) -> list[dict[str, object]]:
        return [{"impi": "a@b", "seconds": 5}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("deregister a@b", ("deregister", "a@b", ContactEvent.DEACTIVATED)),
        ("deregister a@b rejected\n", ("deregister", "a@b", ContactEvent.REJECTED)),
        ("shorten a@b 60", ("shorten", "a@b", 60)),
        ("rechallenge a@b", ("rechallenge", "a@b")),
        ("fault a@b missing-ik late-200", ("fault", "a@b", CoreFault.MISSING_IK, CoreFault.LATE_200)),
        ("fault a@b none", ("fault", "a@b")),
    ],
)
def test_commands(line: str, said: tuple[object, ...]) -> None:
    core = Told()
    assert command(core, line) == "ok"
    assert core.said == [said]


def test_commands_that_answer() -> None:
    assert command(Told(), "registered") == 'ok [{"impi": "a@b", "seconds": 5}]'
    assert command(Told(), "hangup echo") == "ok 2 calls"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "is no command; there are: deregister"),
        ("dance a@b", "is no command"),
        ("deregister a@b refreshed", "is no command"),
        ("deregister nobody", "no subscriber nobody"),
        ("shorten a@b soon", "is no command"),
        ("shorten a@b 0", "is no command"),
        ("fault a@b laziness", "'laziness' is none of missing-ik"),
        ("fault a@b", "is no command"),
    ],
)
def test_commands_that_are_refused(line: str, words: str) -> None:
    core = Told()
    answer = command(core, line)
    assert answer.startswith("error: ") and words in answer and "\n" not in answer
    assert core.said == []


def test_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "core.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))

    async def scenario() -> None:
        control = Control(path, lambda line: "error: no" if "x" * 9 in line else f"ok {line.strip()}")
        await control.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await asyncio.to_thread(tell, path, "first") == "first"
        with pytest.raises(ControlError, match=r"^no$"):
            await asyncio.to_thread(tell, path, "x" * 9)
        with pytest.raises(ControlError, match="at most 4096 octets"):
            await asyncio.to_thread(tell, path, "y" * 10_000)
        with pytest.raises(ControlError, match="another process is running with it"):
            await Control(path, str).start()
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"one\ntwo\n")
        assert [await reader.readline(), await reader.readline()] == [b"ok one\n", b"ok two\n"]
        await control.close()
        assert await reader.read() == b""
        writer.close()
        assert not path.exists()

    asyncio.run(scenario())
    with pytest.raises(ControlError, match="no core listens"):
        tell(path, "registered")
    path.write_text("a file")
    with pytest.raises(ControlError, match="something else is there"):
        asyncio.run(Control(path, str).start())
