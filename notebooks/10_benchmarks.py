# %% [markdown]
# # 10 · Benchmarks
#
# How reliable are the numbers in a results table, and how do you make yours comparable with them?
#
# **You will learn**
# - what the paper reports for LLaDA-8B before and after DMPO, and which of the differences are larger than the error from the number of
#   test items;
# - why every answer is graded twice, `published` and `strict`, and where the two differ;
# - how to grade files that already exist, and how to continue an evaluation that was interrupted;
# - what pass@k shows and accuracy does not.
#
# **You need** notebook [00](00_quickstart.ipynb); nothing here trains. **It takes** half an hour to read and 20 seconds
# to run.

# %% tags=["hide-input"]
try:
    from toy.notebook import Table, start
except ImportError:
    raise SystemExit(
        "dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the "
        "repository, then restart the kernel"
    ) from None
start()

# %% tags=["hide-input"]
import contextlib
import io
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Image, display

from dmpo_ref import load_config
from dmpo_ref.cli import main
from dmpo_ref.config import TaskConfig
from dmpo_ref.evaluation.gradings import grade_files, pass_at_k, summarise, wilson
from dmpo_ref.evaluation.report import describe_item, format_scores
from dmpo_ref.evaluation.table import (
    PUBLISHED,
    TITLES,
    as_columns,
    draw_table,
    list_settings,
)
from dmpo_ref.tasks import TASKS
from toy import RESULTS

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. The published numbers
#
# Four benchmarks: grade-school problems ([GSM8K](https://arxiv.org/abs/2110.14168), 1,319 test items), competition
# mathematics
# ([MATH](https://arxiv.org/abs/2103.03874), of which 500 are used), Countdown (reach a target from three numbers; 256
# items) and 4x4 Sudoku
# (256 puzzles). The protocol of the tables: generation lengths 128, 256 and 512, half as many steps, blocks of 32
# tokens, temperature 0,
# low-confidence remasking.
#
# There are *two* published rows for the same base model: one from d1's files ([arXiv:2504.12216](https://arxiv.org/abs/2504.12216)), one
# from the DMPO paper's own run ([arXiv:2510.08233v2](https://arxiv.org/abs/2510.08233v2), Figure 1). They differ by up to five points,
# although the weights are the same. Remember this when a paper reports a gain of three points. Accuracies in %; for Sudoku they count blank
# cells, not puzzles:

# %%
Table(
    [
        (TITLES[task], length, *(c.values.get((task, length), "–") for c in PUBLISHED))
        for task, length in list_settings(PUBLISHED)
    ],
    ("task", "length", *(column.name for column in PUBLISHED)),
)

# %% [markdown]
# **Check yourself.** You train LLaDA-8B-Instruct with a method of your own and measure 80.0 % on GSM8K at length 256. What is the gain?
#
# <details class="choice"><summary>3.6 points: d1's files can be graded by everyone.</summary>
#
# **No.** They show what the base model scores in d1's run. Yours may differ from it in more than the weights, as the paper's own run does.
#
# </details>
#
# <details class="choice"><summary>0.2 points: the higher row of the base model counts.</summary>
#
# **No.** Nothing says that the paper's run is more like yours than that of d1.
#
# </details>
#
# <details class="choice"><summary>The table does not say: run the base model yourself.</summary>
#
# **Right.** It is 3.6 points by one row and 0.2 by the other, and both rows are the same weights. Only if you evaluate the base model too,
# in the same way, is the difference due to training.
#
# </details>
#
# ## 2. What n items can tell
#
# A share $\hat p$ of $n$ items is a measurement. Wilson's 95 % interval contains every $p$ at which the measured share is at most 1.96
# standard errors away:
#
# $$|\hat p - p| \le 1.96 \sqrt{p\,(1-p)/n}.$$
#
# Before you run the next cell: which of the paper's four gains at length 256 do you expect to be larger than the
# intervals?

# %%
ITEMS = {"gsm8k": 1319, "math500": 500, "countdown": 256, "sudoku": 256}
before, after = (column.values for column in PUBLISHED[1:])
rows = []
for task, n in ITEMS.items():
    (low_b, high_b), (low_a, high_a) = (
        wilson(row[task, 256][0] / 100, n) for row in (before, after)
    )
    ends = [f"{100 * low_b:.1f} – {100 * high_b:.1f}"]
    ends += [f"{100 * low_a:.1f} – {100 * high_a:.1f}"]
    rows.append((TITLES[task], *ends, "apart" if high_b < low_a else "overlap"))
Table(rows, ("95 % interval, %", "LLaDA-8B-Instruct", "DMPO", "the two"))

