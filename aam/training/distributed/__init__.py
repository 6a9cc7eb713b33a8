"""Processes that train together: the world of a process, sharded models, strategies, and what watches them.

Callers of the public names import them from here; the modules are `world`, `sharding`, `strategies`, `data_parallel`,
`agreement` and `watchdog`.
"""

from aam.training.distributed.sharding import wrap_model_fsdp
from aam.training.distributed.world import (
    ProcessGroup,
    World,
    gather_counts,
    gather_embeddings_for_unifrac,
    is_main_process,
    setup_distributed,
)

__all__ = [
    "ProcessGroup",
    "World",
    "gather_counts",
    "gather_embeddings_for_unifrac",
    "is_main_process",
    "setup_distributed",
    "wrap_model_fsdp",
]
