"""Which samples a checkpoint was trained on, by id or as hashes, so that a reader may ask for ids that it knows."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from aam.config.publish import SampleIds
from aam.errors import InputError
from aam.training.checkpoints.files import tensor_bytes

DOCUMENT: Final = "training"
"""Name of the document in a checkpoint: a list of ids, or a mapping of what took their place."""
_DIGITS: Final = 16


def salt_of(weights: Mapping[str, Tensor]) -> str:
    """The salt of a model: a hash of its weights, so that equal models are published alike."""
    return hashlib.sha256(tensor_bytes(weights)).hexdigest()[:32]


def concealed(document: Any, how: SampleIds, salt: str) -> Any:
    """What a published checkpoint says of its training samples.

    Args:
        document: of the checkpoint; one that is concealed already stays.
        how: ``hashed`` keeps a salted hash of each id: who knows an id can ask whether it is among them, and who
            guesses one too. ``none`` keeps their number.
        salt: of this model alone, so that hashes of two models cannot be compared.
    """
    if how == "plain" or (isinstance(document, Mapping) and how == "hashed"):
        return document
    number = count(document)
    if how == "none":
        return {"samples": number}
    return {"samples": number, "salt": salt, "hashes": sorted(_hash(name, salt) for name in document)}


def count(document: Any) -> int:
    """Number of training samples.

    Raises:
        InputError: the document is not what aam writes.
    """
    number = document.get("samples") if isinstance(document, Mapping) else document
    if isinstance(number, list):
        return len(number)
    if isinstance(number, int):
        return number
    raise _foreign()


def among(document: Any, samples: Sequence[str]) -> list[str] | None:
    """Those of some samples that a model was trained on, sorted; None where it does not tell.

    Raises:
        InputError: the document is not what aam writes.
    """
    count(document)
    if not isinstance(document, Mapping):
        return sorted(set(document).intersection(samples))
    if "hashes" not in document:
        return None
    hashes, salt = document["hashes"], document.get("salt")
    if not isinstance(hashes, list) or not isinstance(salt, str):
        raise _foreign()
    return _known(set(map(str, hashes)), salt, samples)


def _known(hashes: Collection[str], salt: str, samples: Sequence[str]) -> list[str]:
    return sorted(name for name in set(samples) if _hash(name, salt) in hashes)


def _hash(name: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest()[:_DIGITS]


def _foreign() -> InputError:
    return InputError("the checkpoint says of its training samples what no aam writes; use another checkpoint")