# %% tags=["nbval-ignore-output", "slide", "hide-input"] alt="Published accuracies of LLaDA-8B and DMPO with intervals for four benchmarks. They overlap on GSM8K and MATH-500; on Countdown and Sudoku DMPO is clearly higher."
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for place, (task, n) in enumerate(ITEMS.items()):
    for shift, name, row in (
        (-0.12, "LLaDA-8B-Instruct", before),
        (0.12, "DMPO", after),
    ):
        share = row[task, 256][0] / 100
        low, high = wilson(share, n)
        color = "C0" if shift < 0 else "C1"
        axes.errorbar(
            place + shift,
            share,
            [[share - low], [high - share]],
            fmt="o",
            capsize=4,
            color=color,
            label=name if place == 0 else None,
        )
axes.set(
    xticks=range(4),
    xticklabels=[
        "GSM8K\n1,319 items",
        "MATH-500\n500 items",
        "Countdown\n256 items",
        "Sudoku\ncells of 256 puzzles",
    ],
    ylabel="accuracy",
    ylim=(0, 1),
)
axes.set_title("Published accuracy at length 256, with the interval that n items allow")
axes.legend()
plt.show()

# %% [markdown]
# For Countdown and Sudoku, the intervals are far apart. For MATH-500 they overlap widely; the *same* policy could differ by three points on
# another 500 problems. GSM8K, with 1,319 items, is in between. Overlap of intervals is not a test: both rows answer the *same* items, so a
# paired comparison would be more precise, but it needs the answers, and only accuracies were published. (Sudoku counts blank *cells*, which
# are not independent within a puzzle; the interval counts puzzles.)
#
# **Check yourself.** Two policies have 35 % and 38 % on 500 items. Their 95 % intervals overlap. Are they equal?
#
# <details class="choice"><summary>This table cannot tell.</summary>
#
# **Right.** The interval of each is about four points to either side. The answers to the same items would tell more.
#
# </details>
#
# <details class="choice"><summary>No, 38 is more than 35.</summary>
#
# **No.** The same policy could differ by three points on another 500 problems.
#
# </details>
#
# <details class="choice"><summary>Yes.</summary>
#
# **No.** Overlap is no proof of equality; and a paired test on the same items may still tell them apart.
#
# </details>
#
# ## 3. Two gradings
#
# `published` repeats the rules of the published tables, including their mistakes, so that numbers are comparable. `strict` accepts an
# answer only if it is correct. Each answer below is graded by both; read the reasons.

# %%
CASES = [
    (
        "sudoku",
        ("1200341221434321", "1234341221434321"),
        "<answer>\n1234341221434322\n</answer>",
    ),
    ("countdown", ("", [[8, 2], 64]), r"\boxed{8**2}"),
    ("countdown", ("", [[30, 100, 93], 37]), r"\boxed{30 + 100 - 93 = 37}"),
    ("gsm8k", ("How much?", 1000.0), r"\boxed{1,000}"),
    ("gsm8k", ("How many?", 5.0), r"First \boxed{3}, so in all \boxed{5}"),
    ("gsm8k", ("How many?", 12.0), r"\boxed{12 or 13}"),
]

# %% tags=["slide"]
rows = []
for task, (question, truth), text in CASES:
    grade = TASKS[task].grade(TASKS[task].from_record(question, truth), text)
    marks = [f"{v.right}/{v.total}" for v in (grade.published, grade.strict)]
    rows.append((text.replace("\n", " "), task, *marks, grade.strict.reason))
Table(rows, ("answer", "task", "published", "strict", "reason of strict"))

# %% [markdown]
# - The Sudoku answer fills both blanks as in the stored solution, so it scores 2 of 2 cells; but it has changed a *clue*, so it does not
#   solve the puzzle.
# - `8**2` contains the right numbers and has the right value; the published rule evaluates it in Python, where `**` is a power.
# - The published rule reads `1,000` as 1, because for it a comma ends a number.
# - The published rule takes the *first* box with a number. A model that boxes its intermediate results scores lower.
# - It also takes the first number of `12 or 13`. The strict rule does not accept two guesses.
#
# Neither grading always gives higher scores. But only `strict` is safe to maximise: a policy that maximises `published` can learn its
# mistakes.
#
# **Check yourself.** A problem of GSM8K has the answer 12. A response ends with `It may be \boxed{12}. No, it is \boxed{10}.`
# It is graded …
#
# <details class="choice"><summary>right by both</summary>
#
# **No.** The strict rule reads the last box, and 10 is wrong.
#
# </details>
#
# <details class="choice"><summary>right by `published`, wrong by `strict`</summary>
#
# **Right.** `published` reads the first box, 12, and `strict` the last one, 10, which is what the response ends with.
#
# </details>
#
# <details class="choice"><summary>wrong by `published`, right by `strict`</summary>
#
# **No.** That is what happens where the first box is wrong and the last one right, as in "First 3, so in all 5".
#
# </details>
#
# ## 4. Files that already exist
#
# `dmpo grade FILES…` reads the files that the published evaluations write. Here is such a file, with one broken item as an example.

