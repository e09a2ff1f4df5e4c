"""From tokens to the texts that a replay shows."""

from transformers import AutoTokenizer

from dmpo_ref.tasks.encoding import texts_of_tokens


class Bytes:
    """A byte-level tokenizer in the extreme: a token is one byte."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")


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
