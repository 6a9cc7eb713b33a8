"""One process of a tuning, which may have others beside it."""

import logging
import secrets
from functools import partial

from aam.config import TuneConfig
from aam.config.search_space import Space
from aam.data.files.whole_files import write_text
from aam.data.study import digest
from aam.evaluation.fold_store import FoldStore
from aam.training.run_folder import RunFolder
from aam.workflows.evaluate import Plan, load_labelled, plan_evaluation
from aam.workflows.shared_folder import Seat, check_shared_folder, work_together
from aam.workflows.tuning.nested import Nested, nested_searches
from aam.workflows.tuning.outcome import TuningOutcome, write_outcome
from aam.workflows.tuning.scoring import Bench, learner_of, scores_by_fold
from aam.workflows.tuning.search import Search, Shared
from aam.workflows.tuning.space import space_toml
from aam.workflows.tuning.storage import open_storage

logger = logging.getLogger(__name__)

MAIN = "main"


def tune_together(config: TuneConfig, space: Space) -> None:
    """Take trials until there are none to take; the process that finds all of them done writes the results.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    check_shared_folder(config, config.output)
    plan = _plan(config)
    folder = RunFolder(config.folder)
    bench = Bench(config, plan.main, FoldStore(folder.folds, plan.fingerprint))
    for fold in plan.main.folds if config.tuning.trials_within else ():
        bench.within(fold, config.tuning.nested_folds)
    external = open_storage(config, folder) if config.tuning.study is not None else None
    with work_together(config, config.output) as seat:
        storage = open_storage(config, seat.folder) if external is None else external
        fingerprint = digest([plan.fingerprint, space_toml(space)])
        shared = Shared(config, space, storage, seat, _name(config, seat), fingerprint)
        search = shared.search(MAIN, "trial", config.tuning.trials, config.tuning.seed)
        nested = nested_searches(bench, shared) if config.tuning.trials_within else None
        own = 1
        while own:  # until nothing is left to take, not even of a process that was killed meanwhile
            own = search.work(partial(scores_by_fold, bench, plan.main.folds, MAIN))
            own += 0 if nested is None else nested.work()
        _finish(config, search, nested, seat)


def _plan(config: TuneConfig) -> Plan:
    evaluation = config.evaluation({})
    study, labels = load_labelled(evaluation)
    name = config.tuning.learner
    plan = plan_evaluation(study, labels, evaluation, {name: learner_of(evaluation, name, study.tree is not None)})
    for finding in plan.leakage:
        logger.warning("%s", finding)
    return plan


def _name(config: TuneConfig, seat: Seat) -> str:
    """What this tuning is called in a study file that others may use as well."""
    with seat.moment():
        path = seat.folder.study_id
        if not path.exists():
            write_text(path, secrets.token_hex(4) + "\n")
        number = path.read_text(encoding="utf-8").strip()
    return f"{config.target.column}-{config.tuning.learner}-{number}"


def _finish(config: TuneConfig, search: Search, nested: Nested | None, seat: Seat) -> None:
    left = search.unfinished + (0 if nested is None else nested.unfinished)
    if left:
        logger.info("%d trials are in the hands of other processes; the last of them writes the results", left)
        return
    outcome = TuningOutcome(config, search, None if nested is None else nested.result())
    write_outcome(outcome, seat.folder)