# %%
question = "Solve the following Sudoku puzzle: 1200341221434321\n"
solution = "1234341221434321"
records = [
    {
        "question": question,
        "ground_truth": solution,
        "generations": f"</reasoning>\n<answer>\n{solution}\n</answer><|eot_id|>",
    },
    {
        "question": question,
        "ground_truth": solution,
        "generations": "<answer>\n1243341221434321\n</answer>",
    },
    {"question": question, "generations": "no ground truth"},
]
path = folder / "files" / "sudoku_instruct_256_128_0_generations.json"
path.parent.mkdir()
_ = path.write_text(json.dumps({"generations": records, "gen_length": 256}))

# %%
items, problems = grade_files([path])
items = [replace(item, run="instruct") for item in items]
print(format_scores(summarise(items)))
print(problems[0].replace(str(folder), "…"))

# %%
print(describe_item(items[1]).replace(str(folder), "…"))

# %% [markdown]
# Zero of two cells are right, and the puzzle is not solved: 4 and 3 were exchanged. The broken item is reported, the others are scored. On
# the command line:
#
# ```bash
# dmpo grade countdown_instruct_256_128_*_generations.json --output graded.jsonl --explain 3
# ```
#
# If several processes have each written a file, the files are merged by name.
#
# **Check yourself.** Which grading should a reward maximise?
#
# <details class="choice"><summary>The mean of the two.</summary>
#
# **No.** Half of a mistake is still a mistake that pays.
#
# </details>
#
# <details class="choice"><summary>`strict`</summary>
#
# **Right.** It accepts only right answers. Report both.
#
# </details>
#
# <details class="choice"><summary>`published`, since papers report it.</summary>
#
# **No.** Its mistakes would be learnt: a policy finds what a grader wrongly accepts.
#
# </details>
#
# ## 5. Prompts: the same in training and in evaluation
#
# A task is one class with a prompt, a reward and a grade, and both `dmpo train` and `dmpo evaluate` use it.
# `task.prefill` starts the answer with `<reasoning>`, as the published evaluation
# does; `task.few_shot` puts worked examples before the question, as earlier turns of the conversation.

# %%
countdown = TASKS["countdown"](TaskConfig(name="countdown", few_shot=1, prefill=True))
for turn in countdown.prompt(countdown.parse("30,100,93=37")):
    print(f"[{turn['role']}]\n{turn['content']}\n")
print(f"[assistant]\n{countdown.prefill}…")

# %% [markdown]
# **Check yourself.** With `few_shot=2` instead of 1, how many turns does the conversation have before the model writes?
#
# <details class="choice"><summary>Five, and the beginning of a sixth.</summary>
#
# **Right.** Two examples of two turns each and the question; then `<reasoning>` begins the turn of the model.
#
# </details>
#
# <details class="choice"><summary>Three, and the beginning of a fourth.</summary>
#
# **No.** That is `few_shot=1`, as shown. Each further example adds a question and its answer.
#
# </details>
#
# <details class="choice"><summary>Six: three questions and three answers.</summary>
#
# **No.** The third answer is what the model writes; the prefill is only its first word.
#
# </details>
#
# ## 6. An evaluation from beginning to end
#
# `dmpo evaluate` writes each answer to a results file as soon as it is generated. The toy policy on 32 puzzles, with four samples each:

# %% tags=["nbval-ignore-output"]
arguments = [
    "evaluate",
    "toy_sudoku",
    "threads=1",
    "evaluation.num_items=32",
    "evaluation.num_samples=4",
    "--output",
    str(folder / "reference"),
]
code = main(arguments)

# %% [markdown]
# The reference policy is right in a quarter of all cases, and pass@4 is about twice that. *pass@k* is the probability that $k$ of the $n$
# samples, drawn without replacement, contain a correct one. With $c$ correct ones,
#
# $$\text{pass@}k = 1 - \binom{n-c}{k} \Big/ \binom{n}{k}.$$

# %%
passes = pass_at_k([[True, True, False, False]])
Table(
    [("2 right of 4 samples", *(f"{value:.3f}" for value in passes.values()))],
    ("", *(f"pass@{k}" for k in passes)),
)

