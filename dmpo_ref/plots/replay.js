// Replays recorded trajectories, forward pass by forward pass. The data format is described in replay.py, which inlines this file into a
// page of its own; the book loads it too. All texts of models are set as text, never as HTML.
"use strict";

(() => {
  const HIDDEN = "·";
  const NEWEST = 6; // tokens of a pass that are named

  // What stands after `done` forward passes: for each position its text or null, and the positions that the last pass placed.
  function stateAfter(trajectory, done) {
    const shown = trajectory.pieces.map((piece, i) => (trajectory.step[i] < done ? piece : null));
    const placed = trajectory.step.flatMap((step, i) => (step >= 0 && step === done - 1 ? [i] : []));
    return { shown, placed };
  }

  // The number of forward passes of a trajectory.
  function passes(trajectory) {
    return 1 + Math.max(-1, ...trajectory.step);
  }

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") made.textContent = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // Special tokens, such as the many <|endoftext|> that fill a short answer up, are small squares; line breaks are seen.
  function readable(piece) {
    return /^<\|.*\|>$/.test(piece) ? "▪" : piece.replace(/\n/g, "⏎\n");
  }

  // White for a guess at 0, deep blue for certainty; the text on it stays readable.
  function shade(confidence) {
    const light = 97 - 45 * confidence;
    return { background: `hsl(212 80% ${light}%)`, color: "#111" };
  }

  function card(trajectory) {
    const box = element("div", { class: trajectory.board ? "dmpo-board" : "dmpo-text" });
    const cells = trajectory.pieces.map(() => {
      const cell = element("span", { class: "dmpo-token" });
      box.append(cell);
      return cell;
    });
    const now = element("p", { class: "dmpo-now" });
    const figure = element("figure", { class: "dmpo-card" }, element("figcaption", { text: trajectory.title }), box, now);

    function show(done) {
      const { shown, placed } = stateAfter(trajectory, done);
      cells.forEach((cell, i) => {
        const given = trajectory.step[i] < 0;
        const visible = shown[i] !== null;
        cell.textContent = visible ? readable(shown[i]) : HIDDEN + trajectory.pieces[i].replace(/[^\n]/g, ""); // the lines stay
        cell.className = `dmpo-token${given ? " dmpo-given" : ""}${visible ? "" : " dmpo-masked"}${placed.includes(i) ? " dmpo-new" : ""}`;
        const colors = visible && !given ? shade(trajectory.confidence[i]) : { background: "", color: "" };
        Object.assign(cell.style, colors);
        cell.title = visible && !given ? `pass ${trajectory.step[i] + 1}, confidence ${trajectory.confidence[i].toFixed(2)}` : "";
      });
      const last = passes(trajectory);
      const list = placed.slice(0, NEWEST).map((i) => `${JSON.stringify(trajectory.pieces[i])} ${trajectory.confidence[i].toFixed(2)}`);
      const more = placed.length > NEWEST ? `, and ${placed.length - NEWEST} more` : "";
      if (done > last) now.textContent = `finished after ${last} passes`;
      else if (done === 0) now.textContent = "nothing placed yet";
      else now.textContent = `pass ${done} of ${last} placed ${list.join(", ") || "nothing that stayed"}${more}`;
    }
    return { figure, show };
  }

  function replay(root, data) {
    let cards = [];
    let timer = null;
    const slider = element("input", { type: "range", min: 0, max: 1, value: 0, step: 1, "aria-label": "forward passes done" });
    const where = element("output", { class: "dmpo-where" });
    const prompt = element("pre", { class: "dmpo-prompt", tabindex: 0, "aria-label": "prompt" });
    const details = element("details", {}, element("summary", { text: "the prompt" }), prompt);
    const deck = element("div", { class: "dmpo-deck" });
    const play = element("button", { type: "button", onclick: () => (timer ? pause() : start()) });
    const choice = element("select", { "aria-label": "which answers", onchange: () => choose(Number(choice.value)) });
    data.groups.forEach((group, i) => choice.append(element("option", { value: i, text: group.title })));

    function draw() {
      const done = Number(slider.value);
      where.textContent = `${done} of ${slider.max} forward passes`;
      cards.forEach((one) => one.show(done));
    }
    function move(by) {
      slider.value = Number(slider.value) + by; // the browser keeps it within its bounds
      draw();
    }
    function pause() {
      clearInterval(timer);
      timer = null;
      play.textContent = "▶ play";
    }
    function start() {
      if (slider.value === slider.max) slider.value = 0;
      play.textContent = "⏸ pause";
      timer = setInterval(() => {
        move(1);
        if (slider.value === slider.max) pause();
      }, 300);
      draw();
    }
    function choose(index) {
      const group = data.groups[index];
      pause();
      cards = group.trajectories.map(card);
      deck.replaceChildren(...cards.map((one) => one.figure));
      prompt.textContent = group.prompt;
      details.hidden = !group.prompt;
      slider.max = Math.max(...group.trajectories.map(passes));
      slider.value = 0;
      draw();
    }

    slider.addEventListener("input", draw);
    const back = element("button", { type: "button", "aria-label": "one pass back", text: "◀", onclick: () => move(-1) });
    const next = element("button", { type: "button", "aria-label": "one pass on", text: "▶|", onclick: () => move(1) });
    const end = element("button", { type: "button", text: "end", onclick: () => move(Number(slider.max)) });
    const legend = element("span", { class: "dmpo-legend" }, "confidence 0 ");
    for (let k = 0; k <= 5; k++) {
      const swatch = element("span", { class: "dmpo-swatch" });
      swatch.style.background = shade(k / 5).background;
      legend.append(swatch);
    }
    legend.append(" 1");
    const controls = element("div", { class: "dmpo-controls" }, play, back, next, end, slider, where, legend);
    if (data.groups.length > 1) controls.prepend(choice);
    root.replaceChildren(controls, details, deck);
    choose(0);
  }

  window.dmpo = Object.assign(window.dmpo ?? {}, { replay, stateAfter, passes, element });
  for (const root of document.querySelectorAll("[data-figure=replay]")) {
    const inline = root.querySelector("script[type='application/json']");
    if (inline) replay(root, JSON.parse(inline.textContent));
  }
})();
