"""A run that goes wrong says so: each warning at its bound, once, silence where all is well, and the batch of a step that broke."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import token_log_prob
from dmpo_ref.masking import streams
from dmpo_ref.models.loading import latest_checkpoint
from dmpo_ref.objectives import OBJECTIVES, build_objective
from dmpo_ref.presets.checks import idle_options
from dmpo_ref.presets.loading import load_config, preset_names
from dmpo_ref.rollout import Experience
from dmpo_ref.runtime.checkpoint import as_experience
from dmpo_ref.runtime.watch import Watch
from dmpo_ref.train import train
from tests.helpers import make_prompts, make_rollout, tiny_model, vocabulary

HEALTHY = {"reward": 0.5, "frac_reward_zero_std": 0.2, "answer_length": 20.0, "ess": 0.5, "log_ratio_mean": -1.0}
REWARD = torch.tensor([[0.0, 1.0, 1.0, 0.0]])


def warnings_of(capsys, metrics=HEALTHY, *overrides, grad_norm=1.0, reward=REWARD, times=1):
    """What is printed when a run with N = 4, responses of 32 tokens, α = 0.5 and gradients clipped at 0.5 has these metrics."""
    options = ("train.num_rollouts=4", "sampler.response_length=32", "weight.alpha=0.5", "weight.log_ratio=path", *overrides)
    options += ("optimizer.max_grad_norm=0.5",)
    watch = Watch(load_config("toy_sudoku", *options))
    for _ in range(times):
        watch.look(metrics, [{"grad_norm": 0.1}, {"grad_norm": grad_norm}], reward)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("dmpo: warning: ") for line in lines)
    return lines


def test_a_healthy_round_is_silent(capsys):
    assert warnings_of(capsys) == []


@pytest.mark.parametrize(
    ("metrics", "grad_norm", "words"),
    [
        ({"ess": 1.249 / 4}, 1.0, ["1.25 of 4 rollouts", "weight.alpha", "weight.target_ess"]),
        ({"frac_reward_zero_std": 0.75, "reward": 0.5}, 1.0, ["75% of the groups", "train.skip_equal_groups"]),
        ({"answer_length": 32.0}, 1.0, ["no answer ends within its 32 tokens", "sampler.response_length"]),
        ({"log_ratio_mean": -3.01}, 1.0, ["is 3.0 nats", "more than the 2.0 that p* allows", "optimizer.learning_rate"]),
        ({}, 50.1, ["the norm 50.1, 100 times optimizer.max_grad_norm"]),
    ],
)
def test_each_trouble_is_said_once_with_what_to_try(capsys, metrics, grad_norm, words):
    (line,) = warnings_of(capsys, HEALTHY | metrics, grad_norm=grad_norm, times=3)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.lora_dropout=0.5"], ["without model.lora_rank all weights are trained"]),
        (["model.lora_alpha=3"], ["model.lora_alpha and model.lora_dropout do nothing"]),
        (
            ["optimizer.warmup_steps=480"],
            ["optimizer.warmup_steps=480, and the run has 480 gradient steps", "the learning rate stays below"],
        ),
        (["sampler.threshold=0.5"], ["sampler.threshold=0.5 does nothing with sampler.name=random_order; it is for threshold, wino"]),
        (["evaluation.sampler.name=threshold", "evaluation.sampler.factor=2"], ["evaluation.sampler.factor=2.0", "it is for factor"]),
        (["loss.clip=0.1"], ["loss.clip=0.1 does nothing with loss.name=wdce; it is for diffu_grpo, "]),
        (["loss.masks=path", "loss.num_masks=7"], ["loss.num_masks=7 does nothing with loss.masks=path; it is for exact, stratified, "]),
        (["loss.name=reinforce", "weight.log_ratio=none", "loss.masks=exact"], ["loss.masks=exact does nothing with loss.name=reinforce"]),
        (["weight.elbo_num_masks=7"], ["weight.elbo_num_masks=7 does nothing with weight.log_ratio=path; it is for elbo"]),
        (["weight.baseline=none", "weight.baseline_strength=0.5"], ["with weight.baseline=none; it is for uniform, negative, model"]),
    ],
)
def test_options_that_do_nothing_are_said_once(capsys, overrides, words):
    (line,) = warnings_of(capsys, HEALTHY, *overrides, times=3)
    assert all(word in line for word in words)
    assert warnings_of(capsys, HEALTHY, "model.lora_rank=2", "model.lora_dropout=0.5", "optimizer.warmup_steps=479") == []


@pytest.mark.parametrize("preset", preset_names())
def test_no_preset_sets_an_option_that_nothing_reads(preset):
    assert not list(idle_options(load_config(preset)))


@pytest.mark.parametrize("masks", ["exact", "path", "path_steps"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_reads_the_options_that_it_says_and_no_other(name, masks):
    """Its two functions are called with a config that notes what is read of it."""
    seen, loss = set[str](), LossConfig(masks=masks, kl=0.5)

    class Noted:
        def __getattr__(self, option):
            seen.add(option)
            return getattr(loss, option)

    objective = OBJECTIVES[name](Noted(), 0.5)
    rollout = make_rollout(make_prompts("12__3_"), 4)
    found = objective.masks(rollout, streams(0, "masks", [0]))
    scores = token_log_prob(tiny_model(), rollout, found, vocabulary())
    weight = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    objective.loss(scores, found, Experience(rollout, [0], weight, weight, weight, scores, scores), weight)
    assert set(objective.reads) == seen


def test_an_objective_of_ones_own_may_read_what_the_named_one_does_not(capsys):
    config = load_config("toy_sudoku", "loss.clip=0.1")
    assert [key for key, _ in Watch(config, own_objective=True).idle_options()] == []
    assert [key for key, _ in Watch(config).idle_options()] == ["loss.clip"]


@pytest.mark.parametrize("own", [True, False])
def test_a_run_warns_of_an_idle_option_of_the_loss_unless_its_objective_is_given(small_run, capsys, own):
    config = small_run("train.rounds=1", "loss.clip=0.1")
    train(config, objective=build_objective(config.loss, config.weight) if own else None)
    assert ("loss.clip=0.1 does nothing" in capsys.readouterr().err) != own


@pytest.mark.parametrize(
    ("metrics", "overrides"),
    [
        ({"ess": 1.251 / 4}, []),
        ({"ess": None}, ["weight.target=reward", "weight.log_ratio=none"]),  # rewards as weights have none
        ({"frac_reward_zero_std": 0.9, "reward": 0.51}, []),  # more solved than stuck
        ({"frac_reward_zero_std": 0.74, "reward": 0.0}, []),
        ({"answer_length": 31.9}, []),
        ({"log_ratio_mean": -2.99}, []),
        ({"log_ratio_mean": -9.0}, ["weight.log_ratio=none"]),
    ],
)
def test_on_the_other_side_of_the_bound_it_is_silent(capsys, metrics, overrides):
    assert warnings_of(capsys, HEALTHY | metrics, *overrides, grad_norm=49.9) == []


def test_a_policy_that_has_become_the_target_is_never_too_far(capsys):
    """log p*(o) − log p_ref(o) ≤ (max r − min r)/α, so its mean under p* is below the bound: 40 random targets of 6 answers."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        log_ref = (3 * torch.randn(6, generator=generator, dtype=torch.float64)).log_softmax(0)
        reward = torch.randn(6, generator=generator, dtype=torch.float64)
        log_target = (log_ref + reward / 0.5).log_softmax(0)
        mean = (log_target.exp() * (log_ref - log_target)).sum().item()
        assert warnings_of(capsys, HEALTHY | {"log_ratio_mean": mean}, reward=reward.unsqueeze(0)) == []


