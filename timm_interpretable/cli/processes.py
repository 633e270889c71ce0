"""Commands whose work several processes share: `accelerate launch`, on CPUs `torchrun`."""

import os
from typing import TYPE_CHECKING

from timm_interpretable.cli.common import pick_device

if TYPE_CHECKING:
    import torch

    from timm_interpretable.benchmark import Shard


def share_of(device: str | None) -> "tuple[Shard, torch.device]":
    """Which share of the run is this process's, and where it computes."""
    from timm_interpretable.benchmark import Shard

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Shard(), pick_device(device)
    from datetime import timedelta

    from accelerate import PartialState

    # the last process may have hours more to do than the first
    state = PartialState(cpu=pick_device(device).type == "cpu", timeout=timedelta(days=7))
    return Shard(state.process_index, state.num_processes), state.device


def wait_for_all(shard: "Shard") -> bool:
    """Until every process is done; whether this is the one that writes."""
    if shard.processes > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
    return shard.rank == 0
