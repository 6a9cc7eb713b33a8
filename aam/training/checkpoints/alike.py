"""A check that a stranger's JSON has the form of what aam writes: names and kinds, whatever the values."""

from collections.abc import Mapping
from typing import Any, Final

from aam.errors import InputError, quoted

_OF_LIBRARIES: Final = frozenset({"main", "warmup"})
"""What another version of PyTorch may write with more or fewer names."""


def check_alike(saved: Any, own: Any, place: str) -> None:
    """Compare what a checkpoint says with what this run would say in its place.

    Args:
        saved: from JSON.
        own: of the same kind; None stands for a number or None.
        place: what to call it in messages.

    Raises:
        InputError: names are missing or foreign, or a value is of another kind.
    """
    if isinstance(own, Mapping) and isinstance(saved, dict):
        named = place.rsplit(".", 1)[-1]
        differing = sorted(own.keys() ^ saved.keys(), key=str)
        if differing and named not in _OF_LIBRARIES:
            raise _unlike(place, f"names differ: {quoted(differing[0])}")
        for name in saved.keys() & own.keys():
            check_alike(saved[name], own[name], f"{place}.{name}")
    elif isinstance(own, list | tuple) and isinstance(saved, list):
        for number, value in enumerate(saved):
            check_alike(value, own[min(number, len(own) - 1)] if own else value, f"{place}.{number}")
    elif _kind(saved) != _kind(own):
        raise _unlike(place, f"{quoted(saved)} is of another kind")


def _kind(value: Any) -> type:
    """Numbers are of one kind, and so is that there is none yet."""
    if isinstance(value, bool | str | Mapping):
        return dict if isinstance(value, Mapping) else type(value)
    return list if isinstance(value, list | tuple) else float


def _unlike(place: str, reason: str) -> InputError:
    return InputError(f"{place} in the checkpoint is not what aam writes ({reason}); use another checkpoint")
