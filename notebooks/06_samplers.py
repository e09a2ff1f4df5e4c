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
# # 06 · Samplers
#
# Filling one token per forward pass is exact and slow. Faster samplers fill several blanks at once, and each has a rule that says which
# ones. This notebook shows each rule step by step on a small example, then on Sudoku, and measures how much quality the speed costs.
#
# **You will learn**
# - what every sampler does in each step, on a sentence whose probabilities are known;
# - why tokens that are drawn together can contradict each other, and how three rules avoid it;
# - that a sampler can generate only correct sentences and still not sample from the policy;
# - which tokens are fed with a cache, and what guidance and early stopping do;
# - what each sampler costs and how often it is right on a text model, and how to choose one: for rollouts, for evaluation, for speed.
#
# **You need** [01 · Masked diffusion](01_masked_diffusion.ipynb). **It takes** 45 minutes to read and under a minute to run.

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
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from ipywidgets import FloatSlider, interact

from dmpo_ref import SamplerConfig, answer_texts, encode, load_config
from dmpo_ref.plots.traces import draw_trace, trace
from toy.figures.samplers import draw_boards, draw_fed, draw_strips, draw_tradeoffs
from toy.loading import load
from toy.sampling import Spy, answer, forwards_alone, num_right
from toy.studies.acts import read as read_results
from toy.studies.text import ask, draw_samplers, table_of_samplers
from toy.worlds.sentences import QUESTION, Library, draw, watch

# %% [markdown]
# ## 1. A model that knows nine sentences
#
# To see what a rule does, we need a model whose confidence we can compute, so we build one. It knows only nine sentences: one of three
# facts and one of three endings, drawn independently, with these probabilities (true in the northern hemisphere):

# %%
FACTS = {
    "January is a winter month of 31 days": 0.4,
    "July is a summer month of 31 days": 0.3,
    "June is a summer month of 30 days": 0.3,
}
ENDS = {
    "said our old teacher": 0.36,
    "wrote the tall doctor": 0.34,
    "sang my good sailor": 0.30,
}

# %%
SENTENCES = {
    f"{fact} {end}": p * q
    for (fact, p), (end, q) in itertools.product(FACTS.items(), ENDS.items())
}
library = Library(SENTENCES)
print(
    f"{len(SENTENCES)} sentences of 12 words, {len(library.words)} words; "
    f"probabilities add up to {sum(SENTENCES.values()):.2f}"
)

# %% [markdown]
# The exact mask predictor of these sentences is Bayes' rule: weight each sentence by how well it fits the visible words, then take its word
# at the wanted position. One or two words in a thousand are noise, so that even a contradiction has a positive probability:
#
# $$\pi(o_d=v\mid o_{\text{seen}})=\sum_k p(k\mid o_{\text{seen}})\,e_{kd}(v),\qquad
#   p(k\mid o_{\text{seen}})\propto p(k)\prod_{d'\ \text{seen}}e_{kd'}(o_{d'}).$$
#
# `Library` ([toy/worlds/sentences.py](../toy/worlds/sentences.py)) computes this. It takes the same arguments as a LLaDA model, so every
# sampler of `dmpo_ref` runs on it: `draw` runs one. Masked positions give no evidence; the first position is the prompt, a question mark.

# %%
print(library.read(draw(library, "random_order").tokens[0, 0]))

# %% [markdown]
# First, without any rule: what does the model predict when everything is masked? Sort the positions by *confidence*, the probability of the
# most probable word.

# %%
logits = library(library.question().tokens, library.question().response_mask).logits
confidence, best = library.vocabulary.restrict(logits).softmax(dim=-1).max(dim=-1)
Table(
    [
        (d + 1, library.words[best[d]], f"{confidence[d]:.3f}")
        for d in confidence.argsort(descending=True, stable=True).tolist()
    ],
    ("position", "most probable word", "confidence"),
)

# %% [markdown]
# Put the most probable words together: *January is a summer month of 31 days.* Summer, because two of the three months are summer months;
# 31, because two of the three have 31 days; January, because it is the most frequent. Each word is the most probable one, and the sentence
# is false. We call this sentence the trap: some of the rules below generate it, others avoid it.
#
# **Check yourself.** Only *summer* is visible, all other words are masked. What is the probability of *31* now?
#
# <details class="choice"><summary>0.70, as before</summary>
#
# **No.** A visible word is evidence. *Summer* excludes January, one of the two months of 31 days.
#
# </details>
#
# <details class="choice"><summary>0.30, the probability of July</summary>
#
# **No.** This was its probability among three facts. Two are left, and their probabilities add up to 1 again.
#
# </details>
#
# <details class="choice"><summary>0.50</summary>
#
# **Right.** July and June are left, 0.3 each, and only July has 31 days. (0.499, because of the noise.)
#
# </details>
#
# ## 2. Every rule, step by step
#
# All samplers share one loop: a forward pass, a proposed word for each blank, and a rule that says which of the proposals to keep. To watch
# it, `watch` puts a spy between the sampler and the model, and prints what is fed.
#
# **`random_order`** keeps one proposal, at a random position: twelve words, twelve forward passes. **`random`** has a fixed number of steps
# and divides the positions evenly among them, also at random. (The temperature is 0 in this section: a proposal is the most probable word.)

