"""One process that trains alone, until there are more."""

import pytest
import torch

from aam.errors import InputError
from aam.training.distributed import is_main_process, setup_distributed


def test_one_process_is_the_main_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = setup_distributed("cpu")
    assert world.device == torch.device("cpu")
    assert (world.rank, world.size, is_main_process(world)) == (0, 1, True)


def test_several_processes_are_refused_instead_of_repeating_the_work(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were started"):
        setup_distributed("cpu")
