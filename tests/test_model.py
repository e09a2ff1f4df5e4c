"""The transformer against a float64 numpy implementation written from the description of the architecture."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from dmpo_ref.models.cache import KeyValueCache
from dmpo_ref.models.llada import SUPPORTED, Block, LLaDAConfig, LLaDAModelLM, RMSNorm, rope_rotation, rotate
from tests.helpers import MASK, tiny_model

SIZES = {
    "grouped-query attention, RoPE": {"d_model": 24, "n_heads": 6, "n_kv_heads": 2, "n_layers": 2, "rope": True},
    "one key head, RoPE": {"d_model": 16, "n_heads": 4, "n_kv_heads": 1, "n_layers": 1, "rope": True},
    "all heads, learned positions": {"d_model": 24, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "rope": False},
    "padded vocabulary, RoPE": {"d_model": 16, "n_heads": 4, "n_layers": 1, "rope": True, "embedding_size": 13},
}


@pytest.fixture(params=SIZES, ids=lambda name: name.replace(" ", "_"))
def model(request) -> LLaDAModelLM:
    return tiny_model(3, double=False, mlp_hidden_size=20, init_std=0.3, rope_theta=1000.0, **SIZES[request.param])


def numpy_logits(model: LLaDAModelLM, tokens: list[int]) -> np.ndarray:
    """Logits [S, V] of one sequence without padding, position by position and head by head, float64."""
    config = model.config
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    head_dim, group = config.d_model // config.n_heads, config.n_heads // config.n_kv_heads
    S = len(tokens)

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.rms_norm_eps) * weight

    def rope(x, position):  # rotate-half: component i turns with component i + d/2, by position · θ^(−2i/d)
        half, turned = head_dim // 2, np.empty(head_dim)
        for i in range(half):
            angle = position * config.rope_theta ** (-2 * i / head_dim)
            turned[i] = x[i] * np.cos(angle) - x[i + half] * np.sin(angle)
            turned[i + half] = x[i + half] * np.cos(angle) + x[i] * np.sin(angle)
        return turned

    x = w["model.transformer.wte.weight"][tokens]
    if not config.rope:
        x = x + w["model.transformer.wpe.weight"][:S]
    for b in range(config.n_layers):
        block = {k.split(".")[-2]: v for k, v in w.items() if k.startswith(f"model.transformer.blocks.{b}.")}
        h = norm(x, block["attn_norm"])
        attended = np.zeros((S, config.d_model))
        for head in range(config.n_heads):
            mine = slice(head * head_dim, (head + 1) * head_dim)
            shared = slice(head // group * head_dim, (head // group + 1) * head_dim)
            q, k, v = h @ block["q_proj"][mine].T, h @ block["k_proj"][shared].T, h @ block["v_proj"][shared].T
            if config.rope:
                q, k = (np.stack([rope(row, s) for s, row in enumerate(rows)]) for rows in (q, k))
            score = np.exp(q @ k.T / np.sqrt(head_dim))
            attended[:, mine] = score / score.sum(axis=1, keepdims=True) @ v
        x = x + attended @ block["attn_out"].T
        h = norm(x, block["ff_norm"])
        gate = h @ block["ff_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ block["up_proj"].T)) @ block["ff_out"].T
    return norm(x, w["model.transformer.ln_f.weight"]) @ w["model.transformer.ff_out.weight"].T


def assert_close(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Largest difference, relative to the largest logit."""
    assert np.abs(actual.detach().double().numpy() - expected).max() <= tolerance * np.abs(expected).max()


TOKENS = [4, 1, 7, 1, 5, 3]


@torch.no_grad()
def test_logits_equal_the_numpy_model(model):
    expected = numpy_logits(model, TOKENS)
    assert_close(model(torch.tensor([TOKENS])).logits[0], expected, 1e-5)
    # In float64 nothing but the float32 angles of RoPE is rounded.
    assert_close(model.double()(torch.tensor([TOKENS])).logits[0], expected, 1e-6 if model.config.rope else 1e-13)


@torch.no_grad()
def test_left_padding_changes_nothing(model):
    """Rows of different length in one batch: every row equals the numpy model run on that row alone."""
    rows, length = [TOKENS, TOKENS[2:], TOKENS[4:]], len(TOKENS)
    for filler in (0, MASK, 5):
        tokens = torch.tensor([[filler] * (length - len(row)) + row for row in rows])
        attention_mask = torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in rows])
        for dtype in (torch.bool, torch.long):
            logits = model(tokens, attention_mask=attention_mask.to(dtype)).logits
            assert torch.isfinite(logits).all()
            for b, row in enumerate(rows):
                assert_close(logits[b, length - len(row) :], numpy_logits(model, row), 1e-5)


