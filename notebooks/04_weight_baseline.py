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
# # 04 · The weight baseline
#
# The weights of DMPO are a softmax: all of them are positive, even that of the worst rollout of the group. With few rollouts this is a
# problem, and the paper ([arXiv:2510.08233](https://arxiv.org/abs/2510.08233), Figure 3) solves it by subtracting a baseline,
# $w_{\mathrm{real}} = w - s\,w_{\mathrm{base}}$. This notebook studies the idea on a problem with five answers.
#
# **You will learn**
# - what one gradient step does to good, bad and *unsampled* answers, with and without a baseline;
# - which baselines do not change the expected gradient, by enumeration of all groups of N rollouts;
# - why small groups lose answers even when they start at the target, and how a baseline prevents it;
# - what the baseline `negative` optimises instead of $p^*$: the reward alone;
# - where the baselines do not help, and how much of this is noise of the estimated likelihood.
#
# ![One update of a policy on a line, in three panels. A large group moves probability from the bad mode to the good one. Four rollouts that miss the good mode, all with positive weights: the good mode falls. With a baseline the bad mode falls, and the good one stays](../book/figures/paper_3.png)
#
# *One update, as in the paper's Figure 3. Arrows are rollouts, as long as their weight. In the middle, no rollout has hit the good mode. Why
# does it fall? And why does it stay where it was on the right? Sections 1 and 2 answer this; in
# [Play with the method](../book/play.md) N is on a slider.*
#
# **You need** the weights of [03 · From rewards to weights](03_weights.ipynb). **It takes** 45 minutes to read and half a minute to run.

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
import statistics

import matplotlib.pyplot as plt
import torch
from ipywidgets import FloatSlider, SelectionSlider, interact

from dmpo_ref import (
    baseline_weights,
    log_weights,
    model_baseline,
    stream,
    target_weights,
    wdce,
)
from toy.drift import (
    descend,
    divergence,
    expected_path,
    expected_step,
    lost,
    noisy_fit,
    simulate,
)
from toy.enumeration import all_groups
from toy.figures.mixture import plot_baselines
from toy.figures.weights import HUES, draw_descent, draw_drift, draw_first_step
from toy.oracle import kl_divergence, tilted
from toy.studies import orders
from toy.studies.acts import by_name, read
from toy.studies.baselines import baseline_study, table
from toy.worlds.mixture import (
    BASELINES,
    TabularPolicy,
    fit_forward,
    world_1d,
)

# %% [markdown]
# ## 1. Five answers, four rollouts
#
# One prompt has five possible answers, A to E. E has the highest reward and is rare under the reference. The policy has one logit $z_x$
# per answer, so it can be any distribution, and $\alpha=1$.
#
# Four baselines are compared. For rollout n of a group, $w_{\mathrm{base}}$ is
#
# - `none`: 0;
# - `uniform`: $1/N$;
# - `model`: $\mathrm{softmax}_n(\log p_\theta-\log p_{\mathrm{old}})$, computed again before each gradient step;
# - `negative`: $\mathrm{softmax}_n(-r/\alpha+\log p_{\mathrm{ref}}-\log p_{\mathrm{old}})$.
#
# Unless said otherwise, the strength is $s=1$.

# %%
p_ref = torch.tensor([0.40, 0.25, 0.15, 0.12, 0.08], dtype=torch.float64)
reward = torch.tensor([0.0, 0.25, 1.0, 0.5, 2.0], dtype=torch.float64)
log_ref = p_ref.log()
log_target = tilted(log_ref, reward, 1.0)
named = {"reward": reward, "p_ref": p_ref, "p*": log_target.exp()}
Table(
    [(name, *(f"{x:.3f}" for x in values)) for name, values in named.items()],
    ("", *"ABCDE"),
)

# %% [markdown]
# WDCE is $-\sum_n w_{\mathrm{real},n}\log p_\theta(x_n)$. In the logits, minus its gradient is
#
# $$\Delta z_x \;=\; \sum_{n:\,x_n=x} w_{\mathrm{real},n} \;-\; \Big(\sum_n w_{\mathrm{real},n}\Big)\,p_\theta(x).$$
#
# The first term affects only answers that were drawn. The second lowers the logits of *all* answers, in proportion to their probability,
# unless the weights sum to zero. Most effects of the baseline come from this sum. We compute both terms for many groups at a time, and
# compare them with autograd on the actual loss.


# %%
def real_weight(baseline, groups, log_theta, log_old, strength=1.0):
    """w − strength · w_base for groups of answers [G, N]; policies are [G, C]."""
    log_ratio = log_ref[groups] - log_old.gather(1, groups)
    weight = target_weights(log_weights(reward[groups], log_ratio, alpha=1.0))
    if baseline == "model":
        return weight - strength * model_baseline(
            log_theta.gather(1, groups), log_old.gather(1, groups)
        )
    return weight - strength * baseline_weights(
        baseline, reward[groups], log_ratio, alpha=1.0
    )


def direction(weight, groups, log_theta):
    """Minus the gradient of WDCE in the logits, for each group on its own: [G, C]."""
    return (
        torch.zeros_like(log_theta).scatter_add(1, groups, weight)
        - weight.sum(1, keepdim=True) * log_theta.exp()
    )


