"""Pretraining: our whole step, loader included, against a plain float32 padded step.

Both train one architecture from the same weights on the same real cells, with both passes of the
objective. The baseline is what a straightforward port of the published code does: collation cell by
cell (v0.2.5 of the published code), random cells padded to the longest of the mini-batch, PyTorch's
Transformer encoder with a mask of queries by keys, AdamW not fused, float32.

Shapes: B cells in a mini-batch, L gene tokens, D width, H heads.
"""

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.bench_embed import collate_as_published
from benchmarks.harness import RUNS, measure, report
from benchmarks.real_cells import CLS_ID, N_TOKENS, PAD_ID, read_cells
from scgpt_core.batch import Batch, Output
from scgpt_core.config import ModelConfig, TrainerSettings
from scgpt_core.data.cells import Cells
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.sources import ArraySource
from scgpt_core.device import describe_device, resolve_precision
from scgpt_core.model import ScGPT
from scgpt_core.train.flops import FlopsCounter, peak_flops
from scgpt_core.train.objectives import Pretraining
from scgpt_core.train.parallel import join_world
from scgpt_core.train.trainer import Trainer

SIZES = {
    "demo": {"width": 128, "n_layers": 4, "n_heads": 4, "ffn_width": 256},
    "published": {"width": 512, "n_layers": 12, "n_heads": 8, "ffn_width": 512},
}
OBJECTIVE = Pretraining(cell_prompt_after=0, unknown_value=-1)
UNKNOWN_SHARES = (0.25, 0.5, 0.75)
MINI_BATCHES = 8
"""Of ours in a run: they are of cells of like length, so that one tells little of the others."""


class PlainModel(nn.Module):
    """Our embeddings and heads around PyTorch's own encoder, with a mask of queries by keys."""

    def __init__(self, model: ScGPT) -> None:
        super().__init__()
        config = self.config = model.config
        self.outside = model
        layer = nn.TransformerEncoderLayer(
            config.width, config.n_heads, config.ffn_width, config.dropout, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False)
        for ours, theirs in zip(model.layers, self.encoder.layers, strict=True):
            names = dict(theirs.named_parameters())
            weights = (
                *ours.attention.parameters(), *ours.ffn.parameters(),
                *ours.norm1.parameters(), *ours.norm2.parameters(),
            )  # fmt: skip
            for theirs_, ours_ in zip(names.values(), weights, strict=True):
                theirs_.data.copy_(ours_)
        del model.layers

    def forward(self, batch: Batch, *, heads: set[str], prompt_BD: Tensor | None = None) -> Output:
        """Predict as `ScGPT` does."""
        model = self.outside
        gene_BLD = model.gene_embedding(batch.ids_BL)
        x_BLD = gene_BLD + model.value_embedding(batch.values_BL)
        if prompt_BD is not None:
            x_BLD = torch.cat([prompt_BD[:, None], x_BLD[:, 1:]], dim=1)
        own_LL = torch.eye(x_BLD.shape[1], dtype=torch.bool, device=x_BLD.device)
        visible_BLL = batch.known_BL[:, None, :] | own_LL
        blocked = (~visible_BLL).repeat_interleave(self.config.n_heads, dim=0)
        x_BLD = self.encoder(x_BLD, mask=blocked)
        gepc_BL = model.gepc_head(x_BLD[:, 0], gene_BLD).value_BL if "gepc" in heads else None
        gep_BL = model.gep_head(x_BLD, batch.values_BL).value_BL
        return Output(x_BLD[:, 0], gep_BL=gep_BL, gepc_BL=gepc_BL)


