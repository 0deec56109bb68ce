"""The integer kernels: exact products, agreement with the float32 model, and what is refused."""

import numpy as np
import pytest
import torch

from scgpt_core.batch import Batch
from scgpt_core.model import ModelConfig, ScGPT
from scgpt_core.model.int8 import Int8Encoder, multiplies_int8
from scgpt_core.model.int8_kernels import multiply

pytestmark = pytest.mark.skipif(not multiplies_int8(), reason="needs AVX2")
LENGTHS = (70, 33, 5)


def build(**changes: object) -> ScGPT:
    torch.manual_seed(0)
    settings = {"width": 64, "n_layers": 3, "n_heads": 4, "ffn_width": 96, "dropout": 0.0}
    settings |= {"n_tokens": 200, "pad_id": 197, "cls_id": 198}
    return ScGPT(ModelConfig.model_validate(settings | changes)).eval()


def draw_batch(*, pad_value: float = -2.0) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(197, generator=generator)[:70] for _ in LENGTHS])
    ids[:, 0] = 198
    values = torch.randint(1, 51, ids.shape, generator=generator).float()
    padding = torch.arange(70) >= torch.tensor(LENGTHS)[:, None]
    return Batch(
        ids_BL=ids.masked_fill(padding, 197),
        values_BL=values.masked_fill(padding, pad_value),
        padding_BL=padding,
    )


def test_products_are_exact_at_their_largest() -> None:
    """127 x 63, eight of a sign in a row: 16 bits are just enough for four, 32 for all."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 128, (8, 64)).astype(np.uint8)
    b = rng.integers(-63, 64, (32, 64)).astype(np.int8)
    a[0], b[0], b[1] = 127, 63, -63
    panels = b.reshape(2, 16, 16, 4).transpose(0, 2, 1, 3).reshape(2, -1).copy()
    columns = np.zeros((2, 48), np.float32)
    columns[:, :16] = 1
    out = np.empty((8, 32), np.float32)
    multiply(a, np.ones(8, np.float32), panels, columns, 0, out)
    assert np.array_equal(out, a.astype(np.int64) @ b.T.astype(np.int64))


@torch.inference_mode()
def test_cells_agree_with_float32_and_do_not_depend_on_each_other() -> None:
    model, batch = build(), draw_batch()
    encoder = Int8Encoder(model)
    exact_BD, ours_BD = model(batch, heads=()).cell_BD, encoder.encode(batch)
    cosines_B = torch.cosine_similarity(exact_BD, ours_BD)
    assert cosines_B.min() > 0.999
    assert (exact_BD - ours_BD).abs().max() > 1e-4  # these are integers, not float32 by mistake
    assert torch.equal(encoder.encode(draw_batch(pad_value=40.0)), ours_BD)
    for i, n_tokens in enumerate(LENGTHS):
        alone = Batch(*(tensor[i : i + 1, :n_tokens] for tensor in batch[:3]))
        assert torch.equal(encoder.encode(alone)[0], ours_BD[i])


@pytest.mark.parametrize(
    "changes", [{"cell_style": "w-pool"}, {"n_heads": 8}, {"ffn_width": 90}], ids=str
)
def test_models_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        Int8Encoder(build(**changes))
