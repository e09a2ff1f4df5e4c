# %% [markdown]
# # Exercises 6 · Small research
#
# Three open-ended exercises. The first has one right answer and asks what follows from it. The other two ask for a rule of your own. The
# check measures whether the rule is good enough; several rules are.

# %%
import itertools
import math

try:
    from exercise_checks import SmallModel, answers_of, check
    from exercise_checks.research import mean_divergence, uniform_divergence

    from toy.notebook import start
except ImportError:
    raise SystemExit("dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the repository, then restart the kernel") from None

start()

# %% [markdown]
# ## 6.1 Shorter blocks are another model (hard)
#
# Semi-autoregressive sampling fills blocks of b positions from left to right, in random order inside a block. Compute the exact
# distribution of the answers for a model whose conditionals are not those of any joint distribution (`SmallModel`, see exercises 2).


# %%
def block_distribution(model, block):
    """{answer: probability} for all 2^n answers of a model with A = 2; block divides n."""

    # BEGIN SOLUTION
    def fill(state, chance, found):
        hidden = [d for d in range(model.n) if state[d] is None]
        if not hidden:
            found[state] = found.get(state, 0.0) + chance
            return
        current = [d for d in hidden if d // block == hidden[0] // block]
        probability = model(state)
        for d, value in itertools.product(current, range(model.A)):
            after = (*state[:d], value, *state[d + 1 :])
            fill(after, chance * probability[d][value] / len(current), found)

    found = {}
    fill((None,) * model.n, 1.0, found)
    return found
    # END SOLUTION


# %%
check(block_distribution)

# %% [markdown]
# Now use it. How far is the sampler with blocks of b from the one with a single block? Suppose the model was trained with the NELBO, whose
# masks cover the whole response. Which of the two distributions was then trained?


# %%
def divergence_of_blocks(model, block):
    """KL(p with one block ‖ p with blocks of b), in nats."""
    # BEGIN SOLUTION
    whole, short = block_distribution(model, model.n), block_distribution(model, block)
    return sum(whole[o] * math.log(whole[o] / short[o]) for o in answers_of(model.n))
    # END SOLUTION


# %%
try:
    for block in (4, 2, 1):
        print(f"b = {block}: {divergence_of_blocks(SmallModel(4), block):.4f} nats")
except NotImplementedError:
    print("not written yet")

# %% [markdown]
# ## 6.2 A sampler of your own (research)
#
# Filling several tokens in one pass is exact only if they are independent given the visible tokens, and one pass gives only marginals.
# Write a rule that chooses which positions to fill next. The check computes the distribution that your rule samples from, for two small
# joint distributions with exact conditionals (*three pairs*: six fair bits, equal in pairs; *noisy sum*: a bit, a copy of it that is wrong
# one time in ten, their difference, and a bit that is nearly always 1). The divergence must be at most 0.02 nats, with at most 4 passes for
# the 6 bits and 3.2 for the 4.
#
# The threshold rule of 4.2 is exact on the pairs and needs all six passes. Why does it waste passes?


# %%
def choose(probability, is_open):
    """Positions to fill in this pass, each drawn from its own probabilities [n][2]; at least one, open ones only."""
    # BEGIN SOLUTION
    # The error of filling a set at once is at most the sum of its entropies without the largest one.
    # This is entropy-bounded unmasking (arXiv 2505.24857) with its error proxy.
    entropy = {d: -sum(p * math.log(p) for p in probability[d] if p > 0) for d in range(len(is_open)) if is_open[d]}
    chosen, budget = [], 0.1
    for d in sorted(entropy, key=entropy.get):
        if chosen and sum(entropy[j] for j in chosen) > budget:
            break
        chosen.append(d)
    return chosen
    # END SOLUTION


# %%
check(choose)

# %% [markdown]
# ## 6.3 A baseline of your own (research)
#
# On the line of notebook 04, with N rollouts in a group, training with `uniform` ends at a divergence KL(p\*‖p_θ) that `model` hardly
# improves. Find a $w_{\mathrm{base}}$ with at most 0.9 times the final divergence of `uniform`, averaged over N = 8 and 16, and below that
# of `uniform` for both. Your function is called before each gradient step. Its arguments are the weights $w$, the current $\log p_\theta$
# and $\log p_{\mathrm{old}}$ of the N rollouts of many independent runs.
#
# A hint: which part of $w-w_{\mathrm{base}}$ is noise, and how can you estimate its size?


# %%
def my_baseline(weight, log_policy, log_old):
    """w_base [runs, N] from three tensors [runs, N]."""
    # BEGIN SOLUTION
    # Shrinkage: a group with a low effective sample size contains little information, so it should change the policy little.
    # The real weight is w − w_model times the ESS; it vanishes when p_θ agrees with the group.
    model = (log_policy - log_old).softmax(dim=-1)
    share = 1 / (weight.shape[-1] * weight.square().sum(dim=-1, keepdim=True))
    return weight - share * (weight - model)
    # END SOLUTION


# %%
check(my_baseline)

# %%
try:
    for N in (8, 16):
        ratio = mean_divergence(my_baseline, N) / uniform_divergence(N)
        print(f"N = {N}: divergence at the end, as a share of that of uniform: {ratio:.1f}")
except NotImplementedError:
    print("not written yet")

# %% [markdown]
# A rule that is best on one line of 64 cells may be worse elsewhere. Try it with another temperature, another N, a larger learning rate,
# and on Sudoku (`toy.studies.acts`). Is p\* still a fixed point in expectation? Write down what you find, including failures.
