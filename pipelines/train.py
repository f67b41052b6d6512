"""`workbench train`: a prior trained from manifests, whole at every moment, gone on with by the same call."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.verbs import Overrides
from pipelines.config.loading import config_hash, load, to_toml
from pipelines.config.manifest import GeneratorEntry
from pipelines.config.training import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.training.gathered import Gathered
    from pipelines.training.run_folder import RunFolder
    from workbench.priors.network import Card
    from workbench.priors.unet import UNet
    from workbench.training.batch import Batch
    from workbench.training.objective import Denoising
    from workbench.training.trainer import Report, Trainer
    from workbench.volume import Volume

Say = Callable[[str], None]
#: Recipes that come with the workbench, by name.
RECIPES = Path(__file__).parent / "training" / "recipes"
#: Beside those of a run, the seeds of what is looked at.
LOOKED_AT = 7


def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or a recipe by name: ct-slice, mr-slice.")],
    data: Annotated[Path, typer.Option("--data", help="Folder that the manifests' paths begin in.")] = Path(),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("training"),
    warm: Annotated[
        Path | None, typer.Option("--from", metavar="WEIGHTS", help="Weights to begin from (.safetensors).")
    ] = None,
    subjects: Annotated[
        Path | None, typer.Option("--subjects", help="Folder of generated subjects, shared between runs.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, cuda:1; auto: a GPU if there is one.")
    ] = "auto",
    show: Annotated[bool, typer.Option("--show", help="Print the settings as TOML and do nothing.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train a prior.

    The same call goes on where it stopped, with the losses it would have had. Several GPUs or processes:
    torchrun --nproc-per-node 2 -m pipelines.cli train ...
    """
    from pipelines.training.given import refuse_manifest

    refuse_manifest(Path(recipe))
    named = RECIPES / f"{recipe}.toml"
    config = load(TrainConfig, named if named.exists() else recipe, overrides=overrides or ())
    if show:
        typer.echo(to_toml(config), nl=False)
        return
    from pipelines.training.launch import among_ranks

    with among_ranks(device) as (place, first):
        say: Say = (lambda text: typer.echo(text, err=True)) if first else (lambda _: None)
        run(config, data, out, warm=warm, subjects=subjects, device=place, say=say)
    if first:
        typer.echo(out / "prior.safetensors")


def run(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    warm: Path | None = None,
    subjects: Path | None = None,
    device: str = "cpu",
    say: Say = print,
) -> dict[str, Any]:
    """Train up to the configured number of steps, in the folder `out`, and return the record of the run."""
    from pipelines.training.build import contrast_of, cutting_of, network_of, objective_of, settings_of
    from pipelines.training.data import fingerprint_of
    from pipelines.training.gathered import gather
    from pipelines.training.launch import laid_out
    from pipelines.training.run_folder import RunFolder, identity_of
    from workbench.io.tensor_file import open_tensors
    from workbench.training.ahead import Ahead
    from workbench.training.slices import SliceSource
    from workbench.training.trainer import Trainer

    # What settings alone can be wrong in comes before volumes are read.
    contrast, cutting, objective = contrast_of(config), cutting_of(config), objective_of(config)
    trainer = Trainer(laid_out(network_of(config), device), objective, settings_of(config), device=device)
    make = _maker(subjects or out / "subjects", say, first=trainer.rank == 0)
    found = gather(config, data, trainer, warm=warm, make=make, say=say)
    folder = RunFolder(out)
    identity = identity_of(config, fingerprint_of(found.trained), found.origin.first)
    curve = SliceSource(found.looked_at, contrast, cutting, seed=config.seed + LOOKED_AT)
    shown = curve.batch(0, range(config.report.images), 0)
    keeper = _Keeper(folder, config, objective, trainer, found, identity, shown, say)
    with keeper.alone():
        if folder.state.exists():
            file = open_tensors(folder.state)
            folder.check_goes_on(dict(file.metadata), identity)
            trainer.load(file.tensors())
            say(f"going on from step {trainer.step}")
        with Ahead(SliceSource(found.trained, contrast, cutting, seed=config.seed)) as ahead:
            return keeper.through(ahead)


