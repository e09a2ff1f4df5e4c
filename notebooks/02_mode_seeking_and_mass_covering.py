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
# # 02 · Mode seeking and mass covering
#
# A policy that is too small for its target cannot match it. It can cover all modes of the target badly, or some of them well. Which of the
# two it does depends on the direction of the KL divergence. Figure 2 of the paper ([arXiv:2510.08233](https://arxiv.org/abs/2510.08233))
# shows this on mixtures of Gaussians; this notebook measures it.
#
# **You will learn**
# - why maximising reward with a KL term is a *reverse* KL, and why DMPO is a *forward* one;
# - how much each of them penalises a dropped mode, in nats;
# - what one Gaussian becomes in each direction, by a formula and by a search of all of them;
# - how often reverse KL drops modes, over several seeds and sizes of the policy;
# - when it does not: overlapping modes, a policy that can represent the target; and whether a broad start helps;
# - where DMPO does no better than reverse KL: at modes that the policy no longer samples.
#
# **You need** KL divergence and gradient descent. No diffusion model appears in this notebook. **It takes** 40 minutes to read and about
# half a minute to run.

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
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from IPython.display import Image
from ipywidgets import FloatSlider, interact

from dmpo_ref import stream
from toy.enumeration import moments
from toy.figures.mixture import film_planes
from toy.figures.modes import draw_dropped, draw_far_mode, draw_fits
from toy.oracle import kl_divergence
from toy.worlds.mixture import (
    GaussianMixturePolicy,
    TabularPolicy,
    fit,
    fit_forward,
    fit_reverse,
    forward_objective,
    one_gaussian,
    reverse_objective,
    two_modes,
    world_2d,
)

# %% [markdown]
# ## 1. A target with five modes
#
# The space is a square of 24 × 24 cells. The reference $p_{\mathrm{ref}}$ is broad, the reward has five bumps, and the target is that of
# the README's equation table:
#
# $$p^*(x) = \frac1Z\, p_{\mathrm{ref}}(x)\, e^{r(x)/\alpha}.$$
#
# There are 576 cells, so every probability, divergence and gradient below is a finite sum in float64. The *share* of a mode is the
# probability of the cells that are nearer to it than to the other modes. The modes are numbered: 1 lower left, 2 upper left, 3 centre,
# 4 upper right, 5 lower right.

# %%
world = world_2d(24)
target_share = world.mode_mass(world.log_target)
print(f"KL(p*||p_ref) = {kl_divergence(world.log_target, world.log_ref):.3f} nats")
MODES = [f"mode {mode}" for mode in range(1, 6)]
Table(
    [
        (name, *(f"{share:.3f}" for share in world.mode_mass(log_prob)))
        for name, log_prob in (("p_ref", world.log_ref), ("p*", world.log_target))
    ],
    ["share under", *MODES],
)

# %% [markdown]
# **Check yourself.** Mode 3 has 0.319 under $p_{\mathrm{ref}}$ and 0.201 under $p^*$. What does this say about the reward there?
#
# <details class="choice"><summary>It is negative.</summary>
#
# **No.** A constant that is added to all rewards does not change p\*. So p\* cannot show the sign of a reward.
#
# </details>
#
# <details class="choice"><summary>Its mean is 0.63 of the mean reward.</summary>
#
# **No.** The ratio is one of exponentials. It stays 0.63 when a constant is added to all rewards; a ratio of rewards would not.
#
# </details>
#
# <details class="choice"><summary>On average, exp(r/α) there is 0.63 of Z.</summary>
#
# **Right.** $p^*$ is $p_{\mathrm{ref}}$ times $e^{r/\alpha}/Z$, so the mean of this factor in mode 3, under $p_{\mathrm{ref}}$, is
# $0.201/0.319=0.63$.
#
# </details>
#
# ## 2. Two directions
#
# $$\underbrace{\mathrm{KL}(p^*\|p_\theta)=\sum_x p^*(x)\log\frac{p^*(x)}{p_\theta(x)}}_{\text{forward}}
# \qquad\qquad
# \underbrace{\mathrm{KL}(p_\theta\|p^*)=\sum_x p_\theta(x)\log\frac{p_\theta(x)}{p^*(x)}}_{\text{reverse}}$$
#
# The forward KL is an average under the *target*. Where $p^*>0$ and $p_\theta\to 0$, its term grows without bound: no mode may be missed.
# The reverse KL is an average under the *policy*. Where $p_\theta=0$, its term is zero, whatever the target is: modes may be missed, but
# probability outside the target is penalised strongly.
#
# Let the target have two modes of 1/2 each and give the policy $1-\varepsilon$ on the first and $\varepsilon$ on the second. What are both
# divergences as $\varepsilon\to0$? Guess before you run the cell.

