# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · From rewards to weights
#
# ![Four panels of bars. Rewards of eight rollouts, from 0 to 1. At α = 0.5 the weights rise gently, from 0.04 to 0.3. At α = 0.1 the best rollout has 0.86 of the weight. Where p_old has moved towards it, it has 0.04, and the second best has 0.8](../book/figures/opening_weights.png)
#
# *Eight answers to one prompt, four times. Why does one of them get nearly all of the weight in the third panel? And why does the same answer,
# with the same reward, get next to none in the fourth?*
#
# DMPO does not use a policy gradient. It draws rollouts, gives each one a weight, and then fits the policy to the weighted
# rollouts as if they were data. This notebook is about the weights; section 2 answers the two questions.
#
# **You will learn**
# - what the target distribution p\* is, and what the temperature α does to it, from greedy to flat;
# - how weights turn rollouts of an old policy into samples of p\*, and one number that warns when this fails (the effective sample size);
# - what it costs to normalise over only N rollouts: a bias of order 1/N, here computed exactly, and what it does to training;
# - when weights become stale, and when they do not;
# - three ways to get the ratio of reference to old policy for a masked diffusion model, and the distribution that each of them leads to.
#
# **You need** importance sampling as an idea, and the likelihoods of a masked diffusion model (ELBO, log-probability along an order).
# **It takes** an hour to read and under a minute to run.

# %% tags=["hide-input"]
try:
    from toy.notebook import Table, start
except ImportError:
    raise SystemExit(
        "dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the "
        "repository, then restart the kernel"
    ) from None
start()

# %% tags=["hide-input"]
import itertools
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from ipywidgets import FloatLogSlider, SelectionSlider, interact

from dmpo_ref import effective_sample_size, log_weights, stream, target_weights
from dmpo_ref.weights import coefficient_for_ess, flatten
from toy.enumeration import (
    judge,
    mask_chances,
    pair_estimates,
    self_normalised,
    uniform_sizes,
)
from toy.figures.weights import draw_ratios, draw_rollouts, draw_self_normalising
from toy.oracle import (
    exact_distribution,
    flattened,
    kl_divergence,
    rewards,
    tilted,
)
from toy.studies.acts import by_name, read
from toy.tabular import tabulate
from toy.worlds.mixture import draw_cells, world_1d

# %% [markdown]
# ## 1. The target
#
# For a prompt $q$, a reference policy $p_{\mathrm{ref}}$ and a reward $r$, DMPO ([arXiv:2510.08233](https://arxiv.org/abs/2510.08233)) aims
# at
#
# $$p^*(o\mid q) \;=\; \frac{1}{Z(q)}\; p_{\mathrm{ref}}(o\mid q)\; e^{\,r(q,o)/\alpha}, \qquad
#   Z(q)=\sum_o p_{\mathrm{ref}}(o\mid q)\,e^{\,r(q,o)/\alpha}.$$
#
# It is the distribution with the highest $\mathbb E[r]-\alpha\,\mathrm{KL}(p\,\|\,p_{\mathrm{ref}})$. So α, in units of reward per nat, is
# a price: the reward that one nat of distance from the reference must bring.
#
# We look at it where every expectation is a finite sum: a line of 64 cells (`toy.worlds.mixture.world_1d`), a broad $p_{\mathrm{ref}}$ and
# a reward with four peaks. It is at most 0.38, and negative in all but 8 of the cells. Before you run the next cell: what is p\* as α → 0,
# and as α → ∞?

# %% tags=["slide"]
world = world_1d()
rows = []
for alpha in (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0):
    log_target = replace(world, alpha=alpha).log_target
    reward = (log_target.exp() @ world.reward).item()
    kl, largest = kl_divergence(log_target, world.log_ref), log_target.exp().max()
    rows.append((f"{alpha:g}", *(f"{x:.3f}" for x in (reward, kl, largest))))
Table(rows, ("α", "E[r] under p*", "KL(p*||p_ref), nats", "largest p* of a cell"))

# %% [markdown]
# From greedy to flat: at α = 0.01 nearly all mass is on the cells with the highest reward; at α = 100 the reward has no effect.
# The greedy target is also far away: more than three nats from the reference. Everything that follows is harder there.
#
# ### What p\* itself leaves out
#
# A method that covers the mass of p\* covers a right answer only as far as p\* has it, and
#
# $$\frac{p^*(a)}{p^*(b)} \;=\; \frac{p_{\mathrm{ref}}(a)}{p_{\mathrm{ref}}(b)}\; e^{(r_a-r_b)/\alpha}.$$
#
# Three right answers that $p_{\mathrm{ref}}$ gives with 0.60, 0.25 and 0.05, and a wrong one with 0.10. The third earns as much as the
# others, or 0.05 less, or 0.05 more. What becomes of it as α → 0, in each of the three cases?

# %%
log_p_ref = torch.tensor([0.60, 0.25, 0.05, 0.10], dtype=torch.float64).log()
rows = []
for difference in (0.0, -0.05, 0.05):
    reward_4 = torch.tensor([1.0, 1.0, 1.0 + difference, 0.0], dtype=torch.float64)
    for alpha in (1.0, 0.1, 0.02, 0.005):
        shares = tilted(log_p_ref, reward_4, alpha).exp()
        setting = (f"{difference:+.2f}", f"{alpha:g}")
        rows.append((*setting, *(f"{x:.3f}" for x in shares)))
print("p* of each answer")
Table(rows, ("reward of the third − 1", "α", "first", "second", "third", "wrong"))

# %% [markdown]
# With equal rewards the right answers keep the proportions of $p_{\mathrm{ref}}$ whatever α: nothing vanishes but the wrong answer, and
# nothing becomes even. A small difference $d$ counts $e^{d/\alpha}$: at α = 0.005 it is a factor of 22,000, and p\* has one
# mode, or has lost one, *by design* ([arXiv:2510.20817](https://arxiv.org/abs/2510.20817)).
#
# The option `weight.flatten_above: τ` aims at another target: answers with $r\ge\tau$ are good, and share the mass that p\* gives them
# evenly. In a group, the good rollouts keep their weight together and share it evenly *per answer*. An answer is drawn in proportion to
# $p_{\mathrm{old}}$, so each of its rollouts must get a share in proportion to $1/p_{\mathrm{old}}$ ([derivation](../book/method.md)). Mean
# weight on each answer in 4,000 groups of 64 rollouts of $p_{\mathrm{ref}}$, at α = 0.1:

# %%
reward_4 = torch.tensor([1.0, 1.0, 0.95, 0.0], dtype=torch.float64)
o = draw_cells(log_p_ref, (4000, 64), stream(0, "flatten"))
log_weight = log_weights(reward_4[o], torch.zeros_like(reward_4[o]), alpha=0.1)
even = flatten(log_weight, log_p_ref[o], reward_4[o] >= 0.9)
rows = []
for name, ell, target in (
    ("as published", log_weight, tilted(log_p_ref, reward_4, 0.1)),
    ("flattened", even, flattened(log_p_ref, reward_4, 0.1, 0.9)),
):
    mean = [(target_weights(ell) * (o == k)).sum(dim=1).mean().item() for k in range(4)]
    rows.append((name, "mean weight", *(f"{x:.3f}" for x in mean)))
    rows.append((name, "target", *(f"{x:.3f}" for x in target.exp())))
