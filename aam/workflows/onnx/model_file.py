"""One file that holds a model and all that its checkpoint says of it.

The properties of the file (`metadata_props`, texts by name) are::

    aam            format of what follows, a number
    aam.kind       pretrain, train or learner, as of checkpoints
    aam.config     JSON: options of the training, or of a learner what it says of itself
    aam.documents  JSON: classes and scales of the columns, categories, ASVs, what training samples look like
    aam.arrays     base64 of safetensors: the tree of a learner, and what intervals and likeness are made of
"""

import base64
import json
from binascii import Error as Base64Error
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aam.data.files.whole_files import whole_file
from aam.errors import InputError, shown
from aam.learners.base import Arrays
from aam.training.checkpoints.store import Checkpoint, Kind

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

FORMAT: Final = 1
LARGEST: Final = 2**31 - 2**20
"""Bytes of a file; what ONNX is written in has no larger ones."""


class OnnxModel(NamedTuple):
    """A file that was read."""

    session: "InferenceSession"
    kind: Kind
    config: dict[str, Any]
    documents: dict[str, Any]
    arrays: Arrays

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that it was made of, without weights."""
        return Checkpoint(self.kind, self.config, self.documents, {})

    def run(self, outputs: list[str], inputs: Mapping[str, Any]) -> list[Any]:
        """Compute some outputs."""
        found: list[Any] = self.session.run(outputs, dict(inputs))
        return found


def require(*libraries: str) -> None:
    """Make sure that libraries are there.

    Raises:
        InputError: one is not.
    """
    absent = [name for name in libraries if find_spec(name) is None]
    if absent:
        raise InputError(f"files of ONNX need {' and '.join(absent)}: pip install 'aam[onnx]'")


def write_model(model: "ModelProto", checkpoint: Checkpoint, arrays: Arrays, path: Path) -> None:
    """Write a model with what belongs to it; a reader sees the whole file or none.

    Raises:
        InputError: the model is larger than such a file can be.
    """
    texts = {
        "aam": str(FORMAT),
        "aam.kind": checkpoint.kind,
        "aam.config": _json(checkpoint.config),
        "aam.documents": _json(checkpoint.documents),
        "aam.arrays": base64.b64encode(save({name: np.ascontiguousarray(part) for name, part in arrays.items()})),
    }
    del model.metadata_props[:]
    for key, text in texts.items():
        model.metadata_props.add(key=key, value=text)
    if model.ByteSize() > LARGEST:
        raise InputError(f"the model takes {model.ByteSize() / 1e9:.1f} GB, and a file of ONNX holds 2 GB at most")
    with whole_file(path) as draft:
        draft.write_bytes(model.SerializeToString())


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def read_model(path: Path) -> OnnxModel:
    """Read what `write_model` wrote.

    Raises:
        InputError: onnxruntime is missing, or the file is; it is damaged, or was not written by aam.
    """
    require("onnxruntime")
    if not path.is_file():
        raise InputError(f"--onnx {path}: no such file; give one of `aam export`")
    session = _session(path)
    texts = session.get_modelmeta().custom_metadata_map
    if "aam" not in texts:
        raise InputError(
            f"--onnx {path}: a model of another program, which says nothing of ASVs; give one of `aam export`"
        )
    if texts["aam"] != str(FORMAT):
        raise InputError(
            f"--onnx {path} was written by another aam, perhaps a newer one: update aam, or export it again"
        )
    try:
        kind: Kind = texts["aam.kind"]
        config, documents = json.loads(texts["aam.config"]), json.loads(texts["aam.documents"])
        arrays = load(base64.b64decode(texts["aam.arrays"], validate=True))
    except (KeyError, ValueError, SafetensorError, Base64Error) as error:
        raise InputError(f"--onnx {path} is damaged ({shown(error)}): export it again") from None
    if kind not in get_args(Kind) or not isinstance(config, dict) or not isinstance(documents, dict):
        raise InputError(f"--onnx {path} is damaged (its properties are not those of aam): export it again")
    return OnnxModel(session, kind, config, documents, arrays)


def _session(path: Path) -> "InferenceSession":
    import onnxruntime  # noqa: PLC0415  # an extra
    from onnxruntime.capi import onnxruntime_pybind11_state as states  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    wrong = (states.InvalidProtobuf, states.InvalidGraph, states.Fail, states.InvalidArgument, states.NotImplemented)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except wrong as error:
        raise InputError(
            f"--onnx {path}: onnxruntime {onnxruntime.__version__} cannot read it ({shown(error)}); give a file of "
            "`aam export`"
        ) from None
