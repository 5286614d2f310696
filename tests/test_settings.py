"""settings"""

from pathlib import Path

import pytest

from meuse.core.errors import MeuseError
from meuse.settings import load


def test_options_win_over_environment_over_file(tmp_path: Path) -> None:
    """Three sources, one frozen record."""
    (tmp_path / "meuse.toml").write_text("http_port = 1\ngrpc_port = 1\nworkers = 1\n")
    env = {"MEUSE_GRPC_PORT": "2", "MEUSE_WORKERS": "2"}
    made = load(tmp_path, env, workers=3, host=None)
    assert (made.http_port, made.grpc_port, made.workers, made.host) == (1, 2, 3, "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "field"),
    [("htpp_port = 1", "htpp_port"), ("workers = 'many'", "workers"), ("workers =", "meuse.toml"),
     ("workers = true", "workers"), ("insecure = 'maybe'", "insecure")],
)  # fmt: skip
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, field: str) -> None:
    """A typo does not pass silently."""
    (tmp_path / "meuse.toml").write_text(text)
    with pytest.raises(MeuseError) as refusal:
        load(tmp_path, {})
    assert field == refusal.value.field


def test_databases_are_files_or_one_server(tmp_path: Path) -> None:
    """Without a URL three SQLite files in the home, with one the same server for all."""
    assert f"sqlite:///{tmp_path}/money.db" == load(tmp_path, {}).database("money")
    url = "postgresql://localhost/meuse"
    assert url == load(tmp_path, {"MEUSE_DATABASE_URL": url}).database("money")


@pytest.mark.parametrize(
    ("name", "value"),
    [("environment", "staging-1"), ("environment", "Prod"), ("job_concurrency", "-1"),
     ("max_body_bytes", "10"), ("replica_threads", "0"), ("http_port", "99999"),
     ("trace_ratio", "1.5"), ("trace_ratio", "nan"), ("trace_ratio", "half"),
     ("otlp_endpoint", "collector:4318"),
     ("max_dataset_bytes", "10"), ("max_open_uploads", "0"), ("upload_expiry_s", "0"),
     ("data_fetch_seconds", "0")],
)  # fmt: skip
def test_values_that_cannot_work_are_refused_at_once(tmp_path: Path, name: str, value: str) -> None:
    """A setting that would break something later, such as unreadable keys, is named now."""
    with pytest.raises(MeuseError) as refusal:
        load(tmp_path, {f"MEUSE_{name.upper()}": value})
    assert refusal.value.field == name


@pytest.mark.parametrize(
    ("env", "field"),
    [
        ({"MEUSE_INVOICE_SERIES": "inv 1"}, "invoice_series"),
        ({"MEUSE_CREDIT_NOTE_SERIES": ""}, "credit_note_series"),
        ({"MEUSE_INVOICE_SERIES": "CN"}, "credit_note_series"),
        ({"MEUSE_INVOICE_GRACE_S": "-1"}, "invoice_grace_s"),
        ({"MEUSE_INVOICE_DUE_DAYS": "400"}, "invoice_due_days"),
        ({"MEUSE_RECONCILE_HOUR": "24"}, "reconcile_hour"),
    ],
)
def test_invoices_have_terms_that_make_sense(
    tmp_path: Path, env: dict[str, str], field: str
) -> None:
    """Numbers can be told apart and read, and periods end."""
    with pytest.raises(MeuseError) as refusal:
        load(tmp_path, env)
    assert field == refusal.value.field
