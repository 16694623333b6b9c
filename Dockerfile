# The broker's image: the interpreter, the locked distributions, the libraries those load, and nothing else.
# Built by scripts/image; docs/deploying.md says what is in it. Pin the base with --build-arg BASE=NAME@sha256:DIGEST.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
# Layers must not differ with the clock; wheels, SBOM and files take their time from here.
ARG SOURCE_DATE_EPOCH=0
COPY requirements requirements
# The two secrets are pip's settings and CA of the machine that builds. They are there for these commands alone, and
# may be missing. Wheels only, and only those the lock knows: nothing is compiled and no setup.py runs.
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    python3 -m venv tools && \
    python3 -m venv --without-pip /opt/keybroker && \
    export PIP_CONFIG_FILE=/run/secrets/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 && \
    tools/bin/pip install --quiet --only-binary :all: --require-hashes -r requirements/sbom.txt && \
    tools/bin/pip --python /opt/keybroker/bin/python install --quiet --no-compile --no-deps \
      --only-binary :all: --require-hashes -r requirements/run.txt
COPY LICENSE README.md pyproject.toml ./
COPY clients clients
COPY service service
# Our own distributions, from wheels like the rest.
RUN export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} && \
    tools/bin/pip wheel --quiet --no-build-isolation --no-deps --no-index --wheel-dir wheels ./clients/python . && \
    tools/bin/pip --python /opt/keybroker/bin/python install --quiet --no-compile --no-deps \
      --no-index --find-links wheels keyimport keybroker && \
    tools/bin/pip --python /opt/keybroker/bin/python check && \
    tools/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
      --spec-version 1.6 --output-format JSON --output-file environment.cdx.json /opt/keybroker/bin/python
COPY scripts scripts
RUN SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} python3 scripts/image_root.py /opt/keybroker environment.cdx.json /image && \
    tools/bin/python scripts/sbom_check.py /image/root/usr/share/sbom/keybroker.cdx.json

# No layer of the base is below: what image_root.py did not choose is not in the image at all.
FROM scratch
ARG BASE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="keybroker" \
      org.opencontainers.image.description="A gRPC broker for AWS KMS key material import" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
# SAFEPATH: nothing is imported from the working directory. Bytecode is there already, and there is nowhere to write.
ENV PATH=/opt/keybroker/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /image/root /
# Listeners want a directory that belongs to the broker, with mode 0755 or less.
COPY --from=build --chown=65532:65532 /image/run /run
USER 65532:65532
VOLUME /run/keybroker
STOPSIGNAL SIGTERM
# For the socket of README.md. With other listeners say so at `docker run --health-cmd`; Kubernetes does not look at it.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["keybroker", "wait", "--target", "unix:/run/keybroker/keybroker.sock", "--timeout", "5s"]
ENTRYPOINT ["keybroker"]
CMD ["serve", "--config", "/etc/keybroker/keybroker.toml"]
