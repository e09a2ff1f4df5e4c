"""?"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dmpo_ref.config import Config, describe_options
from dmpo_ref.presets.checks import check_config

PRESETS = Path(__file__).parent


def load_config(source: str | Path, *overrides: str) -> Config:
    """Read a YAML file (or a preset by its name), apply `section.key=value` overrides, check, and return the config.

    A path in the file that starts with `./` or `../` is relative to the file, every other one to the current folder.

    Raises:
        FileNotFoundError: no such file or preset.
        ValueError: an unknown key (the nearest valid one is named), a value of the wrong type, or an impossible value.
    """
    path = find_config(source)
    try:
        from_file = OmegaConf.load(path)
    except Exception as error:  # the parser raises a family of its own; whatever it is, the file is not YAML
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(from_file):
        raise ValueError(f"{path}: a mapping of sections is needed, such as `train:` with `rounds: 10` under it")
    merged = merge(Config, (from_file, str(path)), (parse_overrides(overrides), "command line"))
    config = OmegaConf.to_object(merged)
    given = parse_overrides(overrides)
    for key in ("model.path", "task.train", "task.test"):
        value = OmegaConf.select(merged, key)
        if value.startswith(("./", "../")):
            # Made absolute in either case, so that the config that a run writes means the same wherever it is read.
            root = path.parent if OmegaConf.select(given, key) is None else Path.cwd()
            section, name = key.split(".")
            setattr(getattr(config, section), name, str((root / value).resolve()))
    check_config(config)
    return config


def load_options(cls: type, *overrides: str) -> Any:
    """A single dataclass of options from `key=value` overrides; errors as in `load_config`."""
    return OmegaConf.to_object(merge(cls, (parse_overrides(overrides), "command line")))


def parse_overrides(overrides: tuple[str, ...]) -> DictConfig:
    """`section.key=value` words, values read as YAML."""
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ValueError(f"override {override!r} is not of the form section.key=value")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:  # again a parser's own family of errors
        raise ValueError(f"command line: {' '.join(str(error).split())}") from error


def merge(cls: type, *layers: tuple[Any, str]) -> DictConfig:
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


def find_config(source: str | Path) -> Path:
    """Path of a config file, or of the preset of that name."""
    for path in (Path(source), PRESETS / f"{source}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
    raise FileNotFoundError(f"no config file {source}: give the path of a YAML file or a preset ({names})")


def to_yaml(config: Config) -> str:
    """The complete config as YAML, as `load_config` reads it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def describe_error(error: OmegaConfBaseException, origin: str, cls: type) -> str:
    """One line for an error of the configuration library: which key, what was wrong, what would be right."""
    key, known = error.full_key or "", list(describe_options(cls))
    sections = sorted({k.rsplit(".", 1)[0] for k in known if "." in k})
    if key and key not in [*known, *sections]:
        nearest = difflib.get_close_matches(key, [*known, *sections], n=1, cutoff=0.0)[0]
        return f"{origin}: unknown key {key[:80]!r}; did you mean {nearest!r}?"
    message = str(error).splitlines()[0]
    if "Merge error" in message:
        message = "a section must be a mapping of options, such as `train:` with `rounds: 10` under it"
    wanted = f" (wanted: {describe_options(cls)[key][0]}; {describe_options(cls)[key][2]})" if key in known else ""
    return f"{origin}: {key + ': ' if key else ''}{message}{wanted}"
