"""The bridge from configs to click, and options from TOML files."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import click
import pytest
from pydantic import Field
from rich_click import RichCommand

from aam.cli.config_file import read_config_file
from aam.cli.options import given_values, parameters
from aam.config import (
    EmbedConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    InspectConfig,
    PredictConfig,
    PretrainConfig,
    PretrainFindLrConfig,
    RunConfig,
    Section,
    SimulateCommandConfig,
    TrainConfig,
    UnifracCommandConfig,
)
from aam.config.base import Names
from aam.config.explain import NEEDS
from aam.config.target import Quantiles
from aam.errors import InputError

ALL_CONFIGS = [
    PretrainConfig,
    TrainConfig,
    PretrainFindLrConfig,
    PredictConfig,
    EmbedConfig,
    EvaluateConfig,
    InspectConfig,
    ExplainConfig,
    ExportConfig,
    UnifracCommandConfig,
    SimulateCommandConfig,
]


class _Tools(Section):
    panel: ClassVar[str] = "Tools"

    output: Path
    """Where to."""
    count: Annotated[int, Field(gt=0)] = 3
    """How many."""
    share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """How much. Default: all."""
    metric: Literal["one", "two"] = "one"
    """Which."""
    fast: bool = False
    """Hurry."""
    safe: bool = True
    """Take care."""
    widths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """How wide."""
    files: tuple[Path, ...] = ()
    """Which files."""
    columns: Names = ()
    """Which columns."""
    shares: Quantiles = (0.5,)
    """Which shares."""


class _Config(RunConfig):
    tools: _Tools


def _parse(arguments: list[str], file_values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Values that reach the config, from a command line and the values of a config file."""
    given: dict[str, Any] = {}

    def run(**_: Any) -> None:
        given.update(given_values(click.get_current_context(), _Config))

    made = RichCommand(name="tool", callback=run, params=parameters(_Config))
    made.main(arguments, standalone_mode=False, default_map=file_values)
    return given


def _by_name(config: type[RunConfig]) -> dict[str, click.Parameter]:
    return {str(parameter.name): parameter for parameter in parameters(config)}


def test_absent_options_are_not_passed():
    assert _parse(["--output", "o"]) == {"output": Path("o")}


def test_every_kind_of_value_is_parsed():
    words = "--output o --count 5 --share .5 --metric two --fast --no-safe --widths 4 --widths 2 --files a --files b"
    assert _parse(words.split()) == {
        "output": Path("o"),
        "count": 5,
        "share": 0.5,
        "metric": "two",
        "fast": True,
        "safe": False,
        "widths": (4, 2),
        "files": (Path("a"), Path("b")),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--count 0", "0 is not in the range x>0"),
        ("--count 1.5", "not a valid integer"),
        ("--share 1", "1.0 is not in the range 0<=x<1"),
        ("--widths 0", "0 is not in the range x>=1"),
        ("--metric three", "'three' is not one of 'one', 'two'"),
        ("--cuont 3", "No such option '--cuont'"),
    ],
)
def test_bad_values_are_usage_errors(words, message):
    with pytest.raises(click.UsageError, match=message):
        _parse(["--output", "o", *words.split()])


def test_a_required_option_is_asked_for_unless_a_file_gives_it():
    with pytest.raises(click.MissingParameter, match="output"):
        _parse([])
    assert _parse([], {"output": Path("o")}) == {"output": Path("o")}


def test_the_command_line_wins_over_a_file():
    values = {"output": Path("o"), "count": 7, "fast": True, "safe": False, "widths": (1, 2)}
    assert _parse([], values) == values
    words = "--count 8 --no-fast --safe --widths 9"
    assert _parse(words.split(), values) == {
        "output": Path("o"),
        "count": 8,
        "fast": False,
        "safe": True,
        "widths": (9,),
    }


@pytest.mark.parametrize("config", ALL_CONFIGS, ids=lambda config: config.__name__)
def test_every_option_of_every_command_has_a_parameter_that_says_what_the_config_says(config):
    made = _by_name(config)
    assert list(made) == list(config.options())
    for name, (_, field) in config.options().items():
        assert made[name].required == field.is_required()
        assert made[name].help.startswith(field.description)
        if not field.is_required() and field.default not in (None, ()):
            assert made[name].default == field.default


