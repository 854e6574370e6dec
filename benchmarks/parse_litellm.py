"""How much dearer is the LiteLLM source than reading the same fields of the same file and nothing else?

    python benchmarks/parse_litellm.py --gigabytes 2 --rounds 3 [--peer PYTHON]

Writes a log of logging payloads with prompts, then copies it to Parquet in fresh processes: `bare` with
one `COPY (SELECT * FROM read_json(...))` of the fields that the source selects, `source` with the source
itself (fetch, parse, and its records copied). Prints the best of the rounds, and each one's peak memory.
With `--peer`, a Python in which `dlt[duckdb]` is installed loads the same file, too: see load_with_dlt.py.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from dagster_project.days import Days
from dagster_project.sources import _files, litellm

PAYLOADS = Path(__file__).parents[1] / "tests" / "fixtures" / "litellm" / "payloads" / "1_106.ndjson"
DAY = Days(date(2026, 11, 21), date(2026, 11, 21))
MEMORY_LIMIT = "1GB"


def templates(rng: random.Random) -> Iterator[str]:
    """Real payloads with prompts of 0.5 to 10 KB; `@` stands for the number of the record."""
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2000)]
    for line in PAYLOADS.read_text(encoding="utf-8").splitlines() * 5:
        payload = json.loads(line)
        if "id" in payload:
            prompt = " ".join(rng.choices(words, k=rng.randint(80, 1600)))
            payload |= {"id": "chatcmpl-@", "litellm_call_id": "call-@"}
            payload["messages"] = [{"role": "user", "content": prompt}]
            yield json.dumps(payload) + "\n"


def generate(file: Path, size: int) -> int:
    """Write about `size` bytes; returns the number of records."""
    rng = random.Random(7)
    lines = [line.split("@") for line in templates(rng)]
    written = records = 0
    with file.open("w", encoding="utf-8") as log:
        while written < size:
            written += log.write(str(records).join(rng.choice(lines)))
            records += 1
    return records


def bare(log: Path, raw: Path, engine: duckdb.DuckDBPyConnection) -> None:
    _files.extract("bare", engine, {str(log): 0}, litellm.COLUMNS, "from logged", raw / "bare.parquet")


def source(log: Path, raw: Path, engine: duckdb.DuckDBPyConnection) -> None:
    entry = litellm.Entry(name="gateway", type="litellm", start_date=DAY.first, path=str(log))
    litellm.fetch(entry, DAY, raw)
    parsed = litellm.parse(entry, DAY, raw, engine)
    parsed.records["request"].write_parquet(str(raw / "records.parquet"))


WAYS = {"bare": bare, "source": source}


def measure(way: str, log: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processor and peak megabytes of one run in this process."""
    with TemporaryDirectory() as raw, duckdb.connect(config={"memory_limit": MEMORY_LIMIT}) as engine:
        engine.execute("set preserve_insertion_order = false")
        wall, processor = time.perf_counter(), time.process_time()
        WAYS[way](log, Path(raw), engine)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return time.perf_counter() - wall, time.process_time() - processor, peak


def in_fresh_process(command: Sequence[str | Path]) -> tuple[float, float, float]:
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall, processor, peak = map(float, out.splitlines()[-1].split())
    return wall, processor, peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        print(*measure(chosen.way, chosen.log))
        return
    with TemporaryDirectory() as folder:
        log = Path(folder) / "payloads.ndjson"
        records = generate(log, int(chosen.gigabytes * 1e9))
        print(f"{records} records, {log.stat().st_size / 1e9:.2f} GB, memory limit {MEMORY_LIMIT}")
        commands = {way: [sys.executable, __file__, "--way", way, "--log", str(log)] for way in WAYS}
        if chosen.peer:
            commands["dlt"] = [chosen.peer, Path(__file__).with_name("load_with_dlt.py"), log]
        runs = [
            {way: in_fresh_process(command) for way, command in commands.items()}
            for _ in range(chosen.rounds)
        ]
    best = {way: [min(run[way][figure] for run in runs) for figure in range(2)] for way in commands}
    for way, (wall, processor) in best.items():
        peak = max(run[way][2] for run in runs)
        print(f"{way:>6}: {wall:6.2f} s, {processor:6.2f} s of processor, {peak:5.0f} MB at most")
    for slow, fast in (("source", "bare"), ("dlt", "source")):
        if slow in best:
            wall, processor = (best[slow][figure] / best[fast][figure] for figure in range(2))
            print(f"{slow} beside {fast}: {wall:.2f} x, {processor:.2f} x of processor")


if __name__ == "__main__":
    main()
