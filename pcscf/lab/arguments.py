"""Arguments that several commands of the simulators share, and waiting for the end."""

import argparse
import asyncio
import signal
from pathlib import Path

from pcscf.arguments import example

SUBSCRIBERS = "subscribers.toml"


def add_subscribers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--subscribers", type=Path, metavar="FILE", default=example(SUBSCRIBERS), help=f"default: config/{SUBSCRIBERS}"
    )


def add_backend(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", choices=("auto", "kernel", "userspace"), default="auto", help="who does ESP")


def port(text: str) -> int:
    """Raises ArgumentTypeError for what is no port."""
    number = int(text)
    if not 0 < number < 65_536:
        raise argparse.ArgumentTypeError(f"{number} is no port")
    return number


def share(text: str) -> float:
    """A number from 0 to 1. Raises ArgumentTypeError."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{number} is no share from 0 to 1")
    return number


async def until_told() -> None:
    """Until SIGTERM or Ctrl-C."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
