"""What the forecast assumes of the hardware. Imports nothing, so that the command line can read it at once."""

from __future__ import annotations

FLOPS = 400e12  # bf16 operations per second that one H100 or H200 achieves on large matrices, about 40 % of its peak
BANDWIDTH = 3.3e12  # bytes per second from the memory of an H100; an H200 has 4.8e12
LINK = 450e9  # bytes per second that one H100 receives from the others of its machine, NVLink's peak
STRATEGIES = ("ddp", "fsdp2")  # the config files for several GPUs in presets/accelerate
