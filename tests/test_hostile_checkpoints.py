"""Checkpoints may come from anywhere: their code never runs, nothing outside their folder is read, what is mangled is one line."""

import json
import os
import random
import shutil
import subprocess
import sys
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmpo_ref.cli import main
from dmpo_ref.config import ModelConfig
from dmpo_ref.models.loading import load_policy, read_config
from dmpo_ref.runtime.export import export
from dmpo_ref.tasks.encoding import chat_text
from tests.helpers import save_adapters
from toy.small_llada import make_checkpoint

CPU = torch.device("cpu")
SMALL = ("sampler.response_length=8", "sampler.block_length=8", "sampler.steps=8", "evaluation.sampler.response_length=8",
         "evaluation.sampler.block_length=8", "evaluation.sampler.steps=8", "evaluation.num_items=2", "train.rounds=1",
         "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "device=cpu", "threads=1")  # fmt: skip
PAYLOAD = """
import pathlib
pathlib.Path({marker!r}).write_text("run")
class Tokenizer: pass
class Config: pass
class Model: pass
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with a sound checkpoint and adapters on it, which name it by a relative path."""
    folder = tmp_path_factory.mktemp("sources")
    make_checkpoint(folder / "model", d_model=16, n_heads=2)
    save_adapters(folder / "model", folder / "adapters")
    edit("adapter_config.json", base_model_name_or_path="../model")(folder / "adapters")
    return folder


@pytest.fixture
def folder(sources, tmp_path, monkeypatch):
    """A copy to be damaged, in the working directory."""
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(name, **fields):
    """Fields of a JSON file set."""

    def damage(folder):
        file = folder / name
        file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | fields))

    return damage


def write(name, text):
    def damage(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(text)

    return damage


def as_type(dtype, *names):
    """The weights of these files, or of all, as numbers of another type."""

    def damage(folder):
        for file in [folder / name for name in names] or folder.glob("*.safetensors"):
            save_file({name: weight.to(dtype) for name, weight in load_file(file).items()}, file, {"format": "pt"})

    return damage


def fill(value):
    """One number of the adapters replaced."""

    def damage(folder):
        weights = load_file(folder / "adapter_model.safetensors")
        weights[min(weights)].view(-1)[0] = value
        save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})

    return damage


def loop(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(name)

    return damage


AUTO_MAPS = {
    "unknown tokenizer": {"tokenizer_config.json": {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["code.Tokenizer"] * 2}}},
    "unknown tokenizer, older form": {"tokenizer_config.json": {"tokenizer_class": "Mine", "auto_map": ["code.Tokenizer"] * 2}},
    "unknown slow tokenizer": {"tokenizer_config.json": {"tokenizer_class": "My", "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}},
    "no tokenizer class": {"tokenizer_config.json": {"tokenizer_class": None, "auto_map": {"AutoTokenizer": ["code.Tokenizer"] * 2}}},
    "unknown model": {"config.json": {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}},
    "no model type": {"config.json": {"model_type": None, "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}},
}  # fmt: skip
COMMANDS = {
    "sample": ("sample", "llada_sudoku", "model.path={}", *SMALL),
    "evaluate": ("evaluate", "llada_sudoku", "model.path={}", *SMALL, "--output", "results"),
    "train": ("train", "llada_sudoku", "model.path={}", "output=run", *SMALL),
    "export": ("export", "{}", "out"),
}


@pytest.mark.parametrize("where", ["model", "adapters"])
@pytest.mark.parametrize("kind", AUTO_MAPS)
@pytest.mark.parametrize("command", COMMANDS)
def test_code_of_a_checkpoint_is_refused_without_a_question(folder, monkeypatch, capfd, command, kind, where):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("was asked whether to run remote code"))
    for name, fields in AUTO_MAPS[kind].items():
        # The tokenizer is that of the adapters, the config that of their base.
        target = folder / (where if name == "tokenizer_config.json" else "model")
        edit(name, **fields)(target)
        (target / "code.py").write_text(PAYLOAD.format(marker=str(folder / "marker")))
    if command == "train":
        where = "model"
        if target.name == "adapters":
            pytest.skip("a run does not start from adapters")
    assert main([word.format(where) for word in COMMANDS[command]]) == 2
    error = capfd.readouterr().err
    assert error.startswith("dmpo: ") and error.count("\n") == 1
    assert not (folder / "marker").exists()
    assert not (folder / "out").exists() and not (folder / "run").exists() and not (folder / "results").exists()


@pytest.mark.parametrize("command", ["sample", "export"])
def test_a_yes_on_standard_input_runs_nothing(folder, command):
    edit("tokenizer_config.json", **AUTO_MAPS["unknown tokenizer"]["tokenizer_config.json"])(folder / "model")
    (folder / "model" / "code.py").write_text(PAYLOAD.format(marker=str(folder / "marker")))
    words = [word.format("model") for word in COMMANDS[command]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-m", "dmpo_ref", *words], input="y\ny\ny\n", capture_output=True, text=True, env=environment)
    assert (done.returncode, (folder / "marker").exists()) == (2, False)
    assert "the tokenizer cannot be read (code of a checkpoint is never run)" in done.stderr and done.stderr.count("\n") == 1


def test_a_known_tokenizer_needs_no_code_even_if_there_is_some(folder):
    edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]})(folder / "model")
    (folder / "model" / "code.py").write_text(PAYLOAD.format(marker=str(folder / "marker")))
    assert main(["export", "model", "out"]) == 0
    assert not (folder / "marker").exists()
    assert "auto_map" not in json.loads((folder / "out" / "tokenizer_config.json").read_text())


def test_adapters_name_no_module_to_import(folder, capfd):
    edit("adapter_config.json", megatron_config={"a": 1}, megatron_core="payload")(folder / "adapters")
    (folder / "payload.py").write_text(PAYLOAD.format(marker=str(folder / "marker")))
    assert main(["export", "adapters", "out"]) == 2
    assert "megatron_config is not implemented" in capfd.readouterr().err
    assert not (folder / "marker").exists()


def test_the_model_asks_the_hub_for_no_kernels(folder):
    name = "kernels-community/flash-attn"
    edit("config.json", attn_implementation=name, _attn_implementation=name)(folder / "model")
    model, _ = load_policy(ModelConfig(path="model"), CPU)
    assert model.config._attn_implementation == "sdpa"


DEEP = "[" * 100_000 + "]" * 100_000
INDEX = "model.safetensors.index.json"


def renamed_shards(name):
    """The index names other files."""

    def damage(folder):
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] = dict.fromkeys(index["weight_map"], name)
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def outside(folder):
    """The weights lie beside the folder, and the index points there."""
    for number, shard in enumerate(sorted(folder.glob("*.safetensors"))):
        shutil.move(shard, folder.parent / f"{number}.safetensors")
    renamed_shards(str(folder.parent / "0.safetensors"))(folder)


