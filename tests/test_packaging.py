"""What pyproject.toml promises, and the house rules that a text search can check."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("operators", "workbench", "pipelines")
USER_EXTRAS = {
    "cli": {"typer", "rich", "pydantic"},
    "io": {"h5py", "h5netcdf", "nibabel", "zarr", "scipy", "matplotlib", "safetensors"},
    "ct": {"numba", "astra-toolbox"},
    "mri": {"sigpy", "finufft", "ismrmrd", "scipy"},
    "siemens": {"twixtools"},
    "dicom": {"pydicom", "highdicom", "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm"},
    "train": {"inverse-workbench[cli,io,dicom]", "monai", "einops"},
    "diffusers": {"diffusers", "safetensors"},
    "image": {"scikit-image", "PyWavelets"},
    "viewer": {"napari"},
    "cluster": {"dask[distributed]"},
}
MAX_LINES = 350


def load_toml(name: str) -> dict:
    return tomllib.loads((ROOT / name).read_text())


def requirement_name(requirement: str) -> str:
    """The name with its extras, without version and marker."""
    return re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?", requirement).group()


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    return dict(line.split("==") for line in requirements)


PROJECT = load_toml("pyproject.toml")["project"]


def test_core_dependencies_are_torch_numpy_and_xarray():
    assert {requirement_name(r) for r in PROJECT["dependencies"]} == {"torch", "numpy", "xarray"}


def test_extras_are_the_documented_ones():
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {*USER_EXTRAS, "all", "dev"}
    for name, expected in USER_EXTRAS.items():
        assert {requirement_name(r) for r in extras[name]} == expected, name


def test_all_is_the_union_of_the_user_extras():
    (requirement,) = PROJECT["optional-dependencies"]["all"]
    names = re.fullmatch(r"inverse-workbench\[(.*)\]", requirement).group(1)
    assert names.split(",") == list(USER_EXTRAS)


def test_identity_of_the_distribution():
    assert PROJECT["name"] == "inverse-workbench"
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["requires-python"] == ">=3.11"
    assert PROJECT["scripts"] == {"workbench": "pipelines.cli:main"}


def test_the_citation_names_the_same_version():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_wheel_holds_three_typed_packages():
    wheel = load_toml("pyproject.toml")["tool"]["hatch"]["build"]["targets"]["wheel"]
    manifests = {"data_manifests": "pipelines/data_manifests"}
    assert wheel == {"packages": list(PACKAGES), "force-include": manifests}
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file(), f"{package}/py.typed is missing"


def test_the_source_archive_holds_what_the_tests_read():
    included = load_toml("pyproject.toml")["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    # README, LICENSE and pyproject.toml come by themselves.
    always = {"README.md", "LICENSE", "pyproject.toml"}
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    tracked = {name.partition("/")[0] for name in listing.stdout.splitlines()}
    assert tracked - always == {entry.removeprefix("/") for entry in included}


def test_every_direct_dependency_is_pinned():
    extras = PROJECT["optional-dependencies"]
    direct = PROJECT["dependencies"] + [r for name in extras if name != "all" for r in extras[name]]
    names = {re.sub(r"\[.*", "", requirement_name(r)).lower() for r in direct}
    names -= {PROJECT["name"]}  # an extra may ask for others of its own
    assert names <= set(pins()), f"not in constraints.txt: {sorted(names - set(pins()))}"


def test_pins_are_exact_and_portable():
    for name, version in pins().items():
        # A local version such as 2.13.0+cpu exists on one index only.
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"
    assert pins()["torch"] == "2.13.0"


def test_no_file_names_a_package_index_except_the_public_cpu_one():
    for name in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run", ".pre-commit-config.yaml"):
        urls = re.findall(r"(?:https?|file)://[^\s'\"]+", (ROOT / name).read_text())
        assert set(urls) <= {"https://download.pytorch.org/whl/cpu"}, name


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_source_files_are_short(folder):
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in source_files(folder)}
    too_long = {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES}
    assert not too_long, f"split these: {too_long}"


def called_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def named_modules(tree: ast.AST) -> set[str]:
    """Top-level names that a file imports, or asks `require` or `import_module` for."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and called_name(node) in {"require", "import_module", "__import__"}:
            names |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return {name.split(".")[0] for name in names}


def test_a_required_module_counts_as_imported():
    text = (
        'import a.b\nfrom c.d import e\nrequire("f.g", feature="", extra="ct")\nimportlib.import_module("h")'
    )
    assert named_modules(ast.parse(text)) == {"a", "c", "f", "h"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST, modules: set[str]) -> set[str]:
    """Which of `modules` a file takes names from, at its head, inside a function or by import_module.

    Imports for annotations alone (TYPE_CHECKING) count: they tie two files together all the same.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= members & modules or {node.module}
        elif isinstance(node, ast.Call) and called_name(node) == "import_module":
            found |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found & modules


def test_no_two_files_import_each_other():
    """Not in a longer circle either; a file that cannot be understood alone is half a file."""
    trees = {module_name(path): ast.parse(path.read_text()) for path in source_files(*PACKAGES)}
    imports = {name: imported_modules(tree, set(trees)) for name, tree in trees.items()}
    TopologicalSorter(imports).prepare()  # its error names the circle


def test_only_one_module_imports_astra():
    """ASTRA is under the GPL-3.0; one module that nothing needs keeps it optional."""
    importers = {
        str(path.relative_to(ROOT))
        for path in source_files(*PACKAGES)
        if "astra" in named_modules(ast.parse(path.read_text()))
    }
    assert importers <= {"operators/ct/astra_plane.py"}


def test_the_lower_floors_require_no_front_end():
    """The import contracts see import statements only; this sees `require` as well."""
    front_ends = {"napari", "qtpy", "typer", "rich", "pydantic"}
    found = {
        str(path.relative_to(ROOT)): sorted(named)
        for path in source_files("operators", "workbench")
        if (named := named_modules(ast.parse(path.read_text())) & front_ends)
    }
    assert not found


def test_every_extra_that_the_source_asks_for_exists():
    calls = [
        (path.name, node)
        for path in source_files(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ("require" in called_name(node) or "Extra" in called_name(node))
    ]
    for name, call in calls:
        for keyword in call.keywords:
            if keyword.arg == "extra" and isinstance(keyword.value, ast.Constant):
                extra = keyword.value.value
                assert extra in PROJECT["optional-dependencies"], f"{name}:{call.lineno}: {extra!r}"


def test_tests_are_not_packages():
    """With --import-mode=importlib an __init__.py in tests only brings name clashes."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_measured_data_is_not_tracked():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    heavy = [
        name
        for name in listing.stdout.splitlines()
        if (p := ROOT / name).is_file()
        and p.stat().st_size > 2**20
        # Shipped priors are weights; their size is bounded in tests/workbench/test_shipped.py.
        and not (name.startswith("workbench/shipped/") and name.endswith(".safetensors"))
    ]
    assert not heavy, f"larger than 1 MiB: {heavy}"