Table(rows, ("weights", "share in", "first", "second", "third", "wrong"))

# %% [markdown]
# The rare third answer gets a little less than a third: some groups do not hold it, and normalising over N rollouts has a bias of order
# 1/N (section 6). An answer that is never drawn gets nothing, flattened or not.
#
# **Check yourself.** The reward of every answer is increased by 5. What happens to p\*?
#
# <details class="choice"><summary>It becomes greedier.</summary>
#
# **No.** That would be multiplying the reward, or a smaller α. A constant does not change odds.
#
# </details>
#
# <details class="choice"><summary>It comes nearer to p<sub>ref</sub>.</summary>
#
# **No.** That is what a larger α does: it flattens the factor.
#
# </details>
#
# <details class="choice"><summary>Nothing.</summary>
#
# **Right.** Every answer gets the same factor $e^{5/\alpha}$, and normalising removes it.
#
# </details>
#
# ## 2. Importance weights
#
# We cannot sample p\*. We can sample an old policy $p_{\mathrm{old}}$, and for any function $f$
#
# $$\mathbb E_{p^*}[f] \;=\; \mathbb E_{p_{\mathrm{old}}}\!\left[\frac{p^*}{p_{\mathrm{old}}}\,f\right],\qquad
#   \log\frac{p^*(o)}{p_{\mathrm{old}}(o)} \;=\;
#   \underbrace{\frac{r(o)}{\alpha}+\log p_{\mathrm{ref}}(o)-\log p_{\mathrm{old}}(o)}
#   _{\textstyle \ell(o),\ \text{the log-weight}}\;-\;\log Z .$$
#
# $Z$ is unknown, but it is the same for every answer to one prompt, so a softmax over the N rollouts of that prompt removes it:
#
# $$w_n \;=\; \frac{e^{\ell_n}}{\sum_{k=1}^N e^{\ell_k}},\qquad \sum_n w_n = 1 .$$
#
# Do one by hand first. Three rollouts with rewards $(0,\ \alpha\ln 2,\ \alpha\ln 3)$ and $p_{\mathrm{old}}=p_{\mathrm{ref}}$: what are the
# weights?

# %% tags=["slide"]
alpha = 0.2
reward = alpha * torch.tensor([[0.0, math.log(2), math.log(3)]], dtype=torch.float64)
on_policy = torch.zeros(1, 3, dtype=torch.float64)
drifted = torch.tensor(
    [[math.log(3), 0.0, 0.0]], dtype=torch.float64
)  # the reference likes the first three times as much as p_old does
rows = []
for name, log_ratio in {"on-policy": on_policy, "drifted": drifted}.items():
    weight = target_weights(log_weights(reward, log_ratio, alpha=alpha))
    rows.append((name, *(f"{w:.4f}" for w in weight[0])))
Table(rows, ("weights", "rollout 1", "rollout 2", "rollout 3"))

# %% [markdown]
# 1 : 2 : 3, and with the log-ratio 3 : 2 : 3. A rollout with reward 0 can weigh as much as the best one, if the old policy draws it too
# rarely.
#
# Back to the first figure. Third panel: a reward that is 0.2 higher counts $e^{0.2/0.1}=7.4$ times. Fourth panel: the best answer is now
# drawn more often than under the reference, so it is divided by a larger $p_{\mathrm{old}}$.
#
# The definition in plain Python, one prompt and one rollout at a time, against `dmpo_ref.weights`. Rows of a `[G, N]` tensor are prompts
# and never mix.


# %%
def weights_by_hand(reward, log_ref, log_old, alpha):
    rows = []
    for r, ref, old in zip(
        reward.tolist(), log_ref.tolist(), log_old.tolist(), strict=True
    ):
        unnormalised = [
            math.exp(r_n / alpha) * math.exp(ref_n) / math.exp(old_n)
            for r_n, ref_n, old_n in zip(r, ref, old, strict=True)
        ]
        rows.append([u / sum(unnormalised) for u in unnormalised])
    return torch.tensor(rows, dtype=torch.float64)


# %%
draw = stream(0, "three prompts")
reward, log_ref, log_old = (
    torch.rand(3, 8, generator=draw, dtype=torch.float64) * scale
    for scale in (1, -5, -5)
)
by_hand = weights_by_hand(reward, log_ref, log_old, alpha=0.3)
library = target_weights(log_weights(reward, log_ref - log_old, alpha=0.3))
torch.testing.assert_close(by_hand, library, rtol=1e-12, atol=0)
print(
    "largest weight in each row:",
    [f"{w:.3f}" for w in library.max(dim=-1).values.tolist()],
)

# %% [markdown]
# The library does the same in log space, so that $r/\alpha = 900$ is no trouble.
#
# **Check yourself.** The same rewards, weights 1 : 2 : 3 without a ratio. Now $p_{\mathrm{old}}$ draws the *third* rollout three times as often as
# $p_{\mathrm{ref}}$ does. What are the weights?
#
# <details class="choice"><summary>1/12, 1/6, 3/4</summary>
#
# **No.** That multiplies by 3. What is drawn too often must count less, so it is divided by 3.
#
# </details>
#
# <details class="choice"><summary>1/4, 1/2, 1/4</summary>
#
# **Right.** The third term is $3\cdot\frac13=1$, so 1 : 2 : 1.
#
# </details>
#
# <details class="choice"><summary>1/6, 1/3, 1/2</summary>
#
# **No.** These are the weights on-policy, without the ratio.
#
# </details>
#
# ## 3. Look at them
#
# N rollouts of $p_{\mathrm{old}}=p_{\mathrm{ref}}$ on the line, and their weights. Left: the weight that falls on each cell, over p\*,
# which it should resemble. Right: $N w_n$ of each rollout in order of size; 1 means "counts once". (`toy.figures.weights` draws the
# pictures of this notebook.)

# %% tags=["nbval-ignore-output", "slide"] alt="Left: four peaks of p* in grey, p_ref as a dotted line, weights of 64 rollouts as sticks at the peaks. Right: the same weights times N, sorted; few are large. The effective sample size is 0.43."
draw_rollouts(world, alpha=1.0, num_rollouts=64)
plt.show()


# %% tags=["nbval-ignore-output"]
@interact(
    alpha=FloatLogSlider(1.0, min=-2, max=2, step=0.25),
    N=SelectionSlider(options=[4, 16, 64, 256], value=64),
)
def explore(alpha, N):
    draw_rollouts(world, alpha, N)
    plt.show()


