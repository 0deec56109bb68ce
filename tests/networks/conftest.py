"""Monocytes under interferon and without, and models of their genes."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from tiny_model import CheckpointMaker

from scgpt_core.checkpoint import Checkpoint
from scgpt_core.config import ModelConfig
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import BATCH, LABEL, SPECIAL_TOKENS
from scgpt_core.model import ScGPT
from scgpt_core.model.weights import LoadReport


@pytest.fixture(scope="session")
def kang(resources: Path) -> ad.AnnData:
    """All 2,000 cells, as `prepare_dataset` leaves them. Read it only."""
    cells = ad.read_h5ad(resources / "cells/pbmc_kang_harmony2k.h5ad")
    cells.X = cells.X.astype(np.float32)
    cells.obs[LABEL] = cells.obs["cell_type_auto"].astype(str).astype("category")
    cells.obs[BATCH] = cells.obs[BATCH].astype(str).astype("category")
    return cells


@pytest.fixture(scope="session")
def monocytes(kang: ad.AnnData) -> ad.AnnData:
    """431 CD14 monocytes, half of them stimulated. Read it only."""
    return kang[kang.obs[LABEL] == "CD14 monocyte"].copy()


@pytest.fixture(scope="session")
def make_checkpoint(kang: ad.AnnData) -> CheckpointMaker:
    """Give models with random weights, whose tokens are the genes of the cells."""

    def make(**changes: object) -> Checkpoint:
        vocab = Vocabulary([*SPECIAL_TOKENS, *kang.var_names])
        torch.manual_seed(0)
        config = ModelConfig(
            width=16, n_layers=2, n_heads=2, ffn_width=16, n_tokens=vocab.n_tokens, pad_id=0,
            cls_id=1, **changes,
        )  # fmt: skip
        model = ScGPT(config).eval()
        return Checkpoint(model, vocab, config, LoadReport((), (), (), ()), "random")

    return make
