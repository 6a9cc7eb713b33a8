"""A tuning on real data by two processes that are killed twice and resumed: the village of houses in the Amazon.

python benchmarks/tune_kills.py OUT --data STUDIES --learner ensemble --trials 20
python benchmarks/tune_kills.py OUT --data STUDIES --learner neural --trials 10 --epochs 3 --min-steps 0

Further options are those of `aam tune`. With --stretch S no process computes longer than S seconds before it is killed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

WORKERS = 2
FIRST_KILLS = (60.0, 90.0)
"""Seconds after which all processes are killed for the first two times."""


def start(options: argparse.Namespace, more: list[str]) -> list["subprocess.Popen[bytes]"]:
    """Start the processes; they join each other, or continue what is there."""
    study, folder = options.data / "amazon_houses", options.out / options.learner
    words = ["--table", study / "table.biom", "--tree", study / "tree.nwk", "--metadata", study / "metadata.tsv"]
    words += ["--metadata-column", "village", "--classifier", "--group-column", "house_number"]
    words += ["--learner", options.learner, "--trials", options.trials, "--output-dir", folder, *more]
    if (folder / "config.json").exists():
        words.append("--resume")
    command = [sys.executable, "-m", "aam", "tune", *map(str, words)]
    return [subprocess.Popen(command) for _ in range(WORKERS)]


def run(options: argparse.Namespace, more: list[str], seconds: float | None) -> int:
    """Let the processes work, and kill those that have not finished in time; returns how many."""
    processes = start(options, more)
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(0.2)
    killed = [process for process in processes if process.poll() is None]
    for process in killed:
        process.kill()
    for process in processes:
        if process.wait() not in (0, -9):
            sys.exit(f"a process ended with {process.returncode}")
    return len(killed)


def main() -> None:
    """Kill twice, finish, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of studies, with amazon_houses")
    parser.add_argument("--learner", choices=["ensemble", "neural"], default="ensemble")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument(
        "--stretch", type=float, help="seconds after which processes are killed, from the third time on"
    )
    options, more = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    result = options.out / options.learner / "tuning.json"
    began, killed = time.monotonic(), []
    for seconds in FIRST_KILLS:
        if not result.exists():
            killed.append(run(options, more, seconds))
    while not result.exists():
        killed.append(run(options, more, options.stretch))
    found = json.loads(result.read_text())
    print(found["sentence"])
    shown = {name: found[name] for name in ("trials", "given_up", "interrupted")}
    print(f"processes killed each time: {killed}; trials: {shown}; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
