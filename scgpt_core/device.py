"""Where a model runs and in which number format: decided here, for training and inference alike."""

import logging
import os
from typing import Literal

import torch

from scgpt_core.portable import is_pinned
from scgpt_core.runs import processor

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
EmbedPrecision = Literal["auto", "float32", "bfloat16", "int8"]
"""Int8 is of embeddings alone: see `scgpt_core.model.int8`."""

_WIDE = 512  # from which bfloat16 is worth its rounding on a CPU

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

    "auto" is bfloat16 on GPUs of compute capability 8 and above, and float32 on CPUs: those that
    multiply bfloat16 (AMX, AVX512-BF16) train a third faster by it at best, and what a run learns
    would depend on which CPU it met. The others emulate bfloat16, up to 200 times slower: done
    where asked for, with a warning.
    """
    in_hardware = multiplies_bfloat16(device)
    if wanted == "auto":
        wanted = "bfloat16" if in_hardware and device.type == "cuda" else "float32"
    if wanted == "bfloat16" and not in_hardware:
        logger.warning(
            "bfloat16 was asked for, but this %s emulates it: float32 is faster", device.type
        )
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def resolve_embed_precision(
    device: torch.device, wanted: Precision = "auto", *, width: int
) -> torch.dtype:
    """Format of the matrix products of embedding, by the width of the model.

    As `resolve_precision`, but "auto" is bfloat16 on CPUs that multiply it as well where the model
    is at least 512 wide: 1.5 times as fast as float32 there, and at most 1.2 times below.
    """
    if wanted == "auto" and width >= _WIDE and multiplies_bfloat16(device):
        return torch.bfloat16
    return resolve_precision(device, wanted)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, by the code that is pinned."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if is_pinned():  # torch asks the processor, whatever code its libraries were told to take
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def describe_device(device: torch.device) -> str:
    """Name of the GPU or CPU, as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Context in which matrix products run in `precision`; does nothing for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
