"""Ingest a CSV of 2 GB: time, rate and peak memory, against pyarrow's own reader as a floor.

    python benchmarks/ingest_data.py [--gigabytes 2] [--folder /var/tmp]

Each measurement runs in a process of its own. The floor reads the same file by
`pyarrow.csv.open_csv` with the types given and throws the rows away: no inference, no checks, no
file written. Prints one JSON line for each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

INGEST = """
import json, re, sys, time
from pathlib import Path
from meuse.data.ingest import ingest
start = time.monotonic()
found = ingest(Path(sys.argv[1]), "csv", Path(sys.argv[1] + ".table"))
rows = found.rows
"""
FLOOR = """
import json, re, sys, time
from pathlib import Path
from pyarrow import csv
start = time.monotonic()
options = csv.ReadOptions(block_size=1 << 20)
parse = csv.ParseOptions(newlines_in_values=True)
with csv.open_csv(sys.argv[1], read_options=options, parse_options=parse) as reader:
    rows = sum(len(batch) for batch in reader)
"""
TOLD = """
seconds = time.monotonic() - start
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({
    "rows": rows, "seconds": round(seconds, 1), "cpu_seconds": round(time.process_time(), 1),
    "megabytes_a_second": round(Path(sys.argv[1]).stat().st_size / 1e6 / seconds, 1),
    "peak_mib": int(peak[1]) // 1024,
}))
"""
ROWS = 20_000


def generate(path: Path, size: int) -> None:
    """Fifteen columns: a number, eight floats, four integers, a category, quoted text."""
    random = np.random.default_rng(0)
    floats, integers = random.normal(size=(ROWS, 8)), random.integers(0, 10**6, (ROWS, 4))
    lines = [
        ",".join([str(i), *(f"{v:.6f}" for v in row), *map(str, many), f"city {many[0] % 50}"])
        + f',"user {many[1]}, of {many[2]}"\n'
        for i, (row, many) in enumerate(zip(floats.tolist(), integers.tolist(), strict=True))
    ]
    block = "".join(lines).encode()
    names = ["id", *(f"f{i}" for i in range(8)), *(f"n{i}" for i in range(4)), "city", "who"]
    with path.open("wb") as file:
        file.write((",".join(names) + "\n").encode())
        while file.tell() < size:
            file.write(block)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ingest-") as folder:
        path = Path(folder) / "data.csv"
        generate(path, int(options.gigabytes * 1e9))
        for name, code in (("floor", FLOOR), ("ingest", INGEST)):
            command = [sys.executable, "-c", code + TOLD, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(json.dumps({"what": name, **json.loads(done.stdout)}))
        table = Path(f"{path}.table")
        sizes = {"csv_bytes": path.stat().st_size, "table_bytes": table.stat().st_size}
        print(json.dumps({"what": "size", **sizes}))


if __name__ == "__main__":
    main()
