# %% [markdown]
# # 00 · Quickstart
#
# The whole method on one puzzle. We read [dmpo_ref/minimal.py](../dmpo_ref/minimal.py), the algorithm on one page, function by
# function, and call each one.
#
# **You will learn**
# - how a masked diffusion language model writes a text, on a board of sixteen cells;
# - what DMPO ([arXiv:2510.08233](https://arxiv.org/abs/2510.08233)) aims at: not the highest reward, but a *distribution*;
# - its six steps, each a short function: draw, score with the reference, weigh, mask, NELBO, loss;
# - how near it comes to the target, measured against the exact answer.
#
# **You need** Python and the basic idea of reinforcement learning; no GPU. **It takes** fifteen minutes to read and less
# than a minute to run.

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
import inspect
import itertools
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Image, Markdown

from dmpo_ref import (
    build_task,
    build_vocabulary,
    effective_sample_size,
    encode,
    load_config,
    load_policy,
    minimal,
    stream,
    train,
)
from dmpo_ref.plots.traces import animate_trace
from toy.oracle import exact_distribution, kl_divergence, rewards, tilted
from toy.worlds.sudoku import solutions

# %% [markdown]
# ## 1. The policy and the puzzle
#
# A masked diffusion language model reads a text in which some tokens are masked, and predicts all masked tokens at once. To
# *generate*, it starts with only masks, fills one, looks again, and fills the next. Any order is possible.
#
# Our policy is such a transformer with 85 thousand weights. Its texts are 4x4 Sudoku boards. It was pre-trained on answers
# that are usually wrong, so it is usually wrong too. Here is a puzzle with *two* solutions.

# %%
config = load_config("toy_two_solutions")
task = build_task(config.task)
puzzle = task.load(config.task.train)[0]
policy, tokenizer = load_policy(config.model, torch.device("cpu"))
policy = (
    policy.double()
)  # float64, so that the numbers below are the same on every machine
vocabulary = build_vocabulary(
    tokenizer, policy.config.embedding_size, alphabet=task.alphabet
)
print(task.show(puzzle))
print(
    f"\n{puzzle.num_blanks} blanks, {4**puzzle.num_blanks:,} possible answers, "
    f"solutions: {', '.join(solutions(puzzle.puzzle))}"
)

# %% [markdown]
# The functions of the page work on token ids. `prompt` has S = 16 positions; M, the mask token, stands at the L = 5 blanks. `allowed` says
# which tokens may be generated: the four digits. `rand` is the only source of random numbers. N rollouts of each of G prompts (here G = 1)
# will be drawn, and R masks of each; α is the temperature of section 2.

# %%
prompt, mask_id, allowed = (
    encode(tokenizer, task, [puzzle]).tokens,
    vocabulary.mask_token_id,
    vocabulary.allowed,
)
generator = stream(0, "quickstart")


def rand(*shape):
    return torch.rand(shape, generator=generator, dtype=torch.float64)


N, R, alpha = 64, 2, config.weight.alpha
L = int((prompt == mask_id).sum())
print("prompt:", prompt.tolist()[0], f"  M = {mask_id}, L = {L}")

# %% [markdown]
# Every call of the model on the page goes through `log_pi`: log π(· | tokens) at every position, as a softmax
# over the allowed tokens.


# %%
def show(*functions):
    return Markdown(
        "\n".join(
            f"```python\n{inspect.getsource(function)}```" for function in functions
        )
    )


show(minimal.log_pi)

# %%
with torch.no_grad():
    log_p = minimal.log_pi(policy, prompt, allowed)
blanks = (prompt[0] == mask_id).nonzero().squeeze(-1).tolist()
digits = allowed.nonzero().squeeze(-1)
Table(
    [[d, *(f"{p:.2f}" for p in log_p[0, d, digits].exp())] for d in blanks],
    ["position", *(tokenizer.decode([token]) for token in digits)],
)

