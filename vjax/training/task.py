"""What a run trains, in one object: its loss, what it checks, exports and shows of itself."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from vjax import models, weights
from vjax.config import Bucket, ConfigError, ModelConfig, RunConfig
from vjax.tokenizer import Tokenizer
from vjax.weights import Bundle

Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """What differs between runs. It is hashable, so that it goes to `jax.jit` as it is."""

    config: RunConfig
    networks: ClassVar[tuple[str, ...]] = ()  # that a run of this kind can train
    reads_captions: ClassVar[bool] = False
    exact: ClassVar[tuple[str, ...]] = ()  # networks that are saved in float32

    @classmethod
    def build_on(cls, config: RunConfig) -> tuple[RunConfig, models.Params]:
        """Reads what a run of this kind needs from other bundles and does not train.

        Returns the config as that makes it, and parameters by network.
        """
        return config, {}

    @property
    def trained(self) -> tuple[str, ...]:
        """The networks that this run changes."""
        return tuple(name for name in self.networks if name not in self.config.frozen)

    @property
    def dtype(self) -> Any:
        """bfloat16 on accelerators and float32 on CPU, unless the config says otherwise."""
        default = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return jnp.dtype(self.config.dtype or default)

    @property
    def caption_dropout(self) -> float:
        """The share of clips whose caption is left out."""
        return 0.0

    def check(self, bucket: Bucket, devices: int) -> None:
        """Raises ConfigError for a bucket that the first update with it would fail on.

        Args:
            devices: among which a batch is divided.
        """
        model, problem = self.config.model, None
        side, ratio = self._side(), model.vae.temporal_ratio
        if bucket.batch % devices:
            problem = (
                f"batch must be a multiple of the {devices} devices that share clips (mesh.data x "
                "mesh.fsdp)"
            )
        elif bucket.frames % ratio != 1 % ratio:
            problem = f"frames must be 1 + {ratio} k"
        elif any(n % side for n in bucket.size):
            problem = f"height, width and crop must be multiples of {side}"
        elif bucket.crop and bucket.crop > min(bucket.height, bucket.width):
            problem = "crop must be at most the height and the width"
        elif bucket.anchors and bucket.frames < 1 + ratio * (bucket.anchors - 1):
            problem = "there cannot be more anchors than latent frames"
        elif bucket.lead and (bucket.anchors or bucket.boxes or bucket.frames == 1):
            problem = "a window with a lead has several latent frames and no anchors or boxes"
        elif bucket.spans and (
            any((bucket.anchors, bucket.references, bucket.boxes, bucket.lead))
            or bucket.frames == 1
            or bucket.batch == 1
        ):
            problem = (
                "spans need two clips of several latent frames, without anchors, references, boxes "
                "or lead"
            )
        if problem is not None:
            raise ConfigError(f"{bucket} cannot be trained on: {problem}.")

    def flops(self, bucket: Bucket) -> int:
        """FLOPs of one batch, forward and backward, without what is computed again."""
        raise NotImplementedError

    def check_preview(self, tokenizer: Tokenizer | None) -> None:
        """Raises ConfigError for what `model` and `preview` would fail on later."""
        raise NotImplementedError

    def loss(
        self, bucket: Bucket, params: models.Params, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, Metrics]:
        """The loss of one batch and what else is worth knowing of it.

        Args:
            params: of all the networks that it needs, trained or not.
            batch: `video` uint8 [B T H W 3]; where captions matter, `ids` [B S] and `mask` [B S].
        """
        raise NotImplementedError

    def model(self, params: models.Params) -> ModelConfig:
        """The config of the bundle that holds these parameters."""
        return self.config.model

    @property
    def saves(self) -> str:
        """The directory, in that of the run, which `save` writes."""
        return "bundle"

    def whole(self, frozen: models.Params, learned: models.Params) -> models.Params:
        """The parameters that `save` writes."""
        return {**frozen, **learned}

    def save(
        self, directory: pathlib.Path, params: models.Params, tokenizer: Tokenizer | None, said: str
    ) -> None:
        """Writes what a run has made.

        Args:
            params: of `whole`, on the host.
            said: how it was made.
        """
        model = dataclasses.replace(self.model(params), origin=said)
        weights.save(directory, Bundle(model, params, tokenizer), exact=self.exact)

    def preview(self, bundle: Bundle) -> tuple[UInt8[np.ndarray, "T H W 3"] | None, dict]:
        """A video of what the bundle does, where there is something to show, and figures.

        Its parameters lie on the mesh of the run, and all processes call it.
        """
        raise NotImplementedError

    def _side(self) -> int:
        """What height and width must be multiples of."""
        return self.config.model.vae.spatial_ratio