@pytest.mark.parametrize("config", ALL_CONFIGS, ids=lambda config: config.__name__)
def test_defaults_of_the_options_make_the_default_config(config):
    """What the help shows as defaults is what an empty command line gives."""
    made = _by_name(config)
    required = {
        name: get_args(field.annotation)[0] if get_origin(field.annotation) is Literal else "x"
        for name, (_, field) in config.options().items()
        if field.is_required()
    }
    if config is ExplainConfig:  # which options it needs besides depends on --what
        required |= dict.fromkeys(NEEDS[required["what"]].needed, "x")
    if config is PredictConfig:  # one of --checkpoint and --onnx
        required["checkpoint"] = "x"
    shown = {
        name: made[name].default
        for name, (_, field) in config.options().items()
        if not field.is_required() and field.default not in (None, ())
    }
    assert config.from_flat({**required, **shown}) == config.from_flat(required)


def test_ranges_are_those_of_the_config():
    made = _by_name(TrainConfig)
    assert (made["epochs"].type.min, made["epochs"].type.min_open) == (0, True)
    assert made["epochs"].type.max is None, "a bound that guards the machine is checked and not shown"
    size = made["val_fraction"].type
    assert (size.min, size.min_open, size.max, size.max_open) == (0, False, 1, True)
    assert made["regressor_hidden_dims"].multiple
    assert made["regressor_hidden_dims"].type.min == 0
    assert made["patience"].type.min == 0
    assert made["seed"].type.max is None


def test_long_lists_of_choices_stand_in_the_help():
    scheduler = _by_name(TrainConfig)["scheduler"]
    assert scheduler.metavar == "NAME"
    assert scheduler.help.endswith("One of cosine, cosine_restarts, plateau, onecycle, constant.")


def test_a_type_without_a_command_line_form_is_refused():
    class Odd(Section):
        panel: ClassVar[str] = "Odd"
        value: complex = 1j

    class OddConfig(RunConfig):
        odd: Odd = Odd()

    with pytest.raises(TypeError, match="complex"):
        parameters(OddConfig)


def _toml(folder: Path, text: str) -> Path:
    path = folder / "options.toml"
    path.write_text(text)
    return path


def test_toml_keys_take_dashes_or_underscores(tmp_path):
    path = _toml(tmp_path, 'output-dir = "runs/a"\nbatch_size = 8\ntable = ["a.biom", "b.biom"]\nlr = 1\n')
    assert read_config_file(path, PretrainConfig) == {
        "output_dir": Path("runs/a"),
        "batch_size": 8,
        "table": (Path("a.biom"), Path("b.biom")),
        "lr": 1.0,
    }


def test_no_limit_of_asvs_is_zero_in_a_file_and_on_the_command_line(tmp_path):
    assert read_config_file(_toml(tmp_path, "max-asvs = 0"), PretrainConfig) == {"max_asvs": 0}
    assert _by_name(PretrainConfig)["max_asvs"].type.convert("0", None, None) == 0
    assert "(0: all)" in _by_name(PretrainConfig)["max_asvs"].help


def test_one_toml_string_stands_for_a_list_of_one(tmp_path):
    assert read_config_file(_toml(tmp_path, 'table = "a.biom"'), PretrainConfig) == {"table": (Path("a.biom"),)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"options.toml: unknown option 'epoch'; did you mean epochs\?"),
        ("zzz = 3", "unknown option 'zzz'; the help of the command lists"),
        ("[optim]\nepochs = 3", "unknown option 'optim'"),
        ("batch-size = 3\nbatch_size = 4", "'batch_size' is given twice"),
        ("epochs = 3.5", r"options.toml: epochs = 3.5: .*integer"),
        ('epochs = "3"', "epochs = '3': .*integer"),
        ("epochs = true", "epochs = True: .*integer"),
        ("epochs = 0", "epochs = 0: .*greater than 0"),
        ("resume = 1", "resume = 1: .*boolean"),
        ('device = "gpu"', "device = 'gpu': .*'auto', 'cpu' or 'cuda'"),
        ("output-dir = 3", "output-dir = 3: .*string"),
        ("epochs = 2020-01-01", "epochs = datetime.date.*: .*integer"),
        ("table = [1]", r"table = \[1\]: .*string"),
        ("epochs = ", "options.toml is not TOML: .*; write lines such as epochs = 20"),
        ("\x00", "is not TOML"),
    ],
)
def test_bad_toml_is_refused_naming_file_and_key(tmp_path, text, message):
    path = _toml(tmp_path, text)
    with pytest.raises(InputError, match=message):
        read_config_file(path, PretrainConfig)


