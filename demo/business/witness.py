"""The company's own log of the requests that it received: append-only, on disk before anything is answered.

It knows nothing of Airflow or of the ledger, which is what makes it a witness.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What became of a request."""

    APPLIED = "APPLIED"  # changed something
    REPLAYED = "REPLAYED"  # its idempotency key was known: answered as before, nothing changed
    REFUSED = "REFUSED"  # not valid: nothing changed
    READ = "READ"  # asked for something


@dataclass(frozen=True)
class Entry:
    """One request, as it was received and answered."""

    sequence: int
    time: str
    method: str
    path: str
    idempotency_key: str | None
    body_sha256: str
    body: str
    status: int
    outcome: Outcome
    record_id: str | None


class WitnessLog:
    """The log in its file, one JSON object a line."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.entries = list(_read(file))
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if file.stat().st_size and not file.read_bytes().endswith(b"\n"):
            os.write(self._descriptor, b"\n")

    def append(self, entry: Entry) -> None:
        """Write an entry; when this returns, it is on the disk."""
        os.write(self._descriptor, json.dumps(asdict(entry)).encode() + b"\n")
        os.fsync(self._descriptor)
        self.entries.append(entry)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _read(file: Path) -> Iterator[Entry]:
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            fields = json.loads(line)
        except ValueError:
            continue  # the process died while it wrote the line: that request was not answered and not applied
        yield Entry(**{**fields, "outcome": Outcome(fields["outcome"])})
