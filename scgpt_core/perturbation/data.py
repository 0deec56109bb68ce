"""Perturbed and control cells, read in the spellings of GEARS and of scPerturb, and checked.

A condition is "ctrl", "A+ctrl" or "A+B", with the genes in alphabetical order. Perturbed genes need
not be measured.

Shapes: N cells, G measured genes, C conditions, S strata.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core.data.binning import draw_keys
from scgpt_core.data.genes import all_genes, match_genes, match_var
from scgpt_core.data.identity import cell_identity
from scgpt_core.data.qc import check_counts
from scgpt_core.keys import BATCH, LABEL
from scgpt_core.tasks.datasets import variable_genes

CONTROL: Final = "ctrl"
CONDITION: Final = "condition"
"""obs column of GEARS and of this schema: "ctrl", "A+ctrl", "A+B"."""
PERTURBATION: Final = "perturbation"
"""obs column of scPerturb: "control", "A", "A_B", with the number of genes in `nperts`."""
NUMBER: Final = "nperts"
DOSES: Final = ("dose_val", "dose_value", "dose")
"""obs columns of the dose in GEARS, scPerturb and this schema."""
LEAST_CELLS: Final = 10
"""Of a condition; rarer ones are left out, with a warning."""
_FOR_HALVES = 13  # seed: halves are the same in every run, and no draw of a method follows them

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Perturbations:
    """Cells of a perturbation screen, log-normalised, and who may look at which."""

    log_NG: csr_matrix
    """float32, log1p of counts that are scaled to the median total of the control cells."""
    condition_N: NDArray[np.str_]
    batch_N: NDArray[np.str_]
    cell_type_N: NDArray[np.str_]
    cell_ids: NDArray[np.int64]
    names: NDArray[np.str_]
    """Of the cells."""
    genes: tuple[str, ...]
    """Names of the measured genes."""
    var: pd.DataFrame
    """Of the measured genes, for `match_var`."""
    column_of: dict[str, int]
    """Column of each perturbed gene that is measured."""

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """All but the control, sorted."""
        return tuple(sorted(set(self.condition_N.tolist()) - {CONTROL}))

    @cached_property
    def is_control(self) -> NDArray[np.bool_]:
        """True for control cells: (N,)."""
        return np.asarray(self.condition_N == CONTROL)

    @cached_property
    def perturbed(self) -> list[str]:
        """Genes that a condition perturbs, sorted; measured or not."""
        return sorted({gene for name in self.conditions for gene in genes_of(name)})

    @cached_property
    def unperturbed(self) -> NDArray[np.int64]:
        """Columns of the genes that no condition perturbs."""
        return np.delete(np.arange(len(self.genes)), list(self.column_of.values()))

    @cached_property
    def stratum(self) -> NDArray[np.int64]:
        """Code of batch and cell type, (N,): cells are compared with control cells of their own."""
        strata = pd.MultiIndex.from_arrays([self.batch_N, self.cell_type_N])
        return np.asarray(pd.factorize(strata, sort=True)[0], np.int64)

    @cached_property
    def _turn(self) -> NDArray[np.int64]:
        """Place of each cell among those of its condition: by stratum, and there at random."""
        table = pd.DataFrame({"condition": self.condition_N, "stratum": self.stratum})
        table["key"] = draw_keys(_FOR_HALVES, 0, self.cell_ids)
        turn = table.sort_values(["stratum", "key"]).groupby("condition", sort=False).cumcount()
        return np.asarray(turn.sort_index(), np.int64)

    @cached_property
    def is_input(self) -> NDArray[np.bool_]:
        """Control cells that methods are given: every other one.

        The truth is compared with the others: the chance in the mean of one sample of control cells
        must not stand in the predicted change and in the true one.
        """
        return np.asarray(self.is_control & (self._turn % 2 == 0))

    @cached_property
    def half(self) -> NDArray[np.int64]:
        """Half of the truth (0 or 1) that a cell is of; -1 for control cells that methods get."""
        among_controls = np.where(self.is_input, -1, self._turn // 2 % 2)
        return np.where(self.is_control, among_controls, self._turn % 2)

    def shifts(
        self,
        conditions: Sequence[str],
        *,
        cells_N: NDArray[np.bool_],
        controls_N: NDArray[np.bool_],
    ) -> FloatArray:
        """Mean change of each condition's cells from control cells of their strata: (C, G).

        Parameters
        ----------
        cells_N, controls_N
            Which perturbed cells, and which control cells.
        """
        n_strata = int(self.stratum.max()) + 1
        base_SG, n_S = self._group_means(self.stratum, controls_N, n_strata)
        code = {name: i for i, name in enumerate(conditions)}
        condition_N = np.array([code.get(name, -1) for name in self.condition_N])
        chosen_N = cells_N & (condition_N >= 0)
        mean_CG, n_C = self._group_means(condition_N, chosen_N, len(conditions))
        group_M = (condition_N * n_strata + self.stratum)[chosen_N]
        n_CS = np.bincount(group_M, minlength=len(conditions) * n_strata).reshape(-1, n_strata)
        weight_CS = n_CS / np.maximum(n_C, 1)[:, None]
        assert not (weight_CS[:, n_S == 0] > 0).any(), "every stratum has control cells"
        # The mean of what the strata change by, without a mean of every condition in every stratum.
        return np.asarray(mean_CG - weight_CS @ base_SG)

    def of_genes(self, genes: Collection[str]) -> "Perturbations":
        """Keep all cells, and of the measured genes these alone."""
        chosen = np.flatnonzero(np.isin(self.genes, list(genes))).tolist()
        place = {old: new for new, old in enumerate(chosen)}
        return dataclasses.replace(
            self,
            log_NG=self.log_NG[:, chosen],
            genes=tuple(self.genes[i] for i in chosen),
            var=self.var.iloc[chosen],
            column_of={g: place[i] for g, i in self.column_of.items() if i in place},
        )

    def _group_means(
        self, group_N: NDArray[np.int64], chosen_N: NDArray[np.bool_], n_groups: int
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Mean expression and number of the chosen cells of each group; 0 of none."""
        rows = np.flatnonzero(chosen_N)
        n_cells = np.bincount(group_N[rows], minlength=n_groups)
        weight = 1.0 / n_cells[group_N[rows]]
        shape = (n_groups, len(self.condition_N))
        return (csr_matrix((weight, (group_N[rows], rows)), shape) @ self.log_NG).toarray(), n_cells

    def well_measured(self, cells_N: NDArray[np.bool_]) -> tuple[str, ...]:
        """Conditions of which each half has enough of these cells to tell the true change."""
        halves = [Counter(self.condition_N[cells_N & (self.half == half)]) for half in (0, 1)]
        least = LEAST_CELLS // 2
        return tuple(name for name in self.conditions if min(n[name] for n in halves) >= least)

    def match_controls(self, cells_N: NDArray[np.bool_], n_cells: int) -> NDArray[np.int64]:
        """Rows (M,) of control cells to predict from, of the strata in the shares of `cells_N`.

        A stratum gives its cells in a fixed order, again from the first where it has too few: all
        methods predict from the same cells.
        """
        share_S = np.bincount(self.stratum[cells_N]) / cells_N.sum()
        ends_S = np.round(np.cumsum(share_S) * n_cells).astype(int)
        rows = []
        for stratum, n in enumerate(np.diff(ends_S, prepend=0)):
            if n:
                there = np.flatnonzero(self.is_input & (self.stratum == stratum))
                rows.append(np.resize(there[np.argsort(self._turn[there], kind="stable")], n))
        return np.concatenate(rows)


