"""Samplers as they are described, one row at a time, in plain loops, at temperature 0: what the real ones must equal."""

import math

import numpy as np
import torch

from dmpo_ref.config import SamplerConfig
from tests.helpers import MASK, log_softmax


def plain_forward(network):
    """Logits of one row without padding by the model itself; nothing is kept."""
    return lambda tokens, frozen, fed: (network(torch.tensor([tokens])).logits[0], None)


def written_out_forward(network):
    """One row without padding through the equations of the model in its own precision, RoPE and grouped queries included.

    The function takes `frozen`, keys and values of an earlier pass, used at every position that is not in `fed`, and returns
    logits [S, V], filled in at `fed` only, and every layer's keys and values.
    """
    weights = {name.removeprefix("model.transformer."): w.detach() for name, w in network.state_dict().items()}
    c = network.config
    heads, size, group = c.n_heads, c.d_model // c.n_heads, c.n_heads // c.n_kv_heads

    def norm(x, name):
        return x / (x.square().mean(dim=1, keepdim=True) + c.rms_norm_eps).sqrt() * weights[name]

    # Component i and i + size/2 of every head turn by the angle position · θ^(−2i/size).
    angle = [[s * c.rope_theta ** (-2 * i / size) for i in range(size // 2)] for s in range(64)]
    cos, sin = torch.tensor(angle).cos()[:, None], torch.tensor(angle).sin()[:, None]

    def rotated(x, fed):
        left, right = x.chunk(2, dim=2)
        return torch.cat((left * cos[fed] - right * sin[fed], right * cos[fed] + left * sin[fed]), dim=2)

    def forward(tokens, frozen, fed):
        fed, x, kept = list(fed), weights["wte.weight"][[tokens[s] for s in fed]], []
        for layer in range(c.n_layers):
            name = f"blocks.{layer}."
            h = norm(x, name + "attn_norm.weight")
            q, k, v = ((h @ weights[f"{name}{p}_proj.weight"].T).view(len(fed), -1, size) for p in "qkv")
            q, k = rotated(q, fed), rotated(k, fed)
            keys, values = (torch.zeros(len(tokens), *k.shape[1:], dtype=x.dtype) for _ in "kv") if frozen is None else frozen[layer]
            keys, values = keys.clone(), values.clone()
            keys[fed], values[fed] = k, v
            out = []
            for a in range(heads):
                score = q[:, a] @ keys[:, a // group].T / math.sqrt(size)
                out.append(score.softmax(dim=1) @ values[:, a // group])
            x = x + torch.cat(out, dim=1) @ weights[name + "attn_out.weight"].T
            h = norm(x, name + "ff_norm.weight")
            gate = torch.nn.functional.silu(h @ weights[name + "ff_proj.weight"].T) * (h @ weights[name + "up_proj.weight"].T)
            x = x + gate @ weights[name + "ff_out.weight"].T
            kept.append((keys, values))
        logits = torch.full((len(tokens), c.embedding_size), torch.nan, dtype=x.dtype)
        logits[fed] = norm(x, "ln_f.weight") @ weights["ff_out.weight"].T
        return logits, kept

    return forward


def even_split(block: int, steps: int) -> list[int]:
    """Tokens placed in each step of a block: masks // S, one more in the first masks mod S steps."""
    return [block // steps + (i < block % steps) for i in range(steps)]


def how_many(config: SamplerConfig, falling: list[float]) -> int:
    """How many of the candidates, by falling confidence, a parallel sampler places."""
    if config.name == "threshold":
        return max(1, sum(c >= (0.9 if config.threshold is None else config.threshold) for c in falling))
    run = 0
    while run < len(falling) and falling[run] >= 1 - config.factor / (run + 2):
        run += 1
    return max(1, run)


def has_ended(words: list[int], unsettled: set[int], start: int, ends) -> int | None:
    """The first end token from `start` on, if nothing before it is unsettled."""
    for s in range(start, len(words)):
        if s in unsettled:
            return None
        if words[s] in ends:
            return words[s]
    return None


@torch.no_grad()
def slow_fill(forward, tokens, blanks, config, allowed, *, mask=MASK, observed=None, ends=(), start=0):
    """Fill the blanks of one row without padding.

    Args:
        forward: see `plain_forward`.
        observed: for random orders the step at which each position was filled, which decides which ones are
            placed; with `config.stop_early` those of the same rollout drawn to its end.
        ends, start: with `config.stop_early`, the end tokens, and where the answer begins.

    Returns:
        tokens, the step at which each blank was filled, and the number of steps in each block that was begun.
    """
    words, placed, blocks, allowed = list(tokens), {}, [], list(allowed)
    block_length = config.block_length or len(blanks)
    given = [s for s in range(len(words)) if s not in blanks]
    split = even_split(block_length, config.steps // (len(blanks) // block_length) if config.steps else block_length)
    for b in range(0, len(blanks), block_length):
        left, frozen = blanks[b : b + block_length], (None, None)
        stop = {"none": None, "prefix": len(words), "dual": left[-1] + 1}[config.cache]
        first, i = left[0], 0
        blocks.append(0)
        while left:
            fed = range(len(words)) if stop is None or i == 0 else range(first, stop)
            reuse = frozen if stop is not None and i > 0 else (None, None)
            logits, kept = forward(words, reuse[0], fed)
            if config.guidance:
                unguided, kept_unguided = forward([mask if s in given else w for s, w in enumerate(words)], reuse[1], fed)
                logits = unguided + (config.guidance + 1) * (logits - unguided)
            if i == 0:
                frozen = (kept, kept_unguided if config.guidance else None)
            log_p = {s: log_softmax(logits[s, allowed].double().numpy()) for s in left}
            t = sum(blocks)
            order = sorted(left, key=lambda s: -log_p[s].max())
            if config.name in ("random", "random_order"):
                chosen = [s for s in left if observed[s] == t]
                assert len(chosen) == split[i]
            elif config.name == "confidence":
                chosen = order[: split[i]]
            else:
                chosen = order[: how_many(config, [math.exp(log_p[s].max()) for s in order])]
            for s in chosen:
                words[s], placed[s] = allowed[log_p[s].argmax()], t
                left.remove(s)
            i += 1
            blocks[-1] += 1
            if config.stop_early and (stop is None or not left):
                unsettled = {s for s in blanks if s not in placed}
                end = has_ended(words, unsettled, start, ends)
                if end is not None:
                    for s in unsettled:
                        words[s], placed[s] = end, t
                    return words, placed, blocks
    return words, placed, blocks


def slow_probabilities(model, words: list[int], a: int, z: int, allowed, mask: int) -> list[np.ndarray]:
    """Softmax over the allowed tokens at each slot of one row without padding, and at each of its shadows."""
    S, b = len(words), z - a
    visible = torch.zeros(1, S + b, S + b, dtype=torch.bool)
    for query in range(S + b):
        for key in range(S + b):
            if query < S:
                visible[0, query, key] = key < S
            else:
                visible[0, query, key] = key >= S or key != a + query - S
    fed = torch.tensor([words + [mask] * b])
    position = torch.tensor([list(range(S)) + list(range(a, z))])
    logits = model(input_ids=fed, position_ids=position, visible=visible).logits[0].double().numpy()
    return [np.exp(log_softmax(row[list(allowed)])) for row in logits]


@torch.no_grad()
def slow_wino(model, words: list[int], start: int, block_length: int, tau: float, tau_back: float, allowed, mask=MASK, ends=()):
    """One row: its tokens, the forward in which each was last placed, and the history of what was done.

    Args:
        start: the first slot of the response.
        ends: end tokens after which, in a complete block, the rest is filled in; none: the row is drawn to its end.
    """
    words, placed_at, history, t = list(words), {}, [], 0
    for a in range(start, len(words), block_length):
        z, last = a + block_length, 30
        while mask in words[a:z]:
            p = slow_probabilities(model, words, a, z, allowed, mask)
            masked = [j for j in range(a, z) if words[j] == mask]
            placed = [j for j in range(a, z) if words[j] != mask]
            confidence = {j: p[j].max() for j in masked}
            back = {j: p[len(words) + j - a][allowed.index(words[j])] for j in placed}
            falling = sorted(masked, key=lambda j: -confidence[j])
            accept = [j for j in falling if confidence[j] > tau][: min(max(int(0.7 * len(masked)), 5), 20)] or falling[:1]
            remask = []
            if len(accept) > 1:
                remask = sorted((j for j in placed if back[j] < tau_back), key=lambda j: back[j])
                if len(remask) >= last:
                    remask = remask[: last - 1]
            for j in accept:
                words[j], placed_at[j] = allowed[p[j].argmax()], t
            for j in remask:
                words[j] = mask
            last = len(accept)
            history.append((len(accept), len(remask)))
            t += 1
        end = has_ended(words, set(range(z, len(words))), start, ends)
        if end is not None:
            for j in range(z, len(words)):
                words[j], placed_at[j] = end, t - 1
            break
    return words, placed_at, history
