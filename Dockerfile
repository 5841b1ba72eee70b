# The image of every Airflow component in docker-compose.yaml: Airflow's own image, with this provider.
ARG AIRFLOW_IMAGE=apache/airflow:3.3.2-python3.12

FROM ${AIRFLOW_IMAGE} AS build
COPY --chown=50000:0 requirements/build.txt /tmp/requirements/build.txt
RUN pip install --no-cache-dir --require-hashes --no-deps -r /tmp/requirements/build.txt
COPY --chown=50000:0 pyproject.toml README.md LICENSE /tmp/source/
COPY --chown=50000:0 airflow_provider_aihandoff /tmp/source/airflow_provider_aihandoff
COPY --chown=50000:0 dags /tmp/source/dags
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --no-index --wheel-dir /tmp/dist /tmp/source

FROM ${AIRFLOW_IMAGE}
COPY --chown=50000:0 requirements/image.txt /tmp/requirements/image.txt
# Nothing is installed that has not the hash in image.txt, which `make lock` writes for the Airflow of this image.
RUN --mount=type=bind,from=build,source=/tmp/dist,target=/tmp/dist \
    grep -q "^apache-airflow==${AIRFLOW_VERSION} " /tmp/requirements/image.txt \
    && pip install --no-cache-dir --require-hashes --no-deps -r /tmp/requirements/image.txt \
    && pip install --no-cache-dir --no-deps --no-index /tmp/dist/*.whl \
    && pip check
USER 50000:0
