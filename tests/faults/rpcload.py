"""gRPC clients in a closed loop that count what became of every call. Nothing is retried by us."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub

FEATURES = 8
OK = "ok"


@dataclass(slots=True)
class RpcLoad:
    """A channel of its own per key, each called by one thread until the block ends."""

    port: int
    keys: Sequence[str]
    model: str
    pause: float = 0.0
    outcomes: list[Counter[str]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> RpcLoad:
        self.outcomes = [Counter() for _ in self.keys]
        for key, counter in zip(self.keys, self.outcomes, strict=True):
            thread = threading.Thread(target=self._call, args=(key, counter))
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, key: str, counter: Counter[str]) -> None:
        metadata = [("authorization", f"Bearer {key}")]
        # Channels to one address share a connection unless told otherwise.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", alone) as channel:
            stub = GRPCInferenceServiceStub(channel)
            asked = pb.ModelMetadataRequest(name=self.model)
            (spec,) = stub.ModelMetadata(asked, metadata=metadata, timeout=60).inputs
            tensor = pb.ModelInferRequest.InferInputTensor(
                name=spec.name, datatype=spec.datatype, shape=[1, FEATURES]
            )
            tensor.contents.fp32_contents.extend([0.5] * FEATURES)
            request = pb.ModelInferRequest(model_name=self.model, inputs=[tensor])
            while not self._stop.is_set():
                try:
                    stub.ModelInfer(request, metadata=metadata, timeout=60)
                    counter[OK] += 1
                except grpc.RpcError as error:
                    counter[f"{error.code()}: {error.details()}"] += 1  # type: ignore[attr-defined]
                self._stop.wait(self.pause)

    def counts(self) -> Counter[str]:
        return sum(self.outcomes, Counter())

    def answered(self) -> int:
        return self.counts()[OK]
