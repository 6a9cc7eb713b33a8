import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aam.config import PretrainConfig
from aam.errors import InputError
from aam.training.monitor import Monitor, sinks_of
from aam.training.run_folder import RunFolder
from aam.training.sinks.json_lines import JsonLines, cut_metrics
from aam.training.sinks.progress_bar import ProgressBar
from aam.training.sinks.sink import Judged, Sink
from aam.training.sinks.training_log import LoggedValidations, early_records

logger = logging.getLogger("aam.somewhere")


@pytest.fixture(autouse=True)
def _loggers_are_left_as_they_were() -> Iterator[None]:
    package = logging.getLogger("aam")
    before = package.level, list(package.handlers), list(logging.getLogger().handlers)
    yield
    assert (package.level, package.handlers, logging.getLogger().handlers) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def monitor_of(total_steps: int, folder: Path, resumed_step: int | None = None, rank: int = 0) -> Monitor:
    config = PretrainConfig.from_flat({"output_dir": folder, "log_all_ranks": True, "distributed": True})
    return Monitor(total_steps, sinks_of(RunFolder(folder), config, rank), resumed_step)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in board.Scalars(name)]


def test_a_run_leaves_curves_and_a_log(tmp_path: Path) -> None:
    with monitor_of(4, tmp_path) as monitor:
        monitor.log_training(2, 1, {"train/loss": 0.1, "train/unifrac_loss": 1 / 3})
        assert lines(tmp_path) == [{"step": 2, "epoch": 1, "train/loss": 0.1, "train/unifrac_loss": 1 / 3}]
        logger.info("said on the way")
        values = {"val/loss": 0.25, "val/r2": None}
        monitor.log_validation(4, 2, values)
        monitor.judge(Judged(4, 2, values, "val/loss", is_best=True))
    assert lines(tmp_path)[1:] == [{"step": 4, "epoch": 2, "val/loss": 0.25, "val/r2": None}]
    assert scalars(tmp_path, "train/unifrac_loss") == [(2, pytest.approx(1 / 3))]
    log = (tmp_path / "training.log").read_text()
    assert "said on the way" in log
    assert "epoch 2, step 4/4, 00:00 left * val/loss 0.25, val/r2 undefined" in log


def test_the_board_is_written_out_with_every_line(tmp_path: Path) -> None:
    """A killed run closes nothing."""
    with monitor_of(4, tmp_path) as monitor:
        monitor.log_training(2, 1, {"train/loss": 0.5})
        assert scalars(tmp_path, "train/loss") == [(2, 0.5)]
        monitor.log_validation(4, 1, {"val/loss": 0.25})
        assert scalars(tmp_path, "val/loss") == [(4, 0.25)]


def test_the_log_begins_with_what_was_said_before_there_was_a_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with early_records():
        logger.info("left out %d samples", 3)
        with monitor_of(4, tmp_path / "one"):
            logger.warning("on the way")
        with monitor_of(4, tmp_path / "two"):
            pass
    lines = (tmp_path / "one/training.log").read_text().splitlines()
    assert [line.partition(" aam.")[2] for line in lines] == ["somewhere: left out 3 samples", "somewhere: on the way"]
    assert (tmp_path / "two/training.log").read_text() == ""


def test_nothing_is_logged_to_the_file_after_the_run(tmp_path: Path) -> None:
    with monitor_of(4, tmp_path):
        pass
    logger.warning("later")
    assert "later" not in (tmp_path / "training.log").read_text()


def test_files_are_closed_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), monitor_of(4, tmp_path) as monitor:  # noqa: PT012
        monitor.log_training(1, 1, {"train/loss": 1.0})
        raise ZeroDivisionError
    assert lines(tmp_path) == [{"step": 1, "epoch": 1, "train/loss": 1.0}]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with monitor_of(4, tmp_path) as monitor:
        monitor.log_training(1, 1, {"train/loss": float("nan"), "train/a": float("inf"), "train/b": 2.0})
    assert lines(tmp_path) == [{"step": 1, "epoch": 1, "train/loss": None, "train/a": None, "train/b": 2.0}]


def test_a_resumed_run_has_one_curve(tmp_path: Path) -> None:
    with monitor_of(8, tmp_path) as monitor:
        for step in range(1, 7):
            monitor.log_training(step, 1, {"train/loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "ep')
    with monitor_of(8, tmp_path, resumed_step=4) as monitor:
        assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
        for step in range(5, 9):
            monitor.log_training(step, 1, {"train/loss": float(step)})
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))
    assert scalars(tmp_path, "train/loss") == [(step, float(step)) for step in range(1, 9)]
    assert not list(tmp_path.glob("tmp-*"))


