"""Records what diffusers' and transformers' networks make of `networks.CASES`.

Run it with them installed, `python tests/record.py`, where cases change.
"""

import pathlib

import networks
import numpy as np

if __name__ == "__main__":
    path = pathlib.Path(__file__).parent / "data" / "networks.npz"
    np.savez_compressed(
        path, **{name: networks.some(networks.theirs(name)) for name in networks.CASES}
    )
