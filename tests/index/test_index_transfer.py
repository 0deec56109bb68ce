"""Labels go to a query with a confidence that holds, and what cannot be mapped is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from reference_cells import ORIGIN, TYPES, WIDTH, draw, unit

from scgpt_core.config import IndexSettings, MappingSettings
from scgpt_core.index import (
    LabelTransfer,
    build_index,
    map_query,
    open_index,
    read_ontology,
    write_embeddings,
)
from scgpt_core.index.transfer import Reference
from scgpt_core.index.vote import calibration_error

MODEL = ORIGIN["model"]
SETTINGS = MappingSettings(
    neighbours=5, report_columns=("cell_type", "dataset_id"), novelty_quantile=0.99
)
ONTOLOGY = Path(__file__).parents[2] / "resources/cell_ontology.tsv"


@pytest.fixture(scope="module")
def reference(exact_folder: Path) -> Reference:
    return open_index(exact_folder)


def make_reference(folder: Path, emb: np.ndarray, **obs: object) -> Reference:
    """Reference of these cells, all of which are sampled."""
    table = pa.table({"soma_joinid": np.arange(len(emb)), **obs})
    write_embeddings(folder / "shard_0.arrow", table, [emb], origin=ORIGIN)
    build_index([folder / "shard_0.arrow"], folder / "index", settings=IndexSettings())
    return open_index(folder / "index")


def test_cells_get_the_label_of_their_kind(reference: Reference) -> None:
    types = np.repeat([0, 1, 2], 40)
    names = [f"cell {i}" for i in range(120)]
    table = map_query(reference, draw(types, 5), model=MODEL, settings=SETTINGS, cells=names)
    assert table["cell"].to_pylist() == names
    predicted = np.array(table["predicted"].to_pylist())
    assert (predicted == np.array(TYPES)[types]).mean() > 0.95
    confidence = table["confidence"].to_numpy()
    assert ((confidence > 0) & (confidence < 1)).all()
    assert confidence.mean() > 0.9
    assert np.mean(table["unknown"].to_pylist()) < 0.1


def test_neighbours_stand_beside_the_predictions(reference: Reference) -> None:
    query = reference.sample.emb_SD[:2]
    table = map_query(reference, query, model=MODEL, settings=SETTINGS)
    assert table.schema.field("neighbour_soma_joinid").type == pa.list_(pa.int64(), 5)
    labelled = reference.labels.codes("cell_type")[reference.sample.rows_S[:2]] >= 0
    own = reference.labels.values(["soma_joinid"], reference.sample.rows_S[:2])
    nearest = [cells[0] for cells in table["neighbour_soma_joinid"].to_pylist()]
    assert labelled.any()
    assert np.array(nearest)[labelled].tolist() == own["soma_joinid"].to_numpy()[labelled].tolist()
    cosines = np.array(table["neighbour_similarity"].to_pylist())
    np.testing.assert_allclose(cosines[labelled, 0], 1, atol=1e-6)
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert set(table["neighbour_dataset_id"][0].as_py()) <= {"one", "two"}


def test_unlabelled_cells_never_vote(tmp_path: Path) -> None:
    # 90 unlabelled cells lie between the query and the 10 labelled ones.
    angle = np.concatenate([np.full(90, 0.01), np.full(10, 0.3)])
    emb = unit(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    emb[:90, 1] += np.linspace(0, 0.001, 90)
    labels = ["unknown"] * 90 + ["B cell"] * 10
    reference = make_reference(tmp_path, unit(emb), cell_type=labels, dataset_id=["one"] * 100)
    query = np.array([[1, 0]], np.float32)
    table = map_query(reference, query, model=MODEL, settings=SETTINGS)
    assert table["predicted"].to_pylist() == ["B cell"]
    assert table["neighbour_cell_type"].to_pylist() == [["B cell"] * 5]


def test_frequency_correction_lets_rare_labels_win(tmp_path: Path) -> None:
    # At the query three of a common and two of a rare type, all equally near.
    common = np.tile([1.0, 0, 0], (3, 1))
    far = np.tile([0, 1.0, 0], (45, 1))
    rare = np.tile([1.0, 0, 0], (2, 1))
    emb = np.vstack([common, far, rare]).astype(np.float32)
    labels = ["B cell"] * 48 + ["T cell"] * 2
    reference = make_reference(tmp_path, emb, cell_type=labels, dataset_id=["one"] * 50)
    query = np.array([[1, 0, 0]], np.float32)
    found = {}
    for exponent in (0.0, 0.5):
        settings = SETTINGS.model_copy(update={"frequency_correction": exponent})
        table = map_query(reference, query, model=MODEL, settings=settings)
        found[exponent] = table["predicted"].to_pylist()
    assert found == {0.0: ["B cell"], 0.5: ["T cell"]}


def test_cells_of_a_type_that_the_reference_lacks_are_novel(reference: Reference) -> None:
    known, new = draw(np.repeat([0, 1, 2], 30), 6), draw(np.full(90, 3), 7)
    transfer = LabelTransfer(reference, SETTINGS)
    novelty = {
        name: transfer.map([""] * 90, emb, model=MODEL)["novelty"].to_numpy()
        for name, emb in (("known", known), ("new", new))
    }
    assert 0.3 < novelty["known"].mean() < 0.7
    assert (novelty["new"] > 0.99).all()
    assert all(transfer.map([""] * 90, new, model=MODEL)["unknown"].to_pylist())


def test_confidence_is_measured_across_data_sets(tmp_path: Path) -> None:
    # Each of three data sets has every fifth of 20 kinds of cells wrong, another's not its own:
    # its own cells would confirm that, and those of the others tell.
    rng = np.random.default_rng(0)
    n, n_kinds = 900, 20
    dataset, kind = rng.integers(0, 3, n), rng.integers(0, n_kinds, n)
    emb = rng.normal(0, 0.1, (n, n_kinds + 3))
    emb[np.arange(n), kind] += 2
    emb[np.arange(n), n_kinds + dataset] += 1
    is_wrong = kind % 5 == dataset
    labels = np.array(["B cell", "T cell"])[(kind % 2) ^ is_wrong]
    names = np.array(["one", "two", "three"])[dataset]
    reference = make_reference(tmp_path, unit(emb), cell_type=labels, dataset_id=names)
    across = LabelTransfer(reference, SETTINGS).report
    assert across["calibrated_across"] == "dataset_id"
    assert across["calibration_cells"] == n
    within = LabelTransfer(reference, SETTINGS.model_copy(update={"calibrate_across": None}))
    assert within.report["calibrated_across"] is None
    assert within.report["calibration_accuracy"] > 0.95
    assert across["calibration_accuracy"] < 0.7
    assert across["calibration_error"] < 0.06


def test_confidence_holds_for_new_cells(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def cells(n: int) -> tuple[np.ndarray, np.ndarray]:
        types = rng.integers(0, 3, n)
        return unit(np.eye(6)[types] + rng.normal(0, 0.45, (n, 6))), types

    emb, types = cells(1500)
    labels, names = np.array(TYPES)[types], np.array(["a", "b", "c"])[rng.integers(0, 3, 1500)]
    reference = make_reference(tmp_path, emb, cell_type=labels, dataset_id=names)
    query, truth = cells(1000)
    table = map_query(reference, query, model=MODEL, settings=SETTINGS)
    right = np.array(table["predicted"].to_pylist()) == np.array(TYPES)[truth]
    assert 0.6 < right.mean() < 0.95
    assert calibration_error(table["confidence"].to_numpy(), right) < 0.06


def test_a_reference_cell_does_not_vote_for_itself(tmp_path: Path) -> None:
    """Labels that have nothing to do with the cells: only its own would tell a cell's label."""
    rng = np.random.default_rng(3)
    labels = np.array(TYPES)[rng.integers(0, 3, 400)]
    reference = make_reference(
        tmp_path, unit(rng.normal(size=(400, 16))), cell_type=labels, dataset_id=["one"] * 400
    )
    settings = SETTINGS.model_copy(update={"calibrate_across": None})
    table = map_query(reference, unit(rng.normal(size=(50, 16))), model=MODEL, settings=settings)
    assert table["confidence"].to_numpy().max() < 0.5