# %% tags=["slide"]
half = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
print(f"log 2 = {math.log(2):.3f}")
rows = []
for epsilon in (0.5, 1e-1, 1e-3, 1e-6, 1e-12):
    policy = torch.tensor([1 - epsilon, epsilon], dtype=torch.float64).log()
    both = (kl_divergence(half, policy), kl_divergence(policy, half))
    rows.append((f"{epsilon:.0e}", *(f"{kl:.3f}" for kl in both)))
Table(rows, ("ε", "forward KL, nats", "reverse KL, nats"))

# %% [markdown]
# Reverse KL is never more than $\log 2$. In general, if a policy is proportional to $p^*$ on modes of total share $\kappa$ and zero elsewhere,
# its reverse KL is exactly $-\log\kappa$: dropping four of five equal modes costs $\log 5 = 1.6$ nats. If covering all modes costs more,
# because of the probability between the modes, then dropping has the lower reverse KL.
#
# **Check yourself.** A policy is proportional to p\* on modes that hold 80 % of p\*, and 0 on the others. Which divergence is
# finite?
#
# <details class="choice"><summary>Forward KL(p\*‖p_θ).</summary>
#
# **No.** Where p_θ is 0 and p\* is not, its term is infinite.
#
# </details>
#
# <details class="choice"><summary>Reverse KL(p_θ‖p\*); it is −log 0.8.</summary>
#
# **Right.** The policy is p\* divided by 0.8 where it is not 0, so the log of the ratio is −log 0.8 everywhere: 0.22 nats.
#
# </details>
#
# <details class="choice"><summary>Neither.</summary>
#
# **No.** Where p_θ is 0, the reverse KL has no term at all.
#
# </details>
#
# ## 3. Which of the two is reinforcement learning?
#
# The usual objective, reward with a KL term towards the reference, is a reverse KL up to a constant. Insert $r/\alpha = \log p^* - \log
# p_{\mathrm{ref}} + \log Z$:
#
# $$\frac1\alpha\,\mathbb E_{p_\theta}[r] - \mathrm{KL}(p_\theta\|p_{\mathrm{ref}}) \;=\; \log Z - \mathrm{KL}(p_\theta\|p^*).$$
#
# Maximising the left side is minimising the reverse KL. This is known ([arXiv:2206.00761](https://arxiv.org/abs/2206.00761) discusses it
# for language models). The cell checks it for a random distribution, with $Z$ computed separately.

# %%
log_prob = torch.randn(
    len(world.points), dtype=torch.float64, generator=stream(0, "distribution")
).log_softmax(0)
log_z = (world.log_ref.exp() * (world.reward / world.alpha).exp()).sum().log()
left = log_prob.exp() @ world.reward / world.alpha - kl_divergence(
    log_prob, world.log_ref
)
right = log_z - kl_divergence(log_prob, world.log_target)
print(f"left {left:.6f}   right {right:.6f}")

# %% [markdown]
# DMPO uses the other direction. In $\mathrm{KL}(p^*\|p_\theta)$ the parameters appear only in $-\mathbb E_{p^*}[\log p_\theta]$, a
# cross-entropy, and the expectation under $p^*$ is estimated with weighted samples of $p_{\mathrm{old}}$. Without sampling, each objective
# is one line. The cell has both of them, and one loop: nothing else differs between the two.

# %%
losses = {
    "forward": lambda log_p: -(world.log_target.exp() @ log_p),  # E_{p*}[-log p_theta]
    "reverse": lambda log_p: (
        log_p.exp() @ (log_p - world.log_ref - world.reward / world.alpha)
    ),
}
ends = {}
for name, loss in losses.items():
    policy = GaussianMixturePolicy(world, num_components=3)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss(policy.log_prob()).backward()
        optimizer.step()
    ends[name] = policy.log_prob().detach()

# %% [markdown]
# The forward one is $\mathrm{KL}(p^*\|p_\theta)$ up to the entropy of p\*, the reverse one $\mathrm{KL}(p_\theta\|p^*)$ up to $\log Z$. From
# here on we take both from `toy.worlds.mixture` (`forward_objective` and `reverse_objective`), and the loop too (`fit`). They must end at the
# same distributions, and so must `fit_reverse`, which draws the figure of [the results](../book/results.md).

