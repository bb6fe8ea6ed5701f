# lwcl in a container: trains as an ordinary user, also where the container's own file system is read-only.
#
#   docker build -t lwcl .                                  # for CPUs
#   docker build -t lwcl:cuda --build-arg TORCH=cu130 .     # for NVIDIA GPUs: add --gpus all to `docker run`
#
#   mkdir -p runs && docker run --rm --read-only --tmpfs /tmp --shm-size 1g --user "$(id -u):$(id -g)" \
#     -v "$PWD/photos:/data:ro" -v "$PWD/runs:/out" lwcl pretrain --data /data --out /out/mine --minutes 30

ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
# cpu, or a build of PyTorch for CUDA such as cu130 (https://download.pytorch.org/whl).
ARG TORCH=cpu
ARG EXTRAS=opencv,export
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY lwcl lwcl
RUN python -m venv /opt/lwcl \
 && /opt/lwcl/bin/pip install --no-cache-dir --disable-pip-version-check \
      --index-url "https://download.pytorch.org/whl/${TORCH}" \
      "torch>=2.10" "torchvision>=0.25" \
 && /opt/lwcl/bin/pip install --no-cache-dir --disable-pip-version-check ".[${EXTRAS}]" \
 && /opt/lwcl/bin/pip uninstall --yes pip \
 && find /opt/lwcl -depth -type d -name __pycache__ -prune -exec rm -rf {} + \
 && /opt/lwcl/bin/python -m compileall -q -j 0 /opt/lwcl/lib/python*/site-packages/lwcl

FROM python:${PYTHON}-slim
RUN useradd --uid 1000 --create-home --home-dir /home/lwcl lwcl \
 && install --directory --owner lwcl /data /out
COPY --from=build /opt/lwcl /opt/lwcl
# Whatever is written by default goes to /out (runs, caches) or /tmp, so that the rest can be read-only.
ENV PATH=/opt/lwcl/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    USER=lwcl \
    LWCL_CACHE=/out/.cache \
    MPLCONFIGDIR=/tmp \
    HF_HOME=/out/.cache/huggingface
USER lwcl
WORKDIR /out
VOLUME ["/data", "/out"]
ENTRYPOINT ["lwcl"]
CMD ["--help"]
