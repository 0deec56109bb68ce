"""Make a local Census of h5ad files."""

from scgpt_core.data.local_census import build_census
from scgpt_core.runs import start_logging


def main(table: str, output: str, *, cell_types: str, root: str) -> None:
    build_census(table, output, root=root, cell_types=cell_types)


start_logging(snakemake.log[0])
main(
    snakemake.input.table,
    snakemake.output[0],
    cell_types=snakemake.input.cell_types,
    **snakemake.params,
)
