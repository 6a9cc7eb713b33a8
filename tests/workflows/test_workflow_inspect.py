"""`aam inspect`: what a checkpoint says of itself."""

import shutil

import pytest

from aam.cli import main
from aam.config import InspectConfig, PretrainConfig, TrainConfig
from aam.errors import InputError
from aam.training.checkpoints.store import read_checkpoint
from aam.workflows.inspect import inspect
from aam.workflows.pretrain import pretrain
from aam.workflows.restore import restore
from aam.workflows.train import train


def text_of(path) -> str:
    return inspect(InspectConfig.from_flat({"checkpoint": path}))


def model_of(text: str) -> str:
    """What is said of the model, without where it lies and comes from."""
    said = text.partition("\n")[2]
    return said.partition("\n\ndata:")[0].partition("\n\nprovenance:")[0]


def paragraph(text: str, heading: str) -> list[str]:
    (found,) = (part for part in text.split("\n\n") if part.startswith(f"{heading}:"))
    return found.splitlines()[1:]


@pytest.mark.parametrize("kind", ["pretrained", "regressor", "classifier", "attentive"])
def test_the_model_is_counted_as_it_is(kind, request):
    folder = request.getfixturevalue(kind)
    text = text_of(folder)
    assert text.startswith(f"{folder}: a checkpoint of `aam {'pretrain' if kind == 'pretrained' else 'train'}`\n\n")
    count = sum(parameter.numel() for parameter in restore(folder).model.parameters())
    assert f"  parameters: {count:,}" in paragraph(text, "model")
    assert "  width of embeddings: 8" in paragraph(text, "model")


def test_a_pretrained_encoder(pretrained):
    text = text_of(pretrained)
    trained = len(read_checkpoint(pretrained).documents["training"])
    assert f"  trained on: {trained} samples" in paragraph(text, "samples")
    assert any("150 drawn of each sample in every epoch" in line for line in paragraph(text, "samples"))
    assert "  learned: unifrac (weight 1), nucleotide (weight 0.1)" in paragraph(text, "pretraining")
    assert "  distance between samples: unweighted_unifrac" in paragraph(text, "pretraining")


def test_augmentation_is_said_where_there_was_some(pretrained, pretrain_options, tmp_path):
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path, epochs=1, asv_dropout=0.1, sequence_noise=0.002)))
    said = "  varied in training, and there alone: asv dropout 0.1, sequence noise 0.002"
    assert said in paragraph(text_of(tmp_path), "samples")
    assert "varied" not in text_of(pretrained)


def test_a_regressor_and_what_it_started_from(regressor, pretrained):
    text = text_of(regressor)
    assert paragraph(text, "started from") == [f"  the pretrained encoder {pretrained}"]
    assert paragraph(text, "new samples need") == ["  a table of counts"]
    target = paragraph(text, "predicts acidity")
    assert target[0] == "  a number, learned with the huber loss"
    scale = restore(regressor).targets.only.scale
    assert target[1] == f"  transform: zscore, (value - {scale.offset:.6g}) / {scale.scale:.6g}"
    assert target[2] == "  range: any number"
    assert "categor" not in text


def test_a_classifier(classifier):
    text = text_of(classifier)
    assert paragraph(text, "predicts habitat") == ["  3 classes: gut, oral, skin"]
    assert paragraph(text, "weights of classes") == ["  balanced"]
    assert paragraph(text, "started from") == ["  random weights"]


def test_categories_their_hierarchy_and_the_weights(attentive):
    text, trained = text_of(attentive), restore(attentive)
    needed = paragraph(text, "new samples need")
    assert needed[1].startswith("  metadata with the columns site, habitat (")
    assert needed[2].startswith("  better also region, ")
    categories = paragraph(text, "categories")
    assert categories[0] == "  fusion: cross_attention, 2 heads; a vector of 16 for a category"
    assert categories[2:] == trained.categories.describe().splitlines()[1:]
    assert "hierarchy site -> region:" in categories
    target = paragraph(text, "predicts acidity")
    assert target[0] == "  a number, learned with the quantile loss: a column for each of 0.1, 0.5, 0.9"
    own = trained.targets.only.groups.groups
    assert target[-1] == f"  scales of their own by habitat: {', '.join(own)}"
    weights = paragraph(text, "weights of samples by category")
    document = read_checkpoint(attentive).documents["loss_weights"]
    assert weights[0] == "  --categorical-loss-weights auto"
    for name, weight in document["weights"]["region"].items():
        (line,) = (line for line in weights if line.split()[:2] == ["region", name])
        assert line.split()[2:] == [str(document["counts"]["region"][name]), f"{weight:.4g}"]
    assert f"  trained on: {sum(document['counts']['region'].values())} samples" in paragraph(text, "samples")


def test_several_targets_and_ranges(train_options, tmp_path):
    options = {"metadata_column": "acidity,day", "output_activation": "softplus", "epochs": 1}
    losses = {"target_loss": "acidity=asymmetric,day=mse", "over_penalty": 2}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **options, **losses)))
    text = text_of(tmp_path / "run")
    acidity, day = (paragraph(text, f"predicts {name}") for name in ("acidity", "day"))
    assert acidity[0].endswith("the asymmetric loss: 2 for too high, 1 for too low")
    assert day[0].endswith("the mse loss")
    assert acidity[2] == day[2] == "  range: not negative (softplus)"


def test_documents_are_enough(regressor, tmp_path):
    """Weights are not read: those of a sharded checkpoint are in parts, and large ones take long."""
    folder = tmp_path / "checkpoint"
    shutil.copytree((regressor / "checkpoints" / "best").resolve(), folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        restore(folder)
    assert model_of(text_of(folder)) == model_of(text_of(regressor))


def test_a_sharded_checkpoint(pretrain_options, tmp_path):
    options = pretrain_options(tmp_path / "run", fsdp=True, fsdp_sharded_checkpoint=True, epochs=1)
    pretrain(PretrainConfig.from_flat(options))
    last = tmp_path / "run" / "checkpoints" / "last"
    with pytest.raises(InputError, match="is sharded"):
        restore(last)
    assert model_of(text_of(last)) == model_of(text_of(tmp_path / "run"))


def test_the_command_prints_it_to_stdout(regressor, capsys):
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(regressor)])
    assert left.value.code == 0
    assert capsys.readouterr() == (f"{text_of(regressor)}\n", "")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        text_of(tmp_path)
