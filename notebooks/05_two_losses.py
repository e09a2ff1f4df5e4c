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
# *One rollout, and how strongly each loss raises its log-probability. WDDO stops by itself, at N w times the old probability. WDCE pulls
# with the same force for ever. Why does it not run away, and why would one want it nevertheless?*
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
    from toy.notebook import Table, start
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
from functools import partial

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
from toy.numerics import compare_gradients, finite_differences, minimise
from toy.oracle import kl_divergence, tilted
from toy.studies.acts import by_name, read
from toy.tabular import two_tokens

# %% [markdown]
# ## 1. A masked diffusion model of two tokens
#
# A response is $o=(o_1,o_2)$, each 0 or 1. A masked diffusion model gives, for each hidden position, a distribution given what is not
# hidden. With two positions and two symbols that is six numbers: θ[d, u] is the logit of "token d is 1" when the other token is hidden (u =
# 0), is a 0 (u = 1) or is a 1 (u = 2). `toy.tabular.two_tokens` makes a model of them; its `score` is $\log\pi$ of each hidden token:

# %%
ANSWERS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
theta_old = torch.tensor([[0.3, -0.8, 0.6], [-0.2, 1.0, 0.4]], dtype=torch.float64)
p_old = two_tokens(theta_old)
NAMES = ("00", "01", "10", "11")
of_each = p_old.score(ANSWERS, hidden=torch.tensor([True, True])).exp()
Table(
    [
        (name, *(f"{p:.4f}" for p in of))
        for name, of in zip(NAMES, of_each, strict=True)
    ],
    ("answer", "π(o₁ | M, M)", "π(o₂ | M, M)"),
)

# %% [markdown]
# There are two orders in which the tokens can be unmasked. Along "first, then second" the probability is $\pi(o_1\mid M,M)\,\pi(o_2\mid
# o_1,M)$. Do the two orders give the same distribution?

# %%
one_two, two_one = p_old.path_log_probs()
named = {"1 then 2": one_two, "2 then 1": two_one, "p_old": p_old.log_prob()}
Table(
    [(name, *(f"{p:.3f}" for p in log_p.exp())) for name, log_p in named.items()],
    ("probability of", *NAMES),
)

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
named = {"log p_old": p_old.log_prob(), "ELBO": elbo}
Table(
    [(name, *(f"{x:.3f}" for x in values)) for name, values in named.items()],
    ("nats", *NAMES),
)

# %% [markdown]
# The ELBO is the mean over orders of $\log p(o;\sigma)$ (asserted above), so it lies below $\log p(o)$, and the gap is largest where the
# orders disagree most.
#
# **Check yourself.** Along its two orders an answer has probability 0.1 and 0.4. What are its log p and its ELBO?
#
# <details class="choice"><summary>log 0.25 and log 0.1</summary>
#
# **No.** The ELBO is not the log-probability along the worst order. It is the mean of both.
#
# </details>
#
# <details class="choice"><summary>log 0.25 and log 0.2</summary>
#
# **Right.** p is the mean of the probabilities, (0.1 + 0.4)/2. The ELBO is the mean of the logarithms, ½ log(0.1 · 0.4) = log 0.2. The gap
# is log(0.25/0.2) = 0.22 nats.
#
# </details>
#
# <details class="choice"><summary>log 0.25 and log 0.25</summary>
#
# **No.** They are equal only if both orders give the answer the same probability.
#
# </details>
#
# ## 2. WDCE: forward KL on weighted rollouts
#
# The target is $p^*\propto p_{\mathrm{ref}}\,e^{r/\alpha}$. Our reference is the uniform distribution; the second answer is the best.

