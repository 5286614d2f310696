"""Short texts by their collection: a transformer encoder from scratch; requests are raw text.

    python examples/text.py http://127.0.0.1:8080 $(cat ~/.meuse/admin.key)

Data: the sayings of Debian's package `fortunes` (/usr/share/games/fortunes).
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

from meuse import Client

SOURCE = Path("/usr/share/games/fortunes")


def main(url: str, key: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Client(url, key) as client:
        path = Path(folder) / "sayings.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["saying", "collection"])
            for name in ("food", "law", "linux", "sports"):
                for text in (SOURCE / name).read_text(errors="replace").split("\n%\n"):
                    if text.strip():
                        writer.writerow([text.strip(), name])
        client.upload("example-sayings", path)
        job = client.train(
            "example-sayings",
            "example-sayings",
            recipe="text-classifier",
            epochs=4,
            config={"width": 48, "depth": 1, "heads": 4, "vocabulary": 4096},
            prepare={"text": {"length": 64}},
        )
        result = client.wait(job["id"])["result"]
        print(result["model"], round(result["metrics"]["test_accuracy"], 3))
        client.deploy("example-sayings", result["model"])
        client.wait_ready("example-sayings")
        print(
            client.predict(
                [["The judge adjourned the trial."], ["More garlic!"]], "example-sayings"
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:3])
