"""The commands: help, exit codes, messages, and what reaches the workflows."""

import logging
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest

from aam.cli import main
from aam.cli.app import app
from aam.config import RunConfig, TrainConfig, flag
from aam.errors import (
    InputError,
    PeerFailedError,
    ReportedInputError,
    StoppedBySignalError,
    TrainingDivergedError,
)

COMMANDS = ["pretrain", "train", "find-lr", "predict", "embed", "evaluate", "inspect", "explain", "simulate", "unifrac"]
COMMANDS += ["tune", "report", "estimate pretrain", "estimate train", "methods", "export", "publish"]
KINDS = ("pretrain", "train")
REQUIRED = {
    "estimate pretrain": [],
    "estimate train": ["--metadata-column", "age"],
    "pretrain": ["--output-dir", "o"],
    "train": ["--output-dir", "o", "--metadata-column", "age"],
    "find-lr": ["--output-dir", "o"],
    "predict": ["--checkpoint", "c", "--output", "p.tsv"],
    "export": ["run", "--output", "m.onnx"],
    "embed": ["--checkpoint", "c", "--output", "p.tsv"],
    "evaluate": ["--output-dir", "o", "--metadata-column", "age"],
    "tune": ["--output-dir", "o", "--metadata-column", "age"],
    "report": ["compared", "--output", "r.html"],
    "inspect": ["c"],
    "methods": ["run"],
    "publish": ["run", "--output-dir", "o"],
    "explain": ["--checkpoint", "c", "--what", "category-attention", "--output", "w.tsv"],
    "simulate": ["study"],
    "unifrac": ["--output", "d.tsv"],
}


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


@pytest.fixture
def workflow(monkeypatch):
    """Put a function in the place of a command's workflow; returns the configs that reached it."""

    def replace(command: str, function=None) -> list[RunConfig]:
        received: list[RunConfig] = []
        name = command.replace("-", "_")
        of_module = {"unifrac": "write_unifrac"} | {f"estimate {kind}": f"estimate_{kind}ing" for kind in KINDS}
        module = types.ModuleType(f"aam.workflows.{name.split()[0]}")

        def run(config: RunConfig) -> None:
            received.append(config)
            if function is not None:
                function()

        setattr(module, of_module.get(name, name), run)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return received

    return replace


