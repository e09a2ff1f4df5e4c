"""The text model's tokenizer, its lessons as sequences, its loss and its pre-training, which can be interrupted."""

from __future__ import annotations

import math
import pickle
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file

import toy.text_pretrain as text
from dmpo_ref import load_config, train
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.presets.loading import PRESETS
from dmpo_ref.tasks.encoding import answer_texts
from toy.options import PretrainConfig, TextPretrainConfig
from toy.reference import pretrain
from toy.small_llada import make_checkpoint
from toy.text_pretrain import STATE, TextRun, build_optimizers
from toy.text_reference import (
    KINDS,
    build_tasks,
    build_text_model,
    draw_lessons,
    lesson_loss,
    teach,
    train_tokenizer,
    wrap,
)

TASKS = build_tasks()
WORDS = train_tokenizer(TASKS)
TOKENIZER = wrap(WORDS)


def text_config(output, **options) -> TextPretrainConfig:
    return TextPretrainConfig(str(output), **{"steps": 21, "batch_size": 2, "save_every": 5, "threads": 1} | options)


def tiny(output, **options) -> TextPretrainConfig:
    return text_config(output, **{"width": 64, "layers": 1} | options)


def read_log(folder) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in text.read_lines(folder / text.LOG)]


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_the_tokenizer(words):
    assert TOKENIZER.decode(TOKENIZER(words, add_special_tokens=False).input_ids) == words


def test_each_pair_of_digits_is_one_token_and_no_token_is_longer():
    for number in range(100):
        assert len(TOKENIZER(f"{number:02d}", add_special_tokens=False).input_ids) == 1
    assert len(TOKENIZER("1234341241232341", add_special_tokens=False).input_ids) == 8
    assert not any(sum(sign in "0123456789" for sign in token) > 2 for token in TOKENIZER.get_vocab())


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesson_is_a_finished_sequence_with_end_tokens_after_the_answer(kind):
    lessons = draw_lessons(random.Random(0), kind, "pretrain", 5, 0.5)
    rollout = teach(TOKENIZER, TASKS[lessons[0].task], lessons, 32)
    assert answer_texts(TOKENIZER, rollout) == [[lesson.answer for lesson in lessons]]
    assert (rollout.response_mask.sum(dim=-1) == 32).all()
    prompts = [TOKENIZER.decode(row[keep]) for row, keep in zip(rollout.tokens[0], rollout.prompt_mask[0], strict=True)]
    assert all(prompt.endswith("assistant<|end_header_id|>\n\n<reasoning>\n") for prompt in prompts)
    assert (rollout.tokens[0, :, -1] == TOKENIZER.eos_token_id).all(), "32 tokens hold every answer and its end"


def test_an_answer_that_does_not_fit_is_refused():
    lessons = draw_lessons(random.Random(0), "sudoku", "pretrain", 1, 1.0)
    with pytest.raises(ValueError, match="does not fit response_length=8"):
        teach(TOKENIZER, TASKS["sudoku"], lessons, 8)


def test_the_loss_of_constant_logits_is_L_times_the_logarithm_of_the_allowed_tokens(tmp_path):
    """Whatever the mask: m hidden positions of −log 1/V each, times L/m."""
    model, _ = build_text_model(tiny(tmp_path), WORDS)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    vocabulary = build_vocabulary(TOKENIZER, model.config.embedding_size)
    rollout = teach(TOKENIZER, TASKS["countdown"], draw_lessons(random.Random(0), "countdown", "pretrain", 3, 0.5), 32)
    loss = lesson_loss(model, vocabulary, rollout, stream(0, "test"))
    assert loss.item() == pytest.approx(32 * math.log(len(TOKENIZER) - 1), rel=1e-6)


