"""A small checkpoint with random weights in the layout of GSAI-ML/LLaDA-8B-Instruct.

A command that runs on it runs on the 8B model with another `model.path`: the same config fields, key names, number type, shards,
special tokens and style of chat template; only the sizes, the vocabulary and the (meaningless) weights differ.

    python -m toy.small_llada runs/small_llada --d-model 64 --n-kv-heads 2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM

# Every field of the official config.json that is not a size or a token id, with its official value.
OFFICIAL_FIELDS: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        "AutoModel": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "embedding_dropout": 0.0,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "max_sequence_length": 4096,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.3",
    "use_cache": False,
    "weight_tying": False,
}

BOS, EOS, MASK = "<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"
SPECIAL_TOKENS = (BOS, EOS, MASK, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
ADDED_TOKEN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# The relevant fields of the official tokenizer_config.json; it does not say which token is the mask, only the model's config does.
OFFICIAL_TOKENIZER_FIELDS = {
    "add_bos_token": False,
    "add_eos_token": False,
    "bos_token": BOS,
    "chat_template": CHAT_TEMPLATE,
    "clean_up_tokenization_spaces": False,
    "eos_token": EOS,
    "fast_tokenizer": True,
    "merges_file": None,
    "model_input_names": ["input_ids", "attention_mask"],
    "model_max_length": 1000000000000000019884624838656,
    "pad_token": EOS,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "trust_remote_code": True,
    "vocab_file": None,
}
# Text from which the byte pairs are learned: a prompt in English then takes about half as many tokens as bytes. No digits, so each
# stays one token.
SENTENCES = (
    "Think step by step between <reasoning> and </reasoning>, then give the answer between <answer> and </answer>.",
    "Each row, each column and each box of the puzzle must hold the digits once; the other cells stay as they are.",
    "Write the numbers in order, from the top left to the last one, with nothing else before or after the grid.",
    "The user asks, the assistant answers: a question, a problem, the target, and what is to be found.",
)


def make_checkpoint(
    output: str | Path,
    *,
    seed: int = 0,
    d_model: int = 64,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    mlp_hidden_size: int | None = None,
    rows: int | None = None,
) -> Path:
    """Write config, bfloat16 weights in at least two shards, and tokenizer; deterministic by seed.

    Args:
        output: folder to write.
        d_model, n_layers, n_heads: sizes of the transformer.
        n_kv_heads: key and value heads, fewer than `n_heads` for grouped-query attention; None for as many.
        mlp_hidden_size: width of the feed-forward layers; None for 3 · d_model, the official ratio.
        rows: of the vocabulary head, most of them without a token; None for the next multiple of 128 above the tokens.

    Raises:
        ValueError: sizes that do not fit together, or a folder that already holds a checkpoint.
    """
    output = Path(output)
    if (output / "config.json").exists():
        raise ValueError(f"{output} already holds a checkpoint; choose another folder")
    sizes = {
        "d_model": d_model,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": n_heads if n_kv_heads is None else n_kv_heads,
        "mlp_hidden_size": 3 * d_model if mlp_hidden_size is None else mlp_hidden_size,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
    if d_model % (2 * n_heads):
        raise ValueError(f"d_model={d_model}: must be a multiple of 2 · n_heads = {2 * n_heads}, because RoPE turns pairs of components")
    words = build_tokenizer()
    fields = official_fields(words, count_rows(rows, words.get_vocab_size()), sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LLaDAModelLM(LLaDAConfig(**fields)).bfloat16()
    write_checkpoint(output, model, fields, words, max_shard_size=sum(weight.nbytes for weight in model.parameters()) // 2)
    return output


def official_fields(words: Tokenizer, rows: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """The fields of config.json for a model of these sizes, whose vocabulary head has so many rows."""
    special = {"mask_token_id": MASK, "eos_token_id": EOS, "pad_token_id": EOS}
    ids = {name: words.token_to_id(token) for name, token in special.items()}
    return OFFICIAL_FIELDS | sizes | {"vocab_size": rows, "embedding_size": rows} | ids


def write_checkpoint(output: Path, model: LLaDAModelLM, fields: dict[str, Any], words: Tokenizer, **settings: Any) -> None:
    """Write weights, config and tokenizer, the last two in the form of the official ones and not as Transformers would.

    `auto_map` names files that would be next to the config. `settings` go to `save_pretrained`.
    """
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output, **settings)
    words.save(str(output / "tokenizer.json"))
    write_json(output / "config.json", fields)
    added = {str(words.token_to_id(t)): {"content": t, "special": True, **ADDED_TOKEN} for t in SPECIAL_TOKENS}
    write_json(output / "tokenizer_config.json", OFFICIAL_TOKENIZER_FIELDS | {"added_tokens_decoder": added})


def count_rows(rows: int | None, num_tokens: int) -> int:
    """Rows of the vocabulary head, as given or the next multiple of 128: the official head also has more than its tokenizer has tokens."""
    if rows is not None and rows < num_tokens:
        raise ValueError(f"rows={rows}: the tokenizer has {num_tokens} tokens; choose as many or more")
    return rows or 128 * (num_tokens // 128 + 1)


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE with LLaDA's special tokens: any text can be encoded and decoded, and each digit is one token."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    words.add_special_tokens([AddedToken(token, special=True, **ADDED_TOKEN) for token in SPECIAL_TOKENS])
    return words


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """The fields in alphabetical order."""
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """`python -m toy.small_llada`."""
    parser = argparse.ArgumentParser(prog="python -m toy.small_llada", description=__doc__.partition("\n")[0])
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write; it must not hold a checkpoint yet")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")
    parser.add_argument("--d-model", type=int, default=64, help="width (default 64)")
    parser.add_argument("--n-layers", type=int, default=2, help="transformer blocks (default 2)")
    parser.add_argument("--n-heads", type=int, default=4, help="attention heads (default 4)")
    parser.add_argument("--n-kv-heads", type=int, help="key and value heads (default: as many as attention heads)")
    parser.add_argument("--mlp-hidden-size", type=int, help="width of the feed-forward layers (default 3 · d_model)")
    parser.add_argument("--rows", type=int, help="rows of the vocabulary head (default: the tokens, rounded up to a multiple of 128)")
    try:
        output = make_checkpoint(**vars(parser.parse_args(arguments)))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"checkpoint with random weights in {output}")


if __name__ == "__main__":
    main()
