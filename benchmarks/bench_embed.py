"""Zero-shot embedding: ours against a plain float32 `torch.nn.TransformerEncoder`, as published.

Both have the same random weights of the published size and embed the same real cells, drawn from
the whole-transcriptome PBMC sets of the repository or from those named, a mini-batch of 64 in each
run. The baseline collates cell by cell and pads each mini-batch to its longest cell. In evaluation
it takes torch's fast path for encoders, as the published code does: its linear layers leave the
pads out, its attention does not, and on CPUs makes the matrix of scores. Torch's other path
computes the pads everywhere but makes no such matrix, so this is measured beside it.

Shapes: N cells, B cells in a mini-batch, L gene tokens, D width.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence, Sized
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.harness import RUNS, measure, report
from scgpt_core.checkpoint import Checkpoint
from scgpt_core.config import ModelConfig
from scgpt_core.data.cells import Cells, read_cells
from scgpt_core.data.collate import TokenSettings, tokenize
from scgpt_core.data.genes import match_var
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.device import EmbedPrecision, multiplies_bfloat16
from scgpt_core.model import ScGPT
from scgpt_core.model.int8 import multiplies_int8
from scgpt_core.model.weights import LoadReport
from scgpt_core.published import to_published
from scgpt_core.tasks.embedding import embed_cells

RESOURCES = Path(__file__).parents[1] / "resources"
SETS = (
    "pbmc3k_160_balanced",
    "pbmc_10x_3chem_unlabelled",
    "pbmc_citeseq_10x_400_unlabelled",
    "pbmc_citeseq_bremsc",
    "pbmc_kang_harmony2k",
    "pbmc_zheng_facs",
)
N_CELLS, BATCH_CELLS, MAX_TOKENS, PAD_VALUE = 256, 64, 1200, -2
WARM_UP_CELLS, AGREEMENT_CELLS = 4, 32


class PublishedEncoder(nn.Module):
    """The published embedding path, in the modules and under the names of the published code."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.encoder = nn.ModuleDict(
            {
                "embedding": nn.Embedding(config.n_tokens, width, padding_idx=config.pad_id),
                "enc_norm": nn.LayerNorm(width),
            }
        )
        self.value_encoder = nn.ModuleDict(
            {
                "linear1": nn.Linear(1, width),
                "linear2": nn.Linear(width, width),
                "norm": nn.LayerNorm(width),
            }
        )
        layer = nn.TransformerEncoderLayer(
            width, config.n_heads, config.ffn_width, config.dropout, batch_first=True
        )
        self.transformer_encoder = nn.TransformerEncoder(layer, config.n_layers)

    def forward(self, ids_BL: Tensor, values_BL: Tensor, padding_BL: Tensor) -> Tensor:
        """Embed cells: unit rows BD, from the ``<cls>`` tokens."""
        gene_BLD = self.encoder["enc_norm"](self.encoder["embedding"](ids_BL))
        hidden_BLD = self.value_encoder["linear1"](values_BL[..., None].clamp(max=512)).relu()
        value_BLD = self.value_encoder["norm"](self.value_encoder["linear2"](hidden_BLD))
        x_BLD = self.transformer_encoder(gene_BLD + value_BLD, src_key_padding_mask=padding_BL)
        return F.normalize(x_BLD[:, 0], dim=1)


