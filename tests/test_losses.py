"""WDCE and WDDO: worked cases, values and gradients summed position by position, finite differences in float64."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dmpo_ref.config import LossConfig, WeightConfig
from dmpo_ref.experience import step_masks
from dmpo_ref.gradient import real_weight
from dmpo_ref.likelihood import sequence_log_prob, token_log_prob
from dmpo_ref.losses import wdce, wddo
from dmpo_ref.masking import SCHEMES, path_masks, path_steps_from_uniforms, stream
from dmpo_ref.objectives import build_objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.rollout import Experience
from dmpo_ref.runtime.setup import RunParts, prepare_run
from tests.helpers import (
    MASK,
    Dummy,
    backward_of,
    batch_and_masks,
    collect_round,
    make_prompts,
    make_rollout,
    plain_log_prob,
    plain_path_log_prob,
    tiny_model,
    vocabulary,
)

ALLOWED = (4, 5, 6, 7)
VOCABULARY = vocabulary(ALLOWED)
G, N, K = 2, 3, 2
LOSSES = [("wdce", "length"), ("wdce", "none"), ("wddo", "length")]
MASKS = [*SCHEMES, "path", "path_steps"]


def streams(seed: int = 0) -> list[torch.Generator]:
    return [stream(seed, "masks", g) for g in range(G)]


def build_case(name: str, normalise: str, masks: str):
    """Two prompts of different length with 3 and 2 blanks (so one is padded), three rollouts each, arbitrary weights."""
    config = LossConfig(name=name, masks=masks, num_masks=3, normalise=normalise)
    objective = build_objective(config, WeightConfig())
    rollout = make_rollout(make_prompts("12|_3__", "4|__1"), N)
    masks = objective.masks(rollout, streams())
    rng = np.random.default_rng(1)
    weight = torch.tensor(rng.dirichlet(np.ones(N), size=G))
    real = weight if name == "wddo" else weight - torch.tensor(rng.dirichlet(np.ones(N), size=G))
    log_old = token_log_prob(tiny_model(7), rollout, masks, VOCABULARY).detach()
    experience = Experience(rollout, [0, 1], torch.zeros(G, N), weight, weight - real, log_old)
    return objective, experience, masks, real


def slow_log_likelihood(model, rollout, masks) -> np.ndarray:
    """mean_r weight_r Σ_{scored} log π, [G, N], a row and a position at a time."""
    total = np.zeros((G, N))
    for g, n in np.ndindex(G, N):
        tokens, attention_mask = rollout.tokens[g, n], rollout.attention_mask[g, n]
        for r in range(masks.hidden.shape[2]):
            seen = tokens.masked_fill(masks.hidden[g, n, r], MASK)
            scored = masks.target[g, n, r].nonzero().flatten().tolist()
            log_prob = sum(plain_log_prob(model, seen, attention_mask, s, int(tokens[s]), ALLOWED) for s in scored)
            total[g, n] += masks.weight[g, n, r].item() * log_prob / masks.hidden.shape[2]
    return total


def slow_loss(name: str, normalise: str, log_prob: np.ndarray, log_old: np.ndarray, weight: np.ndarray) -> float:
    """The definitions, in numpy, with a loop over prompts and rollouts."""
    total = 0.0
    for g, n in np.ndindex(G, N):
        if name == "wdce":
            length = (3, 2)[g] if normalise == "length" else 1
            total -= weight[g, n] * log_prob[g, n] / length / G
        else:
            delta = log_prob[g, n] - log_old[g, n]
            total += (weight[g, n] * np.log1p(np.exp(-delta)) + np.log1p(np.exp(delta)) / N) / G
    return total


@pytest.mark.parametrize(("name", "normalise"), LOSSES)
@pytest.mark.parametrize("masks", MASKS)
def test_the_loss_equals_its_definition_summed_position_by_position(name, normalise, masks):
    objective, experience, masks, weight = build_case(name, normalise, masks)
    model, old = tiny_model(3), tiny_model(7)
    loss = objective.loss(token_log_prob(model, experience.rollout, masks, VOCABULARY), masks, experience, weight)
    log_prob, log_old = (slow_log_likelihood(m, experience.rollout, masks) for m in (model, old))
    assert loss.item() == pytest.approx(slow_loss(name, normalise, log_prob, log_old, weight.numpy()), rel=1e-10)


@pytest.mark.parametrize(("name", "normalise"), LOSSES)
@pytest.mark.parametrize("masks", MASKS)
def test_the_gradient_in_the_parameters_equals_finite_differences(name, normalise, masks):
    """A random direction in every weight matrix of the model."""
    objective, experience, masks, weight = build_case(name, normalise, masks)
    model = tiny_model(3)

    def loss():
        return objective.loss(token_log_prob(model, experience.rollout, masks, VOCABULARY), masks, experience, weight)

    loss().backward()
    generator, h = torch.Generator().manual_seed(0), 1e-3
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        start, value = parameter.detach().clone(), {}
        with torch.no_grad():
            for k in (-2, -1, 1, 2):
                parameter.copy_(start + k * h * direction)
                value[k] = loss().item()
            parameter.copy_(start)
        numeric = (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * h)  # central, error of order h⁴
        assert (parameter.grad * direction).sum().item() == pytest.approx(numeric, rel=1e-6, abs=1e-11)


@pytest.mark.parametrize(("name", "normalise"), LOSSES)
@pytest.mark.parametrize("masks", ["antithetic", "path"])
def test_the_gradient_in_the_logits_is_the_coefficient_times_softmax_minus_one_hot(name, normalise, masks):
    """Logits as free parameters. Tokens that may not be generated and positions that are not scored have none."""
    objective, experience, masks, weight = build_case(name, normalise, masks)
    rollout, R = experience.rollout, masks.hidden.shape[2]
    logits = torch.randn(G * N * R, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    log_prob = token_log_prob(Dummy(lambda tokens: logits), rollout, masks, VOCABULARY)
    objective.loss(log_prob, masks, experience, weight).backward()

    pi = logits.detach()[..., list(ALLOWED)].softmax(dim=-1).numpy().reshape(G, N, R, 6, 4)
    target, mask_weight = masks.target.numpy(), masks.weight.numpy()
    scored = np.zeros((G, N, R, 6))
    expected = np.zeros((G, N, R, 6, 8))
    for index in zip(*target.nonzero(), strict=True):
        symbol = ALLOWED.index(rollout.tokens[index[0], index[1], index[3]].item())
        scored[index] = np.log(pi[index][symbol])
        expected[(*index, list(ALLOWED))] = mask_weight[index[:3]] / R * (np.eye(4)[symbol] - pi[index])
    log_policy = (mask_weight * scored.sum(axis=-1)).mean(axis=-1)
    if name == "wdce":
        coefficient = -weight.numpy() / (np.array([[3], [2]]) if normalise == "length" else 1)
    else:
        delta = log_policy - (mask_weight * experience.log_old.numpy().sum(axis=-1)).mean(axis=-1)
        coefficient = -weight.numpy() / (1 + np.exp(delta)) + 1 / N / (1 + np.exp(-delta))
    expected *= coefficient[:, :, None, None, None] / G
    np.testing.assert_allclose(logits.grad.numpy().reshape(expected.shape), expected, rtol=1e-10, atol=1e-14)


def test_wdce_worked_by_hand():
    """One prompt, two rollouts, weights 3/4 and −1/4: −(3/4 · (−2) − 1/4 · (−6)) = 1.5 − 1.5 = 0; twice the first changes it to 1.5."""
    weight = torch.tensor([[0.75, -0.25]])
    assert wdce(torch.tensor([[-2.0, -6.0]]), weight).item() == pytest.approx(0.0)
    assert wdce(torch.tensor([[-4.0, -6.0]]), weight).item() == pytest.approx(1.5)
    # A second prompt is averaged, not added.
    two = wdce(torch.tensor([[-4.0, -6.0], [-1.0, -1.0]]), torch.tensor([[0.75, -0.25], [0.5, 0.5]]))
    assert two.item() == pytest.approx((1.5 + 1.0) / 2)


def test_wddo_worked_by_hand():
    """σ(ln 3) = 3/4 and σ(0) = 1/2: −[2/3 ln(3/4) + 1/3 ln(1/2)] − ½ [ln(1/4) + ln(1/2)]."""
    loss = wddo(torch.tensor([[math.log(3), 0.0]], dtype=torch.float64), torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64))
    expected = -(2 / 3 * math.log(3 / 4) + 1 / 3 * math.log(1 / 2)) - (math.log(1 / 4) + math.log(1 / 2)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert wddo(torch.zeros(3, 5), torch.full((3, 5), 0.2)).item() == pytest.approx(2 * math.log(2))


def test_wddo_is_stationary_where_the_ratio_is_n_times_the_weight():
    """e^Δ = N w there; and the loss is larger on both sides of it in every coordinate."""
    weight = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)
    delta = (4 * weight).log().requires_grad_()
    least = wddo(delta, weight)
    (gradient,) = torch.autograd.grad(least, delta)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-15, rtol=0)
    for step in (-0.1, 0.1):
        for g, n in np.ndindex(2, 4):
            moved = delta.detach().clone()
            moved[g, n] += step
            assert wddo(moved, weight) > least


def test_the_published_mean_over_rollouts_makes_the_positive_term_n_times_too_weak():
    """−mean_n [w log sigmoid(Δ) + log sigmoid(−Δ)] is stationary at e^Δ = w instead of N w; ours is not stationary there."""
    weight = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)

    def published(delta):
        return -(weight * F.logsigmoid(delta) + F.logsigmoid(-delta)).mean()

    def gradient(loss, at):
        delta = at.clone().requires_grad_()
        return torch.autograd.grad(loss(delta), delta)[0]

    too_small, right = weight.log(), (4 * weight).log()
    torch.testing.assert_close(gradient(published, too_small), torch.zeros_like(weight), atol=1e-15, rtol=0)
    assert (gradient(published, right) > 0.01).all()
    assert (gradient(lambda delta: wddo(delta, weight), too_small) < -0.01).all()
    # With Δ so large that the negative terms are linear, what remains is the positive one: Σ, not mean.
    very_negative = torch.full((1, 4), -40.0, dtype=torch.float64)
    assert wddo(very_negative, weight).item() == pytest.approx(40.0)
    assert published(very_negative).item() == pytest.approx(40.0 / 4)


def test_wddo_averages_masks_before_the_sigmoid():
    """Two masks with Δ = +3 and −3: their mean is 0 and the loss 2 ln 2; averaging the losses would give 2 ln 2 + 1.8."""
    rollout = make_rollout(make_prompts("_12"), 2)
    objective = build_objective(LossConfig(name="wddo", masks="exact", num_masks=2), WeightConfig())
    masks = objective.masks(rollout, streams()[:1])
    assert (masks.weight == 1).all()  # one blank: L = m = 1
    log_prob = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    log_prob[..., 0] = torch.tensor([3.0, -3.0])
    weight = torch.full((1, 2), 0.5, dtype=torch.float64)
    experience = Experience(rollout, [0], torch.zeros(1, 2), weight, torch.zeros(1, 2), torch.zeros_like(log_prob))
    assert objective.loss(log_prob, masks, experience, weight).item() == pytest.approx(2 * math.log(2))
    averaged_after = np.mean([wddo(torch.full((1, 2), d, dtype=torch.float64), weight).item() for d in (3.0, -3.0)])
    assert averaged_after > 2 * math.log(2) + 1.5


def test_path_masks_give_the_log_probability_along_the_order_exactly():
    rollout = make_rollout(make_prompts("12|_3__", "4|__1"), N)
    model, masks = tiny_model(3), path_masks(rollout.step, rollout.num_steps)
    computed = sequence_log_prob(token_log_prob(model, rollout, masks, VOCABULARY), masks)
    for g, n in np.ndindex(G, N):
        expected = plain_path_log_prob(model, rollout.tokens[g, n], rollout.attention_mask[g, n], rollout.step[g, n], ALLOWED)
        assert computed[g, n].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("masks", MASKS)
def test_equal_streams_give_equal_masks_and_other_streams_others(masks):
    objective = build_objective(LossConfig(masks=masks, num_masks=4), WeightConfig())
    rollout = make_rollout(make_prompts("________", "1234____"), 5)
    first, again, other = (objective.masks(rollout, streams(seed)) for seed in (0, 0, 1))
    for field in ("hidden", "target", "weight"):
        assert torch.equal(getattr(first, field), getattr(again, field))
    assert torch.equal(first.hidden, other.hidden) == (masks == "path")


@pytest.mark.parametrize("masks", SCHEMES)
@pytest.mark.parametrize("neighbour", ["1234|___", "1|_____", "_"], ids=["more_padding", "more_blanks", "shorter"])
def test_the_masks_of_a_prompt_do_not_depend_on_the_others(masks, neighbour):
    objective = build_objective(LossConfig(masks=masks, num_masks=3), WeightConfig())
    together = objective.masks(make_rollout(make_prompts("12|_3__", neighbour), N), streams())
    alone = objective.masks(make_rollout(make_prompts("12|_3__"), N), streams()[:1])
    padding = together.hidden.shape[-1] - alone.hidden.shape[-1]
    assert torch.equal(together.hidden[:1, :, :, padding:], alone.hidden)
    assert torch.equal(together.weight[:1], alone.weight)


def test_selecting_prompts_and_a_step_keeps_rows_together():
    objective, experience, masks, _ = build_case("wddo", "length", "exact")
    stored = torch.stack([experience.log_old, experience.log_old + 1])
    buffered = Experience(**(vars(experience) | {"log_old": stored, "position": [10, 11]}))
    chosen = buffered.of_step(1, [1])
    assert chosen.position == [11]
    assert torch.equal(chosen.log_old, experience.log_old[1:] + 1)
    assert torch.equal(chosen.weight, experience.weight[1:])
    assert torch.equal(chosen.rollout.tokens, experience.rollout.tokens[1:])
    assert torch.equal(chosen.rollout.step, experience.rollout.step[1:])


# The training step on the tiny Sudoku policy.

OBJECTIVES = {
    "wdce": ["loss.name=wdce"],
    "wdce, exact path": ["loss.name=wdce", "loss.masks=path", "loss.normalise=none"],
    "wdce, path steps": ["loss.name=wdce", "loss.masks=path_steps"],
    "wdce, negative baseline": ["loss.name=wdce", "weight.baseline=negative", "weight.baseline_strength=0.7"],
    "wddo": ["loss.name=wddo"],
    "model baseline": ["loss.name=wdce", "weight.baseline=model", "weight.baseline_strength=0.7"],
}


def tiny_run(folder, *overrides: str) -> RunParts:
    """A run on three puzzles with four rollouts each, weights in float64, a policy that has moved since its rollouts."""
    small = ["train.prompts_per_round=3", "train.num_rollouts=4", f"train.steps_per_round={K}", "evaluation.num_items=1"]
    config = load_config("toy_sudoku", f"output={folder}", "weight.alpha=1.0", "task.reward=recipe", *small, *overrides)
    run = prepare_run(config)
    run.policy.double()
    run.state.buffer = [collect_round(run)]
    return run


def move(policy) -> None:
    """Another policy than the one that drew the rollouts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def plain_token_log_prob(model, rollout, masks, allowed: torch.Tensor) -> torch.Tensor:
    """log π of every token under every mask from all logits at once, [G, N, R, S], 0 where not scored."""
    tokens, attention_mask = (x.unsqueeze(2).expand_as(masks.hidden) for x in (rollout.tokens, rollout.attention_mask))
    seen = torch.where(masks.hidden, MASK, tokens)
    logits = model(seen.flatten(0, 2), attention_mask=attention_mask.flatten(0, 2)).logits.view(*seen.shape, -1)
    log_z = torch.where(allowed, logits, -torch.inf).logsumexp(dim=-1)
    return (logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - log_z) * masks.target


