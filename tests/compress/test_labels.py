"""Names of points in a plot: beside their points, on nothing else; and the page as a real browser
lays it out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.test_report import alone, report, side
from meuse.compress.labels import Box, along, around, place
from meuse.compress.page import page

FRAME = Box(0, 0, 640, 360)


def test_close_points_have_names_apart() -> None:
    """Two points on nearly the same spot: neither name covers the other, nor a point."""
    spots = [(300.0, 180.0), (312.0, 181.0)]
    dots = [around(x, y, 6) for x, y in spots]
    labels = place(zip(("quantize", "parent"), spots, strict=True), dots, FRAME)
    assert not labels[0].box.touches(labels[1].box)
    assert not any(label.box.touches(dot) for label in labels for dot in dots)


@given(
    st.tuples(st.floats(10, 630), st.floats(10, 350)), st.lists(
        st.tuples(st.floats(0, 640), st.floats(0, 360)), min_size=2, max_size=4
    ), st.text(min_size=1, max_size=30),
)  # fmt: skip
def test_a_name_stays_inside_and_off_lines(
    spot: tuple[float, float], line: list[tuple[float, float]], text: str
) -> None:
    """Within the frame wherever the point is; off the line too wherever a spot is free."""
    taken = along(line)
    (label,) = place([(text, spot)], taken, FRAME)
    assert label.box.within(FRAME)
    (free,) = place([(text, spot)], [], FRAME)
    touched = [sum(one.box.touches(box) for box in taken) for one in (label, free)]
    assert touched[0] <= touched[1]


OVERLAPS = """
<script>
const found = [];
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect();
  const boxes = (kind, told) => [...svg.querySelectorAll(kind)].map(
    one => [told || one.textContent, one.getBoundingClientRect()]);
  const texts = boxes('text'), dots = boxes('circle', 'a dot');
  const touch = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1
    && b.top < a.bottom - 1;
  texts.forEach(([text, box], i) => {
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
      || box.bottom > frame.bottom + 1) found.push(text + ' leaves the frame');
    for (const [other, at] of [...texts.slice(i + 1), ...dots])
      if (touch(box, at)) found.push(text + ' covers ' + other);
  });
}
const plots = document.querySelectorAll('svg').length;
document.body.innerHTML = '<pre>' + JSON.stringify({plots, found}) + '</pre>';
</script>
"""
"""Says which texts of the plots cover another text or a dot, as the browser laid them out."""


def searched(**more: Any) -> dict[str, Any]:
    """A search whose points lie close to each other, with long names everywhere."""
    trials = [
        {
            "number": i, "name": f"prune_structured 0.2 + prune 0.{i} + share 4 + quantize + pack",
            "steps": [], "seconds": 1.0, "error": None, "metric": 0.98 - 0.0004 * i * i,
            "drop": 0.0, "bytes": round(100_000 / 1.15**i), "p50_ms": 1.0, "p95_ms": 1.1,
            "front": i % 2 == 0, "recommended": i == 4,
        }
        for i in range(9)
    ]  # fmt: skip
    names = [f"encoder.blocks.{i}.attention.in_proj_weight" for i in range(20)]
    changes: list[dict[str, float]] = [{"rate": 0.95}, {"bits": 4}]
    rows = [alone(n, 0.01 * i - 0.02, **c) for i, n in enumerate(names) for c in changes]
    search = {"metric": 0.981, "bytes": 101_000, "ended": "", "trials": trials}
    return report(auto=search, sensitivity=rows, **more)


@pytest.mark.parametrize(
    "body",
    [
        searched(after=side(p50_ms=0.0123456, p95_ms=0.0123457)),
        report(method="quantize", after=side(bytes=990, metric=0.8999)),
        report(method="prune+share+quantize+pack", after=side(bytes=10, p95_ms=50.0)),
    ],
    ids=["search", "close", "far"],
)
def test_nothing_covers_a_text(body: dict[str, Any], tmp_path: Path) -> None:
    """In a real browser, with its fonts: plots are legible."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed")
    file = tmp_path / "page.html"
    file.write_text(page(body, "m:2").replace("</body>", f"{OVERLAPS}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]
    told = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=100, check=True,
    ).stdout  # fmt: skip
    match = re.search(r"<pre>(.*)</pre>", told)
    assert match is not None, told[-2000:]
    found = json.loads(match[1])
    assert found["plots"] >= 2
    assert found["found"] == []