# %%
reward, alpha = torch.tensor([0.0, 1.0, 0.6, 0.0], dtype=torch.float64), 0.5
log_target = tilted(torch.full((4,), -math.log(4), dtype=torch.float64), reward, alpha)
Table(
    [
        ("r", *(f"{r:.1f}" for r in reward)),
        ("p*", *(f"{p:.3f}" for p in log_target.exp())),
    ],
    ("", *NAMES),
)

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
response = torch.ones(1, 4, 2, dtype=torch.bool)
masks = draw_masks("exact", response, 3, [stream(0, "masks")])
theta = (theta_old + 0.3).requires_grad_()


def log_prob_of(theta):
    """−L_hat of each rollout, averaged over its masks, [1, 4]."""
    scores = two_tokens(theta).score(tokens[:, :, None], masks.hidden)
    return sequence_log_prob(scores, masks)


# %%
library = wdce(log_prob_of(theta) / 2, weight - 1 / 4)
by_hand = wdce_by_hand(theta, tokens, masks, weight - 1 / 4)
torch.testing.assert_close(library, by_hand, rtol=1e-12, atol=0)
print(f"by hand {by_hand.item():.6f}, dmpo_ref.losses.wdce {library.item():.6f}")

# %% [markdown]
# **The gradient.** $\partial \log\pi(o_d)/\partial\theta_{d,u}=o_d-\mathrm{sigmoid}(\theta_{d,u})$: what was observed minus what was
# expected. So
#
# $$\frac{\partial\,\mathrm{WDCE}}{\partial\theta_{d,u}}=-\frac1{L}\sum_n w_{\mathrm{real}}[n]\;
#   \frac1R\sum_{r:\ d\text{ masked, other in state }u}\frac L{m_r}\,\bigl(o_{n,d}-\mathrm{sigmoid}(\theta_{d,u})\bigr).$$
#
# The formula, autograd, and finite differences of `wdce_by_hand` (`toy.numerics`) side by side. (`compare_gradients` raises an error where
# two of them differ by more than $10^{-9}$. Its indices are those of the code, from 0.)


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
of_log_prob = log_prob_gradients(start_point, tokens, masks)
formula = -torch.einsum("n,ndu->du", (weight - 1 / 4)[0], of_log_prob) / 2
(autograd,) = torch.autograd.grad(library, theta)
numeric = finite_differences(
    lambda t: wdce_by_hand(t, tokens, masks, weight - 1 / 4), start_point
)
WAYS = ("θ[d, u]", "by hand", "autograd", "finite differences")
Table(compare_gradients(formula, autograd, numeric), WAYS)

# %% [markdown]
# **Where it is stationary.** With all answers and all masks in the sum, WDCE is a weighted cross-entropy for each of the six conditionals
# separately. Its minimum is known: $\pi(o_d\mid\text{rest})=p^*(o_d\mid\text{rest})$. Put these six numbers in: is the gradient 0,
# is $p_\theta=p^*$, and how large is the gap?


# %%
def conditional_logits(p):
    """log p(o_1 = 1 | o_2) − log p(o_1 = 0 | o_2) with o_2 hidden, 0 and 1, of a joint
    distribution p[o_1, o_2]."""
    zero, one = torch.cat([p.sum(dim=1, keepdim=True), p], dim=1)
    return (one / zero).log()


