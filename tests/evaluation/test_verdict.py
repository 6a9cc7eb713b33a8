"""What an evaluation says: which learner is best, whether that is beyond noise, and what misleads."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aam.evaluation.comparison import OutOfFold, difference_table, group_table, score_table
from aam.evaluation.verdict import fallen, flattered, judge, misleading, perhaps_misleading

ERRORS = {"null": 3.0, "depth": 2.9, "forest": 1.0, "kernel": 0.5}


def out_of_fold(errors: dict[str, float], groups: int = 20, seed: int = 1) -> OutOfFold:
    rng = np.random.default_rng(seed)
    size = groups * 5
    true = rng.normal(0, 3, size)
    predicted = {name: true + rng.normal(0, error, size) for name, error in errors.items()}
    predicted["null"] = np.zeros(size)
    names = np.repeat([f"g{number:02d}" for number in range(groups)], 5)
    return OutOfFold(tuple(f"s{n:03d}" for n in range(size)), names, true, (), predicted, 42)


def test_the_best_is_named_with_its_lead_over_the_forest():
    verdict = judge(out_of_fold(ERRORS), "age", "groups (subject)")
    assert (verdict.best, verdict.to_train) == ("kernel", "kernel")
    assert verdict.sentence.startswith("kernel predicts age best: R2 0.9")
    assert "over 20 groups (subject)" in verdict.sentence
    assert "above forest (0.8" in verdict.sentence
    assert "beyond noise (95 % 0.0" in verdict.sentence
    assert "chosen as" not in verdict.sentence


def test_a_lead_within_noise_is_said_so():
    verdict = judge(out_of_fold({**ERRORS, "kernel": 0.99}), "age", "groups")
    assert "within noise (95 % -0.0" in verdict.sentence
    assert "), chosen as the best of 2 on these predictions" in verdict.sentence


def test_a_forest_that_wins_is_said_so():
    verdict = judge(out_of_fold({**ERRORS, "kernel": 2.0}), "age", "groups")
    assert verdict.to_train == "forest"
    assert verdict.sentence.startswith("forest predicts age best")
    assert "above kernel" in verdict.sentence


def test_a_guess_that_wins_is_said_so_and_nothing_is_to_be_trained():
    verdict = judge(out_of_fold(dict.fromkeys(ERRORS, 9.0)), "age", "groups")
    assert (verdict.best, verdict.to_train) == ("null", None)
    assert "no learner predicts age better than a guess that looks at no sample (null)" in verdict.sentence


def test_depth_that_wins_is_said_so():
    verdict = judge(out_of_fold({**ERRORS, "depth": 0.1}), "age", "groups")
    assert (verdict.best, verdict.to_train) == ("depth", "kernel")
    assert "no learner predicts age better than sequencing depth alone" in verdict.sentence
    assert "the best that looks at ASVs is kernel" in verdict.sentence
    assert "below depth" in verdict.sentence


def test_below_ten_groups_nobody_can_say_what_is_noise():
    out = out_of_fold({**ERRORS, "depth": 0.1}, groups=6)
    verdict = judge(out, "age", "groups")
    assert "fewer than 10 groups" in verdict.sentence
    assert score_table(out)[["low", "high"]].isna().all().all()
    assert set(difference_table(out)["beyond_noise"]) == {"unknown"}
    assert misleading(out, "depth", "age") is None
    assert "--rarefy-depth auto" in perhaps_misleading(out, "depth")


def test_depth_that_predicts_is_named_a_confounder():
    assert misleading(out_of_fold({**ERRORS, "depth": 9.0}), "depth", "age") is None
    told = misleading(out_of_fold({**ERRORS, "depth": 1.5}), "depth", "age")
    assert told.startswith("age is confounded with sequencing depth: sequencing depth alone predicts it, R2 0.7")
    assert misleading(out_of_fold(ERRORS), "batch", "age") is None


def test_how_far_a_score_falls_is_said_of_the_same_samples():
    whole = out_of_fold(ERRORS)
    part = out_of_fold({**ERRORS, "kernel": 2.0}).among(whole.sample_ids[:60])
    told = fallen(whole, part, 500)
    assert told.startswith("with 500 reads of every sample the R2 of kernel falls from 0.9")
    assert "on the same 60 samples (difference 95 % -0." in told


def test_what_a_random_split_flatters_is_said():
    told = flattered(out_of_fold({**ERRORS, "kernel": 2.0}), out_of_fold(ERRORS), "kernel")
    assert "a random split shows R2 0.9" in told
    assert "comes from knowing the groups" in told


def test_a_random_split_that_does_not_flatter_is_not_said_to():
    poor, good = out_of_fold({**ERRORS, "kernel": 2.0}), out_of_fold(ERRORS)
    told = flattered(good, poor, "kernel")
    assert "it looks worse, beyond noise (95 % -0." in told
    noise = flattered(good, out_of_fold(ERRORS, seed=1), "kernel")
    assert "the difference is within noise" in noise
    few = flattered(out_of_fold(ERRORS, groups=6), out_of_fold(ERRORS, groups=6), "kernel")
    assert "fewer than 10 groups" in few
    assert not any("comes from knowing the groups" in text and "nothing" not in text for text in (told, noise, few))


def test_repeats_are_averaged_before_they_are_scored():
    rows = [
        {"sample_id": name, "learner": "x", "repeat": repeat, "fold": 1, "true": true, "prediction": true + error}
        for repeat, error in ((1, 1.0), (2, -1.0))
        for name, true in (("a", 1.0), ("b", 2.0), ("c", 4.0))
    ]
    out = OutOfFold.of(pd.DataFrame(rows), pd.Series("g", index=["a", "b", "c"]), 0)
    assert out.scores["x"]["mae"] == pytest.approx(0)


def of_repeats(spreads: dict[str, float], repeats: int = 9) -> OutOfFold:
    """Learners that are right on average, each fit by as much as its spread off."""
    rng = np.random.default_rng(5)
    true = rng.normal(0, 1, 100)
    ids = [f"s{number:03d}" for number in range(100)]
    tables = [
        pd.DataFrame(
            {"sample_id": ids, "learner": name, "repeat": repeat, "fold": 1, "true": true, "prediction": value}
        )
        for repeat in range(1, repeats + 1)
        for name, spread in spreads.items()
        for value in [np.zeros(100) if name == "null" else 0.7 * true + rng.normal(0, spread, 100)]
    ]
    return OutOfFold.of(pd.concat(tables), pd.Series(ids, index=ids), 42)


def test_scores_of_single_fits_stand_beside_those_of_the_mean():
    out = of_repeats({"null": 0.0, "forest": 0.3, "kernel": 0.9})
    table = score_table(out).set_index(["learner", "metric"])
    assert table.loc[("kernel", "r2"), "one_repeat"] < 0.2 < 0.7 < table.loc[("kernel", "r2"), "value"]
    assert table.loc[("null", "mae"), "one_repeat"] == pytest.approx(table.loc[("null", "mae"), "value"])
    once = score_table(of_repeats({"forest": 0.3}, repeats=1))
    assert (once["one_repeat"] == once["value"]).all()


def test_a_learner_that_is_best_as_a_mean_alone_is_said_so():
    out = of_repeats({"null": 0.0, "forest": 0.62, "kernel": 0.4})
    assert "single" not in judge(out, "age", "samples").sentence
    rough = of_repeats({"null": 0.0, "forest": 1.6, "kernel": 1.1})
    assert rough.ranking[0] == "kernel"
    assert (
        "but a single fit of kernel is no better than a guess (kernel: R2 -0."
        in judge(rough, "age", "samples").sentence
    )
    table = {"null": 0.0, "kernel": 0.6, "forest": 0.5}
    other = of_repeats(table)
    swapped = replace(other, predicted={**other.predicted, "kernel": other.true})
    said = judge(swapped, "age", "samples").sentence
    assert said.startswith("kernel predicts age best")
    assert "but of single fits, as `aam train` makes one, forest is best (forest: R2 0." in said


def test_errors_of_groups_are_those_of_their_samples():
    out = out_of_fold(ERRORS)
    table = group_table(out).set_index(["group", "learner"])
    error = (out.predicted["kernel"] - out.true)[5:10]
    row = table.loc[("g01", "kernel")]
    assert (row["samples"], row["mae"], row["bias"]) == pytest.approx((5, np.abs(error).mean(), error.mean()))


def test_a_difference_is_better_by_the_sense_of_its_score():
    table = difference_table(out_of_fold(ERRORS)).set_index(["learner", "reference", "metric"])
    row = table.loc[("kernel", "forest", "mae")]
    assert row["difference"] < 0
    assert row["beyond_noise"] == "better"
    assert table.loc[("depth", "kernel", "r2")]["beyond_noise"] == "worse"


def unbalanced(strengths: dict[str, float], groups: int = 60) -> OutOfFold:
    """An eighth of the samples is a case; learners know something of it, and no case is likelier than not."""
    rng = np.random.default_rng(3)
    size = groups * 5
    true = np.tile([1.0, *[0.0] * 7], size)[:size]
    shift = rng.normal(true * 1.5, 1)
    names = np.repeat([f"g{number:02d}" for number in range(groups)], 5)
    predicted = {"null": np.tile([0.875, 0.125], (size, 1))}
    for name, strength in strengths.items():
        noise = rng.normal(0, 1, size)
        case = 0.45 / (1 + np.exp(2 - 1.5 * (strength * shift + (1 - strength) * noise)))
        predicted[name] = np.stack([1 - case, case], axis=1)
    return OutOfFold(tuple(f"s{n:03d}" for n in range(size)), names, true, ("control", "case"), predicted, 42)


def test_what_ranks_samples_of_unbalanced_classes_well_is_worth_training():
    out = unbalanced({"depth": 0.0, "forest": 0.5, "kernel": 1.0})
    assert {name: scores["balanced_accuracy"] for name, scores in out.scores.items()} == dict.fromkeys(out.scores, 0.5)
    verdict = judge(out, "disease", "groups")
    assert (verdict.best, verdict.to_train) == ("kernel", "kernel")
    assert "balanced accuracy hides what it knows" in verdict.sentence
    assert "(case: 13% of the samples): it ranks samples well, AUROC 0.8" in verdict.sentence
    assert "AUROC 0.07 above forest (0.82), beyond noise" in verdict.sentence
    assert "not better than a guess" not in verdict.sentence
    assert not out.beats("depth", "null")
    assert fallen(out, out, 500).startswith("with 500 reads of every sample the AUROC of kernel falls from 0.8")


def test_depth_that_ranks_samples_of_unbalanced_classes_is_a_confounder():
    told = misleading(unbalanced({"depth": 1.0, "forest": 0.5}), "depth", "disease")
    assert "disease is confounded with sequencing depth" in told
    assert "balanced accuracy hides what it knows" in told


def test_noise_on_unbalanced_classes_is_not_worth_training():
    verdict = judge(unbalanced({"depth": 0.0, "forest": 0.0}), "disease", "groups")
    assert (verdict.best, verdict.to_train) == ("null", None)
