# %% [markdown]
# # Exercises 2 · Likelihoods
#
# Nine exercises on the probability of an answer under a masked diffusion model: along one order, averaged over orders, and as a bound
# estimated on random masks. Background: [notebook 01](../../../notebooks/01_masked_diffusion.ipynb), and section 4 of [notebook
# 05](../../../notebooks/05_two_losses.ipynb).
#
# `model` is a mask predictor that is small enough to enumerate. `model(state)` takes a tuple with a value, or `None` where the position is
# hidden, and returns the probabilities of every position: `model((None, 1, None))[0][1]` is π(position 0 = 1 | position 1 is 1). `model.n`
# is the number of positions L. As for a trained network, there is no joint distribution that has all its conditionals.

# %%
import itertools
import math

try:
    from exercise_checks import SmallModel, check

    from toy.notebook import start
except ImportError:
    raise SystemExit("dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the repository, then restart the kernel") from None

start()

# %%
model = SmallModel(n=3, A=2)
print([[round(p, 3) for p in row] for row in model((None, 1, None))])

# %% [markdown]
# ## 2.1 Along one order (warm-up)
#
# $\log p(o;\sigma)=\sum_i \log\pi\bigl(o_{\sigma(i)}\mid o_{\sigma(1)},\dots,o_{\sigma(i-1)}\bigr)$: start with all positions hidden, and
# reveal one position after the other in the order σ.


# %%
def path_log_prob(model, answer, order):
    """log p(o; σ) in nats; `order` lists the positions as they are revealed."""
    # BEGIN SOLUTION
    state, total = [None] * model.n, 0.0
    for d in order:
        total += math.log(model(tuple(state))[d][answer[d]])
        state[d] = answer[d]
    return total
    # END SOLUTION


# %%
check(path_log_prob)

# %% [markdown]
# ## 2.2 A random order (standard)
#
# The random-order sampler draws σ uniformly from the L! orders. What is the probability that it generates the answer o? Enumerate the
# orders.


# %%
def random_order_prob(model, answer):
    """p(o), a probability, not a logarithm."""
    # BEGIN SOLUTION
    orders = list(itertools.permutations(range(model.n)))
    return sum(math.exp(path_log_prob(model, answer, order)) for order in orders) / len(orders)
    # END SOLUTION


# %%
check(random_order_prob)

# %% [markdown]
# ## 2.3 The same without listing orders (hard)
#
# L! grows fast; the number of sets of visible positions is only $2^L$. Let $P(S)$ be the probability that the sampler passes through "the
# positions S are filled, with the values of o, and no others". Find the recursion of $P(S)$ over $P(S\setminus d)$, and use it with at
# most one call of the model for each set. p(o) is $P$ of all positions. The check looks at every $P(S)$: there is a wrong recursion that
# gives the right p(o).


# %%
def random_order_fast(model, answer):
    """{S: P(S)} for all 2^L sets S of positions, each a frozenset, with at most 2^L calls of the model."""
    # BEGIN SOLUTION
    L = model.n
    P = {frozenset(S): 0.0 for size in range(L + 1) for S in itertools.combinations(range(L), size)}
    P[frozenset()] = 1.0
    for S in P:  # in the order of their sizes
        probability = model(tuple(answer[d] if d in S else None for d in range(L)))
        for d in set(range(L)) - S:
            P[S | {d}] += P[S] * probability[d][answer[d]] / (L - len(S))
    return P
    # END SOLUTION


# %%
check(random_order_fast)

# %% [markdown]
# ## 2.4 The exact NELBO (standard)
#
# $$L_\theta(o)=\mathbb E_{m\sim U\{1..L\}}\Bigl[\tfrac Lm\;\mathbb E_{\text{mask of size }m}
#   \sum_{d\text{ masked}}-\log\pi(o_d\mid\text{what is not masked})\Bigr]$$
#
# Compute it by enumerating all masks. What is the weight of a single mask of size m?


# %%
def exact_nelbo(model, answer):
    """L_θ(o) in nats."""
    # BEGIN SOLUTION
    L, total = model.n, 0.0
    for m in range(1, L + 1):
        for hidden in itertools.combinations(range(L), m):
            probability = model(tuple(None if d in hidden else answer[d] for d in range(L)))
            loss = sum(-math.log(probability[d][answer[d]]) for d in hidden)
            total += loss / (m * math.comb(L, m))
    return total
    # END SOLUTION