# %%
p = log_target.exp().reshape(2, 2)  # p*(o_1, o_2)
theta_star = torch.stack([conditional_logits(p), conditional_logits(p.T)])
optimum = two_tokens(theta_star.requires_grad_())
(gradient,) = torch.autograd.grad(
    wdce(optimum.elbo()[None] / 2, log_target.exp()[None]), theta_star
)
kl = kl_divergence(log_target, optimum.log_prob().detach())
gap = (optimum.log_prob() - optimum.elbo()).abs().max().item()
print("gradient is 0:", gradient.abs().max().item() < 1e-12)
columns = ("KL(p*||p_theta), nats", "largest gap, nats")
Table([(f"{abs(kl):.4f}", f"{gap:.4f}")], columns)

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
# Now do not train a network D. Write $D=\mathrm{sigmoid}(\Delta)$ with $\Delta=\log p_\theta-\log p_{\mathrm{old}}$: then the best
# classifier *is* $p_\theta=p^*$. (The idea of direct discriminative optimisation, [arXiv:2503.01103](https://arxiv.org/abs/2503.01103).)
# The log-loss of that classifier, with $\sum_n w_n$ for $\mathbb E_{p^*}$ and $\frac1N\sum_n$ for $\mathbb E_{p_{\mathrm{old}}}$:
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
# **Where it is stationary.** $\partial/\partial\Delta_n$: $\;-w_n\,\mathrm{sigmoid}(-\Delta_n)+\tfrac1N\mathrm{sigmoid}(\Delta_n)=0$, and
# since $\mathrm{sigmoid}(\Delta)/\mathrm{sigmoid}(-\Delta)=e^{\Delta}$,
#
# $$e^{\Delta_n}=N\,w_n .$$
#
# Each rollout has a value of Δ of its own at which its gradient is 0. Check by autograd, and look at the loss of one rollout.

# %%
at_optimum = (4 * weight).log().requires_grad_()
(gradient,) = torch.autograd.grad(wddo(at_optimum, weight), at_optimum)
print("gradient at e^delta = N w is 0:", gradient.abs().max().item() < 1e-12)
Table([("N w", *(f"{x:.3f}" for x in 4 * weight[0]))], ("answer", *NAMES))

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
# p_old = p_ref, uniform along every order
theta_0 = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
weight_8 = (log_target.exp().repeat(2) / 2)[None]  # rollouts (o, order), N = 8


def losses_on_paths(theta):
    log_policy = two_tokens(theta).path_log_probs().flatten()[None]
    return wddo(log_policy + math.log(4), weight_8), wdce(log_policy, weight_8 - 1 / 8)


def gradients(theta):
    losses = losses_on_paths(theta)
    return [torch.autograd.grad(x, theta, retain_graph=True)[0] for x in losses]


# %%
of_wddo, of_wdce = gradients(theta_0)
torch.testing.assert_close(of_wddo, of_wdce / 2)
print("gradient of WDDO / gradient of WDCE - uniform, at the start")
Table(
    [(f"token {d + 1}", *(f"{x:.3f}" for x in (of_wddo / of_wdce)[d])) for d in (0, 1)],
    ("", "other token hidden", "a 0", "a 1"),
)

# %%
wddo_at_target, wdce_at_target = (x.abs().max().item() for x in gradients(theta_star))
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
def wddo_of(theta):
    return wddo(log_prob_of(theta) - log_prob_of(theta_old), weight)


delta = log_prob_of(start_point) - log_prob_of(theta_old)
coefficient = -weight * torch.sigmoid(-delta) + torch.sigmoid(delta) / 4
formula = torch.einsum("n,ndu->du", coefficient[0], of_log_prob)
(autograd,) = torch.autograd.grad(wddo_of(theta), theta)
numeric = finite_differences(wddo_of, start_point)
Table(compare_gradients(formula, autograd, numeric), WAYS)

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

# %% tags=["hide-input"]
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
print(task.show(puzzle))

# %%
size = policy.config.embedding_size
vocabulary = build_vocabulary(tokenizer, size, alphabet=task.alphabet)
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
mean = rollout.path_log_prob.mean()
print(f"mean log p along the answers' own orders: {mean:.2f} nats")

# %%
hidden = torch.zeros(1, 32, 2**L, rollout.tokens.shape[-1], dtype=torch.bool)
hidden[..., blanks] = all_masks(L)
every_mask = Masks(hidden, hidden, torch.ones(1, 32, 2**L, dtype=torch.float64))
with torch.no_grad():
    scores = token_log_prob(policy, rollout, every_mask, vocabulary)[0]
