"""`aam explain --what importance`."""

from aam.config import ExplainConfig


def explain_importance(config: ExplainConfig) -> None:
    """To come."""
    raise NotImplementedError