# %% tags=["slide"]
group, log_old = torch.tensor([[0, 0, 1, 2]]), log_ref[None]  # rollouts A, A, B, C
rows = []
for baseline in BASELINES:
    weight = real_weight(baseline, group, log_old, log_old)
    logits = log_old.clone().requires_grad_()
    wdce(logits.log_softmax(1).gather(1, group), weight).backward()
    assert torch.allclose(
        direction(weight, group, log_old), -logits.grad, rtol=0, atol=1e-14
    )
    total = abs(weight.sum().item())
    rows.append((baseline, *(f"{x:.3f}" for x in weight[0]), f"{total:.3f}"))
Table(rows, ("w_real of", *"AABC", "sum"))

# %% [markdown]
# The rollouts are A, A, B, C. Without a baseline all four weights are positive. With each of the three baselines the weights of the group
# sum to zero: A and B, which have low rewards, get negative weights, and C gets a positive one. `model` equals `uniform` here, because
# $p_\theta=p_{\mathrm{old}}$ in the first step.
#
# Without a baseline A and B have positive weights too. Whether their logits rise depends on the second term: here $p_{\mathrm{old}}(A)=0.4$
# is more than the total weight of A, 0.333, so the logit of A falls. For a language model the probability of a single response is tiny, so
# every response that was drawn is reinforced, even a bad one.
#
# **Check yourself.** The reward of every answer is increased by 2. Which real weights of the group A, A, B, C change?
#
# <details class="choice"><summary>Those of `negative`.</summary>
#
# **No.** Its weights are a softmax of −r/α, and a softmax does not change if all its inputs move by the same amount.
#
# </details>
#
# <details class="choice"><summary>None of them.</summary>
#
# **Right.** Each part is 1/N or a softmax over the group, and a softmax only sees differences.
#
# </details>
#
# <details class="choice"><summary>All of them.</summary>
#
# **No.** A constant in the reward cancels within the group, as it does in p\*.
#
# </details>
#
# ## 2. Several steps on one group
#
# DMPO takes several gradient steps on the same rollouts. What happens to the answers D and E, which were not drawn, after *many* steps?
# Note that E is the best answer. Guess for `none`, `uniform` and `model`.
#
# `toy.drift` has what follows from one step: several steps on one group (`descend`), the mean over all groups, many runs. It takes the step
# as a function of groups and policies, so we write ours as one:


# %%
def step_of(baseline, strength=1.0):
    """The step in the logits with a baseline, as a function: groups [G, N] and the
    policies [G, C] of each → [G, C]."""

    def step(groups, log_theta, log_old):
        weight = real_weight(baseline, groups, log_theta, log_old, strength)
        return direction(weight, groups, log_theta)

    return step


# %%
ends, rows = {}, []
for baseline, steps in itertools.product(("none", "uniform", "model"), (4, 40, 400)):
    p = descend(step_of(baseline), group, log_old, steps=steps, rate=0.5)[0].exp()
    ends[baseline, steps] = p
    rows.append((baseline, steps, *(f"{x:.3f}" for x in [*p, p[4] / p[3]])))
Table(rows, ("baseline", "steps", *"ABCDE", "E/D"))

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Bars of five answers before, after 4 and after 400 steps, for three baselines. With none, D and E, which were not drawn, go to 0; with uniform all probability ends on C; with model D and E keep theirs."
draw_descent(p_ref, ends, (4, 400), reward, log_target.exp())
plt.show()

# %% [markdown]
# - `none` fits the weighted group: drawn answers with low rewards keep much of their probability, and D and E, which were not drawn, go to
#   0, although E is the best answer.
# - `uniform` does not touch the logits of D and E (their ratio stays that of $p_{\mathrm{old}}$). In the first steps they gain a little,
#   because A and B are pushed down. But its loss is linear, with weights of both signs, and has no minimum: after 400 steps all probability
#   is on C.
# - `model` does not touch the logits of D and E either, and it converges: its weights vanish when $p_\theta/p_{\mathrm{old}}\propto w$ on
#   the drawn answers. This is all that the group says about the target.
#
# A check of the last point: after many steps, the ratios $p_\theta/p_{\mathrm{old}}$ of the drawn answers are proportional to the weights.

# %%
weight = real_weight("none", group, log_old, log_old)[0, 1:]  # of A, B and C
end = descend(step_of("model"), group, log_old, steps=4000, rate=0.5)[0]
ratio = (end - log_ref).exp()[:3]
named = {"p_theta/p_old": ratio, "w": weight}
Table(
    [(name, *(f"{x:.4f}" for x in v / v.sum())) for name, v in named.items()],
    ("over its sum", *"ABC"),
)

# %% [markdown]
# **Check yourself.** No baseline, one group, many gradient steps. The best answer was not drawn. Its probability …
#
# <details class="choice"><summary>stays, because its logit gets no gradient.</summary>
#
# **No.** It does get one: the softmax takes from every answer what it gives to those that were drawn.
#
# </details>
#
# <details class="choice"><summary>rises, because bad answers are pushed down.</summary>
#
# **No.** Without a baseline nothing is pushed down for its reward.
#
# </details>
#
# <details class="choice"><summary>goes to 0.</summary>
#
# **Right.** All weights are positive and go to answers that were drawn; what was not drawn pays for it.
#
# </details>
#
# ## 3. In expectation, exactly
#
# A baseline that changes the *expected* gradient changes the target. With five answers we can enumerate all groups: there are $5^N$ ordered
# groups, but only $\binom{N+4}{4}$ without regard to order (4,845 at $N=16$), each with its multinomial probability. They are listed in
# `toy.enumeration`; `toy.drift.expected_step` takes the step in all of them, and returns its mean and the variance of each component.
#
# First we check the enumeration against the slow method: all $5^3$ ordered groups, each with the product of its probabilities. Then we
# compute the expected first step at $p_\theta=p_{\mathrm{old}}=p_{\mathrm{ref}}$.

