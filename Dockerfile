# The service, its worker and its commands in one image. Needs BuildKit no more than `docker build` itself does.
#
# The base: Python 3.11, 3.12 or 3.13 on Debian or what descends from it. Not Alpine: on musl nothing can wipe freed
# memory. `--build-arg PYTHON_IMAGE=…@sha256:…` pins it to the byte.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
# gcc for zero_on_free.c, and binutils' strip.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# The Python of the base and the certificates of its store, which a company's own may have more of.
ENV UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/vault-credentials \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_SYSTEM_CERTS=true \
    PYTHONSAFEPATH=1
# `--build-arg EXTRA=otel`: with OpenTelemetry's exporter, see docs/watching.md.
ARG EXTRA=
COPY pyproject.toml uv.lock ./
COPY scripts/unpack_uv.py scripts/
# uv, and with it each package, by the SHA-256 that uv.lock has. So are those that build ours, which go again after that.
RUN python scripts/unpack_uv.py /uv \
    && /uv/bin/uv sync --frozen --no-default-groups --group build --no-install-project
COPY README.md LICENSE ./
COPY vault-policies vault-policies
COPY service service
RUN /uv/bin/uv sync --frozen --no-default-groups --group build ${EXTRA:+--extra "$EXTRA"} --no-editable --no-build-isolation-package vault-credentials \
    && /uv/bin/uv sync --frozen --no-default-groups ${EXTRA:+--extra "$EXTRA"} --no-editable
# What is installed, as CycloneDX: the packages of the lock, each with its hashes and what it needs.
RUN /uv/bin/uv export --frozen --no-default-groups ${EXTRA:+--extra "$EXTRA"} --preview-features sbom-export --format cyclonedx1.5 \
    --output-file /opt/vault-credentials/sbom.cdx.json --quiet
RUN XDG_CACHE_HOME=/build/cache /opt/vault-credentials/bin/python -c 'import os, service.memory.shim as s; print(s.find_shim(os.environ).path)' \
    | xargs -I{} install -m 0644 {} /opt/vault-credentials/lib/zero_on_free.so
# Wheels carry debug symbols, a sixth of the whole. Then everything that is used is imported once: that it still loads
# is seen, and its bytecode is kept, as a read-only container could not.
RUN find /opt/vault-credentials -name '*.so' ! -path '*.libs/*' -exec strip --strip-debug {} + \
    && /opt/vault-credentials/bin/python -c 'import service.app, service.cli, service.commands, service.composition, service.doctor, service.localstack.compose_jobs, service.memory.hardening, service.probe, service.rotator, service.server, uvicorn.protocols.http.httptools_impl' \
    && /opt/vault-credentials/bin/vault-credentials --help >/dev/null

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="vault-credentials" \
      org.opencontainers.image.licenses="Apache-2.0"
# A user that owns nothing but the folders on which docker-compose.yml mounts its volumes: a new volume takes its owner
# from the folder it is mounted on.
RUN groupadd --system --gid 10001 credentials \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin credentials \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/vault-credentials \
    && cd /var/lib/vault-credentials \
    && install -d -o 10001 -g 10001 -m 0700 keys service worker \
    && install -d -o 10001 -g 10001 -m 0750 vault-tls postgres
COPY --from=build /opt/vault-credentials /opt/vault-credentials
# Nothing secret is to be given this way: `docker inspect` shows it. CREDENTIALS_SETTINGS_DIR takes it as files.
# PYTHONSAFEPATH: `python -m` looks for modules in the working folder first, else; whoever may write there, or in a volume
# that is mounted there under a module's name, would have their code run.
ENV PATH=/opt/vault-credentials/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CREDENTIALS_ZEROING_SHIM=/opt/vault-credentials/lib/zero_on_free.so \
    CREDENTIALS_HOST=0.0.0.0
# Root's, not the user's.
WORKDIR /
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "service.probe", "healthz"]
# It starts itself anew, once, with the environment that has freed memory wiped, and keeps its process id.
ENTRYPOINT ["vault-credentials"]
CMD ["serve"]
