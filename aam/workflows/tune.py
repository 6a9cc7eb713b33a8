"""`aam tune`: search the options with which a learner predicts best samples that it has not seen."""

import logging
from importlib.util import find_spec

from aam.config import TuneConfig
from aam.errors import InputError

logger = logging.getLogger(__name__)


def tune(config: TuneConfig) -> str | None:
    """Tune on the files that the config names and write the output folder.

    Returns:
        The search space, where that is all that is asked for.

    Raises:
        InputError: a file or an option is wrong, or Optuna is not installed; nothing has been written then.
    """
    if find_spec("optuna") is None:
        raise InputError("tuning needs Optuna, which is not installed here: pip install 'aam[tune]'")
    # here, as Optuna need not be installed
    from aam.workflows.tuning.session import tune_together  # noqa: PLC0415
    from aam.workflows.tuning.space import space_of, space_toml  # noqa: PLC0415

    space = space_of(config)
    if config.tuning.show_space:
        return f"# options of {config.tuning.learner} that `aam tune` tries\n{space_toml(space)}"
    tune_together(config, space)
    return None
