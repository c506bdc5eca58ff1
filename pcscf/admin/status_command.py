"""`pcscf status`: the state of a running P-CSCF on one screen, once or live."""

import argparse
import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from pcscf.arguments import add_command, add_control, add_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pcscf.admin.client import ControlClient

EVERY = 1.0
"""Seconds between two looks of --watch."""
PROBLEMS = 8


def add_status_command(commands: Any) -> None:
    """Add `status` to the parser of `pcscf`."""
    status = add_command(
        commands,
        "status",
        "show the state of the running P-CSCF: registrations, sets of SAs, next hops, recent problems",
        "pcscf status\n  pcscf status --watch\n  pcscf status --json",
    )
    add_control(status)
    status.add_argument("--watch", action="store_true", help="live, until Ctrl-C")
    add_json(status)
    status.set_defaults(command=_status)


def _status(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.live import Live

    from pcscf.admin.client import ControlClient
    from pcscf.config import load

    client = ControlClient(options.control or load(options.config).control)
    if options.json:
        print(json.dumps(asyncio.run(_gathered(client)), indent=2))
        return 0
    console = Console(highlight=False)
    if not options.watch:
        console.print(asyncio.run(_drawn(client)))
        return 0
    with Live(asyncio.run(_drawn(client)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY)
            live.update(asyncio.run(_drawn(client)), refresh=True)


async def _gathered(client: "ControlClient") -> dict[str, Any]:
    """Everything, for scripts."""
    status, registrations, sas, hops = await asyncio.gather(
        client.status(), client.registrations(), client.sas(), client.hops()
    )
    states: dict[str, set[int]] = {}
    for row in sas:
        states.setdefault(row.state, set()).add(row.set_id)
    return {
        **status.model_dump(mode="json"),
        "sets_by_state": {state: len(sets) for state, sets in sorted(states.items())},
        "waiting": [row.impi for row in registrations if not row.registered],
        "dropped": sum(row.replay_drops + row.integrity_failures for row in sas),
        "next_hops": [row.model_dump(mode="json") for row in hops.hops],
        "problems": [row.record for row in await client.journal() if row.kind == "problem"][-PROBLEMS:],
    }


async def _drawn(client: "ControlClient") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from pcscf.admin.tables import hop_table

    found = await _gathered(client)
    hops = (await client.hops()).hops
    states = ", ".join(f"{count} {state}" for state, count in found["sets_by_state"].items()) or "none"
    believed = 4 * found["sets"]
    sas = f"{found['sas']} in the {found['backend']} backend"
    lost = found["sas"] != believed
    lines = [
        Text.assemble(("P-CSCF ", "bold"), f"process {found['pid']} on {', '.join(found['gm'])}"),
        Text(f"registered    {found['registered']} UEs; {len(found['waiting'])} try to be"),
        Text(f"sets of SAs   {states}"),
        Text(f"SAs           {sas}, {believed} believed", style="red" if lost else ""),
        Text(f"dropped       {found['dropped']} packets by live SAs", style="red" if found["dropped"] else ""),
        Text(
            f"under way     {found['transactions']} transactions, {found['dialogs']} dialogs, "
            f"{found['connections']} TCP connections"
        ),
    ]
    if found["fault"]:
        lines.insert(1, Text(f"NOT SERVED    protected ports: {found['fault']}", style="bold red"))
    if found["clear_lost"]:
        lines.append(Text(f"flooded       {found['clear_lost']} datagrams in clear were not looked at"))
    if found["guards_lost"]:
        lines.append(Text(f"guards        {found['guards_lost']} times one of the protected ports was found gone"))
    problems = [Text(f"! {each['impi'] + ': ' if each['impi'] else ''}{each['detail']}") for each in found["problems"]]
    shown: list[RenderableType] = [*lines]
    if hops:
        shown += [Text(), hop_table(hops)]
    if problems:
        shown += [Text(), Text("recent problems", style="bold"), *problems]
    return Group(*shown)
