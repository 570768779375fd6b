"""Training starts on a machine that has JAX and little else: what it does without, blocked."""

import os
import pathlib
import subprocess
import sys

import tiny

from vjax import weights

TESTS = pathlib.Path(__file__).parent

# Neither readers and writers of videos, nor stored data sets, their loader or TensorBoard.
PROGRAM = """
import sys

class Blocked:
    NAMES = {"av", "imageio", "grain", "array_record", "tensorboardX", "tensorboard",
             "tensorflow_datasets", "tokamax"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import vjax.evaluate
from vjax import train
sys.exit(train.main(sys.argv[1:]))
"""

CONFIG = """
import tiny
from vjax.config import *

def get_config():
    bucket = Bucket(frames=5, height=32, width=32, batch=2)
    return RunConfig(
        name="run",
        trains="dit",
        model=tiny.MODEL,
        stages=(Stage((Group((bucket,)),), steps=1),),
        data=DataConfig(resident=4),
    )
"""


def test_a_run_on_resident_clips_needs_no_more_than_jax_and_its_kin(tmp_path):
    weights.save(tmp_path / "tiny", tiny.bundle(), dtype="float32")
    (tmp_path / "config.py").write_text(CONFIG)
    arguments = [f"--vae={tmp_path}/tiny", f"--init={tmp_path}/tiny", f"--run_dir={tmp_path}"]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "config.py"), *arguments],
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "tensorboardX is not installed" in run.stderr
    assert (tmp_path / "run" / "bundle" / "dit.safetensors").is_file()


def test_processes_that_draw_start_without_jax():
    program = "import sys, vjax.data.drawing; sys.exit('jax' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        check=True,
    )
