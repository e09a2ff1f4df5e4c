# %% [markdown]
# # 07 · DMPO on Sudoku
#
# First one round of training, step by step, with the functions that `train` calls. Then a whole run: a short one live, and a
# long one from committed results.
#
# **You will learn**
# - what one round computes: rollouts, rewards, weights, masks, log-probabilities, loss, one gradient step;
# - how reward, solve rate and effective sample size move in a run, and what each of them tells;
# - which puzzles improve, by number of blanks;
# - whether it pays to use rollouts more than once (buffer reuse), measured;
# - that a rising reward does not say *which* distribution was reached, and what does.
#
# **You need** notebooks [00](00_quickstart.ipynb) and [03](03_weights.ipynb). **It takes** forty minutes to read and
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
import copy
import statistics
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from dmpo_ref import (
    SamplerConfig,
    build_task,
    build_vocabulary,
    evaluate,
    load_config,
    load_policy,
    train,
)
from toy.acts import GREEDY
from toy.figures.demo import draw_board
from toy.oracle import exact_distribution, kl_divergence, rewards, tilted
from toy.studies.acts import by_name, read
from toy.worlds.sudoku import solutions

# %% [markdown]
# ## 1. The task and the policy at the start
#
# 4x4 Sudoku with 6 to 10 blanks. No solution grid of the test puzzles occurs in training. The reference policy was
# pre-trained mostly on wrong answers: the missing digits of each row filled in in increasing order, without regard to columns and
# boxes. It gives right answers some probability, but wrong ones more.

# %%
config = load_config("toy_sudoku")
task = build_task(config.task)
puzzles = task.load(config.task.test)
policy, tokenizer = load_policy(config.model, torch.device("cpu"))
vocabulary = build_vocabulary(
    tokenizer, policy.config.embedding_size, alphabet=task.alphabet
)
print(f"{len(puzzles)} test puzzles; the first:\n{task.show(puzzles[0])}")

# %%
arguments = (tokenizer, task, puzzles[:64])
before = evaluate(policy, *arguments, SamplerConfig(), vocabulary, num_samples=4)
greedy_before = evaluate(policy, *arguments, GREEDY, vocabulary).accuracy
print(f"solved at temperature 1: {before.accuracy:.2f}, greedily: {greedy_before:.2f}")
print("greedily no more often than at temperature 1:", greedy_before <= before.accuracy)

# %% [markdown]
# Greedy answers are worse than samples (on all 256 puzzles 0.13 against 0.25). The mistakes are systematic,
# so the most probable digit is often wrong.
#
# **Check yourself.** For every puzzle a policy knows only two answers: a wrong one, with probability 0.6, and the right one, with 0.4. What
# does it solve?
#
# <details class="choice"><summary>0.4 at temperature 1, and 0.4 greedily</summary>
#
# **No.** Greedy decoding does not draw. It takes the most probable digit each time.
#
# </details>
#
# <details class="choice"><summary>0.4 at temperature 1, and 0 greedily</summary>
#
# **Right.** Where the answers differ, the digit of the wrong one is more probable, 0.6 against 0.4; once it is placed, the right answer is
# excluded.
#
# </details>
#
# <details class="choice"><summary>0.4 at temperature 1, and 1 greedily</summary>
#
# **No.** Greedy decoding takes what is most probable, and this need not be right.
#
# </details>
#
# ## 2. One round, step by step
#
# `train` loads a config and then repeats one round. Here is one round with the same functions, on three puzzles. The reference is a frozen
# copy of the policy; `weight.log_ratio=path` compares the two along the order of each rollout. (In float64, so that the
# numbers are the same on every machine.)

# %% tags=["hide-input"]
from dmpo_ref import (
    effective_sample_size,
    log_weights,
    sequence_log_prob,
    target_weights,
    token_log_prob,
)
from dmpo_ref.experience import collect, step_masks
from dmpo_ref.gradient import gradient_step, real_weight
from dmpo_ref.models.reference import FrozenReference
from dmpo_ref.objectives import build_objective