def test_a_doubtful_cell_falls_back_to_what_its_neighbours_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    kinds = ["CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell"]
    types = rng.integers(0, 3, 600)
    # CD4 and CD8 cells lie in one place, B cells apart.
    emb = unit(np.eye(6)[np.where(types == 2, 1, 0)] + rng.normal(0, 0.1, (600, 6)))
    names = np.array(["a", "b", "c"])[rng.integers(0, 3, 600)]
    reference = make_reference(tmp_path, emb, cell_type=np.array(kinds)[types], dataset_id=names)
    settings = SETTINGS.model_copy(update={"unknown_below": 0.9})
    transfer = LabelTransfer(reference, settings, read_ontology(ONTOLOGY))
    table = transfer.map(["T", "B"], np.eye(6, dtype=np.float32)[:2], model=MODEL)
    t_cell, b_cell = table.to_pylist()
    assert t_cell["predicted"] in kinds[:2]
    assert t_cell["unknown"]
    assert t_cell["broad"] == "alpha-beta T cell"
    assert t_cell["broad_confidence"] > 0.9
    assert (b_cell["predicted"], b_cell["broad"], b_cell["unknown"]) == ("B cell", "B cell", False)


def test_what_cannot_be_mapped_is_refused(reference: Reference) -> None:
    query = draw(np.array([0, 1]), 8)
    broken = query.copy()
    broken[1, 3] = np.nan
    for emb, model, said in (
        (query, "x" * 64, "embedded by model xxxxxxxxxxxx, the reference by mmmmmmmmmmmm"),
        (query[:, :-1], MODEL, rf"shape \(2, 15\), where \(cells, {WIDTH}\) is due"),
        (query[:0], MODEL, "the query is empty"),
        (broken, MODEL, "query: 1 of 2 embeddings are broken; that of row 1 is NaN"),
        (query * 2, MODEL, "that of row 0 is not of length one"),
    ):
        with pytest.raises(ValueError, match=said):
            map_query(reference, emb, model=model, settings=SETTINGS)
    for update, said in (
        ({"neighbours": 451}, "451 neighbours of 450 reference cells"),
        ({"label_column": "colour"}, "no obs column 'colour'; it has: cell_type"),
        ({"calibrate_across": "lab"}, "no obs column 'lab'"),
        ({"report_columns": ("sex",)}, "no obs column 'sex'"),
        ({"label_column": "soma_joinid"}, "'soma_joinid' is int64, where labels"),
    ):
        with pytest.raises(ValueError, match=said):
            map_query(reference, query, model=MODEL, settings=SETTINGS.model_copy(update=update))


def test_a_reference_without_labels_is_refused(tmp_path: Path) -> None:
    emb = draw(np.zeros(20, int), 0)
    labels = ["unknown"] * 20
    reference = make_reference(tmp_path, emb, cell_type=labels, dataset_id=["one"] * 20)
    with pytest.raises(ValueError, match="0 reference cells have a label in 'cell_type'"):
        map_query(reference, emb, model=MODEL, settings=SETTINGS)