# %% tags=["slide"]
slow = 0
for ordered in itertools.product(range(5), repeat=3):
    one = torch.tensor([ordered])
    step = step_of("none")(one, log_old, log_old)[0]
    slow = slow + p_ref[one].prod() * step
fast, _ = expected_step(step_of("none"), 3, log_ref, log_ref)
assert torch.allclose(slow, fast, rtol=0, atol=1e-14)
means = {b: expected_step(step_of(b), 4, log_ref, log_ref)[0] for b in BASELINES}
Table(
    [(baseline, *(f"{x:.4f}" for x in mean)) for baseline, mean in means.items()],
    ("expected first step, N = 4", *"ABCDE"),
)

# %%
rows = []
for place, log_p in (("p_ref", log_ref), ("p*", log_target)):
    none, negative = (
        expected_step(step_of(baseline), 4, log_p, log_p)[0]
        for baseline in ("none", "negative")
    )
    rows.append((place, f"{none.norm():.3f}", f"{negative.norm():.3f}"))
    if place == "p_ref":
        print(
            f"at p_ref: ratio {negative.norm() / none.norm():.2f}, cosine "
            f"{torch.cosine_similarity(none, negative, dim=0):.3f}"
        )
Table(rows, ("length of the expected step at", "none", "negative"))

# %% [markdown]
# `none`, `uniform` and `model` agree in all digits. At $p_\theta=p_{\mathrm{old}}$ the expected gradient of a weight $1/N$ on every rollout
# is $\mathbb E_{p_{\mathrm{old}}}[\nabla\log p_{\mathrm{old}}]=0$, so `uniform` does not change the mean; `model` equals `uniform` here.
# `negative` points in almost the same direction here but is 1.8 times as long. Near $p^*$ it differs: there the expected steps of the
# others vanish, and that of `negative` does not. Section 5 continues from here.
#
# What about the later steps of a round, when $p_\theta$ has left $p_{\mathrm{old}}$? Take a policy half-way from $p_{\mathrm{ref}}$ to
# $p^*$ (in logits) and ask how much each baseline adds to the expected step of `none`.

# %%
halfway = ((log_ref + log_target) / 2).log_softmax(0)
rows = []
for baseline in ("uniform", "model", "negative"):
    added = []
    for N in (2, 4, 8, 16):
        with_it, without = (
            expected_step(step_of(b), N, halfway, log_ref)[0]
            for b in (baseline, "none")
        )
        added.append((with_it - without).norm())
    rows.append((baseline, *(f"{x:.4f}" for x in added)))
print(f"length of p_theta − p_old: {(halfway.exp() - p_ref).norm():.4f}")
print("length of what the baseline adds to the expected step")
SIZES = ("N = 2", "N = 4", "N = 8", "N = 16")
Table(rows, ("baseline", *SIZES))

# %% [markdown]
# For `uniform` the answer is, up to the sign, $\mathbb E_{p_{\mathrm{old}}}[\nabla\log p_\theta]=p_{\mathrm{old}}-p_\theta$ for every $N$.
# With `none` the expected step is $\mathbb E[w]-p_\theta$, where $\mathbb E[w]$ is the expected weight on each answer, and the policy stops
# at $p_\theta=\mathbb E[w]$. With `uniform` it is $\mathbb E[w]-p_{\mathrm{old}}$. That does not contain $p_\theta$, so it is the same in
# every step of a round: it does not stop by itself. What `model` adds shrinks with $N$: it is halved from each column to the next,
# $O(1/N)$, as the docstring of `dmpo_ref.weights.model_baseline` says. With exact likelihoods `model` is the safer choice; with few small
# steps in a round the two hardly differ.
#
# **Check yourself.** In the course of a round $p_\theta$ leaves $p_{\mathrm{old}}$. What happens to the expected step of `uniform`?
#
# <details class="choice"><summary>It stays the same.</summary>
#
# **Right.** It is $\mathbb E[w]-p_{\mathrm{old}}$, and both were fixed when the rollouts were drawn.
#
# </details>
#
# <details class="choice"><summary>It shrinks to 0 when the policy reaches the mean weights.</summary>
#
# **No.** That is `none`, whose expected step is $\mathbb E[w]-p_\theta$.
#
# </details>
#
# <details class="choice"><summary>It changes its sign beyond p\*.</summary>
#
# **No.** The expected step does not contain $p_\theta$, so it does not notice where the policy is. Only the next round does.
#
# </details>
#
# ## 4. The noise, and why small groups forget
#
# The means are equal, but the noise differs. The cell shows the standard deviation of the first step (the square root of the summed
# variances), at the reference and at the target.

# %%
rows = []
for (place, log_p), baseline in itertools.product(
    (("p_ref", log_ref), ("p*", log_target)), BASELINES
):
    spread = [
        expected_step(step_of(baseline), N, log_p, log_p)[1].sum().sqrt()
        for N in (2, 4, 8, 16)
    ]
    rows.append((place, baseline, *(f"{x:.4f}" for x in spread)))
print("standard deviation of the step")
Table(rows, ("at", "baseline", *SIZES))

