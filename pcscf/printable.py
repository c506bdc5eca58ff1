"""Text of peers on its way to people, programs and files: the one place that makes it fit to be shown or kept.

Messages are decoded so that every octet survives (`surrogateescape`), so their text may hold what cannot be encoded at
all, what a terminal obeys, and what turns the direction of a line around. Inside it stays as it came; every exit (log,
API, page, terminal, export) shows it through here.
"""

import json
import re
from typing import Any

_LINE_BREAK = re.compile(r"\r\n|\r|\n")


def printable(text: str) -> str:
    r"""One line: what is not a visible character stands there as `\x1b`, an octet that is no UTF-8 as `\xff`."""
    return text if text.isprintable() else text.translate(_shown)


def printable_lines(text: str) -> str:
    """The same for text of several lines, as a message or a traceback: its line breaks stay, as LF, and tabs do."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in _LINE_BREAK.split(text))


def printable_message(octets: bytes) -> str:
    """A SIP message for people."""
    return printable_lines(octets.decode("utf-8", "surrogateescape"))


def printable_data(value: Any) -> Any:
    """The same for all texts of plain data: of its lists and its dictionaries, the names in these included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_data(name): printable_data(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [printable_data(each) for each in value]
    return value


def reversible(text: str) -> str:
    """ASCII that stands for exactly this text and no other: for the names of what is stored."""
    return json.dumps(text)[1:-1]


class _Shown(dict[int, str]):
    """How each character is shown; kept are the few that hostile text is made of."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        shown = character if character.isprintable() else _named(code)
        if code <= 0xFF or 0xDC80 <= code <= 0xDCFF:
            self[code] = shown
        return shown


_shown = _Shown()


def _named(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # an octet that `surrogateescape` has let through
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