def pickled(folder):
    weights = {name: value for shard in folder.glob("*.safetensors") for name, value in load_file(shard).items()}
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def without_mask(folder):
    """The tokenizer has lost its mask token, and the tokens after it have moved up."""
    words = json.loads((folder / "tokenizer.json").read_text())
    mask = next(token for token in words["added_tokens"] if token["content"] == "<|mdm_mask|>")
    words["added_tokens"] = [token for token in words["added_tokens"] if token is not mask]
    vocabulary = words["model"]["vocab"]
    vocabulary.pop("<|mdm_mask|>", None)
    for token in words["added_tokens"]:
        token["id"] -= token["id"] > mask["id"]
    words["model"]["vocab"] = {word: number - (number > mask["id"]) for word, number in vocabulary.items()}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    fields.pop("added_tokens_decoder")
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


MANGLED = {
    "scaled rotation": (edit("config.json", rope_scaling={"rope_type": "linear", "factor": 8.0}), "rope_scaling={"),
    "scaled rotation, release 5": (edit("config.json", rope_parameters={"rope_type": "yarn"}), "rope_parameters={'rope_type'"),
    "weights of int8": (as_type(torch.int8), "holds I8 numbers; weights must be among F64, F32, F16, BF16, not quantised"),
    "weights of truth values": (as_type(torch.bool), "holds BOOL numbers"),
    "template empty": (write("chat_template.jinja", ""), "it leaves out the message"),
    "template without the question": (write("chat_template.jinja", "{{ bos_token }}user"), "it leaves out the message"),
    "no tokenizer": (lambda folder: [file.unlink() for file in folder.glob("*token*")], "no tokenizer there; tokenizer.json and"),
    "config: a list": (write("config.json", "[1, 2]"), "config.json holds a list, not an object"),
    "config: a number": (write("config.json", "5"), "config.json holds a int, not an object"),
    "config: empty": (write("config.json", ""), "config.json is not valid JSON"),
    "config: no text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00{"), "config.json is not valid JSON"),
    "config: deep": (write("config.json", DEEP), "config.json is not valid JSON"),
    "config: deep object": (write("config.json", '{"a":' * 100_000 + "1" + "}" * 100_000), "config.json is not valid JSON"),
    "config: a loop of links": (loop("config.json"), "no checkpoint there"),
    "config: a folder": (lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()), "no checkpoint there"),
    "d_model text": (edit("config.json", d_model="x"), "d_model"),
    "d_model 1e11": (edit("config.json", d_model=10**11), "d_model=100000000000"),
    "d_model null": (edit("config.json", d_model=None), "d_model"),
    "n_heads 0": (edit("config.json", n_heads=0), "n_heads=0"),
    "n_heads negative": (edit("config.json", n_heads=-2), "n_heads=-2"),
    "n_layers fraction": (edit("config.json", n_layers=1.5), "n_layers=1.5"),
    "n_layers bool": (edit("config.json", n_layers=True), "n_layers=True"),
    "n_layers list": (edit("config.json", n_layers=[2]), "n_layers=[2]"),
    "n_layers 1e11": (edit("config.json", n_layers=10**11), "n_layers=100000000000"),
    "vocab_size negative": (edit("config.json", vocab_size=-1), "vocab_size=-1"),
    "max_sequence_length text": (edit("config.json", max_sequence_length="many"), "max_sequence_length='many'"),
    "rope_theta text": (edit("config.json", rope_theta="x"), "rope_theta='x'"),
    "rope_theta NaN": (edit("config.json", rope_theta=float("nan")), "rope_theta=nan"),
    "rope_theta 0": (edit("config.json", rope_theta=0), "rope_theta=0"),
    "a number of 400 digits": (edit("config.json", rope_theta=10**400), "rope_theta=1000"),
    "rope text": (edit("config.json", rope="yes"), "rope='yes'"),
    "rms_norm_eps null": (edit("config.json", rms_norm_eps=None), "rms_norm_eps=None"),
    "mask_token_id text": (edit("config.json", mask_token_id="a"), "mask_token_id='a'"),
    "mask_token_id negative": (edit("config.json", mask_token_id=-1), "mask_token_id=-1"),
    "mask_token_id too large": (edit("config.json", mask_token_id=10**30), "mask_token_id="),
    "a long value": (edit("config.json", d_model="x" * 10**6), "d_model"),
    "dtype unknown": (edit("config.json", torch_dtype="float99"), "float99"),
    "dtype evil": (edit("config.json", dtype="evil", torch_dtype=None), "evil"),
    "dtype a function of torch": (edit("config.json", torch_dtype="load"), "load"),
    "dtype a number": (edit("config.json", torch_dtype=5), "5"),
    "quantised": (edit("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), "quantization_config"),
    "quantised by 5": (edit("config.json", quantization_config=5), "quantization_config"),
    "weights elsewhere": (edit("config.json", transformers_weights="../model/other.safetensors"), "transformers_weights"),
    "a method overwritten": (edit("config.json", to_diff_dict=5), "'to_diff_dict' is no name of a field"),
    "index: a list": (write(INDEX, "[]"), f"{INDEX} holds a list, not an object"),
    "index: deep": (write(INDEX, DEEP), f"{INDEX} is not valid JSON"),
    "index: no weight_map": (write(INDEX, '{"metadata": {}}'), f"{INDEX} has no weight_map"),
    "index: weight_map a list": (write(INDEX, '{"weight_map": ["a"]}'), f"{INDEX} has no weight_map"),
    "index: an empty weight_map": (write(INDEX, '{"weight_map": {}}'), f"{INDEX} has no weight_map"),
    "index: a number": (renamed_shards(5), "is not the name of a safetensors file in this folder"),
    "index: an absolute path": (outside, "is not the name of a safetensors file in this folder"),
    "index: a path upwards": (renamed_shards("../0.safetensors"), "is not the name of a safetensors file in this folder"),
    "index: a pickle": (renamed_shards("pytorch_model.bin"), "is not the name of a safetensors file in this folder"),
    "index: a missing file": (renamed_shards("gone.safetensors"), "gone.safetensors is missing"),
    "weights: a pickle": (pickled, "no file named model.safetensors"),
    "weights: a folder": (lambda folder: (pickled(folder), (folder / "model.safetensors").mkdir()), "no file named model.safetensors"),
    "weights: a long header": (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 7 + b"\x10{}"), "damaged or cut off"),
    "tokenizer_config: a list": (write("tokenizer_config.json", "[]"), "tokenizer_config.json holds a list, not an object"),
    "tokenizer_config: deep": (write("tokenizer_config.json", DEEP), "tokenizer_config.json is not valid JSON"),
    "tokenizer_config: class a number": (edit("tokenizer_config.json", tokenizer_class=5), "the tokenizer cannot be read"),
    "tokenizer_config: auto_map a number": (edit("tokenizer_config.json", auto_map=5), "the tokenizer cannot be read"),
    "model_max_length text": (edit("tokenizer_config.json", model_max_length="x"), "the tokenizer cannot be read"),
    "eos_token a number": (edit("tokenizer_config.json", eos_token=5), "the tokenizer cannot be read"),
    "added tokens a number": (edit("tokenizer_config.json", added_tokens_decoder=5), "the tokenizer cannot be read"),
    "special tokens map: a list": (write("special_tokens_map.json", "[]"), "special_tokens_map.json holds a list, not an object"),
    "tokenizer: a list": (write("tokenizer.json", "[]"), "the tokenizer cannot be read"),
    "tokenizer: deep": (write("tokenizer.json", DEEP), "the tokenizer cannot be read"),
    "tokenizer: deep object": (write("tokenizer.json", '{"a":' * 100_000 + "1" + "}" * 100_000), "the tokenizer cannot be read"),
    "tokenizer: a loop of links": (loop("tokenizer.json"), "tokenizer"),
    "tokenizer lost its mask": (without_mask, "mask_token"),
    "mask token of another id": (edit("tokenizer_config.json", mask_token="<|eot_id|>"), "the mask_token of the tokenizer is '<|eot_id|>'"),
    "mask token unknown": (edit("tokenizer_config.json", mask_token="<mask>"), "the mask_token of the tokenizer is '<mask>'"),
    "template: no end": (edit("tokenizer_config.json", chat_template="{% for"), "chat template"),
    "template: 1/0": (edit("tokenizer_config.json", chat_template="{{ 1/0 }}"), "chat template"),
    "template: a number": (edit("tokenizer_config.json", chat_template=5), "chat template"),
    "template: a list": (edit("tokenizer_config.json", chat_template=[1]), "t"),
    "template: raises": (edit("tokenizer_config.json", chat_template="{{ raise_exception('x') }}"), "chat template"),
    "template: out of the sandbox": (edit("tokenizer_config.json", chat_template="{{ ''.__class__.__mro__ }}"), "chat template"),
    "template: a file": (write("chat_template.jinja", "{{ cycler.__init__.__globals__.os }}"), "chat template"),
}  # fmt: skip