# %% [markdown]
# At $p^*$ all log-weights of a group are equal, so $w=1/N$ exactly for every group. With `uniform` and `model` no group then changes the
# policy. (This needs exact $\log p(o)$, as here. With path log-ratios the noise of the order is left.) With `none` the mean is 0 as well,
# but each group pulls the policy towards the answers that it contains: a random walk. An answer whose probability reaches 0 is never drawn
# again and cannot return. In population genetics this is called genetic drift: each generation is copied from N parents drawn at random,
# and in the end one variant is left. There is a pull back to $p^*$, but it acts on an answer only when the answer is drawn.
#
# We start 400 independent policies *at the target* and run DMPO as usual: 100 rounds, one group of N a round, 4 plain gradient steps with
# rate 1 (`toy.drift.simulate`). An answer counts as lost when it has less than a tenth of its share of $p^*$.

# %%
rows = []
for baseline, N in itertools.product(("none", "uniform", "model"), (4, 8, 16)):
    last = simulate(step_of(baseline), N, log_target)[-1]
    median = divergence(log_target, last).median()
    rows.append((baseline, N, f"{median:.2f}", f"{lost(log_target, last):.0%}"))
print("started at p*, after 100 rounds")
Table(
    rows, ("baseline", "N", "median KL(p*||p_theta), nats", "runs that lost an answer")
)

# %% [markdown]
# Without a baseline nearly every policy has lost an answer after 100 rounds of 4 rollouts, although it started at the target; larger groups
# slow the drift down. With `uniform` and `model` nothing changes. (A learning rate of 1 is large. Smaller rates slow the drift down as
# well: see exercise 2.)
#
# Starting *at* the target is the best case for a baseline. From $p_{\mathrm{ref}}$ there is something to learn, and `uniform` and `model`
# are noisy too. All four, 400 runs each, with learning rates 1 and 2:

# %%
curves = {
    (rate, N, b): simulate(step_of(b), N, log_ref, rate=rate)
    for rate in (1.0, 2.0)
    for N in (4, 8, 16)
    for b in BASELINES
}
print(
    f"from p_ref, {divergence(log_target, log_ref):.2f} nats: median KL after 100 "
    "rounds, and runs that lost an answer"
)
rows = []
for rate, N in itertools.product((1.0, 2.0), (4, 8, 16)):
    ends = [curves[rate, N, b][-1] for b in BASELINES]
    row = [(divergence(log_target, p).median(), lost(log_target, p)) for p in ends]
    rows.append((f"{rate:g}", N, *(f"{kl:.2f}, {share:.0%}" for kl, share in row)))
Table(rows, ("rate", "N", *BASELINES))

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="KL(p*||p_theta) over 100 rounds, median and range, in three panels. From p_ref at rate 1, the medians of uniform and model fall below 0.0001 within 20 rounds; none stays high with N = 4, and at 0.05 with N = 16; negative is high everywhere; at rate 2 only model falls."
draw_drift(
    {
        (rate, N): {b: divergence(log_target, curves[rate, N, b]) for b in BASELINES}
        for rate, N in ((1.0, 4), (1.0, 16), (2.0, 4))
    }
)
plt.show()

# %% [markdown]
# There are three results. `none` stays at a distance from $p^*$ that is set by its noise, or drifts to one answer. The noise of `uniform`
# and `model` vanishes as they approach the target, so they converge to it. But at rate 2 the missing stop of `uniform` does harm: four
# large steps on four rollouts remove answers that `model`, whose steps become smaller, keeps.
#
# **Check yourself.** The policy *is* p\*. With which of these three baselines can one group still move it?
#
# <details class="choice"><summary>`model`</summary>
#
# **No.** In the first step it is 1/N too, so its real weights are 0.
#
# </details>
#
# <details class="choice"><summary>`uniform`</summary>
#
# **No.** The weights at p\* are all 1/N, and 1/N − 1/N = 0.
#
# </details>
#
# <details class="choice"><summary>`none`</summary>
#
# **Right.** At p\* every weight is 1/N: each group pulls towards the answers in it. On average that is 0, but the steps are a random
# walk, and small groups lose answers.
#
# </details>
#
# ## 5. What `negative` optimises
#
# `negative` subtracts the weights of the reward-inverted target, $w^-=\mathrm{softmax}(-r/\alpha+\text{log-ratio})$. It is the default of
# the published code. Its curve above rises. With $\rho_n=e^{\text{log-ratio}_n}$,
#
# $$\frac{w_n}{w^-_n} \;=\; e^{2r_n/\alpha}\;\frac{\sum_k \rho_k e^{-r_k/\alpha}}{\sum_k \rho_k e^{r_k/\alpha}}.$$
#
# The second factor is the same for the whole group. So $w_n-w^-_n$ is positive for the highest reward of the group, negative for the
# lowest, and 0 for all only if all rewards are equal. The weights sum to 0, so there is no second term in the gradient: *in every group
# with two different rewards, the logit of the best answer rises and that of the worst falls, for all $p_{\mathrm{ref}}$, $p_{\mathrm{old}}$
# and α.* So a policy is a fixed point exactly if all answers that it gives have the same reward, be it the best or the worst one. Those of
# a lower reward are unstable: once a better answer is drawn, it rises. The reference only affects the speed.
#
# The first cell checks the sign in all groups, for random policies, and that the others do not move the policy. The second one follows the
# exact expected step, with $p_{\mathrm{old}}\leftarrow p_\theta$ after each step (`toy.drift.expected_path`).

