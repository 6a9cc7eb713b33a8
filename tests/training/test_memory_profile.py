import pandas as pd
import pytest
import torch

from aam.training.memory.profile import (
    BACKWARD,
    CLOSELY,
    FORWARD,
    OPTIMIZER,
    PHASES,
    VALIDATION,
    WITHOUT_GRAPH,
    Activations,
    MemoryProfile,
    NullProfile,
)
from aam.training.run_folder import RunFolder
from aam.workflows.pretrain import prepare_pretraining, pretrain_study
from aam.workflows.train import train_study


def read(folder) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = pd.read_csv(folder / "memory_profile.tsv", sep="\t").set_index("name")
    return table[table["kind"] == "phase"], table[table["kind"] == "module"]


def test_a_profile_of_pretraining(study, make_pretrain_config, tmp_path):
    config = make_pretrain_config(memory_profile=True, accumulation_steps=2, embedding_dim=32)
    run, folder = pretrain_study(study, config)
    phases, modules = read(folder)
    assert list(phases.index) == list(PHASES)
    assert (phases["resident_mib"] > 10).all()
    allocated = phases["allocated_mib"]
    assert allocated[WITHOUT_GRAPH] < allocated[FORWARD] <= allocated[BACKWARD]
    assert allocated[OPTIMIZER] > 0
    held = sum(parameter.nbytes for parameter in run.model.parameters()) / 2**20
    assert modules.loc["(model)", "parameters_mib"] == pytest.approx(held, abs=1e-3)
    levels = ["asv_encoder", "asv_encoder.transformer", "sample_encoder", "sample_encoder.pooling.score"]
    assert {*levels, "(model)"} <= set(modules.index)
    kept = modules["activations_mib"]
    assert 0 < kept["asv_encoder.transformer"] <= kept["asv_encoder"]
    assert kept["asv_encoder"] + kept["sample_encoder"] <= kept["(model)"] + 1e-3
    assert (kept[["asv_encoder.stem", "sample_encoder.transformer", "sample_encoder.pooling"]] > 0).all()
    assert not (folder / "memory_snapshot.pickle").exists()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in run.model.modules())


def test_a_profile_of_fine_tuning_tells_of_heads(study, make_train_config):
    _, folder = train_study(study, make_train_config(memory_profile=True, count_weight=0.1, epochs=1))
    phases, modules = read(folder)
    assert WITHOUT_GRAPH not in phases.index
    assert {FORWARD, BACKWARD, OPTIMIZER, VALIDATION} <= set(phases.index)
    assert modules.loc["target_head", "activations_mib"] > 0
    assert modules.loc["encoder.asv_encoder.transformer", "activations_mib"] > 0


def test_weights_and_losses_are_those_without_a_profile(study, make_pretrain_config, tmp_path):
    weights = []
    for profiled in (False, True):
        config = make_pretrain_config(memory_profile=profiled, output_dir=tmp_path / str(profiled), sample_dropout=0.2)
        run, folder = pretrain_study(study, config)
        weights.append([*run.model.state_dict().values()])
        assert (folder / "memory_profile.tsv").exists() == profiled
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.fixture
def kept(study, make_pretrain_config):
    """What a pass keeps, by module, of a batch of so many samples."""

    def count(samples: int, **options) -> dict[str, int]:
        run = prepare_pretraining(study, make_pretrain_config(**options))
        batch = run.material.held_out(samples)[0]
        activations = Activations(run.model, lambda: None)
        activations.count(forward=True)
        output = run.model(batch.samples(run.material.nucleotides[batch.asv]))
        activations.close()
        output.z.sum().backward()
        return activations.largest

    return count


def test_activations_grow_with_the_batch_and_not_with_checkpointing(kept):
    few, many = kept(2), kept(8)
    assert many[""] > 1.5 * few[""]
    assert many["sample_encoder"] > 2 * few["sample_encoder"]
    assert kept(8, gradient_checkpointing=True)[""] < 0.7 * many[""]


def test_activations_are_the_tensors_of_the_graph():
    model = torch.nn.Sequential(torch.nn.Linear(4, 300, bias=False), torch.nn.Sigmoid())
    activations = Activations(model, lambda: None)
    x = torch.ones(100, 4)
    activations.count(forward=True)
    y = model(x)
    activations.close()
    # the input of the linear map and the output of the sigmoid; no weights
    assert activations.largest == {"": x.nbytes + y.nbytes, "0": x.nbytes, "1": y.nbytes}
    assert activations.parameters == {"": 4800, "0": 4800, "1": 0}


def test_a_short_run_is_profiled_too(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with MemoryProfile(model, torch.device("cpu"), RunFolder(tmp_path)) as profile:
        for _ in range(CLOSELY - 1):
            loss = profile.watched(lambda loss: loss)(model(torch.ones(1000, 4)).sum())
            loss.backward()
            profile.enter(OPTIMIZER)
            profile.step_done()
    phases, _ = read(tmp_path)
    assert {FORWARD, BACKWARD, OPTIMIZER} <= set(phases.index)
    assert phases.loc[BACKWARD, "allocated_mib"] > 0


def test_nothing_is_watched_unless_asked():
    profile = NullProfile()
    scale = abs
    assert profile.watched(scale) is scale
