"""Views as tables for a terminal. Colour only repeats what the words say."""

from collections.abc import Sequence

from rich.table import Table

from pcscf.admin.views import SaRow


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
