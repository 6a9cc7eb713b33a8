"""UniFrac between all samples of a table by established programs, for `aam unifrac`; training uses `unifrac`.

The programs get the table and the tree as aam has joined them: counts by column number, and the tree cut to the table
below a root of its own. So no id can be misread, every ASV is in the tree (in memory, `unifrac` returns wrong numbers
without a word where one is not), and a length on the root counts exactly if the `StudyTree` holds it.
"""

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import biom
import h5py
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from skbio import TreeNode
from skbio.diversity import beta_diversity

from aam.config import UnifracConfig, UnifracMetric
from aam.data.arrays import Floats
from aam.data.distances.matrix import DistanceMatrix
from aam.data.distances.unifrac import StudyTree, faith_pd
from aam.data.files.tables import FeatureTable
from aam.errors import InputError

Backend = Literal["unifrac", "ssu", "scikit-bio"]
BackendChoice = Literal["auto", "unifrac", "ssu", "scikit-bio"]

_METHODS: dict[UnifracMetric, str] = {
    "unweighted_unifrac": "unweighted_fp64",
    "weighted_unifrac": "weighted_unnormalized_fp64",
    "weighted_normalized_unifrac": "weighted_normalized_fp64",
    "generalized_unifrac": "generalized_fp64",
}
_INSTALL = "install it (docs/unifrac.md; conda install -c conda-forge -c bioconda unifrac), or use another --backend"


def available_backend(choice: BackendChoice = "auto") -> Backend:
    """Find the program that was asked for, or the first there is: `unifrac` to import, `ssu` on the path, scikit-bio.

    Raises:
        InputError: the one that was asked for is not there.
    """
    if choice in {"auto", "unifrac"}:
        try:
            _import_unifrac()
        except ImportError as error:
            if choice == "unifrac":
                raise InputError(f"--backend unifrac: the package cannot be imported ({error}); {_INSTALL}") from None
        else:
            return "unifrac"
    if choice in {"auto", "ssu"}:
        if shutil.which("ssu"):
            return "ssu"
        if choice == "ssu":
            raise InputError(f"--backend ssu: there is no program ssu on the path; {_INSTALL}")
    return "scikit-bio"


def check_metric(metric: UnifracMetric, backend: Backend) -> None:
    """Refuse a distance that a program does not have.

    Raises:
        InputError: scikit-bio is asked for generalized UniFrac.
    """
    if metric == "generalized_unifrac" and backend == "scikit-bio":
        raise InputError(f"scikit-bio has no generalized UniFrac; the unifrac package has: {_INSTALL}")


def compute_matrix(table: FeatureTable, tree: StudyTree, config: UnifracConfig, backend: Backend) -> DistanceMatrix:
    """Compute the distances between all samples of a table, in its order, from the tree cut to its ASVs.

    Distances are float64; two samples without any branch length are at distance 0.

    Raises:
        InputError: the program does not have this distance.
        RuntimeError: the program failed.
    """
    if len(tree.order) != table.n_asvs:
        raise ValueError(f"the table has {table.n_asvs} ASVs, but the tree was cut to {len(tree.order)}")
    check_metric(config.unifrac_metric, backend)
    values = _PROGRAMS[backend](table, cut_newick(tree), config)
    # 0/0 is NaN for the programs and 0 for aam: samples that reach no branch with a length
    nowhere = np.flatnonzero(faith_pd(tree, table.counts).numpy() == 0)
    values[np.ix_(nowhere, nowhere)] = 0.0
    if not np.isfinite(values).all():
        raise RuntimeError(f"{backend} returned distances that are not finite")
    return DistanceMatrix(table.sample_ids, values)


def cut_newick(tree: StudyTree) -> str:
    """Write a cut tree in Newick format; tips are named by the columns of the table."""
    pieces = ["("]
    above: list[tuple[float, int]] = []
    for length, start, stop in zip(tree.length.tolist(), tree.start.tolist(), tree.stop.tolist(), strict=True):
        while above and above[-1][1] <= start:
            pieces.append(f"):{above.pop()[0]!r}")
        if pieces[-1] != "(":
            pieces.append(",")
        if stop - start == 1:
            pieces.append(f"{tree.order[start]}:{length!r}")
        else:
            pieces.append("(")
            above.append((length, stop))
    pieces.extend(f"):{length!r}" for length, _ in reversed(above))
    return "".join(pieces) + ");"


def _import_unifrac() -> ModuleType:
    with warnings.catch_warnings():
        # unifrac 1.5 imports pkg_resources, which announces its own end
        warnings.filterwarnings("ignore", message=".*pkg_resources", category=Warning)
        return import_module("unifrac")


def _numbered(table: FeatureTable) -> biom.Table:
    """The counts with column numbers as ids of ASVs and row numbers as ids of samples."""
    columns, rows = [str(i) for i in range(table.n_asvs)], [str(i) for i in range(table.n_samples)]
    return biom.Table(sp.csr_matrix(table.counts.T, dtype=np.float64), columns, rows)


def _by_unifrac(table: FeatureTable, newick: str, config: UnifracConfig) -> Floats:
    arguments: dict[str, Any] = {}
    if config.unifrac_metric == "generalized_unifrac":
        arguments["alpha"] = config.generalized_alpha
    compute = getattr(_import_unifrac(), _METHODS[config.unifrac_metric])
    distances = compute(_numbered(table), import_module("bp").parse_newick(newick), **arguments)
    return _in_order(distances.ids, distances.data)


def _by_ssu(table: FeatureTable, newick: str, config: UnifracConfig) -> Floats:
    with tempfile.TemporaryDirectory(prefix="aam-ssu-") as name:
        biom_path, tree_path, matrix_path = (Path(name) / file for file in ("table.biom", "tree.nwk", "matrix.h5"))
        with h5py.File(biom_path, "w") as file:
            _numbered(table).to_hdf5(file, "aam")
        tree_path.write_text(newick)
        command = ["ssu", "-m", _METHODS[config.unifrac_metric], "-a", str(config.generalized_alpha)]
        command += ["-i", str(biom_path), "-t", str(tree_path), "-o", str(matrix_path)]
        command += ["--format", "hdf5_fp64", "--pcoa", "0"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode or not matrix_path.exists():
            raise RuntimeError(f"ssu failed with code {result.returncode}: {result.stderr or result.stdout}")
        with h5py.File(matrix_path) as file:
            return _in_order([name.decode() for name in file["order"]], file["matrix"][()])


def _by_scikit_bio(table: FeatureTable, newick: str, config: UnifracConfig) -> Floats:
    weighted = config.unifrac_metric != "unweighted_unifrac"
    normalized = {"normalized": config.unifrac_metric == "weighted_normalized_unifrac"} if weighted else {}
    with np.errstate(invalid="ignore"):
        distances = beta_diversity(
            "weighted_unifrac" if weighted else "unweighted_unifrac",
            table.counts.toarray(),
            taxa=[str(i) for i in range(table.n_asvs)],
            tree=TreeNode.read(StringIO(newick)),
            validate=False,
            **normalized,
        )
    return np.array(distances.data)


def _in_order(numbers: Iterable[str], values: NDArray[np.floating[Any]]) -> Floats:
    """Sort rows and columns by the row numbers that name them."""
    order = np.argsort([int(number) for number in numbers])
    return values[np.ix_(order, order)].astype(np.float64)


_PROGRAMS: dict[Backend, Callable[[FeatureTable, str, UnifracConfig], Floats]] = {
    "unifrac": _by_unifrac,
    "ssu": _by_ssu,
    "scikit-bio": _by_scikit_bio,
}
