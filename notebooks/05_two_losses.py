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
# # 05 · Two losses
#
# ![Two curves against how far a rollout of weight 0.4 has already been raised. WDCE pulls upwards with 0.4 everywhere. WDDO pulls less and less, is zero at log (N w) = 0.47 and pulls downwards beyond](../book/figures/opening_losses.png)
#
# *One rollout, and how strongly each loss raises its log-probability. WDDO stops by itself, at N w times the old probability. WDCE pulls with
# the same force for ever. Why does it not run away, and why would one want it nevertheless?*
#
# The rollouts have weights now. Two objectives turn them into gradients: WDCE, weighted denoising cross-entropy, and WDDO, weighted direct
# discriminative optimisation. We build both from their definitions on a problem of two tokens, where every mask and every answer can be
# listed. At the end both are compared with the functions that `train` calls.
#
# **You will learn**
# - where each loss comes from, and where it is stationary;
# - their gradients by hand, and that autograd and finite differences agree;
# - what the choice of masks does to the variance of the likelihood, exactly, and which published choice is biased;
# - four mistakes, two of them published (3 in section 4 and 4 in section 6), and how large the effect of each is;
# - what ELBOs do to WDDO and not to WDCE, and how much of it remains after several rounds of training.
#
# **You need** [03 · From rewards to weights](03_weights.ipynb). **It takes** an hour to read and half a minute to run.

# %% tags=["hide-input"]
try:
    from toy.notebook import start
except ImportError:
    raise SystemExit(
        "dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the "
        "repository, then restart the kernel"
    ) from None
start()

# %% tags=["hide-input"]
import copy
import itertools
import math

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import logsigmoid

from dmpo_ref import (
    Masks,
    draw_masks,
    sequence_log_prob,
    stream,
    token_log_prob,
    wdce,
    wddo,
)
from toy.enumeration import (
    SCHEMES,
    all_masks,
    bernoulli_sizes,
    elbo_over_masks,
    mask_chances,
    mask_index,
    mask_sizes,
    multinomial,
    scheme_moments,
    uniform_sizes,
)
from toy.figures.losses import draw_minima, draw_schemes, draw_wddo
from toy.numerics import finite_differences, minimise, show_gradients
from toy.oracle import kl_divergence, tilted
from toy.studies.acts import by_name, read
from toy.tabular import two_tokens

# %% [markdown]
# ## 1. A masked diffusion model of two tokens
#
# A response is $o=(o_1,o_2)$, each 0 or 1. A masked diffusion model gives, for each hidden position, a distribution given what is not
# hidden. With two positions and two symbols that is six numbers: θ[d, s] is the logit of "token d is 1" when the other token is hidden (s =
# 0), is a 0 (s = 1) or is a 1 (s = 2). `toy.tabular.two_tokens` makes a model of them; its `score` is $\log\pi$ of each hidden token:

# %%
ANSWERS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
theta_old = torch.tensor([[0.3, -0.8, 0.6], [-0.2, 1.0, 0.4]], dtype=torch.float64)
p_old = two_tokens(theta_old)
print(p_old.score(ANSWERS, hidden=torch.tensor([True, True])).exp())

# %% [markdown]
# There are two orders in which the tokens can be unmasked. Along "first, then second" the probability is $\pi(o_1\mid M,M)\,\pi(o_2\mid
# o_1,M)$. Do the two orders give the same distribution?

# %%
for name, values in (
    ("1 then 2", p_old.path_log_probs()[0]),
    ("2 then 1", p_old.path_log_probs()[1]),
    ("p_old", p_old.log_prob()),
):
    print(f"{name:10s}", [f"{p:.3f}" for p in values.exp().tolist()])

# %% [markdown]
# They do not: the six conditionals need not belong to one joint distribution. The sampler, which chooses an order at random, draws from
# the mean of the two, $p_{\mathrm{old}}$.
#
# The **NELBO** ([arXiv:2502.09992](https://arxiv.org/abs/2502.09992) uses it for LLaDA) looks at all masks instead:
#
# $$\mathcal L_\theta(o)=\mathbb E_{m\sim U\{1..L\}}\Bigl[\tfrac Lm\,\mathbb E_{\text{mask of size }m}
#   \sum_{d\text{ masked}}-\log\pi_\theta(o_d\mid\text{masked }o)\Bigr]\;\ge\;-\log p_\theta(o).$$
#
# Here $L=2$ and three masks: both hidden (probability 1/2, weight 1), or one of the two (probability 1/4 each, weight 2).

# %%
first, second, both = p_old.mask_estimates()  # (L/m) Σ log π, by what is hidden
elbo = first / 4 + second / 4 + both / 2
torch.testing.assert_close(elbo, p_old.elbo())
torch.testing.assert_close(elbo, p_old.path_log_probs().mean(dim=0))
print(
    "log p_old",
    [f"{x:.3f}" for x in p_old.log_prob().tolist()],
    "\nELBO     ",
    [f"{x:.3f}" for x in elbo.tolist()],
)

# %% [markdown]
# The ELBO is the mean over orders of $\log p(o;\sigma)$ (asserted above), so it lies below $\log p(o)$, and the gap is largest where the
# orders disagree most.
#
# ## 2. WDCE: forward KL on weighted rollouts
#
# The target is $p^*\propto p_{\mathrm{ref}}\,e^{r/\alpha}$. Our reference is the uniform distribution; the second answer is the best.

# %%
reward, alpha = torch.tensor([0.0, 1.0, 0.6, 0.0], dtype=torch.float64), 0.5
log_target = tilted(torch.full((4,), -math.log(4), dtype=torch.float64), reward, alpha)
print("p*", [f"{p:.3f}" for p in log_target.exp().tolist()])

