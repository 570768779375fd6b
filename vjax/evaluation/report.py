"""What an evaluation shows: tables of scores, and a sheet of clips to look at."""

import pathlib

import numpy as np
from PIL import Image
from rich.table import Table

from vjax.evaluation import words
from vjax.video import contact_sheet


def tables(report: dict) -> list[Table]:
    """The report of an evaluation, to be printed."""
    found = report["each motion word"].items()
    return [_rows(report), *(_words(name, courses) for name, courses in found)]


def _rows(report: dict) -> Table:
    title = f"{report['model']}, weights {report['weights']}, judged by {report['judge']}"
    table = Table("row", "n", "all facts", "round trip", "still picture", "scores", title=title)
    for name, row in report["rows"].items():
        answers = [row.get(kind, {}) for kind in ("model", "round trip", "still picture")]
        totals = [f"{100 * a['all facts']:.0f}%" if a else "" for a in answers]
        rest = [_said(key, v) for key, v in answers[0].items() if key != "all facts"]
        table.add_row(name, str(row["generations"]), *totals, ", ".join(rest))
    if "vae" in report:
        table.add_row(
            "vae", str(report["vae"]["clips"]), "", "", "", f"{report['vae']['psnr']:.1f} dB"
        )
    return table


def _said(key: str, value: float) -> str:
    return f"{value:.1f} dB" if key == "dB" else f"{key} {100 * value:.0f}%"


def _words(name: str, found: dict[str, dict[str, dict[str, float]]]) -> Table:
    title = f"each motion word, {name}: mean way of the thing (of the true one)"
    table = Table("word", *words.COLUMNS, title=title)
    for word, means in found["model"].items():
        true = found["truth"][word]
        cells = [f"{means[key]:+.2f} ({true[key]:+.2f})" for key in words.COLUMNS]
        table.add_row(word, *cells)
    return table


def label(asked: str, scores: dict[str, float]) -> str:
    """What was asked, and what of it is wrong."""
    wrong = [key for key, value in scores.items() if value == 0 and key != "off course"]
    wrong = [key for key in wrong if not key.startswith("all ")]
    return f"{asked} [not: {', '.join(wrong)}]" if wrong else asked


def write_sheet(path: pathlib.Path, shown: list[tuple[np.ndarray, str]]) -> None:
    """Clips with their labels as one picture; none where there are no clips."""
    if shown:
        clips, labels = zip(*shown, strict=True)
        Image.fromarray(contact_sheet(clips, labels=labels)).save(path)
