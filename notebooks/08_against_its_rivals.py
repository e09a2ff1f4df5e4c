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
# # 08 · Against its rivals
#
# Six other objectives are compared with DMPO on the same policy, the same number of rollouts and the same puzzle. The problem is so small
# that the exact result is known: one Sudoku with two solutions, where p\* and every policy can be enumerated.
#
# **You will learn**
# - the loss of each objective in two lines, and which log-probabilities it needs;
# - which objectives reach p\*, which only solve the puzzle, and which lose one of its two solutions;
# - that two of the other objectives have the same gradient in the first step, and that one of them does as well as DMPO here;
# - which distributions a product of marginals can represent, as an exact inequality, and how much of the measurements it explains;
# - a control experiment that separates two possible explanations.
#
# **You need** [03](03_weights.ipynb) for the weights, [05](05_two_losses.ipynb) for WDCE. **It takes** three quarters of an hour to read
# and a minute to run.

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
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

from dmpo_ref import SamplerConfig, encode, sample, stream, wdce
from dmpo_ref.config import LossConfig, WeightConfig
from dmpo_ref.objectives import build_objective
from dmpo_ref.objectives.diffu_grpo import clip_loss, one_shot_masks
from dmpo_ref.objectives.log_variance import log_variance
from dmpo_ref.objectives.reinforce import reinforce
from dmpo_ref.objectives.wd1 import wd1
from toy.figures.rivals import draw_columns, draw_control, draw_runs, draw_solutions
from toy.oracle import kl_divergence, rewards, with_the_rest
from toy.products import descend_products, log_product, marginals
from toy.studies.acts import by_name
from toy.studies.acts import read as read_study
from toy.studies.objectives import (
    OBJECTIVES,
    along_orders,
    conditionals,
    load_puzzle,
    log_order_target,
    lost_a_solution,
    measure,
    medians,
    read,
    regularised_optimum,
    train_once,
)
from toy.tabular import one_shot_marginals

# %% [markdown]
# ## 1. A puzzle with two answers
#
# Five blanks, so $4^5=1024$ answers, of which two are solutions. The reward is 1 for either and 0 for the rest, α = 0.2. The reference
# stays fixed, so
#
# $$p^*(o)\;\propto\; p_{\mathrm{ref}}(o)\,e^{\,r(o)/\alpha}$$
#
# is a fixed list of 1024 numbers. `toy.oracle` computes it, and the distribution of any policy, in float64.

# %%
world = load_puzzle()
answers, log_target = world.solutions, world.log_target
where = [world.exact.texts.index(text) for text in answers]
before = measure(world.policy)
p_1, p_2 = log_target[where].exp().tolist()
named = {"reference": before["shares"], "p*": [p_1, p_2]}
print(f"KL(p*||p_ref) = {before['kl_target_policy']:.3f} nats")
Table(
    [(name, *(f"{q:.3f}" for q in [*two, sum(two)])) for name, two in named.items()],
    ("", "solution 1", "solution 2", "together"),
)

# %% tags=["nbval-ignore-output"] alt="Two filled boards, the solutions of one puzzle. They differ in four of the five blanks."
draw_solutions(world.item.puzzle, answers)
plt.show()

