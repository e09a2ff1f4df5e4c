"""`dmpo lm-eval`: the command of the evaluation harness, which knows the model `dmpo` once `evaluation.harness` is imported."""

from __future__ import annotations

import importlib.util
import sys

from dmpo_ref.cli.failures import stopping_at_once
from dmpo_ref.cli.parser import Parser

DESCRIPTION = """\
lm-eval with the model class `dmpo`: its tasks, this library's samplers and likelihoods (ELBO). Model arguments: path, dtype, num_masks,
micro_batch, check_greedy, seed, and every option of a sampler, as in evaluation.sampler. --device says where."""
EXAMPLE = (
    "dmpo lm-eval run --model dmpo --model_args path=GSAI-ML/LLaDA-8B-Instruct,dtype=bfloat16,response_length=256,block_length=32 "
    "--tasks gsm8k --apply_chat_template"
)


def main(words: list[str]) -> None:
    """Pass the arguments on to lm-eval, except --help.

    Raises:
        ValueError: lm-eval is not installed, or the model class or its tasks raised one.
    """
    if not words or words[0] in ("-h", "--help"):
        Parser(prog="dmpo lm-eval", description=DESCRIPTION, usage="dmpo lm-eval [lm-eval's own words]", example=EXAMPLE).parse_args(["-h"])
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("dmpo lm-eval needs the package lm-eval: pip install 'dmpo-ref[harness]'")
    with stopping_at_once():  # imports take seconds; --help does not need them
        from lm_eval.__main__ import cli_evaluate

        import dmpo_ref.evaluation.harness  # noqa: F401  registers the model; takes seconds
    given, sys.argv = sys.argv, ["dmpo lm-eval", *(word for word in words if word != "--traceback")]  # where lm-eval looks for words
    try:
        cli_evaluate()
    finally:
        sys.argv = given
