"""The learners of `aam evaluate`, and the options among which each fold chooses."""

import tomllib
from pathlib import Path
from typing import Any

from aam.config import SECTIONS_OF, EvaluateConfig, LearnersConfig
from aam.data.study import Study
from aam.errors import InputError
from aam.evaluation.batch import BatchLearner
from aam.evaluation.choice import Choice
from aam.learners.base import Learner
from aam.learners.registry import Maker, make_learner
from aam.workflows.neural_learner import network_maker


def compared_learners(config: EvaluateConfig, study: Study) -> dict[str, Learner]:
    """Make the learners of a comparison; those that combine others come last.

    Raises:
        InputError: there is no such learner, or one needs a tree and there is none; or a file of options is wrong.
    """
    files = option_files(config)
    learners: dict[str, Learner] = {}
    for name in config.names:
        if name == "batch":
            learners[name] = BatchLearner(config.comparison.batch_column)
        else:
            learners[name] = _with_choice(name, files, study.tree is not None, network_maker(config))
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
    try:
        values = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--configs {name}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--configs {name} is not TOML: {error}; write lines such as trees = 1000") from None
    values = {key.replace("-", "_"): value for key, value in values.items()}
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
        read = repr([getattr(options, section) for section in _own_sections(name)])
        distinct.setdefault(read, (file, options))
    made = [(file, make_learner(name, options, has_tree, more)) for file, options in distinct.values()]
    if len(made) == 1:
        return made[0][1]
    names, learners = zip(*made, strict=True)
    return Choice(learners, names)


def _own_sections(name: str) -> tuple[str, ...]:
    """Sections that a learner reads by itself; members of an ensemble have made their own choice."""
    if name == "ensemble":
        return ("ensemble",)
    return next((sections for known, sections in SECTIONS_OF.items() if known == name), ())
