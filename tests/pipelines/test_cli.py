"""The `workbench` command: start-up, verbs, exit codes and what users see when things go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

import operators.extras
from pipelines import DISTRIBUTION
from pipelines.cli import entry as cli
from pipelines.cli.app import build
from pipelines.cli.failures import MEANINGS, ExitCode
from pipelines.cli.table import Verb

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "pydantic", "operators", "workbench", "pipelines.cli.verbs", "pipelines.demo")

RAISERS = """
import json, warnings
import numpy, typer
from operators.extras import require

def house():
    raise ValueError("`views` must be > 0, got 0. Ask for at least one view.")

def extra():
    require("no_such_module_xyz", feature="Reading TWIX", extra="siemens")

def left_the_precision():
    raise FloatingPointError("the numbers left float32. Use float64.")

def missing_file():
    open("/no/such/file.nii")

def bug_in_an_expression():
    return None + 1

def bug_in_a_library():
    numpy.zeros(3).reshape(2, 2)

def bug_in_a_python_library():
    json.loads("")

def memory():
    raise MemoryError("Unable to allocate 3 TiB")

def device():
    raise RuntimeError("CUDA error: device-side assert\\nmore text")

def no_core():
    raise ModuleNotFoundError("No module named 'torch'", name="torch")

def some_failed():
    raise typer.Exit(1)

def interrupt():
    raise KeyboardInterrupt

def warn():
    warnings.warn("the data are thin", UserWarning)