# %%
objectives = {"forward": forward_objective, "reverse": reverse_objective}
for name, objective in objectives.items():
    film = fit(world, GaussianMixturePolicy(world, num_components=3), objective)
    assert torch.allclose(film[-1], ends[name], rtol=0, atol=1e-9)
again = GaussianMixturePolicy(world, num_components=3)
fit_reverse(world, again, rounds=50, steps_per_round=4, learning_rate=0.1)
assert torch.allclose(ends["reverse"], again.log_prob(), rtol=0, atol=1e-9)
print("the loop above and toy.worlds.mixture.fit_reverse agree")

# %% [markdown]
# **Check yourself.** Any distribution is allowed. Which one makes $\mathbb E[r]/\alpha-\mathrm{KL}(p\|p_{\mathrm{ref}})$ largest?
#
# <details class="choice"><summary>All probability on the cell of the highest reward.</summary>
#
# **No.** Its first term is the largest possible, but its divergence from $p_{\mathrm{ref}}$ costs more than it gains.
#
# </details>
#
# <details class="choice"><summary>p\*, which is also best in forward KL.</summary>
#
# **Right.** The value is $\log Z-\mathrm{KL}(p\|p^*)$, largest where the divergence is 0. The directions differ only if p\* is out of
# reach.
#
# </details>
#
# <details class="choice"><summary>A distribution that leaves out some modes.</summary>
#
# **No.** It can be the best one only if the policy is too small for p\*. Here it would lose $-\log\kappa$.
#
# </details>
#
# ## 4. One Gaussian, then three; five modes
#
# Figure 2 of the paper has one Gaussian, so we begin with one. In forward KL its best fit is known: $\log p_\theta$ is linear in $x$ and
# $x^2$, so the gradient of $\mathbb E_{p^*}[\log p_\theta]$ is zero exactly where $p_\theta$ has the mean and the standard deviations of
# $p^*$.

# %%
policy = GaussianMixturePolicy(world, 1, seed=3)
one = fit(world, policy, forward_objective, steps=1000, learning_rate=0.03)[-1]
rows = []
for name, log_p in {"p*": world.log_target, "one Gaussian": one}.items():
    mean, variance = moments(world.points, log_p.exp())
    both = (
        kl_divergence(world.log_target, log_p),
        kl_divergence(log_p, world.log_target),
    )
    numbers = [f"{x:.3f}" for x in [*mean.tolist(), *variance.sqrt().tolist()]]
    rows.append((name, *numbers, *(f"{kl:.2f}" for kl in both)))
columns = ("mean x", "mean y", "sd x", "sd y", "forward KL, nats", "reverse KL, nats")
Table(rows, ("", *columns))

# %% [markdown]
# One broad hill over all five modes, from any start. In reverse KL there is no formula. We try every Gaussian whose mean is a cell, with 27
# widths, the same on both axes, and look for the best one near each mode.

# %%
widths = torch.linspace(0.4, 3.0, 27, dtype=torch.float64)
squared = torch.cdist(world.points, world.points).square()
gaussians = torch.stack([(-squared / (2 * s**2)).log_softmax(dim=-1) for s in widths])
# [widths, means]
reverse_kl = (gaussians.exp() * (gaussians - world.log_target)).sum(dim=-1)
rows = []
for mode, share in enumerate(target_share):
    value, place = reverse_kl[:, world.nearest == mode].min(dim=1)[0].min(dim=0)
    row = (f"{value:.2f}", f"{widths[place]:.1f}", f"{-share.log():.2f}")
    rows.append((mode + 1, *row))
Table(rows, ("mode", "best reverse KL near it", "its width", "−log(share of the mode)"))

# %% [markdown]
# The best Gaussian sits on mode 1, which has the largest share of $p^*$, and pays about $-\log$ of that share. The one of forward KL,
# above, pays 2.17 nats in this direction. A Gaussian on any other mode pays about $-\log$ of its share too: gradient descent from a start
# near one of them has no reason to leave it.
#
# With more Gaussians than one there is a choice, *which* modes to drop. A mixture of three, with the same start for all three fits, is
# fitted
# - by forward KL with exact gradients,
# - by reverse KL with exact gradients (the best case of reward maximisation, because there is no sampling noise),
# - by DMPO itself, which sees only samples: `fit_forward`, 32 groups of $N=16$ rollouts a round, with weights
#   ([03](03_weights.ipynb)), the baseline `uniform` ([04](04_weight_baseline.ipynb)) and loss ([05](05_two_losses.ipynb)) of `dmpo_ref`.

