"""Searches of several processes: who takes which trial, what is given up, and what a dead process leaves."""

import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from aam.config import TuneConfig
from aam.config.search_space import Range
from aam.errors import InputError
from aam.training.run_folder import RunFolder

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'aam[tune]'")

from optuna.trial import TrialState  # noqa: E402

from aam.workflows.shared_folder import check_shared_folder, joined, work_together  # noqa: E402
from aam.workflows.tuning.search import Shared  # noqa: E402
from aam.workflows.tuning.storage import FileLock, open_storage  # noqa: E402

SPACE = {"min_prevalence": Range(low=0.0, high=1.0)}


def config_of(folder: Path, **more: object) -> TuneConfig:
    base = {"learner": "linear", "metadata_column": "acidity", "output_dir": folder}
    return TuneConfig.from_flat({**base, **more})


def shared_of(config: TuneConfig, seat, fingerprint: str = "same") -> Shared:
    return Shared(config, SPACE, open_storage(config, seat.folder), seat, "name", fingerprint)


def states(search) -> list[TrialState]:
    return [trial.state for trial in search.study.get_trials()]


def test_what_is_worse_than_half_of_the_others_after_some_folds_is_given_up(tmp_path):
    config = config_of(tmp_path / "out")
    folds: list[int] = []

    def score(options, tell):
        for done in range(1, 5):
            folds.append(done)
            if tell(done, -options["min_prevalence"]):
                return None
        return -options["min_prevalence"]

    with work_together(config, config.output) as seat:
        search = shared_of(config, seat).search("main", "trial", 20, 1)
        search.work(score)
    assert states(search).count(TrialState.PRUNED) >= 3
    for trial in search.study.get_trials():
        if trial.state == TrialState.PRUNED:
            assert max(trial.intermediate_values) == 2
    best = search.best("tuning")
    assert best.value == max(trial.value for trial in search.done if trial.value is not None)
    assert best.params["min_prevalence"] < 0.1, "proposals learn from those before"


def test_without_pruning_nothing_is_given_up(tmp_path):
    config = config_of(tmp_path / "out", prune=False)
    with work_together(config, config.output) as seat:
        search = shared_of(config, seat).search("main", "trial", 12, 1)
        search.work(lambda options, tell: None if tell(2, options["min_prevalence"]) else 1.0)
    assert set(states(search)) == {TrialState.COMPLETE}


def test_several_workers_make_as_many_trials_as_were_asked_for(tmp_path):
    """Threads stand for processes: each has its own locks and its own view of the study."""
    config = config_of(tmp_path / "out")
    meet = threading.Barrier(3)
    found = []

    def work(output):
        with work_together(config, output) as seat:
            search = shared_of(config, seat).search("main", "trial", 15, 1)
            meet.wait(30)
            search.work(lambda options, tell: options["min_prevalence"])
            found.append(search)
            meet.wait(30)

    outputs = [config.output, *[config.output.model_copy(update={"resume": True})] * 2]
    threads = [threading.Thread(target=work, args=(output,)) for output in outputs]
    threads[0].start()
    while not (tmp_path / "out/config.json").exists():
        threads[0].join(0.01)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    for search in found:
        assert states(search) == [TrialState.COMPLETE] * 15
        assert search.unfinished == 0


def test_what_a_dead_process_was_at_is_tried_again_beside_others_that_live(tmp_path):
    config = config_of(tmp_path / "out")
    again = config.output.model_copy(update={"resume": True})
    with ExitStack() as dying:
        first = dying.enter_context(work_together(config, config.output))
        lost = shared_of(config, first).search("main", "trial", 4, 1)._next()
        with work_together(config, again) as second:
            kept = shared_of(config, second).search("main", "trial", 4, 1)._next()
            with work_together(config, again) as third:
                search = shared_of(config, third).search("main", "trial", 4, 1)
                search.work(lambda options, tell: 1.0)
                assert states(search) == [TrialState.RUNNING] * 2 + [TrialState.COMPLETE] * 2
                dying.close()
                search.work(lambda options, tell: 2.0)
                assert states(search)[:2] == [TrialState.FAIL, TrialState.RUNNING], "the second process lives"
                assert search.unfinished == 1
    assert search.study.get_trials()[-1].params == lost.params != kept.params
    assert search.study.get_trials()[-1].value == 2.0


