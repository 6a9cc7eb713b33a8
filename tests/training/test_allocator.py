import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from aam.training.memory.allocator import keep_freed_memory
torch.set_num_threads(1)
{settings}
def use():
    for _ in range(5):
        torch.ones(10_000_000).add(1).sum()
use()
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(settings: str) -> int:
    command = [sys.executable, "-c", FAULTS.format(settings=settings)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_freed_memory_is_used_again_without_page_faults():
    # blocks of 40 MB, ten times: 97,000 pages where each is taken anew, as above 32 MB by default
    kept = faults("assert keep_freed_memory()")
    assert kept < 1000
    assert faults("import os") > 10 * max(kept, 100)