# %% [markdown]
# Each blank has its own distribution. Drawn independently, positions 4 and 5, in one row, can both be 1. So blanks are filled one after
# the other.
#
# **Check yourself.** Positions 4 and 5 are drawn in the same pass, each from its row of the table. How often do both become 1?
#
# <details class="choice"><summary>In 25 of 100 cases.</summary>
#
# **No.** That would hold if position 5 were 1 only where position 4 is 1 too. But neither draw sees the other.
#
# </details>
#
# <details class="choice"><summary>In 20 of 100 cases.</summary>
#
# **Right.** The two draws are independent: $0.81\cdot0.25=0.20$.
#
# </details>
#
# <details class="choice"><summary>Never: the rule forbids it.</summary>
#
# **No.** Each row of the table is about one blank alone. A digit that is not yet there rules out nothing.
#
# </details>
#
# ## 2. What should the policy become?
#
# One could ask for the highest reward. But a policy that always writes the same solution reaches it too. DMPO asks for the
# reference policy *tilted* by the reward:
#
# $$p^*(o\mid q) \;\propto\; p_{\text{ref}}(o\mid q)\; e^{r(q,o)/\alpha}.$$
#
# The reference is the policy as it is now. The reward is 1 for a solution and 0 for anything else. So $p_{\text{ref}}$ of a
# solution is multiplied by $e^{1/\alpha}$, that of a wrong answer by 1, and then all are normalised. The ratio of the
# two solutions stays as it was. On this puzzle all 1,024 answers can be enumerated, so $p^*$ is known exactly, and so is
# the distance to it, $\mathrm{KL}(p^*\|p)=\sum_o p^*(o)\,\ln\frac{p^*(o)}{p(o)}$, in *nats* (natural logarithms):

# %%
reference = exact_distribution(
    policy, tokenizer, task, puzzle, vocabulary
)  # p_ref of all 1,024 answers
log_target = tilted(reference.log_prob, rewards(task, puzzle, reference), alpha)
print(
    f"alpha = {alpha}: the odds of a solution against a wrong answer grow by "
    f"e^(1/alpha) = {math.exp(1 / alpha):.0f}"
)
print(f"KL(p*‖p_ref) = {kl_divergence(log_target, reference.log_prob):.2f} nats")
both = (reference.log_prob, log_target)
places = [reference.texts.index(text) for text in solutions(puzzle.puzzle)]
Table(
    [(reference.texts[i], *(f"{p[i].exp():.3f}" for p in both)) for i in places],
    ("solution", "p_ref", "p*"),
)

# %% [markdown]
# **Check yourself.** α becomes smaller and smaller. What happens to p\*?
#
# <details class="choice"><summary>It gives everything to the more probable solution.</summary>
#
# **No.** Both solutions have the same reward, so the same factor: no α changes their odds.
#
# </details>
#
# <details class="choice"><summary>It gives everything to the two solutions, in the proportions that the reference gives them.</summary>
#
# **Right.** Both are multiplied by the same $e^{1/\alpha}$, so their odds stay; wrong answers keep a share that goes to 0.
#
# </details>
#
# <details class="choice"><summary>It becomes uniform over all answers.</summary>
#
# **No.** That is nearly the other end. For α → ∞ the factor $e^{r/\alpha}$ becomes 1 for every answer, and p\* becomes
# $p_{\text{ref}}$, which is not uniform.
#
# </details>
#
# ## 3. Step 1: draw rollouts
#
# The policy that draws is called $p_{\text{old}}$. It fills the masked positions one by one, in a uniformly random order σ.
# Along *one* order the probability is a product of conditionals, known exactly:
# $\log p(o;\sigma)=\sum_i\log\pi(o_{\sigma(i)}\mid o_{\sigma(<i)})$.
# The probability of the answer itself is the mean over all orders, $p(o)=\mathbb E_\sigma\,p(o;\sigma)$. On five blanks it can be
# enumerated: it is the $p_{\text{ref}}(o)$ of section 2.

# %%
show(minimal.draw_rollouts, minimal.rank)

