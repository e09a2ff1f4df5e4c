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
# # 01 · Masked diffusion
#
# A masked diffusion language model is a network that fills blanks. To generate text, it starts with blanks only and fills one after
# another, in any order. How probable is the text that it generates? This notebook computes the exact answer, on a Sudoku puzzle small
# enough to list all answers.
#
# **You will learn**
# - how a response is sampled in random order, and what the probability of that *path* is;
# - that the probability of an *answer* is an average over paths, and how to compute this average without listing all paths;
# - what the ELBO is, and what its gap to the log-probability measures;
# - why the number m of hidden tokens is drawn uniformly from 1…L, and why the estimate is multiplied by L/m;
# - what masks four schemes of the library draw, in pictures.
#
# **You need** softmax, expectation, and Jensen's inequality. **It takes** 45 minutes to read and half a minute to run.

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
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image

from dmpo_ref import (
    Masks,
    SamplerConfig,
    answer_texts,
    build_task,
    build_vocabulary,
    draw_masks,
    encode,
    load_config,
    load_policy,
    path_log_prob,
    sample,
    stream,
    token_log_prob,
)
from dmpo_ref.plots.traces import animate_trace, trace
from toy.figures.likelihood import (
    draw_bound,
    draw_mask_schemes,
    draw_orders,
    draw_schedules,
)
from toy.oracle import arrival_log_prob, exact_distribution, exact_elbo

# %% [markdown]
# ## 1. A network that fills blanks
#
# The repository contains a tiny one (85 thousand parameters). It was trained on 4x4 Sudoku puzzles with answers that are often wrong:
# usually, the missing digits of each row are in increasing order, and columns and boxes are ignored. The network has learned this habit, so
# it often makes the same mistakes. Here is a puzzle with five blanks and two solutions.

# %%
config = load_config("toy_sudoku")
policy, tokenizer = load_policy(config.model, torch.device("cpu"))
policy = policy.double()  # what is printed below is then the same on every machine
task = build_task(config.task)
vocabulary = build_vocabulary(
    tokenizer, policy.config.embedding_size, alphabet=task.alphabet
)
puzzle = task.load(str(Path(config.task.test).with_name("two_solutions_1.csv")))[0]
print(task.show(puzzle))

# %% [markdown]
# The input of the network: the clues, and a mask token M at each blank. The output: for every blank a distribution over the digits, given
# *all visible digits*, left and right. We write $\pi_\theta(o_d\mid o_{\text{seen}},q)$ for the digit at blank $d$.

# %% tags=["slide"]
prompts = encode(tokenizer, task, [puzzle])
blanks = prompts.response_mask[0].nonzero().squeeze(-1)
symbols = vocabulary.allowed.nonzero().squeeze(-1)
MASK, L = tokenizer.mask_token_id, len(blanks)
with torch.no_grad():
    logits = policy(input_ids=prompts.tokens).logits[0, blanks]
p = vocabulary.restrict(logits).softmax(dim=-1)[:, symbols]
print(
    "both blanks of row 2 drawn at once are the same digit with probability "
    f"{p[0] @ p[1]:.3f}"
)
Table(
    [
        (f"row {d // 4 + 1}, column {d % 4 + 1}", *(f"{x:.3f}" for x in row))
        for d, row in zip(blanks.tolist(), p.tolist(), strict=True)
    ],
    ["blank at", *(f"P({d})" for d in tokenizer.convert_ids_to_tokens(symbols))],
)

# %% [markdown]
# For each of the two blanks of row 2, the network is unsure between 1 and 3. They cannot both be 1. But each line of the table is the
# distribution of *one* blank; it does not say which digits of two blanks go together. If both are drawn at the same time, they are equal in
# a third of all cases. This is the main difficulty of masked diffusion, and the reason to sample step by step: after one blank is filled,
# the network predicts the remaining ones again.
#
# **Check yourself.** The first blank of row 2 is filled with a 1, and the network predicts again. What is P(1) of the second one now?
#
# <details class="choice"><summary>0.253, as in the table</summary>
#
# **No.** The table holds for five hidden blanks. The network now sees a digit that it did not see before.
#
# </details>
#
# <details class="choice"><summary>0.253/0.809 = 0.313</summary>
#
# **No.** A quotient of two entries says nothing about pairs: the table does not contain which digits go together.
#
# </details>
#
# <details class="choice"><summary>about 0: the row has its 1</summary>
#
# **Right.** The new prediction is given the visible 1, and with it the network is sure of the 3.
#
# </details>
#
# ## 2. Generation in random order
#
# Draw an order σ of the blanks, uniformly. Then for $i=1,\dots,L$: feed the digits filled in so far, and draw $o_{\sigma(i)}$ from
# $\pi_\theta(\cdot\mid o_{\sigma(1)},\dots,o_{\sigma(i-1)},q)$. Here for N copies of the puzzle at once, each with its own order:


