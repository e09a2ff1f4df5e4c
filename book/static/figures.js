// The figures of the book that can be touched: an element with data-figure="NAME" becomes the figure NAME. What it shows without a script
// stays in its place until then. The numbers come from mathematics.js, or from runs whose results window.dmpoData holds.
"use strict";

(() => {
  const { element } = dmpo; // replay.js
  const COLORS = { blue: "#0072b2", orange: "#d55e00", grey: "#767676", light: "#b5b5b5" };
  const svg = (tag, attributes = {}, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const percent = (p) => (p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : `${(100 * p).toFixed(1)} %`);
  const fixed = (digits) => (value) => value.toFixed(digits);

  // A labelled slider; `read()` is its value, or the one that `of` makes of it.
  function slider(name, { min, max, step, value, of = (v) => v, show = String }) {
    const input = element("input", { type: "range", min, max, step, value });
    const shown = element("output");
    const read = () => of(Number(input.value));
    const label = element("label", {}, element("span", { text: name }), input, shown);
    const update = () => {
      shown.textContent = show(read());
      input.setAttribute("aria-valuetext", `${name} ${shown.textContent}`);
    };
    input.addEventListener("input", update);
    update();
    return { label, input, read, set: (v) => ((input.value = v), update()) };
  }

  function choice(name, options) {
    const input = element("select", {}, ...options.map((option) => element("option", { value: option, text: option })));
    return { label: element("label", {}, element("span", { text: name }), input), input, read: () => input.value };
  }

  // Puts controls, a drawing as wide as the page, and a line that says what it shows into a root; draws again after any change.
  function assemble(root, controls, heightOf, draw) {
    const picture = svg("svg", { role: "img" });
    const says = element("p", { class: "dmpo-says", "aria-live": "polite" });
    root.replaceChildren(element("div", { class: "dmpo-controls" }, ...controls.map((c) => c.label ?? c)), picture, says);
    const redraw = () => {
      const width = Math.max(280, picture.parentElement.clientWidth - 26);
      const height = heightOf(width);
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      picture.setAttribute("width", width);
      picture.setAttribute("height", height);
      picture.replaceChildren();
      const sentence = draw(picture, width, height);
      says.textContent = sentence;
      picture.setAttribute("aria-label", sentence);
    };
    for (const c of controls) (c.input ?? c).addEventListener("input", redraw);
    new ResizeObserver(redraw).observe(root);
    redraw();
    return redraw;
  }

  // A panel with an axis at the left and names below; maps values to pixels.
  function panel(picture, { x, y, width, height, low, high, names = [], title = "" }) {
    const up = (v) => y + height - ((v - low) / (high - low)) * height;
    picture.append(svg("text", { x, y: y - 8, class: "dmpo-title" }, title));
    for (const tick of [low, (low + high) / 2, high]) {
      picture.append(svg("line", { x1: x, x2: x + width, y1: up(tick), y2: up(tick), stroke: "#ddd" }));
      picture.append(svg("text", { x: x - 4, y: up(tick) + 4, "text-anchor": "end" }, Number(tick.toFixed(2)).toString()));
    }
    const slot = width / Math.max(1, names.length);
    const rows = names.map((name) => name.split("\n"));
    for (const k of [0, 1]) {
      const lines = rows.map((row) => row[k] ?? "");
      const every = Math.ceil((7 * Math.max(0, ...lines.slice(0, -1).map((line) => line.length))) / slot) || 1; // those that have room
      lines.forEach((line, i) => {
        const isLast = i === lines.length - 1;
        if (!isLast && (i % every || i + every > lines.length)) return;
        const anchor = isLast && 7 * line.length > slot ? { x: x + width, "text-anchor": "end" } : { x: x + slot * (i + 0.5), "text-anchor": "middle" };
        picture.append(svg("text", { ...anchor, y: y + height + 15 + 14 * k }, line));
      });
    }
    const bar = (i, k, of, value, fill) => {
      const w = (0.8 * slot) / of;
      const [top, bottom] = [up(Math.max(value, 0)), up(Math.min(value, 0))];
      picture.append(svg("rect", { x: x + slot * (i + 0.1) + k * w, y: top, width: Math.max(1, w - 1), height: Math.max(0.5, bottom - top), fill }));
    };
    const mark = (i, value, stroke = "#111") =>
      picture.append(svg("line", { x1: x + slot * (i + 0.05), x2: x + slot * (i + 0.95), y1: up(value), y2: up(value), stroke, "stroke-width": 2.5 }));
    const curve = (values, stroke, dash = "") => {
      const points = values.map((v, i) => `${x + (i * width) / (values.length - 1)},${up(v)}`).join(" ");
      picture.append(svg("polyline", { points, fill: "none", stroke, "stroke-width": 2.5, "stroke-dasharray": dash }));
    };
    return { up, slot, bar, mark, curve };
  }

  function legend(picture, x, y, entries) {
    for (const [name, fill] of entries) {
      picture.append(svg("rect", { x, y: y - 9, width: 11, height: 11, fill }), svg("text", { x: x + 15, y }, name));
      x += 26 + 7.2 * name.length;
    }
  }

  // Two panels side by side, or one below the other on a phone: the box of each, and the height of both.
  const isNarrow = (width) => width < 520;
  const heightOfTwo = (width) => (isNarrow(width) ? 470 : 260);
  function twoBoxes(width, names) {
    const half = isNarrow(width) ? width - 44 : (width - 90) / 2;
    const box = { width: half, height: 165, names };
    return [{ ...box, x: 34, y: 30 }, isNarrow(width) ? { ...box, x: 34, y: 265 } : { ...box, x: 76 + half, y: 30 }];
  }

  const figures = {};

  // (a) From rewards to weights.
  figures.weights = (root) => {
    const rewards = [1, 0, 0.5, 0, 0.25, 1, 0, 0];
    const count = slider("rollouts N", { min: 2, max: 8, step: 1, value: 8 });
    const alpha = slider("temperature α", { min: -2, max: 1, step: 0.05, value: -0.3, of: (v) => 10 ** v, show: fixed(2) });
    const come = slider("p_old is on its way from p_ref (0) to p* (1)", { min: 0, max: 1, step: 0.05, value: 0, show: fixed(2) });
    const baseline = choice("baseline", ["uniform", "none", "negative"]);
    const sliders = rewards.map((value, n) => slider(`r of rollout ${n + 1}`, { min: 0, max: 1, step: 0.05, value, show: fixed(2) }));
    const own = element("details", {}, element("summary", { text: "the reward of each rollout" }), ...sliders.map((s) => s.label));
    own.className = "dmpo-rewards";
    assemble(root, [count, alpha, come, baseline, own], heightOfTwo, (picture, width) => {
      sliders.forEach((s, n) => (s.label.hidden = n >= count.read()));
      const r = sliders.slice(0, count.read()).map((s) => s.read());
      // p_old ∝ p_ref e^{t r/α}: log p_ref − log p_old = −t r/α, up to a constant that the softmax does not see.
      const logRatio = r.map((value) => (-come.read() * value) / alpha.read());
      const w = dmpo.targetWeights(r, logRatio, alpha.read());
      const base = dmpo.baselineWeights(baseline.read(), r, logRatio, alpha.read());
      const real = w.map((value, n) => value - base[n]);
      const [first, second] = twoBoxes(width, r.map((value, n) => `${n + 1}\nr=${value}`));
      const left = panel(picture, { ...first, low: 0, high: 1, title: "weights w (mark: 1/N)" });
      const right = panel(picture, { ...second, low: -1, high: 1, title: "w − w_base" });
      w.forEach((value, n) => left.bar(n, 0, 1, value, COLORS.blue));
      r.forEach((_, n) => left.mark(n, 1 / r.length));
      real.forEach((value, n) => right.bar(n, 0, 1, value, value < 0 ? COLORS.orange : COLORS.blue));
      const ess = dmpo.effectiveSampleSize(w);
      const total = real.reduce((a, b) => a + b, 0);
      return `ESS ${ess.toFixed(3)}: the weights count as ${(ess * r.length).toFixed(1)} of ${r.length} rollouts. ` +
        `Real weights with baseline ${baseline.read()} sum to ${Math.abs(total) < 5e-4 ? "0" : total.toFixed(2)}` +
        (baseline.read() === "uniform" ? "; in the first gradient step of a round the baseline model is the same." : ".");
    });
  };

  // (b) One or two Gaussians fitted to a mixture by either divergence.
  figures.gaussians = (root) => {
    const grid = Array.from({ length: 241 }, (_, i) => -12 + i / 10); // wide enough for any p_θ; the middle half is shown
    const kind = choice("family of p_θ", ["one Gaussian", "two Gaussians"]);
    const share = slider("share of the right mode of p*", { min: 0.05, max: 0.95, step: 0.05, value: 0.4, show: fixed(2) });
    const apart = slider("distance of the modes", { min: 0, max: 7, step: 0.25, value: 5, show: fixed(2) });
    const mean = slider("mean of p_θ", { min: -5, max: 5, step: 0.05, value: 1, show: fixed(2) });
    const width = slider("width of p_θ", { min: -1.6, max: 1.4, step: 0.05, value: 0.2, of: Math.exp, show: fixed(2) });
    let fitted = null; // what a fit has found, between the steps of the sliders, until one of them is moved
    let fits = 0; // number of the fit that may go on
    for (const control of [kind, mean, width, share, apart]) {
      control.input.addEventListener("input", () => {
        fits++;
        delete root.dataset.fitting;
        if (control !== share && control !== apart) fitted = null;
      });
    }
    const SECOND = [-1.5, 0, 0]; // where a second Gaussian starts: mean, log width, log odds of its share
    const target = () => dmpo.onGrid(grid, [[1 - share.read(), -apart.read() / 2, 0.6], [share.read(), apart.read() / 2, 0.6]]);
    const components = (p) => {
      if (kind.read() === "one Gaussian") return [[1, p[0], Math.exp(p[1])]];
      const s = 1 / (1 + Math.exp(-p[4]));
      return [[1 - s, p[0], Math.exp(p[1])], [s, p[2], Math.exp(p[3])]];
    };
    const parameters = () => fitted ?? [mean.read(), Math.log(width.read()), ...(kind.read() === "one Gaussian" ? [] : SECOND)];
    const policy = (p) => dmpo.onGrid(grid, components(p));
    const fit = (forward) => () => {
      const to = target();
      const objective = (p) => (forward ? dmpo.divergence(to, policy(p)) : dmpo.divergence(policy(p), to));
      let p = parameters();
      let left = 300;
      const mine = ++fits;
      root.dataset.fitting = "";
      const go = () => {
        if (mine !== fits) return; // a control was moved, or another fit has begun
        for (let k = 0; k < 6 && left > 0; k++, left--) p = dmpo.descend(objective, p, 1);
        mean.set(p[0]);
        width.set(p[1]);
        fitted = p;
        draw();
        if (left > 0) requestAnimationFrame(go);
        else delete root.dataset.fitting;
      };
      go();
    };
    const forward = element("button", { type: "button", text: "minimise forward KL(p*‖p_θ)", onclick: fit(true) });
    const reverse = element("button", { type: "button", text: "minimise reverse KL(p_θ‖p*)", onclick: fit(false) });
    const draw = assemble(root, [kind, share, apart, mean, width, forward, reverse], () => 260, (picture, w, h) => {
      const [logP, logQ] = [target(), policy(parameters())];
      const density = (logs) => logs.slice(60, 181).map((v) => Math.exp(v) * 10);
      const box = panel(picture, { x: 34, y: 24, width: w - 44, height: h - 60, low: 0, high: 0.8 });
      for (const x of [-6, -3, 0, 3, 6]) {
        picture.append(svg("text", { x: 34 + ((x + 6) / 12) * (w - 44), y: h - 20, "text-anchor": "middle" }, x));
      }
      box.curve(density(logP), COLORS.grey, "6 4");
      box.curve(density(logQ).map((v) => Math.min(v, 0.8)), COLORS.blue);
      legend(picture, 40, 14, [["p*", COLORS.grey], ["p_θ", COLORS.blue]]);
      const nats = (p, q) => Math.max(0, dmpo.divergence(p, q)).toFixed(3); // rounding can make it less than 0
      return `Forward KL(p*‖p_θ) ${nats(logP, logQ)} nats, reverse KL(p_θ‖p*) ${nats(logQ, logP)} nats.`;
    });
  };

  // (c) Five answers, one group of rollouts, several gradient steps: the paper's Figure 3, with N on a slider.
  figures.baseline = (root) => {
    const [names, reward, pRef] = [["A", "B", "C", "D", "E"], [0, 0.25, 1, 0.5, 2], [0.4, 0.25, 0.15, 0.12, 0.08]];
    const logRef = pRef.map(Math.log);
    const logTarget = logRef.map((v, i) => v + reward[i]);
    const normaliser = dmpo.logSumExp(logTarget);
    const baseline = choice("baseline", ["none", "uniform", "negative", "model"]);
    const count = slider("rollouts N", { min: 1, max: 10, step: 1, value: 2, of: (v) => 2 ** v });
    const steps = slider("gradient steps on this group", { min: 0, max: 100, step: 1, value: 4 });
    const seed = slider("another draw", { min: 1, max: 50, step: 1, value: 3, show: (v) => `number ${v}` });
    assemble(root, [baseline, count, steps, seed], heightOfTwo, (picture, width) => {
      const group = dmpo.draw(pRef, seed.read(), count.read());
      const { real, logTheta } = dmpo.stepsOnGroup({
        logRef, logOld: logRef, reward, group, baseline: baseline.read(), alpha: 1, rate: 0.5, steps: steps.read(),
      });
      const [first, second] = twoBoxes(width, names.map((name, x) => `${name}\nr=${reward[x]}`));
      const left = panel(picture, { ...first, low: -1, high: 1, title: "rollouts drawn (×), sum of their real weights" });
      const right = panel(picture, { ...second, low: 0, high: 1, title: "p before (grey), after; mark: p*" });
      let drawn = 0;
      names.forEach((_, x) => {
        const of = real.filter((_, n) => group[n] === x);
        const total = of.reduce((a, b) => a + b, 0);
        drawn += of.length > 0;
        if (of.length) left.bar(x, 0, 1, total, total < 0 ? COLORS.orange : COLORS.blue);
        picture.append(svg("text", { x: first.x + left.slot * (x + 0.5), y: left.up(-0.93), "text-anchor": "middle" }, `× ${of.length}`));
        right.bar(x, 0, 2, pRef[x], COLORS.light);
        right.bar(x, 1, 2, Math.exp(logTheta[x]), COLORS.blue);
        right.mark(x, Math.exp(logTarget[x] - normaliser));
      });
      const missed = names.filter((_, x) => !group.includes(x));
      const kept = missed.map((name) => `${name} ${percent(pRef[names.indexOf(name)])} → ${percent(Math.exp(logTheta[names.indexOf(name)]))}`);
      return `${drawn} of 5 answers drawn. ` + (kept.length ? `Not drawn: ${kept.join(", ")}.` : "None was missed.");
    });
  };

  // (e) The policy on its way to p*: runs on one puzzle with two solutions, every probability exact.
  figures.flow = (root) => {
    const { names, target, runs } = dmpoData.flow;
    const methods = Object.keys(runs);
    const rounds = runs[methods[0]].map((point) => point.round);
    const when = slider("round", { min: 0, max: rounds.length - 1, step: 1, value: 0, of: (i) => rounds[i] });
    const play = element("button", { type: "button", text: "▶ play" });
    const redraw = assemble(root, [play, when], () => 20 + 130 * methods.length, (picture, width) => {
      const index = Number(when.input.value);
      const kl = methods.map((method, k) => {
        const point = runs[method][index];
        const title = `${method}: KL(p*‖p_θ) ${point.kl.toFixed(3)} nats`;
        const last = k === methods.length - 1;
        const box = panel(picture, { x: 34, y: 26 + 130 * k, width: width - 44, height: 80, low: 0, high: 1, title, names: last ? names : [] });
        const slot = (width - 44) / names.length;
        point.probability.forEach((p, i) => {
          const top = box.up(p);
          const fill = i < 2 ? COLORS.blue : i < names.length - 1 ? COLORS.orange : COLORS.light;
          picture.append(svg("rect", { x: 34 + slot * (i + 0.15), y: top, width: slot * 0.7, height: box.up(0) - top, fill }));
          picture.append(svg("line", { x1: 34 + slot * i, x2: 34 + slot * (i + 1), y1: box.up(target[i]), y2: box.up(target[i]), stroke: "#111", "stroke-width": 2 }));
        });
        return `${method}: solutions ${percent(point.probability[0])} and ${percent(point.probability[1])}`;
      });
      return `Round ${when.read()}. ${kl.join("; ")}; p*: ${percent(target[0])} and ${percent(target[1])}.`;
    });
    let timer = null;
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(when.input.value) === rounds.length - 1) when.set(0);
      play.textContent = "⏸ pause";
      timer = setInterval(() => {
        when.set(Number(when.input.value) + 1);
        redraw();
        if (Number(when.input.value) === rounds.length - 1) stop();
      }, 250);
    });
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "▶ play";
    };
  };

  // (d) Recorded trajectories.
  figures.samplers = (root) => dmpo.replay(root, dmpoData.replays);

  for (const root of document.querySelectorAll("[data-figure]")) figures[root.dataset.figure]?.(root);

  // A table that is wider than its page scrolls inside itself: then it can be reached by keyboard.
  const makeReachable = () => {
    for (const table of document.querySelectorAll(".bd-article table")) {
      if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
      else table.removeAttribute("tabindex");
    }
  };
  new ResizeObserver(makeReachable).observe(document.body);
})();