# %%
by_hand = load_config(
    "toy_sudoku",
    "weight.log_ratio=path",
    "train.num_rollouts=4",
    "optimizer.learning_rate=8e-4",
)
p_ref = FrozenReference(copy.deepcopy(policy).double())
learner = copy.deepcopy(policy).double()  # p_θ; p_old as long as it draws rollouts
objective = build_objective(by_hand.loss, by_hand.weight)
rate = by_hand.optimizer.learning_rate
optimizer = torch.optim.AdamW(learner.parameters(), rate, weight_decay=0.0)
items = task.load(by_hand.task.train)[:3]
print(
    f"loss {by_hand.loss.name}, {by_hand.loss.num_masks} {by_hand.loss.masks} masks "
    f"of each response, alpha = {by_hand.weight.alpha}"
)

# %% [markdown]
# **Collect.** `collect` draws N rollouts of each puzzle, asks the task for their rewards, and computes the weights. The
# random numbers are keyed by the place of each puzzle in the data stream, here 0, 1, 2.

# %%
inputs = learner, p_ref, tokenizer, vocabulary, task, items, objective, by_hand
experience, texts, *_ = collect(*inputs)
rows = []
for g, item in enumerate(items):
    for n, text in enumerate(texts[g]):
        ratio = round(experience.log_ratio[g, n].item(), 9) + 0.0
        reward, weight = experience.reward[g, n], experience.weight[g, n]
        numbers = f"{reward:.0f}", f"{ratio:.2f}", f"{weight:.4f}"
        rows.append((item.puzzle if n == 0 else "", text, *numbers))
columns = ("reward", "log p_ref - log p_old", "weight")
Table(rows, ("puzzle", "answer", *columns))

# %%
ess = effective_sample_size(experience.weight)
Table([("ESS of its rollouts", *(f"{x:.2f}" for x in ess))], ("puzzle", 1, 2, 3))

# %% [markdown]
# The log-ratio is 0, because policy and reference are still the same. So within a puzzle the weights depend on the reward alone.
# They are a softmax of the log-weights $\ell=r/\alpha+\log p_{\text{ref}}-\log p_{\text{old}}$ over the four rollouts. The third puzzle has
# no right answer, so its weights are all equal.

# %%
log_weight = log_weights(
    experience.reward, experience.log_ratio, alpha=by_hand.weight.alpha
)
torch.testing.assert_close(target_weights(log_weight), experience.weight)
print(
    "the softmax of notebook 03 gives the same weights; sums over the rollouts:",
    *(f"{x:.3f}" for x in experience.weight.sum(dim=-1)),
)

# %% [markdown]
# **Masks.** For a gradient step the objective draws R = 2 masks of each response, a set of blanks and its complement (`antithetic`).
# Those of one response to the first puzzle; `·` is hidden:

# %%
batch = experience.of_step(k=0)
masks = step_masks(objective, batch.rollout, batch.position, by_hand.seed, k=0)
rows = []
for r, hidden in enumerate(masks.hidden[0, 2]):
    cells = zip(hidden.tolist(), texts[0][2], strict=True)
    seen = "".join("·" if hides else digit for hides, digit in cells)
    rows.append((r, seen, hidden.sum().item(), f"{masks.weight[0, 2, r]:.2f}"))
shapes = tuple(masks.hidden.shape), tuple(masks.weight.shape)
print("hidden [G, N, R, S]: {}, weight [G, N, R]: {}".format(*shapes))
Table(rows, ("mask", "response", "hidden", "weight"))

# %% [markdown]
# **Token log-probabilities.** The policy reads every masked response and gives $\log\pi_\theta$ of each hidden token. Their weighted
# sums, averaged over the masks, estimate the ELBO, a lower bound of $\log p_\theta(o)$.

# %%
scores = token_log_prob(learner, batch.rollout, masks, vocabulary)  # [G, N, R, S]
sequence = sequence_log_prob(scores, masks)  # [G, N]
by_definition = (masks.weight * scores.sum(dim=-1)).mean(dim=-1)
torch.testing.assert_close(sequence, by_definition)
rows = []
for r, hidden in enumerate(masks.hidden[0, 2]):
    of_hidden = (f"{round(x, 2) + 0.0:.2f}" for x in scores[0, 2, r][hidden].tolist())
    rows.append((r, ", ".join(of_hidden)))
