"""`aam explain`: what predictions were made from; one module for each kind of explanation."""

from collections.abc import Callable
from typing import Final

from aam.config import ExplainConfig
from aam.config.explain import What
from aam.workflows.explain_attention import explain_attention
from aam.workflows.explain_attribution import explain_attribution
from aam.workflows.explain_categories import explain_categories
from aam.workflows.explain_deletion import explain_deletion
from aam.workflows.explain_importance import explain_importance
from aam.workflows.explain_log_ratio import explain_log_ratio
from aam.workflows.explain_robustness import explain_robustness

EXPLANATIONS: Final[dict[What, Callable[[ExplainConfig], None]]] = {
    "category-attention": explain_categories,
    "importance": explain_importance,
    "log-ratio": explain_log_ratio,
    "attribution": explain_attribution,
    "attention": explain_attention,
    "deletion": explain_deletion,
    "robustness": explain_robustness,
}


def explain(config: ExplainConfig) -> None:
    """Write the explanation that the config asks for.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    EXPLANATIONS[config.explanation.what](config)
