"""The small checkpoint against what is known of the public one: its files, and what loading them gives."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel

from dmpo_ref.config import ModelConfig
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.models.loading import load_policy
from toy.small_llada import main, make_checkpoint

# config.json of GSAI-ML/LLaDA-8B-Instruct, sizes and token ids apart.
OFFICIAL = """
    {"activation_type": "silu", "alibi": false, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
     "attention_dropout": 0.0, "attention_layer_norm": false, "attention_layer_norm_with_affine": true,
     "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
                  "AutoModel": "modeling_llada.LLaDAModelLM"},
     "bias_for_layer_norm": false, "block_group_size": 1, "block_type": "llama", "embedding_dropout": 0.0,
     "flash_attention": false, "include_bias": false, "include_qkv_bias": false, "init_cutoff_factor": null,
     "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": false, "layer_norm_type": "rms",
     "layer_norm_with_affine": true, "max_sequence_length": 4096, "mlp_ratio": 4, "model_type": "llada",
     "multi_query_attention": null, "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-5, "rope": true,
     "rope_full_precision": true, "rope_theta": 500000.0, "scale_logits": false, "torch_dtype": "bfloat16",
     "transformers_version": "4.46.3", "use_cache": false, "weight_tying": false}
"""
SIZES = {"d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "vocab_size", "embedding_size"}
TOKEN_IDS = {"mask_token_id", "eos_token_id", "pad_token_id"}
SPECIAL = ["<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grouped-query attention: 4 heads of 8, 2 of them for keys and values."""
    path = tmp_path_factory.mktemp("small") / "llada"
    return make_checkpoint(path, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden_size=40)


@pytest.fixture(scope="module")
def policy_and_tokenizer(folder):
    return load_policy(ModelConfig(path=str(folder), dtype="bfloat16"), torch.device("cpu"))


@pytest.fixture
def tokenizer(policy_and_tokenizer):
    return policy_and_tokenizer[1]


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_config_file_has_every_official_field_and_no_other(folder):
    written = read(folder / "config.json")
    assert {name: value for name, value in written.items() if name not in SIZES | TOKEN_IDS} == json.loads(OFFICIAL)
    assert set(written) >= SIZES | TOKEN_IDS
    assert (written["d_model"], written["n_heads"], written["n_kv_heads"], written["mlp_hidden_size"]) == (32, 4, 2, 40)


