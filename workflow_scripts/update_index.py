"""Add the cells of one more source to an index, and measure it anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scgpt_core.config import IndexSettings
from scgpt_core.index import build_index
from scgpt_core.runs import start_logging


def main(
    embeddings: Sequence[str],
    index: Sequence[str],
    manifest: str,
    *,
    settings: Mapping[str, Any],
    seed: int,
    threads: int,
    state: str,
) -> None:
    build_index(
        embeddings,
        Path(manifest).parent,
        settings=IndexSettings.model_validate(settings),
        seed=seed,
        threads=threads,
        state_folder=state,
        indexed=[Path(index[0]).parent],
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.embeddings,
    snakemake.input.index,
    snakemake.output.manifest,
    threads=snakemake.threads,
    **snakemake.params,
)