# %%
@torch.no_grad()
def fill_in(tokens, generator):
    rows = torch.arange(len(tokens))
    order = (
        torch.rand(tokens.shape, generator=generator)
        .masked_fill(tokens != MASK, torch.inf)
        .argsort(dim=1)
    )
    for i in range(L):
        d = order[:, i]
        p = policy(input_ids=tokens).logits[rows, d][:, symbols].softmax(dim=-1)
        tokens[rows, d] = symbols[
            torch.multinomial(p, 1, generator=generator).squeeze(-1)
        ]
    return tokens


by_hand = fill_in(prompts.tokens.repeat(2000, 1), stream(0, "by hand"))
print(by_hand.shape, "masks left:", (by_hand == MASK).sum().item())

# %% [markdown]
# The library's `sample` does the same for batches of different prompts. It returns a `Rollout`: the tokens, the `step` at which each
# position was filled, and (for this sampler) the log-probability of the path.

# %%
rollout = sample(
    policy,
    prompts,
    SamplerConfig(name="random_order"),
    vocabulary,
    num_rollouts=4096,
    generators=[stream(0, "library")],
)
Table(
    [
        (
            "".join(trace(tokenizer, rollout, sample=n)[0]),
            rollout.step[0, n, blanks].tolist(),
            f"{rollout.path_log_prob[0, n]:.3f}",
        )
        for n in range(4)
    ],
    ("answer", "steps of the blanks", "log p(o; σ), nats"),
)

# %% [markdown]
# We now watch how one answer is generated, for a harder puzzle with ten blanks. Dark cells were filled early, light cells late; grey cells
# are clues.

# %%
hard = next(item for item in task.load(config.task.test) if item.num_blanks == 10)
config_random = SamplerConfig(name="random_order")
watched = sample(
    policy,
    encode(tokenizer, task, [hard]),
    config_random,
    vocabulary,
    num_rollouts=1,
    generators=[stream(0, "watch")],
)
pieces, step = trace(tokenizer, watched)
print(
    "puzzle",
    hard.puzzle,
    "\nanswer",
    "".join(pieces),
    "\nsolved:",
    task.grade(hard, "".join(pieces)).correct,
)

# %% tags=["nbval-ignore-output"] alt="Animation: a 4x4 Sudoku whose five blanks are filled one at a time, in random order."
Image(data=animate_trace(pieces, step, board=True, frames_per_second=2), format="gif")

# %% [markdown]
# The same as strips of text, as for a language model: four answers to the first puzzle, each in its own order. The log-probability of its
# path (section 3) is to the left of each strip.

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Four strips of 16 cells, one for each answer. Clues are grey; the five filled cells have the colour of their step, a different order in each strip; beside each, its log-probability."
draw_orders(tokenizer, rollout)
plt.show()

# %% [markdown]
# **Check yourself.** Two blanks of a row, each 1 or 3 with probability 1/2, never equal. Both are drawn in the same forward pass. How
# often do they contradict each other?
#
# <details class="choice"><summary>In a quarter of all cases.</summary>
#
# **No.** Each of the *two* equal pairs, 1 1 and 3 3, has probability 1/4.
#
# </details>
#
# <details class="choice"><summary>In half of all cases.</summary>
#
# **Right.** Drawn independently, they are equal with probability 1/2. One at a time, the second one sees the first.
#
# </details>
#
# <details class="choice"><summary>Never: the network knows that they differ.</summary>
#
# **No.** It knows only the distribution of each blank by itself, and both are drawn from these.
#
# </details>
#
# ## 3. The probability of a path
#
# The probability of an answer *together with its order* is a product, as for an autoregressive model that generates in the order σ:
#
# $$\log p_\theta(o;\sigma\mid q)\;=\;\sum_{i=1}^{L}\log\pi_\theta\bigl(o_{\sigma(i)}\mid o_{\sigma(1)},\dots,o_{\sigma(i-1)},q\bigr).$$
#
# (The order itself is drawn uniformly; its $1/L!$ is left out, here and in the library.) We compute it by hand, with one forward pass for
# each step of a rollout. Then we compare it with the library, which computes it while it samples, and can also compute it afterwards: for
# this policy or for another one on the same path.


