"""Restricted fine-tuning trains what it says, and leaves a plain model."""

import pytest
import torch
from pydantic import ValidationError
from tiny import make_model

from scgpt_core.config import FineTuningTrainer
from scgpt_core.train.optimizer import build_optimizer
from scgpt_core.train.tuning import merge, restrict


@pytest.mark.parametrize("tune", ["all", "frozen", "lora"])
def test_what_is_trained_and_what_is_left(tune: str) -> None:
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = FineTuningTrainer.model_validate(
        {"tune": tune, "lora_rank": 2, "learning_rate": 0.1, "weight_decay": 0}
    )
    record = restrict(model, settings, seed=0)
    optimizer = build_optimizer(model, settings)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert record["trained_weights"] == sum(p.numel() for p in trained)
    for _ in range(2):  # B starts from 0: at the first step A has no gradient
        loss = sum((p**2).sum() + p.sum() for p in model.parameters() if p.requires_grad)
        layers = sum(p.sum() for layer in model.layers for p in layer.state_dict().values())
        weights = [m.weight for m in model.layers.modules() if isinstance(m, torch.nn.Linear)]
        (loss + 0 * layers + sum((w**3).sum() for w in weights)).backward()
        optimizer.step()
    expected = {
        n: m.weight.detach().clone()
        for n, m in model.layers.named_modules()
        if isinstance(m, torch.nn.Linear)
    }
    merge(model)
    after = model.state_dict()
    assert sorted(after) == sorted(before)
    assert all(p.requires_grad for p in model.parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {f"layers.{name}.weight" for name in expected}
    in_layers = {name for name in changed if name.startswith("layers.")}
    assert in_layers == {"all": in_layers | matrices, "frozen": set(), "lora": matrices}[tune]
    assert "gene_embedding.table.weight" in changed
    for name, weight in expected.items():
        torch.testing.assert_close(after[f"layers.{name}.weight"], weight)
    if tune == "lora":
        name = "layers.0.attention.qkv.weight"
        assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-4) <= 2


def test_less_is_trained_and_kept_for_it() -> None:
    records = {
        tune: restrict(
            make_model(), FineTuningTrainer.model_validate({"tune": tune, "lora_rank": 1}), seed=0
        )
        for tune in ("all", "frozen", "lora")
    }
    trained = {tune: record["trained_weights"] for tune, record in records.items()}
    assert trained["frozen"] < trained["lora"] < trained["all"] == records["all"]["weights"]
    memory = [records[tune]["gradient_and_moments_mb"] for tune in ("frozen", "lora", "all")]
    assert memory == sorted(memory)


def test_lora_and_fsdp_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="take ddp"):
        FineTuningTrainer.model_validate({"tune": "lora", "parallel": "fsdp"})
