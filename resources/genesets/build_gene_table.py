"""Build scgpt_core/data/human_genes.parquet from the GENCODE and HGNC tables.

GENCODE: the human gene table of the CELLxGENE schema (csv.gz without header: Ensembl id, symbol,
version, length in bases, biotype). HGNC: the "custom download" (tsv.gz) with approved, alias and
previous symbols and Ensembl ids.

    python resources/genesets/build_gene_table.py GENCODE.csv.gz HGNC.tsv.gz OUTPUT.parquet
"""

import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def main(gencode: str, hgnc: str, output: str) -> None:
    """Write one row a GENCODE gene, sorted by Ensembl id, with what HGNC calls it."""
    genes = pd.read_csv(gencode, header=None, keep_default_na=False).iloc[:, [0, 1, 3, 4]]
    genes.columns = pd.Index(["gene_id", "symbol", "length", "biotype"])
    names = pd.read_csv(hgnc, sep="\t", dtype=str, keep_default_na=False)
    names = names[(names["Status"] == "Approved") & (names["Ensembl gene ID"] != "")]
    names = names.drop_duplicates("Ensembl gene ID").set_index("Ensembl gene ID")
    genes = genes.sort_values("gene_id", ignore_index=True)
    hgnc_names = names.reindex(genes["gene_id"]).fillna("")
    table = pa.table(
        {
            "gene_id": genes["gene_id"],
            "symbol": genes["symbol"],
            "hgnc_symbol": hgnc_names["Approved symbol"].to_list(),
            "length": pa.array(genes["length"], pa.int32()),
            "biotype": pa.array(genes["biotype"]).dictionary_encode(),
            "previous": hgnc_names["Previous symbols"].map(_split).to_list(),
            "aliases": hgnc_names["Alias symbols"].map(_split).to_list(),
        }
    )
    pq.write_table(
        table,
        Path(output),
        compression="zstd",
        compression_level=19,
        use_dictionary=["biotype"],
        column_encoding={"gene_id": "DELTA_BYTE_ARRAY"},
    )


def _split(symbols: str) -> list[str]:
    return [symbol.strip() for symbol in symbols.split(",") if symbol.strip()]


if __name__ == "__main__":
    main(*sys.argv[1:])
