"""WINO against a slow version that fills one row at a time with plain loops, and against models with known answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.models.loading import load_policy
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import proposal, sample
from dmpo_ref.samplers.wino import accept_and_remask, fill_wino, with_shadow
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.encoding import encode
from tests.helpers import MASK, chi_square_p_value, make_prompts, plain_log_prob, tiny_model, vocabulary
from tests.slow_samplers import slow_wino
from toy.small_llada import make_checkpoint

ALLOWED = (4, 5, 6, 7)
BATCH = ("1|" + "_" * 12, "43214|" + "_" * 12, "2341|" + "_" * 12, "12|" + "_" * 12)
BLOCKS = (None, 1, 2, 3, 4, 6)
NO_END = torch.tensor([], dtype=torch.long)  # no end tokens


def options(block_length=None, *, temperature=0.0, threshold=0.6, back_threshold=0.9):
    config = SamplerConfig("wino", block_length=block_length, temperature=temperature)
    config.threshold, config.back_threshold = threshold, back_threshold
    return config


def fill(model, prompts, config, words=None, uniform=None):
    """Tokens, steps, forwards and fed tokens; for a response of L positions, L forwards always suffice."""
    if uniform is None:
        B, S = prompts.tokens.shape
        L = int(prompts.response_mask[0].sum())
        uniform = torch.rand(B, L + 1, S, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    filled = fill_wino(model, prompts, config, words or vocabulary(ALLOWED), uniform, NO_END)
    assert filled.path_log_prob is None
    return filled.tokens, filled.step, filled.forwards, filled.fed_tokens


def deep_model(seed: int):
    """Conditionals between sure and unsure, positions by RoPE, information that passes from token to token and layer to layer."""
    return tiny_model(seed, rope=True, n_layers=2, d_model=16, init_std=0.4)


def rows_of(prompts):
    """Each row as a list of tokens without padding, the slot its response starts at, and the padding removed."""
    for tokens, attention in zip(prompts.tokens, prompts.attention_mask, strict=True):
        padding = int((~attention).sum())
        words = tokens[padding:].tolist()
        yield words, words.index(MASK), padding


@pytest.mark.parametrize("block_length", BLOCKS)
@pytest.mark.parametrize(("tau", "tau_back"), [(0.6, 0.9), (0.6, 0.5), (0.4, 0.9), (0.3, 1.1), (0.8, 0.7), (0.3, 0.0)])
def test_temperature_0_equals_the_slow_version(block_length, tau, tau_back):
    """Tokens, steps and forwards; a batch of mixed prompt lengths takes as many forwards as its slowest row does alone."""
    prompts = make_prompts(*BATCH)
    for seed in range(2):
        model = deep_model(seed)
        config = options(block_length, threshold=tau, back_threshold=tau_back)
        tokens, step, forwards, fed = fill(model, prompts, config)
        slow = [slow_wino(model, words, start, block_length or 12, tau, tau_back, ALLOWED) for words, start, _ in rows_of(prompts)]
        for i, (words, start, padding) in enumerate(rows_of(prompts)):
            assert tokens[i, padding:].tolist() == slow[i][0]
            assert {s: step[i, padding + s].item() for s in range(start, len(words))} == slow[i][1]
        assert forwards == max(len(history) for _, _, history in slow)
        assert fed == sum(len(history) for _, _, history in slow) * (17 + (block_length or 12))
        assert torch.equal(step >= 0, prompts.response_mask)


def test_the_comparison_covers_what_can_happen():
    """In the runs compared above tokens are taken back, as many as `last` − 1 of them, and rows need different numbers of forwards."""
    steps, limits, lengths = [], 0, set()
    for seed in range(2):
        model = deep_model(seed)
        for words, start, _ in rows_of(make_prompts(*BATCH)):
            for tau, tau_back in ((0.6, 0.9), (0.3, 1.1)):
                history = slow_wino(model, words, start, 12, tau, tau_back, ALLOWED)[2]
                steps += history
                limits += sum(now[1] == before[0] - 1 > 0 for before, now in zip(history[:-1], history[1:], strict=True))
                lengths.add(len(history))
    assert sum(remasked > 0 for _, remasked in steps) > 20
    assert max(accepted for accepted, _ in steps) > 5 and min(accepted for accepted, _ in steps) == 1
    assert limits > 5 and len(lengths) > 2


def test_a_small_llada_of_the_official_layout_equals_the_slow_version(tmp_path):
    """Grouped-query attention, 128 or more rows, weights made larger so that it is sure of something."""
    model = LLaDAModelLM.from_pretrained(make_checkpoint(tmp_path / "m", n_kv_heads=2, d_model=32)).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(1 if "norm" in name or "ln_f" in name else 10)
    mask, V = model.config.mask_token_id, model.config.embedding_size
    prompts = make_prompts("12|" + "_" * 16, "12340|" + "_" * 16)
    prompts.tokens[prompts.response_mask] = mask
    allowed = tuple(i for i in range(V) if i < model.config.eos_token_id)
    words = vocabulary(allowed, V)
    words.mask_token_id = mask
    tokens, _, forwards, _ = fill(model, prompts, options(8, threshold=0.3), words)
    slow = []
    for i, padding in enumerate((3, 0)):
        row = prompts.tokens[i, padding:].tolist()
        slow.append(slow_wino(model, row, len(row) - 16, 8, 0.3, 0.9, allowed, mask))
        assert tokens[i, padding:].tolist() == slow[i][0]
    assert forwards == max(len(history) for _, _, history in slow)


@pytest.mark.parametrize("block_length", [None, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_of_8_takes_as_long_as_its_slowest_row_and_changes_no_row(block_length, temperature):
    """Rows run alone, without padding, with their own uniforms: same tokens, same steps, at any temperature."""
    model, L = deep_model(3), 12
    prompts = make_prompts(*(p + "|" + "_" * L for p in ("1", "2", "34", "412", "2", "1234", "43", "3")))
    S = prompts.tokens.shape[1]
    uniform = torch.rand(8, L + 1, S, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    uniform[4] = uniform[1]  # the same row twice
    config = options(block_length, temperature=temperature, threshold=0.5)
    tokens, step, forwards, _ = fill(model, prompts, config, uniform=uniform)
    alone = []
    for i, pattern in enumerate(("1", "2", "34", "412", "2", "1234", "43", "3")):
        one = make_prompts(pattern + "|" + "_" * L)
        padding = S - one.tokens.shape[1]
        got = fill(model, one, config, uniform=uniform[i : i + 1, :, padding:])
        assert torch.equal(got[0][0], tokens[i, padding:]) and torch.equal(got[1][0], step[i, padding:])
        alone.append(got[2])
    assert forwards == max(alone) and min(alone) < max(alone)
    assert torch.equal(tokens[4], tokens[1])


class Fake:
    """A model given by a function (input_ids [B, S + b], call) → logits [B, S + b, V]; it records what it is fed."""

    def __init__(self, function):
        self.function, self.calls, self.seen = function, 0, []

    def __call__(self, input_ids, position_ids, visible, select):
        assert position_ids.shape == input_ids.shape and visible.shape == (*input_ids.shape, input_ids.shape[1])
        logits = self.function(input_ids, self.calls)
        self.calls += 1
        read = torch.zeros_like(input_ids, dtype=torch.bool)
        read[select] = True
        assert read.sum() == len(select[0])
        self.seen.append((input_ids, read))
        return SimpleNamespace(logits=logits[select])


def always_rejecting(S: int) -> Fake:
    """The sequence is sure of token 5, the shadow of token 4; mask token and end token are likelier than both."""

    def logits(input_ids, _):
        values = torch.zeros(*input_ids.shape, 8, dtype=torch.float64)
        values[:, :S, 5], values[:, S:, 4], values[..., :2] = 9, 9, 99
        return values

    return Fake(logits)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("block_length", [None, 32, 2, 1])
def test_a_shadow_that_always_rejects_is_outlasted(block_length, temperature):
    """Blocks of b end within b forwards, all positions are filled, and the mask token is never one of them."""
    prompts = make_prompts("12|" + "_" * 64, "1|" + "_" * 64)
    model = always_rejecting(prompts.tokens.shape[1])
    tokens, step, forwards, fed = fill(model, prompts, options(block_length, temperature=temperature))
    assert forwards == model.calls <= 64
    assert fed == sum(input_ids.numel() for input_ids, _ in model.seen)
    assert torch.isin(tokens[prompts.response_mask], torch.tensor(ALLOWED)).all()
    assert torch.equal(tokens[~prompts.response_mask], prompts.tokens[~prompts.response_mask])
    if temperature == 0:
        assert (tokens[prompts.response_mask] == 5).all()
        blocks = step[0, -64:].view(-1, block_length or 64)
        assert (blocks.amax(dim=1)[:-1] < blocks.amin(dim=1)[1:]).all()


def test_a_sampler_never_sure_takes_one_token_in_each_forward_and_takes_none_back():
    model = Fake(lambda input_ids, _: torch.zeros(*input_ids.shape, 8, dtype=torch.float64))
    _, step, forwards, _ = fill(model, make_prompts("1|" + "_" * 12), options(6))
    assert forwards == 12 and sorted(step[0, -12:].tolist()) == list(range(12))


@pytest.mark.parametrize("block_length", [None, 10, 4])
def test_every_row_ends_in_time_whatever_the_model_says(block_length):
    """Logits drawn anew in each forward, sharp or flat: b forwards for a block of b always suffice."""
    prompts = make_prompts(*("1|" + "_" * 40 for _ in range(30)))
    for seed, scale in enumerate((0.5, 2.0, 5.0, 20.0)):
        generator = torch.Generator().manual_seed(seed)

        def noise(input_ids, _, scale=scale, generator=generator):
            return scale * torch.randn(*input_ids.shape, 8, dtype=torch.float64, generator=generator)

        tokens, step, forwards, _ = fill(Fake(noise), prompts, options(block_length, temperature=1.0))
        assert torch.isin(tokens[:, -40:], torch.tensor(ALLOWED)).all() and forwards <= 40
        blocks = step[:, -40:].unflatten(1, (-1, block_length or 40))
        assert (blocks.amax(dim=2)[:, :-1] < blocks.amin(dim=2)[:, 1:]).all()
        assert forwards == step.max() + 1


def test_a_finished_row_is_fed_no_more():
    """One row is sure of everything, the other of nothing: the first is full after two forwards."""
    prompts = make_prompts("1|" + "_" * 8, "2|" + "_" * 8)

    def logits(input_ids, _):
        values = torch.zeros(*input_ids.shape, 8, dtype=torch.float64)
        values[input_ids[:, 0] == prompts.tokens[0, 0], ..., 6] = 50
        return values

    model = Fake(logits)
    tokens, step, forwards, _ = fill(model, prompts, options(4))
    assert forwards == 8 and step[0, -8:].tolist() == [0] * 4 + [1] * 4 and (tokens[0, -8:] == 6).all()
    assert [len(input_ids) for input_ids, _ in model.seen] == [2] * 2 + [1] * 6
    assert all((input_ids[:, 0] == prompts.tokens[1, 0]).all() for input_ids, _ in model.seen[2:])


def accept_and_remask_one(confidence: dict, back: dict, size: int, last: int, tau=0.6, tau_back=0.9):
    draft = torch.tensor([[j in confidence for j in range(size)]])
    c = torch.tensor([[confidence.get(j, -1.0) for j in range(size)]], dtype=torch.float64)
    p = torch.tensor([[back.get(j, 2.0) for j in range(size)]], dtype=torch.float64)
    accept, remask = accept_and_remask(c, p, draft, torch.tensor([last]), threshold=tau, back_threshold=tau_back)
    return accept[0].nonzero().flatten().tolist(), remask[0].nonzero().flatten().tolist()


def test_the_rules_in_cases_worked_by_hand():
    # At most min(max(⌊0.7 · |M|⌋, 5), 20) of them, the most confident: here position 0 is the least confident.
    for size, expected in ((3, 3), (5, 5), (6, 5), (7, 5), (8, 5), (9, 6), (10, 7), (20, 14), (28, 19), (29, 20), (40, 20)):
        confidence = {j: 0.7 + 0.001 * j for j in range(size)}
        assert accept_and_remask_one(confidence, {}, size, 0)[0] == list(range(size - expected, size))
    # Above τ, not at it; if none is, the most confident.
    assert accept_and_remask_one({0: 0.6, 1: 0.61, 2: 0.7}, {}, 3, 0)[0] == [1, 2]
    assert accept_and_remask_one({0: 0.2, 1: 0.6, 2: 0.1}, {}, 3, 0)[0] == [1]
    # Below τ_back, not at it; fewer than `last` of them all go, otherwise the last − 1 least probable.
    sure, back = {0: 0.8, 1: 0.9}, {2: 0.5, 3: 0.9, 4: 0.1, 5: 0.89, 6: 0.99}
    assert accept_and_remask_one(sure, back, 7, 9) == ([0, 1], [2, 4, 5])
    assert accept_and_remask_one(sure, back, 7, 4) == ([0, 1], [2, 4, 5])
    assert accept_and_remask_one(sure, back, 7, 3) == ([0, 1], [2, 4])
    assert accept_and_remask_one(sure, back, 7, 2) == ([0, 1], [4])
    assert accept_and_remask_one(sure, back, 7, 1) == ([0, 1], [])
    # Nothing is taken back where only one is accepted, nothing is done where nothing is open.
    assert accept_and_remask_one({0: 0.8, 1: 0.1}, back, 7, 4) == ([0], [])
    assert accept_and_remask_one({}, {0: 0.1, 1: 0.1}, 2, 4) == ([], [])


@torch.no_grad()
def shadow_logits(model, tokens, attention_mask, slots):
    input_ids, position_ids, visible = with_shadow(tokens, attention_mask, slots, MASK)
    return model(input_ids=input_ids, position_ids=position_ids, visible=visible).logits.split(tokens.shape[1], dim=1)


def test_a_shadow_does_not_see_its_own_slot_but_every_other():
    """One layer: the token at a + i matters to each shadow except i. Nothing depends on what stands at padding."""
    model, prompts = tiny_model(1, rope=True), make_prompts("1|2341", "4321|1243")
    slots = torch.tensor([[5, 6, 7], [4, 5, 6]])
    _, before = shadow_logits(model, prompts.tokens, prompts.attention_mask, slots)
    for s in range(8):
        changed = prompts.tokens.clone()
        changed[:, s] = 7 - (changed[:, s] == 7).long()
        _, after = shadow_logits(model, changed, prompts.attention_mask, slots)
        for i, j in np.ndindex(2, 3):
            same = torch.allclose(before[i, j], after[i, j], rtol=0, atol=1e-12)
            assert same == (slots[i, j] == s or not prompts.attention_mask[i, s])


@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_sequence_does_not_depend_on_the_shadow(n_layers):
    model, prompts = tiny_model(1, rope=True, n_layers=n_layers), make_prompts("1|_34_", "4321|1_43")
    expected = model(input_ids=prompts.tokens, attention_mask=prompts.attention_mask).logits
    for slots in ([[4, 5], [6, 7]], [[7], [5]]):
        main, _ = shadow_logits(model, prompts.tokens, prompts.attention_mask, torch.tensor(slots))
        torch.testing.assert_close(main[prompts.attention_mask], expected[prompts.attention_mask], rtol=0, atol=1e-12)
        assert main.isfinite().all()


def test_shadows_have_the_positions_of_their_slots_and_see_each_other():
    prompts = make_prompts("12|____", "1|____")
    input_ids, position_ids, visible = with_shadow(prompts.tokens, prompts.attention_mask, torch.tensor([[2, 3], [4, 5]]), MASK)
    assert position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 2, 3], [0, 0, 1, 2, 3, 4, 3, 4]]
    assert (input_ids[:, 6:] == MASK).all() and torch.equal(input_ids[:, :6], prompts.tokens)
    assert visible[:, 6:, 6:].all() and not visible[:, :6, 6:].any()


def test_a_single_open_position_is_drawn_at_the_temperature():
    """Blocks of 1: each token is drawn once from softmax(logits / T), with uniforms of its own."""
    row = torch.tensor([50, 50, 50, 50, 0.0, 0.5, 1.0, -1.0], dtype=torch.float64)
    model, prompts = Fake(lambda ids, _: row.expand(*ids.shape, 8)), make_prompts(*["____"] * 2048)
    tokens = fill(model, prompts, options(1, temperature=0.5))[0]
    counts = np.bincount(tokens.flatten().numpy() - 4, minlength=4)
    assert chi_square_p_value(counts, np.exp(row[4:].numpy() / 0.5)) > 0.01


def test_forward_t_draws_with_slice_t():
    """Four equally likely tokens, one placed in each forward: the token at slot s, placed in forward t, is number ⌊4 u[t, s]⌋."""
    model, prompts = Fake(lambda ids, _: torch.zeros(*ids.shape, 8, dtype=torch.float64)), make_prompts("12|________", "1|________")
    uniform = torch.rand(2, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, step, forwards, _ = fill(model, prompts, options(4, temperature=1.0), uniform=uniform)
    assert forwards == 8
    for i, s in prompts.response_mask.nonzero().tolist():
        assert tokens[i, s] == 4 + int(4 * uniform[i, step[i, s], s])


def test_confidence_is_the_probability_at_temperature_1_whatever_the_temperature():
    """At T = 10 the likely token has probability 0.53, at T = 1 nearly 1: where it is proposed it is accepted at once."""
    row = torch.tensor([0, 0, 0, 0, 12.0, 0, 0, 0], dtype=torch.float64)
    model, prompts = Fake(lambda ids, _: row.expand(*ids.shape, 8)), make_prompts(*["_____"] * 400)
    tokens, step, _, _ = fill(model, prompts, options(temperature=10.0))
    first = step == 0
    assert (tokens[first] == 4).float().mean() > 0.95  # five others only where all five proposals were unlikely
    assert first.sum(dim=1).float().mean() > 2


def test_probabilities_are_the_same_in_chunks(monkeypatch):
    expected = fill(deep_model(2), make_prompts(*BATCH), options(6))
    monkeypatch.setattr(proposal, "chunk_rows", lambda _: 3)
    found = fill(deep_model(2), make_prompts(*BATCH), options(6))
    assert torch.equal(found[0], expected[0]) and found[2:] == expected[2:]


@pytest.mark.parametrize("patterns", [("1__2__",), ("1___", "12__"), ("__1", "1__")])
def test_responses_that_are_not_one_common_run_are_one_clear_line(patterns):
    generators = [stream(0, g) for g in range(len(patterns))]
    with pytest.raises(ValueError, match="name=wino needs responses of one length without given tokens inside") as error:
        sample(tiny_model(), make_prompts(*patterns), options(1), vocabulary(ALLOWED), num_rollouts=1, generators=generators)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["sequence", "shadow"])
def test_logits_that_are_no_numbers_are_one_clear_line(part):
    def logits(input_ids, _):
        values = torch.zeros(*input_ids.shape, 8, dtype=torch.float64)
        values[:, (slice(0, 5) if part == "sequence" else slice(5, None))] = float("nan")
        return values

    with pytest.raises(ValueError, match="logits that are NaN or all −∞") as error:
        fill(Fake(logits), make_prompts("1____", "1____"), options())
    assert "\n" not in str(error.value)


def test_sample_draws_with_it_and_rows_do_not_depend_on_the_batch():
    prompts, config = make_prompts(*BATCH), SamplerConfig(name="wino", block_length=4, temperature=0.7)
    generators = [stream(0, "prompt", g) for g in range(len(BATCH))]
    rollout = sample(deep_model(1), prompts, config, vocabulary(ALLOWED), num_rollouts=2, generators=generators)
    assert rollout.path_log_prob is None
    assert (rollout.step[rollout.response_mask] >= 0).all()
    again = [stream(0, "prompt", g) for g in range(len(BATCH))]
    config.micro_batch = 3
    parts = sample(deep_model(1), prompts, config, vocabulary(ALLOWED), num_rollouts=2, generators=again)
    assert torch.equal(parts.tokens, rollout.tokens)


def test_the_shadow_takes_no_room_of_the_models_length():
    """Shadows have the positions of what they shadow: the shipped policy, made for 32 positions, fills 16 after a prompt of 16."""
    config = load_config("toy_sudoku", "task.generate=all")
    policy, tokenizer = load_policy(config.model, torch.device("cpu"))
    task = build_task(config.task)
    prompts = encode(tokenizer, task, task.load(config.task.test)[:2])
    assert prompts.tokens.shape[1] == policy.config.max_sequence_length == 32
    words = build_vocabulary(tokenizer, policy.config.embedding_size, alphabet=task.alphabet)
    rollout = sample(policy, prompts, SamplerConfig("wino"), words, num_rollouts=1, generators=[stream(0, g) for g in range(2)])
    assert set(tokenizer.decode(rollout.tokens[rollout.response_mask])) <= set("1234")


@torch.no_grad()
def test_confidence_is_read_in_the_forward_that_placed_a_token_for_good():
    """With a threshold back near 0 nothing is taken back, so every step can be done again: hide what came at it or later."""
    prompts, model = make_prompts(*BATCH), deep_model(2)
    generators = [stream(0, g) for g in range(len(BATCH))]
    for back, again in ((1e-6, False), (0.999, True)):
        config = options(6, threshold=0.3, back_threshold=back)
        rollout = sample(model, prompts, config, vocabulary(ALLOWED), num_rollouts=1, generators=generators)
        placed = rollout.step >= 0
        assert ((rollout.confidence > 0) & (rollout.confidence <= 1)).all() and (rollout.confidence[~placed] == 1).all()
        if again:  # what was placed in the last forward of a block stands beside tokens that stay: it can be read again too
            placed = rollout.step == rollout.step.amax(dim=-1, keepdim=True)
        for g, n, s in placed.nonzero().tolist():
            tokens, step = rollout.tokens[g, n], rollout.step[g, n]
            seen = tokens.masked_fill(step >= step[s], MASK)
            expected = plain_log_prob(model, seen, rollout.attention_mask[g, n], s, int(tokens[s]), ALLOWED)
            assert rollout.confidence[g, n, s].item() == pytest.approx(np.exp(expected), rel=1e-5)
