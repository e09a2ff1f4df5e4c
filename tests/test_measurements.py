"""Measurements: what is measured is what is claimed; never how fast this machine is."""

import copy
import json
import math
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dmpo_ref.cli import main
from dmpo_ref.config import SamplerConfig
from dmpo_ref.experience import step_masks, weigh
from dmpo_ref.gradient import gradient_step
from dmpo_ref.likelihood import path_log_prob, token_log_prob
from dmpo_ref.masking import draw_masks, stream
from dmpo_ref.models.reference import FrozenReference
from dmpo_ref.runtime.state import build_optimizer
from dmpo_ref.samplers import sample
from tests.helpers import make_prompts, make_rollout, tiny_model, vocabulary
from toy import bench, grading_times, growth, machine, measurements, straightforward

CPU, PLAIN = torch.device("cpu"), "straightforward"


def test_the_straightforward_loss_has_the_log_probabilities_of_the_library():
    rollout = make_rollout(make_prompts("12|____", "13|__4_"), 3)  # without padding, as measured
    masks, model = draw_masks("antithetic", rollout.response_mask, 4, [stream(0, "masks", g) for g in range(2)]), tiny_model()
    plain = straightforward.token_log_prob_full_logits(model, rollout, masks, vocabulary())
    assert plain.abs().sum() > 1
    torch.testing.assert_close(plain, token_log_prob(model, rollout, masks, vocabulary()))


@pytest.mark.parametrize(("block_length", "steps"), [(None, None), (4, 4), (2, 8), (4, 6)])
def test_the_straightforward_sampler_draws_the_tokens_of_the_library_at_temperature_0(block_length, steps):
    config = SamplerConfig(name="confidence", temperature=0.0, block_length=block_length, steps=steps)
    prompts, model = make_prompts("12|________", "34|________", "11|________"), tiny_model(seed=5)
    generators = [stream(0, "bench", g) for g in range(3)]
    expected = sample(model, prompts, config, vocabulary(), num_rollouts=1, generators=generators).tokens[:, 0]
    assert torch.equal(straightforward.sample_full_logits(model, prompts, config, vocabulary()), expected)


def test_the_straightforward_sampler_draws_from_the_softmax_at_the_temperature():
    """One open position, 4,000 rows: counts of each token against softmax(logits / T)."""
    model, prompts = tiny_model(seed=2), make_prompts("123|_").repeat(4000)
    logits = model(input_ids=prompts.tokens[:1]).logits[0, -1, [4, 5, 6, 7]]
    config = SamplerConfig(name="confidence", temperature=0.7)
    drawn = straightforward.sample_full_logits(model, prompts, config, vocabulary())[:, -1]
    share = torch.stack([(drawn == token).double().mean() for token in (4, 5, 6, 7)])
    torch.testing.assert_close(share, (logits / 0.7).softmax(dim=-1).detach(), atol=4 * 0.5 / 4000**0.5, rtol=0.0)


@pytest.fixture
def tiny_sizes(monkeypatch):
    """The standard subject, its model as small as it can be."""
    monkeypatch.setattr(measurements, "random_model", lambda size, seed: tiny_model(seed, double=False, **sizes_of(size)))
    sizes = {"loss": (1, 4, 8, 40), "elbo": (1, 4, 8, 40), "samplers": (2, 4, 64, 40)}
    monkeypatch.setattr(measurements, "SIZES", sizes)


def sizes_of(size):
    return {"vocab_size": size, "mask_token_id": size - 1, "max_sequence_length": 80}


@pytest.mark.parametrize("what", ["loss", "elbo"])
def test_both_ways_have_the_same_result(what, tiny_sizes):
    results = [measurements.PREPARE[what](measurements.build_subject(what, None, []), way)() for way in measurements.CASES[what]]
    assert results[0]["tokens"] == results[1]["tokens"] == 8 * 4 * 12 * (1 + (what == "elbo"))
    assert results[0]["result"] == pytest.approx(results[1]["result"], rel=1e-5) and abs(results[0]["result"]) > 1e-3


