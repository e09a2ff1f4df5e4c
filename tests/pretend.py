"""A pretend accelerator: tensors of this machine that behave as if they lay on a GPU, for the code that moves and mixes them.

    with pretend_cuda() as gpu:
        model = model.to("cuda")
        ...
    gpu.waits        # how often the host had to wait for a result, by operation
    gpu.copies       # how often something was copied to the device

The numbers are those of the CPU. A tensor is "on the GPU" if its storage carries a flag; `Tensor.device` then answers `cuda:0`. What
CUDA would refuse is refused with its words: tensors of two devices in one operation (a host tensor without dimensions may join, host
indices are copied), a host generator for numbers on the device, `numpy()`. What makes the host wait is counted: reading a number,
`nonzero` and whatever needs it (a boolean index), a copy to the host.

It cannot see kernels, and so neither what they do not implement, nor their numerics, their order or their memory; no streams, so that a
wait is only counted, never felt; no second device; nothing of NCCL, of `torch.compile`, of 4-bit weights; nothing inside a function of
torch that is written in C++, where a tensor on the host may be made and read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default, aten._unsafe_index.Tensor}
WAITS = {  # the host needs a number, or the size of the result
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default),
    *(aten.repeat_interleave.Tensor, aten.bincount.default, aten._unique2.default, aten.unique_consecutive.default),
}


def on_gpu(tensor: Tensor) -> bool:
    """Whether the storage of a tensor carries the flag."""
    return getattr(tensor.untyped_storage(), "on_gpu", False)


def put(tree: object, *, gpu: bool) -> None:
    """Flag the tensors of a result, or take the flag away."""
    for tensor in tree_leaves(tree):
        if isinstance(tensor, Tensor):
            tensor.untyped_storage().on_gpu = gpu


class Gpu:
    """What happened: `waits` of the host by operation, and `copies` to the device."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.copies = 0

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """The waits of what is done inside."""
        before, inside = Counter(self.waits), Counter[str]()
        yield inside
        inside.update(self.waits - before)


class Operations(TorchDispatchMode):
    """Every operation on tensors: refuse what is mixed, count what makes the host wait, flag what comes of flagged tensors."""

    def __init__(self, gpu: Gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        here = [on_gpu(x) for x in tensors]
        if not any(here):
            return func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Generator) for x in leaves):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        to_host = func is aten.copy_.default and not here[0]
        if to_host:
            self.gpu.waits["copy"] += 1
        elif func in COPIES:
            self.gpu.copies += not all(here)
        else:
            self.refuse_mixed(func, args, tensors, here)
            needs_size = func in INDEXED and is_boolean(args)
            if func in WAITS or needs_size:
                self.gpu.waits["index" if needs_size else func.overloadpacket.__name__.strip("_")] += 1
        result = func(*args, **(kwargs or {}))
        if not to_host:
            put(result, gpu=True)
        return result

    def refuse_mixed(self, func, args, tensors: list[Tensor], here: list[bool]) -> None:
        """Raise as CUDA does, unless what is on the host is a scalar or an index, and nothing on the host is written to."""
        indices = {id(x) for x in tree_leaves(args[1]) if isinstance(x, Tensor)} if func in INDEXED else set()
        host = [x for x, there in zip(tensors, here, strict=True) if not there]
        self.gpu.copies += sum(id(x) in indices for x in host)
        first_is_written = func._schema.arguments[0].alias_info is not None and func._schema.arguments[0].alias_info.is_write
        if any(x.dim() and id(x) not in indices for x in host) or first_is_written and isinstance(args[0], Tensor) and not here[0]:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})")


def is_boolean(args) -> bool:
    """Whether an index, or what is put at one, is by a mask: its places must be found first. One number at a mask needs none."""
    masks = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor) and x.dtype == torch.bool]
    return bool(masks) and not (len(args) > 2 and args[2].numel() == 1)


class Calls(TorchFunctionMode):
    """Calls of Python that name a device, or that leave torch: what the operations underneath do not show."""

    def __init__(self, gpu: Gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if name in ("numpy", "__array__") and own is not None and on_gpu(own):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        if name == "tolist" and on_gpu(own):
            self.gpu.waits["tolist"] += 1
        if name in ("to", "cpu", "cuda") and own is not None:
            return self.move(func, own, args[1:], kwargs, {"cpu": HOST, "cuda": GPU}.get(name))
        if kwargs.get("device") is None or torch.device(kwargs["device"]).type != "cuda":
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        result = func(*args, **kwargs | {"device": HOST})
        self.gpu.copies += name in ("tensor", "as_tensor", "asarray")
        put(result, gpu=True)
        return result

    def move(self, func, own: Tensor, args, kwargs, target: torch.device | None) -> Tensor:
        """`to`, `cpu` and `cuda`: a copy, if the device is another one."""
        at = [i for i, x in enumerate(args) if isinstance(x, (str, torch.device, Tensor))]
        given = args[at[0]] if at else kwargs.get("device", target)
        if given is None:
            return func(own, *args, **kwargs)
        target = given.device if isinstance(given, Tensor) else torch.device(given)
        if target.type != "cuda" and not on_gpu(own) or target.type == "cuda" and on_gpu(own):
            here = [HOST if i in at else x for i, x in enumerate(args)]
            return own.to(*here, **kwargs | ({"device": HOST} if "device" in kwargs else {}))
        dtype = [x for x in (*args, kwargs.get("dtype")) if isinstance(x, torch.dtype)]
        result = own.clone().to(*dtype) if dtype else own.clone()
        if target.type == "cuda":
            self.gpu.copies += 1
        else:
            self.gpu.waits["copy"] += 1
        put(result, gpu=target.type == "cuda")
        return result


@contextmanager
def pretend_cuda() -> Iterator[Gpu]:
    """Inside, `cuda` is a device, and Accelerate's; see the top of this file."""
    gpu = Gpu()
    real_device = torch._C.TensorBase.__dict__["device"]
    grouped = clip_grad._group_tensors_by_device_and_dtype

    def group(lists, *args):  # asks C++ for the device
        return {(lists[0][0].device, dtype): rest for (_, dtype), rest in grouped(lists, *args).items()}

    with ExitStack() as stack:
        for name, value in {
            "device": property(lambda x: GPU if on_gpu(x) else real_device.__get__(x)),
            "is_cuda": property(on_gpu),
            "is_cpu": property(lambda x: not on_gpu(x)),
        }.items():
            stack.enter_context(patch.object(torch.Tensor, name, value, create=True))
        stack.enter_context(patch.object(Accelerator, "device", GPU))
        stack.enter_context(patch.object(clip_grad, "_group_tensors_by_device_and_dtype", group))
        stack.enter_context(patch.object(torch.cuda, "manual_seed", torch.default_generator.manual_seed))
        stack.enter_context(patch.object(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state()))
        stack.enter_context(patch.object(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state)))
        stack.enter_context(Operations(gpu))
        stack.enter_context(Calls(gpu))
        yield gpu
