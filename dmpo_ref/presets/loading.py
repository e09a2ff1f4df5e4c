"""Reading a config: a YAML file or a preset, `key=value` overrides on it, and one-line errors about either."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import unicodedata
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dmpo_ref.config import (
    Config,
    EvaluationConfig,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
    WeightConfig,
    describe_options,
    name_options,
    shorten,
)
from dmpo_ref.presets.checks import check_config

PRESETS = Path(__file__).parent
PATHS = ("model.path", "task.train", "task.test", "task.prompt_file")  # relative to the file that names them, if they start with ./ or ../
MOST_CHARACTERS, MOST_LEVELS = 10**6, 20  # of a config file; more is not a config, and takes the parser minutes or overflows its stack
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?)")  # of a number in YAML 1.1: 010 is 8, 1:30 is 90
COMMAND_LINE = "command line"
RENAMED = {"loss.num_replicates": "loss.num_masks", "weight.elbo_replicates": "weight.elbo_num_masks"}  # in 0.2.0


def load_config(source: str | Path, *overrides: str, for_sampling: bool = False) -> Config:
    """Read a YAML file (or a preset by its name), apply `section.key=value` overrides, check, and return the config.

    A path in the file that starts with `./` or `../` is relative to the file, every other one to the current folder; `~` is the home
    folder. In an override a name or a path is taken literally, even if it looks like a number or a comment of YAML.

    Args:
        for_sampling: check only what drawing answers with `sampler` needs: a sampler that no weight or loss goes with is none the worse.

    Raises:
        FileNotFoundError: no such file or preset.
        ValueError: an unknown key (the nearest valid one is named), a value of the wrong type, or an impossible value.
    """
    path = find_config(source)
    from_file, given = read_yaml(path), parse_overrides(Config, overrides)
    merged = merge(Config, (from_file, str(path)), (given, COMMAND_LINE))
    for key in PATHS:
        if (value := OmegaConf.select(merged, key) or "").startswith(("./", "../")):
            # Made absolute in either case, so that the config that a run writes means the same wherever it is read.
            root = path.parent if OmegaConf.select(given, key) is None else Path.cwd()
            OmegaConf.update(merged, key, str((root / value).resolve()))
    config = cast(Config, OmegaConf.to_object(merged))
    check_config(dataclasses.replace(config, **unused_by_sampling()) if for_sampling else config)
    return config


def unused_by_sampling() -> dict[str, Any]:
    """The sections that drawing answers does not read, with values that go with any sampler."""
    weight, train = WeightConfig(log_ratio="none"), TrainConfig(num_rollouts=2, prompts_per_round=1)
    return {"weight": weight, "train": train, "loss": LossConfig(), "optimizer": OptimizerConfig(), "evaluation": EvaluationConfig()}


def validate(config: Config) -> Config:
    """Check a config that was made or changed in Python, as if it were read from a file; returns a copy, with paths as texts.

    Raises:
        ValueError: a value of the wrong type, an impossible value, or options that do not go together.
    """
    values = OmegaConf.create(dataclasses.asdict(config), flags={"allow_objects": True})
    for key in name_options():
        if isinstance(name := OmegaConf.select(values, key), os.PathLike):
            OmegaConf.update(values, key, os.fspath(name))
    config = cast(Config, OmegaConf.to_object(merge(Config, (values, "config"))))
    check_config(config)
    return config


def load_run_config(path: Path) -> Config:
    """The config of an earlier run, written by this version or by one that had other names for some options."""
    from_file = read_yaml(path)
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        if isinstance(from_file.get(section), DictConfig) and name in from_file[section]:
            OmegaConf.update(from_file, new, from_file[section].pop(name))
    return cast(Config, OmegaConf.to_object(merge(Config, (from_file, str(path)))))


def load_options(cls: type, *overrides: str) -> Any:
    """A single dataclass of options from `key=value` overrides; errors as in `load_config`."""
    return OmegaConf.to_object(merge(cls, (parse_overrides(cls, overrides), COMMAND_LINE)))


def to_yaml(config: Config) -> str:
    """The complete config as YAML, as `load_config` reads it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def find_config(source: str | Path) -> Path:
    """Path of a config file, or of the preset of that name."""
    for path in (Path(source), PRESETS / f"{source}.yaml"):
        if path.is_file():
            return path
    if (inside := Path(source) / "config.yaml").is_file():
        raise FileNotFoundError(f"no config file {shorten(source)}: it is a folder; give the file in it, {shorten(inside)}")
    raise FileNotFoundError(f"no config file {shorten(source)}: give the path of a YAML file or a preset ({', '.join(preset_names())})")


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_yaml(path: Path) -> DictConfig:
    """The mapping in a YAML file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = OmegaConf.create(text) if check_yaml(text) else None
    except OSError:
        raise  # it could not be read: nothing is known of what it holds
    except Exception as error:  # the parser raises several kinds; with any of them the file is not YAML
        raise ValueError(f"{path} is not valid YAML: {shorten(error)}") from error
    if not isinstance(content, DictConfig):
        raise ValueError(f"{path}: a mapping of sections is needed, such as `train:` with `rounds: 10` under it")
    return content


def check_yaml(text: str) -> bool:
    """Refuse text that is too long or too deep for the parser, or that a config does not need (ValueError). Returns whether it is a
    mapping, or empty."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters; a config has at most {MOST_CHARACTERS:,}")
    level, outermost = 0, None
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        outermost = outermost or (event if isinstance(event, yaml.NodeEvent) else None)
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_LEVELS or isinstance(event, yaml.AliasEvent):
            raise ValueError("a config has neither aliases nor more than a few levels; write its sections out")
        if isinstance(event, yaml.ScalarEvent):
            check_filled_in(event.value)
            if event.style is None and OTHER_BASE.fullmatch(event.value):
                raise ValueError(f"{shorten(event.value)} would be read in base 8 or 60; write a number in decimal, a name in quotes")
    return outermost is None or isinstance(outermost, yaml.MappingStartEvent)