def genes_of(condition: str) -> tuple[str, ...]:
    """Perturbed genes of a condition; none of the control."""
    return tuple(name for name in condition.split("+") if name != CONTROL)


def name_condition(genes: Collection[str]) -> str:
    """Canonical name of the condition in which these genes are perturbed."""
    names = sorted(set(genes))
    return "+".join(names if len(names) > 1 else [*names, CONTROL]) if names else CONTROL


def read_perturbations(adata: ad.AnnData, *, n_genes: int | None = None) -> Perturbations:
    """Read a prepared data set that has the columns of its source (`obs_columns`).

    Parameters
    ----------
    adata
        Raw counts in X; obs `batch`, `label` (the cell type), and `condition` or `perturbation`.
    n_genes
        Of the measured genes, so many that vary most, and those that are perturbed; None: all.

    Raises
    ------
    ValueError
        Where counts, conditions or controls are not as they should be: says what was found.
    """
    check_counts(adata.X, source="perturbations")
    conditions = _leave_out_rare(read_conditions(adata.obs, measured=adata.var_names))
    adata, condition = adata[conditions.index], conditions.to_numpy(str)
    _check_controls(adata.obs, condition)
    genes = sorted({gene for name in set(condition) for gene in genes_of(name)})
    data = Perturbations(
        _log_normalise(adata.X, condition == CONTROL),
        condition,
        adata.obs[BATCH].to_numpy(str),
        adata.obs[LABEL].to_numpy(str),
        cell_identity(adata.obs_names.to_numpy()),
        adata.obs_names.to_numpy(str),
        tuple(adata.var_names),
        adata.var,
        _find_columns(genes, adata.var),
    )
    return data if n_genes is None else data.of_genes(_choose_genes(adata, data, n_genes))