Table(rows, ("mask", "log π of the hidden tokens"))

# %%
estimates = (f"{round(x, 2) + 0.0:.2f}" for x in sequence[0].tolist())
Table([("ELBO estimate", *estimates)], ("response to the first puzzle", *range(1, 5)))

# %% [markdown]
# **Loss.** WDCE is the negative ELBO divided by L, the number of blanks, summed with $w_{\text{real}}=w-w_{\text{base}}$. The preset has
# no baseline, so $w_{\text{real}}=w$.

# %%
w_real = real_weight(scores, masks, batch, by_hand.weight)
loss = objective.loss(scores, masks, batch, w_real)
L = batch.rollout.response_mask.sum(dim=-1)  # [G, N]
torch.testing.assert_close(loss, -(w_real * sequence / L).sum(dim=-1).mean())
print(f"w_real = w: {torch.equal(w_real, batch.weight)}, loss {loss.item():.4f}")

# %% [markdown]
# **One gradient step.** `gradient_step` does all this from the masks on, computes the gradient, clips it, and lets the optimiser change
# the policy. Measured again on the same batch and the same masks, the loss is lower.

# %%
loss_before, grad_norm = gradient_step(
    learner, optimizer, vocabulary, objective, batch, masks, by_hand
)
with torch.no_grad():
    loss_after = objective.loss(
        token_log_prob(learner, batch.rollout, masks, vocabulary), masks, batch, w_real
    ).item()
print(f"gradient_step returns the loss before the step: {loss_before:.4f}")
print("the loss on this batch is lower after it:", loss_after < loss_before)

# %% [markdown]
# A round takes several such steps, each on new masks. Then the policy, which has changed, becomes the new $p_{\text{old}}$ and draws
# again. Now it differs from the reference, so the log-ratio is no longer 0:

# %%
for k in range(1, by_hand.train.steps_per_round):
    masks = step_masks(
        objective, batch.rollout, batch.position, by_hand.seed, k, step=k
    )
    gradient_step(
        learner, optimizer, vocabulary, objective, batch, masks, by_hand, step=k
    )

# %%
second, *_ = collect(*inputs, position=[3, 4, 5])
first_largest, second_largest = (
    each.log_ratio.abs().max().item() for each in (experience, second)
)
print("largest |log p_ref - log p_old|")
print("first round below 1e-9:", first_largest < 1e-9)
print("second round above 0.01:", second_largest > 0.01)

# %% [markdown]
# **Check yourself.** In the first gradient step of a round, the baseline `model` is …
#
# <details class="choice"><summary>equal to `none`.</summary>
#
# **No.** It subtracts 1/N from each weight; `none` subtracts nothing.
#
# </details>
#
# <details class="choice"><summary>equal to `uniform`.</summary>
#
# **Right.** There $p_\theta=p_{\text{old}}$, so the softmax of the log-ratios is 1/N.
#
# </details>
#
# <details class="choice"><summary>not defined.</summary>
#
# **No.** It is the softmax of N zeros, 1/N each.
#
# </details>
#
# ## 3. A short run, live
#
# The loop of `train` is the cells above, over and over, with a learning-rate schedule, files and checkpoints
# ([dmpo_ref/train.py](../dmpo_ref/train.py)). Twelve rounds of the preset `toy_sudoku`: each draws 4 rollouts for each of 48 puzzles and
# takes 4 gradient steps. The log-ratio is `none`: the reference is the rollout policy itself, so the target p* moves with the policy.

# %%
output = Path(tempfile.mkdtemp()) / "run"
overrides = ("train.rounds=12", "evaluation.every=0", "evaluation.num_items=1")
trained = train(load_config("toy_sudoku", f"output={output}", *overrides))
by_round = {entry["round"]: entry for entry in trained.metrics}.values()
rewards_live = [entry["reward"] for entry in by_round]
print("reward of the first round below 0.4:", rewards_live[0] < 0.4)
print("reward of the last round above 0.5:", rewards_live[-1] > 0.5)

