"""Loading, adapters, and the reference: p_ref is the base with adapters off, without a second copy."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from dmpo_ref.config import ModelConfig
from dmpo_ref.models.adapters import add_adapters
from dmpo_ref.models.loading import load_policy
from dmpo_ref.models.reference import AdapterReference
from dmpo_ref.runtime.setup import prepare_run
from dmpo_ref.train import train
from toy.small_llada import make_checkpoint

CPU = torch.device("cpu")
SHIPPED = "toy/checkpoint"


def logits(model, seed=0):
    tokens = torch.randint(3, 8, (2, 16), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=tokens).logits


def with_adapters(**options):
    config = ModelConfig(path=SHIPPED, lora_rank=4, **options)
    model, _ = load_policy(config, CPU)
    return add_adapters(model, config, seed=0).eval()


def stir(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))


def test_adapters_sit_on_every_named_layer_of_every_block_and_not_on_the_head():
    model = with_adapters()
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}
    layers = ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"]
    assert adapted == {f"base_model.model.model.transformer.blocks.{i}.{layer}" for i in range(2) for layer in layers}
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())


def test_fresh_adapters_change_nothing_and_are_the_same_for_the_same_seed():
    base, _ = load_policy(ModelConfig(path=SHIPPED), CPU)
    before = torch.get_rng_state()
    first, second = with_adapters(), with_adapters()
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(logits(first), logits(base), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("target", ["gate_proj", "attn_norm_", "wte"])
def test_a_target_that_matches_nothing_is_an_error_that_names_what_there_is(target):
    with pytest.raises(ValueError, match=rf"'{target}' matches no layer of the blocks; there are attn_out, ff_out, ff_proj"):
        with_adapters(lora_targets=["q_proj", target])


def test_the_reference_is_the_base_and_follows_only_a_sync():
    base, _ = load_policy(ModelConfig(path=SHIPPED), CPU)
    policy = with_adapters()
    reference = AdapterReference(policy)
    stir(policy)
    moved = logits(policy)
    assert (moved - logits(base)).abs().max() > 0.1
    with reference.model() as model:
        torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=0)
    assert torch.equal(logits(policy), moved)
    reference.sync(policy)
    stir(policy)
    again = logits(policy)
    with reference.model() as model:
        assert torch.equal(logits(model), moved)
    assert torch.equal(logits(policy), again)


def test_a_lora_run_saves_adapters_only_and_the_folder_of_the_run_loads_as_a_policy(small_run, tmp_path):
    trained = train(small_run("model.lora_rank=4", "optimizer.learning_rate=1e-2", "train.rounds=2"))
    folder = next((tmp_path / "run").glob("checkpoint-*"))
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    loaded, _ = load_policy(ModelConfig(path=str(tmp_path / "run")), CPU)
    assert torch.equal(logits(loaded), logits(trained.policy))
    assert (logits(loaded) - logits(load_policy(ModelConfig(path=SHIPPED), CPU)[0])).abs().max() > 0.01


def test_the_base_stays_as_it_was_and_only_adapters_are_optimised(small_run):
    config = small_run("model.lora_rank=4", "optimizer.learning_rate=1e-2")
    trained = train(config)
    base, _ = load_policy(ModelConfig(path=SHIPPED), CPU)
    with trained.policy.disable_adapter():
        torch.testing.assert_close(logits(trained.policy), logits(base), rtol=0, atol=0)


def test_adapters_of_another_base_are_refused_in_one_line(tmp_path):
    from toy.options import PretrainConfig
    from toy.reference import build_model
    from toy.worlds.sudoku import build_tokenizer

    other, _ = build_model(PretrainConfig(width=32), build_tokenizer())
    other.save_pretrained(tmp_path / "other")
    build_tokenizer().save_pretrained(tmp_path / "other")
    with_adapters().save_pretrained(tmp_path / "adapters")
    build_tokenizer().save_pretrained(tmp_path / "adapters")
    settings = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(tmp_path / "other")}))
    with pytest.raises(ValueError, match="the adapters do not fit their base") as caught:
        load_policy(ModelConfig(path=str(tmp_path / "adapters")), CPU)
    assert "\n" not in str(caught.value)


def damaged(tmp_path, damage):
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED, folder)
    damage(folder)
    return str(folder)


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def rename_a_key(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.transformer.extra"] = weights.pop("model.transformer.ln_f.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change(*, name="config.json", **fields):
    def damage(folder):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.path=.*no file named model.safetensors"),
        (truncate, "weights is damaged or cut off"),
        (rename_a_key, "missing keys in the weights, first model.transformer.ln_f.weight"),
        (change(d_model=32), "(the weights do not fit the config|mismatched keys)"),
        (change(alibi=True), "alibi=True is not implemented"),
        (change(weight_tying=True), "weight_tying=True is not implemented"),
        (lambda folder: (folder / "config.json").unlink(), "no checkpoint there"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_policy(ModelConfig(path=damaged(tmp_path, damage)), CPU)
    assert "\n" not in str(caught.value)


def test_four_bits_need_a_package_and_adapters(small_run, monkeypatch):
    with pytest.raises(ValueError, match=r"model\.quantize=nf4: 4-bit weights cannot be trained"):
        small_run("model.quantize=nf4")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest))
    with pytest.raises(
        ValueError, match=r"model\.quantize=nf4: 4-bit weights need bitsandbytes: pip install 'dmpo-ref\[gpu\]', or use none$"
    ):
        prepare_run(small_run("model.quantize=nf4", "model.lora_rank=4", "device=cpu"))
    assert "\ngpu = [" in Path("pyproject.toml").read_text()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of the hub, with a small checkpoint as someone/policy and one that ships code as someone/code; no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("policy", "code"):
        model = tmp_path / "hub" / f"models--someone--{name}"
        make_checkpoint(model / "snapshots" / ("a" * 40), d_model=16, n_heads=2)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("a" * 40)
    change(tokenizer_class="Mine", auto_map={"AutoTokenizer": ["code.T"] * 2}, name="tokenizer_config.json")(
        model / "snapshots" / ("a" * 40)
    )
    return tmp_path


def test_a_hub_name_is_loaded_as_the_folder_is_and_adapters_remember_the_name(hub):
    config = ModelConfig(path="someone/policy", lora_rank=2)
    model, tokenizer = load_policy(config, CPU)
    folder, words = load_policy(ModelConfig(path=str(hub / "hub" / "models--someone--policy" / "snapshots" / ("a" * 40))), CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), folder.parameters(), strict=True))
    assert tokenizer("12 a").input_ids == words("12 a").input_ids and tokenizer.mask_token_id == model.config.mask_token_id
    policy = add_adapters(model, config, seed=0)
    stir(policy)
    policy.save_pretrained(hub / "adapters")
    assert json.loads((hub / "adapters" / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/policy"
    again, _ = load_policy(ModelConfig(path="adapters"), CPU)
    assert torch.equal(logits(again), logits(policy))


def test_a_hub_name_whose_code_would_be_run_is_refused_without_a_question(hub, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("was asked whether to run remote code"))
    with pytest.raises(ValueError, match="someone/code: the tokenizer cannot be read"):
        load_policy(ModelConfig(path="someone/code"), CPU)


def test_a_hub_name_that_is_not_in_the_cache_is_one_line_without_a_network(hub):
    with pytest.raises(FileNotFoundError, match="model.path=someone/other: ") as caught:
        load_policy(ModelConfig(path="someone/other"), CPU)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
