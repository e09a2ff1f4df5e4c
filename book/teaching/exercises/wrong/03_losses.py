"""Plausible wrong answers to `03_losses`, each named after its misconception; the checks must refuse all of them."""

import math

import torch


def real(kind, reward, log_ratio, alpha, *, uniform=None, flip_ratio=False):
    weight = (reward / alpha + log_ratio).softmax(dim=0)
    if kind == "uniform":
        return weight - (1 / len(weight) if uniform is None else uniform)
    if kind == "negative":
        return weight - (-reward / alpha + (-log_ratio if flip_ratio else log_ratio)).softmax(dim=0)
    return weight


def without_largest(kind, reward, log_ratio, alpha):
    weight, inverted = ((sign * reward / alpha + log_ratio).exp() for sign in (1, -1))
    base = {"none": 0.0, "uniform": 1 / len(reward), "negative": inverted / inverted.sum()}[kind]
    return weight / weight.sum() - base


def drawn(theta, answers, weight):
    return torch.zeros_like(theta).index_add(0, torch.tensor(answers), torch.tensor(weight, dtype=torch.float64))


def tilted(p_ref, reward, alpha):
    return (p_ref.log() + reward / alpha).softmax(dim=0)


def pull(p_ref, reward, alpha, strength):
    return tilted(p_ref, reward, alpha) - strength * tilted(p_ref, -reward, alpha)


WRONG = {
    "real_weight": {
        "the paper's 1, not normalised": lambda kind, r, q, alpha: real(kind, r, q, alpha, uniform=1.0),
        "the log-ratio negated with the reward": lambda kind, r, q, alpha: real(kind, r, q, alpha, flip_ratio=True),
        "exponentials overflow": without_largest,
        "minus the weight": lambda kind, r, q, alpha: -real(kind, r, q, alpha),
        "negative means the sign of w": lambda kind, r, q, alpha: (
            -real("none", r, q, alpha) if kind == "negative" else real(kind, r, q, alpha)
        ),
    },
    "wdce_gradient": {
        "assumes that weights sum to 1": lambda t, a, w: t.softmax(dim=0) - drawn(t, a, w),
        "answers that were not drawn get no gradient": lambda t, a, w: -drawn(t, a, w),
        "the gradient of +log p": lambda t, a, w: drawn(t, a, w) - sum(w) * t.softmax(dim=0),
        "weights divided by their sum": lambda t, a, w: t.softmax(dim=0) - drawn(t, a, w) / sum(w),
        "a mean over N": lambda t, a, w: (sum(w) * t.softmax(dim=0) - drawn(t, a, w)) / len(a),
        "a later draw overwrites an earlier one": lambda t, a, w: (
            sum(w) * t.softmax(dim=0) - torch.zeros_like(t).index_put((torch.tensor(a),), torch.tensor(w, dtype=t.dtype))
        ),
    },
    "baseline_gradient": {
        "always zero": lambda old, new: [0.0] * len(old),
        "the sign": lambda old, new: [b - a for a, b in zip(old, new, strict=True)],
        "the ratio": lambda old, new: [a / b - 1 for a, b in zip(old, new, strict=True)],
        "p_old alone": lambda old, new: old,
        "1/C": lambda old, new: [a - 1 / len(old) for a in old],
    },
    "wddo_delta": {
        "log w": lambda a, w: [math.log(x) for x in w],
        "each rollout on its own": lambda a, w: [math.log(len(w) * x) for x in w],
        "the odds of w": lambda a, w: [math.log(x / (1 - x)) for x in w],
        "different answers counted instead of rollouts": lambda a, w: [
            math.log(len(set(a)) * sum(x for b, x in zip(a, w, strict=True) if b == c) / a.count(c)) for c in a
        ],
        "N·w without the logarithm": lambda a, w: [len(w) * x for x in w],
        "weights added, draws not counted": lambda a, w: [
            math.log(len(w) * sum(x for b, x in zip(a, w, strict=True) if b == c)) for c in a
        ],
    },
    "negative_fixed_point": {
        "p*, as with uniform": lambda p, r, alpha, s: tilted(p, r, alpha),
        "not normalised": lambda p, r, alpha, s: None if s == 1 or (pull(p, r, alpha, s) <= 0).any() else pull(p, r, alpha, s),
        "negative probabilities": lambda p, r, alpha, s: None if s == 1 else pull(p, r, alpha, s) / (1 - s),
        "cut off at 0 and rescaled": lambda p, r, alpha, s: pull(p, r, alpha, s).clamp(min=0) / pull(p, r, alpha, s).clamp(min=0).sum(),
        "none from s = 0.5": lambda p, r, alpha, s: None if s >= 0.5 else pull(p, r, alpha, s) / (1 - s),
        "p_ref at s = 1": lambda p, r, alpha, s: (
            p if s == 1 else None if (pull(p, r, alpha, s) <= 0).any() else pull(p, r, alpha, s) / (1 - s)
        ),
        "never a fixed point": lambda p, r, alpha, s: None,
    },
}