# %%
@torch.no_grad()
def path_by_hand(tokens, step):
    total = 0.0
    for i in range(L):
        seen = torch.where(step >= i, MASK, tokens)
        d = (step == i).nonzero().item()
        log_pi = policy(input_ids=seen[None]).logits[0, d, symbols].log_softmax(dim=-1)
        total += log_pi[(symbols == tokens[d]).nonzero().item()].item()
    return total


first = rollout.select(torch.tensor([0]))
again = path_log_prob(policy, first, vocabulary)
for n in range(3):
    hand = path_by_hand(rollout.tokens[0, n], rollout.step[0, n])
    assert (
        abs(hand - rollout.path_log_prob[0, n].item()) < 1e-9
        and abs(hand - again[0, n].item()) < 1e-9
    )
    print(f"{hand:.4f} nats: by hand, while sampling, and scored again")

# %% [markdown]
# **Check yourself.** Can one forward pass with all five blanks hidden give $\log p(o;\sigma)$ of a path?
#
# <details class="choice"><summary>Yes: it predicts all five blanks.</summary>
#
# **No.** It predicts each one given the clues alone. That is the right term for the first step of the path only.
#
# </details>
#
# <details class="choice"><summary>No: each term is given other visible digits.</summary>
#
# **Right.** Step i sees the digits of the steps before it, so five steps need five passes.
#
# </details>
#
# <details class="choice"><summary>Yes, if the order is known.</summary>
#
# **No.** The order says which digits are visible at each step. A pass in which all are hidden cannot use it.
#
# </details>
#
# ## 4. The probability of an answer
#
# The same answer can be generated in $L!=120$ orders. Does its probability depend on the order? For an exact joint distribution it does
# not: by the chain rule, the product is the same for every order. But the network was trained to predict each blank from each context
# separately, and nothing forces these predictions to be consistent.
#
# Take one answer, the stored solution. All we need from the network is $\log\pi(o_d\mid o\text{ without the set }S)$ for each set $S$ of
# hidden blanks and each $d\in S$: $2^5-1=31$ sets. A set of hidden positions is a *mask* of the response; one call scores all masks.

# %%
SETS = [s for m in range(1, L + 1) for s in itertools.combinations(range(L), m)]
answer = sample(
    policy,
    prompts,
    SamplerConfig(),
    vocabulary,
    num_rollouts=1,
    generators=[stream(0, "one")],
)
answer.tokens[0, 0] = torch.tensor(
    tokenizer(puzzle.solution).input_ids
)  # with these tokens for those that were drawn
hidden = torch.zeros(1, 1, len(SETS), prompts.tokens.shape[1], dtype=torch.bool)
for r, s in enumerate(SETS):
    hidden[0, 0, r, blanks[list(s)]] = True
with torch.no_grad():
    scores = token_log_prob(
        policy, answer, Masks(hidden, hidden, torch.ones(1, 1, len(SETS))), vocabulary
    )[0, 0][:, blanks]
LOG_PI = {s: scores[r] for r, s in enumerate(SETS)}  # LOG_PI[S][d]
all_hidden = LOG_PI[0, 1, 2, 3, 4].exp()
alone = torch.stack([LOG_PI[(d,)][d] for d in range(L)]).exp()
Table(
    [
        ("all five hidden", *(f"{x:.3f}" for x in all_hidden)),
        ("only this one hidden", *(f"{x:.3f}" for x in alone)),
    ],
    ("probability of the digit of", *(f"blank {d}" for d in range(L))),
)

# %% [markdown]
# When only one blank is left, its digit is nearly certain; at the beginning, each digit is a guess. Now all 120 orders.

# %% tags=["slide"]
ORDERS = list(itertools.permutations(range(L)))
paths = torch.tensor(
    [
        sum(LOG_PI[tuple(sorted(order[i:]))][order[i]].item() for i in range(L))
        for order in ORDERS
    ],
    dtype=torch.float64,
)
best, worst = ORDERS[paths.argmax()], ORDERS[paths.argmin()]
log_p = paths.logsumexp(dim=0).item() - math.log(len(ORDERS))
print(f"log p(o) = log of the mean over orders: {log_p:.4f} nats")
Table(
    [
        ("most probable", best, f"{paths.max():.3f}"),
        ("least probable", worst, f"{paths.min():.3f}"),
    ],
    ("order", "blanks, in this order", "log p(o; σ), nats"),
)

