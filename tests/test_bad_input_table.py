"""A table of what users and accidents can hand to `dmpo`: one line that says what was wrong, exit code 2, nothing written."""

import json
from pathlib import Path

import pytest

from dmpo_ref.cli import main
from dmpo_ref.presets.loading import PRESETS

TOY = PRESETS.parent.parent / "toy" / "checkpoint"

OVERRIDES = {  # word of the command line → what its line must hold
    "model=x": "command line: model: a section must be a mapping",
    "model.path=": "command line: model.path: a value is needed",
    "model.path=null": "model.path",
    "model.path=~/no/such": "no checkpoint there",
    "model.dtype=float16": "model.dtype",
    "model.lora_rank=-1": "model.lora_rank=-1: must not be negative",
    "model.lora_rank=100000000000": "model.lora_rank=100000000000",
    "model.lora_rank=1000000000000000000": "model.lora_rank=1000000000000000000",
    "model.lora_alpha=.nan": "model.lora_alpha=nan: must be finite and above 0",
    "model.lora_alpha=1e400": "model.lora_alpha=inf",
    "model.lora_alpha=-1": "model.lora_alpha=-1.0",
    "model.lora_dropout=1": "model.lora_dropout=1.0: must lie in [0, 1)",
    "model.lora_targets=5": "model.lora_targets",
    "train.rounds=010": "train.rounds: 010 would be read in base 8 or 60; write a number in decimal",
    "seed=1:30": "seed: 1:30 would be read in base 8 or 60; write a number in decimal",
    "optimizer.max_grad_norm=-1:30.5": "optimizer.max_grad_norm: -1:30.5 would be read in base 8 or 60",
    "train={rounds: 0012}": "train: 0012 would be read in base 8 or 60",
    "model.lora_targets=[[q_proj]]": "model.lora_targets=[['q_proj']]: a list of names of layers is needed",
    "model.quantize=nf4": "model.quantize=nf4: 4-bit weights cannot be trained; set model.lora_rank",
    "optimizer.weight_decay=.inf": "optimizer.weight_decay=inf: must be finite",
    "optimizer.weight_decay=.nan": "optimizer.weight_decay=nan",
    "optimizer.weight_decay=1e300": "optimizer.weight_decay=1e+300",
    "optimizer.weight_decay=1e6": "optimizer.weight_decay=1000000.0: learning_rate · weight_decay must be at most 1",
    "optimizer.learning_rate=1e300": "optimizer.learning_rate=1e+300: must be finite and above 0",
    "optimizer.learning_rate=3e38": "a number became larger than its type can hold; lower optimizer.learning_rate",
    "optimizer.learning_rate=-1e-4": "optimizer.learning_rate=-0.0001",
    "optimizer.beta1=1": "optimizer.beta1=1.0: must lie in [0, 1)",
    "optimizer.max_grad_norm=0": "optimizer.max_grad_norm=0.0: must be above 0",
    "optimizer.warmup_steps=-1": "optimizer.warmup_steps=-1",
    "sampler.factor=.nan": "sampler.factor=nan: must be finite and above 0",
    "sampler.factor=.inf": "sampler.factor=inf: must be finite and above 0",
    "sampler.threshold=1.5": "sampler.threshold=1.5: a probability",
    "sampler.back_threshold=0": "sampler.back_threshold=0.0: a probability",
    "sampler.temperature=-1": "sampler.temperature=-1.0: must be finite and not negative",
    "sampler.temperature=1e-300": "sampler.temperature=1e-300",
    "sampler.guidance=1e300": "sampler.guidance=1e+300",
    "sampler.name=best": "sampler.name",
    "sampler.steps=0": "sampler.steps=0: must be at least 1",
    "sampler.block_length=5": "block_length=5 does not divide",
    "sampler.response_length=1000000000000000000": "sampler.response_length=1000000000000000000",
    "sampler.micro_batch=0": "sampler.micro_batch=0: must be at least 1",
    "loss.micro_batch=1000000000000000000000000000000": "loss.micro_batch=1000000000000000000000000000000",
    "loss.num_masks=1000000000000000000": "loss.num_masks=1000000000000000000",
    "loss.num_replicates=3": "loss.num_replicates is called loss.num_masks since version 0.2.0",
    "weight.elbo_num_masks=100000000000": "weight.elbo_num_masks=100000000000",
    "weight.alpha=0": "weight.alpha=0.0: the temperature α must be finite and above 0",
    "weight.alpha=1e-320": "weight.alpha=1e-320: the temperature α must be finite and above 0",
    "weight.baseline_strength=1e30": "weight.baseline_strength=1e+30: must be a number of at most 10⁶",
    "weight.alpha=!!binary aGk=": "command line: weight.alpha: ",
    "weight.baseline_strength=1e300": "weight.baseline_strength=1e+300",
    "weight.target_ess=1": "weight.target_ess=1.0: a share of the rollouts",
    "train.num_rollouts=1": "train.num_rollouts=1: the weights compare the rollouts",
    "train.num_rollouts=100000000000": "train.num_rollouts=100000000000",
    "train.num_rollouts=1000000000000000000": "train.num_rollouts=1000000000000000000",
    "train.num_rollouts=1000000": "lower train.num_rollouts",
    "train.rounds=1000000000000000000": "train.rounds=1000000000000000000",
    "train.rounds=1.5": "command line: train.rounds: ",
    "train.rounds=many": "command line: train.rounds: ",
    "train.rounds": "override 'train.rounds' is not of the form section.key=value",
    "train.prompts_per_step=999": "train.prompts_per_step=999: at most",
    "evaluation.num_samples=100000000000": "evaluation.num_samples=100000000000",
    "evaluation.num_samples=1000000000000000000": "evaluation.num_samples=1000000000000000000",
    "evaluation.num_items=0": "evaluation.num_items=0: must be at least 1",
    "threads=100000": "threads=100000: must be at least 1, and at most 1024",
    "threads=2147483648": "threads=2147483648",
    "threads=yes": "command line: threads: ",
    "seed=${SEED}": "command line: seed: ${SEED}: ${…} is not filled in here; write the value itself",
    "output=${HOME}/run": "command line: output: ${HOME}/run: ${…} is not filled in here",
    "output=???": "command line: output: a value is needed",
    "seed=???": "command line: seed: a value is needed",
    "output=": "command line: output: a value is needed",
    "output=a\x1b[31m": "command line: output: 'a\\x1b[31m' has a control character; choose another name",
    "output=a\0b": "command line: output: 'a\\x00b' has a control character",
    "output=/proc/x": "output=/proc/x: no folder can be made there",
    f"output={'x' * 5000}": "command line: output: ",
    "output=taken": "output=taken is a file; a folder is needed",
    "seed=\x1b[31mred": "command line: seed: ",
    f"seed={10**40}": "must be a number of 64 bits",
    f"seed={'9' * 5000}": "command line: seed: ",
    f"seed={'x' * 100_000}": "command line: seed: ",
    f"seed={'[' * 3000}": "command line: seed: ",
    "seed=*x": "command line: seed: ",
    "a[0]=1": "unknown key 'a[0]'",
    ".=1": "unknown key",
    "output.x=1": "unknown key 'output.x'; did you mean 'output'?",
    "sedd=1": "unknown key 'sedd'; did you mean 'seed'?",
    "task.name=chess": "task.name",
    "task.train=missing.csv": "missing.csv",
    "task.few_shot=-1": "task.few_shot=-1: must not be negative",
    "task.prompt_file=missing.txt": "prompt_file",
    "device=tpu": "device",
}
CONFIGS = {  # text of a YAML file → what its line must hold
    "output: 007": "007 would be read in base 8 or 60; write a number in decimal, a name in quotes",
    "output: yes": "c.yaml: output: True is no text",
    "output: 1:30": "1:30 would be read in base 8 or 60",
    "output: 2024_01_15": "c.yaml: output: 20240115 is no text",
    "output:": "c.yaml: output: ",
    'output: "\\0"': "c.yaml: output: '\\x00' has a control character",
    "loss: [1]": "c.yaml: loss: a section must be a mapping",
    "loss: 5": "c.yaml: loss: a section must be a mapping",
    "train:": "c.yaml: train: a section must be a mapping",
    "train: {rounds: {a: 1}}": "c.yaml: train.rounds: ",
    "1: 2": "c.yaml: unknown key '1'",
    "null: 3": "c.yaml is not valid YAML",
    "- a": "c.yaml: a mapping of sections is needed",
    "5": "c.yaml: a mapping of sections is needed",
    "": "c.yaml: model.path is not set; add it there",
    "output: ???": "c.yaml: model.path is not set",
    "seed: 1\nseed: 2": "c.yaml is not valid YAML",
    "seed: [1, {": "c.yaml is not valid YAML",
    "a: &a [1]\nseed: *a": "c.yaml is not valid YAML: a config has neither aliases nor more than a few levels",
    "{a: " * 100_000: "c.yaml is not valid YAML",
    "- " * 100_000: "c.yaml is not valid YAML",
    "seed: " + "x" * 2_000_000: "c.yaml is not valid YAML: 2,000,006 characters",
    "seed: ${x}": "c.yaml is not valid YAML: ${x}: ${…} is not filled in here",
    'seed: "\\x1b[31mred"': "c.yaml: seed: Value '\\x1b[31mred'",
    "!!python/object/apply:os.system ['touch pwned']": "c.yaml: a mapping of sections is needed",
    "seed: !!python/name:os.system ''": "c.yaml is not valid YAML",
    "output: !!binary aGk=": "c.yaml: output: b'hi' is no text",
    "seed: 'a\0b'": "c.yaml is not valid YAML",
}
DATA = {  # (task, name, text) → what the line must hold
    ("sudoku", "d.csv", ""): "d.csv",
    ("sudoku", "d.csv", "a,b\n1,2\n"): "d.csv, row 1: the columns Puzzle, Solution are needed",
    ("sudoku", "d.csv", "\0" * 4000): "d.csv",
    ("gsm8k", "q.csv", 'question,answer\n"a","#### 1"\n"b,#### 2\n"c",#### 3\n'): "is a quote not closed?",
    ("gsm8k", "h.jsonl", '{"question": "\\ud800", "answer": "#### 1"}\n'): "h.jsonl, row 1: half a character",
    ("sudoku", "d.csv", ",".join("a" * 100_000)): "d.csv holds no row",
    ("sudoku", "d.csv", "Puzzle,Solution\n123,456\n"): "d.csv",
    ("sudoku", "d.csv", "Puzzle,Solution\n"): "d.csv",
    ("sudoku", "d.txt", "x"): "d.txt",
    ("countdown", "d.jsonl", "{"): "d.jsonl cannot be read as jsonl: line 1",
    ("countdown", "d.jsonl", "[1]\n"): "d.jsonl, row 1",
    ("countdown", "d.jsonl", '{"nums": "\\u001b[31m", "target": 5}\n'): "d.jsonl",
    ("countdown", "d.json", "[" * 100_000): "d.json cannot be read as json",
    ("countdown", "d.json", "{}"): "d.json holds no row",
    ("gsm8k", "d.jsonl", '{"question": "q"}\n'): "d.jsonl, row 1: the columns",
    ("gsm8k", "d.jsonl", '{"question": "q", "answer": "none"}\n'): "d.jsonl",
    ("math500", "d.jsonl", ""): "d.jsonl holds no row",
}
COMMANDS = {  # command line → what its line must hold
    "train no/such.yaml": "no config file no/such.yaml: give the path",
    f"train {'x' * 5000}": "choose a shorter name",
    "train \x1b[31m": "no config file \\x1b[31m",
    "train .": "no config file .",
    "sample toy_sudoku --item 256": "--item 256",
    f"sample toy_sudoku --item {'9' * 5000}": "argument --item: invalid int value",
    "sample toy_sudoku --num-samples 0": "must be at least 1",
    "sample toy_sudoku --puzzle 12": "puzzle '12' has 2 characters",
    "sample toy_sudoku --draw x.doc": "a picture must end in",
    "sample toy_sudoku sampler.name=threshold sampler.threshold=2 weight.log_ratio=none": "sampler.threshold=2.0: a probability",
    "evaluate toy_sudoku --lengths x": "not a list of lengths",
    "evaluate toy_sudoku --samplers best": "best",
    "evaluate toy_sudoku --output taken": "is a file; a folder is needed",
    "plan toy_sudoku --gpu-memory nan": "gpu_memory=nan: must be finite and above 0",
    "plan toy_sudoku --flops 1e400": "flops=inf: must be finite and above 0",
    "evaluate toy_sudoku --output ": "argument --output: the name is empty; is a variable of the shell not set?",
    "grade taken --output ": "argument --output: the name is empty",
    "table --figure ": "argument --figure: the name is empty",
    "sample toy_sudoku --draw ": "argument --draw: the name is empty",
    "sample toy_sudoku --item 1 --puzzle 1": "argument --puzzle: not allowed with argument --item",
    "sample toy_sudoku --puzzle \udcff": "argument --puzzle: the text is not UTF-8",
    "evaluate toy_sudoku --samplers ,": "',' is an empty list; leave the option out, or name at least one",
    "evaluate toy_sudoku --lengths ,": "',' is an empty list",
    "plan toy_sudoku --gpu v100": "gpu=v100: choose among h100",
    "plan toy_sudoku --flops -1": "flops=-1.0: must be finite and above 0",
    "plan toy_sudoku --prompt-length 1000000000000": "do not fit the model's max_sequence_length",
    "plan toy_sudoku --num-processes 0": "num_processes=0: must be above 0",
    "plan toy_sudoku --strategy zero9": "strategy=zero9",
    "grade missing.jsonl": "no file missing.jsonl",
    "grade \x1b[31mx.jsonl": "\\x1b[31mx.jsonl",
    "grade taken": "taken",
    "table missing": "missing",
    "export missing out": "no checkpoint there",
    "export missing taken": "taken exists",
    "pretrain-toy steps=20": "steps=20: must be at least 21",
    "pretrain-toy output=/proc/x": "output=/proc/x: no folder can be made there",
    "pretrain-toy seed=${x}": "seed: ${x}",
    "pretrain-toy learning_rate=1e300": "learning_rate=1e+300: must be finite",
    "pretrain-toy threads=100000": "threads=100000",
    "pretrain-toy width=6": "width=6: must be a multiple",
    "demo --seed x": "argument --seed: invalid int value",
    "demo --output broken": "broken/summary.json is not the summary of a demonstration",
    "bench everything": "everything: choose among loss, elbo, samplers",
    "fly": "invalid choice",
}
CASES = [
    *(([("c.yaml", text)], ["train", "c.yaml"], line) for text, line in CONFIGS.items()),
    *(([], ["train", "toy_sudoku", word], line) for word, line in OVERRIDES.items()),
    *(([(n, text)], ["train", "toy_sudoku", f"task.name={task}", f"task.train={n}"], line) for (task, n, text), line in DATA.items()),
    *(([], command.split(" "), line) for command, line in COMMANDS.items()),
]  # fmt: skip


@pytest.mark.parametrize(("files", "words", "line"), CASES, ids=[f"{number}" for number in range(len(CASES))])
def test_a_bad_input_is_one_line_that_says_what_to_do(files, words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("mine")
    Path("broken").mkdir()
    Path("broken/summary.json").write_text(json.dumps({"seed": 0}))
    for name, text in files:
        Path(name).write_text(text, encoding="utf-8")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    if words[0] == "train" and not any(word.startswith("output=") for word in words) and words[1] == "toy_sudoku":
        words = [*words, "output=run"]
    try:
        code = main(words)
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("dmpo: ") and error.count("\n") == 1 and "\x1b" not in error
    assert line in error, error
    assert len(error) < 700
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_the_table_is_long_enough():
    assert len(CASES) >= 150
