"""Options that are chosen within the training samples of each fold."""

import numpy as np
import pytest

from aam.config import EnsembleConfig, LearnersConfig, TreesConfig
from aam.errors import InputError
from aam.evaluation.choice import Choice
from aam.evaluation.fold_fits import fit_fold
from aam.evaluation.variants import plan_main
from aam.learners.base import Output
from aam.learners.ensemble import EnsembleLearner
from aam.learners.trees import ForestLearner
from aam.workflows.candidates import compared_learners, options_to_train, read_options
from aam.workflows.evaluate import evaluate_study


@pytest.mark.parametrize("column", ["number", "kind"])
def test_what_predicts_other_groups_better_is_chosen(study_of, labels_of, learners, config, column):
    study, metadata = study_of()
    learners["chosen"] = Choice((learners["forest"], learners["linear"]), ("means.toml", "shares.toml"))
    options = config(metadata_column=column, classifier=column == "kind")
    found = evaluate_study(study, labels_of(metadata, column), options, learners)
    assert found.main.chosen == {"chosen": {"shares.toml": 5}}
    assert found.main.out.scores["chosen"] == found.main.out.scores["linear"]
    assert found.notes[-1] == "options of chosen, chosen in 5 folds: shares.toml in 5"
    assert found.to_json()["main"]["chosen_options"] == {"chosen": {"shares.toml": 5}}


def test_a_learner_that_knows_its_groups_is_not_preferred(study_of, labels_of, learners, config):
    """It is right about groups that it has seen, which inner folds of samples would reward."""
    study, metadata = study_of()
    metadata["number"] = np.repeat(np.random.default_rng(0).normal(0, 1, 12), 4)
    row = {name: place for place, name in enumerate(study.table.sample_ids)}
    of_row = metadata["subject"].to_numpy()

    class Knowing(type(learners["linear"])):
        def solve(self, problem):
            solution = super().solve(problem)
            known = dict(zip(of_row[problem.rows], problem.y, strict=True))

            def predict(study, rows):
                names = (of_row[row[study.table.sample_ids[place]]] for place in rows)
                return Output(np.array([known.get(name, 5.0) for name in names]))

            solution._predict = predict
            return solution

    learners["chosen"] = Choice((Knowing(), learners["forest"]), ("knowing", "means"))
    variant = plan_main(study, labels_of(metadata), config())
    result = fit_fold(variant, variant.folds[0], learners)
    assert result.chosen == {"chosen": "means"}


def test_held_out_samples_do_not_choose(study_of, labels_of, learners, config):
    study, metadata = study_of()
    seen = []

    class Watching(type(learners["linear"])):
        def solve(self, problem):
            seen.extend(problem.rows.tolist())
            return super().solve(problem)

    learners["chosen"] = Choice((Watching(), learners["forest"]), ("a", "b"))
    variant = plan_main(study, labels_of(metadata), config())
    fit_fold(variant, variant.folds[0], learners)
    assert set(seen) == set(variant.folds[0].train.tolist())


