"""Distances of one batch: exact from the tree, by scikit-bio, by the unifrac package, and sliced from a full matrix.

    python benchmarks/unifrac_batch.py [--json FILE]

Trees, samples and the matrix are random and made here. All figures of a line are measured in the same run on one thread
(set OMP_NUM_THREADS=1 for the other programs); ratios are to the exact distances of the same line.
"""

import tempfile
import warnings
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import biom
import numpy as np
import scipy.sparse as sp
import torch
from _common import arguments, print_table, seconds, write_json
from skbio import TreeNode
from skbio.diversity import beta_diversity
from torch.nn import functional

from aam.config import MaskConfig, ModelConfig, UnifracConfig, UnifracMetric
from aam.data.distances.matrix import DistanceMatrix
from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.unifrac import StudyTree, cross_distances, distances
from aam.data.files.sequences import A, T
from aam.data.sampling.samples import Samples
from aam.models.sequence_encoder import SequenceEncoder
from aam.training.losses import pairwise_gradient
from aam.training.tasks.masking import mask_nucleotides

BATCH, IN_A_SAMPLE, POOL = 32, 150, 2300
PROJECTED = 300_000
METRICS: list[UnifracMetric] = ["weighted_unifrac", "weighted_normalized_unifrac", "generalized_unifrac"]


class Case(NamedTuple):
    """A tree and the counts of one batch over all its tips."""

    newick: str
    tree: StudyTree
    counts: sp.csr_array


def random_newick(tips: int, rng: np.random.Generator) -> str:
    """A random binary tree of a pure birth process: every split of the tips is equally likely."""
    pieces: list[str] = []
    waiting: list[int | str] = [tips]
    named = 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            pieces.append(item)
        elif item == 1:
            pieces.append(f"t{named}:{rng.exponential():.6f}")
            named += 1
        else:
            left = int(rng.integers(1, item))
            waiting += [f"):{rng.exponential():.6f}", item - left, ",", left, "("]
    return "".join(pieces) + ";"


def make_case(tips: int, samples: int, rng: np.random.Generator) -> Case:
    """Samples that share a pool of ASVs, as samples of one study do."""
    newick = random_newick(tips, rng)
    tree = StudyTree.cut(parse_newick(newick), np.arange(tips))
    pool = rng.choice(tips, min(POOL, tips), replace=False)
    column = np.concatenate([rng.choice(pool, IN_A_SAMPLE, replace=False) for _ in range(samples)])
    row = np.repeat(np.arange(samples), IN_A_SAMPLE)
    counts = sp.csr_array((rng.integers(1, 500, len(row)), (row, column)), shape=(samples, tips))
    return Case(newick, tree, counts)


def time_scikit_bio(case: Case) -> tuple[float, float]:
    """Seconds for the batch, the tree loaded already, and the largest difference from the exact distances."""
    columns = np.unique(case.counts.indices)
    counts, taxa = case.counts[:, columns].toarray(), [f"t{i}" for i in columns]
    node = TreeNode.read(StringIO(case.newick), convert_underscores=False)
    node.length = None

    def compute() -> Any:
        return beta_diversity("unweighted_unifrac", counts, taxa=taxa, tree=node, validate=False)

    exact = distances(case.tree, case.counts, UnifracConfig()).numpy()
    return seconds(compute, repeats=1), float(np.abs(compute().data - exact).max())


