"""`dmpo pretrain-toy`: the words of the command. The work is in `toy.reference`."""

from __future__ import annotations

from dmpo_ref.cli.failures import stopping_at_once
from dmpo_ref.cli.parser import Parser, options_page
from dmpo_ref.config import describe_options
from toy.options import PretrainConfig


def main(words: list[str]) -> None:
    """`dmpo pretrain-toy`, from the words that follow it."""
    parser = Parser(
        prog="dmpo pretrain-toy",
        description="Rebuild the tiny reference policy that ships in toy/checkpoint.",
        example="dmpo pretrain-toy output=runs/pretrain_toy correct_share=0.2",
        options="options, given as key=value:\n" + options_page(describe_options(PretrainConfig)),
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    args = parser.read(words)
    with stopping_at_once():  # seconds of torch and transformers, which --help does not need
        from dmpo_ref.presets.loading import load_options
        from toy.reference import pretrain

    config = load_options(PretrainConfig, *args.overrides)
    pretrain(config)
    print(f"checkpoint in {config.output}; look at it with: dmpo evaluate toy_sudoku model.path={config.output}")
