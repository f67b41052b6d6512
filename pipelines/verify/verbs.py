"""The verb `verify` as a typer application; imported only when it is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.failures import ExitCode

verify = typer.Typer(invoke_without_command=True)

Names = Annotated[
    list[str] | None,
    typer.Option("--problem", metavar="NAME", help="A problem alone (repeatable): P1, ct64, ..."),
]
Solvers = Annotated[
    list[str] | None,
    typer.Option("--solver", metavar="MODULE:CLASS", help="A solver of your own, alone (repeatable)."),
]


@verify.callback()
def referee(
    context: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Fewer problems and draws: minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as one JSON list.")] = False,
    problems: Names = None,
    solvers: Solvers = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Write verify.html, .png and .json.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes; one per core.")] = None,
) -> None:
    """Hold every sampler against posteriors known in closed form.

    Prints solver x problem with the errors of mean, covariance, spread, modes and intervals, what it cost,
    and whether the figures lie where the solver's own law puts them. Exits with 1 if one does not.
    """
    if context.invoked_subcommand is not None:
        return
    from pipelines.verify.referee.run import Result, chosen, run
    from pipelines.verify.referee.table import records, report, rows, verdict

    def told(result: Result) -> None:
        typer.echo(f"{result.problem:10} {result.solver:26} {verdict(result)}", err=True)

    if solvers:
        # A console script's own folder comes first on the path, the folder it is called from not at all.
        sys.path.append(str(Path.cwd()))
    # Whatever is named twice is run once.
    names = chosen(tuple(dict.fromkeys(problems or ())), fast=fast)
    mine = tuple(dict.fromkeys(solvers or ()))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # what cannot be written is said before anything is computed
    results = run(names, fast=fast, solvers=mine, jobs=jobs, told=told)
    if as_json:
        typer.echo(json.dumps(records(results), indent=2))
    else:
        typer.echo("\n".join([*rows(results), "", *report(results)]))
    if out is not None:
        from pipelines.verify.referee.page import write_page

        for path in write_page(results, out):
            typer.echo(f"wrote {path}", err=True)
    if not all(result.passed for result in results):
        raise typer.Exit(ExitCode.SOME_FAILED)


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
