"""The fingerprint of a policy covers all that decides an answer, follows contents, and ignores places."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from dmpo_ref.models.fingerprint import fingerprint_parts
from tests.helpers import save_adapters
from toy.small_llada import make_checkpoint


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with a base in two shards and adapters on it."""
    folder = tmp_path_factory.mktemp("sources")
    make_checkpoint(folder / "base", d_model=16, n_heads=2)
    save_adapters(folder / "base", folder / "adapters")
    settings = json.loads((folder / "adapters" / "adapter_config.json").read_text())
    (folder / "adapters" / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "../base"}))
    return folder


@pytest.fixture
def copy(sources, tmp_path):
    shutil.copytree(sources, tmp_path / "copy")
    return tmp_path / "copy"


def flip(file, place):
    """One bit in the file, at this share of its length."""
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)


def field(name, **fields):
    def change(folder):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def shard(folder, number):
    return sorted(folder.glob("*.safetensors"))[number]


CHANGES = {
    "rope_theta": ("base", field("config.json", rope_theta=10000.0), "config.json"),
    "rms_norm_eps": ("base", field("config.json", rms_norm_eps=1e-6), "config.json"),
    "a bit in the middle of the first shard": ("base", lambda folder: flip(shard(folder, 0), 0.5), "weights"),
    "the last bit of the last shard": ("base", lambda folder: flip(shard(folder, -1), 1.0), "weights"),
    "the chat template": ("base", field("tokenizer_config.json", chat_template="{{ messages }}"), "tokenizer"),
    "a chat template in a file": ("base", lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"), "tokenizer"),
    "a map of special tokens": ("base", lambda folder: (folder / "special_tokens_map.json").write_text("{}"), "tokenizer"),
    "a word of the tokenizer": ("base", lambda folder: flip(folder / "tokenizer.json", 0.5), "tokenizer"),
    "a tokenizer of another release": ("base", lambda folder: (folder / "tokenizer.4.0.0.json").write_text("{}"), "tokenizer"),
    "lora_alpha": ("adapters", field("adapter_config.json", lora_alpha=1), "adapter_config.json"),
    "a bit of the adapters": ("adapters", lambda folder: flip(folder / "adapter_model.safetensors", 0.9), "weights"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_that_can_change_an_answer_is_seen_and_named(copy, change):
    where, damage, part = CHANGES[change]
    names = {"base": (copy / "base", copy / "adapters"), "adapters": (copy / "adapters",)}[where]
    before = {folder: fingerprint_parts(str(folder)) for folder in names}
    whole = {folder: fingerprint_parts(str(folder)) for folder in names}
    damage(copy / where)
    for folder in names:
        after = fingerprint_parts(str(folder))
        expected = f"base {part}" if where == "base" and folder.name == "adapters" else part
        # Adapters that have a tokenizer of their own do not ask that of the base.
        changed = set() if expected == "base tokenizer" else {expected}
        assert {name for name in after if after[name] != before[folder].get(name)} == changed
        assert (fingerprint_parts(str(folder)) != whole[folder]) == bool(changed)


def test_adapters_without_a_tokenizer_depend_on_that_of_their_base(copy):
    for file in [*copy.glob("adapters/tokenizer*"), *copy.glob("adapters/*.jinja")]:
        file.unlink()
    before = fingerprint_parts(str(copy / "adapters"))
    field("tokenizer_config.json", chat_template="{{ messages }}")(copy / "base")
    after = fingerprint_parts(str(copy / "adapters"))
    assert {name for name in after if after[name] != before[name]} == {"base tokenizer"}


@pytest.mark.parametrize("name", ["base", "adapters"])
def test_a_copy_in_another_place_is_the_same_policy(sources, copy, monkeypatch, name):
    assert fingerprint_parts(str(copy / name)) == fingerprint_parts(str(sources / name))
    monkeypatch.chdir(copy)
    assert fingerprint_parts(f"./{name}") == fingerprint_parts(str(sources / name))
    field("adapter_config.json", base_model_name_or_path=str(sources / "base"))(copy / "adapters")
    assert fingerprint_parts(str(copy / name)) == fingerprint_parts(str(sources / name))


@pytest.mark.parametrize("other", ["README.md", "generation_config.json", "state.pt", "reference.safetensors", "run.yaml"])
def test_what_decides_no_answer_is_not_looked_at(sources, copy, other):
    (copy / "base" / other).write_text("{}")
    assert fingerprint_parts(str(copy / "base")) == fingerprint_parts(str(sources / "base"))


def test_the_newest_checkpoint_of_a_run_is_what_counts(sources, tmp_path):
    for number in (900, 1000):
        shutil.copytree(sources / "base", tmp_path / "run" / f"checkpoint-{number}")
    field("config.json", rope_theta=1.0)(tmp_path / "run" / "checkpoint-1000")
    newest, other = (fingerprint_parts(str(tmp_path / "run" / f"checkpoint-{number}")) for number in (1000, 900))
    assert fingerprint_parts(str(tmp_path / "run")) == newest != other


def hub_cache(folder, commits):
    """The cache of the hub with a model at some commits, of which the first is `main`."""
    model = folder / "models--someone--policy"
    for commit, source in commits.items():
        shutil.copytree(source, model / "snapshots" / commit)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(next(iter(commits)))


def test_a_hub_name_is_what_the_cache_holds_under_it(sources, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert fingerprint_parts("someone/policy") == {"hub name": "someone/policy, not in the cache"}
    weights = load_file(shard(copy / "base", 0))
    save_file({name: value + 1 for name, value in weights.items()}, shard(copy / "base", 0))
    hub_cache(tmp_path / "hub", {"a" * 40: sources / "base", "b" * 40: copy / "base"})
    assert fingerprint_parts("someone/policy") == fingerprint_parts(str(sources / "base"))
    (tmp_path / "hub" / "models--someone--policy" / "refs" / "main").write_text("b" * 40)
    assert fingerprint_parts("someone/policy") == fingerprint_parts(str(copy / "base")) != fingerprint_parts(str(sources / "base"))


def test_a_missing_file_is_named(copy):
    missing = shard(copy / "base", 1)
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing.name} is missing, which model.safetensors.index.json names"):
        fingerprint_parts(str(copy / "base"))
    (copy / "adapters" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors cannot be read"):
        fingerprint_parts(str(copy / "adapters"))
    with pytest.raises(OSError, match="nowhere"):
        fingerprint_parts(os.fspath(copy / "nowhere"))
