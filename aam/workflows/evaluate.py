"""`aam evaluate`: compare learners on samples that they have not seen."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, get_args

import numpy as np
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from aam.config import EvaluateConfig, LearnerName, SamplingConfig, UnifracConfig
from aam.config.evaluate import OUTSIDE
from aam.data.labels.target_table import target_values
from aam.data.study import Study, load_study, select_samples
from aam.errors import InputError, first_ids
from aam.evaluation.fold_fits import FoldResult, Variant, fit_fold, sendable
from aam.evaluation.fold_models import FoldModels
from aam.evaluation.fold_store import FoldStore
from aam.evaluation.outcome import Advice, Evaluation, Outcome
from aam.evaluation.schemes import Fold, group_values
from aam.evaluation.variants import plan_main, plan_random, rarefied
from aam.evaluation.verdict import NO_MODEL
from aam.learners.base import Fitted, Labels, Learner
from aam.training.provenance import checkpoint_document
from aam.training.run_folder import RunFolder
from aam.training.sinks.progress_bar import progress_bar
from aam.training.sinks.sink import Results
from aam.training.sinks.tracker import check_tracker
from aam.workflows.candidates import compared_learners, options_to_train
from aam.workflows.comparison import check_folds, check_inputs, check_plan, fingerprint, leakage
from aam.workflows.evaluation_files import write_evaluation
from aam.workflows.folder import alone, check_folder, open_folder, share_folder
from aam.workflows.neural_learner import check_encoder, digest_of
from aam.workflows.restore import seen_by
from aam.workflows.score_tables import score_overview
from aam.workflows.summary import Summary, keep, say
from aam.workflows.tracking import track_results
from aam.workflows.train_command import train_command

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> None:
    """Compare learners on the files that the config names and write the output folder.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    output = config.output
    one_of_many = output.only_fold is not None
    if output.collect or (one_of_many and RunFolder(output.output_dir).config.exists()):
        output = output.model_copy(update={"resume": True})
    check_tracker(config.tracking)
    check_folder(config, output, shared=one_of_many)
    study, labels = load_labelled(config)
    plan = plan_evaluation(study, labels, config)
    run_folder = RunFolder(output.output_dir)
    models = FoldModels.of(run_folder) if output.keep_models else None
    store = FoldStore(run_folder.folds, plan.fingerprint, models)
    summary = Summary.of(plan.main.study, {}, config.target.target(), config.folds.groups)
    if output.only_fold is not None:
        names = [plan.fold_named(output.only_fold)]
        say(summary)
        with share_folder(config, output):
            keep(summary, run_folder, lambda: alone(run_folder))
            plan.results(plan.variants, store.recorded(checkpoint_document(run_folder)), names)
        logger.info("fold %s is done; when all are, put them together with --collect", names[0])
        return
    if output.collect:
        plan.check_complete(store)
    say(summary)
    with open_folder(config, output) as folder:
        keep(summary, folder)
        evaluation = _evaluate(plan, store.recorded(checkpoint_document(folder)))
        write_evaluation(evaluation, folder)
        track_results(config, folder, _results(evaluation, folder))


def _results(evaluation: Evaluation, folder: RunFolder) -> Results:
    """What a tracker is told: scores as LEARNER/METRIC."""
    scores = evaluation.main.out.scores
    named = {f"{learner}/{metric}": value for learner, own in scores.items() for metric, value in own.items()}
    return Results(named, {"predictions": folder.predictions_plot("png"), "scores": folder.scores_plot("png")})


def evaluate_study(
    study: Study, labels: Labels, config: EvaluateConfig, learners: Mapping[str, Learner] | None = None
) -> Evaluation:
    """Compare learners on a study that is loaded already; nothing is written.

    Args:
        study: the samples, all of which have a value of the target.
        labels: these values, and the groups.
        config: the options; those of the output folder are not used.
        learners: by name, in place of those that the config names.

    Raises:
        InputError: the samples cannot be divided so, or a learner cannot learn from them.
    """
    return _evaluate(plan_evaluation(study, labels, config, learners), None)