cost = -scores.sum(dim=-1).T  # Σ over the masked of −log π, [64 masks, 32 answers]
NELBO = elbo_over_masks(cost)
Table(
    [("exact NELBO, nats", *(f"{x:.2f}" for x in NELBO[:10]))],
    ("answer", *range(1, 11)),
)

# %%
print("answer 1: the estimate (L/m) * cost over all masks of one size, nats")
rows = []
for m in range(1, L + 1):
    estimates = L / m * cost[mask_sizes(L) == m, 0]
    mean, deviation = estimates.mean(), estimates.std(correction=0)
    rows.append((m, len(estimates), f"{mean:.2f}", f"{deviation:.2f}"))
Table(rows, ("m", "masks", "mean", "standard deviation"))

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
# | `paper` | pairs: each position with probability $p\sim U[0.1,1]$, and the complement | $L/\max(m,1)$ |
#
# The test of a scheme needs no model. All masks of one size are equally likely, so the expected estimate is
# $\sum_m a_m\cdot(\text{mean cost of size }m)$ with $a_m=\mathbb E[\text{weight}\cdot 1_{|S|=m}]$; the NELBO wants $a_m=1/m$. Also in the
# table: complementary pairs as one might write them at first, $m\sim U\{1..L\}$, weights $L/m$ and $L/(L-m)$. The chances of the sizes of
# `paper`, `toy.enumeration.bernoulli_sizes`, are integrals over $p$.


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
rows = []
for scheme in ("exact", "antithetic", "naive pairs", "paper, p ~ U[0, 1]", "paper"):
    a = coefficients(scheme, L) * torch.arange(1, L + 1)
    rows.append((scheme, *(f"{x:.3f}" for x in a)))
Table(rows, ("a_m · m for m =", *range(1, L + 1)))

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
sizes = (1, 13, 26, 64, 128, 192, 230, 243, 256)
Table([("a_m · m", *(f"{a[m - 1]:.2f}" for m in sizes))], ("L = 256, m =", *sizes))

# %% [markdown]
# Sizes in the middle count 1.11. Sizes below a tenth and above nine tenths of the response count 0.55, because only one of the two masks
# of a pair can have them. So the nearly empty contexts with which generation begins have about half the weight they should have.
#
# Does the code do what these formulas say? 20,000 draws from seeded streams, in units of standard errors:

# %%
response, rows = torch.ones(1, 20_000, L, dtype=torch.bool), []
for scheme in ("exact", "stratified", "antithetic", "paper"):
    masks = draw_masks(scheme, response, 2, [stream(0, "check", scheme)])
    size = masks.hidden.sum(dim=-1)[0]  # [20000, 2]
    drawn = torch.stack(
        [((size == m) * masks.weight[0]).mean(dim=-1) for m in range(1, L + 1)]
    )
    error = drawn.std(dim=1) / 20_000**0.5
    off = (drawn.mean(dim=1) - coefficients(scheme, L)).abs() / error
    rows.append((scheme, off.max().item() < 4))
Table(rows, ("scheme", "within 4 standard errors of the formula, all sizes"))

# %% [markdown]
# A small example, L = 4. Let a hidden token cost 1.44, 1.76, 2.08, 2.40 nats on average when 1, 2, 3, 4 are hidden: the fewer tokens are
# visible, the harder the prediction. Which estimate does each scheme give?

# %%
mean_cost = torch.tensor([1.44, 1.76, 2.08, 2.40], dtype=torch.float64)  # of a token
total_cost = mean_cost * torch.arange(1, 5)  # of a mask with m = 1..4 hidden
Table(
    [
        (scheme, f"{coefficients(scheme, 4) @ total_cost:.2f}")
        for scheme in ("exact", "antithetic", "naive pairs", "paper")
    ],
    ("scheme", "expected estimate, nats"),
)

