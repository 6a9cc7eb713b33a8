"""The declaration of the options: names, ranges, contradictions, and the ways in and out."""

import itertools
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from aam.config import (
    DistributedConfig,
    EmbedConfig,
    EncoderType,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    InspectConfig,
    ModelConfig,
    PredictConfig,
    PretrainConfig,
    PretrainFindLrConfig,
    PretrainLossConfig,
    RunConfig,
    SimulateCommandConfig,
    TrainConfig,
    UnifracCommandConfig,
    flag,
)
from aam.errors import InputError, first_ids

OF_OTHERS = {"--nproc-per-node"}
"""Options of other programs that explanations name: torchrun's."""

MINIMAL = {
    PretrainConfig: {"output_dir": "o"},
    TrainConfig: {"output_dir": "o", "metadata_column": "age"},
    PretrainFindLrConfig: {"output_dir": "o"},
    PredictConfig: {"checkpoint": "c", "output": "p.tsv"},
    EmbedConfig: {"checkpoint": "c", "output": "p.tsv"},
    ExportConfig: {"run": "r", "output": "m.onnx"},
    InspectConfig: {"checkpoint": "c"},
    EvaluateConfig: {"output_dir": "o", "metadata_column": "age"},
    ExplainConfig: {"checkpoint": "c", "what": "category-attention", "output": "w.tsv"},
    UnifracCommandConfig: {"output": "d.tsv"},
    SimulateCommandConfig: {"directory": "study"},
}


@pytest.fixture(params=MINIMAL, ids=lambda config: config.__name__)
def config(request) -> type[RunConfig]:
    return request.param


def test_option_names_are_unique_within_a_command(config):
    names = list(itertools.chain.from_iterable(kind.model_fields for kind in config.sections().values()))
    assert sorted(names) == sorted(set(names))
    assert list(config.options()) == names


def test_every_field_of_a_command_is_a_section(config):
    sections = list(config.sections())
    assert sorted(sections) == sorted(config.model_fields)
    assert [name for name in config.model_fields if name != "output"] == [name for name in sections if name != "output"]
    assert "output" not in sections or sections[sections.index("output") - 1] == "inputs"


def test_every_option_explains_itself(config):
    for name, (_, field) in config.options().items():
        assert field.description, name
        assert field.description[0].isupper(), name
        assert field.description.endswith((".", "…")), name


def test_panels_are_named_and_distinct(config):
    panels = [kind.panel for kind in config.sections().values()]
    assert len(set(panels)) == len(panels)


def test_options_named_in_explanations_and_messages_exist(config):
    """A help text that points at another option points at one that the command has, or that some command has."""
    known = {flag(name) for each in MINIMAL for name in each.options()} | OF_OTHERS
    for name, (_, field) in config.options().items():
        mentioned = {word.strip(".,:;()") for word in field.description.split() if word.startswith("--")}
        assert mentioned <= known, name


def test_flat_and_back(config):
    made = config.from_flat(MINIMAL[config])
    assert config.from_flat(made.flat()) == made
    assert list(made.flat()) == list(config.options())


def test_json_and_back(config):
    made = config.from_flat(MINIMAL[config])
    assert config.model_validate_json(made.model_dump_json()) == made


def test_json_keeps_every_kind_of_value():
    made = TrainConfig.from_flat(
        {
            "output_dir": Path("runs/a"),
            "metadata_column": "pH (soil)",
            "table": (Path("a.biom"), Path("b.biom")),
            "where": ("site=gut,oral",),
            "regressor_hidden_dims": (64, 32),
            "patience": 3,
            "lr": 3e-4,
            "seed": 2**63 - 1,
            "classifier": True,
        }
    )
    again = TrainConfig.model_validate_json(made.model_dump_json())
    assert again == made
    assert again.inputs.table == (Path("a.biom"), Path("b.biom"))
    assert again.target.regressor_hidden_dims == (64, 32)


def test_a_config_cannot_be_changed(config):
    made = config.from_flat(MINIMAL[config])
    section = next(iter(config.sections()))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, section, None)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(getattr(made, section), next(iter(config.options())), None)


