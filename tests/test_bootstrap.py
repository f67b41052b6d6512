"""The Makefile, run in an empty folder with a fake Python: no network, nothing is installed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Stands in for Python and pip, and logs what pip is asked to do.
FAKE_PYTHON = """#!/bin/sh
root={root}
here=$(dirname "$0")
case "$*" in
  --version) echo "Python {version}" ;;
  *"import venv, ensurepip"*) exit {ensurepip} ;;
  *"sys.exit(sys.version_info"*) exit {too_old} ;;
  *"%d.%d"*) echo "{version}" ;;
  *find_spec*) cat "$root/torch" 2>/dev/null ;;
  "-m venv .venv")
    mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "$root/.venv/bin/python" > .venv/bin/pip ;;
  "-m pip --version") [ -e "$here/pip" ] ;;
  "-m pip uninstall"*) rm "$root/torch"; echo "uninstall torch" >> "$root/log" ;;
  "-m pip install"*)
    shift 3; echo "install $*" >> "$root/log"
    case "$*" in
      *--index-url*) [ ! -e "$root/no-cpu-index" ] || exit 1; echo "cpu 2.13.0+cpu" > "$root/torch" ;;
      *--no-deps*) echo "cuda 2.13.0" > "$root/torch" ;;
      *) [ ! -e "$root/pip-fails" ] || {{ echo "ERROR: no network"; exit 1; }}
         printf '#!/bin/sh\\necho ran workbench "$@"\\n' > .venv/bin/workbench
         chmod +x .venv/bin/workbench ;;
    esac ;;
  *) echo "fake python ran: $*" ;;