# %%
forward, reverse = (
    fit(world, GaussianMixturePolicy(world, 3, seed=3), f, every=10)
    for f in objectives.values()
)
dmpo = GaussianMixturePolicy(world, 3, seed=3)
fit_forward(
    world,
    dmpo,
    num_rollouts=16,
    groups=32,
    baseline="uniform",
    rounds=50,
    learning_rate=0.05,
)
print("share of each mode / its share under p*, and both divergences, in nats")
rows = []
for name, log_p in {
    "start": forward[0],
    "forward": forward[-1],
    "reverse": reverse[-1],
    "DMPO": dmpo.log_prob().detach(),
}.items():
    ratio = [f"{x:.1f}" for x in world.mode_ratios(log_p)]
    forward_kl = f"{kl_divergence(world.log_target, log_p):.1f}"
    rows.append(
        (name, *ratio, forward_kl, f"{kl_divergence(log_p, world.log_target):.2f}")
    )
Table(rows, ("fit", *MODES, "forward KL", "reverse KL"))

# %% tags=["nbval-ignore-output"] alt="Animation in two panels: three Gaussians move over five modes. With forward KL they spread over all modes, with reverse KL some modes stay empty."
places = "modes: 1 lower left, 2 upper left, 3 centre, 4 upper right, 5 lower right"
captions = [f"step {10 * frame}   ({places})" for frame in range(len(forward))]
films = {"forward KL(p*‖p$_θ$)": forward, "reverse KL(p$_θ$‖p*)": reverse}
Image(data=film_planes(world, films, captions), format="gif")

# %% [markdown]
# The orange lines show the target, blue the policy (shaded by the square root of its probability). Forward KL widens its Gaussians until
# all modes are covered; as a result, some probability lies between the modes. In a language model, these are answers with little reward.
# Reverse KL puts one Gaussian on each of three modes, fits these three well, and drops two. Its value is the one derived above: the three
# modes have 0.616 of $p^*$, the policy gives each of them $1/0.616=1.62$ times its target share, and $-\log 0.616 = 0.48$ nats. DMPO, from
# samples, does the same as forward KL. Each fit is best in its own divergence: compare the last two columns.
#
# **Check yourself.** One Gaussian is fitted by forward KL to five modes. What does the fit have in common with p\*?
#
# <details class="choice"><summary>The highest mode.</summary>
#
# **No.** That is what reverse KL often finds.
#
# </details>
#
# <details class="choice"><summary>Nothing: it depends on the start.</summary>
#
# **No.** In forward KL one Gaussian has a single best fit, and every start leads there.
#
# </details>
#
# <details class="choice"><summary>The mean and the standard deviations.</summary>
#
# **Right.** The gradient of $E_{p^*}[\log p_\theta]$ is 0 exactly where these moments agree.
#
# </details>
#
# ## 5. How often?
#
# One start is not enough evidence. We call a mode dropped when it has less than a tenth of its share under $p^*$, and repeat the experiment
# with six starts (the means are drawn from $p_{\mathrm{ref}}$) and with fewer and more Gaussians. `world.mode_ratios` gives the share of each
# mode over its share under $p^*$.

# %%
sizes, seeds = (1, 3, 5, 8), range(6)
found = {}
for name, f in objectives.items():
    for K in sizes:
        starts = [GaussianMixturePolicy(world, K, seed=seed) for seed in seeds]
        found[name, K] = torch.stack(
            [world.mode_ratios(fit(world, policy, f)[-1]) for policy in starts]
        )
print("modes dropped, of 5, by each of six starts")
STARTS = [f"start {seed}" for seed in seeds]
Table(
    [(*fitted, *(r < 0.1).sum(dim=1).tolist()) for fitted, r in found.items()],
    ("direction", "K", *STARTS),
)

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Left and centre: share of each mode over its share under p*, for six starts; forward KL about 1 everywhere, reverse KL with empty modes. Right: modes dropped against the number of Gaussians; forward 0 at every size, reverse 2 with one or three, almost 0 with eight."
draw_dropped(found, shown=3, threshold=0.1)
plt.show()