# %%
print("random_order")
watch(library, "random_order")
print("random, steps = 4")
watch(library, "random", steps=4)

# %% [markdown]
# **`confidence`** (low-confidence remasking, LLaDA, [arXiv:2502.09992](https://arxiv.org/abs/2502.09992)) has a fixed number of steps too,
# and keeps the proposals with the highest confidence. So the easy words are filled first, and they are visible when the hard ones are
# predicted. With 4, 3 and 1 steps:

# %%
for steps in (4, 3, 1):
    print(f"confidence, steps = {steps}")
    watch(library, "confidence", steps=steps)

# %% [markdown]
# With one step it falls into the trap. With three steps it must take four words in a step, and takes *January* and *summer* together. With
# four steps it is lucky: 31 is filled before the month and the season.
#
# A fixed number of steps ignores how sure the model is. **`threshold`** does not (Fast-dLLM,
# [arXiv:2505.22618](https://arxiv.org/abs/2505.22618)): keep every proposal with confidence ≥ τ, and at least one. Before you run it: how
# many words does τ = 0.9 keep in its first step? And 0.5, 0.3?

# %%
for threshold in (0.9, 0.5, 0.3):
    print(f"threshold, τ = {threshold}")
    watch(library, "threshold", threshold=threshold)

# %% [markdown]
# τ = 0.9 takes the five words that are the same in all sentences, then 31 alone, since no word reaches 0.9; then the month can only be
# January or July. τ = 0.5 takes summer and 31 at once; they *can* occur together, in July, so the sentence becomes true. τ = 0.3 takes
# everything.
#
# Why is a high τ safe? If $n$ proposals have confidences $c_1\ge\dots\ge c_n$, the chance that they are not all right *together* is at most
# $\sum_k(1-c_k)$, for any dependence (a union bound). With a single threshold, this bound grows with the number of words. **`factor`**
# therefore asks for more confidence when it takes more words: sort the proposals by confidence and keep the longest run with
#
# $$c_k\;\ge\;1-\frac{f}{k+1},\qquad k=1,2,\dots$$

# %%
falling = confidence.sort(descending=True).values[:8]
rows = [("confidence", *(f"{c:.2f}" for c in falling))]
for f in (1.0, 4.0):
    demand = (max(1 - f / (k + 1), 0) for k in range(1, 9))
    rows.append((f"demand, f = {f:g}", *(f"{x:.2f}" for x in demand)))
Table(rows, ("k", *range(1, 9)))

# %%
for f in (1.0, 4.0):
    print(f"factor, f = {f:g}")
    watch(library, "factor", factor=f)

# %% [markdown]
# With f = 1 the sixth word, 31, has confidence 0.70 and would need 0.86. With f = 4 it is kept, and so is summer, but the month (0.40
# against 0.56) is not. Two forward passes give a true sentence: the rule stopped just before the trap. This is luck with these numbers, not
# a guarantee.
#
# **`wino`** (Wide-In, Narrow-Out, [arXiv:2507.18578](https://arxiv.org/abs/2507.18578)) fills many words at once and can take words *back*.
# After the sequence it feeds a shadow of the block: for each position a mask token that attends to everything *except* the word at this
# position. So the same forward pass that proposes new words also tells how probable each placed word is, given all the others. A word with
# a probability below τ_back is masked again. We choose τ = 0.3, so that it makes mistakes, and τ_back = 0.5; the published values are 0.6
# and 0.9.

# %%
print("wino, τ = 0.3, τ_back = 0.5")
watch(library, "wino", threshold=0.3, back_threshold=0.5)
print("wino, τ = 0.3, τ_back = 0.9")
watch(library, "wino", threshold=0.3, back_threshold=0.9)

# %% [markdown]
# The first forward pass makes the mistake: *January … summer … 31*. The second one adds the ending, and takes back *January* (not a summer
# month) and *summer* (not in January). In the third, both are predicted again with 31 visible, and January and winter are the most
# probable. With τ_back = 0.9 it also takes 31 back, and falls into the same trap again; the block is then complete, and a complete block is
# never checked. So taking words back can repair mistakes, but does not always do so.
#
# Try other thresholds (in a running JupyterLab). For which thresholds does each rule fall into the trap?


