"""What a user hands to `train`: an objective that says what it is, and an `on_round` whose mistakes cost no round."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmpo_ref.config import LossConfig, WeightConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import draw_masks
from dmpo_ref.objectives import build_objective
from dmpo_ref.objectives.base import Objective
from dmpo_ref.tasks.sudoku import Sudoku
from dmpo_ref.train import train


def masks(rollout, generators):
    return draw_masks("exact", rollout.response_mask, 2, generators)


def linear(log_prob, masks, experience, weight):
    return -(weight * sequence_log_prob(log_prob, masks)).sum()


def squared(log_prob, masks, experience, weight):
    return (sequence_log_prob(log_prob, masks) / 10).square().mean()


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def spread(log_prob, masks, experience, weight):
    return sequence_log_prob(log_prob, masks).var(dim=-1).mean()  # 0 where all log-probabilities are equal, whatever they are


def clipped(log_prob, masks, experience, weight):
    return -log_prob.clamp(min=-15).sum()  # linear for most


@pytest.mark.parametrize("loss", [squared, spread, clipped])
def test_a_loss_that_is_not_linear_although_it_says_so_is_refused(small_run, tmp_path, loss):
    """In micro-batches its gradient was that at log-probabilities of 0; of two of these it is 0, and nothing was learned."""
    says_so = Objective(masks, loss, is_linear=True)
    with pytest.raises(ValueError, match="is_linear=True, but its loss is not linear in token_log_prob; leave is_linear out"):
        train(small_run("loss.micro_batch=3"), objective=says_so)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert train(small_run("train.rounds=1"), objective=says_so).metrics[0]["grad_norm"] > 0  # without them the gradient is right


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_a_linear_loss_that_is_not_finite_is_not_called_nonlinear(small_run, value, word):
    objective = Objective(masks, lambda log_prob, *_: (value * log_prob).sum(), is_linear=True)
    with pytest.raises(ValueError, match=f"the (loss|gradient norm) of step 0 is -?(nan|{word})"):
        train(small_run("loss.micro_batch=3"), objective=objective)


def test_a_linear_loss_may_be_large_or_of_half_precision(small_run, tmp_path):
    for i, loss in enumerate((lambda x, *_: 1e6 * x.sum() + 1e7, lambda x, *_: x.bfloat16().sum())):
        metrics = train(
            small_run("loss.micro_batch=3", "train.rounds=1", f"output={tmp_path / str(i)}"),
            objective=Objective(masks, loss, is_linear=True),
        ).metrics
        assert metrics[0]["grad_norm"] > 0


@pytest.mark.parametrize("baseline", ["none", "uniform"])  # with the second, the loss at equal scores is 0
def test_a_loss_that_is_linear_has_one_gradient_with_micro_batches_or_without(small_run, tmp_path, baseline):
    objective = Objective(masks, linear, is_linear=True, uses_weight=True)
    norms = []
    for m in ("null", "5"):
        config = small_run(f"weight.baseline={baseline}", f"loss.micro_batch={m}", f"output={tmp_path / m}")
        norms.append([entry["grad_norm"] for entry in train(config, objective=objective).metrics])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        lambda log_prob, *_: log_prob.sum(dim=-1),
        lambda log_prob, *_: log_prob.detach().sum(),
        lambda log_prob, *_: 1.0,
        lambda log_prob, *_: None,
    ],
)
@pytest.mark.parametrize("micro_batch", ["null", "3"])
def test_a_loss_without_a_gradient_or_of_many_numbers_is_one_line(small_run, loss, micro_batch):
    with pytest.raises(ValueError, match="the objective's loss must be a tensor of one number that depends on token_log_prob"):
        train(small_run(f"loss.micro_batch={micro_batch}"), objective=Objective(masks, loss))


@pytest.mark.parametrize(
    ("objective", "overrides", "message"),
    [
        ("wddo", ["sampler.guidance=1", "weight.log_ratio=none"], r"sampler\.guidance=1.* log p_old would be that of the unguided policy"),
        (
            "diffu_grpo",
            ["train.reference_share=0.5", "weight.log_ratio=path"],
            r"train\.reference_share=0\.5: .*set its uses_weight=True if it does, and if not, use 0",
        ),
        (
            "diffu_grpo",
            ["weight.baseline=uniform"],
            r"weight\.baseline=uniform: .*set its uses_weight=True if it does, and if not, use none",
        ),
        ("diffu_grpo", ["weight.log_ratio=path"], r"weight\.log_ratio=path: .*set its uses_weight=True if it does, and if not, use none"),
        ("diffu_grpo", ["weight.target_ess=0.5"], r"weight\.target_ess=0\.5: .*set its uses_weight=True if it does, and if not, use null"),
        ("agrpo", ["sampler.name=confidence"], r"sampler\.name=confidence: the objective follows the path of a rollout; only"),
        ("reinforce", ["sampler.name=confidence"], r"sampler\.name=confidence: the objective follows the path of a rollout; only"),
    ],
)
def test_options_that_an_own_objective_cannot_use_are_refused_as_for_a_named_one(small_run, tmp_path, objective, overrides, message):
    own = build_objective(LossConfig(name=objective), WeightConfig())
    with pytest.raises(ValueError, match=message):
        train(small_run(*overrides), objective=own)
    assert not (tmp_path / "run").exists()


def test_an_own_objective_that_reads_the_weights_may_have_them_of_every_kind(small_run):
    own = replace(build_objective(LossConfig(), WeightConfig()), loss=linear)
    overrides = ("weight.log_ratio=path", "weight.baseline=uniform", "train.reference_share=0.5", "train.rounds=1")
    assert len(train(small_run(*overrides), objective=own).metrics) == 2


def fails(done, policy):
    if done == 3:
        raise KeyError("of the user")


def test_a_round_is_saved_before_an_error_of_on_round_ends_the_run(small_run, tmp_path):
    """Rounds 1 to 3 of 4 are there, though only every second was to be saved; the run goes on with the fourth."""
    whole = train(small_run(f"output={tmp_path / 'whole'}")).metrics
    with pytest.raises(KeyError, match="of the user"):
        train(small_run(), on_round=fails)
    assert len(entries(tmp_path / "run")) == 6
    resumed = train(small_run(), resume=True).metrics
    assert [entry["loss"] for entry in resumed] == [entry["loss"] for entry in whole]


class Ungraded(Sudoku):
    def grade(self, item, text):
        return None


def test_a_task_that_cannot_grade_loses_no_round_either(small_run, tmp_path):
    config = small_run("train.checkpoint_every=100")
    with pytest.raises(AttributeError, match="correct"):
        train(config, task=Ungraded(config.task), on_round=lambda done, _: {"mine": done})
    assert (tmp_path / "run" / "checkpoint-000004").is_dir() and len(entries(tmp_path / "run")) == 8
    assert entries(tmp_path / "run")[-1]["mine"] == 4 and "evaluation/accuracy" not in entries(tmp_path / "run")[-1]


class Few(Sudoku):
    def load(self, source):
        return tuple(super().load(source)[:3])


def test_the_items_of_a_task_may_be_a_tuple(small_run):
    config = small_run("train.rounds=1")
    assert len(train(config, task=Few(config.task)).metrics) == 2


@pytest.mark.parametrize("returned", [None, {}, {"mine": 1}, {"mine": np.float32(0.5)}, {"mine": torch.tensor(2.0)}, {"mine": [1, 0.5]}])
def test_on_round_may_return_nothing_or_numbers_of_any_type(small_run, tmp_path, returned):
    metrics = train(small_run("train.rounds=1"), on_round=lambda *_: returned).metrics
    mine = returned["mine"] if returned else None
    assert metrics[-1].get("mine") == (mine if mine is None or isinstance(mine, list) else float(mine))
    assert entries(tmp_path / "run") == metrics


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, r"on_round returned 0\.5; return None, or a dictionary"),
        ({1: 2.0}, r"on_round returned \{1: 2\.0\}; return None, or a dictionary from names to numbers"),
        ({"mine": "much"}, "every value must be a number"),
        ({"mine": "0.7"}, "every value must be a number"),
        ({"mine": np.complex64(1 + 2j)}, "every value must be a number"),
        ({"mine": torch.ones(2)}, "every value must be a number"),
        ({"mine": [1.0, "much"]}, "every value must be a number, or a list of numbers"),
        *(
            ({name: 7}, f"a value for '{name}', which is a metric of the run")
            for name in ("round", "step", "reward", "evaluation/accuracy")
        ),
    ],
)
def test_what_on_round_may_not_return_is_one_line_and_the_round_is_saved(small_run, tmp_path, returned, message):
    with pytest.raises(ValueError, match=message):
        train(small_run(), on_round=lambda *_: returned)
    assert len(entries(tmp_path / "run")) == 2
    assert len(train(small_run(), resume=True).metrics) == 8
