"""Renders what the benchmarks saved into docs/performance.md, with a chart beside it.

python -m benchmarks.against_torch.speed unet --save           # and the others
python -m benchmarks.report
"""

import itertools
import pathlib
import sys
from typing import Any

from benchmarks.common.bars import Bar, draw
from benchmarks.common.rows import RESULTS, head, line, read

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
TITLES = {
    "bench": "flax-sd bench",
    "speed": "The same work as diffusers on torch",
    "data": "Images from files",
    "scaling": "What devices send one another",
    "topology": "TPUs that are not there",
    "compile_time": "Compiling the LoRA step",
    "second_start": "The second start",
    "memory": "Memory of the LoRA step",
    "kernels": "Convolution and attention by themselves",
}
TIME, MEMORY = "ratio of time", "ratio of memory"


def main(page: pathlib.Path = PAGE, results: pathlib.Path = RESULTS) -> None:
    """Writes the part of the page between its markers, and the chart."""
    names = [*TITLES, *sorted({path.stem for path in results.glob("*.json")} - {*TITLES})]
    saved = {name: records for name in names if (records := read(results / f"{name}.json"))}
    if not saved:
        sys.exit(f"{results} holds no results: run the benchmarks with --save")
    text = page.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"{page} has no {BEGIN} … {END}")
    chart = page.with_suffix(".svg")
    chart.write_text(draw(bars(saved)))
    image = f"![time and memory, flax_sd ÷ torch]({chart.name})"
    parts = [image, *(section(name, records) for name, records in saved.items())]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


def section(name: str, records: list[dict[str, Any]]) -> str:
    """A benchmark's tables, one for each machine, day, set of versions and set of columns."""
    tables = [
        table(list(alike)) for _, alike in itertools.groupby(sorted(records, key=origin), origin)
    ]
    return "\n\n".join([f"### {TITLES.get(name, name)}", *tables])


def origin(record: dict[str, Any]) -> tuple[str, ...]:
    """What the rows of one table share."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return record["date"], record["machine"], versions, *record["row"]


def table(records: list[dict[str, Any]]) -> str:
    """Where and when, the rows, and the commands that printed them."""
    date, machine, versions, *_ = origin(records[0])
    commands = dict.fromkeys(record["command"] for record in records)
    rows = [line(record["row"]) for record in records]
    shown = "\n".join(["```sh", *commands, "```"])
    return f"{date}, {machine}; {versions}.\n\n{shown}\n\n" + "\n".join(
        [head(records[0]["row"]), *rows]
    )


def bars(saved: dict[str, list[dict[str, Any]]]) -> list[Bar]:
    """A bar for each row that was compared with torch, in the order of the page."""
    rows = [record["row"] for records in saved.values() for record in records]
    return [Bar(row["work"], row[TIME], row.get(MEMORY)) for row in rows if row.get(TIME)]


if __name__ == "__main__":
    main()
