# make demo            records from CIFAR-10, then the article's AlexNet trained on them (CPU);
#                      stopped and run again, it resumes
# make demo NETWORK=lenet                      the same with MNIST and LeNet-5
# make demo CUDA=1                             on GPU 0; GPUS=0,1 picks others. 2 GB of wheels
# make ablation        AlexNet without each of its ideas, on CIFAR-10: hours; stopped and run again,
#                      it resumes. STUDY=studies/relu.json RUNS=checkpoints/relu: ReLU against tanh
# make test-quick      what most small changes can break: under 90 s on 2 cores
# make test-slow | test-cuda                   minutes; mxnet-cu112 and its libraries, without a GPU
# make test-browser    the page in Debian's chromium, headless
# make test-mxnet MXNET=path                  MXNet's own unit tests, from its source at tag 1.9.1
# make mutate [SAMPLE=200]   how many single changes of the product its tests notice; hours
# make sanitize        native/ under GCC's address, undefined and thread sanitizers
# make test | lint     PYTHON=python3.14 make test   picks the interpreter
PYTHON  ?= python3
NETWORK ?= alexnet
GPUS    ?= 0
BUILD   := $(if $(CUDA),cuda,cpu)
VENV    ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))$(if $(CUDA),-cuda)
BIN     := $(VENV)/bin

dataset_alexnet := cifar10
dataset_lenet   := mnist
DATASET := $(dataset_$(NETWORK))

.PHONY: demo ablation test test-quick test-slow test-cuda test-browser test-mxnet mutate sanitize lint bench clean
demo ablation test test-quick test-slow test-cuda test-browser test-mxnet mutate sanitize lint: $(VENV)/.ready
test-slow: .venv-bench/.ready

# MXNet's metadata asks for numpy<2, which Python 3.13 and later do not have: no dependencies.
$(VENV)/.ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 8) <= v <= (3, 14) or \
	  sys.exit("error: $(PYTHON) is Python %d.%d; this runs on 3.8 to 3.14: make PYTHON=python3.14" % v)'
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps mxnet$(if $(CUDA),-cu112)==1.9.1
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(BUILD),test,onnx]'
	@touch $@

# The operators are compiled while the images are fetched.
demo: PREFIX := checkpoints/$(NETWORK)-$(DATASET)
demo:
	@test -n '$(DATASET)' || { echo 'error: NETWORK=$(NETWORK): the demo has alexnet and lenet' >&2; exit 2; }
	@$(BIN)/python -c 'from common.runtime import native; native.load()' 2>/dev/null & \
	  $(BIN)/python -m data.$(DATASET) --out datasets/$(DATASET); code=$$?; wait; exit $$code
	@$(BIN)/python train_imagenet.py --network $(NETWORK) --dataset $(DATASET) \
	  --data-train datasets/$(DATASET)/train.rec --data-val datasets/$(DATASET)/val.rec \
	  --model-prefix $(PREFIX) --resume $(if $(CUDA),--gpus $(GPUS))

STUDY ?= studies/cifar10.json
RUNS  ?= checkpoints/ablation
ablation:
	@$(BIN)/python -m data.cifar10 --holdout 5000 --out datasets/cifar10-holdout
	@$(BIN)/python ablate.py $(STUDY) --out $(RUNS)
	@$(BIN)/python ablate.py $(STUDY) --out $(RUNS) --report $(RUNS)/report

# A file's tests stay in one process; many more than two would only wait for each other's threads.
test:
	@$(BIN)/python -m pytest -n 2 --dist loadfile

QUICK := $(addprefix tests/,test_house.py test_house_page.py test_project_files.py test_cli.py \
  test_contributing.py io/test_files.py io/test_history.py symbols/test_own.py symbols/test_symbols.py graph/test_graph.py \
  records/test_scan.py records/test_writer.py checkpoint/test_store.py train/test_schedule.py)
test-quick:
	@$(BIN)/python -m pytest $(QUICK)

test-slow:
	@$(BIN)/python -m pytest -m slow

# mxnet-cu112 is run from an environment of its own, beside the CPU build that the tests run in.
test-cuda:
	@$(MAKE) --no-print-directory CUDA=1 VENV=$(VENV)-cuda $(VENV)-cuda/.ready
	@CUDA_PYTHON=$(VENV)-cuda/bin/python $(BIN)/python -m pytest -m cuda

test-browser:
	@command -v chromium >/dev/null || { echo 'Installing chromium with apt-get ...'; \
	  apt-get install --quiet --yes chromium >/dev/null; } || \
	  { echo 'error: no chromium: as root, apt-get install chromium' >&2; exit 2; }
	@echo 'Installing playwright into $(VENV) ...'
	@$(BIN)/pip install --quiet --disable-pip-version-check playwright
	@$(BIN)/python -m pytest -m browser

# Their tests import scipy, and nose, which pynose is on today's Python.
test-mxnet:
	@test -n '$(MXNET)' || { echo 'error: give MXNET=path, its source at tag 1.9.1' >&2; exit 2; }
	@$(BIN)/pip install --quiet --disable-pip-version-check scipy pynose
	@$(BIN)/python tests/mxnet_tests.py '$(MXNET)'

mutate:
	@$(BIN)/python tests/mutate.py --sample $(or $(SAMPLE),200)

sanitize:
	@$(BIN)/python tests/native/sanitize.py

# ruff and mypy need Python 3.10; their versions are fixed, so that their verdicts are
lint:
	@test -x $(BIN)/mypy || { echo 'error: make lint needs Python 3.10 or later' >&2; exit 2; }
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

clean:
	rm -rf .venv .venv-* *.egg-info

# AlexNet against its peers, which live in an environment of their own (needs Python 3.9 or later)
bench: $(VENV)/.ready .venv-bench/.ready
	@$(BIN)/python -m benchmarks.bench_alexnet --peers .venv-bench/bin/python

.venv-bench/.ready: Makefile
	@$(PYTHON) -m venv --clear .venv-bench
	@.venv-bench/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 \
	  numpy onnx onnxscript onnxruntime openvino MNN ncnn pnnx pillow safetensors simplejpeg
	@touch $@