@dataclass
class _Keeper:
    """Takes the steps, and keeps what is to be kept; only the first rank writes."""

    folder: RunFolder
    config: TrainConfig
    objective: Denoising
    trainer: Trainer
    found: Gathered
    identity: str
    curve: Batch
    say: Say
    lines: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    measured: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder meanwhile; those of one run go by their first."""
        from workbench.io.lock import FolderLock

        if not self.writes:
            yield
            return
        self.folder.samples.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.folder.lock)
        lock.take(str(self.folder.path))
        try:
            yield
        finally:
            lock.release()

    def through(self, source: Any) -> dict[str, Any]:
        """Train to the end; an interrupt keeps the state it came to."""
        from workbench.interrupts import interrupts_wait

        stated, trainer = self.config.report, self.trainer
        if self.writes:
            _write_text(self.folder.config, to_toml(self.config))
            self.lines = self.folder.losses_up_to(trainer.step)
            self.metrics, self.measured = self.folder.metrics_up_to(trainer.step)
        begun, first, recent = time.perf_counter(), trainer.step, []
        try:
            while trainer.step < self.config.optimiser.steps:
                # A step and its line, or neither.
                with interrupts_wait():
                    report = trainer.advance(source)
                    self.lines.append(_line(report))
                recent.append(report.loss)
                if report.step % stated.every == 0:
                    self._tell(report, recent, (time.perf_counter() - begun) / (report.step - first))
                    recent = []
                if report.step % stated.pictures == 0:
                    self._look()
                if report.step % stated.keep == 0:
                    self._keep()
        except KeyboardInterrupt:
            self._keep()
            self.say(f"stopped after step {trainer.step}, which is kept: the same call goes on")
            raise
        except ValueError:
            self.say(self.folder.last_kept())
            raise
        if self.measured != trainer.step:
            self._look()
        self._finish()
        return self._keep()

    @property
    def writes(self) -> bool:
        """Whether this process is the first."""
        return self.trainer.rank == 0

    def _tell(self, report: Report, recent: Sequence[float], seconds: float) -> None:
        left = (self.config.optimiser.steps - report.step) * seconds
        self.say(
            f"step {report.step:>7}   loss {sum(recent) / len(recent):.4f}   rate {report.rate:.1e}   "
            f"{seconds * 1000:.0f} ms a step   {_clock(left)} left"
        )

    def _look(self) -> None:
        """Measure the denoising curve of the averaged weights, and draw from them."""
        if not self.writes:
            return
        from workbench.training.curve import denoising_curve

        step = self.trainer.step
        batch = self.curve.to(self.trainer.device)
        curve = denoising_curve(self.trainer.average.module, self.objective, batch, self.config.report.levels)
        known = self.folder.known_curves() | {
            str(step): {f"{level:g}": rmse for level, rmse in curve.items()}
        }
        _write_text(self.folder.curves, json.dumps(known, indent=1) + "\n")
        self.metrics = {f"denoising rmse at {level:g}": rmse for level, rmse in curve.items()}
        self.measured = step
        self.say("  rmse at sigma " + "  ".join(f"{level:g}: {rmse:.4f}" for level, rmse in curve.items()))
        from pipelines.training.pictures import page_of_draws

        page = page_of_draws(self.trainer.average.module, self._card(), self.config.seed)
        _write_picture(self.folder.samples / f"step-{step:07d}.png", page)

    def _finish(self) -> None:
        """Measure what is said in the card alone: what half precision costs, and the spectrum of draws."""
        if not self.writes:
            return
        from pipelines.training.pictures import spectra
        from workbench.training.curve import denoising_curve

        rounded = copy.deepcopy(self.trainer.average.module).half().float()
        batch = self.curve.to(self.trainer.device)
        half = denoising_curve(rounded, self.objective, batch, self.config.report.levels)
        self.metrics |= {f"denoising rmse at {level:g}, float16": rmse for level, rmse in half.items()}
        whole = max(half[level] / self.metrics[f"denoising rmse at {level:g}"] - 1 for level in half)
        self.say(f"  weights in half precision raise an error by {whole:.2%} at most")
        self.notes = spectra(self.trainer.average.module, self._card(), self.config, self.curve)

    def _keep(self) -> dict[str, Any]:
        """Write state, losses and weights, each whole or not at all, the record last."""
        record = {
            "name": self.config.name,
            "step": self.trainer.step,
            "steps": self.config.optimiser.steps,
            "loss": float(self.lines[-1].split(",")[1]) if self.lines else None,
            "metrics": self.metrics,
            "measured": {"step": self.measured, "on": self.found.counted},
            "data": self.found.origin.data,
            "identity": self.identity,
            "config_sha256": config_hash(self.config),
            "first_weights": self.found.origin.first,
            "steps_before": self.found.origin.before,
        }
        if not self.writes:
            return record
        import torch

        from pipelines.training.run_folder import text_of
        from workbench.io.tensor_file import write_tensors
        from workbench.io.weights import write_network

        metadata = {"workbench.training": self.identity}
        # Losses first: those of steps after the state are dropped when the run goes on.
        _write_text(self.folder.losses, text_of(self.lines))
        write_tensors(self.folder.state, self.trainer.state(), metadata, overwrite=True)
        module = self.trainer.average.module
        write_network(self.folder.weights, module, self._card(), dtype=torch.float16, overwrite=True)
        _write_text(self.folder.record, json.dumps(record, indent=2) + "\n")
        return record

    def _card(self) -> Card:
        from pipelines.training.build import card_of
        from workbench.priors.network import Provenance

        origin = self.found.origin
        notes = {
            "config_sha256": config_hash(self.config),
            "generated_share": self.found.generated,
            "metrics_measured": {"step": self.measured, "on": self.found.counted},
        }
        told = Provenance(
            origin.data,
            attribution=origin.attribution,
            steps=origin.before + self.trainer.step,
            metrics=self.metrics,
            notes={**notes, **origin.notes(), **self.notes},
        )
        module: UNet = self.trainer.average.module  # type: ignore[assignment]  # the U-Net that it copied
        return card_of(self.config, module, told=told, spacing=self.found.spacing)


def _maker(cache: Path, say: Say, *, first: bool) -> Callable[[GeneratorEntry, int], Volume]:
    """Return what makes a subject, or reads the one that was made before."""
    from pipelines.training.launch import in_turn
    from pipelines.training.made import made, name_of, read_made, stored
    from workbench.io.tensor_file import write_tensors

    def make(entry: GeneratorEntry, seed: int) -> Volume:
        path = cache / name_of(entry, seed)

        def once() -> None:
            if not path.exists():
                say(f"  making {entry.kind} {seed}")
                cache.mkdir(parents=True, exist_ok=True)
                write_tensors(path, *stored(made(entry, seed)), overwrite=True)

        in_turn(first, once)
        return read_made(path)

    return make


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _line(report: Report) -> str:
    from pipelines.training.run_folder import line_of

    return line_of(report)


def _write_text(path: Path, text: str) -> None:
    from workbench.io.whole import written_whole

    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _write_picture(path: Path, page: NDArray[np.uint8]) -> None:
    from matplotlib.image import imsave

    from workbench.io.whole import written_whole

    with written_whole(path) as partial:
        imsave(partial, page, cmap="gray", vmin=0, vmax=255, format="png")
