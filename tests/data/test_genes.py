from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgpt_core.data.genes import load_gene_table, match_genes, match_var
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import SPECIAL_TOKENS


def own(*genes: str) -> Vocabulary:
    """A vocabulary of Ensembl ids with the symbols of the gene table."""
    table = load_gene_table()
    symbol = dict(zip(table["gene_id"].to_pylist(), table["symbol"].to_pylist(), strict=True))
    return Vocabulary([*SPECIAL_TOKENS, *genes], [*SPECIAL_TOKENS, *(symbol[g] for g in genes)])


def published(*symbols: str) -> Vocabulary:
    return Vocabulary([*symbols, *SPECIAL_TOKENS])


CD3D, SEPTIN1, EIF1 = "ENSG00000167286", "ENSG00000180096", "ENSG00000173812"
PADI4 = "ENSG00000159339"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (CD3D, "token"),
        (f"{CD3D}.12", "ensembl"),
        ("CD3D", "symbol"),
        (f"CD3D_{CD3D}", "ensembl"),
        ("T3D", "previous"),
        ("CD3-DELTA", "alias"),
        ("cd3d", "unknown"),
        ("", "unknown"),
    ],
)
def test_every_kind_of_name_leads_to_the_gene(name: str, how: str) -> None:
    match = match_genes([name], own(PADI4, CD3D))
    assert match.how == [how]
    assert match.ids[0] == (4 if how != "unknown" else -1)


@pytest.mark.parametrize("name", ["SEPTIN1", "SEPT1", "DIFF6", SEPTIN1, f"{SEPTIN1}.3"])
@pytest.mark.parametrize("token", ["SEPTIN1", "SEPT1"])
def test_a_published_vocabulary_is_found_under_old_and_new_names(name: str, token: str) -> None:
    assert match_genes([name], published("EIF1", token)).ids[0] == 1


def test_an_id_of_var_says_more_than_its_index() -> None:
    var = pd.DataFrame({"feature_id": [f"{CD3D}.12", ""]}, index=["SEPTIN1", "EIF1"])
    assert match_var(var, own(CD3D, SEPTIN1, EIF1)).ids.tolist() == [3, 5]


def test_upper_case_open_reading_frames_are_known() -> None:
    table = load_gene_table().to_pandas()
    gene = table[table["symbol"] == "C1orf159"].iloc[0]
    assert match_genes(["C1ORF159"], own(gene["gene_id"])).ids[0] == 3


def test_a_name_of_several_genes_is_ambiguous() -> None:
    # QARS is a previous symbol of QARS1 and of EPRS1.
    both = own("ENSG00000172053", "ENSG00000136628")
    match = match_genes(["QARS"], both)
    assert (match.ids[0], match.how) == (-1, ["ambiguous"])
    assert match_genes(["QARS"], own("ENSG00000172053")).ids[0] == 3


def test_the_best_name_has_the_token_and_the_others_are_duplicates() -> None:
    match = match_genes(["T3D", "CD3D", "CD3D", "CD3-DELTA"], own(CD3D))
    assert match.ids.tolist() == [-1, 3, -1, -1]
    assert match.how == ["duplicate", "symbol", "duplicate", "duplicate"]


def test_special_tokens_are_no_genes() -> None:
    assert match_genes(["<pad>", "<cls>"], own(CD3D)).ids.tolist() == [-1, -1]


def test_an_id_in_use_is_not_mistaken_for_a_gene_that_had_its_symbol() -> None:
    vocab = own(CD3D)
    assert match_genes([EIF1], vocab, symbols=["T3D"]).ids[0] == -1
    assert match_genes(["ENSG00000999999"], vocab, symbols=["T3D"]).ids[0] == 3
    assert match_genes([""], vocab, symbols=["CD3D"]).ids[0] == 3


def test_a_report_and_a_stop_say_what_was_found() -> None:
    match = match_genes(["CD3D", "nonsense", "Gapdh"], own(CD3D))
    assert match.report() == ("1 of 3 genes matched: 1 by symbol; 2 unknown (nonsense, Gapdh)")
    match.require(1 / 3)
    with pytest.raises(ValueError, match=r"mine\.h5ad: 33\.3% of the genes .* 50\.0% are required"):
        match.require(0.5, source="mine.h5ad")
    match.require(0.9, np.array([95, 3, 2]))
    with pytest.raises(ValueError, match=r"5\.0% of the counts"):
        match.require(0.9, np.array([5, 90, 5]))


@pytest.mark.parametrize("name", ["pbmc_zheng_facs", "pbmc_kang_harmony2k", "pbmc_symphony_3tech"])
def test_real_data_sets_match_a_published_vocabulary(name: str, resources: Path) -> None:
    cells = ad.read_h5ad(resources / f"cells/{name}.h5ad", backed="r")
    vocab = Vocabulary.load(resources / "genesets/scgpt_census_vocab.json")
    match = match_var(cells.var, vocab)
    assert match.matched.mean() > 0.9
    assert len(np.unique(match.ids[match.matched])) == match.matched.sum()
