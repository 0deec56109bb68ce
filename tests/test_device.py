"""Device and precision are what was asked for, or an error that says why not."""

import logging

import pytest
import torch

from scgpt_core import device
from scgpt_core.device import (
    autocast,
    describe_device,
    multiplies_bfloat16,
    resolve_device,
    resolve_embed_precision,
    resolve_precision,
)
from scgpt_core.portable import PINNED

CPU = torch.device("cpu")


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_an_error() -> None:
    with pytest.raises(ValueError, match="sees no GPU"):
        resolve_device("cuda")


def test_precision_is_what_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_precision(CPU, "float32") == torch.float32
    with caplog.at_level(logging.WARNING):
        assert resolve_precision(CPU, "bfloat16") == torch.bfloat16
    assert ("emulates" in caplog.text) != multiplies_bfloat16(CPU)


@pytest.mark.parametrize("in_hardware", [True, False])
def test_a_cpu_multiplies_bfloat16_by_itself_only_to_embed_with_wide_models(
    monkeypatch: pytest.MonkeyPatch, *, in_hardware: bool
) -> None:
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda _: in_hardware)
    assert resolve_precision(CPU, "auto") == torch.float32
    assert resolve_embed_precision(CPU, "auto", width=64) == torch.float32
    assert resolve_embed_precision(CPU, "float32", width=512) == torch.float32
    wide = resolve_embed_precision(CPU, "auto", width=512)
    assert wide == (torch.bfloat16 if in_hardware else torch.float32)


def test_portable_numerics_are_not_of_the_processors_own_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert resolve_embed_precision(CPU, "auto", width=512) == torch.bfloat16
    for name, value in PINNED.items():
        monkeypatch.setenv(name, value)
    assert resolve_embed_precision(CPU, "auto", width=512) == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_multiplies_in_the_given_format(dtype: torch.dtype) -> None:
    x = torch.ones(4, 4)
    with autocast(CPU, dtype):
        assert (x @ x).dtype == dtype


def test_a_device_has_a_name() -> None:
    assert describe_device(CPU).strip()
