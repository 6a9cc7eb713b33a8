"""Attention All Microbes: learn from ASV tables, a phylogeny and sample metadata."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aam.errors import InputError

if TYPE_CHECKING:
    from aam.estimators import SampleClassifier, SampleEncoder, SampleRegressor, read

    __version__: str

__all__ = ["InputError", "SampleClassifier", "SampleEncoder", "SampleRegressor", "__version__", "read"]


def __getattr__(name: str) -> Any:
    """Import the estimators when they are first used: `import aam` does not wait for PyTorch."""
    if name == "__version__":  # as pyproject.toml says
        from importlib.metadata import version

        return version("aam")
    if name in __all__:
        return getattr(import_module("aam.estimators"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