def test_a_trial_that_was_claimed_in_the_moment_of_a_kill_is_no_bodys(tmp_path):
    """It has no options, and not even the name of the process."""
    config = config_of(tmp_path / "out")
    with work_together(config, config.output) as seat:
        search = shared_of(config, seat).search("main", "trial", 2, 1)
        search.study.ask()
        search.work(lambda options, tell: 1.0)
    assert states(search) == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert search.unfinished == 0


def test_a_search_of_other_data_is_refused(tmp_path):
    config = config_of(tmp_path / "out")
    with work_together(config, config.output) as seat:
        shared_of(config, seat).search("main", "trial", 1, 1)
        with pytest.raises(InputError, match="of other data"):
            shared_of(config, seat, "another").search("main", "trial", 1, 1)


def test_none_with_a_score_says_why(tmp_path):
    config = config_of(tmp_path / "out")

    def refuse(options, tell):
        raise InputError("too few samples")

    with work_together(config, config.output) as seat:
        search = shared_of(config, seat).search("main", "trial", 2, 1)
        search.work(refuse)
        with pytest.raises(InputError, match="tuning: none of 2 trials has a score: too few samples"):
            search.best("tuning")


def test_a_process_that_comes_to_others_joins_them_and_replaces_nothing(tmp_path):
    config = config_of(tmp_path / "out")
    with work_together(config, config.output):
        check_shared_folder(config, config.output)
        assert joined(config.output).resume
        with work_together(config, config.output):
            assert len(list((tmp_path / "out/.workers").iterdir())) == 2
        over = config.output.model_copy(update={"overwrite": True})
        for use in (lambda: check_shared_folder(config, over), lambda: work_together(config, over).__enter__()):
            with pytest.raises(InputError, match="another process works in"):
                use()
        with (
            pytest.raises(InputError, match="started with other options"),
            work_together(config_of(tmp_path / "out", seed=1), config.output),
        ):
            pass
    with pytest.raises(InputError, match="--resume"):
        check_shared_folder(config, config.output)


def test_a_line_that_a_kill_left_unfinished_is_dropped(tmp_path):
    config = config_of(tmp_path / "out")
    with work_together(config, config.output) as seat:
        shared_of(config, seat).search("main", "trial", 3, 1).work(lambda options, tell: 1.0)
    path = tmp_path / "out/study.journal"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    again = config.output.model_copy(update={"resume": True})
    for length in range(1, len(lines[-1]), 9):
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:length])
        with work_together(config, again) as seat:
            search = shared_of(config, seat).search("main", "trial", 3, 1)
            search.work(lambda options, tell: 1.0)
        assert search.unfinished == 0
        assert states(search)[:2] == [TrialState.COMPLETE] * 2


def test_a_file_of_another_kind_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("notes\nwithout an end")
    config = config_of(tmp_path / "out", study=str(path))
    with pytest.raises(InputError, match="no journal of trials"):
        open_storage(config, RunFolder(tmp_path / "out"))
    assert path.read_text() == "notes\nwithout an end"


def test_a_process_that_is_killed_while_it_writes_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_of(Path("out"))  # relative, as a user writes it
    with work_together(config, config.output) as seat:
        shared_of(config, seat).search("main", "trial", 1, 1)
    script = (
        "from pathlib import Path\nfrom aam.workflows.tuning.storage import FileLock\n"
        "FileLock(Path('out/study.journal')).acquire()\nprint('held', flush=True)\ninput()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        other = FileLock(Path("out/study.journal"))
        waiting = threading.Thread(target=other.acquire)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        process.kill()
        waiting.join(10)
        assert not waiting.is_alive()
        other.release()
    with work_together(config, config.output.model_copy(update={"resume": True})) as seat:
        search = shared_of(config, seat).search("main", "trial", 1, 1)
        search.work(lambda options, tell: 1.0)
    assert search.unfinished == 0
