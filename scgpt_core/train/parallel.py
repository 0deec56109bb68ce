"""Several devices, from outside: the model and the loop are written for one.

Under torchrun, `join_world` joins the processes; `parallelize` then recomputes, compiles and shards
the layers of a model as the settings say, and gives back what to call in its place.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from scgpt_core.config import TrainerSettings
from scgpt_core.device import resolve_device
from scgpt_core.model import ScGPT

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes that train one model together; one alone where nothing started more.

    Parameters
    ----------
    rank, size
        This process among all; 0 is the one that writes.
    local_size
        Processes on this machine.
    device
        This process's.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up over the processes, in float64 on the CPU: no device is waited for."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.tolist()

    def agree(self, value: T) -> T:
        """Give every process what process 0 has as `value`, which must pickle."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def together(self, do: Callable[[], T]) -> T:
        """Do something in every process; what is a ValueError in some of them is one in all.

        Raises
        ------
        ValueError
            With what each that failed said.
        """
        done, fault = None, ""
        try:
            done = do()
        except ValueError as error:
            fault = str(error)
        faults = [fault]
        if self.size > 1:
            faults = [""] * self.size
            distributed.all_gather_object(faults, fault)
        said = "\n".join(dict.fromkeys(filter(None, faults)))
        if said:
            raise ValueError(said)
        return cast("T", done)


@contextlib.contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started, until the block ends; alone without torchrun.

    Raises
    ------
    ValueError
        As `resolve_device`.
    """
    here = resolve_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(rank=0, size=1, local_size=1, device=here)
        return
    if here.type == "cuda":
        torch.cuda.set_device(here)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo")
    try:
        yield World(
            rank=distributed.get_rank(),
            size=size,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", size)),
            device=here,
        )
    finally:
        distributed.destroy_process_group()


def parallelize(model: ScGPT, settings: TrainerSettings, world: World) -> nn.Module:
    """Recompute, compile and distribute the layers of `model`, in place; returns what to call.

    Parameters
    ----------
    model
        On the world's device, with equal weights in every process.
    settings
        `activation_checkpointing`, `compile` and `parallel` are read.
    world
        From `join_world`.
    """
    layers = model.layers
    if settings.activation_checkpointing:
        recompute_layers(model)
    if settings.compile:
        for layer in layers:
            layer.compile(fullgraph=True)
    if world.size == 1:
        return model
    if settings.parallel == "ddp":
        return DistributedDataParallel(model, broadcast_buffers=False)  # see `average_statistics`
    mesh = _mesh(world)
    for module in (*layers, model):
        fully_shard(module, mesh=mesh)
    return model


def recompute_layers(model: ScGPT) -> None:
    """Let each layer compute its activations again in the backward pass: none are kept."""
    for i, layer in enumerate(model.layers):
        model.layers[i] = checkpoint_wrapper(layer)


def _mesh(world: World) -> DeviceMesh:
    """All devices in one shard group, or, over several machines, one shard group a machine.

    Hybrid sharding keeps the all-gather of weights on the fast links within a machine; between
    machines only gradients travel.
    """
    machines = world.size // world.local_size
    if machines == 1:
        return init_device_mesh(world.device.type, (world.size,))
    return init_device_mesh(
        world.device.type, (machines, world.local_size), mesh_dim_names=("replicate", "shard")
    )


def gather(model: ScGPT, world: World) -> ScGPT | None:
    """Put a model that was parallelized together again, in the first process; None in the others.

    Every process must call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    if world.rank > 0:
        return None
    whole = ScGPT(model.config, model.attention)
    whole.load_state_dict(weights)
    return whole.to(world.device)


@torch.no_grad()
def average_statistics(model: nn.Module, world: World) -> None:
    """Give every process the mean over them of the running statistics of batch norm.

    Each has followed its own micro-batches; without it, what is judged, saved and gathered would
    depend on the process.
    """
    if world.size == 1:
        return
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    buffers = [norm.get_buffer(f"running_{x}") for norm in norms for x in ("mean", "var")]
    if not buffers:
        return
    mean = torch.cat(buffers) / world.size
    distributed.all_reduce(mean)
    for buffer, part in zip(buffers, torch.split(mean, [len(b) for b in buffers]), strict=True):
        buffer.copy_(part)


@contextlib.contextmanager
def gradient_sync(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Within the block, backward passes exchange gradients among processes only if `wanted`."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)
    if isinstance(model, DistributedDataParallel) and not wanted:
        with model.no_sync():
            yield
    else:
        yield