# %%
groups = all_groups(4, 5)
mixed = reward[groups].amax(1) > reward[groups].amin(1)
rows = []
for seed in range(3):
    log_p = (
        torch.randn(5, dtype=torch.float64, generator=stream(seed, "policy"))
        .log_softmax(0)
        .expand(len(groups), -1)
    )
    weight = real_weight("negative", groups, log_p, log_p)
    best, worst = (
        weight.gather(1, pick(reward[groups], 1, keepdim=True))
        for pick in (torch.argmax, torch.argmin)
    )
    rises, falls = (best[mixed] > 0).sum(), (worst[mixed] < 0).sum()
    rows.append((seed, *(x.item() for x in (mixed.sum(), rises, falls))))
print(
    f"all weights are 0 in the {(~mixed).sum()} groups with one reward: "
    f"{(weight[~mixed].abs() < 1e-15).all()}"
)
columns = ("groups with different rewards", "the best answer rises in")
Table(rows, ("policy", *columns, "the worst falls in"))


# %% tags=["slide"]
policies = {}
for steps in (0, 10, 24, 30, 100, 300, 2000):
    policies[steps] = expected_path(step_of("negative"), 4, log_ref, steps=steps)
rows = []
for name, log_p in (policies | {"p*": log_target}).items():
    p, kl = log_p.exp(), abs(divergence(log_target, log_p))
    rows.append((name, *(f"{x:.3f}" for x in [*p, p @ reward, kl])))
print("negative, N = 4, exact expected steps")
Table(rows, ("steps", *"ABCDE", "E[r]", "KL(p*||p), nats"))

# %% [markdown]
# It ends at the answer with the highest reward, like reward maximisation without a KL term. On the way its reward becomes higher than that
# of $p^*$: in a table of rewards it looks like the best baseline. It passes near $p^*$ (after 24 steps the distance is smallest, 0.027
# nats) and does not stop there, so the result depends on when training is stopped.
#
# A smaller strength $s<1$ gives it a fixed point. For $N\to\infty$ the expected direction is $p^*-s\,p^--(1-s)\,p_\theta$, with $p^-\propto
# p_{\mathrm{ref}}\,e^{-r/\alpha}$, so its fixed point is
#
# $$p_s \;=\; \frac{p^*-s\,p^-}{1-s}\qquad\text{as long as } s\le \min_x p^*(x)/p^-(x).$$
#
# This is another target, sharper than $p^*$. With `uniform` instead of `negative` the same computation gives $p^*$ for every $s$.

# %%
inverted = tilted(log_ref, -reward, 1.0).exp()
print(f"largest strength with full support: {(log_target.exp() / inverted).min():.3f}")
rows = []
for strength in (0.0, 0.1, 0.3):
    limit = (log_target.exp() - strength * inverted) / (1 - strength)
    end = expected_path(step_of("negative", strength), 8, log_ref, steps=400).exp()
    for name, p in (("formula, N → ∞", limit), ("exact steps, N=8", end)):
        kl = divergence(log_target, p.log())
        rows.append((strength, name, *(f"{x:.3f}" for x in [*p, kl])))
Table(rows, ("s", "fixed point", *"ABCDE", "KL(p*||p), nats"))

# %% [markdown]
# $s=0$ is DMPO without a baseline, and both of its rows are $p^*$: the self-normalised weights are biased for small $N$, but $p^*$
# stays their fixed point.
#
# **Check yourself.** `negative` at strength s < 1, and α becomes very large. Where does its fixed point $p_s$ go?
#
# <details class="choice"><summary>To the best answer.</summary>
#
# **No.** At large α rewards hardly count, so no answer is preferred.
#
# </details>
#
# <details class="choice"><summary>To the uniform distribution.</summary>
#
# **No.** The weights become equal, but it is $p_{\mathrm{ref}}$ that they tilt.
#
# </details>
#
# <details class="choice"><summary>To the reference.</summary>
#
# **Right.** Both p\* and $p^-$ become $p_{\mathrm{ref}}$, and $(p_{\mathrm{ref}}-s\,p_{\mathrm{ref}})/(1-s)=p_{\mathrm{ref}}$.
#
# </details>
#
# ## 6. The small-batch experiment
#
# Now a larger problem: a line of 64 cells, $p^*$ with four modes, a policy with one logit per cell, one group of $N$ rollouts a round, 60
# rounds of 4 Adam steps (`toy.studies.baselines.baseline_study`, the figure of [the results](../book/results.md), and of the same kind as
# the paper's Figure 5). Six seeds; mean ± standard deviation.

# %%
line = world_1d()
rows = baseline_study(line)
print(
    f"start {kl_divergence(line.log_target, line.log_ref):.3f} nats, E[r] under p* "
    f"{(line.log_target.exp() @ line.reward).item():.3f}"
)
table(rows)

# %% tags=["nbval-ignore-output", "slide"] alt="KL after the last round for N = 4, 8 and 16, mean and range of six seeds. none falls from above the start to 0.2, uniform and model from 0.15 to 0.03, negative stays at 0.4."
figure, ax = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
plot_baselines(ax, rows, kl_divergence(line.log_target, line.log_ref), list(HUES))
plt.show()

# %% [markdown]
# Runs with the same seed have the same rollouts in the first round, so they can be compared in pairs. For how many of the six seeds is a
# baseline better than `none`?

# %%
kl = {(row["baseline"], row["N"], row["seed"]): row["kl"] for row in rows}
better = {
    b: [sum(kl[b, N, s] < kl["none", N, s] for s in range(6)) for N in (4, 8, 16)]
    for b in ("uniform", "model", "negative")
}
Table(
    [(baseline, *counts) for baseline, counts in better.items()],
    ("better than none, of 6", *SIZES[1:]),
)

