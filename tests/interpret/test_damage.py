"""Samples made worse: what is lost or added is as much as was said, and drawn for the sample."""

import numpy as np
import pytest

from aam.config import SimulateConfig
from aam.data.simulation.study import simulate_study
from aam.data.study import Study, select_samples
from aam.interpret.damage import DAMAGES, damaged


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    config = SimulateConfig(directory=tmp_path_factory.mktemp("s"), samples=30, asvs=60, bp=40, depth=400, subjects=6)
    simulated = simulate_study(config)
    return Study(simulated.table, simulated.metadata)


@pytest.mark.parametrize("way", DAMAGES)
def test_the_first_level_is_none(study, way):
    same = damaged(study, way, DAMAGES[way].levels[0], 1)
    assert (same.table.counts != study.table.counts).nnz == 0


@pytest.mark.parametrize("level", [0.5, 0.05])
def test_depth_keeps_a_fraction_of_the_reads(study, level):
    fewer = damaged(study, "depth", level, 1).table
    assert fewer.depth.tolist() == [round(level * reads) for reads in study.table.depth.tolist()]
    assert ((study.table.counts - fewer.counts).data >= 0).all()


def test_zeros_lose_asvs_but_the_most_abundant(study):
    fewer = damaged(study, "zeros", 0.4, 1).table
    before, after = study.table.counts.toarray(), fewer.counts.toarray()
    assert set(np.unique(after[before > 0] / before[before > 0])) == {0.0, 1.0}
    assert (after.max(axis=1) == before.max(axis=1)).all()
    assert (after[before > 0] == 0).mean() == pytest.approx(0.4, abs=0.06)


def test_spurious_reads_are_of_asvs_that_a_sample_lacks(study):
    more = damaged(study, "spurious", 0.2, 1).table
    before, after = study.table.counts.toarray(), more.counts.toarray()
    assert (after[before > 0] == before[before > 0]).all()
    assert after[before == 0].sum() / after.sum() == pytest.approx(0.2, abs=0.01)


def test_asvs_that_are_alike_when_cut_are_one(study):
    cut = damaged(study, "length", 0.4, 1).table
    assert {len(sequence) for sequence in cut.sequences} == {16}
    assert cut.depth.tolist() == study.table.depth.tolist()
    held = np.flatnonzero(cut.asv_reads)
    assert len({cut.sequences[asv] for asv in held}) == len(held)
    assert len(held) < study.table.n_asvs


@pytest.mark.parametrize("way", ["depth", "zeros"])
def test_a_sample_is_changed_alike_whatever_the_others_are(study, way):
    some = damaged(select_samples(study, np.arange(10, 20), "not asked for"), way, DAMAGES[way].levels[2], 1)
    all_of_them = damaged(study, way, DAMAGES[way].levels[2], 1)
    assert (some.table.counts != all_of_them.table.counts[10:20]).nnz == 0
