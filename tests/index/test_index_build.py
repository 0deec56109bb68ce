"""An index is whole, measured, equal on every run, and says what is wrong with its input."""

import logging
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from reference_cells import ORIGIN, TYPES, WIDTH, draw, write_shard

from scgpt_core.config import IndexSettings
from scgpt_core.index import Embeddings, build_index, open_index, write_embeddings
from scgpt_core.index import build as build_module
from scgpt_core.index.description import choose_description
from scgpt_core.runs import read_json, sha256, write_json

COMPRESSED = IndexSettings(description="OPQ8_16,IVF8_HNSW8,PQ8x4fsr", nprobe=4, sample_cells=100)


def test_embeddings_come_back_in_order(shards: list[Path]) -> None:
    embeddings = Embeddings(shards)
    assert (embeddings.n_cells, embeddings.width) == (450, WIDTH)
    assert embeddings.origin == {
        "model": ORIGIN["model"],
        "precision": "float32",
        "settings": ORIGIN["settings"],
        "corpora": {ORIGIN["corpus"]: 450},
    }
    assert embeddings.columns == ["cell_type", "dataset_id", "tissue_general"]
    chunks = dict(embeddings.chunks(100))
    assert list(chunks) == [0, 150, 300]
    everything = np.concatenate(list(chunks.values()))
    rows = np.array([0, 63, 64, 149, 150, 449])
    np.testing.assert_array_equal(embeddings.rows(rows), everything[rows])
    from_70 = np.concatenate([part for _, part in embeddings.chunks(100, first=70)])
    np.testing.assert_array_equal(from_70, everything[70:])


@pytest.mark.parametrize(
    ("n_cells", "width", "expected"),
    [
        (99_999, 512, "Flat"),
        (100_000, 512, "OPQ40_80,IVF512_HNSW32,PQ40x4fsr"),
        (1_000_000, 512, "OPQ40_80,IVF2048_HNSW32,PQ40x4fsr"),
        (33_000_000, 512, "OPQ40_80,IVF8192_HNSW32,PQ40x4fsr"),
        (1_000_000, 48, "OPQ24_48,IVF2048_HNSW32,PQ24x4fsr"),
    ],
)
def test_the_description_follows_the_number_of_cells(
    n_cells: int, width: int, expected: str
) -> None:
    assert choose_description("auto", n_cells, width) == expected
    assert choose_description("IVF8,Flat", n_cells, width) == "IVF8,Flat"


def test_an_exact_index_finds_every_neighbour(exact_folder: Path) -> None:
    manifest = read_json(exact_folder / "manifest.json")
    assert manifest["description"] == "Flat"
    assert manifest["n_cells"] == 450
    assert manifest["model"] == ORIGIN["model"]
    assert manifest["corpora"] == {ORIGIN["corpus"]: 450}
    assert manifest["bytes_per_cell"] == pytest.approx(4 * WIDTH, rel=0.01)
    assert [manifest[f"recall@{k}"] for k in (1, 10, 50)] == [1, 1, 1]
    assert manifest["milliseconds_per_query"] > 0


def test_the_exact_index_ranks_by_cosine(exact_folder: Path, shards: list[Path]) -> None:
    everything = Embeddings(shards).rows(np.arange(450))
    queries = draw(np.array([0, 1, 2]), seed=99)
    found = open_index(exact_folder).search(queries, 5, model=ORIGIN["model"])
    cosine = queries @ everything.T
    np.testing.assert_array_equal(found.rows_QK, np.argsort(-cosine, axis=1)[:, :5])
    np.testing.assert_allclose(found.similarity_QK, -np.sort(-cosine, axis=1)[:, :5], atol=1e-5)


def test_recall_of_a_compressed_index_is_that_of_a_search_by_hand(
    shards: list[Path], tmp_path: Path
) -> None:
    manifest = build_index(shards, tmp_path, settings=COMPRESSED)
    reference = open_index(tmp_path)
    everything = Embeddings(shards).rows(np.arange(450))
    assert len(reference.sample.rows_S) == manifest["sample_cells"] == 100
    hits = []
    for cell in reference.sample.rows_S:
        cosine = everything @ everything[cell]
        cosine[cell] = -np.inf
        _, found = reference.index.search(everything[cell : cell + 1], 11)
        near = [row for row in found[0] if row != cell][:10]
        hits.append(len(set(near) & set(np.argsort(-cosine)[:10])) / 10)
    assert manifest["recall@10"] == pytest.approx(np.mean(hits), abs=0.01)  # ties
    assert 0.3 < manifest["recall@10"] < 1
    np.testing.assert_array_equal(reference.sample.emb_SD, everything[reference.sample.rows_S])