# %%
after = evaluate(trained.policy, *arguments, SamplerConfig(), vocabulary, num_samples=4)
greedy = evaluate(trained.policy, *arguments, GREEDY, vocabulary)
print("solved at temperature 1, above 0.5:", after.accuracy > 0.5)
print("solved greedily, above 0.6:", greedy.accuracy > 0.6)

# %% tags=["nbval-ignore-output"]
measured = {
    "reward of the rollouts": (rewards_live[0], rewards_live[-1]),
    "solved at temperature 1": (before.accuracy, after.accuracy),
    "solved greedily": (greedy_before, greedy.accuracy),
}
Table(
    [(name, *(f"{x:.2f}" for x in two)) for name, two in measured.items()],
    ("", "before", "after 12 rounds"),
)

# %% tags=["nbval-ignore-output", "hide-input"] alt="Two puzzles, before and after: the greedy answers of the reference with cells that break a rule shaded, and the right answers after twelve rounds."
old = evaluate(policy, tokenizer, task, puzzles[:20], GREEDY, vocabulary).answers
new = evaluate(
    trained.policy, tokenizer, task, puzzles[:20], GREEDY, vocabulary
).answers
repaired = [
    i
    for i in range(20)
    if task.grade(puzzles[i], new[i][0]).correct
    and not task.grade(puzzles[i], old[i][0]).correct
][:2]
figure, axes = plt.subplots(
    1, 2 * len(repaired), figsize=(2.3 * 2 * len(repaired), 2.5), layout="constrained"
)
for pair, i in zip(axes.reshape(-1, 2), repaired, strict=True):
    draw_board(pair[0], puzzles[i].puzzle, old[i][0], "greedy, before")
    draw_board(pair[1], puzzles[i].puzzle, new[i][0], "greedy, after 12 rounds")
plt.show()

# %% [markdown]
# Clues are black, generated digits blue; cells that break a rule are shaded. Before training the rows are right and the columns are wrong,
# as in the answers of the pre-training. After about two thousand rollouts the columns are right too.
#
# **Check yourself.** Before the run, greedy decoding solves fewer puzzles than samples at temperature 1; after it, more. What has changed?
#
# <details class="choice"><summary>The rollouts of training were greedy, so this is what has been trained.</summary>
#
# **No.** Rollouts are drawn at temperature 1. Four greedy rollouts of a puzzle would be the same answer, with equal weights.
#
# </details>
#
# <details class="choice"><summary>The two measurements are noisy, and their order is chance.</summary>
#
# **No.** Before the run it is 0.13 against 0.25 on all 256 puzzles. After it, the difference is several times the standard error, which
# for 64 puzzles is 0.06 at most.
#
# </details>
#
# <details class="choice"><summary>The most probable digits, wrong before, are right now.</summary>
#
# **Right.** Greedy decoding depends only on which digit is most probable. Samples still take less probable digits now and then, and
# one wrong digit makes an answer wrong.
#
# </details>
#
# ## 4. A long run
#
# The same preset for its full 120 rounds (23,040 rollouts, 480 gradient steps) takes one to three minutes. Its
# metrics are committed: `python -m toy.studies.acts curve`, 2026-11-22.

# %%
curves = {row["name"]: row for row in read("curve")}
long = curves["120 rounds"]
Table(
    [(point["round"], f"{point['solve_rate']:.3f}") for point in long["measured"]],
    ("after rounds", "solve rate"),
)

# %% tags=["nbval-ignore-output", "hide-input"] alt="Left: reward and solve rate rise from 0.25 to above 0.9 in 120 rounds. Centre: the effective sample size rises from 0.65 to 0.9. Right: solve rate by number of blanks after 0, 10 and 120 rounds; puzzles with more blanks are harder."
figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(12.5, 3), layout="constrained"
)
left.plot(long["rounds"]["reward"], alpha=0.5, label="reward of the rollouts")
left.plot(
    *zip(*[(m["round"], m["solve_rate"]) for m in long["measured"]], strict=True),
    "o-",
    label="test solve rate",
)
left.set(
    title="Reward and solve rate", xlabel="round", ylabel="share solved", ylim=(0, 1)
)
left.legend()
middle.plot(long["rounds"]["ess"], color="C2")
middle.set(
    title="Effective share of the rollouts",
    xlabel="round",
    ylabel="ESS (share of the N rollouts)",
    ylim=(0, 1.05),
)
for m in (long["measured"][0], long["measured"][2], long["measured"][-1]):
    right.plot(
        [int(k.split()[0]) for k in m["by_blanks"]],
        list(m["by_blanks"].values()),
        "o-",
        label=f"after {m['round']} rounds",
    )