@pytest.mark.parametrize("damage", MANGLED)
def test_a_mangled_checkpoint_is_one_line(folder, monkeypatch, capfd, damage):
    change, message = MANGLED[damage]
    change(folder / "model")
    assert main([word.format("model") for word in COMMANDS["sample"]]) == 2
    error = capfd.readouterr().err
    assert error.startswith("dmpo: ") and error.count("\n") == 1 and len(error) < 700, error[:3000]
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_a_rotation_that_is_not_scaled_may_be_said(folder, name):
    edit("config.json", **{name: {"rope_type": "default"}})(folder / "model")
    load_policy(ModelConfig(path="model"), CPU)


ADAPTERS = {
    "a list": (write("adapter_config.json", "[]"), "adapter_config.json holds a list, not an object"),
    "deep": (write("adapter_config.json", DEEP), "adapter_config.json is not valid JSON"),
    "a loop of links": (loop("adapter_config.json"), "no checkpoint there"),
    "peft_type unknown": (edit("adapter_config.json", peft_type="MINE"), "peft_type='MINE' is not implemented; only 'LORA' is"),
    "peft_type of another kind": (edit("adapter_config.json", peft_type="PREFIX_TUNING"), "peft_type='PREFIX_TUNING'"),
    "peft_type missing": (edit("adapter_config.json", peft_type=None), "peft_type=None"),
    "peft_type an object": (edit("adapter_config.json", peft_type={"a": 1}), "peft_type={'a': 1}"),
    "base a number": (edit("adapter_config.json", base_model_name_or_path=5), "does not name the model"),
    "base of 5,000 letters": (edit("adapter_config.json", base_model_name_or_path="x" * 5000), "adapter_config.json: base_model_name_or"),
    "base of itself": (edit("adapter_config.json", base_model_name_or_path="../adapters"), "no checkpoint is there"),
    "rank text": (edit("adapter_config.json", r="x"), "r='x'"),
    "rank 0": (edit("adapter_config.json", r=0), "r=0"),
    "rank 1e11": (edit("adapter_config.json", r=10**11), "r=100000000000"),
    "another rank": (edit("adapter_config.json", r=3), "the adapters do not fit their base"),
    "alpha 0": (edit("adapter_config.json", lora_alpha=0), "lora_alpha=0 must be a number other than 0, of at most 1e+06"),
    "alpha 1e299": (edit("adapter_config.json", lora_alpha=1e299), "lora_alpha=1e+299 must be a number other than 0, of at most 1e+06"),
    "alpha of a layer NaN": (edit("adapter_config.json", alpha_pattern={"q_proj": float("nan")}), "alpha_pattern, q_proj=nan must be"),
    "alpha of a layer 0": (edit("adapter_config.json", alpha_pattern={"q_proj": 0}), "alpha_pattern, q_proj=0 must be"),
    "alpha of layers a list": (edit("adapter_config.json", alpha_pattern=[1]), "alpha_pattern=[1] is not an object"),
    "rank of a layer 0": (edit("adapter_config.json", rank_pattern={"q_proj": 0}), "rank_pattern, q_proj=0 is not the rank"),
    "not finite": (fill(float("inf")), "are not finite, so nothing is written"),
    "integers": (as_type(torch.int16, "adapter_model.safetensors"), "holds I16 numbers"),
    "alpha text": (edit("adapter_config.json", lora_alpha="x"), "lora_alpha='x'"),
    "alpha NaN": (edit("adapter_config.json", lora_alpha=float("nan")), "lora_alpha=nan"),
    "alpha of 400 digits": (edit("adapter_config.json", lora_alpha=10**400), "lora_alpha=1000"),
    "biases": (edit("adapter_config.json", lora_bias=True), "the adapters do not fit their base"),
    "targets a number": (edit("adapter_config.json", target_modules=5), "the adapters cannot be put on their base"),
    "targets of another model": (edit("adapter_config.json", target_modules=["gate"]), "the adapters cannot be put on their base"),
    "weights empty": (write("adapter_model.safetensors", ""), "damaged or cut off"),
    "weights: none": (lambda folder: save_file({}, folder / "adapter_model.safetensors"), "not the rank"),
}  # fmt: skip


