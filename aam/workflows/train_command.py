"""The command line that trains a learner on the files, columns and groups of another command."""

import shlex
from typing import Any

from aam.config import RunConfig, TrainConfig, flag
from aam.config.training import options_read

PLACES = frozenset({"output_dir", "overwrite", "device", "num_workers", "baselines", "track", "track_project"})
"""Options that a user chooses anew for another run."""


def train_command(config: RunConfig, learner: str, output_dir: str, **changes: Any) -> str:
    """Write the command.

    Args:
        config: the options of the other command; those that `aam train` has and the learner reads are passed on, but
            for `PLACES`.
        learner: what to train.
        output_dir: where to.
        changes: options by name that differ from those of the other command.
    """
    if learner != "neural":
        changes.setdefault("val_fraction", 0.0)  # there is no checkpoint to choose
    words = ["aam", "train", "--learner", learner]
    members = {**config.flat(), **changes}.get("ensemble_members", ())
    for section, kind in TrainConfig.sections().items():
        for option, field in kind.model_fields.items():
            value = {**config.flat(), **changes}.get(option, field.default)
            read = option in options_read(learner, section, kind, members) and option not in PLACES | {"learner"}
            if read and value != field.default:
                words += _words(option, value)
    return shlex.join([*words, "--output-dir", output_dir])


def _words(option: str, value: object) -> list[str]:
    if value is True:
        return [flag(option)]
    if value is None or value is False:
        return []
    several = value if isinstance(value, tuple) else (value,)
    if option in ("table", "where"):  # given once for each, as commas may be part of them
        return [word for part in several for word in (flag(option), str(part))]
    return [flag(option), ",".join(map(str, several))]
