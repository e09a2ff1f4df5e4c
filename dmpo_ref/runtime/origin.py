"""Where the numbers of a run come from: digests of its data and of p_ref, versions, revision, seed and command line.

Digests are kept in every checkpoint, so that a run does not continue with other data or another p_ref of the same name. The rest is in
`run.json`, for `dmpo rerun` and for people.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dmpo_ref import __version__
from dmpo_ref.config import Config, describe_options, get_option
from dmpo_ref.models.files import read_object
from dmpo_ref.models.fingerprint import fingerprint_parts
from dmpo_ref.presets.loading import read_yaml, to_yaml
from dmpo_ref.runtime.files import read_entries, write_atomically
from dmpo_ref.tasks.base import Task

NAME = "run.json"


def versions() -> dict[str, str]:
    """Versions of this library and of those whose tokens and random numbers an answer depends on."""
    return {"dmpo_ref": __version__, **{name: version(name) for name in ("torch", "transformers", "tokenizers")}}


def digests_of_data(config: Config, task: Task, train: list[Any], test: list[Any]) -> dict[str, str]:
    """SHA-256 of the items of `task.train` and `task.test` and of the text of `task.prompt_file`, by the name of the option.

    For a task that was made in Python for training and has no `record`, the digests are those of the files, if there are any.
    """
    found = digest_of_prompt(config)
    for name, items in (("train", train), ("test", test)):
        file = Path(getattr(config.task, name))
        if hasattr(task, "record"):
            text = json.dumps([task.record(item) for item in items], default=lambda value: type(value).__name__).encode()
        elif file.is_file():
            text = file.read_bytes()
        else:
            continue
        found[f"task.{name}"] = hashlib.sha256(text).hexdigest()
    return found


def digest_of_prompt(config: Config) -> dict[str, str]:
    """SHA-256 of the text of `task.prompt_file`; nothing if there is none."""
    file = config.task.prompt_file
    return {} if file is None else {"task.prompt_file": hashlib.sha256(Path(file).read_bytes()).hexdigest()}


def digests_of_start(config: Config) -> dict[str, str]:
    """SHA-256 of each part of `model.path` that decides p_ref; the tokenizer is in the checkpoints."""
    return {f"model.path {name}": value for name, value in fingerprint_parts(config.model.path).items() if "tokenizer" not in name}


def digests_of_base(origin: dict[str, str]) -> dict[str, str]:
    """Of the digests of an origin those of p_ref's model, as `digests_of_model` names them; {} if they are not all there."""
    found = {name: origin.get(f"model.path {name}", "") for name in ("config.json", "weights")}
    return found if all(found.values()) else {}


def check_origin(then: dict[str, str], now: dict[str, str], config: Config) -> None:
    """Refuse to resume with other contents under the same names.

    Raises:
        ValueError: a digest of `now` that differs from the checkpoint's; the option is named.
    """
    for name, value in now.items():
        if then.get(name, value) != value:
            option, _, part = name.partition(" ")
            what = f"{part} of p_ref in it" if part else "contents"
            problem = f"{option}={get_option(config, option)}: the {what} are not those that {config.output} was run with"
            raise ValueError(f"{problem}; put them back, or choose another output")


def check_given(config: Config, from_python: Collection[str]) -> None:
    """Refuse to resume without an argument from Python that the run had, or with one that it had not; `on_round` changes no number.

    Raises:
        ValueError: the first such argument.
    """
    if not (starts := read_run(Path(config.output)).get("starts")):  # as of an earlier version
        return
    then, now = set(given_in(starts)), set(from_python) - {"on_round"}
    for name in sorted(then ^ now):
        what, remedy = ("with", "give it again, from Python") if name in then else ("without", "leave it out")
        raise ValueError(f"output={config.output} was run {what} {name}= from Python; {remedy}, or choose another output")


def given_in(starts: list[dict[str, Any]]) -> list[str]:
    """Names of the arguments from Python that any start of a run had; not `on_round`, which changes no number."""
    return sorted({name for start in starts for name in start["from_python"]} - {"on_round"})