def test_an_unknown_option_is_refused(config):
    with pytest.raises(InputError, match=r"unknown option epoch; known are "):
        config.from_flat({**MINIMAL[config], "epoch": 3})


def test_unknown_keys_of_a_stored_config_are_refused():
    stored = PretrainConfig.from_flat({"output_dir": "o"}).model_dump()
    stored["optim"]["momentum"] = 0.9
    with pytest.raises(ValidationError, match="momentum"):
        PretrainConfig.model_validate(stored)


def test_all_missing_options_are_named_at_once():
    with pytest.raises(InputError, match=r"^--metadata-column is needed; --output-dir is needed$"):
        TrainConfig.from_flat({"epochs": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs 0: .*greater than 0"),
        ({"epochs": 1.5}, "--epochs 1.5: .*integer"),
        ({"epochs": "many"}, "--epochs many: .*integer"),
        ({"batch_size": -1}, "--batch-size -1: .*greater than 0"),
        ({"lr": 0}, "--lr 0: .*greater than 0"),
        ({"lr": float("nan")}, "--lr nan: .*finite"),
        ({"weight_decay": float("inf")}, "--weight-decay inf: .*finite"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1: .*greater than or equal to 0"),
        ({"val_fraction": 0}, "--val-fraction 0: the network needs"),
        ({"val_fraction": 1}, "--val-fraction 1: .*less than 1"),
        ({"warmup_fraction": 1.0}, "--warmup-fraction 1.0: .*less than 1"),
        ({"regressor_dropout": 1}, "--regressor-dropout 1: .*less than 1"),
        ({"regressor_hidden_dims": (8, 0)}, "--regressor-hidden-dims 0: .*greater than 0"),
        ({"count_mask_ratio": 0}, "--count-mask-ratio 0: .*greater than 0"),
        ({"target_weight": 0}, "--target-weight 0: .*greater than 0"),
        ({"num_workers": -1}, "--num-workers -1: .*greater than or equal to 0"),
        ({"seed": -1}, "--seed -1: .*greater than or equal to 0"),
        ({"seed": 2**63}, "--seed 9223372036854775808: .*less than"),
        ({"device": "gpu"}, "--device gpu: .*'auto', 'cpu' or 'cuda'"),
        ({"scheduler": "linear"}, "--scheduler linear: .*'cosine'"),
        ({"rarefy_depth": 0}, "--rarefy-depth 0: .*greater than 0"),
        ({"max_bp": 0}, "--max-bp 0: .*greater than 0"),
        ({"max_asvs": -1}, "--max-asvs -1: .*greater than or equal to 0"),
        ({"patience": 0}, "--patience 0: .*greater than 0"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0: .*greater than 0"),
        ({"rank_timeout": 0}, "--rank-timeout 0: .*greater than 0"),
        ({"rank_timeout": float("inf")}, "--rank-timeout inf: .*finite"),
        ({"fsdp_replicate": 0}, "--fsdp-replicate 0: .*greater than 0"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_flat({**MINIMAL[TrainConfig], **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 100, "attention_heads": 3}, "100 is not a multiple of --attention-heads 3"),
        ({"keep_shallow": True}, "--keep-shallow is about samples below --rarefy-depth"),
        ({"class_weights": "balanced"}, "--class-weights is for classes: give --classifier too"),
        ({"mix_samples": 0.1}, "--mix-samples 0.1 mixes samples of equal label: give --classifier too"),
        (
            {"sequence_noise": 0.1, "freeze_base": True, "pretrained_encoder": "pretrained"},
            "--sequence-noise 0.1 has no effect with --freeze-base",
        ),
        ({"split_column": "fold", "stratify": True}, "--split-column fixes the split"),
        ({"resume": True, "overwrite": True}, "--resume continues a run and --overwrite deletes it"),
    ],
)
def test_contradictions_are_refused_and_their_remedies_accepted(options, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_flat({**MINIMAL[TrainConfig], **options})


@pytest.mark.parametrize(
    "options",
    [
        {"embedding_dim": 96, "attention_heads": 3},
        {"keep_shallow": True, "rarefy_depth": 100},
        {"freeze_base": True},
        {"class_weights": "balanced", "classifier": True},
        {"mix_samples": 0.1, "classifier": True},
        {"sequence_noise": 0.1, "pretrained_encoder": "pretrained"},
        {"asv_dropout": 0.1, "depth_jitter": 0.1, "freeze_base": True, "pretrained_encoder": "pretrained"},
        {"split_column": "fold"},
        {"split_column": "fold", "group_column": "subject"},
        {"group_column": "subject", "stratify": True},
    ],
)
def test_options_that_go_together_are_accepted(options):
    flat = TrainConfig.from_flat({**MINIMAL[TrainConfig], **options}).flat()
    assert {name: str(flat[name]) for name in options} == {name: str(value) for name, value in options.items()}


STRATEGIES = ("distributed", "data_parallel", "fsdp")


@pytest.mark.parametrize("config", [PretrainConfig, TrainConfig])
@pytest.mark.parametrize("names", [*itertools.combinations(STRATEGIES, 2), STRATEGIES])
def test_strategies_for_many_gpus_exclude_each_other(config, names):
    listed = " and ".join(map(flag, names))
    with pytest.raises(InputError, match=f"^{listed} exclude each other: give one of them$"):
        config.from_flat({**MINIMAL[config], **dict.fromkeys(names, True)})


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_one_strategy_is_accepted_and_says_whether_it_is_one_of_processes(strategy):
    made = DistributedConfig(**({strategy: True} if strategy else {}))
    assert made.several_processes == (strategy in ("distributed", "fsdp"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("fsdp_replicate", 2),
        ("fsdp_mixed_precision", True),
        ("fsdp_cpu_offload", True),
        ("fsdp_sharded_checkpoint", True),
    ],
)
@pytest.mark.parametrize("strategy", [None, "distributed", "data_parallel"])
def test_options_of_sharding_need_it(option, value, strategy):
    others = {strategy: True} if strategy else {}
    with pytest.raises(InputError, match=f"{flag(option)} {value} only has an effect with --fsdp"):
        PretrainConfig.from_flat({"output_dir": "o", option: value, **others})
    made = PretrainConfig.from_flat({"output_dir": "o", option: value, "fsdp": True})
    assert made.flat()[option] == value


def test_only_a_sharded_checkpoint_is_written_meanwhile():
    given = {"output_dir": "o", "fsdp": True, "async_checkpoint": True}
    with pytest.raises(InputError, match="--async-checkpoint True only has an effect with --fsdp-sharded-checkpoint"):
        PretrainConfig.from_flat(given)
    assert PretrainConfig.from_flat({**given, "fsdp_sharded_checkpoint": True}).distribution.async_checkpoint


def test_ids_of_a_matrix_need_a_matrix():
    with pytest.raises(InputError, match="--matrix-ids names the rows of --unifrac-matrix"):
        PretrainConfig.from_flat({"output_dir": "o", "matrix_ids": "ids.txt"})
    assert PretrainConfig.from_flat({"output_dir": "o", "matrix_ids": "ids.txt", "unifrac_matrix": "d.npy"})


@pytest.mark.parametrize(
    ("options", "message", "remedy"),
    [
        (
            {"generalized_alpha": 0.3},
            "--generalized-alpha 0.3 only has an effect with --unifrac-metric generalized_unifrac",
            {"unifrac_metric": "generalized_unifrac"},
        ),
        (
            {"distance_link": "tanh", "unifrac_metric": "weighted_unifrac"},
            "--distance-link tanh only has an effect with a --unifrac-metric that ends at 1",
            {"unifrac_metric": "weighted_normalized_unifrac"},
        ),
        (
            {"nuc_mask_span": 3},
            "--nuc-mask-span 3 only has an effect with --nuc-mask-strategy span",
            {"nuc_mask_strategy": "span"},
        ),
    ],
)
def test_options_without_effect_are_refused(options, message, remedy):
    with pytest.raises(InputError, match=message):
        PretrainConfig.from_flat({"output_dir": "o", **options})
    assert PretrainConfig.from_flat({"output_dir": "o", **options, **remedy})


def test_some_nucleotides_are_hidden():
    with pytest.raises(InputError, match=r"--nuc-mask-ratio 0.0: .*greater than 0"):
        PretrainConfig.from_flat({"output_dir": "o", "nuc_mask_ratio": 0.0})


def test_the_effective_fraction_of_masked_nucleotides_is_in_the_help():
    masking = PretrainConfig.from_flat({"output_dir": "o"}).masking
    share = f"{masking.nuc_mask_ratio} in {masking.nuc_asv_fraction} of the ASVs"
    assert f"{share}, {masking.nuc_mask_ratio * masking.nuc_asv_fraction:.2f} of all" in (
        PretrainConfig.options()["nuc_mask_ratio"][1].description
    )


def test_the_learning_rate_is_sought_for_a_pretraining_with_the_same_options():
    given = {"output_dir": "o", "batch_size": 7, "seed": 3, "distance_link": "tanh", "nucleotide_weight": 0.0}
    search = PretrainFindLrConfig.from_flat({**given, "lr_steps": 9})
    assert search.pretraining() == PretrainConfig.from_flat(given)


def test_pretraining_needs_some_loss():
    weights = {"unifrac_weight": 0, "nucleotide_weight": 0, "faith_pd_weight": 0}
    with pytest.raises(InputError, match="nothing to learn"):
        PretrainConfig.from_flat({"output_dir": "o", **weights})
    assert PretrainConfig.from_flat({"output_dir": "o", **weights, "nucleotide_weight": 1})


LEARNED = {
    "unifrac": {"unifrac": 1.0, "nucleotide": 0.1, "faith_pd": 0.0, "taxonomy": 0.0, "abundance": 0.0},
    "faith_pd": {"unifrac": 0.0, "nucleotide": 0.1, "faith_pd": 0.1, "taxonomy": 0.0, "abundance": 0.0},
    "taxonomy": {"unifrac": 0.0, "nucleotide": 0.1, "faith_pd": 0.0, "taxonomy": 0.1, "abundance": 0.0},
    "combined": {"unifrac": 1.0, "nucleotide": 0.1, "faith_pd": 0.1, "taxonomy": 0.1, "abundance": 0.0},
}


@pytest.mark.parametrize("kind", LEARNED)
def test_the_encoder_type_sets_the_weights_that_are_not_given(kind):
    losses = PretrainLossConfig(encoder_type=kind)
    assert losses.weights == LEARNED[kind]
    assert {name for name in losses.weights if losses.learns(name)} == {n for n, w in LEARNED[kind].items() if w}
    for name in losses.weights:
        for weight in (0.0, 0.7):
            given = {"nucleotide": 0.3} | {name: weight}
            options = {f"{loss}_weight": value for loss, value in given.items()}
            if any((LEARNED[kind] | given).values()):
                assert PretrainLossConfig(encoder_type=kind, **options).weights == LEARNED[kind] | given


def test_every_encoder_type_has_its_weights():
    assert set(LEARNED) == set(get_args(EncoderType))
    assert PretrainLossConfig().weights == LEARNED["unifrac"]


def test_the_learning_rate_test_rises():
    with pytest.raises(InputError, match=r"--lr-min 0.1 is not below --lr-max 0.1"):
        PretrainFindLrConfig.from_flat({"output_dir": "o", "lr_min": 0.1, "lr_max": 0.1})


def test_several_problems_are_told_at_once():
    with pytest.raises(InputError, match=r"--epochs 0: .*; --lr -1: "):
        TrainConfig.from_flat({**MINIMAL[TrainConfig], "epochs": 0, "lr": -1})


def test_sections_take_their_options_by_name():
    assert ModelConfig(embedding_dim=64).attention_heads == ModelConfig().attention_heads
    with pytest.raises(ValidationError, match="width"):
        ModelConfig(width=64)


@pytest.mark.parametrize(("name", "spelled"), [("lr", "--lr"), ("max_bp", "--max-bp"), ("tf32", "--tf32")])
def test_flag(name, spelled):
    assert flag(name) == spelled


def test_first_ids():
    assert first_ids(["a", "b"]) == "a, b"
    assert first_ids("abcdefg") == "a, b, c, d, e, ... (7 in all)"
    assert first_ids([1, 2, 3], limit=2) == "1, 2, ... (3 in all)"
    assert first_ids(["A" * 150]) == "A" * 37 + "..."
