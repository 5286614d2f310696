"""The package as others see it: public names, what importing costs, what the docs claim."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import meuse

ROOT = Path(__file__).parent.parent


def loaded_by(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{statement}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_public_names_are_few_and_frozen() -> None:
    """What users may import from the package is a decision, not an accident."""
    assert meuse.__all__ == ["Client", "MeuseError", "__version__"]
    assert all(getattr(meuse, name) for name in meuse.__all__)


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import meuse", {"httpx", "numpy", "typer"}),
        ("import meuse.app.up", {"httpx", "numpy", "typer", "msgspec", "sqlalchemy", "rich"}),
        ("import meuse.app.worker", {"sqlalchemy", "fastapi", "pydantic", "torch", "onnxruntime"}),
        ("import meuse.app.control", {"torch", "onnx", "onnxruntime", "numpy"}),
        ("import meuse.app.ledger", {"torch", "onnxruntime", "numpy", "fastapi"}),
        ("import meuse.app.replica", {"torch", "sqlalchemy", "fastapi", "dbos"}),
        ("import meuse.cli", {"torch", "sqlalchemy", "fastapi", "httpx", "rich.progress"}),
    ],
)
def test_a_process_loads_only_its_own_parts(statement: str, never: set[str]) -> None:
    """What a process must not load is not loaded, seen in a real interpreter."""
    assert not loaded_by(statement) & never


def test_the_supervisor_loads_the_standard_library_alone() -> None:
    """Everything that `meuse up` holds is Python's own or ours."""
    ours = loaded_by("import meuse.app.up")
    bare = loaded_by("pass")
    foreign = {
        name
        for name in ours - bare - {"meuse"}
        if name not in sys.stdlib_module_names and not name.startswith("_")
    }
    assert set() == foreign


def test_readme_tree_names_every_folder_and_no_other() -> None:
    """The README's tree tells the truth."""
    tree = re.search(r"## The tree\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert tree is not None
    source = tree[1].partition("tests/")[0]
    named = set(re.findall(r"(?<![\w/])([a-z_]+)/(?=\s)", source)) - {"src", "meuse"}
    there = {
        path.name
        for path in (ROOT / "src/meuse").iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert there == named


def test_readme_table_is_about_what_exists() -> None:
    """Commands that the README shows are verbs of the CLI."""
    verbs = set(re.findall(r"^meuse ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
    help_text = subprocess.run(
        [sys.executable, "-m", "meuse", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert len(verbs) >= 6
    assert all(verb in help_text for verb in verbs)


def test_error_table_is_current() -> None:
    """docs/errors.md lists every code with its statuses."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/generate_docs.py"), "--check"], check=False
    )
    assert done.returncode == 0


def test_the_wheel_carries_what_runs_and_nothing_else(tmp_path: Path) -> None:
    """Migrations, the proto, the typing marker and the licence are in; no .pth, no tests."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("meuse-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "meuse/py.typed",
        "meuse/gateway/wire/inference.proto",
        "meuse/store/migrations/meuse/versions/0001_first.py",
        "meuse/store/migrations/money/env.py",
    ):
        assert wanted in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    foreign = [n for n in names if not n.startswith(("meuse/", f"meuse-{meuse.__version__}"))]
    assert foreign == []
    assert not any(name.endswith(".pth") for name in names)
