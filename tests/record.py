"""Records what diffusers' and transformers' networks make of `published.CASES`.

Run it with them installed, `python tests/record.py`, where cases change.
"""

import pathlib

import numpy as np
import published

if __name__ == "__main__":
    path = pathlib.Path(__file__).parent / "data" / "networks.npz"
    np.savez_compressed(
        path, **{name: published.some(published.theirs(name)) for name in published.CASES}
    )