def time_unifrac(case: Case) -> float | None:
    """Seconds for the batch in memory, the tree loaded already; None where the package is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pkg_resources", category=Warning)
            import bp  # noqa: PLC0415
            import unifrac  # noqa: PLC0415
    except ImportError:
        return None
    columns = np.unique(case.counts.indices)
    cells = sp.csr_matrix(case.counts[:, columns].T, dtype=np.float64)
    table = biom.Table(cells, [f"t{i}" for i in columns], [f"s{i}" for i in range(case.counts.shape[0])])
    tree = bp.parse_newick(case.newick)
    return seconds(lambda: unifrac.unweighted_fp64(table, tree))


def time_step(case: Case, rng: np.random.Generator) -> float:
    """Seconds of a pretraining step, the distances given: width 64, two layers a level, 150 nucleotides."""
    columns, index = np.unique(case.counts.indices, return_inverse=True)
    tokens = torch.from_numpy(rng.integers(A, T + 1, (len(columns), 150), dtype=np.uint8))
    mask = mask_nucleotides(tokens, torch.arange(len(columns)), MaskConfig(), seed=0, step=0)
    asv_index = torch.from_numpy(index.reshape(BATCH, IN_A_SAMPLE))
    counts = torch.from_numpy(case.counts.data.reshape(BATCH, IN_A_SAMPLE))
    true = distances(case.tree, case.counts, UnifracConfig())
    model = SequenceEncoder(ModelConfig(embedding_dim=64, attention_layers=2, max_bp=150))
    optimizer = torch.optim.AdamW(model.parameters())
    samples = Samples(tokens, asv_index, counts, counts.sum(dim=1), torch.zeros_like(counts).bool(), mask)

    def step() -> None:
        output = model(samples)
        z = output.z.detach()
        _, pull = pairwise_gradient(z, z, 0, model.distance, lambda rows, columns: true[rows, columns])
        loss = (output.z * pull).sum() + functional.cross_entropy(output.nucleotide_logits, tokens[mask].long())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return seconds(step, repeats=3)


def batch_line(tips: int, rng: np.random.Generator) -> dict[str, Any]:
    """Measure one size of tree."""
    case = make_case(tips, BATCH, rng)
    exact = seconds(lambda: distances(case.tree, case.counts, UnifracConfig()), repeats=21)
    others = {
        f"{metric} ms": 1e3
        * seconds(partial(distances, case.tree, case.counts, UnifracConfig(unifrac_metric=metric)), repeats=11)
        for metric in METRICS
    }
    scikit_bio, difference = time_scikit_bio(case)
    package = time_unifrac(case)
    step = time_step(case, rng)
    return {
        "tips": tips,
        "unique ASVs": len(np.unique(case.counts.indices)),
        "load ms": 1e3 * seconds(lambda: parse_newick(case.newick), repeats=3),
        "unweighted ms": 1e3 * exact,
        **others,
        "scikit-bio ms": 1e3 * scikit_bio,
        "scikit-bio / exact": scikit_bio / exact,
        "unifrac ms": None if package is None else 1e3 * package,
        "unifrac / exact": None if package is None else package / exact,
        "pretraining step ms": 1e3 * step,
        "fraction of the step": exact / (step + exact),
        "largest difference": difference,
        "tree MB": sum(array.nbytes for array in vars(case.tree).values()) / 1e6,
    }


def matrix_lines(rng: np.random.Generator, known: int = 4096, block: int = 512) -> list[dict[str, Any]]:
    """Cost of a full matrix: measured for `known` samples, projected to 300,000."""
    case = make_case(20_000, 2 * block, rng)
    compute = seconds(
        lambda: cross_distances(case.tree, case.counts[:block], case.counts[block:], UnifracConfig()), repeats=3
    )
    pick = rng.choice(known, BATCH, replace=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.npy"
        np.save(path, np.zeros((known, known), dtype=np.float32))
        ids = tuple(str(i) for i in range(known))
        held = DistanceMatrix(ids, np.load(path))
        mapped = DistanceMatrix(ids, np.load(path, mmap_mode="r"))
        in_memory, on_disk = (seconds(partial(m.block, pick, pick), repeats=101) for m in (held, mapped))
    return [
        {
            "samples": samples,
            "measured": samples == known,
            "float32 GB": samples**2 * 4 / 1e9,
            "hours to compute, one thread": compute / block**2 * samples**2 / 2 / 3600,
            "slice a batch from memory ms": 1e3 * in_memory,
            "from a cached file ms": 1e3 * on_disk,
        }
        for samples in (known, PROJECTED)
    ]


def main() -> None:
    """Run all sizes and print two tables."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--tips", type=int, nargs="+", default=[2_000, 20_000, 200_000], help="tips of the trees")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    batches = [batch_line(tips, rng) for tips in options.tips]
    matrices = matrix_lines(rng)
    for lines in (batches, matrices):
        print_table(list(lines[0]), [list(line.values()) for line in lines])
        print()
    write_json(options.json, {"batch": batches, "matrix": matrices})


if __name__ == "__main__":
    main()