def test_too_low_recall_fails_and_leaves_nothing(shards: list[Path], tmp_path: Path) -> None:
    settings = COMPRESSED.model_copy(update={"min_recall": 0.999})
    with pytest.raises(ValueError, match=r"recall@10 .* below index.min_recall 0.999: raise"):
        build_index(shards, tmp_path / "index", settings=settings)
    assert not (tmp_path / "index").exists()


class CtrlC(logging.Handler):
    """Interrupts the process as soon as it logs this."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self.message):
            raise KeyboardInterrupt


@pytest.mark.parametrize("settings", [IndexSettings(sample_cells=50), COMPRESSED])
def test_an_interrupted_build_resumes_to_the_same_index(
    settings: IndexSettings,
    shards: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    build_index(shards, tmp_path / "at once", settings=settings)
    monkeypatch.setattr(build_module, "SCAN_CELLS", 100)  # so that each shard is a chunk
    resumed = {"settings": settings, "state_folder": tmp_path / "state", "save_seconds": 0}
    monkeypatch.setattr(build_module.logger, "handlers", [CtrlC("300 of 450 cells added")])
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        build_index(shards, tmp_path / "resumed", **resumed)
    assert not (tmp_path / "resumed").exists()
    (unfinished,) = (tmp_path / "state").iterdir()
    assert faiss.read_index(str(unfinished)).ntotal == 300
    monkeypatch.setattr(build_module.logger, "handlers", [])
    build_index(shards, tmp_path / "resumed", **resumed)
    assert not list((tmp_path / "state").iterdir())
    for name in ("index.faiss", "labels.arrow", "sample.arrow"):
        assert sha256(tmp_path / "at once" / name) == sha256(tmp_path / "resumed" / name)


def test_a_killed_build_takes_no_vectors_of_another_precision(
    shards: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(build_module, "SCAN_CELLS", 100)
    monkeypatch.setattr(build_module.logger, "handlers", [CtrlC("300 of 450 cells added")])
    build = {"settings": IndexSettings(sample_cells=50), "save_seconds": 0}
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        build_index(shards, tmp_path / "killed", state_folder=tmp_path / "state", **build)
    monkeypatch.setattr(build_module.logger, "handlers", [])
    again = [write_shard(tmp_path, i, noise=0.01, precision="bfloat16") for i in range(3)]
    build_index(again, tmp_path / "resumed", state_folder=tmp_path / "state", **build)
    build_index(again, tmp_path / "at once", **build)
    for name in ("index.faiss", "sample.arrow"):
        assert sha256(tmp_path / "at once" / name) == sha256(tmp_path / "resumed" / name)


def test_embeddings_of_two_precisions_are_refused(shards: list[Path], tmp_path: Path) -> None:
    other = write_shard(tmp_path, 7, corpus="own", precision="bfloat16")
    with pytest.raises(ValueError, match=r"different models or settings.*set embed\.precision"):
        Embeddings([*shards, other])
    build_index(shards, tmp_path / "first", settings=IndexSettings(sample_cells=50))
    with pytest.raises(ValueError, match="is of precision float32, the embeddings of bfloat16"):
        build_index(
            [other],
            tmp_path / "own",
            settings=IndexSettings(sample_cells=50),
            like=tmp_path / "first",
        )


def test_the_digest_knows_the_order_of_sources(tmp_path: Path) -> None:
    a, b = (
        write_shard(tmp_path / name, 0, corpus=name)
        for name in ("a", "b")
        if (tmp_path / name).mkdir() is None
    )
    assert Embeddings([a, b]).digest != Embeddings([b, a]).digest


def test_threads_change_nothing(shards: list[Path], tmp_path: Path) -> None:
    for threads in (1, 2):
        build_index(shards, tmp_path / f"{threads}", settings=COMPRESSED, threads=threads)
    assert sha256(tmp_path / "1/index.faiss") == sha256(tmp_path / "2/index.faiss")


def test_labels_keep_every_column_in_order(exact_folder: Path, shards: list[Path]) -> None:
    labels = open_index(exact_folder).labels
    obs = pa.concat_tables(
        pa.Table.from_batches([batch]).cast(
            pa.schema(
                [("soma_joinid", pa.int64()), *((name, pa.string()) for name in labels.columns)]
            )
        )
        for batch in Embeddings(shards).obs()
    )
    assert labels.columns == ["cell_type", "dataset_id", "tissue_general"]
    assert labels.categories("cell_type") == list(TYPES)
    names = obs["cell_type"].to_pylist()
    expected = [TYPES.index(name) if name in TYPES else -1 for name in names]
    assert labels.codes("cell_type").tolist() == expected
    rows = np.array([[449, 0], [-1, 151]])
    assert labels.codes("cell_type", rows).tolist() == [
        [expected[449], expected[0]],
        [-1, expected[151]],
    ]
    values = labels.values(["soma_joinid", "tissue_general"], np.array([151, -1]))
    assert values.to_pydict() == {"soma_joinid": [1001, None], "tissue_general": ["blood", None]}
    with pytest.raises(ValueError, match="no obs column 'colour'; it has: cell_type, dataset_id"):
        labels.codes("colour")


def test_files_that_do_not_belong_together_are_refused(shards: list[Path], tmp_path: Path) -> None:
    build_index(shards, tmp_path / "a", settings=IndexSettings(sample_cells=50))
    build_index(shards[:2], tmp_path / "b", settings=IndexSettings(sample_cells=50))
    for name in ("index.faiss", "labels.arrow", "sample.arrow"):
        mixed = Path(shutil.copytree(tmp_path / "a", tmp_path / f"mixed {name}"))
        shutil.copy(tmp_path / "b" / name, mixed)
        with pytest.raises(ValueError, match=rf"{name} is not the file that manifest.json was"):
            open_index(mixed)
        if name != "sample.arrow":
            with pytest.raises(ValueError, match="they do not belong together"):
                open_index(mixed, verify=False)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", ["index.faiss", "labels.arrow", "sample.arrow"])
@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_a_truncated_file_is_refused(
    name: str, verify: bool, share: float, exact_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exact_folder, tmp_path / "cut"))
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"{name} .* cut off"):
        open_index(folder, verify=verify)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} does not exist: run build_index"):
        open_index(folder)


def test_what_is_no_finished_index_of_this_format_is_refused(
    exact_folder: Path, shards: list[Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exact_folder, tmp_path / "other"))
    manifest = read_json(folder / "manifest.json")
    for schema in (2, None):
        write_json(folder / "manifest.json", manifest | {"schema": schema})
        with pytest.raises(ValueError, match=rf"is of format {schema}, where 1 is read: run"):
            open_index(folder)
    (folder / "manifest.json").unlink()
    for use in (
        lambda: open_index(folder),
        lambda: build_index(shards, tmp_path / "a", settings=IndexSettings(), like=folder),
    ):
        with pytest.raises(
            ValueError, match=r"manifest\.json does not exist: .* no finished index"
        ):
            use()


def test_embeddings_of_two_models_are_refused(shards: list[Path], tmp_path: Path) -> None:
    other = write_shard(tmp_path, 7, model="x" * 64)
    with pytest.raises(ValueError, match="are of different models or settings"):
        build_index([*shards, other], tmp_path / "index", settings=IndexSettings())


@pytest.mark.parametrize("settings", [IndexSettings(sample_cells=50), COMPRESSED])
def test_cells_are_added_or_indexes_merged_without_training(
    settings: IndexSettings, shards: list[Path], tmp_path: Path
) -> None:
    own = [write_shard(tmp_path, 7, n_cells=80, corpus="own")]
    build_index(shards, tmp_path / "first", settings=settings)
    build_index(own, tmp_path / "own", settings=settings, like=tmp_path / "first")
    built = {
        "updated": [tmp_path / "first"],
        "merged": [tmp_path / "first", tmp_path / "own"],
    }
    for name, indexed in built.items():
        manifest = build_index([*shards, *own], tmp_path / name, settings=settings, indexed=indexed)
        assert manifest["corpora"] == {ORIGIN["corpus"]: 450, "own": 80}
        assert manifest["recall@10"] > 0.3
    reference, merged = open_index(tmp_path / "updated"), open_index(tmp_path / "merged")
    joinids = reference.labels.values(["soma_joinid"], np.array([0, 450, 529]))
    assert joinids["soma_joinid"].to_pylist() == [0, 7000, 7079]
    queries = draw(np.arange(60) % 3, seed=11)
    found = reference.search(queries, 10, model=ORIGIN["model"])
    assert (found.rows_QK >= 450).any()
    np.testing.assert_array_equal(
        found.rows_QK, merged.search(queries, 10, model=ORIGIN["model"]).rows_QK
    )


def test_what_cannot_be_merged_is_refused(shards: list[Path], tmp_path: Path) -> None:
    own = [write_shard(tmp_path, 7, n_cells=150, corpus="own")]
    everything, first, apart = [*shards, *own], tmp_path / "first", tmp_path / "apart"
    build_index(shards, first, settings=COMPRESSED)
    build_index(own, apart, settings=COMPRESSED)
    with pytest.raises(ValueError, match="were trained apart"):
        build_index(everything, tmp_path / "a", settings=COMPRESSED, indexed=[first, apart])
    with pytest.raises(ValueError, match="hold other cells than the embeddings begin with"):
        build_index(everything, tmp_path / "b", settings=COMPRESSED, indexed=[apart])
    other = write_shard(tmp_path, 8, model="x" * 64)
    for base in ({"indexed": [first]}, {"like": first}):
        with pytest.raises(ValueError, match="cells of both cannot be in one reference"):
            build_index([other], tmp_path / "c", settings=COMPRESSED, **base)


def test_only_columns_that_all_files_have_are_kept(shards: list[Path], tmp_path: Path) -> None:
    obs = pa.table({"soma_joinid": [1, 2], "cell_type": ["B cell", "NK"], "mine": ["a", "b"]})
    own = tmp_path / "own.arrow"
    write_embeddings(own, obs, [draw(np.zeros(2, int), seed=0)], origin=ORIGIN | {"corpus": "own"})
    build_index([*shards, own], tmp_path / "index", settings=IndexSettings(sample_cells=50))
    labels = open_index(tmp_path / "index").labels
    assert labels.columns == ["cell_type"]
    assert labels.categories("cell_type") == ["B cell", "NK", "T cell", "monocyte"]


def test_a_cut_off_embedding_file_is_refused(shards: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "shard_0.arrow"
    cut.write_bytes(shards[0].read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"shard_0.arrow is missing or cut off"):
        Embeddings([cut])
    with pytest.raises(ValueError, match=r"shard_9.arrow is missing or cut off"):
        Embeddings([tmp_path / "shard_9.arrow"])


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (3, "length one")]
)
def test_broken_embeddings_are_not_written(value: float, said: str, tmp_path: Path) -> None:
    emb = draw(np.zeros(4, int), seed=0)
    emb[2, 0] = value
    obs = pa.table({"soma_joinid": np.arange(4)})
    with pytest.raises(
        ValueError, match=rf"1 of 4 embeddings are broken; that of row 2 is.*{said}"
    ):
        write_embeddings(tmp_path / "shard_0.arrow", obs, [emb], origin=ORIGIN)
    assert not list(tmp_path.iterdir())


def test_files_without_cells_are_passed_over(shards: list[Path], tmp_path: Path) -> None:
    obs = pa.ipc.open_file(shards[0]).read_all().drop_columns("X_emb")
    empty = tmp_path / "shard_0.arrow"
    write_embeddings(empty, obs[:0], [], origin=ORIGIN)
    assert pa.ipc.open_file(empty).read_all().column_names == [*obs.column_names, "X_emb"]
    embeddings = Embeddings([empty, shards[0], empty, *shards[1:], empty])
    expected = Embeddings(shards)
    assert embeddings.origin == expected.origin
    for (first, part), (row, emb) in zip(embeddings.chunks(100), expected.chunks(100), strict=True):
        assert first == row
        np.testing.assert_array_equal(part, emb)
    build_index([empty, *shards], tmp_path / "index", settings=IndexSettings(sample_cells=50))
    with pytest.raises(ValueError, match="have no cells to index"):
        Embeddings([empty])


def test_what_faiss_cannot_make_is_said(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"index.description 'IVFx' makes no faiss index of width"):
        build_index(shards, tmp_path, settings=IndexSettings(description="IVFx"))
    with pytest.raises(ValueError, match="450 cells are too few to train"):
        build_index(shards, tmp_path, settings=IndexSettings(description="IVF512,Flat"))