# %% [markdown]
# So the probability depends on the order: the best and the worst order differ by more than a nat. The probability of the answer is the
# average over orders:
#
# $$p_\theta(o\mid q)\;=\;\mathbb E_\sigma\,p_\theta(o;\sigma\mid q).$$
#
# For five blanks there are only 120 orders; for ten blanks there are 3.6 million. But paths share prefixes: the next prediction of the
# network depends on *which* blanks are filled, not on the order in which they were filled. Let $P(F)$ be the probability that at some step
# exactly the blanks in $F$ are filled, with the digits of $o$. The blank filled last can be any $d\in F$, and each of the $L-|F|+1$ blanks
# that were open before was equally likely:
#
# $$P(F)\;=\;\sum_{d\in F}\frac{P(F\setminus d)\;\pi(o_d\mid o_{F\setminus d})}{L-|F|+1},\qquad P(\varnothing)=1,\quad P(\text{all})=p_\theta(o).$$
#
# These are 32 states instead of 120 paths. In five lines, and with `toy.oracle.arrival_log_prob`:

# %%
P = {(): 1.0}
for F in SETS:
    rest = {d: tuple(i for i in F if i != d) for d in F}
    hidden_before = {d: tuple(i for i in range(L) if i not in rest[d]) for d in F}
    P[F] = sum(P[rest[d]] * math.exp(LOG_PI[hidden_before[d]][d]) for d in F) / (
        L - len(F) + 1
    )

place = 2 ** torch.arange(L)
digits = (
    torch.arange(2**L).unsqueeze(-1) // place % 2
)  # [32, 5], 1 where a blank stands
table = torch.zeros(2**L, L, 1, dtype=torch.float64)
for S, row in LOG_PI.items():
    table[2**L - 1 - sum(2**d for d in S), :, 0] = row
library = arrival_log_prob(table, digits, place)[-1].item()
print(
    f"recursion {math.log(P[tuple(range(L))]):.4f}, toy.oracle {library:.4f}, 120 "
    f"orders {log_p:.4f} nats"
)

# %% [markdown]
# **Check yourself.** With everything hidden, blank 0 gets the digit of $o$ with probability 0.2. What is $P(\{0\})$ for L = 5?
#
# <details class="choice"><summary>0.2</summary>
#
# **No.** Blank 0 must also be the one that is filled first, which has probability 1/5.
#
# </details>
#
# <details class="choice"><summary>0.04</summary>
#
# **Right.** $P(\varnothing)\cdot0.2/(L-1+1)=0.2/5$: blank 0 comes first in one of five cases, and then its digit must be right.
#
# </details>
#
# <details class="choice"><summary>0.0017</summary>
#
# **No.** That divides by all 120 orders. After one step only the first choice has been made, out of five.
#
# </details>
#
# ## 5. The whole distribution
#
# The same works for *all* $4^5=1024$ answers: each blank is open or holds one of four digits, so there are $5^5=3125$ states.
# `toy.oracle.exact_distribution` does this in about a second. It is the reference for the whole project: "exact" in a later notebook means
# that this function was used.

# %%
exact = exact_distribution(policy, tokenizer, task, puzzle, vocabulary)
probability = exact.log_prob.exp()
assert (
    abs(probability.sum().item() - 1) < 1e-9
    and abs(exact.log_prob[exact.texts.index(puzzle.solution)].item() - log_p) < 1e-9
)
shown = probability.argsort(descending=True)[:7].tolist()
solved = [task.grade(puzzle, text).correct for text in exact.texts]
right = probability[torch.tensor(solved)].sum()
print(f"right answers together {right:.3f}, all seven {probability[shown].sum():.3f}")
rows = []
for c in shown:
    text = exact.texts[c]
    rows.append((text, f"{probability[c]:.4f}", solved[c], text[4:8], text[8:12]))
Table(rows, ("answer", "p(o)", "solved", "row 2", "row 3"))

# %% [markdown]
# The most probable answer has the digits in increasing order (1 before 3 in row 2; 1, 2, 3 in row 3), as in the training data, and it is
# wrong. The two solutions together have a third of the probability. 1024 answers are possible, but seven of them have nearly all of the
# probability: training with rewards has to move probability between these seven.
#
# Do the samples agree? We compare both ways of sampling with the exact numbers, in units of standard errors:

# %%
counts = {
    "by hand": Counter(
        "".join(tokenizer.convert_ids_to_tokens(row)) for row in by_hand.tolist()
    ),
    "library": Counter(answer_texts(tokenizer, rollout)[0]),
}
largest = {}
for name, found in counts.items():
    N = found.total()
    off = [
        (found[exact.texts[c]] / N - probability[c].item())
        / math.sqrt(probability[c] * (1 - probability[c]) / N)
        for c in shown
    ]
    largest[name] = max(map(abs, off))
    print(
        f"{name}: {N} samples, all seven shares within 4 standard errors: "
        f"{largest[name] < 4}"
    )

