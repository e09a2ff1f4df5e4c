"""The model class `dmpo` of lm-eval, the evaluation harness in which LLaDA's authors report (arXiv 2502.09992): its tasks, our samplers.

How requests are answered:

- `generate_until`: `samplers.sample` with the options given, cut at the stop texts.
- `loglikelihood`: the ELBO −L_θ(continuation | context), the mean over `num_masks` stratified masks.
- `loglikelihood_rolling`: the sum of ELBOs of windows as long as the model reads, each without context.

An ELBO is a lower bound of the log-likelihood, and a random estimate of it: tasks that compare continuations compare bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from dmpo_ref.config import ModelConfig, SamplerConfig
from dmpo_ref.evaluation.answering import ITEMS_PER_BATCH, answer_items
from dmpo_ref.likelihood import build_vocabulary, elbo
from dmpo_ref.masking import draw_masks, stream
from dmpo_ref.models.loading import load_policy
from dmpo_ref.presets.loading import load_options
from dmpo_ref.rollout import Prompts, given_responses
from dmpo_ref.samplers import sample
from dmpo_ref.samplers.checks import check_bounds

DEFAULT_LENGTH = 256  # of an answer, where neither the options nor the task say
GREEDY = SamplerConfig(name="confidence", temperature=0.0)


class PlainText:
    """A task whose items are the prompts themselves, as `encode` sees it."""

    prefill = ""

    def prompt(self, item: str) -> str:
        return item

    def template(self, item: str) -> None:
        return None


@register_model("dmpo")
class DMPO(LM):
    """A masked diffusion policy, for the harness.

    Args:
        path: as `model.path`.
        dtype: as `model.dtype`.
        device: as torch names it; the CPU where there is no CUDA, because the harness always names `cuda:0`.
        num_masks: R, masks of a likelihood.
        micro_batch: sequences in one pass of a likelihood.
        check_greedy: whether to check that greedy generation would give the continuation; one pass for each of its tokens. Most tasks do
            not need it, lambada does.
        seed: key of every random stream.
        sampler: options of `SamplerConfig` by their names, `name=threshold` and others. The default is greedy: one token at a time, the
            most confident first.

    Raises:
        FileNotFoundError, ValueError: as `load_policy`; a sampler's option that is unknown or out of range.
    """

    def __init__(
        self,
        path: str,
        dtype: str = "float32",
        device: str | None = None,
        num_masks: int = 128,
        micro_batch: int = 32,
        check_greedy: bool = True,
        seed: int = 0,
        batch_size: Any = None,  # the harness gives these two to every model
        max_batch_size: Any = None,
        **sampler: Any,
    ):
        super().__init__()
        if num_masks < 1 or micro_batch < 1:
            raise ValueError(f"num_masks={num_masks}, micro_batch={micro_batch}: both must be at least 1")
        options = {"name": GREEDY.name, "temperature": GREEDY.temperature} | sampler
        self.sampler: SamplerConfig = load_options(SamplerConfig, *(f"{key}={value}" for key, value in options.items()))
        check_bounds(self.sampler)
        model_config: ModelConfig = load_options(ModelConfig, f"path={path}", f"dtype={dtype}")
        self._device = torch.device(device or "cuda" if torch.cuda.is_available() else "cpu")
        self.path = path
        self.policy, self.tokenizer = load_policy(model_config, self._device)
        self.vocabulary = build_vocabulary(self.tokenizer, self.policy.config.embedding_size)
        self.longest = self.policy.config.max_sequence_length
        self.num_masks, self.micro_batch, self.check_greedy, self.seed = num_masks, micro_batch, check_greedy, seed

    # Chat

    @property
    def tokenizer_name(self) -> str:
        return self.path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return str(self.tokenizer.chat_template or "") if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{self.path}: the tokenizer has no chat template; leave --apply_chat_template out")
        return str(self.tokenizer.apply_chat_template(chat_history, tokenize=False, add_generation_prompt=add_generation_prompt))

    # Generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut before the first stop text. `max_gen_toks` and, with `do_sample`, `temperature` are the task's."""
        answers: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda i: repr(self.settings(requests[i].args[1])))
        for _, group in groupby(order, key=lambda i: self.settings(requests[i].args[1])):
            for i, text in self.answer(requests, list(group)):
                answers[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return [answers[i] for i in range(len(requests))]

    def settings(self, asked: dict[str, Any]) -> tuple[int, float]:
        """(response length, temperature) of a request."""
        length = self.sampler.response_length or int(asked.get("max_gen_toks") or DEFAULT_LENGTH)
        return length, float(asked.get("temperature") or 0.0) if asked.get("do_sample") else self.sampler.temperature

    def answer(self, requests: list[Instance], indices: list[int]) -> Iterator[tuple[int, str]]:
        """Answers to requests of equal settings, by index."""
        length, temperature = self.settings(requests[indices[0]].args[1])
        sampler = replace(self.sampler, response_length=length, temperature=temperature)
        contexts: list[str] = [requests[i].args[0] for i in indices]
        task: Any = PlainText()  # all that `encode` needs from a task
        starts = range(0, len(contexts), ITEMS_PER_BATCH)
        for batch in answer_items(
            self.policy, self.tokenizer, task, contexts, sampler, self.vocabulary, starts, num_samples=1, seed=self.seed
        ):
            for answer in batch.answers:
                if answer.generation is None:
                    raise ValueError(
                        f"request {indices[answer.index]}: prompt and {length} tokens of answer are longer than the "
                        f"{self.longest} tokens that {self.path} reads; give fewer examples or a shorter response_length"
                    )
                until = requests[indices[answer.index]].args[1].get("until") or []
                yield indices[answer.index], cut(answer.text, [until] if isinstance(until, str) else until)

    # Likelihood

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(ELBO of the continuation given the context, in nats; whether it is the greedy answer of its length)."""
        found = []
        for i, request in enumerate(tqdm(requests, desc="loglikelihood", disable=disable_tqdm or None)):
            context, continuation = self.split(*request.args)
            prompts = self.prompts(context, len(continuation), i)
            bound = self.bound(prompts, continuation, i)
            found.append((bound, self.check_greedy and self.is_greedy(prompts, continuation)))
            self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """ELBO of a whole text, in nats, window by window."""
        found = []
        for i, request in enumerate(tqdm(requests, desc="loglikelihood_rolling", disable=disable_tqdm or None)):
            tokens = self.ids(request.args[0])
            windows = [tokens[start : start + self.longest] for start in range(0, len(tokens), self.longest)]
            found.append(sum(self.bound(self.prompts([], len(window), i), window, i) for window in windows))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both, cut at the end of the context; space there goes to the continuation, because words begin with it."""
        start = context.rstrip()
        whole, first = self.ids(context + continuation), self.ids(start)
        if not whole[len(first) :]:
            raise ValueError(f"the continuation {continuation!r:.60} has no tokens of its own behind {context[-30:]!r}")
        return whole[: len(first)], whole[len(first) :]

    def prompts(self, context: list[int], length: int, number: int) -> Prompts:
        """One prompt with space for a response."""
        if len(context) + length > self.longest:
            problem = f"request {number}: {len(context)} + {length} tokens are longer than the {self.longest} that {self.path} reads"
            raise ValueError(f"{problem}; give fewer examples")
        tokens = torch.tensor([context + [self.vocabulary.mask_token_id] * length])
        is_prompt = torch.arange(tokens.shape[1])[None] < len(context)
        prompts = Prompts(tokens, torch.ones_like(is_prompt), is_prompt, ~is_prompt, padded=False)
        return prompts.to(self._device)

    def bound(self, prompts: Prompts, response: list[int], number: int) -> float:
        """ELBO of a response, in nats."""
        rollout = given_responses(prompts.to(torch.device("cpu")), [response]).to(self._device)
        masks = draw_masks("stratified", rollout.response_mask, self.num_masks, [stream(self.seed, "harness", number)])
        return float(elbo(self.policy, rollout, masks, self.vocabulary, micro_batch=self.micro_batch))

    def is_greedy(self, prompts: Prompts, response: list[int]) -> bool:
        """Whether greedy generation at this length, one token a pass, gives the response."""
        generators = [stream(self.seed, "harness", "greedy")]
        rollout = sample(self.policy, prompts, GREEDY, self.vocabulary, num_rollouts=1, generators=generators)
        return rollout.tokens[rollout.response_mask].tolist() == response


def cut(text: str, until: list[str]) -> str:
    """A text up to the first of the stop texts."""
    return min((text.split(stop, 1)[0] for stop in until if stop), key=len, default=text)
