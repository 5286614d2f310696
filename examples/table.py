"""A mixed table with words, gaps and a binary target, by two recipes, side by side.

    python examples/table.py http://127.0.0.1:8080 $(cat ~/.meuse/admin.key)

Data: the RAND Health Insurance Experiment, as statsmodels carries it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from statsmodels.datasets import randhie

from meuse import Client


def main(url: str, key: str) -> None:
    table = randhie.load_pandas().data[::5].copy()
    table["often"] = (table.pop("mdvis") > 2).map({True: "yes", False: "no"})
    table.loc[::9, "disea"] = float("nan")
    with tempfile.TemporaryDirectory() as folder, Client(url, key) as client:
        path = Path(folder) / "visits.csv"
        table.to_csv(path, index=False)
        client.upload("example-visits", path)
        made = []
        for recipe in ("gbdt", "linear"):
            name = f"example-visits-{recipe}"
            job = client.train(name, "example-visits", recipe=recipe)
            made.append(client.wait(job["id"])["result"]["model"])
        found = client.evaluate(made, "example-visits")
        for one in client.wait(found["id"])["result"]["models"]:
            print(one["model"], {k: round(v, 3) for k, v in one["figures"].items()})
        client.deploy("example-visits", made[0])
        client.wait_ready("example-visits")
        row = table.iloc[1, :-1].tolist()
        print(client.predict([row], "example-visits"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
