"""MLServer: a custom runtime over the same session (`settings.json` is made by servers.py)."""

from __future__ import annotations

from engine import Engine
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self.engine = Engine()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {
            i.name: NumpyCodec.decode_input(i).astype(self.engine.dtypes[i.name], copy=False)
            for i in payload.inputs
        }
        output = NumpyCodec.encode_output(self.engine.outputs[0], self.engine.infer(feeds))
        return InferenceResponse(model_name=self.name, outputs=[output])