# %% [markdown]
# 6.48 for 7.68: the naive pairs lose half of the last term, $\tfrac12\cdot\tfrac14\cdot 9.6=1.2$ nats.
#
# **Check yourself.** A response of one token, L = 1. Only one mask is not empty, and its cost c is the exact NELBO. What do one pair of
# `naive pairs` and one pair of `antithetic` estimate, on average?
#
# <details class="choice"><summary>c/2 and c/2</summary>
#
# **No.** Both have the full mask and the empty one in each pair. But `antithetic` gives the full mask the weight $(L+1)/m=2$, which
# corrects this.
#
# </details>
#
# <details class="choice"><summary>c and c</summary>
#
# **No.** In every pair one of the two masks is empty and costs nothing. With the weight $L/m=1$ on the other, the mean of the two is half
# of c.
#
# </details>
#
# <details class="choice"><summary>c/2 and c</summary>
#
# **Right.** `naive pairs`: the mean of 1·c and 0. `antithetic`: the mean of 2·c and 0. Naive pairs count the full mask half, and here
# there is no other.
#
# </details>
#
# ## 5. The exact variance of every scheme
#
# Two forward passes (R = 2). The variance of each scheme is a finite sum over masks: for pairs over all sets S, for independent masks half
# of the variance of one. For `stratified` the two sizes are $m$ and $m+L/2$ with $m\sim U\{1..L/2\}$ (L even), and the positions are
# independent. `toy.enumeration.scheme_moments` has the five sums:

# %%
EXACT = {scheme: scheme_moments(scheme, cost) for scheme in SCHEMES}  # two of [32]
rows = []
for scheme, (mean, variance) in EXACT.items():
    bias, deviation = (mean - NELBO).mean().item(), variance.mean().sqrt().item()
    error = math.hypot(bias, deviation / 32**0.5)
    numbers = (round(bias, 9) + 0.0, deviation, error)
    rows.append((scheme, *(f"{x:.3f}" for x in numbers)))
print("mean over 32 answers, nats")
columns = ("standard deviation of one estimate", "root mean square error of 32 pairs")
Table(rows, ("scheme, R = 2", "bias", *columns))

# %% [markdown]
# These are formulas of our own, so compare them with the library: 20,000 draws for the first answer.

# %%
DRAWN, rows = {}, []
for scheme in ("exact", "stratified", "antithetic", "paper"):
    masks = draw_masks(scheme, response, 2, [stream(0, "variance", scheme)])
    drawn = (masks.weight * cost[mask_index(masks.hidden), 0]).mean(dim=-1)[0]
    mean, variance = (x[0].item() for x in EXACT[scheme])  # of answer 1
    deviation = math.sqrt(variance)
    DRAWN[scheme] = (mean, drawn.mean().item(), deviation, drawn.std().item())
    near = abs(drawn.mean().item() - mean) < 4 * deviation / 20_000**0.5
    rows.append((scheme, near, abs(drawn.std().item() / deviation - 1) < 0.05))
columns = ("mean within 4 standard errors", "deviation within 5 %")
Table(rows, ("scheme", *columns))

