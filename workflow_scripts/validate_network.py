"""Score networks beside known regulation and chance, and write their strongest edges."""

from collections.abc import Mapping
from pathlib import Path

from scgpt_core.networks.validation import validate_dataset
from scgpt_core.runs import start_logging


def main(
    scores: str,
    *,
    files: Mapping[str, str],
    sources: list[str],
    n_edges: int,
    seed: int,
) -> None:
    networks = {source: files[source] for source in sources}
    known = {name: files[name] for name in ("cells", "regulation", "gene_sets")}
    folder = Path(scores).parent
    validate_dataset(**known, networks=networks, output_folder=folder, n_edges=n_edges, seed=seed)


start_logging(snakemake.log[0])
main(
    snakemake.output.scores,
    files=dict(snakemake.input.items()),
    **snakemake.params,
)
