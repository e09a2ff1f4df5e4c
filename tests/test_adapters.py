"""Adapters on disk: whatever they were made for, wherever their base is now, they fit exactly or not at all."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmpo_ref.cli import main
from dmpo_ref.config import ModelConfig
from dmpo_ref.models.loading import load_policy
from dmpo_ref.presets.loading import load_config
from dmpo_ref.train import train
from tests.helpers import save_adapters
from toy.small_llada import make_checkpoint

CPU = torch.device("cpu")
RANK, ALPHA = 2, 6.0
SMALL = ("sampler.response_length=8", "sampler.block_length=8", "sampler.steps=8", "evaluation.sampler.response_length=8",
         "evaluation.sampler.block_length=8", "evaluation.sampler.steps=8", "evaluation.num_items=2", "train.rounds=2",
         "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "train.checkpoint_every=1", "device=cpu",
         "threads=1")  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A base, and adapters on it that change its answers, with an absolute path as PEFT writes it."""
    folder = tmp_path_factory.mktemp("sources")
    make_checkpoint(folder / "base", d_model=16, n_heads=2)

    def stir(name, weight):
        weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))

    save_adapters(folder / "base", folder / "adapters", stir, lora_rank=RANK, lora_alpha=ALPHA)
    return folder


@pytest.fixture
def folder(sources, tmp_path, monkeypatch):
    """A copy of the adapters, beside the base of which they do not know."""
    shutil.copytree(sources / "adapters", tmp_path / "adapters")
    shutil.copytree(sources / "base", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def rewrite(folder, change):
    """Other names and weights in the file of the adapters: name, weight → a list of them."""
    file = folder / "adapter_model.safetensors"
    save_file({new: value for name, weight in load_file(file).items() for new, value in change(name, weight)}, file)


@torch.no_grad()
def logits(path, **options):
    model, _ = load_policy(ModelConfig(path=str(path)), CPU, **options)
    return model(input_ids=torch.arange(40).reshape(2, 20)).logits


@torch.no_grad()
def by_hand(base, adapters):
    """Logits with W + (α/r) B A in place of W, worked out from the stored adapters."""
    model, _ = load_policy(ModelConfig(path=str(base)), CPU)
    weights, given = dict(model.named_parameters()), load_file(adapters / "adapter_model.safetensors")
    for name in [name for name in given if name.endswith("lora_A.weight")]:
        key = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        weights[key] += ALPHA / RANK * given[name.replace("lora_A", "lora_B")] @ given[name]
    return model(input_ids=torch.arange(40).reshape(2, 20)).logits


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", None])
def test_adapters_of_any_task_type_give_the_same_numbers(sources, folder, task_type):
    settings(folder / "adapters", task_type=task_type, inference_mode=False, auto_mapping=None)
    torch.testing.assert_close(logits(folder / "adapters"), by_hand(folder / "base", folder / "adapters"), rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(folder / "adapters"), logits(sources / "adapters"))


def test_adapters_as_the_official_code_makes_them_work_everywhere(folder, capsys):
    """Targets of another architecture too, half of which this model has, and no dropout or bias said."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
    rewrite(folder / "adapters", lambda name, weight: [(name, weight)] if name.split(".")[-3] in targets else [])
    settings(folder / "adapters", task_type="CAUSAL_LM", target_modules=targets, base_model_name_or_path=str(folder / "base"))
    expected = by_hand(folder / "base", folder / "adapters")
    torch.testing.assert_close(logits(folder / "adapters"), expected, rtol=1e-4, atol=1e-5)
    assert main(["export", "adapters", "copied"]) == 0
    assert json.loads((folder / "copied" / "adapter_config.json").read_text())["task_type"] is None
    assert torch.equal(logits(folder / "copied"), logits(folder / "adapters"))
    assert main(["export", "adapters", "merged", "--merge"]) == 0
    # Merged weights are bfloat16, as the base is.
    torch.testing.assert_close(logits(folder / "merged"), expected, rtol=0.1, atol=0.1 * expected.std().item())
    assert (logits(folder / "base") - expected).abs().max() > 10 * (logits(folder / "merged") - expected).abs().max()
    assert main(["sample", "llada_sudoku", "model.path=adapters", *SMALL]) == 0
    assert main(["evaluate", "llada_sudoku", "model.path=adapters", *SMALL, "--output", "results"]) == 0


@pytest.mark.parametrize(
    "change", [{"task_type": "CAUSAL_LM"}, {"base_model_name_or_path": "/gone/base"}], ids=lambda change: next(iter(change))
)
def test_a_run_resumes_from_adapters_of_another_task_and_with_the_base_that_the_config_names(folder, change):
    words = ("model.path=base", "model.lora_rank=2", "model.dtype=float32", *SMALL)
    whole = train(load_config("llada_sudoku", *words, "output=whole"))
    train(load_config("llada_sudoku", *words, "output=run", "train.rounds=1"))
    settings(folder / "run" / "checkpoint-000001", **change)
    (folder / "run" / "checkpoint-000001" / "digests.json").unlink()  # changed on purpose
    resumed = train(load_config("llada_sudoku", *words, "output=run"), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True))


def other_number(folder):
    """Half added to one number of the first file of weights."""
    file = min(folder.glob("*.safetensors"))
    weights = load_file(file)
    weights[min(weights)].view(-1)[0] += 0.5
    save_file(weights, file, {"format": "pt"})


def test_adapters_know_their_base_by_its_contents_wherever_it_is(folder, capfd):
    assert main(["train", "llada_sudoku", "model.path=base", "model.lora_rank=2", "output=run", *SMALL]) == 0
    assert main(["export", "run", "exported"]) == 0
    shutil.copytree(folder / "base", folder / "moved")
    other_number(folder / "base")
    for source in ("run", "exported"):
        for command in (
            ("export", source, "out", "--merge"),
            ("export", source, "out"),
            ("evaluate", "llada_sudoku", f"model.path={source}", *SMALL, "--output", "out"),
            ("sample", "llada_sudoku", f"model.path={source}", *SMALL),
        ):
            capfd.readouterr()
            assert main([*command]) == 2
            error = capfd.readouterr().err
            assert error.count("\n") == 1 and f"{folder / 'base'} are not those that these adapters were trained on; put that base" in error
            assert not (folder / "out").exists()
    for source in ("run/checkpoint-000002", "exported"):
        settings(folder / source, base_model_name_or_path=str(folder / "moved"))
        assert main(["export", source, f"{source}-out", "--merge"]) == 0
        settings(folder / source, base_model_name_or_path=str(folder / "base"))
        for name in ("checkpoint.json", "digests.json"):  # as an earlier version wrote them
            (folder / source / name).unlink(missing_ok=True)
        assert main(["export", source, f"{source}-again", "--merge"]) == 0


FIRST = "base_model.model.model.transformer.blocks.0.attn_out.lora_A.weight"
MISFITS = {
    "no key fits": (lambda name, weight: [(name.replace("blocks", "layers"), weight)], "missing keys in the weights, first"),
    "an older prefix": (lambda name, weight: [(name.removeprefix("base_model.model."), weight)], "missing keys in the weights, first"),
    "one key is missing": (lambda name, weight: [] if name == FIRST else [(name, weight)], f"missing keys in the weights, first {FIRST}"),
    "one key is another": (
        lambda name, weight: [(name.replace("blocks.0.q_proj", "blocks.9.q_proj"), weight)], "missing keys in the weights, first"
    ),
    "one key too many": (
        lambda name, weight: [(name, weight), (name.replace("blocks.0", "blocks.9"), weight.clone())], "unexpected keys in the weights"
    ),
    "half of the blocks": (lambda name, weight: [(name, weight)] if "blocks.0" in name else [], "missing keys in the weights, first"),
    "another width": (lambda name, weight: [(name, weight[:, :1].contiguous())], "mismatched keys in the weights, first"),
    "nothing at all": (lambda name, weight: [], "r=2 is not the rank of these adapters"),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("command", [("export", "adapters", "out"), ("export", "adapters", "out", "--merge"),
                                     ("evaluate", "llada_sudoku", "model.path=adapters", *SMALL, "--output", "out"),
                                     ("sample", "llada_sudoku", "model.path=adapters", *SMALL)], ids=" ".join)  # fmt: skip
def test_adapters_that_do_not_fit_exactly_are_refused(folder, capfd, misfit, command):
    change, message = MISFITS[misfit]
    rewrite(folder / "adapters", change)
    assert main([*command]) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_base_that_moved_is_named_with_the_file_to_mend(folder, capfd):
    settings(folder / "adapters", base_model_name_or_path="/gone/base")
    for command in (("sample", "llada_sudoku", "model.path=adapters", *SMALL), ("export", "adapters", "out", "--merge")):
        assert main([*command]) == 2
        error = capfd.readouterr().err
        assert "adapters/adapter_config.json names the base /gone/base, and no checkpoint is there" in error
        assert "write into its base_model_name_or_path where it is now" in error and error.count("\n") == 1
    settings(folder / "adapters", base_model_name_or_path=str(folder / "base"))
    assert main(["export", "adapters", "out", "--merge"]) == 0


def test_a_relative_base_is_looked_for_from_the_adapters(sources, folder, monkeypatch):
    """Not from where the command runs, where another one has the same name."""
    make_checkpoint(folder / "elsewhere" / "base", d_model=16, n_heads=2, seed=1)
    make_checkpoint(folder / "elsewhere" / "work" / "base", d_model=16, n_heads=2, seed=2)
    monkeypatch.chdir(folder / "elsewhere" / "work")
    settings(folder / "adapters", base_model_name_or_path="../base")
    assert torch.equal(logits(folder / "adapters"), logits(sources / "adapters"))
    assert main(["export", str(folder / "adapters"), "out"]) == 0  # which lies elsewhere, and still finds it
    assert torch.equal(logits("out"), logits(sources / "adapters"))


def test_the_same_base_in_another_place_is_taken_if_the_caller_knows_it(sources, folder):
    settings(folder / "adapters", base_model_name_or_path="/gone/base")
    assert torch.equal(logits(folder / "adapters", base=str(folder / "base")), logits(sources / "adapters"))
    model, _ = load_policy(ModelConfig(path=str(folder / "adapters")), CPU, base=str(folder / "base"))
    model.save_pretrained(folder / "again")  # and a checkpoint from then on names that place
    assert json.loads((folder / "again" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder / "base")


def test_adapters_on_adapters_are_refused(folder, capfd):
    (folder / "adapters" / "config.json").write_text((folder / "base" / "config.json").read_text())
    shutil.copytree("adapters", "second")
    settings(folder / "second", base_model_name_or_path="../adapters")
    assert main(["export", "second", "out", "--merge"]) == 2
    assert "which holds adapters itself; merge those first" in capfd.readouterr().err


def test_adapters_without_a_tokenizer_speak_that_of_their_base(folder):
    for file in [*folder.glob("adapters/tokenizer*"), *folder.glob("adapters/*.jinja")]:
        file.unlink()
    _, tokenizer = load_policy(ModelConfig(path="adapters"), CPU, base="base")
    assert tokenizer.decode(tokenizer("12 naïve").input_ids) == "12 naïve" and tokenizer.mask_token == "<|mdm_mask|>"