def _choose_genes(adata: ad.AnnData, data: Perturbations, n_genes: int) -> list[str]:
    """Genes that vary most among all cells, as published: what is scored is alike for all folds."""
    variable_G = variable_genes(adata, n_genes)
    n_variable = variable_G.sum()
    variable_G[list(data.column_of.values())] = True
    logger.info(
        "%d of %d measured genes are predicted and scored: %d vary most, %d more are perturbed",
        variable_G.sum(),
        len(variable_G),
        n_variable,
        variable_G.sum() - n_variable,
    )
    return list(adata.var_names[variable_G])


def read_conditions(obs: pd.DataFrame, *, measured: Collection[str] = ()) -> pd.Series:
    """Canonical condition of each cell, from the columns of GEARS or of scPerturb.

    Parameters
    ----------
    measured
        Names of the measured genes.

    Raises
    ------
    ValueError
        Where there is no such column, a cell has no condition, the number of genes is another than
        `nperts` says or, without it, may be one or several, or one perturbation has several doses,
        which the model does not know.
    """
    if CONDITION in obs:
        names = obs[CONDITION].astype(object)
        genes = {name: str(name).split("+") for name in names.dropna().unique()}
    elif PERTURBATION in obs:
        names, genes = _read_scperturb(obs, set(measured))
    else:
        message = (
            f"obs has no column {CONDITION!r} (GEARS: ctrl, A+ctrl, A+B) or {PERTURBATION!r} "
            f"(scPerturb: control, A, A_B); it has: {', '.join(obs.columns)}. Name it under "
            "obs_columns in datasets.tsv"
        )
        raise ValueError(message)
    empty = names.isna() | names.isin(["", "nan", "unknown"])
    if empty.any():
        message = f"{empty.sum()} cells have no {names.name}: leave them out with obs_filter"
        raise ValueError(message)
    canonical = {
        name: name_condition([part for part in parts if part not in (CONTROL, "control")])
        for name, parts in genes.items()
    }
    conditions = names.map(canonical)
    _check_doses(obs, conditions)
    return conditions


def _read_scperturb(
    obs: pd.DataFrame, measured: Collection[str]
) -> tuple[pd.Series, dict[Any, list[str]]]:
    """Perturbations and the genes of each; names are split only where `nperts` says so."""
    names = obs[PERTURBATION].astype(object)
    if NUMBER not in obs:
        _check_joined(list(map(str, names.dropna().unique())), measured)
    numbers = obs[NUMBER].astype(float) if NUMBER in obs else (names != "control").astype(float)
    genes: dict[Any, list[str]] = {}
    for name, number in set(zip(names, numbers, strict=True)):
        parts = [name] if number < 2 else [p for p in str(name).split("_") if p != "control"]
        if number >= 2 and len(parts) != number:
            message = f"perturbation {name!r} has {len(parts)} names, but nperts is {number:g}"
            raise ValueError(message)
        genes[name] = parts
    return names, genes


