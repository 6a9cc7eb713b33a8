"""`aam explain` of samples: attribution, attention and deletion, for a learner and for the network."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from aam.config import EvaluateConfig, ExplainConfig, PredictConfig, TrainConfig
from aam.errors import InputError
from aam.interpret.explained import chosen_rows, drawn_rows
from aam.training.distributed import World
from aam.training.machine.compute import CPU
from aam.workflows.evaluate import evaluate
from aam.workflows.explain import explain
from aam.workflows.explain_deletion import read_importance
from aam.workflows.explained_model import open_model
from aam.workflows.predict import predict
from aam.workflows.train import train

pytest.importorskip("captum", reason="captum: pip install 'aam[explain]'")
pytest.importorskip("shap", reason="shap: pip install 'aam[explain]'")

TREES = {"trees": 20, "ensemble_members": "kernel,clades,linear"}


@pytest.fixture(scope="module")
def files(study_folder) -> dict:
    return {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv", "device": "cpu"}


def trained(files, study_folder, folder, **more):
    base = {"metadata_column": "acidity", "group_column": "subject", "learner": "ensemble", **TREES}
    where = {"tree": study_folder / "tree.nwk", "output_dir": folder, "rarefy_depth": 150, "rarefy_draws": 2}
    train(TrainConfig.from_flat({**files, **base, **where, **more}))
    return folder


@pytest.fixture(scope="module")
def ensemble(files, study_folder, tmp_path_factory):
    """Of two draws of reads."""
    return trained(files, study_folder, tmp_path_factory.mktemp("explained") / "ensemble")


@pytest.fixture(scope="module")
def of_classes(files, study_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained") / "classes"
    return trained(files, study_folder, folder, metadata_column="habitat", classifier=True)


@pytest.fixture(scope="module")
def ask(files, study_folder):
    """Explain, and give the folder."""

    def asked(what, checkpoint, output, **more):
        options = {"what": what, "checkpoint": checkpoint, "output_dir": output, **files, **more}
        explain(ExplainConfig.from_flat(options))
        return output

    return asked


def read(path):
    return pd.read_csv(path, sep="\t", dtype={"sample_id": str, "id": str, "class": str}, keep_default_na=False)


MODELS = ["ensemble", "of_classes", "regressor", "classifier", "attentive"]


@pytest.fixture(scope="module")
def explanations(ask, request, tmp_path_factory):
    """Output folders by model, made when they are asked for."""
    done = {}

    def folder(name):
        if name not in done:
            output = tmp_path_factory.mktemp("why") / name
            done[name] = ask("attribution", request.getfixturevalue(name), output, samples="4", background=3)
        return done[name]

    return folder


@pytest.mark.parametrize("name", MODELS)
def test_attributions_add_up_to_what_is_predicted(name, explanations, files, request, tmp_path):
    folder = explanations(name)
    rows, samples = read(folder / "attribution.tsv"), read(folder / "attribution_samples.tsv")
    assert samples["sample_id"].nunique() == 4
    assert samples["gap"].abs().max() < 1e-4 * (0.5 if "class" in samples else 0.7)  # 0.7: deviation of acidity
    keys = [key for key in ("sample_id", "class") if key in samples]
    sums = rows[rows["level"] == "asv"].groupby(keys)["attribution"].sum()
    expected = samples.set_index(keys)["sum"]
    assert sums.loc[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-4)

    more = {"checkpoint": request.getfixturevalue(name), "output": tmp_path / "p.tsv"}
    predict(PredictConfig.from_flat({**files, **more}))
    predicted = pd.read_csv(tmp_path / "p.tsv", sep="\t", index_col=0)
    for row in samples.to_dict("records"):
        column = f"probability_{row['class']}" if "class" in row else "prediction"
        assert row["prediction"] == pytest.approx(predicted.loc[row["sample_id"], column], abs=1e-4)
        assert row["prediction"] - row["baseline"] == pytest.approx(row["sum"] + row["gap"], abs=1e-4)


def test_a_clade_has_the_sum_of_its_asvs(explanations, ensemble, files):
    rows = read(explanations("ensemble") / "attribution.tsv")
    with World(CPU) as world:
        options = {"what": "attribution", "checkpoint": ensemble, "output_dir": "o", **files}
        study = open_model(ExplainConfig.from_flat(options), world).study
    one = rows[rows["sample_id"] == rows["sample_id"][0]]
    asvs = one[one["level"] == "asv"].set_index("id")["attribution"]
    clades = one[one["level"] == "clade"]
    assert len(clades) > 5
    for clade in clades.head(5).to_dict("records"):
        branch = int(clade["id"].removeprefix("clade_"))
        below = study.tree.order[study.tree.start[branch] : study.tree.stop[branch]]
        ids = [study.table.asv_ids[column] for column in below]
        assert clade["attribution"] == pytest.approx(asvs.reindex(ids).sum(), abs=1e-4)
        assert clade["asvs"] == asvs.index.isin(ids).sum()


@pytest.mark.parametrize("name", ["ensemble", "classifier"])
def test_files_of_an_attribution(name, explanations):
    folder = explanations(name)
    plots = {f"{plot}.{end}" for plot in ("attribution", "attribution_sample") for end in ("png", "svg")}
    assert {path.name for path in (folder / "plots").iterdir()} == plots
    summary = json.loads((folder / "explanation.json").read_text())
    assert set(summary) == {"what", "column", "learner", "sentence", "notes", "source"}
    assert summary["what"] == "attribution"
    assert "baseline" in " ".join(summary["notes"])


def test_the_same_seed_gives_the_same_bytes(explanations, ask, ensemble, tmp_path):
    first, again = explanations("ensemble"), tmp_path / "again"
    ask("attribution", ensemble, again, samples="4", background=3)
    for name in ("attribution.tsv", "attribution_samples.tsv", "explanation.json", "plots/attribution.svg"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_named_samples_are_explained_whatever_others_are(explanations, ask, ensemble, tmp_path):
    rows = read(explanations("ensemble") / "attribution.tsv")
    name = rows["sample_id"].iloc[-1]
    ask("attribution", ensemble, tmp_path / "one", samples=name, background=3)
    own = rows[rows["sample_id"] == name].reset_index(drop=True)
    pd.testing.assert_frame_equal(read(tmp_path / "one" / "attribution.tsv"), own)


def test_samples_by_number_and_by_id(ensemble, files):
    with World(CPU) as world:
        options = {"what": "attribution", "checkpoint": ensemble, "output_dir": "o", **files}
        study = open_model(ExplainConfig.from_flat(options), world).study
    ids = study.table.sample_ids
    assert len(chosen_rows(study, (), 1)) == len(ids)
    assert len(chosen_rows(study, ("5",), 1)) == 5
    assert list(chosen_rows(study, ("5",), 1)) == list(chosen_rows(study, ("5",), 1))
    assert [ids[row] for row in chosen_rows(study, ("S0007", "S0003", "S0007"), 1)] == ["S0003", "S0007"]
    assert len(drawn_rows(study, 1000, 1, "background")) == len(ids)
    with pytest.raises(InputError, match="S9999 is not among"):
        chosen_rows(study, ("S0003", "S9999"), 1)


@pytest.fixture(scope="module")
def attention(ask, attentive, tmp_path_factory):
    return ask("attention", attentive, tmp_path_factory.mktemp("why") / "attention", samples="3")


def test_attention_is_shares_of_a_sample(attention):
    table = read(attention / "attention.tsv")
    assert table["sample_id"].nunique() == 3
    sums = table.groupby("sample_id")[["received", "pooling", "proportion"]].sum()
    assert sums.to_numpy() == pytest.approx(1, abs=1e-4)
    assert table[["category_site", "category_habitat"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)
    assert (table.groupby("sample_id")["received"].diff().dropna() <= 0).all()


def test_attention_of_nucleotides_covers_the_asvs_of_the_samples(attention):
    table = read(attention / "attention_nucleotides.tsv")
    sums = table.groupby("asv_id")[["received", "pooling"]].sum()
    assert sums.to_numpy() == pytest.approx(1, abs=1e-4)
    assert set(sums.index) == set(read(attention / "attention.tsv")["asv_id"])
    first = table[table["asv_id"] == table["asv_id"][0]]
    assert first["first_nucleotide"].iloc[0] == 1
    assert first["last_nucleotide"].iloc[-1] == len(first["asv_id"].iloc[0])
    assert {path.name for path in (attention / "plots").iterdir()} == {"attention.png", "attention.svg"}
    assert "no importance" in json.loads((attention / "explanation.json").read_text())["sentence"].replace("\n", " ")


@pytest.fixture(scope="module")
def deletion(ask, ensemble, tmp_path_factory):
    folder = tmp_path_factory.mktemp("why")
    table = read(explained_once(ask, ensemble, folder) / "attribution.tsv")
    size = table[table["level"] == "asv"].assign(importance=lambda rows: rows["attribution"].abs())
    size = size.groupby(["level", "id"], as_index=False)["importance"].mean()
    size.to_csv(folder / "importance.tsv", sep="\t", index=False)
    ask("deletion", ensemble, folder / "deletion", background=3, importance=folder / "importance.tsv")
    return folder / "deletion"


def explained_once(ask, checkpoint, folder):
    return ask("attribution", checkpoint, folder / "first", background=3, samples="10")


def test_without_the_first_asvs_by_attribution_predictions_change_more_than_at_random(deletion):
    table = read(deletion / "deletion.tsv").set_index(["order", "removed"])
    assert {name for name, _ in table.index} == {"importance", "attribution", "abundance", "random"}
    for number in (1, 2, 5):
        by, at_random = table.loc["attribution", number], table.loc["random", number]
        assert by["change_low"] > at_random["change_high"]
        assert table.loc["importance", number]["change"] > at_random["change"]
        assert by["change_low"] < by["change"] < by["change_high"]
        assert 0 < by["reads"] < 1
    assert (table["samples"] == 40).all()
    assert (deletion / "plots" / "deletion.svg").exists()
    assert table.loc["attribution", 5]["loss_rise"] > table.loc["random", 5]["loss_rise"]


def test_asvs_that_drive_the_column_have_large_attributions(deletion, study_folder):
    table, truth = read(deletion.parent / "first" / "attribution.tsv"), read(study_folder / "truth.tsv")
    size = table[table["level"] == "asv"].groupby("id")["attribution"].apply(lambda values: values.abs().mean())
    causal = size.index.isin(truth["id"][(truth["column"] == "acidity") & (truth["level"] == "asv")])
    assert 3 <= causal.sum() <= 8
    assert average_precision_score(causal, size) > 2 * causal.mean()


def test_the_network_is_also_cut_by_attention(ask, classifier, tmp_path):
    table = read(ask("deletion", classifier, tmp_path / "d", samples="6", background=3) / "deletion.tsv")
    assert list(dict.fromkeys(table["order"])) == ["attribution", "attention", "abundance", "random"]
    changes = table["change"].astype(float)
    assert ((changes >= 0) & (changes <= 1)).all()


def test_no_metadata_leaves_the_loss_unknown(ask, ensemble, tmp_path):
    table = read(ask("deletion", ensemble, tmp_path / "d", samples="4", background=3, metadata=None) / "deletion.tsv")
    assert (table["loss_rise"] == "").all()
    assert table["change"].astype(float).gt(0).any()


def test_importance_of_asvs_that_are_not_listed_is_zero(tmp_path):
    rows = {"level": ["clade", "asv", "asv"], "id": ["c", "b", "x"], "importance": [9, 0.5, 0.1]}
    pd.DataFrame(rows).to_csv(tmp_path / "i.tsv", sep="\t", index=False)
    assert read_importance(tmp_path / "i.tsv", ("a", "b")).tolist() == [0, 0.5]


@pytest.mark.slow
def test_a_member_that_is_a_network_is_explained_too(files, study_folder, ask, tmp_path):
    small = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 1, "epochs": 2, "batch_size": 8, "lr": 0.01}
    more = {"ensemble_members": "neural,linear", "metadata_column": "health", "classifier": True, **small}
    folder = trained(files, study_folder, tmp_path / "with", rarefy_depth=None, rarefy_draws=1, **more)
    ask("attribution", folder, tmp_path / "why", samples="3", background=3)
    samples = read(tmp_path / "why" / "attribution_samples.tsv")
    assert samples["gap"].abs().max() < 5e-5
    assert (samples.groupby("sample_id")["sum"].sum().abs() < 1e-4).all()


@pytest.mark.slow
def test_a_kept_fold_of_an_evaluation_is_explained(files, study_folder, ask, tmp_path):
    options = {"metadata_column": "acidity", "group_column": "subject", "tree": study_folder / "tree.nwk"}
    run = {"learners": "kernel", "folds": 2, "repeats": 1, "keep_models": True, "output_dir": tmp_path / "e"}
    given = {name: value for name, value in files.items() if name != "device"}
    evaluate(EvaluateConfig.from_flat({**given, **options, **run}))
    (model, *_) = sorted((tmp_path / "e/models").glob("*/kernel"))
    ask("attribution", model, tmp_path / "why", samples="2", background=2)
    assert np.isfinite(read(tmp_path / "why/attribution_samples.tsv")["sum"]).all()
