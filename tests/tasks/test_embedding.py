"""What a cell's embedding must not depend on; `test_parity` holds it to the published numbers."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import EmbedSettings
from scgpt_core.data.cells import Cells
from scgpt_core.model import ScGPT
from scgpt_core.model.int8 import multiplies_int8
from scgpt_core.runs import read_json
from scgpt_core.tasks import embedder, embedding
from scgpt_core.tasks.embedding import embed_blocks, embed_cells, embed_dataset

MODEL = Path(__file__).parents[1] / "golden" / "official_torch_keys"
N_CELLS, N_GENES = 60, 190
TOKENS = 50


@pytest.fixture(scope="module")
def ckpt() -> Checkpoint:
    return load_checkpoint(MODEL, device="cpu")


@pytest.fixture(scope="module")
def cells(ckpt: Checkpoint) -> ad.AnnData:
    """Cells of very different lengths, some beyond TOKENS, with many ties."""
    rng = np.random.default_rng(0)
    share = rng.uniform(0.05, 0.6, (N_CELLS, 1))
    counts = rng.poisson(3, (N_CELLS, N_GENES)) * (rng.random((N_CELLS, N_GENES)) < share)
    genes = [token for token in ckpt.vocab.tokens if not token.startswith("<")][:N_GENES]
    return ad.AnnData(
        csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame(index=genes),
    )


def embed(adata: ad.AnnData, ckpt: Checkpoint, **changes: object) -> NDArray[np.float32]:
    return embed_cells(adata, ckpt, **({"max_tokens": TOKENS, "precision": "float32"} | changes))


@pytest.fixture(scope="module")
def reference(cells: ad.AnnData, ckpt: Checkpoint) -> NDArray[np.float32]:
    return embed(cells, ckpt)


def test_unit_rows_of_every_cell(reference: NDArray[np.float32], cells: ad.AnnData) -> None:
    assert reference.shape == (cells.n_obs, 32)
    assert reference.dtype == np.float32
    assert np.allclose(np.linalg.norm(reference, axis=1), 1, atol=1e-6)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.integers(0, N_CELLS - 1), min_size=1, unique=True),
    genes=st.permutations(range(N_GENES)),
    batch_size=st.integers(1, 80),
    storage=st.sampled_from(["csr", "csc", "dense", "view"]),
    chunk=st.integers(1, 80),
    ahead=st.integers(1, 5),
)
def test_a_cell_does_not_depend_on_what_stands_beside_it(
    cells: ad.AnnData,
    ckpt: Checkpoint,
    reference: NDArray[np.float32],
    rows: list[int],
    genes: list[int],
    batch_size: int,
    storage: str,
    chunk: int,
    ahead: int,
) -> None:
    """Order, subset, mini-batch, chunk, work done ahead, order of genes, storage."""
    part = cells[rows][:, genes]
    if storage != "view":
        part = part.copy()
        as_stored = {"csr": csr_matrix, "csc": csc_matrix, "dense": lambda x: x.toarray()}
        part.X = as_stored[storage](part.X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "CHUNK_CELLS", chunk)
        patch.setattr(embedder, "_BATCHES_AHEAD", ahead)
        part_embedding = embed(part, ckpt, batch_size=batch_size)
    assert np.abs(part_embedding - reference[rows]).max() < 1e-5


def test_equal_batch_shapes_give_equal_bytes(
    cells: ad.AnnData, ckpt: Checkpoint, reference: NDArray[np.float32]
) -> None:
    order = np.random.default_rng(1).permutation(N_CELLS)
    assert np.array_equal(embed(cells[order], ckpt), reference[order])
    assert np.array_equal(embed(cells, ckpt), reference)


def test_threads_change_no_embedding(
    cells: ad.AnnData, ckpt: Checkpoint, reference: NDArray[np.float32]
) -> None:
    n_threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert np.abs(embed(cells, ckpt) - reference).max() < 1e-5
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.skipif(not multiplies_int8(), reason="needs AVX2")
def test_int8_is_near_and_the_same_in_any_company(cells: ad.AnnData, ckpt: Checkpoint) -> None:
    torch.manual_seed(0)
    config = ckpt.config.model_copy(update={"width": 64, "ffn_width": 64})
    wide = replace(ckpt, model=ScGPT(config).eval(), config=config, digest="random")
    exact, ours = embed(cells, wide), embed(cells, wide, precision="int8")
    assert (exact * ours).sum(1).min() > 0.9998  # 0.99992 to 0.99995 by the weights drawn
    rows = np.random.default_rng(1).permutation(N_CELLS)[:20]
    assert np.array_equal(embed(cells[rows], wide, precision="int8", batch_size=3), ours[rows])
    with pytest.raises(ValueError, match="use float32"):
        embed(cells, ckpt, precision="int8")  # heads of width 8


@pytest.mark.parametrize("sparse", [True, False])
def test_backed_cells(
    cells: ad.AnnData,
    ckpt: Checkpoint,
    reference: NDArray[np.float32],
    tmp_path: Path,
    *,
    sparse: bool,
) -> None:
    stored = cells.copy()
    if not sparse:
        stored.X = stored.X.toarray()
    stored.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "CHUNK_CELLS", 7)
        assert np.abs(embed(backed, ckpt) - reference).max() < 1e-5
    backed.file.close()


def test_names_and_seed_decide_what_is_drawn(
    cells: ad.AnnData, ckpt: Checkpoint, reference: NDArray[np.float32]
) -> None:
    renamed = cells.copy()
    renamed.obs_names = [f"other{i}" for i in range(N_CELLS)]
    assert np.abs(embed(renamed, ckpt) - reference).max() > 1e-3
    assert np.abs(embed(cells, ckpt, seed=1) - reference).max() > 1e-3
    joined = [renamed.copy(), cells.copy()]
    for adata in joined:
        adata.obs["soma_joinid"] = np.arange(N_CELLS)
    first, second = (embed(adata, ckpt) for adata in joined)
    assert np.array_equal(first, second)


def test_cells_without_genes_and_no_cells_at_all(cells: ad.AnnData, ckpt: Checkpoint) -> None:
    emptied = cells[:3].copy()
    emptied.X = emptied.X.multiply(np.array([[1], [0], [1]])).tocsr()
    assert np.isfinite(embed(emptied, ckpt)).all()
    assert embed(cells[:0], ckpt).shape == (0, 32)


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
def test_cells_of_one_name_are_refused(cells: ad.AnnData, ckpt: Checkpoint) -> None:
    with pytest.raises(ValueError, match="'cell0' occurs 2 times"):
        embed(cells[[0, 0]], ckpt)


def test_wrong_input_stops_with_what_was_found(cells: ad.AnnData, ckpt: Checkpoint) -> None:
    scaled = cells.copy()
    scaled.X = scaled.X.toarray() - 1
    with pytest.raises(ValueError, match="negative values"):
        embed(scaled, ckpt)
    foreign = cells.copy()
    foreign.var_names = [f"FBgn{i:07}" for i in range(N_GENES)]
    with pytest.raises(ValueError, match=r"0\.0% of the counts .* 50\.0% are required"):
        embed(foreign, ckpt)


def test_logarithms_are_embedded_with_a_warning(
    cells: ad.AnnData, ckpt: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    logged = cells.copy()
    logged.X = logged.X.log1p()
    embed(logged, ckpt)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "not whole numbers" in warnings[0].message


def test_deep_cells_are_sampled_down_and_no_others(
    cells: ad.AnnData, ckpt: Checkpoint, reference: NDArray[np.float32]
) -> None:
    shallow_N = np.asarray(cells.X.sum(axis=1)).ravel() <= 100
    assert 0 < shallow_N.sum() < N_CELLS
    sampled = embed(cells, ckpt, max_counts=100)
    np.testing.assert_allclose(sampled[shallow_N], reference[shallow_N], atol=1e-5)
    assert (np.abs(sampled - reference).max(axis=1)[~shallow_N] > 1e-3).all()
    rows = np.flatnonzero(~shallow_N)[::-2]
    again = embed(cells[rows], ckpt, max_counts=100, batch_size=3)
    np.testing.assert_allclose(again, sampled[rows], atol=1e-5)
    logged = cells.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(ValueError, match="no raw counts cannot be sampled down"):
        embed(logged, ckpt, max_counts=100)


class KilledError(Exception):
    """Stands for SIGKILL between two chunks."""


def test_killed_run_goes_on_from_its_finished_chunks(
    cells: ad.AnnData,
    ckpt: Checkpoint,
    reference: NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "CHUNK_CELLS", 20)
    embedded: list[int] = []
    run = embedder._Embedder._run

    def run_until_killed(self: object, batch: object) -> NDArray[np.float32]:
        if sum(embedded) >= 40:
            raise KilledError
        result = run(self, batch)
        embedded.append(len(result))
        return result

    monkeypatch.setattr(embedder._Embedder, "_run", run_until_killed)
    with pytest.raises(KilledError):
        embed(cells, ckpt, parts=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    embedded.clear()
    assert np.abs(embed(cells, ckpt, parts=tmp_path) - reference).max() < 1e-5
    assert sum(embedded) == 20
    # Other settings are other work.
    embedded.clear()
    embed(cells[:20], ckpt, parts=tmp_path, seed=1)
    assert sum(embedded) == 20


def test_blocks_keep_their_order_and_no_thread_is_left(
    cells: ad.AnnData, ckpt: Checkpoint, reference: NDArray[np.float32]
) -> None:
    match = embedding.match_var(cells.var, ckpt.vocab)
    blocks = list(embedding._read_blocks(cells, match, 0.5))
    before = threading.active_count()

    def doubled() -> Iterator[Cells]:
        yield from (*blocks, *blocks)

    whole = list(
        embed_blocks(doubled(), ckpt, max_tokens=TOKENS, batch_size=8, seed=0, precision="float32")
    )
    assert [len(block) for block in whole] == [N_CELLS, N_CELLS]
    assert np.abs(whole[1] - reference).max() < 1e-5
    assert threading.active_count() == before


def test_embed_dataset_writes_what_the_score_reads(
    cells: ad.AnnData, reference: NDArray[np.float32], tmp_path: Path
) -> None:
    dataset = cells.copy()
    dataset.obs["batch"] = pd.Categorical(["a", "b"] * (N_CELLS // 2))
    dataset.obs["label"] = pd.Categorical(["x", "y", "unknown"] * (N_CELLS // 3))
    dataset.uns["source_sha256"] = "a" * 64
    dataset.write_h5ad(tmp_path / "dataset.h5ad")
    outputs = {}
    for init in ("pretrained", "random"):
        folder = tmp_path / init
        embed_dataset(
            tmp_path / "dataset.h5ad",
            MODEL,
            folder / "embedding.h5ad",
            folder / "run.json",
            settings=EmbedSettings(max_tokens=TOKENS, precision="float32"),
            init=init,
            seed=0,
        )
        outputs[init] = ad.read_h5ad(folder / "embedding.h5ad")
        assert sorted(path.name for path in folder.iterdir()) == ["embedding.h5ad", "run.json"]
    written = outputs["pretrained"]
    assert np.abs(written.obsm["X_emb"] - reference).max() < 1e-5
    assert np.abs(outputs["random"].obsm["X_emb"] - reference).max() > 0.1
    assert written.obs_names.equals(dataset.obs_names)
    assert written.obs["label"].tolist() == dataset.obs["label"].tolist()
    assert written.uns["source_sha256"] == "a" * 64
    run = read_json(tmp_path / "random" / "run.json")
    assert run["settings"]["init"] == "random"
    assert run["multiplied_in"] == "float32"
    assert run["model"] != json.loads((tmp_path / "pretrained" / "run.json").read_text())["model"]


def test_a_forward_pass_takes_a_cell(cells: ad.AnnData, ckpt: Checkpoint) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        embed(cells, ckpt, batch_size=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gpu_agrees_with_cpu(
    cells: ad.AnnData, reference: NDArray[np.float32], precision: str
) -> None:
    ckpt = load_checkpoint(MODEL, device="cuda")
    cosines = (embed(cells, ckpt, precision=precision) * reference).sum(1)
    assert cosines.min() > (0.999 if precision == "bfloat16" else 1 - 1e-5)
