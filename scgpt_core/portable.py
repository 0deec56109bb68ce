"""The same floats on every x86-64 processor with AVX2, by one code path of each library.

Libraries of linear algebra look at the processor, its maker too, and choose among codes that add up
in different orders. Training carries the last digits on. What is chosen can be pinned, before a
library is loaded, by its variable of the environment. Sums of several threads are split by their
number, which must be the same as well.
"""

import os
import platform
from pathlib import Path
from typing import Final

PINNED: Final = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "MKL_CBWR": "COMPATIBLE",  # its matrix products: SSE2, the one branch that all makers share
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",  # of numpy, scipy and faiss
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",  # sorts ties otherwise, too
    "FAISS_SIMD_LEVEL": "AVX2",
}
"""Environment of a process whose numbers are portable."""


def pin_numerics() -> None:
    """Make the numbers of all processes that this one starts portable.

    Raises
    ------
    ValueError
        Where the processor has not the code that is pinned.
    """
    machine, cpuinfo = platform.machine().lower(), Path("/proc/cpuinfo")
    if machine not in {"x86_64", "amd64"} or (
        cpuinfo.exists() and " avx2 " not in cpuinfo.read_text()
    ):
        message = (
            f"portable_numerics: true needs an x86-64 processor with AVX2, and this {machine} "
            "machine has none: set it to false"
        )
        raise ValueError(message)
    os.environ.update(PINNED)


def is_pinned() -> bool:
    """Tell whether this process was started by one that called `pin_numerics`."""
    return PINNED.items() <= os.environ.items()
