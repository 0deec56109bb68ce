"""Unseen genes, unseen combinations and held-out batches; and a split belongs to its data."""

from pathlib import Path

import numpy as np
import pytest
from screen import make_screen

from scgpt_core.config import PerturbationSplitSettings
from scgpt_core.perturbation.data import genes_of, read_perturbations
from scgpt_core.perturbation.splits import Split, make_split
from scgpt_core.perturbation.truth import Truth

FOCUS = {"receptors": ("IFNGR1", "IFNGR2", "JAK2")}


def test_each_gene_is_unseen_once_and_the_focus_goes_apart() -> None:
    data = read_perturbations(make_screen())
    settings = PerturbationSplitSettings(n_folds=3, validation_share=0.2, focus=FOCUS)
    split = make_split(data, settings, dataset_sha256="a" * 64, seed=3)
    tested = [name for fold in split.folds for name in fold.test]
    assert sorted(tested) == list(data.conditions)
    for fold in split.folds:
        assert len(set(FOCUS["receptors"]) & {genes_of(name)[0] for name in fold.test}) == 1
        parts = (fold.train, fold.validation, fold.test)
        assert sorted(name for part in parts for name in part) == list(data.conditions)
        assert len(fold.validation) == 1


def test_a_focus_on_what_nobody_perturbs_is_told(caplog: pytest.LogCaptureFixture) -> None:
    settings = PerturbationSplitSettings(n_folds=3, focus={"strong": ("JAK2", "IFNRG1")})
    make_split(read_perturbations(make_screen()), settings, dataset_sha256="a" * 64, seed=0)
    assert "split.focus: no condition perturbs IFNRG1 of strong" in caplog.text


def test_combinations_count_the_genes_that_were_seen() -> None:
    pairs = ["IFNGR1+SMAD4", "JAK2+SMAD4", "CUL3+STAT1", "IFNGR1+IFNGR2"]
    singles = [f"{g}+ctrl" for g in ("IFNGR1", "IFNGR2", "JAK2", "STAT1", "SMAD4", "CUL3")]
    data = read_perturbations(make_screen(["ctrl", *singles, *pairs], n_cells=20))
    settings = PerturbationSplitSettings(n_folds=2, validation_share=0)
    kinds = set()
    for fold in make_split(data, settings, dataset_sha256="a" * 64, seed=0).folds:
        learned = {gene for name in fold.train for gene in genes_of(name)}
        for name, seen in zip(fold.test, fold.seen, strict=True):
            n_seen = sum(gene in learned for gene in genes_of(name))
            assert seen == f"{n_seen} of {len(genes_of(name))}"
        kinds |= set(fold.seen)
    assert {"0 of 1", "0 of 2", "1 of 2", "2 of 2"} >= kinds > {"0 of 1", "1 of 2"}


def test_a_gene_counts_as_seen_only_where_a_training_condition_has_it() -> None:
    genes = ["IFNGR1", "IFNGR2", "JAK2", "SMAD4", "CUL3"]
    pair = "JAK2+STAT1"  # STAT1 alone was not perturbed
    data = read_perturbations(make_screen(["ctrl", *(f"{g}+ctrl" for g in genes), pair]))
    settings = PerturbationSplitSettings(n_folds=2, validation_share=0)
    for seed in range(8):
        folds = make_split(data, settings, dataset_sha256="a" * 64, seed=seed).folds
        found = {fold.seen[fold.test.index(pair)] for fold in folds if pair in fold.test}
        assert found <= {"0 of 2", "1 of 2"}
        for fold in folds:
            if pair in fold.test and "JAK2+ctrl" in fold.test:
                assert fold.seen[fold.test.index(pair)] == "0 of 2"


