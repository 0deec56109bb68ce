"""What the model computes, beside the published numbers."""

import copy
import os

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from scgpt_core.batch import Batch
from scgpt_core.model import ModelConfig, ScGPT
from scgpt_core.model.embeddings import ContinuousValues, DomainNorm

SMALL = {
    "width": 16,
    "n_layers": 2,
    "n_heads": 2,
    "ffn_width": 24,
    "n_tokens": 50,
    "pad_id": 47,
    "cls_id": 48,
}
ALL_HEADS = {"n_classes": 4, "n_batches": 3, "dar": True}


def build(**changes: object) -> ScGPT:
    torch.manual_seed(0)
    return ScGPT(ModelConfig.model_validate(SMALL | changes)).eval()


def draw_batch(*, n_tokens: int = 9, generative: bool = False) -> Batch:
    """Three cells, of which two have pads."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(47, generator=generator)[:n_tokens] for _ in range(3)])
    ids[:, 0] = 48
    values = torch.randint(1, 51, ids.shape, generator=generator).float()
    padding = torch.arange(n_tokens) >= torch.tensor([[n_tokens], [n_tokens - 2], [n_tokens - 4]])
    known = torch.rand(ids.shape, generator=generator) < 0.5
    known[:, 0] = True
    return Batch(
        ids_BL=ids.masked_fill(padding, 47),
        values_BL=values.masked_fill(padding, -2),
        padding_BL=padding,
        known_BL=known & ~padding if generative else None,
        batch_B=torch.tensor([0, 2, 0]),
    )


@pytest.mark.parametrize("generative", [False, True])
@pytest.mark.parametrize("cell_style", ["cls", "avg-pool", "w-pool"])
def test_asking_for_less_gives_the_same(cell_style: str, *, generative: bool) -> None:
    model, batch = build(cell_style=cell_style, **ALL_HEADS), draw_batch(generative=generative)
    whole = model(batch)
    for heads in ({"gep"}, {"gepc", "cls"}, {"dar"}, ()):
        part = model(batch, heads=heads)
        for name, tensor in part._asdict().items():
            if tensor is not None:
                torch.testing.assert_close(tensor, getattr(whole, name), rtol=0, atol=1e-5)
        assert (part.gep_BL is not None) == ("gep" in heads)
        assert (part.gepc_BL is not None) == ("gepc" in heads)
        assert (part.class_BC is not None) == ("cls" in heads)
        assert (part.batch_BK is not None) == ("dar" in heads)


def test_cells_do_not_depend_on_pads_or_on_the_order_of_genes() -> None:
    model, batch = build(), draw_batch()
    cell_BD = model(batch, heads=()).cell_BD
    for i, n_real in enumerate((~batch.padding_BL).sum(1)):
        order = torch.cat([torch.tensor([0]), 1 + torch.randperm(int(n_real) - 1)])
        alone = Batch(*(t[i : i + 1, order] for t in batch[:3]))
        alone_BD = model(alone, heads=()).cell_BD
        torch.testing.assert_close(alone_BD[0], cell_BD[i], rtol=0, atol=1e-5)


def test_values_of_unknown_genes_do_not_reach_other_tokens() -> None:
    model, batch = build(), draw_batch(generative=True)
    assert batch.known_BL is not None
    unknown = int((~batch.known_BL[0]).nonzero()[0])
    values = batch.values_BL.clone()
    values[0, unknown] += 20
    before, after = model(batch), model(batch._replace(values_BL=values))
    assert before.gep_BL is not None
    assert after.gep_BL is not None
    moved = (before.gep_BL[0] - after.gep_BL[0]).abs() > 1e-6
    assert moved.nonzero().flatten().tolist() == [unknown]
    assert torch.equal(before.cell_BD, after.cell_BD)


def test_prompt_takes_the_place_of_cls() -> None:
    model, batch = build(), draw_batch(generative=True)
    prompt = torch.randn(3, 16)
    prompted = model(batch, heads={"gep"}, prompt_BD=prompt).gep_BL
    other_cls = batch._replace(values_BL=batch.values_BL.index_fill(1, torch.tensor([0]), 7.0))
    assert torch.equal(prompted, model(other_cls, heads={"gep"}, prompt_BD=prompt).gep_BL)
    assert not torch.allclose(prompted, model(batch, heads={"gep"}).gep_BL)


def test_attention_maps_are_those_that_were_used() -> None:
    model, batch = build(), draw_batch(generative=True)
    assert batch.known_BL is not None
    for layer in (0, -1):
        output = model(batch, heads=(), attention_layer=layer)
        maps = output.attention_BHLL
        assert maps.shape == (3, 2, 9, 9)
        torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 9))
        seen = batch.known_BL[:, None, None, :] | torch.eye(9, dtype=torch.bool)
        assert ((maps > 0) == seen).all()
        torch.testing.assert_close(output.cell_BD, model(batch, heads=()).cell_BD)
    assert model(batch).attention_BHLL is None


def test_gradient_is_reversed_for_dar_alone() -> None:
    model, batch = build(**ALL_HEADS), draw_batch()
    weight = model.layers[0].attention.qkv.weight
    logits = model(batch, heads={"dar"}).batch_BK
    (reversed_gradient,) = torch.autograd.grad(logits.square().sum(), weight)
    straight = model.batch_head(model(batch, heads=()).cell_BD)
    (gradient,) = torch.autograd.grad(straight.square().sum(), weight)
    torch.testing.assert_close(reversed_gradient, -gradient)


def test_domain_norm_is_batch_norm_on_one_domain_and_keeps_domains_apart() -> None:
    x_BLD = torch.randn(6, 5, 4) * 3 + 1
    ours, theirs = DomainNorm(4, 3, affine=False), nn.BatchNorm1d(4, eps=6.1e-5, affine=False)
    ones = torch.ones(6, dtype=torch.long)
    for _ in range(2):
        mine = ours(x_BLD, ones)
        torch.testing.assert_close(mine, theirs(x_BLD.transpose(1, 2)).transpose(1, 2))
    ours.eval(), theirs.eval()
    mine = ours(x_BLD, ones)
    torch.testing.assert_close(mine, theirs(x_BLD.transpose(1, 2)).transpose(1, 2))
    ours.train()
    mixed = ours(x_BLD, torch.tensor([0, 1, 0, 2, 1, 0]))
    torch.testing.assert_close(mixed[[0, 2, 5]], ours(x_BLD[[0, 2, 5]], torch.zeros(3).long()))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own
@pytest.mark.parametrize("generative", [False, True])
def test_compiled_layers_change_nothing(*, generative: bool) -> None:
    """The layers are wrapped from outside, eagerly traced here: no C++ compiler is needed."""
    model, batch = build(dropout=0.0), draw_batch(generative=generative)
    wrapped = copy.deepcopy(model)
    for layer in wrapped.layers:
        layer.compile(fullgraph=True, backend="eager")
    losses = []
    for m in (model, wrapped):
        output = m(batch)
        loss = output.gep_BL[~batch.padding_BL].square().sum() + output.cell_BD.sum()
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(*losses)
    for (name, mine), reference in zip(wrapped.named_parameters(), model.parameters(), strict=True):
        if reference.grad is not None:
            torch.testing.assert_close(mine.grad, reference.grad, msg=name)


@pytest.fixture
def process_group(tmp_path: os.PathLike[str]) -> object:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_sharded_model_gives_the_same() -> None:
    model, batch = build(**ALL_HEADS), draw_batch(generative=True)
    sharded = copy.deepcopy(model)
    for module in (*sharded.layers, sharded):
        fully_shard(module)
    for heads in (None, {"gep", "gepc"}, ()):
        for mine, reference in zip(
            sharded(batch, heads=heads), model(batch, heads=heads), strict=True
        ):
            if isinstance(reference, Tensor):
                torch.testing.assert_close(mine, reference)


def test_wrong_requests_say_what_is_there() -> None:
    model, batch = build(), draw_batch()
    with pytest.raises(ValueError, match=r"has the heads \['gep', 'gepc'\], not \['cls'\]"):
        model(batch, heads={"cls"})
    with pytest.raises(ValueError, match=r"reads Batch\.batch_B, which the batch lacks"):
        build(n_batches=2, batch_labels=True)(batch._replace(batch_B=None))
    flash = build()
    flash.attention = "flash"
    with pytest.raises(ValueError, match="runs on GPUs only"):
        flash(batch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dar": True}, "need n_batches"),
        ({"gepc": "sum query", "explicit_zero_prob": True}, "choose inner product"),
        ({"gep_activation": "Softplus"}, "belong to affine_gep"),
        ({"affine_gep": True, "gep": False}, "affine_gep is a kind of gep"),
        ({"value_style": "category"}, "pad_value of 0 or more"),
        ({"n_heads": 3}, "not a multiple"),
    ],
)
def test_variants_that_make_no_model_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(SMALL | changes)


def test_published_initialisation() -> None:
    model = build(width=64, n_layers=1)
    genes = model.gene_embedding.table.weight.detach()
    assert genes.abs().max() <= 0.1
    assert genes.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)  # uniform in (-0.1, 0.1)
    qkv = model.layers[0].attention.qkv
    assert qkv.weight.detach().std() == pytest.approx((2 / (64 + 192)) ** 0.5, rel=0.05)  # xavier
    assert not qkv.bias.any()
    assert not model.layers[0].attention.out.bias.any()


def test_a_new_model_tells_bins_apart() -> None:
    torch.manual_seed(0)
    bins = torch.tensor([-1.0, 0, 1, 10, 50])
    with torch.no_grad():
        cosines = [
            nn.functional.cosine_similarity(vectors[1:], vectors[:-1], dim=1)
            for vectors in (ContinuousValues(64, 0.0, n_bins=51)(bins) for _ in range(20))
        ]
    masked_zero, zero_one, one_ten, ten_fifty = torch.stack(cosines).mean(0)
    assert masked_zero < 0.9
    assert zero_one < 0.9
    assert one_ten < 0.9
    assert ten_fifty < 0.95  # 0.998 with units that all bend near 0
