"""The loop: resuming gives the same numbers, groups stay groups, mistakes are one line."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch

from dmpo_ref.config import LossConfig, SamplerConfig, WeightConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import draw_masks
from dmpo_ref.models.loading import latest_checkpoint
from dmpo_ref.objectives import build_objective
from dmpo_ref.objectives.base import Objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.rollout import Rollout
from dmpo_ref.runtime.checkpoint import write_checkpoint
from dmpo_ref.runtime.files import EntryFile, read_entries
from dmpo_ref.runtime.logs import answer_length
from dmpo_ref.runtime.setup import prepare_run
from dmpo_ref.runtime.state import learning_rate_share
from dmpo_ref.train import train
from tests.helpers import collect_round

TIMES = ("seconds",)


def parameters(trained):
    return torch.cat([p.detach().flatten() for p in trained.policy.parameters()])


def without_times(metrics):
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in metrics]


def written(folder):
    return without_times(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())


VARIANTS = {
    "wdce": [],
    "path_fixed_reference_resync": ["weight.log_ratio=path", "train.resync_every=3"],
    "elbo_and_stale_rollouts": ["weight.log_ratio=elbo", "train.reuse_rounds=2", "train.prompts_per_step=2"],
    "wddo": ["loss.name=wddo", "weight.log_ratio=path", "train.reuse_rounds=1"],
    "skip_equal_groups": ["train.skip_equal_groups=2", "train.reuse_rounds=1"],
    "model_baseline": ["weight.baseline=model", "weight.target_ess=0.5"],
    "lora_with_dropout": ["model.lora_rank=4", "model.lora_dropout=0.2", "weight.log_ratio=path"],
    "lora_resync_in_micro_batches": ["model.lora_rank=4", "weight.log_ratio=elbo", "train.resync_every=1", "loss.micro_batch=5"],
    "gradient_checkpointing": ["model.gradient_checkpointing=true"],
}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_killed_run_resumes_to_the_same_numbers_bit_for_bit(small_run, tmp_path, overrides):
    whole = train(small_run(*overrides, f"output={tmp_path / 'whole'}"))

    def kill(done, policy):
        if done == 3:  # between the checkpoint of round 2 and the next one: a round is lost and run again
            raise Killed
        return {}

    broken = small_run(*overrides, f"output={tmp_path / 'broken'}")
    with pytest.raises(Killed):
        train(broken, on_round=kill)
    assert latest_checkpoint(tmp_path / "broken").name == "checkpoint-000002"
    for name in ("metrics.jsonl", "rollouts.jsonl"):  # as if it had been killed a little later
        with (tmp_path / "broken" / name).open("a") as file:
            file.write('{"round": 2, "step": 5}\n')
    resumed = train(broken, resume=True)
    assert torch.equal(parameters(whole), parameters(resumed))
    assert written(tmp_path / "whole") == written(tmp_path / "broken")
    assert (tmp_path / "whole" / "rollouts.jsonl").read_text() == (tmp_path / "broken" / "rollouts.jsonl").read_text()


@pytest.mark.parametrize("overrides", [[], ["model.lora_rank=4", "weight.log_ratio=path"]], ids=["all_weights", "lora"])
def test_a_finished_run_goes_on_with_more_rounds_as_if_they_had_been_asked_for_at_once(small_run, tmp_path, overrides):
    overrides = [*overrides, "optimizer.schedule=constant"]
    whole = train(small_run(*overrides, f"output={tmp_path / 'whole'}"))
    train(small_run(*overrides, "train.rounds=2"))
    longer = train(small_run(*overrides), resume=True)
    assert torch.equal(parameters(whole), parameters(longer))
    entries, expected = written(tmp_path / "run"), written(tmp_path / "whole")
    entries[3].pop("evaluation/accuracy")  # the end of the shorter run was evaluated
    # An evaluation is a forward pass more.
    assert all(entry | {"forward_passes": 0} == asked | {"forward_passes": 0} for entry, asked in zip(entries, expected, strict=True))


@pytest.mark.parametrize("overrides", [["train.rounds=1", "optimizer.schedule=constant"], ["train.rounds=6", "optimizer.schedule=linear"]])
def test_a_run_is_not_made_shorter_nor_longer_where_its_learning_rate_would_change(small_run, tmp_path, overrides):
    schedule = overrides[1:]
    train(small_run("train.rounds=2", *schedule))
    grows = "rounds can grow only with optimizer.schedule=constant, and this run has linear; " if overrides[0].endswith("6") else ""
    remedy = f"{grows}resume with the same config, or choose another output"
    with pytest.raises(ValueError, match=rf"was run with train\.rounds=2, not \d; {re.escape(remedy)}"):
        train(small_run(*overrides), resume=True)


def test_a_path_may_be_written_in_another_way_when_a_run_is_resumed(small_run, tmp_path, monkeypatch):
    shutil.copyfile("toy/data/train.csv", tmp_path / "train.csv")
    monkeypatch.chdir(tmp_path)
    train(small_run("train.rounds=2", "optimizer.schedule=constant", "task.train=train.csv"))
    for same in ("./train.csv", str(tmp_path / "train.csv"), "run/../train.csv"):
        assert len(train(small_run("train.rounds=2", "optimizer.schedule=constant", f"task.train={same}"), resume=True).metrics) == 4
    shutil.copyfile("train.csv", "other.csv")
    with pytest.raises(ValueError, match=r"was run with task\.train="):
        train(small_run("train.rounds=2", "optimizer.schedule=constant", "task.train=other.csv"), resume=True)


def test_the_newest_checkpoints_stay_as_many_as_are_asked_for(small_run, tmp_path):
    train(small_run("train.checkpoint_every=1", "train.keep_checkpoints=3"))
    names = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert names == ["checkpoint-000002", "checkpoint-000003", "checkpoint-000004"]


def test_answers_are_written_with_what_they_were_given(small_run, tmp_path):
    """Two of the three prompts of a round; rewards and weights are those of the metrics, worked out again."""
    config = small_run("train.rounds=2", "train.log_prompts=2", "train.prompts_per_round=2", "weight.alpha=0.5", "weight.log_ratio=none")
    asked = []

    def reward(item, text):  # the same for every answer to the first puzzle, different ones for the others
        asked.append(item.puzzle)
        return 0.5 if item.puzzle == asked[0] else rate_by_place(text)

    def rate_by_place(text):
        return sum(place * int(digit) for place, digit in enumerate(text)) / 400

    metrics = train(config, reward=reward).metrics
    assert [entry["frac_reward_zero_std"] for entry in metrics] == [0.5, 0.5, 0.0, 0.0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 0, 1, 1]
    for line in lines:  # the clues, and a mask for every blank
        clues = line["prompt"].replace("<|mdm_mask|>", "?")
        assert 0 < clues.count("?") < len(clues) == 16
        assert all(clue in ("?", digit) for answer in line["answers"] for clue, digit in zip(clues, answer["text"], strict=True))
    for r in (0, 1):
        entry, groups = metrics[2 * r], [line["answers"] for line in lines if line["round"] == r]
        reward = torch.tensor([[answer["reward"] for answer in group] for group in groups], dtype=torch.float64)
        rated = [[rate_by_place(answer["text"]) for answer in group] for group in groups]
        assert reward.tolist() == ([[0.5] * 4, rated[1]] if r == 0 else rated)
        assert entry["reward"] == pytest.approx(reward.mean().item())
        assert entry["reward_std"] == pytest.approx(sum(statistics.pstdev(row) for row in reward.tolist()) / 2)
        weight = torch.tensor([[answer["weight"] for answer in group] for group in groups], dtype=torch.float64)
        assert torch.allclose(weight, (reward / 0.5).softmax(dim=-1))


def test_a_prompt_is_written_without_the_masks_behind_it(small_run, tmp_path):
    train(small_run("train.rounds=1", "task.generate=all"))
    (line,) = (json.loads(text) for text in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines())
    assert "mask" not in line["prompt"]
    assert sum(symbol in "01234" for symbol in line["prompt"]) == 16


def test_entries_can_be_read_wherever_a_crash_cut_them_off(tmp_path):
    """Also those of answers with braces, line breaks of every kind and half a surrogate pair."""
    nasty = 'a}\n{"b": 1}\r\x85\u2028\udc80é'
    entries = [{"round": r, "prompt": nasty, "answers": [{"text": nasty, "reward": 1.0}]} for r in (0, 0, 1)]
    path = tmp_path / "rollouts.jsonl"
    EntryFile(path, entries[:2]).write(entries[2:])
    written = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(written) if byte == ord("\n")]
    assert len(ends) == 3
    for length in range(len(written) + 1):
        path.write_bytes(written[:length])
        assert read_entries(path, before_round=2) == entries[: sum(end <= length for end in ends)]
    assert read_entries(path, before_round=1) == entries[:2]
    assert read_entries(tmp_path / "none.jsonl", before_round=1) == []


def test_an_answer_is_as_long_as_what_stands_up_to_its_first_end_token():
    tokens = torch.tensor([[[0, 5, 0, 5, 5, 0], [5, 5, 5, 5, 5, 5], [5, 5, 0, 0, 0, 0]]])
    response = torch.tensor([False, False, True, True, True, True]).expand(1, 3, 6)
    rollout = Rollout(tokens, response, ~response, response, tokens, None, 4, SamplerConfig(), 0, 0)
    assert answer_length(rollout, {0, 9}) == (1 + 4 + 1) / 3  # the first 0 of the first row belongs to its prompt


def test_training_does_not_touch_the_global_random_state(small_run):
    before = torch.get_rng_state()
    train(small_run())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(small_run, tmp_path):
    runs = [train(small_run(f"seed={seed}", f"output={tmp_path / name}")) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert torch.equal(parameters(runs[0]), parameters(runs[1]))
    assert not torch.equal(parameters(runs[0]), parameters(runs[2]))


def test_the_reference_stays_unless_it_is_told_to_move(small_run, tmp_path):
    ratios = {}
    for name, every in (("fixed", 0), ("moving", 1)):
        config = small_run(
            "weight.log_ratio=path", f"train.resync_every={every}", f"output={tmp_path / name}", "optimizer.learning_rate=3e-3"
        )
        ratios[name] = [entry["log_ratio_std"] for entry in train(config).metrics]
    assert ratios["fixed"][0] == pytest.approx(0, abs=1e-5)  # before the first step p_ref = p_old
    assert ratios["fixed"][-1] > 0.01
    assert max(ratios["moving"]) == pytest.approx(0, abs=1e-5)


def test_own_rewards_replace_the_tasks(small_run):
    seen = []

    def reward(item, text):
        seen.append((item.puzzle, text))
        return text.count("1") / 16

    trained = train(small_run("train.rounds=1"), reward=reward)
    assert len(seen) == 3 * 4
    assert all(len(text) == 16 for _, text in seen)
    mean = sum(text.count("1") / 16 for _, text in seen) / len(seen)
    assert trained.metrics[-1]["reward"] == trained.metrics[-1]["reward/custom"] == pytest.approx(mean)


def test_an_own_objective_replaces_that_of_the_config(small_run, tmp_path):
    """WDDO handed over is WDDO asked for: it is told to keep log p_old, and gets it."""
    named = train(small_run("loss.name=wddo", f"output={tmp_path / 'named'}"))
    given = train(small_run(), objective=build_objective(LossConfig(name="wddo"), WeightConfig()))
    assert without_times(given.metrics) == without_times(named.metrics)
    assert torch.equal(parameters(given), parameters(named))


def test_a_loss_that_is_not_linear_has_the_same_gradient_in_micro_batches_with_lora_dropout(small_run, tmp_path):
    """In parts the gradients come from a pass of their own; had it dropped other things, they would be those of another loss."""

    def masks(rollout, generators):
        return draw_masks("exact", rollout.response_mask, 2, generators)

    def loss(log_prob, masks, experience, weight):
        return (sequence_log_prob(log_prob, masks) / 10).square().mean()

    objective = Objective(masks, loss, uses_log_old=False, is_linear=False)
    lora = ("model.lora_rank=4", "model.lora_dropout=0.5", "train.rounds=1", "optimizer.learning_rate=1e-2")
    norms = [
        [
            entry["grad_norm"]
            for entry in train(small_run(*lora, f"loss.micro_batch={m}", f"output={tmp_path / m}"), objective=objective).metrics
        ]
        for m in ("null", "24", "5")
    ]
    assert min(norms[0]) > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-4) and norms[2] == pytest.approx(norms[0], rel=1e-4)


def test_the_elbo_weights_use_the_masks_that_are_asked_for(small_run, tmp_path):
    ratios = {}
    for masks in ("antithetic", "exact", "paper"):
        config = small_run(
            "weight.log_ratio=elbo", f"weight.elbo_masks={masks}", "optimizer.learning_rate=3e-3", f"output={tmp_path / masks}"
        )
        ratios[masks] = [entry["log_ratio_mean"] for entry in train(config).metrics]
    assert all(values[0] == pytest.approx(0, abs=1e-5) for values in ratios.values())  # before the first step p_ref = p_old
    assert len({round(values[-1], 4) for values in ratios.values()}) == 3


def test_an_own_objective_along_the_path_needs_a_path(small_run, tmp_path):
    objective = build_objective(LossConfig(name="reinforce"), WeightConfig())
    with pytest.raises(ValueError, match=r"sampler\.name=confidence: the objective follows the path .* only sampler\.name=random_order"):
        train(small_run("sampler.name=confidence"), objective=objective)
    assert not (tmp_path / "run").exists()


def test_the_output_is_not_where_the_reference_is_read_from(small_run, tmp_path):
    with pytest.raises(ValueError, match=r"output=.* is model\.path too"):
        train(small_run(f"model.path={tmp_path / 'run'}"))


def test_a_folder_that_was_there_stays_and_the_error_is_not_hidden(small_run, tmp_path):
    (tmp_path / "run").mkdir()
    for taken in (tmp_path / "run", tmp_path / "new" / "deep"):
        with pytest.raises(ValueError, match="return a finite number"):
            train(small_run(f"output={taken}"), reward=lambda item, text: float("nan"))
    assert (tmp_path / "run").is_dir() and not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [None, {"solved": 1.0}, "0.7"])
def test_a_reward_that_is_no_number_is_named(small_run, value):
    with pytest.raises(ValueError, match=r"reward\(item, text\) returned .* for the answer '[1-4]{16}'; return a number"):
        train(small_run(), reward=lambda item, text: value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rewards_that_are_not_finite_are_named_and_nothing_is_written(small_run, tmp_path, value):
    with pytest.raises(ValueError, match=r"reward\(item, text\) returned (nan|inf) for the answer .*; return a finite number"):
        train(small_run(), reward=lambda item, text: value)
    assert latest_checkpoint(tmp_path / "run") is None


def test_a_loss_that_is_not_finite_is_an_error(small_run):
    with pytest.raises(ValueError, match=r"((loss|gradient norm) of step \d+ is nan|weights are broken)"):
        train(small_run("optimizer.learning_rate=1e30", "optimizer.max_grad_norm=1e30"))


def test_an_output_that_holds_a_run_is_not_overwritten(small_run, tmp_path):
    train(small_run("train.rounds=1"))
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match="already holds a run; continue it with --resume"):
        train(small_run("train.rounds=1"))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_resuming_with_another_config_or_without_a_checkpoint_is_refused(small_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint to resume from"):
        train(small_run(), resume=True)
    train(small_run("train.rounds=2"))
    with pytest.raises(ValueError, match=r"was run with weight\.alpha=0\.1, not 0\.7"):
        train(small_run("train.rounds=2", "weight.alpha=0.7"), resume=True)


def test_a_checkpoint_that_was_not_finished_is_never_seen(small_run, tmp_path, monkeypatch):
    trained = train(small_run("train.rounds=2"))
    newest = latest_checkpoint(trained.output)

    def full_disk(*args, **kwargs):
        raise RuntimeError("unexpected pos 226176 vs 226068. It is what torch makes of a full disk")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match=r"checkpoint-000009 cannot be written: unexpected pos 226176 .* go on with --resume"):
        write_checkpoint(small_run(), trained.policy, trained.tokenizer, weights=None, reference={}, saved={"round": 9})
    assert latest_checkpoint(trained.output) == newest
    assert (newest / "state.pt").is_file()
    assert not list(trained.output.glob(".*.partial"))


def test_two_processes_do_not_write_to_one_folder(small_run, tmp_path):
    other = (
        "import sys, pathlib; from dmpo_ref.runtime.files import claim\nwith claim(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", other, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(ValueError, match=r"output=.*run is being written by another process; wait for it, or choose another"):
            train(small_run())
        process.communicate(b"\n")
    assert not (tmp_path / "run").exists()
    train(small_run("train.rounds=1"))


def test_a_checkpoint_of_a_run_loads_as_a_policy_by_the_folder_of_the_run(small_run, tmp_path):
    from dmpo_ref.config import ModelConfig
    from dmpo_ref.models.loading import load_policy

    trained = train(small_run("train.rounds=2"))
    again, _ = load_policy(ModelConfig(path=str(tmp_path / "run")), torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained.policy.parameters(), strict=True))


def test_metrics_go_to_a_tracker_as_well(small_run, tmp_path):
    pytest.importorskip("tensorboard")
    train(small_run("train.rounds=1", "log_with=tensorboard"))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_learning_rate_schedules():
    options = load_config("toy_sudoku", "optimizer.warmup_steps=4", "optimizer.schedule=linear").optimizer
    assert [round(learning_rate_share(options, step, 14), 6) for step in (0, 3, 4, 9, 14)] == [0.2, 0.8, 1.0, 0.5, 0.0]
    options.schedule = "cosine"
    assert [round(learning_rate_share(options, step, 14), 6) for step in (4, 9, 14)] == [1.0, 0.5, 0.0]
    options.schedule = "constant"
    assert learning_rate_share(options, 13, 14) == 1.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_a_checkpoint_and_say_how_to_resume(tmp_path, number):
    output = tmp_path / "run"
    command = [sys.executable, "-m", "dmpo_ref", "train", "toy_sudoku", f"output={output}", "train.rounds=500",
               "train.prompts_per_round=4", "evaluation.num_items=2"]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not (output / "metrics.jsonl").is_file() or not (output / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline, "the run did not start"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on" in errors
    assert "Traceback" not in errors
    folder = latest_checkpoint(output)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    assert int(folder.name.split("-")[1]) == json.loads(lines[-1])["round"] + 1


def test_path_ratio_takes_p_old_at_its_temperature_and_p_ref_at_one(small_run):
    """Recomputed with plain logits, one position at a time, along the order of each rollout."""
    config = small_run("weight.log_ratio=path", "sampler.temperature=0.6", "train.prompts_per_round=2")
    run = prepare_run(config)
    with torch.no_grad():
        for weights in run.policy.parameters():  # a policy that is no longer the reference
            weights += 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    experience = collect_round(run)
    rollout, ratio = experience.rollout, experience.log_ratio
    for g, n in ((0, 0), (1, 3)):
        tokens = rollout.tokens[g, n].masked_fill(rollout.response_mask[g, n], run.vocabulary.mask_token_id)
        expected = 0.0
        for t in range(int(rollout.step[g, n].max()) + 1):
            s = int((rollout.step[g, n] == t).nonzero())
            token = int(rollout.tokens[g, n, s])
            for model, temperature, sign in ((run.reference.network, 1.0, 1), (run.policy, 0.6, -1)):
                logits = model(input_ids=tokens[None]).logits[0, s, 4:8].double() / temperature
                expected += sign * logits.log_softmax(-1)[token - 4].item()
            tokens[s] = token
        assert ratio[g, n].item() == pytest.approx(expected, abs=1e-4)


def test_forward_passes_are_counted(small_run, tmp_path):
    """One puzzle with 3 blanks: 3 sampling steps, p_ref on all path masks at once, 2 gradient steps, 3 steps of the evaluation."""
    (tmp_path / "one.csv").write_text("Puzzle,Solution\n0234341221434300,1234341221434321\n")
    files = (f"task.train={tmp_path / 'one.csv'}", f"task.test={tmp_path / 'one.csv'}")
    trained = train(small_run("train.rounds=1", "weight.log_ratio=path", "train.prompts_per_round=1", *files))
    assert trained.metrics[0]["forward_passes"] == 3 + 1 + 2 + 3


def test_a_run_killed_before_its_first_checkpoint_simply_starts_again(small_run, tmp_path):

    whole = train(small_run(f"output={tmp_path / 'whole'}"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"round": 0, "step": 1}\n{"round": 1, "st')
    again = train(small_run())
    assert without_times(again.metrics) == without_times(whole.metrics) == written(tmp_path / "run")


def test_a_resumed_run_returns_the_metrics_of_every_round(small_run):
    def kill(done, policy):
        if done == 3:
            raise Killed
        return {}

    with pytest.raises(Killed):
        train(small_run(), on_round=kill)
    assert [entry["step"] for entry in train(small_run(), resume=True).metrics] == list(range(1, 9))


def test_a_run_that_starts_from_another_keeps_its_reference_though_that_one_goes_on(small_run, tmp_path):
    """`model.path=first` is the checkpoint that was there at the start; a newer one is another p_ref, and refused."""
    first = tmp_path / "first"
    train(small_run(f"output={first}", "train.rounds=2"))

    def kill(done, policy):
        if done == 3:
            raise Killed
        return {}

    config = small_run(f"model.path={first}", "weight.log_ratio=path")
    with pytest.raises(Killed):
        train(config, on_round=kill)
    goes_on = first / "checkpoint-000004"
    shutil.copytree(first / "checkpoint-000002", goes_on)
    with pytest.raises(ValueError, match=r"model\.path=\S+checkpoint-000002, not \S+checkpoint-000004"):
        train(config, resume=True)
    shutil.rmtree(goes_on)
    assert [entry["step"] for entry in train(config, resume=True).metrics] == list(range(1, 9))


def test_a_relative_path_of_the_command_line_survives_resuming_and_reloading(small_run, tmp_path, monkeypatch):
    from dmpo_ref.presets.loading import PRESETS, load_config

    (tmp_path / "sub").mkdir()
    (tmp_path / "mine.csv").write_text((PRESETS.parent.parent / "toy" / "data" / "test.csv").read_text())
    monkeypatch.chdir(tmp_path / "sub")
    config = small_run("task.train=../mine.csv", "train.rounds=2")
    train(config)
    assert load_config(tmp_path / "run" / "config.yaml") == config
    assert train(small_run("task.train=../mine.csv", "train.rounds=2"), resume=True).metrics


def test_an_evaluation_sampler_that_cannot_work_is_refused_before_the_first_round(tmp_path):
    """The clues stand between the blanks, so neither WINO nor a cache can fill them; that must not be found after training."""
    impossible = {"name=wino needs responses": ["name=wino"], "cache=prefix needs responses": ["name=confidence", "cache=prefix"]}
    for message, words in impossible.items():
        overrides = [f"evaluation.sampler.{word}" for word in words]
        with pytest.raises(ValueError, match=message):
            train(load_config("toy_sudoku", f"output={tmp_path / 'run'}", *overrides))
    assert not (tmp_path / "run").exists()