# %% tags=["nbval-ignore-output"]
@interact(
    tau=FloatSlider(0.6, min=0.05, max=0.95, step=0.05),
    tau_back=FloatSlider(0.9, min=0.05, max=0.95, step=0.05),
)
def explore(tau, tau_back):
    print("threshold")
    watch(library, "threshold", threshold=tau)
    print("wino")
    watch(library, "wino", threshold=tau, back_threshold=tau_back)


# %% [markdown]
# Because words are taken back, this sampler has no path in the sense of [01](01_masked_diffusion.ipynb), and so no path probability. The
# figure shows the runs above as strips. The colour of a word is the step in which it was *last* placed: dark first, yellow last, each strip
# with its own scale.

# %%
RUNS = {
    "random_order": ("random_order", {}),
    "confidence, 4 steps": ("confidence", {"steps": 4}),
    "threshold, τ = 0.9": ("threshold", {}),
    "threshold, τ = 0.3": ("threshold", {"threshold": 0.3}),
    "factor, f = 4": ("factor", {"factor": 4.0}),
    "wino, τ = 0.3, τ_back = 0.5": ("wino", {"threshold": 0.3, "back_threshold": 0.5}),
}
SHOWN = {label: draw(library, name, **how) for label, (name, how) in RUNS.items()}
Table(
    [
        (label, rollout.forwards, library.read(rollout.tokens[0, 0]) in SENTENCES)
        for label, rollout in SHOWN.items()
    ],
    ("sampler", "forwards", "true"),
)

# %% tags=["nbval-ignore-output", "hide-input"] alt="A sentence of twelve words for six samplers, each word in the colour of the step that placed it last: random order takes 12 forwards, confidence with 4 steps 4, threshold 6 or 1, factor 2, WINO 3."
draw_strips(library, SHOWN)
plt.show()

# %% [markdown]
# **Check yourself.** `threshold` takes every proposal with confidence ≥ τ. Why is a high τ safe?
#
# <details class="choice"><summary>The chance that not all of them are right together is at most the sum of their 1 − c.</summary>
#
# **Right.** A union bound; it grows with the number of tokens taken, which is what `factor` takes into account.
#
# </details>
#
# <details class="choice"><summary>Tokens with high confidence are independent of each other.</summary>
#
# **No.** They may depend on each other. The bound holds for any dependence.
#
# </details>
#
# <details class="choice"><summary>Because wrong tokens are taken back later.</summary>
#
# **No.** Of these samplers only WINO takes tokens back.
#
# </details>
#
# ## 3. What is drawn together is drawn independently
#
# Now we use temperature 1: words are drawn from their distribution. The probability that *one* forward pass for all words gives one of the
# nine sentences is a sum of products of marginals, and can be computed exactly. It is small, mainly because all four words of an ending
# must agree.

# %%
marginal = library.vocabulary.restrict(logits).softmax(dim=-1)  # [12, V]
ids = torch.tensor([[library.ids[w] for w in s.split()] for s in SENTENCES])
together = marginal[torch.arange(12), ids].prod(dim=1)
one_step = draw(library, "random", num=5000, temperature=1.0, steps=1)
right = sum(s in SENTENCES for s in map(library.read, one_step.tokens[0])) / 5000
error = (together.sum().item() * (1 - together.sum().item()) / 5000) ** 0.5
print(
    f"exact: {together.sum():.4f}; 5000 draws within 4 standard errors: "
    f"{abs(right - together.sum().item()) < 4 * error}"
)

# %% tags=["nbval-ignore-output"]
print(f"share among the 5000 draws: {right:.4f}, standard error {error:.4f}")

# %% [markdown]
# This is one in ninety. Now every rule, with 1,000 sentences each: how many forward passes does a sentence take, how many sentences are
# true, and, among the true ones, do the *months* have the right frequencies: 0.4, 0.3, 0.3? (No shares are given where fewer than 100 of
# the sentences are true.)

# %%
RULES = {
    "random": [("random_order", {}), *(("random", {"steps": n}) for n in (6, 4, 2, 1))],
    "confidence": [("confidence", {"steps": n}) for n in (12, 6, 4, 2)],
    "threshold": [("threshold", {"threshold": x}) for x in (0.9, 0.5, 0.3)],
    "factor": [("factor", {"factor": x}) for x in (1.0, 2.0, 4.0)],
    "wino": [
        ("wino", {"threshold": 0.6}),
        ("wino", {"threshold": 0.3, "back_threshold": 0.5}),
    ],
}


# %%
def shown(options):
    return ", ".join(f"{key} {value:g}" for key, value in options.items())


def shares_of_months(sentences):
    """The share of each month; a dash where there are fewer than 100 sentences."""
    months = [sentence.split()[0] for sentence in sentences]
    shares = (months.count(month) / max(len(months), 1) for month in MONTHS)
    return [f"{share:.2f}" if len(months) >= 100 else "–" for share in shares]


