"""The typed configuration: where values come from, and what is said about mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import ValidationError, field_validator

from pipelines.config.demo import DemoConfig
from pipelines.config.loading import Config, ConfigError, Field, config_hash, config_schema, load, to_toml

ROOT = Path(__file__).resolve().parents[2]


class Mode(StrEnum):
    FAST = "fast"


class Inner(Config):
    """An inner table."""

    name: str = "abc"
    choice: Literal["fast", "slow"] = "fast"


class Outer(Config):
    """Something with every kind of field."""

    inner: Inner = Inner()
    maybe: Inner | None = None
    text: str = 'say "hi"\n\x7fÄ'
    flag: bool = True
    limit: int | None = Field(default=None, ge=2)
    folder: Path = Path("data/in")
    mode: Mode = Mode.FAST
    weights: dict[str, float] = Field(default={"a b": 0.5})
    tiny: float = 1e-30
    many: tuple[Annotated[int, Field(ge=0, le=9)], ...] = (1, 2)
    even: int = 2

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


class Needy(Config):
    """A model with a required key."""

    needed: int


def problems(path: Path | None = None, *overrides: str, env: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(DemoConfig, path, env=env or {}, overrides=overrides)
    return caught.value.problems


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_text("seed = 1\n[scan]\nviews = 10\nphotons = 100\n[cg]\niterations = 10\n")
    env = {"WORKBENCH_SCAN__VIEWS": "20", "WORKBENCH_SCAN__PHOTONS": "200", "PATH": "/bin"}
    config = load(DemoConfig, file, env=env, overrides=["scan.views=30"])
    assert (config.scan.views, config.scan.photons) == (30, 200.0)
    assert (config.cg.iterations, config.seed) == (10, 1)
    assert config.tv == DemoConfig().tv


def test_the_last_override_of_a_key_wins_and_a_table_sets_several() -> None:
    overrides = ["scan.views=1", "scan={views=2, photons=5}", "scan.photons=7"]
    config = load(DemoConfig, env={}, overrides=overrides)
    assert (config.scan.views, config.scan.photons) == (2, 7.0)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_SEED", "7")
    monkeypatch.setenv("WORKBENCH_DEBUG", "1")
    assert load(DemoConfig).seed == 7


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("scan.veiws", "scan.views"),
        ("views", "scan.views"),
        ("cg.views", "scan.views"),
        ("phantom.spaceing", "phantom.spacing"),
        ("seeed", "seed"),
        ("Tv.Weight", "tv.weight"),
    ],
)
def test_unknown_key_names_the_nearest(typed: str, meant: str) -> None:
    (problem,) = problems(None, f"{typed}=1")
    assert problem == f"`{typed}` is not a known key (--set {typed}); did you mean `{meant}`?"


def test_a_quoted_key_is_shown_with_its_quotes(tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_text('"scan.views" = 10\n')
    for path, overrides in ((file, ()), (None, ('"scan.views"=10',)), (None, ("'scan.views'=10",))):
        (problem,) = problems(path, *overrides)
        assert problem.startswith('`"scan.views"` is not a known key')
        assert problem.endswith("did you mean `scan.views`?")


def test_a_phantom_of_one_voxel_is_refused() -> None:
    (problem,) = problems(None, "phantom.shape=[1, 1, 1]")
    assert problem.startswith("`phantom.shape`: must have two voxels or more along some axis")


def test_unknown_key_without_a_neighbour_lists_the_known_ones() -> None:
    (problem,) = problems(None, "scan.qqqqqqq=1")
    assert "known here: scan.views, scan.photons." in problem


def test_wrong_values_say_key_expectation_value_origin_and_default(tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_text('# a comment\n[scan]\n\nviews = "many"\n[phantom]\nshape = [1, 2]\n')
    found = problems(file, "tv.weight=-1", env={"WORKBENCH_SCAN__PHOTONS": "lots"})
    assert set(found) == {
        f'`scan.views` must be an integer >= 1, got "many" ({file}:4). The default is 60.',
        f"`phantom.shape` must be 3 integers > 0, got [1, 2] ({file}:6). The default is [40, 96, 128].",
        '`scan.photons` must be a number >= 1 and <= 1e+12, got "lots" '
        "(environment variable WORKBENCH_SCAN__PHOTONS). The default is 20000.0.",
        "`tv.weight` must be a number >= 0 and <= 1e+12, got -1 (--set tv.weight). The default is 1000.0.",
    }


@pytest.mark.parametrize("value", ["1.5", "true", '"60"', "nan", "[60]"])
def test_no_value_is_bent_into_an_integer(value: str) -> None:
    (problem,) = problems(None, f"scan.views={value}")
    assert problem.startswith("`scan.views` must be an integer >= 1, got ")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_must_be_finite(value: str) -> None:
    assert len(problems(None, f"tv.tolerance={value}")) == 1


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_text("scna = {views = 3}\nscan = 4\n")
    found = problems(file, "seed", "=3", "seed=-1", env={"WORKBENCH_NONSENSE": "1"})
    assert len(found) == 6
    assert any("`scna.views`" in problem and f"{file}" in problem for problem in found)
    assert any("`scan` must be a table, got 4" in problem for problem in found)
    assert any("WORKBENCH_NONSENSE" in problem for problem in found)
    assert str(ConfigError(found)).startswith("6 problems in the configuration:\n  - ")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("seed = 1\nviews = = 2\n", ":2:9: not valid TOML: Invalid value; the line reads 'views = = 2'"),
        ("seed = 1\nseed = 2\n", ":2:9: not valid TOML: Cannot overwrite a value"),
        ('[scan]\nname = """abc', ":2: end of file: not valid TOML"),
    ],
)
def test_broken_toml_names_file_line_and_column(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / "demo.toml"
    file.write_text(text)
    (problem,) = problems(file)
    assert problem.startswith(f"{file}{place}")


def test_a_broken_file_does_not_hide_other_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_text("[")
    assert len(problems(file, "seed=-1")) == 2


def test_unreadable_files(tmp_path: Path) -> None:
    assert "does not exist" in problems(tmp_path / "nix.toml")[0]
    assert "cannot be read" in problems(tmp_path)[0]
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# gr\xfc\xdfe\n")
    assert problems(latin) == (f"{latin}: must be UTF-8 text, got byte 0xfc at 4.",)


def test_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 3\r\n")
    assert load(DemoConfig, file, env={}).seed == 3


def test_words_need_no_quotes_and_strings_may_look_like_numbers() -> None:
    overrides = ["inner.choice=slow", "inner.name=60", "folder=2", "text=a = b\nflag = false"]
    config = load(Outer, env={}, overrides=overrides)
    assert (config.inner.choice, config.inner.name, config.folder) == ("slow", "60", Path("2"))
    assert config.text == "a = b\nflag = false"
    assert config.flag is True


def test_messages_for_other_kinds_of_field() -> None:
    def problem(override: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(Outer, env={}, overrides=[override])
        return str(caught.value)

    assert '`inner.choice` must be one of "fast", "slow", got "fats"' in problem("inner.choice=fats")
    assert "`limit` must be an integer >= 2, got 1" in problem("limit=1")
    assert "`even`: must be even, got 3" in problem("even=3")
    assert "`flag` must be true or false, got 1" in problem("flag=1")
    assert "`many` must be" in problem("many=[1, 10]")
    assert "`inner` must be a table, got 3" in problem("inner=3")


def test_required_key() -> None:
    with pytest.raises(ConfigError, match="`needed` has no default and must be set"):
        load(Needy, env={})
    assert load(Needy, env={"WORKBENCH_NEEDED": "3"}).needed == 3


def test_toml_round_trip(tmp_path: Path) -> None:
    model = Outer(inner=Inner(name="tab\there"), maybe=Inner(choice="slow"), limit=3, tiny=1e22)
    for config in (DemoConfig(), Outer(), model):
        file = tmp_path / "out.toml"
        file.write_text(to_toml(config), encoding="utf-8")
        tomllib.loads(file.read_text(encoding="utf-8"))
        assert load(type(config), file, env={}) == config


def test_toml_shows_every_field_with_description_and_default() -> None:
    text = to_toml(load(DemoConfig, env={}, overrides=["scan.views=60"]))
    assert "# Number of views over half a turn; an integer >= 1; default 60\nviews = 60\n" in text
    assert tomllib.loads(text).keys() == DemoConfig.model_fields.keys()
    assert "# limit = (not set)" in to_toml(Outer())


def test_hash_depends_on_values_alone() -> None:
    default = config_hash(DemoConfig())
    assert len(default) == 64
    assert config_hash(load(DemoConfig, env={}, overrides=["scan.photons=20000"])) == default
    assert config_hash(load(DemoConfig, env={}, overrides=["scan.photons=20001"])) != default


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError):
        DemoConfig().seed = 3  # type: ignore[misc]


def test_schema_describes_the_keys() -> None:
    schema = json.loads(config_schema(DemoConfig))
    assert schema["$defs"]["ScanConfig"]["properties"]["views"]["default"] == 60


def test_without_pydantic_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError('blocked', name='pydantic')\n")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import pipelines.config.demo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("operators.extras.MissingExtraError: The typed configuration needs pydantic")
    assert last.endswith("pip install 'inverse-workbench[cli]'")
