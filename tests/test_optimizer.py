"""What Muon makes orthogonal, and what weight decay reaches."""

import jax
import jax.numpy as jnp
import numpy as np

from vjax.config import OptimizerConfig
from vjax.training.optimizer import make_optimizer


def test_muon_takes_each_matrix_of_a_stack_and_of_a_window_on_its_own():
    rng = np.random.default_rng(0)
    params = {
        "blocks": {"q": {"kernel": rng.normal(size=(3, 8, 16))}},
        "layers": {"0": {"conv": {"kernel": rng.normal(size=(3, 3, 3, 8, 16))}}},
        "head": {"kernel": rng.normal(size=(8, 16)), "bias": rng.normal(size=16)},
    }
    params = jax.tree.map(jnp.float32, params)
    optimizer = make_optimizer(OptimizerConfig(name="muon", clip_norm=1e9))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    for kernel in (updates["blocks"]["q"]["kernel"], updates["layers"]["0"]["conv"]["kernel"]):
        singular = np.linalg.svd(np.asarray(kernel).reshape(-1, 8, 16), compute_uv=False)
        # Newton and Schulz bring singular values close to 1; 0.2 √16 is AdamW's size.
        assert (np.abs(singular / (0.2 * 4) - 1) < 0.4).all()
    # Whatever lies next to the data is AdamW's, whose first step is the sign of the gradient.
    np.testing.assert_allclose(np.ptp(np.abs(updates["head"]["kernel"])), 0, atol=1e-3)
    np.testing.assert_allclose(np.ptp(np.abs(updates["head"]["bias"])), 0, atol=1e-3)
