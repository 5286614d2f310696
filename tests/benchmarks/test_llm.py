"""The benchmarks of language models: what is counted and told, from made-up figures."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llm
import llm_external
import llm_load
import llm_lora_data
import llm_one
import llm_sides
import llm_tables
import pytest
import venvs
from clients import LoadError
from holds import judged
from processes import Group


def told(tokens: int, first_s: float = 0.1) -> dict[str, Any]:
    return {
        **{"first_s": first_s, "end_s": 1.0, "tokens": tokens, "prompt_tokens": 9, "text": "x"},
        "events": tokens,
    }


def side(*waves: list[dict[str, Any]]) -> llm_sides.Side:
    answers = [{"seconds": 1.0, "streams": streams} for streams in waves]
    return llm_sides.Side("some", lambda _waves, _tokens: answers, Group(1))


def test_a_turn_counts_all_streams_and_refuses_short_answers() -> None:
    """Tokens of all waves over their seconds; the median time to first token."""
    found = llm.turn(side([told(8, 0.1), told(8, 0.3)], [told(8, 0.2), told(8, 0.2)]), [], 8)
    assert found["tokens_s"] == 16
    assert found["first_ms"] == pytest.approx(200)
    with pytest.raises(LoadError, match="produced"):
        llm.turn(side([told(8), told(7)]), [], 8)


def test_sides_take_turns_wave_by_wave_with_the_same_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llm, "WAVES", {2: 3})
    asked: list[tuple[str, Any]] = []

    def one(name: str) -> llm_sides.Side:
        def ask(waves: Any, tokens: int) -> list[dict[str, Any]]:
            asked.append((name, waves))
            return [{"seconds": 2.0, "streams": [told(tokens)] * 2} for _ in waves]

        return llm_sides.Side(name, ask, Group(1))

    found = llm.pairs([one("a"), one("b")], 2, 8, 2, llm.Prompts())
    assert [name for name, _ in asked] == ["a", "b", *"abbaab" * 2]
    for first, second in zip(asked[2::2], asked[3::2], strict=True):
        assert first[1] == second[1]
    assert [run["tokens_s"] for run in found["a"]] == [8.0, 8.0]


def test_ratios_are_medians_of_pairs() -> None:
    ours = [{"tokens_s": t, "first_ms": 1.0} for t in (90.0, 100.0, 50.0)]
    others = [{"tokens_s": t, "first_ms": 2.0} for t in (100.0, 100.0, 100.0)]
    assert llm.ratios(ours, others)["tokens"] == 0.9
    assert llm.ratios(ours, others)["first"] == 0.5


def answer(*events: dict[str, Any]) -> bytes:
    lines = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    body = lines + b"data: [DONE]\n\n"
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def read(data: bytes) -> llm_load.Stream:
    class Transport:
        def close(self) -> None: ...

    async def run() -> llm_load.Stream:
        stream = llm_load.Stream(b"", asyncio.get_running_loop().create_future())
        stream.transport = Transport()
        for start in range(0, len(data), 40):
            stream.data_received(data[start : start + 40])
        return stream

    return asyncio.run(run())


def chunk(content: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"role": "assistant", "content": content}}]}


def test_the_client_reads_what_servers_stream() -> None:
    """Text joined, usage from its chunk; the role alone, or an empty text, is no first token."""
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    found = read(answer(chunk(""), chunk("Hi"), chunk(" you"), usage)).told(0.0)
    assert (found["text"], found["tokens"], found["prompt_tokens"]) == ("Hi you", 2, 3)
    assert found["events"] == 2
    for bad in (answer(chunk("Hi")), answer({"error": {}}), b"HTTP/1.1 500 No\r\n\r\n"):
        with pytest.raises(ValueError, match=r"no usage|an error|not answered"):
            read(bad).told(0.0)


def figures() -> dict[str, Any]:
    speed = {"tokens_s": 100.0, "first_ms": 20.0}
    ratio = {"tokens": 0.96, "first": 1.05}
    beside = {"llama.cpp": speed, "meuse": speed, "ratio": {**ratio, "tokens": 2.5}}
    return {
        **{"tokens": 8, "threads": 2, "seconds": 60.0, "load_before": 0.1},
        "api": {
            "limits": "on",
            "resident_mb": {"meuse": 230.0, "bare": 200.0},
            "metered": {"completion_tokens": 9},
            "streams": {
                str(n): {"meuse": speed, "bare": speed, "ratio": ratio, "texts_equal": 1.0,
                         "prompt_tokens_equal": True}
                for n in (1, 4, 16)
            },
        },
        "peers": {"llama.cpp": {"4": beside, "16": beside, "resident_mb": 1.0},
                  "transformers": {"absent": "no | wheel"}},
        "one": {"as deployed": {"tokens_s": 80.0, "tokens_s_all": [80.0], "first_ms": 20.0,
                                "of_deployed": 1.0, "same_texts": 1.0},
                "int8 IR": {"absent": "no folder"}},
    }  # fmt: skip


MACHINE = {"processor": "p", "cores": 2, "python": "3"}


def test_the_report_judges_what_was_measured() -> None:
    body = figures()
    body["holds"] = judged(body, llm_tables.HOLDS)
    verdicts = {hold["what"]: hold["verdict"] for hold in body["holds"]}
    assert verdicts["tokens/s at 4 streams, of llama.cpp's server"] == "met"
    assert verdicts["tokens/s at 16 streams, of llama.cpp's server"] == "missed"
    assert list(verdicts.values()).count("met") == 6
    page = llm_tables.page({"figures": body, "date": "d", "commit": "c", "machine": MACHINE})
    assert "| as deployed | 80.0 | 1.00 | 20.0 | 100% | 80 |" in page
    assert "no folder" in page
    del body["one"], body["peers"]
    body["holds"] = judged(body, llm_tables.HOLDS)
    assert [hold["verdict"] for hold in body["holds"]][-2:] == ["not measured"] * 2


def test_the_gateways_are_compared_round_by_round() -> None:
    """Ratios and differences are medians over rounds, not those of medians."""

    def runs(rate: float, p50_us: float) -> list[dict[str, float]]:
        rest = {"p99_us": 9.0, "cpu_s_per_1000": 0.1}
        return [{"rate": rate * n, "p50_us": p50_us + n, **rest} for n in (1, 2, 3)]

    ways = {"direct": (1000, 100), "meuse": (500, 400), "litellm": (20, 11_100)}
    found = llm_external.summary(
        {f"{name} {n}": runs(*way) for name, way in ways.items() for n in (16, 1)}
    )
    assert found["times_litellm_16"] == 25
    assert found["added_p50_ms"] == {"meuse": pytest.approx(0.3), "litellm": pytest.approx(11)}
    verdicts = [hold["verdict"] for hold in judged(found, llm_external.HOLDS)]
    assert verdicts == ["met", "met"]


def _options(tmp_path: Path, *words: str) -> argparse.Namespace:
    weights = tmp_path / "weights.gguf"
    weights.touch()
    given = ["llm.py", "--weights", str(weights), "--reports", str(tmp_path), *words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", given)
        return llm._options()


def test_a_part_that_fails_leaves_the_report_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One before it and one after it are in the report, and so is why it failed."""

    def broken(_run: llm.Run) -> dict[str, Any]:
        raise LoadError("7 tokens where 8 were asked")

    parts = figures()
    monkeypatch.setattr(llm.Run, "peers", lambda _run: parts["peers"])
    monkeypatch.setattr(llm.Run, "api", broken)
    monkeypatch.setattr(llm.Run, "one", lambda _run: parts["one"])
    run = llm.Run(tmp_path, _options(tmp_path, "--parts", "peers,api,one"))
    assert llm.measure(run) == {"api": "LoadError: 7 tokens where 8 were asked"}
    (path,) = tmp_path.glob("*-llm-peers-api-one.json")
    told = json.loads(path.read_text())["figures"]
    assert (told["peers"], told["one"]) == (parts["peers"], parts["one"])
    page = path.with_suffix(".md").read_text()
    assert "| api | LoadError: 7 tokens where 8 were asked |" in page