# %% [markdown]
# Black digits are clues, blue ones were filled in. The solutions differ in four of the five blanks, and these four depend on each other: a
# 3 in the first cell of the second row determines the other three. An answer with three cells of solution 1 and one of solution 2 has
# reward 0.
#
# The target multiplies the probability of both solutions by the same $e^{5}$, so p\* keeps the odds that the reference gives them, 62 to
# 38. A method that only maximises reward has no reason to keep them.
#
# **Check yourself.** Suppose that solution 2 had a reward of 0.9, and solution 1 still 1. The odds of the two under p\* would be about …
#
# <details class="choice"><summary>62 to 38</summary>
#
# **No.** These are the odds for equal rewards: then both solutions are multiplied by the same number.
#
# </details>
#
# <details class="choice"><summary>64 to 36</summary>
#
# **No.** That multiplies the share of solution 2 by 0.9. The reward stands in an exponent, and is divided by α.
#
# </details>
#
# <details class="choice"><summary>73 to 27</summary>
#
# **Right.** Relative to solution 1, solution 2 is multiplied by $e^{-0.1/0.2}=0.61$: 62 to 38 becomes 62 to 23.
#
# </details>
#
# ## 2. The objectives, two lines each
#
# $A_n=r_n-\bar r$ is the advantage in a group of N rollouts. There are three kinds of log-probability:
#
# - along the **path**: $\log p_\theta(o;\sigma)=\sum_i\log\pi_\theta(o_{\sigma(i)}\mid o_{\sigma(<i)})$, exact for random-order rollouts,
#   at the cost of L forward passes;
# - on random **masks**, an estimate of the ELBO;
# - in **one shot**: $\ell^1_\theta(o)=\sum_k\log\pi_\theta(o_k\mid \tilde q, M\dots M)$, the whole response hidden, one forward pass. This
#   is the log-probability of a *product of marginals*, not of the policy that drew the rollout. As in d1, $\tilde q$ is the prompt with
#   each token hidden with probability 0.15, drawn anew for each rollout and gradient step, the same for $p_\theta$, $p_{\mathrm{old}}$ and
#   $p_{\mathrm{ref}}$; the clues of a board count as prompt.
#
# **WDCE (DMPO)**, [arXiv:2510.08233](https://arxiv.org/abs/2510.08233), `dmpo_ref.losses.wdce`, masks:
# $$-\sum_n w_n\,\mathrm{ELBO}_\theta(o_n)/L,$$
# $$w=\operatorname{softmax}_n\bigl(r_n/\alpha+\log p_{\mathrm{ref}}-\log p_{\mathrm{old}}\bigr).$$
#
# **diffu-GRPO**, [arXiv:2504.12216](https://arxiv.org/abs/2504.12216), `dmpo_ref.objectives.diffu_grpo.clip_loss`, one shot; also with
# β = 0.04:
# $$\tfrac1N\sum_n\tfrac1L\sum_k\Bigl[-\min\bigl(\rho_kA_n,\ \operatorname{clip}(\rho_k,1\pm\varepsilon)A_n\bigr)+
#   \beta\,(e^{d_k}-d_k-1)\Bigr],$$
# $$\rho_k=\pi_\theta/\pi_{\mathrm{old}},\qquad d_k=\log\pi_{\mathrm{ref}}-\log\pi_\theta\ \text{ of token } k.$$
#
# **wd1**, [arXiv:2507.08838](https://arxiv.org/abs/2507.08838), `dmpo_ref.objectives.wd1.wd1`, one shot:
# $$\sum_n\bigl[\operatorname{softmax}(-A)_n-\operatorname{softmax}(A)_n\bigr]\,\ell^1_\theta(o_n).$$
#
# **REINFORCE**, Williams (1992), `dmpo_ref.objectives.reinforce.reinforce`, path; with $R=r$, or with KL,
# $R=r-\alpha\,(\log p_\theta-\log p_{\mathrm{ref}})$:
# $$-\tfrac1N\sum_n\rho_n\Bigl(R_n-\tfrac1{N-1}\sum_{j\ne n}R_j\Bigr),\qquad \rho=p_\theta(o;\sigma)/p_{\mathrm{old}}(o;\sigma).$$
#
# **Log-variance**, as in MDNS, [arXiv:2508.10684](https://arxiv.org/abs/2508.10684), `dmpo_ref.objectives.log_variance.log_variance`, path:
# $$\operatorname{Var}_n\bigl[\log p_\theta(o_n;\sigma_n)-\log p_{\mathrm{ref}}(o_n;\sigma_n)-r_n/\alpha\bigr].$$
#
# Some of these objectives are related, which the formulas do not show. We compare their gradients, with random numbers as
# log-probabilities.


# %%
def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


draw, alpha = stream(0, "relatives"), 0.2
log_policy, log_ref, r = torch.randn(3, 3, 8, generator=draw, dtype=torch.float64)
log_policy.requires_grad_()
by_variance = gradient(log_variance(log_policy - log_ref, r, alpha), log_policy)
regularised = r - alpha * (log_policy.detach() - log_ref)
log_ratio = log_policy - log_policy.detach()  # log ρ, 0 on fresh rollouts
ratio = by_variance / gradient(reinforce(log_ratio, regularised), log_policy)
print(
    f"gradient of log-variance / gradient of REINFORCE with KL: {ratio.min():.6f} to "
    f"{ratio.max():.6f};  2/alpha = {2 / alpha:g}"
)

# %% [markdown]
# On fresh rollouts, the two gradients are the same up to this factor, for every rollout. They differ from the second step of a round on,
# where the rollouts are stale: REINFORCE then has a ratio ρ, and the log-variance needs none.

# %%
A = r - r.mean(dim=-1, keepdim=True)
same = torch.allclose(
    wd1(log_policy, r),
    wdce(log_policy, A.softmax(dim=-1) - (-A).softmax(dim=-1)),
    rtol=1e-12,
)
print("wd1 is WDCE with the weights softmax(A) - softmax(-A):", same)

# %%
token = torch.randn(3, 8, 1, 5, generator=draw, dtype=torch.float64, requires_grad=True)
seen = torch.ones(3, 8, 1, 5, dtype=torch.bool)
loss = clip_loss(token, token.detach(), None, seen, A, clip=0.2, kl=0.0)
by_hand = (-A / 5 / 24)[:, :, None, None].expand_as(token)
print(
    "on-policy diffu-GRPO is -A times the gradient of the one-shot log-probability / "
    "L:",
    torch.allclose(gradient(loss, token), by_hand, rtol=1e-12),
)

# %% [markdown]
# So wd1 differs from WDCE in three ways: its weights do not lead to p\*, some of its weights are negative, and it uses the one-shot
# log-probability. Which of these matters? Section 6 changes only one of them.
#
# Every objective is a pair of functions, `masks` and `loss` (`dmpo_ref.objectives.base.Objective`), and declares whether its *loss* needs
# log-probabilities of the old policy and of the reference:


# %%
def objective(name, **options):
    return build_objective(LossConfig(name=name, **options), WeightConfig(alpha=0.2))


NAMES, rows = ("wdce", "diffu_grpo", "wd1", "reinforce", "log_variance"), []
for name in NAMES:
    needs = objective(name, kl=0.2 if name == "reinforce" else 0.0)
    rows.append((name, needs.uses_log_old, needs.uses_log_ref, needs.follows_path))
Table(rows, ("objective", "log p_old", "log p_ref", "the rollout's own order"))

