"""The model class of lm-eval: likelihoods against a case worked by hand, generation against our own evaluation, whole tasks from files."""

from __future__ import annotations

import importlib.util
import json
import math
import sys

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from dmpo_ref.cli import main
from dmpo_ref.config import SamplerConfig
from dmpo_ref.evaluation.answering import answer_items
from dmpo_ref.evaluation.harness import DMPO, PlainText, cut
from toy.small_llada import make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base") / "llada", d_model=32, n_heads=2)


@pytest.fixture(scope="module")
def model(checkpoint):
    return DMPO(str(checkpoint), num_masks=400, device="cpu", response_length=8, block_length=4)


def ask(kind: str, *arguments) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


@torch.no_grad()
def token_scores(model: DMPO, tokens: list[int], hidden: set[int]) -> dict[int, float]:
    """log π of the hidden tokens of a sequence, the mask token left out of the softmax, by the logits alone."""
    mask = model.vocabulary.mask_token_id
    ids = torch.tensor([[mask if i in hidden else token for i, token in enumerate(tokens)]])
    logits = model.policy(input_ids=ids).logits[0].double()
    logits[:, ~model.vocabulary.allowed] = -torch.inf
    return {i: float(logits[i].log_softmax(dim=-1)[tokens[i]]) for i in hidden}


def test_the_likelihood_of_two_tokens_is_the_elbo_worked_by_hand(model):
    """L = 2: half of Σ_d log π(d | the other), for one hidden token, plus half of Σ_d log π(d | nothing), for two."""
    context, continuation = model.split("The user asks", " 4")
    tokens = [*context, *continuation]
    assert len(continuation) == 2, model.tokenizer.convert_ids_to_tokens(continuation)
    n = len(context)
    first, second = (token_scores(model, tokens, {i})[i] for i in (n, n + 1))
    together = sum(token_scores(model, tokens, {n, n + 1}).values())
    [(found, _)] = model.loglikelihood(ask("loglikelihood", ("The user asks", " 4")))
    # 200 of the 400 masks hide one token: twice the first or the second score, at random.
    error = abs(first - second) / 2 / math.sqrt(200)
    assert found == pytest.approx((first + second + together) / 2, abs=4 * error) and abs(first + second - together) > 8 * error


def test_space_at_the_end_of_a_context_belongs_to_the_continuation(model):
    assert model.split("The user asks ", "4") == model.split("The user asks", " 4")
    assert model.split("", "The user") == ([], model.ids("The user"))


def test_a_text_longer_than_the_model_is_the_sum_of_its_windows(model, monkeypatch):
    """Windows of one token: each ELBO is log π(token | nothing)."""
    monkeypatch.setattr(model, "longest", 1)
    tokens = model.ids("a puzzle")
    expected = sum(token_scores(model, [token], {0})[0] for token in tokens)
    assert model.loglikelihood_rolling(ask("loglikelihood_rolling", ("a puzzle",))) == [pytest.approx(expected, rel=1e-5)]
    assert model.loglikelihood_rolling(ask("loglikelihood_rolling", ("",))) == [0]