# %% [markdown]
# Start from the divergence that covers all modes:
#
# $$\mathrm{KL}(p^*\|p_\theta)=\text{const}-\mathbb E_{p^*}[\log p_\theta(o)]
#   \;\approx\;\text{const}-\sum_n w_n\log p_\theta(o_n)\;\le\;\text{const}+\sum_n w_n\,\mathcal L_\theta(o_n).$$
#
# The first step is exact, the second replaces $p^*$ by weighted rollouts, the third $\log p_\theta$ by its bound, which needs $w_n\ge0$.
# Divide by L, as published, and replace $w$ by $w_{\mathrm{real}}=w-w_{\mathrm{base}}$ if there is a baseline. Where $w_{\mathrm{real}}$ is
# negative, the third step no longer gives an upper bound: an ELBO can go down while $\log p_\theta$ does not.
#
# $$\mathrm{WDCE}=\frac1G\sum_g\sum_n w_{\mathrm{real}}[g,n]\;\frac1L\,\widehat{\mathcal L}_\theta(o_{g,n}).$$
#
# $\widehat{\mathcal L}$ is a mean over R masks of each rollout (`loss.num_masks` in a config, the class `Masks` in the code).
#
# By hand: loops over rollouts, over the R masks of each, over positions. The masks come from the library, so that both sides use the same
# ones.


# %%
def wdce_by_hand(theta, tokens, masks, weight):
    total = 0.0
    G, N, R, L = masks.hidden.shape
    for g, n, r in itertools.product(range(G), range(N), range(R)):
        for d in range(L):
            if masks.hidden[g, n, r, d]:
                state = 0 if masks.hidden[g, n, r, 1 - d] else 1 + tokens[g, n, 1 - d]
                prob_of_one = torch.sigmoid(theta[d, state])
                log_pi = torch.log(
                    prob_of_one if tokens[g, n, d] == 1 else 1 - prob_of_one
                )
                total = total - weight[g, n] * masks.weight[g, n, r] * log_pi / (
                    R * L * G
                )
    return total


# %% [markdown]
# Four rollouts (each answer once), weights minus a uniform baseline, R = 3 masks each, a policy that has moved away from `theta_old`. The
# weights are those of a uniform $p_{\mathrm{old}}$; `theta_old` serves only as a point θ:

# %%
tokens = ANSWERS[None]  # [G = 1, N = 4, L = 2]
weight = log_target.exp()[None]  # each answer drawn once from a uniform p_old: w = p*
masks = draw_masks(
    "exact", torch.ones(1, 4, 2, dtype=torch.bool), 3, [stream(0, "masks")]
)
theta = (theta_old + 0.3).requires_grad_()
log_prob = sequence_log_prob(
    two_tokens(theta).score(tokens[:, :, None], masks.hidden), masks
)  # -L_hat, averaged over masks, [1, 4]
library, by_hand = (
    wdce(log_prob / 2, weight - 1 / 4),
    wdce_by_hand(theta, tokens, masks, weight - 1 / 4),
)
torch.testing.assert_close(library, by_hand, rtol=1e-12, atol=0)
print(f"by hand {by_hand.item():.6f}, dmpo_ref.losses.wdce {library.item():.6f}")

# %% [markdown]
# **The gradient.** $\partial \log\pi(o_d)/\partial\theta_{d,s}=o_d-\mathrm{sigmoid}(\theta_{d,s})$: what was observed minus what was
# expected. So
#
# $$\frac{\partial\,\mathrm{WDCE}}{\partial\theta_{d,s}}=-\frac1{L}\sum_n w_{\mathrm{real}}[n]\;
#   \frac1R\sum_{r:\ d\text{ masked, other in state }s}\frac L{m_r}\,\bigl(o_{n,d}-\mathrm{sigmoid}(\theta_{d,s})\bigr).$$
#
# The formula, autograd, and finite differences of `wdce_by_hand` (`toy.numerics`) side by side:


# %%
def log_prob_gradients(theta, tokens, masks):
    """∂(mean over masks of the estimate of log p)/∂θ of every rollout, [N, 2, 3], by
    the formula."""
    gradient = torch.zeros(tokens.shape[1], 2, 3, dtype=torch.float64)
    for n, r, d in itertools.product(*map(range, masks.hidden.shape[1:])):
        if masks.hidden[0, n, r, d]:
            state = 0 if masks.hidden[0, n, r, 1 - d] else 1 + int(tokens[0, n, 1 - d])
            residual = tokens[0, n, d] - torch.sigmoid(theta[d, state])
            gradient[n, d, state] += (
                masks.weight[0, n, r] / masks.hidden.shape[2] * residual
            )
    return gradient


# %%
start_point = theta.detach()
(autograd,) = torch.autograd.grad(library, theta)
formula = (
    -torch.einsum(
        "n,nds->ds", (weight - 1 / 4)[0], log_prob_gradients(start_point, tokens, masks)
    )
    / 2
)
numeric = finite_differences(
    lambda t: wdce_by_hand(t, tokens, masks, weight - 1 / 4), start_point
)
show_gradients(formula, autograd, numeric)

# %% [markdown]
# **Where it is stationary.** With all answers and all masks in the sum, WDCE is a weighted cross-entropy for each of the six conditionals
# separately. Its minimum is known: $\pi(o_d\mid\text{rest})=p^*(o_d\mid\text{rest})$. Put these six numbers in: is the gradient 0,
# is $p_\theta=p^*$, and how large is the gap?

# %%
p = log_target.exp().reshape(2, 2)  # p*(o_1, o_2)
odds = torch.stack(
    [torch.stack([p[1].sum() / p[0].sum(), p[1, 0] / p[0, 0], p[1, 1] / p[0, 1]]),
     torch.stack([p[:, 1].sum() / p[:, 0].sum(), p[0, 1] / p[0, 0], p[1, 1] / p[1, 0]])]
)  # fmt: skip
theta_star = odds.log().requires_grad_()
optimum = two_tokens(theta_star)
(gradient,) = torch.autograd.grad(
    wdce(optimum.elbo()[None] / 2, log_target.exp()[None]), theta_star
)
print("gradient is 0:", gradient.abs().max().item() < 1e-12)
print(
    "KL(p*||p_theta) "
    f"{abs(kl_divergence(log_target, optimum.log_prob().detach())):.4f} nats"
)
print(
    f"largest gap {(optimum.log_prob() - optimum.elbo()).abs().max().item():.4f} nats"
)