# %%
rows = prompt.repeat_interleave(N, dim=0)  # the prompt N times
tokens, order, log_old = minimal.draw_rollouts(policy, rows, mask_id, allowed, rand)
texts = [tokenizer.decode(row) for row in tokens]
print(
    f"tokens {tuple(tokens.shape)}, order {tuple(order.shape)}, log p(o;σ) "
    f"{tuple(log_old.shape)}"
)
print(f"{len(set(texts))} different answers among the {N}; the first three:")
Table(
    [(texts[n], order[n, blanks].tolist(), f"{log_old[n]:.2f}") for n in range(3)],
    ("answer", "blanks filled at steps", "log p(o;σ), nats"),
)

# %% tags=["nbval-ignore-output", "slide"] alt="Animation: a 4x4 Sudoku whose blanks are filled one at a time, in random order."
pieces = [tokenizer.decode([token]) for token in tokens[0]]
Image(
    data=animate_trace(pieces, order[0].tolist(), board=True, frames_per_second=2),
    format="gif",
)

# %% [markdown]
# The first rollout. Grey cells are clues. The colour of a blank says when it was filled: dark first, light last.
#
# **The reward** is a function of the text. Yours can be any function that returns a number.


# %%
def reward(tokens):
    texts = [tokenizer.decode(row) for row in tokens]
    return torch.tensor(
        [sum(task.reward(puzzle, text).values()) for text in texts], dtype=torch.float64
    )


r = reward(tokens)
print(f"{r.sum().item():.0f} of the {N} are right")

# %% [markdown]
# **Check yourself.** A puzzle has two blanks, so two orders. An answer has $p(o;\sigma)=0.30$ in one order and 0.20 in the other.
# What is $p(o)$?
#
# <details class="choice"><summary>0.50</summary>
#
# **No.** The sum would be right if both orders were always taken. Each is drawn with probability 1/2.
#
# </details>
#
# <details class="choice"><summary>0.06</summary>
#
# **No.** The product is the probability that two rollouts, one in each order, *both* give this answer.
#
# </details>
#
# <details class="choice"><summary>0.25</summary>
#
# **Right.** The order is drawn uniformly, so p(o) is the mean of 0.30 and 0.20.
#
# </details>
#
# ## 4. Step 2: the same rollouts under the reference
#
# $\log p_{\text{ref}}(o;\sigma)$ of each rollout, along the order in which it was drawn. In the first round $p_{\text{ref}}$ and
# $p_{\text{old}}$ are the same policy, so both numbers must agree. That is a good check of both functions.

# %%
show(minimal.path_log_prob)

# %%
log_ref = minimal.path_log_prob(policy, tokens, order, mask_id, allowed)
print("log p_ref = log p_old in the first round:", torch.allclose(log_ref, log_old))

# %% [markdown]
# **Check yourself.** In a later round, $\log p_{\text{ref}}-\log p_{\text{old}}$ of a rollout is −2. What does that say?
#
# <details class="choice"><summary>The policy writes it about seven times as often as the reference, in this order.</summary>
#
# **Right.** $e^{2}=7.4$. The policy was trained in the meantime, the reference was not.
#
# </details>
#
# <details class="choice"><summary>There is an error somewhere: the two numbers should agree.</summary>
#
# **No.** They agree in the first round only, when both are the same policy.
#
# </details>
#
# <details class="choice"><summary>The reference writes it about seven times less often than at the beginning.</summary>
#
# **No.** The reference stays as it is. What has changed is the policy that draws.
#
# </details>
#
# ## 5. Step 3: weigh
#
# We cannot draw from $p^*$, but we can weigh what we drew. With the log-weight $\ell_n = r_n/\alpha + \log p_{\text{ref}}(o_n;\sigma_n) -
# \log p_{\text{old}}(o_n;\sigma_n)$,
#
# $$w_n = \mathrm{softmax}_n(\ell_n),\qquad \sum_n w_n = 1 .$$
#
# Averaged over the orders in which an answer is drawn, $p_{\text{ref}}(o;\sigma)/p_{\text{old}}(o;\sigma)$ is exactly
# $p_{\text{ref}}(o)/p_{\text{old}}(o)$ (notebook [03](03_weights.ipynb), section 8). So these are importance weights from $p_{\text{old}}$
# to $p^*$. A weight baseline may be subtracted (notebook [04](04_weight_baseline.ipynb)); here there is none, so $w_{\text{real}}=w$.