# %% [markdown]
# The results are like those for five answers: at $N=4$ `none` ends farther from $p^*$ than it started, `uniform` and `model` come nearer.
# `negative` is better than `none` at $N=4$, where `none` drifts, and worse for all seeds at $N=16$: more rollouts do not bring it nearer to
# $p^*$, because it moves past $p^*$. Its reward at $N=16$ is above that of $p^*$ itself. In a table of rewards alone it would be the best
# at $N=8$ and 16; at $N=4$ `none` has more. At $N=16$ the advantage of `uniform` and `model` over `none` is smaller in nats, though still a
# factor of five, as at $N=4$ and 8.
#
# One result in the table is surprising: `uniform` and `model` are nearer to $p^*$ than `none` at every $N$, but their reward is lower.
# Where is their probability?

# %%
poor, rich = line.log_target.exp() < 0.1 / 64, line.log_target.exp() > 0.01
held = [log_p.exp()[poor].sum() for log_p in (line.log_target, line.log_ref)]
print(
    "p* avoids {} of 64 cells: it gives them {:.3f}, p_ref {:.2f};".format(
        poor.sum(), *held
    ),
    end=" ",
)
print(f"lowest reward there {line.reward[poor].min():.1f}")
found = []
for baseline in ("none", "uniform", "model"):
    policies = [TabularPolicy(line) for _ in range(6)]
    for seed, policy in enumerate(policies):
        fit_forward(line, policy, num_rollouts=4, baseline=baseline, seed=seed)
    log_p = torch.stack([policy.log_prob().detach() for policy in policies])
    worst = (line.log_target - log_p)[:, rich].amax(1).mean()
    given = log_p.exp()[:, poor].sum(1).mean()
    found.append((baseline, f"{given:.2f}", f"{worst:.2f}"))
columns = ("given to these cells", "largest log p*/p_theta where p* > 0.01")
Table(found, ("N = 4, mean of 6 seeds", *columns))

# %% [markdown]
# `uniform` and `model` have not converged: a tenth of the policy's probability is still in cells where $p_{\mathrm{ref}}$ is not small and
# $p^*$ is almost 0. This costs much reward and little KL. `none` has nearly left those cells, but it has also left cells where $p^*$ is
# large. With four times as many rounds:

# %%
table(baseline_study(line, num_rollouts=(4,), rounds=240))

# %% [markdown]
# The divergence of `uniform` and `model` becomes eight to nine times smaller, and their reward is as high as that of `none`, which
# continues to drift away from $p^*$.
#
# Figure 5 of the paper is about rewards: curves during training with and without negative weights, for several $N$, as an argument for the
# baseline. By that measure our first table speaks *against* it: after 60 rounds `uniform` has less reward than `none` at $N=4$, 8 and 16.
# What `uniform` has gained is nearness to $p^*$, which nobody can measure at 8B. So the two experiments do not confirm each other: ours has
# a tabular policy, exact likelihoods and the ends of runs, theirs a language model and mask estimates; and which curve is above depends on
# when one looks.
#
# **Check yourself.** In a table, `negative` has the highest reward. Does that make it the best baseline for matching p\*?
#
# <details class="choice"><summary>Yes: the reward is what we optimise.</summary>
#
# **No.** DMPO aims at a distribution. More reward than p\* has means that p\* has been passed.
#
# </details>
#
# <details class="choice"><summary>Only with small N.</summary>
#
# **No.** With larger N it passes p\* all the same.
#
# </details>
#
# <details class="choice"><summary>No: only policies whose answers all have one reward stand still under it.</summary>
#
# **Right.** It goes on to the best answer, past p\*, like reward maximisation without a KL term.
#
# </details>
#
# ## 7. Where it does not show
#
# The same baselines on a masked diffusion model: one Sudoku puzzle with two solutions, $N=64$, exact $\mathrm{KL}(p^*\|p_\theta)$ by
# enumeration. These runs take about 20 seconds each, so they are loaded from `toy/results/variants.jsonl` (command `python -m
# toy.studies.acts variants`, 2026-11-22, start 1.01 nats).

# %% tags=["slide"]
variants, table_rows = by_name(read("variants")), []
for name, rows in variants.items():
    if name.startswith("wdce") and "elbo" not in name:
        ends = [row["after"]["kl_target_policy"] for row in rows]
        loss = (
            "2 steps"
            if "steps" in name
            else "path"
            if "path" in name or "model" in name
            else "2 masks"
        )
        baseline = name.split(", ")[1]
        both = (statistics.median(ends), max(ends))
        table_rows.append((baseline, loss, *(f"{kl:.3f}" for kl in both), len(ends)))
print("KL(p*||p_theta), nats")
Table(table_rows, ("baseline", "loss on", "median", "largest", "seeds"))

# %% [markdown]
# "Path": the loss uses $\log p(o;\sigma)$, one forward pass for each of the five blanks. "2 steps" (`loss.masks: path_steps`): two random
# terms of that sum, scaled up.
#
# With the loss on two random masks, as in DMPO on large models, `uniform` is ten times *worse* than `none`: 0.070 and 0.006. That is not
# the fault of the baseline alone. On the path, `none`, `uniform` and `model` are equal within their noise. Two steps cost as much as two
# masks, and `uniform` then ends at 0.012. So the baseline wants log-probabilities along the path. The same on three puzzles with five seeds
# each:

