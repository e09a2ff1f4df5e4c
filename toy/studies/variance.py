"""How noisy is each mask scheme? Bias and variance of the sequence log-probability, of the log-ratio and of the gradient of WDCE.

    python -m toy.studies.variance     # measures, writes toy/results/variance.jsonl, prints the tables

One puzzle of act (b), small enough that every token log-probability and its gradient under every set of hidden positions can be
tabulated: expectations are exact sums, and a draw of masks is a look-up. Rollouts and weights are fixed, only masks are random.
Each scheme is compared with what it estimates: masks with the ELBO, steps of the path with log p(o; σ), and so on
(`toy.studies.schemes`). Variances are multiplied by the forward rows of a rollout, so that schemes of different cost can be compared.
Gradients are kept as random sketches of `SKETCH` numbers,
whose squared lengths are right in expectation. A random checkpoint solves nothing, so it is rewarded by the recipe, in parts.

Shared masks give every rollout of the group the same positions. The gradient is Σ_n w_n ĝ_n. With separate masks for each
rollout its variance is Σ_n w_n² Var ĝ_n; shared, it is Var(Σ_n w_n ĝ_n), which adds w_n w_k Cov(ĝ_n, ĝ_k) over all pairs. Weights of
one sign (no baseline) make these terms positive wherever rollouts react in the same way to a mask: worse, or no better. With `uniform` the
weights sum to 0, and only what is common to *all* rollouts cancels. But few rollouts carry the large positive weights and are often
the same answer: their terms add up (Σ w_n² with own masks becomes (Σ w_n)² for equal answers) while the small negative weights stand
on different answers, whose gradients at the same positions point elsewhere. Measured: ten times the variance at the reference, where
few rollouts carry the weights; about the same halfway, where all weights are near 1/N.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from dmpo_ref.likelihood import Vocabulary, token_log_prob
from dmpo_ref.masking import Masks, path_masks, streams
from dmpo_ref.presets.loading import load_config
from dmpo_ref.rollout import Rollout
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import answer_texts, encode
from dmpo_ref.train import train
from toy import RESULTS
from toy.loading import load
from toy.small_llada import make_checkpoint
from toy.studies.schemes import Tables, coefficients, exact_coefficients, schemes

SKETCH = 1024


def tabulate(policy: Module, reference: Module, rollout: Rollout, vocabulary: Vocabulary) -> Tables:
    """One forward pass for each answer and set, one backward pass for each of its tokens."""
    blanks = rollout.response_mask[0, 0].nonzero().flatten()
    answers, answer = rollout.tokens[0][:, blanks].unique(dim=0, return_inverse=True)
    U, n, S = len(answers), len(blanks), rollout.tokens.shape[-1]
    parameters = list(policy.parameters())
    random = torch.Generator().manual_seed(0)
    size = sum(p.numel() for p in parameters)
    bucket = torch.randint(SKETCH, (size,), generator=random)
    sign = torch.randint(2, (size,), generator=random).float() * 2 - 1
    value, reference_value, gradient = torch.zeros(U, 2**n, n), torch.zeros(U, 2**n, n), torch.zeros(U, 2**n, n, SKETCH)
    for u in tqdm(range(U), desc="tabulate", disable=None, leave=False):
        one = rollout.select(torch.tensor([0]))
        first = int((answer == u).nonzero()[0])
        one = replace(one, **{k: getattr(one, k)[:, first : first + 1] for k in ("tokens", "attention_mask", "response_mask", "step")})
        for subset in range(1, 2**n):
            members = [d for d in range(n) if subset >> d & 1]
            hidden = torch.zeros(1, 1, 1, S, dtype=torch.bool)
            hidden[..., blanks[members]] = True
            masks = Masks(hidden, hidden, torch.ones(1, 1, 1))
            scores = token_log_prob(policy, one, masks, vocabulary)[0, 0, 0]
            with torch.no_grad():
                reference_value[u, subset] = token_log_prob(reference, one, masks, vocabulary)[0, 0, 0, blanks]
            value[u, subset] = scores[blanks].detach()
            for d in members:
                parts = torch.autograd.grad(scores[blanks[d]], parameters, retain_graph=d != members[-1])
                gradient[u, subset, d].index_add_(0, bucket, sign * torch.cat([p.flatten() for p in parts]))
    return Tables(value, gradient, reference_value, answer, blanks)


def measure(tables: Tables, rollout: Rollout, weight: Tensor, repeats: int) -> list[dict[str, Any]]:
    """A row for each scheme; `weight` [N] are w without a baseline."""
    value, ratio = (x[tables.answer].double() for x in (tables.value, tables.reference - tables.value))
    N, n = value.shape[0], value.shape[-1]
    U, flat = len(tables.value), tables.gradient.flatten(0, 2).double()
    baselines = {"none": weight, "uniform": weight - 1 / N}

    def gradient(c: Tensor, w: Tensor) -> Tensor:
        per_answer = torch.zeros(U, *c.shape[1:], dtype=torch.float64).index_add_(0, tables.answer, w.view(-1, 1, 1) * c)
        return per_answer.flatten() @ flat / n

    rows = []
    for scheme in tqdm(schemes(rollout, tables), desc="schemes", disable=None, leave=False):
        exact, R = exact_coefficients(scheme.estimates, rollout, tables), scheme.rows
        each = [scheme.draw(k) for k in range(repeats)]
        row: dict[str, Any] = {"scheme": scheme.name, "estimates": scheme.estimates, "rows": R, "repeats": repeats}
        for what, x in (("log_prob", value), ("log_ratio", ratio)):
            error = torch.stack([((c - exact) * x).sum(dim=(1, 2)) for c in each])
            mean = error.mean(dim=0)
            row |= {f"{what}_bias": mean.mean().item(), f"{what}_bias_error": (error.mean(dim=1).std() / repeats**0.5).item()}
            row |= {f"{what}_variance": error.var(dim=0).mean().item(), f"{what}_mse_rows": error.square().mean().item() * R}
        for baseline, w in baselines.items():
            right = gradient(exact, w)
            error = torch.stack([gradient(c, w) for c in each]) - right
            scale = right.square().sum()
            row[f"gradient_{baseline}_rows"] = (error.var(dim=0).sum() / scale * R).item()
            # The squared length of the mean error, less what the variance of the mean adds to it.
            row[f"gradient_{baseline}_bias2"] = ((error.mean(dim=0).square().sum() - error.var(dim=0).sum() / repeats) / scale).item()
            row[f"gradient_{baseline}_scale"] = scale.item()
        rows.append(row)
    return rows


def study(
    name: str, *overrides: str, reference_path: str | None = None, num_rollouts: int = 64, repeats: int = 400
) -> list[dict[str, Any]]:
    """Rollouts of the policy of a config on its first puzzle, weighed exactly along their paths, and `measure` of them."""
    config = load_config("toy_two_solutions", *overrides)
    loaded = load(config)
    reference = loaded if reference_path is None else load(load_config("toy_two_solutions", f"model.path={reference_path}"))
    item = loaded.task.load(config.task.train)[0]
    prompts = encode(loaded.tokenizer, loaded.task, [item])
    generators = streams(0, "rollout", [0])
    with torch.no_grad():
        rollout = sample(loaded.policy, prompts, config.sampler, loaded.vocabulary, num_rollouts=num_rollouts, generators=generators)
    tables = tabulate(loaded.policy.float(), reference.policy.float(), rollout, loaded.vocabulary)
    along = coefficients(tables, path_masks(rollout.step, rollout.num_steps))
    log_ratio = (along * (tables.reference - tables.value)[tables.answer].double()).sum(dim=(1, 2))
    (texts,) = answer_texts(loaded.tokenizer, rollout)
    reward = torch.tensor([sum(loaded.task.reward(item, text).values()) for text in texts], dtype=torch.float64)
    weight = (reward / config.weight.alpha + log_ratio).softmax(dim=-1)
    shape = {"policy": name, "N": num_rollouts, "blanks": len(tables.blanks), "answers": len(tables.value)}
    return [shape | row for row in measure(tables, rollout, weight, repeats)]


def show(rows: list[dict[str, Any]]) -> None:
    """One table for each policy."""
    columns = ("log_prob_bias", "log_prob_mse_rows", "log_ratio_mse_rows", "gradient_none_rows", "gradient_uniform_rows")
    for policy in dict.fromkeys(row["policy"] for row in rows):
        print(f"\n{policy}\n{'scheme':<50}{'rows':>5}" + "".join(f"{name:>23}" for name in columns))
        for row in rows:
            if row["policy"] == policy:
                print(f"{row['scheme']:<50}{row['rows']:>5}" + "".join(f"{row[name]:>23.4f}" for name in columns))


def main() -> None:
    """Four policies: the reference, one trained halfway through act (b), random weights in LLaDA's layout, and these after 25 rounds."""
    torch.set_num_threads(1)
    rows = study("reference")
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / "half"
        config = load_config("toy_two_solutions", f"output={half}", "train.rounds=25")
        train(config)
        rows += study("halfway", f"model.path={half}", reference_path=config.model.path)
        llada = make_checkpoint(Path(folder) / "llada")
        rows += study("small LLaDA, random", f"model.path={llada}", "task.reward=recipe", num_rollouts=16, repeats=200)
        moved = Path(folder) / "moved"
        train(load_config("toy_two_solutions", f"model.path={llada}", f"output={moved}", "task.reward=recipe", "train.rounds=25"))
        change = (f"model.path={moved}", "task.reward=recipe")
        rows += study("small LLaDA, trained", *change, reference_path=str(llada), num_rollouts=16, repeats=200)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "variance.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    show(rows)


if __name__ == "__main__":
    main()