def test_a_run_that_is_ended_leaves_the_report_of_the_parts_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(_run: llm.Run) -> dict[str, Any]:
        raise SystemExit("ended by SIGTERM")

    monkeypatch.setattr(llm.Run, "peers", lambda _run: figures()["peers"])
    monkeypatch.setattr(llm.Run, "one", ended)
    with pytest.raises(SystemExit):
        llm.measure(llm.Run(tmp_path, _options(tmp_path, "--parts", "peers,one")))
    assert len(list(tmp_path.glob("*-llm-peers-one.json"))) == 1


def test_an_engine_that_has_ended_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a broken pipe: its last words are the reason."""
    (tmp_path / "peers").mkdir()
    script = 'import sys\nprint("ready", flush=True)\nsys.stderr.write("out of memory")\n'
    (tmp_path / "peers" / "genai_bare.py").write_text(script)
    monkeypatch.setattr(llm_sides, "HERE", tmp_path)
    engine = llm_sides.Engine(model=tmp_path, threads=1)
    with llm_sides.bare("bare", engine, tmp_path) as found:
        os.waitid(os.P_PID, found.group.root, os.WEXITED | os.WNOWAIT)
        with pytest.raises(venvs.AbsentError, match="bare: out of memory"):
            found.ask([["Hi" * 100_000]], 8)


def test_settings_stand_a_few_at_a_time_beside_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is compared with the first in the same rounds; one that fails when it is warmed is
    absent, whatever it raises, and the others are measured."""
    up: list[str] = []
    most = 0
    names = ["first", *"abcd", "late", "dead"]

    @contextlib.contextmanager
    def started(_run: llm.Run, name: str) -> Iterator[llm_sides.Side]:
        nonlocal most

        def ask(waves: Any, tokens: int) -> list[dict[str, Any]]:
            if name == "dead":
                raise venvs.AbsentError("it has ended")
            if name == "late":
                raise LoadError("not answered")
            seconds = 2.0 if name == "first" else 1.0
            return [{"seconds": seconds, "streams": [told(tokens)]} for _ in waves]

        up.append(name)
        most = max(most, len(up))
        yield llm_sides.Side(name, ask, Group(1))
        up.remove(name)

    monkeypatch.setattr(llm_one, "_side", started)
    options = _options(tmp_path, "--settings", ";".join(names), "--rounds", "2")
    found = llm_one.measure(llm.Run(tmp_path, options))
    assert list(found) == names
    assert most == 1 + llm_one.TOGETHER
    assert [found[name]["of_deployed"] for name in ("first", *"abcd")] == [1, 2, 2, 2, 2]
    assert found["a"]["same_texts"] == 1
    assert found["late"] == {"absent": "not answered"}
    assert found["dead"] == {"absent": "it has ended"}


def test_what_is_held_out_of_the_taught_style_was_asked_under_no_wording() -> None:
    train, held = llm_lora_data.rows(200, 40)

    def subjects(rows: list[dict[str, Any]]) -> set[str]:
        return {row["messages"][1]["content"].partition(" | finding")[0] for row in rows}

    assert (len(subjects(train)), len(subjects(held))) == (200, 40)
    assert not subjects(train) & subjects(held)
