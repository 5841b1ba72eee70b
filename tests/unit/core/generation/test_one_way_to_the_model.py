"""Whatever asks a model goes by the budgets: one module alone asks a provider, and one alone asks OpenAI's SDK; and one
each for batches."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import airflow_provider_aihandoff

PACKAGE = Path(airflow_provider_aihandoff.__file__).parent

#: How the methods of an API are named that cost money.
ASKS = {"create", "create_and_poll", "create_and_run", "generate"}

#: Each call with such a name, by its file: those in the first two have a permission that has reserved the money.
KNOWN = {
    "core/generation/submit.py": ["provider.create"],
    "core/sets/batch_send.py": ["self._api.create"],
    # A file costs nothing.
    "core/generation/openai/batches_api.py": ["self._batches.create", "self._files.create"],
    # A conversation costs nothing, nor does an endpoint of webhooks.
    "core/generation/openai/provider.py": [
        "responses.with_raw_response.create",
        "self._conversations.create",
    ],
    "core/generation/openai/endpoint_api.py": ["self._webhooks.create"],
    "cli/webhook_setup.py": ["api.create"],
}


def test_the_model_is_asked_in_one_place() -> None:
    found = defaultdict(list)
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE)
        if name.parts[0] == "testing":  # the other side
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKS:
                found[str(name)].append(ast.unparse(node.func))
    assert {name: sorted(calls) for name, calls in found.items()} == KNOWN
