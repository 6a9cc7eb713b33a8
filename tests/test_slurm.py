"""The templates in slurm/, run by bash as Slurm runs them, against stand-ins for srun, scontrol, torchrun and aam."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[1] / "slurm"
FAKES = Path(__file__).parent / "fake_slurm"
TEMPLATES = sorted(SLURM.glob("*.sbatch"))
SCRIPTS = [*TEMPLATES, *SLURM.glob("*.sh"), FAKES / "scontrol", FAKES / "aam"]

OPTIONS = {
    "array": "numbers of the runs of a job array",
    "cpus-per-task": "cores for the data workers of a process",
    "gpus-per-node": "aam picks the GPU of its local rank, so every process has to see all of the node",
    "job-name": "name in the queue and in the name of the log",
    "nodes": "machines of the job",
    "ntasks": "processes of the job",
    "ntasks-per-node": "a process for each GPU",
    "open-mode": "append: a job that starts again keeps the log of its first start",
    "output": "log; %x, %j, %A and %a are job name, job, array and task",
    "requeue": "allows `scontrol requeue`, also where a site's default forbids it",
    "signal": "which signal comes how many seconds before the end; without B: to the processes, not to the script",
    "time": "limit of the job",
}
"""Options of sbatch (its manual page, Slurm 22.05) that the templates may use, and why they do."""

TASKS_OF_ONE_JOB = {"one_gpu": 1, "one_node": 1, "several_nodes": 8, "requeue": 4, "array": 1, "evaluate_array": 1}
RESUMED = [name for name in TASKS_OF_ONE_JOB if name != "evaluate_array"]
"""Templates that add --resume; folds of an evaluation are begun and kept without."""
WITHOUT_GPU = {"evaluate_array"}
EPOCHS = 30
"""Of the run that is stopped; a signal comes long before the last."""
WORDS = ["pretrain", "--table", "a table.biom", "--output-dir", "run"]


def options_of(template: Path) -> dict[str, str]:
    """The #SBATCH options of a template by name."""
    text = template.read_text()
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE)
    assert len(found) == len(re.findall("^#SBATCH", text, re.MULTILINE)), "each on its own line, as --name=value"
    return dict(found)


def environment_of(options: dict[str, str], **more: str) -> dict[str, str]:
    """What Slurm sets for a job with these options."""
    nodes = int(options.get("nodes", 1))
    per_node = int(options.get("ntasks-per-node", 0)) or int(options.get("ntasks", 1))
    named = {
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": ",".join(f"node{number}" for number in range(1, nodes + 1)),
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_NTASKS_PER_NODE": str(per_node),
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
        "SLURM_GPUS_ON_NODE": options.get("gpus-per-node", ""),
        "AAM_SLURM": str(SLURM),
    }
    clean = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE", "OMP_NUM_THREADS"}}
    return clean | named | more


