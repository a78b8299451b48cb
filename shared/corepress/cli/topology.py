"""``corepress topology``: the broker's exchanges and queues."""

from __future__ import annotations

import click

from corepress.cli.output import command, print_json
from corepress.config import read_settings
from corepress.domain.errors import BusUnavailable


@click.group()
def topology() -> None:
    """Set up the fleet's broker, or compare it with what it should be.

    \b
    Example:
      corepress topology apply
    """


@topology.command()
@command
def apply(as_json: bool) -> None:
    """Make the exchanges and queues that are missing; what is there is left as it is.

    \b
    Example:
      corepress topology apply
    """
    from corepress.connections import apply_topology  # noqa: PLC0415  (see cli/submit.py)

    wanted = apply_topology(read_settings())
    exchanges = [exchange.name for exchange in wanted.exchanges]
    queues = [queue.name for queue in wanted.queues]
    if as_json:
        print_json({"exchanges": exchanges, "queues": queues})
    else:
        click.echo(f"{len(exchanges)} exchanges and {len(queues)} queues are there")


@topology.command()
@command
def check(as_json: bool) -> None:
    """Tell what is missing or differs; nothing is changed.

    \b
    Example:
      corepress topology check
    """
    from corepress.connections import topology_faults  # noqa: PLC0415  (see cli/submit.py)

    faults = topology_faults(read_settings())
    if faults:
        raise BusUnavailable(
            "; ".join(faults),
            hint="`corepress topology apply` makes what is missing; what differs has to be removed "
            "first, when it is empty",
        )
    if as_json:
        print_json({"faults": faults})
    else:
        click.echo("all exchanges and queues are there")
