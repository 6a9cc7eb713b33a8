"""All benchmarks of speed and memory by one command: their tables, what they claim and did not find, and all figures.

Each runs in a process of its own, one after the other, and the others go on where one fails. `benchmarks.json` in the
folder holds the machine and the figures of all of them.

    AAM_TEST_DATA=../shared/data python benchmarks/run_all.py results
    AAM_TEST_DATA=../shared/data python benchmarks/run_all.py results --quick
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from _common import arguments, print_table, write_json

HERE = Path(__file__).parent


class Case(NamedTuple):
    """A benchmark and what it is given."""

    script: str
    words: str = ""
    """Arguments of a whole measurement; {folder} is one for its files."""
    quick: str = ""
    """Arguments that make it tiny."""
    data: bool = False
    """Whether it reads real studies."""


TINY = "--width 16 --layers 1 --heads 2 --batch-size 2 --asvs 8 --unique 12 --nucleotides 20 --steps 1"
SMALL = "--embedding-dim 8 --attention-layers 1"
STREAMED = "--samples 60 --asvs 300 --asvs-per-sample 20 --steps 2 --width 8"
CASES: dict[str, Case] = {
    "pretrain_step": Case("pretrain_step", "", "--batch-sizes 2 --width 8 --layers 1 --rounds 1", True),
    "pretrain_step_emp": Case(
        "pretrain_step",
        "--dataset emp_2k --batch-sizes 8",
        "--dataset emp_2k --batch-sizes 2 --width 8 --layers 1 --rounds 1",
        True,
    ),
    "frozen": Case("frozen", "", f"{SMALL} --samples 30 --batch-size 8", True),
    "memory_budget": Case("memory_budget", "", "--width 8 --batch-size 16", True),
    "linear_cost": Case("linear_cost", "", "--divide 16 --width 8"),
    "kernel_size": Case("kernel_size", "", "--samples 40 80 --asvs 400 --exact 50 --landmarks 30 --weigh 30"),
    "streaming": Case("streaming", "{folder}/study", f"{{folder}}/study {STREAMED}"),
    "lazy_outputs": Case("lazy_outputs", "", f"{SMALL} --batch-size 2", True),
    "unifrac_batch": Case("unifrac_batch", "", "--tips 300"),
    "pairwise_memory": Case(
        "pairwise_memory", "", "--samples 64 128 --ranks 2 --width 16 --one-rank-up-to 128 --at-once-up-to 64"
    ),
    "many_asvs": Case("many_asvs", "", "--asvs 40 --width 16 --layers 1"),
    "data_wait": Case(
        "data_wait", "", "--studies tiny_moving_pictures --workers 0 --steps 2 --batch-size 4 --embedding-dim 8", True
    ),
    "step_variants": Case(
        "step_variants", "", "--study tiny_moving_pictures --widths 8 --batch-size 4 --batches 1 --rounds 1", True
    ),
    "startup": Case("startup", "", "--rounds 1"),
    "gpu": Case("gpu", "", f"--device cpu {TINY}"),
}


def run(name: str, case: Case, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one and print its table: its outcome, seconds and figures.

    A benchmark that writes its figures and then ends with an error claims what it did not find.
    """
    print(f"\n## {name}\n", flush=True)
    path = folder / f"{name}.json"
    words = (case.quick if options.quick else case.words).format(folder=folder).split()
    words += ["--data", str(options.data)] if case.data and options.data is not None else []
    start = time.perf_counter()
    command = [sys.executable, str(HERE / f"{case.script}.py"), *words, "--json", str(path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"code {done.returncode}")
    figures = json.loads(path.read_text())["figures"] if path.exists() else None
    broke = bool(done.returncode) and (figures is None or "Traceback" in done.stderr)
    outcome = "broke" if broke else _judged(bool(done.returncode), options.quick)
    return {"outcome": outcome, "seconds": seconds, "figures": figures}


def _judged(failed: bool, quick: bool) -> str:
    if not failed:
        return "ran"
    return "not judged" if quick else "failed its claim"


def chosen(options: argparse.Namespace) -> dict[str, Case]:
    """The benchmarks to run: those that were named, or all."""
    if options.only:
        return {name: CASES[name] for name in options.only}
    return CASES


def main() -> None:
    """Run all and say which of them failed."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="receives benchmarks.json")
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--only", nargs="+", choices=CASES, help="run these alone")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all run; claims are not judged")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        results = {name: run(name, case, Path(scratch), options) for name, case in chosen(options).items()}
    print("\n## Summary\n")
    print_table(["benchmark", "outcome", "s"], [[name, r["outcome"], r["seconds"]] for name, r in results.items()])
    for path in {options.folder / "benchmarks.json", options.json} - {None}:
        write_json(path, results)
    failed = [name for name, result in results.items() if result["outcome"] in ("broke", "failed its claim")]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