# %% [markdown]
# Forward KL drops no mode, from any start, at any size. Reverse KL usually keeps about as many modes as it has Gaussians. Sometimes it
# keeps fewer, because two Gaussians end on the same mode; sometimes one Gaussian stays wide and covers the other modes (start 2). Two
# details are important. With *one* Gaussian it drops either four modes or none: from a start in the middle it becomes one broad hill. And
# with eight Gaussians for five modes one start still drops one after these 200 steps; with 2,000 it drops none. So mode collapse is not a
# property of reverse KL alone. It also depends on the start, and on how long one fits.
#
# **Check yourself.** With eight Gaussians reverse KL drops a mode from start 1. Why?
#
# <details class="choice"><summary>Eight Gaussians are too few for five modes.</summary>
#
# **No.** Forward KL covers all five from this start, with the same eight Gaussians and even with one.
#
# </details>
#
# <details class="choice"><summary>Reverse KL is lower without this mode.</summary>
#
# **No.** To leave out one of the modes costs at least $-\log(1-0.136)=0.15$ nats. The fits from starts 2 to 5 keep all
# five, and are below 0.01.
#
# </details>
#
# <details class="choice"><summary>From this start 200 steps do not reach a better fit.</summary>
#
# **Right.** From the other starts no mode is dropped, so the policy can cover all five. With 2,000 steps it does so from start 1 too.
#
# </details>
#
# ## 6. When reverse KL does not collapse
#
# **A broad start, sometimes.** The Gaussians above started with a third of the spread of $p_{\mathrm{ref}}$. Now they start three times as
# wide, so that each one covers every mode.

# %%
rows = []
for K in (3, 5):
    starts = [GaussianMixturePolicy(world, K, seed=seed) for seed in seeds]
    for policy in starts:
        policy.log_scales.data += math.log(3)
    wide = torch.stack(
        [world.mode_ratios(fit(world, p, reverse_objective)[-1]) for p in starts]
    )
    for name, ratio in {"narrow": found["reverse", K], "wide": wide}.items():
        rows.append((name, K, *(ratio < 0.1).sum(dim=1).tolist()))
print("modes dropped, of 5")
Table(rows, ("Gaussians at the start", "K", *STARTS))

# %% [markdown]
# With three Gaussians the six runs drop 8 modes instead of 12; with five they drop 3 instead of 2. So a broad start is no remedy, and six
# starts do not show more than that.
#
# **A policy that can represent the target.** $\mathrm{KL}(p\|p^*)$ is convex in $p$, so a policy with one logit for each cell has a single
# minimum, $p^*$ itself, and no other local minimum. That does not say how soon it is reached: section 7 has starts from which it is not.
# Here the start is $p_{\mathrm{ref}}$, which gives every mode a good share.

# %%
reached = {
    name: fit(world, TabularPolicy(world), f)[-1] for name, f in objectives.items()
}
rows = []
for name, log_p in reached.items():
    kl, least = kl_divergence(world.log_target, log_p), world.mode_ratios(log_p).min()
    rows.append((name, f"{kl:.4f}", f"{least:.2f}"))
Table(rows, ("direction", "KL(p*||p), nats", "smallest share / share under p*"))

# %% [markdown]
# **Modes that overlap.** Take one Gaussian and two equal modes at $\pm d$ on a line, each of width 0.6 before it is multiplied by a broad
# reference. When the modes are close, they form one hill, and there is nothing to drop. Reverse KL is fitted from two starts: on the right
# mode, and broad, in the middle. Forward KL starts on the right mode.

# %%
distances = (0.4, 0.8, 1.2, 1.4, 1.6, 2.0, 2.5)
lines = [two_modes(d) for d in distances]
starts = {  # objective, mean and standard deviation of the Gaussian
    "forward, from a mode": (forward_objective, lambda d: (d, 0.5)),
    "reverse, from a mode": (reverse_objective, lambda d: (d, 0.5)),
    "reverse, from a broad start": (reverse_objective, lambda d: (0.2, 3.0)),
}
share = {name: [] for name in starts}
cost = {name: [] for name in starts if "reverse" in name}
for name, (objective, place) in starts.items():
    for d, line in zip(distances, lines, strict=True):
        p = fit(line, one_gaussian(line, *place(d)), objective)[-1]
        share[name].append(line.mode_mass(p)[0].item())
        if name in cost:
            cost[name].append(kl_divergence(p, line.log_target))

# %%
Table(
    [
        (f"{title}: {name}", *(f"{value:.2f}" for value in values))
        for title, curves in (("left mode's share", share), ("reverse KL, nats", cost))
        for name, values in curves.items()
    ],
    ("", *(f"d = {d}" for d in distances)),
)

# %% tags=["nbval-ignore-output", "hide-input"] alt="Left: the share of the far mode stays 1/2 for forward KL and falls to 0 for reverse KL once the modes are farther than 1.5 from 0. Right: reverse KL from a mode levels off at log 2, from a broad start it goes on rising."
draw_far_mode(distances, share, cost)
plt.show()

