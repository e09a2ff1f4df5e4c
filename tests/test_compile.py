"""Compiled blocks: how many graphs a run needs, that none of it runs uncompiled, and that the numbers are those of the eager model."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from dmpo_ref.config import ModelConfig
from dmpo_ref.models.adapters import add_adapters
from dmpo_ref.models.llada import Block
from dmpo_ref.models.loading import load_policy
from dmpo_ref.presets.loading import load_config
from dmpo_ref.runtime.setup import prepare_run
from dmpo_ref.train import train
from toy.small_llada import make_checkpoint

CPU = torch.device("cpu")
SMALL = ("sampler.response_length=12", "sampler.block_length=4", "sampler.steps=6", "sampler.micro_batch=3", "train.rounds=3",
         "evaluation.sampler.response_length=12", "evaluation.sampler.block_length=4", "evaluation.sampler.steps=3",
         "evaluation.num_items=2", "train.prompts_per_round=2", "train.num_rollouts=4", "train.steps_per_round=2",
         "train.score_micro_batch=5", "loss.micro_batch=3", "optimizer.learning_rate=1e-3", "device=cpu", "threads=1",
         "weight.baseline=none", "model.lora_rank=4", "model.gradient_checkpointing=true",
         "task.train=toy/data/gsm8k_train.jsonl", "task.test=toy/data/gsm8k_test.jsonl")  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("small") / "llada", d_model=32, n_heads=4, n_kv_heads=2)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are compiled, as they come; each is traced and then run as it is."""
    found = []

    def count(graph, inputs):
        found.append(graph)
        return graph.forward

    compile_block = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode, **options: compile_block(self, backend=count, **options))
    torch._dynamo.reset()
    counters.clear()
    yield found
    torch._dynamo.reset()


def config(checkpoint, output, *more):
    return load_config("llada_gsm8k", *SMALL, f"model.path={checkpoint}", f"output={output}", *more)


def numbers(trained):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in trained.metrics]


@pytest.mark.parametrize(("cache", "dtype"), [("prefix", "float32"), pytest.param("dual", "bfloat16", marks=pytest.mark.long)])
def test_a_run_with_adapters_needs_a_few_graphs_all_in_its_first_round(checkpoint, tmp_path, graphs, cache, dtype):
    """Prompts of other lengths in every round, micro-batches that do not divide the batch, a gradient, adapters on, off and dropping."""
    after_round = []
    options = (f"sampler.cache={cache}", f"model.dtype={dtype}", f"model.lora_lean={dtype == 'bfloat16'}")
    eager = train(config(checkpoint, tmp_path / "eager", *options))
    assert not graphs
    compiled = train(
        config(checkpoint, tmp_path / "run", *options, "model.compile=default"), on_round=lambda *_: after_round.append(len(graphs)) or {}
    )
    # Recording, using the cache, adapters off, and two with a gradient; some twice, where sizes happen to be equal. And as many again for
    # the last block, which goes on with what is read.
    assert 5 <= after_round[0] <= 14
    assert after_round[1] == after_round[2] <= after_round[0] + 2
    assert not counters["graph_break"] and not counters["unimplemented"], "something ran as it was, without being compiled"
    assert numbers(compiled) == numbers(eager)


def test_one_graph_serves_batches_and_lengths_of_every_size(checkpoint, graphs):
    """More of them than torch compiles a function for; and another graph for a batch of one."""
    model, _ = load_policy(ModelConfig(path=str(checkpoint), compile="default"), CPU)
    eager, _ = load_policy(ModelConfig(path=str(checkpoint)), CPU)
    with torch.no_grad():
        for batch, length in [(2, 7), (3, 7), (2, 9), *((b, 10 + b) for b in range(4, 16)), (1, 5), (1, 6)]:
            tokens = torch.arange(batch * length).reshape(batch, length) % 300
            torch.testing.assert_close(model(tokens).logits, eager(tokens).logits, rtol=0, atol=0)
    assert len(graphs) == 2 and not counters["unimplemented"]


def test_checkpoints_leave_no_gradient_in_a_pass_without_one(checkpoint, tmp_path, monkeypatch):
    """The hook of Transformers makes embeddings require gradients for good; the gradient of the adapters does not need it."""
    inputs, gradients = [], []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, x, *rest: inputs.append(x.requires_grad) or forward(self, x, *rest))
    tokens = torch.arange(40).reshape(2, 20)
    for checkpointing in ("true", "false"):
        overrides = (f"model.gradient_checkpointing={checkpointing}", "model.lora_dropout=0", "model.dtype=float32")
        policy = prepare_run(config(checkpoint, tmp_path / checkpointing, *overrides)).policy
        with torch.no_grad():
            policy(input_ids=tokens)
        assert inputs == [False, False]
        policy(input_ids=tokens).logits.square().sum().backward()
        inputs.clear()
        gradients.append({name: p.grad for name, p in policy.named_parameters() if p.requires_grad})
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())
    assert any(value.abs().max() > 0 for name, value in gradients[0].items() if ".blocks.0." in name)


def test_new_adapters_drop_nothing_while_the_first_round_is_sampled(checkpoint, tmp_path):
    """Nor do they draw from the global random state, or need other graphs than those of later rounds."""
    run = prepare_run(config(checkpoint, tmp_path / "run", "model.lora_dropout=0.5"))
    assert not any(module.training for module in run.policy.modules())
    before = torch.get_rng_state()
    with torch.no_grad():
        run.policy(input_ids=torch.arange(40).reshape(2, 20))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])  # C++ takes 40 s
def test_compiled_blocks_give_the_logits_and_gradients_of_the_eager_model(checkpoint, monkeypatch, backend):
    if backend == "inductor" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler")
    compile_block = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode, **options: compile_block(self, backend=backend, **options))
    torch._dynamo.reset()
    tokens, results = torch.arange(40).reshape(2, 20), []
    for compile in ("none", "default"):
        options = ModelConfig(path=str(checkpoint), compile=compile, lora_rank=4, lora_targets=["q_proj", "ff_out"])
        policy = add_adapters(load_policy(options, CPU)[0], options, seed=0)
        with torch.no_grad():
            for name, weight in policy.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).reshape(weight.shape))
            logits = policy(input_ids=tokens).logits
        policy(input_ids=tokens).logits.square().mean().backward()
        results.append([logits, *(p.grad for p in policy.parameters() if p.requires_grad)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=5e-4 * eager.abs().max().item())
    torch._dynamo.reset()