# %% tags=["nbval-ignore-output"]
print("answer 1, R = 2, nats")
Table(
    [(name, *(f"{x:.3f}" for x in numbers)) for name, numbers in DRAWN.items()],
    ("scheme", "mean, computed", "drawn", "standard deviation, computed", "drawn"),
)

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
# **Check yourself.** By the table, which of `antithetic` and `paper` has the smaller root mean square error if you average 8 pairs, and
# which if you average 100?
#
# <details class="choice"><summary>`paper` with 8, `antithetic` with 100</summary>
#
# **Right.** With 8 pairs `paper` has $\sqrt{0.262^2+2.230^2/8}=0.83$ nats against 0.90; with 100 it has 0.34 against 0.26. More pairs
# make the noise smaller, but not the bias.
#
# </details>
#
# <details class="choice"><summary>`antithetic` with both, since it has no bias</summary>
#
# **No.** With few pairs most of the error is noise, and the noise of `paper` is smaller.
#
# </details>
#
# <details class="choice"><summary>`paper` with both, since it has less noise</summary>
#
# **No.** The error of `paper` never falls below its bias of 0.262; that of `antithetic` goes to 0.
#
# </details>
#
# ## 6. The sum and the mean
#
# *Mistake 4, published.* In the published form of WDDO the softmax weights, which sum to 1, stand inside a *mean* over the N rollouts:
# $-\frac1N\sum_n[w_n\log\mathrm{sigmoid}(\Delta_n)+\log\mathrm{sigmoid}(-\Delta_n)]$. The positive term is N times too weak, and the
# stationary point moves to $e^{\Delta_n}=w_n$. Does it matter, when $p_\theta$ must sum to 1? Minimise both over all distributions of four
# answers, $p_{\mathrm{old}}$ uniform, each answer drawn once. (By default that code also *sums* $\log p_\theta$ over the R masks, where
# $\log p_{\mathrm{old}}$ is a mean. At $p_\theta=p_{\mathrm{old}}$, $\Delta$ is then $R-1$ times the log-probability instead of 0.)
# `toy.numerics.minimise` is L-BFGS in float64, and raises if the gradient at its end is not 0.


# %%
def ours(logits):
    delta = (logits.log_softmax(dim=0) - uniform.log())[None]
    return wddo(delta, weight)


def published(logits):
    delta = (logits.log_softmax(dim=0) - uniform.log())[None]
    return -(weight * logsigmoid(delta) + logsigmoid(-delta)).mean()


# %% tags=["slide"]
minima = {"p*": log_target}
for name, loss in {"sum (here)": ours, "mean (published)": published}.items():
    logits = minimise(loss, torch.zeros(4, dtype=torch.float64))
    minima[name] = logits.log_softmax(dim=0)
rows = []
for name, log_p in minima.items():
    kl = abs(kl_divergence(log_target, log_p))
    rows.append((name, *(f"{p:.3f}" for p in log_p.exp()), f"{kl:.3f}"))
Table(rows, ("", *NAMES, "KL(p*||p_theta), nats"))

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
table = []
for name, rows in by_name(read("variants")).items():
    if name not in ("wdce, negative", "wdce, none, elbo weights"):
        kl = sorted(row["after"]["kl_target_policy"] for row in rows)
        table.append((name, f"{kl[1]:.3f}", f"{kl[2]:.3f}"))
print("KL(p*||p_theta) at the end, nats")
Table(table, ("loss, baseline", "median", "largest"))

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
def expected_wdce(theta, factor=1.0):
    """WDCE over all answers and masks; a scheme multiplies each mask by its factor."""
    estimates = two_tokens(theta).mask_estimates()
    return -(CHANCE * factor) @ estimates @ log_target.exp()


# %%
draws = {"all masks": (CHANCE[None], torch.ones(1, dtype=torch.float64))}
draws |= {f"R = {R}": multinomial(R, CHANCE.log()) for R in (16, 8, 4, 2, 1)}
size = mask_sizes(2)[1:]
of_paper = size * coefficients("paper", 2)[size - 1]
losses = {
    "path, exact": expected_wddo_on_paths,
    "path, one step": expected_wddo_on_a_step,
}
for name, (counts, chances) in draws.items():
    losses[f"ELBO, {name}"] = partial(expected_wddo, counts=counts, chances=chances)
losses["WDCE, any R"] = expected_wdce
losses["WDCE, paper"] = partial(expected_wdce, factor=of_paper)

# %%
ends, KL, rows = {}, {}, []
for name, loss in losses.items():
    ends[name] = two_tokens(minimise(loss, theta_old)).log_prob()
    KL[name] = kl_divergence(log_target, ends[name])
    shares = (f"{p:.3f}" for p in ends[name].exp())
    rows.append((name, *shares, f"{abs(KL[name]):.4f}"))