# %% [markdown]
# (`reinforce` with its KL term.) WDCE needs neither: $p_{\mathrm{ref}}$ and $p_{\mathrm{old}}$ enter only the weights, which are computed
# once, when the rollouts are drawn. wd1 needs neither, because it does not use them at all.
#
# **Check yourself.** Which log-probability does diffu-GRPO use for a token of an answer?
#
# <details class="choice"><summary>The ELBO over random masks.</summary>
#
# **No.** That is what WDCE and coupled-GRPO estimate.
#
# </details>
#
# <details class="choice"><summary>That of the token given everything that was filled before it.</summary>
#
# **No.** That is the path likelihood, with as many forward passes as tokens.
#
# </details>
#
# <details class="choice"><summary>That of the token when the whole answer is hidden.</summary>
#
# **Right.** One forward pass for all tokens: the product of these is what it moves, not $p_\theta(o)$.
#
# </details>
#
# ## 3. 84 runs
#
# `python -m toy.studies.objectives` (results of 2026-11-22, `toy/results/objectives.jsonl`). Every run draws 64 rollouts in each of 50
# rounds, in groups of N = 4, 16 or 64, and takes 2 gradient steps a round: 3,200 rollouts, 100 steps. First comes a sweep: each objective
# with three learning rates at N = 16, one seed. For each objective, the rate that is best *by its own goal* is used from then on: the exact
# probability of a right answer for those that maximise reward, the exact KL(p\*‖p_θ) for those whose target is p\*. Then come three other
# seeds at each N.

# %%
final = by_name([row for row in read() if row["kind"] == "final"])
keys, table = ("kl_target_policy", "kl_policy_target", "solved", "rarer"), []
for name, rows in final.items():
    for N in (4, 16, 64):
        runs = [row for row in rows if row["num_rollouts"] == N]
        after, rate = medians(runs), runs[0]["learning_rate"]
        lost = f"{sum(map(lost_a_solution, runs))}/{len(runs)}"
        table.append((name, N, rate, *(f"{after[key]:.4f}" for key in keys), lost))
columns = ("KL(p*||p)", "KL(p||p*)", "solved", "rarer solution", "lost one")
Table(table, ("median of 3 seeds", "N", "learning rate", *columns))

# %% [markdown]
# "Lost" means: less than a tenth of its share of p\*.

# %% tags=["nbval-ignore-output", "slide"] alt="Left: KL(p*||p_theta) of every run by method, on a log scale: WDCE and REINFORCE with KL below 0.02, log-variance from 0.02 to 0.2, plain REINFORCE from 0.1 to 0.3, the one-shot methods above 1. Right: probability of the rarer solution: near 0 for the one-shot methods, from 0.33 to 0.5 for plain REINFORCE, near the dashed line of p* for the others."
draw_runs(final, rarer=p_2)
plt.show()

# %% [markdown]
# The objectives form three groups.
#
# - **WDCE, REINFORCE with KL, log-variance** end near p\*, for every N, log-variance less near than the other two.
# - **Plain REINFORCE** solves the puzzle most often and drifts away from p\* by 0.1 to 0.3 nats, mostly towards equal shares. It does not
#   lose a solution in 100 steps, although its goal does not require both: every split of the probability over the two solutions has the
#   same reward.
# - **The one-shot objectives** lose one of the two solutions in every run, with and without a KL term.
#
# Is DMPO the best? We compare the numbers.

# %%
rows = []
for name in ("WDCE (DMPO)", "REINFORCE, KL", "log-variance", "REINFORCE"):
    median = medians(final[name])["kl_target_policy"]
    rows.append((name, f"{median:.4f}", final[name][0]["forward_passes"]))
columns = ("KL(p*||p), nats, median of 9 runs", "forward passes in a run")
Table(rows, ("", *columns))

# %%
one_shot = [
    row for name in ("diffu-GRPO", "diffu-GRPO, β 0.04", "wd1") for row in final[name]
]
print(
    f"one-shot objectives: {sum(map(lost_a_solution, one_shot))} of {len(one_shot)} "
    "runs lost a solution"
)
on_path = [row for name in ("REINFORCE", "REINFORCE, KL") for row in final[name]]
print(f"REINFORCE, both: {sum(map(lost_a_solution, on_path))} of {len(on_path)}")

# %% [markdown]
# The number of forward passes does not show the whole cost: it counts *calls* of the network, for batches of any size. How many sequences
# does a gradient step feed? The cell draws the masks of each objective for 64 rollouts, as many as in a round.

# %%
prompts = encode(world.tokenizer, world.task, [world.item])
generators = [stream(0, "masks")]
rollout = sample(
    world.policy,
    prompts,
    SamplerConfig(),
    world.vocabulary,
    num_rollouts=64,
    generators=generators,
)
rows = []
for name in NAMES:
    hidden = objective(name).masks(rollout, generators).hidden  # [1, 64, R, S]
    rows.append((name, hidden.shape[2], hidden[..., 0].numel()))
Table(rows, ("objective", "sequences for a rollout", "in a gradient step"))

