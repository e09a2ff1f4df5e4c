"""The figures that can be touched: their formulas against Python, their controls by mouse and keyboard, a phone; the replay of a run."""

import itertools
import json
import math

import pytest
import torch
from conftest import HTML, SCREENSHOTS, SECONDS, Traffic
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from dmpo_ref.losses import wdce
from dmpo_ref.plots.replay import group_of, save_replay
from dmpo_ref.weights import baseline_weights, effective_sample_size, model_baseline, target_weights
from toy.oracle import kl_divergence

pytestmark = pytest.mark.browser
FIGURES = ["weights", "gaussians", "baseline", "samplers", "flow"]
LOADED = [*HTML.glob("_static/*.js"), *HTML.glob("_static/touch_*.png"), *HTML.glob("_static/*.css")]


@pytest.fixture
def page(browser, site):
    browser.get("about:blank")
    Traffic(browser)
    browser.get(f"{site}/play.html")
    return browser


def call(browser, function, *arguments):
    return browser.execute_script(f"return dmpo.{function}(...arguments)", *arguments)


def equals(found, expected):
    return found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 7.0])
def test_weights_are_those_of_the_library(page, alpha):
    for N in (2, 5, 8):
        generator = torch.Generator().manual_seed(N)
        reward, log_ratio, other = torch.randn(3, 1, N, generator=generator, dtype=torch.float64)
        lists = [x[0].tolist() for x in (reward, log_ratio, other)]
        w = target_weights(reward / alpha + log_ratio)
        assert equals(call(page, "targetWeights", lists[0], lists[1], alpha), w[0].tolist())
        assert equals(call(page, "effectiveSampleSize", w[0].tolist()), effective_sample_size(w).item())
        for kind in ("none", "uniform", "negative"):
            expected = baseline_weights(kind, reward, log_ratio, alpha=alpha)[0].tolist()
            assert equals(call(page, "baselineWeights", kind, lists[0], lists[1], alpha), expected)
        expected = model_baseline(other, torch.zeros_like(other))[0].tolist()
        assert equals(call(page, "baselineWeights", "model", lists[0], lists[1], alpha, lists[2]), expected)


def test_mixtures_and_divergences_are_those_of_float64(page):
    grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
    mixtures = [[[1, 0.3, 2.0]], [[0.6, -2.5, 0.6], [0.4, 2.5, 0.6]], [[0.05, 4, 0.2], [0.95, -4, 3]]]
    logs = []
    for mixture in mixtures:
        terms = [(share, torch.tensor([mean, width], dtype=torch.float64)) for share, mean, width in mixture]
        density = sum(share * torch.distributions.Normal(*of).log_prob(grid).exp() for share, of in terms)
        logs.append((density / density.sum()).log())
    for p, q in itertools.permutations(range(3), 2):
        on_grid = [call(page, "onGrid", grid.tolist(), mixtures[k]) for k in (p, q)]
        exact = [torch.tensor(values, dtype=torch.float64) for values in on_grid]
        for values, log_prob in zip(exact, (logs[p], logs[q]), strict=True):
            seen = log_prob > -600  # beyond, a density of float64 is 0
            assert torch.allclose(values[seen], log_prob[seen], rtol=1e-9, atol=1e-9)
        assert equals(call(page, "divergence", *on_grid), kl_divergence(*exact))


def test_descent_finds_the_minimum_that_is_known(page):
    """One Gaussian: forward KL matches the moments of the target; reverse KL of a mode of share s is −log s. Two Gaussians that start on
    one side: forward KL finds both modes, reverse KL one."""
    fit = """
    const grid = Array.from({ length: 241 }, (_, i) => -12 + i / 10);
    const target = dmpo.onGrid(grid, [[0.6, -2.5, 0.6], [0.4, 2.5, 0.6]]);
    const policy = (p) => {
      if (p.length === 2) return dmpo.onGrid(grid, [[1, p[0], Math.exp(p[1])]]);
      const s = 1 / (1 + Math.exp(-p[4]));
      return dmpo.onGrid(grid, [[1 - s, p[0], Math.exp(p[1])], [s, p[2], Math.exp(p[3])]]);
    };
    const [forward, start] = arguments;
    const objective = (p) => (forward ? dmpo.divergence(target, policy(p)) : dmpo.divergence(policy(p), target));
    let p = start;
    for (let k = 0; k < 300; k++) p = dmpo.descend(objective, p, 1);
    return [p, objective(p)];
    """
    (mean, log_width), _ = page.execute_script(fit, True, [1, 0.2])
    variance = 0.36 + 0.6 * 2.0**2 + 0.4 * 3.0**2  # of the modes about their mean, −0.5
    assert mean == pytest.approx(-0.5, abs=1e-3) and math.exp(log_width) == pytest.approx(math.sqrt(variance), abs=1e-3)
    assert page.execute_script(fit, False, [1, 0.2])[1] == pytest.approx(-math.log(0.4), abs=1e-3)
    assert page.execute_script(fit, False, [-1, 0.2])[1] == pytest.approx(-math.log(0.6), abs=1e-3)
    left = [-3, 0.2, -1.5, 0, 0]
    assert page.execute_script(fit, True, left)[1] == pytest.approx(0, abs=1e-4)
    assert page.execute_script(fit, False, left)[1] == pytest.approx(-math.log(0.6), abs=1e-3)


