"""Arguments that several commands share, and how a command is added to the parser of `pcscf`."""

import argparse
from pathlib import Path
from typing import Any

DEFAULT_CONFIG = Path("config/pcscf.toml")


def example(name: str) -> Path:
    """A file of `config/`: the one here, or that which came with the package."""
    here = Path("config") / name
    packaged = Path(__file__).parent / "examples" / name
    return here if here.exists() or not packaged.exists() else packaged


def add_command(commands: Any, name: str, purpose: str, examples: str) -> argparse.ArgumentParser:
    """Add a command. `examples` are lines of a shell, each after the first indented by two spaces."""
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return made


def add_configuration(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-c", "--config", type=Path, metavar="FILE", default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}"
    )


def add_control(command: argparse.ArgumentParser) -> None:
    """Which running P-CSCF to ask."""
    add_configuration(command)
    command.add_argument(
        "--control", type=Path, metavar="SOCKET", help="control socket (default: that of the configuration)"
    )


def add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="write JSON for scripts")


def add_keys(command: argparse.ArgumentParser) -> None:
    """Any number of key files."""
    command.add_argument(
        "-k", "--keys", type=Path, metavar="FILE", action="append", default=[], help="esp_sa lines; may be repeated"
    )