# %% [markdown]
# At the optimum the bound is tight: the conditionals of one joint distribution agree along every order. So a loss made of ELBOs can have
# the exact p\* as its minimum. WDCE does, because it is *linear* in the estimates: the noise of the masks has mean 0 in the loss, whatever
# their number. Section 7 comes back to this.
#
# Back to the first figure: the pull of WDCE on a rollout is constant, but all rollouts pull at once, and probabilities sum to 1. So the
# pulls balance, at p\*. One wants it because it is linear: the noise of the masks has mean 0.
#
# **Check yourself.** Why may WDCE use ELBOs of a few random masks and still have p\* as its minimum?
#
# <details class="choice"><summary>It is linear in the estimates, so their noise has mean 0 in the loss.</summary>
#
# **Right.** And at the optimum the bound is tight, since all conditionals belong to one distribution.
#
# </details>
#
# <details class="choice"><summary>Because four masks are enough.</summary>
#
# **No.** The expected loss is the same for every number of masks; only its noise differs.
#
# </details>
#
# <details class="choice"><summary>Because ELBOs are exact.</summary>
#
# **No.** An ELBO is a lower bound; away from the optimum there is a gap.
#
# </details>
#
# ## 3. WDDO: tell p\* from p_old
#
# Another way to p\*: train a classifier that says whether an answer came from $p^*$ or from $p_{\mathrm{old}}$, half each. The best
# classifier is known,
#
# $$D(o)=\frac{p^*(o)}{p^*(o)+p_{\mathrm{old}}(o)}=\mathrm{sigmoid}\Bigl(\log\frac{p^*(o)}{p_{\mathrm{old}}(o)}\Bigr).$$
#
# Now do not train a network D. Write $D=\mathrm{sigmoid}(\Delta)$ with $\Delta=\log p_\theta-\log p_{\mathrm{old}}$: then the best classifier *is*
# $p_\theta=p^*$. (The idea of direct discriminative optimisation, [arXiv:2503.01103](https://arxiv.org/abs/2503.01103).) The log-loss of
# that classifier, with $\sum_n w_n$ for $\mathbb E_{p^*}$ and $\frac1N\sum_n$ for $\mathbb E_{p_{\mathrm{old}}}$:
#
# $$\mathrm{WDDO}=-\sum_n w_n\log\mathrm{sigmoid}(\Delta_n)-\frac1N\sum_n\log\mathrm{sigmoid}(-\Delta_n).$$


# %%
def wddo_by_hand(delta, weight):
    total = 0.0
    for g in range(len(delta)):
        for d, w in zip(delta[g], weight[g], strict=True):
            from_target, from_old = 1 / (1 + torch.exp(-d)), 1 / (1 + torch.exp(d))
            total = total - (
                w * torch.log(from_target) + torch.log(from_old) / len(delta[g])
            ) / len(delta)
    return total


# %%
draw = stream(0, "delta")
delta = 4 * torch.rand(3, 8, generator=draw, dtype=torch.float64) - 2
some_weight = torch.rand(3, 8, generator=draw, dtype=torch.float64).softmax(dim=-1)
torch.testing.assert_close(
    wddo(delta, some_weight), wddo_by_hand(delta, some_weight), rtol=1e-12, atol=0
)
at_zero = wddo(0 * delta, some_weight).item()
print(
    f"random case {wddo(delta, some_weight).item():.4f}; at delta = 0 {at_zero:.4f} = "
    f"2 ln 2 = {2 * math.log(2):.4f}"
)

# %% [markdown]
# **Where it is stationary.** $\partial/\partial\Delta_n$: $\;-w_n\,\mathrm{sigmoid}(-\Delta_n)+\tfrac1N\mathrm{sigmoid}(\Delta_n)=0$, and since
# $\mathrm{sigmoid}(\Delta)/\mathrm{sigmoid}(-\Delta)=e^{\Delta}$,
#
# $$e^{\Delta_n}=N\,w_n .$$
#
# Each rollout has a value of Δ of its own at which its gradient is 0. Check by autograd, and look at the loss of one rollout.

# %%
at_optimum = (4 * weight).log().requires_grad_()
(gradient,) = torch.autograd.grad(wddo(at_optimum, weight), at_optimum)
print(
    "gradient at e^delta = N w is 0:",
    gradient.abs().max().item() < 1e-12,
    "| N w:",
    [f"{x:.3f}" for x in (4 * weight)[0].tolist()],
)

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Left: the loss of WDDO against Delta for three weights, each with its minimum at log Nw. Right: minus its gradient, falling through 0 there; dashed constants for WDCE."
draw_wddo((0.1, 1.0, 3.0))
plt.show()

# %% [markdown]
# The right panel shows how the two losses are related: the negative gradient with respect to $\log p_\theta$, that is, how strongly each
# loss raises the log-probability of a rollout. At $\Delta=0$, before the first step, it is $\tfrac12(w_n-\tfrac1N)$ for WDDO:
# *half of WDCE with the uniform baseline*, if that is not divided by L as published; the direction is the same in any case. After that
# the gradient of WDDO goes to 0 as Δ reaches $\log Nw_n$. That of WDCE with the uniform baseline is constant: a negative weight lowers
# the estimate of $\log p_\theta$ for as long as the group is used. (With the baseline `model` it goes to 0 too:
# [04](04_weight_baseline.ipynb), section 2.)
#
# Both facts on the two tokens, along the orders, with exact log-probabilities. A rollout is an answer and an order; there are 8, each
# equally likely under the uniform policy:

# %%
theta_0 = torch.zeros(
    2, 3, dtype=torch.float64, requires_grad=True
)  # p_old = p_ref = uniform along every order
weight_8 = (log_target.exp().repeat(2) / 2)[None]  # rollouts (o, order), N = 8


def losses_on_paths(theta):
    log_policy = two_tokens(theta).path_log_probs().flatten()[None]
    return wddo(log_policy + math.log(4), weight_8), wdce(log_policy, weight_8 - 1 / 8)


of_wddo, of_wdce = (
    torch.autograd.grad(loss, theta_0, retain_graph=True)[0]
    for loss in losses_on_paths(theta_0)
)
torch.testing.assert_close(of_wddo, of_wdce / 2)
print(
    "WDDO / WDCE - uniform, at the start:",
    [f"{x:.3f}" for x in (of_wddo / of_wdce).flatten().tolist()],
)

# %%
wddo_at_target, wdce_at_target = (
    torch.autograd.grad(loss, theta_star, retain_graph=True)[0].abs().max().item()
    for loss in losses_on_paths(theta_star)
)
print("at p*: gradient of WDDO is 0:", wddo_at_target < 1e-12)
print(
    f"at p*: largest component of the gradient of WDCE - uniform: {wdce_at_target:.3f}"
)

