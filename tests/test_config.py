"""Configuration: what a user can get wrong is told in one line that names the key."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmpo_ref import train
from dmpo_ref.config import Config, describe_options, get_option
from dmpo_ref.forecast.plan import make_plan
from dmpo_ref.presets.loading import PRESETS, load_config, to_yaml, validate


def test_every_preset_loads_and_every_option_is_described():
    for preset in PRESETS.glob("*.yaml"):
        assert isinstance(load_config(preset.stem), Config)
    for key, option in describe_options().items():
        assert len(option.help) > 10, key


def test_overrides_win_over_the_file_and_the_written_config_reads_back(tmp_path):
    config = load_config("toy_sudoku", "weight.alpha=0.5", "train.num_rollouts=16", "weight.target_ess=0.3")
    assert (config.weight.alpha, config.train.num_rollouts, config.weight.target_ess) == (0.5, 16, 0.3)
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_paths_with_a_dot_are_relative_to_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("toy_sudoku").model.path == str(PRESETS.parent.parent / "toy" / "checkpoint")
    assert load_config("toy_sudoku", "model.path=./mine").model.path == str(tmp_path / "mine")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "own.yaml").write_text("{output: out, model: {path: ./m}, task: {train: ../a, test: b, prompt_file: ./p.txt}}")
    own = load_config("deep/own.yaml")
    assert (own.model.path, own.task.train, own.task.test) == (str(tmp_path / "deep" / "m"), str(tmp_path / "a"), "b")
    assert own.task.prompt_file == str(tmp_path / "deep" / "p.txt") and load_config("toy_sudoku").task.prompt_file is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("weight.alhpa=1", "command line: unknown key 'weight.alhpa'; did you mean 'weight.alpha'"),
        ("wieght.alpha=1", "unknown key 'wieght'; did you mean 'weight'"),
        ("train.round=3", "did you mean 'train.rounds'"),
        ("sede=3", "did you mean 'seed'"),
        ("weight.alpha=warm", "weight.alpha: .*warm"),
        ("weight.baseline=paper", "weight.baseline: .*paper"),
        ("weight.alpha", "not of the form section.key=value"),
        ("weight.alpha=0", "weight.alpha=0.0: the temperature α must be finite and above 0"),
        ("weight.alpha=-1", "weight.alpha=-1.0"),
        ("weight.alpha=nan", "weight.alpha=nan"),
        ("train.num_rollouts=1", "train.num_rollouts=1: .*at least 2"),
        ("train.rounds=0", "train.rounds=0: must be at least 1"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate=0.0: must be finite and above 0"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate=inf: must be finite and above 0"),
        ("weight.target_ess=1.5", "weight.target_ess=1.5"),
        ("sampler.temperature=-1", "sampler.temperature=-1.0"),
        ("sampler.block_length=0", "sampler.block_length=0"),
        ("sampler.steps=4", "sampler.steps=4: random_order places one token per step"),
        ("train.prompts_per_step=999", "train.prompts_per_step=999: at most"),
        ("train.resync_every=2", "train.resync_every=2: log_ratio=none"),
        ("device=tpu", "device: .*tpu"),
        ("model.path=null", "model.path"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(override, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config("toy_sudoku", override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.name=confidence", "weight.log_ratio=path"], "only sampler.name=random_order has a path probability"),
        (
            ["sampler.name=confidence", "weight.log_ratio=none", "loss.masks=path_steps"],
            "^loss.masks=path_steps: only sampler.name=random_order",
        ),
        (["sampler.temperature=0", "weight.log_ratio=path"], "draws without a probability"),
        (["loss.name=wddo", "weight.baseline=uniform"], "wddo has its own negative term"),
        (["loss.name=wddo", "weight.target=reward"], "wddo needs weights that sum to 1"),
        (["weight.target=reward", "weight.baseline=model"], "target=reward has the baselines"),
        (["weight.target=reward", "weight.target_ess=0.5"], "no softmax to temper"),
    ],
)
def test_combinations_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config("toy_sudoku", *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler.name=confidence"],
        ["sampler.temperature=0"],
        ["loss.masks=path", "sampler.name=wino"],
        ["sampler.micro_batch=4", "optimizer.learning_rate=1", "optimizer.weight_decay=2"],
        ["sampler.micro_batch=4", "evaluation.sampler.name=wino", "evaluation.sampler.guidance=2"],
    ],
)
def test_drawing_answers_needs_no_weights_that_go_with_the_sampler(overrides):
    with pytest.raises(ValueError, match=r"weight\.log_ratio|loss\.masks|optimizer\.weight_decay|evaluation\.sampler"):
        load_config("text_sudoku", *overrides)
    assert load_config("text_sudoku", *overrides, for_sampling=True).sampler != load_config("text_sudoku").sampler
    with pytest.raises(ValueError, match="sampler.guidance=2.0: wino has no guidance"):
        load_config("text_sudoku", "sampler.name=wino", "sampler.guidance=2", for_sampling=True)


def test_overrides_in_a_list_are_refused_with_the_way_to_give_them():
    with pytest.raises(ValueError, match=r"override \['seed=1'\]: each override is a text of its own: .*\*list"):
        load_config("toy_sudoku", ["seed=1"])


def test_a_path_of_python_is_a_name(tmp_path):
    config = load_config("toy_sudoku")
    config.output, config.task.train = tmp_path / "run", tmp_path / "train.csv"
    checked = validate(config)
    assert (checked.output, checked.task.train) == (str(tmp_path / "run"), str(tmp_path / "train.csv"))


def test_a_folder_with_a_config_is_told_where_the_config_is(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(FileNotFoundError, match=r"it is a folder; give the file in it, .*config\.yaml"):
        load_config(tmp_path)


def test_a_missing_file_names_the_presets():
    with pytest.raises(FileNotFoundError, match=r"no config file nowhere: .*toy_sudoku"):
        load_config("nowhere")


def test_a_file_that_is_not_yaml_or_lacks_a_key_is_one_line(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("weight: [1, {")
    with pytest.raises(ValueError, match=r"c\.yaml is not valid YAML") as caught:
        load_config(file)
    assert "\n" not in str(caught.value)
    file.write_text("seed: 1\n")
    with pytest.raises(ValueError, match=r"c\.yaml: model\.path is not set"):
        load_config(file)
    file.write_text("wieght:\n  alpha: 1\n")
    with pytest.raises(ValueError, match=r"c\.yaml: unknown key 'wieght'; did you mean 'weight'"):
        load_config(file)


def changed(key, value, *overrides):
    """A config that is changed in Python, after it was read."""
    config = load_config("toy_sudoku", *overrides)
    section, _, name = key.rpartition(".")
    setattr(getattr(config, section) if section else config, name, value)
    return config


@pytest.mark.parametrize(
    ("key", "value", "overrides", "message"),
    [
        ("weight.baseline", "uniform", ["loss.name=wddo"], r"^weight\.baseline=uniform: wddo has its own negative term; use none$"),
        ("weight.baseline", "unifrom", [], r"^config: weight\.baseline: .*expected one of .*uniform"),
        ("weight.alpha", -1.0, [], r"^weight\.alpha=-1\.0: the temperature α must be finite and above 0"),
        ("train.rounds", 2.5, [], r"^config: train\.rounds: .*could not be converted to Integer"),
        ("model.lora_targets", "q_proj", [], r"^config: model\.lora_targets: "),
        ("model.path", "???", [], r"^config: model\.path is not set"),
        ("seed", object(), [], r"^config: seed: "),
    ],
)
def test_a_config_changed_in_python_is_checked_like_a_file(key, value, overrides, message, tmp_path):
    config = changed(key, value, *overrides)
    config.output = str(tmp_path / "run")
    for use in (validate, train, make_plan):
        with pytest.raises(ValueError, match=message) as caught:
            use(config)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_misspelt_option_cannot_be_set_in_python():
    with pytest.raises(AttributeError, match="basline"):
        changed("weight.basline", "uniform")


def test_a_config_from_python_has_the_types_of_its_options_and_is_a_copy():
    config = changed("train.rounds", "3")
    config.weight.alpha = 1
    checked = validate(config)
    assert checked.train.rounds == 3 and type(checked.weight.alpha) is float
    assert checked is not config and checked.weight is not config.weight
    assert validate(checked) == checked


@pytest.mark.parametrize(
    "name", ["2024_01_15", "1:30", "007", "yes", "a #b", "1e3", "a: b", "[1", "*x", "&x", "!x", "'q'", "x=y", "null/x"]
)
@pytest.mark.parametrize("key", ["output", "model.path", "task.train", "task.prompt_file"])
def test_a_name_is_what_stands_there_and_survives_the_written_config(name, key, tmp_path):
    config = load_config("toy_sudoku", f"{key}={name}")
    assert get_option(config, key) == name
    (tmp_path / "again.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == config


def test_a_tilde_is_the_home_folder_in_the_file_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config("toy_sudoku", "output=~/run").output == f"{tmp_path}/run"
    assert load_config("toy_sudoku", "output=~").output == str(tmp_path)
    (tmp_path / "c.yaml").write_text("output: ~/run\nmodel: {path: ~/m}\ntask: {train: ~/a, test: b~}\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.output, config.model.path, config.task.train, config.task.test) == (
        f"{tmp_path}/run", f"{tmp_path}/m", f"{tmp_path}/a", "b~"
    )  # fmt: skip


def test_null_takes_a_name_back_where_there_may_be_none():
    assert load_config("toy_sudoku", "task.prompt_file=p.txt", "task.prompt_file=null").task.prompt_file is None


def test_numbers_that_float32_can_hold_are_taken():
    for word in ("optimizer.learning_rate=1e30", "optimizer.max_grad_norm=.inf", "loss.clip=.inf", "sampler.temperature=0", "seed=-3"):
        assert isinstance(load_config("toy_sudoku", word), Config)


KEYS = st.sampled_from([*describe_options(), "model", "loss", "a", "model.", ""])
PIECES = ["null", "~", "???", "${x}", "[", "{", "]", "}", ":", "- ", "&a", "*a", "!!", "|", ">", "'", '"', "#", "\\x1b", "\u2028", ".nan",
          "1e400", "-1", "0", "1_0", "0x1", "yes", "\n", " ", "---", "...", "%", "@", "`", "?", "!!int", "!!float", "!!binary"]  # fmt: skip
TEXT = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.integers().map(str), st.floats().map(str))


def config_or_one_line(*words):
    try:
        assert isinstance(load_config(*words), Config)
    except (ValueError, FileNotFoundError) as error:
        (line,) = str(error).splitlines()
        assert 0 < len(line) < 1000


@settings(max_examples=300, deadline=None)
@given(KEYS, TEXT)
def test_any_override_gives_a_config_or_one_line(key, value):
    config_or_one_line("toy_sudoku", f"{key}={value}")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(), st.lists(st.tuples(KEYS, TEXT).map(lambda pair: f"{pair[0]}: {pair[1]}\n".encode(errors="replace"))).map(b"".join)
    )
)
def test_any_file_gives_a_config_or_one_line(tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content)
    config_or_one_line(tmp_path / "c.yaml")
