// The mathematics of the figures that can be touched, a few lines each. A test compares every function with the Python one on a grid of
// inputs: tests/browser/test_figures.py.
"use strict";

(() => {
  const sum = (values) => values.reduce((a, b) => a + b, 0);

  // log Σ exp, without overflow.
  function logSumExp(values) {
    const top = Math.max(...values);
    return top + Math.log(sum(values.map((v) => Math.exp(v - top))));
  }

  function softmax(values) {
    const total = logSumExp(values);
    return values.map((v) => Math.exp(v - total));
  }

  // w = softmax of ℓ = r/α + log_ratio over the N rollouts of one prompt; dmpo_ref.weights.
  function targetWeights(reward, logRatio, alpha) {
    return softmax(reward.map((r, n) => r / alpha + logRatio[n]));
  }

  // w_base of one prompt. `logPolicyRatio` is log p_θ − log p_old of each rollout, for the baseline `model` alone.
  function baselineWeights(kind, reward, logRatio, alpha, logPolicyRatio) {
    if (kind === "none") return reward.map(() => 0);
    if (kind === "uniform") return reward.map(() => 1 / reward.length);
    if (kind === "negative") return softmax(reward.map((r, n) => -r / alpha + logRatio[n]));
    return softmax(logPolicyRatio);
  }

  // ESS = 1/(N Σ w²).
  function effectiveSampleSize(weight) {
    return 1 / (weight.length * sum(weight.map((w) => w * w)));
  }

  // log of Σ_k share_k · Normal(x; mean_k, width_k).
  function logMixture(x, components) {
    return logSumExp(components.map(([share, mean, width]) => Math.log(share / (width * Math.sqrt(2 * Math.PI))) - ((x - mean) / width) ** 2 / 2));
  }

  // A mixture on a grid, as log-probabilities of the cells, which sum to 1.
  function onGrid(grid, components) {
    const values = grid.map((x) => logMixture(x, components));
    const total = logSumExp(values);
    return values.map((v) => v - total);
  }

  // KL(p‖q) = Σ p (log p − log q), nats.
  function divergence(logP, logQ) {
    return sum(logP.map((p, i) => (p > -700 ? Math.exp(p) * (p - logQ[i]) : 0)));
  }

  // One step of gradient descent on a divergence in any parameters, the gradient by central differences. The step is halved until it gains
  // half of what the gradient promises (Armijo's rule): one that only gains something can lead far away.
  function descend(objective, parameters, rate) {
    const before = objective(parameters);
    const gradient = parameters.map((_, i) => {
      const at = (by) => objective(parameters.map((v, j) => (i === j ? v + by : v)));
      return (at(1e-4) - at(-1e-4)) / 2e-4;
    });
    for (let step = rate; step > 1e-6; step /= 2) {
      const next = parameters.map((v, i) => v - step * gradient[i]);
      const gain = gradient.reduce((total, s) => total + s * s, 0) * step;
      if (objective(next) <= before - gain / 2) return next;
    }
    return parameters;
  }

  // Policy over C answers after plain gradient steps of WDCE on one group of rollouts, as in notebook 04: Δz_x is the sum of the real
  // weights of the rollouts that drew x, less the sum of all of them times p_θ(x).
  function stepsOnGroup({ logRef, logOld, reward, group, baseline, alpha, rate, steps }) {
    const of = (values) => group.map((answer) => values[answer]);
    const logRatio = of(logRef).map((v, n) => v - logOld[group[n]]);
    const weight = targetWeights(of(reward), logRatio, alpha);
    let logTheta = logOld;
    let real = [];
    for (let step = 0; step <= steps; step++) {
      const base = baselineWeights(baseline, of(reward), logRatio, alpha, of(logTheta).map((v, n) => v - logOld[group[n]]));
      const now = weight.map((w, n) => w - base[n]);
      if (step === 0) real = now; // the weights of the first step are the ones to show
      if (step === steps) break;
      const total = sum(now);
      const logits = logTheta.map((v, x) => v + rate * (sum(now.filter((_, n) => group[n] === x)) - total * Math.exp(v)));
      const normaliser = logSumExp(logits);
      logTheta = logits.map((v) => v - normaliser);
    }
    return { real, logTheta };
  }

  // Random numbers on [0, 1) from a whole number: mulberry32.
  function uniforms(seed, count) {
    let state = seed >>> 0;
    return Array.from({ length: count }, () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    });
  }

  // N answers drawn from probabilities, by inverse CDF.
  function draw(probability, seed, count) {
    return uniforms(seed, count).map((u) => {
      let left = u;
      const index = probability.findIndex((p) => (left -= p) < 0);
      return index < 0 ? probability.length - 1 : index;
    });
  }

  const functions = { logSumExp, softmax, targetWeights, baselineWeights, effectiveSampleSize, logMixture, onGrid, divergence, descend };
  globalThis.dmpo = Object.assign(globalThis.dmpo ?? {}, functions, { stepsOnGroup, uniforms, draw });
})();