# %% [markdown]
# WDDO is stationary at p\*. WDCE with the uniform baseline is not, for this group of rollouts; it becomes stationary only because the next
# round has new rollouts with new weights. (Without baseline WDCE is stationary at p\*, section 2.)
#
# How low can WDDO get? Its minimum is that of a classification problem: $2\ln2-2\,\mathrm{JS}(p^*,p_{\mathrm{old}})$, as for a GAN.
# So the value of the loss says how far p\* is from $p_{\mathrm{old}}$, not how good the policy is.

# %%
uniform = torch.full((4,), 0.25, dtype=torch.float64)
middle = ((log_target.exp() + uniform) / 2).log()
jensen_shannon = (
    kl_divergence(log_target, middle) + kl_divergence(uniform.log(), middle)
) / 2
print(
    f"WDDO at p* {losses_on_paths(theta_star)[0].item():.6f}, 2 ln 2 - 2 JS "
    f"{2 * math.log(2) - 2 * jensen_shannon:.6f}"
)

# %% [markdown]
# The gradient of WDDO in θ by the chain rule, with the derivative found above: the coefficient
# $-w\,\mathrm{sigmoid}(-\Delta)+\mathrm{sigmoid}(\Delta)/N$ times the gradient of each log-probability.


# %%
def log_prob_of(t):
    scores = two_tokens(t).score(tokens[:, :, None], masks.hidden)
    return sequence_log_prob(scores, masks)


def wddo_of(t):
    return wddo(log_prob_of(t) - log_prob_of(theta_old), weight)


delta = log_prob.detach() - log_prob_of(theta_old)
coefficient = -weight * torch.sigmoid(-delta) + torch.sigmoid(delta) / 4
formula = torch.einsum(
    "n,nds->ds", coefficient[0], log_prob_gradients(start_point, tokens, masks)
)
(autograd,) = torch.autograd.grad(wddo_of(theta), theta)
numeric = finite_differences(wddo_of, start_point)
show_gradients(formula, autograd, numeric)

# %% [markdown]
# **Check yourself.** At Δ = 0, minus the gradient of WDDO in $\log p_\theta(o_n)$ is …
#
# <details class="choice"><summary>w<sub>n</sub></summary>
#
# **No.** That would be WDCE without a baseline.
#
# </details>
#
# <details class="choice"><summary>½ (w<sub>n</sub> − 1/N)</summary>
#
# **Right.** Half of WDCE with the uniform baseline; sigmoid(0) = 1/2. Later it goes to 0 as Δ reaches $\log N w_n$.
#
# </details>
#
# <details class="choice"><summary>0</summary>
#
# **No.** Only for a rollout with $w_n=1/N$.
#
# </details>
#
# ## 4. Masks: where the noise is
#
# Both losses estimate $\log p_\theta$ from random masks. How noisy is that? Take the tiny Sudoku policy, a test puzzle with L = 6 blanks,
# and 32 answers that it drew. There are only $2^6-1=63$ non-empty masks; one call scores all of them. (`toy.enumeration.all_masks` lists
# them, with the empty one.)

# %%
from dmpo_ref import (
    SamplerConfig,
    answer_texts,
    build_task,
    build_vocabulary,
    encode,
    load_config,
    load_policy,
    sample,
)

# %%
config = load_config("toy_sudoku")
policy, tokenizer = load_policy(config.model, torch.device("cpu"))
task = build_task(config.task)
puzzle = next(item for item in task.load(config.task.test) if item.num_blanks == 6)
vocabulary = build_vocabulary(
    tokenizer, policy.config.embedding_size, alphabet=task.alphabet
)
rollout = sample(
    policy.double(),
    encode(tokenizer, task, [puzzle]),
    SamplerConfig(),
    vocabulary,
    num_rollouts=32,
    generators=[stream(0, "answers")],
)
blanks = rollout.response_mask[0, 0].nonzero().squeeze(-1)
L = len(blanks)
print(
    task.show(puzzle),
    "\n\nmean log p along the answers' own orders: "
    f"{rollout.path_log_prob.mean():.2f} nats",
)

# %%
hidden = torch.zeros(1, 32, 2**L, rollout.tokens.shape[-1], dtype=torch.bool)
hidden[..., blanks] = all_masks(L)
every_mask = Masks(hidden, hidden, torch.ones(1, 32, 2**L, dtype=torch.float64))
with torch.no_grad():
    scores = token_log_prob(policy, rollout, every_mask, vocabulary)[0]
cost = -scores.sum(dim=-1).T  # Σ over the masked of −log π, [64 masks, 32 answers]
NELBO = elbo_over_masks(cost)
print("exact NELBO of the first ten answers:", *(f"{x:.2f}" for x in NELBO[:10]))

# %%
print(
    "answer 1\n  m   masks   mean and standard deviation over masks of that size of "
    "the estimate (L/m) * cost"
)
for m in range(1, L + 1):
    estimates = L / m * cost[mask_sizes(L) == m, 0]
    print(
        f"{m:3d} {len(estimates):6d} {estimates.mean():13.2f} "
        f"{estimates.std(correction=0):10.2f}"
    )

# %% [markdown]
# With one blank hidden the policy is certain: the other five determine it. With two it is nearly always certain too, but one pair costs 16
# nats after multiplication by L/m (left figure of section 5). That is where the noise comes from: few sets are hard, and a small hard set
# has a large weight.
#
# Of the schemes of `dmpo_ref.masking`, three unbiased ones, and the published one to compare with:
#
# | scheme | sizes | weights |
# | --- | --- | --- |
# | `exact` | $m\sim U\{1..L\}$ for each mask | $L/m$ |
# | `stratified` | R sizes spread evenly over $1..L$, one random offset | $L/m$ |
# | `antithetic` | pairs: $m\sim U\{0..L\}$, a set and its complement | $(L+1)/m$ and $(L+1)/(L-m)$, an empty side gives 0 |
# | `paper` | pairs: each position with probability $0.1+0.9u$, and the complement | $L/\max(m,1)$ |
#
# The test of a scheme needs no model. All masks of one size are equally likely, so the expected estimate is
# $\sum_m a_m\cdot(\text{mean cost of size }m)$ with $a_m=\mathbb E[\text{weight}\cdot 1_{|S|=m}]$; the NELBO wants $a_m=1/m$. Also in the
# table: complementary pairs as one might write them at first, $m\sim U\{1..L\}$, weights $L/m$ and $L/(L-m)$. The chances of the sizes of
# `paper`, `toy.enumeration.bernoulli_sizes`, are integrals over $u$.


