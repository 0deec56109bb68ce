"""Score one embedding with every metric of the benchmark."""

from collections.abc import Mapping

import anndata as ad

from scgpt_core.cell_cycle import measure_phases, read_phase_genes
from scgpt_core.runs import start_logging
from scgpt_core.scores import score_embedding, write_scores


def main(
    embedding: str,
    unintegrated: str,
    dataset: str,
    genes: str,
    output: str,
    *,
    run: Mapping[str, str],
) -> None:
    phases = measure_phases(ad.read_h5ad(dataset), read_phase_genes(genes))
    scores = score_embedding(ad.read_h5ad(embedding), ad.read_h5ad(unintegrated), phases=phases)
    write_scores(output, scores, run)


start_logging(snakemake.log[0])
main(
    snakemake.input.embedding,
    snakemake.input.unintegrated,
    snakemake.input.dataset,
    snakemake.input.genes,
    snakemake.output[0],
    run=dict(snakemake.wildcards.items(), task="integration"),
)