# %%
check(exact_nelbo)

# %% [markdown]
# Compare it with 2.2 on an answer of your choice: $L_\theta \ge -\log p$. The check of 2.4 does not enumerate masks. It averages $-\log
# p(o;\sigma)$ over all orders, which gives the same number. Why?
#
# ## 2.5 Where L/m comes from (standard)
#
# Draw the size m not uniformly but with probabilities $s_1,\dots,s_L>0$, then a mask of that size uniformly. Which weight $\omega_m$
# makes $\omega_m\sum_{d\text{ masked}}-\log\pi(o_d)$ unbiased for the NELBO? Check with your formula that uniform s gives L/m.


# %%
def mask_weight(L, size_probability):
    """ω_1, …, ω_L from s_1, …, s_L."""
    # BEGIN SOLUTION
    return [1 / (m * s) for m, s in enumerate(size_probability, start=1)]
    # END SOLUTION


# %%
check(mask_weight)

# %% [markdown]
# ## 2.6 Which sizes to draw (hard)
#
# With the weights of 2.5 every s is unbiased, so choose the one with the least variance. Let $V_m$ be the mean over masks of size m of the
# *squared* summed loss. Find the s that minimises the second moment of the estimate (the mean is fixed, so this minimises the variance).


# %%
def size_probability(spread):
    """s_1, …, s_L from V_1, …, V_L > 0."""
    # BEGIN SOLUTION
    size = [math.sqrt(V) / m for m, V in enumerate(spread, start=1)]
    return [x / sum(size) for x in size]
    # END SOLUTION


# %%
check(size_probability)

# %% [markdown]
# ## 2.7 Stratified sizes (standard)
#
# With R masks for one answer it is wasteful to draw sizes that are equal or close by chance. Use one $u\in[0,1)$ for all R masks, so that
# over many draws each size from 1 to L is equally frequent, and in one draw the sizes are spread: of any k sizes in a row, the number of
# masks differs from $kR/L$ by less than 1.


# %%
def stratified_sizes(L, R, u):
    """R integers from 1 to L."""
    # BEGIN SOLUTION
    return [1 + int(L * (j + u) / R) % L for j in range(R)]
    # END SOLUTION


# %%
check(stratified_sizes)

# %% [markdown]
# ## 2.8 Antithetic pairs (hard)
#
# Draw $m\sim U\{0,\dots,L\}$, a set S of that size, and use S *and* its complement as masks. The estimate is the mean of both weighted
# losses; an empty side counts 0. The weight of a side depends on L and on its own size, nothing else. Which weights make the estimate
# unbiased? The obvious pair L/m and L/(L−m) is wrong; find out by which factor.


# %%
def antithetic_weights(L, m):
    """(weight of S, weight of its complement) for a set of m out of L positions, 0 ≤ m ≤ L."""
    # BEGIN SOLUTION
    return (L + 1) / m if m else 0.0, (L + 1) / (L - m) if m < L else 0.0
    # END SOLUTION


# %%
check(antithetic_weights)

# %% [markdown]
# ## 2.9 The published masks are biased (hard)
#
# The scheme of the published code: draw $u\sim U(0,1)$; hide each position independently with probability $\rho=0.1+0.9u$; the second mask
# is the complement. Each side has the weight $L/\max(m,1)$, m being its own size, and the estimate is the mean of both. Compute its exact
# expectation. Sum over masks and integrate over ρ (a numerical integral with six correct digits is enough). Then compare with 2.4: how
# large is the bias, and which sizes cause it?


# %%
def paper_expectation(model, answer):
    """Expected estimate in nats."""
    # BEGIN SOLUTION
    L, steps = model.n, 2000
    rates = [0.1 + 0.9 * (i + 0.5) / steps for i in range(steps)]

    def loss(hidden):
        probability = model(tuple(None if d in hidden else answer[d] for d in range(L)))
        return sum(-math.log(probability[d][answer[d]]) for d in hidden)

    total = 0.0
    for hidden in (h for m in range(L + 1) for h in itertools.combinations(range(L), m)):
        m, rest = len(hidden), tuple(d for d in range(L) if d not in hidden)
        chance = sum(p**m * (1 - p) ** (L - m) for p in rates) / steps
        total += chance * (L / max(m, 1) * loss(hidden) + L / max(L - m, 1) * loss(rest)) / 2
    return total
    # END SOLUTION


# %%
check(paper_expectation)
