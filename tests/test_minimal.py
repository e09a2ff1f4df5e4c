"""`dmpo_ref/minimal.py` is the algorithm of `train`: the same random numbers in, the same rollouts, weights, losses and parameters out.

`Uniforms` hands the page the numbers that `train` draws from its keyed streams, in float64 on both sides.
"""

import ast
import copy
from pathlib import Path

import pytest
import torch

from dmpo_ref import load_config, minimal
from dmpo_ref.masking import streams, uniforms_at
from dmpo_ref.runtime.setup import prepare_run
from dmpo_ref.samplers.sampling import draw_uniforms
from dmpo_ref.tasks.encoding import encode
from dmpo_ref.train import loop
from tests.helpers import tiny_model

G, N, R, K, ROUNDS = 2, 6, 2, 3, 3
# The second is the first transposed: as many blanks, in other cells.
PUZZLES = ("2431002400404213,2431312413424213", "2004400232411403,2314413232411423")


class Uniforms:
    """The random numbers of a run, in the order in which the page asks for them: the rollouts of a round, then the masks of each step."""

    def __init__(self, run, prompts, *, stores_masks: bool):
        self.drawn = []
        for number in range(ROUNDS):
            _, position = run.prompts.of_round(number)
            generators = streams(run.config.seed, "rollout", position)
            self.drawn.append(draw_uniforms(run.config.sampler, prompts.response_mask, N, generators).flatten(0, 1))
            for k in range(K):
                # Fresh masks are keyed by the step of the run, stored ones by the step of the round.
                key = k if stores_masks else f"step {number * K + k}"
                generators = streams(run.config.seed, "masks", position, key)
                self.drawn.append(torch.cat([torch.rand(N, R, generator=g, dtype=torch.float64) for g in generators]))
                where = zip(prompts.response_mask, generators, strict=True)
                self.drawn.append(torch.cat([uniforms_at(response, g, N, R) for response, g in where]))

    def __call__(self, *shape: int) -> torch.Tensor:
        uniform = self.drawn.pop(0)
        assert uniform.shape == shape
        return uniform


def rate(text: str) -> float:
    """A reward that differs between answers."""
    return sum(place * int(digit) for place, digit in enumerate(text)) % 11 / 11


