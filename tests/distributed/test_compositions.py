"""Every strategy goes with everything else that a run can ask for; `compositions.py` has the cases.

What cannot go together is refused before training: `tests/training/test_parallel.py`.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LEAST = {  # results of each kind, so that none of them is lost
    2: {
        "gradient": 60,
        "norm": 50,
        "weights": 30,
        "graphs": 4,
        "level": 60,
        "gradient of a level": 11,
        "metrics": 14,
        "pairs": 6,
        "limit": 1,
    },
    3: {"metrics": 14, "pairs": 6, "table": 16},
    4: {"gradient": 9, "weights": 7, "differing numbers": 7, "fraction of the bytes ever held": 3, "embedding": 3},
}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_each_composition_gives_what_one_process_gives(
    ranks: int, study_folder: Path, torchrun: Callable[..., str], tmp_path: Path
) -> None:
    shutil.copytree(study_folder, tmp_path, dirs_exist_ok=True)
    torchrun(ranks, "compositions.py", tmp_path)
    results = json.loads((tmp_path / f"compositions-{ranks}.json").read_text())
    assert [result for result in results if not result["error"] <= result["bound"]] == []
    found = Counter(result["what"] for result in results)
    assert {kind: found[kind] for kind, least in LEAST[ranks].items() if found[kind] < least} == {}
