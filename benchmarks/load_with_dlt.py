"""The general-purpose loader dlt on one NDJSON file: into DuckDB, nested values left as they are.

Run by parse_litellm.py --peer, with a Python that has `dlt[duckdb]`; prints seconds, seconds of processor
and peak megabytes.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import dlt
from dlt.sources.filesystem import filesystem, read_jsonl


def main() -> None:
    log = Path(sys.argv[1])
    with TemporaryDirectory() as folder:
        wall, processor = time.perf_counter(), time.process_time()
        pipeline = dlt.pipeline(
            "benchmark",
            pipelines_dir=folder,
            destination=dlt.destinations.duckdb(f"{folder}/loaded.duckdb"),
            dataset_name="logs",
        )
        records = (filesystem(bucket_url=log.parent.as_uri(), file_glob=log.name) | read_jsonl()).with_name(
            "payloads"
        )
        records.max_table_nesting = 0
        pipeline.run(records, write_disposition="append").raise_on_failed_jobs()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(wall, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