def changed_versions(starts: list[dict[str, Any]]) -> list[str]:
    """What is of another version now than when a run was last started, in words."""
    then = starts[-1]["versions"] if starts else {}
    return [f"{name} {then[name]} then, {new} now" for name, new in versions().items() if then.get(name, new) != new]


def warn_of_versions(config: Config) -> None:
    """One line on stderr if a run goes on with other versions than it was last started with: its numbers may then differ."""
    if changed := changed_versions(read_run(Path(config.output)).get("starts", [])):
        problem = f"{config.output} goes on with other versions, so its numbers may differ"
        print(f"dmpo: warning: {problem}: {'; '.join(changed)}", file=sys.stderr)


def record_start(config: Config, *, round_number: int, from_python: list[str]) -> None:
    """Add to `run.json` how this process was started: command line, versions, revision of the code, and from which round on.

    Args:
        from_python: names of the arguments of `train` that no config holds, such as a reward function.
    """
    known = read_run(Path(config.output))
    start = {
        "round": round_number,
        "command": sys.argv,
        "from_python": from_python,
        "git": revision(),
        "versions": {"python": platform.python_version(), **versions()},
    }
    earlier = known.get("starts", []) if round_number else []
    write_run(Path(config.output), known | {"seed": config.seed, "starts": [*earlier, start]})


def record_checkpoint(output: Path, round_number: int) -> None:
    """Note in `run.json` that there is a checkpoint: without one there is nothing to lose, and a run may start again."""
    write_run(output, {"starts": []} | read_run(output) | {"checkpoint": round_number})


def read_run(output: Path) -> dict[str, Any]:
    """The contents of `run.json`; {} if there is none.

    Raises:
        ValueError: it is damaged, or another program's.
    """
    if not (output / NAME).is_file():
        return {}
    with suppress(ValueError, TypeError, KeyError):
        found = read_object(output / NAME)
        if all(isinstance(start["from_python"], list) and isinstance(start["versions"], dict) for start in found["starts"]):
            return found
    raise ValueError(f"{output / NAME} is not as a run has written it; move it away, and the same command goes on")


def write_run(output: Path, fields: dict[str, Any]) -> None:
    """Write `run.json`."""
    write_atomically(output / NAME, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def revision() -> str | None:
    """The git commit of this code, with `-dirty` if files differ from it; None if it is not in its own repository."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def check_output(config: Config, *, has_checkpoint: bool) -> None:
    """Refuse a folder in which a run would overwrite files of others, or the results of an earlier run.

    Raises:
        ValueError: it holds a config.yaml that no run has written, or the metrics of a run whose checkpoints were removed.
    """
    output, file = Path(config.output), Path(config.output) / "config.yaml"
    known, entries = read_run(output), read_entries(output / "metrics.jsonl", before_round=sys.maxsize)
    # Earlier versions wrote no run.json: then it counts whether a checkpoint was due or a final evaluation was made.
    passed = (entry["round"] >= config.train.checkpoint_every or "evaluation/accuracy" in entry for entry in entries)
    if not has_checkpoint and ("checkpoint" in known if known else any(passed)):
        raise ValueError(f"output={output} holds the metrics of a run whose checkpoints were removed; choose another output, or remove it")
    is_run = bool(known or entries or has_checkpoint)
    if file.is_file() and not (is_run and is_complete(file)) and file.read_bytes() != to_yaml(config).encode():
        raise ValueError(f"{file} was not written by a run, which would replace it; choose another output, or move the file")


def is_complete(file: Path) -> bool:
    """Whether a YAML file is a whole config in the form in which a run writes it, so that no comment of a user is in it."""
    try:
        fields = read_yaml(file)
    except ValueError:
        return False
    sections = {name for name, _, rest in (key.partition(".") for key in describe_options()) if rest}
    return sections <= fields.keys() and OmegaConf.to_yaml(fields) == file.read_text(encoding="utf-8")