# %% [markdown]
# Up to $d\approx1.4$ all three agree: both directions cover both modes. Around 1.6 reverse KL has *two* local minima, and the start decides
# which one is reached. Dropping a mode is not even the better one there: covering costs 0.55 nats, dropping 0.68. At 2.0 dropping is better
# (0.69 against 1.07), but the fit from the broad start stays in the middle.
#
# **Check yourself.** At d = 1.6 the fit from a mode drops the other mode, at a cost of 0.68 nats. What does the fit from the broad start
# show?
#
# <details class="choice"><summary>Descent has stopped in the worse of two minima.</summary>
#
# **Right.** Covering both modes costs 0.55, less than 0.68. Each of the two fits is a local minimum, and descent cannot leave it.
#
# </details>
#
# <details class="choice"><summary>One Gaussian cannot cover both modes.</summary>
#
# **No.** It can: the fit from the broad start has a share of 0.50 in each.
#
# </details>
#
# <details class="choice"><summary>Reverse KL prefers one mode to two.</summary>
#
# **No.** Here it is lower for two, 0.55 against 0.68. At d = 2.0 it is the other way round.
#
# </details>
#
# ## 7. Can a lost mode be recovered?
#
# So far every start gave some probability to every mode. In fine-tuning, a mode may be almost gone after some rounds. Which objective
# recovers it? For a policy with one logit $z_x$ per cell the exact gradients are
#
# $$\frac{\partial}{\partial z_x}\mathrm{KL}(p^*\|p_\theta) = p_\theta(x)-p^*(x),
# \qquad
# \frac{\partial}{\partial z_x}\mathrm{KL}(p_\theta\|p^*) = p_\theta(x)\Big[\log\frac{p_\theta(x)}{p^*(x)} -
# \mathrm{KL}(p_\theta\|p^*)\Big].$$
#
# The second one has the factor $p_\theta(x)$. We give the first mode a fraction $\varepsilon$ of its target share, scale the other modes up
# in proportion, and sum minus the gradient (the "pull") over the cells of that mode, by autograd.

# %%
first = world.nearest == 0
rows = []
for epsilon in (1e-1, 1e-2, 1e-4, 1e-8):
    faded = (world.log_target + math.log(epsilon) * first).log_softmax(0)
    logits = faded.clone().requires_grad_()
    pulls = [
        -torch.autograd.grad(f(world, logits.log_softmax(0)), logits)[0][first].sum()
        for f in objectives.values()
    ]
    hit = 1 - (1 - faded.exp()[first].sum()) ** 16
    pulled = (f"{pulls[0]:.4f}", f"{pulls[1]:.2e}")
    rows.append((f"{epsilon:.0e}", *pulled, f"{hit:.2e}"))
Table(
    rows, ("ε", "forward pull", "reverse pull", "chance that 16 rollouts hit the mode")
)

# %% [markdown]
# The forward pull stays near the mode's full target share, however little probability is left. The reverse pull vanishes with the mode: in
# terms of gradients, this is mode seeking. But look at the last column. DMPO does not have the exact forward gradient. It has rollouts of
# $p_{\mathrm{old}}$, and an answer that is not sampled gets no weight. With exact importance weights the expected pull would be large: rare
# samples with very large ratios $p^*/p_{\mathrm{old}}$. But within a group of $N$ the softmax limits each weight to 1, so even the expected
# pull is at most about $N$ times the mode's current probability.
#
# So the forward direction alone is not enough: the samples must contain the mode. We start from this distribution, with one logit per cell,
# and follow both exact gradients, by plain gradient descent (`SGD`) and by Adam. DMPO, with Adam, gets 50 rounds of 32 groups of 16
# rollouts.

# %%
plain = {"method": torch.optim.SGD, "learning_rate": 30.0}
ways = (
    (forward_objective, plain),
    (reverse_objective, plain),
    (reverse_objective, {}),
)
print("share of the faded mode / its share under p*, at the end")
rows = []
for epsilon in (1e-1, 1e-3, 1e-6):
    faded = world.log_target + math.log(epsilon) * first
    ends = [fit(world, TabularPolicy(world, faded), f, **how)[-1] for f, how in ways]
    fit_forward(
        world,
        dmpo := TabularPolicy(world, faded),
        num_rollouts=16,
        groups=32,
        baseline="uniform",
        rounds=50,
        learning_rate=0.1,
    )
    exact = [f"{world.mode_ratios(p)[0]:.2f}" for p in ends]
    sampled = f"{world.mode_ratios(dmpo.log_prob())[0]:.1f}"
    rows.append((f"{epsilon:.0e}", *exact, sampled))