def perturb(model) -> None:
    """p_ref and p_θ with conditionals that differ from token to token, so that a slip in one of them is seen."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.03 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


@pytest.mark.parametrize(("loss", "baseline"), [("wdce", "none"), ("wdce", "uniform"), ("wdce", "negative"), ("wddo", "none")])
def test_the_page_gives_the_losses_weights_and_parameters_of_train(tmp_path, loss, baseline, monkeypatch):
    plain = (f"train.num_rollouts={N}", f"train.rounds={ROUNDS}", f"train.steps_per_round={K}", f"loss.num_masks={R}", "loss.masks=exact",
             f"loss.name={loss}", f"weight.baseline={baseline}", "optimizer.schedule=constant", "optimizer.learning_rate=2e-4",
             f"output={tmp_path / 'run'}", "evaluation.num_items=1", f"train.prompts_per_round={G}",
             f"task.train={tmp_path / 'two.csv'}")  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "two.csv").write_text("\n".join(["Puzzle,Solution", *PUZZLES]) + "\n")
    run = prepare_run(load_config("toy_two_solutions", *plain))
    monkeypatch.setattr(run.prompts, "_shuffled", lambda number: range(G))  # the page takes its prompts in one order
    for model in (run.policy, run.reference.network):
        model.double()
    perturb(run.policy)  # p_θ ≠ p_ref from the start
    policy, reference = copy.deepcopy(run.policy), copy.deepcopy(run.reference.network)
    prompts = encode(run.tokenizer, run.task, run.prompts.items)
    rand = Uniforms(run, prompts, stores_masks=loss == "wddo")

    # `train`.
    metrics = loop(run, reward=lambda item, text: rate(text)).metrics

    # The page. Its rewards are of tokens; its weights are kept as they are made.
    made = []
    weights = minimal.weights
    monkeypatch.setattr(minimal, "weights", lambda *given: made.append(weights(*given)) or made[-1])

    def reward(tokens):
        texts = [run.tokenizer.decode(row) for row in tokens]
        return torch.tensor([rate(text) for text in texts], dtype=torch.float64)

    settings = {"N": N, "R": R, "K": K, "rounds": ROUNDS, "alpha": 0.2, "baseline": baseline, "loss": loss, "learning_rate": 2e-4}
    page = list(
        minimal.dmpo(policy, reference, prompts.tokens, reward, run.vocabulary.mask_token_id, run.vocabulary.allowed, rand, **settings)
    )
    assert rand.drawn == []
    assert max(abs(entry["loss"]) for entry in metrics) > 1e-2  # something is learned
    assert [entry["reward"] for entry in page] == [entry["reward"] for entry in metrics]
    assert [entry["loss"] for entry in page] == pytest.approx([entry["loss"] for entry in metrics], rel=1e-6)
    w, w_real = made[-1]
    torch.testing.assert_close(w, run.state.buffer[-1].weight, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(w_real, run.state.buffer[-1].weight - run.state.buffer[-1].base_weight, rtol=1e-6, atol=1e-9)
    for (name, ours), theirs in zip(policy.named_parameters(), run.policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)


def test_rollouts_are_samples_of_the_policy_and_their_log_probability_is_that_of_their_order():
    """Two free positions: 16 answers, 20,000 draws, against the exact distribution; and log p(o;σ) by a walk of its own."""
    model, allowed = tiny_model(), torch.tensor([False] * 4 + [True] * 4)
    prompts = torch.tensor([[4, 1, 6, 1]]).repeat(20_000, 1)
    generator = torch.Generator().manual_seed(3)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    tokens, order, log_p = minimal.draw_rollouts(model, prompts, 1, allowed, rand)
    torch.testing.assert_close(minimal.path_log_prob(model, tokens, order, 1, allowed), log_p)
    assert torch.equal(order.sort(dim=-1).values, torch.tensor([-1, -1, 0, 1]).expand(20_000, 4))
    assert (order[:, 1] == 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    counts = torch.zeros(4, 4)
    for a, b in tokens[:, [1, 3]].tolist():
        counts[a - 4, b - 4] += 1

    def conditional(row, position):
        logits = model(input_ids=torch.tensor([row])).logits[0, position, 4:]
        return logits.softmax(dim=-1)

    with torch.no_grad():
        first, second = conditional([4, 1, 6, 1], 1), conditional([4, 1, 6, 1], 3)
        exact = torch.stack([0.5 * first[a] * conditional([4, a + 4, 6, 1], 3) for a in range(4)])
        exact += torch.stack([0.5 * second[b] * conditional([4, 1, 6, b + 4], 1) for b in range(4)], dim=1)
    error = (counts / 20_000 - exact).abs() / (exact * (1 - exact) / 20_000).sqrt()
    assert error.max() < 4.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_that_is_not_allowed_is_never_drawn(dtype):
    """The softmax of a model in less than float64 ends below 1: a draw above that end took the last token, allowed or not."""
    model, allowed = tiny_model().to(dtype), torch.tensor([True] * 4 + [True, True, True, False])
    prompts = torch.tensor([[4, 1, 6, 1]]).repeat(50, 1)
    tokens, _, log_p = minimal.draw_rollouts(model, prompts, 1, allowed, lambda *shape: torch.full(shape, 1 - 2**-53, dtype=torch.float64))
    assert (tokens != 7).all() and log_p.isfinite().all()
    assert minimal.log_pi(model, tokens, allowed).dtype == torch.float64
    allowed = torch.tensor([False] * 4 + [True] * 4)
    tokens, _, log_p = minimal.draw_rollouts(model, prompts, 1, allowed, lambda *shape: torch.zeros(shape, dtype=torch.float64))
    assert (tokens[:, [1, 3]] == 4).all() and log_p.isfinite().all(), "a uniform of 0 takes the first token that is allowed"


def test_wddo_takes_no_baseline():
    with pytest.raises(AssertionError):
        next(minimal.dmpo(tiny_model(), tiny_model(), torch.ones(1, 2).long(), None, 1, torch.ones(8).bool(), None, N=2, loss="wddo",
                          baseline="uniform"))  # fmt: skip


def test_the_page_stands_alone_and_is_one_page():
    text = Path(minimal.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imported = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert {name for name in imported if name.startswith("dmpo_ref")} == {"dmpo_ref.models.llada"}
    assert {name.split(".")[0] for name in imported} == {"__future__", "collections", "torch", "dmpo_ref"}
