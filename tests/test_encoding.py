"""From items to tokens: what a tokenizer does not know is refused. From tokens to the texts that a replay shows."""

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dmpo_ref.config import TaskConfig
from dmpo_ref.models.loading import read_config
from dmpo_ref.models.tokenizers import load_tokenizer
from dmpo_ref.tasks.base import BLANK, REASONING
from dmpo_ref.tasks.encoding import decode, encode, texts_of_tokens
from dmpo_ref.tasks.sudoku import Sudoku

TOY = PreTrainedTokenizerFast.from_pretrained("toy/checkpoint")  # knows the digits 0 to 4


class Pairs:
    """A task whose items are (prompt, template)."""

    prefill = ""

    def prompt(self, item):
        return item[0]

    def template(self, item):
        return item[1]


@pytest.mark.parametrize(
    ("item", "piece"),
    [(("7", BLANK), "7"), (("12a3b", BLANK), "a"), (("1", f"2{BLANK}9{BLANK}"), "9"), ((f"{TOY.unk_token}é", BLANK), "é")],
)
def test_a_character_that_the_tokenizer_does_not_know_is_refused_with_its_item(item, piece):
    with pytest.raises(ValueError, match="the tokenizer does not know") as caught:
        encode(TOY, Pairs(), [("12", BLANK), item])
    assert f"does not know {piece!r} in the prompt or template of item {item!r};" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_token_that_is_written_out_is_no_unknown_character():
    """Some tokenizers have one token for the end of a text and for what they do not know; a chat template writes it."""
    prompts = encode(TOY, Pairs(), [(f"{TOY.unk_token}1", BLANK)])
    assert prompts.tokens[0, 0] == TOY.unk_token_id and prompts.prompt_mask[0].tolist() == [True, True, False]


class SlowTokenizer:
    """Not a fast one: it has no offsets, but names its pieces."""

    is_fast, unk_token, unk_token_id, mask_token, mask_token_id = False, "?", 0, "_", 1

    def tokenize(self, text):
        return list(text)

    def __call__(self, texts, add_special_tokens):
        return type("Encoding", (), {"input_ids": [["_12".find(c) + 1 for c in text] for text in texts]})


def test_without_offsets_the_pieces_are_the_tokenizer_s_own():
    with pytest.raises(ValueError, match="does not know '3' in the prompt or template of item"):
        encode(SlowTokenizer(), Pairs(), [("1?23", BLANK)])


class Bytes:
    """A byte-level tokenizer in the extreme: a token is one byte."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")


def test_the_prefilled_beginning_belongs_to_the_prompt_and_not_to_the_answer():
    tokenizer = load_tokenizer("toy/text_checkpoint", read_config("toy/text_checkpoint"))
    task = Sudoku(TaskConfig(generate="chat", prefill=True))
    prompts = encode(tokenizer, task, [task.parse("1204301201434320")], response_length=3)
    assert tokenizer.decode(prompts.tokens[prompts.prompt_mask]).endswith(REASONING)
    tokens = prompts.tokens.masked_fill(prompts.response_mask, tokenizer.convert_tokens_to_ids("1"))
    assert decode(tokenizer, tokens, prompts.attention_mask, prompts.prompt_mask) == ["111"]


def test_a_character_of_several_tokens_belongs_to_the_last_of_them():
    text = "añ漢😀z"
    pieces = texts_of_tokens(Bytes(), list(text.encode()))
    assert pieces == ["a", "", "ñ", "", "", "漢", "", "", "", "😀", "z"]
    assert texts_of_tokens(Bytes(), []) == []


def test_bytes_that_are_no_character_are_shown_as_such_and_the_rest_stays():
    assert texts_of_tokens(Bytes(), [0xC3, ord("a"), 0xFF, ord("b"), 0xE6]) == ["\ufffd", "a", "\ufffd", "b", "\ufffd"]


def test_the_text_models_tokens_join_to_the_text():
    tokenizer = AutoTokenizer.from_pretrained("toy/text_checkpoint")
    for text in ("Rows: 1243, 4321.\n</reasoning>", "ñ 漢 😀"):
        assert "".join(texts_of_tokens(tokenizer, tokenizer.encode(text, add_special_tokens=False))) == text
