"""One bidirectional Llama-style transformer: the tiny policy and LLaDA-8B differ in their config only.

Module names and config fields are those of the public checkpoints `GSAI-ML/LLaDA-8B-Base`, `-Instruct` and
`LLaDA-1.5` (Nie et al., arXiv 2502.09992), so their safetensors load by key name. Their repositories also ship
Python code to run on loading; it is never run, this file replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from dmpo_ref.models.cache import KeyValueCache, LayerCache
from dmpo_ref.models.vocabulary_head import head_log_prob

# What this file implements, with the value it writes first. A checkpoint that needs anything else is refused, naming the field.
SUPPORTED = {
    "activation_type": ("silu",),
    "alibi": (False,),
    "attention_dropout": (0.0,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False,),
    "block_group_size": (1,),
    "block_type": ("llama",),
    "clip_qkv": (None,),
    "embedding_dropout": (0.0,),
    "include_bias": (False,),
    "include_qkv_bias": (False,),
    "input_emb_norm": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "multi_query_attention": (None, False),
    "residual_dropout": (0.0,),
    "scale_logits": (False,),
    "weight_tying": (False,),
}
WHOLE_NUMBERS = dict.fromkeys(("d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "vocab_size", "embedding_size"), 1)
WHOLE_NUMBERS |= {"max_sequence_length": 1, "mask_token_id": 0}
HUB_CODE = "GSAI-ML/LLaDA-8B-Instruct"


class LLaDAConfig(PretrainedConfig):
    """Config of a LLaDA checkpoint; the defaults are LLaDA-8B's. Fields not named here are carried through unchanged.

    With `rope=False` the model has learned positions (`model.transformer.wpe`), as the tiny policy does.

    Raises:
        ValueError: a field asks for something not implemented, or sizes do not fit together.
    """

    model_type = "llada"

    def __init__(
        self,
        d_model: int = 4096,
        n_layers: int = 32,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        mlp_hidden_size: int = 12288,
        vocab_size: int = 126464,
        embedding_size: int | None = None,
        max_sequence_length: int = 4096,
        rope: bool = True,
        rope_theta: float = 500000.0,
        rms_norm_eps: float = 1e-5,
        init_std: float = 0.02,
        mask_token_id: int = 126336,
        eos_token_id: int = 126081,
        pad_token_id: int = 126081,
        **kwargs,
    ):
        for name, values in SUPPORTED.items():
            if (given := kwargs.setdefault(name, values[0])) not in values:
                raise ValueError(f"model config: {name}={given!r:.100} is not implemented; only {name}={values[0]!r} is")
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        self.mlp_hidden_size = mlp_hidden_size
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size or vocab_size
        self.max_sequence_length = max_sequence_length
        self.rope = rope
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.init_std = init_std
        self.mask_token_id = mask_token_id
        for name, least in WHOLE_NUMBERS.items():
            if type(value := getattr(self, name)) is not int or not least <= value < 2**31:
                raise ValueError(f"model config: {name}={value!r:.100} is not a whole number from {least} to 2^31")
        for name in ("rope_theta", "rms_norm_eps", "init_std"):
            if not isinstance(value := getattr(self, name), float | int) or not 0 < value < 1e300:
                raise ValueError(f"model config: {name}={value!r:.100} is not a finite number above 0")
        if not isinstance(rope, bool):
            raise ValueError(f"model config: rope={rope!r:.100} is not true or false")
        if d_model % n_heads or n_heads % self.n_kv_heads:
            raise ValueError(
                f"model config: n_heads={n_heads} must divide d_model={d_model}, and n_kv_heads={self.n_kv_heads} must divide n_heads"
            )
        if self.embedding_size < vocab_size:
            raise ValueError(f"model config: embedding_size={self.embedding_size} is below vocab_size={vocab_size}")
        kwargs["tie_word_embeddings"] = False
        if torch_dtype := kwargs.pop("torch_dtype", None):  # the older name, which the official config has
            kwargs.setdefault("dtype", torch_dtype)
        super().__init__(**kwargs | {"eos_token_id": eos_token_id, "pad_token_id": pad_token_id})

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields as they are saved, so that the published code loads the result too.

        Transformers no longer writes `torch_dtype` and `use_cache`, which that code reads; and `auto_map` must point at
        the hub repository, because a folder written here holds no Python.
        """
        fields = super().to_diff_dict()
        fields |= {"use_cache": False, "torch_dtype": fields.get("dtype")}
        if auto_map := fields.get("auto_map"):
            fields["auto_map"] = {k: v if "--" in v else f"{HUB_CODE}--{v}" for k, v in auto_map.items()}
        return fields


