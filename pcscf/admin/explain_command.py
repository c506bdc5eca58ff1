"""`pcscf explain`: where one registration is, and if it is stuck, why, and what to do next."""

import argparse
import asyncio
from typing import Any

from pcscf.arguments import add_command, add_control, add_json


def add_explain_command(commands: Any) -> None:
    """Add `explain` to the parser of `pcscf`."""
    explain = add_command(
        commands,
        "explain",
        "say which step the registration of a UE has reached and, if it is stuck, why and what to do",
        "pcscf explain 001010000000001@ims.mnc001.mcc001.3gppnetwork.org\n"
        "  pcscf explain +15551230001\n"
        "  pcscf explain 10.45.0.2 --json",
    )
    explain.add_argument("ue", metavar="UE", help="IMPI, IMPU, number or address")
    add_control(explain)
    add_json(explain)
    explain.set_defaults(command=_explain)


def _explain(options: argparse.Namespace) -> int:
    """Exit status 0 where the UE is registered and nothing is wrong, else 1."""
    from rich.console import Console

    from pcscf.admin.client import ControlClient
    from pcscf.config import load

    control = options.control or load(options.config).control
    found = asyncio.run(ControlClient(control).explain(options.ue))
    healthy = found.causes[0].verdict == "healthy"
    if options.json:
        print(found.model_dump_json(indent=2))
        return 0 if healthy else 1
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style or None, markup=False)

    say(f"{found.impi}  {found.address}  {'registered' if found.registered else 'not registered'}", "bold")
    for step in found.steps:
        reached = f"{step.at:8.3f} s  ✓ " if step.at is not None else f"{'':10}  · "
        say(f"{reached}{step.text}", "green" if step.at is not None else "dim")
    if found.offered:
        say(f"offered  {found.offered}")
    if found.why:
        say(f"chosen   {found.chosen + ': ' if found.chosen else ''}{found.why}")
    for place, cause in enumerate(found.causes):
        say(f"\n{'or ' * bool(place)}{cause.verdict}: {cause.text}", "green bold" if healthy else "red bold")
        say(f"→ {cause.advice}")
    if found.evidence:
        say("\nfacts:")
        for each in found.evidence:
            say(f"  {each}")
    return 0 if healthy else 1
