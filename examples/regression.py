"""A regression on dates: trained on the past, judged on the future.

    python examples/regression.py http://127.0.0.1:8080 $(cat ~/.meuse/admin.key)

Data: weekly carbon dioxide at Mauna Loa, as statsmodels carries it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from statsmodels.datasets import co2

from meuse import Client


def main(url: str, key: str) -> None:
    table = co2.load_pandas().data.dropna()
    with tempfile.TemporaryDirectory() as folder, Client(url, key) as client:
        path = Path(folder) / "co2.csv"
        rows = [f"{day.date()},{value}" for day, value in table["co2"].items()]
        path.write_text("\n".join(["week,co2", *rows]) + "\n")
        client.upload("example-co2", path)
        job = client.train(
            "example-co2",
            "example-co2",
            recipe="linear",
            split={"by": "time", "column": "week"},
        )
        result = client.wait(job["id"])["result"]
        print(result["model"], "mean error", round(result["metrics"]["test_mae"], 2), "ppm")
        client.deploy("example-co2", result["model"])
        client.wait_ready("example-co2")
        print("2001-12-29:", client.predict([["2001-12-29"]], "example-co2")["output_data"][0])


if __name__ == "__main__":
    main(*sys.argv[1:3])
