"""One Airflow for the tests of this folder, with its four components, the business system and the stand-in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_aihandoff.ledger import Ledger
from demo.airflow_api import AirflowApi
from demo.local import DAGS_FOLDER, LocalDemo, running_demo
from demo.pipelines import PIPELINES, open_ledger

OTHER_DAGS = {"slow_draft", "attended_draft", "function_effect", "told", "told_both", "aihandoff_rollback"}


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDemo]:
    dags = Path(tmp_path_factory.mktemp("dags"))
    for folder in (DAGS_FOLDER, Path(__file__).parents[1] / "dags"):
        shutil.copytree(folder, dags, dirs_exist_ok=True)
    with running_demo(Path(tmp_path_factory.mktemp("demo")), dags, answer_seconds=5) as demo:
        demo.airflow.api().wait_for_dags({*PIPELINES, *OTHER_DAGS})
        yield demo


@pytest.fixture(scope="package")
def admin(demo: LocalDemo) -> AirflowApi:
    return demo.airflow.api("admin")


@pytest.fixture(scope="package")
def ledger(demo: LocalDemo) -> Iterator[Ledger]:
    with open_ledger(demo) as ledger:
        yield ledger
