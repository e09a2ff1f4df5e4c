"""Shared by the tests: tiny random policies, a hand-made vocabulary, prompts and rollouts, and slow formulas in numpy.

Everything here is written from the equations, not from the code under test: softmax and log-probability are numpy in
float64, one position at a time.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from dmpo_ref.config import ModelConfig, SamplerConfig
from dmpo_ref.experience import collect, step_masks
from dmpo_ref.gradient import backward, choose_batch
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import Masks
from dmpo_ref.models.adapters import add_adapters
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.models.loading import load_policy
from dmpo_ref.rollout import Experience, Prompts, Rollout
from dmpo_ref.runtime.setup import RunParts

torch.set_num_threads(1)

EOS, MASK, UNKNOWN = 0, 1, 2  # as in the toy tokenizer; 3 to 7 are the digits 0 to 4


def tiny_model(seed: int = 0, *, double: bool = True, **sizes) -> LLaDAModelLM:
    """A random policy with weights so large that its conditionals are far from uniform and depend on the context."""
    defaults = {
        "d_model": 8,
        "n_layers": 1,
        "n_heads": 2,
        "mlp_hidden_size": 12,
        "vocab_size": 8,
        "max_sequence_length": 32,
        "rope": False,
        "init_std": 0.6,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LLaDAModelLM(LLaDAConfig(**(defaults | sizes))).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "ln_f" in name:  # initialised at 1, where a forgotten factor could not be seen
                weight.copy_(torch.linspace(0.5, 1.5, len(weight)))
    return model.double() if double else model


def vocabulary(allowed=(4, 5, 6, 7), size: int = 8) -> Vocabulary:
    """A vocabulary in which only the listed ids may be generated."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(allowed)] = True
    return Vocabulary(mask_token_id=MASK, allowed=mask)


def make_prompts(*patterns: str) -> Prompts:
    """Prompts from strings such as "..12_4_": '.' padding, '|' end of the prompt, digits given, '_' to be generated."""
    rows = [(p.split("|") if "|" in p else ("", p)) for p in patterns]
    length = max(len(before) + len(after) for before, after in rows)
    tokens = torch.full((len(rows), length), EOS)
    attention_mask, prompt_mask, response_mask = (torch.zeros(len(rows), length, dtype=torch.bool) for _ in range(3))
    for i, (before, after) in enumerate(rows):
        start = length - len(before) - len(after)
        for s, symbol in enumerate(before + after, start=start):
            attention_mask[i, s] = symbol != "."
            response_mask[i, s] = symbol == "_"
            prompt_mask[i, s] = s - start < len(before) and symbol != "."
            tokens[i, s] = {"_": MASK, ".": EOS}.get(symbol, 3 + int(symbol) if symbol.isdigit() else EOS)
    return Prompts(tokens, attention_mask, prompt_mask, response_mask)