# %% [markdown]
# **DMPO is not better than KL-regularised REINFORCE here.** Both come within a hundredth of a nat of p\*, and which one is better depends
# on N. Where exact path log-probabilities of the current policy are available, regularised policy gradient is a good way to reach p\*;
# nothing in this notebook contradicts this.
#
# The advantage of DMPO is that its loss does not need the path. Its gradient needs only a mask estimate of the current policy, here with
# two masks and so two sequences for each rollout, for any sampler. Low-confidence remasking and parallel decoding, which have no path
# log-probability, can be used too (although their answers are not samples of $p_\theta$, so that the weights then lead to a distribution
# other than p\*: [06](06_samplers.ipynb), section 3). REINFORCE and log-variance need $\log p_\theta(o;\sigma)$ at every step of the
# rollout, with gradient: L sequences for each rollout. For five blanks this costs little; for 256 tokens the difference is large. But the
# *weights* of these WDCE runs did use path probabilities, of $p_{\mathrm{ref}}$ and $p_{\mathrm{old}}$, once and without gradient. What
# happens if these must be ELBOs too? (Command `python -m toy.studies.acts variants`, 2026-11-22, the same puzzle, N = 64, 200 steps,
# learning rate 2e-4.)

# %%
variants, rows = by_name(read_study("variants")), []
for name in ("wdce, none", "wdce, none, elbo weights"):
    rows.append((name, f"{medians(variants[name])['kl_target_policy']:.3f}"))
Table(rows, ("objective, baseline", "median KL(p*||p), nats"))

# %% [markdown]
# Then DMPO is eight times as far from p\*, but still nearer than every one-shot objective.
#
# The sweep deserves a closer look, because it chose the learning rates. The rates that maximise the probability of a right answer may be
# exactly those that lose a solution.

# %%
table = []
for row in read():
    if row["kind"] == "sweep" and OBJECTIVES[row["name"]][0] == "reward":
        after = row["after"]
        shown = f"{after['solved']:.3f}", f"{min(after['shares']):.4f}"
        kl = f"{after['kl_target_policy']:.3f}"
        table.append((row["name"], row["learning_rate"], *shown, kl))
columns = ("learning rate", "solved", "rarer solution", "KL(p*||p)")
Table(table, ("N = 16, one seed", *columns))

# %% [markdown]
# They are. At a tenth of the chosen rate the one-shot objectives still keep both solutions, and solve the puzzle two times out of three
# instead of nine times out of ten or more. REINFORCE at *its* lowest rate solves it more often than they do at any rate that keeps both. So
# the rate is not the only cause of a lost solution. But "in every run" is true for the rates that maximise reward, in a sweep of three
# rates and one seed.
#
# **Check yourself.** Suppose that the rate of diffu-GRPO had been chosen by KL(p\*‖p_θ), as that of DMPO. By the sweep, what would you
# expect of its runs?
#
# <details class="choice"><summary>A lost solution, as now, with a smaller divergence.</summary>
#
# **No.** The divergence is smallest at the rate 0.0001, and there the rarer solution has 0.256: nothing is lost.
#
# </details>
#
# <details class="choice"><summary>Both solutions, with two right answers out of three.</summary>
#
# **Right.** The rate would be 0.0001: the puzzle is solved with probability 0.68, the rarer solution has 0.26. The way in which rates are
# chosen is a part of the result.
#
# </details>
#
# <details class="choice"><summary>Both solutions, with nearly all answers right.</summary>
#
# **No.** No rate of the sweep gives diffu-GRPO both: where it keeps both solutions, at 0.0001, it solves the puzzle with 0.68.
#
# </details>
#
# ## 4. Watch it happen
#
# Half as many rounds (25) and one seed. The first run is diffu-GRPO with the rate of the table, the second one WDCE with its own rate. The
# rates differ, but section 6 shows that this is not the cause of the difference. This takes a few seconds.

# %%
SHORT = (
    "train.rounds=25",
    "train.num_rollouts=16",
    "train.prompts_per_round=4",
    "train.steps_per_round=2",
)
GRPO = ("loss.name=diffu_grpo", "weight.log_ratio=none")
grpo = train_once(*SHORT, *GRPO, "optimizer.learning_rate=1e-3").policy
dmpo = train_once(*SHORT, "optimizer.learning_rate=3e-4").policy
after_grpo, after_dmpo = measure(grpo), measure(dmpo)

# %%
statements = {
    "diffu-GRPO solves the puzzle, p > 0.95": after_grpo["solved"] > 0.95,
    "DMPO solves the puzzle, p > 0.85": after_dmpo["solved"] > 0.85,
    "diffu-GRPO, rarer solution below 0.01": min(after_grpo["shares"]) < 0.01,
    "DMPO, rarer solution above 0.3": min(after_dmpo["shares"]) > 0.3,
}
Table(statements.items(), ("after 25 rounds", "holds"))

# %% [markdown]
# Where is the probability of each policy: on the two solutions, on the four wrong answers that the reference likes best, on the other 1,018?

# %%
wrong = (
    log_target.index_fill(0, torch.tensor(where), -torch.inf).topk(4).indices.tolist()
)
columns = {
    "reference": world.exact.log_prob,
    "diffu-GRPO": world.distribution(grpo).log_prob,
    "WDCE (DMPO)": world.distribution(dmpo).log_prob,
    "target p*": log_target,
}
columns = {name: with_the_rest(p, [*where, *wrong]) for name, p in columns.items()}
print(
    "every column sums to 1:",
    all(abs(sum(column) - 1) < 1e-9 for column in columns.values()),
)

