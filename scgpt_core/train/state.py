"""What a run resumes from: checkpoints that are whole or not there at all.

A checkpoint is a folder `step_00000200` with the shards of torch.distributed.checkpoint, which any
number of processes, with DDP or FSDP2, can read again, and `progress.json`: step, loader position,
and the SHA-256 of every file. It is written in the background under a hidden name and renamed when
it is on disk. The folder must be one that all processes see.
"""

import copy
import logging
import shutil
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import distributed, nn, optim
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from scgpt_core.runs import read_json, sha256, write_json
from scgpt_core.train.parallel import World

_PROGRESS = "progress.json"

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them.

    Parameters
    ----------
    folder
        Made where it is missing.
    keep
        Checkpoints to keep.
    world
        Processes that write together.
    """

    def __init__(self, folder: Path, *, keep: int, world: World) -> None:
        self.folder = folder
        self._keep = keep
        self._world = world
        # Collectives of the background thread must not meet those of the training step.
        self._group = distributed.new_group(backend="gloo") if world.size > 1 else None
        if world.size == 1:  # one process is what is meant
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self._drop_partial()
        world.agree(None)

    @property
    def newest(self) -> int:
        """Step of the newest checkpoint on disk, whole or not; 0: there is none."""
        return self._world.agree(max(self._steps(), default=0))

    def save(self, model: nn.Module, optimizer: optim.Optimizer, progress: dict[str, Any]) -> None:
        """Take a copy of the state and write it in the background.

        Where that fails (a full disk), the log says so and the checkpoints before stay as they are.

        Parameters
        ----------
        progress
            JSON-serialisable, with the key "step".
        """
        self.wait()
        state = _state_of(model, optimizer, cpu_offload=True)
        if self._world.device.type == "cpu":
            state = copy.deepcopy(state)  # what is offloaded from a GPU is a copy already
        self._pending = self._thread.submit(self._write, state, copy.deepcopy(progress))

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is whole, or has failed."""
        if self._pending is None:
            return
        try:
            self._pending.result()
        except (OSError, RuntimeError, CheckpointException) as error:
            self._drop_partial()
            steps = self._steps()
            logger.error(
                "a checkpoint could not be written (%s); the last whole one is %s",
                " ".join(str(error).split()),
                f"of step {steps[-1]}" if steps else "none",
            )
        self._pending = None

    def close(self) -> None:
        """Wait for what is being written and end the background thread."""
        self.wait()
        self._thread.shutdown()

    def restore(self, model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any] | None:
        """Load the newest checkpoint that is whole; returns its progress, None where there is none.

        Every damaged one that is passed over is named in the log.
        """
        for step in reversed(self._world.agree(self._steps())):
            path = self._path(step)
            fault = self._world.agree(_fault(path) if self._world.rank == 0 else None)
            if fault:
                logger.warning("checkpoint %s is damaged (%s): trying the one before", path, fault)
                continue
            state = _state_of(model, optimizer)
            load(state, checkpoint_id=path)
            set_model_state_dict(model, state["model"])
            set_optimizer_state_dict(model, optimizer, state["optimizer"])
            progress: dict[str, Any] = read_json(path / _PROGRESS)["progress"]
            return progress
        return None

    def _write(self, state: dict[str, Any], progress: dict[str, Any]) -> None:
        """In the background thread of every process: write, and in the first seal and prune."""
        start = time.perf_counter()
        final = self._path(progress["step"])
        partial = final.with_name(f".{final.name}")
        writer = FileSystemWriter(partial, overwrite=False)
        save(state, storage_writer=writer, process_group=self._group)
        if self._world.rank != 0:
            return
        files = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        write_json(partial / _PROGRESS, {"progress": progress, "files": files})
        if final.exists():  # damaged, or it would have been resumed from
            shutil.rmtree(final)
        partial.rename(final)
        # Later ones are damaged, or this run would have gone on from them.
        earlier = [step for step in self._steps() if step <= progress["step"]]
        for step in set(self._steps()) - set(earlier[-self._keep :]):
            shutil.rmtree(self._path(step))
        logger.info("checkpoint %s written in %.1f s", final, time.perf_counter() - start)

    def _drop_partial(self) -> None:
        for partial in self.folder.glob(".step_*"):
            shutil.rmtree(partial, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def _steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step_")) for path in self.folder.glob("step_*"))


def _state_of(
    model: nn.Module, optimizer: optim.Optimizer, *, cpu_offload: bool = False
) -> dict[str, Any]:
    """Weights and optimiser state by parameter name, sharded as they are."""
    options = StateDictOptions(cpu_offload=cpu_offload)
    return {
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
    }


def _fault(path: Path) -> str | None:
    """Tell what is wrong with a checkpoint; None where every file is as it was written."""
    try:
        files = read_json(path / _PROGRESS)["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"{_PROGRESS}: {error}"
    for name, digest in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256(path / name) != digest:
            return f"{name} is not what was written"
    return None