"""


def console(
    *arguments: str, path: Sequence[Path] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join([*(str(folder) for folder in path), str(ROOT)])
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    settings = {**os.environ, "PYTHONPATH": search, "COLUMNS": "80", **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, env=settings, check=False, cwd=ROOT)


@pytest.fixture
def raisers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add one verb for each way of failing, as code of our own packages."""
    module = types.ModuleType("pipelines.raisers")
    exec(compile(RAISERS, "raisers.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in [name for name, value in vars(module).items() if isinstance(value, types.FunctionType)]:
        monkeypatch.setitem(cli.VERBS, name, Verb(module.__name__, name, "Fail.", name))


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_overview_imports_nothing_heavy_and_is_fast(option: str) -> None:
    code = (
        "import sys; from pipelines.cli.entry import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr); raise SystemExit(code)"
    )
    elapsed = []
    # Other work on the machine can only slow a start down, so the fastest of three is the fair one.
    for _ in range(3):
        started = time.perf_counter()
        command = [sys.executable, "-c", code, option]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        elapsed.append(time.perf_counter() - started)
        assert done.returncode == 0
        assert not set(done.stderr.split()) & set(HEAVY)
    assert min(elapsed) < 0.6


def test_help_lists_verbs_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert f"  {name} " in text
        assert verb.help in text
    for code, meaning in MEANINGS.items():
        assert f"{code.value:>3}  {meaning}\n" in text


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--debug"]])
def test_other_ways_to_the_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    assert "Exit codes:" in capsys.readouterr().out


def test_version_names_distribution_and_purpose() -> None:
    done = console("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{DISTRIBUTION} ")
    assert "research use, not a medical device" in done.stdout
    assert operators.extras.DISTRIBUTION == DISTRIBUTION


@pytest.mark.parametrize("verb", ["doctor", "config"])
def test_every_verb_teaches_by_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"workbench {cli.VERBS[verb].example}\n" in text
    assert "Parameters" not in text


def test_only_the_called_verb_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "absent", Verb("no.such.module", "run", "Fail.", "absent"))
    build("doctor")
    with pytest.raises(ModuleNotFoundError):
        build("absent")


@pytest.mark.parametrize(("typed", "meant"), [("doctr", "doctor"), ("conifg", "config"), ("DEMO", "demo")])
def test_misspelt_verb(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([typed, "--json"]) == ExitCode.USAGE
    output = capsys.readouterr()
    assert output.err == f"workbench: `{typed}` is not a verb; did you mean `workbench {meant}`?\n"
    assert output.out == ""


def test_verb_like_nothing_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zzzzzz"]) == ExitCode.USAGE
    assert "the verbs are demo, config, train, phantom, verify, doctor" in capsys.readouterr().err


def test_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--jsno"]) == ExitCode.USAGE
    assert "--json" in capsys.readouterr().err


@pytest.mark.usefixtures("raisers")
@pytest.mark.parametrize(
    ("verb", "code", "line"),
    [
        ("house", ExitCode.USAGE, "`views` must be > 0, got 0. Ask for at least one view."),
        ("left_the_precision", ExitCode.USAGE, "the numbers left float32. Use float64."),
        ("extra", ExitCode.USAGE, "pip install 'inverse-workbench[siemens]'"),
        ("missing_file", ExitCode.INPUT, "'/no/such/file.nii': No such file or directory"),
        ("memory", ExitCode.RESOURCES, "Unable to allocate 3 TiB"),
        ("device", ExitCode.RESOURCES, "CUDA error: device-side assert"),
        ("no_core", ExitCode.USAGE, "See: workbench doctor"),
        ("interrupt", ExitCode.INTERRUPTED, "workbench: interrupted"),
    ],
)
def test_user_errors_are_one_line(
    verb: str, code: ExitCode, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([verb]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("workbench: ")
    assert output.err.endswith(f"{line}\n")
    assert output.err.count("\n") == 1


@pytest.mark.usefixtures("raisers")
@pytest.mark.parametrize("verb", ["bug_in_an_expression", "bug_in_a_library", "bug_in_a_python_library"])
def test_bugs_keep_their_traceback(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb]) == ExitCode.BUG
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("raisers")
def test_a_verb_chooses_its_exit_code() -> None:
    assert cli.main(["some_failed"]) == ExitCode.SOME_FAILED


@pytest.mark.usefixtures("raisers")
@pytest.mark.parametrize("arguments", [["--debug", "house"], ["house", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == ExitCode.USAGE
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("raisers")
@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_debug_by_environment(
    value: str, shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DEBUG", value)
    assert cli.main(["house"]) == ExitCode.USAGE
    assert ("Traceback" in capsys.readouterr().err) is shown


@pytest.mark.usefixtures("raisers")
@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["warn"]) == 0
    assert capsys.readouterr().err == "workbench: UserWarning: the data are thin\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_cli_extra(tmp_path: Path, package: str) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('blocked', name={package!r})\n")
    done = console("doctor", path=[tmp_path])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"workbench: The workbench command line needs {package}, which is not installed. "
        "Install it with: pip install 'inverse-workbench[cli]'\n"
    )


def test_control_c_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import time\ndef sleep() -> None:\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    code = (
        "from pipelines.cli.entry import main\n"
        "from pipelines.cli.table import VERBS, Verb\n"
        "VERBS['sleep'] = Verb('sleeper', 'sleep', 'Sleep.', 'sleep')\n"
        "raise SystemExit(main(['sleep']))"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "workbench: interrupted\n"


@pytest.mark.parametrize("arguments", [["--version"], ["config", "schema"]])
def test_a_closed_pipe_is_no_traceback(arguments: list[str]) -> None:
    # Unbuffered, the write fails at once; buffered, as users run it, only the last flush does.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *arguments],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
            env=env,
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(("arguments", "code"), [("--version", 0), ("config show", 0), ("nonsense", 2)])
def test_closed_streams_are_no_bug(arguments: str, code: int, closed: str) -> None:
    command = f"{sys.executable} -m pipelines.cli {arguments} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert ("not a verb" in done.stderr) is (arguments == "nonsense" and "2>" not in closed)


def test_config_show_is_a_file_that_config_check_accepts(tmp_path: Path) -> None:
    shown = console("config", "show", "--set", "scan.views=60", env={"WORKBENCH_SEED": "5"})
    assert (shown.returncode, shown.stderr) == (0, "")
    values = tomllib.loads(shown.stdout)
    assert (values["scan"]["views"], values["seed"]) == (60, 5)
    file = tmp_path / "demo.toml"
    file.write_text(shown.stdout)
    checked = console("config", "check", str(file))
    assert checked.returncode == 0
    assert checked.stdout.startswith(f"{file}: valid, sha256 ")


def test_config_check_reports_all_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "demo.toml"
    file.write_text("[scan]\nveiws = 60\nphotons = -1\n")
    assert cli.main(["config", "check", str(file)]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("workbench: 2 problems in the configuration:\n")
    assert f"({file}:2); did you mean `scan.views`?" in error
    assert cli.main(["config", "check", str(tmp_path / "nix.toml")]) == ExitCode.USAGE


def test_config_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "DemoConfig"
