"""`dmpo pretrain-toy`: its command line. The work is in `toy.reference` and `toy.text_pretrain`."""

from __future__ import annotations

from dmpo_ref.cli.failures import stopping_at_once
from dmpo_ref.cli.parser import Parser, options_page
from dmpo_ref.config import describe_options
from toy.options import PretrainConfig, TextPretrainConfig

KINDS = {
    "grid": (PretrainConfig, "the tiny policy that writes digits into a Sudoku grid, as in toy/checkpoint; five minutes"),
    "text": (TextPretrainConfig, "the text model that is asked in chat; half an hour on two cores"),
}


def main(words: list[str]) -> None:
    """`dmpo pretrain-toy`, from the words that follow it."""
    pages = [f"options of {kind}, given as key=value:\n{options_page(describe_options(cls))}" for kind, (cls, _) in KINDS.items()]
    policies = "; ".join(f"{kind}: {text}" for kind, (_, text) in KINDS.items())
    parser = Parser(
        prog="dmpo pretrain-toy",
        description=f"Rebuild a reference policy that is shipped: {policies}.",
        example="dmpo pretrain-toy grid output=runs/pretrain_toy correct_share=0.2\n  dmpo pretrain-toy text --resume",
        options="\n\n".join(pages),
    )
    parser.add_argument("kind", nargs="?", default="grid", metavar="grid|text", help="which policy (default: grid)")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--resume", action="store_true", help="text only: go on with a run that was interrupted")
    args = parser.read(words)
    kind, overrides = (args.kind, args.overrides) if "=" not in args.kind else ("grid", [args.kind, *args.overrides])
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no policy to pre-train; give {' or '.join(KINDS)}")
    if args.resume and kind != "text":
        raise ValueError("--resume is for text; the grid takes minutes, start again")
    with stopping_at_once():  # imports of torch and transformers take seconds; --help does not need them
        from dmpo_ref.presets.loading import load_options
        from toy.reference import pretrain
        from toy.text_pretrain import pretrain_text

    config = load_options(KINDS[kind][0], *overrides)
    if kind == "text":
        pretrain_text(config, resume=args.resume)
        preset = {"mixture": "text_sudoku", "spell_backward": "text_spelling"}.get(config.lessons, "text_countdown")
    else:
        pretrain(config)
        preset = "toy_sudoku"
    print(f"checkpoint in {config.output}; look at it with: dmpo evaluate {preset} model.path={config.output}")