right.set(
    title="Solve rate by number of blanks",
    xlabel="blanks",
    ylabel="test solve rate",
    ylim=(0, 1.05),
    xticks=range(6, 11),
)
right.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# The left panel is the kind of picture that the paper shows in its Figure 4: reward over training. Three things to read:
#
# - *Reward* is the mean over the rollouts of the round, each drawn at temperature 1. It rises fast and flattens near
#   0.9: at temperature 1 a policy that is right in each cell with probability 0.99 still fails one puzzle in ten.
# - *ESS* starts at 0.65 and rises towards 1. Where all four rollouts of a puzzle have the same reward, the weights are
#   uniform and say nothing about which answer is better (with `log_ratio: none`). So a rising ESS here means that fewer and
#   fewer puzzles still give a signal. It is not a measure of quality.
# - *Blanks*: puzzles of all sizes improve, those with 10 blanks last. The reward is 0 or 1 for the whole board, so a hard puzzle
#   gives no signal until one of its four rollouts is right.
#
# The ESS of a group of four, by its rewards, at the α of the preset:

# %%
rows = []
for num_right in (1, 2, 3, 4, 0):
    reward = (torch.arange(4) < num_right).double()[None]
    no_ratio = torch.zeros_like(reward)  # log_ratio: none
    log_weight = log_weights(reward, no_ratio, alpha=config.weight.alpha)
    ess = effective_sample_size(target_weights(log_weight)).item()
    rows.append((", ".join(f"{r:.0f}" for r in reward[0]), f"{ess:.2f}"))
Table(rows, ("rewards", "ESS (share of the N rollouts)"))

# %% [markdown]
# A group with one right answer in four counts as one rollout. A group that is all right, or all wrong, counts as four, but
# its weights carry no information.

# %%
first, last = (long["measured"][i]["by_blanks"] for i in (0, -1))
Table(
    [(kind, f"{first[kind]:.2f}", f"{last[kind]:.2f}") for kind in first],
    ("solve rate", "before", "after 120 rounds"),
)

# %% [markdown]
# Three seeds end within 0.6 percentage points of each other. With a fixed reference (`log_ratio: path`) the result is about the same:

# %%
rows = []
for name, runs in sorted(by_name(read("act_a")).items()):
    rates = [run["after"]["temperature_1"] for run in runs]
    ends = (statistics.mean(rates), min(rates), max(rates))
    start_rate = runs[0]["before"]["temperature_1"]
    rows.append((name, *(f"{rate:.3f}" for rate in (start_rate, *ends))))
Table(rows, ("solve rate", "before", "after, mean", "lowest", "highest"))

# %% [markdown]
# **Check yourself.** During training the ESS rises. What does that show by itself?
#
# <details class="choice"><summary>That the policy comes closer to p\*.</summary>
#
# **No.** A policy that collapses on one answer has a rising ESS too.
#
# </details>
#
# <details class="choice"><summary>That the learning rate is too high.</summary>
#
# **No.** The ESS says nothing about the learning rate.
#
# </details>
#
# <details class="choice"><summary>That the weights within the groups have become more even.</summary>
#
# **Right.** Because the rewards have become more alike, or because the log-ratio makes up for their differences, as it does at p\*. The
# ESS cannot tell which.
#
# </details>
#
# ## 5. Using rollouts again
#
# For a large model, drawing rollouts is most of the cost. The weights are importance weights, so one may keep the
# rollouts of earlier rounds in the buffer (`train.reuse_rounds`), with the weights they were given. Will the policy learn
# more from the same number of rollouts?

