# %% [markdown]
# # Exercises 4 · Samplers
#
# Four exercises on single steps of the samplers of [notebook 06](../../../notebooks/06_samplers.ipynb): which positions are filled next,
# how many at once, and how much a cache saves. The rules are those of low-confidence remasking
# ([arXiv:2502.09992](https://arxiv.org/abs/2502.09992)) and of Fast-dLLM ([arXiv:2505.22618](https://arxiv.org/abs/2505.22618)).

# %%
try:
    from exercise_checks import check

    from toy.notebook import start
except ImportError:
    raise SystemExit("dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the repository, then restart the kernel") from None

start()

# %% [markdown]
# ## 4.1 One confidence step (warm-up)
#
# At temperature 0 the sampler proposes the most probable value at every open position. The probability of this value is its confidence. The
# sampler keeps the k proposals with the highest confidence and leaves the rest hidden. Filled positions are not candidates, even if the
# model is very sure of them.


# %%
def confidence_step(probability, is_open, k):
    """{position: value} of min(k, number of open) positions; probability is n rows of A numbers, is_open n booleans."""
    # BEGIN SOLUTION
    candidates = [d for d in range(len(is_open)) if is_open[d]]
    candidates.sort(key=lambda d: -max(probability[d]))
    return {d: probability[d].index(max(probability[d])) for d in candidates[:k]}
    # END SOLUTION


# %%
check(confidence_step)

# %% [markdown]
# ## 4.2 Threshold (warm-up)
#
# Parallel decoding fills all open positions whose confidence is at least τ. How many are these? Remember that the sampler must terminate.


# %%
def threshold_count(confidence, tau):
    """Number of positions placed; confidence lists those of the open positions, in any order."""
    # BEGIN SOLUTION
    return max(1, sum(c >= tau for c in confidence))
    # END SOLUTION


# %%
check(threshold_count)

# %% [markdown]
# ## 4.3 Factor (standard)
#
# Sort the confidences in descending order: $c_1\ge c_2\ge\dots$ The factor rule fills the longest *leading run* with $c_k\ge 1-f/(k+1)$:
# each further position needs a higher confidence. (This is the same as $(k+1)(1-c_k)\le f$.)


# %%
def factor_count(confidence, factor):
    """Number of positions placed, at least 1."""
    # BEGIN SOLUTION
    count = 0
    for k, c in enumerate(sorted(confidence, reverse=True), start=1):
        if c < 1 - factor / (k + 1):
            break
        count = k
    return max(1, count)
    # END SOLUTION


# %%
check(factor_count)

# %% [markdown]
# ## 4.4 What a cache saves (standard)
#
# A prompt of P tokens, a response of L in blocks of b, one token a step. Without a cache every step feeds all P + L tokens. With a cache,
# the first step of each block feeds everything; the later steps of that block feed the block and everything after it (`prefix`), or only
# the block (`dual`). Count the tokens that are fed for the whole response. For P = 100, L = 256, b = 32: which share of the work remains?


# %%
def fed_tokens(prompt, response, block, cache):
    """Tokens fed in all forward passes; cache is "none", "prefix" or "dual"; block divides response."""
    # BEGIN SOLUTION
    total = 0
    for start in range(0, response, block):
        later = {"none": prompt + response, "prefix": response - start, "dual": block}[cache]
        total += prompt + response + (block - 1) * later
    return total
    # END SOLUTION


# %%
check(fed_tokens)
