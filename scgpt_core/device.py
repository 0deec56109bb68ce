"""Where a model runs and in which number format: decided here, for training and inference alike."""

import logging
import os
import platform
from pathlib import Path
from typing import Literal

import torch

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
EmbedPrecision = Literal["auto", "float32", "bfloat16", "int8"]
"""Int8 is of embeddings alone: see `scgpt_core.model.int8`."""

logger = logging.getLogger(__name__)


def resolve_device(wanted: DeviceName | str = "auto") -> torch.device:
    """Device to run on: "auto" is this process's GPU where there is one, else the CPU.

    Under torchrun each process takes the GPU of its `LOCAL_RANK`.

    Raises
    ------
    ValueError
        Where "cuda" is asked for and no GPU is usable: never a silent run on the CPU.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(wanted).type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        message = (
            f"device {wanted!r} was asked for, but torch {torch.__version__} sees no GPU: ask for "
            "device: cpu, or check the driver, the job's GPU request and the torch build"
        )
        raise ValueError(message)
    if torch.device(wanted).index is not None:
        return torch.device(wanted)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        message = (
            f"process {local_rank} of this machine has no GPU of its own: {local_rank + 1} or more "
            f"processes were started beside {torch.cuda.device_count()} GPU(s)"
        )
        raise ValueError(message)
    return torch.device("cuda", local_rank)


def resolve_precision(device: torch.device, wanted: Precision = "auto") -> torch.dtype:
    """Format of matrix products: bfloat16 or float32; weights are float32 in either case.

    "auto" is bfloat16 on GPUs of compute capability 8 and above and on CPUs with AMX or
    AVX512-BF16. Elsewhere bfloat16 is emulated, up to 200 times slower than float32: done where
    asked for, with a warning.
    """
    if wanted == "float32":
        return torch.float32
    in_hardware = multiplies_bfloat16(device)
    if wanted == "bfloat16" and not in_hardware:
        logger.warning(
            "bfloat16 was asked for, but this %s emulates it: float32 is faster", device.type
        )
    return torch.bfloat16 if in_hardware or wanted == "bfloat16" else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def describe_device(device: torch.device) -> str:
    """Name of the GPU or CPU, as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Context in which matrix products run in `precision`; does nothing for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
