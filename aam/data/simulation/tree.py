"""The phylogeny of a simulated study, and what evolves along it: sequences, traits, clades and their names.

Letters: S ASVs (tips), N nodes (2 S - 1), L nucleotides. Nodes are numbered so that a parent comes after its children:
tips 0..S-1, the root last.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from aam.data.arrays import Floats, Ints
from aam.data.sampling.seeded import generator

BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
BASE_FREQUENCIES = (0.25, 0.23, 0.31, 0.21)  # about those of 16S rRNA genes
HEIGHT = 0.4  # mean substitutions a site from the root to a tip
CONSERVED_SHARE = 0.3
CLOCK_SPREAD = 0.3  # log-normal spread of the rate among branches
SHORTEST = 1e-4  # branch length
# Rank prefix and name, and the age at which its clades are cut, as a fraction of the age of the root.
RANKS = (
    ("p__Phylum", 0.75),
    ("c__Class", 0.6),
    ("o__Order", 0.45),
    ("f__Family", 0.3),
    ("g__Genus", 0.15),
)
UNNAMED_GENERA = 0.15  # ASVs that are classified to the family only


@dataclass(frozen=True, eq=False)
class SimulatedTree:
    """A binary tree whose tips are ASVs.

    Attributes:
        parent: parent of every node but the root, int64 [N - 1].
        length: branch above every node but the root, in substitutions a site, float64 [N - 1].
        age: time from every node to the present, float64 [N].
        sequences: distinct DNA of the tips [S].
        seed: seed of the study.
    """

    parent: Ints
    length: Floats
    age: Floats
    sequences: tuple[str, ...]
    seed: int

    def traits(self, count: int, random: np.random.Generator) -> Floats:
        """Traits of the tips that evolve by Brownian motion (Felsenstein 1973), mean 0 and variance 1 [count, S]."""
        values = np.zeros((self.age.size, count))
        values[:-1] = random.standard_normal((self.length.size, count)) * np.sqrt(self.length)[:, None]
        for node in range(self.length.size - 1, -1, -1):
            values[node] += values[self.parent[node]]
        tips = values[: len(self.sequences)].T
        standard: Floats = (tips - tips.mean(axis=1, keepdims=True)) / tips.std(axis=1, keepdims=True)
        return standard

    def clades(self, count: int, size: int) -> list[Ints]:
        """Tips of disjoint clades of nearly the given size, ``count`` arrays."""
        tips = np.zeros(self.age.size, dtype=np.int64)
        tips[: len(self.sequences)] = 1
        for node, above in enumerate(self.parent):
            tips[above] += tips[node]
        chosen: list[Ints] = []
        free = np.ones(len(self.sequences), dtype=np.bool_)
        for node in np.argsort(np.abs(tips - size), kind="stable").tolist():
            below = self._below(node)
            if free[below].all():
                chosen.append(below)
                free[below] = False
            if len(chosen) == count:
                return chosen
        raise ValueError(f"a tree of {free.size} tips has no {count} disjoint clades")

    def taxonomy(self) -> pd.DataFrame:
        """Taxon and confidence of every ASV, in the format of QIIME 2: the clades alive at the age of each rank."""
        random = generator(self.seed, "simulate", "taxonomy")
        columns = [
            [f"{name}{number + 1}" for number in self._lineages(fraction * self.age[-1])] for name, fraction in RANKS
        ]
        unnamed = random.random(len(self.sequences)) < UNNAMED_GENERA
        named = [
            "; ".join(("d__Bacteria", *(ranks[:-1] if short else ranks)))
            for ranks, short in zip(zip(*columns, strict=True), unnamed, strict=True)
        ]
        confidence = random.uniform(0.7, 1, size=len(named)).round(4)
        index = pd.Index(self.sequences, name="Feature ID")
        return pd.DataFrame({"Taxon": named, "Confidence": confidence}, index=index)

    def newick(self) -> str:
        """The tree with branch lengths; tip names are the sequences."""
        text = [*self.sequences, *[""] * (self.length.size + 1 - len(self.sequences))]
        for node, above in enumerate(self.parent):
            inner = text[node] if node < len(self.sequences) else f"({text[node]})"
            text[above] += f"{',' if text[above] else ''}{inner}:{self.length[node]:.6f}"
            text[node] = ""
        return f"({text[-1]});"

    def _below(self, node: int) -> Ints:
        """Tips below a node."""
        inside = np.zeros(self.age.size, dtype=np.bool_)
        inside[node] = True
        for child in range(node - 1, -1, -1):
            inside[child] = inside[self.parent[child]]
        return np.flatnonzero(inside[: len(self.sequences)])

    def _lineages(self, age: float) -> Ints:
        """Number of the lineage, alive at the given age, that every tip comes from [S]."""
        lineage = np.arange(self.age.size)
        for node in range(self.length.size - 1, -1, -1):
            if self.age[self.parent[node]] <= age:
                lineage[node] = lineage[self.parent[node]]
        return np.unique(lineage[: len(self.sequences)], return_inverse=True)[1]


def simulate_tree(asvs: int, bp: int, seed: int) -> SimulatedTree:
    """Simulate a Yule tree over ``asvs`` tips and sequences of ``bp`` nucleotides along it."""
    parent, age = _yule(asvs, generator(seed, "simulate", "tree"))
    random = generator(seed, "simulate", "sequences")
    rate = np.exp(CLOCK_SPREAD * random.standard_normal(parent.size))
    length = np.maximum(SHORTEST, (age[parent] - age[:-1]) / age[-1] * HEIGHT * rate).round(6)
    codes = _evolve(parent, length, bp, random)[:asvs]
    _make_distinct(codes, random)
    sequences = tuple(row.tobytes().decode("ascii") for row in BASES[codes])
    return SimulatedTree(parent, length, age, sequences, seed)


def _yule(tips: int, random: np.random.Generator) -> tuple[Ints, Floats]:
    """Parents [N - 1] and ages [N] of a pure-birth tree (Yule 1925), built backwards by joining random pairs."""
    parent = np.zeros(2 * tips - 2, dtype=np.int64)
    age = np.zeros(2 * tips - 1)
    alive = list(range(tips))
    for node in range(tips, 2 * tips - 1):
        age[node] = age[node - 1] + random.exponential(1 / len(alive))
        for _ in range(2):
            place = int(random.integers(len(alive)))
            alive[place], alive[-1] = alive[-1], alive[place]
            parent[alive.pop()] = node
        alive.append(node)
    return parent, age


def _evolve(parent: Ints, length: Floats, bp: int, random: np.random.Generator) -> Ints:
    """Base codes of all nodes [N, L] by the model of Felsenstein 1981 with gamma rates among sites (Yang 1994).

    A substitution event replaces the base by one drawn from the equilibrium frequencies, possibly the same one.
    """
    frequencies = np.array(BASE_FREQUENCIES)
    rates = random.standard_gamma(0.8, size=bp)
    rates[random.random(bp) < CONSERVED_SHARE] *= 0.05
    events = rates / rates.mean() / (1 - np.square(frequencies).sum())
    codes = random.choice(4, size=(parent.size + 1, bp), p=frequencies)
    for node in range(parent.size - 1, -1, -1):
        kept = random.random(bp) < np.exp(-events * length[node])
        codes[node] = np.where(kept, codes[parent[node]], codes[node])
    return codes


def _make_distinct(codes: Ints, random: np.random.Generator) -> None:
    """Substitute a base in tips that repeat an earlier one, in place, until all differ [S, L]."""
    while True:
        first = np.unique(codes, axis=0, return_index=True)[1]
        repeats = np.setdiff1d(np.arange(len(codes)), first)
        if repeats.size == 0:
            return
        sites = random.integers(codes.shape[1], size=repeats.size)
        codes[repeats, sites] = (codes[repeats, sites] + random.integers(1, 4, size=repeats.size)) % 4