@pytest.mark.parametrize("way", measurements.CASES["samplers"])
def test_a_sampler_is_measured_on_every_prompt(way, tiny_sizes, capsys):
    measurements.measure("samplers", way, None, ["sampler.steps=8"], repeats=2, seconds=100)
    row = json.loads(capsys.readouterr().out)
    assert (row["measured"], row["way"], row["runs"], row["tokens"]) == ("samplers", way, 2, 2 * 64)
    assert row["seconds"] > 0 and row["flop"] > 0 and 0 < row["outside"] < 1
    if "confidence" in way or way == "random":
        weights = measurements.random_model(40, 0).state_dict().values()
        assert (row["forwards"], row["read"]) == (8, 8 * sum(w.nbytes for w in weights))


@pytest.mark.parametrize("way", measurements.CASES["round"])
def test_a_round_of_any_config_and_its_parts(way, small_run):
    overrides = ["train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=2", "weight.baseline=uniform"]
    subject = measurements.build_subject("round", "toy_sudoku", overrides)
    before = [weight.clone() for weight in subject.policy.parameters()]
    assert measurements.prepare_round(subject, way)()["tokens"] > 0
    moved = any(not torch.equal(a, b) for a, b in zip(before, subject.policy.parameters(), strict=True))
    assert moved == (way != "rollouts, weights")


@pytest.mark.parametrize("log_ratio", ["path", "elbo", "none"])
def test_the_straightforward_round_is_the_round_of_the_library(log_ratio):
    """On the rollouts that it drew: the path's probability, ℓ and w, and the policy after two gradient steps."""
    overrides = ["train.prompts_per_round=2", "weight.baseline=uniform", f"weight.log_ratio={log_ratio}"]
    plain, ours = (measurements.build_subject("round", "toy_sudoku", overrides) for _ in range(2))
    for subject in (plain, ours):
        subject.policy.double()  # else AdamW makes much of what rounding leaves of a gradient that is nearly 0
    config, objective, vocabulary, reference = plain.config, plain.objective, plain.vocabulary, FrozenReference(copy.deepcopy(plain.policy))
    rollout = straightforward.random_order_full_logits(plain.policy, plain.prompts, config.sampler, vocabulary, 3)
    torch.testing.assert_close(rollout.path_log_prob, path_log_prob(plain.policy, rollout, vocabulary), rtol=0, atol=1e-10)
    for weight in reference.network.parameters():  # else p_ref = p_old, and every log-ratio is 0
        weight.mul_(1.05)
    reward = torch.tensor([[1.0, 0.0, 0.2], [0.0, 0.5, 1.0]], dtype=torch.float64)

    def after(subject, weigh_rollouts, take_step):
        batch = weigh_rollouts(subject, reference, rollout, reward).of_step(0)
        optimizer = build_optimizer(subject.policy, config.optimizer, 2)[0]
        for k in range(2):
            masks = step_masks(objective, rollout, [0, 1], 0, k, k)
            take_step(subject.policy, optimizer, vocabulary, objective, batch, masks, config)
        return [batch.log_ratio, batch.weight, batch.base_weight, *subject.policy.parameters()]

    def library(subject, *given):
        return weigh(subject.policy, given[0], vocabulary, objective, *given[1:], config)

    def straight(subject, *given):
        return straightforward.weigh_full_logits(subject.policy, given[0], vocabulary, *given[1:], config, [0, 1])

    before = [weight.clone() for weight in plain.policy.parameters()]
    found, expected = after(plain, straight, straightforward.step_full_logits), after(ours, library, gradient_step)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    assert (found[0].abs().max() > 0.01) == (log_ratio != "none")
    assert not any(torch.equal(a, b) for a, b in zip(before, found[3:], strict=True))


def test_a_round_without_a_straightforward_way_is_no_failure(capsys):
    measurements.measure("round", PLAIN, None, ["sampler.name=random"], repeats=1, seconds=1)
    assert json.loads(capsys.readouterr().out)["why"].startswith("is not measured: needs sampler.name=random_order")