# %%
rows = []
for name, run in curves.items():
    rate = run["measured"][-1]["solve_rate"]
    rows.append((name, run["rollouts"], run["gradient_steps"], f"{rate:.3f}"))
Table(rows, ("run", "rollouts", "gradient steps", "solve rate at the end"))

# %% tags=["nbval-ignore-output", "hide-input"] alt="Solve rate against rollouts drawn for five runs. All end near 0.92 or 0.90; those with 30 rounds rise faster."
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for i, row in enumerate(curves.values()):
    at = [
        m["round"] * row["rollouts"] / row["measured"][-1]["round"]
        for m in row["measured"]
    ]
    line = "--" if "reuse" in row["name"] else "-"
    axes.plot(
        at,
        [m["solve_rate"] for m in row["measured"]],
        line,
        marker="o",
        markersize=4,
        label=row["name"],
        color=f"C{i}",
    )
axes.set(
    title="Solve rate against rollouts drawn",
    xlabel="rollouts",
    ylabel="test solve rate",
    ylim=(0, 1),
)
axes.legend()
plt.show()

# %% [markdown]
# It does not help here. With 5,760 rollouts and four times as many steps on each, the solve rate is already 0.90. Adding old
# rollouts slows the start, because most of what a step sees was then drawn from an older, worse policy.
# (One seed each; differences below one percentage point mean nothing.) With the same 480 steps, a quarter of the rollouts costs two points.
#
# **Check yourself.** Suppose that drawing the rollouts of a round takes 9 seconds and a gradient step 1 second. By the table, what would 30
# rounds be in place of 120?
#
# <details class="choice"><summary>four times as fast, for two points of the solve rate</summary>
#
# **No.** Only the rollouts are a quarter. Both runs take 480 gradient steps, 16 in each of 30 rounds or 4 in each of 120.
#
# </details>
#
# <details class="choice"><summary>about twice as fast, for two points of the solve rate</summary>
#
# **Right.** 30 · 9 + 480 = 750 seconds in place of 120 · 9 + 480 = 1,560. What one gains depends on the part of the time that drawing
# takes.
#
# </details>
#
# <details class="choice"><summary>as fast, since both take the same gradient steps</summary>
#
# **No.** The 90 rounds that are left out would take 810 seconds to draw their rollouts.
#
# </details>
#
# ## 6. Which distribution?
#
# The solve rate is 0.92. Has DMPO reached its target? Rewards cannot answer this. A policy that always
# writes one solution of each puzzle would have solve rate 1. So take one puzzle with *two* solutions, keep the
# reference fixed, and enumerate ([00](00_quickstart.ipynb) shows such a run). Committed: 3 puzzles × 5 seeds, 3,200
# rollouts each, `python -m toy.studies.acts act_b`.

# %%
matched = read("act_b")
starts, ends = (
    [run[when]["kl_target_policy"] for run in matched] for when in ("before", "after")
)
print(
    f"KL(p*‖p_θ) at the start {min(starts):.2f} to {max(starts):.2f}, at the end: "
    f"median {statistics.median(ends):.3f}, largest {max(ends):.3f}"
)

# %%
off = [
    abs(p - q)
    for run in matched
    for p, q in zip(run["after"]["shares"], run["target_shares"], strict=True)
]
print(f"shares of the solutions off by at most {max(off):.3f}")

# %% [markdown]
# And the moving reference of the live run? There p* of round $t$ is tilted from $p_\theta$ of round $t-1$. Every round tilts
# once more, so after many rounds only the answers with the highest reward are left; no fixed $\alpha$ describes the goal. Compare the
# live policy, on a two-solution puzzle it was never trained on, with the p* of the *initial* reference:

# %%
two = load_config("toy_two_solutions")
puzzle = task.load(two.task.train)[0]
start_exact, end_exact = (
    exact_distribution(model, tokenizer, task, puzzle, vocabulary)
    for model in (policy, trained.policy)
)
reward = rewards(task, puzzle, start_exact)
log_target = tilted(start_exact.log_prob, reward, two.weight.alpha)

