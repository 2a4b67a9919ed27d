# dotproxy in a container: plain DNS on port 5300 (UDP and TCP), upstreams over TLS.
#
#   docker build -t dotproxy .
#   docker run --rm -p 127.0.0.1:53:5300/udp -p 127.0.0.1:53:5300/tcp -e DOTPROXY_UPSTREAM=quad9 dotproxy
#
# /healthz, /readyz, /metrics and /status are served on port 9953.  `make image` builds and tries it without an engine.

# A Debian with `python` (3.11 or newer, with venv and its headers).
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
# Every package, and what builds the wheel, is of the version and has the hash that the lock files say (`make lock`), and
# is a wheel: nothing that was downloaded is run to install it.
COPY deploy/docker/requirements.lock deploy/docker/build-requirements.lock ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r build-requirements.lock \
 && python -m venv /opt/dotproxy \
 && /opt/dotproxy/bin/pip install --no-cache-dir --no-compile --require-hashes --only-binary=:all: -r requirements.lock
COPY pyproject.toml mypy.ini README.md LICENSE ./
COPY docs/man docs/man
COPY dotproxy dotproxy
COPY twisted twisted
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=1 /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/dotproxy/bin/pip install --no-index --no-deps --no-compile dist/*.whl \
 && /opt/dotproxy/bin/pip check \
 && /opt/dotproxy/bin/pip uninstall --yes pip \
 && (cd /opt/dotproxy/lib/python*/site-packages && rm -rf setuptools* pkg_resources* _distutils_hack distutils-precedence.pth) \
 && /opt/dotproxy/bin/python -m compileall -q /opt/dotproxy/lib \
 && /opt/dotproxy/bin/twistd --help >/dev/null
# The last line lets twistd write its cache of plugins, which the user below may not.

FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/dotproxy /opt/dotproxy
COPY deploy/docker/dotproxy.toml /etc/dotproxy/dotproxy.toml
# Every setting can be overridden: DOTPROXY_UPSTREAM, DOTPROXY_LISTEN_PORT, … win over the file.
ENV DOTPROXY_CONFIG=/etc/dotproxy/dotproxy.toml \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/dotproxy/bin:$PATH
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /tmp
EXPOSE 5300/udp 5300/tcp 9953/tcp
# Images in the OCI format have no HEALTHCHECK: podman and buildah keep it with --format docker.  /healthz is there in any.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["dotproxy", "healthcheck"]
ENTRYPOINT ["dotproxy"]
CMD ["run"]