def test_a_missing_config_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: cannot be read: No such file"):
        read_config_file(tmp_path / "none.toml", PretrainConfig)
    with pytest.raises(InputError, match=r"cannot be read: Is a directory"):
        read_config_file(tmp_path, PretrainConfig)


def test_a_config_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "options.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not TOML"):
        read_config_file(path, PretrainConfig)


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (["site"], ("site",)),
        (["site,season"], ("site", "season")),
        (["site, season ,"], ("site", "season")),
        (["site", "season,day"], ("site", "season", "day")),
        (['"site, of body",day'], ("site, of body", "day")),
        (["site of body"], ("site of body",)),
    ],
)
def test_a_list_is_split_at_its_commas(words, columns):
    given = _parse(["--output", "o", *(part for word in words for part in ("--columns", word))])
    assert given["columns"] == columns
    assert _Config.from_flat(given).tools.columns == columns


def test_numbers_with_commas_reach_the_config_as_numbers():
    given = _parse(["--output", "o", "--shares", "0.1,0.5", "--shares", ".9"])
    assert _Config.from_flat(given).tools.shares == (0.1, 0.5, 0.9)
    with pytest.raises(InputError, match=r"--shares half: .*number"):
        _Config.from_flat(_parse(["--output", "o", "--shares", "0.1,half"]))
    with pytest.raises(InputError, match=r"--shares 1.5: .*less than 1"):
        _Config.from_flat(_parse(["--output", "o", "--shares", "0.1,1.5"]))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('columns = "site"', ("site",)),
        ('columns = "site,season"', ("site", "season")),
        ('columns = ["site", "season"]', ("site", "season")),
        ("columns = '\"site, of body\",day'", ("site, of body", "day")),
        ('columns = ["site, of body", "day"]', ("site, of body", "day")),
        ("columns = []", ()),
    ],
)
def test_a_list_in_a_file_is_a_text_with_commas_or_a_list_of_names(tmp_path, text, columns):
    path = tmp_path / "options.toml"
    path.write_text(f'output = "o"\n{text}\n')
    values = read_config_file(path, _Config)
    assert _Config.from_flat(_parse([], values)).tools.columns == columns
    assert _parse(["--columns", "x,y"], values)["columns"] == ("x", "y")


@pytest.mark.parametrize("text", ['"0.1, 0.5"', "[0.1, 0.5]"])
def test_numbers_in_a_file_are_a_list_or_a_text_with_commas(tmp_path, text):
    path = tmp_path / "options.toml"
    path.write_text(f'output = "o"\nshares = {text}\n')
    given = _parse([], read_config_file(path, _Config))
    assert _Config.from_flat(given).tools.shares == (0.1, 0.5)


@pytest.mark.parametrize(
    ("text", "problem"), [("[0.1, 1.5]", "less than 1"), ("[true]", "number"), ("3", "array"), ('"half"', "number")]
)
def test_wrong_numbers_in_a_file_are_refused(tmp_path, text, problem):
    path = tmp_path / "options.toml"
    path.write_text(f"shares = {text}\n")
    with pytest.raises(InputError, match=f"shares = .*: .*({problem})"):
        read_config_file(path, _Config)


def test_what_takes_a_list_says_so_in_the_help():
    made = _by_name(TrainConfig)
    for name in ("metadata_column", "normalize_by", "target_loss", "quantiles", "categorical_loss_weight_column"):
        assert made[name].metavar == "A,B,..."


def test_an_option_that_is_a_word_of_python(tmp_path):
    made = _by_name(EvaluateConfig)["with_"]
    assert made.opts == ["--with"]
    assert read_config_file(_toml(tmp_path, 'with = "lightgbm,xgboost"'), EvaluateConfig) == {
        "with_": [("lightgbm",), ("xgboost",)]
    }