# %% [markdown]
# Move the sliders (in a running JupyterLab). At small α a single rollout has nearly all the weight, whatever N is. At large α all rollouts
# count the same and the weights carry no information. The useful range is between the two.
#
# **Check yourself.** At very small α, why do more rollouts not make the weights more even?
#
# <details class="choice"><summary>The best of them still leads by many times α.</summary>
#
# **Right.** Weights depend on differences of reward divided by α. As long as the lead of the best rollout is much more than α, it
# takes nearly everything, however many others there are.
#
# </details>
#
# <details class="choice"><summary>The softmax divides by N, so all shrink alike.</summary>
#
# **No.** The softmax divides by the sum of its terms; N does not stand in it.
#
# </details>
#
# <details class="choice"><summary>All rollouts then have nearly the same reward.</summary>
#
# **No.** Their rewards do not depend on α. Divided by a small α, the differences become large.
#
# </details>
#
# ## 4. Effective sample size
#
# $$\mathrm{ESS} \;=\; \frac{1}{N\sum_n w_n^2}\;\in\;[1/N,\,1]$$
#
# is the share of the N rollouts that really counts: $k$ equal weights and zeros elsewhere give $k/N$. As N → ∞ it tends to a number that
# depends on the two distributions only, $1/\mathbb E_{p_{\mathrm{old}}}[(p^*/p_{\mathrm{old}})^2]$, which on the line is a sum over cells.

# %% tags=["slide"]
rows = []
for alpha in (0.1, 0.3, 1.0, 3.0, 10.0):
    row = []
    for N in (4, 16, 64, 256):
        cells = draw_cells(world.log_ref, (2000, N), stream(0, "ess", N))
        weight = target_weights(
            log_weights(
                world.reward[cells], torch.zeros_like(world.reward[cells]), alpha=alpha
            )
        )
        row.append(effective_sample_size(weight).mean().item())
    ratio = (replace(world, alpha=alpha).log_target - world.log_ref).exp()
    limit = 1 / (world.log_ref.exp() @ ratio.square()).item()
    rows.append((f"{alpha:g}", *(f"{ess:.2f}" for ess in [*row, limit])))
print("mean ESS")
Table(rows, ("α", "N = 4", "N = 16", "N = 64", "N = 256", "N → ∞ (exact)"))

# %% [markdown]
# The ESS of a *small* group is too high: with N = 4 it cannot fall below 0.25, and four rollouts that all missed the target have equal
# weights. At α = 0.1 the ESS of four rollouts is six times that of the two distributions. An ESS near $1/N$ is a warning; an ESS well
# above it at small N proves nothing.
#
# **Check yourself.** The ESS of 64 rollouts is 1.00. Can the policy still be far from p\*?
#
# <details class="choice"><summary>Only if it were 4 rollouts.</summary>
#
# **No.** No N helps if the policy never draws the other answers.
#
# </details>
#
# <details class="choice"><summary>No: equal weights mean p<sub>old</sub> = p*.</summary>
#
# **No.** Only on the answers that were drawn. A policy that gives one answer always has an ESS of 1, be it right or wrong.
#
# </details>
#
# <details class="choice"><summary>Yes: the ESS sees only answers that were drawn.</summary>
#
# **Right.** A policy that has collapsed on one solution has ESS 1 and is nats away from p\*.
#
# </details>
#
# ## 5. The coefficient c: tempering until the weights are even enough
#
# A low ESS can be raised by flattening the weights: $w=\mathrm{softmax}(c\,\ell)$, with the largest $c\in(0,1]$ that reaches a wanted ESS.
# ESS falls as c grows, so bisection finds it. Fifty halvings by hand must agree with the library:


# %%
def coefficient_by_hand(log_weight, wanted):
    low, high = 0.0, 1.0
    if effective_sample_size(log_weight.softmax(dim=-1)) >= wanted:
        return 1.0
    for _ in range(50):
        middle = (low + high) / 2
        enough = effective_sample_size((middle * log_weight).softmax(dim=-1)) >= wanted
        low, high = (middle, high) if enough else (low, middle)
    return low


# %%
cells = draw_cells(world.log_ref, (1, 64), stream(0, "look"))
log_weight = log_weights(
    world.reward[cells], torch.zeros(1, 64, dtype=torch.float64), alpha=0.3
)
rows = []
for wanted in (0.1, 0.3, 0.5, 0.9):
    c = coefficient_by_hand(log_weight, wanted)
    assert abs(c - coefficient_for_ess(log_weight, wanted).item()) < 1e-12
    ess = effective_sample_size(target_weights(log_weight, coefficient=c)).item()
    rows.append((wanted, f"{c:.4f}", f"{ess:.4f}"))
Table(rows, ("wanted ESS", "c", "ESS"))

# %% [markdown]
# Which distribution do the tempered weights lead to? $p_{\mathrm{old}}\,e^{c\ell}\propto p_{\mathrm{old}}^{\,1-c}\,(p^*)^{c}$, a
# geometric mean of the old policy and the target. That is not p\*. But repeat it from there, with the same c:
#
# $$\log p_{t} \;=\; (1-c)^t\,\log p_0 + \bigl(1-(1-c)^t\bigr)\log p^* + \text{const}.$$
#
# So c is a step size: the fixed point stays p\*, as long as ℓ holds the term $\log p_{\mathrm{ref}}-\log p_{\mathrm{old}}$. Without that
# term (`log_ratio: none`) one round gives $p_{\mathrm{old}}\,e^{c\,r/\alpha}$, and repeating that ends only at the greedy policy. Both,
# iterated with exact expectations:


# %% tags=["slide"]
def iterate(log_p, c, rounds, with_ratio):
    for _ in range(rounds):
        log_ratio = world.log_ref - log_p if with_ratio else 0
        log_p = (log_p + c * (world.reward / world.alpha + log_ratio)).log_softmax(
            dim=0
        )
    return kl_divergence(world.log_target, log_p)


rows = []
for t in (0, 1, 2, 4, 8, 16, 32):
    both = (iterate(world.log_ref, 0.25, t, ratio) for ratio in (True, False))
    rows.append((t, *(f"{kl:.4f}" for kl in both)))
print("KL(p*||p_t), nats, c = 0.25, α = 1")
Table(rows, ("round t", "with the ratio", "without"))