@pytest.mark.parametrize("damage", ADAPTERS)
def test_mangled_adapters_are_one_line(folder, capfd, recwarn, damage):
    change, message = ADAPTERS[damage]
    change(folder / "adapters")
    assert main(["export", "adapters", "out", "--merge"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("dmpo: ") and error.count("\n") == 1 and len(error) < 700, error[:3000]
    assert message in error and not recwarn.list  # a warning is a line of its own
    assert not (folder / "out").exists()


JUNK = (None, True, 0, -1, 5, 10**12, 10**400, 1.5, float("nan"), float("inf"), "", "x", "x" * 3000, "\0", "\x1b[31m", [], [1], ["x"], {},
        {"a": 1}, {"": {"": []}})  # fmt: skip
JSON_FILES = {"config.json": "model", INDEX: "model", "tokenizer_config.json": "model", "adapter_config.json": "adapters"}


@pytest.mark.parametrize("share", [0.08, pytest.param(1.0, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", JSON_FILES)
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(folder, name, share):
    """What is taken must also load, ask, answer and be written; a share of all fields and values, or all of them."""
    where = folder / JSON_FILES[name]
    sound = (where / name).read_text()
    fields = json.loads(sound)
    chosen = random.Random(0)
    for field, value in product([*fields, "another"], JUNK):
        if chosen.random() >= share:
            continue
        (where / name).write_text(json.dumps(fields | {field: value}))
        try:
            model, tokenizer = load_policy(ModelConfig(path=str(where)), CPU)
            tokens = tokenizer(chat_text(tokenizer, [{"role": "user", "content": "1+1"}]), add_special_tokens=False, return_tensors="pt")
            with torch.no_grad():
                model(input_ids=tokens.input_ids % 400)
            export(where, folder / "out", merge=False)
            shutil.rmtree(folder / "out")
        except (ValueError, OSError) as error:
            assert "\n" not in str(error) and 10 < len(str(error)) < 900, (field, value, str(error))
        (where / name).write_text(sound)


@pytest.mark.parametrize("problem", ["can't start new thread", "something of which nothing is known"])
def test_a_cause_is_named_only_if_it_is_known(folder, monkeypatch, problem):
    def fail(*_, **__):
        raise RuntimeError(problem)

    monkeypatch.setattr("dmpo_ref.models.loading.LLaDAModelLM.from_pretrained", fail)
    with pytest.raises(ValueError, match=f"^model.path=model: the model cannot be loaded: {problem}$"):
        load_policy(ModelConfig(path="model"), CPU)


def test_memory_that_runs_out_is_not_the_fault_of_the_checkpoint(folder, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("dmpo_ref.models.loading.LLaDAModelLM.from_pretrained", fail)
    with pytest.raises(torch.OutOfMemoryError):
        load_policy(ModelConfig(path="model"), CPU)


def test_a_sound_config_is_read_as_it_is(folder):
    assert read_config("model").d_model == 16
