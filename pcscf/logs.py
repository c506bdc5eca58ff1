"""What `pcscf run` writes to standard error: a line for each registration event and problem, for people or machines.

A line says whose it is, in which dialog, and the cause; a record of the journal is its source, so no key can be in it.
What strangers can cause is limited, and it is said how much was left out.
Whatever peers put into it, it stays one line: only a whole message and a traceback have more, and theirs are set in.
Rotation is left to whoever keeps the output.
"""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal

from pcscf.observe import Attempt, MessageSeen, Problem, Record, describe
from pcscf.printable import printable, printable_lines, printable_message
from pcscf.ratelimit import Origin, Rate, RateLimit, Rates, origin_of

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning"]
log = logging.getLogger("pcscf")
FIELDS = ("event", "kind", "ue", "call_id", "flow")
"""Of a record, beside its text."""
PROBLEMS = Rates(source=Rate(20, 1), all=Rate(200, 2))
"""Lines that strangers can cause: a flood of all kinds stays below a megabyte in its first ten seconds."""
REGISTRATIONS = Rates(source=Rate(100, 10), all=Rate(1500, 50))
"""Lines about sets and registrations, and when debugging about messages."""
_limit: RateLimit | None = None
"""From `set_up` on."""


def set_up(level: LogLevel, style: LogFormat) -> None:
    """Begin to write, or write in another way from now on."""
    global _limit
    if _limit is None:
        _limit = RateLimit(unusual=PROBLEMS, usual=REGISTRATIONS)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    handler.addFilter(_is_admitted)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _is_admitted(line: logging.LogRecord) -> bool:
    """Lines that are no record's, those of asyncio among them: each place in the code has a share of its own."""
    if _limit is None or hasattr(line, "event"):
        return True
    return _limit.admits(Origin(f"lines of {line.name}", (line.pathname, line.lineno)), time.monotonic())


def tell_left_out() -> None:
    """Say how many lines were left out, once there are no more of them or every some seconds."""
    if _limit is not None:
        for each in _limit.left_out(time.monotonic()):
            log.warning("log: %s", each, extra={"event": "LeftOut"})


class ConsoleFormatter(logging.Formatter):
    """Time, level, whose, what, and where it came from."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        ue, flow, call_id = (getattr(record, name, "") for name in ("ue", "flow", "call_id"))
        where = ", ".join(filter(None, (flow, f"Call-ID {call_id}" if call_id else "")))
        line = super().formatMessage(record)
        if ue:
            line = f"{line.removesuffix(record.message)}{ue}: {record.message}"
        line = printable(f"{line} ({where})" if where else line)
        return "\n".join((line, *map(_set_in, getattr(record, "whole", "").splitlines())))

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(_set_in, printable_lines(super().formatException(ei)).split("\n")))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "text": printable(record.getMessage()),
            **{name: printable(value) for name in FIELDS if (value := getattr(record, name, ""))},
        }
        if whole := getattr(record, "whole", ""):
            row["text"] += f"\n{whole}"
        if record.exc_info:
            row["traceback"] = printable_lines(self.formatException(record.exc_info))
        return json.dumps(row, ensure_ascii=False)


def _set_in(line: str) -> str:
    return f"    {line}".rstrip()


def write_message(seen: MessageSeen, text: bytes) -> None:
    """A message of a UE that the operator follows, whole."""
    shown = printable_message(text.rstrip())
    extra = {"event": "Message", "ue": str(seen.flow.remote), "call_id": seen.call_id, "flow": str(seen.flow)}
    log.info("%s", describe(seen), extra=extra | {"whole": shown})


def write(record: Record) -> None:
    """A journal record as a line: messages and attempts for debugging, problems as warnings."""
    match record:
        case MessageSeen() | Attempt():
            level = logging.DEBUG
        case Problem():
            level = logging.WARNING
        case _:
            level = logging.INFO
    if not log.isEnabledFor(level) or not (_limit is None or _limit.admits(origin_of(record), time.monotonic())):
        return
    flow = record.flow if isinstance(record, Problem) else None
    log.log(
        level,
        "%s",
        describe(record),
        extra={
            "event": type(record).__name__,
            "kind": record.kind.value if isinstance(record, Problem) else "",
            "ue": "" if isinstance(record, MessageSeen) else record.impi,
            "call_id": record.call_id,
            "flow": "" if flow is None else str(flow),
        },
    )