def make_rollout(prompts: Prompts, num_rollouts: int, *, seed: int = 0, allowed=(4, 5, 6, 7)) -> Rollout:
    """Arbitrary finished responses, filled in an arbitrary order; nothing about how they were drawn is claimed."""
    rng = np.random.default_rng(seed)
    tokens, attention_mask, prompt_mask, response_mask = (
        x.unsqueeze(1).repeat(1, num_rollouts, 1)
        for x in (prompts.tokens, prompts.attention_mask, prompts.prompt_mask, prompts.response_mask)
    )
    step = torch.full_like(tokens, -1)
    for g, n in np.ndindex(*tokens.shape[:2]):
        where = response_mask[g, n].nonzero().flatten()
        tokens[g, n, where] = torch.tensor(rng.choice(allowed, len(where)))
        step[g, n, where] = torch.tensor(rng.permutation(len(where)))
    return Rollout(tokens, attention_mask, prompt_mask, response_mask, step, None, int(step.max()) + 1, SamplerConfig(), 0, 0)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log softmax of a vector, float64."""
    logits = np.asarray(logits, dtype=np.float64)
    largest = logits.max()
    return logits - largest - np.log(np.exp(logits - largest).sum())


@torch.no_grad()
def plain_log_prob(
    model, tokens: torch.Tensor, attention_mask: torch.Tensor, position: int, token: int, allowed, *, temperature=1.0
) -> float:
    """log π(token at position | tokens [S], masks included): one row, all logits, numpy softmax over the allowed ids."""
    logits = model(input_ids=tokens[None], attention_mask=attention_mask[None]).logits[0, position].double().numpy()
    return float(log_softmax(logits[list(allowed)] / temperature)[list(allowed).index(token)])


def plain_path_log_prob(model, tokens, attention_mask, step, allowed, *, temperature=1.0) -> float:
    """log p(o; σ) of one row [S]: hide what is not yet unmasked, score what is unmasked next, one position at a time."""
    total = 0.0
    for t in range(int(step.max()) + 1):
        seen = tokens.masked_fill(step >= t, MASK)
        for s in (step == t).nonzero().flatten().tolist():
            total += plain_log_prob(model, seen, attention_mask, s, int(tokens[s]), allowed, temperature=temperature)
    return total


class Dummy:
    """A mask predictor made of a function tokens [B, S] → logits [B, S, V]; it counts what it is fed."""

    def __init__(self, function):
        self.function, self.calls, self.fed = function, 0, 0

    def __call__(self, input_ids, attention_mask=None, select=None, targets=None, allowed=None, temperature=1.0, cache=None):
        self.calls += 1
        self.fed += input_ids.numel()
        logits = self.function(input_ids)
        logits = logits if select is None else logits[select]
        if targets is None:
            return SimpleNamespace(logits=logits)
        wide = logits.float() if logits.dtype == torch.bfloat16 else logits
        values = wide[:, allowed] / temperature
        chosen = wide.gather(-1, targets.unsqueeze(-1)).squeeze(-1) / temperature
        return SimpleNamespace(token_log_prob=chosen - values.logsumexp(dim=-1))


def collect_round(run: RunParts, reward=None) -> Experience:
    """The experience of the round that a run is in."""
    items, position = run.prompts.of_round(run.state.round)
    models = (run.policy, run.reference, run.tokenizer, run.vocabulary)
    return collect(*models, run.task, items, run.objective, run.config, position=position, reward=reward)[0]


def batch_and_masks(run: RunParts, k: int) -> tuple[Experience, Masks]:
    """What the k-th gradient step of the round looks at."""
    batch = choose_batch(run.state.buffer, k, run.config, run.state.round)
    return batch, step_masks(run.objective, batch.rollout, batch.position, run.config.seed, k, run.state.step)


def backward_of(run: RunParts, batch: Experience, masks: Masks) -> torch.Tensor:
    """The loss of a batch; its gradient is added to that of the policy."""
    return backward(run.policy, run.vocabulary, run.objective, batch, masks, run.config)


def chi_square_p_value(counts: np.ndarray, probabilities: np.ndarray, *, least_expected: float = 5.0) -> float:
    """p-value of Pearson's test; cells with an expected count below 5 are pooled into one."""
    expected = probabilities / probabilities.sum() * counts.sum()
    small = expected < least_expected
    observed, expected = np.append(counts[~small], counts[small].sum()), np.append(expected[~small], expected[small].sum())
    if expected[-1] < least_expected:  # the pool itself is too small to be a cell: join it to the smallest other one
        if expected[-1] == 0:
            assert observed[-1] == 0, "something of probability 0 was drawn"
        smallest = expected[:-1].argmin()
        expected[smallest], observed[smallest] = expected[smallest] + expected[-1], observed[smallest] + observed[-1]
        observed, expected = observed[:-1], expected[:-1]
    statistic = ((observed - expected) ** 2 / expected).sum()
    # The survival function of χ² with k degrees of freedom is the regularised upper incomplete gamma Q(k/2, x/2).
    half = torch.tensor([(len(expected) - 1) / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(half[0], half[1]).item()


@torch.no_grad()
def save_adapters(base: Path, folder: Path, change: Callable[[str, torch.Tensor], object] = lambda name, weight: None, **options) -> Path:
    """Adapters on the checkpoint `base`, of rank 2, with its tokenizer; `change` may write to each of their weights."""
    config = ModelConfig(path=str(base), **({"lora_rank": 2} | options))
    model, tokenizer = load_policy(config, torch.device("cpu"))
    policy = add_adapters(model, config, seed=0)
    for name, weight in policy.named_parameters():
        if "lora_" in name:
            change(name, weight)
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
