"""`dmpo bench`: the words of the command. The work is in `toy.measurements`."""

from __future__ import annotations

from dmpo_ref.cli.failures import stopping_at_once
from dmpo_ref.cli.parser import Parser


def main(words: list[str]) -> None:
    """`dmpo bench`, from the words that follow it."""
    parser = Parser(prog="dmpo bench", description="Measure this library on this machine.", example="dmpo bench samplers")
    what = "loss: a step with LLaDA's vocabulary, chunked against all logits; samplers: a table; grading: time for one answer"
    parser.add_argument("name", choices=["loss", "samplers", "grading"], help=what)
    name = parser.read(words).name
    with stopping_at_once():  # seconds of torch and transformers, which --help does not need
        from toy import measurements

    print({"loss": measurements.bench_loss, "samplers": measurements.bench_samplers, "grading": measurements.bench_grading}[name]())
