"""FLOPs and memory."""

import pytest
import tiny
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.utils.flop_counter import FlopCounterMode

from scgpt_core.batch import Batch
from scgpt_core.config import TrainerSettings
from scgpt_core.train.flops import FlopsCounter, _peak_of, peak_flops
from scgpt_core.train.memory import _as_in_training, halve_until_it_fits, resolve_micro_batch
from scgpt_core.train.objectives import Pretraining
from scgpt_core.train.parallel import World


def test_the_count_is_what_the_matrix_products_are() -> None:
    """Against torch's own counter, which sees every product; ours has gates and norms besides."""
    model = tiny.make_model(width=64, ffn_width=64, dropout=0.0, gepc=None)
    model.attention = "plain"
    length = 48
    batch = Batch(
        ids_BL=torch.zeros(4, length, dtype=torch.int64),
        values_BL=torch.ones(4, length),
        padding_BL=torch.zeros(4, length, dtype=torch.bool),
    )
    with FlopCounterMode(display=False) as counted:
        model(batch, heads={"gep"}).gep_BL.sum().backward()
    ours = FlopsCounter(model)(torch.full((4,), length))
    assert ours == pytest.approx(counted.get_total_flops(), rel=0.05)


def test_embedding_tables_do_not_count() -> None:
    flops = FlopsCounter(tiny.make_model())
    table = (tiny.N_GENES + 2) * 16
    assert flops.parameters - flops.non_embedding == table


def test_the_peak_of_this_cpu_is_measured() -> None:
    peak = peak_flops(torch.device("cpu"), torch.float32)
    assert peak is not None
    assert 1e8 < peak < 1e14


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_a_gpu_has_the_peak_of_its_own_name(name: str, tflops: float | None) -> None:
    assert _peak_of(name) == (tflops and tflops * 1e12)


def test_the_search_for_a_micro_batch_recomputes_as_training_and_leaves_the_model_alone() -> None:
    model = tiny.make_model(n_batches=2, batch_norm="domain")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    layers, settings = list(model.layers), TrainerSettings(activation_checkpointing=True)
    batch = tiny.make_batch()._replace(batch_B=torch.arange(8) % 2)
    with _as_in_training(model, settings):
        assert all(isinstance(layer, CheckpointWrapper) for layer in model.layers)
        model(batch, heads={"gep"})
        changed = [n for n, b in model.named_buffers() if not torch.equal(b, before[n])]
    assert changed
    assert list(model.layers) == layers
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize(("room", "expected"), [(100, 24), (12, 12), (11, 6), (1, 1)])
def test_micro_batches_are_halved_until_they_fit(room: int, expected: int) -> None:
    def attempt(n_cells: int) -> None:
        if n_cells > room:
            raise torch.OutOfMemoryError

    assert halve_until_it_fits(attempt, 24) == expected


def test_a_cell_that_does_not_fit_alone_is_an_error() -> None:
    def attempt(n_cells: int) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(ValueError, match="lower max_tokens"):
        halve_until_it_fits(attempt, 24)


@pytest.mark.parametrize(
    ("asked", "batch", "size", "expected"),
    [(None, 64, 1, 32), (None, 64, 4, 16), (100, 64, 1, 64), (8, 64, 4, 8), (None, 10, 4, 3)],
)
def test_a_micro_batch_is_part_of_a_global_batch(
    asked: int | None, batch: int, size: int, expected: int
) -> None:
    settings = TrainerSettings(batch_cells=batch, micro_batch_cells=asked)
    world = World(rank=0, size=size, local_size=size, device=torch.device("cpu"))
    objective = Pretraining(cell_prompt_after=0, unknown_value=-1)
    assert resolve_micro_batch(tiny.make_model(), objective, settings, world) == expected