def test_files_make_candidates_of_the_learners_that_read_them(study_of, config, tmp_path):
    study, _ = study_of()
    for name, text in (("a", "trees = 5"), ("b", "trees = 7\nmin-prevalence = 0.1"), ("c", "kernel_steps = 3")):
        (tmp_path / f"{name}.toml").write_text(text)
    files = ",".join(str(tmp_path / f"{name}.toml") for name in "abc")
    made = compared_learners(config(learners="linear", configs=files, trees=9), study)
    assert [one.config for one in made["forest"].candidates] == [
        TreesConfig(trees=5),
        TreesConfig(trees=7, min_prevalence=0.1),
        TreesConfig(trees=9),
    ]
    assert [name.rpartition("/")[2] for name in made["forest"].options] == ["a.toml", "b.toml", "c.toml"]
    assert isinstance(made["linear"], Choice)
    assert not isinstance(made["null"], Choice)
    alone = compared_learners(config(learners="linear", trees=9), study)
    assert alone["forest"] == ForestLearner(TreesConfig(trees=9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("trees: 5", "is not TOML"),
        ("trees = 5\nepochs = 3", "epochs is no option of learners; known are trees, min_prevalence"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, text, message):
    path = tmp_path / "a.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"--configs .*a\.toml:? {message}"):
        read_options(str(path))


def test_every_option_of_a_learner_is_one_of_the_evaluation(config):
    assert LearnersConfig.options().keys() <= type(config()).options().keys()


@pytest.fixture
def ensemble_of_files(study_of, config, tmp_path):
    """The config and learners of an ensemble of forest and clades, which choose among two files."""
    study, _ = study_of()
    (tmp_path / "few.toml").write_text("trees = 5")
    (tmp_path / "many.toml").write_text("trees = 7")
    few, many = (str(tmp_path / f"{name}.toml") for name in ("few", "many"))
    options = config(learners="linear,ensemble", ensemble_members="linear,forest", configs=f"{few},{many}")
    return options, compared_learners(options, study), few, many


def test_members_that_are_not_compared_choose_as_well(study_of, labels_of, learners, config):
    study, metadata = study_of()
    choice = Choice((learners["forest"], learners["linear"]), ("means", "shares"))
    learners["ensemble"] = EnsembleLearner((choice,), EnsembleConfig(ensemble_weights="mean"))
    variant = plan_main(study, labels_of(metadata), config())
    result = fit_fold(variant, variant.folds[0], learners)
    assert result.chosen == {"means": "shares"}
    assert result.learners["ensemble"]["prediction"] == result.learners["linear"]["prediction"]


def test_weights_of_an_ensemble_are_of_the_options_that_were_chosen(study_of, labels_of, learners, config):
    study, metadata = study_of()
    shares, guess, means = learners["linear"], learners["null"], learners["forest"]

    class Poor(type(shares)):
        def solve(self, problem):
            return means.solve(problem)

    variant = plan_main(study, labels_of(metadata), config())

    def predicted(compared, member):
        ensemble = EnsembleLearner((member, guess), EnsembleConfig(ensemble_weights="stack"))
        result = fit_fold(variant, variant.folds[0], {**learners, "linear": compared, "ensemble": ensemble})
        return result.learners["ensemble"]["prediction"]

    choice = Choice((Poor(), shares), ("poor", "shares"))
    plain = predicted(shares, shares)
    assert predicted(choice, Poor()) == plain
    assert predicted(choice, choice) == plain


def test_every_member_reads_the_files(ensemble_of_files):
    _, made, few, many = ensemble_of_files
    linear, forest = made["ensemble"].members
    assert linear == made["linear"]
    assert forest.name == "forest"
    assert forest.options == (few, many)
    assert not isinstance(linear, Choice)


def test_the_command_has_the_options_that_most_folds_chose(ensemble_of_files):
    options, made, few, many = ensemble_of_files
    found = options_to_train(options, made["ensemble"], {"forest": {many: 3, few: 2}})
    assert found["trees"] == 7
    assert found["ensemble_members"] == ("linear", "forest")
    assert options_to_train(options, made["linear"], {}) == {"linear_penalty": "l2", "min_prevalence": 0.02}
    tied = options_to_train(options, made["ensemble"], {"forest": {many: 2, few: 2}})
    assert tied == f"folds chose {many} and {few} equally often for forest"


def test_options_of_members_that_clash_give_no_command(study_of, config, tmp_path):
    study, _ = study_of()
    (tmp_path / "a.toml").write_text("min_prevalence = 0.1\ntrees = 5")
    (tmp_path / "b.toml").write_text("trees = 5")
    a, b = str(tmp_path / "a.toml"), str(tmp_path / "b.toml")
    options = config(learners="ensemble", ensemble_members="linear,forest", configs=f"{a},{b}")
    made = compared_learners(options, study)
    found = options_to_train(options, made["ensemble"], {"forest": {a: 5}, "linear": {b: 5}})
    assert found == (
        "linear was fitted with min_prevalence 0.02 and forest with 0.1, and `aam train` takes one for both"
    )


def test_options_that_all_files_share_are_in_the_command(study_of, config, tmp_path):
    study, _ = study_of()
    for name in "ab":
        (tmp_path / f"{name}.toml").write_text(f"trees = 5\nkernel_steps = {'ab'.index(name) + 1}")
    files = ",".join(str(tmp_path / f"{name}.toml") for name in "ab")
    options = config(learners="linear", configs=files)
    assert options_to_train(options, compared_learners(options, study)["forest"], {})["trees"] == 5
