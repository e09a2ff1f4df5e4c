"""One gradient step, called by hand: the update against AdamW worked out on its own, what is refused, and which prompts a step takes."""

import copy

import pytest
import torch

from dmpo_ref.gradient import NotFinite, choose_batch, gradient_step, own_random_state, real_weight
from dmpo_ref.masking import Masks, stream
from dmpo_ref.objectives.base import Objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.rollout import Experience
from tests.helpers import make_prompts, make_rollout, tiny_model, vocabulary

VOCABULARY = vocabulary()


def experience(num_prompts: int = 2, position: list[int] | None = None, **stored) -> Experience:
    """Two rollouts of each prompt; weights 0.75 and 0.25."""
    rollout = make_rollout(make_prompts(*["1__2_", "_3_41", "4__1_"][:num_prompts]), 2)
    weight = torch.tensor([[0.75, 0.25]] * num_prompts, dtype=torch.float64)
    return Experience(
        rollout, position or list(range(num_prompts)), torch.zeros(num_prompts, 2), weight, torch.zeros_like(weight), **stored
    )


def all_hidden(rollout, generators=None) -> Masks:
    """The whole response at once."""
    hidden = rollout.response_mask.unsqueeze(2)
    return Masks(hidden, hidden, torch.ones(hidden.shape[:3], dtype=torch.float64))


def weighted(scores, masks, batch, weight):
    """−Σ w Σ_s log π: linear in the token log-probabilities."""
    return -(weight * scores.double().sum(dim=(-1, -2))).sum(dim=-1).mean()


LINEAR = Objective(all_hidden, weighted, is_linear=True, uses_weight=True)


@pytest.mark.parametrize("micro_batch", ["null", 1, 3])
def test_a_step_is_adamw_on_the_clipped_gradient_of_the_loss(micro_batch):
    config = load_config("toy_sudoku", f"loss.micro_batch={micro_batch}", "optimizer.max_grad_norm=0.5")
    policy, batch = tiny_model(), experience()
    by_hand = copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    masks = all_hidden(batch.rollout)
    loss, norm = gradient_step(policy, optimizer, VOCABULARY, LINEAR, batch, masks, config)

    # By hand: all logits at once, the gradient scaled to norm 0.5, and the first step of AdamW: θ (1 − lr λ) − lr g/(|g| + ε).
    tokens, seen = batch.rollout.tokens.flatten(0, 1), batch.rollout.tokens.masked_fill(batch.rollout.response_mask, 1).flatten(0, 1)
    logits = by_hand(seen).logits.masked_fill(~VOCABULARY.allowed, -torch.inf)
    log_p = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    total = (log_p * batch.rollout.response_mask.flatten(0, 1)).where(batch.rollout.response_mask.flatten(0, 1), 0.0).sum(-1).view(2, 2)
    expected = -(batch.weight * total).sum(-1).mean()
    expected.backward()
    gradients = [p.grad for p in by_hand.parameters()]
    whole = torch.cat([g.flatten() for g in gradients]).norm()
    assert loss == pytest.approx(expected.item(), rel=1e-6) and norm == pytest.approx(whole.item(), rel=1e-6) and norm > 0.5
    for ours, theirs, g in zip(policy.parameters(), by_hand.parameters(), gradients, strict=True):
        clipped = g * 0.5 / (whole + 1e-6)
        torch.testing.assert_close(ours, theirs * (1 - 0.01 * 0.1) - 0.01 * clipped / (clipped.abs() + 1e-8), rtol=0, atol=2e-4)
    assert all(p.grad is None for p in policy.parameters()) and not policy.training


def test_a_loss_that_is_not_finite_leaves_the_weights():
    policy, batch = tiny_model(), experience()
    before = copy.deepcopy(policy.state_dict())
    broken = Objective(all_hidden, lambda scores, *_: scores.sum() * float("nan"), is_linear=True)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
    with pytest.raises(ValueError, match=r"^the loss of step 12 is nan$"):
        gradient_step(policy, optimizer, VOCABULARY, broken, batch, all_hidden(batch.rollout), load_config("toy_sudoku"), step=12)
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