def test_the_first_run_is_not_under_the_counter_of_operations(monkeypatch, capsys):
    """Under a dispatch mode torch compiles nothing, and what it has skipped once it never compiles."""
    counted = []

    def work():
        counted.append(_get_current_dispatch_mode() is not None)
        return {"tokens": 1}

    monkeypatch.setattr(measurements, "build_subject", lambda *_: SimpleNamespace(prompts=make_prompts("1|_")))
    monkeypatch.setitem(measurements.PREPARE, "round", lambda subject, way: work)
    measurements.measure("round", "whole", None, [], repeats=2, seconds=100)
    assert counted == [False, True, False, False] and json.loads(capsys.readouterr().out)["runs"] == 2


@pytest.mark.parametrize("options", [["loss.name=wddo"], ["weight.baseline=model"]], ids=str)
def test_both_ways_of_a_loss_that_subtracts_something_stored(options, tiny_sizes):
    results = [measurements.PREPARE["loss"](measurements.build_subject("loss", None, options), way)() for way in measurements.CASES["loss"]]
    assert results[0]["result"] == pytest.approx(results[1]["result"], rel=1e-5)


def test_what_the_straightforward_sampler_cannot_fill_is_refused():
    with pytest.raises(ValueError, match=r"^the straightforward sampler needs responses of one length"):
        straightforward.sample_full_logits(tiny_model(), make_prompts("1|__", "1|_4"), SamplerConfig(name="confidence"), vocabulary())


def test_a_measurement_stops_at_its_time(tiny_sizes, capsys):
    measurements.measure("loss", "library", None, [], repeats=1000, seconds=1e-9)
    assert json.loads(capsys.readouterr().out)["runs"] == 1


def test_the_highest_memory_is_that_since_the_reset():
    """200 MB, which no allocator has lying about, and which are given back."""
    before = machine.reset_peak(CPU)
    torch.ones(50_000_000).sum()
    assert 190e6 < machine.peak_memory(CPU) - before < 300e6
    assert machine.reset_peak(CPU) - before < 50e6


def test_live_bytes_are_those_of_what_is_still_held():
    before = torch.ones(7, 3)
    with machine.LiveBytes() as live:
        transposed = before.t()  # a view of what was there
        assert live.peak == 0 and transposed.shape == (3, 7)
        kept = torch.ones(1000)
        torch.ones(5000).sum()  # gone after it; its sum too
        view = kept[10:]
        assert (live.now, live.peak) == (4000, 4000 + 20_000 + 4)
        del kept
        assert live.now == 4000  # the view holds the storage
        del view
    assert live.now == 0


@pytest.mark.parametrize("option", growth.OPTIONS)
def test_the_tensors_of_a_round_hardly_grow_at_fixed_micro_batches(option):
    """Eight times as many of one kind; what all rows would need at once is eight times as much."""
    peaks = []
    for factor in (1, 8):
        sizes = [f"{key}={value * (factor if key == option else 1)}" for key, value in growth.OPTIONS.items()]
        work = measurements.prepare_round(measurements.build_subject("round", "toy_sudoku", [*growth.FIXED, *sizes]), "whole")
        work()
        with machine.LiveBytes() as live:
            work()
        peaks.append(live.peak)
    assert peaks[1] < 1.1 * peaks[0]


def test_the_machine_is_described(capsys):
    machine.measure_ceilings("cpu", "float32")
    described = json.loads(capsys.readouterr().out)
    assert described["flop_per_second"] > 1e8 and described["bytes_per_second"] > 1e7 and described["threads"] == 1


