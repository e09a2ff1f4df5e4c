# %% [markdown]
# # Exercises 1 · The target and its weights
#
# Seven exercises on how rewards become weights. Read [notebook 03](../../../notebooks/03_weights.ipynb) before or together with them.
#
# Replace each `# YOUR CODE HERE` and the line below it. `check(your_function)` then prints `right`, or which property fails on which input.
# Use plain Python, or torch in float64. Do not use `dmpo_ref.weights`: it contains the functions that you write here.

# %%
import itertools
import math

try:
    import torch
    from exercise_checks import check

    from toy.notebook import start
except ImportError:
    raise SystemExit("dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the repository, then restart the kernel") from None

start()

# %% [markdown]
# ## 1.1 The target (warm-up)
#
# A prompt has C possible answers. The target of [arXiv:2510.08233](https://arxiv.org/abs/2510.08233) is
#
# $$p^*(o) = \frac{p_{\mathrm{ref}}(o)\,e^{r(o)/\alpha}}{\sum_{o'} p_{\mathrm{ref}}(o')\,e^{r(o')/\alpha}} .$$
#
# Do $p_{\mathrm{ref}}=(\tfrac12,\tfrac14,\tfrac14)$, $r=(0, \alpha\ln 2, \alpha\ln 4)$ on paper first, then write the function. Rewards may
# be large, and far apart: neither $r/\alpha = 900$ nor a difference of 3000 may overflow. This holds for all exercises on weights.


# %%
def tilted(p_ref, reward, alpha):
    """p*, a list or tensor of C numbers, from C probabilities above 0, C rewards and a temperature."""
    # BEGIN SOLUTION
    exponent = [math.log(p) + r / alpha for p, r in zip(p_ref, reward, strict=True)]
    unnormalised = [math.exp(x - max(exponent)) for x in exponent]
    return [u / sum(unnormalised) for u in unnormalised]
    # END SOLUTION


# %%
check(tilted)

# %% [markdown]
# ## 1.2 Weights of a group (warm-up)
#
# N rollouts of $p_{\mathrm{old}}$ for each of G prompts. Their self-normalised weights are $w_{gn} = \mathrm{softmax}_n\,\ell_{gn}$ with
# $\ell = r/\alpha + \log p_{\mathrm{ref}} - \log p_{\mathrm{old}}$. Rollouts of different prompts are never normalised together:
# the rewards of one prompt may be thousands of α above those of another.


# %%
def group_weights(reward, log_ref, log_old, alpha):
    """w [G, N] from three tensors [G, N] and a temperature."""
    # BEGIN SOLUTION
    return (reward / alpha + log_ref - log_old).softmax(dim=-1)
    # END SOLUTION


# %%
check(group_weights)

# %% [markdown]
# ## 1.3 Effective sample size (warm-up)
#
# $\mathrm{ESS}=1/(N\sum_n w_n^2)$, as a share of the N rollouts. Before you write it: what is its value if one weight is 1 and all others
# are 0?


# %%
def ess(weight):
    """ESS of each prompt, [G], from weights [G, N] that sum to 1 over n."""
    # BEGIN SOLUTION
    return 1 / (weight.shape[-1] * (weight**2).sum(dim=-1))
    # END SOLUTION


# %%
check(ess)

# %% [markdown]
# ## 1.4 Cold and hot (standard)
#
# What does p\* become as $\alpha\to 0$, and as $\alpha\to\infty$? Note that several answers can have the highest reward. Compute both
# limits without an exponential of a reward: they hold for rewards that differ by $10^{-9}$, and for a reward of $10^{300}$.


# %%
def limits(p_ref, reward):
    """(p* for α → 0, p* for α → ∞), two lists of C numbers."""
    # BEGIN SOLUTION
    best = [p if r == max(reward) else 0.0 for p, r in zip(p_ref, reward, strict=True)]
    return [p / sum(best) for p in best], list(p_ref)
    # END SOLUTION


# %%
check(limits)

# %% [markdown]
# ## 1.5 The coefficient, by bisection (standard)
#
# $w=\mathrm{softmax}(c\,\ell)$ becomes more even as c falls from 1 to 0. Find the largest $c\in(0,1]$ whose ESS is at least `wanted` (a
# share between 0 and 1), to six digits. The ESS falls as c grows, so bisection works. When is the answer exactly 1?


# %%
def coefficient(log_weight, wanted):
    """c from a list of N log-weights ℓ and the wanted ESS."""
    # BEGIN SOLUTION
    values = torch.tensor(log_weight, dtype=torch.float64)

    def even_enough(c):
        return 1 / (len(values) * ((c * values).softmax(dim=0) ** 2).sum()) >= wanted

    if even_enough(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if even_enough(middle) else (low, middle)
    return low
    # END SOLUTION


# %%
check(coefficient)

# %% [markdown]
# ## 1.6 The bias of self-normalising (hard)
#
# A softmax over N rollouts divides by a *sampled* normaliser, so the expected weight on an answer is not p\*(o). For C answers and N
# rollouts there are only $C^N$ groups. Compute the total weight of each answer, in expectation over groups drawn from $p_{\mathrm{old}}$:
# $\mathbb E\bigl[\sum_n w_n 1_{o_n=o}\bigr]$.
#
# Then answer: for two answers with $p_{\mathrm{old}}=(\tfrac12,\tfrac12)$ and $e^\ell=(1,3)$, on which side of p\* is the expected weight,
# and why?


# %%
def expected_weight(p_old, log_weight, N):
    """C numbers from C probabilities and the C log-weights ℓ of the answers."""
    # BEGIN SOLUTION
    expected = [0.0] * len(p_old)
    for group in itertools.product(range(len(p_old)), repeat=N):
        chance = math.prod(p_old[o] for o in group)
        top = max(log_weight[o] for o in group)
        total = sum(math.exp(log_weight[o] - top) for o in group)
        for o in group:
            expected[o] += chance * math.exp(log_weight[o] - top) / total
    return expected
    # END SOLUTION


# %%
check(expected_weight)

# %% [markdown]
# ## 1.7 Stale samples (standard)
#
# A buffer holds G groups that were drawn in different rounds. `log_policy[t]` contains the log-probability of every rollout under the
# policy at the start of round t; `round_of[g]` is the round in which group g was drawn. The current round is the last one. Compute the
# weights. Only one of the T policies may appear in a group's log-weight: which one?


# %%
def buffer_weights(reward, log_ref, log_policy, round_of, alpha):
    """w [G, N] from reward, log_ref [G, N], log_policy [T, G, N], round_of [G]."""
    # BEGIN SOLUTION
    drawn_by = log_policy[round_of, torch.arange(len(round_of))]
    return (reward / alpha + log_ref - drawn_by).softmax(dim=-1)
    # END SOLUTION


# %%
check(buffer_weights)
