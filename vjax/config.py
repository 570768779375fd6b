"""Every setting of vjax: frozen dataclasses, presets of published shapes, and overrides.

All configs are hashable, so they go to `jax.jit` as static arguments. The default values are
those of the published model that most people know (Wan 2.1 1.3B), the presets below name others.
"""

import ast
import dataclasses
import difflib
import importlib.util
import pathlib
import typing


class ConfigError(ValueError):
    """A setting that does not exist or cannot work; the message says what would."""


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """A `VideoDiT`: the Wan block, in any size."""

    width: int = 1536
    depth: int = 30
    heads: int = 12
    head_dim: int = 128
    ffn: int = 8960
    in_channels: int = 16
    out_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    text_width: int = 4096
    frequency_dim: int = 256
    rope_theta: float = 10_000.0
    eps: float = 1e-6
    # Deviation of the data in each channel: the network then predicts what a Gaussian of it leaves
    # over of the velocity. Empty: all of the velocity, as published models do.
    data_std: tuple[float, ...] = ()
    anchors: bool = False  # a learned embedding marks frames that are known out of order
    remat: bool = True  # recompute each block in the backward pass

    def __post_init__(self):
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even, got {self.head_dim}.")
        if self.patch[0] != 1:
            raise ConfigError(f"patch must be 1 in time, got {self.patch}.")


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """A causal video `VAE`: the Wan 2.1 autoencoder, in any size."""

    base_dim: int = 96
    decoder_base_dim: int | None = None  # None: as the encoder
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    spatial_downsample: tuple[bool, ...] = ()  # empty: at every change of size
    patch_size: int = 1  # pixels folded into channels before the first convolution
    mid_attention: bool = True
    residual: bool = False  # fixed shortcuts around each change of size, as in Wan 2.2
    linear: bool = False  # latents are a fixed linear code of patches; only the decoder learns
    # Latents that leave `encode` are (z - latents_mean) / latents_std. Empty: not normalised.
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()
    latents_spread: tuple[float, ...] = ()  # what deviation each channel then has; empty: about 1

    def __post_init__(self):
        changes = len(self.dim_mult) - 1
        for name in ("temporal_downsample", "spatial_downsample"):
            value = getattr(self, name)
            if len(value) != changes and (value or name == "temporal_downsample"):
                raise ConfigError(
                    f"A VAE with {len(self.dim_mult)} stages changes size {changes} times: "
                    f"{name} is {value}."
                )

    @property
    def spatial_changes(self) -> tuple[bool, ...]:
        """Which changes of size halve the height and width."""
        return self.spatial_downsample or (True,) * (len(self.dim_mult) - 1)

    @property
    def spatial_ratio(self) -> int:
        return self.patch_size * 2 ** sum(self.spatial_changes)

    @property
    def temporal_ratio(self) -> int:
        return 2 ** sum(self.temporal_downsample)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A T5 encoder (UMT5 where `per_layer_bias`)."""

    vocab: int = 256_384
    width: int = 4096
    depth: int = 24
    heads: int = 64
    head_dim: int = 64
    ffn: int = 10_240
    relative_buckets: int = 32
    relative_max_distance: int = 128
    per_layer_bias: bool = True
    eps: float = 1e-6
    max_length: int = 512
    tokenizer: str = "bytes"  # "bytes", or a tokenizer file in the bundle


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How a model samples when the user does not say."""

    solver: str = "unipc"
    steps: int = 50
    guidance: float = 5.0
    shift: float = 5.0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A whole model: the networks that it has and what it was trained to make."""

    name: str
    dit: DiTConfig | None = None
    vae: VAEConfig | None = None
    text: TextConfig | None = None
    conditioning: str = "anchors"  # how it takes known frames, see `vjax.conditioning`
    fps: float = 16.0
    frames: int = 81  # native length and size; others work as well as training covered them
    height: int = 480
    width: int = 832
    max_frames: int = 81
    min_side: int = 64
    max_side: int = 1280
    sampler: SamplerConfig = SamplerConfig()
    vocabulary: tuple[str, ...] = ()  # the words that it can know; empty: not limited
    licence: str = "Apache-2.0"
    origin: str = ""  # how it was made: config, seed, steps, commit


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One shape of training batch. Each bucket is one compiled step."""

    frames: int
    height: int
    width: int
    batch: int  # clips in a batch, over all hosts
    weight: float = 1.0  # how often, next to the other buckets
    anchors: int = 0  # latent frames known out of order in every sample of the batch
    boxes: bool = False  # whether samples know what is outside a region of space
    crop: int | None = None  # keep a square of this many pixels, anywhere in the frame


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where clips come from and in which shapes."""

    source: str = "world"  # "world" (drawn as needed) or "tfds:NAME" with `directory`
    directory: str | None = None
    buckets: tuple[Bucket, ...] = ()
    fps: float = 16.0
    long_captions: float = 0.5  # the share of clips that come with their long caption
    threads: int = 2
    prefetch: int = 4  # batches


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or Muon on the blocks' matrices with AdamW for the rest."""

    name: str = "adamw"
    learning_rate: float = 1e-4
    warmup: int = 100
    decay_from: float = 0.7  # share of the run after which the rate falls linearly to zero
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.999