# %%
MONTHS, TEXT, rows = ("January", "July", "June"), {}, []
for rule, settings in RULES.items():
    for name, options in settings:
        rollout = draw(library, name, num=1000, temperature=1.0, **options)
        true = [s for s in map(library.read, rollout.tokens[0]) if s in SENTENCES]
        forwards = forwards_alone(rollout).double().mean().item()
        TEXT.setdefault(rule, []).append((forwards, len(true) / 1000))
        measured = f"{forwards:.1f}", f"{len(true) / 1000:.2f}"
        rows.append((name, shown(options), *measured, *shares_of_months(true)))
Table(rows, ("sampler", "", "forwards", "true", *MONTHS))

# %% [markdown]
# The table shows two things.
#
# - *True sentences*: the parallel rules at their defaults (τ = 0.9, f = 1, WINO with τ = 0.6) generate only true sentences, with half the
#   forward passes. With `random`, every word that is drawn together with another can cause a mistake. For `confidence`, six steps are worse
#   than four, because of which words happen to share a step: this rule does not look at how sure the model is before it takes them. (The
#   mistakes of `random_order` are the noise that we added: it samples from the model, mistakes included.)
# - *Frequencies of the months*: they are right for `random_order` and, within the standard error of 0.02, for `random` with 6 and 4 steps.
#   `random` does not look at the words, so it prefers none; it only loses dependences between words. But this does not affect all months
#   equally: with two steps July becomes more frequent, because summer and 31 are both in the majority. All rules that look at confidence
#   keep a drawn word *because it is probable*, so probable words are preferred twice: June, three sentences in ten, becomes one in ten or
#   less. At temperature 1 these samplers do not sample from $p_\theta$, even with many steps.
#
# For evaluation, wrong frequencies do no harm. For DMPO they do: its weights assume rollouts of $p_{\mathrm{old}}$, and an answer that the
# sampler hardly ever generates cannot be reinforced. That is why the toy runs use `random_order`. It is the only sampler that reports the
# probability of its path. For the others `path_log_prob` is `None`, even with one token per step: `random` then samples from the same
# distribution, and with the same random numbers it generates the same sentences, but it does not report their probability.

# %%
rows = []
for name in ("random_order", "random", "confidence", "threshold", "wino"):
    rollout = draw(library, name, temperature=1.0)
    rows.append((name, rollout.path_log_prob is not None))
Table(rows, ("sampler", "log p of its path is known"))

# %%
one_by_one = draw(library, "random", num=1000, temperature=1.0, steps=12)
in_order = draw(library, "random_order", num=1000, temperature=1.0)
same = (one_by_one.tokens == in_order.tokens).all().item()
print(
    f"random with 12 steps and random_order, 1000 sentences each: the same: {same}, "
    f"log p known: {one_by_one.path_log_prob is not None}"
)

# %% [markdown]
# **Check yourself.** Month, season and number of days are drawn in one forward pass, with nothing visible but the prompt. How often do they
# fit together? (Leave the noise out.)
#
# <details class="choice"><summary>29 % of the time</summary>
#
# **Right.** A sum of products of marginals: 0.4·0.4·0.7 for January, 0.3·0.6·0.7 for July, 0.3·0.6·0.3 for June.
#
# </details>
#
# <details class="choice"><summary>40 % of the time</summary>
#
# **No.** This is how often January is drawn, or winter. Neither fixes the other two words, which are drawn independently.
#
# </details>
#
# <details class="choice"><summary>1 % of the time</summary>
#
# **No.** This is the share of true *sentences*: there, the four words of an ending must fit too.
#
# </details>
#
# ## 4. Sudoku
#
# Now a real network: the tiny policy of [01](01_masked_diffusion.ipynb), which is right about one time in four. With `task.generate=all`
# the puzzle is the prompt, and all 16 cells are generated after it, as one contiguous response. Caches and WINO need this. In the layout
# with clues between the blanks they are refused:

# %%
config = load_config("toy_sudoku", "task.generate=all")
sudoku, between = load(config), load(load_config("toy_sudoku"))
sudoku.policy.double()
puzzles = sudoku.task.load(config.task.test)[:64]
for options in (SamplerConfig("confidence", cache="dual"), SamplerConfig("wino")):
    try:
        answer(between, puzzles[:1], options)
    except ValueError as error:
        print(error)

# %% [markdown]
# WINO feeds 16 shadow tokens after 32 tokens. They have the position ids of the cells that they stand for, so a network made for 32
# positions needs no more.

