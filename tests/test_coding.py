"""The VAE in tiles: as it is over whole frames, wherever no edge of a tile is in sight."""

import jax
import numpy as np
import pytest
import tiny

from vjax import coding, models, stages
from vjax.config import MeshConfig, VAEConfig
from vjax.pipeline import Pipeline

LATENTS = np.random.default_rng(0).normal(size=(1, 3, 96, 16, 4)).astype(np.float32)
ALONE = slice(0, 40), slice(56, 96)  # latents that lie in one of two tiles


def in_tiles(each=coding.decoding, mesh: MeshConfig | None = None) -> Pipeline:
    """A pipeline whose devices have room for tiles of so many latents."""
    made = Pipeline(tiny.bundle(), mesh=mesh)
    made._room = each(made.config.vae) * 56 * 16 / (8 if mesh else 1)
    return made


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("sides", [(90, 160), (104, 60), (135, 240), (20, 200)])
def test_the_fewest_tiles_are_taken_that_fit(sides, devices):
    whole = sides[0] * sides[1] / devices
    counts = []
    for room in (whole, whole - 1, whole / 2, whole / 5, 0):
        tiles = coding.tiles_of(1.0, *sides, room, devices)
        counts.append(len(tiles))
        assert room < whole / 2 or tiles.height * tiles.width <= room * devices
        for side, length, starts in (
            (sides[0], tiles.height, tiles.rows),
            (sides[1], tiles.width, tiles.columns),
        ):
            assert (starts[0], starts[-1] + length) == (0, side)
            assert all(step <= length - coding.OVERLAP for step in np.diff(starts))
            assert len(starts) == 1 or length >= 2 * coding.OVERLAP
            assert side % devices or not length % devices
    assert counts[:3] == [1, 2, 3]
    assert counts == sorted(counts)


def test_memory_is_that_of_the_widest_features():
    assert coding.decoding(VAEConfig(decoder_base_dim=192)) == 2 * coding.decoding(VAEConfig())
    assert coding.encoding(VAEConfig(decoder_base_dim=192)) == coding.encoding(VAEConfig())


def frames(pipe: Pipeline, *runs: int) -> np.ndarray:
    """Of the latents, of which so many come at once."""
    decoding, parts, done = pipe.decoding(LATENTS.shape), [], 0
    for count in runs:
        those, done = range(done, done + count), done + count
        parts += decoding.run(lambda i: LATENTS[:, i : i + 1], those, last=done == 3)
    return np.concatenate(parts, axis=1).astype(int)


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=1, context=8)], ids=["one", "mesh"])
def test_frames_in_tiles_are_whole_ones_but_for_what_fades(mesh):
    tiled = in_tiles(mesh=mesh)
    assert len(tiled.decoding(LATENTS.shape).tiles) == 2
    found, whole = frames(tiled, 3), frames(Pipeline(tiny.bundle()), 3)
    assert found.shape == whole.shape == (1, 9, 768, 128, 3)
    apart = np.abs(found - whole).max(axis=(0, 1, 3, 4))
    for rows in ALONE:
        assert apart[8 * rows.start : 8 * rows.stop].max() <= 1
    # Where a tile begins or ends, it counts for next to nothing.
    assert apart[[8 * 40, 8 * 56 - 1]].max() <= 2 < apart.max()
    # What the tiles keep of earlier latents was on the host meanwhile.
    np.testing.assert_array_equal(frames(tiled, 1, 1, 1), found)


def test_latents_in_tiles_are_whole_ones_but_for_what_fades():
    video = np.concatenate([tiny.clip(5, 384, 128, seed) for seed in (0, 1)], axis=1)[None]
    whole, tiled = (
        np.asarray(each.encode(video))
        for each in (Pipeline(tiny.bundle()), in_tiles(coding.encoding))
    )
    apart = np.abs(tiled - whole).max(axis=(0, 1, 3, 4)) / np.abs(whole).max()
    for rows in ALONE:
        assert apart[rows].max() < 1e-4
    assert apart.max() > 1e-3


def test_kernels_are_laid_out_as_they_are_used_on_cpu():
    vae = VAEConfig(base_dim=64, dim_mult=(1, 1), temporal_downsample=(True,), mid_attention=False)
    params, z = models.abstract(vae), jax.ShapeDtypeStruct((1, 1, 2, 2, 16), np.float32)
    _, past = stages._decode.eval_shape(vae, params, z, None, None)
    found = stages._decode.lower(vae, params, z, past, None).compile().memory_analysis()
    kernels = 4 * sum(leaf.size for leaf in jax.tree.leaves(params["decoder"]))
    assert found.temp_size_in_bytes < kernels / 2