# %%
show(minimal.weights)

# %%
w, w_real = minimal.weights(
    r[None], log_ref[None], log_old[None], alpha
)  # [G, N] = [1, 64]
print(
    f"weight of all right answers {w[0, r == 1].sum():.3f}, of all wrong ones "
    f"{w[0, r == 0].sum():.3f}"
)
ess = effective_sample_size(w).item()
print(f"ESS {ess:.2f}: the weights count like {ess * N:.1f} of the {N} rollouts")
Table(
    [(texts[n], f"{r[n]:.0f}", f"{w[0, n]:.4f}") for n in range(3)],
    ("answer", "reward", "weight"),
)

# %% [markdown]
# The ESS (effective sample size), $1/(N\sum_n w_n^2)$, says what share of the rollouts really counts. Here it is close to the share of
# right answers: they have nearly all the weight, and share it equally.
#
# **Check yourself.** Two of 16 rollouts are right, α is small, and $p_{\text{ref}}=p_{\text{old}}$. The ESS is about …
#
# <details class="choice"><summary>2/16</summary>
#
# **Right.** Each has $w\approx1/2$, and $1/(16\cdot2\cdot\tfrac14)=1/8$: the share of right answers.
#
# </details>
#
# <details class="choice"><summary>1/16</summary>
#
# **No.** That would be one rollout with all the weight. Two right ones share it.
#
# </details>
#
# <details class="choice"><summary>1</summary>
#
# **No.** The ESS is 1 only if all weights are equal, here if all rewards were.
#
# </details>
#
# ## 6. Step 4: draw masks
#
# Now the policy is fitted to the weighted rollouts. To learn from a finished answer, a masked diffusion model hides some of its
# tokens and predicts them. A mask hides m of the L blanks; m is drawn from 1 to L, then which ones. Each rollout gets R masks.

# %%
show(minimal.draw_masks)

# %%
masks = minimal.draw_masks(rows == mask_id, R, rand)  # [B, R, S]
print("masks", tuple(masks.shape))
shown = []
for n, k in itertools.product(range(3), range(R)):
    pairs = zip(masks[n, k].tolist(), texts[n], strict=True)
    seen = "".join("·" if hidden else character for hidden, character in pairs)
    shown.append((n, k, seen, masks[n, k].sum().item()))
Table(shown, ("rollout", "mask", "what the model sees", "m"))

# %% [markdown]
# **Check yourself.** How probable is it that a given one of the five blanks is hidden by a mask?
#
# <details class="choice"><summary>3/5</summary>
#
# **Right.** The mean of m = 1, …, 5 is 3, and all blanks are equally likely to be among the m.
#
# </details>
#
# <details class="choice"><summary>1/2</summary>
#
# **No.** That would be a coin flip for each blank, or m drawn from 0 to 5. Here at least one blank is hidden.
#
# </details>
#
# <details class="choice"><summary>1/5</summary>
#
# **No.** That is the probability that m has a certain value, or that a blank is the hidden one if m = 1.
#
# </details>
#
# ## 7. Step 5: the NELBO
#
# The probability of an answer, averaged over all orders, is expensive to compute. The negative evidence lower bound (NELBO) is cheap to
# estimate: every random mask gives an unbiased estimate of it. It is an upper bound of $-\log p_\theta(o\mid q)$.
#
# $$\mathcal L_\theta(o\mid q)=\mathbb E_{m}\Bigl[\tfrac Lm\,\mathbb E_{\text{mask of size }m}\sum_{d\text{ masked}}-\log\pi_\theta(o_d\mid
# \text{masked }o,\,q)\Bigr].$$

# %%
show(minimal.nelbo)

# %%
with torch.no_grad():
    estimate = minimal.nelbo(policy, tokens, masks, L, mask_id, allowed)
    many = minimal.draw_masks(rows[:1] == mask_id, 4000, rand)
    better = minimal.nelbo(policy, tokens[:1], many, L, mask_id, allowed)
place = reference.texts.index(texts[0])
print(
    f"rollout 0: {R} masks {estimate[0]:.2f}, 4,000 masks {better[0]:.2f}, exact "
    f"{-reference.elbo[place]:.2f} nats"
)
print(f"-log p(o) itself: {-reference.log_prob[place]:.2f} nats")