def check_filled_in(text: str) -> None:
    """Refuse `${x}`, which another tool or the shell should have filled in (ValueError)."""
    if "${" in text:
        raise ValueError(f"{shorten(text)}: ${{…}} is not filled in here; write the value itself")


def parse_overrides(cls: type, overrides: tuple[str, ...]) -> DictConfig:
    """`section.key=value` words. A value is read as YAML, but a name or a path is taken literally."""
    given, names = OmegaConf.create({}), name_options(cls)
    for override in overrides:
        if not isinstance(override, str):
            right = 'each override is a text of its own: load_config(source, "section.key=value", …); a list is given as *list'
            raise ValueError(f"override {shorten(repr(override))}: {right}")
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise ValueError(f"override {shorten(repr(override))} is not of the form section.key=value")
        check_key(key, COMMAND_LINE, cls)
        try:
            check_filled_in(text)
            if text == "???" or (key in names and text == ""):
                raise ValueError("a value is needed")
            if key in names:
                OmegaConf.update(given, key, None if text == "null" else text)
            else:
                check_yaml(text)
                given = cast(DictConfig, OmegaConf.merge(given, OmegaConf.from_dotlist([override])))
        except Exception as error:  # again a parser's own family of errors
            raise ValueError(f"{COMMAND_LINE}: {key}: {shorten(error)}") from error
    return given


def merge(cls: type, *layers: tuple[DictConfig, str]) -> DictConfig:
    """The defaults of a dataclass, overlaid with layers of (values, where they came from); `~` is the home folder."""
    merged = OmegaConf.structured(cls)
    for layer, origin in layers:
        check_values(OmegaConf.to_container(layer), origin, cls)
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ValueError(describe_config_error(error, origin, cls)) from error
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ValueError(f"{layers[0][1]}: {missing[0]} is not set; add it there or give {missing[0]}=… on the command line")
    for key in name_options(cls):
        if (name := OmegaConf.select(merged, key)) is not None:
            OmegaConf.update(merged, key, os.path.expanduser(name))
    return merged


def check_values(values: Any, origin: str, cls: type, prefix: str = "") -> None:
    """Refuse unknown keys, sections that are not mappings, and names that are not valid text (ValueError)."""
    names, options = name_options(cls), describe_options(cls)
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_section = check_key(key, origin, cls)
        if is_section and not isinstance(value, dict):
            raise ValueError(f"{origin}: {key}: a section must be a mapping of options, such as `train:` with `rounds: 10` under it")
        if is_section:
            check_values(value, origin, cls, f"{key}.")
        elif key in options and options[key].kind.startswith("list") and not isinstance(value, list):
            right = f"[{value}]" if isinstance(value, str) else "[first, second]"
            raise ValueError(f"{origin}: {key}: {shorten(value)} is no list; write {shorten(right)}")
        elif key in names and value is not None:
            if not isinstance(value, str):
                raise ValueError(f"{origin}: {key}: {shorten(value)} is no text in YAML; put the name in quotes")
            if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
                raise ValueError(f"{origin}: {key}: {shorten(ascii(value))} has a control character; choose another name")
            if any(len(part.encode()) > 255 for part in value.split("/")):
                raise ValueError(f"{origin}: {key}: {shorten(value)} is too long for a file system; choose a shorter name")


def check_key(key: str, origin: str, cls: type) -> bool:
    """Refuse an unknown key, naming the nearest known one (ValueError). Returns whether it is a section."""
    options = describe_options(cls)
    sections = {option.rpartition(".")[0] for option in options} - {""}
    if key in RENAMED:
        raise ValueError(f"{origin}: {key} is called {RENAMED[key]} since version 0.2.0")
    if key.partition(".")[0] not in {*options, *sections}:
        key = key.partition(".")[0]
    if key not in options and key not in sections:
        nearest = difflib.get_close_matches(key[:80], [*options, *sorted(sections)], n=1, cutoff=0.0)[0]
        raise ValueError(f"{origin}: unknown key {key[:80]!r}; did you mean {nearest!r}?")
    return key in sections


def describe_config_error(error: OmegaConfBaseException, origin: str, cls: type) -> str:
    """One line for an error of the configuration library: which key, what was wrong, what would be right."""
    key, options = error.full_key or "", describe_options(cls)
    problem, kind = str(error).splitlines()[0], options[key].kind if key in options else ""
    if kind.startswith("one of "):
        problem, names = re.split(", expected one of| for field of type", problem)[0], re.sub(r"[\[\]']", "", kind)
        return f"{origin}: {key}: {shorten(problem)}, expected {names}"
    wanted = f" (wanted: {kind}; {options[key].help})" if kind else ""
    return f"{origin}: {key + ': ' if key else ''}{shorten(problem)}{wanted}"
