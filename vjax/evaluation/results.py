"""What an evaluation keeps: every clip that was made, lossless, and every score.

    DIRECTORY/clips/WEIGHTS-SAMPLER/ROW/0007.npz
    DIRECTORY/scores.jsonl

Clips belong to weights and the way they were sampled (solver, steps, guidance, shift, dtype and
platform), scores to a version of the judge as well. So an evaluation goes on where it stopped, and
another oracle scores the same clips without a model.
"""

import hashlib
import json
import os
import pathlib
import re
import tempfile
import zipfile

import numpy as np
from jaxtyping import UInt8

from vjax.config import SamplerConfig
from vjax.evaluation.trials import Trial


class ResultsError(ValueError):
    """An evaluation that cannot begin or go on."""


class Results:
    """The clips and scores of one model, sampled in one way, below a directory."""

    def __init__(
        self,
        directory: pathlib.Path,
        weights: str,
        sampler: SamplerConfig,
        computed: str,
        judge: str,
    ):
        how = f"{sampler.solver}-{sampler.steps}-{sampler.guidance:g}-{sampler.shift:g}-{computed}"
        self._clips = directory / "clips" / f"{weights}-{how}"
        self._path = directory / "scores.jsonl"
        self.key = {"weights": weights, "sampler": how, "judge": judge}
        self._scores: dict[tuple[str, str, int], dict[str, float]] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            text = self._path.read_text(errors="replace") if self._path.exists() else ""
        except OSError as error:
            raise ResultsError(f"{directory} cannot hold the results: {error}.") from error
        for line in text.splitlines():
            self._read(line)
        self._torn = bool(text) and not text.endswith("\n")

    def _read(self, line: str) -> None:
        try:
            found = json.loads(line)
            if all(found[key] == value for key, value in self.key.items()):
                place = (found["row"], found["answer"], found["index"])
                self._scores[place] = {key: float(v) for key, v in found["scores"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # it was cut off where a run was killed, or is of another program: scored again

    def scores(self, row: str, answer: str, index: int) -> dict[str, float] | None:
        """The scores of the model's answer to a trial, or of another one."""
        return self._scores.get((row, answer, index))

    def add_scores(self, row: str, answer: str, index: int, scores: dict[str, float]) -> None:
        self._scores[row, answer, index] = scores
        line = {**self.key, "row": row, "answer": answer, "index": index, "scores": scores}
        with self._path.open("a") as file:
            file.write("\n" * self._torn + json.dumps(line) + "\n")
        self._torn = False

    def _place(self, row: str, index: int) -> pathlib.Path:
        return self._clips / re.sub(r"[^a-z0-9.]+", "_", row.lower()) / f"{index:04}.npz"

    def clip(self, row: str, trial: Trial) -> UInt8[np.ndarray, "T H W 3"] | None:
        """The clip that was kept for a trial; None where there is none, or for another request."""
        path = self._place(row, trial.index)
        try:
            with np.load(path) as kept:
                if str(kept["request"]) == _request(trial):
                    return kept["video"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        return None

    def add_clip(self, row: str, trial: Trial, video: UInt8[np.ndarray, "T H W 3"]) -> None:
        path = self._place(row, trial.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            try:
                np.savez_compressed(file, video=video, request=_request(trial))
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, path)


def _request(trial: Trial) -> str:
    """What a clip was made of: where any of it changes, with a default of a verb, it is another."""
    given = hashlib.sha256()
    for piece in trial.timeline.pieces:
        for part in (piece.pixels, piece.strength):
            given.update(np.ascontiguousarray(part).data)
    said = trial.timeline.describe()
    return f"{said} | {trial.facts} | {len(trial.given)} {trial.given.sum()} | {given.hexdigest()}"
