"""Models on the Hugging Face Hub, by its own client: the extra ``hub``, imported when a model is fetched or sent.

A model of the hub is a folder of files under a name, ``owner/name``. The client keeps what it fetches in its cache, so
that later reads need no network, and takes the hub's address, the user's token and the place of its cache from the
environment (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``), as everywhere else.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from aam.config.publish import HUB_NAME
from aam.errors import InputError, shown

_ID: Final = re.compile(rf"({HUB_NAME.pattern})(?:@([\w.-]+))?", re.ASCII)
_WANTED: Final = ("*.json", "*.safetensors", "README.md")
"""Files that are fetched; none of them holds code."""


class HubModel(NamedTuple):
    """A model on the hub."""

    name: str
    """``owner/name``."""
    revision: str | None
    """A commit, a tag or a branch; None for the newest."""

    @classmethod
    def named(cls, path: Path) -> "HubModel | None":
        """The model that a path names, as ``owner/name`` or ``owner/name@revision``; None where it names none.

        A path whose first folder is there is one of this computer, even if it leads to nothing.
        """
        found = _ID.fullmatch(str(path))
        return None if found is None or Path(path.parts[0]).exists() else cls(found[1], found[2])

    def fetch(self) -> Path:
        """The folder of its files in the cache of the client, which fetches what is missing.

        Raises:
            InputError: there is no such model, it cannot be reached, or the library is missing.
        """
        if self not in _FETCHED:
            check_library(f"{self.name}: no such folder here; to read it from the Hugging Face Hub")
            from huggingface_hub import snapshot_download  # noqa: PLC0415  # an extra

            with _one_error(f"{self.name} is neither a folder here nor a model that the Hugging Face Hub gives"):
                folder = snapshot_download(self.name, revision=self.revision, allow_patterns=list(_WANTED))
            _FETCHED[self] = Path(folder)
        return _FETCHED[self]


_FETCHED: Final[dict[HubModel, Path]] = {}
"""What this process has fetched, so that a model does not change while it is read."""


def fetched(path: Path) -> Path | None:
    """Where the model is that a path names, if this process has read it."""
    model = HubModel.named(path)
    return None if model is None else _FETCHED.get(model)


def check_library(wanted: str) -> None:
    """Refuse what needs the client where it is not installed.

    Raises:
        InputError: so it is.
    """
    if find_spec("huggingface_hub") is None:
        raise InputError(f"{wanted} needs a library: pip install 'aam[hub]'")


def send(folder: Path, name: str, public: bool) -> str:
    """Make a model on the hub, unless it is there, and add the files of a folder to it as one commit.

    Args:
        folder: all of its files are sent.
        name: ``owner/name``.
        public: whether everyone may see a model that is made; one that is there stays as it is.

    Returns:
        The address of the model.

    Raises:
        InputError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415  # an extra

    api = HfApi(library_name="aam")
    remedy = f"log in with `hf auth login`; {folder} is written, and `hf upload {name} {folder}` sends it"
    with _one_error(f"--push: {name} was not sent ({remedy})"):
        address = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Publish with aam")
    return str(address)


@contextmanager
def _one_error(what: str) -> Iterator[None]:
    """Turn what the client raises about the hub, the network and names into one error."""
    from httpx2 import HTTPError  # noqa: PLC0415  # by which the client asks
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415  # an extra

    try:
        yield
    except (OSError, HTTPError, HFValidationError) as error:
        raise InputError(f"{what}: {shown(_first_line(error))}") from None


def _first_line(error: Exception) -> str:
    """What an error says, without the advice that follows; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
