#!/bin/bash
# Build sdist and wheel into dist/ (the wheel from the sdist, so that this is whole), install the wheel into a fresh
# environment that takes the dependencies from another, and use it there: scripts/check-package.sh .venv
set -euo pipefail
python=$(realpath --no-symlinks "${1:?name the environment that has the dependencies, such as .venv}")/bin/python
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

rm -rf build dist
"$python" -m build --no-isolation --outdir dist . >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
rm -rf build

"$python" -m venv --without-pip "$scratch/venv"
fresh=$scratch/venv/bin/python
packages='import sysconfig; print(sysconfig.get_path("purelib"))'
"$python" -m pip --python "$fresh" install --quiet --no-deps --no-index dist/aam-*.whl
# a path in a .pth file comes after the environment's own packages, and no .pth there (of an editable aam) counts
"$python" -c "$packages" >"$("$fresh" -c "$packages")/dependencies.pth"

cd "$scratch"
"$fresh" - <<'PYTHON'
import sys
from importlib.metadata import requires
from pathlib import Path

import aam

package = Path(aam.__file__).parent
assert package.is_relative_to(sys.prefix), f"{package} is not what was installed"
assert (package / "py.typed").is_file(), "py.typed is not in the wheel"
assert list((package / "report" / "templates").iterdir()), "the templates of reports are not in the wheel"
assert requires("aam"), "the wheel names no dependencies"
print(f"aam {aam.__version__} is installed from the wheel")
PYTHON
PYTHONWARNINGS=ignore "$python" -m pip --python "$fresh" check
aam=$scratch/venv/bin/aam
"$aam" --version
"$aam" simulate --quiet study --samples 40 --asvs 60
"$aam" train --quiet --table study/table.biom --metadata study/metadata.tsv --metadata-column acidity --learner linear \
  --output-dir run
test -s run/report.html
"$aam" predict --quiet --checkpoint run --table study/table.biom --output predictions.tsv
test "$(wc -l <predictions.tsv)" -eq 41
echo "sdist and wheel are in dist/, and the wheel works"