def load_labelled(config: EvaluateConfig) -> tuple[Study, Labels]:
    """Read the study and keep the samples that have a value of the target.

    Raises:
        InputError: a file is missing or wrong, or a column cannot be used.
    """
    study = load_study(config.inputs, SamplingConfig(), UnifracConfig(), needs=("metadata",))
    assert study.metadata is not None
    target = config.target.target()
    values = target_values(study.metadata, target)
    known = np.flatnonzero(values.notna().any(axis=1).to_numpy())
    study = select_samples(study, known, f"no value of {config.target.column}")
    metadata, column = study.metadata, config.folds.group_column
    assert metadata is not None
    groups = group_values(metadata, column, "--group-column") if column is not None else None
    return study, Labels(values.loc[list(study.table.sample_ids)], target, groups)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be computed."""

    config: EvaluateConfig
    learners: Mapping[str, Learner]
    main: Variant
    variants: tuple[Variant, ...]
    """`main`, and the random split of --gap."""
    fingerprint: str
    leakage: tuple[str, ...]
    """What makes learners look better than they are for new groups."""

    def fold_named(self, text: str) -> str:
        """A fold by its name or its number from 1.

        Raises:
            InputError: there is none.
        """
        names = [fold.name for fold in self.main.folds]
        name = text if "." in text else dict(enumerate(names, 1)).get(int(text), "")
        if name not in names:
            raise InputError(f"--only-fold {text}: folds are {names[0]} to {names[-1]}, or 1 to {len(names)}")
        return name

    def check_complete(self, store: FoldStore) -> None:
        """Refuse to put folds together that are not all there."""
        names = [(variant.name, fold.name) for variant in self.variants for fold in variant.folds]
        missing = [name for variant, name in names if not store.has(variant, name, self.learners)]
        if missing:
            raise InputError(
                f"--collect: {len(missing)} of {len(names)} folds are not done: {first_ids(missing)}; compute them "
                "with --only-fold, or all that is missing with --resume"
            )

    def results(
        self, variants: Sequence[Variant], store: FoldStore | None, only: Sequence[str] | None = None
    ) -> dict[str, list[FoldResult]]:
        """Fit what has not been fitted yet; by variant."""
        found: dict[str, list[FoldResult]] = {variant.name: [] for variant in variants}
        open_work = []
        for variant in variants:
            for fold in variant.folds:
                if only is not None and fold.name not in only:
                    continue
                kept = store.read(variant.name, fold.name, self.learners) if store is not None else None
                if kept is not None:
                    found[variant.name].append(kept)
                else:
                    open_work.append((variant, fold))
        done = sum(map(len, found.values()))
        for result in self._fitted(open_work, store, done):
            found[result.variant].append(result)
        return found

    def _fitted(self, work: Sequence[tuple[Variant, Fold]], store: FoldStore | None, done: int) -> Iterator[FoldResult]:
        each = len(self.learners)
        total = (len(work) + done) * each
        with progress_bar(total=total, initial=done * each, unit="fit", desc="evaluate") as bar:
            if min(self.config.output.jobs, len(work)) <= 1:
                for variant, fold in work:
                    yield _work(variant, fold, self.learners, store, bar)
                return
            needs_tree = any(learner.needs_tree for learner in self.learners.values())
            sent = {name: sendable(variant, needs_tree) for name, variant in {v.name: v for v, _ in work}.items()}
            with parallel_config("loky", inner_max_num_threads=1):
                side_by_side = Parallel(self.config.output.jobs, return_as="generator_unordered")
                for result in side_by_side(
                    delayed(_work)(sent[variant.name], fold, self.learners, store) for variant, fold in work
                ):
                    bar.update(each)
                    yield result


def _work(
    variant: Variant,
    fold: Fold,
    learners: Mapping[str, Learner],
    store: FoldStore | None,
    bar: "tqdm[NoReturn] | None" = None,
) -> FoldResult:
    """Compute one fold, and keep it."""

    def done(name: str, fitted: Fitted) -> None:
        if store is not None and store.models is not None:
            store.models.keep(variant, fold, name, fitted)
        if bar is not None:
            bar.update()

    result = fit_fold(variant, fold, learners, done)
    if store is not None:
        store.write(result)
    return result


def plan_evaluation(
    study: Study, labels: Labels, config: EvaluateConfig, learners: Mapping[str, Learner] | None = None
) -> Plan:
    """Divide the samples, and check whatever can be checked before the work begins.

    Raises:
        InputError: the samples cannot be divided so, or nothing can be learned from the training samples of a fold.
    """
    learners = compared_learners(config, study) if learners is None else learners
    variants = planned_variants(study, labels, config)
    main = variants[0]
    check_plan(variants, config)
    for learner in learners.values():
        check_inputs(learner, main.study, config.target.column)
    found = [finding.text for finding in leakage(main, config)]
    encoder = check_encoder(config.finetune, config)
    if encoder is not None:
        held_out = np.unique(np.concatenate([fold.held_out for fold in main.folds]))
        warning = seen_by(encoder, [study.table.sample_ids[row] for row in held_out])
        found += [] if warning is None else [warning]
    return Plan(config, learners, main, variants, print_of(variants, config, learners), tuple(found))


def planned_variants(study: Study, labels: Labels, config: EvaluateConfig) -> tuple[Variant, ...]:
    """The evaluation as the options ask for it and, with ``--gap``, the random split.

    Raises:
        InputError: the samples cannot be divided so.
    """
    main = plan_main(study, labels, config)
    return (main, plan_random(main, config)) if config.folds.gap else (main,)


def print_of(variants: Sequence[Variant], config: EvaluateConfig, learners: Mapping[str, Learner]) -> str:
    """The fingerprint of an evaluation; see `fingerprint`.

    Raises:
        InputError: the pretrained encoder cannot be read.
    """
    encoder = check_encoder(config.finetune, config)
    starts = "" if encoder is None else digest_of(encoder)
    read = dict.fromkeys(column for learner in learners.values() for column in learner.metadata_columns)
    return fingerprint(variants, config, starts, read)


def _evaluate(plan: Plan, store: FoldStore | None) -> Evaluation:
    """Fit, score, and look again at rarefied counts where depth misleads."""
    results = plan.results(plan.variants, store)
    outcomes = [Outcome.of(variant, results[variant.name]) for variant in plan.variants]
    if plan.config.counts.rarefy_depth is None and outcomes[0].misleads("depth"):
        outcomes += _rarefied_too(plan, store)
    column = plan.config.target.column

    def advise(name: str, outcome: Outcome) -> Advice:
        if name not in get_args(LearnerName):
            return Advice(None, _not_ours(name, outcome, advise) if name in OUTSIDE else None)
        changes = options_to_train(plan.config, plan.learners[name], outcome.chosen)
        if isinstance(changes, str):
            return Advice(None, changes)
        changes |= {"rarefy_depth": outcome.variant.depth, "group_column": plan.config.folds.groups}
        return Advice(train_command(plan.config, name, f"{column}-{name}", **changes))

    evaluation = Evaluation.of(plan.config, outcomes, advise, plan.leakage)
    for outcome in evaluation.outcomes.values():
        logger.info("%s", score_overview(outcome.out, outcome.variant))
    for line in evaluation.lines:
        logger.info("%s", line)
    return evaluation


def _not_ours(name: str, outcome: Outcome, advise: Callable[[str, Outcome], Advice]) -> str:
    """That aam does not train a learner of another package, and what trains the best of its own."""
    own = next(one for one in outcome.out.ranking if one in get_args(LearnerName) and one not in NO_MODEL)
    command = advise(own, outcome).command
    told = "" if command is None else f"; of those that it trains, {own} is best: {command}"
    return f"{name} was compared and is no learner of aam{told}"


def _rarefied_too(plan: Plan, store: FoldStore | None) -> list[Outcome]:
    """The same with as many reads of every sample; none, saying so, where that leaves too little to learn from."""
    variant = rarefied(plan.main, plan.config)
    logger.info("sequencing depth predicts the target: the same with %d reads of every sample", variant.depth)
    try:
        check_folds(variant)
    except InputError as error:
        logger.warning("what rarefied counts predict cannot be told: %s", error)
        return []
    return [Outcome.of(variant, plan.results([variant], store)[variant.name])]
