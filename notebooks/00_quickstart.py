# %% [markdown]
# # 00 · Quickstart
#
# The whole method on one puzzle, before any detail.
#
# **You will learn**
# - what a masked diffusion language model does, on a board of sixteen cells;
# - what DMPO ([arXiv:2510.08233](https://arxiv.org/abs/2510.08233)) aims at: not the highest reward, but a
#   *distribution*;
# - its four steps, draw, reward, weigh, fit, each in a cell;
# - how near it comes, measured against the exact answer.
#
# **You need** Python and what reinforcement learning is about; no GPU. **It takes** ten minutes to read and half a
# minute to run.

# %%
try:
    from toy.notebook import start
except ImportError:
    raise SystemExit("dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the repository, then restart the kernel") from None
start()

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Image

from dmpo_ref import load_config, train
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.models.loading import load_policy
from dmpo_ref.plots.traces import animate_trace, trace
from dmpo_ref.samplers.sampling import sample
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.encoding import answer_texts, encode
from dmpo_ref.weights import effective_sample_size, log_weights, target_weights
from toy.oracle import exact_distribution, kl_divergence, rewards, tilted
from toy.worlds.sudoku import solutions

# %% [markdown]
# ## 1. A policy that writes in any order
#
# A masked diffusion language model reads a text with holes and predicts what stands in each hole, all at once. To
# *generate*, it starts from holes only, fills one, looks again, fills the next: in any order.
#
# The policy of this project's toy is such a transformer, with 85 thousand weights, and its texts are 4x4 Sudoku boards.
# It has learned from a careless teacher, so it is usually wrong. Here is a puzzle
# with *two* solutions.

# %%
config = load_config("toy_two_solutions")
task = build_task(config.task)
puzzle = task.load(config.task.train)[0]
policy, tokenizer = load_policy(config.model, torch.device("cpu"))
vocabulary = build_vocabulary(tokenizer, policy.config.embedding_size, alphabet=task.alphabet)
print(task.show(puzzle))
print(f"\n{puzzle.num_blanks} blanks, {4**puzzle.num_blanks:,} possible answers, solutions: {', '.join(solutions(puzzle.puzzle))}")

# %% [markdown]
# **Step 1: draw rollouts.** Sixty-four answers from the policy as it is (it is then called p_old).

# %%
prompts = encode(tokenizer, task, [puzzle])
rollout = sample(policy, prompts, config.sampler, vocabulary, num_rollouts=64, generators=[stream(0, "quickstart")])
texts = answer_texts(tokenizer, rollout)[0]
print(f"{len(set(texts))} different answers among the 64")

# %% tags=["nbval-ignore-output"]
Image(data=animate_trace(*trace(tokenizer, rollout), board=True, frames_per_second=2), format="gif")

# %% [markdown]
# Colours say when a cell was filled: dark first, light last. The sampler knows the exact probability of each answer
# along the order in which it was written.
#
# **Step 2: reward.** 1 for a valid board that keeps the clues, else 0. `task.reward` is a function of the text; yours
# can be too.

# %%
reward = torch.tensor([[sum(task.reward(puzzle, text).values()) for text in texts]], dtype=torch.float64)
print(f"{reward.sum().item():.0f} of the 64 are right")

# %% [markdown]
# ## 2. What should the policy become?
#
# One could ask for the highest reward. But a policy that always writes the same solution has it too. DMPO asks for the
# reference policy *tilted* by the reward:
#
# $$p^*(o\mid q) \;\propto\; p_{\text{ref}}(o\mid q)\; e^{r(q,o)/\alpha}.$$
#
# Every solution keeps the share it had, relative to the others; wrong answers lose a factor $e^{-1/\alpha}$. On this
# puzzle all 1,024 answers can be enumerated, so $p^*$ is known to the last digit:

# %%
reference = exact_distribution(policy, tokenizer, task, puzzle, vocabulary)
log_target = tilted(reference.log_prob, rewards(task, puzzle, reference), config.weight.alpha)
print(f"alpha = {config.weight.alpha}: a wrong answer loses a factor e^(1/alpha) = {math.exp(1 / config.weight.alpha):.0f}")
for text in solutions(puzzle.puzzle):
    place = reference.texts.index(text)
    print(f"solution {text}: p_ref {reference.log_prob[place].exp():.3f}, p* {log_target[place].exp():.3f}")
print(f"KL(p*‖p_ref) = {kl_divergence(log_target, reference.log_prob):.2f} nats")

# %% [markdown]
# **Step 3: weigh.** We cannot draw from p*, but we can weigh what we drew:
#
# $$w_n = \mathrm{softmax}_n\big(r_n/\alpha + \log p_{\text{ref}}(o_n) - \log p_{\text{old}}(o_n)\big).$$
#
# Here p_ref *is* p_old, so the last two terms cancel. The effective sample size (ESS) says which share
# of the 64 rollouts counts.

# %%
log_weight = log_weights(reward, torch.zeros_like(reward), alpha=config.weight.alpha, target="tilted")
weight = target_weights(log_weight, coefficient=1.0, target="tilted")
print(f"weight of the right answers {weight[reward == 1].sum().item():.2f}, ESS {effective_sample_size(weight).item():.2f}")

