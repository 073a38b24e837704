# Every target sets up .venv on first use. pyproject.toml is the only truth about dependencies.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lab base clean

demo: .venv/ready  ## make data, fine-tune the bundled model, measure both voices; report in runs/demo
	$(BIN)/pushback demo

test: export HF_HUB_OFFLINE = 1
test: .venv/ready  ## every test that needs no GPU and no outside server
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not gpu and not network"

lab: .venv/ready  ## open notebook 01 in JupyterLab
	$(BIN)/jupyter lab notebooks/01_meet_the_friction.ipynb

base: .venv/ready  ## train the bundled base model from scratch (about 25 minutes on two cores)
	$(BIN)/pushback base

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf runs .pytest_cache .ruff_cache