esac
"""


class Clone:
    """A fresh clone as far as make can see."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, root / name)
        self.python()

    def python(
        self, *, name: str = "python", version: str = "3.11", ensurepip: int = 0, too_old: int = 0
    ) -> str:
        path = self.root / name
        path.write_text(
            FAKE_PYTHON.format(root=self.root, version=version, ensurepip=ensurepip, too_old=too_old)
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def make(self, *arguments: str, python: str | None = None) -> subprocess.CompletedProcess[str]:
        # Variables that an outer make hands down would change what is tested.
        hidden = ("MAKE", "MFLAGS", "TORCH", "PYTHON", "JOBS", "ARGS")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        command = ["make", *arguments, f"PYTHON={python or self.root / 'python'}"]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def installs(self) -> list[str]:
        """What pip was asked to do since the last call of this."""
        log = self.root / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def touch(self, name: str) -> None:
        """Make `name` newer than every stamp."""
        newest = max(path.stat().st_mtime for path in (self.root / ".venv").iterdir())
        os.utime(self.root / name, (newest + 5, newest + 5))


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_help_is_the_default_and_installs_nothing(clone):
    result = clone.make()
    assert result.returncode == 0
    for target in ("demo", "test", "test-cuda", "bench", "bench-quality", "verify", "notebooks", "clean"):
        assert f"make {target} " in result.stdout
    assert not (clone.root / ".venv").exists()


def test_demo_installs_its_extras_at_the_pins_and_runs(clone):
    result = clone.make("demo")
    assert result.returncode == 0, result.stderr
    torch, package = clone.installs()
    assert torch == (
        "install --no-deps --retries 0 --timeout 5 "
        "--index-url https://download.pytorch.org/whl/cpu torch==2.13.0"
    )
    assert (
        package == "install --no-compile --progress-bar off -c constraints.txt torch==2.13.0 -e .[cli,io,ct]"
    )
    assert "the cpu build is installed, 2.13.0+cpu" in result.stdout
    assert "ran workbench demo --out demo" in result.stdout


def test_a_second_call_installs_nothing(clone):
    clone.make("demo")
    clone.installs()
    result = clone.make("demo")
    assert "ran workbench demo" in result.stdout
    assert clone.installs() == []


def test_dev_contains_what_the_demo_needs(clone):
    clone.make("types")
    assert clone.installs()[-1].endswith("-e .[all,dev]")
    clone.make("demo")
    assert clone.installs() == []


@pytest.mark.parametrize(
    ("changed", "expected"), [("pyproject.toml", 1), ("constraints.txt", 1), ("Makefile", 0)]
)
def test_a_change_of_the_declared_dependencies_installs_again(clone, changed, expected):
    clone.make("demo")
    clone.installs()
    clone.touch(changed)
    clone.make("demo")
    assert len(clone.installs()) == expected


def test_without_the_cpu_index_the_plain_pin_is_taken_and_said(clone):
    (clone.root / "no-cpu-index").touch()
    result = clone.make("demo")
    assert result.returncode == 0, result.stderr
    assert clone.installs()[1] == "install --no-deps torch==2.13.0"
    assert "taking the plain torch==2.13.0 instead" in result.stdout
    assert "the cuda build is installed, 2.13.0" in result.stdout


def test_the_other_build_of_torch_replaces_the_first_and_stays(clone):
    clone.make("demo", "TORCH=cpu")
    clone.installs()
    clone.make("demo", "TORCH=cuda")
    assert clone.installs()[:2] == ["uninstall torch", "install --no-deps torch==2.13.0"]
    clone.make("demo")
    assert clone.installs() == []


def test_an_unknown_build_of_torch_is_refused(clone):
    result = clone.make("test", "TORCH=bogus")
    assert result.returncode != 0
    assert "TORCH must be cpu or cuda, got 'bogus'" in result.stderr


def test_a_failed_install_is_reported_and_done_again(clone):
    (clone.root / "pip-fails").touch()
    result = clone.make("demo")
    assert result.returncode != 0
    assert "ERROR: no network" in result.stdout
    assert "Call make again" in result.stdout
    (clone.root / "pip-fails").unlink()
    clone.installs()
    assert clone.make("demo").returncode == 0
    assert clone.installs()[-1].endswith("-e .[cli,io,ct]")


def test_an_old_python_is_refused_by_name(clone):
    old = clone.python(name="oldpython", version="3.9.2", too_old=1)
    result = clone.make("demo", python=old)
    assert result.returncode != 0
    assert f"{old} is Python 3.9.2, but the workbench needs Python 3.11 or newer" in result.stderr
    assert "make demo PYTHON=python3.12" in result.stderr
    assert not (clone.root / ".venv").exists()


def test_a_missing_python_is_said(clone):
    result = clone.make("demo", python="no-such-python")
    assert result.returncode != 0
    assert "There is no no-such-python" in result.stderr


def test_a_python_without_venv_leads_to_the_apt_line(clone):
    bare = clone.python(name="python3.12", version="3.12", ensurepip=1)
    result = clone.make("test", python=bare)
    assert result.returncode != 0
    assert "sudo apt install python3.12-venv" in result.stderr
    assert not (clone.root / ".venv").exists()


def test_half_a_venv_is_made_anew(clone):
    clone.make("demo")
    clone.installs()
    (clone.root / ".venv" / "bin" / "pip").unlink()
    (clone.root / "torch").unlink()
    result = clone.make("demo")
    assert "it has no working pip" in result.stdout
    assert len(clone.installs()) == 2


def test_another_python_makes_the_venv_anew(clone):
    clone.make("demo")
    (clone.root / "torch").unlink()
    result = clone.make("demo", python=clone.python(name="python3.12", version="3.12"))
    assert "its Python is not" in result.stdout
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("target", ["notebooks"])
def test_targets_that_do_nothing_yet_say_so(clone, target):
    result = clone.make(target)
    assert result.returncode == 0
    assert "yet" in result.stdout
    assert clone.installs() == []


def test_verify_installs_the_tests_and_prints_the_tables(clone):
    result = clone.make("verify")
    assert result.returncode == 0, result.stderr
    assert clone.installs()[-1].endswith("-e .[all,dev]")
    tables = [line for line in result.stdout.splitlines() if line.startswith(("ran ", "fake python ran: "))]
    assert tables == [
        "fake python ran: -m pytest -q -n 2 -m slow",
        "fake python ran: -m tests.adjoint_table",
        "ran workbench verify",
        "ran workbench verify integrators",
    ]
    assert "solvers against closed forms" in result.stdout
    assert "ran workbench verify --fast" in clone.make("verify", "ARGS=--fast").stdout


def test_bench_quality_installs_the_tests_and_passes_arguments_on(clone):
    result = clone.make("bench-quality", "ARGS=--fast --minutes 1")
    assert result.returncode == 0, result.stderr
    assert clone.installs()[-1].endswith("-e .[all,dev]")
    assert "fake python ran: -m pipelines.quality --jobs 2 --fast --minutes 1" in result.stdout


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("python", "-m pytest -q -n 2 -m slow"),
        ("python", "-m tests.adjoint_table"),
        ("workbench", "verify"),
        ("workbench", "verify integrators"),
    ],
)
def test_verify_fails_where_a_table_does(clone, program, arguments):
    clone.make("verify")
    path = clone.root / ".venv" / "bin" / program
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f'{first}\n[ "$*" != "{arguments}" ] || exit 1\n{rest}')
    assert clone.make("verify").returncode != 0


def test_ci_runs_make_test():
    script = (ROOT / ".ci" / "run").read_text()
    assert "export CI=1" in script
    assert "make test" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