def plain_objective(run: RunParts, batch: Experience, masks) -> torch.Tensor:
    """The loss of the run by its equations, with a gradient."""
    config, allowed, mask_weight = run.config, run.vocabulary.allowed, masks.weight
    log_prob = (mask_weight * plain_token_log_prob(run.policy, batch.rollout, masks, allowed).sum(-1)).mean(-1)
    if batch.log_old is not None:
        delta = log_prob - (mask_weight * batch.log_old.sum(-1)).mean(-1)
    if config.loss.name == "wddo":
        softplus = torch.nn.functional.softplus
        return ((batch.weight * softplus(-delta)).sum(-1) + softplus(delta).mean(-1)).mean()
    weight = batch.weight
    if config.weight.baseline == "negative":
        weight = weight - 0.7 * (-batch.reward).softmax(dim=-1)  # α = 1, no log-ratio
    if config.weight.baseline == "model":
        weight = weight - 0.7 * delta.detach().softmax(dim=-1)
    length = batch.rollout.response_mask.sum(-1) if config.loss.normalise == "length" else 1
    return -(weight * log_prob / length).sum(-1).mean()


@pytest.mark.parametrize("overrides", OBJECTIVES.values(), ids=[name.replace(" ", "_") for name in OBJECTIVES])
def test_micro_batches_of_any_size_give_the_gradient_of_the_equations(tmp_path, overrides):
    run = tiny_run(tmp_path, *overrides)
    move(run.policy)
    batch, masks = batch_and_masks(run, 1)
    parameters = list(run.policy.parameters())
    expected_loss = plain_objective(run, batch, masks)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(expected_loss, parameters)])
    for micro_batch in (None, 1, 5, 1000):
        run.config.loss.micro_batch = micro_batch
        run.policy.zero_grad()
        loss = backward_of(run, batch, masks)
        gradient = torch.cat([p.grad.flatten() for p in parameters])
        assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
        # In one pass all is float64; in parts, the gradient of a linear loss is float32.
        tolerance = 1e-10 if micro_batch is None else 1e-6
        assert (gradient - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("R", [1, 2])
def test_the_gradient_of_wdce_over_all_path_steps_is_that_of_the_whole_path(R):
    """Every draw of steps of a single rollout with 5 blanks, in float64; R = 1: 5 draws, R = 2: strata of 2 and 3."""
    rollout, model = make_rollout(make_prompts("1|_____"), 1), tiny_model(3)

    def gradient(masks):
        log_prob = sequence_log_prob(token_log_prob(model, rollout, masks, VOCABULARY), masks)
        loss = wdce(log_prob, torch.ones(1, 1, dtype=torch.float64))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    draws = {1: [[(i + 0.5) / 5] for i in range(5)], 2: [[(i + 0.5) / 2, (j + 0.5) / 3] for i in range(2) for j in range(3)]}[R]
    each = [gradient(path_steps_from_uniforms(rollout.step, 5, torch.tensor([[u]], dtype=torch.float64))) for u in draws]
    expected = gradient(path_masks(rollout.step, 5))
    torch.testing.assert_close(torch.stack(each).mean(dim=0), expected, rtol=1e-9, atol=1e-12)
    assert (each[0] - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("name", ["wdce", "wddo"])
def test_a_run_with_as_many_path_steps_as_blanks_is_that_of_the_whole_path(tmp_path, name):
    """Puzzles of 6 to 10 blanks and 10 steps: where a row took fewer, the rest of its strata is empty."""
    values = []
    for masks in ("path", "path_steps"):
        run = tiny_run(tmp_path / masks, f"loss.name={name}", f"loss.masks={masks}", "loss.num_masks=10", "loss.normalise=none")
        move(run.policy)
        batch, drawn = batch_and_masks(run, 1)
        loss = backward_of(run, batch, drawn)
        values.append(torch.cat([loss.detach().flatten(), *(p.grad.flatten() for p in run.policy.parameters())]))
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-7)


def test_an_empty_mask_is_among_the_micro_batches_of_antithetic_pairs(tmp_path):
    """The pair of the full mask hides nothing; a micro-batch of it alone must add nothing and not fail."""
    run = tiny_run(tmp_path, "loss.name=wdce", "loss.micro_batch=1")
    batch, masks = batch_and_masks(run, 0)
    assert (masks.hidden.sum(dim=-1) == 0).any()
    assert torch.isfinite(backward_of(run, batch, masks))


@pytest.mark.parametrize("prompts_per_step", ["null", 2])
@pytest.mark.parametrize("masks", ["antithetic", "path", "path_steps"])
@pytest.mark.parametrize("name", ["wddo", "model baseline"])
def test_before_the_first_step_the_ratio_is_0_on_the_masks_of_every_step(tmp_path, name, masks, prompts_per_step):
    """So WDDO is 2 ln 2 and the `model` baseline 1/N: log p_old was stored on the very masks that each step uses."""
    run = tiny_run(tmp_path, *OBJECTIVES[name], f"loss.masks={masks}", f"train.prompts_per_step={prompts_per_step}")
    for k in range(K):
        batch, masks = batch_and_masks(run, k)
        log_prob = token_log_prob(run.policy, batch.rollout, masks, run.vocabulary)
        weight = real_weight(log_prob, masks, batch, run.config.weight)
        if name == "wddo":
            assert run.objective.loss(log_prob, masks, batch, weight).item() == pytest.approx(2 * math.log(2), rel=1e-12)
        else:
            torch.testing.assert_close(weight, batch.weight - 0.7 / 4)


def test_wdce_draws_fresh_masks_at_every_step_and_wddo_the_stored_ones(tmp_path):
    for name in ("wdce", "wddo"):
        run = tiny_run(tmp_path / name, f"loss.name={name}")
        rollout, position = run.state.buffer[0].rollout, run.state.buffer[0].position
        before = step_masks(run.objective, rollout, position, 0, 0, run.state.step).hidden
        run.state.step = 57
        after = step_masks(run.objective, rollout, position, 0, 0, run.state.step).hidden
        assert torch.equal(before, after) == (name == "wddo")
        if name == "wddo":
            other_step = step_masks(run.objective, rollout, position, 0, 1, run.state.step).hidden
            assert not torch.equal(before, other_step)


def test_the_steps_of_a_round_take_the_buffered_rounds_in_turn_and_every_prompt_once(tmp_path):
    """Three rounds in the buffer, three prompts each, one prompt per step: nine steps see all nine, the newest round first."""
    run = tiny_run(tmp_path, "train.reuse_rounds=2", "train.prompts_per_step=1", "train.steps_per_round=9")
    for run.state.round in (1, 2):
        run.state.buffer = [*run.state.buffer, collect_round(run)]
    seen = [batch_and_masks(run, k)[0].position for k in range(9)]
    assert sorted(seen) == [[p] for p in range(9)]
    assert [position[0] // 3 for position in seen] == [2, 1, 0] * 3


def test_wddo_subtracts_the_log_probability_its_rollouts_were_drawn_with(tmp_path):
    """1/N Σ stands for E_{p_old} of the distribution that was sampled: at T = 0.7 only this makes p* the optimum."""
    run = tiny_run(tmp_path, "loss.name=wddo", "loss.masks=path", "sampler.temperature=0.7")
    experience = run.state.buffer[0]
    stored = sequence_log_prob(experience.log_old[0], path_masks(experience.rollout.step, experience.rollout.num_steps))
    torch.testing.assert_close(stored, experience.rollout.path_log_prob)
