"""The verbs `doctor` and `config` as typer functions; imported only when one of them is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.failures import ExitCode

config = typer.Typer(no_args_is_help=True)

File = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with settings.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a setting (repeatable): table.key=value"),
]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Report what works on this machine.

    Shows versions, CPU, memory, CUDA, ASTRA, OpenGL for the viewer, and for every optional extra what is
    installed and how to install the rest. Exits with 0 when the core works and 1 when it does not.
    """
    from rich.console import Console

    from pipelines.doctor.examine import examine
    from pipelines.doctor.view import show

    with Console(stderr=True).status("Asking torch and ASTRA ..."):
        report = examine()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        show(report, Console())
    if not report["healthy"]:
        raise typer.Exit(ExitCode.SOME_FAILED)


@config.command("show", epilog="Example: workbench config show --set scan.views=60 > demo.toml")
def show_config(file: File = None, overrides: Overrides = None) -> None:
    """Print the demo's configuration as TOML.

    Every value is shown as a run would use it, with what it means and its default.

    Later wins: defaults, then the file, then environment variables (WORKBENCH_SCAN__VIEWS=60), then --set.
    """
    from pipelines.config.demo import DemoConfig
    from pipelines.config.loading import load, to_toml

    typer.echo(to_toml(load(DemoConfig, file, overrides=overrides or ())), nl=False)


@config.command("check", epilog="Example: workbench config check demo.toml")
def check_config(
    file: Annotated[Path, typer.Argument(help="TOML file to check.")], overrides: Overrides = None
) -> None:
    """Check a configuration file.

    Every mistake is reported at once. Environment variables and --set are applied too, as a run would.
    """
    from pipelines.config.demo import DemoConfig
    from pipelines.config.loading import config_hash, load

    loaded = load(DemoConfig, file, overrides=overrides or ())
    typer.echo(f"{file}: valid, sha256 {config_hash(loaded)}")


@config.command("schema", epilog="Example: workbench config schema > demo.schema.json")
def print_schema() -> None:
    """Print the JSON Schema.

    Editors use it to complete and check the TOML file of the demo.
    """
    from pipelines.config.demo import DemoConfig
    from pipelines.config.loading import config_schema

    typer.echo(config_schema(DemoConfig))
