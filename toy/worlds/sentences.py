"""A world of sentences whose mask predictor is Bayes' rule, so that every probability that a sampler sees can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.rollout import Prompts, Rollout
from dmpo_ref.samplers import sample
from toy.sampling import Spy

MASK, QUESTION, END = "·", "?", "<end>"


class Library:
    """The exact mask predictor of K sentences, with a little noise.

        π(o_d = v | seen) = Σ_k p(k | seen) e_kd(v),   p(k | seen) ∝ p(k) Π_{d' seen} e_kd'(o_d'),
        e_kd(v) = (1 − ε_d) 1[v is word d of sentence k] + ε_d / V

    ε_d rises from 0.001 to 0.002 along the sentence, so that no two positions tie. Position 0 holds the prompt, a question mark. It is
    called as a LLaDA model is.

    Args:
        sentences: sentence → its probability.
        length: words of a response; shorter sentences are followed by end tokens.

    Attributes:
        words: the V words, special ones first. ids: the number of each.
        emission: [K, 1 + length, V] float64, e. Change it to change what a sentence says.
        log_prior: [K] float64, log p(k).
        vocabulary: every word but the mask and the question mark.
        length: as given.
    """

    def __init__(self, sentences: Mapping[str, float], length: int = 12) -> None:
        self.length = length
        self.words = [MASK, QUESTION, END, *sorted({word for sentence in sentences for word in sentence.split()})]
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.vocabulary = Vocabulary(self.ids[MASK], torch.tensor([word not in (MASK, QUESTION) for word in self.words]))
        said = [[QUESTION, *s.split(), *[END] * (length - len(s.split()))] for s in sentences]
        ids = torch.tensor([[self.ids[word] for word in line] for line in said]).unsqueeze(2)
        noise = torch.linspace(1e-3, 2e-3, 1 + length, dtype=torch.float64).view(1, -1, 1)
        self.emission = (noise / len(self.words)).repeat(len(said), 1, len(self.words))
        self.emission.scatter_add_(2, ids, (1 - noise).repeat(len(said), 1, 1))
        self.log_prior = torch.tensor(list(sentences.values()), dtype=torch.float64).log()

    def __call__(
        self,
        input_ids: Tensor,
        select: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        visible: Tensor | None = None,
        cache: Any = None,
    ) -> SimpleNamespace:
        """Its `logits` are log π at the selected slots, [slots, V]. Masked slots give no evidence.

        Args:
            input_ids: [B, S]. select: [B, S] bool.
            position_ids: [B, S] the position that each slot stands for; None: its own.
            visible: [B, S, S] bool, the slots from which each slot has its evidence; None: all of them.
            attention_mask, cache: not read; there is no padding, and nothing to keep.
        """
        B, S = input_ids.shape
        position = torch.arange(S).expand(B, S) if position_ids is None else position_ids
        seen = torch.ones(B, S, S, dtype=torch.float64) if visible is None else visible.double()
        evidence = self.emission[:, position, input_ids].log() * (input_ids != self.ids[MASK])
        posterior = (self.log_prior[:, None, None] + torch.einsum("bqs,kbs->kbq", seen, evidence)).softmax(dim=0)
        probability = torch.einsum("kbq,kbqv->bqv", posterior, self.emission[:, position])
        return SimpleNamespace(logits=probability.log()[select])

    def question(self) -> Prompts:
        """The one prompt: a question mark, and masks."""
        response = (torch.arange(1 + self.length) > 0)[None]
        tokens = torch.where(response, self.ids[MASK], self.ids[QUESTION])
        return Prompts(tokens, torch.ones_like(response), ~response, response)

    def decode(self, ids: list[int]) -> str:
        """The words of token ids."""
        return " ".join(self.words[i] for i in ids)

    def read(self, tokens: Tensor) -> str:
        """The sentence in a sequence: its words, without the question mark and the end tokens. [S] → str."""
        return self.decode([i for i in tokens.tolist() if self.words[i] not in (QUESTION, END)])


def draw(library: Library, name: str, *, num: int = 1, temperature: float = 0.0, model: Any = None, **options: Any) -> Rollout:
    """Sentences drawn by a sampler, deterministic by their number: tokens [1, num, 1 + length].

    Args:
        name, options: of `SamplerConfig`.
        model: asked in place of the library, for example a `Spy` before it.
    """
    chosen: dict[str, Any] = {"name": name, "temperature": temperature, **options}
    asked: Any = library if model is None else model
    return sample(
        asked,
        library.question(),
        SamplerConfig(**chosen),
        library.vocabulary,
        num_rollouts=num,
        generators=[stream(0, "sentences", num)],
        end_tokens=[library.ids[END]],
    )


def watch(library: Library, name: str, **options: Any) -> None:
    """Print the sentence as it stands after each forward pass of a sampler, at temperature 0."""
    spy = Spy(library)
    rollout = draw(library, name, model=spy, **options)
    for tokens in spy.tokens[1:]:
        print("  ", library.read(tokens[0, : 1 + library.length]))
    print("  ", library.read(rollout.tokens[0, 0]), f"  ({rollout.forwards} forward{'s' * (rollout.forwards > 1)})")