# %% [markdown]
# Without the ratio the policy passes p\* at round 4 ($4\times 0.25=1$: exactly one full tilt) and goes on. Neither is wrong. They
# are different goals: a fixed target, or a target that moves with the policy and becomes greedier in every round.
#
# **Check yourself.** Fixed reference, c = ¼ in every round, exact expectations. Which share has $\log p^*$ in $\log p_2$, after two rounds?
#
# <details class="choice"><summary>1/2</summary>
#
# **No.** The second round takes a quarter of what is left, not a quarter of the whole way.
#
# </details>
#
# <details class="choice"><summary>1/16</summary>
#
# **No.** That is $c^2$, which would be less than after one round.
#
# </details>
#
# <details class="choice"><summary>7/16</summary>
#
# **Right.** Three quarters of the way are left after each round: $1-(1-\frac14)^2=\frac7{16}$.
#
# </details>
#
# ## 6. What self-normalising costs
#
# $\sum_k e^{\ell_k}$ estimates $NZ$ from the same rollouts, so $\mathbb E[\sum_n w_n f(o_n)]\ne \mathbb E_{p^*}[f]$. How large is the
# difference? We need no simulation. Take a prompt with four possible answers. Only the number of times that each answer was drawn matters,
# and all such counts can be listed: 35 for N = 4, 47,905 for N = 64.

# %%
log_ref = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
reward, alpha = torch.tensor([0.0, 1.0, 0.5, 2.0], dtype=torch.float64), 0.5
log_target = tilted(log_ref, reward, alpha)
ANSWERS = [f"answer {k}" for k in range(1, 5)]
Table(
    [
        ("p_ref", *(f"{p:.3f}" for p in log_ref.exp())),
        ("p*", *(f"{p:.3f}" for p in log_target.exp())),
    ],
    ("", *ANSWERS),
)

# %% [markdown]
# A count $k$ has a multinomial probability under $p_{\mathrm{old}}$, and gives answer $o$ the weight
# $k_o e^{\ell_o}/\sum_{o'}k_{o'}e^{\ell_{o'}}$. `toy.enumeration.self_normalised` lists all counts and returns the exact mean and standard
# deviation of this weight for each answer. First the check that it is right: for N = 3 list all $4^3$ triples instead and let
# `dmpo_ref.weights` do the softmax.

# %%
triples = torch.tensor(list(itertools.product(range(4), repeat=3)))
weight = target_weights(
    log_weights(reward[triples], torch.zeros(64, 3, dtype=torch.float64), alpha=alpha)
)
chance = log_ref[triples].sum(dim=1).exp()
slow = torch.stack(
    [chance @ (weight * (triples == answer)).sum(dim=1) for answer in range(4)]
)
torch.testing.assert_close(
    slow, self_normalised(log_ref, reward / alpha, 3)[0], rtol=1e-12, atol=0
)
print("both ways:", [f"{p:.4f}" for p in slow.tolist()])

# %% [markdown]
# Now the bias. Expanding the quotient to first order gives its limit,
#
# $$N\left(\mathbb E\Bigl[\sum_n w_n\,1_{o_n=o}\Bigr]-p^*(o)\right)\;\longrightarrow\;
#   p^*(o)\,\bigl(\mathbb E_{p^*}[\rho]-\rho(o)\bigr),\qquad \rho=p^*/p_{\mathrm{old}} .$$
#
# Answers whose ratio ρ is above the average get too little weight: those that $p_{\mathrm{old}}$ draws too rarely.

# %%
log_weight, target = reward / alpha, log_target.exp()
rows = []
for N in (2, 4, 16, 64):
    mean, spread = self_normalised(log_ref, log_weight, N)
    bias = N * (mean - target)[3]
    rows.append((N, *(f"{m:.4f}" for m in mean), f"{bias:.3f}", f"{spread[3]:.3f}"))
ratio = (log_target - log_ref).exp()
limit = target * (target @ ratio - ratio)
rows.append(("∞: p*", *(f"{p:.4f}" for p in target), f"{limit[3]:.3f}", ""))
print("expected weight on each answer")
Table(rows, ("N", *ANSWERS, "N × bias of answer 4", "its standard deviation"))

# %% [markdown]
# The rare, good answer (the fourth) gets too little weight: a group that lacks it gives it 0, and a group that has it cannot give it
# more than 1. At N = 4 it gets 0.16 instead of 0.47, at N = 64 0.43. The others get the rest; the second one gets more than under
# $p_{\mathrm{old}}$ and more than under p\*. From N = 16 on, N × bias is close to its limit.
#
# Does averaging help? Take 64 rollouts either as one softmax over 64, or as 16 softmaxes over 4 and the mean of the results.

# %%
rows = []
for name, N in {"one group of 64": 64, "16 groups of 4": 4}.items():
    mean, spread = self_normalised(log_ref, log_weight, N)
    deviation = spread[3] / math.sqrt(64 / N)
    rows.append((name, f"{mean[3] - target[3]:.3f}", f"{deviation:.3f}"))
Table(rows, ("answer 4, 64 rollouts", "bias", "standard deviation"))

# %% [markdown]
# Averaging over groups reduces the noise but not the bias. That looks bad for small groups. But training has many rounds. If
# $p_{\mathrm{old}}=p^*$, then ℓ is the same for every rollout, the weights are $1/N$ and the bias is zero, for every N. So p\* is a fixed
# point. Is it reached? A tabular policy that is fitted exactly to the expected weights has $p_{t+1}(o)=\mathbb E[\text{weight on }o]$;
# iterate that, exactly, with the reference fixed.

# %%
history = {}
for N in (4, 16, 64):
    log_p, history[N] = log_ref, [kl_divergence(log_target, log_ref)]
    for _ in range(8):
        mean, _ = self_normalised(log_p, reward / alpha + log_ref - log_p, N)
        # The sum is 1 but for rounding, which the next round would raise to the N.
        log_p = (mean / mean.sum()).log()
        history[N].append(kl_divergence(log_target, log_p))
print("KL(p*||p_t), nats")
Table(
    [(N, *(f"{abs(kl):.4f}" for kl in kls[:6])) for N, kls in history.items()],
    ("N", *(f"round {t}" for t in range(6))),
)

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Left: expected weights of four answers against N; the weight of answer 4, the rarest, is far below its dashed target at small N. Right: KL(p*||p_t) over rounds for N = 4, 16 and 64; all fall, the small group slowest."
sizes = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
expected = {N: self_normalised(log_ref, log_weight, N)[0] for N in sizes}
draw_self_normalising(expected, target, history)
plt.show()

# %% [markdown]
# The bias of self-normalising makes each round a shorter step. It does not change the fixed point. The real cost of a small N is noise
# (the standard deviations above), and an answer that is never drawn gets no weight. That is why the results tables count *rollouts per
# gradient step*, not N alone.
#
# **Check yourself.** Why do self-normalised weights of N = 4 rollouts give a rare, good answer too little weight on average?
#
# <details class="choice"><summary>p<sub>old</sub> draws it less often than it should.</summary>
#
# **No.** How often it is drawn is right for $p_{\text{old}}$, and an unnormalised ratio would make up for that. The bias comes from
# dividing by the sampled sum.
#
# </details>
#
# <details class="choice"><summary>α is too large.</summary>
#
# **No.** The bias is there for every α.
#
# </details>
#
# <details class="choice"><summary>When it is drawn, its large ratio is divided by a sum that contains it.</summary>
#
# **Right.** A weight is at most 1, however large the ratio. With larger N the sum varies less, and the bias falls like 1/N.
#
# </details>
#
# ## 7. On-policy, off-policy, stale
#
# In the first round $p_{\mathrm{old}}=p_{\mathrm{ref}}$ and the weights are $\mathrm{softmax}(r/\alpha)$. Then the policy changes. Let it
# move along the geometric path $p_u\propto p_{\mathrm{ref}}^{1-u}(p^*)^{u}$ on the line: $u=0$ is the start, $u=1$ the target, and at
# $u>1$ it has gone too far. Where is the ESS highest?
#
# The last two columns of the table are standard deviations under $p_u$, in nats, of the two parts of the log-weight: $r/\alpha$ and the
# log-ratio. At $u=1$ the two cancel exactly: their sum is the same for every answer.

