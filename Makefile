# Every target sets up .venv on first use. pyproject.toml is the only truth about dependencies.
PYTHON ?= python3
BIN := .venv/bin

# What Colab has preinstalled (August 2026), beside the kit's own libraries
COLAB := ipywidgets==7.7.1 ipykernel==6.17.1 ipython==7.34.0

# Tests run in as many processes as there are cores, with one thread each: two torch programs of two threads slow each other.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4

.PHONY: demo test test-all colab lab ship slides bench base wheelhouse clean

demo: .venv/ready  ## make data, fine-tune the bundled model, measure both voices; report in runs/demo
	$(BIN)/pushback demo

test test-all: export HF_HUB_OFFLINE = 1
test test-all: export OMP_NUM_THREADS = 1
test: .venv/ready  ## every test whose parts are on this machine; the last lines say what did not run, and why
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(PYTEST)

test-all: .venv/ready  ## every test but those of a GPU, an Ollama or the internet; an error if another part is missing
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
	mkdir -p wheelhouse
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > wheelhouse/requirements.txt
	$(BIN)/python -m pip wheel --quiet -w wheelhouse -r wheelhouse/requirements.txt pip "setuptools>=69" wheel

base: .venv/ready  ## train the bundled base model from scratch (25 to 30 minutes on two cores)
	$(BIN)/pushback base

.venv/ready: pyproject.toml
	@echo "Setting up .venv with the libraries: one to a few minutes, about 3 GB."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/python -m pip install --quiet -e ".[dev,ship,log]"
	$(BIN)/python -m pip install --quiet --no-deps "dashscope==2.0.2"  # for one test: it carries Qwen's vocabulary
	touch $@

clean:
	rm -rf runs slides/build .pytest_cache .ruff_cache
