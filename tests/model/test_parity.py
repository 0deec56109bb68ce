"""Published numbers: outputs, losses, gradients, bins and embeddings of the published code.

`SCGPT_GOLDEN` names another folder of them; nothing here knows their sizes.
"""

import os
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from scgpt_core.batch import Batch, Output
from scgpt_core.checkpoint import import_published, load_checkpoint, load_weights
from scgpt_core.data.cells import cells_from_csr
from scgpt_core.data.collate import TokenSettings, tokenize
from scgpt_core.data.identity import cell_identity
from scgpt_core.model import ScGPT
from scgpt_core.published import UNUSED, read_config, to_ours, to_published
from scgpt_core.runs import read_json
from scgpt_core.tasks.embedding import embed_cells
from scgpt_core.train.losses import elastic_cell_similarity, masked_mse, zero_nll

GOLDEN = Path(os.environ.get("SCGPT_GOLDEN", Path(__file__).parents[1] / "golden"))
VARIANTS = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))
TRAINED = [v for v in VARIANTS if "loss_total" in load_file(GOLDEN / v / "arrays.safetensors")]


def assert_agrees(ours: Tensor | None, theirs: Tensor) -> None:
    """Equal within 1e-5 of the largest value, and absolutely below 1."""
    assert ours is not None
    largest = max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=1e-5 * largest)


class Golden:
    """One variant: our model with the published weights, the inputs, the stored numbers."""

    def __init__(self, variant: str) -> None:
        settings: dict[str, Any] = read_json(GOLDEN / variant / "config.json")
        args = {
            "nheads": settings["nhead"],
            "pad_value": settings["pad_value"],
            "n_bins": settings["class_kwargs"].get("n_input_bins", 51),
            "dropout": 0.0,
            **settings["class_kwargs"],
        }
        self.ecs_threshold = args.get("ecs_threshold", 0.3)  # the published constructor's default
        self.published = load_file(GOLDEN / variant / "weights.safetensors")
        weights = {to_ours(name): tensor for name, tensor in self.published.items()}
        config = read_config(args, weights, pad_id=settings["pad_id"], cls_id=settings["cls_id"])
        self.model = ScGPT(config).eval()
        self.report = load_weights(self.model, weights)
        self.arrays = load_file(GOLDEN / variant / "arrays.safetensors")
        self.real_BL = ~self.arrays["padding_mask"]

    def batch(self, values: str = "values") -> Batch:
        return Batch(
            ids_BL=self.arrays["ids"],
            values_BL=self.arrays[values],
            padding_BL=self.arrays["padding_mask"],
            batch_B=self.arrays.get("batch_labels"),
            modality_BL=self.arrays.get("mod_types"),
            perturbed_BL=self.arrays.get("pert_flags"),
        )


def as_published(golden: Golden, output: Output) -> dict[str, Tensor | None]:
    """Our output under the published names."""
    model, cell_BD = golden.model, output.cell_BD
    if model.config.cell_style == "avg-pool":
        # The published mean runs over all L positions, pads (zeros) included; ours over real ones.
        cell_BD = cell_BD * golden.real_BL.float().mean(1, keepdim=True)
        gepc = model.gepc_head(cell_BD, model.gene_embedding(golden.arrays["ids"]))
        output = output._replace(class_BC=model.class_head(cell_BD), gepc_BL=gepc.value_BL)
    return {
        "cell_emb": cell_BD,
        "encoder_output": output.token_BLD,
        "mlm_output": output.gep_BL,
        "mlm_zero_probs": output.gep_nonzero_BL,
        "mvc_output": output.gepc_BL,
        "mvc_zero_probs": output.gepc_nonzero_BL,
        "cls_output": output.class_BC,
        "dab_output": output.batch_BK,
        "loss_ecs": elastic_cell_similarity(cell_BD, golden.ecs_threshold),
    }


def test_all_variants_are_there() -> None:
    assert len(VARIANTS) >= 13
    assert {"base", "integration"} <= set(TRAINED)


