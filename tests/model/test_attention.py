"""Every backend against the plain one, and the generative mask entry by entry."""

import shutil

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scgpt_core.model import attention
from scgpt_core.model.attention import attend, attention_weights, choose_backend, make_mask

PADDING = torch.tensor([[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]], dtype=torch.bool)
KNOWN = torch.tensor([[1, 0, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0, 0]], dtype=torch.bool)
CPU = torch.device("cpu")


def draw(n: int = 3, *, width: int = 8, device: str = "cpu") -> list[Tensor]:
    """Queries, keys, values (and more) of 2 cells, 7 tokens, 3 heads."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 7, 3, width, generator=generator).to(device) for _ in range(n)]
    return [tensor.requires_grad_() for tensor in tensors]


def test_generative_mask_entry_by_entry() -> None:
    q, k, _ = draw()
    weights = attention_weights(q, k, make_mask(PADDING, KNOWN, "plain"))
    expected = torch.tensor(
        [
            [
                [1, 0, 1, 0, 0, 1, 0],  # <cls> sees <cls> and the known genes 2 and 5
                [1, 1, 1, 0, 0, 1, 0],  # an unknown gene sees them and itself
                [1, 0, 1, 0, 0, 1, 0],
                [1, 0, 1, 1, 0, 1, 0],
                [1, 0, 1, 0, 1, 1, 0],
                [1, 0, 1, 0, 0, 1, 0],
                [1, 0, 1, 0, 0, 1, 1],
            ],
            [
                [1, 1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0, 0],
                [1, 1, 0, 1, 0, 0, 0],
                [1, 1, 0, 0, 1, 0, 0],  # the pads behind are seen by themselves alone
                [1, 1, 0, 0, 0, 1, 0],
                [1, 1, 0, 0, 0, 0, 1],
            ],
        ]
    )
    for head in range(3):
        assert torch.equal((weights[:, head] > 0).int(), expected.int())


def test_a_pad_is_seen_by_no_other_token_also_if_it_is_called_known() -> None:
    q, k, _ = draw()
    masks = [make_mask(PADDING, known, "plain") for known in (KNOWN & ~PADDING, KNOWN | PADDING)]
    assert torch.equal(*(attention_weights(q, k, mask) for mask in masks))


@pytest.mark.parametrize("n_queries", [7, 1])
@pytest.mark.parametrize("known", [None, KNOWN], ids=["padding", "generative"])
def test_sdpa_agrees_with_plain_in_values_and_gradients(
    known: Tensor | None, n_queries: int
) -> None:
    inputs, upstream = draw(3), draw(4)[3][:, :n_queries]
    results = {}
    for backend in ("plain", "sdpa"):
        q, k, v = inputs
        mask = make_mask(PADDING, known, backend)
        out = attend(q[:, :n_queries], k, v, mask, backend=backend, dropout=0.0)
        results[backend] = [out, *torch.autograd.grad((out * upstream).sum(), inputs)]
    for mine, reference in zip(results["sdpa"], results["plain"], strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("known", [None, KNOWN], ids=["padding", "generative"])
def test_sdpa_makes_no_matrix_of_queries_by_keys(known: Tensor | None) -> None:
    """The fused kernel takes it; with all others forbidden it would fail."""
    inputs = draw(3)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = attend(*inputs, make_mask(PADDING, known, "sdpa"), backend="sdpa", dropout=0.0)
        out.sum().backward()


def test_large_own_scores_stay_exact() -> None:
    """An own key that outweighs all others, and one that nothing of is left of."""
    q, k, v = (tensor.detach() for tensor in draw(3))
    for scale in (-30.0, 30.0):
        q = scale * k
        plain = attend(q, k, v, make_mask(PADDING, KNOWN, "plain"), backend="plain", dropout=0.0)
        sdpa = attend(q, k, v, make_mask(PADDING, KNOWN, "sdpa"), backend="sdpa", dropout=0.0)
        torch.testing.assert_close(sdpa, plain, rtol=0, atol=1e-5)


def test_bfloat16_keeps_the_own_score_as_exact_as_the_others() -> None:
    exact = [tensor.detach().bfloat16() for tensor in draw(3)]
    mask = make_mask(PADDING, KNOWN, "sdpa")
    coarse = attend(*exact, mask, backend="sdpa", dropout=0.0)
    fine = attend(*(tensor.float() for tensor in exact), mask, backend="sdpa", dropout=0.0)
    torch.testing.assert_close(coarse.float(), fine, rtol=0, atol=2e-2)


def test_dropout_keeps_the_mean_and_drops_the_own_key_too() -> None:
    """Each query sees itself alone: its weight, 1, is dropped or doubled."""
    nobody_else = torch.zeros_like(KNOWN)
    nobody_else[:, 0] = True
    q, k, v = (tensor.detach() for tensor in draw(3, width=64))
    k = k.clone()
    k[:, 0] = -100 * q[:, 0]  # nor does <cls> matter
    mask = make_mask(torch.zeros_like(PADDING), nobody_else, "sdpa")
    torch.manual_seed(0)
    draws = torch.stack([attend(q, k, v, mask, backend="sdpa", dropout=0.5) for _ in range(200)])
    assert (draws[:, :, 1:] == 0).all(-1).float().mean() > 0.3
    plain = attend(q, k, v, mask, backend="plain", dropout=0.0)
    mean_error = (draws.mean(0) - plain)[:, 1:].abs().mean()
    assert mean_error < 0.1


def test_keys_that_nobody_sees_are_left_out() -> None:
    known = torch.zeros_like(KNOWN)
    known[:, :2] = True
    assert make_mask(PADDING, known, "sdpa").n_keys == 2
    assert make_mask(PADDING, None, "sdpa").n_keys == 7
    everybody = make_mask(PADDING[:1], None, "sdpa")
    assert everybody.all_visible


@pytest.mark.parametrize("known", [None, KNOWN], ids=["padding", "generative"])
def test_blocks_of_flex_attention_are_the_mask(known: Tensor | None, monkeypatch: object) -> None:
    monkeypatch.setattr(attention, "_BLOCK", 2)
    mask = make_mask(PADDING, known, "flex")
    q, k, _ = draw()
    allowed = (attention_weights(q, k, mask) > 0).any(1)
    assert mask.blocks is not None
    dense = mask.blocks.to_dense()[:, 0].bool()
    for b in range(2):
        for i in range(7):
            for j in range(7):
                index = (torch.tensor(x) for x in (b, 0, i, j))
                assert bool(mask.blocks.mask_mod(*index)) == bool(allowed[b, i, j])
                # A block that holds an allowed pair is looked at.
                assert dense[b, i // 2, j // 2] or not allowed[b, i, j]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_flex_agrees_with_plain_on_the_cpu() -> None:
    with torch.no_grad():
        q, k, v = (tensor.detach() for tensor in draw(3, width=16))
        flex = make_mask(PADDING, KNOWN, "flex")
        plain = make_mask(PADDING, KNOWN, "plain")
        torch.testing.assert_close(
            attend(q, k, v, flex, backend="flex", dropout=0.0),
            attend(q, k, v, plain, backend="plain", dropout=0.0),
            rtol=0,
            atol=1e-5,
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("known", [None, KNOWN], ids=["padding", "generative"])
@pytest.mark.parametrize("backend", ["sdpa", "flex", "flash"])
def test_gpu_backends_agree_with_plain(backend: str, known: Tensor | None) -> None:
    if backend == "flash":
        pytest.importorskip("flash_attn")
    dtype = torch.bfloat16 if backend == "flash" else torch.float32
    tolerance = 3e-2 if backend == "flash" else 1e-4
    padding = PADDING.repeat(1, 40).cuda()  # several blocks
    known = None if known is None else known.repeat(1, 40).cuda()
    inputs = [
        tensor.detach().repeat(1, 40, 1, 1).to(dtype).requires_grad_()
        for tensor in draw(3, width=64, device="cuda")
    ]
    results = {}
    for name in ("plain", backend):
        mask = make_mask(padding, known, name)
        out = attend(*inputs, mask, backend=name, dropout=0.0)
        real = out[~padding].float()
        results[name] = [real, *torch.autograd.grad(real.square().sum(), inputs)]
    for mine, reference in zip(results[backend], results["plain"], strict=True):
        largest = float(reference.abs().max())
        torch.testing.assert_close(mine, reference, rtol=0, atol=tolerance * largest)


def test_choice_of_backend() -> None:
    def choose(wanted: str, device: str, dropout: float = 0.0, head_width: int = 64) -> str:
        return choose_backend(
            wanted,
            torch.device(device),
            generative=True,
            dropout=dropout,
            head_width=head_width,
        )

    assert choose("auto", "cpu") == "sdpa"
    assert choose("auto", "cuda") == "flex"
    assert choose("auto", "cuda", 0.1) == "sdpa"
    assert choose("auto", "cuda", head_width=8) == "sdpa"
    assert choose("plain", "cpu", 0.1) == "plain"
    with pytest.raises(ValueError, match="flash runs on GPUs only"):
        choose("flash", "cpu")
    with pytest.raises(ValueError, match=r"flex cannot drop attention weights \(dropout is 0.1\)"):
        choose("flex", "cuda", 0.1)
    with pytest.raises(ValueError, match="flex needs heads of 16 or more on a GPU"):
        choose("flex", "cuda", head_width=8)