# %% tags=["nbval-ignore-output", "hide-input"] alt="Exact probabilities after 25 rounds. DMPO has both solutions near p*; diffu-GRPO has nearly everything on solution 1; the reference prefers a wrong answer."
title = "25 rounds: DMPO moves towards p*, diffu-GRPO towards one answer"
draw_columns(columns, others=len(log_target) - 6, title=title)
plt.show()
Table(
    [(name, *(f"{q:.6f}" for q in column[:2])) for name, column in columns.items()],
    ("", "solution 1", "solution 2"),
)

# %% [markdown]
# In the end, accuracy does not show the difference; that of diffu-GRPO is even higher. It only shows when *several* answers are sampled
# (pass@k), or when solution 2 is needed later: a policy that gives it probability $10^{-5}$ draws it once in a hundred thousand rollouts,
# so no reward will bring it back.
#
# **Check yourself.** A policy gives all its probability to one of two solutions. Which number does *not* show it?
#
# <details class="choice"><summary>accuracy</summary>
#
# **Right.** Every sample is right. It is even higher than that of p\*, which keeps some wrong answers.
#
# </details>
#
# <details class="choice"><summary>KL(p\*‖p_θ)</summary>
#
# **No.** It is large, or infinite: a mode of p\* has no probability.
#
# </details>
#
# <details class="choice"><summary>the entropy of its answers</summary>
#
# **No.** It falls to 0, where that of p\* is at least that of the two solutions.
#
# </details>
#
# ## 5. A hypothesis
#
# *"The one-shot log-probability is that of a product of marginals. A product cannot represent two correlated answers, so it must drop
# one."*
#
# We make this exact. Let $q$ be a product, one distribution for each cell, and let the two solutions differ in $h$ cells. In each such cell
# $c$, $q$ gives probability $a_c$ to the digit of solution 1 and $b_c$ to that of solution 2, so $a_c+b_c\le 1$. Since geometric means are
# superadditive, the probabilities $q(1)$ and $q(2)$ of the two solutions satisfy
#
# $$q(1)^{1/h}+q(2)^{1/h}\;\le\;\Bigl(\prod_c a_c\Bigr)^{1/h}+\Bigl(\prod_c b_c\Bigr)^{1/h}
# \;\le\;\Bigl(\prod_c (a_c+b_c)\Bigr)^{1/h}\;\le\;1 .$$
#
# Equality holds when $a_c=1-b_c$ is the same in each of the $h$ cells, and the other cells are certain. Here $h=4$. Which product with the
# odds of p\* solves the puzzle most often?

# %%
h = sum(a != b for a, b in zip(*answers, strict=True))
share = 1 / (1 + (p_2 / p_1) ** (1 / h))  # a_c, the same in every cell
bounds = {
    "product with equal shares, at most": [0.5**h] * 2,
    "product with the odds of p*, at most": [share**h, (1 - share) ** h],
    "p*": [p_1, p_2],
}
print(f"the solutions differ in h = {h} cells")
Table(
    [(name, *(f"{q:.4f}" for q in [*two, sum(two)])) for name, two in bounds.items()],
    ("", "solution 1", "solution 2", "together"),
)

# %% [markdown]
# At most about an eighth. A product that solves the puzzle reliably *must* have nearly all of its probability on one solution: with
# $q(1)=0.9$, solution 2 has at most $(1-0.9^{1/4})^4$, half a millionth. This half of the hypothesis is a theorem.
#
# What happens if a product is *trained* towards p\*? It depends on the direction of the KL, as in
# [02](02_mode_seeking_and_mass_covering.ipynb). The minimum of forward KL is exactly at the marginals of p\*. Reverse KL, which is what
# "reward with a KL term" means ($\mathbb E_q[r]-\alpha\,\mathrm{KL}(q\|p_{\mathrm{ref}})=\text{const}-\alpha\,\mathrm{KL}(q\|p^*)$), has no
# minimum in closed form. First the forward one.

# %%
symbols = world.vocabulary.allowed.nonzero().squeeze(-1)
digits = (world.exact.tokens.unsqueeze(-1) == symbols).long().argmax(-1)  # [1024, 5]
log_marginals = marginals(log_target, digits, 4).log()  # [5, 4]
forward = log_product(log_marginals, digits)
forward_kl = kl_divergence(log_target, forward)
forward_shares = forward[where].exp().tolist()
print(
    f"forward KL: best product {forward_kl:.3f} nats from p*, solutions "
    f"{forward_shares[0]:.3f} and {forward_shares[1]:.3f}"
)

# %% [markdown]
# We minimise the reverse KL by gradient descent, from eight starts at once: the one-shot marginals of the reference, the marginals of p\*,
# and six random starts. We do the same for the expected reward without a KL term, from one start. `descend_products` takes 1,000 Adam
# steps.

# %%
solved = torch.zeros(len(log_target), dtype=torch.float64).index_fill(
    0, torch.tensor(where), 1.0
)
drawn = [
    torch.randn(5, 4, dtype=torch.float64, generator=stream(seed, "product"))
    for seed in range(6)
]
reference = one_shot_marginals(world.policy, prompts, world.vocabulary)
starts = torch.stack([reference, log_marginals, *drawn])
by_reverse_kl = descend_products(
    lambda log_q: (log_q.exp() * (log_q - log_target)).sum(dim=-1), starts, digits
)
by_reward = descend_products(lambda log_q: -(log_q.exp() @ solved), starts[:1], digits)