def test_a_held_out_group_is_judged_on_conditions_with_cells_in_both_halves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    screen = make_screen()
    in_batch = (screen.obs["batch"] == "rep_0").to_numpy()
    few = np.flatnonzero(in_batch & (screen.obs["condition"] == "JAK2+ctrl").to_numpy())[1:]
    screen = screen[np.setdiff1d(np.arange(screen.n_obs), few)]
    data = read_perturbations(screen)
    settings = PerturbationSplitSettings(by="batch", validation_share=0)
    first, second = make_split(data, settings, dataset_sha256="a" * 64, seed=0).folds
    others = tuple(name for name in data.conditions if name != "JAK2+ctrl")
    assert (first.test, second.test) == (others, data.conditions)
    truth = Truth(data, first)
    assert truth.conditions == others
    assert all((shift_CG != 0).any(axis=1).all() for shift_CG in truth.shift_CG.values())
    place_N = screen.obs.groupby(["condition", "batch"], observed=True).cumcount()
    is_rare_N = (screen.obs["batch"] == "rep_0") & (screen.obs["condition"] != "ctrl")
    data = read_perturbations(screen[~is_rare_N | (place_N < 2)])
    (only,) = make_split(data, settings, dataset_sha256="a" * 64, seed=0).folds
    assert only.group == "rep_1"
    assert "rep_0 is not held out: it has too few perturbed cells" in caplog.text


def test_a_held_out_batch_gives_no_perturbed_cell_to_training() -> None:
    data = read_perturbations(make_screen())
    settings = PerturbationSplitSettings(by="batch", validation_share=0)
    first, second = make_split(data, settings, dataset_sha256="a" * 64, seed=0).folds
    assert (first.group, second.group) == ("rep_0", "rep_1")
    assert first.test == data.conditions
    assert set(data.batch_N[first.cells(data, first.train)]) == {"rep_1"}
    assert set(data.batch_N[first.truth(data, "JAK2+ctrl")]) == {"rep_0"}


def test_a_split_is_of_its_data_alone(tmp_path: Path) -> None:
    data = read_perturbations(make_screen())
    settings = PerturbationSplitSettings(n_folds=2)
    split = make_split(data, settings, dataset_sha256="a" * 64, seed=0)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json", dataset_sha256="a" * 64) == split
    with pytest.raises(ValueError, match="make the split anew"):
        Split.load(tmp_path / "split.json", dataset_sha256="b" * 64)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"n_folds": 4}, "6 perturbed genes do not fill 4 folds"), ({"by": "cell_type"}, "THP-1")],
)
def test_too_little_to_split(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_split(
            read_perturbations(make_screen()),
            PerturbationSplitSettings.model_validate(settings),
            dataset_sha256="a" * 64,
            seed=0,
        )


def test_nothing_to_learn_from_or_to_predict_is_said() -> None:
    in_one, in_four = make_screen(n_cells=20), make_screen(n_cells=10)
    place_N = np.arange(in_one.n_obs) % 4
    is_control_N = (in_one.obs["condition"] == "ctrl").to_numpy()
    in_one.obs["batch"] = np.where(is_control_N & (place_N < 2), "controls", "all")
    in_four.obs["batch"] = (np.arange(in_four.n_obs) % 4).astype(str)
    pairs = make_screen(["ctrl", "IFNGR1+SMAD4", "IFNGR1+JAK2", "JAK2+SMAD4", "CUL3+IFNGR1"])
    for screen, settings, said in (
        (in_one, {"by": "batch"}, "all 120 perturbed cells have the batch 'all': .* batch_key"),
        (in_four, {"by": "batch"}, r"none of the 4 .*\(0, 1, 2, 3\) has 10 cells .*, 5 in each"),
        (pairs, {"n_folds": 2}, r"fold [12] of 2 .* of the 4 conditions .*\.n_folds"),
    ):
        with pytest.raises(ValueError, match=said):
            make_split(
                read_perturbations(screen),
                PerturbationSplitSettings.model_validate(settings),
                dataset_sha256="a" * 64,
                seed=0,
            )


def test_seeds_deal_genes_differently() -> None:
    data = read_perturbations(make_screen())
    settings = PerturbationSplitSettings(n_folds=2)
    splits = [make_split(data, settings, dataset_sha256="a", seed=seed) for seed in range(8)]
    assert len({split.folds[0].test for split in splits}) > 1
    assert np.all([len(split.folds[0].test) == 3 for split in splits])