def test_left_padding_has_no_part_in_the_gradient(model):
    """Of a batch with padding: finite, and the sum of the gradients of the rows alone. The padding token has none."""

    def gradient(*inputs):
        model.zero_grad()
        for tokens, attention_mask, select in inputs:
            model(tokens, attention_mask=attention_mask, select=select).logits.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    model.double()
    tokens, attention_mask = torch.tensor([TOKENS, [2, 2, *TOKENS[2:]]]), torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    together = gradient((tokens, attention_mask, attention_mask))
    assert (model.get_input_embeddings().weight.grad[2] == 0).all()
    alone = gradient((tokens[:1], None, None), (tokens[1:, 2:], None, None))
    torch.testing.assert_close(together, alone)


@torch.no_grad()
def test_selected_logits_are_the_same_rows_in_row_major_order(model):
    tokens = torch.tensor([TOKENS, TOKENS[::-1]])
    attention_mask = torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    select = torch.tensor([[False, True, False, True, False, False], [False, False, True, False, False, True]])
    full = model(tokens, attention_mask=attention_mask).logits
    chosen = model(tokens, attention_mask=attention_mask, select=select).logits
    assert chosen.shape == (4, model.config.embedding_size)
    torch.testing.assert_close(chosen, torch.stack([full[0, 1], full[0, 3], full[1, 2], full[1, 5]]))
    assert model(tokens, select=torch.zeros_like(select)).logits.shape == (0, model.config.embedding_size)


def test_after_the_attention_of_the_last_block_only_what_is_read_is_computed(model):
    """And the gradient of every weight is that of all logits, of which the same rows are taken."""
    tokens, rows = torch.tensor([TOKENS, TOKENS[::-1]]), {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(lambda _, x, name=name: rows.__setitem__(name, x[0].shape[:-1].numel()))
    slots = (torch.tensor([1, 0, 1]), torch.tensor([3, 5, 0]))
    gradients = []
    for logits in (model(tokens).logits[slots], model(tokens, select=slots).logits):
        model.zero_grad()
        logits.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    last, after = f"blocks.{model.config.n_layers - 1}.", ("attn_out", "ff_proj", "up_proj", "ff_out")
    for name, number in rows.items():
        assert number == (3 if name.endswith(".transformer.ff_out") or (last in name and name.endswith(after)) else 12), name
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item())


@torch.no_grad()
def test_attention_is_full_the_last_token_changes_the_first_logits(model):
    first = model(torch.tensor([TOKENS])).logits[0, 0]
    changed = model(torch.tensor([[*TOKENS[:-1], 6]])).logits[0, 0]
    assert (first - changed).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 6), (5, 9), (8, 9), (0, 9)])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@torch.no_grad()
