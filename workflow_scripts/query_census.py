"""Ask a Census which cells make the corpus."""

from collections.abc import Mapping

from scgpt_core.data.census import query_census
from scgpt_core.runs import start_logging


def main(
    output: str,
    *,
    census: str,
    organism: str,
    obs_value_filter: str,
    partition_cells: int,
    attempts: int,
    tiledb: Mapping[str, str],
) -> None:
    query_census(
        output,
        census=census,
        organism=organism,
        obs_value_filter=obs_value_filter,
        partition_cells=partition_cells,
        attempts=attempts,
        tiledb=tiledb,
    )


start_logging(snakemake.log[0])
main(snakemake.output.cells, **snakemake.params)
