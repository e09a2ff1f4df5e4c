"""Mutation score: change one operator or number of a module, and see whether its tests notice.

    python -m tests.mutation masking weights             # every mutant of these modules
    python -m tests.mutation --sample 40 --seed 0        # so many of each module, drawn at random
    python -m tests.mutation --devices                   # forget each device: is it seen on a pretend accelerator?

A mutant lives if all its module's tests pass. Every mutant runs in a process of its own, forked from one that has imported the slow
libraries and nothing of this project. Survivors are listed with line, old and new code; many change nothing that can be seen (an equal
bound, the size of a chunk): they are judged by hand, in LOG.md.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUTATED = ROOT / "tests" / "mutated"  # its sitecustomize.py puts a mutant in the place of a module
TESTS = {  # module → the test files that are about it
    "rollout": ("test_experience", "test_losses"),
    "masking": ("test_masking", "test_losses"),
    "likelihood": ("test_likelihood", "test_oracle"),
    "weights": ("test_weights", "test_steps_and_sizes"),
    "losses": ("test_losses", "test_objectives"),
    "experience": ("test_experience", "test_losses"),
    "gradient": ("test_gradient", "test_losses"),
    "samplers/blockwise": ("test_samplers", "test_sampler_matrix", "test_parallel"),
    "samplers/checks": ("test_steps_and_sizes", "test_parallel", "test_config", "test_bad_input_table", "test_sampler_matrix"),
    "samplers/proposal": ("test_samplers", "test_sampler_matrix", "test_parallel"),
    "samplers/rows": ("test_samplers", "test_sampler_matrix", "test_parallel"),
    "samplers/sampling": ("test_samplers", "test_sampler_matrix", "test_steps_and_sizes"),
    "samplers/wino": ("test_wino", "test_sampler_matrix"),
    "tasks/gsm8k": ("test_gsm8k", "test_strict"),
    "tasks/math500": ("test_math500", "test_strict"),
    "tasks/countdown": ("test_countdown", "test_strict"),
    "tasks/sudoku": ("test_sudoku", "test_strict"),
    "tasks/answers/arithmetic": ("test_arithmetic", "test_countdown", "test_strict"),
    "tasks/answers/comparison": ("test_strict", "test_math500"),
    "tasks/answers/equality": ("test_strict", "test_math500"),
    "tasks/answers/asked": ("test_strict",),
    "tasks/answers/grid": ("test_sudoku", "test_strict"),
    "tasks/answers/marked": ("test_strict", "test_gsm8k", "test_math500"),
    "tasks/answers/numerals": ("test_strict", "test_gsm8k"),
    "tasks/answers/statement": ("test_strict", "test_math500"),
    "tasks/answers/units": ("test_strict",),
    "tasks/answers/writing": ("test_strict",),
    "models/files": ("test_fingerprint", "test_hostile_checkpoints", "test_loading"),
    "models/fingerprint": ("test_fingerprint", "test_stale"),
    "presets/loading": ("test_config", "test_bad_input_table"),
    "runtime/checkpoint": ("test_checkpoint", "test_train", "test_origin"),
    "runtime/files": ("test_runtime", "test_checkpoint", "test_export"),
    "runtime/origin": ("test_origin",),
    "runtime/prompts": ("test_runtime", "test_experience", "test_bad_input"),
    "runtime/watch": ("test_watch",),
    "evaluation/results": ("test_results", "test_stale"),
}
RIVALS = ("agrpo", "coupled_grpo", "espo", "gdpo", "gdsd", "policy_gradient", "spg", "stable_drl", "trace_rl", "trajectory_balance")
TESTS |= {f"objectives/{name}": ("test_published_objectives",) for name in RIVALS}
ON_DEVICES = ("rollout", "masking", "likelihood", "experience", "gradient", "objectives/diffu_grpo", "models/llada", "models/cache")
ON_DEVICES += (
    "objectives/coupled_grpo",
    "objectives/trajectory_balance",
    "samplers/blockwise",
    "samplers/rows",
    "samplers/sampling",
    "samplers/wino",
    "evaluation/answering",
    "runtime/logs",
)
SECONDS = 300  # a mutant that takes longer is noticed: it loops
SWAPS: dict[type, type] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
SWAPS |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And}
SWAPS |= {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv}
SWAPS |= {ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}


def main() -> int:
    """Run, print the score of each module and its survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"among {', '.join(TESTS)}; none: all")
    parser.add_argument("--sample", type=int, help="so many mutants of each module; none: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--devices", action="store_true", help="mutate what names a device, with the tests of test_pretend")
    args = parser.parse_args()
    import matplotlib.pyplot  # noqa: F401  # what every fork would import anew
    import pytest  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    for module in args.modules or (ON_DEVICES if args.devices else TESTS):
        path = ROOT / "dmpo_ref" / f"{module}.py"
        source, tests = path.read_text(encoding="utf-8"), ("test_pretend",) if args.devices else TESTS[module]
        if not passes(path, source, tests):
            sys.exit(f"{module}: its tests fail without a mutation")
        mutants = list(make_mutants(source, device_changes if args.devices else changes))
        if args.sample is not None and args.sample < len(mutants):
            mutants = random.Random(args.seed).sample(mutants, args.sample)
        living = [words for words, mutated in mutants if passes(path, mutated, tests)]
        print(
            f"{module}: {len(mutants) - len(living)} of {len(mutants)} mutants noticed ({1 - len(living) / len(mutants):.0%})", flush=True
        )
        for words in living:
            print(f"    {words}", flush=True)
    return 0


