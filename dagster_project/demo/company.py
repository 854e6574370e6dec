"""Acme, for a run of days: `simulate` writes what its providers and its gateway would answer, and the truth.

gateway/<day>/*.ndjson.gz   the gateway's log, which a source reads
charges.parquet             the finest lines of the bills, which `providers.serve` groups as it is asked
usage.parquet               the finest lines of the usage reports, ditto
truth.parquet               who really caused every dollar: for `accuracy.measure`, never the pipeline
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from tempfile import mkdtemp

from dagster_project import lake
from dagster_project.days import Days
from dagster_project.demo import billing, gateway_log, traffic

VERSION = 2
"""Of the simulation; a folder that another version wrote is written again."""

HERE = Path(__file__).parent
SOURCES = HERE / "sources.yaml"
OWNERSHIP = HERE / "ownership"


@dataclass(frozen=True)
class Simulation:
    """Acme in `folder`: these days, made with this seed."""

    folder: Path
    days: Days
    seed: int
    scale: float

    @property
    def truth(self) -> Path:
        return self.folder / "truth.parquet"

    @property
    def gateway(self) -> Path:
        return self.folder / "gateway"

    @property
    def restated_day(self) -> date:
        """OpenAI's first answer about this day is not its last."""
        return billing.restated_day(self.days)


def simulate(folder: Path, days: Days, seed: int = 7, scale: float = 1.0) -> Simulation:
    """Write Acme's `days` into `folder`, unless they are there: about 2,500 requests a day at scale 1.

    The folder is Acme's own and is replaced whole.
    """
    simulation = Simulation(folder, days, seed, scale)
    made_of = json.dumps(
        {"version": VERSION, **asdict(days), "seed": seed, "scale": scale}, default=str, indent=2
    )
    stamp = folder / "simulation.json"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_of:
        return simulation
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(dir=folder.parent))
    try:
        new = scratch / "new"
        new.mkdir()
        requests = list(traffic.requests(days, seed, scale))
        prices = billing.rates()
        billing.write(requests, prices, days, new)
        gateway_log.write(requests, prices, new / "gateway")
        (new / "simulation.json").write_text(made_of, encoding="utf-8")
        lake.replace_folder(new, folder)
    finally:
        shutil.rmtree(scratch)
    return simulation