# %%
puzzle, WHEN = puzzles[4], {}  # ten blanks
rows = [("the puzzle", puzzle.puzzle, "", "")]
for name in ("random_order", "confidence", "threshold", "factor", "wino"):
    options = {"steps": 8} if name == "confidence" else {}
    sampler = SamplerConfig(name, temperature=0.0, **options)
    rollout = WHEN[name] = answer(sudoku, [puzzle], sampler, purpose="puzzle")
    filled = answer_texts(sudoku.tokenizer, rollout)[0][0]
    right = num_right(sudoku, [puzzle], rollout) == 1
    rows.append((name, filled, rollout.forwards, right))
Table(rows, ("", "cells", "forwards", "right"))

# %% tags=["nbval-ignore-output", "hide-input"] alt="Five boards with each cell in the colour of the step that placed it: random order needs 16 forwards, confidence 8, threshold 4, factor 3, WINO 2. The clues, framed, come early with the confident samplers."
draw_boards(sudoku.tokenizer, WHEN, puzzle.puzzle)
plt.show()

# %% [markdown]
# Five orders give the same answer, and it is wrong: in each row the missing digits are in increasing order, as in the training data
# ([01](01_masked_diffusion.ipynb)). So this mistake does not depend on the order. Only the number of forward passes differs.
#
# The cells framed in red are given in the prompt and only need to be copied. Do the samplers that look at confidence copy these first,
# although nothing tells them to? We count over all 64 puzzles, for `threshold`:

# %%
given = torch.tensor([[cell != "0" for cell in item.puzzle] for item in puzzles])
greedy = SamplerConfig("threshold", temperature=0.0)
at_once = answer(sudoku, puzzles, greedy).step[:, 0, 16:] == 0
copied, guessed = (at_once[cells].double().mean() for cells in (given, ~given))
print(
    f"placed in the first forward: {copied:.2f} of the given cells, {guessed:.2f} of "
    "the blanks"
)

# %% [markdown]
# It does copy them first. Half of the blanks are filled in the same pass: those that the policy is sure of, rightly or wrongly.
#
# Speed against quality: 64 test puzzles with three answers each at temperature 1, and 192 puzzles with greedy decoding. The forward passes
# of an answer are counted until its last cell is filled.

# %%
RULES = {
    "random": [{"steps": n} for n in (16, 8, 4, 1)],
    "confidence": [{"steps": n} for n in (16, 8, 4, 1)],
    "threshold": [{"threshold": x} for x in (0.97, 0.9, 0.7, 0.5)],
    "factor": [{"factor": x} for x in (0.5, 1.0, 2.0)],
    "wino": [{"threshold": x} for x in (0.9, 0.6, 0.4)],
}
more_puzzles = sudoku.task.load(config.task.test)[:192]


# %%
def solve(name, options, temperature, items, num):
    """Forward passes of an answer, in the mean, and the share of answers that are
    right."""
    sampler = SamplerConfig(name, temperature=temperature, **options)
    rollout = answer(sudoku, items, sampler, num_rollouts=num, purpose="puzzle")
    forwards = forwards_alone(rollout).double().mean().item()
    return forwards, num_right(sudoku, items, rollout) / (len(items) * num)


# %%
SUDOKU, rows = {1.0: {}, 0.0: {}}, []
for name, settings in RULES.items():
    for options in settings:
        row = [name, shown(options)]
        for temperature, items, num in ((1.0, puzzles, 3), (0.0, more_puzzles, 1)):
            point = solve(name, options, temperature, items, num)
            SUDOKU[temperature].setdefault(name, []).append(point)
            row += [f"{point[0]:.1f}", f"{point[1]:.2f}"]
        rows.append(row)
columns = ("forwards, temperature 1", "solved", "forwards, greedy", "solved")
Table(rows, ("sampler", "", *columns))

# %% tags=["nbval-ignore-output", "hide-input"] alt="Share of right answers against forwards in three panels. On the sentences the parallel samplers reach 1 with 4 to 6 forwards; on Sudoku they reach with 5 forwards what one token a step needs 16 for."
draw_tradeoffs(
    {
        "Nine sentences, temperature 1": TEXT,
        "Sudoku, temperature 1": SUDOKU[1.0],
        "Sudoku, greedy": SUDOKU[0.0],
    }
)
plt.show()

