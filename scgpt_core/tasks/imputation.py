"""What a model that was fine-tuned on several modalities says of cells: embeddings, missing values.

Shapes: N cells of a data set, M some of them, F features beside RNA, D width.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from scgpt_core.batch import Batch
from scgpt_core.device import autocast, resolve_precision
from scgpt_core.model import ScGPT
from scgpt_core.tasks.fitting import embed_batches, loader_of_all
from scgpt_core.tasks.mosaic import normalise

if TYPE_CHECKING:
    from scgpt_core.tasks.multiomics import Prepared

_CALIBRATION_CELLS: Final = 500
_LEAST_CELLS: Final = 10  # that a line is fitted on

FloatArray = NDArray[np.float32]


class Predictor:
    """Embeds and imputes the cells of one prepared data set.

    Parameters
    ----------
    model
        Fine-tuned on these cells.
    prepared
        The data set as the model reads it.
    precision
        Of matrix products.
    seed
        Of ties between bins.
    """

    def __init__(
        self,
        model: ScGPT,
        prepared: "Prepared",
        precision: Literal["auto", "float32", "bfloat16"],
        *,
        seed: int,
    ) -> None:
        self.model, self.prepared, self.seed = model.eval(), prepared, seed
        self.device = next(model.parameters()).device
        self.precision = resolve_precision(self.device, precision)
        self.visible = prepared.problem.visible
        self.measured_NF = np.hstack([self.visible.measured(k) for k in self.visible.by_name])

    def embed(self) -> FloatArray:
        """Embed all cells by all that is visible of them: (N, D), each row of length one."""
        cells = self._batches(np.ones(len(self.measured_NF), bool))
        return embed_batches(self.model, cells, self.precision)

    def impute(self) -> FloatArray:
        """Predict every feature of cells that lack some: (N, F), in the units of `normalise`.

        A prediction is the mean over the batches that the feature was learned in, for the model
        knows no other batch's way with it. From bins to units leads a line for each feature, fitted
        on training cells whose modality was hidden; NaN where nothing could be learned.
        """
        needy_N = np.any(~self.measured_NF, axis=1)
        out_NF = np.full(self.measured_NF.shape, np.nan, np.float32)
        if needy_N.any():
            slope_F, intercept_F = self._fit_lines()
            out_NF[needy_N] = self._predict_bins(needy_N) * slope_F + intercept_F
        return out_NF

    def _predict_bins(self, chosen_N: NDArray[np.bool_]) -> FloatArray:
        """Bins (M, F) of cells whose features are hidden where not visible."""
        total_MF = np.zeros((int(chosen_N.sum()), self.measured_NF.shape[1]), np.float32)
        n_F = np.zeros(total_MF.shape[1], np.float32)
        for code in range(len(self.prepared.batches)):
            learned_F = self.measured_NF[self.prepared.batch_N == code].any(axis=0)
            if learned_F.any():
                bins_MF, _ = self._features(chosen_N, batch=code)
                total_MF += np.where(learned_F, bins_MF, 0)
                n_F += learned_F
        n_F[n_F == 0] = np.nan
        return total_MF / n_F

    def _fit_lines(self) -> tuple[FloatArray, FloatArray]:
        """Slopes and intercepts (F,) from predicted bins to units, on training cells."""
        rows = np.flatnonzero(self.measured_NF.any(axis=1) & ~self.prepared.heldout_N)
        rows = rows[:: max(1, len(rows) // _CALIBRATION_CELLS)]
        chosen_N = np.isin(np.arange(len(self.measured_NF)), rows)
        bins_MF, hidden_MF = self._features(chosen_N, hidden_share=1.0)
        true_MF = np.hstack([normalise(self.visible, k) for k in self.visible.by_name])[chosen_N]
        lines_F2 = []
        for x_M, y_M, hidden_M in zip(bins_MF.T, true_MF.T, hidden_MF.T, strict=True):
            use_M = hidden_M & np.isfinite(y_M)
            lines_F2.append(_fit_line(x_M[use_M].astype(float), y_M[use_M].astype(float)))
        slope_F, intercept_F = np.array(lines_F2, np.float32).T
        return slope_F, intercept_F

    @torch.inference_mode()
    def _features(
        self, chosen_N: NDArray[np.bool_], *, batch: int | None = None, hidden_share: float = 0.0
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """GEP (M, F) of features beside RNA, in bins; and which of these the model did not see."""
        parts, hidden = [], []
        n_features = self.measured_NF.shape[1]  # the last tokens, where none is left out
        for cells in self._batches(chosen_N, batch, impute=True, hidden_share=hidden_share):
            with autocast(self.device, self.precision):
                gep_BL = self.model(cells, heads={"gep"}).gep_BL
            assert cells.hidden_BL is not None
            parts.append(gep_BL[:, -n_features:].float().cpu().numpy())
            hidden.append(cells.hidden_BL[:, -n_features:].cpu().numpy())
        return np.concatenate(parts), np.concatenate(hidden)

    def _batches(
        self, chosen_N: NDArray[np.bool_], batch: int | None = None, **tokens: Any
    ) -> Iterator[Batch]:
        """Yield batches of some cells in order, as if all were of one batch if that is given."""
        source = self.prepared.source(chosen_N, batch)
        settings = self.prepared.tokens(self.model.config, **tokens)
        for cells in loader_of_all(source, settings, self.seed).batches():
            yield cells.to(self.device)


def _fit_line(x_M: NDArray[np.float64], y_M: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept of least squares; NaN of too few cells."""
    if len(x_M) < _LEAST_CELLS:
        return np.nan, np.nan
    slope = np.cov(x_M, y_M, ddof=0)[0, 1] / x_M.var() if x_M.std() > 0 else 0.0
    return slope, y_M.mean() - slope * x_M.mean()
