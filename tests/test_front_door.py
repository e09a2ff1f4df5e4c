"""What a newcomer meets first: the names of `dmpo_ref`, the time of `--help`, a clone that nobody has installed."""

import ast
import importlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import dmpo_ref
from dmpo_ref.cli.parser import EXAMPLES, WITH_OWN_PARSER

ROOT = Path(__file__).parent.parent
SLOW = {"torch", "transformers", "omegaconf", "matplotlib", "seaborn", "peft", "accelerate", "numpy", "einops", "tqdm"}


def python(code: str, *arguments: str, **settings) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def type_checking_names() -> dict[str, str]:
    """name → module, of the block that type checkers read."""
    tree = ast.parse(Path(dmpo_ref.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_type_checkers_see_the_names_that_are_imported_on_use():
    assert type_checking_names() == {name: f"dmpo_ref.{module}" for name, module in dmpo_ref._MODULES.items()}


@pytest.mark.parametrize("name", dmpo_ref.__all__)
def test_every_exported_name_is_the_object_of_its_module_and_is_documented(name):
    module = importlib.import_module(type_checking_names()[name])
    assert getattr(dmpo_ref, name) is getattr(module, name)
    assert f"`{name}`" in dmpo_ref.__doc__
    assert name in dir(dmpo_ref)


def test_there_are_few_enough_names_to_remember():
    assert 20 <= len(dmpo_ref.__all__) <= 30


def test_an_unknown_name_is_an_attribute_error_and_a_module_is_still_found():
    with pytest.raises(AttributeError, match="module 'dmpo_ref' has no attribute 'tarin'"):
        dmpo_ref.tarin  # noqa: B018
    assert python("from dmpo_ref import weights; print(weights.__name__)") == "dmpo_ref.weights\n"


def test_train_is_the_function_although_a_module_has_its_name():
    """Python puts a module into its package when it is first imported, here or there."""
    python("import dmpo_ref.train\nfrom dmpo_ref import train\nassert callable(train) and dmpo_ref.train is train")
    dmpo_ref.train = importlib.import_module("dmpo_ref.train")
    assert callable(dmpo_ref.train)


def test_importing_the_weights_loads_torch_and_nothing_slow_besides():
    """All modules but those of `import torch, einops` are this project's."""
    listing = "import sys, torch, einops{}; print(*sys.modules)"
    torch_alone, with_weights = (set(python(listing.format(more)).split()) for more in ("", ", dmpo_ref.weights"))
    assert with_weights - torch_alone == {"dmpo_ref", "dmpo_ref.config", "dmpo_ref.weights"}


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([command, "--help"] for command in [*EXAMPLES, *WITH_OWN_PARSER])])
def test_help_imports_nothing_slow(words):
    code = """
import sys
from dmpo_ref.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    assert stopped.code == 0
print("modules", *{name.partition(".")[0] for name in sys.modules})
"""
    *page, modules = python(code, *words).splitlines()
    assert page and not SLOW & set(modules.split())


def test_files_are_graded_without_torch():
    code = "import sys, dmpo_ref.cli.grading; print(*sys.modules)"
    assert not {"torch", "transformers", "matplotlib"} & set(python(code).split())


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A function that runs words in a clone, by an interpreter that can import what the project needs but not the project.

    The environment is new and empty. The packages of this one are linked into a folder on its path, without what makes an installed
    (or editable) dmpo-ref: its metadata, the finder of its modules and the modules themselves. Path files in such a folder are not run.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    packages = folder / "packages"
    packages.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            is_ours = any(part in entry.name for part in ("dmpo_ref", "dmpo-ref")) or entry.name in ("toy", "exercise_checks")
            if not is_ours and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    clone = folder / "clone"
    for package in ("dmpo_ref", "toy"):
        shutil.copytree(ROOT / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))

    def run(*words: str) -> subprocess.CompletedProcess:
        interpreter = folder / "venv" / "bin" / "python"
        environment = {"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin", "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
        return subprocess.run([interpreter, *words], cwd=clone, env=environment, capture_output=True, text=True)

    return run


def test_a_clone_that_is_not_installed_runs(bare):
    asked = "from importlib import metadata, util\ntry: print(metadata.version('dmpo-ref'))\nexcept metadata.PackageNotFoundError: "
    assert bare("-c", asked + "print('not installed', util.find_spec('dmpo_ref').origin)").stdout.endswith("clone/dmpo_ref/__init__.py\n")
    version = bare("-m", "dmpo_ref", "--version")
    assert (version.stdout, version.stderr) == (f"dmpo {dmpo_ref.__version__}\n", "")
    assert "pretrain-toy" in bare("-m", "dmpo_ref", "--help").stdout
    plan = bare("-m", "dmpo_ref", "plan", "toy_sudoku")
    assert plan.returncode == 0, plan.stderr
    assert "forward" in plan.stdout


def test_the_version_is_written_once():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in pyproject and "\nversion = { attr =" in pyproject
    assert f"\nversion: {dmpo_ref.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {dmpo_ref.__version__}, " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
