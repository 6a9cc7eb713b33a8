"""The learners of `aam evaluate`, and the options among which each fold chooses."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aam.config import SECTIONS_OF, EvaluateConfig, LearnersConfig
from aam.config.toml_files import read_toml
from aam.data.study import Study
from aam.errors import InputError
from aam.evaluation.batch import BatchLearner
from aam.evaluation.choice import Choice
from aam.evaluation.outside import OutsideLearner, check_installed
from aam.learners.base import Learner
from aam.learners.ensemble import EnsembleLearner
from aam.learners.registry import Maker, make_learner
from aam.workflows.makers import makers

Chosen = Mapping[str, Mapping[str, int]]
"""How often each file of options was chosen, by learner."""


def compared_learners(config: EvaluateConfig, study: Study) -> dict[str, Learner]:
    """Make the learners of a comparison; those that combine others come last.

    Raises:
        InputError: there is no such learner, or one needs a tree and there is none; or a file of options is wrong.
    """
    files, more = option_files(config), makers(config)
    learners: dict[str, Learner] = {}
    for name in config.names:
        if name == "batch":
            learners[name] = BatchLearner(config.comparison.batch_column)
        elif name in config.comparison.with_:
            check_installed(name)
            learners[name] = OutsideLearner(name, config.trees)
        else:
            learners[name] = _with_choice(name, files, study.tree is not None, more)
    return dict(sorted(learners.items(), key=lambda item: item[0] == "ensemble"))


def option_files(config: EvaluateConfig) -> dict[str, LearnersConfig]:
    """Options of learners by the name of their file; those of the command line alone where no file is given.

    Raises:
        InputError: a file cannot be read, or an option in it is unknown or out of range.
    """
    given = config.options_of_learners()
    if not config.comparison.configs:
        return {"": given}
    return {
        name: LearnersConfig.from_flat({**given.flat(), **read_options(name)}) for name in config.comparison.configs
    }


def read_options(name: str) -> dict[str, Any]:
    """Options of learners in a TOML file.

    Raises:
        InputError: it cannot be read, is not TOML, or holds another option.
    """
    read = read_toml(Path(name), f"--configs {name}", "trees = 1000")
    values = {key.replace("-", "_"): value for key, value in read.items()}
    unknown = sorted(values.keys() - LearnersConfig.options().keys())
    if unknown:
        raise InputError(
            f"--configs {name}: {unknown[0]} is no option of learners; known are {', '.join(LearnersConfig.options())}"
        )
    return values


def _with_choice(name: str, files: dict[str, LearnersConfig], has_tree: bool, more: dict[str, Maker]) -> Learner:
    """A learner, or several forms of it where files differ in what it reads."""
    distinct: dict[str, tuple[str, LearnersConfig]] = {}
    for file, options in files.items():
        distinct.setdefault(repr(_read(name, options)), (file, options))
    made = [(file, make_learner(name, options, has_tree, more)) for file, options in distinct.values()]
    if name == "ensemble":
        made = [(file, _with_members(one, files, has_tree, more)) for file, one in made]
    if len(made) == 1:
        return made[0][1]
    names, learners = zip(*made, strict=True)
    return Choice(learners, names)


def options_to_train(config: EvaluateConfig, learner: Learner, chosen: Chosen) -> dict[str, Any] | str:
    """Options of the files that folds chose most often, by the members of an ensemble too; or why there are none.

    Args:
        config: the options of the evaluation.
        learner: what is to be trained.
        chosen: how often each file was chosen, by learner.
    """
    if not config.comparison.configs:
        return {}
    files = option_files(config)
    values: dict[str, Any] = {}
    of: dict[str, str] = {}
    try:
        for name, file in _favourites(learner, chosen, next(iter(files))):
            for option, value in _read(name, files[file]).items():
                if values.setdefault(option, value) != value:
                    raise _UndecidedError(
                        f"{of[option]} was fitted with {option} {values[option]} and {name} with {value}, and `aam "
                        "train` takes one for both"
                    )
                of.setdefault(option, name)
    except _UndecidedError as error:
        return str(error)
    return values


class _UndecidedError(Exception):
    """Folds chose differently."""


def _favourites(learner: Learner, chosen: Chosen, only: str) -> Iterator[tuple[str, str]]:
    """Names of a learner and of its members, each with the file that most folds chose.

    Raises:
        _UndecidedError: two files were chosen equally often.
    """
    file, taken = only, learner
    if isinstance(learner, Choice):
        counts = sorted(chosen.get(learner.name, {}).items(), key=lambda item: -item[1])
        if len(counts) > 1 and counts[0][1] == counts[1][1]:
            raise _UndecidedError(f"folds chose {counts[0][0]} and {counts[1][0]} equally often for {learner.name}")
        file = counts[0][0]
        taken = learner.candidates[learner.options.index(file)]
    yield learner.name, file
    if isinstance(taken, EnsembleLearner):
        for member in taken.members:
            yield from _favourites(member, chosen, only)


def _with_members(
    ensemble: Learner, files: dict[str, LearnersConfig], has_tree: bool, more: dict[str, Maker]
) -> EnsembleLearner:
    """The ensemble of members that choose for themselves."""
    assert isinstance(ensemble, EnsembleLearner)
    return replace(ensemble, members=tuple(_with_choice(one.name, files, has_tree, more) for one in ensemble.members))


def _read(name: str, options: LearnersConfig) -> dict[str, Any]:
    """Options that a learner reads by itself, with their values."""
    values = {
        option: getattr(getattr(options, section), option)
        for section in _own_sections(name)
        for option in type(getattr(options, section)).model_fields
    }
    if name == "linear":  # of the section of trees it reads the prevalence alone
        del values["trees"]
    return values


def _own_sections(name: str) -> tuple[str, ...]:
    """Sections that a learner reads by itself; members of an ensemble make their own choice."""
    if name == "ensemble":
        return ("ensemble",)
    return next((sections for known, sections in SECTIONS_OF.items() if known == name), ())
