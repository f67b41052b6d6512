"""An environment for peers that ours cannot hold: made by pip where `make bench` or `--install` asks for it.

deepinv imports torchvision, which has to fit its torch; both, and torchkbnufft, are pinned in peers/pins.txt.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.bench.worker import PeerFailedError

__all__ = ["PINS", "Environment"]

PINS = Path(__file__).parent / "peers" / "pins.txt"
#: Where the CPU builds of the torch pair are; elsewhere they are the CUDA builds, several GB of them.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class Environment:
    """The virtual environment `folder`/peers, as `pins` wants it."""

    def __init__(self, folder: Path, pins: Path = PINS) -> None:
        self.folder = folder.resolve()
        self.pins = pins
        self._stamp = self.folder / "peers" / ".made"

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "peers" / "bin" / "python"

    @property
    def command(self) -> str:
        """What makes it, and what became of it when it was made last."""
        command = f"make bench, or python -m pipelines.bench --install --folder {self.folder}"
        log = self.folder / "peers.log"
        failed = log.exists() and not self._stamp.exists()
        return f"{command}; pip failed the last time: {log}" if failed else command

    @property
    def is_made(self) -> bool:
        """Whether it is here, whole, at the pins of this version, and where it was made."""
        if not self.python.exists() or not self._stamp.exists():
            return False
        return self._stamp.read_text(encoding="utf-8") == self._wanted()

    def make(self) -> None:
        """Make it anew: a few minutes and about 1.3 GB. What pip says goes to peers.log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Everything here is made by this program: git sees none of it.
        (self.folder / ".gitignore").write_text("*\n", encoding="utf-8")
        shutil.rmtree(self.folder / "peers", ignore_errors=True)
        with (self.folder / "peers.log").open("w", encoding="utf-8") as log:
            _call([sys.executable, "-m", "venv", str(self.folder / "peers")], log)
            pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
            pair = [line for line in self._lines() if line.startswith(("torch==", "torchvision=="))]
            near = ["--no-deps", "--retries", "0", "--timeout", "5", "--index-url", CPU_INDEX]
            try:
                _call([*pip, *near, *pair], log)
            except PeerFailedError:
                # No way to that index: the plain wheels of the same versions.
                _call([*pip, "--no-deps", *pair], log)
            _call([*pip, "-r", str(self.pins)], log)
        self._stamp.write_text(self._wanted(), encoding="utf-8")

    def _lines(self) -> list[str]:
        lines = self.pins.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    def _wanted(self) -> str:
        pins = hashlib.sha256("\n".join(self._lines()).encode()).hexdigest()
        return f"{pins} {self.folder} {sys.version_info.major}.{sys.version_info.minor}"


def _call(command: list[str], log: object) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)  # type: ignore[call-overload]
    if done.returncode:
        raise PeerFailedError(f"`{' '.join(command[1:5])} ...` ended with {done.returncode}; see peers.log")