def test_whether_a_continuation_is_greedy(model, monkeypatch):
    """What greedy generation gives is; anything else of that length is not."""
    context = model.ids("The target is ")
    prompts = model.prompts(context, 3, 0)
    best = prompts.tokens.clone()
    for _ in range(3):  # the most confident of the hidden, by hand
        logits = model.policy(input_ids=best).logits[0].double()
        logits[:, ~model.vocabulary.allowed] = -torch.inf
        top = logits.softmax(dim=-1).max(dim=-1)
        place = int(top.values.masked_fill(best[0] != model.vocabulary.mask_token_id, -1).argmax())
        best[0, place] = top.indices[place]
    greedy = best[0, len(context) :].tolist()
    monkeypatch.setattr(model, "is_greedy", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(model, "check_greedy", False)
    assert model.loglikelihood(ask("loglikelihood", ("The user asks", " 4")))[0][1] is False
    monkeypatch.undo()
    assert model.is_greedy(prompts, greedy) and not model.is_greedy(prompts, [*greedy[:2], greedy[2] ^ 1])


def test_generation_is_that_of_evaluate_cut_at_the_stop_texts(model):
    contexts = ["The user asks", "Think step by step", "The user asks"]
    sampler = SamplerConfig(name="confidence", temperature=0.0, response_length=8, block_length=4)
    batches = answer_items(model.policy, model.tokenizer, PlainText(), contexts, sampler, model.vocabulary, [0], num_samples=1, seed=0)
    texts = [answer.text for batch in batches for answer in batch.answers]
    stop = texts[1][2:4]
    assert model.generate_until(ask("generate_until", *((c, {"until": []}) for c in contexts))) == texts
    found = model.generate_until(ask("generate_until", *((c, {"until": [stop, "never there"]}) for c in contexts)))
    assert found == [text.split(stop)[0] for text in texts] and len(found[1]) <= 2
    assert cut("one\n\ntwo", ["two", "\n\n", ""]) == "one" and cut("one", []) == "one"


def test_the_task_says_length_and_temperature_where_the_options_do_not(checkpoint):
    model = DMPO(str(checkpoint), device="cpu")
    assert model.settings({"max_gen_toks": 16}) == (16, 0.0) and model.settings({}) == (256, 0.0)
    assert model.settings({"temperature": 0.7}) == (256, 0.0) and model.settings({"temperature": 0.7, "do_sample": True}) == (256, 0.7)
    assert DMPO(str(checkpoint), device="cpu", response_length=8).settings({"max_gen_toks": 16}) == (8, 0.0)
    long, short = model.generate_until(ask("generate_until", ("a", {"max_gen_toks": 8}), ("a", {"max_gen_toks": 2})))
    assert len(model.ids(short)) < len(model.ids(long))


@pytest.fixture
def tasks(tmp_path):
    """Two tasks of one file each, without network: choose a continuation, and answer in words."""
    rows = [{"question": f"What is {n} + {n}?", "choices": [str(2 * n), str(n)], "answer": 0} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\ntest_split: test\n"
    (tmp_path / "choose.yaml").write_text(
        f"task: choose_sum\n{data}output_type: multiple_choice\ndoc_to_text: '{{{{question}}}}'\ndoc_to_target: answer\n"
        "doc_to_choice: choices\nmetric_list: [{metric: acc}]\n"
    )
    (tmp_path / "write.yaml").write_text(
        f"task: write_sum\n{data}output_type: generate_until\ndoc_to_text: '{{{{question}}}}'\ndoc_to_target: '{{{{choices[answer]}}}}'\n"
        'generation_kwargs: {until: ["\\n"]}\nmetric_list: [{metric: exact_match}]\n'
    )
    return tmp_path


def test_whole_tasks_from_local_files(model, tasks):
    results = lm_eval.simple_evaluate(
        model,
        tasks=["choose_sum", "write_sum"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    assert results["results"]["write_sum"]["exact_match,none"] == 0, "random weights"
    requests = ask("loglikelihood", *((f"What is {n} + {n}?", f" {choice}") for n in range(3) for choice in (2 * n, n)))
    bounds = [bound for bound, _ in model.loglikelihood(requests)]
    right = sum(bounds[2 * n] > bounds[2 * n + 1] for n in range(3)) / 3
    logged = [sample["resps"] for sample in results["samples"]["choose_sum"]]
    assert [float(pair[0][0]) for sample in logged for pair in sample] == pytest.approx(bounds)
    assert results["results"]["choose_sum"]["acc,none"] == pytest.approx(right)


def test_the_command(checkpoint, tasks, monkeypatch, capsys):
    arguments = f"path={checkpoint},num_masks=2,check_greedy=false,response_length=4"
    words = ["run", "--model", "dmpo", "--model_args", arguments, "--tasks", "choose_sum", "--include_path", str(tasks), "--limit", "2"]
    words += ["--device", "cpu"]
    before = list(sys.argv)
    assert main(["lm-eval", *words, "--traceback"]) == 0
    assert "choose_sum" in capsys.readouterr().out and sys.argv == before
    for change, message in (
        ((arguments, f"path={tasks / 'none'}"), "none"),
        ((arguments, f"{arguments},treshold=0.5"), "unknown key 'treshold'; did you mean 'threshold'"),
        ((arguments, f"{arguments},threshold=2"), "threshold=2"),
        ((arguments, arguments.replace("num_masks=2", "num_masks=0")), "num_masks=0"),
    ):
        assert main(["lm-eval", *(change[1] if word == change[0] else word for word in words)]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("dmpo: ") and message in error
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["lm-eval", *words]) == 2
    assert "dmpo lm-eval needs the package lm-eval: pip install 'dmpo-ref[harness]'" in capsys.readouterr().err


def test_what_is_too_long_or_empty_is_one_line(model, monkeypatch):
    monkeypatch.setattr(model, "longest", 4)
    monkeypatch.setattr(model.policy.config, "max_sequence_length", 10)
    for call in (
        lambda: model.loglikelihood(ask("loglikelihood", ("The user asks a question", " and"))),
        lambda: model.generate_until(ask("generate_until", ("The user asks the assistant: ", {}))),
        lambda: model.loglikelihood(ask("loglikelihood", ("The user", ""))),
    ):
        with pytest.raises(ValueError, match="give fewer examples|has no tokens of its own") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_chat_templates(model, monkeypatch):
    messages = [{"role": "user", "content": "Hello"}]
    assert model.apply_chat_template(messages).endswith("assistant<|end_header_id|>\n\n")
    assert model.chat_template(True) == model.tokenizer.chat_template and model.chat_template(False) == ""
    assert "/" not in model.tokenizer_name
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="leave --apply_chat_template out"):
        model.apply_chat_template(messages)