# %%
_, strict = summarise(
    grade_files([folder / "reference" / "sudoku_random_order.jsonl"])[0]
)
print(
    "accuracy below 0.35:",
    strict.accuracy < 0.35,
    "  pass@4 above accuracy:",
    strict.pass_at[4] > strict.accuracy,
)

# %% [markdown]
# This matters here because a method that only *sharpens* a policy raises accuracy, but does not raise pass@k, or even lowers it. The target
# of DMPO is a distribution, p\*, in which the solutions that p_ref can find keep their proportions. The trained policy need not keep them:
# a solution that is no longer drawn gets no weight and does not come back ([02](02_mode_seeking_and_mass_covering.ipynb), section 7), and
# with one group of 4 rollouts a step 7 of 9 toy runs lost one at the rate of large groups. Notebook
# [08](08_against_its_rivals.ipynb) measures which methods keep several.
#
# After an interruption, the same command continues where it stopped, and counts no item twice. Another seed, sampler or checkpoint is
# refused for the same file:

# %%
said = io.StringIO()
with contextlib.redirect_stderr(said), contextlib.redirect_stdout(None):
    code = main([*arguments, "seed=1"])
print(f"exit code {code}, {said.getvalue().replace(str(folder), '…')}")

# %% [markdown]
# **Check yourself.** Accuracy rises, and pass@8 stays where it was. What has the policy learned?
#
# <details class="choice"><summary>Nothing.</summary>
#
# **No.** A single answer is right more often; that is worth something.
#
# </details>
#
# <details class="choice"><summary>To give more often what it could already find.</summary>
#
# **Right.** It has become sharper on the problems that were within its reach.
#
# </details>
#
# <details class="choice"><summary>To solve problems that it could not solve before.</summary>
#
# **No.** Then pass@8 would rise: some of eight samples would be right on new problems.
#
# </details>
#
# ## 7. A text model, before and after
#
# The text models of this repository (2.7 million weights, [how they were made](../book/text.md)) solved 128 problems of Countdown and 128
# Sudokus before and after DMPO. For Sudoku, and likewise for `text_countdown`:
#
# ```bash
# dmpo evaluate text_sudoku --output toy/results/text/reference
# dmpo train text_sudoku
# dmpo evaluate text_sudoku model.path=runs/text_sudoku --output toy/results/text/dmpo
# ```
#
# Every answer is in the repository, so the table is made here, from the files (confidence sampler, strict grading):

# %%
STORED = RESULTS / "text"
answers = [
    replace(item, run=f"{file.parent.name} {file.stem.split('_')[0]}/{file.stem}")
    for file in sorted(STORED.glob("*/*.jsonl"))
    for item in grade_files([file])[0]
]
columns = as_columns(summarise(answers))
plain = [column for column in columns if ", confidence, strict" in column.name]
plain.sort(key=lambda column: column.name, reverse=True)
rows = [
    (TITLES[task], column.name.split()[0], accuracy)
    for column in plain
    for (task, _), accuracy in column.values.items()
]
rows.sort(key=lambda row: row[0])
Table(rows, ("task", "policy", "accuracy, % [95 % interval]"))

# %% [markdown]
# Countdown improves by 39 points and Sudoku by 24, and the intervals do not overlap.

# %% tags=["nbval-ignore-output", "slide"] alt="Bars with intervals of the text model: on Countdown the reference at 33 % and DMPO at 72 %; on Sudoku the reference at 39 % and DMPO at 63 %."
draw_table(plain, folder / "table.png")
display(Image(folder / "table.png", width=560))

# %% [markdown]
# Three problems of each task, before and after:

# %%
pairs = {
    task: [
        grade_files([STORED / name / f"{task}_32_confidence.jsonl"])[0]
        for name in ("reference", "dmpo")
    ]
    for task in ("countdown", "sudoku")
}
for task, answered in pairs.items():
    asked = load_config(f"text_{task}").task
    problems = TASKS[task](asked).load(asked.test)
    for problem, *both in list(zip(problems, *answered, strict=True))[:3]:
        print(problem)
        for when, item in zip(("before", "after"), both, strict=True):
            text = item.generation.split("</answer>")[0].replace("\n", " ")
            verdict = "right" if item.grade.strict.right else "wrong"
            print(f"{when:6s} {verdict}  {text.strip()}")
        print()