# %%
rows = []
for u in (0.0, 0.5, 0.9, 1.0, 1.1, 1.5, 2.0):
    log_old = ((1 - u) * world.log_ref + u * world.log_target).log_softmax(dim=0)
    p_old = log_old.exp()
    second = p_old @ (world.log_target - log_old).exp().square()
    parts = (world.reward / world.alpha, world.log_ref - log_old)
    deviations = [
        (p_old @ (part - p_old @ part).square()).sqrt().item() for part in parts
    ]
    rows.append((u, f"{1 / second:.3f}", *(f"{sd:.2f}" for sd in deviations)))
Table(rows, ("u", "ESS, N → ∞", "sd of r/α", "sd of log-ratio"))

# %% [markdown]
# The nearer to p\*, the more even the weights: the reward and the ratio cancel rollout by rollout. Is a rising ESS then a sign of progress?
# Take policies that are proportional to p\* on some of the cells and have a billionth of that on all others, and draw 64 rollouts of each.

# %%
peak, target = (
    torch.cdist(world.points, world.modes).argmin(dim=-1),
    world.log_target.exp(),
)
rows = []
for name, kept in {
    "all cells": peak >= 0,
    "one peak of four": peak == 0,
    "what p* avoids": target < 1e-4,
}.items():
    log_old = (world.log_target + math.log(1e-9) * ~kept).log_softmax(dim=0)
    log_weight = (
        world.log_target - log_old
    )  # the log-weight but for a constant, which the softmax removes
    ess = effective_sample_size(
        target_weights(
            log_weight[draw_cells(log_old, (400, 64), stream(0, "collapsed"))]
        )
    ).mean()
    limit = 1 / (log_old.exp() @ log_weight.exp().square())
    far = (log_old.exp() @ world.reward, kl_divergence(world.log_target, log_old))
    rows.append((name, f"{ess:.3f}", f"{limit:.6f}", *(f"{x:.2f}" for x in far)))
columns = ("ESS, N = 64", "N → ∞", "E[r] under p_old", "KL(p*||p_old), nats")
Table(rows, ("p_old covers", *columns))

# %% [markdown]
# A rising ESS is no proof of progress. A policy that has collapsed on one peak, or on cells that p\* avoids, has an ESS near 1 too: its
# weights are even on what it draws. The ESS of 64 rollouts says nothing about answers that none of them is; the limit does, but nobody can
# measure it. So a *low* ESS is a warning, and a high one is no proof. Look at the reward as well, which tells the third row from the first,
# and at the variety of the answers, which tells the second. (With `log_ratio: none` the ESS says even less: it rises when all rollouts of a
# prompt have the same reward.)
#
# Now keep old rollouts. They were drawn from $p_0=p_{\mathrm{ref}}$; the policy has moved on to $p_1$ (here: half way, on the space of
# four answers). Which distribution do the weighted rollouts represent as N → ∞? Four ways to compute the weights; one is a common mistake.

# %% tags=["slide"]
log_0 = log_ref
log_1 = (0.5 * log_ref + 0.5 * log_target).log_softmax(dim=0)
tilt = reward / alpha
limits = {
    "old rollouts, weights kept from when they were drawn": log_0
    + (tilt + log_ref - log_0),
    "new rollouts, ratio to the policy that drew them": log_1
    + (tilt + log_ref - log_1),
    "old rollouts, ratio to the current policy (mistake)": log_0
    + (tilt + log_ref - log_1),
    "new rollouts, no ratio": log_1 + tilt,
}
distances = {
    name: abs(kl_divergence(log_target, log_limit.log_softmax(dim=0)))
    for name, log_limit in limits.items()
}
Table(
    [(name, f"{kl:.4f}") for name, kl in distances.items()],
    ("rollouts and their weights", "KL(p*||limit), nats"),
)

# %% [markdown]
# With a fixed reference the weight of a rollout stays valid: $\log p_{\mathrm{old}}$ is that of the policy that *drew* it, at the
# *sampling* temperature (not α) at which it was drawn. So weights are computed once and kept in the buffer, nothing is computed again, and
# the old policy is not needed any more (`dmpo_ref.experience.weigh`, `train.reuse_rounds`). But the noise of the rollouts stays too. With
# the same N rollouts again and again the policy fits these N better and better, and not p\*.
#
# A stored weight is right for the target for which it was computed. If the reference is re-synced, or there is no ratio, the next
# round has another target.
#
# **Check yourself.** A rollout of $p_0$ is used again when the policy has become $p_1$. The reference is fixed. What stands in its weight as
# $p_{\mathrm{old}}$?
#
# <details class="choice"><summary>The new policy, which is the one that is trained.</summary>
#
# **No.** The rollouts are still distributed as $p_0$. Divided by $p_1$, they do not represent p\*.
#
# </details>
#
# <details class="choice"><summary>The policy that drew it.</summary>
#
# **Right.** The weight corrects how often it was drawn, and that has not changed since.
#
# </details>
#
# <details class="choice"><summary>Nothing, since it was drawn long ago.</summary>
#
# **No.** Without the ratio the rollouts would lead to $p_0\,e^{r/\alpha}$, not to p\*.
#
# </details>
#
# ## 8. Where the ratio comes from: path, ELBO, none
#
# On the line $\log p_{\mathrm{ref}}-\log p_{\mathrm{old}}$ was known. A masked diffusion model does not give $\log p(o)$ directly, because
# $p(o)$ is a sum over orders. Three choices:
#
# - `path`: $\log p_{\mathrm{ref}}(o;\sigma)-\log p_{\mathrm{old}}(o;\sigma)$ along the order σ in which the rollout was drawn;
# - `elbo`: the difference of two ELBOs, estimated on R random masks, the same for both;
# - `none`: 0.
#
# `dmpo_ref.experience.estimate_log_ratio` computes all three; `weight.log_ratio` in the config chooses.
#
# We use the tiny Sudoku policy and one puzzle with 5 blanks and two solutions: 1,024 answers, all of which can be enumerated. Everything
# is in float64. The three overrides in the second cell below: the loss uses exact path log-probabilities, is not divided by
# L, and gradients are practically not clipped.

# %% tags=["hide-input"]
import copy

