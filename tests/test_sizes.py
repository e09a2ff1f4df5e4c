"""The arithmetic of the model's sizes, against numbers added up by hand for a model of two blocks."""

import pytest

from dmpo_ref.config import ModelConfig
from dmpo_ref.forecast import sizes
from dmpo_ref.models.llada import LLaDAConfig

# d = 8, 2 heads of 4, one of keys and values, m = 12, V = 10, 2 blocks
SMALL = LLaDAConfig(d_model=8, n_layers=2, n_heads=2, n_kv_heads=1, mlp_hidden_size=12, vocab_size=10, max_sequence_length=16, rope=False)
LINEAR = 2 * (8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 12)  # q, k, v, attn_out; gate, up, down; in both blocks
OTHERS = 2 * 2 * 8 + 8 + 2 * 10 * 8 + 16 * 8  # two norms in each block, the last norm, embedding and head, learned positions


def test_parameters_added_up_by_hand():
    assert sizes.count_linear(SMALL) == LINEAR == 960
    assert sizes.count_parameters(SMALL) == LINEAR + OTHERS
    assert sizes.key_width(SMALL) == 4


def test_adapters_added_up_by_hand():
    options = ModelConfig(path="", lora_rank=3, lora_targets=["k_proj", "ff_out"])
    assert sizes.count_adapters(SMALL, options) == 2 * (3 * (8 + 4) + 3 * (12 + 8))
    assert sizes.count_adapters(SMALL, ModelConfig(path="")) == 0
    with pytest.raises(ValueError, match=r"model\.lora_targets: no layer 'query'; choose among q_proj"):
        sizes.count_adapters(SMALL, ModelConfig(path="", lora_rank=3, lora_targets=["query"]))


def test_bytes_of_weights_in_each_number_type():
    assert sizes.weight_bytes(SMALL, ModelConfig(path="")) == 4 * (LINEAR + OTHERS)
    assert sizes.weight_bytes(SMALL, ModelConfig(path="", dtype="bfloat16")) == 2 * (LINEAR + OTHERS)
    # 4 bits and a float32 scale for 64 weights, in the linear layers alone
    four_bits = sizes.weight_bytes(SMALL, ModelConfig(path="", dtype="bfloat16", quantize="nf4", lora_rank=1))
    assert four_bits == 2 * OTHERS + LINEAR * (0.5 + 4 / 64)


def test_what_a_process_holds_alone_and_with_others():
    alone = sizes.held_bytes(SMALL, ModelConfig(path=""), 1, "ddp", compares=True)
    all_weights = 4 * (LINEAR + OTHERS)
    assert alone == {"weights": all_weights, "reference": all_weights, "adapters": 0, "gradients": all_weights,
                     "optimizer": 2 * all_weights, "gathered": 0.0}  # fmt: skip
    with_others = sizes.held_bytes(SMALL, ModelConfig(path=""), 4, "ddp", compares=False)
    assert (with_others["gradients"], with_others["reference"]) == (2 * all_weights, 0.0)  # buckets of DDP; no second model
    shards = sizes.held_bytes(SMALL, ModelConfig(path=""), 4, "fsdp2", compares=True)
    assert [shards[name] for name in ("weights", "reference", "gradients", "optimizer")] == [
        *(all_weights / 4, all_weights / 4, all_weights / 4, all_weights / 2)
    ]
    assert shards["gathered"] == 2 * all_weights  # both blocks at once are all there are


def test_keys_and_values_of_a_sequence():
    assert sizes.cache_bytes(SMALL, ModelConfig(path=""), 5) == 2 * 2 * 4 * 5 * 4  # keys and values, 2 blocks, width 4, 5 slots, float32