# %% [markdown]
# The standard error of a point is about 0.03, so only trends are meaningful. With every rule, fewer forward passes cost quality. But the
# rules that use the model's confidence to decide how many cells to fill (`threshold`, `factor`, `wino`) solve as much with four or five
# forward passes as the rules with a fixed number of steps with sixteen. The three lie on one curve: it matters *that* a rule uses the
# confidence, but hardly *how*. A forward pass of WINO costs more: 48 tokens instead of 32.
#
# The policy itself limits the share solved: it has learned to write digits in increasing order, and no sampler can change that. Training
# can: see [07](07_dmpo_on_sudoku.ipynb).
#
# **Check yourself.** Which sampler's rollouts are samples of $p_\theta$, with a known probability of their path?
#
# <details class="choice"><summary>`random_order`</summary>
#
# **Right.** One token a step, at a position chosen without looking at the model.
#
# </details>
#
# <details class="choice"><summary>`threshold` with τ = 0.99</summary>
#
# **No.** However careful it is, it chooses by confidence, and it draws several tokens at a time.
#
# </details>
#
# <details class="choice"><summary>`confidence` with one token a step, temperature 1</summary>
#
# **No.** It keeps a drawn token because it is probable, so probable ones are preferred twice.
#
# </details>
#
# ## 5. Caches
#
# When a response is generated block by block, most of the input hardly changes from step to step. The caches of Fast-dLLM keep the keys and
# values of a full pass at the beginning of each block, and then feed only a part:
#
# - `prefix`: the block and everything after it;
# - `dual`: only the block.
#
# The cached keys and values were computed when the block was still masked, so they are approximations. A spy between the sampler and the
# model (`Spy`, [toy/sampling.py](../toy/sampling.py)) records which tokens are fed, with block length 4:

# %%
FED, rows = {}, []
for cache in ("none", "prefix", "dual"):
    spy = Spy(sudoku.policy)
    sampler = SamplerConfig("confidence", block_length=4, cache=cache, temperature=0.0)
    rollout = answer(replace(sudoku, policy=spy), puzzles[:1], sampler)
    FED[cache] = spy.table(32)
    assert FED[cache].sum().item() == rollout.fed_tokens
    rows.append((cache, rollout.forwards, rollout.fed_tokens))
Table(rows, ("cache", "forwards", "tokens fed"))

# %% tags=["nbval-ignore-output", "hide-input"] alt="Which positions are fed in each of 16 forward passes: all of them without a cache, the current block and what follows with prefix, the current block alone with dual, but for the first pass of each block."
draw_fed(FED, prompt_length=16)
plt.show()

# %% [markdown]
# Every fourth row is a full pass; between them, `prefix` feeds from the block to the end, and `dual` only the block. Does the approximation
# do harm? The same puzzles, with greedy decoding, with and without a cache:

# %%
in_blocks = SamplerConfig("confidence", temperature=0.0, block_length=4)
rollouts = {
    cache: answer(sudoku, more_puzzles, replace(in_blocks, cache=cache))
    for cache in ("none", "prefix", "dual")
}
rows = []
for cache, rollout in rollouts.items():
    rate = num_right(sudoku, more_puzzles, rollout) / len(more_puzzles)
    same = (rollout.tokens == rollouts["none"].tokens)[..., 16:].double().mean()
    rows.append((cache, f"{rate:.2f}", f"{same:.3f}"))
Table(rows, ("cache", "share solved", "cells with the same digit as without"))

# %% [markdown]
# One cell in a hundred differs, and the share solved is the same within its standard error (0.03).
#
# **Check yourself.** The 16 cells in one block instead of four, still one cell in each forward pass. How many tokens does `dual` feed then?
# (With blocks of 4 it feeds 176.)
#
# <details class="choice"><summary>fewer than 176: there is only one full pass</summary>
#
# **No.** The other 15 passes each feed the block, and this is now the whole response.
#
# </details>
#
# <details class="choice"><summary>more than 176: each pass feeds at least 16 tokens</summary>
#
# **Right.** 32 + 15 · 16 = 272. Short blocks have cheap passes, but more full ones: with blocks of 2 it feeds 8 · (32 + 2) = 272 too.
#
# </details>
#
# <details class="choice"><summary>176 as before: the number of passes is the same</summary>
#
# **No.** It is, but what a pass feeds depends on the length of the block. With blocks of 8 the two effects cancel: 2 · (32 + 7 · 8) = 176.
#
# </details>
#
# ## 6. A model that answers in text
#
# The number of forward passes does not depend on the machine; the time does. We measure both on the text model of this repository
# (2.7 million weights, LLaDA's layout; [how it was made](../book/text.md)), which gets the Sudoku in a chat message and answers with steps
# and a result, 32 tokens in four blocks of 8. First what is fed, by hand and by the sampler: a full pass at the beginning of each block,
# and then, with a cache, only a part of the S tokens.

# %%
chat = load_config("text_sudoku", "threads=1")
text = load(chat)
chat_puzzles = text.task.load(chat.task.test)
asked = encode(text.tokenizer, text.task, chat_puzzles[:16], 32)

# %%
S, P, blocks = asked.tokens.shape[1], int(asked.prompt_mask[0].sum()), range(4)
by_hand = {
    "none": 32 * S,
    "prefix": sum(S + 7 * (S - P - 8 * b) for b in blocks),
    "dual": sum(S + 7 * 8 for b in blocks),
}
rows = []
for cache, expected in by_hand.items():
    row = ask(text, chat_puzzles[:16], replace(chat.evaluation.sampler, cache=cache))
    measured = f"{row['forwards']:.0f}", f"{row['fed_tokens']:,.0f}"
    rows.append((cache, *measured, f"{expected:,}"))