@contextmanager
def stopping_at(last: int):
    """Ctrl-C at a step of the pre-training in the block; the block must end by it."""
    take_step = TextRun.take_step

    def stop(run, step):
        if step == last:
            raise KeyboardInterrupt
        return take_step(run, step)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TextRun, "take_step", stop)
        yield


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_pretraining_goes_on_to_the_same_weights_and_log(tmp_path, optimizer):
    text.pretrain_text(tiny(tmp_path / "whole", optimizer=optimizer))
    with stopping_at(13):
        text.pretrain_text(tiny(tmp_path / "parts", optimizer=optimizer))
    with pytest.raises(ValueError, match="exists; give a folder that does not"):
        text.pretrain_text(tiny(tmp_path / "parts", optimizer=optimizer))
    with pytest.raises(ValueError, match=rf"careful_share was {TextPretrainConfig().careful_share} in .*parts; give the same"):
        text.pretrain_text(tiny(tmp_path / "parts", optimizer=optimizer, careful_share=0.5), resume=True)
    with (tmp_path / "parts" / text.LOG).open("a") as log:  # a kill between the log's line and the state
        log.write('{"step": 15, "nelbo/sudoku": 1.0, "seconds": 1.0}\n')
    text.pretrain_text(tiny(tmp_path / "parts", optimizer=optimizer), resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole) and whole
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")
    assert [line["step"] for line in read_log(tmp_path / "parts")] == [5, 10, 15, 20, 21]
    assert not (tmp_path / "parts" / STATE).exists()


def test_muon_takes_the_matrices_of_the_blocks_and_every_weight_is_taken_once(tmp_path):
    config = tiny(tmp_path, optimizer="muon")
    model, _ = build_text_model(config, WORDS)
    muon, adamw = build_optimizers(config, model)
    taken = [[id(weight) for group in optimizer.param_groups for weight in group["params"]] for optimizer in (muon, adamw)]
    assert sorted(taken[0] + taken[1]) == sorted(map(id, model.parameters()))
    layers = {name.split(".")[-2] for name, weight in model.named_parameters() if id(weight) in taken[0]}
    assert layers == {"q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"} and len(taken[0]) == 7
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(ValueError, match="there is nothing to resume; start without --resume"):
        text.pretrain_text(tiny(tmp_path / "none"), resume=True)
    assert not (tmp_path / "none").exists()


def test_the_last_part_of_the_steps_is_careless(tmp_path, monkeypatch):
    """Before step 18 of 24 careful answers have a share of 0.9, from there on of 0.25."""
    shares: list[float] = []

    def see(rng, task, split, count, careful_share):
        if count > 1:  # the tokenizer asks for lessons one at a time
            shares.append(careful_share)
        assert split == "pretrain"
        return draw_lessons(rng, task, split, count, careful_share)

    monkeypatch.setattr(text, "draw_lessons", see)
    text.pretrain_text(tiny(tmp_path / "run", steps=24, careless_part=0.25, careful_share=0.25))
    assert shares == [0.9] * 18 + [0.25] * 6


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    save, seen = torch.save, []

    def full_the_second_time(state, path):
        seen.append(state["step"])
        save(state, path)
        if len(seen) == 2:
            raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed\nand more")

    monkeypatch.setattr(torch, "save", full_the_second_time)
    with pytest.raises(OSError, match=r"training.pt cannot be written: .*file write failed.*; make space, then go on with --resume$"):
        text.pretrain_text(tiny(tmp_path / "run"))
    assert torch.load(tmp_path / "run" / STATE, weights_only=True)["step"] == 5
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [text.LOG, STATE]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A pre-training with its state after step 10 of 21; the parts of that state."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    with stopping_at(13):
        text.pretrain_text(tiny(output))
    return output, torch.load(output / STATE, weights_only=True)


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


