import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from scgpt_core.data.partitions import Partition
from scgpt_core.data.vocab import Vocabulary, build_vocab
from scgpt_core.keys import SPECIAL_TOKENS

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_vocabulary_survives_its_file(tmp_path: Path) -> None:
    vocab = Vocabulary([*SPECIAL_TOKENS, "ENSG1", "ENSG2"], [*SPECIAL_TOKENS, "A", "B"])
    vocab.save(tmp_path / "vocab.json")
    again = Vocabulary.load(tmp_path / "vocab.json")
    assert (again.tokens, again.symbols) == (vocab.tokens, vocab.symbols)
    assert again.digest == vocab.digest
    assert (again.pad_id, again.cls_id, again.n_tokens) == (0, 1, 5)
    assert again.gene_ids.tolist() == [3, 4]
    assert again.ids(["ENSG2", "A", "<cls>"]).tolist() == [4, -1, 1]


def test_a_published_vocabulary_keeps_its_ids() -> None:
    path = GOLDEN / "official_torch_keys/vocab.json"
    published = json.loads(path.read_text())
    vocab = Vocabulary.load(path)
    assert {token: id_ for id_, token in enumerate(vocab.tokens)} == published
    assert vocab.symbols == vocab.tokens


def test_a_published_vocabulary_without_special_tokens_gets_them_last(resources: Path) -> None:
    vocab = Vocabulary.load(resources / "genesets/scgpt_census_vocab.json")
    assert vocab.n_tokens == 60_697
    assert (vocab.pad_id, vocab.cls_id) == (60_694, 60_695)


def test_the_digest_is_of_the_order() -> None:
    one, other = (Vocabulary([*SPECIAL_TOKENS, *genes]) for genes in ("AB", "BA"))
    assert one.digest != other.digest


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_unopened(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.write_bytes(pickle.dumps({"A": 0}, protocol))
    with pytest.raises(ValueError, match=r"is no JSON object\. A pickled vocabulary is refused"):
        Vocabulary.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"A": 0, "B": 2}', "without gaps"),
        ('{"A": 0, "B": 0}', "without gaps"),
        ('{"A": "x"}', "without gaps"),
        ('{"A": 0, "B"', "not a whole JSON file"),
        ('{"format": "scgpt-vocabulary-1", "tokens": ["A"]}', "symbols"),
        ('{"format": "scgpt-vocabulary-1", "tokens": ["A"], "symbols": ["A"]}', "<pad>"),
        (
            '{"format": "scgpt-vocabulary-1", "tokens": ["A", "A"], "symbols": ["A", "A"]}',
            "'A' is the token of 2 ids",
        ),
    ],
)
def test_a_faulty_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Vocabulary.load(path)
    assert str(path) in str(caught.value)


def test_genes_get_a_token_that_enough_cells_have(partitions: list[Path], tmp_path: Path) -> None:
    n_cells = sum(
        np.bincount(block.indices, minlength=block.shape[1])
        for path in partitions
        for _, block in Partition(path).blocks()
    )
    genes = Partition(partitions[0]).genes["feature_id"].to_numpy()
    for min_cells in (1, 5):
        vocab = build_vocab(map(Partition, partitions), tmp_path / "v.json", min_cells=min_cells)
        assert vocab.tokens == [*SPECIAL_TOKENS, *sorted(genes[n_cells >= min_cells])]
    with pytest.raises(ValueError, match="no gene is found in 1000 cells"):
        build_vocab(map(Partition, partitions), tmp_path / "v.json", min_cells=1000)


def test_a_published_vocabulary_is_taken_whole(tmp_path: Path) -> None:
    published = GOLDEN / "official_torch_keys/vocab.json"
    vocab = build_vocab([], tmp_path / "v.json", min_cells=9, published=published)
    assert Vocabulary.load(tmp_path / "v.json").tokens == vocab.tokens
    assert vocab.tokens == Vocabulary.load(published).tokens
