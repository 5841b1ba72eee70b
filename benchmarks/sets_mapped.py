"""The same items as mapped tasks, one job each, and as a set: both on a real Airflow, one after the other."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from demo.local import CHECKOUT, running_demo

#: Seconds that one run may take.
_TIMEOUT = 7200


def compare_with_mapped(items: int) -> None:
    """Run both Dags, and print how long each takes from its trigger to its end."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"PYTHONPATH": str(CHECKOUT), "AIRFLOW__CORE__MAX_MAP_LENGTH": str(items + 1), "SETS_ITEMS": str(items)}
        with running_demo(Path(folder), CHECKOUT / "benchmarks" / "dags", extra_env=env, report=print) as demo:
            api = demo.airflow.api()
            api.wait_for_dags({"sets_mapped", "sets_one"}, timeout_seconds=240)
            seconds = {}
            for dag_id in ("sets_one", "sets_mapped"):
                print(f"Running {items:,} items as {dag_id}", flush=True)
                begun = time.monotonic()
                state = api.wait_for_run(dag_id, api.trigger(dag_id), timeout_seconds=_TIMEOUT)
                assert state == "success", f"the run of {dag_id} is {state}"
                seconds[dag_id] = time.monotonic() - begun
    one, mapped = seconds["sets_one"], seconds["sets_mapped"]
    print(f"{items:,} items, drafted, approved and written, on the demo's Airflow")
    print(f"  as a set           {one:9.1f} s")
    hours = 10_000 * mapped / items / 3600
    print(f"  as mapped tasks    {mapped:9.1f} s, {mapped / items:.2f} s an item; 10,000: {hours:.1f} h")
    print(f"  mapped / set       {mapped / one:9.1f}")
