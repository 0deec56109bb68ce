"""What `make bench-embed` says of the arithmetic of its contenders."""

import numpy as np
import pytest
import torch

from benchmarks.bench_embed import PublishedEncoder, count_flops
from scgpt_core.config import ModelConfig

CONFIG = ModelConfig(width=8, n_layers=2, n_heads=2, ffn_width=16, n_tokens=10, pad_id=8, cls_id=9)


def test_the_arithmetic_by_hand() -> None:
    lengths, padded = np.array([2, 3]), np.array([3, 3])
    linear = 8 * 8 * 8 + 4 * 8 * 16  # a token, a layer
    assert count_flops(CONFIG, lengths) == 2 * (5 * linear + 4 * 8 * (4 + 9))
    assert count_flops(CONFIG, lengths, padded) == 2 * (5 * linear + 4 * 8 * (9 + 9))
    assert count_flops(CONFIG, padded) == 2 * (6 * linear + 4 * 8 * (9 + 9))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_published_path_leaves_pads_out(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = []
    make = torch._nested_tensor_from_mask

    def spy(*args: object, **kwargs: object) -> torch.Tensor:
        nested.append(make(*args, **kwargs))
        return nested[-1]

    monkeypatch.setattr(torch, "_nested_tensor_from_mask", spy)
    ids = torch.tensor([[9, 1, 2], [9, 3, 8]])
    with torch.inference_mode():
        PublishedEncoder(CONFIG).eval()(ids, torch.ones(2, 3), ids == CONFIG.pad_id)
    assert [len(tokens) for tokens in nested[0].unbind()] == [3, 2]
