"""What a run starts from: its task, with the parameters and tokenizer that it needs."""

import dataclasses

from vjax import models, weights
from vjax.config import ConfigError, RunConfig
from vjax.tokenizer import Tokenizer
from vjax.tokenizer import read as read_tokenizer
from vjax.training import tuning
from vjax.training.dit import DiTTask
from vjax.training.resume import check_start
from vjax.training.task import Task
from vjax.training.vae import VAETask

TASKS = {"vae": VAETask, "dit": DiTTask}


@dataclasses.dataclass(frozen=True)
class Start:
    """The first state of a run, before it is put on devices."""

    task: Task
    given: models.Params  # of trained networks that do not start from scratch
    frozen: models.Params  # of networks that are used but not trained
    tokenizer: Tokenizer | None  # of the captions, where they matter
    sources: str  # which bundles it builds on, by the fingerprints of their weights


def starting_point(config: RunConfig) -> Start:
    """Reads the bundles that a run builds on.

    Raises:
        ConfigError: they do not fit the config, or something is missing.
    """
    if config.trains not in TASKS:
        known = ", ".join(map(repr, TASKS))
        raise ConfigError(f"Unknown trains={config.trains!r}: a run trains one of {known}.")
    if tuning.tunes(config):
        tuned = tuning.begin(config)
        return Start(*tuned, f"started from {weights.fingerprint(str(config.init))}")
    kind, given, tokenizer = TASKS[config.trains], {}, None
    config, frozen = kind.build_on(config)
    if config.init is not None:
        start = weights.load(config.init, networks=kind.networks)
        given, tokenizer = dict(start.params), start.tokenizer
        if not given:
            raise ConfigError(f"{config.init} has no network that this run trains.")
        for network in given:
            found, wanted = (getattr(model, network) for model in (start.config, config.model))
            check_start(network, found, wanted, config.init)
    for network in config.frozen:
        if network not in given:
            raise ConfigError(
                f"frozen names {network!r}, which must be a network that this run trains and that "
                "comes from the bundle of --init."
            )
        frozen = {**frozen, network: given.pop(network)}
    if kind.reads_captions and config.tokenizer is not None:
        tokenizer = read_tokenizer(config.tokenizer, config.model.text)
    if kind.reads_captions and tokenizer is None:
        raise ConfigError(
            f"A {config.trains} run needs a tokenizer: --tokenizer=FILE, or --init=BUNDLE with a "
            "text encoder."
        )
    task = kind(config)
    if not task.trained:
        raise ConfigError("frozen names all the networks that this run could train.")
    sources = [
        f"{name} {weights.fingerprint(bundle)}"
        for name, bundle in (("started from", config.init), ("VAE", config.vae))
        if bundle is not None
    ]
    return Start(task, given, frozen, tokenizer, ", ".join(sources) or "started from nothing")