# %% tags=["nbval-ignore-output"]
print(
    "largest deviation, in standard errors:",
    {name: round(deviation, 1) for name, deviation in largest.items()},
)

# %% [markdown]
# **Check yourself.** A policy always writes the most probable of the 1024 answers. How often does it solve this puzzle?
#
# <details class="choice"><summary>in 36 of 100 cases</summary>
#
# **No.** 0.36 is how often a *sample* is this answer, and the answer is wrong.
#
# </details>
#
# <details class="choice"><summary>in a third of all cases</summary>
#
# **No.** So often does a *sample* solve it: both solutions together have 0.335.
#
# </details>
#
# <details class="choice"><summary>never</summary>
#
# **Right.** The most probable answer is wrong. The solutions have the second and the fourth place.
#
# </details>
#
# ## 6. The ELBO and its gap
#
# For 256 tokens it is impossible to average over $256!$ orders. But the average of the *logarithm* can be estimated, and by Jensen's
# inequality it is a lower bound:
#
# $$\log p_\theta(o\mid q)=\log\mathbb E_\sigma\,p_\theta(o;\sigma)\;\ge\;\mathbb E_\sigma\log p_\theta(o;\sigma)\;=:\;-\mathcal L_\theta(o\mid q),$$
#
# the evidence lower bound (ELBO); $\mathcal L_\theta$ is the NELBO of the paper. How large is the gap? Write down the posterior over
# orders, $p(\sigma\mid o)=p_\theta(o;\sigma)\,/\sum_{\sigma'}p_\theta(o;\sigma')$, and subtract:
#
# $$\log p_\theta(o)-(-\mathcal L_\theta(o))\;=\;\mathrm{KL}\bigl(\text{uniform over }\sigma\,\big\|\,p(\sigma\mid o)\bigr).$$
#
# The gap measures how much the answer tells us about the order in which it was generated.

# %%
elbo = paths.mean().item()
posterior = paths.log_softmax(dim=0)
divergence = (-math.log(len(ORDERS)) - posterior).mean().item()
print(
    f"log p(o) {log_p:.4f}, ELBO {elbo:.4f}, gap {log_p - elbo:.4f}, KL "
    f"{divergence:.4f} nats"
)

# %% [markdown]
# The gap of this answer is three hundredths of a nat. For which answers do you expect a large gap? The exact ELBO of all 1024:

# %%
gap = exact.log_prob - exact.elbo
assert (
    abs(exact.elbo[exact.texts.index(puzzle.solution)].item() - elbo) < 1e-9
    and gap.min() > 0
)
print(
    f"mean gap of a sampled answer {probability @ gap:.3f}, largest of all "
    f"{gap.max():.1f} nats"
)
columns = (exact.log_prob, exact.elbo, gap)
Table(
    [(exact.texts[c], *(f"{x[c]:.3f}" for x in columns)) for c in shown],
    ("answer", "log p(o), nats", "ELBO, nats", "gap, nats"),
)

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Left: histogram of log p(o; sigma) over 120 orders, with the ELBO slightly below log p(o). Centre: exact probabilities of seven answers and their frequencies in 4096 samples, which agree. Right: ELBO against log p(o) of all answers, all on or below the diagonal."
frequency = [counts["library"][exact.texts[c]] / 4096 for c in shown]
draw_bound(paths, exact, shown, frequency, num_samples=4096)
plt.show()