from dmpo_ref import (
    SamplerConfig,
    answer_texts,
    build_task,
    build_vocabulary,
    draw_masks,
    elbo,
    encode,
    load_config,
    load_policy,
    sample,
)
from dmpo_ref.experience import estimate_log_ratio, step_masks, weigh
from dmpo_ref.gradient import gradient_step
from dmpo_ref.models.reference import FrozenReference
from dmpo_ref.objectives import build_objective
from dmpo_ref.tasks.rewards import score_answers

# %%
config = load_config(
    "toy_two_solutions",
    "loss.masks=path",
    "loss.normalise=none",
    "optimizer.max_grad_norm=1000",
)
reference, tokenizer = load_policy(config.model, torch.device("cpu"))
reference.double()
task, alpha = build_task(config.task), config.weight.alpha
puzzle = task.load(config.task.train)[0]
vocabulary = build_vocabulary(
    tokenizer, reference.config.embedding_size, alphabet=task.alphabet
)
prompts = encode(tokenizer, task, [puzzle])
print(task.show(puzzle), f"\nalpha = {alpha}")

# %% [markdown]
# The old policy must differ from the reference. Train it a little: five rounds of 64 rollouts, four gradient steps each, with path
# weights. This is the whole algorithm, made of the functions that `train` calls: `weigh` computes the log-ratio and the weights of the
# rollouts once, and `gradient_step` fits the policy to them. (The objective, WDCE along the path, is explained in the [notebook on the two
# losses](05_two_losses.ipynb).)

# %%
policy, p_ref = copy.deepcopy(reference), FrozenReference(reference)
objective = build_objective(config.loss, config.weight)
optimizer = torch.optim.Adam(policy.parameters(), lr=2e-4)
for t in range(5):
    rollout = sample(
        policy,
        prompts,
        config.sampler,
        vocabulary,
        num_rollouts=64,
        generators=[stream(0, "drift", t)],
    )
    graded, _ = score_answers(task, [puzzle], answer_texts(tokenizer, rollout))
    experience = weigh(
        policy, p_ref, vocabulary, objective, rollout, graded, config, position=[t]
    )
    for k in range(4):
        masks = step_masks(objective, rollout, [t], config.seed, k)
        gradient_step(
            policy, optimizer, vocabulary, objective, experience, masks, config
        )
print(
    "reward in round 5:",
    graded.mean().item(),
    " ESS:",
    f"{effective_sample_size(experience.weight).item():.2f}",
)

# %% [markdown]
# For this objective `weigh` is two functions in a row: `estimate_log_ratio` and the weights of section 2. The policy has changed since,
# but the experience of the last round keeps its weights. The formula of section 2, by hand, gives the same numbers:

# %%
by_hand = weights_by_hand(
    experience.reward, experience.log_ratio, torch.zeros(1, 64), alpha
)
torch.testing.assert_close(by_hand, experience.weight)
print("the weights of the last round agree; their log-ratios go from", end=" ")
print(
    f"{experience.log_ratio.min().item():.2f} to "
    f"{experience.log_ratio.max().item():.2f} nats"
)

# %%
exact_ref, exact_old = (
    exact_distribution(model, tokenizer, task, puzzle, vocabulary)
    for model in (reference, policy)
)
reward = rewards(task, puzzle, exact_ref)
log_target = tilted(exact_ref.log_prob, reward, alpha)
for name, exact in {"ref": exact_ref, "old": exact_old}.items():
    print(f"KL(p*||p_{name}) {kl_divergence(log_target, exact.log_prob):.3f} nats")

# %% [markdown]
# To judge the estimates we need $\log p(o;\sigma)$ of *every* answer along *every* one of the $5!=120$ orders, and the log-probability of
# the hidden tokens under every mask. Both are sums of conditionals $\log\pi(\text{blank }i\text{ takes symbol }a\mid\text{state})$, and
# there are only $5^5$ states: each blank open or one of four digits. `toy.tabular.tabulate` computes them for all states, and the table
# that it returns has the sums: `path_log_probs` along all orders, `mask_log_probs` under all masks.

# %%
tables = {
    name: tabulate(model, prompts, vocabulary)
    for name, model in {"ref": reference, "old": policy}.items()
}
print("conditionals (states, blanks, symbols):", tuple(tables["ref"].log_pi.shape))

# %%
path = {name: table.path_log_probs() for name, table in tables.items()}  # [120, 1024]
for name, exact in {"ref": exact_ref, "old": exact_old}.items():
    torch.testing.assert_close(
        path[name].logsumexp(dim=0) - math.log(120), exact.log_prob, rtol=0, atol=1e-10
    )
    torch.testing.assert_close(path[name].mean(dim=0), exact.elbo, rtol=0, atol=1e-10)
    gap = exact.log_prob.exp() @ (exact.log_prob - exact.elbo)
    print(f"p_{name}: mean gap log p(o) - ELBO(o) under itself {gap:.3f} nats")

# %% [markdown]
# The cell also asserts two identities against the oracle: $p(o)$ is the mean over orders of $p(o;\sigma)$, and the ELBO is the mean of its
# *logarithm*. So the gap of the ELBO comes from exchanging mean and logarithm; it is 0 only when all orders agree.
#
# **Path.** There is one order for each rollout, so the path ratio is noisy. But its mean is right: given the answer, σ is distributed as
# $p_{\mathrm{old}}(o;\sigma)/(120\,p_{\mathrm{old}}(o))$, and
#
# $$\mathbb E_{\sigma\mid o}\left[\frac{p_{\mathrm{ref}}(o;\sigma)}{p_{\mathrm{old}}(o;\sigma)}\right]
#   =\frac{p_{\mathrm{ref}}(o)}{p_{\mathrm{old}}(o)}.$$
#
# **ELBO.** Here the mean over masks is of the *logarithm*. The exponential of a noisy logarithm is too large on average, most of all where
# the noise is largest. An antithetic pair: draw m uniformly from 0…L, hide a random set of m blanks, then its complement; the weights are
# $(L+1)/m$ and $(L+1)/(L-m)$, and an empty side gives 0. `toy.enumeration.pair_estimates` has the estimate from one pair, for every answer
# and each of the 32 sets:

# %%
L = 5
chance = mask_chances(uniform_sizes(L, 0))  # [32], m ~ U{0..5}, then which
weight = (L + 1) / torch.arange(L + 1, dtype=torch.float64)  # of a side, by its size
pair = {
    name: pair_estimates(table.mask_log_probs(), weight)  # [32, 1024]
    for name, table in tables.items()
}
for name, exact in {"ref": exact_ref, "old": exact_old}.items():
    torch.testing.assert_close(chance @ pair[name], exact.elbo, rtol=0, atol=1e-10)
print(
    "the mean over all 32 pairs is the exact ELBO; number of estimates:",
    pair["ref"].numel(),
)