# %% [markdown]
# Two masks give a noisy estimate; many come close to the exact value. A gradient step averages over all rollouts, so a few masks of each
# are enough.
#
# **Check yourself.** Two masks estimate the NELBO of an answer as 0.5 nats, and $-\log p(o)$ is 1.0. Is there an error in the code?
#
# <details class="choice"><summary>Yes: the NELBO is an upper bound, so no estimate can be below 1.0.</summary>
#
# **No.** The bound holds for the mean over all masks. One estimate may be far above or far below it.
#
# </details>
#
# <details class="choice"><summary>No: only the mean of many estimates must be at least 1.0.</summary>
#
# **Right.** Each estimate is unbiased, but noisy. Rollout 0 above is such a case: 0.04 from two masks, and 1.02 nats.
#
# </details>
#
# <details class="choice"><summary>No: the NELBO is a lower bound.</summary>
#
# **No.** The ELBO is a lower bound of $\log p(o)$. With the sign changed, the NELBO is an upper bound of $-\log p(o)$.
#
# </details>
#
# ## 8. Step 6: the loss
#
# **WDCE**, weighted denoising cross-entropy, is the mean NELBO of the rollouts under their weights, divided by L. It is maximum likelihood
# on weighted data. **WDDO** is the other loss of the paper: the policy is trained as a classifier of $p^*$ against $p_{\text{old}}$. Given
# an answer, $\mathrm{sigmoid}(\log p_\theta-\log p_{\text{old}})$ is read as the probability that it came from $p^*$. At
# $p_\theta=p_{\text{old}}$ it is ½ for every answer, so the loss has two terms of ln 2. Notebook [05](05_two_losses.ipynb) derives both.

# %%
show(minimal.wdce, minimal.wddo)

# %%
old = estimate[None]
print(f"WDCE {minimal.wdce(old, w_real, L).item():.4f}")
print(
    f"WDDO where p_θ = p_old: {minimal.wddo(old, old, w).item():.4f} = 2 ln 2 = "
    f"{2 * math.log(2):.4f}"
)

# %% [markdown]
# One gradient step on WDCE, with plain gradient descent so that there is nothing more to it. Measured again on the same rollouts and
# masks, the loss is lower:

# %%
learner = copy.deepcopy(policy)
loss = minimal.wdce(
    minimal.nelbo(learner, tokens, masks, L, mask_id, allowed)[None], w_real, L
)
loss.backward()
with torch.no_grad():
    for parameter in learner.parameters():
        parameter -= 1e-3 * parameter.grad
    after = minimal.wdce(
        minimal.nelbo(learner, tokens, masks, L, mask_id, allowed)[None], w_real, L
    )
print("the loss on this batch is lower:", (after < loss).item())

# %% [markdown]
# **Check yourself.** Four rollouts have the weights ½, ½, 0, 0 and the NELBOs 2, 4, 6, 8 nats; L = 5. What is WDCE?
#
# <details class="choice"><summary>1.0</summary>
#
# **No.** That is the mean of all four, divided by L. The rollouts of weight 0 would count like the others.
#
# </details>
#
# <details class="choice"><summary>3.0</summary>
#
# **No.** That is the weighted mean. It still has to be divided by the number of blanks.
#
# </details>
#
# <details class="choice"><summary>0.6</summary>
#
# **Right.** $(\tfrac12\cdot2+\tfrac12\cdot4)/5=0.6$. Rollouts of weight 0 do not enter.
#
# </details>
#
# ## 9. The loop
#
# The steps in order: draw N rollouts, weigh them once, take K gradient steps, each on masks of its own; then draw again from the new
# policy. The reference stays fixed, so the target does too.

# %%
show(minimal.dmpo)

# %% [markdown]
# Thirty rounds. `dmpo` yields after every gradient step. After every fifth round (20 steps) we enumerate the policy and compare it with
# $p^*$.

