"""What a model is trained for: objectives turn a micro-batch into named, weighted loss terms.

A term is the mean over some elements of the micro-batch (hidden positions, cells). `sizes` says
over how many, so that the trainer can weigh micro-batches and processes into the mean over the
*global* batch: its gradient is then the same however the cells are spread over accumulation steps
and devices (a mean of means would favour the hidden positions of short cells). Two parts depend by
their nature on which cells share a micro-batch: ECS, which compares them, and batch norm.

Shapes: B cells, L gene tokens, D width, C classes.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scgpt_core.batch import Batch, Output
from scgpt_core.data.sources import NO_CLASS
from scgpt_core.model import ScGPT
from scgpt_core.model.scgpt import Head
from scgpt_core.train.losses import elastic_cell_similarity, masked_mse, zero_nll


class Objective(Protocol):
    """What the trainer needs of an objective."""

    def sizes(self, batch: Batch) -> dict[str, float]:
        """Elements that each term is the mean of, by the term's name (`batch` on the CPU)."""

    def passes(self, progress: float) -> int:
        """Forward and backward passes over a cell's tokens: one, where nothing else is said."""
        return 1

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Weighted terms by name, scalars; `progress` is the share of the steps that are done."""


@dataclass(frozen=True)
class Pretraining(Objective):
    """Generative pretraining (scGPT paper, Methods): GEP and GEPC on unknown genes.

    The batch comes from the loader with its known/unknown split. From `cell_prompt_after` on, a
    second pass generates each cell from its embedding alone.

    Parameters
    ----------
    cell_prompt_after
        Share of the steps after which `gep_prompt` joins the loss.
    unknown_value
        What the value encoder reads at unknown genes.
    gepc
        Whether the model has a GEPC head.
    """

    cell_prompt_after: float
    unknown_value: float
    gepc: bool = True

    def sizes(self, batch: Batch) -> dict[str, float]:
        """Unknown genes, and all genes for the cell-prompted pass."""
        hidden_BL = _present(batch.hidden_BL)
        unknown, genes = float(hidden_BL.sum()), float(is_gene(batch).sum())
        return {"gep": unknown, "gepc": unknown, "gep_prompt": genes}

    def passes(self, progress: float) -> int:
        """Two once cell prompts have joined."""
        return 1 if progress < self.cell_prompt_after else 2

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Terms `gep`, `gepc` and, late enough, `gep_prompt`."""
        output, prompted = self.predict(model, batch, prompt=self.passes(progress) == 2)
        target_BL, hidden_BL = _present(batch.target_BL), _present(batch.hidden_BL)
        terms = {"gep": masked_mse(_present(output.gep_BL), target_BL, hidden_BL)}
        if self.gepc:
            terms["gepc"] = masked_mse(_present(output.gepc_BL), target_BL, hidden_BL)
        if prompted is not None:
            terms["gep_prompt"] = masked_mse(_present(prompted.gep_BL), target_BL, is_gene(batch))
        return terms

    def predict(
        self, model: nn.Module, batch: Batch, *, prompt: bool
    ) -> tuple[Output, Output | None]:
        """Run the gene-prompted pass and, where `prompt`, the cell-prompted one."""
        output: Output = model(batch, heads={"gep", "gepc"} if self.gepc else {"gep"})
        if not prompt:
            return output, None
        # The embedding is detached, as in the paper: the second pass learns to decode it, and does
        # not pull it towards what is easy to decode.
        prompted: Output = model(
            self.cell_prompted(batch), heads={"gep"}, prompt_BD=output.cell_BD.detach()
        )
        return output, prompted

    def cell_prompted(self, batch: Batch) -> Batch:
        """Give the same cells with every gene unknown: only ``<cls>`` may be looked at."""
        is_gene_BL = is_gene(batch)
        return batch._replace(
            values_BL=batch.values_BL.masked_fill(is_gene_BL, self.unknown_value),
            known_BL=~is_gene_BL & ~batch.padding_BL,
            hidden_BL=is_gene_BL,
        )