# %%
solved_before, solved_after = (
    sum(map(exact.probability_of, solutions(puzzle.puzzle)))
    for exact in (start_exact, end_exact)
)
kl_before, kl_after = (
    kl_divergence(log_target, exact.log_prob) for exact in (start_exact, end_exact)
)
print("solved more often than at the start:", solved_after > solved_before)
print("nearer to p* than at the start:", kl_after < kl_before)

# %% tags=["nbval-ignore-output"]
Table(
    [
        ("at the start", f"{solved_before:.2f}", f"{kl_before:.2f}"),
        ("after the live run", f"{solved_after:.2f}", f"{kl_after:.2f}"),
    ],
    ("", "solved", "KL(p*‖p_θ), nats"),
)

# %% tags=["nbval-ignore-output", "hide-input"] alt="Probabilities of the eight answers most probable under p*, by p_ref, p* and the live run. p_ref prefers wrong ones; the live run has moved most of its probability to the two solutions."
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
best = log_target.argsort(descending=True)[:8]
for i, (name, log_prob) in enumerate(
    (
        ("p$_{ref}$", start_exact.log_prob),
        ("p*", log_target),
        ("live run", end_exact.log_prob),
    )
):
    axes.bar(
        [k + 0.27 * (i - 1) for k in range(8)],
        log_prob[best].exp(),
        0.25,
        label=name,
        color=f"C{i}",
    )
names = [
    "solution" if start_exact.texts[k] in solutions(puzzle.puzzle) else "wrong"
    for k in best.tolist()
]
axes.set(
    title="The eight answers most probable under p*",
    ylabel="probability",
    xticks=range(8),
    xticklabels=names,
)
axes.legend()
plt.show()

# %% [markdown]
# It comes nearer, but nothing in its training asks for the probabilities of p*; what it does on this puzzle it learned from others. Use
# `log_ratio: path` or `elbo` if p* matters, and `none` if only the reward does.
#
# **Check yourself.** The reference is updated during the run. Is the final policy near p\* of the *first* reference?
#
# <details class="choice"><summary>It need not be: the target has moved with the reference.</summary>
#
# **Right.** That is why act (b), which measures distances from p\*, keeps the reference fixed.
#
# </details>
#
# <details class="choice"><summary>Yes, since the log-ratio corrects for it.</summary>
#
# **No.** It corrects for $p_{\text{old}}$, towards whatever the reference is now.
#
# </details>
#
# <details class="choice"><summary>Yes, if the reward is high.</summary>
#
# **No.** A high reward is no evidence of the distribution.
#
# </details>
#
# ## To remember
#
# - One round: collect, choose masks, token log-probabilities, w_real, loss, gradient step.
# - Reward at temperature 1, greedy solve rate and solve rate by difficulty are three different numbers. Report all three.
# - ESS near 1 with `log_ratio: none` means that most groups no longer give a signal.
# - Reusing stale rollouts did not help here; a quarter of the rollouts, with as many steps, cost two points.
# - A reward curve does not show whether a policy matches p\* or gives up solutions. Exact distances do.
#
# ## Exercises
#
# 1. *Warm-up.* Why can the reward at temperature 1 not reach 1, and what changes at temperature 0.5?
# 2. *Standard.* At which α does a group with rewards 1, 0, 0, 0 have ESS = 0.5? Solve it, then check with
#    `effective_sample_size`.
# 3. *Standard.* With `log_ratio: none` and α fixed, to which α of the *initial* reference does the target of round $t$
#    correspond if every round is fitted exactly?
# 4. *Research.* Find a way to reuse rollouts that beats fresh ones at 5,760 rollouts: new weights under the current policy, dropping
#    groups of small ESS, or sampling by age. Three seeds.
#
# ## Where next
#
# [08 · Against its rivals](08_against_its_rivals.ipynb), [09 · From the toy to
# LLaDA-8B](09_from_the_toy_to_llada.ipynb). The code: [train.py](../dmpo_ref/train.py) (`loop`),
# [experience.py](../dmpo_ref/experience.py) (`collect`), [gradient.py](../dmpo_ref/gradient.py),
# [toy/studies/acts.py](../toy/studies/acts.py).
