"""The code on a pretend accelerator: nothing of two devices meets, the numbers are those of the CPU, and the host waits seldom.

Counted is what one more forward pass costs: the difference between a long response and a short one.
"""

from collections import Counter
from pkgutil import resolve_name

import pytest
import torch
from torch.utils._pytree import tree_map

from dmpo_ref import train
from dmpo_ref.config import LossConfig, ModelConfig, SamplerConfig, WeightConfig
from dmpo_ref.evaluation.answering import answer_items
from dmpo_ref.likelihood import elbo, path_log_prob
from dmpo_ref.masking import SCHEMES, draw_masks, stream
from dmpo_ref.models.loading import load_policy
from dmpo_ref.objectives import OBJECTIVES, build_objective
from dmpo_ref.rollout import Experience
from dmpo_ref.samplers import sample
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.encoding import allowed_vocabulary
from tests.helpers import make_prompts, make_rollout, tiny_model, vocabulary
from tests.pretend import GPU, on_gpu, pretend_cuda
from toy.small_llada import make_checkpoint

here, there = torch.arange(6.0), torch.arange(6.0)  # what stays on the host, and what is moved; only read
MIXED = {
    "a sum": lambda h, g: g + h,
    "a mask of the host": lambda h, g: g.masked_fill(h > 2, 0.0),
    "one branch of a choice": lambda h, g: torch.where(g > 2, g, h),
    "an index for gather": lambda h, g: g.gather(0, h.long()),
    "an index for scatter": lambda h, g: g.scatter(0, h.long(), 1.0),
    "an index for index_select": lambda h, g: g.index_select(0, h.long()),
    "an index of the device for the host": lambda h, g: h[g.long()],
    "a part of cat": lambda h, g: torch.cat((g, h)),
    "a part of stack": lambda h, g: torch.stack((h, g)),
    "numbers made without a device": lambda h, g: g * torch.arange(6),
    "a matrix product": lambda h, g: g @ h,
    "where to search": lambda h, g: torch.searchsorted(g, h),
    "an embedding": lambda h, g: torch.nn.functional.embedding(g.long(), h.unsqueeze(-1)),
    "attention with a mask of the host": lambda h, g: torch.nn.functional.scaled_dot_product_attention(
        *(g.view(1, 1, 6, 1),) * 3, attn_mask=(h > 2).view(1, 1, 1, 6)
    ),
    "writing to the host": lambda h, g: h.clone().add_(g),
    "writing to a number of the host": lambda h, g: torch.tensor(0.0).add_(g.sum()),
    "masked_scatter": lambda h, g: g.masked_scatter(h > 2, g),
    "isin": lambda h, g: torch.isin(g, h[:2]),
    "a generator of the host for numbers on the device": lambda h, g: torch.rand(3, generator=torch.Generator(), device="cuda"),
    "a generator of the host for a tensor on the device": lambda h, g: g.clone().uniform_(generator=torch.Generator()),
    "a generator of the host for a draw": lambda h, g: torch.multinomial(g, 2, generator=torch.Generator()),
    "an array": lambda h, g: g.numpy(),
}
FREE = {
    "a number of the host": lambda h, g: g * h[2],
    "a copy to the device": lambda h, g: g + h.to("cuda"),
    "an index of the host": lambda h, g: g[h.long()],
    "numbers made on the device": lambda h, g: g + torch.arange(6, device=g.device),
    "numbers made like others": lambda h, g: g + torch.zeros_like(g) + g.new_ones(6),
    "one number at a mask": lambda h, g: g.clone().index_put_((g > 2,), torch.tensor(1.0)),
}
WAITING = {
    "item": lambda h, g: g[0].item(),
    "a truth value": lambda h, g: bool((g > 2).any()),
    "int": lambda h, g: int(g[0]),
    "tolist": lambda h, g: g.tolist(),
    "cpu": lambda h, g: g.cpu(),
    "to": lambda h, g: g.to(h),
    "copy_": lambda h, g: torch.empty(6).copy_(g),
    "nonzero": lambda h, g: g.nonzero(),
    "a mask as an index": lambda h, g: g[g > 2],
    "values at a mask": lambda h, g: g.clone().index_put_((g > 2,), g[:3]),
    "unique": lambda h, g: g.unique(),
    "equal": lambda h, g: torch.equal(g, g),
    "repeats of a tensor": lambda h, g: torch.repeat_interleave(g, g.long()),
}