Table(rows, ("ε", "forward, plain", "reverse, plain", "reverse, Adam", "DMPO"))

# %% [markdown]
# Plain gradient descent behaves as the formula says: in 200 steps forward KL recovers the mode for every ε, reverse KL only at $10^{-1}$;
# at $10^{-3}$ it has a quarter of its share, at $10^{-6}$ nothing. This is no local minimum, but nearly as bad. With Adam reverse KL
# recovers it here, because Adam divides the gradient of each logit by its own size, so that a tiny gradient becomes a normal step. This
# works with one logit per answer and exact gradients. A real policy has neither. DMPO with samples recovers the mode as long as it is
# sometimes sampled; at $10^{-6}$ it never samples the mode, and no optimiser can help, because the gradient contains nothing about this
# mode.
#
# For fine-tuning this means: DMPO can keep the modes that the policy still samples, but cannot recover the others.
#
# **Check yourself.** A mode has probability $10^{-6}$ under the policy. DMPO draws groups of 16. What brings the mode back?
#
# <details class="choice"><summary>A smaller α.</summary>
#
# **No.** It enlarges the weight of the mode's rollouts, of which there are none.
#
# </details>
#
# <details class="choice"><summary>Rollouts from somewhere else, for example from p<sub>ref</sub>.</summary>
#
# **Right.** The samples must contain the mode; the policy's own would have to be millions. `train.reference_share` draws a part of each
# group from $p_{\text{ref}}$.
#
# </details>
#
# <details class="choice"><summary>The forward direction: its gradient there is large.</summary>
#
# **No.** The *exact* gradient is. DMPO has samples, and an answer that is not drawn has no weight.
#
# </details>
#
# ## 8. The target itself can be narrow
#
# No choice of divergence can change the target: p\* itself may be narrow. Three of the five bumps have the same height, 2, the others 1.5
# and 0.6. Which modes are left under p\* as $\alpha\to0$, the limit of reward maximisation without a KL term?

# %%
print("shares under p*, and its distance from p_ref")
rows = []
for alpha in (0.05, 0.2, 0.5, 1.0, 2.0):
    tilted = replace(world, alpha=alpha)
    shares = [f"{x:.3f}" for x in tilted.mode_mass(tilted.log_target)]
    kl = kl_divergence(tilted.log_target, world.log_ref)
    rows.append((f"{alpha:.2f}", *shares, f"{kl:.2f}"))
Table(rows, ("α", *MODES, "KL(p*||p_ref), nats"))

# %% [markdown]
# Only the three best modes are left, 1, 4 and 5, in shares that are set by $p_{\mathrm{ref}}$. They are not set by its shares of whole
# modes: those of the first table, 0.205 : 0.147 : 0.166, would give 0.396, 0.284 and 0.320. As $\alpha\to0$ only the highest cell of each
# mode is left, and the ratio of $p_{\mathrm{ref}}$ *at these three cells* is 0.426 : 0.242 : 0.332. So α and $p_{\mathrm{ref}}$ decide how
# diverse the target is; the divergence, the policy and the samples decide whether the policy becomes as diverse.
#
# **Check yourself.** Let the bump of mode 4 have the height 2.1, that of modes 1 and 5 still 2. Which modes are left as $\alpha\to0$?
#
# <details class="choice"><summary>Modes 1, 4 and 5, in the shares of the table.</summary>
#
# **No.** $p_{\mathrm{ref}}$ sets the shares only among modes of *equal* reward.
#
# </details>
#
# <details class="choice"><summary>Mode 4 alone.</summary>
#
# **Right.** However small the advantage in reward is, divided by $\alpha\to0$ it grows without bound.
#
# </details>
#
# <details class="choice"><summary>Modes 1, 4 and 5, with a little more for mode 4.</summary>
#
# **No.** That is so for large α. The advantage stands in an exponent, over α.
#
# </details>
#
# ## 9. Try it
#
# One Gaussian, two modes, the right one twice as high. Move the modes apart, or change α (which also changes the width of the modes, since
# the reward is divided by it). The reverse fit starts narrow on the *left*, lower mode. At which distance can it no longer leave this mode?
# At which distance does the forward fit have its peak between the modes, where p\* is small?