# %%
def coefficients(scheme, L):
    """a_m for m = 1..L, mean over the two masks of a pair."""
    m = torch.arange(1, L + 1, dtype=torch.float64)
    if scheme == "naive pairs":
        return (1 / m + torch.where(m < L, 1 / m, 0)) / 2
    if scheme.startswith("paper"):
        size = bernoulli_sizes(L, 0.1 if scheme == "paper" else 0.0)
        return L / m * (size[1:] + size.flip(0)[1:]) / 2
    return 1 / m


# %%
print("a_m * m for m =          ", *(f"{m:6d}" for m in range(1, L + 1)))
for scheme in ("exact", "antithetic", "naive pairs", "paper, p ~ U[0, 1]", "paper"):
    print(
        f"{scheme:25s}",
        *(f"{x:6.3f}" for x in coefficients(scheme, L) * torch.arange(1, L + 1)),
    )

# %% [markdown]
# A value of 1 is right; any other value is a bias, for any policy.
#
# - *Mistake 1, easy to make*, `naive pairs`: the complement of "all" is empty and contributes nothing, so the full mask counts half.
# - *Mistake 2, half of the published one*, `paper, p ~ U[0, 1]` (the published scheme without its floor of 0.1): sizes are uniform on
#   $0..L$. The size 0 is *clamped* to $m=1$. That changes nothing, because an empty mask has no cost, but its share of the draws is lost.
#   Every estimate is too small by the factor $L/(L+1)$. The weights $(L+1)/m$ of `antithetic` correct this.
# - *Mistake 3, published*, `paper` with its floor: the full mask counts 0.70, the others 0.88 to 0.95. The factor depends on the size, so a
#   different learning rate cannot correct it.
#
# Six tokens are few. What does the last row look like for a response of 256?

# %%
a = coefficients("paper", 256) * torch.arange(1, 257)
print(
    "a_m * m for `paper`, L = 256:",
    *(f"m = {m}: {a[m - 1]:.2f}  " for m in (1, 13, 26, 64, 128, 192, 230, 243, 256)),
)

# %% [markdown]
# Sizes in the middle count 1.11. Sizes below a tenth and above nine tenths of the response count 0.55, because only one of the two masks
# of a pair can have them. So the nearly empty contexts with which generation begins have about half the weight they should have.
#
# Does the code do what these formulas say? 20,000 draws from seeded streams, in units of standard errors:

# %%
for scheme in ("exact", "stratified", "antithetic", "paper"):
    masks = draw_masks(
        scheme,
        torch.ones(1, 20_000, L, dtype=torch.bool),
        2,
        [stream(0, "check", scheme)],
    )
    sizes = masks.hidden.sum(dim=-1)[0]
    worst = 0.0
    for m in range(1, L + 1):
        drawn = ((sizes == m) * masks.weight[0]).mean(dim=-1)
        worst = max(
            worst,
            abs(drawn.mean().item() - coefficients(scheme, L)[m - 1].item())
            / (drawn.std().item() / 20_000**0.5),
        )
    print(
        f"{scheme:12s} within 4 standard errors of the formula, all sizes: {worst < 4}"
    )

# %% [markdown]
# A small example, L = 4. Let a hidden token cost 1.44, 1.76, 2.08, 2.40 nats on average when 1, 2, 3, 4 are hidden: the fewer tokens are
# visible, the harder the prediction. Which estimate does each scheme give?

# %%
mean_cost = torch.tensor([1.44, 1.76, 2.08, 2.40], dtype=torch.float64)  # of a token
total_cost = mean_cost * torch.arange(1, 5)  # of a mask with m = 1..4 hidden
for scheme in ("exact", "antithetic", "naive pairs", "paper"):
    print(f"{scheme:12s} {coefficients(scheme, 4) @ total_cost:.2f} nats")

# %% [markdown]
# 6.48 for 7.68: the naive pairs lose half of the last term, $\tfrac12\cdot\tfrac14\cdot 9.6=1.2$ nats.
#
# ## 5. The exact variance of every scheme
#
# Two forward passes (R = 2). The variance of each scheme is a finite sum over masks: for pairs over all sets S, for independent masks half
# of the variance of one. For `stratified` the two sizes are $m$ and $m+L/2$ with $m\sim U\{1..L/2\}$ (L even), and the positions are
# independent. `toy.enumeration.scheme_moments` has the five sums:

# %%
EXACT = {scheme: scheme_moments(scheme, cost) for scheme in SCHEMES}  # two of [32]
print(
    "mean over 32 answers      bias, nats    standard deviation of one estimate, R = "
    "2    root mean square error of 32 pairs"
)
for scheme, (mean, variance) in EXACT.items():
    bias, deviation = (mean - NELBO).mean().item(), variance.mean().sqrt().item()
    print(
        f"{scheme:20s} {round(bias, 9) + 0.0:14.3f} {deviation:24.3f} "
        f"{math.hypot(bias, deviation / 32**0.5):40.3f}"
    )

# %% [markdown]
# These are formulas of our own, so compare them with the library: 20,000 draws for the first answer.

# %%
DRAWN = {}
for scheme in ("exact", "stratified", "antithetic", "paper"):
    masks = draw_masks(
        scheme,
        torch.ones(1, 20_000, L, dtype=torch.bool),
        2,
        [stream(0, "variance", scheme)],
    )
    drawn = (masks.weight * cost[mask_index(masks.hidden), 0]).mean(dim=-1)[0]
    mean, variance = (x[0].item() for x in EXACT[scheme])  # of answer 1
    deviation = math.sqrt(variance)
    off = abs(drawn.mean().item() - mean) / (deviation / 20_000**0.5)
    DRAWN[scheme] = (mean, drawn.mean().item(), deviation, drawn.std().item())
    print(
        f"{scheme:12s} mean within 4 standard errors: {off < 4}, deviation within 5 "
        f"%: {abs(drawn.std().item() / deviation - 1) < 0.05}"
    )