def make_mutants(source: str, changes: Callable[[ast.AST], Iterator]) -> Iterator[tuple[str, str]]:
    """(what was changed, mutated source), one change each."""
    tree = ast.parse(source)
    typing = {id(part) for node in ast.walk(tree) for part in annotations(node)}
    for index, node in enumerate(ast.walk(tree)):
        for change in changes(node) if id(node) not in typing else ():
            mutated = copy.deepcopy(tree)
            chosen = list(ast.walk(mutated))[index]
            before = ast.unparse(chosen)
            change(chosen)
            yield f"line {node.lineno}: {before[:70]} → {ast.unparse(chosen)[:70]}", ast.unparse(mutated)  # type: ignore[attr-defined]


def annotations(node: ast.AST) -> Iterator[ast.AST]:
    """What a node holds of types, which say nothing at run time."""
    for name in ("annotation", "returns"):
        if isinstance(part := getattr(node, name, None), ast.AST):
            yield from ast.walk(part)


def changes(node: ast.AST) -> Iterator:
    """Functions that change a node in place, each in one way: operators, numbers, truth values, signs."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            if type(operator) in SWAPS:
                yield lambda n, i=i: n.ops.__setitem__(i, SWAPS[type(n.ops[i])]())
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        yield lambda n: setattr(n, "op", SWAPS[type(n.op)]())
    if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield lambda n: setattr(n, "operand", ast.UnaryOp(n.op, n.operand))  # twice is not at all
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield lambda n: setattr(n, "value", not n.value if isinstance(n.value, bool) else n.value + 1)


def device_changes(node: ast.AST) -> Iterator:
    """Functions that forget the device of a call in place: `device=…`, or the move itself."""
    if not isinstance(node, ast.Call):
        return
    for i, keyword in enumerate(node.keywords):
        if keyword.arg == "device":
            yield lambda n, i=i: n.keywords.pop(i)
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "cpu") and "dtype" not in ast.unparse(node):
        stays = ast.parse("lambda x, *_: x", mode="eval").body
        yield lambda n: (n.args.insert(0, n.func.value), setattr(n, "func", stays))


def passes(path: Path, source: str, tests: tuple[str, ...]) -> bool:
    """Whether these tests pass with this source in the place of the module's own; tried in a fork, the file is not touched."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os._exit(run_tests(path, source, tests))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def run_tests(path: Path, source: str, tests: tuple[str, ...]) -> int:
    """Exit code of pytest where this process, and every Python process that it starts, reads `source` for `path`."""
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        mutant = Path(folder) / path.name
        mutant.write_text(source, encoding="utf-8")
        os.environ |= {"MUTATED": str(path), "MUTANT": str(mutant)}
        sys.path.insert(0, str(MUTATED))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(MUTATED), os.environ.get("PYTHONPATH")]))
        runpy.run_path(str(MUTATED / "sitecustomize.py"))
        files = [str(ROOT / "tests" / f"{name}.py") for name in tests]
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *files]))


if __name__ == "__main__":
    sys.exit(main())