Table(rows, ("minimum of", *NAMES, "KL(p*||p_theta), nats"))

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
rows = []
for name in ("R = 1", "R = 2", "R = 4"):
    theta, kl = theta_old, []
    for _ in range(6):
        loss = partial(losses[f"ELBO, {name}"], theta_old=theta)
        theta = minimise(loss, theta)
        kl.append(abs(kl_divergence(log_target, two_tokens(theta).log_prob())))
    rows.append((name, *(f"{x:.4f}" for x in kl)))
print("KL(p*||p_theta) after each round, nats")
Table(rows, ("round", *range(1, 7)))

# %% [markdown]
# The error gets smaller in every round. If $p_{\mathrm{old}}=p_\theta$, both are scored on the same masks, so Δ is exactly 0 whatever the
# masks, and there is no noise inside the sigmoid. p\* is a fixed point over rounds; gap and noise make each round a shorter step, as
# self-normalising did in [notebook 03](03_weights.ipynb).
#
# Then why does the trained policy end ten times further from p\*? The *answers* come nearer in every round; the *orders* need not. At Δ = 0
# the gradient of WDDO has the direction of that of WDCE with `uniform`, and on ELBOs this one lets the orders of a policy contradict each
# other ([04](04_weight_baseline.ipynb), section 7, derives it without any noise). Then equal answers get unequal weights. Look at the table
# again: WDCE with the uniform baseline is good on paths (0.006), and on masks it is the worst row of that table (0.070). With two *steps*
# of the path, which cost as much as two masks, it ends at 0.012. WDDO on two steps ends at 0.023 on the puzzles of
# [the scoreboard](../book/scoreboard.md), where the whole path gives 0.017. WDCE without a baseline has in every step a gradient towards
# the data (section 3), which brings the orders together. How much of WDDO's distance is due to its orders is not measured here; exercise 4
# asks for it.
#
# **Check yourself.** Suppose that $\log p_{\mathrm{old}}$ were computed on one mask (R = 1) of its own, drawn independently of that of
# $\log p_\theta$. A round starts at $p_{\mathrm{old}}=p^*$. Where is the minimum of its expected loss?
#
# <details class="choice"><summary>At p\*: the noise of the two masks has the same distribution and cancels.</summary>
#
# **No.** It has the same mean, but the sigmoid is not linear. Only if both are scored on *the same* mask is Δ exactly 0.
#
# </details>
#
# <details class="choice"><summary>Away from p\*: Δ is noisy even where both policies are equal.</summary>
#
# **Right.** On these two tokens it is 0.066 nats away. Then p\* is no fixed point any more, and more rounds do not help: this is why
# the objective stores $\log p_{\mathrm{old}}$ on the masks of its gradient steps (section 8).
#
# </details>
#
# <details class="choice"><summary>At p\*: there is no gap left, since all conditionals of p\* agree.</summary>
#
# **No.** This removes the gap, one of the two errors. The noise of single masks remains, for p\* too.
#
# </details>
#
# ## 8. The objectives of `train`
#
# In the library an objective is two functions: `masks`, which positions are hidden, and `loss`, a scalar made of the token
# log-probabilities, the masks, the experience and $w_{\mathrm{real}}$. Do they compute what we built by hand? Take the 32 answers of
# section 4. `weigh` computes what is known once the rollouts are drawn; WDDO also needs $\log p_{\mathrm{old}}$ on the masks of every
# gradient step, which `score_on_masks` computes.

# %% tags=["hide-input"]
from dmpo_ref.experience import score_on_masks, step_masks, weigh
from dmpo_ref.gradient import gradient_step, real_weight
from dmpo_ref.objectives import build_objective
from dmpo_ref.tasks.rewards import score_answers

