"""A simulated study: phylogeny, ASVs, communities, metadata and taxonomy, all a pure function of the configuration.

What is put in, so that it can be found again:

- ASVs are the tips of a Yule tree and their sequences evolve along it, some sites slowly and some fast.
- Related ASVs prefer the same habitat and occur in the same subjects, so UniFrac distances are smallest within one
  habitat of a subject, larger between subjects, and largest between habitats. Communities drift with time.
- ``acidity`` follows the log-ratio of two clades, plus an effect of ``site`` (and of the ``region`` around it) that
  leaves no trace in the community. ``health`` follows the log-ratio of two other clades.
- ``truth`` names these clades and their ASVs, with the sign and the strength of what they do.
- Where asked for, a trap: ``group`` is drawn at random by subject and says nothing of the community, but its samples of
  class b are sequenced to a fifth of the depth of class a.

Letters: B samples, S ASVs (tips), N nodes of the tree (2 S - 1), L nucleotides, T visits of a subject.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import biom
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_array, csr_matrix

from aam.config import SimulateConfig
from aam.data.arrays import Bools, Floats, Ints
from aam.data.files.tables import FeatureTable
from aam.data.sampling.seeded import generator
from aam.data.simulation.tree import SimulatedTree, simulate_tree
from aam.errors import InputError, first_ids

FILES = ("table.biom", "tree.nwk", "metadata.tsv", "taxonomy.tsv", "truth.tsv")
BIOM_DATE = "2000-01-01T00:00:00"  # fixed, so that the same seed gives the same bytes

HABITATS = ("gut", "oral", "skin")
REGIONS = ("coast", "hills", "plain")
MAX_SITES = 6
DRIFT_DAYS = 14.0  # days after which a community has forgotten 1 - 1/e of its drift
POOL_SHARE = 0.45  # ASVs that can live in a habitat
CARRIED_SHARE = 0.35  # ASVs that a subject can carry
TRANSIENT_SHARE = 0.1  # ASVs that a sample may hold beyond those of its subject
OVERDISPERSION = 150.0  # concentration of the Dirichlet: lower is noisier
DEPTH_SPREAD = 0.35  # standard deviation of the logarithm of the depth
LEAST_DEPTH = 10
SICK_SHARE = 0.4
ACIDITY_EFFECT = 0.7  # of one standard deviation of the log-ratio of its clades
SHALLOW_SHARE = 0.2  # depth of group b, as a fraction of that of group a


@dataclass(frozen=True, eq=False)
class SimulatedStudy:
    """The parts of a study.

    Attributes:
        table: counts; ASV ids are the sequences. ASVs of the tree that no sample holds are absent.
        newick: rooted tree over all simulated ASVs.
        metadata: by sample id: subject, site, region, habitat, health (text), day and acidity (numbers); group (text)
            with ``depth_confounded``.
        taxonomy: ``Taxon`` and ``Confidence`` of the ASVs of the table, as QIIME 2 has them.
        truth: what drives the columns; see `_truth`.
    """

    table: FeatureTable
    newick: str
    metadata: pd.DataFrame
    taxonomy: pd.DataFrame
    truth: pd.DataFrame


@dataclass(frozen=True, eq=False)
class _Design:
    """Who was sampled where and when, one entry a sample [B]."""

    subject: Ints
    visit: Ints
    habitat: Ints
    site: Ints
    region: Ints
    day: Ints


def simulate_study(config: SimulateConfig) -> SimulatedStudy:
    """Simulate a study; equal configurations give equal studies."""
    tree = simulate_tree(config.asvs, config.bp, config.seed)
    design, days = _design(config)
    markers = tree.clades(count=4, size=max(1, config.asvs // 20))
    expected = _communities(config, tree, design, days, markers)
    metadata = _metadata(config, design, expected, markers)
    depth = np.full(config.samples, float(config.depth))
    if config.depth_confounded:
        shallow = _shallow(config)[design.subject]
        metadata.insert(list(metadata).index("day"), "group", np.where(shallow, "b", "a").astype(object))
        depth[shallow] *= SHALLOW_SHARE
    counts = _counts(config, expected, depth)
    seen = np.flatnonzero(counts.sum(axis=0))
    sequences = tuple(tree.sequences[tip] for tip in seen)
    table = FeatureTable(csr_array(counts[:, seen]), tuple(metadata.index), sequences, sequences)
    truth = _truth(tree, expected, markers, seen)
    return SimulatedStudy(table, tree.newick(), metadata, tree.taxonomy().loc[list(sequences)], truth)


def write_study(study: SimulatedStudy, directory: Path, overwrite: bool = False) -> None:
    """Write ``table.biom``, ``tree.nwk``, ``metadata.tsv``, ``taxonomy.tsv`` and ``truth.tsv``.

    They are made in a temporary folder and moved into place when all are whole.

    Raises:
        InputError: such a file is there already and ``overwrite`` is false, or the folder cannot be written to.
    """
    present = [name for name in FILES if (directory / name).exists()]
    if present and not overwrite:
        raise InputError(f"{directory} already holds {first_ids(present)}: choose another folder or give --overwrite")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=directory, prefix=".simulate-")
    except OSError as error:
        raise InputError(f"{directory}: cannot write there ({error.strerror}): choose another folder") from None
    with temporary as folder:
        _write_files(study, Path(folder))
        for name in FILES:
            (Path(folder) / name).replace(directory / name)


def _write_files(study: SimulatedStudy, folder: Path) -> None:
    table, metadata = study.table, study.metadata
    matrix = biom.Table(csr_matrix(table.counts.T, dtype=np.float64), table.asv_ids, table.sample_ids)
    with h5py.File(folder / "table.biom", "w") as file:
        matrix.to_hdf5(file, "aam simulate", creation_date=pd.Timestamp(BIOM_DATE).to_pydatetime())
    (folder / "tree.nwk").write_text(study.newick + "\n", encoding="utf-8")
    types = {name: "numeric" if pd.api.types.is_numeric_dtype(metadata[name]) else "categorical" for name in metadata}
    typed = pd.concat([pd.DataFrame(types, index=["#q2:types"]), metadata.astype(object)])
    typed.to_csv(folder / "metadata.tsv", sep="\t", index_label="sample-id", lineterminator="\n")
    study.taxonomy.to_csv(folder / "taxonomy.tsv", sep="\t", index_label="Feature ID", lineterminator="\n")
    study.truth.to_csv(folder / "truth.tsv", sep="\t", index=False, float_format="%.6f", lineterminator="\n")


def _design(config: SimulateConfig) -> tuple[_Design, Ints]:
    """Visits in turn: every subject once, then every subject again; also the day of every visit [T, subjects]."""
    random = generator(config.seed, "simulate", "design")
    visit, subject = np.divmod(np.arange(config.samples), config.subjects)
    days = random.integers(1, 8, size=(visit[-1] + 1, config.subjects)).cumsum(axis=0)
    sites = min(MAX_SITES, config.subjects)
    site = random.permutation(config.subjects)[subject] % sites
    return (
        _Design(
            subject=subject,
            visit=visit,
            habitat=(visit + subject) % len(HABITATS),
            site=site,
            region=site % len(REGIONS),
            day=days[visit, subject],
        ),
        days,
    )


def _communities(
    config: SimulateConfig, tree: SimulatedTree, design: _Design, days: Ints, markers: list[Ints]
) -> Floats:
    """Expected relative abundances [B, S]: a log-normal model with habitat, host, drift and clade terms.

    A host is one habitat of one subject. The clades of ``markers`` rise and fall in pairs.
    """
    random = generator(config.seed, "simulate", "communities")
    asvs, hosts = config.asvs, config.subjects * len(HABITATS)
    host = design.subject * len(HABITATS) + design.habitat
    preference = tree.traits(len(HABITATS), random)
    affinity = 0.7 * tree.traits(hosts, random) + 0.7 * random.standard_normal((hosts, asvs))
    drift = _drift(days, asvs + 2, random)[design.visit, design.subject]
    steady = random.standard_normal((config.subjects, 2))[design.subject]
    driver = np.sqrt(0.7) * drift[:, asvs:] + np.sqrt(0.3) * steady
    log_abundance = 1.2 * random.standard_normal(asvs) + 1.3 * preference[design.habitat] + 0.9 * affinity[host]
    log_abundance += 0.5 * drift[:, :asvs]
    for number, tips in enumerate(markers):
        sign = 1 if number % 2 == 0 else -1
        log_abundance[:, tips] += 1.0 + 1.5 * sign * driver[:, [number // 2]]
    lives, carried = _presence(preference, affinity, markers, random)
    transient = random.random((config.samples, asvs)) < TRANSIENT_SHARE
    present = lives[design.habitat] & (carried[host] | transient)
    abundance = np.where(present, np.exp(log_abundance), 0.0)
    relative: Floats = abundance / abundance.sum(axis=1, keepdims=True)
    return relative


def _presence(
    preference: Floats, affinity: Floats, markers: list[Ints], random: np.random.Generator
) -> tuple[Bools, Bools]:
    """Which ASVs can live in each habitat [habitats, S] and which each host carries [hosts, S]."""
    lives = _top(preference + 0.7 * random.standard_normal(preference.shape), POOL_SHARE)
    lives[:, np.concatenate(markers)] = True
    carried = _top(affinity, CARRIED_SHARE)
    # One ASV of each marker clade lives everywhere, so that no log-ratio lacks one of its sides.
    carried[:, [tips[0] for tips in markers]] = True
    return lives, carried


def _drift(days: Ints, width: int, random: np.random.Generator) -> Floats:
    """First-order autoregression over the days of every subject, of unit variance [T, subjects, width]."""
    drift = random.standard_normal((*days.shape, width))
    memory = np.exp(-np.diff(days, axis=0) / DRIFT_DAYS)[..., None]
    for visit, kept in enumerate(memory, start=1):
        drift[visit] = kept * drift[visit - 1] + np.sqrt(1 - kept**2) * drift[visit]
    return drift


def _top(score: Floats, fraction: float) -> Bools:
    """Mark the given fraction of the highest scores in every row."""
    top: Bools = score >= np.quantile(score, 1 - fraction, axis=1, keepdims=True)
    return top


def _shallow(config: SimulateConfig) -> Bools:
    """Which subjects are of the shallow group, half of them [subjects]; drawn apart, so that other draws stay."""
    order = generator(config.seed, "simulate", "group").permutation(config.subjects)
    shallow: Bools = order < config.subjects // 2
    return shallow


def _counts(config: SimulateConfig, expected: Floats, mean_depth: Floats) -> Ints:
    """Dirichlet-multinomial reads [B, S] at log-normal sampling depths around the means of the samples [B]."""
    random = generator(config.seed, "simulate", "reads")
    noise = DEPTH_SPREAD * random.standard_normal(config.samples) - DEPTH_SPREAD**2 / 2
    depth = np.maximum(LEAST_DEPTH, mean_depth * np.exp(noise)).astype(np.int64)
    weight = random.standard_gamma(OVERDISPERSION * expected)
    return random.multinomial(depth, weight / weight.sum(axis=1, keepdims=True))


def _metadata(config: SimulateConfig, design: _Design, expected: Floats, markers: list[Ints]) -> pd.DataFrame:
    random = generator(config.seed, "simulate", "metadata")
    share = np.stack([expected[:, tips].sum(axis=1) for tips in markers])
    ratio = np.log(share[0::2] + 1e-3) - np.log(share[1::2] + 1e-3)
    ratio = (ratio - ratio.mean(axis=1, keepdims=True)) / ratio.std(axis=1, keepdims=True)
    noise = random.standard_normal(ratio.shape)
    # Evenly spaced effects, so that site and region matter in every study, whatever the seed.
    of_region = random.permutation(np.linspace(-0.6, 0.6, len(REGIONS)))[design.region]
    of_site = np.linspace(-0.4, 0.4, MAX_SITES // len(REGIONS))[design.site // len(REGIONS)]
    acidity = 6.5 + ACIDITY_EFFECT * ratio[0] + of_region + of_site + 0.15 * noise[0]
    illness = ratio[1] + 0.2 * noise[1]
    texts = {
        "subject": [f"subject{number + 1:02d}" for number in design.subject],
        "site": [f"{REGIONS[region]}{site + 1}" for region, site in zip(design.region, design.site, strict=True)],
        "region": [REGIONS[region] for region in design.region],
        "habitat": [HABITATS[habitat] for habitat in design.habitat],
        "health": np.where(illness > np.quantile(illness, 1 - SICK_SHARE), "sick", "healthy"),
    }
    names = [f"S{number + 1:04d}" for number in range(config.samples)]
    index = pd.Index(names, name="sample_id", dtype=object)
    numbers = pd.DataFrame({"day": design.day.astype(np.float64), "acidity": acidity.round(3)}, index=index)
    return pd.DataFrame(texts, index=index, dtype=object).join(numbers)


def _truth(tree: SimulatedTree, expected: Floats, markers: list[Ints], seen: Ints) -> pd.DataFrame:
    """What drives acidity and health: a row for each clade, then one for each ASV of it that the table holds.

    Columns: ``column`` (of the metadata); ``level`` (clade or asv); ``id`` (of the clade, or the ASV); ``clade``, to
    which it belongs; ``effect``. That of a clade is what one standard deviation more of the log-ratio does if this is
    its numerator, with a minus for the denominator: of acidity in its own units, of health in standard deviations of
    the score above which a subject is sick. An ASV has the part of it that is its mean fraction of the clade's reads.
    """
    held, rows = set(seen.tolist()), []
    for number, tips in enumerate(markers):
        column, strength = (("acidity", ACIDITY_EFFECT), ("health", 1.0))[number // 2]
        effect = strength if number % 2 == 0 else -strength
        clade = f"clade{number + 1}"
        rows.append((column, "clade", clade, clade, effect))
        part = (expected[:, tips] / expected[:, tips].sum(axis=1, keepdims=True)).mean(axis=0)
        of_asvs = zip(tips.tolist(), part.tolist(), strict=True)
        rows += [(column, "asv", tree.sequences[tip], clade, effect * one) for tip, one in of_asvs if tip in held]
    return pd.DataFrame(rows, columns=["column", "level", "id", "clade", "effect"])