# %%
names = {where[0]: "solution 1", where[1]: "solution 2"}
began = ("reference", "p*", *["random"] * 6)
ends = [("reverse KL", *pair) for pair in zip(began, by_reverse_kl, strict=True)]
rows = []
for goal, start, log_q in [*ends, ("reward", "reference", by_reward[0])]:
    best = int(log_q.argmax())
    end = names.get(best, f"wrong {world.exact.texts[best]}")
    lost = (log_q[where].min().exp() < 1e-6).item()
    kl = kl_divergence(log_q, log_target)
    rows.append((goal, start, end, f"{log_q[best].exp():.2f}", f"{kl:.2f}", lost))
print(
    f"a point mass on solution 1: KL(q||p*) = -log p*(1) = {-log_target[where[0]]:.3f}"
)
columns = ("ends on", "its q", "KL(q||p*)", "rarer solution below 1e-6")
Table(rows, ("objective", "start", *columns))

# %% [markdown]
# The reverse KL of a product has many local minima, each near a single answer, right or wrong. From the marginals of the reference, the
# descent ends on a *wrong* answer, 5.5 nats from p\*, because the most probable digits of its four cells do not go together. The best of
# our starts ends on solution 1 with 0.50 nats, about the 0.493 of a point mass there; we found no better one. (Adam has not fully converged
# after 1,000 steps.) From every start, at most one of the two solutions is kept, *with a KL term of the full strength α*. So losing
# solution 2 costs half a nat of reverse KL, and we found no product that keeps both and costs less. The diffu-GRPO run of section 4, whose
# policy is not a product, ended at 0.6. This makes it plausible that the KL term β does not prevent the loss of a solution in the table.
#
# **Check yourself.** A product gives solution 1 the probability 0.5. How much can it give solution 2, at most, with $h=4$?
#
# <details class="choice"><summary>0.5</summary>
#
# **No.** A policy that is not a product can do that. For a product, $2\cdot0.5^{1/4}=1.68$ would have to be at most 1.
#
# </details>
#
# <details class="choice"><summary>0.0625</summary>
#
# **No.** That is the limit if both get the same. Then solution 1 has 0.0625 too.
#
# </details>
#
# <details class="choice"><summary>0.0006</summary>
#
# **Right.** $0.5^{1/4}=0.841$, so $q(2)^{1/4}\le0.159$ and $q(2)\le0.159^4=0.0006$.
#
# </details>
#
# ## 6. The control
#
# But the policy is not a product. Its answers are drawn token by token, each token given those before. So does the theorem say anything
# about the policy? And what is the cause, the product or the direction of the KL? In sections 3 and 4 both changed at once, and the
# learning rate too. Now we change only one: WDCE with the *weights of DMPO*, towards p\*, and the *one-shot* log-probability. An objective
# is two functions, so we replace the one called `masks`. Both versions run at both rates of section 4.

# %%
one_shot = replace(objective("wdce"), masks=one_shot_masks)
slower, faster = "optimizer.learning_rate=3e-4", "optimizer.learning_rate=1e-3"
control = train_once(*SHORT, slower, objective=one_shot).policy
fast_dmpo = train_once(*SHORT, faster).policy
fast_control = train_once(*SHORT, faster, objective=one_shot).policy
ends = {
    ("WDCE", 3e-4): after_dmpo,
    ("one-shot WDCE", 3e-4): measure(control),
    ("WDCE", 1e-3): measure(fast_dmpo),
    ("one-shot WDCE", 1e-3): measure(fast_control),
}


# %%
def claims(own, shot):
    farther = shot["kl_target_policy"] / own["kl_target_policy"]
    return {
        "WDCE solves the puzzle, p > 0.9": own["solved"] > 0.9,
        "one-shot WDCE solves it, p < 0.8": shot["solved"] < 0.8,
        "its rarer solution above 0.05": min(shot["shares"]) > 0.05,
        "its KL(p*||p) over five times that of WDCE": farther > 5,
    }


at = [claims(ends["WDCE", k], ends["one-shot WDCE", k]) for k in (3e-4, 1e-3)]
Table([(name, at[0][name], at[1][name]) for name in at[0]], ("rate", 0.0003, 0.001))


# %% tags=["nbval-ignore-output"]
def numbers(end):
    kl = (end["kl_target_policy"], end["kl_policy_target"])
    return [end["solved"], *end["shares"], *kl]


found = {key: numbers(end) for key, end in ends.items()}
found["diffu-GRPO", 1e-3] = numbers(after_grpo)
product = (sum(forward_shares), *forward_shares, forward_kl)
found["best product", "–"] = [*product, kl_divergence(forward, log_target)]
columns = ("solved", "solution 1", "solution 2", "KL(p*||p)", "KL(p||p*)")
Table(
    [(*key, *(f"{x:.3f}" for x in row)) for key, row in found.items()],
    ("", "rate", *columns),
)

# %% [markdown]
# ("Best product": of section 5, in forward KL.) At both rates one-shot WDCE keeps both solutions, but it is a *bad* policy: it solves the
# puzzle six or seven times out of ten. The usual WDCE, with the same weights, rate and number of steps, solves it in 96 % or more and is
# almost twenty times nearer to p\*. Look at the first step of sampling, which is drawn from exactly these one-shot marginals (both WDCE
# policies at rate 3e-4, diffu-GRPO as in section 4). How probable is the digit of solution 1 there, in the h cells where the solutions
# differ?

