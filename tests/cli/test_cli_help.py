"""The three kinds of help, and completion by the shell."""

import re
import subprocess
import sys

import pytest

from aam.cli import main
from aam.cli.app import app
from aam.cli.help import commands_below
from aam.config import flag
from aam.config.base import FEW

LONG = {path: command for path, command in commands_below(app, "aam") if len(command.params) > FEW + 5}


def told(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", LONG)
def test_the_help_shows_the_options_that_matter_and_says_how_many_more(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = told(capsys, *path.split()[1:], "--help")
    config = LONG[path].config
    main_options, others = config.main_options(), config.options().keys() - set(config.main_options())
    assert 8 <= len(main_options) <= 18
    assert "--table" in text
    assert f"{len(others)} more options: {path} --help-all. All about one: {path} --help-option NAME." in " ".join(
        text.split()
    )
    assert len(text.splitlines()) < 85
    shown = set(re.findall(r"^│[ *]{1,4}--([a-z-]+)", text, re.MULTILINE))
    assert shown == {flag(name)[2:] for name in main_options} | {"config", "quiet", "help", "help-all", "help-option"}


def test_a_command_of_few_options_shows_them_all(capsys):
    text = told(capsys, "simulate", "--help")
    assert "--depth-confounded" in text
    assert "more options" not in text


def test_the_help_has_the_first_sentence_default_and_choices(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(told(capsys, "train", "--help").replace("│", " ").split())
    assert "Use only samples whose metadata agree: COLUMN=VALUE or COLUMN=VALUE,VALUE. --tree" in text
    assert "Default: use all reads." in text
    assert "One of null, depth, linear, forest, clades, kernel, ensemble, neural. [default: neural]" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train scheduler", ["--scheduler NAME", "default   cosine", "choices   cosine, cosine_restarts, plateau, "]),
        ("train --val-fraction", ["--val-fraction NUMBER", "default   0.2", "range     0<=x<1"]),
        ("pretrain batch_size", ["--batch-size INTEGER|auto", "pretraining compares all pairs", "range  ", "auto"]),
        ("train no-report", ["--report/--no-report", "default   yes"]),
        ("train metadata-column", ["default   none: it is needed", "aam evaluate"]),
        ("train where", ["Repeat to combine."]),
        ("evaluate learners", ["default   linear,clades,kernel,ensemble", "commands  aam evaluate"]),
        ("simulate directory", ["DIRECTORY", "commands  aam simulate"]),
        ("train quiet", ["--quiet", "aam tune"]),
    ],
)
def test_one_option_with_all_that_is_to_say(words, says, capsys):
    command, option = words.split()
    text = told(capsys, command, "--help-option", option)
    for part in says:
        assert part in text
    assert max(map(len, text.splitlines())) <= 100


def test_one_option_can_be_asked_for_where_others_are_missing(capsys):
    commands = told(capsys, "estimate", "train", "--help-option", "epochs").split("commands")[1]
    assert {"pretrain,", "train,", "evaluate,", "tune"} <= set(commands.split())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("batch_siz", "did you mean batch-size"),
        ("--epoch", "did you mean epochs?"),
        ("zzz", "aam train --help-all lists them"),
        ("", "aam train --help-all lists them"),
    ],
)
def test_an_unknown_option_is_refused_with_what_is_like_it(asked, says, capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--help-option", asked])
    shown = capsys.readouterr()
    assert left.value.code == 2
    assert shown.out == ""
    assert shown.err.startswith(f"Error: --help-option {asked}: aam train has no such option; ")
    assert says in shown.err


def completed(words: list[str], shell: str = "bash") -> list[str]:
    """What a shell is given for the last of some words."""
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_AAM_COMPLETE": f"{shell}_complete"}
    done = subprocess.run([sys.executable, "-m", "aam"], env=asked, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["aam", "pre"], {"pretrain", "predict"}),
        (["aam", "estimate", ""], {"pretrain", "train"}),
        (["aam", "train", "--metadata-c"], {"--metadata-column"}),
        (["aam", "train", "--device", ""], {"auto", "cpu", "cuda"}),
        (["aam", "train", "--batch-size", "a"], {"auto"}),
        (["aam", "train", "--help-option", "val"], {"val-fraction", "validate-every"}),
        (["aam", "completion", "f"], {"fish"}),
    ],
)
def test_commands_options_and_choices_are_completed(words, found):
    assert set(completed(words)) == found


def test_files_are_completed_by_the_shell_itself():
    done = completed(["aam", "train", "--table", "tab"])
    assert done == ["tab"]


@pytest.mark.parametrize(
    ("shell", "part"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_every_shell_gets_its_script(shell, part, capsys, tmp_path):
    text = told(capsys, "completion", shell)
    assert part in text
    assert f"_AAM_COMPLETE={shell}_complete" in text
    if shell == "bash":
        (tmp_path / "aam.bash").write_text(text)
        subprocess.run(["bash", "-n", tmp_path / "aam.bash"], check=True)
        sourced = "source aam.bash && COMP_WORDS=(aam) && type -t _aam_completion"
        done = subprocess.run(["bash", "-c", sourced], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "function\n"
