# make demo        the whole way on a small data set that is drawn here, in minutes on two CPU cores
# make test        lint and tests
# make docs        the site of docs/, to site/
# make slim        all stages of CONFIG: plan, sparse-train, prune, finetune, export, bench, report
# make sweep       criterion x target x recovery without training: which budget to ask for
# make prune       one stage; ARGS adds settings: make prune CONFIG=configs/bccd.yaml ARGS="prune.ratio=0.4"

CONFIG ?= configs/bccd.yaml
ARGS ?=
PYTHON ?= python3
BIN := .venv/bin
comma := ,

.PHONY: demo test lint docs slim plan sparse-train sensitivity prune recover finetune compress report bench export inspect sweep convert pack unpack init clean

# Rebuilt when pyproject.toml changes; the mark is written last, so an interrupted install is done again.
.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("yolo-slim needs Python 3.10 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on -e ".[export,dev$(if $(PIP_CONSTRAINT),,$(comma)dev-newest)]"
	touch $@

demo: .venv/ready
	$(BIN)/python scripts/make_shapes.py --out data/shapes --train 256 --imgsz 128
	$(BIN)/yolo-slim run configs/demo.yaml $(ARGS)

# Bytecode is written, whatever the environment says: some hundred processes of tests compile nothing again.
test: .venv/ready lint
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# mypy reads torch's and Ultralytics' annotations as they are now: it is left out where older versions are asked for.
lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(PIP_CONSTRAINT),,$(BIN)/mypy)

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

slim: .venv/ready
	$(BIN)/yolo-slim run $(CONFIG) $(ARGS)

plan sparse-train sensitivity prune recover finetune compress report bench export inspect sweep convert pack unpack init: .venv/ready
	$(BIN)/yolo-slim $@ $(CONFIG) $(ARGS)

clean:
	rm -rf .venv build site *.egg-info
