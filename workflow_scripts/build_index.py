"""Index the embeddings of the reference and measure the index."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scgpt_core.config import IndexSettings
from scgpt_core.index import build_index
from scgpt_core.runs import start_logging


def main(
    embeddings: Sequence[str],
    like: Sequence[str],
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
        like=Path(like[0]).parent if like else None,
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.embeddings,
    snakemake.input.like,
    snakemake.output.manifest,
    threads=snakemake.threads,
    **snakemake.params,
)