def test_it_loads_to_the_projects_class_in_bfloat16_without_a_question(folder, monkeypatch):
    """Whoever would run the checkpoint's own Python must first ask, or look for it in a folder that has none."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("was asked whether to run remote code"))
    assert type(AutoConfig.from_pretrained(folder)) is LLaDAConfig
    model = AutoModel.from_pretrained(folder)
    assert type(model) is LLaDAModelLM
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(12).reshape(1, 12)).logits).all()


def test_the_shards_hold_the_official_keys_in_bfloat16(folder):
    d, kv, mlp, rows = 32, 16, 40, 512
    block = {"attn_norm": [d], "q_proj": [d, d], "k_proj": [kv, d], "v_proj": [kv, d], "attn_out": [d, d], "ff_norm": [d]}
    block |= {"ff_proj": [mlp, d], "up_proj": [mlp, d], "ff_out": [d, mlp]}
    expected = {f"model.transformer.blocks.{i}.{name}.weight": shape for i in range(2) for name, shape in block.items()}
    expected |= {f"model.transformer.{name}.weight": [rows, d] for name in ("wte", "ff_out")} | {"model.transformer.ln_f.weight": [d]}
    index = read(folder / "model.safetensors.index.json")["weight_map"]
    assert set(index) == set(expected)
    shards = sorted(set(index.values()))
    assert len(shards) >= 2 and shards == sorted(path.name for path in folder.glob("*.safetensors"))
    for shard in shards:
        with safe_open(folder / shard, framework="pt") as file:
            for name in [name for name, where in index.items() if where == shard]:
                weight = file.get_slice(name)
                assert (weight.get_shape(), weight.get_dtype()) == (expected[name], "BF16")


def test_only_the_config_of_the_model_says_which_token_is_the_mask(folder, policy_and_tokenizer):
    policy, tokenizer = policy_and_tokenizer
    assert "mask_token" not in read(folder / "tokenizer_config.json")
    assert tokenizer.mask_token == "<|mdm_mask|>" and tokenizer.mask_token_id == policy.config.mask_token_id
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|startoftext|>", "<|endoftext|>", "<|endoftext|>")
    assert (policy.config.eos_token_id, policy.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_the_head_has_more_rows_than_the_tokenizer_has_tokens_and_they_are_never_generated(policy_and_tokenizer):
    policy, tokenizer = policy_and_tokenizer
    rows = policy.config.embedding_size
    assert policy.config.vocab_size == rows == len(policy.get_output_embeddings().weight) > len(tokenizer)
    allowed = build_vocabulary(tokenizer, rows).allowed
    assert allowed.sum() == len(tokenizer) - 1 and not allowed[len(tokenizer) :].any() and not allowed[tokenizer.mask_token_id]


def test_saving_keeps_every_official_field_and_points_auto_map_at_the_hub(folder, tmp_path):
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    before, after = read(folder / "config.json"), read(tmp_path / "config.json")
    assert after["auto_map"] == {name: f"GSAI-ML/LLaDA-8B-Instruct--{where}" for name, where in before["auto_map"].items()}
    kept = set(before) - {"auto_map", "transformers_version"}
    assert {name: after.get(name, "absent") for name in kept} == {name: before[name] for name in kept}
    again = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in AutoModel.from_pretrained(folder).state_dict().items())


def test_the_chat_template_written_out(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 1+1?\n"}]
    expected = (
        "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>"
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected + header


def test_special_tokens_are_one_token_each_and_removed_from_text(tokenizer):
    for token in SPECIAL:
        ids = tokenizer(f"a{token}b", add_special_tokens=False).input_ids
        assert len(ids) == 3 and tokenizer.convert_ids_to_tokens(ids[1]) == token
        assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


@pytest.mark.parametrize("text", ["", "12 34\n\n5,678.", "naïve 数独 🙂\x00\t", " a  b , c .", "<answer>\n1234\n</answer> <| eot |>"])
def test_any_text_survives_the_tokenizer_and_each_digit_is_one_token(tokenizer, text):
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(tokens) == text
    digits = [tokenizer.decode([token]) for token in tokens if any(c.isdigit() for c in tokenizer.decode([token]))]
    assert digits == [c for c in text if c.isdigit()]


def test_the_same_seed_gives_the_same_files_and_the_global_stream_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        main([str(tmp_path / name), "--seed", str(seed), "--d-model", "16", "--n-heads", "2"])
    assert torch.rand(1) == expected
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b and a.keys() == c.keys()
    assert {name for name in a if a[name] != c[name]} == {name for name in a if name.endswith(".safetensors")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--n-heads", "5"), "d_model=64: must be a multiple of 2 · n_heads = 10"),
        (("--d-model", "12"), "d_model=12: must be a multiple of 2 · n_heads = 8"),  # RoPE cannot turn 3 components
        (("--n-kv-heads", "3"), "n_kv_heads=3 must divide n_heads"),
        (("--n-kv-heads", "0"), "n_kv_heads=0: must be at least 1"),
        (("--n-layers", "0"), "n_layers=0: must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_one_line_and_nothing_is_written(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "x"), *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_a_checkpoint_is_not_written_over(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "already holds a checkpoint" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_rows_of_the_head_beyond_the_tokens(tmp_path):
    """As the official head of 126,464 rows; what no token names is never allowed."""
    policy, tokenizer = load_policy(ModelConfig(path=str(make_checkpoint(tmp_path / "wide", rows=1000))), torch.device("cpu"))
    assert policy.config.embedding_size == len(policy.get_output_embeddings().weight) == 1000
    allowed = build_vocabulary(tokenizer, 1000).allowed
    assert len(tokenizer) < 1000 and not allowed[len(tokenizer) :].any() and allowed[: len(tokenizer)].sum() == len(tokenizer) - 1
    with pytest.raises(ValueError, match=r"^rows=7: the tokenizer has \d+ tokens; choose as many or more$"):
        make_checkpoint(tmp_path / "narrow", rows=7)