@pytest.mark.parametrize("bug", MIXED)
def test_what_cuda_would_refuse_is_refused(bug):
    with pretend_cuda():
        with pytest.raises((RuntimeError, TypeError), match=r"same device|generator|numpy"):
            MIXED[bug](here, there.to("cuda"))
        MIXED[bug](here, there) if "generator" not in bug else None  # all on the host is fine


@pytest.mark.parametrize("deed", FREE)
def test_what_is_free_is_not_counted_and_stays_on_the_device(deed):
    with pretend_cuda() as gpu:
        on_device = there.to("cuda")
        with gpu.counting() as waits:
            assert on_gpu(FREE[deed](here, on_device))
        assert not waits


@pytest.mark.parametrize("deed", WAITING)
def test_what_makes_the_host_wait_is_counted_once(deed):
    with pretend_cuda() as gpu:
        on_device = there.to("cuda")
        with gpu.counting() as waits:
            WAITING[deed](here, on_device)
        assert waits.total() == 1


def test_outside_nothing_is_pretended():
    with pretend_cuda():
        moved = there.to("cuda")
        assert moved.device == GPU and moved.is_cuda and not moved.is_cpu and torch.nn.Parameter(moved).device == GPU
        assert moved.cpu().device.type == "cpu" and not there.is_cuda
    assert moved.device.type == "cpu"
    assert torch.Tensor.device is torch._C.TensorBase.device


SAMPLERS = [("random_order", "none"), ("random", "none"), ("wino", "none")]
SAMPLERS += [(name, cache) for name in ("confidence", "threshold", "factor") for cache in ("none", "prefix", "dual")]


def draw(name, cache, *, blocks=3, device="cpu", **options):
    """A rollout of two prompts with responses of so many blocks of four, on a device."""
    model, prompts = tiny_model(seed=3).to(device), make_prompts("12|" + "____" * blocks, "2|" + "____" * blocks)
    config = SamplerConfig(name=name, cache=cache, block_length=4, temperature=0.7, **options)
    generators = [stream(0, "pretend", g) for g in range(2)]
    return sample(model, prompts.to(torch.device(device)), config, vocabulary(), num_rollouts=3, generators=generators, end_tokens=[4])


@pytest.mark.parametrize(("name", "cache"), SAMPLERS)
@pytest.mark.parametrize("more", [{}, {"guidance": 0.5}, {"stop_early": True}], ids=str)
def test_a_sampler_draws_what_it_draws_on_the_cpu(name, cache, more):
    if name == "wino" and "guidance" in more:
        pytest.skip("wino has no guidance")
    expected = draw(name, cache, **more)
    with pretend_cuda():
        found = draw(name, cache, device="cuda", **more)
        assert on_gpu(found.tokens) and on_gpu(found.step)
    assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.step, expected.step)
    assert (found.forwards, found.fed_tokens) == (expected.forwards, expected.fed_tokens)


# One look for the places that are scored. How many tokens a step places, when a row ends: where the model decides, one look more.
PER_FORWARD = {"random_order": 1, "random": 1, "confidence": 1, "threshold": 2, "factor": 2, "wino": 3}


@pytest.mark.parametrize(("name", "cache"), SAMPLERS)
def test_host_waits_of_a_forward_pass_and_no_copies_to_the_device(name, cache):
    """Random numbers and places go to the device once for each response; two more copies where finished rows are left out."""
    with pretend_cuda() as gpu:
        cost, forwards, copies = [], [], []
        for blocks in (2, 5):
            before = gpu.copies
            with gpu.counting() as waits:
                forwards.append(draw(name, cache, blocks=blocks, device="cuda").forwards)
            cost.append(waits.total())
            copies.append(gpu.copies - before)
    assert copies[1] - copies[0] in (0, 2)
    # A cached block whose end the model decides is looked at once more, when its rows may be complete.
    ends_of_blocks = 3 if cache != "none" and PER_FORWARD[name] == 2 else 0
    assert cost[1] - cost[0] == PER_FORWARD[name] * (forwards[1] - forwards[0]) + ends_of_blocks