# %% [markdown]
# Now each estimate of the ratio is a finite distribution for every answer, and three questions have exact answers. How far is it from the
# true log-ratio (root mean square, rollouts from $p_{\mathrm{old}}$)? Which distribution do the weights lead to as N → ∞ (below:
# its *limit*), $\;\propto p_{\mathrm{old}}(o)\,e^{r/\alpha}\,\mathbb E[e^{\text{estimate}}\mid o]$? What is the ESS? R = 4 masks are two
# independent pairs, so that $\mathbb E[e^{(X_1+X_2)/2}]=(\mathbb E[e^{X/2}])^2$. `toy.enumeration.judge` answers all three, given the values
# of an estimate and their probabilities.

# %%
truth, log_old = exact_ref.log_prob - exact_old.log_prob, exact_old.log_prob
known = {"truth": truth, "log_old": log_old, "log_tilt": reward / alpha}
given = path["old"].log_softmax(dim=0).exp()  # p_old(σ | o), [120, 1024]
elbo_ratio = pair["ref"] - pair["old"]
cases = {  # values, their probabilities, how many independent copies are averaged
    "the true ratio": (truth[None], torch.ones(1, 1), 1),
    "path": (path["ref"] - path["old"], given, 1),
    "ELBO, all masks": ((exact_ref.elbo - exact_old.elbo)[None], torch.ones(1, 1), 1),
    "ELBO, 4 masks": (elbo_ratio, chance[:, None], 2),
    "ELBO, 16 masks": (elbo_ratio, chance[:, None], 8),
    "none": (0 * truth[None], torch.ones(1, 1), 1),
}

# %%
results = {
    name: judge(values, probability, copies=copies, **known)
    for name, (values, probability, copies) in cases.items()
}
Table(
    [
        (name, f"{error:.2f}", f"{abs(kl):.4f}", f"{ess:.3f}")
        for name, (error, kl, ess) in results.items()
    ],
    ("log-ratio", "error, nats", "KL(p*||limit), N → ∞", "ESS, N → ∞"),
)

# %% [markdown]
# Read the table row by row.
#
# - `path` has an error of half a nat, and its limit is still exactly p\*. Its noise only lowers the ESS.
# - The ELBO with *all* masks has half that error, but its limit is not p\*: the two gaps do not cancel. The difference is small here.
# - With 4 masks there is noise too, and the limit is far from p\*. The ESS of 0 says that very few draws get all the weight: on
#   a few rare answers the estimate is sometimes far too large. That happens when a logarithm with heavy tails is exponentiated.
# - `none` has the largest systematic error, and its limit is $p_{\mathrm{old}}e^{r/\alpha}$. That is near p\* here, because
#   $p_{\mathrm{old}}$ is.
#
# A limit is N → ∞. Section 6 found p\* to be a fixed point at *every* N, because all ℓ are equal there. With path weights they are not.
# Suppose $p_{\mathrm{old}}(o;\sigma)=p^*(o)$ for every order. Then ℓ still varies, by
# $\log\varrho=\log\bigl(p_{\mathrm{ref}}(o;\sigma)/p_{\mathrm{ref}}(o)\bigr)$. So self-normalising moves the expected weight, by
# $p^*(o)\,\bigl(\mathbb E_{p^*}[\varrho^2]-\mathbb E_\sigma[\varrho^2\mid o]\bigr)/N$ to first order, the formula of section 6 with the
# noise of the order in it.

# %%
second = (path["ref"] - exact_ref.log_prob).exp().square().mean(dim=0)  # E_σ[ϱ²|o]
shift = log_target.exp() * (log_target.exp() @ second - second)
print(f"ESS at p*, N -> infinity: {1 / (log_target.exp() @ second):.3f}")
right = reward.nonzero().squeeze(-1)
Table(
    [(N, *(f"{shift[s] / N:.4f}" for s in right)) for N in (4, 64)],
    ("N", "weight on solution 1 moves by", "on solution 2"),
)

# %% [markdown]
# So with path weights p\* is a fixed point up to $O(1/N)$: negligible here, but not zero, and the ESS does not reach 1.
#
# N → ∞ is the worst case for the noisy rows: with 64 rollouts those rare answers are hardly ever drawn. So look at N = 64 as well: 4,000
# groups, from seeded streams, with the weight on each of the two solutions.

# %%
groups, N = 4000, 64
draw = stream(0, "groups")
o = draw_cells(log_old, (groups, N), draw)
sigma = torch.multinomial(given.T[o.flatten()], 1, generator=draw).reshape(groups, N)
masks = draw_cells(chance.log(), (2, groups, N), draw)
estimates = {
    "the true ratio": truth[o],
    "path": (path["ref"] - path["old"])[sigma, o],
    "ELBO, all masks": (exact_ref.elbo - exact_old.elbo)[o],
    "ELBO, 4 masks": (elbo_ratio[masks[0], o] + elbo_ratio[masks[1], o]) / 2,
    "none": torch.zeros(groups, N, dtype=torch.float64),
}
weights_64 = {
    name: target_weights(log_weights(reward[o], ratio, alpha=alpha))
    for name, ratio in estimates.items()
}

# %%
rows = []
for name, weight in weights_64.items():
    share = [(weight * (o == s)).sum(dim=1) for s in right]
    ess = effective_sample_size(weight).mean().item()
    rows.append(
        (name, *(f"{x.mean():.3f} ± {x.std():.3f}" for x in share), f"{ess:.2f}")
    )
rows.append(("p*", *(f"{log_target[s].exp():.3f}" for s in right), ""))
Table(rows, ("log-ratio, N = 64", "weight on solution 1", "on solution 2", "ESS"))

# %% tags=["nbval-ignore-output", "hide-input"] alt="Estimated against true log-ratios in three panels. Along the path the points follow the diagonal, with ELBOs of 4 masks they scatter more, and without an estimate all are 0."
shown = {name: estimates[name][:10] for name in ("path", "ELBO, 4 masks", "none")}
draw_ratios(truth[o[:10]], shown, {name: results[name][0] for name in shown})
plt.show()

# %% [markdown]
# One dot is one rollout of ten groups. Most rollouts are one of the two solutions; these are the two dense columns near −1 (at
# −1.08 and −0.83). The column at −1.9 is a wrong mixture of both, 2431312431424213: row 2 of one solution
# with row 3 of the other. So far training has made it more probable.
#
# At N = 64 the weights do not blow up. But with four masks a tenth of the weight falls on wrong answers (p\*: 1 %), and the weight on each
# solution varies more from group to group. With `none` hardly any weight falls on wrong answers, but the shares of the two solutions are
# those of $p_{\mathrm{old}}$: nothing brings them back to those of p\*.
#
# The ELBO ratio is usable only because both models are scored on the *same* masks. The next cell draws 64 rollouts and calls
# `estimate_log_ratio` for each of the three choices; the last row breaks the rule on purpose.

