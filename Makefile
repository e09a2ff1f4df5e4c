# Every target works from a bare clone: it makes .venv and installs what constraints.txt pins, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-dev

.PHONY: demo test test-long test-kill test-lowest test-browser coverage lint format notebooks book slides print packs exercises lab pretrain study text clean

demo: $(VENV)/.installed-core
	$(BIN)/dmpo demo

# The tests, in two processes, each file in one of them; then every cell of every notebook against its stored output, likewise.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-sanitize-with notebooks/sanitise.cfg --nbval-cell-timeout 300 notebooks

test-long: $(INSTALLED)
	$(BIN)/python -m pytest -m "long or not long"

# Share of the lines of dmpo_ref and toy that the tests run, in other processes too.
coverage: $(INSTALLED)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report --skip-covered --sort=cover

# Training and evaluation killed, on a full disk and damaged, twenty times each way: minutes. A full disk needs the right to mount.
test-kill: $(INSTALLED)
	$(BIN)/python -m pytest -m "long or not long" -s tests/test_kills.py

# The tests with the lowest releases that pyproject.toml allows, in an environment of its own. Those of the book, of the
# notebooks and of the extras `gym` and `harness` need newer tools.
test-lowest: $(BIN)/python
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt torch==$$(sed -n 's/^torch==//p' constraints-lowest.txt)
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt -e ".[benchmarks,track]" pytest hypothesis
	.venv-lowest/bin/python -m pytest $(foreach file,book claims exercises harness notebooks reasoning_gym,--ignore tests/test_$(file).py)

# The book that make book built, and JupyterLab, in a browser: needs Chromium (apt-get install chromium chromium-driver), and npm for
# the rules of accessibility.
test-browser: $(INSTALLED) build/npm/node_modules/axe-core/axe.min.js
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/browser

# One file that is run in the browser, fetched only for these tests; where npm is missing they are skipped, and say so.
build/npm/node_modules/axe-core/axe.min.js:
	-npm install --prefix build/npm --no-save --silent axe-core@4.14.1

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dmpo_ref toy
	$(BIN)/python notebooks/build.py --check

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/build.py

# build/book/_build/html: the outputs stored in the notebooks are shown, nothing is run. Warnings are errors.
book: $(INSTALLED)
	$(BIN)/python -m book.build

# build/slides: one deck for each session, from the notebooks' stored outputs.
slides: $(INSTALLED)
	$(BIN)/python book/teaching/slides.py

# build/print: the method on one page, and the book in one file, as PDF. Needs Chromium.
print: book
	$(BIN)/python -m book.printed

# build/packs: what students get, and what the lecturer has besides.
packs: slides print
	$(BIN)/python book/teaching/packs.py

# The student notebooks from the solved exercises.
exercises: $(VENV)/.installed-lab
	$(BIN)/python book/teaching/handout.py

lab: $(VENV)/.installed-lab
	$(BIN)/jupyter lab

pretrain: $(VENV)/.installed-core
	$(BIN)/dmpo pretrain-toy

study: $(VENV)/.installed-core
	$(BIN)/python -m toy.studies.acts

# The text model from end to end on two cores: evaluated as it is shipped, trained on both tasks at once, evaluated again, and the table.
text: $(VENV)/.installed-core
	$(BIN)/dmpo evaluate text_countdown --output runs/text_results/countdown_reference
	$(BIN)/dmpo evaluate text_sudoku --output runs/text_results/sudoku_reference
	$(BIN)/dmpo train text_countdown threads=1 & other=$$!; $(BIN)/dmpo train text_sudoku threads=1; code=$$?; wait $$other && exit $$code
	$(BIN)/dmpo evaluate text_countdown model.path=runs/text_countdown --output runs/text_results/countdown_dmpo
	$(BIN)/dmpo evaluate text_sudoku model.path=runs/text_sudoku --output runs/text_results/sudoku_dmpo
	$(BIN)/dmpo table $(foreach run,countdown_reference countdown_dmpo sudoku_reference sudoku_dmpo,runs/text_results/$(run)) --figure runs/text_results/table.png

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and by its exact version: it is by far the largest download, and no other package may choose it.
$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.installed-lab: $(VENV)/.installed-core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[lab]"
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