@pytest.mark.parametrize("scheme", SCHEMES)
def test_likelihoods_are_those_of_the_cpu_with_one_wait_for_each_pass(scheme):
    model, prompts = tiny_model(seed=1), make_prompts("12|____4__", "..|______")
    rollout = make_rollout(prompts, 3)
    masks = draw_masks(scheme, rollout.response_mask, 4, [stream(0, "m", g) for g in range(2)])
    expected = elbo(model, rollout, masks, vocabulary()), path_log_prob(model, rollout, vocabulary())
    with pretend_cuda() as gpu:
        model, rollout = tiny_model(seed=1).to("cuda"), rollout.to(GPU)
        masks = draw_masks(scheme, rollout.response_mask, 4, [stream(0, "m", g) for g in range(2)])
        with gpu.counting() as waits:
            found = elbo(model, rollout, masks, vocabulary(), micro_batch=6), path_log_prob(model, rollout, vocabulary())
        assert waits == Counter(nonzero=24 // 6 + 1)
    torch.testing.assert_close(found, expected)


RUNS = {
    "wdce along the path": (),
    "wdce on masks, in parts": ("loss.micro_batch=4", "train.score_micro_batch=5", "weight.log_ratio=elbo", "weight.baseline=negative"),
    "wddo on masks, in parts, stale rollouts": ("loss.name=wddo", "loss.micro_batch=4", "train.reuse_rounds=1", "weight.baseline=none"),
    "model baseline, some prompts": ("weight.baseline=model", "train.prompts_per_step=2", "loss.micro_batch=4"),
    "diffu-grpo": ("loss.name=diffu_grpo", "weight.baseline=none", "loss.kl=0.01", "loss.micro_batch=4"),
    "wd1": ("loss.name=wd1", "weight.baseline=none"),
    "reinforce": ("loss.name=reinforce", "weight.baseline=none", "loss.masks=path", "loss.kl=0.1"),
    "other groups drawn": ("train.skip_equal_groups=2", "train.num_rollouts=2"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_masks_and_loss_of_every_objective_are_those_of_the_cpu(name):
    """On arbitrary scores, without the model between them."""
    objective = build_objective(LossConfig(name=name, kl=0.1 if name == "coupled_grpo" else 0.0, num_masks=3), WeightConfig())

    def compute(move):
        rollout = move(make_rollout(make_prompts("12|____4__", "..|______"), 3))
        masks = objective.masks(rollout, [stream(0, "m", g) for g in range(2)])
        now, old, ref = (masks.target * move(-torch.rand(masks.hidden.shape, generator=stream(k))) for k in range(3))
        reward = move(torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]]))
        return objective.loss(now, masks, Experience(rollout, [0, 1], reward, reward, reward, log_old=old, log_ref=ref), reward)

    expected = compute(lambda x: x)
    with pretend_cuda():
        found = compute(lambda x: x.to(GPU))
        assert on_gpu(found)
    torch.testing.assert_close(found, expected)


def metrics_of(config, **more):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in train(config, **more).metrics]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_numbers_of_the_cpu(name, small_run, tmp_path):
    overrides = ("train.rounds=2", *RUNS[name])
    expected = metrics_of(small_run(*overrides))
    with pretend_cuda():
        trained = train(small_run(*overrides, f"output={tmp_path / 'gpu'}"))
        assert all(map(on_gpu, trained.policy.parameters()))
    for found, of_cpu in zip(trained.metrics, expected, strict=True):
        assert {k: v for k, v in found.items() if k != "seconds"} == pytest.approx(of_cpu, rel=1e-4, abs=1e-6)


def test_adapters_checkpointing_and_resuming(small_run, tmp_path):
    """LoRA with dropout on a bfloat16 checkpoint of LLaDA's layout, its reference re-synced, stopped and gone on with."""
    model = make_checkpoint(tmp_path / "model")
    options = [
        f"model.path={model}",
        "model.dtype=bfloat16",
        "model.lora_rank=2",
        "model.lora_dropout=0.1",
        "model.gradient_checkpointing=true",
    ]
    options += [
        "train.resync_every=1",
        "train.checkpoint_every=1",
        "loss.micro_batch=4",
        "sampler.name=confidence",
        "sampler.temperature=0.5",
    ]
    options += ["weight.log_ratio=elbo", "weight.baseline=uniform", "loss.masks=antithetic"]
    expected = metrics_of(small_run(*options, "train.rounds=2", f"output={tmp_path / 'cpu'}"))
    with pretend_cuda():
        config = small_run(*options, "train.rounds=2", f"output={tmp_path / 'gpu'}")
        with pytest.raises(PowerFailure):
            train(config, on_round=fail_after_round_1)
        resumed = metrics_of(config, resume=True)
    for found, of_cpu in zip(resumed, expected, strict=True):
        assert found == pytest.approx(of_cpu, rel=1e-2, abs=1e-3)  # bfloat16


