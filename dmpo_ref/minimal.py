"""DMPO on one page: the algorithm of arXiv 2510.08233 in its plain case. Read this file first; notebook 00 runs it.

    p*(o|q) ∝ p_ref(o|q) · exp(r(q,o)/α)          the target
    p_old ← p_θ; draw, weigh, take K gradient steps; repeat

G prompts q, N rollouts o of each, R masks of each, sequences of S positions, L of them the response, the same L for all, mask token M.
`train.py` does the same with micro-batches, adapters, caches, processes and files; with `loss.masks=exact`, the masks of this page, a test
holds both to the same losses, weights and parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmpo_ref.models.llada import LLaDAModelLM

Rand = Callable[..., Tensor]  # shape → uniforms on [0, 1), float64, on the prompts' device: all the randomness there is


def log_pi(model: LLaDAModelLM, tokens: Tensor, allowed: Tensor) -> Tensor:
    """log π_θ(· | tokens) at every position: softmax over the allowed tokens. [B, S] ids → [B, S, V] nats, float64."""
    return model(input_ids=tokens).logits.double().masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)


@torch.no_grad()
def draw_rollouts(model: LLaDAModelLM, prompts: Tensor, mask_id: int, allowed: Tensor, rand: Rand) -> tuple[Tensor, Tensor, Tensor]:
    """Step 1. Fill the masked positions of B rows one by one in a uniformly random order σ, each token by inverse CDF.

    Args:
        prompts: [B, S] ids, M at the L positions to generate.

    Returns:
        tokens: [B, S]. order: [B, S], the step at which a position was filled, −1 where it was given.
        log_old: [B] float64, log p(o;σ) = Σ_i log π(o_σ(i) | o_σ(<i)).
    """
    response, L = prompts == mask_id, int((prompts[0] == mask_id).sum())
    uniform = rand(len(prompts), L + 1, prompts.shape[1])  # slice t for the tokens of step t, the last one for the order
    order = rank(-uniform[:, L], response).masked_fill(~response, -1)  # the largest first, as `train` has it
    tokens, log_old = prompts.clone(), torch.zeros(len(prompts), dtype=torch.float64, device=prompts.device)
    for step in range(L):
        now = order == step
        log_p = log_pi(model, tokens, allowed)[now]  # [B, V]
        cdf = log_p.exp().cumsum(dim=-1)  # its end is 1 but for rounding, and no draw may lie above it
        drawn = torch.searchsorted(cdf, uniform[:, step][now].unsqueeze(-1) * cdf[:, -1:], right=True)
        tokens[now] = drawn.squeeze(-1)
        log_old += log_p.gather(-1, drawn).squeeze(-1)
    return tokens, order, log_old


def rank(values: Tensor, among: Tensor) -> Tensor:
    """Place of each value among those of its row that count, from the smallest; the others come last. [..., S] → [..., S]."""
    return values.masked_fill(~among, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)


@torch.no_grad()
def path_log_prob(model: LLaDAModelLM, tokens: Tensor, order: Tensor, mask_id: int, allowed: Tensor) -> Tensor:
    """Step 2. log p(o;σ) of given rollouts along their own order, for p_ref. [B, S] → [B] float64."""
    total = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
    for step in range(int(order.max()) + 1):
        log_p = log_pi(model, tokens.masked_fill(order >= step, mask_id), allowed)
        total += log_p[order == step].gather(-1, tokens[order == step].unsqueeze(-1)).squeeze(-1)
    return total


def weights(reward: Tensor, log_ref: Tensor, log_old: Tensor, alpha: float, baseline: str = "none") -> tuple[Tensor, Tensor]:
    """Step 3. w = softmax_n(ℓ) with ℓ = r/α + log p_ref − log p_old, and w_real = w − w_base. [G, N] each.

    w_base is 0 (`none`), 1/N (`uniform`, the paper's w_base = 1 normalised), or the weights of the inverted reward (`negative`).
    """
    log_ratio = log_ref - log_old
    w = (reward / alpha + log_ratio).softmax(dim=-1)
    if baseline == "negative":
        return w, w - (-reward / alpha + log_ratio).softmax(dim=-1)
    return w, w - {"none": 0.0, "uniform": 1 / reward.shape[-1]}[baseline]


def draw_masks(response: Tensor, R: int, rand: Rand) -> Tensor:
    """Step 4. R masks of each row: m ~ U{1..L} of the L response positions, drawn at random. [B, S] bool → [B, R, S] bool."""
    B, S = response.shape
    m = 1 + (rand(B, R) * response.sum(dim=-1, keepdim=True)).long()
    among = response[:, None].expand(B, R, S)
    return rank(rand(B, R, S), among) < m.unsqueeze(-1)


def nelbo(model: LLaDAModelLM, tokens: Tensor, masks: Tensor, L: int, mask_id: int, allowed: Tensor) -> Tensor:
    """Step 5. L_θ(o|q) estimated on R masks: mean over them of (L/m) Σ_{d masked} −log π_θ(o_d | masked o, q). [B] float64."""
    B, R, S = masks.shape
    rows = tokens[:, None].expand(B, R, S)
    log_p = log_pi(model, rows.masked_fill(masks, mask_id).reshape(B * R, S), allowed).reshape(B, R, S, -1)
    of_token = log_p.gather(-1, rows.unsqueeze(-1)).squeeze(-1)
    m = masks.sum(dim=-1)
    return (-(of_token.masked_fill(~masks, 0.0).sum(dim=-1)) * L / m).mean(dim=-1)


def wdce(nelbo_theta: Tensor, w_real: Tensor, L: int) -> Tensor:
    """Step 6a. Weighted denoising cross-entropy: mean over prompts of Σ_n w_real L_θ(o_n)/L. [G, N] → scalar."""
    return (w_real * nelbo_theta / L).sum(dim=-1).mean()


def wddo(nelbo_theta: Tensor, nelbo_old: Tensor, w: Tensor) -> Tensor:
    """Step 6b, instead. Weighted direct discriminative optimisation, Δ = log p_θ − log p_old on the same masks, [G, N] → scalar:
    mean over prompts of −Σ_n w log sigmoid(Δ) − (1/N) Σ_n log sigmoid(−Δ). It has a negative term of its own, so no baseline."""
    delta = nelbo_old - nelbo_theta
    return -((w * logsigmoid(delta)).sum(dim=-1) + logsigmoid(-delta).mean(dim=-1)).mean()


def dmpo(
    policy: LLaDAModelLM,
    reference: LLaDAModelLM,
    prompts: Tensor,
    reward: Callable[[Tensor], Tensor],
    mask_id: int,
    allowed: Tensor,
    rand: Rand,
    *,
    N: int,
    R: int = 2,
    K: int = 4,
    rounds: int = 50,
    alpha: float = 0.1,
    baseline: str = "none",
    loss: str = "wdce",
    learning_rate: float = 1e-4,
) -> Iterator[dict[str, float]]:
    """The loop. `reward` maps token ids [G·N, S] to rewards [G·N]; loss and mean reward of every gradient step are yielded."""
    assert loss == "wdce" or (loss, baseline) == ("wddo", "none"), "WDDO takes no baseline"
    optimizer = torch.optim.AdamW(policy.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    rows = prompts.repeat_interleave(N, dim=0)  # [G·N, S]
    response, shape, L = rows == mask_id, (len(prompts), N), int((prompts[0] == mask_id).sum())
    for _ in range(rounds):
        # Steps 1 to 4, once a round: p_old is the policy as it is now.
        tokens, order, log_old = draw_rollouts(policy, rows, mask_id, allowed, rand)
        log_ref, r = path_log_prob(reference, tokens, order, mask_id, allowed), reward(tokens)
        w, w_real = weights(r.reshape(shape), log_ref.reshape(shape), log_old.reshape(shape), alpha, baseline)
        sets = [draw_masks(response, R, rand) for _ in range(K)]
        with torch.no_grad():  # log p_old on the masks of every step; this is why they are drawn here
            old = [nelbo(policy, tokens, masks, L, mask_id, allowed).reshape(shape) for masks in sets] if loss == "wddo" else []
        # Steps 5 and 6, K times, each on its own masks.
        for k, masks in enumerate(sets):
            theta = nelbo(policy, tokens, masks, L, mask_id, allowed).reshape(shape)
            value = wdce(theta, w_real, L) if loss == "wdce" else wddo(theta, old[k], w)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            yield {"loss": value.item(), "reward": r.mean().item()}