# %%
of_1, of_2 = (digits[i] for i in where)
differ = (of_1 != of_2).nonzero().squeeze(-1)  # the h cells, among the five blanks
policies = {
    "reference": world.policy,
    "diffu-GRPO": grpo,
    "one-shot WDCE": control,
    "WDCE (DMPO)": dmpo,
}
at_first = {
    name: one_shot_marginals(policy, prompts, world.vocabulary)
    for name, policy in policies.items()
}
first_step = {
    name: log_p[differ, of_1[differ]].exp().tolist()
    for name, log_p in {**at_first, "p*": log_marginals}.items()
}


# %%
def near_target(name):
    pairs = zip(first_step[name], first_step["p*"], strict=True)
    return all(abs(a - b) < 0.2 for a, b in pairs)


for name in ("one-shot WDCE", "WDCE (DMPO)"):
    print(f"{name} within 0.2 of p*: {near_target(name)}")
certain = all(min(p, 1 - p) < 0.05 for p in first_step["diffu-GRPO"])
print("diffu-GRPO within 0.05 of 0 or of 1:", certain)
Table(
    [(k, *(f"{p:.3f}" for p in first_step[k])) for k in ("p*", "reference")],
    ("digit of solution 1", *(f"blank {d + 1}" for d in differ.tolist())),
)

# %% tags=["nbval-ignore-output"] alt="Left: one-shot probability of solution 1's digit in four cells; diffu-GRPO at 1, one-shot WDCE, WDCE and p* at 0.6. Right: the probabilities of both solutions; WDCE lies on p*, diffu-GRPO in the corner of solution 1, one-shot WDCE between, above what a product can reach."
ends_of = {
    "reference": before,
    "diffu-GRPO": after_grpo,
    "one-shot WDCE": ends["one-shot WDCE", 3e-4],
    "WDCE (DMPO)": after_dmpo,
}
shares = {name: end["shares"] for name, end in ends_of.items()} | {"p*": [p_1, p_2]}
draw_control(first_step, shares)
plt.show()

# %% [markdown]
# On the left the three lines at 0.6 nearly coincide: one-shot WDCE, WDCE and p\* agree on every marginal. On the right (colours as on the
# left; p\* is the hollow square) they do not agree on the answers. All products are in the grey corner.
#
# **Check yourself.** Let one-shot WDCE (rate 3e-4) draw all five blanks in the *same* step, each from its own one-shot marginal. How often
# does it then solve the puzzle?
#
# <details class="choice"><summary>Less than two times out of ten.</summary>
#
# **Right.** Now it is a product, with about 0.6 for each digit of solution 1 in four cells: about $0.6^4+0.4^4=0.16$. The rest
# of its 0.66 came from the later passes, which see what was drawn before.
#
# </details>
#
# <details class="choice"><summary>Six or seven times out of ten, as before.</summary>
#
# **No.** Before, only the first digit was drawn from these marginals. Each later one was drawn given those before it.
#
# </details>
#
# <details class="choice"><summary>Nearly always, because the marginals are those of p\*.</summary>
#
# **No.** Each digit alone is as frequent as under p\*, but nothing makes the four digits belong to the same solution.
#
# </details>
#
# ## 7. What the hypothesis explains, and what it does not
#
# It explains
# - why one-shot WDCE is bad: its gradient never shows the policy *which digits go together*. It has learned the marginals, and they are
#   those of p\*; for everything else it relies on what the network knew before;
# - why a KL term need not help a one-shot objective: all products that were found by descent in reverse KL had lost at least one solution,
#   even the best one;
# - how the policy loses a solution that the one-shot likelihood has lost: the first token of a rollout *is* drawn from the one-shot
#   marginals. Where these have become certain, the other solution cannot be drawn, whatever the later conditionals are.
#
# It does not explain
# - that diffu-GRPO loses a solution *because* of the product. One-shot WDCE has the same product and keeps both. The product together with
#   a mode-seeking goal loses it; neither of them alone does: plain REINFORCE maximises reward too, along the path, and kept both in 9 of 9
#   runs;
# - the policies that were measured: they are not products. The grey region of the figure bounds the one-shot likelihood, not the sampler,
#   and one-shot WDCE is well outside it;
# - the gradient itself. The rollouts come from the sequential sampler, the log-probability from the product, so $\sum_n
#   A_n\nabla\ell^1_\theta(o_n)$ is the policy gradient of neither. Section 5 trains a product on its *own* expected reward, which is only a
#   model of this.
#
# There are more limitations: one puzzle, one tiny network, two solutions, 3 seeds at each N; learning rates from three values on one seed;
# 100 steps. The published methods use rewards with partial credit, LoRA and 8B parameters, none of which is tested here. And every row had
# the same 3,200 rollouts, not the same time.
#
# The last limitation concerns the target. Where $p_{\mathrm{ref}}(o;\sigma)$ depends on the order, REINFORCE with KL does not have its
# optimum at p\*, even with infinitely many rollouts. If every order could have a policy of its own, it would be the mean of the tilted
# orders, $\mathbb E_\sigma[p_{\mathrm{ref}}(o;\sigma) e^{r/\alpha}/Z(\sigma)]$. But orders share conditionals: one network answers for all
# orders that lead to the same partial answer. The optimum then follows by backward induction over partial answers $u$,
#
# $$V(u)=\frac1{|\text{hidden}|}\sum_{d\text{ hidden}}\alpha\log\sum_a\pi_{\mathrm{ref}}(x_d=a\mid u)\,e^{V(u,\,x_d=a)/\alpha},\qquad V(o)=r(o),$$
#
# with $\pi(x_d=a\mid u)\propto\pi_{\mathrm{ref}}(x_d=a\mid u)\,e^{V(u,\,x_d=a)/\alpha}$. The logarithm stands inside the mean over $d$,
# because the order is drawn, not chosen.

