"""Ladders as text: hosts side by side, an arrow for each message with the ports at its ends.

Double lines ride on ESP, single ones go in clear, dashed ones stayed shut. What does not fit is cut from the text of an
arrow, never from the way it went.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pcscf.printable import printable

TIME = 9
PORT = 6
_LEAD = 7
"""Octets before an arrow in the first space between hosts: its port and a blank; elsewhere two fewer."""
DOUBLE, SINGLE, DASHED = "═", "─", "╌"


class Arrow(NamedTuple):
    """One message between the hosts of two columns, `left` < `right`. `way` stays whole, `text` is cut."""

    left: int
    right: int
    left_port: str
    right_port: str
    rightward: bool
    text: str
    way: str = ""
    sign: str = SINGLE


class Sheet:
    """Columns with so many characters for an arrow between each and the next."""

    def __init__(self, names: Sequence[str], widths: Sequence[int]) -> None:
        self.names = tuple(map(printable, names))
        self._starts = [0]
        self._ends = []
        for place, width in enumerate(widths):
            arrow = self._starts[-1] + _lead(place)
            self._ends.append(arrow + width)
            self._starts.append(arrow + width + 1 + PORT)

    def heading(self) -> str:
        """The names above their columns."""
        line = ""
        for place, name in enumerate(self.names):
            middle = TIME + (self._starts[place] if place else PORT - 1)
            line = line.ljust(max(middle - len(name) // 2, len(line) + bool(place))) + name
        return line

    def line(self, arrows: Sequence[Arrow]) -> str:
        """Arrows side by side, without the time before them."""
        line = ""
        for arrow in arrows:
            start = self._starts[arrow.left]
            port = f"{arrow.left_port:>{PORT}} " if not arrow.left else f"{arrow.left_port:<{PORT - 1}}"
            width = self._ends[arrow.right - 1] - start - _lead(arrow.left)
            line = f"{line:<{start}}{port}{_shaft(arrow, width)} {arrow.right_port}"
        return line

    def itself(self, place: int, text: str) -> str:
        """A word below one host."""
        return " " * self._starts[place] + printable(text)


def _lead(place: int) -> int:
    return PORT - 1 if place else _LEAD


def _shaft(arrow: Arrow, width: int) -> str:
    sign = arrow.sign
    way = f" {sign * 2} {arrow.way}" if arrow.way else ""
    room = width - 5 - len(way)
    text = printable(arrow.text)
    if len(text) > room:
        text = f"{text[: max(room - 1, 0)]}…"
    label = text + way
    if arrow.rightward:
        return f"{sign * 2} {label} ".ljust(width - 1, sign) + "▶"
    return "◀" + f"{sign} {label} ".ljust(width - 1, sign)