# %% [markdown]
# Before, most answers to Countdown use the second number twice. After, nearly all work out what to subtract. Look at the sums: many are
# wrong, before as after, yet the number to subtract is mostly right. So the policy works it out more often, not better
# ([counts](../book/text.md#countdown)).
#
# Both policies answered the *same* problems, so the difference can be tested in pairs: which problems were solved only before, and which
# only after? Under the hypothesis that nothing has changed, each of these is a fair coin (McNemar's test).

# %%
rows = []
for task, answered in pairs.items():
    before, after = (
        [bool(item.grade.strict.right) for item in items] for items in answered
    )
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    coins = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
    p = min(1.0, 2 * coins / 2 ** (lost + won))
    rows.append((TITLES[task], lost, won, f"{p:.1e}"))
Table(rows, ("solved", "only before", "only after", "p"))

# %% [markdown]
# The paired test is sharper than the two intervals: it looks only at the problems on which the policies differ. What it does *not* cover is
# the noise of training. This is seed 0; seeds 1 and 2 ended at 72 and 70 % on Countdown, at 70 and 65 % on Sudoku
# ([the page](../book/text.md)).
#
# **Check yourself.** One policy solves 64 of 128 problems and another one 74 of the same. When is the evidence for a difference stronger?
#
# <details class="choice"><summary>In both cases alike: the two totals decide.</summary>
#
# **No.** The totals hide how often the policies disagree, and only there can a difference show.
#
# </details>
#
# <details class="choice"><summary>If the second solves all that the first one solves, and 10 more.</summary>
#
# **Right.** Ten coins that all fall on one side have p = 0.002.
#
# </details>
#
# <details class="choice"><summary>If 30 are solved only by the first, and 40 only by the second.</summary>
#
# **No.** The difference is the same, but seventy fair coins fall 30 to 40 or farther apart in 28 of 100 cases: p = 0.28.
#
# </details>
#
# ## 8. LLaDA-8B
#
# On a machine with a GPU and a network, for each of `llada_gsm8k`, `llada_math500`, `llada_countdown` and `llada_sudoku`:
#
# ```bash
# dmpo evaluate llada_countdown model.path=GSAI-ML/LLaDA-8B-Instruct --lengths 128,256,512 --output results/base
# accelerate launch -m dmpo_ref evaluate llada_countdown model.path=runs/llada_countdown --lengths 128,256,512 \
#   --output results/dmpo   # on several GPUs
# dmpo table results/base results/dmpo --markdown --figure table.png
# ```
#
# `dmpo table` shows the runs next to the published numbers, each with its source and its interval. Without a GPU, the text model is there.

# %%
sampler = load_config("llada_countdown").evaluation.sampler
keys = ("name", "response_length", "steps", "temperature")
Table([(key, getattr(sampler, key)) for key in keys], ("evaluation.sampler", "value"))

# %% [markdown]
# **Check yourself.** How many steps does the sampler take for an answer of 512 tokens under `--lengths 128,256,512`?
#
# <details class="choice"><summary>128</summary>
#
# **No.** That would fill four tokens in each step: another sampler, with numbers that are not comparable.
#
# </details>
#
# <details class="choice"><summary>256</summary>
#
# **Right.** The steps grow with the length, so that each still fills two tokens, as in the published protocol.
#
# </details>
#
# <details class="choice"><summary>512</summary>
#
# **No.** That is one token in each step. The protocol of the tables has half as many steps as tokens.
#
# </details>
#
# ## To remember
#
# - Two published rows of one base model differ by up to five points; with 500 items the interval is about four points to each side.
# - Use `published` to compare with published numbers, and `strict` to know how many answers are correct. Report both, with intervals.
# - A results file contains every raw answer, so everyone can grade it again.
# - pass@k together with accuracy shows whether a policy has learned something new or has only become more confident.
#
# ## Exercises
#
# 1. *Warm-up.* How many test items are needed so that the intervals of 35.0 % and 38.2 % do not overlap?
# 2. *Standard.* Write a generation for the Countdown problem [8, 2, 3] → 64 that `published` calls right and `strict`
#    wrong, without `**`.
# 3. *Standard.* Given both rows' answers to the same 500 items, which test would you use, and what is the smallest
#    difference it can see if the two policies agree on 90 % of the items?
# 4. *Research.* The published Sudoku score counts cells. Find the policy that maximises this score without using the puzzle, and compute
#    its score.
#
# ## Where next
#
# Back to [07](07_dmpo_on_sudoku.ipynb) for a whole training run, or to the code:
# [dmpo_ref/evaluation/gradings.py](../dmpo_ref/evaluation/gradings.py), [dmpo_ref/evaluation/results.py](../dmpo_ref/evaluation/results.py),
# [dmpo_ref/tasks/](../dmpo_ref/tasks/__init__.py).