@pytest.mark.parametrize("baseline", ["none", "uniform", "negative", "model"])
def test_steps_on_a_group_are_those_of_autograd(page, baseline):
    log_ref = torch.tensor([0.40, 0.25, 0.15, 0.12, 0.08], dtype=torch.float64).log()
    reward = torch.tensor([0.0, 0.25, 1.0, 0.5, 2.0], dtype=torch.float64)
    log_old = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1], dtype=torch.float64).log()
    group = torch.tensor([[0, 0, 1, 4, 2, 2]])
    log_ratio = (log_ref - log_old)[group]
    weight = target_weights(reward[group] / 0.7 + log_ratio)
    logits = log_old.clone()
    for _ in range(7):
        logits = logits.detach().requires_grad_()
        log_theta = logits.log_softmax(0)[group]
        if baseline == "model":
            base = model_baseline(log_theta, log_old[group])
        else:
            base = baseline_weights(baseline, reward[group], log_ratio, alpha=0.7)
        wdce(log_theta, weight - base).backward()
        logits = logits - 0.5 * logits.grad
    given = {"logRef": log_ref.tolist(), "logOld": log_old.tolist(), "reward": reward.tolist(), "group": group[0].tolist()}
    found = call(page, "stepsOnGroup", given | {"baseline": baseline, "alpha": 0.7, "rate": 0.5, "steps": 7})
    assert equals(found["logTheta"], logits.log_softmax(0).tolist())
    if baseline != "none":
        assert sum(found["real"]) == pytest.approx(0, abs=1e-12)


def test_what_the_page_says_of_a_small_and_of_a_large_group(page):
    p_ref, reward = [0.40, 0.25, 0.15, 0.12, 0.08], [0.0, 0.25, 1.0, 0.5, 2.0]
    logs = [math.log(p) for p in p_ref]
    target = torch.tensor(logs, dtype=torch.float64).add(torch.tensor(reward)).softmax(0)

    def after(baseline, count, steps, draw=3):
        group = call(page, "draw", p_ref, draw, count)
        given = {"logRef": logs, "logOld": logs, "reward": reward, "group": group, "alpha": 1, "rate": 0.5}
        log_theta = call(page, "stepsOnGroup", given | {"baseline": baseline, "steps": steps})["logTheta"]
        return torch.tensor(log_theta, dtype=torch.float64).exp(), group

    p, group = after("none", 4, 100)
    assert 4 not in group and p[4] < p_ref[4] / 5  # "almost gone"
    for baseline in ("uniform", "model"):
        p, _ = after(baseline, 4, 4)
        assert (p[4] / p[3]).item() == pytest.approx(p_ref[4] / p_ref[3])  # "keep their odds to one another"
    assert torch.allclose(after("model", 1024, 100)[0], target, atol=2e-3)
    assert torch.allclose(after("none", 1024, 100)[0], target, atol=0.05)
    assert all(after(baseline, 1024, 100)[0][4] > 0.99 for baseline in ("uniform", "negative"))


def test_at_the_target_all_weights_are_equal(page):
    reward = [1, 0, 0.5, 0.25]
    assert equals(call(page, "targetWeights", reward, [-r / 0.3 for r in reward], 0.3), [0.25] * 4)


def test_draws_follow_the_probabilities_and_a_number_gives_the_same_ones(page):
    probability = [0.5, 0.3, 0.2]
    drawn = call(page, "draw", probability, 7, 20_000)
    for answer, p in enumerate(probability):
        assert abs(drawn.count(answer) / 20_000 - p) < 5 * math.sqrt(p * (1 - p) / 20_000)
    assert call(page, "draw", probability, 7, 50) == drawn[:50] != call(page, "draw", probability, 8, 50)


