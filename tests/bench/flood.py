"""How the P-CSCF stands floods: what a phone inside ESP and a new phone notice of them, and what they cost.

    python -m tests.bench flood [--seconds 10] [--kind register,options,junk,emergency,tcp,refused] [--sources 1,5000]

Everything runs as processes in namespaces of its own, for each flood anew: core, P-CSCF with the userspace backend, a
phone that writes all the time (`writer`), new phones, and what floods (`flooder`). A figure that has a target says so
beside it; a missed target fails nothing. Needs root.
"""

import argparse
import json
import math
import os
import resource
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tests.bench.attacked import MW, NEW_ADDRESSES, Counted, Helper, Watched, count, site
from tests.bench.flooder import BOUND, ONE, PCSCF, Plan
from tests.interop.phone import Phone, user
from tests.interop.plant import START_WITHIN, Plant

RATES = {
    "register-refused": 1000,
    "register-unknown": 1000,
    "register-known": 1000,
    "options": 4000,
    "junk": 5000,
    "emergency": 2500,
    "tcp": 2000,
    "refused": 0,
}
"""Requests a second, of `tcp` connections. `refused` is as many as there are, one after the other."""
SECONDS = 10.0
SOURCES = (1, 5000)
REQUESTS = 100_000
"""Of `refused`."""
ALL_TAKEN = 45.0
"""Seconds `refused` may take."""
MEDIAN_MS, REGISTERED_S, MEMORY_MIB, LOG_MB = 50.0, 2.0, 200.0, 1.0
"""What is wanted: less than each of these, and nothing lost."""
WRITES = 10.0
"""Messages a second of the phone inside ESP."""
QUIET = 1.0
"""Seconds that it writes before the flood."""
PATIENCE = 8.0
"""Seconds after which its message is lost."""
NEW = tuple(zip((0.15, 0.4, 0.65), NEW_ADDRESSES, ("--udp-only", "--tcp", "--udp-only"), strict=True))
"""New phones: the part of the flood after which each registers, its address and transport."""
FIRST_PORT = 31_744
FIRST_NEW = 2
"""Of the subscribers that are new phones."""
GIVEN_UP = 4.0
"""Seconds after a flood that a new phone still has."""
WITHIN = 450.0
"""Seconds for all; floods for which there is no time left are not measured."""
STARTING = 12.0
"""Seconds that starting, ending and waiting take with each flood."""
STUCK = 60.0
"""Seconds after which something does not end, and is given up."""
FILES = 1024
"""Open files that a process may have as long as it does not ask for more: what a shell gives."""
_SELF = os.getpid()

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a run of the benchmark does."""

    kinds: tuple[str, ...] = tuple(RATES)
    sources: tuple[int, ...] = SOURCES
    seconds: float = SECONDS
    requests: int = REQUESTS
    within: float = WITHIN
    logs: Path | None = None
    """Where the logs of the P-CSCF are kept."""


def target(figure: float | None, below: float) -> Figures:
    """A figure with its target beside it; None is one that was not reached at all."""
    return {"figure": figure, "target": f"below {below:g}", "met": figure is not None and figure < below}


def none_of(figure: int) -> Figures:
    return {"figure": figure, "target": "0", "met": figure == 0}


class NewPhone:
    """A phone that has never been there. It is started before it is needed: Python's start is nobody's fault."""

    def __init__(self, plant: Plant, number: int, moment: float, address: str, option: str) -> None:
        first = FIRST_PORT + 8 * number
        ports = f"{first}-{first + 7}"
        self._phone = Phone(plant, f"new{number}", user(number), address, f"--ports={ports}", option)
        self._phone.begin("wait 0")
        self.what = f"{option.lstrip('-')} {address}"
        self.moment = moment
        """Seconds after the beginning of the flood when it is to register."""
        self.begun = False

    def wait(self) -> None:
        """Until it is started."""
        self._phone.result(30.0)

    def begin(self) -> None:
        self.begun = True
        self._phone.begin("register")

    def seconds(self, within: float) -> float | None:
        """From its first REGISTER to the 200; None if that does not come in time."""
        with suppress(AssertionError):
            result = self._phone.result(max(within, 0.01))
            if result["ok"]:
                return float(result["seconds"])
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._phone.kill()
        self._phone.__exit__(None, None, None)


@contextmanager
def new_phones(plant: Plant, which: Sequence[tuple[float, str, str]]) -> Iterator[list[NewPhone]]:
    """New phones: when each registers, its address and transport."""
    with ExitStack() as stack:
        phones = [
            stack.enter_context(NewPhone(plant, number, *each)) for number, each in enumerate(which, start=FIRST_NEW)
        ]
        for each in phones:
            each.wait()
        yield phones


# What is measured


def watch(flooder: Helper, pcscf: Watched, phones: Sequence[NewPhone], seconds: float) -> Figures:
    """Have the phones register at their moments until the flood is over; what the flooder says of it."""
    begun = time.monotonic()
    while not flooder.has_said(0.1):
        passed = time.monotonic() - begun
        assert passed < seconds + STUCK / 2, "the flood does not end"
        for each in phones:
            if not each.begun and each.moment <= passed:
                each.begin()
        pcscf.look()
    said: Figures = flooder.answer(1.0)
    return said


def of_new_phones(phones: Sequence[NewPhone]) -> Figures:
    """What new phones noticed: the worst of them, and each."""
    for each in phones:
        if not each.begun:
            each.begin()
    end = time.monotonic() + GIVEN_UP
    seconds = {each.what: each.seconds(end - time.monotonic()) for each in phones}
    known = [each for each in seconds.values() if each is not None]
    return target(max(known) if len(known) == len(seconds) else None, REGISTERED_S) | {"each": seconds}


def of_messages(written: Figures, quiet: Figures) -> Figures:
    """What the phone inside ESP noticed."""
    ranked = [round(1000 * each, 1) for each in written["latencies"]]
    before = quiet["latencies"]
    return {
        "message_median_ms": target(round(statistics.median(ranked), 1) if ranked else None, MEDIAN_MS),
        "message_p99_ms": ranked[(len(ranked) * 99 - 1) // 100] if ranked else None,
        "message_max_ms": ranked[-1] if ranked else None,
        "message_median_ms_before": round(1000 * statistics.median(before), 1) if before else None,
        "messages": written["messages"],
        "messages_lost": none_of(written["messages"] - len(ranked)),
        "messages_not_back": none_of(written["not_back"]),
        "messages_sent_again": written["again"],
        "message_failures": Counter(written["failures"]),
    }


def of_flooder(plan: Plan, sent: Figures) -> Figures:
    """What was really sent: requests, or connections."""
    if plan.kind == "tcp":
        wanted = {"connections_wanted": plan.rate}
        return wanted | {f"connections_{name}": sent[name] for name in ("opened", "closed_by_peer", "most", "left")}
    wanted = {"requests_wanted": plan.total} if plan.total else {"rate_wanted": plan.rate}
    return {
        "seconds": round(sent["seconds"], 1),
        "requests": sent["sent"],
        "rate": round(sent["sent"] / sent["seconds"]),
    } | wanted


def of_answers(before: Counted, after: Counted) -> Figures:
    """What the P-CSCF answered in clear, and wrote down."""
    come = after.come - before.come
    return {
        "log_mb": target(round((after.logged - before.logged) / 1e6, 3), LOG_MB),
        "packets_out": after.packets - before.packets,
        "answers_by_status": after.statuses - before.statuses,
        "amplification": round((after.gone - before.gone) / come, 2) if come else None,
    }


def flooded(kind: str, sources: int, wanted: Wanted) -> Figures:
    """One flood on a P-CSCF of its own."""
    total = wanted.requests if kind == "refused" else 0
    seconds = ALL_TAKEN if total else wanted.seconds
    new = [(moment * seconds, address, option) for moment, address, option in NEW]
    if total:  # afterwards, and one of them where all the requests came from
        new = [(math.inf, NEW_ADDRESSES[0], "--udp-only"), (math.inf, NEW_ADDRESSES[1], "--tcp")]
        new += [(math.inf, ONE, "--udp-only")] if sources == 1 else []
    with site(wanted.logs and wanted.logs / f"{kind}-{sources}.log") as made:
        plant = made.plant
        plan = Plan(
            kind=kind, sources=sources, rate=RATES[kind], seconds=seconds, total=total, pid=made.pcscf,
            gateway=made.gateway,
        )  # fmt: skip
        with (
            Helper(plant, "flooder", json.dumps(asdict(plan))) as flooder,
            Helper(plant, "writer") as writer,
            new_phones(plant, new) as phones,
        ):
            writer.tell(writer_plan(plant))
            joined = writer.answer(START_WITHIN)
            assert joined["registered"], f"the phone is not registered before the flood: {joined['reason']}"
            assert flooder.line(START_WITHIN) == "ready\n"
            writer.tell({"name": "quiet", "rate": WRITES, "seconds": QUIET})
            quiet = writer.answer(QUIET + 3 * PATIENCE)
            before = count(plant)
            pcscf, core = Watched(made.pcscf), Watched(made.core)
            flooder.tell("go")
            if not total:
                writer.tell({"name": "flood", "rate": WRITES, "seconds": seconds})
            sent = watch(flooder, pcscf, phones, seconds)
            load = {"cpu": pcscf.cpu(), "cpu_waited": pcscf.waited(), "core_cpu": core.cpu()}
            registered = of_new_phones(phones)
            if total:
                writer.tell({"name": "after", "rate": WRITES, "seconds": QUIET})
            written = writer.answer(seconds + 3 * PATIENCE)
            return {
                "name": f"flood: {kind}",
                "sources": sources,
                **of_flooder(plan, sent),
                **of_messages(written, quiet),
                "new_phone_s": registered,
                "memory_mib": target(pcscf.peak_mib(), MEMORY_MIB),
                **of_answers(before, count(plant)),
                "dropped": {"clear": pcscf.dropped(PCSCF), "esp": pcscf.dropped_esp(), "core": pcscf.dropped(MW)},
                **load,
                "open_files": pcscf.files,
            }


def needed(kind: str, wanted: Wanted) -> float:
    """Seconds that a flood takes at most if nothing is wrong."""
    return (ALL_TAKEN if kind == "refused" else wanted.seconds) + STARTING


def writer_plan(plant: Plant) -> Figures:
    ue = {"impi": user(1), "address": "10.45.0.2", "pcscf": PCSCF, "tcp": False, "offer": "hmac-sha-1-96/aes-cbc"}
    return {
        "backend": "userspace", "subscribers": str(plant.subscribers), "ues": [ue], "patience": PATIENCE,
        "large_over_tcp": False,
    }  # fmt: skip


def measure(wanted: Wanted) -> Iterator[Figures]:
    """Each flood, and at last which targets were missed. One that cannot be measured says why."""
    missed = []
    end = time.monotonic() + wanted.within
    for kind in wanted.kinds:
        for sources in wanted.sources:
            try:
                left = end - time.monotonic()
                assert left > needed(kind, wanted), f"only {left:.0f} s of {wanted.within:g} are left"
                figures = flooded(kind, sources, wanted)
            except Exception as error:  # whatever it is, the other floods are measured
                why = f"{type(error).__name__}: {error}"[:2000]
                figures = {"name": f"flood: {kind}", "sources": sources, "failed": why}
                missed.append(f"{kind} from {sources}: not measured")
            for name, figure in figures.items():
                if isinstance(figure, dict) and not figure.get("met", True):
                    missed.append(f"{kind} from {sources}: {name} {figure['figure']}, wanted {figure['target']}")
            yield figures
    yield {"name": "flood", "missed": missed}


# The command line


def _kinds(text: str) -> tuple[str, ...]:
    """Each name stands for itself and what begins with it and a hyphen."""
    found: list[str] = []
    for name in text.split(","):
        these = [each for each in RATES if each == name or each.startswith(f"{name}-")]
        if not these:
            raise argparse.ArgumentTypeError(f"{name} is none of register, {', '.join(RATES)}")
        found += these
    return tuple(dict.fromkeys(found))


def _sources(text: str) -> tuple[int, ...]:
    sources = tuple(map(int, text.split(",")))
    if not all(0 < each < BOUND.num_addresses - 2 for each in sources):
        raise argparse.ArgumentTypeError(f"{text}: from 1 to {BOUND.num_addresses - 3}")
    return sources


def _stop(number: int, frame: object) -> None:
    """So that what was started ends and the namespaces go. Not where pyroute2 forks, and ends that with SIGTERM."""
    if os.getpid() != _SELF:
        os._exit(128 + number)
    if number == signal.SIGALRM:
        raise TimeoutError("it does not end; given up")
    raise SystemExit(128 + number)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench flood")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each flood")
    parser.add_argument("--kind", type=_kinds, default=tuple(RATES), help=f"of {', '.join(RATES)}; or register")
    parser.add_argument("--sources", type=_sources, default=SOURCES, help="how many, several with commas")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of the kind refused")
    parser.add_argument("--within", type=float, default=WITHIN, help="seconds for all of it")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs of the P-CSCF here")
    options = parser.parse_args(arguments)
    if os.geteuid():
        parser.error("it makes namespaces and raw sockets: run it as root")
    wanted = Wanted(
        kinds=options.kind,
        sources=options.sources,
        seconds=options.seconds,
        requests=options.requests,
        within=options.within,
        logs=options.logs,
    )
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _stop)
    signal.alarm(math.ceil(wanted.within + STUCK))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most), most))
    for figures in measure(wanted):
        print(json.dumps(figures), flush=True)
