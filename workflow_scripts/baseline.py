"""Embed a data set by one of the simple methods."""

import anndata as ad

from scgpt_core.baselines import run_baseline
from scgpt_core.runs import run_record, sha256, start_logging
from scgpt_core.tasks.datasets import write_embedding


def main(dataset: str, output: str, run_json: str, *, method: str, seed: str) -> None:
    adata = ad.read_h5ad(dataset)
    with run_record(run_json, {"method": method, "seed": int(seed)}) as run:
        run["dataset"] = sha256(dataset)
        write_embedding(run_baseline(method, adata, seed=int(seed)), adata, output)


start_logging(snakemake.log[0])
main(
    snakemake.input[0],
    snakemake.output.embedding,
    snakemake.output.run,
    **snakemake.params,
)
