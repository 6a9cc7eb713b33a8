"""`aam explain --what log-ratio`."""

from aam.config import ExplainConfig


def explain_log_ratio(config: ExplainConfig) -> None:
    """To come."""
    raise NotImplementedError