# %%
rows = []
for name, study in (("none, 2 masks", "act_b"), ("uniform, 2 steps", "path_steps")):
    ends = [row["after"]["kl_target_policy"] for row in read(study)]
    both = (statistics.median(ends), max(ends))
    rows.append((name, *(f"{kl:.3f}" for kl in both), len(ends)))
print("KL(p*||p_theta), nats")
Table(rows, ("baseline, loss on", "median", "largest", "runs"))

# %% [markdown]
# A factor of two. But this changes baseline and estimator together. On the first puzzle, with two steps for both, `none` ends at 0.004 and
# `uniform` at 0.012: about a factor of three, with three seeds.
#
# In the other Sudoku experiment, with many puzzles, no baseline was better than `none` either (`LOG.md`). So these experiments do not
# confirm the paper's claim, nor do they show that the baseline as such does harm; and with 64 rollouts in a step there is little drift that
# a baseline could remove.
#
# **Why is it worse on masks?** Is it their noise? Then more masks must help. The stored runs of `python -m toy.studies.orders` have 2 and 32
# independent masks for each rollout, on the first puzzle. The *gap* is the mean of $\log p_\theta(o)$ less the ELBO over the policy's own
# answers; it is 0 only if all orders give an answer the same probability ([01](01_masked_diffusion.ipynb), section 6):

# %%
print("medians of 3 seeds, nats")
Table(
    [(name, *(f"{x:.3f}" for x in orders.medians(name))) for name in orders.RUNS],
    ("baseline, loss on", "KL(p*||p_theta)", "gap"),
)

# %% [markdown]
# Sixteen times as many masks do not help. But with `uniform` the gap is large: the orders of the policy contradict each other. In
# expectation the step is
#
# $$\sum_{o,\sigma}\bigl(p^*(o,\sigma)-p_\theta(o,\sigma)\bigr)\,\nabla S(o,\sigma),$$
#
# where $S$ is what the loss scores. Along the path $S=\log p_\theta(o;\sigma)$, and $\sum p_\theta\nabla\log p_\theta=0$: the baseline changes
# nothing but the noise. On masks $S$ is the ELBO, $\log p_\theta(o)-\mathrm{gap}(o)$, and the part of the baseline is
# $+\sum_o p_\theta(o)\nabla\mathrm{gap}(o)$. It *raises* the gap on the policy's own answers. So every policy with
# $p_\theta(o)=p^*(o)$ is stationary, however much its orders disagree. Two tokens are enough to see it without any noise: exact steps from a
# policy whose orders disagree, to a $p^*$ of which both orders have one half:

# %%
theta = torch.tensor([[0.3, -0.8, 0.6], [-0.2, 1.0, 0.4]], dtype=torch.float64)
log_p_star = torch.tensor([0.45, 0.05, 0.05, 0.45], dtype=torch.float64).log()
rows = []
for baseline, score in itertools.product(("none", "uniform"), ("masks", "path")):
    end = orders.ends(theta, log_p_star, baseline, score)
    found = (end.answers, end.paths, end.gap)
    rows.append((f"{baseline}, {score}", *(f"{abs(x):.3f}" for x in found)))
print("after 3,000 exact steps, nats")
Table(rows, ("baseline, loss on", "KL of answers", "KL with orders", "gap"))

# %% [markdown]
# With `uniform` on masks the answers are right and the orders stay wrong. With rollouts this hurts: answers that are equal get unequal
# weights, because their orders have unequal probabilities, and the steps that they cause do not cancel. At strength ½ half of the step of
# `none` is left, which brings the orders together: the fourth row of the first table.
#
# **Does noise play no part?** In the simplest model, a mask estimate is the log-likelihood times a noise factor. The variance it adds to the
# gradient is proportional to $\sum_n w_{\mathrm{real},n}^2$, and that is *smaller* with `uniform`: $\sum_n(w_n-\frac1N)^2=\sum_n
# w_n^2-\frac1N$. But Adam divides by the size of the gradient. Near the target, weights that sum to zero give a small signal and a small
# noise, and Adam scales both up to full steps. We can test this on the line: multiply each log-likelihood by $1+\nu\xi$, $\xi\sim\mathcal
# N(0,1)$, drawn anew in every step, with Adam and with plain gradient descent (`toy.drift.noisy_fit`; the weights stay exact).

# %%
rows = []
for name, how in {
    "Adam": {"optimizer": torch.optim.Adam, "rate": 0.03, "rounds": 60},
    "plain descent": {"optimizer": torch.optim.SGD, "rate": 1.0, "rounds": 120},
}.items():
    for baseline in ("none", "uniform"):
        means = [
            statistics.mean(
                noisy_fit(line, baseline, noise=nu, seed=seed, **how)
                for seed in range(4)
            )
            for nu in (0.0, 1.0, 3.0)
        ]
        rows.append((name, baseline, *(f"{x:.3f}" for x in means)))
print("N = 64, KL(p*||p_theta), nats, mean of 4 seeds")
Table(rows, ("optimizer", "baseline", "ν = 0", "ν = 1", "ν = 3"))

