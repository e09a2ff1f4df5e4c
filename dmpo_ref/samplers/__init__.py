"""Samplers: fill the masked positions of a response, in a bounded number of steps, whole batches at a time.

The rest of the project calls `sample`. The blocks of a response go from left to right; inside a block the sampler
decides which positions come next. In `blockwise`:
- `random_order` one uniformly random position per step, `random` several at once;
- `confidence` those with the highest confidence (low-confidence remasking, Nie et al., arXiv 2502.09992);
- `threshold` and `factor` all those of high enough confidence (Fast-dLLM, Wu et al., arXiv 2505.22618).

In `wino`:
- `wino` as `threshold`, but tokens that look wrong later are masked again (Wide-In, Narrow-Out, arXiv 2507.18578).

Both draw tokens from softmax(logits / T) over the allowed vocabulary (`proposal`). `confidence`, `threshold` and `factor` can
keep keys and values between the steps of a block. `checks` refuses impossible settings.
"""

from dmpo_ref.samplers.sampling import sample

__all__ = ["sample"]