# %% [markdown]
# The solutions and the most probable wrong answer have small gaps: in every order, each of their digits is probable. Answers that mix two
# of these have gaps of 0.7 to 1.7 nats: in most orders the visible digits soon make the rest of the mixture nearly impossible; in a few
# orders, where the conflicting blanks are filled early, they do not. The largest gap of these seven, 3.0, has another cause: one digit of
# that answer, the 2 in row 3, is nearly impossible while everything is hidden, and certain when the rest of its row is visible. So the gap
# differs from answer to answer. Remember this when two ELBOs are subtracted (as in [03](03_weights.ipynb) and [05](05_two_losses.ipynb)).
#
# **Check yourself.** The gap between $\log p(o)$ and the ELBO is 0. What does that say?
#
# <details class="choice"><summary>All orders are equally likely.</summary>
#
# **No.** They always are: the order is drawn uniformly.
#
# </details>
#
# <details class="choice"><summary>Every order gives the answer the same probability.</summary>
#
# **Right.** Jensen's inequality is an equality only for a constant: then $p(o;\sigma)$ does not depend on σ.
#
# </details>
#
# <details class="choice"><summary>The policy is right.</summary>
#
# **No.** A policy may agree along all orders on a wrong answer.
#
# </details>
#
# ## 7. Why m is uniform on 1…L, with weight L/m
#
# $\mathbb E_\sigma\log p_\theta(o;\sigma)$ is a sum of L terms, and each needs its own forward pass. To save passes, draw one of the terms
# at random. The term of step $i$ depends on the order in two ways only:
#
# - *what is hidden*: the set $S$ that the order leaves after $i-1$ steps, of size $m=L-i+1$. A uniform order makes it a uniformly random set
#   of that size;
# - *what is scored*: $\sigma(i)$, which is any member of $S$ with probability $1/m$.
#
# So, with each size $m=1,\dots,L$ occurring exactly once,
#
# $$-\mathcal L_\theta=\sum_{m=1}^{L}\;\mathbb E_{|S|=m}\Bigl[\frac1m\sum_{d\in S}\log\pi(o_d\mid o\setminus S)\Bigr]
#   =\mathbb E_{m\sim U\{1..L\}}\Bigl[\frac Lm\;\mathbb E_{|S|=m}\sum_{d\in S}\log\pi(o_d\mid o\setminus S)\Bigr].$$
#
# The uniform size is not a design choice: it comes from the sum over steps. The factor $1/m$ is the probability of the next blank, and $L$
# turns the mean over sizes back into a sum. One forward pass now scores *all* hidden tokens at once. The cell computes the sum:

# %%
by_size = {
    m: [LOG_PI[s][list(s)].sum().item() for s in SETS if len(s) == m]
    for m in range(1, L + 1)
}
means = {m: np.mean(sums) / m for m, sums in by_size.items()}
total = sum(means.values())
library = exact_elbo(table, torch.ones(1, L, dtype=torch.long), place).item()
print(
    f"sum of the means {total:.4f}, mean over 120 orders {elbo:.4f}, "
    f"toy.oracle.exact_elbo {library:.4f} nats"
)
Table(
    [(m, len(by_size[m]), f"{mean:.4f}") for m, mean in means.items()],
    ("m", "sets", "mean log π of a hidden token"),
)

# %% [markdown]
# What do other weights give? All of these have been used somewhere; only the first one gives the ELBO.

# %% tags=["slide"]
WEIGHTS = {
    "L/m": lambda m: L / m,
    "1 (sum over the masked)": lambda m: 1,
    "1/m (mean over the masked)": lambda m: 1 / m,
    "L": lambda m: L,
}
results = {
    name: np.mean([weight(m) * np.mean(sums) for m, sums in by_size.items()])
    for name, weight in WEIGHTS.items()
}
Table(
    [(name, f"{value:.3f}") for name, value in results.items()],
    ("weight", "mean over the sizes, nats"),
)

# %% [markdown]
# The mean over the masked tokens is the ELBO divided by L. The published training loss has this scale. For the loss, the factor does no
# harm. But it does where log-probabilities are compared with rewards.
#
# **Check yourself.** Weight 1 gives −1.720 instead of −2.089. Which sets count too little?
#
# <details class="choice"><summary>Those with few hidden tokens.</summary>
#
# **Right.** The right weight is $5/m$, so a set of size 2 should count 2.5 times as much. Only $m=5$ has the weight 1.
#
# </details>
#
# <details class="choice"><summary>Those with many hidden tokens.</summary>
#
# **No.** For $m=5$ the right weight is $5/5=1$, and for $m=4$ it is 1.25: these sets count nearly as they should.
#
# </details>
#
# <details class="choice"><summary>All of them, by the same factor.</summary>
#
# **No.** A constant factor would be harmless. But $5/m$ is different for every size.
#
# </details>
#
# ## 8. Mask schedules
#
# Papers on masked diffusion write the bound with a time: at $t\in[0,1]$ every token is hidden independently with probability $h(t)$, the
# schedule, and the weight is $h'(t)/h(t)$. LLaDA ([arXiv:2502.09992](https://arxiv.org/abs/2502.09992)) has $h(t)=t$ and weight $1/t$. Is
# this another bound? The total weight of the sets of size $m$ is
#
# $$\int_0^1\frac{h'(t)}{h(t)}\binom Lm h^m(1-h)^{L-m}\,dt\;=\;\binom Lm\int_0^1 p^{m-1}(1-p)^{L-m}\,dp\;=\;\frac1m .$$
#
# The schedule cancels ([arXiv:2406.07524](https://arxiv.org/abs/2406.07524), [arXiv:2406.04329](https://arxiv.org/abs/2406.04329)), and our
# weights are left. So all schedules give the same bound, the average over orders ([arXiv:2406.03736](https://arxiv.org/abs/2406.03736)). By
# quadrature, times m:

