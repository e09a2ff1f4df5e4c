"""4-bit weights where bitsandbytes is installed; its CPU kernels do for a small model what those of a GPU do for LLaDA-8B."""

import pytest
import torch

from dmpo_ref.config import ModelConfig
from dmpo_ref.models.adapters import add_adapters
from dmpo_ref.models.loading import load_policy
from dmpo_ref.presets.loading import load_config
from dmpo_ref.train import train
from tests.helpers import save_adapters
from toy.small_llada import make_checkpoint

bitsandbytes = pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")
TOKENS = torch.arange(40).reshape(2, 20)
# Its kernel without a gradient is called where nothing needs one: in the first block, whose input is not trained.
pytestmark = pytest.mark.filterwarnings("ignore:bitsandbytes.*an autograd kernel was not registered")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nf4")
    make_checkpoint(folder / "base", d_model=64, n_heads=4)

    def stir(name, weight):
        if "lora_B" in name:
            weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).reshape(weight.shape))

    save_adapters(folder / "base", folder / "adapters", stir)
    return folder


def options(path, **more):
    return ModelConfig(path=str(path), dtype="bfloat16", quantize="nf4", lora_rank=2, **more)


@torch.no_grad()
def with_plain_weights(folder):
    """The bfloat16 model whose weights are what the 4 bits stand for."""
    plain, _ = load_policy(ModelConfig(path=str(folder / "base"), dtype="bfloat16"), CPU)
    quantized, _ = load_policy(options(folder / "base"), CPU)
    number = 0
    for name, layer in quantized.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            before = plain.get_submodule(name).weight
            assert 0.01 < (weight - before).norm() / before.norm() < 0.2  # 16 levels
            before.copy_(weight)
            number += 1
    assert number == 14, "all layers of the blocks, but not the head"
    return plain


@pytest.mark.parametrize("lean", [False, True])
def test_logits_and_gradients_are_those_of_the_weights_that_the_bits_stand_for(folder, lean):
    """As far from them in float64 as those of the bfloat16 model are, within a factor of 2.5."""
    results = []
    models = load_policy(options(folder / "base"), CPU)[0], with_plain_weights(folder), with_plain_weights(folder)
    for model, exact in zip(models, (False, False, True), strict=True):
        policy = add_adapters(model, options("", lora_lean=lean), seed=0)
        with torch.no_grad():
            for name, weight in policy.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
        policy = policy.double() if exact else policy
        with torch.no_grad():
            logits = policy(input_ids=TOKENS).logits
        policy(input_ids=TOKENS).logits.double().square().mean().backward()
        results.append((logits.double(), torch.cat([p.grad.double().flatten() for p in policy.parameters() if p.requires_grad])))
    for quantized, plain, exact in zip(*results, strict=True):
        assert (quantized - exact).norm() < 2.5 * (plain - exact).norm() < 0.6 * exact.norm()


def test_saved_adapters_load_onto_4_bits_again(folder):
    policy = load_policy(options(folder / "adapters"), CPU)[0]
    policy.save_pretrained(folder / "again")
    again = load_policy(options(folder / "again"), CPU, base=str(folder / "base"))[0]
    with torch.no_grad():
        assert torch.equal(again(input_ids=TOKENS).logits, policy(input_ids=TOKENS).logits)
        with policy.disable_adapter():
            assert not torch.equal(again(input_ids=TOKENS).logits, policy(input_ids=TOKENS).logits)


def test_a_run_on_4_bits_trains_its_adapters_and_resumes(folder, tmp_path):
    words = ("sampler.response_length=8", "sampler.block_length=8", "sampler.steps=8", "evaluation.sampler.response_length=8",
             "evaluation.sampler.block_length=8", "evaluation.sampler.steps=8", "evaluation.num_items=2", "train.rounds=2",
             "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "train.checkpoint_every=1", "device=cpu",
             "threads=1", "weight.baseline=none", "model.quantize=nf4", "model.lora_rank=2", f"model.path={folder / 'base'}")  # fmt: skip
    train(load_config("llada_sudoku", *words, f"output={tmp_path / 'run'}", "train.rounds=1"))
    trained = train(load_config("llada_sudoku", *words, f"output={tmp_path / 'run'}"), resume=True)
    assert [entry["round"] for entry in trained.metrics] == [0, 1] and all(entry["grad_norm"] > 0 for entry in trained.metrics)