class Job:
    """A template in a folder of its own, which can be started more than once."""

    def __init__(self, folder: Path, name: str, words: list[str]) -> None:
        self.folder, self.words = folder, words
        self.options = options_of(SLURM / f"{name}.sbatch")
        # Slurm runs a copy, from the folder that sbatch was called in
        self.script = Path(shutil.copy(SLURM / f"{name}.sbatch", folder / "slurm_script"))
        self.work = folder / "work"
        self.work.mkdir()

    def start(self, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        self.notes = self.folder / f"notes{len(list(self.folder.glob('notes*')))}"
        self.notes.mkdir()
        env = environment_of(self.options, FAKE_NOTES=str(self.notes), FAKE_CODE=str(code), **more)
        env["PATH"] = f"{FAKES}:{env['PATH']}"
        command = ["bash", str(self.script), *self.words]
        return subprocess.run(command, env=env, cwd=self.work, capture_output=True, text=True, timeout=60, check=False)

    def begin_run(self, folder: str = "run") -> None:
        (self.work / folder).mkdir(parents=True)
        (self.work / folder / "config.json").write_text("{}")

    def calls(self, program: str = "aam") -> list[tuple[list[str], dict[str, str]]]:
        """Words and environment of each process of the last start, by rank."""
        calls = []
        for note in self.notes.glob(f"{program}.*"):
            lines = note.read_text().splitlines()
            words = [line.removeprefix("word ") for line in lines if line.startswith("word ")]
            calls.append((words, dict(line.split("=", 1) for line in lines if not line.startswith("word "))))
        return sorted(calls, key=lambda call: int(call[1].get("RANK", 0)))

    @property
    def requeued(self) -> list[str]:
        noted = self.notes / "requeued"
        return noted.read_text().split() if noted.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (apt-get install shellcheck)")
    done = subprocess.run(
        ["shellcheck", "--external-sources", script], cwd=SLURM.parent, capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_options_of_sbatch_are_known_ones(template):
    assert set(options_of(template)) <= set(OPTIONS)


def test_every_known_option_is_used():
    assert {option for template in TEMPLATES for option in options_of(template)} == set(OPTIONS)


def test_every_template_is_tested():
    assert {template.stem for template in TEMPLATES} == set(TASKS_OF_ONE_JOB)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_there_is_a_gpu_for_each_process(template):
    options = options_of(template)
    if template.stem in WITHOUT_GPU:
        assert "gpus-per-node" not in options
    elif template.stem != "one_node":  # there torchrun starts them
        per_node = options.get("ntasks-per-node", options.get("ntasks"))
        assert options["gpus-per-node"] == per_node


def test_options_come_before_the_first_command():
    """Slurm reads no further than that."""
    for template in TEMPLATES:
        lines = template.read_text().splitlines()
        first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
        assert not any(line.startswith("#SBATCH") for line in lines[first:])


@pytest.mark.parametrize("name", ["one_gpu", "several_nodes", "requeue"])
@pytest.mark.parametrize("code", [0, 1, 75])
def test_words_and_exit_code_pass_through(tmp_path, name, code):
    job = Job(tmp_path, name, WORDS)
    done = job.start(code)
    assert done.returncode == code, done.stderr
    assert [words for words, _ in job.calls()] == [WORDS] * TASKS_OF_ONE_JOB[name]


def test_one_gpu_is_no_distributed_run(tmp_path):
    job = Job(tmp_path, "one_gpu", WORDS)
    job.start()
    ((_, env),) = job.calls()
    assert not {"RANK", "WORLD_SIZE"} & set(env)
    assert (env["OMP_NUM_THREADS"], env["SRUN_CPUS_PER_TASK"]) == ("8", "8")


@pytest.mark.parametrize(("name", "per_node"), [("several_nodes", 4), ("requeue", 4)])
def test_processes_know_their_ranks_and_meet_on_the_first_node(tmp_path, name, per_node):
    job, tasks = Job(tmp_path, name, WORDS), TASKS_OF_ONE_JOB[name]
    job.start()
    ranks = [(int(env["RANK"]), int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"])) for _, env in job.calls()]
    assert ranks == [(rank, rank % per_node, tasks) for rank in range(tasks)]
    places = {(env["MASTER_ADDR"], env["MASTER_PORT"]) for _, env in job.calls()}
    assert places == {("node1", str(15000 + 123456 % 15000))}


def test_one_node_restarts_its_processes_by_torchrun(tmp_path):
    job = Job(tmp_path, "one_node", WORDS)
    assert job.start().returncode == 0
    ((words, env),) = job.calls("torchrun")
    assert words == ["--standalone", "--nproc-per-node", "4", "--max-restarts", "3", "-m", "aam.cli", *WORDS]
    assert env["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize(
    "place", [["--output-dir", "run"], ["--output-dir=run"], ["--output-dir", "x", "--output-dir=run"]]
)
def test_a_run_that_has_begun_is_resumed(tmp_path, name, place):
    job = Job(tmp_path, name, ["train", *place])
    program = "torchrun" if name == "one_node" else "aam"
    job.start(SLURM_ARRAY_TASK_ID="2")
    assert all("--resume" not in words for words, _ in job.calls(program))
    job.begin_run("run/seed-2" if name == "array" else "run")
    job.start(SLURM_ARRAY_TASK_ID="2")
    assert all(words.count("--resume") == 1 for words, _ in job.calls(program))


@pytest.mark.parametrize("code", [0, 1, 2, 75, 137, 138])
def test_a_job_is_requeued_after_a_save_and_only_then(tmp_path, code):
    job = Job(tmp_path, "requeue", WORDS)
    done = job.start(code)
    assert job.requeued == (["123456"] if code == 75 else [])
    assert done.returncode == code


def test_a_requeued_job_is_warned_in_time_and_keeps_its_log():
    options = options_of(SLURM / "requeue.sbatch")
    assert (options["signal"], options["open-mode"]) == ("USR1@300", "append")
    assert "requeue" in options


def test_an_array_runs_a_seed_in_each_task(tmp_path):
    job = Job(tmp_path, "array", ["train", "--output-dir", "runs"])
    job.start(SLURM_ARRAY_TASK_ID="3")
    ((words, _),) = job.calls()
    assert words == ["train", "--output-dir", "runs", "--seed", "3", "--output-dir", "runs/seed-3"]


def test_an_array_runs_a_column_in_each_task(tmp_path):
    job = Job(tmp_path, "array", ["train", "--output-dir", "runs"])
    (job.work / "columns.txt").write_text("age\nsoil pH / H2O\n")
    job.start(SLURM_ARRAY_TASK_ID="2", AAM_COLUMNS="columns.txt")
    ((words, _),) = job.calls()
    assert words[3:] == ["--metadata-column", "soil pH / H2O", "--output-dir", "runs/2-soil_pH___H2O"]
    done = job.start(SLURM_ARRAY_TASK_ID="3", AAM_COLUMNS="columns.txt")
    assert (done.returncode, job.calls()) == (2, [])
    assert "has no line 3" in done.stderr


def test_an_array_evaluates_a_fold_in_each_task_and_puts_them_together_in_task_0(tmp_path):
    words = ["evaluate", "--output-dir", "compared"]
    job = Job(tmp_path, "evaluate_array", words)
    job.begin_run("compared")
    for task, more in (("7", ["--only-fold", "7"]), ("0", ["--collect"])):
        assert job.start(SLURM_ARRAY_TASK_ID=task).returncode == 0
        ((given, _),) = job.calls()
        assert given == [*words, *more]


@pytest.mark.parametrize("name", TASKS_OF_ONE_JOB)
@pytest.mark.parametrize(
    ("words", "message"),
    [(["pretrain", "--config", "run.toml"], "give --output-dir"), ([*WORDS, "--overwrite"], "would delete")],
)
def test_what_cannot_be_resumed_is_refused(tmp_path, name, words, message):
    job = Job(tmp_path, name, words)
    done = job.start(SLURM_ARRAY_TASK_ID="1")
    assert (done.returncode, job.calls(), job.calls("torchrun")) == (2, [], [])
    assert message in done.stderr


def test_the_shared_file_is_found_in_the_folder_of_submission(tmp_path):
    job = Job(tmp_path, "one_gpu", WORDS)
    shutil.copytree(SLURM, tmp_path / "copy" / "slurm")
    assert job.start(AAM_SLURM="", SLURM_SUBMIT_DIR=str(tmp_path / "copy")).returncode == 0
    assert len(job.calls()) == 1


def wait_for(path: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_of_aam_are_stopped_by_usr1_requeued_and_resumed(study_folder, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "scontrol"):
        (programs / name).symlink_to(FAKES / name)
    (programs / "aam").write_text(f'#!/bin/bash\nexec "{sys.executable}" -m aam "$@"\n')
    (programs / "aam").chmod(0o755)
    run, study = tmp_path / "run", [f"--table={study_folder}/table.biom", f"--tree={study_folder}/tree.nwk"]
    options = {"--embedding-dim": 8, "--attention-heads": 2, "--attention-layers": 1, "--batch-size": 8}
    options |= {"--rarefy-depth": 150, "--device": "cpu", "--epochs": EPOCHS, "--output-dir": run}
    words = ["pretrain", "--distributed", *study, *(str(word) for pair in options.items() for word in pair)]

    job = options_of(SLURM / "requeue.sbatch") | {"ntasks-per-node": "2"}
    env = environment_of(job, FAKE_NOTES=str(tmp_path), SLURM_JOB_NODELIST="localhost", OMP_NUM_THREADS="1")
    env |= {"PATH": f"{programs}:{env['PATH']}", "SLURM_JOB_ID": str(os.getpid())}
    command = ["bash", str(SLURM / "requeue.sbatch"), *words]

    first = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    wait_for(run / "checkpoints" / "last")
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGUSR1)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 75, errors
    assert errors.count("stopped by a signal") == 1
    assert (tmp_path / "requeued").read_text().split() == [env["SLURM_JOB_ID"]]

    second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert second.returncode == 0, second.stderr
    assert "resumed at step" in second.stderr
    assert (tmp_path / "requeued").read_text().split() == [env["SLURM_JOB_ID"]]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "val/loss" in line] == list(range(EPOCHS))