class PowerFailure(BaseException):
    """No error, after which the round would be saved."""


def fail_after_round_1(done, policy):
    if done == 2:
        raise PowerFailure
    return {}


def test_a_gradient_step_waits_once_and_once_for_each_micro_batch(small_run, tmp_path):
    """A step of 3 · 4 rollouts with 2 masks in parts of 4: 6 forward passes."""
    cost = []
    for steps in (2, 5):
        with pretend_cuda() as gpu, gpu.counting() as waits:
            options = (
                f"train.steps_per_round={steps}",
                "train.rounds=1",
                "loss.micro_batch=4",
                "loss.masks=antithetic",
                "loss.num_masks=2",
            )
            train(small_run(*options, f"output={tmp_path / str(steps)}"))
        cost.append(waits)
    more = cost[1] - cost[0]
    assert more.pop("nonzero") == 3 * 6
    assert more.pop("tolist") == 3
    assert more == Counter(copy=3)  # which positions a fresh mask may hide


def test_answers_of_an_evaluation(small_run):
    config = small_run("evaluation.sampler.name=random_order")
    task = build_task(config.task)

    def answers(device, num_samples=2):
        model, tokenizer = load_policy(ModelConfig(path=config.model.path), torch.device(device))
        items, sampler = task.load(config.task.test)[:5], config.evaluation.sampler
        vocabulary = allowed_vocabulary(config.model, task, model, tokenizer)
        batches = answer_items(model, tokenizer, task, items, sampler, vocabulary, [0], num_samples=num_samples, seed=0)
        return [answer for batch in batches for answer in batch.answers]

    expected = answers("cpu")
    with pretend_cuda() as gpu, gpu.counting() as waits:
        assert answers("cuda") == expected
    with pretend_cuda() as gpu, gpu.counting() as of_more:
        answers("cuda", num_samples=6)
    assert of_more == waits  # nothing is asked for each answer


def test_the_model_alone_without_a_mask_or_a_vocabulary():
    """What a user of the model class leaves out is made where the model is."""
    for rope in (False, True):
        model, ids = tiny_model(rope=rope), torch.tensor([[3, 4, 1, 5]])
        where, target = (torch.tensor([0]), torch.tensor([2])), torch.tensor([5])
        expected = model(input_ids=ids, select=where, targets=target).token_log_prob
        with pretend_cuda():
            found = model.to("cuda")(input_ids=ids.to("cuda"), select=tuple(x.to("cuda") for x in where), targets=target.to("cuda"))
            assert on_gpu(found.token_log_prob)
        torch.testing.assert_close(found.token_log_prob, expected)


@pytest.mark.long
@pytest.mark.parametrize(
    "place",
    ["rollout.Prompts.to", "likelihood.Vocabulary.on", "masking.smallest", "models.llada.rope_rotation", "samplers.blockwise.largest"],
)
def test_a_bug_planted_in_the_code_is_seen(place, small_run, monkeypatch, tmp_path):
    """A function of the method leaves its result on the host."""
    made = resolve_name(f"dmpo_ref.{place}")

    def on_the_host(*args, **kwargs):
        return tree_map(lambda x: x.cpu() if isinstance(x, torch.Tensor) else x, made(*args, **kwargs))

    stays = {"to": lambda self, device: self, "on": lambda self, device: self.allowed}
    monkeypatch.setattr(f"dmpo_ref.{place}", stays.get(place.rpartition(".")[2], on_the_host))
    options = ("loss.masks=antithetic", "weight.log_ratio=elbo", "sampler.name=confidence")
    model = make_checkpoint(tmp_path / "model")
    with pretend_cuda(), pytest.raises(RuntimeError, match="same device"):
        train(small_run(f"model.path={model}", *options, "train.rounds=1"))