# %% tags=["nbval-ignore-output"]
print(
    "answer 1, R = 2: mean computed and drawn, standard deviation computed and "
    "drawn, nats"
)
for scheme, numbers in DRAWN.items():
    print(f"{scheme:12s}", " ".join(f"{x:7.3f}" for x in numbers))

# %%
estimates = L / mask_sizes(L) * cost[:, 0]
once = slice(1, 2 ** (L - 1))  # mask i and mask 2^L - 1 - i are complements
sides = torch.stack([estimates[once], estimates.flip(0)[once]], dim=1).sort().values
print(
    f"{len(sides)} pairs; in {(sides[:, 0] < 0.01).sum()} of them the "
    "easier side costs less than 0.01 nats"
)

# %% tags=["nbval-ignore-output", "hide-input"] alt="Left: the estimates of every mask by number of hidden tokens, scattered about the exact NELBO. Centre: the harder against the easier side of 31 complementary pairs; most easier sides are near 0. Right: mean and standard deviation of five schemes; naive pairs and paper have means below the exact line."
of_answer_1 = {
    scheme: (mean[0].item(), variance[0].sqrt().item())
    for scheme, (mean, variance) in EXACT.items()
}
draw_schemes(cost[:, 0], NELBO[0].item(), sides, of_answer_1)
plt.show()

# %% [markdown]
# Three observations.
#
# - For this policy the three unbiased schemes differ by less than three per cent. The noise comes from *which* tokens are hidden, hardly
#   from how many. And complements help little: a hard set does have an easy complement (centre), but so have most easy sets.
# - The biased schemes have the *smaller* spread, because their weights are smaller. A single estimate is even a little nearer to the
#   truth. But noise averages out and bias does not: with 32 pairs the order is reversed (last column), and a gradient step averages over
#   hundreds.
# - Does the bias harm WDCE? It does not change the minimum: any positive $a_m$ give a cross-entropy for each conditional, and p\*
#   minimises them all (section 7 has the number). It matters where the estimate is used as a *likelihood*: in ELBO weights, in WDDO, in a
#   reported bound. And it changes what is fitted best by a policy that cannot fit everything.
#
# ## 6. The sum and the mean
#
# *Mistake 4, published.* In the published form of WDDO the softmax weights, which sum to 1, stand inside a *mean* over the N rollouts:
# $-\frac1N\sum_n[w_n\log\mathrm{sigmoid}(\Delta_n)+\log\mathrm{sigmoid}(-\Delta_n)]$. The positive term is N times too weak, and the stationary point moves to
# $e^{\Delta_n}=w_n$. Does it matter, when $p_\theta$ must sum to 1? Minimise both over all distributions of four answers,
# $p_{\mathrm{old}}$ uniform, each answer drawn once. (By default that code also *sums* $\log p_\theta$ over the R masks, where
# $\log p_{\mathrm{old}}$ is a mean. At $p_\theta=p_{\mathrm{old}}$, $\Delta$ is then $R-1$ times the log-probability instead of 0.)
# `toy.numerics.minimise` is L-BFGS in float64, and raises if the gradient at its end is not 0.


# %% tags=["slide"]
def ours(delta):
    return wddo(delta, weight)


def published(delta):
    return -(weight * logsigmoid(delta) + logsigmoid(-delta)).mean()


start_logits = torch.zeros(4, dtype=torch.float64)
for name, loss in {"sum (here)": ours, "mean (published)": published}.items():
    logits = minimise(
        lambda x, loss=loss: loss((x.log_softmax(dim=0) - uniform.log())[None]),
        start_logits,
    )
    best = logits.log_softmax(dim=0)
    print(
        f"{name:18s}",
        [f"{p:.3f}" for p in best.exp().tolist()],
        f"KL(p*||p_theta) {abs(kl_divergence(log_target, best)):.3f}",
    )
print(f"{'p*':18s}", [f"{p:.3f}" for p in log_target.exp().tolist()])

# %% [markdown]
# It does: that probabilities sum to 1 does not correct the mean. The best answer gets 0.86 instead of 0.58; the minimum of this loss is
# much greedier than p\*.
#
# **Check yourself.** In the published code the softmax weights stand inside a mean over the N rollouts. The minimum is then …
#
# <details class="choice"><summary>the same: a constant factor does not matter.</summary>
#
# **No.** The factor 1/N stands before *one* of the two terms, so it moves the balance between them.
#
# </details>
#
# <details class="choice"><summary>greedier than p\*.</summary>
#
# **Right.** The stationary point is $e^{\Delta_n}=w_n$ instead of $N w_n$. In the example the best answer gets 0.86 in place of 0.58.
#
# </details>
#
# <details class="choice"><summary>flatter than p\*.</summary>
#
# **No.** It is greedier: most ratios $p_\theta/p_{\text{old}}$ are pushed below 1, and what is left goes to the best answer.
#
# </details>
#
# ## 7. WDDO with ELBOs
#
# The committed results of `python -m toy.studies.acts variants` (2026-11-22): one puzzle with two solutions, N = 64, 3,200 rollouts, three
# seeds, exact $\mathrm{KL}(p^*\|p_\theta)$ from 1.01 nats. "Path likelihood" means exact log-probabilities along the rollout's own order;
# otherwise antithetic masks, R = 2.

# %%
print("KL(p*||p_theta) at the end, nats       median   largest")
for name, rows in by_name(read("variants")).items():
    if name not in ("wdce, negative", "wdce, none, elbo weights"):
        kl = sorted(row["after"]["kl_target_policy"] for row in rows)
        print(f"{name:34s} {kl[1]:10.3f} {kl[2]:9.3f}")

# %% [markdown]
# (`wdce, model` used exact log-probabilities too; on two steps of the path it ends at 0.018 on the puzzles of
# [the scoreboard](../book/scoreboard.md).) For WDCE without baseline it makes little difference whether it uses exact log-probabilities or
# masks. WDDO has the lowest median with exact ones (three seeds; `model` is within noise), and ten times that with masks. Two things can
# bias it: the *gap*, since Δ is then a difference of bounds, and the *noise* of R masks, since the sigmoid is not linear. On two tokens we
# can separate them: minimise the exact expectation over all answers and all masks, for one fixed $p_{\mathrm{old}}$, and see where the
# minimum is.
#
# Three masks, so R draws are counts $(k_1,k_2,k_3)$ with multinomial probabilities, which `toy.enumeration.multinomial` lists.


