"""Lines that language models are judged on → tokens, by what a replica makes prompts with."""

from __future__ import annotations

import numpy as np

from meuse.core.errors import MeuseError
from meuse.evaluate.language import lines
from meuse.evaluate.language.likelihood import Ids
from meuse.evaluate.language.lines import Line
from meuse.serve.generation.engine import Tokenizer
from meuse.serve.generation.messages import Ask, Sampling
from meuse.serve.generation.prompt import Prompt, Reader


def tokens_of(
    line: Line, reader: Reader, tokenizer: Tokenizer, context: int
) -> list[tuple[Ids, int]]:
    """For each answer of a line: all tokens, and from which on they count. Texts may be longer
    than `context`. Raises `invalid_data` that names the line."""
    encode = tokenizer.encode
    if line.kind == "text":
        return [(encode(line.answers[0], whole=True), 1)]
    if line.messages:
        before = prompt_of(line, reader, 1).ids
        made = [(np.concatenate([before, encode(answer)]), len(before)) for answer in line.answers]
    else:
        # As lm-evaluation-harness: white space at a prompt's end belongs to the answer.
        first = max(len(encode(line.prompt.rstrip(), whole=True)), 1)
        made = [(encode(line.prompt + answer, whole=True), first) for answer in line.answers]
    for ids, first in made:
        if len(ids) <= first:
            raise lines.at_line(line.number, "an answer adds no token to its prompt")
        if len(ids) > context:
            raise lines.at_line(
                line.number,
                f"prompt and answer have {len(ids)} tokens, the model's context window {context}",
                "Shorten the prompt.",
            )
    return made


def prompt_of(line: Line, reader: Reader, max_tokens: int) -> Prompt:
    """As a replica would read it. Raises `invalid_data` that names the line."""
    greedy = Sampling(temperature=0, max_tokens=max_tokens)
    try:
        return reader.read(Ask(messages=line.messages, prompt=line.prompt, sampling=greedy))
    except MeuseError as error:
        raise lines.at_line(line.number, error.message, error.hint or lines.HINT) from None