def _check_joined(names: Collection[str], measured: Collection[str]) -> None:
    """Stop where a name may be that of several perturbations, and nothing says how many."""
    joined = {name: name.split("_") for name in names if "_" in name and name not in measured}
    parts_of_all = {part for parts in joined.values() for part in parts}
    match = match_genes([*joined, *sorted(parts_of_all)], all_genes())
    listed = {name for name, how in zip(match.names, match.how, strict=True) if how != "unknown"}
    known = {*names, *measured, *listed}
    for name, parts in sorted(joined.items()):
        if name not in listed and known.issuperset(parts):
            message = (
                f"perturbation {name!r} may be {' and '.join(parts)}, or one gene: obs has no "
                f"column {NUMBER!r}, the number of genes. Name it under obs_columns in "
                f"datasets.tsv, or make a column {CONDITION!r} in which pairs are spelt A+B"
            )
            raise ValueError(message)


def _check_doses(obs: pd.DataFrame, conditions: pd.Series) -> None:
    for column in DOSES:
        if column in obs:
            doses = obs[column].astype(str).groupby(conditions.to_numpy()).unique()
            several = doses[doses.map(len) > 1]
            if len(several):
                message = (
                    f"{several.index[0]} has the doses {', '.join(several.iloc[0])} in {column!r}: "
                    "doses are not told apart; choose one with obs_filter"
                )
                raise ValueError(message)


def _leave_out_rare(condition: pd.Series) -> pd.Series:
    count = condition.value_counts()
    rare = count[count < LEAST_CELLS]
    if len(rare):
        named = ", ".join(map(str, rare.index[:5])) + (", ..." if len(rare) > 5 else "")
        logger.warning("%d conditions of fewer than 10 cells are left out: %s", len(rare), named)
    return condition[~condition.isin(rare.index)]


def _check_controls(obs: pd.DataFrame, condition: NDArray[np.str_]) -> None:
    kinds = sorted(set(condition))
    if CONTROL not in kinds or len(kinds) < 3:
        message = (
            f"{len(kinds)} conditions ({', '.join(kinds[:5])}): control cells ({CONTROL}) and at "
            "least two perturbations are needed"
        )
        raise ValueError(message)
    strata = pd.MultiIndex.from_frame(obs[[BATCH, LABEL]].astype(str))
    controls = strata[condition == CONTROL].value_counts()
    lacking = sorted(set(strata) - set(controls[controls >= 4].index))
    if lacking:
        message = (
            f"{len(lacking)} of the batches and cell types have fewer than 4 control cells "
            f"({' / '.join(lacking[0])}, ...): cells are compared with control cells of their own; "
            "choose another batch_key or label_key, or leave these cells out with obs_filter"
        )
        raise ValueError(message)


def _log_normalise(counts_NG: csr_matrix, control_N: NDArray[np.bool_]) -> csr_matrix:
    """log1p of counts scaled to the median total of control cells, which small panels allow too."""
    total_N = np.asarray(counts_NG.sum(axis=1), np.float64).ravel()
    scale_N = np.median(total_N[control_N]) / total_N
    log_NG = csr_matrix(counts_NG, dtype=np.float32, copy=True)
    log_NG.data = np.log1p(log_NG.data * np.repeat(scale_N, np.diff(log_NG.indptr))).astype("f4")
    return log_NG


def _find_columns(perturbed: Sequence[str], var: pd.DataFrame) -> dict[str, int]:
    """Column of each perturbed gene that is measured, under whatever name of it."""
    column = {name: i for i, name in enumerate(var.index)}
    by_token = {int(t): i for i, t in enumerate(match_var(var, all_genes()).ids) if t >= 0}
    match = match_genes(perturbed, all_genes())
    tokens = match.ids.tolist()
    found = {g: column.get(g, by_token.get(t)) for g, t in zip(perturbed, tokens, strict=True)}
    unknown = [
        gene
        for gene, how in zip(perturbed, match.how, strict=True)
        if how == "unknown" and found[gene] is None
    ]
    if unknown:
        named = ", ".join(unknown)
        logger.warning("perturbed, but neither measured nor a known human gene: %s", named)
    return {gene: place for gene, place in found.items() if place is not None}
