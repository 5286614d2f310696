"""Generate the gRPC modules from src/meuse/gateway/wire/*.proto.

    python tools/generate_wire.py            writes them
    python tools/generate_wire.py --check    exits 1 when they are not what would be written

Two changes are made to what protoc writes: descriptors go to a private pool, so that a process
may also import another package's inference.proto (tritonclient), and imports become relative
to our package.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

WIRE = Path(__file__).resolve().parent.parent / "src" / "meuse" / "gateway" / "wire"
PUBLIC_POOL = "_descriptor_pool.Default()"
PRIVATE_POOL = "_descriptor_pool.DescriptorPool()"
NAMES = ("inference", "health", "reflection")


def generate() -> dict[str, str]:
    """File name → content."""
    with tempfile.TemporaryDirectory() as folder:
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={WIRE}",
                f"--python_out={folder}",
                f"--pyi_out={folder}",
                f"--grpc_python_out={folder}",
                *(f"{name}.proto" for name in NAMES),
            ]
        )
        if status != 0:
            sys.exit(f"protoc failed with {status}")
        made = {path.name: path.read_text() for path in Path(folder).iterdir()}
    for name in NAMES:
        module, stub = f"{name}_pb2.py", f"{name}_pb2_grpc.py"
        made[module] = replace(made[module], PUBLIC_POOL, PRIVATE_POOL)
        line = f"import {name}_pb2 as "
        made[stub] = replace(made[stub], line, f"from meuse.gateway.wire {line}")
    made["__init__.py"] = '"""Generated from *.proto by tools/generate_wire.py."""\n'
    return made


def replace(text: str, old: str, new: str) -> str:
    """Replace what must be there exactly once."""
    if text.count(old) != 1:
        sys.exit(f"expected {old!r} once in what protoc wrote, found it {text.count(old)} times")
    return text.replace(old, new)


def main(arguments: list[str]) -> int:
    made = generate()
    if arguments == ["--check"]:
        stale = [
            name
            for name, text in made.items()
            if not (WIRE / name).exists() or (WIRE / name).read_text() != text
        ]
        if stale:
            sys.stderr.write(f"out of date: {', '.join(sorted(stale))}\n")
        return 1 if stale else 0
    for name, text in made.items():
        (WIRE / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
