"""What people write by hand: FastAPI with pydantic models, the engine inside the workers."""

from __future__ import annotations

from typing import Any

from engine import Engine
from fastapi import FastAPI
from pydantic import BaseModel

engine = Engine()
app = FastAPI()


class Rows(BaseModel):
    input_data: list[list[float]] | list[Any] | dict[str, list[Any]]


class Answer(BaseModel):
    output_data: list[list[float]]


@app.post("/predict")
async def predict(body: Rows) -> Answer:
    return Answer(output_data=engine.infer(engine.feeds(body.input_data)).tolist())
