"""Adapters in passes without a gradient: fewer bytes, the error of the bfloat16 model, and PEFT's own numbers everywhere else."""

from inspect import signature

import pytest
import torch
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode

from dmpo_ref.config import ModelConfig
from dmpo_ref.models.adapters import Lean, add_adapters
from dmpo_ref.models.llada import Block, LLaDAConfig, LLaDAModelLM
from dmpo_ref.models.loading import load_policy
from dmpo_ref.models.reference import AdapterReference
from tests.helpers import save_adapters, tiny_model
from toy.small_llada import make_checkpoint

CPU = torch.device("cpu")
TOKENS = torch.arange(40).reshape(2, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, and adapters on it whose B is not 0."""
    folder = tmp_path_factory.mktemp("lean")
    make_checkpoint(folder / "base", d_model=32, n_heads=4, n_kv_heads=2)
    save_adapters(folder / "base", folder / "adapters", stir, lora_rank=4)
    return folder


def stir(name, weight, scale=0.1):
    if "lora_B" in name:
        weight.copy_(scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name) + 7 * int("blocks.1" in name))))


def policy(folder, *, lean, dtype="bfloat16"):
    return load_policy(ModelConfig(path=str(folder / "adapters"), dtype=dtype, lora_lean=lean), CPU, trainable=True)[0]


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits


class Moved(TorchDispatchMode):
    """Counts the bytes that operations read and write; views move nothing."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.bytes = {weight.untyped_storage()._cdata for weight in weights}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view and function is not torch.ops.aten._unsafe_view.default:
            tensors = [x for x in (*args, *(result if isinstance(result, tuple) else [result])) if isinstance(x, torch.Tensor)]
            self.bytes += sum(x.nbytes for x in tensors if x.untyped_storage()._cdata not in self.weights)
        return result


def bytes_of_a_block(num_tokens, **options):
    """Moved beside the weights in one block of LLaDA-8B, without its attention: shapes are enough for that."""
    with torch.device("meta"):
        model = LLaDAModelLM(LLaDAConfig(n_layers=1)).bfloat16().eval()
        if options:
            model = add_adapters(model, ModelConfig(**options), seed=0)
            for name, weight in model.named_parameters():
                weight.data = weight.data.float() if "lora_" in name else weight.data
        x, wide = (torch.empty(1, num_tokens, d, dtype=torch.bfloat16) for d in (4096, 12288))
    block = next(module for module in model.modules() if isinstance(module, Block))
    with torch.no_grad(), Moved(model.parameters()) as moved:
        for project in (block.q_proj, block.k_proj, block.v_proj, block.attn_out, block.ff_proj, block.up_proj):
            project(x)
        block.ff_out(wide)
    return moved.bytes


def test_adapters_move_a_fifth_of_the_bytes_at_the_width_of_llada_8b():
    num_tokens, widths = 2048, [(4096, 4096)] * 4 + [(4096, 12288)] * 2 + [(12288, 4096)]
    without, lean, peft = (
        bytes_of_a_block(num_tokens, **options) for options in ({}, *({"lora_rank": 128, "lora_lean": x} for x in (1, 0)))
    )
    assert without == sum(2 * num_tokens * (d_in + d_out) for d_in, d_out in widths)
    # x is read once more, A x written and read, y read and written once more, and A and B written and read in bfloat16.
    expected = sum(2 * num_tokens * (d_in + 2 * 128 + 2 * d_out) + 2 * 2 * 128 * (d_in + d_out) for d_in, d_out in widths)
    assert lean - without == expected
    assert lean - without < (peft - without) / 5


@pytest.mark.parametrize(("scale", "bound"), [(0.02, 1.1), (0.3, 1.5)], ids=["adapters count less than W", "more than W"])
def test_logits_are_as_far_from_exact_ones_as_those_of_peft(scale, bound):
    """Exact: the same bfloat16 W and float32 A and B, in float64 throughout. Root mean square over three models."""
    sizes = {"d_model": 64, "n_layers": 3, "mlp_hidden_size": 192, "vocab_size": 128, "rope": True, "init_std": 0.1}
    error = {True: 0.0, False: 0.0}
    for seed in range(3):
        for lean in error:
            options = ModelConfig(lora_rank=8, lora_alpha=16, lora_lean=lean)
            model = add_adapters(tiny_model(seed, double=False, **sizes).bfloat16(), options, seed=seed)
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    stir(name, weight, scale)
            rounded = logits(model)
            with model.disable_adapter():
                base = logits(model)
            exact = logits(model.double())
            error[lean] += (rounded - exact).square().mean().item()
            assert ((exact - base).norm() > base.norm()) == (scale > 0.1)
    assert error[True] ** 0.5 < bound * error[False] ** 0.5


@torch.no_grad()
def test_a_layer_adds_b_a_x_of_rounded_weights(folder):
    """y = W x + (α/r) B (A x) in float64, of A and B rounded to bfloat16: A x and y are rounded once each."""
    model = policy(folder, lean=True)
    layer = model.get_submodule("base_model.model.model.transformer.blocks.1.ff_proj")
    assert isinstance(layer, Lean)
    W, A, B = (w.bfloat16().double() for w in (layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight))
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    scale = 64 / 4
    base, low = (x.double() @ W.T), (x.double() @ A.T).bfloat16().double()
    expected = base.bfloat16().double() + scale * low @ B.T
    assert (expected - base).norm() > 0.3 * base.norm()
    torch.testing.assert_close(layer(x).double(), expected, rtol=2**-7, atol=2**-7 * expected.std().item())


@pytest.mark.parametrize("case", ["float32", "gradient", "training", "adapters off", "bias", "dora"])
def test_everywhere_else_the_numbers_are_those_of_peft(folder, case):
    results = []
    for lean in (True, False):
        model = policy(folder, lean=lean, dtype="float32" if case == "float32" else "bfloat16")
        layers = [module for module in model.modules() if hasattr(module, "lora_variant")]
        assert len(layers) == 14 and all(isinstance(layer, Lean) == lean for layer in layers)
        if case == "bias":
            for layer in layers:
                layer.lora_B["default"].bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features))
        if case == "dora":
            for layer in layers:
                layer.update_layer("default", 4, lora_alpha=64, **dora(layer))
        if case == "training":
            model.train()
        if case == "adapters off":
            with model.disable_adapter():
                results.append([logits(model)])
        elif case == "gradient":
            out = model(input_ids=TOKENS).logits
            out.float().square().mean().backward()
            results.append([out, *(p.grad for p in model.parameters() if p.requires_grad)])
        else:
            results.append([logits(model)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_without_a_gradient_they_are_not(folder):
    assert not torch.equal(*(logits(policy(folder, lean=lean)) for lean in (True, False)))


def dora(layer):
    """What makes a layer DoRA, as its version of PEFT wants it: one config, or in 0.18 each option."""
    if "config" in signature(layer.update_layer).parameters:
        return {"config": LoraConfig(r=4, lora_alpha=64, use_dora=True)}
    return {"lora_dropout": 0.0, "init_lora_weights": True, "use_rslora": False, "use_dora": True}


def test_a_step_a_re_sync_and_a_merge_are_seen_at_once(folder):
    model = policy(folder, lean=True)
    reference, before = AdapterReference(model), logits(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(input_ids=TOKENS).logits.float().square().mean().backward()
    optimizer.step()
    after = logits(model)
    assert (after - before).abs().max() > 0.1
    reference.sync(model)
    optimizer.step()
    later = logits(model)
    with reference.model() as p_ref:
        assert torch.equal(logits(p_ref), after)
    assert torch.equal(logits(model), later) and not torch.equal(later, after)
    merged = logits(model.merge_and_unload())
    # W + (α/r) B A is rounded once, like every weight; what was learned is far more.
    assert (merged - later).norm() < 0.2 * (later - before).norm()