def test_a_gradient_that_is_not_finite_leaves_the_weights():
    """The square root of 0 is 0, and its derivative is infinite; times a gradient of 0 that is NaN."""
    policy, batch = tiny_model(), experience()
    before = copy.deepcopy(policy.state_dict())
    steep = Objective(all_hidden, lambda scores, *_: (0 * scores).sum().sqrt(), is_linear=True)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
    with pytest.raises(ValueError, match=r"^the gradient norm of step 3 is nan$"):
        gradient_step(policy, optimizer, VOCABULARY, steep, batch, all_hidden(batch.rollout), load_config("toy_sudoku"), step=3)
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


@pytest.mark.parametrize("left", ["by a step that failed", "by the caller"])
def test_a_gradient_that_was_left_is_not_added_to_the_next(left):
    """The step that follows is that of a policy which never had one."""
    found = []
    for spoilt in (False, True):
        policy, batch = tiny_model(), experience()
        optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
        arguments = policy, optimizer, VOCABULARY, LINEAR, batch, all_hidden(batch.rollout)
        if spoilt and left == "by the caller":
            for p in policy.parameters():
                p.grad = torch.ones_like(p)
        elif spoilt:
            broken = Objective(all_hidden, lambda scores, *_: scores.sum() * float("nan"))
            with pytest.raises(NotFinite):
                gradient_step(policy, optimizer, VOCABULARY, broken, *arguments[4:], load_config("toy_sudoku"))
            assert not policy.training and all(p.grad is None for p in policy.parameters())
        gradient_step(*arguments, load_config("toy_sudoku"))
        found.append(policy.state_dict())
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_the_real_weight_subtracts_the_baseline_that_depends_on_the_policy():
    """log p_θ − log p_old is 0 and ln 3 for the two rollouts, so the model baseline is 1/4 and 3/4."""
    batch = experience(1)
    masks = all_hidden(batch.rollout)
    scores = torch.zeros(masks.hidden.shape, dtype=torch.float64)
    old = scores.clone()
    first = batch.rollout.response_mask[0, 1].nonzero()[0].item()
    scores[0, 1, 0, first] = torch.tensor(3.0).log()
    batch.log_old = old
    config = load_config("toy_sudoku", "weight.baseline=model", "weight.baseline_strength=0.5").weight
    found = real_weight(scores.requires_grad_(), masks, batch, config)
    torch.testing.assert_close(found, torch.tensor([[0.75 - 0.125, 0.25 - 0.375]], dtype=torch.float64), atol=1e-6, rtol=0)
    assert not found.requires_grad


def test_the_steps_of_a_round_take_every_prompt_once_and_the_newest_round_first():
    buffer = [experience(2, [0, 1]), experience(2, [2, 3])]
    config = load_config("toy_sudoku", "train.prompts_per_round=2", "train.prompts_per_step=1")
    taken = [choose_batch(buffer, k, config, 1).position for k in range(4)]
    assert [position[0] // 2 for position in taken] == [1, 0, 1, 0] and sorted(map(tuple, taken)) == [(0,), (1,), (2,), (3,)]
    whole = load_config("toy_sudoku")
    assert [choose_batch(buffer, k, whole, 1).position for k in range(3)] == [[2, 3], [0, 1], [2, 3]]


def test_a_step_takes_its_own_stored_log_probabilities():
    stored = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 2, 2, 1, 5)
    batch = choose_batch([experience(2, log_old=stored)], 2, load_config("toy_sudoku"), 0)
    assert (batch.log_old == 2).all() and batch.log_old.shape == (2, 2, 1, 5)


def test_dropout_draws_from_the_stream_of_its_step_and_the_global_state_is_put_back():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = []
    for key in (3, 4, 3):
        with own_random_state(stream(0, "dropout", key), torch.device("cpu")):
            drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[2] != drawn[1]
    assert torch.equal(torch.get_rng_state(), before)