@dataclass
class Prediction(ModelOutput):
    """Output of the model: `logits` [B, S, V] or [K, V], or `token_log_prob` [K]; see `LLaDAModelLM.forward`."""

    logits: Tensor | None = None
    token_log_prob: Tensor | None = None


class LLaDAModelLM(PreTrainedModel):
    """Mask predictor: logits of the token at every position, given the whole sequence."""

    config: LLaDAConfig
    config_class = LLaDAConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config: LLaDAConfig):
        super().__init__(config)
        self.float32_logits = False  # for scores of a bfloat16 model, see `vocabulary_head.project`
        self.model = nn.ModuleDict({"transformer": Transformer(config)})
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        select: Tensor | tuple[Tensor, ...] | None = None,
        targets: Tensor | None = None,
        allowed: Tensor | None = None,
        temperature: float = 1.0,
        cache: KeyValueCache | None = None,
        position_ids: Tensor | None = None,
        visible: Tensor | None = None,
        **_ignored_by_transformers,
    ) -> Prediction:
        """Logits at every position, or at the selected ones only; or the log-probabilities of given tokens there.

        Args:
            input_ids: [B, S] token ids, the mask token where something is to be predicted.
            attention_mask: [B, S] bool, False at (left) padding; None means no padding, and allows the fastest kernels, see `Block`.
                Padded positions are neither attended to nor counted, so that a row's logits do not depend on its batch.
            select: the K positions that alone are read: [B, S] bool, or their rows and slots, [K] each. The vocabulary projection is
                computed there only, and so is what the last block does after its attention.
            targets: [K] ids of tokens to score at the selected positions, in row-major order.
            allowed, temperature: with `targets`: the [V] tokens that the softmax runs over (None: all), and its T > 0.
            cache: keys and values to record, or to use; then `input_ids` and `select` are those of the fed slots only, while
                `attention_mask` is still that of the whole sequence.
            position_ids: [B, S] below `max_sequence_length`, instead of counting what the attention mask does not hide. Positions may
                repeat, so the sequence itself may then be longer.
            visible: [B, S, S] bool, which position (second to last axis) attends to which; instead of the attention mask.

        Returns:
            `.logits`: [B, S, V], or [K, V] with `select`. V is `embedding_size`; see `likelihood.Vocabulary` for the
            rows that may be sampled. With `targets` there are no logits but `.token_log_prob`: [K] nats, see `head_log_prob`.

        Raises:
            ValueError: the sequence is longer than `max_sequence_length`.
        """
        if position_ids is None and input_ids.shape[1] > self.config.max_sequence_length:
            raise ValueError(
                f"a sequence of {input_ids.shape[1]} tokens does not fit the model's max_sequence_length="
                f"{self.config.max_sequence_length}; shorten the prompt or the response"
            )
        transformer = self.model["transformer"]
        if isinstance(select, Tensor):
            select = select.nonzero(as_tuple=True)
        hidden = transformer(input_ids, attention_mask, cache, position_ids, visible, select)
        if targets is None:
            return Prediction(logits=transformer.ff_out(hidden))
        head = transformer.ff_out.weight
        allowed = torch.ones(len(head), dtype=torch.bool, device=head.device) if allowed is None else allowed
        scores = head_log_prob(hidden, head, targets, allowed, temperature, float32_logits=self.float32_logits)
        return Prediction(token_log_prob=scores)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.init_std)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model["transformer"].wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model["transformer"].wte = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.model["transformer"].ff_out


