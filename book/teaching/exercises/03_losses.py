# %% [markdown]
# # Exercises 3 · Losses and baselines
#
# Five exercises on how the weights change the policy. The policy is a table, $p_\theta=\mathrm{softmax}(\theta)$ over C answers, so that
# every gradient can be written by hand. Background: notebooks [04](../../../notebooks/04_weight_baseline.ipynb) and
# [05](../../../notebooks/05_two_losses.ipynb).

# %%
import math

try:
    import torch
    from exercise_checks import check

    from toy.notebook import start
except ImportError:
    raise SystemExit("dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the repository, then restart the kernel") from None

start()

# %% [markdown]
# ## 3.1 The real weight (warm-up)
#
# $w_{\mathrm{real}}=w-w_{\mathrm{base}}$, with $w=\mathrm{softmax}(r/\alpha+\text{log-ratio})$ and $w_{\mathrm{base}}$ one of `none`: 0;
# `uniform`: 1/N; `negative`: the weights of the target for the reward −r. Change the sign of the reward, nothing else.
# As in exercises 1, $r/\alpha$ may be large.


# %%
def real_weight(kind, reward, log_ratio, alpha):
    """w − w_base, [N], from reward and log-ratio [N]."""
    # BEGIN SOLUTION
    weight = (reward / alpha + log_ratio).softmax(dim=0)
    if kind == "uniform":
        return weight - 1 / len(weight)
    if kind == "negative":
        return weight - (-reward / alpha + log_ratio).softmax(dim=0)
    return weight
    # END SOLUTION


# %%
check(real_weight)

# %% [markdown]
# ## 3.2 The WDCE gradient by hand (standard)
#
# The loss of one group is $-\sum_n w_n\log p_\theta(o_n)$. Compute its gradient with respect to θ, for *any* weights: do not assume that
# they sum to 1. What is its component for an answer that was not drawn, if the weights sum to 0?


# %%
def wdce_gradient(theta, answers, weight):
    """∂loss/∂θ, [C], from θ [C], N answers (indices) and N weights."""
    # BEGIN SOLUTION
    weight = torch.tensor(weight, dtype=torch.float64)
    drawn = torch.zeros_like(theta).index_add(0, torch.tensor(answers), weight)
    return weight.sum() * theta.softmax(dim=0) - drawn
    # END SOLUTION


# %%
check(wdce_gradient)

# %% [markdown]
# ## 3.3 What the uniform baseline adds (standard)
#
# Subtracting $w_{\mathrm{base}}=1/N$ adds the term $+\frac1N\sum_n\log p_\theta(o_n)$ to the loss. Find its expected gradient with respect
# to θ, with $o_n\sim p_{\mathrm{old}}$, as a function of both distributions. When is it zero? Is it zero at the *second* gradient step of a
# round?


# %%
def baseline_gradient(p_old, p_theta):
    """Expected gradient of the added term, [C]."""
    # BEGIN SOLUTION
    return [old - new for old, new in zip(p_old, p_theta, strict=True)]
    # END SOLUTION


# %%
check(baseline_gradient)

# %% [markdown]
# ## 3.4 The minimum of WDDO (hard)
#
# For one group the loss is $-\sum_n w_n\log\mathrm{sigmoid}(\Delta_n)-\frac1N\sum_n\log\mathrm{sigmoid}(-\Delta_n)$, with $\Delta_n=\log
# p_\theta(o_n)-\log p_{\mathrm{old}}(o_n)$. Rollouts with the same answer share one Δ. At which Δ is the loss smallest, if Δ can be
# chosen freely for each different answer? Start with the case that all answers differ.


# %%
def wddo_delta(answers, weight):
    """Δ_n of each of the N rollouts, from N answers (indices) and N weights that sum to 1."""
    # BEGIN SOLUTION
    N = len(answers)

    def delta(answer):
        return math.log(N * sum(w for a, w in zip(answers, weight, strict=True) if a == answer) / answers.count(answer))

    return [delta(answer) for answer in answers]
    # END SOLUTION


# %%
check(wddo_delta)

# %% [markdown]
# ## 3.5 Where the negative baseline leads (hard)
#
# Take $N\to\infty$, path log-ratios and $p_{\mathrm{old}}=p_\theta$. With the baseline `negative` at strength s, the expected gradient step
# pushes θ along $p^*-s\,p^- -(1-s)\,p_\theta$, where $p^-\propto p_{\mathrm{ref}}e^{-r/\alpha}$. (Derive this from 3.2.) Find the fixed
# point, or return `None` if no fixed point gives every answer a positive probability. The rewards are not all equal. What happens at s = 1,
# the published default?


# %%
def negative_fixed_point(p_ref, reward, alpha, strength):
    """The fixed point [C], or None, from p_ref and reward [C] (tensors), a temperature and 0 ≤ s ≤ 1."""
    # BEGIN SOLUTION
    up, down = ((p_ref.log() + sign * reward / alpha).softmax(dim=0) for sign in (1, -1))
    pull = up - strength * down
    return None if strength == 1 or (pull <= 0).any() else pull / (1 - strength)
    # END SOLUTION


# %%
check(negative_fixed_point)
