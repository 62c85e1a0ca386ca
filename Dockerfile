# One image for `ecr-catalog` as a CronJob or an Action runs it, and for Dagster's own processes:
#
#   docker run --rm IMAGE sync -m NAME
#   docker run IMAGE dagster instance migrate    (first, and after an upgrade)
#   docker run IMAGE dagster-webserver -h 127.0.0.1 -p 3000 -w /app/workspace.yaml

ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
# uv builds the wheel and installs it; pip checks it against the lock like the rest.
RUN python -m venv /opt/build \
 && awk '/^[^ ]/ {keep = /^uv==/} keep' requirements.lock > /opt/build/uv.lock \
 && /opt/build/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
      -r /opt/build/uv.lock
COPY ecr_catalog_pipeline ecr_catalog_pipeline
RUN /opt/build/bin/uv build --quiet --wheel --out-dir /opt/build/dist .
# A constraint's hashes are checked, too; what is not asked for is not installed.
RUN python -m venv --without-pip /opt/ecr-catalog \
 && /opt/build/bin/uv pip install --quiet --compile-bytecode --no-build \
      --python /opt/ecr-catalog/bin/python --constraint requirements.lock \
      "$(echo /opt/build/dist/*.whl)[ui,postgres,kubernetes]"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="ecr-catalog-pipeline" \
      org.opencontainers.image.description="Mirrors a governance file and AWS ECR into one Backstage entity" \
      org.opencontainers.image.licenses="Apache-2.0"
# git reads governance and publishes; ssh is for repositories that are reached that way; GitPython
# asks procps what a git has started that takes too long.
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends ca-certificates git openssh-client procps \
 && rm -rf /var/lib/apt/lists/*
# ssh refuses a user that has no name.
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin ecr-catalog \
 && install -d -o 10001 -g 10001 /var/cache/ecr-catalog /var/lib/dagster /opt/dagster/dagster_home
COPY --from=build /opt/ecr-catalog /opt/ecr-catalog
COPY workspace.yaml /app/workspace.yaml
ENV PATH=/opt/ecr-catalog/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ECR_CATALOG_MIRRORS=/mirrors \
    ECR_CATALOG_CACHE=/var/cache/ecr-catalog
WORKDIR /app
USER 10001:10001
# With a read-only root file system these and /tmp are what is written. DAGSTER_HOME is not set:
# `sync` keeps no history until it is, to /var/lib/dagster say.
VOLUME ["/var/cache/ecr-catalog", "/var/lib/dagster"]
EXPOSE 3000 9780
# A server is asked; of a command that ends by itself, the exit code tells.
HEALTHCHECK --interval=30s --timeout=20s --start-period=90s --retries=3 \
  CMD case "$(tr '\0' ' ' < /proc/1/cmdline)" in \
    *dagster-webserver*|*"dagster dev"*) exec python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/server_info', timeout=10)" ;; \
    *"ecr-catalog metrics"*) exec python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9780/healthz', timeout=10)" ;; \
    *"dagster-daemon run"*) exec dagster-daemon liveness-check ;; \
    *"dagster code-server"*|*"dagster api grpc"*) exec dagster api grpc-health-check -p 4000 ;; \
    esac
# Dagster's launchers and its Helm chart give a whole command; people give ours without its name.
ENTRYPOINT ["/bin/sh", "-c", "case $1 in dagster*|ecr-catalog) exec \"$@\" ;; esac; exec ecr-catalog \"$@\"", "sh"]
CMD ["--help"]
