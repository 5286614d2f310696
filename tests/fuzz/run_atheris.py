"""Fuzz one parser of the gateway with coverage (atheris); no part of the suite.

    python -m venv ~/fuzz && ~/fuzz/bin/pip install atheris -e '.[onnx]'
    PYTHONPATH=src:tests ~/fuzz/bin/python tests/fuzz/run_atheris.py rest -max_total_time=60

Parsers: rest, rest_binary, simple, rpc, reflection, frame, path, headers. What is found is written
by libFuzzer to a file `crash-…`, which the same command takes as its last argument.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["meuse.gateway", "meuse.serve"]):
    from gateway import fuzz
    from meuse.serve import frames
    from meuse.serve.frames import Request, Spec

from meuse.gateway.wire import inference_pb2 as pb


def rest_binary(data: bytes) -> None:
    """The first two bytes say how long the JSON is; or the header itself, after a zero."""
    if data[:1] == b"\0":
        said, _, body = data[1:].partition(b"\0")
        fuzz.rest(body, said)
    else:
        fuzz.rest(data[2:], str(int.from_bytes(data[:2], "big")).encode())


def frame(data: bytes) -> None:
    """The first byte says where the stream is cut."""
    fuzz.frame(data[1:], data[0] if data else 0)


PARSERS = {
    "rest": fuzz.rest,
    "rest_binary": rest_binary,
    "simple": fuzz.simple,
    "rpc": fuzz.rpc,
    "reflection": fuzz.reflection,
    "frame": frame,
    "path": fuzz.path,
    "headers": fuzz.headers,
}


def seeds(parser: str) -> list[bytes]:
    """A valid request of every datatype to start from."""
    found = []
    for datatype, shape in fuzz.SIGNATURES.items():
        dims = [2 if n == -1 else n for n in shape]
        given = {"name": "x", "datatype": datatype, "shape": dims}
        if parser == "rest":
            found.append(json.dumps({"id": "1", "inputs": [{**given, "data": [1, 2]}]}).encode())
        elif parser == "rest_binary":
            given["parameters"] = {"binary_data_size": 16}
            wanted = {"binary_data_output": True}
            head = json.dumps({"inputs": [given], "parameters": wanted}).encode()
            found.append(len(head).to_bytes(2, "big") + head + bytes(16))
        elif parser == "simple":
            found.append(json.dumps({"input_data": [[1, 2], [3, 4]]}).encode())
        elif parser == "rpc":
            tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=dims)
            request = pb.ModelInferRequest(inputs=[tensor], raw_input_contents=[bytes(16)])
            found.append(request.SerializeToString())
        elif parser == "frame":
            header = Request(1, b"u" * 16, 0, False, (Spec("x", datatype, tuple(dims)),))
            found.append(b"\0" + b"".join(bytes(p) for p in frames.encode(header)) + bytes(16))
    return found or [b"/v2/models/m/versions/1/infer"]


def main() -> None:
    parser, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as corpus:
        for i, seed in enumerate(seeds(parser)):
            Path(corpus, str(i)).write_bytes(seed)
        files = [] if any(not option.startswith("-") for option in options) else [corpus]
        atheris.Setup([sys.argv[0], *options, *files], PARSERS[parser])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
