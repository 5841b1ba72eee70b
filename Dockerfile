# The image of every Airflow component in docker-compose.yaml: Airflow's own image, with this provider.
ARG AIRFLOW_IMAGE=apache/airflow:3.3.2-python3.12

FROM ${AIRFLOW_IMAGE} AS build
COPY --chown=50000:0 pyproject.toml README.md LICENSE /tmp/source/
COPY --chown=50000:0 airflow_provider_aihandoff /tmp/source/airflow_provider_aihandoff
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /tmp/dist /tmp/source

FROM ${AIRFLOW_IMAGE}
# Airflow is named with its version, so that pip does not change it. celery<5.7: the Celery provider (3.26) imports `retry`
# from celery.backends.database, which Celery 5.7 no longer has; scheduler and workers would not start.
RUN --mount=type=bind,from=build,source=/tmp/dist,target=/tmp/dist \
    pip install --no-cache-dir "apache-airflow[celery,fab]==${AIRFLOW_VERSION}" "celery[redis]<5.7" \
        "$(echo /tmp/dist/*.whl)[binary]" \
    && pip check
USER 50000:0
