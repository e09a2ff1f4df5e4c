"""Other people's objectives, for comparison: each a pair `views` and `loss` like those of `losses`, trained by the same `train`.

They are written from the formulas of their papers. The response is `response_mask`, as everywhere here: all its positions
count, what follows an end token included.
"""

from dmpo_ref.rivals import diffu_grpo, log_variance, reinforce, wd1

RIVALS = {"diffu_grpo": diffu_grpo.build, "wd1": wd1.build, "reinforce": reinforce.build, "log_variance": log_variance.build}
