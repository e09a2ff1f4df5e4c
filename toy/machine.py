"""The machine that `dmpo bench` measures on: its clock, its memory, and its peak rates."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CLEAR, STATUS, CPUINFO = Path("/proc/self/clear_refs"), Path("/proc/self/status"), Path("/proc/cpuinfo")


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are still held: `now`, and `peak`, the most at any time.

    Memory that an allocator keeps after they are freed is not included, nor are tensors that existed before, and views of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.held = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            size, address = storage.nbytes(), storage._cdata
            if address not in self.held and address not in given:
                self.held.add(address)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.let_go, address, size)
        return result

    def let_go(self, address: int, size: int) -> None:
        """Subtract the bytes of a storage that was freed."""
        self.held.discard(address)
        self.now -= size


def finish(device: torch.device) -> None:
    """Wait for a GPU, whose work is only queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> float:
    """Start measuring the highest memory anew (see `peak_memory`); returns what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.exists():
        CLEAR.write_text("5")  # Linux: forget the highest resident size so far
    return peak_memory(device)


def peak_memory(device: torch.device) -> float:
    """The highest memory so far, in bytes: allocated on a GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        return 1024.0 * int(STATUS.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def measure_ceilings(device_name: str, dtype: str) -> None:
    """Print, as one line of JSON, operations per second of a large matrix product and bytes per second of a large copy."""
    device, is_cuda = torch.device(device_name), device_name == "cuda"
    n, size = (8192, 2**30) if is_cuda else (2048, 2**27)
    a = torch.randn(n, n, device=device).to(getattr(torch, dtype))
    x = torch.zeros(size // 4, device=device)
    y = torch.empty_like(x)

    def rate(work: Callable[[], object], amount: float) -> float:
        times = []
        for _ in range(5):
            finish(device)
            start = time.perf_counter()
            work()
            finish(device)
            times.append(time.perf_counter() - start)
        return amount / median(times[1:])

    name = torch.cuda.get_device_name() if is_cuda else processor()
    row = {"flop_per_second": rate(lambda: a @ a, 2 * n**3), "bytes_per_second": rate(lambda: y.copy_(x), 2 * size)}
    print(json.dumps({"device": name, "dtype": dtype, "threads": torch.get_num_threads(), **row}))


def describe() -> dict[str, Any]:
    """What the numbers of a measurement depend on: processor, cores, memory in bytes, load (mean processes of the last minute), versions.

    None where the system does not say.
    """
    has_memory, has_load = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names, hasattr(os, "getloadavg")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if has_memory else None,
        "load": os.getloadavg()[0] if has_load else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The name of the CPU; its architecture where the system does not say more."""
    if CPUINFO.exists():
        named = [line.partition(":")[2].strip() for line in CPUINFO.read_text().splitlines() if line.startswith("model name")]
        if named:
            return named[0]
    return platform.processor() or platform.machine()