def batch_as_published(cells: Cells, rows: np.ndarray, config: ModelConfig) -> Batch:
    """One mini-batch, collated cell by cell, with its genes split into known and unknown."""
    ids_BL, target_BL, padding_BL = collate_as_published(cells, rows, config)
    hidden_BL = torch.zeros_like(padding_BL)
    for hidden_L, padding_L in zip(hidden_BL, padding_BL, strict=True):
        genes = np.flatnonzero(~padding_L.numpy())[1:]
        n_unknown = int(len(genes) * np.random.choice(UNKNOWN_SHARES))
        hidden_L[np.random.choice(genes, n_unknown, replace=False)] = True
    return Batch(
        ids_BL,
        target_BL.masked_fill(hidden_BL, config.mask_value),
        padding_BL,
        known_BL=~hidden_BL & ~padding_BL,
        target_BL=target_BL,
        hidden_BL=hidden_BL,
    )


class PlainTraining:
    """The baseline's loop."""

    def __init__(self, model: ScGPT, cells: Cells, batch_cells: int, device: torch.device) -> None:
        self.model = PlainModel(model).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.cells, self.batch_cells, self.device = cells, batch_cells, device

    def step(self) -> int:
        """Train on one mini-batch; returns its cells."""
        rows = np.random.choice(len(self.cells.cell_ids), self.batch_cells, replace=False)
        batch = batch_as_published(self.cells, rows, self.model.config).to(self.device)
        self.optimizer.zero_grad()
        loss = torch.stack([*OBJECTIVE(self.model, batch, 1.0).values()]).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return len(rows)


def main(size: str, *, max_tokens: int, batch_cells: int, dropout: float, runs: int) -> None:
    """Measure both, and how much of the device's arithmetic ours uses."""
    config = ModelConfig(
        **SIZES[size], dropout=dropout, n_tokens=N_TOKENS, pad_id=PAD_ID, cls_id=CLS_ID,
        max_tokens=max_tokens,
    )  # fmt: skip
    tokens = TokenSettings(
        max_tokens=max_tokens, n_bins=config.n_bins, pad_id=PAD_ID, cls_id=CLS_ID, pad_value=-2,
        mask_value=-1, cls_value=-2, unknown_shares=UNKNOWN_SHARES,
    )  # fmt: skip
    torch.manual_seed(0)
    model, same = ScGPT(config), ScGPT(config)
    same.load_state_dict(model.state_dict())
    cells = read_cells("pbmc_zheng_facs", min_genes=200, max_genes=3000)
    with join_world() as world, tempfile.TemporaryDirectory() as folder:
        plain = PlainTraining(same, cells, batch_cells, world.device)
        trainer = Trainer(
            model.to(world.device),
            OBJECTIVE,
            ShardLoader(
                ArraySource(cells), tokens, batch_cells=batch_cells, seed=0, by_length=True
            ),
            TrainerSettings(batch_cells=batch_cells, micro_batch_cells=batch_cells),
            world=world,
            steps=1_000_000,
            seed=0,
            state_folder=Path(folder),
            identity={},
        )
        steps, totals = iter(trainer.loader), trainer.totals

        def ours() -> int:
            before = totals.cells
            for step in itertools.islice(steps, MINI_BATCHES):
                trainer.step(step)
            return totals.cells - before

        rates = measure({"ours": ours, "baseline": plain.step}, runs=runs)
        precision = resolve_precision(world.device)
        peak = peak_flops(world.device, precision)
        rate = statistics.median(rates["ours"])
        report(
            "pretrain",
            unit="cells/s",
            runs=rates,
            device=describe_device(world.device),
            notes={
                "model": config.model_dump(include=set(SIZES[size]) | {"dropout"}),
                "parameters": FlopsCounter(same).parameters,
                "precision": str(precision),
                "mean_tokens": totals.tokens / totals.cells,
                "tokens_per_s": rate * totals.tokens / totals.cells,
                "flops_use": peak and rate * totals.flops / totals.cells / peak,
                "peak_gflops": peak and peak / 1e9,
            },
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--max-tokens", type=int, default=1200)
    parser.add_argument("--batch-cells", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=RUNS)
    options = vars(parser.parse_args())
    main(options.pop("size"), **options)