@dataclasses.dataclass(frozen=True)
class VAELossConfig:
    """Reconstruction, a pull of the latents towards a unit Gaussian, and equivariance."""

    kl: float = 1e-3
    # Beside the absolute error: alone, it leaves small things out for long, since the background is
    # right almost everywhere.
    squared: float = 5.0
    edges: float = 0.0  # weight of the error in differences between neighbouring pixels
    equivariance: float = 0.25  # weight of decoding latents at half size into half-size video


@dataclasses.dataclass(frozen=True)
class DiTLossConfig:
    """Rectified flow with a mixture of known frames."""

    time_mean: float = 0.0  # logit-normal time before its shift
    time_std: float = 1.0
    time_uniform: float = 0.1
    caption_dropout: float = 0.1
    # Per sample, where the bucket has no anchors: nothing known, the first frame, a prefix.
    nothing: float = 0.6
    first_frame: float = 0.2
    known_noise: float = 0.0  # noise on known latents, largest standard deviation
    noises: int = 1  # noise levels drawn for every encoded clip


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run."""

    name: str
    trains: str  # "vae", "text", or "dit" (with its text encoder)
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    vae_loss: VAELossConfig = VAELossConfig()
    dit_loss: DiTLossConfig = DiTLossConfig()
    vae: str | None = None  # the bundle whose VAE a "dit" run uses
    init: str | None = None  # a bundle to start from: those of the trained networks that it has
    frozen: tuple[str, ...] = ()  # trained networks that stay as they start
    steps: int = 1000
    seed: int = 0
    dtype: str | None = None  # of the computation; None: bfloat16 on accelerators, else float32
    run_dir: str = "runs"
    log_every: int = 20
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    sample_every: int = 500
    sample_prompts: tuple[str, ...] = ()


# --- Reading and changing ------------------------------------------------------------------------


def load_config(path: str) -> RunConfig:
    """The `RunConfig` that `get_config()` of a Python file returns.

    Raises:
        ConfigError: there is no such file or function, or it sets a field that does not exist.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ConfigError(f"There is no config file {path}; the shipped ones are in configs/.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config()
    except AttributeError as error:
        raise ConfigError(f"{path} must define get_config(): {error}.") from error
    except TypeError as error:
        if "argument" not in str(error):  # anything but a field too many or too few
            raise
        raise ConfigError(f"{path}: {error}.") from error


def override(config, arguments: list[str]):
    """Replaces fields named on the command line: `--steps=100 --optimizer.learning_rate=1e-3`.

    Raises:
        ConfigError: an unknown field (names the nearest) or a value of the wrong type.
    """
    for argument in arguments:
        if not argument.startswith("--") or "=" not in argument:
            raise ConfigError(f"Write overrides as --field=value, got {argument!r}.")
        key, _, value = argument[2:].partition("=")
        config = _replace(config, key, key.split("."), value)
    return config


def _replace(config, key: str, path: list[str], value: str):
    names = [field.name for field in dataclasses.fields(config)]
    if path[0] not in names:
        near = difflib.get_close_matches(path[0], names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}."
        raise ConfigError(f"Unknown config field {key!r}: {hint}")
    current = getattr(config, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(current):
            raise ConfigError(f"Config field {key!r}: {path[0]!r} has no fields of its own.")
        new = _replace(current, key, path[1:], value)
    else:
        new = _parse(config, path[0], key, value)
    return dataclasses.replace(config, **{path[0]: new})


def _parse(config, name: str, key: str, value: str):
    hint = typing.get_type_hints(type(config))[name]
    kinds = typing.get_args(hint) if typing.get_origin(hint) not in (None, tuple) else (hint,)
    if str in kinds:
        return None if value == "None" and type(None) in kinds else value
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        parsed = value
    if isinstance(parsed, int) and not isinstance(parsed, bool) and float in kinds:
        parsed = float(parsed)
    wanted = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if not isinstance(parsed, wanted) or (isinstance(parsed, bool) and bool not in wanted):
        wants = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise ConfigError(f"Config field {key!r} must be {wants}, got {value!r}.")
    return parsed


def to_dict(config) -> dict:
    """A config as nested dicts and lists, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict):
    """The inverse of `to_dict`.

    Raises:
        ConfigError: an unknown or missing field.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"Unknown field {unknown[0]!r} in {kind.__name__}.")
    read = {name: _read(hints[name], value) for name, value in values.items()}
    try:
        return kind(**read)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}.") from error


def _read(hint, value):
    """A value from JSON as its annotation says: lists are tuples, dicts are dataclasses."""
    if isinstance(value, list | tuple):
        inner = (*typing.get_args(hint), None)[0]
        return tuple(_read(inner, item) for item in value)
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
    if kinds and isinstance(value, dict):
        return from_dict(kinds[0], value)
    if kinds and value is not None:
        raise ConfigError(f"Expected the fields of a {kinds[0].__name__}, got {value!r}.")
    return value


replace = dataclasses.replace