def figure(browser, name):
    return browser.find_element(By.CSS_SELECTOR, f"[data-figure={name}]")


def shown(root):
    """What a figure draws and says, without the labels of its controls."""
    parts = root.find_elements(By.CSS_SELECTOR, "svg, .dmpo-says, .dmpo-deck")
    return "".join(part.get_attribute("innerHTML") for part in parts)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_answers_the_keyboard(page, name):
    """Every slider, list and button can be reached with Tab; arrow keys move a slider, and the figure changes."""
    root = figure(page, name)
    for control in root.find_elements(By.CSS_SELECTOR, "input, select, button"):
        if control.is_displayed():
            assert control.get_property("tabIndex") == 0
            assert control.accessible_name.strip()
    sliders = [s for s in root.find_elements(By.CSS_SELECTOR, "input[type=range]") if s.is_displayed()]
    for slider in sliders:
        before = shown(root)
        slider.send_keys(Keys.ARROW_RIGHT)
        if shown(root) == before:  # it stood at its right end
            slider.send_keys(Keys.ARROW_LEFT)
        assert shown(root) != before


def test_the_mouse_plays_a_replay_and_stops_it(page):
    root = figure(page, "samplers")
    play = root.find_element(By.CSS_SELECTOR, "button")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", play)
    play.click()
    assert "pause" in play.text
    page.execute_async_script("setTimeout(arguments[0], 1000)")
    play.click()
    assert "play" in play.text
    passes = int(root.find_element(By.CSS_SELECTOR, ".dmpo-where").text.split()[0])
    assert passes >= 1
    assert f"pass {passes} of" in root.text


@pytest.mark.parametrize(
    ("clicks", "expected"),
    [([0], "Forward KL(p*‖p_θ) 0.763"), ([1], "reverse KL(p_θ‖p*) 0.916"), ([0, 1], "reverse KL(p_θ‖p*) 2.088")],
    ids=["forward", "reverse", "reverse after forward"],
)
def test_a_fit_by_mouse_ends_where_the_page_says(page, clicks, expected):
    root = figure(page, "gaussians")
    buttons = root.find_elements(By.CSS_SELECTOR, "button")
    for index in clicks:
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", buttons[index])
        buttons[index].click()
        WebDriverWait(page, SECONDS, 0.2).until(lambda b: root.get_attribute("data-fitting") is None)
    assert expected in root.text


def test_what_a_fit_has_found_stays_until_a_slider_of_the_policy_is_moved(page):
    """Two Gaussians: only the fit itself has all five parameters; the sliders hold two, in steps."""
    root = figure(page, "gaussians")
    change = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'));"
    page.execute_script(change, root.find_element(By.CSS_SELECTOR, "select"), "two Gaussians")
    page.execute_script("arguments[0].click()", root.find_element(By.CSS_SELECTOR, "button"))
    WebDriverWait(page, SECONDS, 0.2).until(lambda b: root.get_attribute("data-fitting") is None)
    assert "Forward KL(p*‖p_θ) 0.000 nats, reverse KL(p_θ‖p*) 0.000" in root.text
    page.execute_script(change, root.find_elements(By.CSS_SELECTOR, "input[type=range]")[2], "1")
    assert "Forward KL(p*‖p_θ) 0.000" not in root.text


def test_a_control_that_is_moved_ends_a_fit(page):
    """Another family in the middle of a fit: no NaN, and the slider stays where it was put."""
    root = figure(page, "gaussians")
    root.find_element(By.CSS_SELECTOR, "button").click()
    mean = root.find_elements(By.CSS_SELECTOR, "input[type=range]")[2]
    change = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'));"
    page.execute_script(change, root.find_element(By.CSS_SELECTOR, "select"), "two Gaussians")
    page.execute_script(change, mean, "-4")
    page.execute_async_script("setTimeout(arguments[0], 800)")
    assert mean.get_property("value") == "-4" and "NaN" not in root.text
    assert root.get_attribute("data-fitting") is None


def test_the_flow_shows_the_recorded_numbers(page):
    recorded = page.execute_script("return dmpoData.flow")
    root = figure(page, "flow")
    slider = root.find_element(By.CSS_SELECTOR, "input[type=range]")
    slider.send_keys(Keys.END)
    for method, points in recorded["runs"].items():
        last = points[-1]
        assert f"{method}: KL(p*‖p_θ) {last['kl']:.3f} nats" in shown(root)
        assert sum(last["probability"]) == pytest.approx(1, abs=1e-3)
    assert f"Round {points[-1]['round']}." in root.text