Table(rows, ("cache", "forwards", "tokens fed for an answer", "by hand"))

# %% [markdown]
# What does it answer, and in which order? Dark tokens were placed first.

# %% tags=["nbval-ignore-output"] alt="An answer of the text model, each token in the colour of the forward that placed it: eight forwards for 32 tokens."
options = replace(chat.evaluation.sampler, name="threshold")
rollout = answer(text, chat_puzzles[:1], options)
draw_trace(*trace(text.tokenizer, rollout)).suptitle(
    f"threshold, τ = 0.9: {rollout.forwards} forwards for 32 tokens", fontsize=9
)
plt.show()

# %% [markdown]
# Much of an answer is form: the tags, the line breaks, the end tokens. The model is sure of those and places them together. So the parallel
# rules should be cheap here, if the digits do not suffer. Every sampler on 128 test puzzles, for the policy that DMPO has trained
# ([results](../toy/results/text_samplers.jsonl), `python -m toy.studies.text samplers sudoku`, one thread, batches of 64):

# %%
stored = [
    row
    for row in read_results("text_samplers")
    if (row["task"], row["policy"]) == ("sudoku", "DMPO")
]
Table(
    [row[2:] for row in table_of_samplers(stored)],
    ("sampler", "", "right", "forwards", "fed tokens", "ms"),
)

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Share of right answers against forwards on Sudoku in chat. One token a step: 0.63 with 32 forwards, 0.58 with 8. Threshold and factor: 0.63 with 4 to 7, WINO 0.62 with 9."
figure, panel = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
draw_samplers(panel, stored)
panel.set(
    title="4x4 Sudoku in chat, after DMPO",
    xlabel="forwards for an answer",
    ylabel="share right, greedy",
    ylim=(0, 1),
)
panel.legend(fontsize=8)
plt.show()

# %% [markdown]
# Here the parallel rules keep their promise: `threshold`, `factor` and `wino` at the settings that ask for most confidence solve as much as
# one token at a time (81 of 128) or one less, with a fifth to a third of its forward passes. A fixed number of steps does not:
# `confidence` with a quarter of the steps loses 7 puzzles. The caches feed a third to a fifth of the tokens and solve 88 and 84. With the
# dual cache `threshold` takes more passes than without, because keys and values from the beginning of the block make the model less sure.
# The standard error of a share is 4 points, so only the larger of these differences mean anything; that a cache helps is not one of them.
#
# **Check yourself.** What does the `dual` cache feed between the full passes?
#
# <details class="choice"><summary>The current block alone.</summary>
#
# **Right.** Keys and values of everything else are those of the last full pass.
#
# </details>
#
# <details class="choice"><summary>The masked tokens alone.</summary>
#
# **No.** The whole block is fed, filled positions too.
#
# </details>
#
# <details class="choice"><summary>Everything after the prompt.</summary>
#
# **No.** `prefix` comes near that: the block and what follows it.
#
# </details>
#
# ## 7. Guidance
#
# Classifier-free guidance runs the model twice, with the prompt (logits $c$) and with the prompt masked ($u$), and enlarges the difference:
# $u+(g+1)(c-u)$. Suppose the question is "cold?", and is asked 2.5 times as often when the answer is January:

# %%
asked = Library(SENTENCES)
asked.emission[:, 0, asked.ids[QUESTION]] = torch.tensor(
    [0.5 if "winter" in sentence else 0.2 for sentence in SENTENCES],
    dtype=torch.float64,
)

# %% [markdown]
# The odds of winter against summer are 2 : 3 without the question, so we expect $(2/3)\cdot2.5^{\,g+1}$ with guidance, if the season is
# filled first. We compare with 2,000 sentences for each $g$:

# %%
rows = []
for g in (0.0, 1.0, 3.0):
    odds = 2 / 3 * 2.5 ** (g + 1)
    rollout = draw(asked, "random_order", num=2000, temperature=1.0, guidance=g)
    months = [asked.read(tokens).split()[0] for tokens in rollout.tokens[0]]
    share = months.count("January") / 2000
    expected, fed = odds / (1 + odds), rollout.fed_tokens / 2000
    rows.append((f"{g:g}", f"{expected:.3f}", f"{share:.2f}", f"{fed:.0f}"))
columns = (
    "expected at the first step",
    "share of January",
    "tokens fed for a sentence",
)
Table(rows, ("g", *columns))

