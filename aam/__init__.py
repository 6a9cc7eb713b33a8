"""Attention All Microbes: learn from ASV tables, a phylogeny and sample metadata."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aam.errors import InputError

if TYPE_CHECKING:
    from aam.estimators import SampleClassifier, SampleEncoder, SampleRegressor

__all__ = ["InputError", "SampleClassifier", "SampleEncoder", "SampleRegressor", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the estimators when they are first used: `import aam` does not wait for PyTorch."""
    if name in __all__:
        return getattr(import_module("aam.estimators"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