def test_nothing_is_wider_than_a_phone_and_nothing_comes_from_elsewhere(page):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True})
    try:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.refresh()
        page.execute_async_script("setTimeout(arguments[0], 500)")
        outside = "e.getBoundingClientRect().right > 391 && e.checkVisibility()"
        wide = f"return Array.from(arguments[0].querySelectorAll('*')).filter(e => {outside}).length"
        for name in FIGURES:
            root = figure(page, name)
            page.execute_script("arguments[0].scrollIntoView({block: 'start'})", root)
            page.save_screenshot(str(SCREENSHOTS / f"phone_{name}.png"))
            assert page.execute_script(wide, root) == 0
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    traffic = Traffic(page)
    assert traffic.hosts == {"127.0.0.1"} and traffic.failed == [] and traffic.errors == []


def test_the_page_is_small():
    own = [path for path in LOADED if path.name.split(".")[0] in {"figures", "mathematics", "recorded", "replay"} or "touch_" in path.name]
    assert len(own) == 4 + 1 + len(FIGURES)
    assert sum(path.stat().st_size for path in [*own, HTML / "play.html"]) < 1_000_000


def test_a_replay_page_shows_hostile_texts_as_text(browser, tmp_path):
    """Nothing in a text becomes an element or a script, and no script but the page's own can run."""
    texts = ["<script>document.title='gone'</script>", "</script><img src=x onerror=\"document.title='gone'\">", "\x1b[31mred", "‮abc"]
    answer = {"pieces": texts, "step": [0, 1, 2, -1], "confidence": [0.5, 1.0, 0.0, 1.0]}
    group = group_of("<b>group</b>", "<i>prompt</i>\n<!--", [answer], ["<u>answer</u>"])
    save_replay(tmp_path / "page.html", {"title": "</title><script>document.title='gone'</script>", "groups": [group]})
    browser.get((tmp_path / "page.html").as_uri())
    slider = browser.find_element(By.CSS_SELECTOR, "input[type=range]")
    assert slider.get_property("max") == "3"
    slider.send_keys(Keys.END)
    found = [token.text for token in browser.find_elements(By.CSS_SELECTOR, ".dmpo-token")]
    assert found == [texts[0], texts[1], "␛[31mred", "�abc"]
    assert "gone" in browser.title and browser.title.startswith("</title>")  # the text itself, not what it would do
    assert browser.find_elements(By.CSS_SELECTOR, "main b, main i, main u, main img") == []
    browser.execute_script("const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);")
    assert browser.execute_script("return window.ran ?? 0") == 0


def test_a_replay_stops_by_itself_at_its_end(page):
    root = figure(page, "samplers")
    slider, play = root.find_element(By.CSS_SELECTOR, "input[type=range]"), root.find_element(By.CSS_SELECTOR, "button")
    last = int(slider.get_property("max"))
    page.execute_script("arguments[0].value = arguments[1]", slider, last - 2)
    page.execute_script("arguments[0].click()", play)
    assert "pause" in play.text
    WebDriverWait(page, SECONDS, 0.2).until(lambda b: "play" in play.text)
    assert int(slider.get_property("value")) == last


def test_a_replay_goes_forward_and_back_one_pass_at_a_time(browser, tmp_path):
    """By hand: three tokens, of which the second is given, the third comes first."""
    answer = {"pieces": ["4", "-", "7"], "step": [1, -1, 0], "confidence": [0.25, 1.0, 0.875]}
    save_replay(tmp_path / "page.html", {"title": "t", "groups": [group_of("g", "", [answer], ["a"])]})
    browser.get((tmp_path / "page.html").as_uri())
    back, on = (browser.find_element(By.CSS_SELECTOR, f"[aria-label='one pass {name}']") for name in ("back", "on"))

    def tokens():
        return "".join(token.text for token in browser.find_elements(By.CSS_SELECTOR, ".dmpo-token"))

    assert tokens() == "·-·"
    assert browser.execute_script("return dmpo.passes(arguments[0])", answer) == 2
    on.click()
    assert tokens() == "·-7" and 'pass 1 of 2 placed "7" 0.88' in browser.find_element(By.TAG_NAME, "main").text
    on.click()
    assert tokens() == "4-7"
    back.click()
    assert tokens() == "·-7"
    assert json.loads(browser.execute_script("return JSON.stringify(dmpo.stateAfter(arguments[0], 1))", answer)) == {
        "shown": [None, "-", "7"],
        "placed": [2],
    }
