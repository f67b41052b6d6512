"""The doctor: honest about what is missing or broken, and never broken by it."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines import DISTRIBUTION
from pipelines.doctor import examine as doctor
from pipelines.doctor.extras import package_version, report_extras
from pipelines.doctor.probes import ASTRA, probe
from pipelines.doctor.view import show

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "schema", "healthy", "problems", "python", "platform", "workbench", "cpu", "memory",
    "torch", "numpy", "xarray", "astra", "triton", "gl", "extras",
}  # fmt: skip
# Anything but use_cuda() kills the interpreter, as ASTRA's 3D functions do without a driver.
TOUCHY_ASTRA = """
import os
__version__ = "9.9"
def use_cuda(): return False
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    os.kill(os.getpid(), 8)
"""
METADATA = """Metadata-Version: 2.4
Name: inverse-workbench
Version: 9.9
Provides-Extra: cli
Provides-Extra: exotic
Provides-Extra: all
Provides-Extra: elsewhere
Requires-Dist: numpy
Requires-Dist: typer>=0.1; extra == 'cli'
Requires-Dist: no-such-package-xyz>=2; extra == 'exotic'
Requires-Dist: numpy>=999; extra == 'exotic'
Requires-Dist: typer>=0.1; extra == 'all'
Requires-Dist: no-such-package-xyz>=2; extra == 'all'
Requires-Dist: half-xyz[part]; extra == 'exotic'
Requires-Dist: no-such-package-xyz; (sys_platform == 'amiga') and extra == 'elsewhere'
"""


def run_doctor(*arguments: str, path: Path, columns: int = 80) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "pipelines.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=ROOT)


def install(folder: Path, name: str, metadata: str) -> None:
    info = folder / f"{name}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata)


def ask_astra(
    folder: Path, source: str, monkeypatch: pytest.MonkeyPatch, timeout: float = 60.0
) -> dict[str, Any]:
    (folder / "astra.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return probe("astra", ASTRA, timeout)


def rendered(report: dict[str, Any], width: int) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=width))
    return stream.getvalue()


def test_json_of_a_healthy_core(tmp_path: Path) -> None:
    (tmp_path / "astra.py").write_text(TOUCHY_ASTRA)
    install(tmp_path, "inverse_workbench", METADATA)
    done = run_doctor("--json", path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report.keys() == KEYS
    assert report["healthy"] is True
    assert report["torch"]["version"]
    assert report["astra"] == {"status": "ok", "detail": None, "version": "9.9", "cuda": False}
    assert report["workbench"]["version"] == "9.9"
    text = rendered(report, 60)
    assert "CPU 2D only" in " ".join(text.split())
    assert "\npip install 'inverse-workbench[exotic]'\n" in text
    assert "\n[exotic]" in text
    assert "[all] 1 of its 2 packages" in " ".join(text.split())
    assert "The core works." in text


def test_a_broken_core_exits_with_1_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: undefined symbol')\n")
    done = run_doctor(path=tmp_path, columns=50)
    assert done.returncode == 1
    assert "core: torch is installed but broken: OSError: libtorch_cpu.so: undefined symbol" in done.stdout
    assert "The core does not work." in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "status", "detail"),
    [
        ("raise ModuleNotFoundError(\"No module named 'astra'\", name='astra')", "missing", None),
        ("import no_such_xyz", "broken", "ModuleNotFoundError: No module named 'no_such_xyz'"),
        ("raise RuntimeError('no driver')", "broken", "RuntimeError: no driver"),
        ("import os; os.kill(os.getpid(), 11)", "broken", "crashed the interpreter (SIGSEGV)"),
        ("import sys; sys.exit(0)", "broken", "ended the interpreter"),
        ("print('banner')\n" + TOUCHY_ASTRA, "ok", None),
    ],
)
def test_a_native_package_may_fail_in_any_way(
    source: str, status: str, detail: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ask_astra(tmp_path, source, monkeypatch)
    assert found["status"] == status
    assert found["detail"] is None if detail is None else detail in found["detail"]


def test_an_import_that_hangs_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask_astra(tmp_path, "import time; time.sleep(60)", monkeypatch, timeout=0.5)
    assert (found["status"], "longer than" in found["detail"]) == ("broken", True)


def test_a_folder_called_like_a_package_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "astra_data_xyz").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert probe("astra_data_xyz", "import json, astra_data_xyz\nfound = {}")["status"] == "missing"


def test_extras_come_from_the_installed_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "inverse_workbench", METADATA)
    half = "Metadata-Version: 2.4\nName: half-xyz\nVersion: 1\nProvides-Extra: part\n"
    install(tmp_path, "half_xyz", half + "Requires-Dist: other-half-xyz; extra == 'part'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = report_extras()
    assert report["listed"] is True
    extras = {extra["name"]: extra for extra in report["extras"]}
    assert list(extras) == ["cli", "exotic", "all", "elsewhere"]
    assert (extras["cli"]["complete"], extras["cli"]["install"]) == (True, None)
    assert extras["exotic"]["install"] == "pip install 'inverse-workbench[exotic]'"
    statuses = {package["name"]: package["status"] for package in extras["exotic"]["packages"]}
    assert statuses == {"no-such-package-xyz": "missing", "numpy": "outdated", "half-xyz": "incomplete"}
    assert [package["name"] for package in extras["all"]["packages"]] == ["typer", "no-such-package-xyz"]
    assert extras["elsewhere"]["packages"] == []


def test_an_editable_install_is_completed_by_the_command_that_works_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "inverse_workbench", METADATA)
    info = tmp_path / "inverse_workbench-9.9.dist-info"
    url = "file:///some%20where/main"
    (info / "direct_url.json").write_text(json.dumps({"dir_info": {"editable": True}, "url": url}))
    monkeypatch.syspath_prepend(str(tmp_path))
    extras = {extra["name"]: extra for extra in report_extras()["extras"]}
    assert shlex.split(extras["exotic"]["install"]) == [
        *(sys.executable, "-m", "pip", "install", "-e", "/some where/main[exotic]"),
        *("-c", "/some where/main/constraints.txt"),
    ]
    (info / "direct_url.json").write_text(json.dumps({"dir_info": {}, "url": url}))
    extras = {extra["name"]: extra for extra in report_extras()["extras"]}
    assert extras["exotic"]["install"] == "pip install 'inverse-workbench[exotic]'"


def test_an_extra_of_extras_is_flat_in_the_metadata() -> None:
    """What the doctor relies on: hatchling writes [all] out, and names no extra of our own."""
    try:
        requires = metadata.distribution(DISTRIBUTION).requires or []
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert any("extra == 'all'" in requirement for requirement in requires)
    assert not [requirement for requirement in requires if requirement.startswith(DISTRIBUTION)]


def test_a_bare_checkout_says_that_extras_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.doctor.extras.DISTRIBUTION", "no-such-distribution-xyz")
    report = report_extras()
    assert (report["listed"], report["extras"]) == (False, [])
    assert f"{sys.executable} -m pip install -e {ROOT}" in report["detail"]


def test_unreadable_metadata_is_broken_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "hollow_xyz", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    version, why = package_version("hollow-xyz")
    assert version is None
    assert why is not None
    assert why.startswith("unreadable metadata")


def test_memory_respects_a_container(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    cgroup = tmp_path / "sys/fs/cgroup"
    (cgroup / "memory.max").write_text("max\n")
    free = doctor.memory(tmp_path)
    assert free == {"total_bytes": 4096000, "available_bytes": 3072000, "container_limit": False}
    (cgroup / "memory.max").write_text("2000000\n")
    (cgroup / "memory.current").write_text("1500000\n")
    limited = doctor.memory(tmp_path)
    assert limited == {"total_bytes": 2000000, "available_bytes": 500000, "container_limit": True}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems bring OpenGL along")
def test_graphics_needs_a_library_and_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.doctor.examine.shutil.which", lambda _: None)
    monkeypatch.setattr("pipelines.doctor.examine._loads", lambda _: True)
    monkeypatch.setattr("pipelines.doctor.examine._found", lambda name: name == "PySide6")
    assert doctor.graphics({"DISPLAY": ":0"})["ready"] is True
    headless = doctor.graphics({})
    assert headless["ready"] is False
    assert "xvfb-run" in headless["advice"][0]
    offscreen = doctor.graphics({"DISPLAY": ":0", "QT_QPA_PLATFORM": "offscreen"})
    assert "QT_QPA_PLATFORM=offscreen" in offscreen["advice"][0]
    assert offscreen["qt"] == "PySide6"
    monkeypatch.setattr("pipelines.doctor.examine._found", lambda name: False)
    without = doctor.graphics({"DISPLAY": ":0"})
    assert (without["qt"], without["ready"]) == (None, False)
    assert without["advice"] == ["install a Qt binding: pip install pyqt6"]


@pytest.mark.parametrize("width", [40, 200])
def test_the_view_shows_gpus_and_broken_parts_at_any_width(width: int) -> None:
    gpu = {"name": "Some GPU", "total_bytes": 80 * 2**30, "free_bytes": 79 * 2**30}
    report = {
        "healthy": True,
        "problems": [],
        "python": {"version": "3.11.0"},
        "platform": "Linux",
        "workbench": {"version": "1.0", "location": "/somewhere"},
        "cpu": {"logical": 4, "usable": 2},
        "memory": {"total_bytes": None, "available_bytes": None, "container_limit": False},
        "torch": {
            "status": "ok", "detail": None, "version": "2.9", "build": "cuda 12.8", "threads": 2,
            "cuda_available": True, "devices": [gpu],
        },
        "numpy": {"status": "ok", "version": "2.0", "detail": None},
        "xarray": {"status": "ok", "version": "2025.1", "detail": None},
        "astra": {"status": "broken", "detail": "RuntimeError: [no] driver"},
        "triton": {"status": "missing", "version": None, "detail": None},
        "gl": {
            "ready": None, "qt": None, "libGL": None, "libEGL": None, "display": None, "xvfb": False,
            "advice": [],
        },
        "extras": {"listed": False, "detail": "unknown extras", "extras": []},
    }  # fmt: skip
    text = " ".join(rendered(report, width).split())
    for expected in ("Some GPU", "79.0 of 80.0 GiB", "RuntimeError: [no] driver", "2 of 4 logical CPUs"):
        assert expected in text