def test_a_run_that_starts_over_starts_its_curves_over(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with monitor_of(8, tmp_path) as monitor:
            monitor.log_training(1, 1, {"train/loss": value})
    assert [line["train/loss"] for line in lines(tmp_path)] == [2.0]
    assert scalars(tmp_path, "train/loss") == [(1, 2.0)]


def test_a_run_without_its_metrics_file_resumes(tmp_path: Path) -> None:
    with monitor_of(8, tmp_path, resumed_step=4) as monitor:
        monitor.log_training(5, 1, {"train/loss": 1.0})
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["{", "[1]", "{}", '{"step": "x"}', "\udcff"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    text = f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n'
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        monitor_of(8, tmp_path, resumed_step=4)
    assert path.read_bytes() == text.encode(errors="surrogateescape")


def test_an_unfinished_last_line_goes_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    last = b'{"step": 2, "epoch": 1, "train/loss": 0.5}\n'
    for length in range(len(last)):
        path.write_bytes(b'{"step": 1}\n' + last[:length])
        cut_metrics(path, 9)
        assert path.read_bytes() == b'{"step": 1}\n'


def test_without_a_terminal_there_is_no_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with monitor_of(4, tmp_path) as monitor:
        monitor.advance()
        monitor.log_training(1, 1, {"train/loss": 1.0})
        monitor.log_validation(1, 1, {"val/loss": 1.0})
    assert capsys.readouterr() == ("", "")


def test_at_a_terminal_a_bar_shows_losses_and_log_lines_pass_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = logging.StreamHandler(terminal)
    package = logging.getLogger("aam")
    package.addHandler(console)
    with Monitor(10, [ProgressBar()], resumed_step=4) as monitor:
        monitor.advance()
        monitor.log_training(5, 1, {"train/loss": 0.125, "train/learning_rate": 0.5})
        logger.warning("a line")
    package.removeHandler(console)
    shown = terminal.getvalue()
    assert "5/10" in shown
    assert "loss=0.125" in shown
    assert "learning_rate" not in shown
    assert any(line == "a line" for line in shown.replace("\r", "\n").splitlines())
    assert not list(tmp_path.iterdir())


def test_quiet_hides_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = logging.StreamHandler(terminal)
    console.setLevel(logging.WARNING)
    package = logging.getLogger("aam")
    package.addHandler(console)
    with Monitor(10, [ProgressBar()]) as monitor:
        monitor.advance()
        monitor.log_training(1, 1, {"train/loss": 0.125})
    package.removeHandler(console)
    assert terminal.getvalue() == ""


@pytest.mark.slow
@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_has_a_widget_or_nothing(widgets: bool) -> None:
    """Without ipywidgets every state of a bar would be another piece of text, and tqdm warns."""
    code = f"""
import sys
if not {widgets}:
    sys.modules["ipywidgets"] = None
from aam.training.monitor import Monitor
from aam.training.sinks.progress_bar import ProgressBar
with Monitor(500, [ProgressBar()]) as monitor:
    for step in range(500):
        monitor.advance()
        monitor.log_training(step, 1, {{"train/loss": 1.0}})
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    assert len(outputs) == (1 if widgets else 0), outputs
    if widgets:
        assert "application/vnd.jupyter.widget-view+json" in outputs[0]["data"]


def validations(caplog: pytest.LogCaptureFixture, *judged: Judged) -> list[str]:
    """Lines of the log for some validations."""
    with caplog.at_level(logging.INFO, logger="aam"), Monitor(400, [LoggedValidations()]) as monitor:
        for each in judged:
            monitor.judge(each)
    return caplog.messages


def test_an_epoch_is_a_line_of_at_most_100_characters(caplog: pytest.LogCaptureFixture) -> None:
    many = {f"val/metric_{number}_of_a_long_name": -1.23456789e-12 for number in range(20)}
    one, *_ = validations(caplog, Judged(40, 9, many | {"val/r2": 0.5}, "val/r2", is_best=False))
    assert len(one) <= 100
    assert "\n" not in one
    assert "left   val/r2 0.5, val/metric_0_of_a_long_name -1.235e-12" in one


def test_the_best_epoch_is_marked(caplog: pytest.LogCaptureFixture) -> None:
    values = [0.5, 0.4, 0.6]
    judged = [Judged(n, n, {"val/loss": value}, "val/loss", value < 0.45) for n, value in enumerate(values)]
    assert ["*" in line for line in validations(caplog, *judged)] == [False, True, False]


def test_a_rank_that_only_logs_leaves_its_log_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with early_records():
        logger.info("left out %d samples", 3)
        with monitor_of(4, tmp_path, rank=1) as monitor:
            monitor.advance()
            monitor.log_training(1, 1, {"train/loss": 1.0})
            monitor.log_validation(1, 1, {"val/loss": None})
            logger.warning("on the way")
    logger.warning("later")
    lines = (tmp_path / "training-rank1.log").read_text().splitlines()
    assert [line.partition(" aam.")[2] for line in lines] == ["somewhere: left out 3 samples", "somewhere: on the way"]
    assert [path.name for path in tmp_path.iterdir()] == ["training-rank1.log"]
    assert capsys.readouterr().err == ""


def test_without_sinks_it_takes_everything_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Monitor() as monitor:
        monitor.advance()
        monitor.log_training(1, 1, {"train/loss": 1.0})
        monitor.log_validation(1, 1, {"val/loss": None})
    assert not list(tmp_path.iterdir())


class Tracker(Sink):
    """As a package that tracks experiments would be."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        self.told.append((total_steps, resumed_step))

    def advance(self) -> None:
        self.told.append("step")

    def log(self, step: int, epoch: int, values: object) -> None:
        self.told.append((step, epoch, values))

    def close(self) -> None:
        self.told.append("closed")


def test_a_tracker_joins_the_list_and_is_told_all(tmp_path: Path) -> None:
    tracker = Tracker()
    with Monitor(8, [JsonLines(tmp_path / "a"), tracker], resumed_step=4) as monitor:
        monitor.advance()
        monitor.log_training(5, 1, {"train/loss": 1.0})
        monitor.log_validation(5, 1, {"val/loss": None})
    told = [(8, 4), "step", (5, 1, {"train/loss": 1.0}), (5, 1, {"val/loss": None}), "closed"]
    assert tracker.told == told
    assert len((tmp_path / "a").read_text().splitlines()) == 2


def test_a_sink_that_cannot_begin_leaves_none_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("damaged\n")
    before, after = Tracker(), Tracker()
    with pytest.raises(InputError, match="line 1"):
        Monitor(8, [before, JsonLines(tmp_path / "a"), after], resumed_step=4)
    assert before.told == [(8, 4), "closed"]
    assert after.told == []