# %% [markdown]
# With Adam the order is reversed when the noise is large; with plain gradient descent `uniform` stays better. So noise can do it too, on the
# line. On the puzzle it does not decide, since 32 masks have little of it.
#
# **Check yourself.** The loss is on masks. Which change of `uniform` makes the exact steps on two tokens end with the right orders?
#
# <details class="choice"><summary>Ten times as many masks.</summary>
#
# **No.** The table has exact ELBOs already, that is all masks, and the orders stay wrong.
#
# </details>
#
# <details class="choice"><summary>A smaller learning rate.</summary>
#
# **No.** The steps end where the expected step is 0. A smaller rate takes longer to the same place.
#
# </details>
#
# <details class="choice"><summary>A strength of ½.</summary>
#
# **Right.** The step is then half that of `none` and half that of `uniform`. Where the answers are right the second half is 0, and the
# first one brings the orders together. The gap ends at 0.
#
# </details>
#
# ## 8. Try it
#
# Mean and standard deviation of the first step for each answer and baseline, exactly. Move $N$ and the strength $s$. At $p_{\mathrm{ref}}$,
# which baselines keep their means when you change $s$? At $p^*$, for which $s$ does the noise of `uniform` vanish?


# %%
def first_step(N, strength, place):
    """Mean and variance of the first step at a policy, by baseline."""
    log_p = {"p_ref": log_ref, "p*": log_target}[place]
    return {b: expected_step(step_of(b, strength), N, log_p, log_p) for b in BASELINES}


rows = []
for strength in (0.5, 0.9, 1.0):
    found = first_step(4, strength, "p*").values()
    rows.append((strength, *(f"{v.sum().sqrt():.3f}" for _, v in found)))
print("noise at p*, N = 4")
Table(rows, ("s", *BASELINES))


# %% tags=["nbval-ignore-output"] alt="Bars with error bars: the mean change of five logits in the first step at N = 4 for each baseline. The means of none, uniform and model agree; negative differs."
def show(N=4, strength=1.0, place="p_ref"):
    at = place.replace("_ref", "$_{ref}$")
    title = f"First step at {at}, N={N}, s={strength:g}: mean ± sd"
    draw_first_step(first_step(N, strength, place), reward, title)
    plt.show()


show()

# %% tags=["nbval-ignore-output"]
_ = interact(
    show,
    N=SelectionSlider(options=(2, 4, 8, 16), value=4),
    strength=FloatSlider(
        value=1.0, min=0.0, max=1.0, step=0.1, continuous_update=False
    ),
    place=["p_ref", "p*"],
)

# %% [markdown]
# **Check yourself.** At p\*, what is the noise of `uniform` at strength ½, compared with that of `none`?
#
# <details class="choice"><summary>Half of it.</summary>
#
# **Right.** At p\* all weights are 1/N. At strength s what is left of each is (1 − s)/N, so the whole step is (1 − s) times that of
# `none`.
#
# </details>
#
# <details class="choice"><summary>The same.</summary>
#
# **No.** That is its *mean*, which is 0 for both at p\*.
#
# </details>
#
# <details class="choice"><summary>None at all.</summary>
#
# **No.** That is so at strength 1 only, where all real weights are 0.
#
# </details>
#
# ## To remember
#
# - Softmax weights are positive, so answers that were not drawn lose probability to drawn ones, good or bad. Weights that sum to zero do
#   not change the logits of answers that were not drawn.
# - `uniform` and `model` do not change the expected first step, and their noise vanishes at $p^*$. Without a baseline it does not vanish,
#   and small groups drift until answers are lost.
# - `model` also converges within a round; `uniform` needs small or few steps.
# - `negative` at full strength stops only where all answers of the policy have the same reward, and of these policies only those of the
#   highest reward are stable. At strength $s$ its fixed point is $(p^*-s\,p^-)/(1-s)$.
# - With many rollouts in a step `none` was as good or better in our Sudoku runs. What hurt `uniform` there was for the most part the noise
#   of two masks: on the whole path it is as good, on two steps of it two to three times as far from $p^*$.
#
# ## Exercises
#
# 1. *Warm-up.* Two answers, $N=2$. Write down the three possible groups and show by hand that the expected step of `uniform` is 0 at $p^*$,
#    and at no other policy that gives both answers a positive probability.
# 2. *Standard.* How does the number of rounds until half of the runs have lost an answer grow with $N$ and with the rate (`simulate`,
#    baseline `none`, from $p^*$)? Compare with the rule for genetic drift.
# 3. *Standard.* Give `simulate` the baseline `negative` with strength 0.3 and find from the runs, not from the formula, at which
#    distribution they end for $N=4$ and $N=16$.
# 4. *Research.* `uniform` needs a score $S$ with $\sum p_\theta\nabla S=0$. The path has it, at L passes for each rollout or with noise.
#    Find one for R masks. (To score all hidden tokens at two steps of the path is not the solution: `path sets` in
#    [toy/studies/schemes.py](../toy/studies/schemes.py) has an eighth of the noise of masks, and with it `uniform` still ends at 0.09.)
#
# ## Where next
#
# - [05 · Two losses](05_two_losses.ipynb): how these weights become gradients.
# - [02 · Mode seeking and mass covering](02_mode_seeking_and_mass_covering.ipynb): the objective whose noise this notebook is about.
# - The code: [dmpo_ref/weights.py](../dmpo_ref/weights.py) (`baseline_weights`, `model_baseline`),
#   [dmpo_ref/objectives/base.py](../dmpo_ref/objectives/base.py), [toy/worlds/mixture.py](../toy/worlds/mixture.py),
#   [toy/enumeration.py](../toy/enumeration.py), [toy/drift.py](../toy/drift.py),
#   [toy/studies/baselines.py](../toy/studies/baselines.py), [tests/test_mixture.py](../tests/test_mixture.py), the experiments in
#   [LOG.md](../LOG.md).
