"""The same main job on Postgres: another line of configuration, no other code."""

import csv
from collections.abc import Callable
from pathlib import Path

from sklearn.datasets import load_iris

from meuse.client import Client
from meuse.tour.platform import running


def test_the_main_job_runs_on_postgres(tmp_path: Path, postgres_server: Callable[[], str]) -> None:
    """data → train → compress → deploy → predict → usage → invoice, all rows in Postgres."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "meuse.toml").write_text(f'database_url = "{postgres_server()}"\nworkers = 1\n')
    data = tmp_path / "iris.csv"
    rows, labels = load_iris(return_X_y=True)
    with data.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "d", "species"])
        writer.writerows(
            [*row, f"kind-{label}"] for row, label in zip(rows.tolist(), labels, strict=True)
        )
    with running(home) as (url, _, key), Client(url, key) as client:
        client.upload("iris", data)
        trained = client.wait(client.train("iris", "iris", epochs=20)["id"])["result"]
        child = client.wait(client.compress("iris:1", goal={"max_drop": 0.2})["id"])["result"]
        assert (trained["model"], child["model"]) == ("iris:1", "iris:2")
        prices = [{"meter": "rows", "per": 10, "amount": "0.10"}]
        client.put_plan("basic", "EUR", prices)
        client.put_tenant("default", "basic")
        client.deploy("iris", "iris:2")
        client.wait_ready("iris")
        answer = client.predict(rows[:60].tolist(), "iris")
        assert set(answer["output_data"]) <= {"kind-0", "kind-1", "kind-2"}
        usage = client.usage(by="meter", fresh=True)["rows"]
        assert {"rows": 60, "requests": 1}.items() <= {
            r["meter"]: r["quantity"] for r in usage
        }.items()
        invoice = client.invoice("default", usage_month(client))
        assert (invoice["total"], invoice["currency"]) == ("0.60", "EUR")
    assert not list(home.glob("*.db"))


def usage_month(client: Client) -> str:
    return str(client.usage()["from"])[:7]