@pytest.mark.parametrize("attention", ["plain", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs(variant: str, attention: str) -> None:
    golden = Golden(variant)
    golden.model.attention = attention
    with torch.no_grad():
        ours = as_published(golden, golden.model(golden.batch()))
    stored = set(ours) & set(golden.arrays)
    assert {"mlm_output", "cls_output", "loss_ecs"} <= stored
    assert ("mvc_output" in stored) == (golden.model.gepc_head is not None)
    for name in stored:
        theirs = golden.arrays[name]
        mine = ours[name]
        assert mine is not None, name
        if theirs.shape[:2] == golden.real_BL.shape:
            mine, theirs = mine[golden.real_BL], theirs[golden.real_BL]
        assert_agrees(mine, theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_weight_is_lost(variant: str) -> None:
    golden = Golden(variant)
    assert not golden.report.missing
    assert not golden.report.unexpected
    assert not golden.report.mismatched


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_lead_back_to_the_published_ones(variant: str) -> None:
    """What is exported has every name and shape of the published class, bit for bit."""
    golden = Golden(variant)
    exported = {to_published(name): tensor for name, tensor in golden.model.state_dict().items()}
    assert exported.keys() == golden.published.keys()
    for name, tensor in golden.published.items():
        assert torch.equal(exported[name], tensor), name


def training_terms(golden: Golden) -> dict[str, Tensor]:
    """The published integration step, in training mode without dropout (batch norm observes)."""
    golden.model.train()
    arrays, batch = golden.arrays, golden.batch("masked_values")
    output: Output = golden.model(batch)
    target, hidden = arrays["values"], arrays["mask"]
    assert output.gep_BL is not None
    assert output.gepc_BL is not None
    terms = {
        "loss_gep": masked_mse(output.gep_BL, target, hidden),
        "loss_mvc": masked_mse(output.gepc_BL, target, hidden),
        "loss_ecs_train": 10 * elastic_cell_similarity(output.cell_BD, golden.ecs_threshold),
    }
    if output.gep_nonzero_BL is not None and output.gepc_nonzero_BL is not None:
        terms["loss_gep_zero"] = zero_nll(output.gep_nonzero_BL, target, hidden)
        terms["loss_mvc_zero"] = zero_nll(output.gepc_nonzero_BL, target, hidden)
    if output.batch_BK is not None:
        terms["loss_dab"] = F.cross_entropy(output.batch_BK, arrays["batch_labels"])
    return terms


@pytest.mark.parametrize("variant", TRAINED)
def test_training_step(variant: str) -> None:
    golden = Golden(variant)
    terms = training_terms(golden)
    for name, term in terms.items():
        assert_agrees(term, golden.arrays[name])
    total = sum(term for name, term in terms.items() if name.startswith("loss_"))
    assert isinstance(total, Tensor)
    assert_agrees(total, golden.arrays["loss_total"])
    total.backward()
    gradients = {k.removeprefix("grad:"): v for k, v in golden.arrays.items() if "grad:" in k}
    assert gradients
    for name, gradient in gradients.items():
        assert_agrees(golden.model.get_parameter(to_ours(name)).grad, gradient)


def test_generated() -> None:
    golden = Golden("base")
    batch = golden.batch()
    with torch.no_grad():
        cell_BD = golden.model(batch, heads=()).cell_BD
        generated = golden.model(batch, heads={"gep"}, prompt_BD=cell_BD).gep_BL
    real = golden.real_BL
    assert_agrees(generated[real], golden.arrays["generated"][real])


@pytest.mark.parametrize("folder", ["official_torch_keys", "official_flash_keys"])
def test_published_bins_and_embeddings(folder: str) -> None:
    ckpt = load_checkpoint(GOLDEN / folder, device="cpu")
    stored = load_numpy(GOLDEN / "embed_cells.safetensors")
    n_cells, n_genes = stored["expression"].shape
    adata = ad.AnnData(stored["expression"], var=pd.DataFrame(index=ckpt.vocab.tokens[:n_genes]))
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    matrix = csr_matrix(stored["expression"])
    tokens = tokenize(
        cells_from_csr(
            matrix.indptr,
            matrix.indices,
            matrix.data,
            token_ids=np.arange(n_genes),
            cell_ids=cell_identity(adata.obs_names),
        ),
        TokenSettings.of_model(ckpt.config, max_tokens=1200),
        seed=0,
    )
    assert np.array_equal(tokens.ids_BL, stored["token_ids"])
    assert np.array_equal(tokens.bins_BL, stored["binned_values"])
    assert np.abs(embed_cells(adata, ckpt) - stored["cell_embeddings"]).max() < 1e-5


def test_both_spellings_give_one_model() -> None:
    torch_keys = load_checkpoint(GOLDEN / "official_torch_keys", device="cpu")
    flash_keys = import_published(GOLDEN / "official_flash_keys", device="cpu")
    assert torch_keys.digest == flash_keys.digest
    for report in (torch_keys.report, flash_keys.report):
        assert report.missing == report.mismatched == ()
        assert all(name.startswith(UNUSED) for name in report.unexpected)
    assert torch_keys.vocab.digest == flash_keys.vocab.digest