STATES = {
    "cut off": lambda file, state: file.write_bytes(file.read_bytes()[:-200]),
    "empty": lambda file, state: file.write_bytes(b""),
    "text": lambda file, state: file.write_text("hello"),
    "one byte": lambda file, state: flipped(file),
    "another pickle": lambda file, state: file.write_bytes(pickle.dumps(Path("x"))),
    "another dictionary": lambda file, state: torch.save({"a": 1}, file),
    "no schedule": lambda file, state: torch.save({name: part for name, part in state.items() if name != "schedules"}, file),
    "no schedule in the list": lambda file, state: torch.save(state | {"schedules": []}, file),
    "an earlier step": lambda file, state: torch.save(state | {"step": 5}, file),
    "a step that is no number": lambda file, state: torch.save(state | {"step": "x"}, file),
    "no moments": lambda file, state: torch.save(state | {"optimizers": [state["optimizers"][0] | {"state": {}}]}, file),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_damaged_state_is_one_line(stopped, tmp_path, kind):
    shutil.copytree(stopped[0], tmp_path / "run")
    STATES[kind](tmp_path / "run" / STATE, stopped[1])
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="training.pt is damaged: .*; put a copy of it back, or start again elsewhere$") as caught:
        text.pretrain_text(tiny(tmp_path / "run"), resume=True)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_state_of_a_version_without_start_is_told_so(stopped, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "run")
    options = {name: value for name, value in stopped[1]["options"].items() if name not in ("start", "lessons", "optimizer")}
    torch.save(stopped[1] | {"options": options}, tmp_path / "run" / STATE)
    with pytest.raises(ValueError, match="start was not yet an option .before version 0.10.0. in .*run; give the same, or another output$"):
        text.pretrain_text(tiny(tmp_path / "run"), resume=True)


@pytest.mark.parametrize("log", [None, "", "x\n", "[1]\n", '{"a": 1}\n', '{"step": "x"}\n', '{"step": 5}\n'])
def test_a_log_that_is_not_of_the_steps_done_is_one_line(stopped, tmp_path, log):
    shutil.copytree(stopped[0], tmp_path / "run")
    file = tmp_path / "run" / text.LOG
    file.unlink() if log is None else file.write_text(log)
    with pytest.raises(ValueError, match="log.jsonl is not the log of the 10 steps done; put that back, or start again elsewhere$"):
        text.pretrain_text(tiny(tmp_path / "run"), resume=True)
    assert (file.read_text() if file.exists() else None) == log