def test_the_commands_are_those_of_the_readme():
    alone = {name for name in COMMANDS if " " not in name}
    assert set(app.commands) == alone | {"estimate", "completion"}
    assert {f"estimate {name}" for name in app.commands["estimate"].commands} == set(COMMANDS) - alone


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_calls_its_workflow_with_its_config(command, workflow):
    received = workflow(command)
    assert _run(*command.split(), *REQUIRED[command]) == 0
    (config,) = received
    assert all(str(value) in REQUIRED[command] for value in config.flat().values() if isinstance(value, Path))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_100_columns_and_shows_every_option_in_its_panel(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert _run(*command.split(), "--help-all") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    group, _, name = command.rpartition(" ")
    made = (app.commands[group] if group else app).commands[name]
    for parameter in made.params:
        name = str(parameter.name)
        if isinstance(parameter, click.Argument):
            assert name.upper() in text
        else:
            assert f"{flag(name)} " in text or f"{flag(name)}/" in text, name
    assert f"aam {command}" in text
    assert "General" in text


def test_train_help_has_the_panels_of_its_sections(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    _run("train", "--help-all")
    text = capsys.readouterr().out
    at = [text.index(f" {section.panel} ─") for section in TrainConfig.sections().values()]
    assert at == sorted(at)
    assert "[required]" in text
    assert "[default: cosine]" in text
    assert "[0<=x<1]" in text


@pytest.mark.parametrize("module", ["aam", "aam.cli"])
def test_both_modules_run_the_command_line(module):
    done = subprocess.run([sys.executable, "-m", module, "train"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: Missing option '--output-dir'.\nTry 'aam train --help'.\n"


def test_help_does_not_load_pytorch_or_the_readers():
    code = (
        "import sys\n"
        "from aam.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'scipy', 'skbio', 'matplotlib', 'numpy', 'biom'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version(capsys):
    assert _run("--version") == 0
    assert capsys.readouterr().out.startswith("aam 0.")


def test_without_a_command_the_help_is_shown(capsys):
    assert _run() == 2
    assert "pretrain" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Error: No such command 'trian'."),
        (["train", "--epoch", "3"], "Error: No such option '--epoch'. (Did you mean one of: '--epochs'"),
        (["train", "--epochs", "0"], "Error: Invalid value for '--epochs': 0 is not in the range x>0."),
        (["train", "--output-dir", "o"], "Error: Missing option '--metadata-column'."),
        (["train", "--verbose"], "Error: No such option '--verbose'."),
        (["simulate"], "Error: Missing argument 'DIRECTORY'."),
        (["inspect"], "Error: Missing argument 'CHECKPOINT'."),
        (["inspect", "--checkpoint", "c"], "Error: No such option '--checkpoint'."),
        (
            ["explain", *REQUIRED["explain"], "--what", "shap"],
            "Error: Invalid value for '--what': 'shap' is not",
        ),
        (["predict", *REQUIRED["predict"], "new.biom"], "Error: Got unexpected extra argument (new.biom)"),
    ],
)
def test_usage_errors_leave_with_2_and_one_message(arguments, message, capsys):
    assert _run(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert shown.err.splitlines()[1].startswith("Try 'aam")
    assert shown.out == ""


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("predict", "seed compile-model"),
        ("embed", "seed compile-model"),
        ("inspect", "table metadata output overwrite device seed"),
        ("explain", "compile-model distributed data-parallel fsdp rank-timeout log-all-ranks"),
        ("find-lr", "lr epochs scheduler warmup-fraction patience best-metric compile-model"),
        ("find-lr", "log-every checkpoint-every keep-checkpoints resume stratify"),
        ("find-lr", "distributed data-parallel fsdp rank-timeout log-all-ranks"),
        ("predict", "distributed data-parallel fsdp rank-timeout log-all-ranks"),
        ("embed", "distributed data-parallel fsdp rank-timeout log-all-ranks"),
        ("pretrain", "stratify"),
        ("train", "distance-link"),
        ("unifrac", "distance-link"),
    ],
)
def test_a_command_has_no_option_that_it_does_not_read(command, options, capsys):
    for option in options.split():
        assert _run(command, *REQUIRED[command], f"--{option}") == 2
        assert f"Error: No such option '--{option}'." in capsys.readouterr().err


def test_contradicting_options_leave_with_2(capsys):
    assert _run("train", *REQUIRED["train"], "--resume", "--overwrite") == 2
    assert capsys.readouterr().err == "Error: --resume continues a run and --overwrite deletes it: give one of them\n"


def test_bad_input_leaves_with_2_and_no_traceback(workflow, capsys):
    def refuse() -> None:
        raise InputError("table.biom: sample 's1' is there twice: rename one")

    workflow("pretrain", refuse)
    assert _run("pretrain", *REQUIRED["pretrain"]) == 2
    assert capsys.readouterr().err == "Error: table.biom: sample 's1' is there twice: rename one\n"


def test_a_training_that_diverged_leaves_with_1_and_no_traceback(workflow, capsys):
    def diverge() -> None:
        raise TrainingDivergedError("loss or weights became NaN: try a lower --lr")

    workflow("pretrain", diverge)
    assert _run("pretrain", *REQUIRED["pretrain"]) == 1
    assert capsys.readouterr().err == "Error: loss or weights became NaN: try a lower --lr\n"


def raising(error: Exception):
    def end() -> None:
        raise error

    return end


@pytest.mark.parametrize(("rank", "shown"), [(None, True), ("0", True), ("3", False)])
def test_a_run_that_a_signal_stopped_leaves_with_75_and_says_so_once(workflow, capsys, monkeypatch, rank, shown):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    says = "stopped by a signal after step 3, which is saved: continue with --resume"
    workflow("pretrain", raising(StoppedBySignalError(says)))
    assert _run("pretrain", *REQUIRED["pretrain"]) == 75
    assert capsys.readouterr().err == (f"{says}\n" if shown else "")


@pytest.mark.parametrize("code", [1, 2, 75])
def test_a_process_that_another_one_stopped_leaves_with_its_code(workflow, capsys, code):
    workflow("pretrain", raising(PeerFailedError("rank 2 failed at step 7: ValueError: bad", code)))
    assert _run("pretrain", *REQUIRED["pretrain"]) == code
    assert capsys.readouterr().err == "Error: rank 2 failed at step 7: ValueError: bad\n"


def test_bad_input_that_another_process_tells_is_not_told_again(workflow, capsys):
    workflow("pretrain", raising(ReportedInputError("--tree is a folder")))
    assert _run("pretrain", *REQUIRED["pretrain"]) == 2
    assert capsys.readouterr().err == ""


def test_other_processes_than_the_first_show_nothing_of_the_log(workflow, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    workflow("pretrain", lambda: logging.getLogger("aam.some.part").warning("trouble"))
    assert _run("pretrain", *REQUIRED["pretrain"]) == 0
    assert capsys.readouterr().err == ""


def test_an_environment_without_a_number_is_bad_input(workflow, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "first")
    received = workflow("pretrain")
    assert _run("pretrain", *REQUIRED["pretrain"]) == 2
    assert capsys.readouterr().err.startswith("Error: the environment variable RANK is 'first', not a number: unset it")
    assert received == []


def test_an_interrupt_leaves_with_130(workflow, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    workflow("pretrain", interrupt)
    assert _run("pretrain", *REQUIRED["pretrain"]) == 130
    assert "Interrupted." in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(workflow):
    def fail() -> None:
        raise ValueError("a defect")

    workflow("pretrain", fail)
    with pytest.raises(ValueError, match="a defect"):
        main(["pretrain", *REQUIRED["pretrain"]])


@pytest.mark.parametrize(
    ("switch", "shown"),
    [([], ["news", "trouble"]), (["--quiet"], ["trouble"])],
)
def test_messages_go_to_stderr_as_they_are(switch, shown, workflow, capsys):
    def speak() -> None:
        logger = logging.getLogger("aam.some.part")
        logger.debug("detail")
        logger.info("news")
        logger.warning("trouble")

    workflow("pretrain", speak)
    assert _run("pretrain", *REQUIRED["pretrain"], *switch) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == shown
    assert captured.out == ""
    assert logging.getLogger("aam").handlers == []


def test_a_config_file_fills_in_and_the_command_line_wins(workflow, tmp_path):
    path = tmp_path / "options.toml"
    path.write_text('output-dir = "o"\nmetadata_column = "age"\nepochs = 7\nclassifier = true\nlr = 0.5\n')
    received = workflow("train")
    assert _run("train", "--epochs", "9", "--no-classifier", "--config", str(path)) == 0
    options = received[0].flat()
    assert (options["epochs"], options["classifier"], options["lr"]) == (9, False, 0.5)
    assert options["metadata_column"] == ("age",)
    assert (
        options["batch_size"] == TrainConfig.from_flat({"output_dir": "o", "metadata_column": "age"}).optim.batch_size
    )


def test_a_config_file_with_an_unknown_option_is_refused(workflow, tmp_path, capsys):
    path = tmp_path / "options.toml"
    path.write_text("epoch = 7\n")
    received = workflow("train")
    assert _run("train", *REQUIRED["train"], "--config", str(path)) == 2
    assert capsys.readouterr().err == f"Error: {path}: unknown option 'epoch'; did you mean epochs?\n"
    assert received == []
