"""Reading a config: a YAML file or a preset, `key=value` overrides on it, and what is wrong with either in one line."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dmpo_ref.config import Config, describe_options
from dmpo_ref.presets.checks import check_config

PRESETS = Path(__file__).parent
PATHS = ("model.path", "task.train", "task.test")  # relative to the file that names them, if they start with ./ or ../
RENAMED = {"loss.num_replicates": "loss.num_masks", "weight.elbo_replicates": "weight.elbo_num_masks"}  # in 0.2.0


def load_config(source: str | Path, *overrides: str) -> Config:
    """Read a YAML file (or a preset by its name), apply `section.key=value` overrides, check, and return the config.

    A path in the file that starts with `./` or `../` is relative to the file, every other one to the current folder.

    Raises:
        FileNotFoundError: no such file or preset.
        ValueError: an unknown key (the nearest valid one is named), a value of the wrong type, or an impossible value.
    """
    path = find_config(source)
    from_file, given = read_yaml(path), parse_overrides(overrides)
    merged = merge(Config, (from_file, str(path)), (given, "command line"))
    for key in PATHS:
        if (value := OmegaConf.select(merged, key)).startswith(("./", "../")):
            # Made absolute in either case, so that the config that a run writes means the same wherever it is read.
            root = path.parent if OmegaConf.select(given, key) is None else Path.cwd()
            OmegaConf.update(merged, key, str((root / value).resolve()))
    config = cast(Config, OmegaConf.to_object(merged))
    check_config(config)
    return config


def validate(config: Config) -> Config:
    """A copy of a config that was made or changed in Python, read as a file that says the same would be.

    Raises:
        ValueError: a value of the wrong type, an impossible value, or options that do not go together.
    """
    values = OmegaConf.create(dataclasses.asdict(config), flags={"allow_objects": True})
    config = cast(Config, OmegaConf.to_object(merge(Config, (values, "config"))))
    check_config(config)
    return config


def load_run_config(path: Path) -> Config:
    """The config of an earlier run, written by this version or by one that had other names for some options."""
    from_file = read_yaml(path)
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        if section in from_file and name in from_file[section]:
            OmegaConf.update(from_file, new, from_file[section].pop(name))
    return cast(Config, OmegaConf.to_object(merge(Config, (from_file, str(path)))))


def load_options(cls: type, *overrides: str) -> Any:
    """A single dataclass of options from `key=value` overrides; errors as in `load_config`."""
    return OmegaConf.to_object(merge(cls, (parse_overrides(overrides), "command line")))


def to_yaml(config: Config) -> str:
    """The complete config as YAML, as `load_config` reads it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def find_config(source: str | Path) -> Path:
    """Path of a config file, or of the preset of that name."""
    for path in (Path(source), PRESETS / f"{source}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
    raise FileNotFoundError(f"no config file {source}: give the path of a YAML file or a preset ({names})")


def read_yaml(path: Path) -> DictConfig:
    """The mapping in a YAML file."""
    try:
        content = OmegaConf.load(path)
    except Exception as error:  # the parser raises a family of its own; whatever it is, the file is not YAML
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, DictConfig):
        raise ValueError(f"{path}: a mapping of sections is needed, such as `train:` with `rounds: 10` under it")
    return content


def parse_overrides(overrides: tuple[str, ...]) -> DictConfig:
    """`section.key=value` words, values read as YAML."""
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ValueError(f"override {override!r} is not of the form section.key=value")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:  # again a parser's own family of errors
        raise ValueError(f"command line: {' '.join(str(error).split())}") from error


def merge(cls: type, *layers: tuple[DictConfig, str]) -> DictConfig:
    """The defaults of a dataclass, overlaid with layers of (values, where they came from)."""
    merged = OmegaConf.structured(cls)
    for layer, origin in layers:
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ValueError(describe_error(error, origin, cls)) from error
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ValueError(f"{layers[0][1]}: {missing[0]} is not set; add it there or give {missing[0]}=… on the command line")
    return merged


def describe_error(error: OmegaConfBaseException, origin: str, cls: type) -> str:
    """One line for an error of the configuration library: which key, what was wrong, what would be right."""
    key, options = error.full_key or "", describe_options(cls)
    if key in RENAMED:
        return f"{origin}: {key} is called {RENAMED[key]} since version 0.2.0"
    known = [*options, *sorted({option.rpartition(".")[0] for option in options} - {""})]
    if key and key not in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        return f"{origin}: unknown key {key[:80]!r}; did you mean {nearest!r}?"
    message = str(error).splitlines()[0]
    if "Merge error" in message:
        message = "a section must be a mapping of options, such as `train:` with `rounds: 10` under it"
    wanted = f" (wanted: {options[key].kind}; {options[key].help})" if key in options else ""
    return f"{origin}: {key + ': ' if key else ''}{message}{wanted}"