def full_disk(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_at_the_end_leaves_the_state_to_go_on_from(stopped, tmp_path, monkeypatch):
    shutil.copytree(stopped[0], tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("transformers.modeling_utils.safe_save_file", full_disk)
        with pytest.raises(OSError, match="cannot be written: .*No space left on device .*, then go on with --resume$"):
            text.pretrain_text(tiny(tmp_path / "run"), resume=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [text.LOG, STATE]
    (tmp_path / "run" / "checkpoint").mkdir()  # a kill between the checkpoint and its place
    (tmp_path / "run" / "checkpoint" / "config.json").write_text("{}")
    text.pretrain_text(tiny(tmp_path / "run"), resume=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {text.LOG, "config.json", "model.safetensors", "tokenizer.json"}
    assert not (tmp_path / "run" / "checkpoint").exists() and not (tmp_path / "run" / STATE).exists()


def test_a_full_disk_under_the_grid_policy_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full_disk)
    with pytest.raises(OSError, match=r"grid cannot be written: .*No space left .*, then repeat the command$"):
        pretrain(PretrainConfig(output=str(tmp_path / "grid"), steps=21, batch_size=2, width=8, layers=1))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return text.pretrain_text(tiny(tmp_path_factory.mktemp("text") / "model"))


@pytest.mark.parametrize("lessons", ["plus_minus", "plus_minus_twice", "spell_backward"])
def test_a_text_model_can_go_on_with_other_lessons(trained, tmp_path, lessons):
    """With a learning rate that changes nothing it is the same checkpoint, file by file; with another one the weights differ."""
    options = {"start": str(trained), "lessons": lessons}
    text.pretrain_text(text_config(tmp_path / "same", **options, learning_rate=1e-30))
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert all((tmp_path / "same" / name).read_bytes() == (trained / name).read_bytes() for name in files)
    text.pretrain_text(text_config(tmp_path / "more", **options))
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "more"))
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert all(set(line) == {"step", f"nelbo/{lessons}"} for line in read_log(tmp_path / "more"))


def test_a_run_that_goes_on_from_a_model_may_be_resumed_from_another_folder(trained, tmp_path, monkeypatch):
    """The start is given relative to the current folder, first to one and then to another."""
    monkeypatch.chdir(trained.parent)
    with stopping_at(6):
        text.pretrain_text(text_config(tmp_path / "run", start=trained.name))
    monkeypatch.chdir(trained)
    text.pretrain_text(text_config(tmp_path / "run", start="."), resume=True)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_only_a_text_model_can_go_on(trained, tmp_path):
    grid, damaged, small = Path(text.__file__).parent / "checkpoint", tmp_path / "damaged", make_checkpoint(tmp_path / "small")
    problems = {
        grid: "is no text model; give a folder",
        tmp_path / "none": "cannot be read: no checkpoint there; a folder with",
        small: "is no text model; give a folder",
    }
    shutil.copytree(trained, damaged)
    (damaged / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:-9])
    for start, problem in (problems | {damaged: "cannot be read: "}).items():
        with pytest.raises(ValueError, match=f"start={start} {problem}") as caught:
            text.pretrain_text(text_config(tmp_path / "run", start=str(start)))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"layers=1: the model of start={trained} has its own; leave layers out"):
        text.pretrain_text(text_config(tmp_path / "run", start=str(trained), layers=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["text_countdown", "text_sudoku"])
@pytest.mark.parametrize("recipe", ["as it stands", "as published"])
def test_the_presets_train_and_so_does_the_published_recipe_in_their_first_lines(trained, tmp_path, preset, recipe):
    comment = " ".join(line.strip("# \\") for line in (PRESETS / f"{preset}.yaml").read_text().splitlines() if line.startswith("#"))
    published = comment.partition(f"dmpo train {preset} ")[2].split()
    assert len(published) == 6 and "sampler.name=confidence" in published and "weight.log_ratio=elbo" in published
    small = ["train.rounds=1", "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "evaluation.num_items=2"]
    words = published if recipe == "as published" else []
    run = train(load_config(preset, f"model.path={trained}", f"output={tmp_path / 'run'}", "threads=1", *small, *words))
    assert len(run.metrics) >= 1 and math.isfinite(run.metrics[0]["loss"])
    assert run.metrics[-1]["evaluation/accuracy"] in (0, 0.5, 1)


def test_a_long_response_weighs_as_a_short_one_does(tmp_path, monkeypatch):
    """The gradient is that of the NELBO divided by the response's length."""
    monkeypatch.setattr(text, "SHARES", {"mixture": {"sudoku": 1.0}})
    monkeypatch.setattr(text, "LENGTHS", {128: 1.0})
    config = tiny(tmp_path)
    model, _ = build_text_model(config, WORDS)
    run = TextRun(config, model, TASKS, TOKENIZER)
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda weights, most: norms.append(float(clip(weights, 1e9))))
    other, _ = build_text_model(config, WORDS)
    _, loss = run.take_step(0)
    rng = random.Random("0 0")
    rng.random(), rng.random()  # the task, and the length
    rollout = teach(TOKENIZER, TASKS["sudoku"], draw_lessons(rng, "sudoku", "pretrain", 2, 0.9), 128)
    again = lesson_loss(other, run.vocabulary, rollout, stream(0, "pretrain text", 0))
    assert again.item() == pytest.approx(loss)
    gradients = torch.autograd.grad(again / 128, list(other.parameters()))
    assert norms == [pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradients)), rel=1e-4)]
