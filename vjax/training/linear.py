"""The linear code of patches that a `linear` VAE has in place of an encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from vjax import models
from vjax.config import RunConfig
from vjax.data import loader
from vjax.models.vae import fold
from vjax.training.loss import to_float

CLIPS = 256
FLOOR = 1e-3  # of the largest variance: weaker components are scaled as if they had this much


def fit(config: RunConfig) -> models.Params:
    """Principal components of patches of the run's first clips, as parameters of a `PatchCode`.

    A component's latent has the fourth root of its variance as deviation, halfway between pixels,
    where only the coarse ones would count, and whitened latents, where all would count alike.
    """
    source, bucket = loader.make_source(config.data, config.seed), config.data.buckets[0]
    vae = config.model.vae
    r, p = vae.temporal_ratio, vae.spatial_ratio
    patches = []
    for i in range(CLIPS):
        video = to_float(source(i, bucket)[0][None])
        video = jnp.concatenate([jnp.repeat(video[:, :1], r - 1, axis=1), video], axis=1)
        patches.append(np.asarray(fold(video, r, p)).reshape(-1, 3 * r * p * p))
    patches = np.concatenate(patches)
    mean = patches.mean(axis=0)
    covariance = np.cov(patches, rowvar=False)
    size = len(mean)
    variance, axes = scipy.linalg.eigh(covariance, subset_by_index=[size - vae.z_dim, size - 1])
    variance, axes = variance[::-1], axes[:, ::-1]
    scale = np.maximum(variance, FLOOR * variance[0]) ** -0.25
    scale = scale / np.sqrt(np.mean(variance * scale**2))  # latents of unit variance over all
    fitted = {
        "encoder": {"kernel": axes * scale, "bias": -(mean @ axes) * scale},
        "decoder": {"kernel": (axes / scale).T, "bias": mean},
    }
    return jax.tree.map(lambda x: x.astype(np.float32), fitted)
