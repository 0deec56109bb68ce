"""Index the embeddings of the reference, anew or on indexes of its parts, and measure the index."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scgpt_core.config import IndexSettings
from scgpt_core.index import build_index
from scgpt_core.runs import start_logging


def main(
    embeddings: Sequence[str],
    manifest: str,
    *,
    indexed: Sequence[str],
    like: Sequence[str],
    settings: Mapping[str, Any],
    **options: Any,
) -> None:
    build_index(
        embeddings,
        Path(manifest).parent,
        settings=IndexSettings.model_validate(settings),
        indexed=list(dict.fromkeys(Path(file).parent for file in indexed)),
        like=Path(like[0]).parent if like else None,
        **options,
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.embeddings,
    snakemake.output.manifest,
    indexed=snakemake.input.get("indexed", []),
    like=snakemake.input.get("like", []),
    threads=snakemake.threads,
    **snakemake.params,
)