# %% [markdown]
# It works, at twice the cost, and for $g>0$ the result is no longer a sample of $p_\theta$: guided rollouts have no path probability. (The
# share is near the expected one but not equal to it, because other words are often drawn first, with guidance too, and they already give
# evidence for a month.)
#
# **Check yourself.** Suppose that the question is asked equally often for all sentences, so that it says nothing about the month. What does
# guidance with g = 3 do?
#
# <details class="choice"><summary>It makes January, the most frequent month, more frequent.</summary>
#
# **No.** A low temperature would do this. Guidance enlarges only the difference between $c$ and $u$, and here there is none.
#
# </details>
#
# <details class="choice"><summary>It makes the three months equally frequent.</summary>
#
# **No.** It adds nothing to $u$, and under $u$ they have 0.4, 0.3 and 0.3.
#
# </details>
#
# <details class="choice"><summary>It does not change the answers, but each of them costs twice as much.</summary>
#
# **Right.** $c=u$, so $u+(g+1)(c-u)=u$ for every g. Both passes are computed all the same: 312 tokens instead of 156.
#
# </details>
#
# ## 8. Early stopping
#
# Real answers are shorter than the response length; the rest is filled with end tokens, and each costs as much as a word. With `stop_early`
# a row is finished as soon as it has an end token and no open position before it. With blocks this happens early. Our sentences with a
# response length of 36 words:

# %%
longer, rows = Library(SENTENCES, length=36), []
for name in ("confidence", "wino"):
    whole, stopped = (
        draw(longer, name, block_length=6, stop_early=stop) for stop in (False, True)
    )
    texts = [longer.read(rollout.tokens[0, 0]) for rollout in (whole, stopped)]
    print(f"{name}: the same text: {texts[0] == texts[1]}")
    rows.append((name, False, whole.forwards, whole.fed_tokens))
    rows.append((name, True, stopped.forwards, stopped.fed_tokens))
Table(rows, ("sampler", "stop_early", "forwards", "tokens fed"))

# %% [markdown]
# Two blocks of words and one end token: thirteen forward passes instead of 36. The text is the same by construction. The tokens after the
# end token were never drawn, so again there is no path probability: this option is for evaluation.
#
# **Check yourself.** `confidence` with `stop_early`, but all 36 positions in one block. How many forward passes does it save now?
#
# <details class="choice"><summary>23, as with blocks of 6</summary>
#
# **No.** With blocks the words of the first twelve positions had to be filled before the end tokens. Now the rule chooses among all 36.
#
# </details>
#
# <details class="choice"><summary>none</summary>
#
# **Right.** The model is sure of the end tokens, so they are filled early; the ending, with a confidence of 0.36, comes last. Until
# then there is an open position before the first end token.
#
# </details>
#
# <details class="choice"><summary>more than 23: the first end token comes earlier</summary>
#
# **No.** It does come earlier. But a row is finished only when no position before its end token is open.
#
# </details>
#
# ## To remember
#
# - Words drawn in one forward pass are drawn independently. Every parallel rule assumes that they hardly depend on each other.
# - With a fixed number of steps (`random`, `confidence` with `steps`), the sampler does not check how sure the model is; `threshold` and
#   `factor` check before a word is filled; `wino` checks afterwards too.
# - `random_order` samples from $p_\theta$ and reports its path probability: use it for rollouts whose weights need that. `random` with one
#   token per step samples from the same distribution, but does not report the probability; with fewer steps it loses dependences. Rules
#   that look at confidence sample from a sharper distribution than $p_\theta$.
# - Caches reduce the cost of a forward pass, parallel rules the number of passes; `threshold` with the dual cache does both.
# - Compare forward passes, fed tokens and quality together. Each of them alone can be misleading.
#
# ## Exercises
#
# 1. *Warm-up.* With $n$ words of confidence $c$ each, what is the union bound? Which $n$ does `factor` allow for $c=0.9$, f = 1?
# 2. *Standard.* Two words that contradict each other cannot both have a confidence above 0.5. Show it. Then construct three facts in which
#    three words of confidence 2/3 contradict each other, although any two of them can occur together.
# 3. *Standard.* At temperature 1, which distribution over the three months does `threshold` draw from? Compute it exactly for τ = 0.9 and
#    compare with section 3.
# 4. *Research.* Let WINO check the complete block once more. Which stopping rule still terminates, and how much does it gain on Sudoku for
#    each extra forward pass?
#
# ## Where next
#
# [07 · DMPO on Sudoku](07_dmpo_on_sudoku.ipynb) uses rollouts; [10 · Benchmarks](10_benchmarks.ipynb) evaluates. The code:
# [samplers/blockwise.py](../dmpo_ref/samplers/blockwise.py), [samplers/proposal.py](../dmpo_ref/samplers/proposal.py),
# [samplers/wino.py](../dmpo_ref/samplers/wino.py), [plots/traces.py](../dmpo_ref/plots/traces.py),
# [toy/worlds/sentences.py](../toy/worlds/sentences.py).