# %%
log_pi, states = conditionals(
    world.policy, world.tokenizer, world.task, world.item, world.vocabulary
)
best = regularised_optimum(
    log_pi.detach(), states, rewards(world.task, world.item, world.exact), 0.2
)
optimum = along_orders(best, states).exp().mean(dim=0).log()
second, rows = log_order_target(), []
for name, log_p in {"mean of the tilted orders": second, "optimum": optimum}.items():
    shares = [f"{p:.3f}" for p in log_p[where].exp()]
    rows.append((name, f"{kl_divergence(log_target, log_p):.5f}", *shares))
close = kl_divergence(second, optimum) < 1e-5
print(f"between the two: below 1e-5 nats: {close}")
Table(rows, ("distribution p", "KL(p*||p), nats", "solution 1", "solution 2"))

# %% [markdown]
# On this puzzle the optimum is half a thousandth of a nat from p\*, a tenth of what the runs of REINFORCE with KL are away from it (0.004
# to 0.007). So the runs cannot say which of the two targets they approach. This is the optimum of a *table* with a number for each
# conditional; where it lies for the network, which has fewer, we have not computed. And the puzzle is kind: on random binary conditionals
# with three positions the optimum is up to 0.05 nats from p\* and up to 0.002 from the mean of the tilted orders
# ([test_order_target.py](../tests/test_order_target.py)). The weights of WDCE along the path lead to
# p\* as N → ∞, whatever the orders do ([03](03_weights.ipynb), section 8).
#
# **Check yourself.** REINFORCE *without* a KL term, on exact log-probabilities along the path, kept both solutions; so did one-shot WDCE. What
# follows?
#
# <details class="choice"><summary>Neither the goal nor the one-shot estimate of diffu-GRPO loses a solution by itself.</summary>
#
# **Right.** REINFORCE has the goal without the estimate, one-shot WDCE the estimate without the goal. Section 7: the two together
# lose it.
#
# </details>
#
# <details class="choice"><summary>Maximising the reward never drops modes.</summary>
#
# **No.** Notebook 02 has many cases. Here the policy can represent the target, and the start covers both solutions.
#
# </details>
#
# <details class="choice"><summary>REINFORCE is better than DMPO.</summary>
#
# **No.** Without a KL term it ends farther from p\*. And it says nothing about estimates that are not exact.
#
# </details>
#
# ## To remember
#
# - With exact path log-probabilities, KL-regularised REINFORCE comes as near to p\* as DMPO does (0.005 and 0.006 nats), log-variance
#   less near (0.043). On fresh rollouts the gradients of these two are the same up to a factor. Their optimum is p\* only where
#   $p_{\mathrm{ref}}(o;\sigma)$ does not depend on the order.
# - The advantage of DMPO is what it does not need: its loss needs no path log-probability of the current policy, and works with any sampler
#   and any mask estimate.
# - One-shot objectives solved the puzzle and lost one of its two solutions in all 27 runs, at the learning rates that are best for their
#   own goal. At a tenth of these rates both survive, and the puzzle is solved two times out of three.
# - None of this is about small groups: every run here has 64 rollouts in a step. With 4 in a step DMPO loses solutions too, in 7 of 9 runs
#   at the rate of large groups, in none at a lower one ([results](../book/results.md), [scoreboard](../book/scoreboard.md)).
# - A product of marginals satisfies $q(1)^{1/h}+q(2)^{1/h}\le1$. It cannot represent two answers that differ in many tokens, and its
#   gradient does not show which tokens go together. But an answer is lost only if the goal is mode seeking as well.
# - Accuracy shows none of this. Look at shares, or at pass@k.
#
# ## Exercises
#
# 1. *Warm-up.* Two answers of 100 tokens differ in all of them. What is the largest probability of the rarer one under a product, and under
#    a mixture of two products?
# 2. *Standard.* In section 6, replace `masks` by `path_masks` (`dmpo_ref.masking`) instead. Predict KL(p\*‖p_θ) first.
# 3. *Standard.* Plain REINFORCE drifts towards equal shares. Is this chance? The reward is the same for any split. Compute how the exact
#    gradient of the expected reward, at the reference, changes the odds of the two solutions. Does a longer run lose one?
# 4. *Research.* Give diffu-GRPO the mask estimate of DMPO instead of one shot (coupled-GRPO,
#    [arXiv:2506.20639](https://arxiv.org/abs/2506.20639), goes in this direction), as a file in `dmpo_ref/objectives`. How many masks are
#    needed to keep both solutions, and what is the effect of the variance?
#
# ## Where next
#
# [From the toy to LLaDA](09_from_the_toy_to_llada.ipynb): what changes at 8B parameters. [Benchmarks](10_benchmarks.ipynb): pass@k. The
# code: [objectives/](../dmpo_ref/objectives/__init__.py), [objectives/base.py](../dmpo_ref/objectives/base.py),
# [toy/studies/objectives.py](../toy/studies/objectives.py), [toy/oracle.py](../toy/oracle.py), [toy/products.py](../toy/products.py).
