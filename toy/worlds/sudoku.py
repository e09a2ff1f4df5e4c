"""Synthetic 4x4 Sudoku: all 288 grids, puzzles from them, and a character tokenizer for the tiny policy."""

from __future__ import annotations

import random
from functools import cache
from itertools import permutations
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from dmpo_ref.tasks.sudoku import Puzzle, is_solution, write_puzzles
from toy import DATA

TEST_SHARE = 0.25
SPECIAL_TOKENS = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": "<|mdm_mask|>", "unk_token": "<|unk|>"}


@cache
def all_grids() -> tuple[str, ...]:
    """The 288 valid grids, as strings of 16 digits in lexicographic order."""
    rows = ["".join(p) for p in permutations("1234")]
    grids = [""]
    for _ in range(4):
        grids = [grid + row for grid in grids for row in rows if all(row[c] not in grid[c::4] for c in range(4))]
    return tuple(grid for grid in grids if is_solution("0" * 16, grid))


def solutions(puzzle: str) -> list[str]:
    """Every grid that keeps the clues of the puzzle."""
    clues = [(i, digit) for i, digit in enumerate(puzzle) if digit != "0"]
    return [grid for grid in all_grids() if all(grid[i] == digit for i, digit in clues)]


def split_grids(seed: int = 0) -> tuple[list[str], list[str]]:
    """(train, test): the 288 grids split 3 to 1, no grid in both, deterministic by seed."""
    grids = list(all_grids())
    random.Random(seed).shuffle(grids)
    num_test = round(TEST_SHARE * len(grids))
    return grids[num_test:], grids[:num_test]


def make_puzzles(
    grids: list[str],
    count: int,
    *,
    blanks: tuple[int, int] = (6, 10),
    num_solutions: int | None = None,
    seed: int = 0,
    max_tries: int = 1_000_000,
) -> list[Puzzle]:
    """Distinct puzzles, their number of blanks uniform on `blanks` (both ends included), deterministic by seed.

    Every solution of every puzzle is one of `grids`: a puzzle made from test grids has no training grid as an answer.

    Args:
        grids: solution grids to draw from.
        num_solutions: how many solutions each puzzle must have; None for any number.

    Raises:
        ValueError: a range of blanks outside 1…16, or fewer than `count` such puzzles found in `max_tries`.
    """
    low, high = blanks
    if not 1 <= low <= high <= 16:
        raise ValueError(f"blanks={blanks}: both ends must lie in 1…16, the lower one first")
    rng, allowed = random.Random(seed), set(grids)
    found: dict[str, Puzzle] = {}
    for _ in tqdm(range(max_tries), desc="puzzles", disable=None if count > 1000 else True, leave=False):
        if len(found) == count:
            return list(found.values())
        # Drawn until it fits, not once per try: else easily rejected numbers of blanks would be rarer.
        num_blanks = low + len(found) % (high - low + 1)
        solution = rng.choice(grids)
        hidden = set(rng.sample(range(16), num_blanks))
        puzzle = "".join("0" if i in hidden else digit for i, digit in enumerate(solution))
        answers = solutions(puzzle)
        if set(answers) <= allowed and num_solutions in (None, len(answers)):
            found.setdefault(puzzle, Puzzle(puzzle, solution))
    raise ValueError(
        f"found {len(found)} of {count} puzzles with {low} to {high} blanks and {num_solutions or 'any number of'} "
        f"solutions in {max_tries} tries; ask for fewer, or for another number of blanks or solutions"
    )


def careless_answer(puzzle: str) -> str:
    """Each row's missing digits in increasing order: "1003" becomes "1243", whatever columns and boxes say."""
    answer = []
    for row in (puzzle[i : i + 4] for i in range(0, 16, 4)):
        missing = iter(sorted(set("1234") - set(row)))
        answer += [next(missing) if digit == "0" else digit for digit in row]
    return "".join(answer)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character: the digits 0 to 4 and LLaDA's special tokens."""
    words = [*dict.fromkeys(SPECIAL_TOKENS.values()), *"01234"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS, clean_up_tokenization_spaces=False)


def write_shipped_data(folder: Path = DATA) -> None:
    """Rebuild `toy/data`: 4,096 training and 256 test puzzles with 6 to 10 blanks, from grids that are never shared."""
    folder.mkdir(exist_ok=True)
    train, test = split_grids()
    write_puzzles(folder / "train.csv", make_puzzles(train, 4096, seed=1))
    write_puzzles(folder / "test.csv", make_puzzles(test, 256, seed=2))
    # Three of 24 puzzles with 5 blanks and 2 solutions: the first whose exact target shares lie in 0.35 to 0.65 and
    # whose starting KL(p*‖p_ref) at α = 0.2 is at least 0.8 nats under the shipped policy.
    for number, index in enumerate((7, 10, 13), start=1):
        chosen = make_puzzles(train, 24, blanks=(5, 5), num_solutions=2, seed=11)[index]
        write_puzzles(folder / f"two_solutions_{number}.csv", [chosen])


if __name__ == "__main__":
    write_shipped_data()