# %%
trained = copy.deepcopy(policy)
history = []  # (rounds done, KL(p*‖p_θ), probability of each solution)
steps = minimal.dmpo(
    trained, policy, prompt, reward, mask_id, allowed, rand,
    N=N, R=R, K=4, rounds=30, alpha=alpha, learning_rate=2e-4,
)  # fmt: skip
for step, _ in enumerate(steps, start=1):
    if step % 20 == 0:
        exact = exact_distribution(trained, tokenizer, task, puzzle, vocabulary)
        shares = [exact.probability_of(text) for text in solutions(puzzle.puzzle)]
        history.append((step // 4, kl_divergence(log_target, exact.log_prob), shares))
print("KL(p*‖p_θ) after 30 rounds below 0.1 nats:", history[-1][1] < 0.1)

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Left: KL(p*||p_theta) falls from 1 nat to about 0.02 in 30 rounds. Right: the probabilities of both solutions rise to their dashed lines, those of p*."
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
rounds = [0, *(done for done, _, _ in history)]
print(
    f"after {rounds[-1]} rounds: KL(p*‖p_θ) = {history[-1][1]:.3f} nats, solutions",
    " and ".join(f"{p:.3f}" for p in history[-1][2]),
)
done, least, _ = min(history, key=lambda point: point[1])
print(f"nearest after {done} rounds: {least:.3f} nats")
left.semilogy(
    rounds,
    [kl_divergence(log_target, reference.log_prob), *(kl for _, kl, _ in history)],
    "o-",
)
left.set(
    title="Exact distance to p*",
    xlabel="rounds of 64 rollouts",
    ylabel="KL(p*‖p$_θ$), nats",
)
for i, text in enumerate(solutions(puzzle.puzzle)):
    shares = [reference.probability_of(text), *(shares[i] for _, _, shares in history)]
    right.plot(rounds, shares, "o-", color=f"C{i}", label=f"solution {i + 1}")
    right.axhline(
        log_target[reference.texts.index(text)].exp().item(),
        linestyle="--",
        color=f"C{i}",
    )
right.set(
    title="Both solutions stay (dashed: p*)",
    xlabel="rounds of 64 rollouts",
    ylabel="probability",
    ylim=(0, 1),
)
right.legend()
plt.show()

# %%
targets = [
    log_target[reference.texts.index(text)].exp().item()
    for text in solutions(puzzle.puzzle)
]
distances = [abs(p - q) for p, q in zip(history[-1][2], targets, strict=True)]
print(
    "both solutions within 0.15 of their probability under p*:", max(distances) < 0.15
)

# %% [markdown]
# After about two thousand rollouts the policy is within a few hundredths of a nat of $p^*$, down from one nat. It solves the puzzle, and
# it kept *both* solutions, each near its probability under $p^*$. The reward alone does not ask for that: one solution would earn as much.
# This is what "distribution matching" means. (It was nearer after fifteen rounds, and moves about since: the learning
# rate stays what it is, and each group is a noisy picture of $p^*$. Exercise 4 asks how this depends on N.)
#
# One run on one puzzle does not prove much. It shows how near to $p^*$ the method comes here. Notebook [03](03_weights.ipynb) shows why
# $p^*$ is a fixed point of the weights; [02](02_mode_seeking_and_mass_covering.ipynb) when the reverse KL drops modes and when it does not;
# [08](08_against_its_rivals.ipynb) compares other objectives on this kind of puzzle (REINFORCE keeps both solutions too).
#
# **Check yourself.** Why is $p_{\text{ref}}$ not replaced by the new policy after each round?
#
# <details class="choice"><summary>Because then the target would move: every round would tilt the last policy once more, away from p*.</summary>
#
# **Right.** After k rounds the target would be $p_{\text{ref}}\,e^{k r/\alpha}$, up to normalisation: with time, only the highest
# reward counts.
#
# </details>
#
# <details class="choice"><summary>It would cost too much memory.</summary>
#
# **No.** The other way round: the reference is then the policy that draws, and no second copy is needed. What is lost is the target.
#
# </details>
#
# <details class="choice"><summary>Because the importance weights would be wrong.</summary>
#
# **No.** They would be right for the new target. It is the target that would change.
#
# </details>
#
# ## 10. The same as a library: `train`
#
# `dmpo_ref.train` is the same algorithm with what a real run needs: configs and files, many prompts of different lengths, adapters,
# micro-batches, checkpoints, several processes. [tests/test_minimal.py](../tests/test_minimal.py) gives the page and `train` the same
# random numbers and compares losses, weights and parameters. Three rounds of the same preset. `reward` may be any function of the puzzle
# and the text of an answer; without it, `train` uses the reward of the task.


# %%
def is_solution(item, text):
    return float(text in solutions(item.puzzle))


output = Path(tempfile.mkdtemp()) / "run"
run = train(
    load_config("toy_two_solutions", f"output={output}", "train.rounds=3"),
    reward=is_solution,
)
print(
    f"{len(run.metrics)} gradient steps; each has a line in metrics.jsonl with",
    ", ".join(list(run.metrics[0])[:6]),
    "…",
)
print("files:", ", ".join(sorted(path.name for path in output.iterdir())))

# %% [markdown]
# Matching one target is one half. The other half: does the method *learn* on many puzzles, and does that carry over to new ones?

# %% tags=["nbval-ignore-output"] alt="Six panels of make demo. Act (a): solve rate rising with rollouts and by number of blanks, two boards before and after. Act (b): effective sample size, exact KL falling, probabilities of both solutions before and after beside p*."
figures = Path(__import__("toy").__file__).parent.parent / "book" / "figures"
Image(filename=figures / "demo.png") if (figures / "demo.png").is_file() else print(
    "run `make demo`: this figure comes with the repository"
)

# %% [markdown]
# *The result of `make demo`. Top, act (a): 256 puzzles whose grids were
# never trained on. The solve rate goes from 0.25 to 0.92, greedily (always the most probable digit, where the
# network is surest) from 0.13 to 1.00: the reference is most often wrong, so its most probable answer is usually wrong. Cells that break a
# rule are shaded.
# Bottom: left, the ESS of both acts; middle and right, act (b), the puzzle above.*
#
# **Check yourself.** Three rounds took 12 gradient steps. Which override gives 24 steps with the same number of rollouts?
#
# <details class="choice"><summary>`train.rounds=6`</summary>
#
# **No.** Each round draws rollouts of its own, so twice as many are drawn as well.
#
# </details>
#
# <details class="choice"><summary>`train.steps_per_round=8`</summary>
#
# **Right.** K is 8 instead of 4: more steps on the same rollouts, each on new masks.
#
# </details>
#
# <details class="choice"><summary>`train.num_rollouts=128`</summary>
#
# **No.** That doubles the rollouts of a round. The number of steps stays 12.
#
# </details>
#
# ## To remember
#
# - A masked diffusion model fills masked tokens in any order. Along one order its probability is exact.
# - The target is p_ref tilted by the reward, not the maximum of the reward.
# - Draw, score with the reference, weigh; then mask, NELBO, loss. The weights are importance weights from p_old to p\*.
# - Where p\* is known exactly, distances are computed, not estimated.
#
# ## Exercises
#
# 1. *Warm-up.* What is p\* for α → ∞, and for α → 0? Check with `tilted`.
# 2. *Warm-up.* Replace the reward by a function of yours (`train(config, reward=…)`), for example 1 if the first
#    blank, `text[4]`, is a 1. How near does the policy come to its p\*?
# 3. *Standard.* Train with `train.num_rollouts=4` and 480 rounds. Do both solutions survive? Try three seeds.
# 4. *Research.* After how many rollouts is KL(p\*‖p_θ) below 0.01, as a function of N? Is there an N below which it
#    never is?
#
# ## Where next
#
# [01 · Masked diffusion](01_masked_diffusion.ipynb) for the model and steps 1, 4 and 5, [03 · Weights](03_weights.ipynb) for step 3, [05 ·
# Two losses](05_two_losses.ipynb) for step 6, [07 · DMPO on Sudoku](07_dmpo_on_sudoku.ipynb) for the functions that `train` calls,
# [09 · From the toy to LLaDA-8B](09_from_the_toy_to_llada.ipynb) if you have a GPU.