# %%
CHANCE = mask_chances(uniform_sizes(2, 1))[1:]  # of the three masks: 1/4, 1/4, 1/2


def expected_wddo(theta, counts, chances, theta_old=theta_old):
    """E over masks of −E_{p*} log sigmoid(Δ) − E_{p_old} log sigmoid(−Δ), with Δ on the
    same masks, averaged before the sigmoid."""
    model, old = two_tokens(theta), two_tokens(theta_old)
    shares = counts / counts.sum(dim=1, keepdim=True)  # [K, 3]
    delta = shares @ (model.mask_estimates() - old.mask_estimates())  # [K, 4]
    return -chances @ (
        logsigmoid(delta) @ log_target.exp() + logsigmoid(-delta) @ old.log_prob().exp()
    )


# %%
def expected_wddo_on_paths(theta):
    """The same with exact log-probabilities: rollouts are an answer and an order."""
    log_old = p_old.path_log_probs()
    delta = two_tokens(theta).path_log_probs() - log_old
    return -(
        logsigmoid(delta) @ log_target.exp()
        + (logsigmoid(-delta) * log_old.exp()).sum(dim=-1)
    ).mean()


# %%
def expected_wddo_on_a_step(theta):
    """The same with one of the two steps of the path, drawn at random and doubled."""
    loss = 0
    for order in ((0, 1), (1, 0)):
        log_old = p_old.path_log_prob(order)
        delta = 2 * (two_tokens(theta).path_steps(order) - p_old.path_steps(order))
        each = logsigmoid(delta) @ log_target.exp() + logsigmoid(-delta) @ log_old.exp()
        loss = loss - each.mean() / 2
    return loss


# %%
fits = {
    "path, exact": minimise(expected_wddo_on_paths, theta_old),
    "path, one step": minimise(expected_wddo_on_a_step, theta_old),
}
fits["ELBO, all masks"] = minimise(
    lambda t: expected_wddo(t, CHANCE[None], torch.ones(1, dtype=torch.float64)),
    theta_old,
)
draws = {R: multinomial(R, CHANCE.log()) for R in (16, 8, 4, 2, 1)}
for R, cases in draws.items():
    fits[f"ELBO, R = {R}"] = minimise(
        lambda t, cases=cases: expected_wddo(t, *cases), theta_old
    )
fits["WDCE, any R"] = minimise(
    lambda t: wdce(two_tokens(t).elbo()[None], log_target.exp()[None]), theta_old
)
size = mask_sizes(2)[1:]
factor = size * coefficients("paper", 2)[size - 1]  # what `paper` multiplies it by
fits["WDCE, paper"] = minimise(
    lambda t: -(CHANCE * factor) @ two_tokens(t).mask_estimates() @ log_target.exp(),
    theta_old,
)

# %%
ends = {name: two_tokens(theta).log_prob() for name, theta in fits.items()}
KL = {name: kl_divergence(log_target, log_p) for name, log_p in ends.items()}
for name, log_p in ends.items():
    print(
        f"{name:16s} KL(p*||p_theta) {abs(KL[name]):.4f}   ",
        [f"{p:.3f}" for p in log_p.exp().tolist()],
    )

# %% tags=["nbval-ignore-output", "hide-input"] alt="Left: KL(p*||p_theta) at the minimum of WDDO with ELBOs falls from 0.10 at R = 1 to below the dashed line of all masks at R = 16. Right: probabilities of four answers at the minimum; exact paths agree with p*, one mask is flatter."
draw_minima(
    {R: KL[f"ELBO, R = {R}"] for R in (1, 2, 4, 8, 16)},
    KL["ELBO, all masks"],
    {k: ends[k].exp() for k in ("path, exact", "ELBO, all masks", "ELBO, R = 1")},
    log_target.exp(),
)
plt.show()

# %% [markdown]
# The gap alone moves the minimum 0.003 nats away from p\*; gap and noise of one mask 0.1 nats. With few masks (R = 1 or 2) every answer
# moves from p\* *towards* $p_{\mathrm{old}}$: noise makes a classifier less certain, and then the best ratio $p_\theta/p_{\mathrm{old}}$
# is nearer to 1. One random step of the path, which has no gap, does nearly the same (0.089): noise is enough. At R ≥ 4 the third answer
# moves slightly the other way (0.264 to 0.267; p\* has 0.261, $p_{\mathrm{old}}$ 0.200), because gap and noise differ from answer to
# answer. The minimum of WDCE is p\* with any number of masks, and with the biased masks too.
#
# But this is one round, trained until it converges. What if $p_{\mathrm{old}}$ is then replaced, as the algorithm does?

# %%
for R in (1, 2, 4):
    theta, row = theta_old, []
    for _ in range(6):
        theta = minimise(
            lambda t, rest=(*draws[R], theta): expected_wddo(t, *rest), theta
        )
        row.append(kl_divergence(log_target, two_tokens(theta).log_prob()))
    print(
        f"R = {R}: KL(p*||p_theta) after rounds 1 to 6:",
        *(f"{abs(kl):.4f}" for kl in row),
    )

# %% [markdown]
# The error gets smaller in every round. If $p_{\mathrm{old}}=p_\theta$, both are scored on the same masks, so Δ is exactly 0 whatever the
# masks, and there is no noise inside the sigmoid. p\* is a fixed point over rounds; gap and noise make each round a shorter step, as
# self-normalising did in [notebook 03](03_weights.ipynb).
#
# Then why does the trained policy end ten times further from p\*? The expectation does not explain it; what remains is the noise around
# it. Look at the table again: WDCE with the uniform baseline, whose gradient has the direction of WDDO's at Δ = 0, is good on paths
# (0.006), and on masks it is the worst row of that table (0.070). With two *steps* of the path, which cost as much as two masks, it ends at
# 0.012: most of its trouble was the noise of the masks ([04](04_weight_baseline.ipynb), section 7). WDDO on two steps ends at 0.023 on the
# puzzles of [the scoreboard](../book/scoreboard.md), where the whole path gives 0.017. Neither loss has what WDCE without baseline has: in
# every step a gradient towards the data, which keeps the policy near them (section 3). This would explain why noise harms them more, but
# nothing on this page proves it; exercise 4 asks for the proof.
#
# ## 8. The objectives of `train`
#
# In the library an objective is two functions: `masks`, which positions are hidden, and `loss`, a scalar made of the token
# log-probabilities, the masks, the experience and $w_{\mathrm{real}}$. Do they compute what we built by hand? Take the 32 answers of
# section 4. `weigh` computes what is known once the rollouts are drawn; WDDO also needs $\log p_{\mathrm{old}}$ on the masks of every
# gradient step, which `score_on_masks` computes.

