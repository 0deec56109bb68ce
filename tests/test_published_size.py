"""A run at the published size takes nothing of what suits the small model of the demo."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from scgpt_core.config import (
    AnnotationSettings,
    Config,
    FineTuningSettings,
    IntegrationSettings,
    MultiomicsSettings,
    PerturbationSettings,
    PretrainSettings,
    load_config,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def published_size() -> Config:
    config: dict[str, Any] = {}
    for name in ("config", "census_blood"):
        update_config(config, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    return load_config(config, ROOT)[0]


def test_published_weights_are_fine_tuned_as_the_published_corpora(published_size: Config) -> None:
    def within(part: dict[str, Any], whole: dict[str, Any], path: str = "") -> None:
        for key, value in part.items():
            if isinstance(value, dict):
                within(value, whole[key], f"{path}{key}.")
            else:
                assert value == whole[key], f"{path}{key}"

    published = yaml.safe_load((ROOT / "config/published.yaml").read_text())
    within(published, published_size.model_dump(mode="json"))


def test_all_that_runs_the_model_takes_a_gpu(published_size: Config) -> None:
    fitted = ("pretrain", "integration", "annotation", "multiomics", "perturbation")
    devices = {name: getattr(published_size, name).trainer.device for name in fitted}
    for name in ("embed", "generation", "networks"):
        devices[name] = getattr(published_size, name).device
    assert set(devices.values()) == {"cuda"}, devices


def test_pretraining_is_as_published(published_size: Config) -> None:
    found, published = published_size.pretrain, PretrainSettings()
    changed = {
        name
        for name in type(published).model_fields
        if getattr(found, name) != getattr(published, name)
    }
    assert changed <= {"architecture", "trainer", "evaluate_steps", "evaluate_cells"}


@pytest.mark.parametrize(
    ("task", "published"),
    [
        ("integration", IntegrationSettings()),
        ("annotation", AnnotationSettings()),
        ("multiomics", MultiomicsSettings()),
        ("perturbation", PerturbationSettings()),
    ],
)
def test_fine_tuning_is_as_published(
    published_size: Config, task: str, published: FineTuningSettings
) -> None:
    but_the_device = {"trainer": {"device"}}
    found = getattr(published_size, task).model_dump(exclude=but_the_device)
    assert found == published.model_dump(exclude=but_the_device)
