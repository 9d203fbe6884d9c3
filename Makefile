PYTHON ?= python3
# PY=python3 takes a Python that is there and has what is needed, instead of setting up .venv: machines with a GPU often
# have no network.
PY = .venv/bin/python
READY = $(if $(filter .venv/bin/python,$(PY)),.venv/stamp)
# Many tests start scripts of their own: what Python compiles of torch is kept, which --no-compile has saved elsewhere.
COMPILED := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/.venv/pycache
DEMO := demo
FROM ?= hyperencoder
DATA ?= data/celeba
OUT ?= out_models
DEMO_FLAGS := --dataset_dir $(DEMO)/faces --record_dir $(DEMO)/records --checkpoint_dir $(DEMO)/checkpoint \
	--model_path $(DEMO)/models --sample_dir $(DEMO)/samples

.DEFAULT_GOAL := help
PROJECTS := hyperencoder dapgan facegen_attr deep_makeover face_math
.PHONY: help install tour demo test readme test-gpu test-web fuzz lint copies bench bench-large peers models results clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 10

# A folder with a stamp: a second make does not install again. --no-compile saves a minute of writing .pyc files.
.venv/stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.10 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@$(PY) -c 'import cv2' 2>/dev/null || { echo "no libGL here: taking OpenCV without windows"; \
		$(PY) -m pip uninstall --quiet -y opencv-python && \
		$(PY) -m pip install --quiet --disable-pip-version-check --no-compile opencv-python-headless; }
	@touch $@

install: .venv/stamp  ## set up .venv with all that is needed

tour: .venv/stamp  ## one's own face in all five projects: PHOTO=me.jpg, else a portrait (two minutes)
	$(PY) benchmarks/tour.py $(if $(PHOTO),--photo "$(PHOTO)")

demo: .venv/stamp  ## draw faces, train hyperencoder on them, show where the pictures are (minutes on a laptop)
	$(PY) common/synthetic.py --out_dir $(DEMO)/faces --count 800
	$(PY) hyperencoder/main.py $(DEMO_FLAGS) --train=True --epoch 1 --batch_size 8 --batch_norm --init he --pca_path \
		--learning_rate 0.001 --schedule cosine --show_ema
	$(PY) hyperencoder/main.py $(DEMO_FLAGS) --train=False

test: .venv/stamp  ## run all tests
	@$(PY) -c 'import sklearn' 2>/dev/null || \
		$(PY) -m pip install --quiet --disable-pip-version-check --no-compile 'scikit-learn>=1.4,<2' || \
		echo "no scikit-learn: dapgan's digits are not tested"
	$(COMPILED) OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

readme: .venv/stamp  ## follow every README from top to bottom, twice, on small drawn data (ten minutes)
	README=whole OMP_NUM_THREADS=1 $(PY) -m pytest tests/test_readme.py -n 2

# Without plugins of the Python that is there: pytest-benchmark warns of -n, and warnings are errors.
test-gpu: $(READY)  ## test trainings and verbs on CUDA (minutes); PY=python3: with that Python
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(PY) -m pytest -p xdist tests/test_cuda.py tests/test_celeba.py tests/test_mtcnn.py \
		-m gpu -p no:cacheprovider -n 4

test-web: .venv/stamp  ## test facegen_attr's page in a browser: CHROMIUM, else /usr/bin/chromium
	@test -x $${CHROMIUM:-/usr/bin/chromium} || { echo "error: no browser; apt-get install chromium, or set CHROMIUM"; exit 2; }
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-web.txt
	$(PY) -m pytest tests/web/check_page.py

ROUNDS ?= 1000
SEED ?= 0
fuzz: .venv/stamp  ## damaged pictures, odd folders and flags by chance (minutes): ROUNDS=1000, SEED=0
	$(PY) tests/fuzz.py --rounds $(ROUNDS) --seed $(SEED)

lint: .venv/stamp  ## check the style
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# A copy that differs from the last commit is somebody's work as well: it is not written over.
copies:  ## write one project's plumbing.py and gan.py over the others' (FROM=hyperencoder)
	@for file in plumbing.py gan.py; do for project in $(PROJECTS); do \
		mine=$(FROM)/$$file; copy=$$project/$$file; \
		if [ -e $$mine ] && [ -e $$copy ] && ! cmp -s $$mine $$copy; then \
			git diff --quiet HEAD -- $$copy || { echo "error: $$copy was changed too: bring both together" >&2; exit 2; }; \
			cp $$mine $$copy && echo "$$copy"; \
		fi; done; done

bench: $(READY)  ## measure everything beside what people would use instead, as one table (ten minutes); PY=python3
	$(PY) benchmarks/bench.py

bench-large: $(READY)  ## the same with sets of up to 100,000 pictures, time plotted against size
	$(PY) benchmarks/bench.py --sizes 1000,10000,100000

# facenet-pytorch asks for an old PyTorch, and works with today's.
peers:  ## set up .peers with the packages that make bench measures the face detector against
	$(PYTHON) -m venv .peers
	.peers/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-peers.txt
	.peers/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps facenet-pytorch==2.6.0

models: $(READY)  ## train what is shipped anew into OUT=out_models: DATA=data/celeba, MINUTES= of each training
	$(PY) benchmarks/models.py --dataset_dir "$(DATA)" --out_dir "$(OUT)" $(if $(MINUTES),--minutes $(MINUTES)) $(FLAGS)

results: .venv/stamp  ## every number of the shipped models anew, into RESULTS.md: DATA=data/celeba
	$(PY) benchmarks/results.py --dataset_dir "$(DATA)" --write RESULTS.md $(FLAGS)

clean:  ## remove what make demo and the tests made; .venv, trained models and samples stay
	rm -rf $(DEMO) .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
