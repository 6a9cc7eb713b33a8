"""A process that reads parts of an HDF5 file from its standard input, for `hdf5_guard.py`; it may never end.

It imports nothing of aam, so that it starts at once.
"""

import io
import sys

import h5py


def walk(content: bytes, parts: list[str]) -> None:
    """Open the file and read the datasets of these names that it has; what h5py says of them the reader will meet."""
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            for name in parts:
                found = file.get(name)
                if isinstance(found, h5py.Dataset):
                    _read(found)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError, OverflowError):
        return


def _read(dataset: h5py.Dataset) -> None:
    if h5py.check_string_dtype(dataset.dtype) is not None:
        dataset[()]
    elif dataset.chunks is not None:
        dataset.id.chunk_iter(lambda _: None)  # where its chunks are; what is in them comes to an end


if __name__ == "__main__":
    given = sys.stdin.buffer.read()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    walk(given, sys.argv[1:])