# %%
SCHEDULES = {  # h(t), h'(t)
    "linear, t": (lambda t: t, lambda t: np.ones_like(t)),
    "square, t²": (lambda t: t**2, lambda t: 2 * t),
    "cosine, 1 − cos(πt/2)": (
        lambda t: 1 - np.cos(np.pi * t / 2),
        lambda t: np.pi / 2 * np.sin(np.pi * t / 2),
    ),
}
nodes, quadrature = np.polynomial.legendre.leggauss(200)
t, quadrature = (nodes + 1) / 2, quadrature / 2
sizes = np.arange(17)[:, None]
binomial = np.array([math.comb(16, m) for m in range(17)])[:, None]
HOW_OFTEN = {
    name: binomial * h(t) ** sizes * (1 - h(t)) ** (16 - sizes) @ quadrature
    for name, (h, _) in SCHEDULES.items()
}
rows = []
for name, (h, slope) in SCHEDULES.items():
    chance = binomial * h(t) ** sizes * (1 - h(t)) ** (16 - sizes)
    multiplier = chance * slope(t) / h(t) @ quadrature
    rows.append((name, *(f"{m * multiplier[m]:.4f}" for m in (1, 2, 8, 16))))
Table(rows, ("schedule, L = 16", "m = 1", "m = 2", "m = 8", "m = 16"))

# %% tags=["nbval-ignore-output", "hide-input"] alt="Left: how often m of 16 tokens are hidden: evenly for the linear schedule, mostly few for square and cosine. Right: the weight h'/h of the three schedules, falling with the share hidden."
weights = {name: (h(t), slope(t) / h(t)) for name, (h, slope) in SCHEDULES.items()}
draw_schedules(HOW_OFTEN, weights)
plt.show()

# %% [markdown]
# The schedules differ in how often each size is drawn, and therefore in their noise. The linear schedule draws all sizes $0..L$ equally
# often, as the average over orders does. But it wastes draws in two ways. One draw in $L+1$ hides nothing. And the weight $1/t$ is
# needlessly noisy: a mask with a single hidden token can come from any $t$, so its weight is sometimes very large, and the second moment
# contains $\int t^{-2}\cdot L\,t\,(1-t)^{L-1}dt=\infty$. The average of $1/t$ over all $t$ that could have given this mask is $(L+1)/m$,
# which is always finite; without the empty mask it is $L/m$. That is why the library draws a size and never a time.
#
# **Check yourself.** A response of one token, linear schedule: it is hidden with probability $t$, and then has the weight $1/t$. The mean
# weight of a draw is …
#
# <details class="choice"><summary>infinite</summary>
#
# **No.** Where $1/t$ is large, the token is seldom hidden. It is the *square* of the weight whose mean is infinite.
#
# </details>
#
# <details class="choice"><summary>2</summary>
#
# **No.** That is one over the mean of $t$. The mean of a quotient is not the quotient of the means.
#
# </details>
#
# <details class="choice"><summary>1</summary>
#
# **Right.** At each $t$ it is $t\cdot1/t=1$, and that is $L/m$ for $L=m=1$. Only its noise is bad.
#
# </details>
#
# ## 9. Four mask schemes
#
# An estimate from one mask is noisy. With R masks (`loss.num_masks`), there are better choices than independent masks. Here are four of
# the schemes of `dmpo_ref.masking`; antithetic pairs want an even R, or the last mask is an independent one. Look at the figure before you read on: 16 tokens, R = 8 masks of one response, hidden
# tokens are dark, the weight is to the right of each mask.

# %%
response = torch.ones(1, 1, 16, dtype=torch.bool)
drawn = {
    scheme: draw_masks(scheme, response, 8, [stream(3, "look")])
    for scheme in ("exact", "stratified", "antithetic", "paper")
}
hidden = {scheme: masks.hidden[0, 0].sum(dim=-1) for scheme, masks in drawn.items()}
Table(
    [(scheme, *count.tolist()) for scheme, count in hidden.items()],
    ("hidden tokens", *(f"mask {r}" for r in range(1, 9))),
)

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Eight masks of 16 positions for each of four schemes, dark where hidden, with their weights. Exact draws any sizes, stratified one of each size class, antithetic and paper draw complementary pairs."
draw_mask_schemes(drawn)
plt.show()