def test_a_table_relative_to_the_first_row_of_each_kind(monkeypatch, capsys, tmp_path):
    rows = {
        "straightforward": {"seconds": 8.0, "peak": 4e9, "flop": 4e9, "tokens": 16, "result": 1.0},
        "library": {"seconds": 2.0, "peak": 1e9, "flop": 2e9, "tokens": 16, "result": 1.0},
    }

    def output_of(call, *, timeout):
        if "ceilings" in call:
            return {"device": "some", "dtype": "float32", "threads": 1, "flop_per_second": 2e9, "bytes_per_second": 1e9}
        way = call.split("'")[3]
        assert "['loss.num_masks=3']" in call
        return {"why": "took more than 240 s"} if way == "library" and "'elbo'" in call else rows[way]

    monkeypatch.setattr(bench, "output_of", output_of)
    file = tmp_path / "b.json"
    bench.main(["loss", "elbo", "--json", str(file), "loss.num_masks=3"])
    captured = capsys.readouterr()
    header, plain, library, _, late, foot = captured.out.splitlines()
    ways = [f"{name}, {way}" for name in ("loss", "elbo") for way in ("straightforward", "library")]
    assert captured.err.splitlines() == [f"bench: {way} ({i} of 4)" for i, way in enumerate(ways, start=1)]
    assert header.split("  ")[-1].strip() == "outside model"
    assert plain.split()[2:] == ["8", "1.00", "4,000", "1.00", "2", "0.5", "25%"]
    assert library.split()[2:] == ["2", "0.25", "1,000", "0.25", "8", "1", "50%"]
    assert late == "elbo: library took more than 240 s"
    assert foot == "some, float32, 1 threads: 2 GFLOP/s in a large matrix product, 1.0 GB/s in a copy"
    written = json.loads(file.read_text())
    assert written["rows"][1] == {"measured": "loss", "way": "library", **rows["library"]} and written["ceilings"]["device"] == "some"
    assert written["command"] == ["dmpo", "bench", "loss", "elbo", "--json", str(file), "loss.num_masks=3"]


def test_a_process_that_takes_too_long_or_fails(monkeypatch):
    assert bench.output_of("print('a line'); print('{\"a\": 1}')", timeout=100) == {"a": 1}
    assert bench.output_of("raise ValueError('nothing like that')", timeout=100) == {"why": "failed: nothing like that"}

    def late(*_, timeout, **__):
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", late)
    assert bench.output_of("...", timeout=1) == {"why": "took more than 1 s"}


def test_what_a_sampler_reads_is_a_share_of_what_can_be_copied():
    """8 GB in 2 s where 16 GB/s can be copied: a quarter."""
    row = {"measured": "samplers", "way": "x", "seconds": 2.0, "peak": 1e9, "flop": 2e9, "tokens": 16, "read": 8e9, "forwards": 3, "fed": 5}
    machine_row = {"device": "some", "dtype": "float32", "threads": 1, "flop_per_second": 2e9, "bytes_per_second": 16e9}
    line = bench.format_table([row | {"outside": 0.125}], machine_row).splitlines()[1]
    assert line.split()[-5:] == ["50%", "25%", "3", "5", "12.5%"]


def test_a_row_that_fails_is_named_and_the_others_stay(monkeypatch, capsys):
    good = {"seconds": 2.0, "peak": 1e9, "flop": 2e9, "tokens": 16}
    monkeypatch.setattr(bench, "output_of", lambda call, *, timeout: {"why": "failed: no"} if PLAIN in call or "ceilings" in call else good)
    assert main(["bench", "loss"]) == 2
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split() == ["loss:", "library", "2", "1,000", "8", "1"]  # relative to nothing
    assert shown.out.splitlines()[2:] == ["loss: straightforward failed: no", "the machine was not measured: failed: no"]
    assert shown.err.splitlines()[-1] == "dmpo: 1 of 2 measurements failed, see the lines below the table"