def collate_as_published(
    cells: Cells, rows: Iterable[int], config: ModelConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, values and padding of a mini-batch, cell by cell, padded to the longest."""
    all_ids, all_values = [], []
    for row in rows:
        span = slice(cells.indptr[row], cells.indptr[row + 1])
        counts, genes = cells.counts[span], cells.genes[span].astype(np.int64)
        edges = np.quantile(counts, np.linspace(0, 1, config.n_bins - 1))
        left, right = np.digitize(counts, edges), np.digitize(counts, edges, right=True)
        bins = np.ceil(np.random.rand(len(counts)) * (right - left) + left)
        ids = torch.from_numpy(np.insert(genes, 0, config.cls_id))
        values = torch.from_numpy(np.insert(bins, 0, PAD_VALUE)).float()
        if len(ids) > config.max_tokens:
            sampled = torch.randperm(len(ids) - 1)[: config.max_tokens - 1] + 1
            sampled = torch.cat([torch.tensor([0]), sampled])
            ids, values = ids[sampled], values[sampled]
        all_ids.append(ids)
        all_values.append(values)
    ids_BL = nn.utils.rnn.pad_sequence(all_ids, batch_first=True, padding_value=config.pad_id)
    values_BL = nn.utils.rnn.pad_sequence(all_values, batch_first=True, padding_value=PAD_VALUE)
    return ids_BL, values_BL, ids_BL == config.pad_id


def tokenize_as_ours(
    cells: Cells, rows: range, config: ModelConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, values and padding of a mini-batch, binned and sampled as ours are."""
    settings = TokenSettings.of_model(config, max_tokens=MAX_TOKENS)
    tokens = tokenize(cells, settings, seed=0, rows=np.array(rows))
    ids_BL, values_BL, padding_BL = (torch.from_numpy(array) for array in tokens)
    return ids_BL, values_BL, padding_BL


def build(vocab: Vocabulary) -> tuple[Checkpoint, PublishedEncoder]:
    """One set of random weights in both models."""
    torch.manual_seed(0)
    config = ModelConfig(n_tokens=vocab.n_tokens, pad_id=vocab.pad_id, cls_id=vocab.cls_id)
    model, baseline = ScGPT(config).eval(), PublishedEncoder(config).eval()
    weights = {to_published(name): tensor for name, tensor in model.state_dict().items()}
    baseline.load_state_dict({name: weights[name] for name in baseline.state_dict()})
    report_ = LoadReport(tuple(weights), (), (), ())
    return Checkpoint(model, vocab, config, report_, digest="random"), baseline


def draw_cells(names: Sequence[str], n_cells: int) -> ad.AnnData:
    """So many cells at random from these sets."""
    sets = [ad.read_h5ad(RESOURCES / "cells" / f"{name}.h5ad") for name in names]
    for name, part in zip(names, sets, strict=True):
        part.obs_names = [f"{name}-{cell}" for cell in part.obs_names]
    adata = ad.concat(sets, join="outer")
    rows = np.random.default_rng(0).choice(adata.n_obs, n_cells, replace=False)
    return adata[rows].copy()


def count_flops(
    config: ModelConfig,
    lengths_N: NDArray[np.int64],
    attended_N: NDArray[np.int64] | None = None,
    *,
    last_layer: bool = True,
) -> float:
    """Floating point operations of the layers on sequences of these lengths.

    `attended_N`: lengths that attention computes, where they are others than the linear layers'.
    `last_layer`: the last layer encodes all tokens; else it makes keys and values of them alone.
    """
    per_token = 8 * config.width**2 + 4 * config.width * config.ffn_width
    attended_N = lengths_N if attended_N is None else attended_N
    whole_N = lengths_N * per_token + 4 * config.width * attended_N**2
    last_N = whole_N if last_layer else lengths_N * 6 * config.width**2
    return float(((config.n_layers - 1) * whole_N + last_N).sum())


def measure_matrix_rate(dtype: torch.dtype) -> float:
    """GFLOP a second of a large matrix product."""
    a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds) / 1e9