# %% [markdown]
# - `exact`: every size is independently uniform on 1…L, weight $L/m$. This is the sum of section 7.
# - `stratified`: one random offset, then evenly spaced sizes, so that each part of 1…L is visited. The weights are the same.
# - `antithetic`: pairs of a set and its complement (rows 1 and 2, 3 and 4, …), so that every token is scored once in each pair. Since the
#   empty set can be drawn ($m\sim U\{0..L\}$), the weights are $(L+1)/m$ and $(L+1)/(L-m)$.
# - `paper`: the scheme of the published code: each token is hidden with probability $0.1+0.9u$; the second mask is the complement; the
#   weight is $L/m$. The masks look similar, but the estimate is biased. The scheme is included for comparison.
#
# Can we see the bias? For our answer, every mask has been scored above, so an estimate needs no forward pass. 20,000 estimates from R = 2
# masks each:

# %%
bit, value = 2 ** torch.arange(L), torch.zeros(2**L, dtype=torch.float64)
rows = []
for s in SETS:
    value[sum(2**d for d in s)] = LOG_PI[s][list(s)].sum()
for scheme in drawn:
    masks = draw_masks(
        scheme,
        torch.ones(1, 20_000, L, dtype=torch.bool),
        2,
        [stream(0, "estimate", scheme)],
    )
    estimate = (masks.weight * value[(masks.hidden * bit).sum(dim=-1)]).mean(dim=-1)[0]
    off = (estimate.mean().item() - elbo) / (estimate.std().item() / 20_000**0.5)
    rows.append((scheme, f"{estimate.mean():.1f}", abs(off) < 4))
Table(rows, ("scheme", "mean, nats", "within 4 standard errors of the exact ELBO"))

# %% [markdown]
# Only `paper` misses the ELBO; its mean is closer to 0. With these 5 blanks it gives too little weight to *every* size: 0.87, 0.92, 0.92,
# 0.87 and 0.71 of the right one for m = 1 to 5. With the 16 tokens of the figure the sizes 1, 2, 14, 15 and 16 get 0.61 to 0.92 of it, the
# others up to 1.05. In longer responses the ends get half, and the middle is too heavy. [05 · Two losses](05_two_losses.ipynb)
# computes the factor of every size and the variance of every scheme, and shows where the bias does harm.
#
# **Check yourself.** A mask hides m = 2 of L = 16 tokens. In the scheme `exact` its cross-entropy is multiplied by …
#
# <details class="choice"><summary>16/2</summary>
#
# **Right.** L/m, so that the sum over the hidden tokens is scaled to all L of them.
#
# </details>
#
# <details class="choice"><summary>1</summary>
#
# **No.** Then masks with few hidden tokens would count too little, and the mean would not be the NELBO.
#
# </details>
#
# <details class="choice"><summary>2/16</summary>
#
# **No.** The other way round: few hidden tokens must stand for all 16.
#
# </details>
#
# ## To remember
#
# - A path has an exact probability, the product over its steps. The probability of an answer is the average over orders.
# - The ELBO is the average of the logarithm over orders. Its gap is the divergence between the uniform distribution of orders and the
#   posterior of the order: small for answers that are plausible in every order, large for mixtures of two such answers.
# - m is uniform because each order passes through every size once; $1/m$ is the probability that a hidden token is the next one; the factor
#   L turns the mean into a sum.
# - Mask schedules change the noise of the estimate, not the bound.
# - On small problems everything can be computed exactly; later notebooks use this.
#
# ## Exercises
#
# 1. *Warm-up.* How many forward passes (rows) does the exact distribution of a puzzle with 8 blanks need? How many are needed to list all
#    paths of all answers?
# 2. *Standard.* Section 4 shows the most and the least probable order of one answer. Describe both in words, as advice to somebody who
#    solves this puzzle. Is the best order of the most probable answer the same?
# 3. *Standard.* Construct conditionals for two binary tokens such that the gap of one answer is infinite. Is its probability then 0?
# 4. *Research.* The average over orders of $p(o;\sigma)$ can be estimated by importance sampling over orders. Find a proposal that
#    shrinks the gap at a cost of R forward passes, and compare it with R masks.
#
# ## Where next
#
# [02 · Mode seeking and mass covering](02_mode_seeking_and_mass_covering.ipynb) asks how rewards should change such a distribution; [06 ·
# Samplers](06_samplers.ipynb) shows how to sample from it faster, and what that costs. The code:
# [samplers/blockwise.py](../dmpo_ref/samplers/blockwise.py), [likelihood.py](../dmpo_ref/likelihood.py),
# [masking.py](../dmpo_ref/masking.py), [the oracle](../toy/oracle.py).
