"""How noisy is each mask scheme where text is generated? Variances of the ELBO, of the log-ratio and of the gradient on Countdown.

    python -m toy.studies.variance_text     # toy/results/variance_text.jsonl, and the tables

Responses of 32 tokens have too many masks to enumerate, as `toy.studies.variance` does on five. So the variance is that of draws around
their own mean, which is right for the schemes without bias; of `paper`, which has one, it is a part of the error. Rollouts and weights
are fixed, only masks are random. The policies are the model as shipped, and what DMPO has made of it, if runs/text has that run
(`python -m toy.studies.text run countdown --only exact`).
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dmpo_ref.config import Config
from dmpo_ref.likelihood import elbo, path_log_prob, sequence_log_prob, token_log_prob
from dmpo_ref.masking import Masks, draw_masks, streams
from dmpo_ref.objectives.base import need
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import answer_texts, encode
from toy import RESULTS
from toy.loading import load
from toy.studies.text import policies

TASK, SCHEMES, R = "countdown", ("exact", "stratified", "systematic", "antithetic", "paper"), 4  # R as in the presets of LLaDA
PROMPTS, ROLLOUTS, DRAWS, GRADIENTS = 8, 4, 64, 24
COLUMNS = ("elbo", "log_ratio", "gradient_none", "gradient_uniform")


def study(name: str, config: Config) -> list[dict[str, Any]]:
    """A row for each scheme: variances, times R, of N rollouts of G training prompts."""
    loaded, reference = load(config), load(load_config(f"text_{TASK}"))
    policy, vocabulary, place = loaded.policy, loaded.vocabulary, list(range(PROMPTS))
    items = loaded.task.load(config.task.train)[:PROMPTS]
    prompts = encode(loaded.tokenizer, loaded.task, items, config.sampler.response_length)
    generators = streams(0, "rollout", place)
    with torch.no_grad():
        rollout = sample(policy, prompts, config.sampler, vocabulary, num_rollouts=ROLLOUTS, generators=generators)
        log_ratio = path_log_prob(reference.policy, rollout, vocabulary, micro_batch=64) - need(rollout.path_log_prob)
    texts = answer_texts(loaded.tokenizer, rollout)
    reward = [[sum(loaded.task.reward(item, text).values()) for text in of_item] for item, of_item in zip(items, texts, strict=True)]
    weight = (torch.tensor(reward, dtype=torch.float64) / config.weight.alpha + log_ratio).softmax(dim=-1)

    def draw(scheme: str, k: int) -> Masks:
        return draw_masks(scheme, rollout.response_mask, R, streams(k, "masks", place))

    rows = []
    for scheme in tqdm(SCHEMES, desc=name, disable=None):
        of_policy: list[Tensor] = []
        of_reference: list[Tensor] = []
        with torch.no_grad():
            for k in range(DRAWS):
                for model, found in ((policy, of_policy), (reference.policy, of_reference)):
                    found.append(elbo(model, rollout, draw(scheme, k), vocabulary, micro_batch=32))
        ours, theirs = torch.stack(of_policy), torch.stack(of_reference)
        row: dict[str, Any] = {"policy": name, "scheme": scheme, "rows": R, "draws": DRAWS, "elbo_mean": ours.mean().item()}
        row |= {"elbo": R * ours.var(dim=0).mean().item(), "log_ratio": R * (theirs - ours).var(dim=0).mean().item()}
        gradients: dict[str, list[Tensor]] = {"none": [], "uniform": []}
        for k in range(GRADIENTS):
            masks = draw(scheme, k)
            log_prob = sequence_log_prob(token_log_prob(policy, rollout, masks, vocabulary), masks)
            for baseline, w in (("none", weight), ("uniform", weight - 1 / ROLLOUTS)):
                parts = torch.autograd.grad((w * log_prob).sum(), list(policy.parameters()), retain_graph=baseline == "none")
                gradients[baseline].append(torch.cat([part.flatten() for part in parts]))
        rows.append(row | {f"gradient_{baseline}": R * relative_variance(torch.stack(g)) for baseline, g in gradients.items()})
    return rows


def relative_variance(draws: Tensor) -> float:
    """Summed variance of draws [K, P] over the squared length of their mean, less what that length owes to the variance."""
    variance = draws.var(dim=0).sum()
    return (variance / (draws.mean(dim=0).square().sum() - variance / len(draws))).item()


def show(rows: list[dict[str, Any]]) -> None:
    """One table for each policy."""
    for policy in dict.fromkeys(row["policy"] for row in rows):
        print(f"\n{policy}\n{'scheme':<16}" + "".join(f"{name:>18}" for name in COLUMNS))
        for row in rows:
            if row["policy"] == policy:
                print(f"{row['scheme']:<16}" + "".join(f"{row[name]:>18.3f}" for name in COLUMNS))


def main() -> None:
    """Both policies."""
    torch.set_num_threads(1)
    rows = [row for name, config in policies(TASK) for row in study(name, config)]
    with (RESULTS / "variance_text.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    show(rows)


if __name__ == "__main__":
    main()
