"""The verb `verify` as a typer application; imported only when it is called."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipelines.cli.failures import ExitCode

verify = typer.Typer(no_args_is_help=True)


@verify.callback()
def about() -> None:
    """Hold what the workbench computes against answers known in closed form."""


@verify.command("integrators", epilog="Example: workbench verify integrators --json > integrators.json")
def verify_integrators(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Print integrator x evaluations -> error on a Gaussian mixture, and the orders measured.

    The mixture's denoiser is exact, so all of the error is the integrator's. Takes about a minute. Exits
    with 1 if an order is not the one that is claimed, within 0.2.
    """
    from pipelines.verify.integrators import EVALUATIONS, cells, facts, orders
    from pipelines.verify.tables import order_table, tables

    found = list(cells())
    slopes = list(orders())
    if as_json:
        records = {"cells": [facts(cell) for cell in found], "orders": [facts(order) for order in slopes]}
        typer.echo(json.dumps(records, indent=2))
    else:
        typer.echo("\n".join([*tables(found, EVALUATIONS), "", *order_table(slopes)]))
    if not all(order.passed for order in slopes):
        raise typer.Exit(ExitCode.SOME_FAILED)