# %%
def both_fits(distance, alpha=1.0):
    line = two_modes(distance, alpha=alpha, heights=(1.0, 2.0))
    starts = [one_gaussian(line, -distance, 0.5) for _ in objectives]
    fits = zip(starts, objectives.values(), strict=True)
    return line, [fit(line, start, objective)[-1] for start, objective in fits]


def show(distance, alpha):
    line, fits = both_fits(distance, alpha)
    draw_fits(line, *fits, f"One Gaussian, modes at ±{distance:.1f}, α = {alpha:.2f}")
    plt.show()


rows = []
for distance in (1.2, 2.0):
    line, fits = both_fits(distance)
    shares = [line.mode_mass(p)[1].item() for p in (line.log_target, *fits)]
    rows.append((f"±{distance}", *(f"{share:.2f}" for share in shares)))
print("share of the right mode")
Table(rows, ("modes at", "p*", "forward", "reverse"))

# %% tags=["nbval-ignore-output"] alt="Curves on a line: a grey target with two modes, the reference, a wide Gaussian fitted by forward KL across both modes, and a narrow one fitted by reverse KL to the left mode."
show(distance=2.0, alpha=1.0)

# %% tags=["nbval-ignore-output"]
_ = interact(
    show,
    distance=FloatSlider(
        value=2.0, min=0.4, max=3.0, step=0.2, continuous_update=False
    ),
    alpha=FloatSlider(
        value=1.0, min=0.3, max=3.0, step=0.1, description="α", continuous_update=False
    ),
)

# %% [markdown]
# **Check yourself.** The modes are at ±2 and α is 0.5 instead of 1. What is the share of the right mode under $p^*$?
#
# <details class="choice"><summary>0.67</summary>
#
# **No.** That is the share for α = 1. A smaller α makes the difference between the modes larger.
#
# </details>
#
# <details class="choice"><summary>1.00</summary>
#
# **No.** That is the limit α → 0. At 0.5 the lower mode still has a part.
#
# </details>
#
# <details class="choice"><summary>0.80</summary>
#
# **Right.** At α = 1 the odds are 2 to 1. Dividing r by 0.5 squares them: 4 to 1.
#
# </details>
#
# ## To remember
#
# - Reward with a KL term is $-\mathrm{KL}(p_\theta\|p^*)$ up to a constant; DMPO's cross-entropy is $\mathrm{KL}(p^*\|p_\theta)$ up to a
#   constant. The target is the same, the direction differs.
# - A policy that keeps only a share $\kappa$ of the target has a reverse KL of at least $-\log\kappa$ and an infinite forward KL.
# - One Gaussian: forward KL gives it the mean and the spread of p\*, reverse KL one of the modes.
# - Reverse KL drops modes when the policy is too small and the modes are far apart; the start decides which ones. A policy that can
#   represent p\* has no other minimum in either direction, but in reverse KL a mode that is almost gone comes back slowly or not at all.
# - The exact forward gradient recovers a lost mode; samples of a policy that has lost it do not.
# - A language model is a large policy. The results of this notebook for three Gaussians are an argument for forward KL, not a measurement
#   on language models.
#
# ## Exercises
#
# 1. *Warm-up.* Give `fit` the mean of both objectives. Does it drop modes with $K=3$, and what are its two divergences?
# 2. *Standard.* Reverse KL with samples: replace the exact gradient of `reverse_objective` by REINFORCE with 512 draws a step, with the
#    group mean as a baseline. Which modes are dropped because of the divergence, and which because of the noise?
# 3. *Standard.* With $K=8$ and 200 steps reverse KL drops a mode from one of six starts. Find a schedule for α (start high, end at 1) that
#    avoids it, and show that it does so from 20 starts.
# 4. *Research.* In section 7 DMPO fails because the mode is not sampled. Draw a share of each group from $p_{\mathrm{ref}}$ and derive the
#    weights of the mixture. Which share of the rollouts should be drawn this way when $p_{\mathrm{old}}$ has *not* lost a mode?
#
# ## Where next
#
# - [03 · From rewards to weights](03_weights.ipynb): where the weights of `fit_forward` come from, and how reliable they are.
# - [04 · The weight baseline](04_weight_baseline.ipynb): what happens to DMPO when $N$ is small.
# - The code: [toy/worlds/mixture.py](../toy/worlds/mixture.py), [toy/figures/mixture.py](../toy/figures/mixture.py),
#   [toy/oracle.py](../toy/oracle.py), [dmpo_ref/objectives/base.py](../dmpo_ref/objectives/base.py).