def test_a_run_whose_rewards_are_all_equal_warns_once(small_run, capsys):
    train(small_run("train.rounds=2"), reward=lambda item, text: 0.0)
    assert capsys.readouterr().err.count("in 100% of the groups all rewards are equal") == 1


def test_a_run_that_learns_is_silent(small_run, capsys):
    train(small_run("train.rounds=3", "train.num_rollouts=16", "weight.log_ratio=path"))
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("every", [1, 50])
def test_a_loss_that_is_not_finite_keeps_its_batch_and_names_the_last_checkpoint(small_run, tmp_path, every):
    config = small_run(f"train.checkpoint_every={every}")
    wdce, calls = build_objective(config.loss, config.weight), SimpleNamespace(number=0)

    def breaking(scores, masks, batch: Experience, weight):
        calls.number += 1
        return wdce.loss(scores, masks, batch, weight) * (float("nan") if calls.number == 6 else 1.0)  # in the third round of 2 steps

    with pytest.raises(ValueError, match=r"^the loss of step 5 is nan; its batch is in ") as caught:
        train(config, objective=dataclasses.replace(wdce, loss=breaking))
    output = tmp_path / "run"
    newest, message = latest_checkpoint(output), str(caught.value)
    assert (newest is None) == (every == 50)
    assert "\n" not in message and ("no checkpoint was written yet" if newest is None else f"model.path={newest}") in message
    batch = as_experience(torch.load(output / "not_finite_step_5_process_0.pt", weights_only=True))
    assert batch.reward.shape == (3, 4) and torch.isfinite(batch.weight).all()
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 4  # of the two rounds that ended
    assert json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_a_batch_that_cannot_be_kept_does_not_hide_what_was_wrong(small_run, tmp_path, monkeypatch):
    config = small_run()
    wdce = build_objective(config.loss, config.weight)

    def full(content, path):
        path.write_bytes(b"half")
        raise RuntimeError("unexpected pos 64 vs 0")  # what torch.save says

    monkeypatch.setattr("dmpo_ref.runtime.watch.torch.save", full)
    broken = dataclasses.replace(wdce, loss=lambda *given: wdce.loss(*given) * float("nan"))
    with pytest.raises(
        ValueError, match=r"^the loss of step 0 is nan; its batch could not be kept \(unexpected pos 64 vs 0\); no checkpoint"
    ):
        train(config, objective=broken)
    assert not (tmp_path / "run").exists()