@dataclass(frozen=True)
class Integration(Objective):
    """Fine-tuning for integration: the published tutorial's terms; a weight of 0 drops one.

    Parameters
    ----------
    gepc, zero_prob
        Whether the model has the GEPC head, and predicts zeros apart.
    ecs_threshold, ecs_weight, dar_weight
        As in the tutorial: 0.8, 10 and 1 there.
    """

    gepc: bool
    zero_prob: bool
    ecs_threshold: float
    ecs_weight: float
    dar_weight: float

    def sizes(self, batch: Batch) -> dict[str, float]:
        """Masked positions; cells for ECS and DAR."""
        hidden, cells = float(_present(batch.hidden_BL).sum()), float(len(batch.ids_BL))
        positional = ("gep", "gep_zero", "gepc", "gepc_zero")
        return dict.fromkeys(positional, hidden) | {"ecs": cells, "dar": cells}

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Terms `gep`, `gep_zero`, `gepc`, `gepc_zero`, `ecs`, `dar`, as far as they are on."""
        output: Output = model(batch, heads=_heads(gepc=self.gepc, dar=self.dar_weight > 0))
        target_BL, hidden_BL = _present(batch.target_BL), _present(batch.hidden_BL)
        terms = {"gep": masked_mse(_present(output.gep_BL), target_BL, hidden_BL)}
        if self.zero_prob:
            terms["gep_zero"] = zero_nll(_present(output.gep_nonzero_BL), target_BL, hidden_BL)
        if self.gepc:
            terms["gepc"] = masked_mse(_present(output.gepc_BL), target_BL, hidden_BL)
            if self.zero_prob:
                nonzero_BL = _present(output.gepc_nonzero_BL)
                terms["gepc_zero"] = zero_nll(nonzero_BL, target_BL, hidden_BL)
        if self.ecs_weight:
            similarity = elastic_cell_similarity(output.cell_BD, self.ecs_threshold)
            terms["ecs"] = self.ecs_weight * similarity
        if self.dar_weight:
            terms["dar"] = self.dar_weight * _domain_loss(output, batch)
        return terms


@dataclass(frozen=True)
class Multiomics(Objective):
    """Fine-tuning on several modalities: GEP and GEPC, and DAR; each modality counts alike.

    In one mean over all masked tokens, as the tutorial has it, a dozen proteins are lost among a
    thousand genes.

    Parameters
    ----------
    modalities
        Names by code, of those that the cells have.
    gepc
        Whether the model has the GEPC head.
    dar_weight
        0 drops DAR.
    """

    modalities: dict[int, str]
    gepc: bool
    dar_weight: float

    def sizes(self, batch: Batch) -> dict[str, float]:
        """Masked positions of each modality; cells for DAR."""
        sizes = {"dar": float(len(batch.ids_BL))}
        for code, name in self.modalities.items():
            n_hidden = float(self._hidden(batch, code).sum())
            sizes |= {f"gep_{name}": n_hidden, f"gepc_{name}": n_hidden}
        return sizes

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Terms `gep_rna`, `gepc_rna`, `gep_protein`, ... and `dar`, as far as they are on."""
        output: Output = model(batch, heads=_heads(gepc=self.gepc, dar=self.dar_weight > 0))
        target_BL, terms = _present(batch.target_BL), {}
        for code, name in self.modalities.items():
            hidden_BL = self._hidden(batch, code)
            terms[f"gep_{name}"] = masked_mse(_present(output.gep_BL), target_BL, hidden_BL)
            if self.gepc:
                terms[f"gepc_{name}"] = masked_mse(_present(output.gepc_BL), target_BL, hidden_BL)
        if self.dar_weight:
            terms["dar"] = self.dar_weight * _domain_loss(output, batch)
        return terms

    def _hidden(self, batch: Batch, code: int) -> Tensor:
        return _present(batch.hidden_BL) & (_present(batch.modality_BL) == code)


@dataclass(frozen=True)
class Perturbation(Objective):
    """Fine-tuning for perturbation prediction: GEP of what a control cell is to become."""

    def sizes(self, batch: Batch) -> dict[str, float]:
        """Genes that are scored."""
        return {"gep": float(_present(batch.hidden_BL).sum())}

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Term `gep`."""
        output: Output = model(batch, heads={"gep"})
        target_BL, hidden_BL = _present(batch.target_BL), _present(batch.hidden_BL)
        return {"gep": masked_mse(_present(output.gep_BL), target_BL, hidden_BL)}


@dataclass(frozen=True)
class Classification(Objective):
    """Fine-tuning for annotation: CLS cross entropy over the cells that have a label.

    Parameters
    ----------
    class_weights_C
        float32, weight of each class; None: all alike.
    """

    class_weights_C: Tensor | None = None

    def sizes(self, batch: Batch) -> dict[str, float]:
        """Labelled cells, or the sum of their weights."""
        label_B = _present(batch.label_B)
        label_B = label_B[label_B != NO_CLASS]
        if self.class_weights_C is None:
            return {"cls": float(len(label_B))}
        return {"cls": float(self.class_weights_C.cpu()[label_B].sum())}

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Term `cls`."""
        output: Output = model(batch, heads={"cls"})
        logits_BC, label_B = _present(output.class_BC).float(), _present(batch.label_B)
        weights_C = torch.ones_like(logits_BC[0])
        if self.class_weights_C is not None:
            weights_C = self.class_weights_C.to(weights_C)
        nll_B = F.cross_entropy(
            logits_BC, label_B, weight=weights_C, ignore_index=NO_CLASS, reduction="none"
        )
        # Not torch's own mean, which is NaN where no cell of the micro-batch has a label.
        total = torch.where(label_B == NO_CLASS, 0.0, weights_C[label_B]).sum()
        return {"cls": nll_B.sum() / total.clamp(min=torch.finfo(torch.float32).tiny)}


def compares_cells(objective: Objective, model: ScGPT) -> bool:
    """Tell whether it matters which cells share a micro-batch: to ECS and to batch norm it does."""
    has_ecs = isinstance(objective, Integration) and objective.ecs_weight > 0
    return has_ecs or model.config.batch_norm is not None


def class_weights(label_N: Tensor, n_classes: int) -> Tensor:
    """Weights that let classes count alike: float32 (C,), mean 1 over cells, 0 where absent."""
    count_C = torch.bincount(label_N[label_N != NO_CLASS], minlength=n_classes).float()
    present_C = count_C > 0
    return torch.where(present_C, count_C.sum() / (present_C.sum() * count_C.clamp(min=1)), 0.0)


def is_gene(batch: Batch) -> Tensor:
    """Mark genes, neither padding nor the ``<cls>`` at position 0: bool (B, L)."""
    is_gene_BL = ~batch.padding_BL
    is_gene_BL[:, 0] = False
    return is_gene_BL


def _heads(*, gepc: bool, dar: bool) -> set[Head]:
    """Name the heads that objectives of expression read."""
    wanted: dict[Head, bool] = {"gep": True, "gepc": gepc, "dar": dar}
    return {head for head, is_read in wanted.items() if is_read}


def _domain_loss(output: Output, batch: Batch) -> Tensor:
    """Cross entropy of the sequencing batch, a scalar: DAR makes the embedding forget it."""
    return F.cross_entropy(_present(output.batch_BK).float(), _present(batch.batch_B))


def _present(tensor: Tensor | None) -> Tensor:
    """Give the tensor that this objective cannot do without."""
    assert tensor is not None, "the batch or the model lacks what this objective reads"
    return tensor
