# syntax=docker/dockerfile:1
# Two images:
#   docker build --target gpu -t megatron-ar3po:gpu .      for the cluster
#   docker build --target cpu -t megatron-ar3po:cpu .      for a laptop and for tests: docker run --rm megatron-ar3po:cpu
#
# The GPU image stands on SGLang's image, which holds torch, CUDA and SGLang that fit each other: SGLang's wheels pin
# torch exactly, so an NGC torch and an SGLang wheel exclude each other in one environment, and actor and server must
# share one (they hand each other tensors). Its tag is the SGLang pinned in requirements/, and the build checks that.
# Another base: --build-arg BASE_IMAGE=..., as long as it holds that SGLang and a CUDA compiler.
#
# In it `make prove-gpu` and `make test-gpu` run, with the image's own Python.
#
# Versions stand in requirements/*.txt alone. No secrets are needed: models and data are mounted.
ARG BASE_IMAGE=lmsysorg/sglang:v0.5.23
ARG CPU_BASE_IMAGE=python:3.11-slim-bookworm

# ---- gpu -------------------------------------------------------------------------------------------------------------
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS gpu

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/megatron_ar3po
COPY requirements requirements

# The base must be the one the code is pinned to.
RUN for package in sglang torch; do \
      wanted="$(python3 requirements/pins.py "${package}" gpu)" && \
      found="$(python3 -c "from importlib.metadata import version; print(version('${package}').split('+')[0])")" && \
      if [ "${found}" != "${wanted}" ]; then \
        echo "BASE_IMAGE holds ${package} ${found}, requirements/gpu.txt wants ${wanted}: use a base that fits" >&2; \
        exit 1; \
      fi; \
    done

# What the base brought stays: torch, and the CUDA libraries that Transformer Engine is to be built and loaded against. A
# package that wants another torch, cuBLAS or cuDNN than these ends the build here, and not at the first step of a run.
RUN python3 -m pip freeze --exclude-editable | grep -iE "^(torch|triton|nvidia-)[^ ]*==" > base_packages.txt && \
    grep -q "^torch==" base_packages.txt

# Compiled against the base's torch, for H100/H200 and B200. The longest step, so it comes before what changes. Not for
# A100 (80): there packed sequences need flash-attention, which is not in this image.
ARG CUDA_ARCHS="90;100"
ARG MAX_JOBS=16
RUN NVTE_FRAMEWORK=pytorch NVTE_CUDA_ARCHS="${CUDA_ARCHS}" \
    MAX_JOBS="${MAX_JOBS}" NVCC_APPEND_FLAGS="--threads 4" \
    python3 -m pip install --no-build-isolation -c base_packages.txt -r requirements/gpu_build.txt

# Optional (--build-arg WITH_APEX=1): its build refuses a base whose nvcc is not of exactly torch's CUDA.
ARG WITH_APEX=0
RUN if [ "${WITH_APEX}" = 1 ]; then \
      TORCH_CUDA_ARCH_LIST="$(echo "${CUDA_ARCHS}" | sed -E 's/([0-9]+)([0-9])(;|$)/\1.\2\3/g')" \
      MAX_JOBS="${MAX_JOBS}" NVCC_APPEND_FLAGS="--threads 4" \
      python3 -m pip install --no-build-isolation -c base_packages.txt -r requirements/apex.txt; \
    fi

RUN python3 -m pip install -c base_packages.txt -r requirements/base.txt -r requirements/test.txt

COPY Makefile setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY megatron_ar3po megatron_ar3po
COPY examples examples
COPY launch_slurm launch_slurm
COPY tools tools
COPY tests tests
COPY benchmarks benchmarks
# Extensions that do not fit the torch beside them fail when they are imported: now, and not on a node.
RUN python3 -m pip install --no-deps --no-build-isolation --editable . && \
    python3 -c "import transformer_engine.pytorch, sglang, megatron.core"

# A node names this copy in its log, beside the one that runs: docker build --build-arg COMMIT="$(git rev-parse HEAD)"
ARG VERSION=0.2.0.dev0
ARG COMMIT=
ENV AR3PO_IMAGE_FOLDER=/opt/megatron_ar3po \
    AR3PO_IMAGE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="megatron-ar3po" \
      org.opencontainers.image.description="RLVR with AR3PO on Megatron-Core and SGLang, for NVIDIA GPUs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"

# Non-root: docker run --user "$(id -u):$(id -g)", or --build-arg RUN_AS=ar3po. pyxis runs as the user who submits.
ARG RUN_AS=root
RUN useradd --create-home --uid 10001 ar3po
USER ${RUN_AS}
CMD ["ar3po", "--help"]

# ---- cpu -------------------------------------------------------------------------------------------------------------
# hadolint ignore=DL3006
FROM ${CPU_BASE_IMAGE} AS cpu

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1

# gcc and make: torch compiles small kernels, make test drives all; the rest is the Slurm that tests/slurm starts.
# hadolint ignore=DL3008
RUN apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      gcc g++ git libc6-dev libnuma1 libslurm-dev make munge procps slurm-client slurmctld slurmd && \
    rm -rf /var/lib/apt/lists/*

WORKDIR /opt/megatron_ar3po
# What the environment is made of, before the code: a change of the code does not install torch again.
COPY Makefile setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY requirements requirements
COPY megatron_ar3po/__init__.py megatron_ar3po/__init__.py
# pip reads this variable. torch's CPU build lies there; the one on PyPI brings CUDA's libraries with it.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN make setup PYTHON=python3

COPY . .
ENV PATH=/opt/megatron_ar3po/.venv/bin:${PATH}

ARG VERSION=0.2.0.dev0
ARG COMMIT=
ENV AR3PO_IMAGE_FOLDER=/opt/megatron_ar3po \
    AR3PO_IMAGE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="megatron-ar3po-cpu" \
      org.opencontainers.image.description="RLVR with AR3PO on Megatron-Core and SGLang, without a GPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"

# As another user than root the Slurm tests skip themselves, and say so.
ARG RUN_AS=root
RUN useradd --create-home --uid 10001 ar3po && chown ar3po /opt/megatron_ar3po
USER ${RUN_AS}
CMD ["make", "test"]