# %%
from dmpo_ref.experience import score_on_masks, step_masks, weigh
from dmpo_ref.gradient import gradient_step, real_weight
from dmpo_ref.objectives import build_objective
from dmpo_ref.tasks.rewards import score_answers

graded, _ = score_answers(task, [puzzle], answer_texts(tokenizer, rollout))
print(f"{graded.sum().item():.0f} of the {graded.numel()} answers are right")


# %%
def prepare(name):
    """Config, objective and experience of the 32 answers, for one loss; p_old = p_ref,
    so that no reference is needed."""
    config = load_config(
        "toy_sudoku",
        f"loss.name={name}",
        "weight.baseline=uniform" if name == "wdce" else "weight.baseline=none",
    )
    objective = build_objective(config.loss, config.weight)
    return (
        config,
        objective,
        weigh(policy, None, vocabulary, objective, rollout, graded, config),
    )


# %%
for name in ("wdce", "wddo"):
    config, objective, experience = prepare(name)
    stored = None if experience.log_old is None else tuple(experience.log_old.shape)
    print(
        f"{name}: w [G, N] {tuple(experience.weight.shape)}, log p_old stored [K, G, "
        f"N, R, S]: {stored}"
    )
log_old, _ = score_on_masks(policy, None, vocabulary, objective, rollout, [0], config)
print(
    "what weigh stored is the result of score_on_masks:",
    torch.equal(log_old, experience.log_old),
)

# %% [markdown]
# Now a policy that differs from $p_{\mathrm{old}}$, so that Δ is not 0, and both losses on the masks of the first gradient step.


# %%
def by_hand(name, config, experience, masks, scores):
    """The loss from its definition: log-probabilities of the responses [1, 32], then
    the functions of sections 2 and 3."""
    log_prob = (masks.weight * scores.sum(dim=-1)).mean(dim=-1)
    if name == "wdce":
        w_real = experience.weight - 1 / 32  # minus the uniform baseline
        return -(w_real * log_prob / L).sum()
    log_prob_old = (masks.weight * experience.log_old.sum(dim=-1)).mean(dim=-1)
    return wddo_by_hand(log_prob - log_prob_old, experience.weight)


learner = copy.deepcopy(policy)
with torch.no_grad():
    for parameter in learner.parameters():
        parameter += 0.02 * torch.randn(
            parameter.shape, generator=draw, dtype=torch.float64
        )

# %%
for name in ("wdce", "wddo"):
    config, objective, experience = prepare(name)
    batch = experience.of_step(k=0)
    masks = step_masks(objective, batch.rollout, batch.position, config.seed, k=0)
    with torch.no_grad():
        scores = token_log_prob(learner, batch.rollout, masks, vocabulary)
    library = objective.loss(
        scores, masks, batch, real_weight(scores, masks, batch, config.weight)
    )
    torch.testing.assert_close(library, by_hand(name, config, batch, masks, scores))
    print(
        f"{name}: library {library.item():.6f}, by hand "
        f"{by_hand(name, config, batch, masks, scores).item():.6f}",
        end="; ",
    )
    trained = copy.deepcopy(learner)
    loss, _ = gradient_step(
        trained,
        torch.optim.SGD(trained.parameters(), 1e-3),
        vocabulary,
        objective,
        batch,
        masks,
        config,
    )
    print("gradient_step returns the same:", math.isclose(loss, library.item()))

# %% [markdown]
# Notebook [07](07_dmpo_on_sudoku.ipynb) takes a whole round step by step with these functions.
#
# ## To remember
#
# - WDCE is maximum likelihood on weighted rollouts. It is linear in the estimates of log p, so masks may be noisy. At its minimum the
#   bound is tight and p_θ = p\*.
# - WDDO trains the policy as a classifier of p\* against p_old; it is stationary at e^Δ = N·w. At the first step its gradient has the
#   direction of that of WDCE with the uniform baseline; then it goes to 0.
# - An unbiased mask scheme has expected weight 1/m on size m. `exact`, `stratified` and `antithetic` do; naive pairs and the published
#   scheme do not.
# - Softmax weights belong in a sum, not in a mean.
# - With ELBOs, gap and noise enter the sigmoid and move the minimum of each *round*; with few masks it moves towards p_old. After several
#   rounds this effect is gone. In training, WDDO with ELBOs still ends ten times further from p\* than with exact log-probabilities.
#
# ## Exercises
#
# 1. *Warm-up.* Show that at p_θ = p_old = p\* and w = 1/N both WDDO and WDCE with the uniform baseline have gradient 0, for any policy
#    family.
# 2. *Standard.* Average over the masks *after* the sigmoid instead of before it (section 7): the loss, or the classifier. Predict the
#    direction of the change for R = 4 before you compute it.
# 3. *Standard.* Give `paper` the weights that make it unbiased (divide by its own $a_m\,m$). What is its standard deviation then, against
#    `antithetic`?
# 4. *Research.* On the two tokens, follow the *covariance* of θ under stochastic steps near p\* for WDCE, WDCE − uniform and WDDO, with
#    masks and on paths (everything can be enumerated for N = 2). Does it explain the table of section 7? Then find a change to WDDO that
#    corrects it with the same number of forward passes.
#
# ## Where next
#
# The weight baseline has a [notebook of its own](04_weight_baseline.ipynb). The code: [losses.py](../dmpo_ref/losses.py),
# [objectives/](../dmpo_ref/objectives/dmpo.py), [masking.py](../dmpo_ref/masking.py), [likelihood.py](../dmpo_ref/likelihood.py), and
# their tests, [test_losses.py](../tests/test_losses.py) and [test_masking.py](../tests/test_masking.py). What this notebook lists and sums:
# [toy/enumeration.py](../toy/enumeration.py), [toy/tabular.py](../toy/tabular.py), [toy/numerics.py](../toy/numerics.py).