# %% [markdown]
# **Step 4: fit.** Maximum likelihood on the weighted rollouts: hide a random set of cells of each, predict them, weigh
# the cross-entropy by $w_n$ (the WDCE loss). A few gradient steps, then draw again. `train` does all four
# steps; notebook [05](05_two_losses.ipynb) rebuilds the loss, and `train` itself is [one page](../dmpo_ref/train.py).

# %%
history = []  # (round, KL(p*‖p_θ), probability of each solution), every fifth round


def watch(done, current):
    if done % 5 == 0:
        exact = exact_distribution(current, tokenizer, task, puzzle, vocabulary)
        history.append((done, kl_divergence(log_target, exact.log_prob), [exact.probability_of(text) for text in solutions(puzzle.puzzle)]))
    return {}  # `on_round` may return metrics of its own, which `train` writes beside the others; here there are none


# %%
output = Path(tempfile.mkdtemp()) / "run"
trained = train(load_config("toy_two_solutions", f"output={output}", "train.rounds=30"), on_round=watch)
print("KL(p*‖p_θ) below 0.05 nats:", history[-1][1] < 0.05)

# %% tags=["nbval-ignore-output", "slide"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
rounds = [0, *(done for done, _, _ in history)]
print(f"after {rounds[-1]} rounds: KL(p*‖p_θ) = {history[-1][1]:.3f} nats, solutions", " and ".join(f"{p:.3f}" for p in history[-1][2]))
left.semilogy(rounds, [kl_divergence(log_target, reference.log_prob), *(kl for _, kl, _ in history)], "o-")
left.set(title="Exact distance to p*", xlabel="rounds of 64 rollouts", ylabel="KL(p*‖p$_θ$), nats")
for i, text in enumerate(solutions(puzzle.puzzle)):
    right.plot(
        rounds, [reference.probability_of(text), *(shares[i] for _, _, shares in history)], "o-", color=f"C{i}", label=f"solution {i + 1}"
    )
    right.axhline(log_target[reference.texts.index(text)].exp().item(), linestyle="--", color=f"C{i}")
right.set(title="Both solutions keep their share (dashed: p*)", xlabel="rounds of 64 rollouts", ylabel="probability", ylim=(0, 1))
right.legend()
plt.show()

# %%
targets = [log_target[reference.texts.index(text)].exp().item() for text in solutions(puzzle.puzzle)]
print("both solutions within 0.15 of their share:", all(abs(p - q) < 0.15 for p, q in zip(history[-1][2], targets, strict=True)))

# %% [markdown]
# Two thousand rollouts, and the policy is within a few hundredths of a nat of p*. It has not merely become right: it
# has kept *both* solutions, in their proportion. That is what "distribution matching" means, and what
# mode-seeking methods lose (notebooks [02](02_mode_seeking_and_mass_covering.ipynb) and
# [08](08_against_its_rivals.ipynb)).
#
# How much of this does one puzzle prove? It shows that the fixed point is the right one. That the method *learns* on
# many puzzles is the other half:

# %% tags=["nbval-ignore-output"]
figures = Path(__import__("toy").__file__).parent.parent / "book" / "figures"
Image(filename=figures / "demo.png") if (figures / "demo.png").is_file() else print(
    "run `make demo`: this figure comes with the repository"
)

# %% [markdown]
# *The result of `make demo` (84 seconds on two CPU cores, 2026-11-22). Top, act (a): 256 puzzles whose grids were
# never trained on; the solve rate goes from 0.25 to 0.92, greedily from 0.13 to 1.00; cells that break a rule are shaded.
# Bottom: left, the ESS of both acts; middle and right, act (b), the puzzle above, in full.*
#
# ## To remember
#
# - A masked diffusion model fills holes in any order; along an order, its probability is exact.
# - The target is p_ref tilted by the reward, not the reward's maximum.
# - Draw, reward, weigh, fit. The weights are importance weights from what was drawn to what is wanted.
# - Where p* is known exactly, distances are computed, not estimated.
#
# ## Exercises
#
# 1. *Warm-up.* What is p* for α → ∞, and for α → 0? Check with `tilted`.
# 2. *Warm-up.* Replace the reward by a function of yours (`train(config, reward=…)`), for example 1 if the first
#    blank, `text[4]`, is a 1. How near does the policy come to its p*?
# 3. *Standard.* Train with `train.num_rollouts=4` and 480 rounds. Do both solutions survive? Try three seeds.
# 4. *Research.* After how many rollouts is KL(p*‖p_θ) below 0.01, as a function of N? Is there an N below which it
#    never is?
#
# ## Where next
#
# [01 · Masked diffusion](01_masked_diffusion.ipynb) for the model, [03 · Weights](03_weights.ipynb) for step 3, [05 ·
# Two losses](05_two_losses.ipynb) for step 4,
# [09 · From the toy to LLaDA-8B](09_from_the_toy_to_llada.ipynb) if you have a GPU.
