"""Figures of a run for TensorBoard, where tensorboardX is installed."""

import logging
import pathlib
import time

log = logging.getLogger("vjax")

SECONDS = 120.0  # at least, from one flush to the next


class Figures:
    """A file of figures below `directory`. One that cannot be written does not end the run.

    It is written at once: `tensorboardX.SummaryWriter` leaves that to a thread, which a full disk
    ends, and then waits for it forever.
    """

    def __init__(self, directory: pathlib.Path | None):
        self._file, self._flushed = None, 0.0
        if directory is None:  # another process writes them
            return
        try:
            from tensorboardX.event_file_writer import EventsWriter

            directory.mkdir(parents=True, exist_ok=True)
            self._file = EventsWriter(str(directory / "events"))
        except ImportError:
            log.info("tensorboardX is not installed: figures are in this log alone.")
        except OSError as error:
            self._give_up(error)

    def write(self, values: dict[str, float], step: int) -> None:
        """Adds the figures of a step by name."""
        if self._file is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        try:
            self._file.write_event(
                Event(wall_time=time.time(), step=step, summary=Summary(value=found))
            )
            if time.monotonic() - self._flushed > SECONDS:
                self._file.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Writes what is left."""
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._file = None
        log.warning("Figures for TensorBoard are no longer written: %s.", error)
