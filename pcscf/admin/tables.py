"""Views as tables for a terminal. Colour only repeats what the words say."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from pcscf.admin.views import HopRow, SaRow


def sa_table(rows: Sequence[SaRow]) -> Table:
    """One line for each SA of a set: where it leads, how it is secured, what it has carried and dropped."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("SA", justify="right", no_wrap=True)
    table.add_column("direction", no_wrap=True)
    table.add_column("ports", no_wrap=True)
    table.add_column("algorithms", no_wrap=True)
    table.add_column("packets", justify="right")
    table.add_column("dropped", justify="right")
    for row in rows:
        pair = [name for name in (row.integrity, row.encryption) if name != "null"]
        dropped = row.replay_drops + row.integrity_failures
        table.add_row(
            str(row.spi),
            "UE → P-CSCF" if row.uplink else "P-CSCF → UE",
            f"{row.source_port} → {row.destination_port}",
            " + ".join(pair),
            str(row.packets),
            f"[red]{dropped}[/]" if dropped else "0",
        )
    return table


def hop_table(rows: Sequence[HopRow]) -> Table:
    """One line for each next hop: what it is, how it does, what went there."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("next hop", no_wrap=True)
    table.add_column("priority", justify="right")
    table.add_column("weight", justify="right")
    table.add_column("state", no_wrap=True)
    table.add_column("answered", justify="right")
    table.add_column("failed", justify="right")
    table.add_column("probes", justify="right", no_wrap=True)
    colours = {"active": "green", "probing": "yellow", "inactive": "red", "disabled": "red"}
    for row in rows:
        table.add_row(
            escape(row.name),
            str(row.priority),
            str(row.weight),
            f"[{colours[row.state]}]{row.state}[/]",
            str(row.answered),
            str(row.failed),
            f"{row.probes} ({row.probes_failed} failed)" if row.probes_failed else str(row.probes),
        )
    return table