# %%
rollout = sample(
    policy,
    prompts,
    SamplerConfig(),
    vocabulary,
    num_rollouts=64,
    generators=[stream(0, "fresh")],
)
index = [exact_ref.texts.index(text) for text in answer_texts(tokenizer, rollout)[0]]
ratios = {}
for name in ("path", "elbo", "none"):
    choice = replace(
        config.weight, log_ratio=name, elbo_masks="antithetic", elbo_num_masks=4
    )
    ratios[name] = estimate_log_ratio(
        policy, p_ref, rollout, vocabulary, choice, [stream(0, "masks")]
    )
masks, others = (
    draw_masks("antithetic", rollout.response_mask, 4, [stream(0, name)])
    for name in ("masks", "other masks")
)
log_ref, same, other = (
    elbo(m, rollout, v, vocabulary)
    for m, v in ((reference, masks), (policy, masks), (policy, others))
)
torch.testing.assert_close(ratios["elbo"], log_ref - same)
ratios["elbo, other masks for each model"] = log_ref - other
errors = {
    name: (estimate[0] - truth[index]).square().mean().sqrt()
    for name, estimate in ratios.items()
}
Table(
    [(name, f"{error:.2f}") for name, error in errors.items()],
    ("log-ratio", "error, nats"),
)

# %% [markdown]
# The path ratio of the library is that of the enumeration above, along the order in which each answer was drawn:

# %%
blanks = prompts.response_mask[0].nonzero().squeeze(-1)
orders = {order: i for i, order in enumerate(itertools.permutations(range(L)))}
filled = [
    tuple(step.argsort().tolist()) for step in rollout.step[0][:, blanks]
]  # blanks in the order in which they were filled
enumerated = (path["ref"] - path["old"])[[orders[order] for order in filled], index]
torch.testing.assert_close(ratios["path"][0], enumerated, rtol=0, atol=1e-9)
print(
    "largest difference below 1e-9:",
    (ratios["path"][0] - enumerated).abs().max().item() < 1e-9,
)

# %% [markdown]
# With other masks for each model the noise is more than twice as large, and it goes into an exponential. How much does this change a
# trained policy? The committed results of `python -m toy.studies.acts variants` (2026-11-22): this puzzle, N = 64, 3,200 rollouts, WDCE
# without baseline, 3 seeds.

# %%
ends, variants = [], by_name(read("variants"))
for name in ("wdce, none", "wdce, none, elbo weights"):
    kl = sorted(row["after"]["kl_target_policy"] for row in variants[name])
    ends.append((name, f"{kl[1]:.3f}", f"{kl[2]:.3f}"))
print("exact KL(p*||p_theta) at the end, nats")
Table(ends, ("variant", "median", "largest"))

# %% [markdown]
# The first row has path weights, the second ELBO weights from four masks. With ELBO weights the divergence is eight times as large, but
# the policy still ends within 0.05 nats of p\*. That is one puzzle with five blanks and a policy with 85 thousand weights. What ELBO
# weights cost LLaDA, where sampling by confidence leaves no other choice, cannot be read from it.
#
# Authors of DMPO report nearly the opposite for images ([arXiv:2602.04663](https://arxiv.org/abs/2602.04663)): there, how the likelihood is
# estimated matters more than which loss is used, and the ELBO of the final sample is the best estimate. The settings differ in three ways.
#
# - *Where the ELBO stands.* There it is the likelihood of the policy inside the loss of a policy gradient. Our loss has it too, and loses
#   nothing by it: the first row above was trained on masks. What costs us a factor of eight is the ELBO in the *weights*, where the
#   difference of two of them is exponentiated.
# - *The alternative.* Theirs is the likelihood of a whole denoising trajectory of a continuous model, noisy and expensive. Ours is exact.
# - *The measure.* Theirs is reward for GPU hours; ours is the distance from p\*, which no reward shows.
#
# **Check yourself.** The ELBO ratio with more and more masks, both models on the same ones. Does its limit for N → ∞ become p\*?
#
# <details class="choice"><summary>Yes, because the noise goes to 0.</summary>
#
# **No.** The row with all masks has no noise, and its limit is not p\*.
#
# </details>
#
# <details class="choice"><summary>No, because two gaps are left.</summary>
#
# **Right.** What is left is the ELBO itself. It is below log p by a gap, and the gaps of the two models are not equal.
#
# </details>
#
# <details class="choice"><summary>Yes, because the masks are the same.</summary>
#
# **No.** Equal masks make the noise of the two models alike. They do not make their gaps equal.
#
# </details>
#
# ## To remember
#
# - p\* ∝ p_ref · e^{r/α}. Log-weight: reward over α plus log p_ref − log p_old; weight: softmax over the rollouts of one prompt.
# - ESS says what share of the rollouts counts. At small N it is too high, and a policy that has lost modes has a high one too. The
#   coefficient c raises it by taking smaller steps; the fixed point stays p\*, as long as the ratio is there.
# - Self-normalising over N gives too little weight to what p_old draws too rarely, by O(1/N), and is exact at p\*. The real costs of a
#   small N are noise and answers that are never drawn.
# - A weight belongs to the policy that drew the rollout. Never put the current policy into its denominator.
# - Path ratios are noisy, but their limit is p\*, and at finite N their fixed point is p\* up to O(1/N). ELBO ratios have a gap and noise
#   inside an exponential. `none` has another target, which moves.
#
# ## Exercises
#
# 1. *Warm-up.* Two rollouts with ℓ = (0, d). Write their ESS as a function of d, and find the c that makes it 0.8. Check with
#    `coefficient_for_ess`.
# 2. *Standard.* In section 6, start from a $p_{\mathrm{old}}$ that has *lost* the fourth answer ($10^{-6}$). How many rounds does N = 16
#    need to bring it back, and why does the expectation hide what happens in a real run?
# 3. *Standard.* Put rollouts of $p_0$ and of $p_1$ (section 7) into *one* softmax, each with the ratio to its own policy. Is the limit
#    still p\* as N → ∞? Compare the ESS with weighing both by the mixture $\tfrac12p_0+\tfrac12p_1$. Then say what would change with ELBOs.
# 4. *Research.* The noise of the ELBO ratio is inside an exponential. Design an estimate of $p_{\mathrm{ref}}(o)/p_{\mathrm{old}}(o)$
#    from R forward passes of each model with a smaller error *of the ratio*, and judge it with `toy.enumeration.judge`, as in section 8.
#
# ## Where next
#
# [The weight baseline](04_weight_baseline.ipynb) subtracts something from the weights; [the two losses](05_two_losses.ipynb) turn them into
# gradients. The code: [weights.py](../dmpo_ref/weights.py), [experience.py](../dmpo_ref/experience.py) (`weigh`, `estimate_log_ratio`),
# [likelihood.py](../dmpo_ref/likelihood.py), [the oracle](../toy/oracle.py), [mixtures](../toy/worlds/mixture.py),
# [enumeration](../toy/enumeration.py), [models as tables](../toy/tabular.py).