def test_where_every_row_fails_each_is_named(monkeypatch, capsys):
    monkeypatch.setattr(bench, "output_of", lambda call, *, timeout: {"why": "failed: no"})
    assert main(["bench", "loss"]) == 2
    shown = capsys.readouterr()
    assert {"loss: library failed: no", "loss: straightforward failed: no"} <= {*shown.out.splitlines()}
    assert shown.err.splitlines()[-1] == "dmpo: 2 of 2 measurements failed, see the lines below the table"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speed"], "speed: choose among loss, elbo, samplers, round, grading"),
        (["a=b"], "nothing to measure; choose among loss, elbo, samplers, round, grading"),
        (["loss", "--repeats", "0"], "--repeats=0: must be above 0"),
        (["loss", "--seconds", "nan"], "--seconds=nan: must be above 0"),
        (["loss", "loss.micro_batch=0"], "loss.micro_batch=0: "),
        (["loss", "model.compile=default"], "model.compile=default: without --config the model is random"),
        (["loss", "--config", "nothing.yaml"], "nothing.yaml"),
        (["loss", "--json", "LICENSE"], "--json=LICENSE: give a file that does not exist, in a folder that does"),
        (["loss", "--json", "nowhere/b.json"], "--json=nowhere/b.json: give a file that does not exist, in a folder that does"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(words, message, capsys):
    assert main(["bench", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_grading_measures_every_task_with_usual_and_hostile_answers(monkeypatch):
    pytest.importorskip("math_verify")
    pytest.importorskip("reasoning_gym")
    monkeypatch.setattr(grading_times, "HOSTILE", ("(" * 100,))
    measured = grading_times.bench_grading()
    header, *rows = grading_times.format_grading(measured).splitlines()
    assert header.split() == ["task", "answers", "grade,", "ms", "reward,", "ms"]
    assert [row.split()[:2] for row in rows] == [[task, kind] for task in grading_times.TASKS for kind in ("usual", "hostile")]
    assert all(float(number) >= 0 for row in rows for number in row.split()[2:])
    assert [(row["task"], row["answers"]) for row in measured] == [tuple(row.split()[:2]) for row in rows]


def test_a_file_with_the_machine_is_written_for_grading_too(monkeypatch, tmp_path, capsys):
    rows = [{"task": "some", "answers": "usual", "grade, ms": 1.5, "reward, ms": 2.0}]
    monkeypatch.setattr(grading_times, "bench_grading", lambda: rows)
    assert main(["bench", "grading", "--json", str(tmp_path / "b.json")]) == 0
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["grading"] == rows and "rows" not in written
    assert capsys.readouterr().out.splitlines()[1].split() == ["some", "usual", "1.5", "2.0"]


def test_the_machine_is_described_beside_its_numbers(monkeypatch, tmp_path):
    """The memory as another library asks for it, and the name after the first "model name" of a file like Linux's."""
    psutil = pytest.importorskip("psutil")
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\nprocessor\t: 1\nmodel name\t: Another\n")
    monkeypatch.setattr(machine, "CPUINFO", file)
    found = machine.describe()
    assert list(found) == ["processor", "cores", "memory", "load", "system", "python", "torch"]
    assert found["processor"] == "Some CPU: 3 GHz" and found["cores"] == psutil.cpu_count()
    assert found["memory"] in (None, psutil.virtual_memory().total)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert machine.describe()["processor"]


def test_growth_changes_one_size_at_a_time_and_draws_it(monkeypatch, tmp_path, capsys):
    """A machine whose time is exactly linear in the forward rows, and whose memory is flat."""
    calls = []

    def output_of(call, *, timeout):
        sizes = {key: int(re.search(rf"{key}=(\d+)", call)[1]) for key in growth.OPTIONS}
        calls.append(sizes)
        return {"seconds": float(math.prod(sizes.values())), "tensors": 5e7}

    monkeypatch.setattr(growth, "output_of", output_of)
    monkeypatch.setattr(growth, "RESULTS", tmp_path)
    growth.main([])
    assert [sum(sizes[key] != value for key, value in growth.OPTIONS.items()) for sizes in calls] == [0, 1, 1, 1, 1] * 3
    assert [row["seconds"] / growth.read()[0]["seconds"] for row in growth.read()] == list(growth.FACTORS) * 3
    assert capsys.readouterr().out.splitlines()[-1] == "masks R ×16: 1024.00 s, tensors 50.0 MB"
    growth.main(["draw", str(tmp_path / "figures")])
    assert (tmp_path / "figures" / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_says_how_the_stored_rounds_grow():
    rows = {(row["option"], row["factor"]): row for row in growth.read()}
    last, (prompts, rollouts, masks) = max(growth.FACTORS), growth.OPTIONS
    times = {option: rows[option, last]["seconds"] / rows[option, 1]["seconds"] for option in growth.OPTIONS}
    memory = max(rows[option, last]["tensors"] / rows[option, 1]["tensors"] for option in growth.OPTIONS)
    page = (Path(__file__).parent.parent / "book" / "howto" / "machine.md").read_text(encoding="utf-8")
    assert f"with sixteen times the prompts it takes {times[prompts]:.0f} times as long" in page
    assert f"with sixteen times the rollouts {times[rollouts]:.0f}, with sixteen times the masks {times[masks]:.0f}." in page
    assert last == 16 and memory <= 1.2 and "at most 20 per cent more" in page