def test_what_is_fed_to_a_cache_has_the_positions_of_its_slots(model, start, stop, masked):
    """The same tokens again: the logits are those of the pass over the whole sequence, with an attention mask and without."""
    tokens = torch.tensor([[3, 1, 4, 1, 5, 2, 6, 5, 3], [2, 7, 1, MASK, 2, MASK, 1, MASK, 2]])
    mask = {"attention_mask": torch.ones_like(tokens)} if masked else {}
    cache = KeyValueCache()
    whole = model(input_ids=tokens, cache=cache, **mask).logits
    np.testing.assert_allclose(whole[0].numpy(), numpy_logits(model, tokens[0].tolist()), atol=1e-4)
    for _ in range(2):
        cache.feed(start, stop)
        part = model(input_ids=tokens[:, start:stop], cache=cache, **mask).logits
        torch.testing.assert_close(part, whole[:, start:stop], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_padding_no_mask_reaches_attention_and_the_numbers_are_those_of_a_mask_that_hides_nothing(model, monkeypatch, dtype):
    """Over the whole sequence, and with a cache over all of it, what follows a slot, and a block; a fused kernel may refuse any mask."""
    tokens, masks = torch.tensor([TOKENS, TOKENS[::-1]]), []
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *inputs, attn_mask, **options: masks.append(attn_mask) or attention(*inputs, attn_mask=attn_mask, **options),
    )
    results = []
    for mask in (None, torch.ones_like(tokens, dtype=torch.bool)):
        masks.clear()
        cache, fed = KeyValueCache(), model.to(dtype)(tokens, attention_mask=mask)
        logits = [fed.logits, model(tokens, attention_mask=mask, cache=cache).logits]
        for start, stop in ((2, 6), (3, 5)):
            cache.feed(start, stop)
            logits.append(model(tokens[:, start:stop], attention_mask=mask, cache=cache).logits)
        assert len(masks) == 4 * model.config.n_layers and all((given is None) == (mask is None) for given in masks)
        results.append(logits)
    for without, given in zip(*results, strict=True):
        torch.testing.assert_close(without, given, rtol=2**-7 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_the_order_of_the_other_tokens_matters(model):
    """Swapping two tokens changes the logits of a third one: without positions they would not."""
    a, b = (model(torch.tensor([tokens])).logits[0, 0] for tokens in ([1, 4, 5, 6], [1, 5, 4, 6]))
    assert (a - b).abs().max() > 1e-3


def test_the_keys_are_those_of_the_official_checkpoint():
    """Names and shapes from the published safetensors, at a small size."""
    d, kv, mlp, rows = 24, 8, 20, 13
    block = {
        "attn_norm": (d,),
        "q_proj": (d, d),
        "k_proj": (kv, d),
        "v_proj": (kv, d),
        "attn_out": (d, d),
        "ff_norm": (d,),
        "ff_proj": (mlp, d),
        "up_proj": (mlp, d),
        "ff_out": (d, mlp),
    }
    expected = {f"model.transformer.blocks.{i}.{name}.weight": shape for i in range(2) for name, shape in block.items()}
    expected |= {f"model.transformer.{name}.weight": (rows, d) for name in ("wte", "ff_out")} | {"model.transformer.ln_f.weight": (d,)}
    sizes = {"d_model": d, "n_heads": 6, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": mlp, "embedding_size": rows}
    for rope in (True, False):
        state = tiny_model(rope=rope, **sizes).state_dict()
        learned = {} if rope else {"model.transformer.wpe.weight": (32, d)}
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected | learned


# Fields of the public config.json that this implementation does not read.
UNKNOWN_FIELDS = {
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "block_group_size": 1,
    "flash_attention": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "precision": "amp_bf16",
    "rope_full_precision": True,
}


@pytest.mark.parametrize("load", [LLaDAModelLM, AutoModel, AutoModelForMaskedLM])
@torch.no_grad()
def test_saving_and_loading_keeps_weights_and_unknown_fields(model, tmp_path, load):
    fields = model.config.to_dict() | UNKNOWN_FIELDS
    saved = LLaDAModelLM(LLaDAConfig(**fields))
    saved.load_state_dict(model.state_dict())
    saved.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    written = json.loads((tmp_path / "config.json").read_text())
    assert {name: written.get(name, "absent") for name in UNKNOWN_FIELDS} == UNKNOWN_FIELDS
    loaded, report = load.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is LLaDAModelLM
    assert not any(report.get(problem) for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.rope_theta == 1000.0 and loaded.config.mlp_ratio == 4
    assert_close(loaded(torch.tensor([TOKENS])).logits[0], numpy_logits(model, TOKENS), 1e-5)


def test_a_checkpoint_that_ships_python_is_loaded_without_running_it(tmp_path):
    """`auto_map` points at a file that would fail if it were run."""
    model = tiny_model(double=False)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    auto_map = {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    for name in ("configuration_llada", "modeling_llada"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('this file was run')")
    assert type(AutoModel.from_pretrained(tmp_path)) is LLaDAModelLM
    assert type(AutoConfig.from_pretrained(tmp_path)) is LLaDAConfig


@pytest.mark.parametrize("field", [{"use_cache": False}, {"torch_dtype": "bfloat16"}], ids=lambda field: next(iter(field)))
def test_fields_that_the_published_code_needs_survive_saving(tmp_path, field):
    LLaDAModelLM(LLaDAConfig(**(tiny_model().config.to_dict() | field))).bfloat16().save_pretrained(tmp_path)
    assert field.items() <= json.loads((tmp_path / "config.json").read_text()).items()


REFUSED = {
    "activation_type": "gelu",
    "alibi": True,
    "attention_dropout": 0.1,
    "attention_layer_norm": True,
    "block_group_size": 2,
    "clip_qkv": 8.0,
    "embedding_dropout": 0.1,
    "layer_norm_with_affine": False,
    "multi_query_attention": True,
    "residual_dropout": 0.1,
    "bias_for_layer_norm": True,
    "block_type": "sequential",
    "include_bias": True,
    "include_qkv_bias": True,
    "input_emb_norm": True,
    "layer_norm_type": "default",
    "scale_logits": True,
    "weight_tying": True,
}


@pytest.mark.parametrize(("field", "value"), REFUSED.items())
def test_what_is_not_implemented_is_refused_by_the_name_of_the_field(tmp_path, field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r} is not implemented"):
        LLaDAConfig(**{field: value})
    tiny_model().config.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {field: value}))
    with pytest.raises(ValueError, match=field):
        AutoConfig.from_pretrained(tmp_path)


def test_every_supported_value_is_tested():
    assert set(REFUSED) == set(SUPPORTED)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 10, "n_heads": 4}, "n_heads=4 must divide d_model=10"),
        ({"d_model": 24, "n_heads": 6, "n_kv_heads": 4}, "n_kv_heads=4 must divide n_heads"),
        ({"vocab_size": 8, "embedding_size": 7}, "embedding_size=7 is below vocab_size=8"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**sizes)


def test_a_sequence_longer_than_the_model_is_an_error_with_both_numbers():
    model = tiny_model(max_sequence_length=5)
    model(torch.full((1, 5), 4))
    with pytest.raises(ValueError, match="sequence of 6 tokens .* max_sequence_length=5"):
        model(torch.full((1, 6), 4))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_gradient_checkpointing_runs_every_block_twice_and_gives_the_same_gradient(monkeypatch):
    tokens, gradients, runs = torch.tensor([TOKENS]), [], []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *inputs: runs.append(self) or forward(self, *inputs))
    for checkpointing in (False, True):
        model = tiny_model(n_layers=2).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        runs.clear()
        model(tokens).logits.square().sum().backward()
        assert len(runs) == (4 if checkpointing else 2)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_the_norm_is_float32_inside_and_rounded_before_the_weight():
    """In bfloat16, from the published order of operations: float32 norm, cast, multiply."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(50, 16)) * 10, dtype=torch.bfloat16)
    norm = RMSNorm(16, 1e-5).to(torch.bfloat16)
    weight = torch.tensor(rng.uniform(0.5, 2, 16), dtype=torch.bfloat16)
    norm.weight.data.copy_(weight)
    exact = x.double().numpy()
    exact = exact / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + 1e-5)
    expected = (torch.tensor(exact).to(torch.bfloat16).double() * weight.double()).to(torch.bfloat16)
    # A float32 value may fall on the other side of a rounding boundary than the exact one, once in ten thousand.
    assert (norm(x) != expected).float().mean() < 0.01
    too_coarse = (torch.tensor(exact) * weight.double()).to(torch.bfloat16)
    assert (norm(x) != too_coarse).float().mean() > 0.1


def test_rotation_of_bfloat16_queries_is_computed_in_float32():
    """At position 3000 an angle rounded to bfloat16 would be wrong by several radians."""
    d, position = 8, 3000
    x = torch.tensor(np.random.default_rng(0).normal(size=(1, 1, 1, d)), dtype=torch.bfloat16)
    expected = np.empty(d)
    for i in range(d // 2):
        angle, a, b = position * 10000.0 ** (-2 * i / d), x[0, 0, 0, i].item(), x[0, 0, 0, i + d // 2].item()
        expected[[i, i + d // 2]] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
    rotated = rotate(x, rope_rotation(torch.tensor([[position]]), d, 10000.0))
    assert rotated.dtype == torch.bfloat16
    np.testing.assert_allclose(rotated[0, 0, 0].double().numpy(), expected, atol=2**-8 * np.abs(expected).max())


def test_the_defaults_are_those_of_the_public_checkpoint():
    """As in config.json of GSAI-ML/LLaDA-8B-Instruct: what a forecast without the hub counts with."""
    config = LLaDAConfig()
    sizes = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288, "max_sequence_length": 4096}
    tokens = {"vocab_size": 126464, "embedding_size": 126464, "mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081}
    numbers = {"rope": True, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "init_std": 0.02}
    assert {name: getattr(config, name) for name in sizes | tokens | numbers} == sizes | tokens | numbers


def test_new_weights_are_normal_with_the_spread_of_the_config_and_norms_are_one():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LLaDAModelLM(LLaDAConfig(d_model=64, n_heads=4, mlp_hidden_size=128, n_layers=2, vocab_size=100, rope=False, init_std=0.3))
    for name, weight in model.named_parameters():
        if "norm" in name or "ln_f" in name:
            assert (weight == 1).all(), name
        else:
            # Four standard errors of a sample of this size.
            assert abs(weight.std() / 0.3 - 1) < 4 / (2 * weight.numel()) ** 0.5, name
            assert abs(weight.mean()) < 4 * 0.3 / weight.numel() ** 0.5, name


def test_the_number_type_of_an_older_config_is_read():
    assert LLaDAConfig(torch_dtype="bfloat16").dtype == torch.bfloat16
    assert LLaDAConfig(torch_dtype="bfloat16", dtype="float32").dtype == torch.float32
