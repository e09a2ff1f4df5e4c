"""Assumptions of the forecast about the hardware. Imports nothing slow, so that the command line can read it at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class GPU:
    """Peaks of one GPU, from its maker's data sheet.

    Attributes:
        flops: operations per second on bfloat16 matrices, sums in float32, no sparsity. flops_float32: without tensor cores.
        bandwidth: bytes per second from its memory. link: bytes per second from the other GPUs of its machine.
        memory: GB of 10⁹ bytes.
    """

    name: str
    flops: float
    flops_float32: float
    bandwidth: float
    link: float
    memory: float


# NVIDIA H100 Tensor Core GPU data sheet, SXM: 989.4 TFLOPS (1,979 with sparsity), 3.35 TB/s, NVLink 900 GB/s in both directions together
# NVIDIA H200 Tensor Core GPU data sheet, SXM: as H100, 4.8 TB/s and 141 GB
# NVIDIA A100 80GB Tensor Core GPU data sheet, SXM: 312 TFLOPS, 2,039 GB/s, NVLink 600 GB/s
# NVIDIA Ada GPU architecture white paper, appendix A, RTX 4090: 165.2 TFLOPS, 1,008 GB/s, PCIe 4.0 x16
# NVIDIA Ampere GA102 GPU architecture white paper, appendix A, RTX 3090: 71 TFLOPS, 936 GB/s, PCIe 4.0 x16
GPUS = {
    "h100": GPU("H100", 989e12, 67e12, 3.35e12, 450e9, 80),
    "h200": GPU("H200", 989e12, 67e12, 4.8e12, 450e9, 141),
    "a100": GPU("A100 80 GB", 312e12, 19.5e12, 2.039e12, 300e9, 80),
    "rtx4090": GPU("RTX 4090", 165.2e12, 82.6e12, 1.008e12, 32e9, 24),
    "rtx3090": GPU("RTX 3090", 71e12, 35.6e12, 0.936e12, 32e9, 24),
}
DEFAULT_GPU = "h100"
# Shares of the peaks that an expectation counts with. They are assumptions: nothing has been measured on a GPU.
MATRIX_SHARE = 0.65  # of the peak, in products of large matrices
BANDWIDTH_SHARE = 0.8  # of the bandwidth, in element-wise kernels and in reading weights
TF32_SHARE = 0.5  # of the bfloat16 peak, what tensor cores do with float32 matrices: the adapters of a bfloat16 base
# Of the bytes that the ops of a block move, what inductor's kernels move: 0.26 to 0.30 of one block, by inductor's own counts on a CPU.
COMPILED_SHARE = 0.3
STRATEGIES = ("ddp", "fsdp2")  # the config files for several GPUs in presets/accelerate


def choose_gpu(name: str, *, flops: float | None = None, bandwidth: float | None = None, gpu_memory: float | None = None) -> GPU:
    """A GPU by its name in `GPUS`, with other numbers where they are given; `flops` is then the peak of every number type.

    Raises:
        ValueError: no such name, or a number that is not above 0.
    """
    if name not in GPUS:
        raise ValueError(f"gpu={name:.50}: choose among {', '.join(GPUS)}, and give other numbers by --flops, --bandwidth, --gpu-memory")
    for key, value in {"flops": flops, "bandwidth": bandwidth, "gpu_memory": gpu_memory}.items():
        if value is not None and not 0 < value < math.inf:  # NaN is not
            raise ValueError(f"{key}={value}: must be finite and above 0")
    gpu = GPUS[name]
    return replace(
        gpu,
        flops=flops or gpu.flops,
        flops_float32=flops or gpu.flops_float32,
        bandwidth=bandwidth or gpu.bandwidth,
        memory=gpu_memory or gpu.memory,
    )