# %%
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
rows = []
for name in ("wdce", "wddo"):
    config, objective, experience = prepare(name)
    stored = None if experience.log_old is None else tuple(experience.log_old.shape)
    rows.append((name, tuple(experience.weight.shape), stored))
log_old, _ = score_on_masks(policy, None, vocabulary, objective, rollout, [0], config)
same = torch.equal(log_old, experience.log_old)
print("what weigh stored is the result of score_on_masks:", same)
Table(rows, ("loss", "w [G, N]", "log p_old stored [K, G, N, R, S]"))

# %% [markdown]
# Now a policy that differs from $p_{\mathrm{old}}$, so that Δ is not 0, and both losses on the masks of the first gradient step.


# %%
def by_hand(name, experience, masks, scores):
    """The loss from its definition: log-probabilities of the responses [1, 32], then
    the functions of sections 2 and 3."""
    log_prob = (masks.weight * scores.sum(dim=-1)).mean(dim=-1)
    if name == "wdce":
        w_real = experience.weight - 1 / 32  # minus the uniform baseline
        return -(w_real * log_prob / L).sum()
    log_prob_old = (masks.weight * experience.log_old.sum(dim=-1)).mean(dim=-1)
    return wddo_by_hand(log_prob - log_prob_old, experience.weight)


# %%
learner = copy.deepcopy(policy)
with torch.no_grad():
    for parameter in learner.parameters():
        noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        parameter += 0.02 * noise


def first_step(name):
    """What the first gradient step has, and the scores of `learner` on its masks."""
    config, objective, experience = prepare(name)
    batch = experience.of_step(k=0)
    masks = step_masks(objective, batch.rollout, batch.position, config.seed, k=0)
    with torch.no_grad():
        scores = token_log_prob(learner, batch.rollout, masks, vocabulary)
    return config, objective, batch, masks, scores


# %%
library, rows = {}, []
for name in ("wdce", "wddo"):
    config, objective, batch, masks, scores = first_step(name)
    w_real = real_weight(scores, masks, batch, config.weight)
    library[name] = objective.loss(scores, masks, batch, w_real)
    own = by_hand(name, batch, masks, scores)
    torch.testing.assert_close(library[name], own)
    rows.append((name, f"{library[name]:.6f}", f"{own:.6f}"))
Table(rows, ("loss", "library", "by hand"))

# %% [markdown]
# `gradient_step`, which also changes the parameters, returns the loss before the step. Is it the same?

# %%
for name, value in library.items():
    config, objective, batch, masks, _ = first_step(name)
    trained = copy.deepcopy(learner)
    optimizer = torch.optim.SGD(trained.parameters(), 1e-3)
    loss, _ = gradient_step(
        trained, optimizer, vocabulary, objective, batch, masks, config
    )
    print(f"{name}: gradient_step returns the same:", math.isclose(loss, value.item()))

# %% [markdown]
# Notebook [07](07_dmpo_on_sudoku.ipynb) takes a whole round step by step with these functions.
#
# **Check yourself.** A round here has 32 rollouts, K = 4 gradient steps and R = 2 masks. Its gradient steps feed 256 sequences to the
# policy. How many more does WDDO feed than WDCE, to know $\log p_{\mathrm{old}}$?
#
# <details class="choice"><summary>none: the weights need log p_old too, so it is known</summary>
#
# **No.** The weights use $\log p_{\mathrm{old}}$ along the order in which a rollout was drawn. Δ needs it on the masks of the loss.
#
# </details>
#
# <details class="choice"><summary>64: the two masks of each of the 32 rollouts</summary>
#
# **No.** Each gradient step draws new masks, and both policies must be scored on the same ones.
#
# </details>
#
# <details class="choice"><summary>256: as many as its gradient steps</summary>
#
# **Right.** 4 · 32 · 2, the first axes of the stored $\log p_{\mathrm{old}}$, [K, G, N, R, S] with G = 1. They are fed without a
# gradient, which is cheaper.
#
# </details>
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
