"""What the cases share: how often to measure, the peers and where each lives, the versions that took part."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from operators.extras import DISTRIBUTION, MissingExtraError
from pipelines.bench.environment import Environment
from pipelines.bench.table import Absent, Row
from pipelines.bench.timing import Plan
from pipelines.bench.worker import PeerFailedError, Worker

__all__ = ["PEERS", "Peer", "Session", "attempted"]

#: Whose packages a peer in our own environment may import, or one that shares some: where ours lie.
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Peer:
    """A peer: its name in tables, its file in peers/, its package, and the extra of ours that brings it.

    Without an extra it lives in the environment of peers. With `shared` it may import what of ours needs
    torch and numpy alone, such as a network that both are to run.
    """

    name: str
    file: str
    package: str
    extra: str = ""
    shared: bool = False

    @property
    def path(self) -> Path:
        """The file that `serving.py` runs."""
        return Path(__file__).parent / "peers" / f"{self.file}.py"


PEERS = {
    "astra": Peer("ASTRA linear, CPU", "astra_linear", "astra", "ct"),
    "scikit-image": Peer("scikit-image radon, iradon", "scikit_image", "skimage", "image"),
    "deepinv": Peer("deepinv Tomography", "deepinv_tomography", "deepinv"),
    "deepinv-guidance": Peer("deepinv sampling", "deepinv_guidance", "deepinv", shared=True),
    "sigpy": Peer("sigpy NUFFT", "sigpy_nufft", "sigpy", "mri"),
    "torchkbnufft": Peer("torchkbnufft", "torchkbnufft_toeplitz", "torchkbnufft"),
}


@dataclass
class Session:
    """One run of the bench; `say` tells a person what is being done."""

    plan: Plan
    environment: Environment
    say: Callable[[str], None] = print
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    @contextmanager
    def worker(
        self, peer: Peer, settings: Mapping[str, object], arrays: Mapping[str, NDArray[Any]]
    ) -> Iterator[Worker]:
        """Provide the worker of a peer, or raise PeerFailedError with what to type."""
        if peer.extra and importlib.util.find_spec(peer.package) is None:
            raise PeerFailedError(f"not installed: pip install '{DISTRIBUTION}[{peer.extra}]'")
        if not peer.extra and not self.environment.is_made:
            raise PeerFailedError(f"not installed: {self.environment.command}")
        python = Path(sys.executable) if peer.extra else self.environment.python
        importable = ROOT if peer.extra or peer.shared else None
        with Worker(python, peer.path, settings, arrays, importable=importable) as worker:
            self.versions[peer.name] = worker.versions
            yield worker


def attempted(rows: Iterator[Row], case: str, work: str, peer: str) -> Iterator[Row]:
    """Yield the rows, and where the peer fails a row that says so."""
    try:
        yield from rows
    except (PeerFailedError, MissingExtraError) as error:
        yield Absent(case, work, peer, str(error))