class Transformer(nn.Module):
    """Embedding, blocks, final norm; `ff_out` is the vocabulary head, applied by the caller."""

    def __init__(self, config: LLaDAConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False  # Transformers switches it on, and puts the next one here
        self._gradient_checkpointing_func: Callable[..., Tensor]
        self.wte = nn.Embedding(config.embedding_size, config.d_model)
        if not config.rope:
            self.wpe = nn.Embedding(config.max_sequence_length, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_f = RMSNorm(config.d_model, config.rms_norm_eps)
        self.ff_out = nn.Linear(config.d_model, config.embedding_size, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        cache: KeyValueCache | None = None,
        position_ids: Tensor | None = None,
        visible: Tensor | None = None,
        select: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        """[B, S] → [B, S, d_model], normalised; [K, d_model] with `select`."""
        fed, mask = slice(None) if cache is None else cache.fed, None
        if attention_mask is None:  # what is fed begins where the cache says, not at 0
            position = torch.arange(input_ids.shape[1], device=input_ids.device)[None] + (fed.start or 0)
        else:
            attention_mask = attention_mask.bool()
            position = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, fed]
            # A padded query may see itself: a softmax over nothing would be NaN.
            itself = torch.eye(attention_mask.shape[1], dtype=torch.bool, device=input_ids.device)[fed]
            mask = rearrange(attention_mask, "b s -> b 1 1 s") | itself
        if visible is not None:
            mask = rearrange(visible, "b q k -> b 1 q k")
        if position_ids is not None:
            position = position_ids
        x = self.wte(input_ids)
        rotation = None
        if self.config.rope:
            rotation = rope_rotation(position, self.config.d_model // self.config.n_heads, self.config.rope_theta)
        else:
            x = x + self.wpe(position.expand(input_ids.shape))  # its gradient is summed in one order, with a mask or without
        for i, block in enumerate(self.blocks):
            kept = None if cache is None else cache.layer(i)
            read = select if block is self.blocks[-1] else None
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block.__call__, x, rotation, mask, kept, read)
            else:
                x = block(x, rotation, mask, kept, read)
        return self.ln_f(x)


class Block(nn.Module):
    """x += attention(norm(x)); x += SwiGLU(norm(x)). Attention is full: every position sees every other.

    Torch chooses the kernel from the mask and the number type. On CUDA, FlashAttention accepts no mask at all, so it runs only without
    padding, and only float16 or bfloat16; cuDNN's accepts a mask, and the same types; memory-efficient attention accepts a mask, and
    float32 too. The last two convert a bool mask to numbers that are added. What none of them accepts (float64) is computed in parts
    that hold all scores [B, H, S, S]. On a CPU one kernel handles all of these, with bit-identical results.
    Sources: https://pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html, and what torch itself says
    of a kernel that is asked for by `torch.nn.attention.sdpa_kernel` and cannot run (`torch.backends.cuda.can_use_flash_attention`).
    """

    def __init__(self, config: LLaDAConfig):
        super().__init__()
        d, self.head_dim = config.d_model, config.d_model // config.n_heads
        self.grouped = config.n_kv_heads != config.n_heads
        self.attn_norm = RMSNorm(d, config.rms_norm_eps)
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, config.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(d, config.n_kv_heads * self.head_dim, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.ff_norm = RMSNorm(d, config.rms_norm_eps)
        self.ff_proj = nn.Linear(d, config.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(d, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size, d, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        visible: Tensor | None,
        kept: LayerCache | None = None,
        read: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        h = self.attn_norm(x)
        q, k, v = (rearrange(project(h), "b s (h d) -> b h s d", d=self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if kept is not None:
            k, v = kept.update(k, v)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=self.grouped)
        attended = rearrange(attended, "b h s d -> b s (h d)")
        if read is not None:  # rows and slots: what comes now concerns each position by itself
            x, attended = x[read], attended[read]
        x = x + self.attn_out(attended)
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) in float32 (or wider), cast back, times the weight."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rope_rotation(position: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position · θ^(−2i/d), each [B, 1, S, d], float32, for the rotate-half form of RoPE."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=position.device).float() / head_dim)
    angle = rearrange(position, "b s -> b 1 s 1").float() * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE on queries or keys [B, H, S, d], computed in float32 (or wider) and cast back."""
    cos, sin = rotation
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


AutoConfig.register("llada", LLaDAConfig)
AutoModel.register(LLaDAConfig, LLaDAModelLM)
AutoModelForMaskedLM.register(LLaDAConfig, LLaDAModelLM)
