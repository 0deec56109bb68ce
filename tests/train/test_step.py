"""A step never waits for the device, and makes nothing that grows with tokens by tokens."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scgpt_core.batch import Batch
from scgpt_core.train import trainer as trainer_module
from scgpt_core.train.objectives import Pretraining
from scgpt_core.train.parallel import World

META = torch.device("meta")


class AsyncCopies(TorchDispatchMode):
    """Lets copies to the host through that nobody waits for; counts them.

    Tensors on the meta device have no values. Whatever needs one on the host, and would wait for a
    GPU there (``.item()``, ``bool(tensor)``, ``.nonzero()``, ``.cpu()``, indexing by a mask), is an
    error.
    """

    n_copies = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options: Mapping[str, Any] = kwargs or {}
        to_host = options.get("device") == torch.device("cpu") and args
        if to_host and args[0].device == META and options.get("non_blocking"):
            self.n_copies += 1
            return torch.zeros(args[0].shape)
        return function(*args, **options)


@pytest.fixture
def on_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trainer_module.Trainer:
    """A trainer whose model and batches have no values, as a GPU's have none on the host."""
    # Float32 needs no autocast, which knows no meta device.
    monkeypatch.setattr(trainer_module, "autocast", lambda device, dtype: contextlib.nullcontext())
    world = World(rank=0, size=1, local_size=1, device=META)
    trainer = tiny.make_trainer(
        tmp_path, steps=1000, world=world, model=tiny.make_model(dropout=0.0).to(META)
    )
    for group in trainer._optimizer.param_groups:  # there is no fused kernel for no device
        group.update(fused=False, foreach=True)
    return trainer


def test_a_step_never_waits_for_the_device(on_no_device: trainer_module.Trainer) -> None:
    """Of both passes, with accumulation: loss, gradients, clipping, optimiser and the guard."""
    on_no_device.totals.step = 600  # the cell-prompted pass has joined
    steps = iter(on_no_device.loader)
    with AsyncCopies() as copies:
        for _ in range(3):
            on_no_device.step(next(steps))
    assert on_no_device.totals.step == 603
    assert copies.n_copies == 3  # the figures of the guard, once a step


def test_what_waits_for_the_device_is_found(on_no_device: trainer_module.Trainer) -> None:
    class Waiting(type(on_no_device.objective)):  # type: ignore[misc]
        def __call__(self, *args: Any) -> dict[str, Tensor]:
            terms = super().__call__(*args)
            return {name: term for name, term in terms.items() if term.item() > 0}

    on_no_device.objective = Waiting(cell_prompt_after=0.5, unknown_value=-1)
    with AsyncCopies(), pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        on_no_device.step(next(iter(on_no_device.loader)))


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation gave."""

    n_elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.n_elements = max(self.n_elements, tensor.numel())
        return result


def make_long_batch(n_tokens: int) -> Batch:
    """Two cells, of whose genes one half is unknown."""
    shape = (2, n_tokens)
    hidden_BL = (torch.arange(n_tokens) % 2 == 1).expand(shape)
    return Batch(
        ids_BL=torch.zeros(shape, dtype=torch.int64),
        values_BL=torch.ones(shape),
        padding_BL=torch.zeros(shape, dtype=torch.bool),
        known_BL=~hidden_BL,
        target_BL=torch.ones(shape),
        hidden_BL=hidden_BL,
    )


@pytest.mark.parametrize(("attention", "factor"), [("sdpa", 2), ("plain", 4)])
def test_memory_of_a_step_grows_with_tokens_not_with_their_square(
    attention: str, factor: int
) -> None:
    """Twice the tokens: the largest tensor, forward or backward, is twice as large; plain: four."""
    model = tiny.make_model(dropout=0.0)
    model.attention = attention
    objective = Pretraining(cell_prompt_after=0, unknown_value=-1)
    largest = []
    for n_tokens in (512, 1024):
        with LargestTensor() as seen:
            terms = objective(model, make_long_batch(n_tokens), 1.0)
            torch.stack([*terms.values()]).sum().backward()
        largest.append(seen.n_elements)
    assert largest[1] == pytest.approx(factor * largest[0], rel=0.1)