class Bench:
    """Both models, the cells, and what each contender does in a run: one mini-batch of them."""

    def __init__(self, names: Sequence[str]) -> None:
        vocab = Vocabulary.load(RESOURCES / "genesets" / "scgpt_census_vocab.json")
        self.ckpt, self.baseline = build(vocab)
        self.adata = draw_cells(names, N_CELLS)
        self.cells = read_cells(self.adata, match_var(self.adata.var, vocab).ids)
        self.lengths_N = np.minimum(np.diff(self.cells.indptr) + 1, MAX_TOKENS)
        firsts = range(0, N_CELLS, BATCH_CELLS)
        self.mini_batches = [range(first, first + BATCH_CELLS) for first in firsts]

    def embed(self, rows: range, precision: EmbedPrecision) -> NDArray[np.float32]:
        """Ours."""
        adata = self.adata[np.array(rows)]
        return embed_cells(adata, self.ckpt, MAX_TOKENS, BATCH_CELLS, precision=precision)

    def embed_as_published(self, rows: range) -> Tensor:
        """Run the baseline, its collation included."""
        return self.baseline(*collate_as_published(self.cells, rows, self.ckpt.config))

    def embed_with_fused_attention(self, rows: range) -> Tensor:
        """Run the baseline on torch's slower-named but faster path, which fuses attention."""
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            return self.embed_as_published(rows)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)

    def reference(self, rows: range) -> NDArray[np.float32]:
        """Run the baseline's encoder on our tokens: what agreement is measured against."""
        return self.baseline(*tokenize_as_ours(self.cells, rows, self.ckpt.config)).numpy()

    def rates(self, runs: int) -> dict[str, list[float]]:
        """Cells a second; each run takes the next mini-batch."""

        def contender(embed: Callable[[range], Sized]) -> Callable[[], float]:
            turns = chain([range(WARM_UP_CELLS)], cycle(self.mini_batches))
            return lambda: len(embed(next(turns)))

        contenders = {
            "ours": contender(partial(self.embed, precision="auto")),
            "baseline": contender(self.embed_as_published),
            "baseline, fused attention": contender(self.embed_with_fused_attention),
        }
        if multiplies_bfloat16(torch.device("cpu")):
            contenders["ours, float32"] = contender(partial(self.embed, precision="float32"))
        if multiplies_int8():
            contenders["ours, int8"] = contender(partial(self.embed, precision="int8"))
        return measure(contenders, runs=runs)

    def gflop_per_cell(self) -> dict[str, float]:
        """Arithmetic of the layers: on real tokens, on padded ones, or both, by contender."""
        padded_N = np.concatenate(
            [np.full(len(rows), self.lengths_N[rows].max()) for rows in self.mini_batches]
        )
        config = self.ckpt.config
        flops = {
            "ours": count_flops(config, self.lengths_N, last_layer=False),
            "baseline": count_flops(config, self.lengths_N, padded_N),
            "baseline, fused attention": count_flops(config, padded_N),
        }
        return {name: n / len(self.lengths_N) / 1e9 for name, n in flops.items()}

    def agreement(self) -> dict[str, Any]:
        """Agreement with the baseline's encoder on equal tokens, and how alike two cells are."""
        rows = range(AGREEMENT_CELLS)
        reference_BD = self.reference(rows)
        precisions: list[EmbedPrecision] = ["auto", "float32"]
        if multiplies_int8():
            precisions.append("int8")
        embedded = {name: self.embed(rows, name) for name in precisions}
        others = np.triu_indices(AGREEMENT_CELLS, 1)
        return {
            "median_cosine": {
                name: float(np.median((emb_BD * reference_BD).sum(1)))
                for name, emb_BD in embedded.items()
            },
            "median_cosine_of_two_cells": float(np.median((reference_BD @ reference_BD.T)[others])),
            "float32_max_difference": float(np.abs(embedded["float32"] - reference_BD).max()),
        }


@torch.inference_mode()
def main(names: Sequence[str], runs: int) -> None:
    """Measure rates, arithmetic and agreement."""
    bench = Bench(names)
    rates = bench.rates(runs)
    gflop = bench.gflop_per_cell()
    matrix_rates = {"float32": measure_matrix_rate(torch.float32)}
    if "ours, float32" in rates:
        matrix_rates["bfloat16"] = measure_matrix_rate(torch.bfloat16)
    shares = {}
    for name, cells_per_s in rates.items():
        work = gflop["ours" if name.startswith("ours") else name]
        number = "bfloat16" if name == "ours" and "bfloat16" in matrix_rates else "float32"
        shares[name] = float(np.median(cells_per_s)) * work / matrix_rates[number]
    report(
        "embed",
        unit="cells/s",
        runs=rates,
        notes={
            "sets": list(names),
            "auto_is": "bfloat16" if "bfloat16" in matrix_rates else "float32",
            **bench.agreement(),
            "mean_tokens": float(bench.lengths_N.mean()),
            "longest": int(bench.lengths_N.max()),
            "gflop_per_cell": gflop,
            **{f"{number}_matrix_gflop_per_s": rate for number, rate in matrix_rates.items()},
            "share_of_matrix_rate": shares,
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--sets", nargs="+", default=SETS, help="of resources/cells")
    arguments = parser.parse_args()
    main(arguments.sets, arguments.runs)
