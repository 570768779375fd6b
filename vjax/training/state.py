"""The training state and the jitted functions that move it: gradients of batches, then a step."""

import concurrent.futures
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vjax import models
from vjax.config import Bucket
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.training.optimizer import make_optimizer
from vjax.training.task import Metrics, Task

State = dict[str, Any]  # "step", "params", "ema", "optimizer"; of the trained networks alone

_INITIAL, _LOSS = 0, 1  # what randomness is for: the first part of every key


@functools.partial(jax.jit, static_argnames="task")
def init_state(task: Task, given: models.Params | None = None) -> State:
    """The state before the first step; trained networks that `given` lacks start from scratch."""
    key = jax.random.fold_in(jax.random.key(task.config.seed), _INITIAL)
    params = {name: tree for name, tree in (given or {}).items() if name in task.trained}
    for i, network in enumerate(task.networks):
        if network in task.trained and network not in params:
            config = getattr(task.config.model, network)
            params[network] = models.init(config, jax.random.fold_in(key, i))
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        # A copy: donated buffers must not be shared.
        "ema": jax.tree.map(jnp.array, params),
        "optimizer": make_optimizer(task.config.optimizer).init(params),
    }
    return rules.pinned(state)


@functools.partial(jax.jit, static_argnames="task", donate_argnames="state")
def restart(task: Task, state: State) -> State:
    """The state that goes on from the averaged weights, with a fresh optimizer."""
    params = state["ema"]
    optimizer = make_optimizer(task.config.optimizer).init(params)
    ema = jax.tree.map(jnp.array, params)
    return rules.pinned({**state, "params": params, "ema": ema, "optimizer": optimizer})


def train_step(
    task: Task,
    state: State,
    frozen: models.Params,
    parts: Sequence[tuple[Bucket, Mapping[str, jax.Array | np.ndarray]]],
    rate: float,
    ema: float,
    programs: Mapping[Bucket, concurrent.futures.Future] | None = None,
) -> tuple[State, Metrics]:
    """One optimizer step on batches of several buckets. Randomness depends on seed and step alone.

    The gradient is the mean over the batches, weighted by clips times √frames. Each bucket is a
    program of its own that adds to the gradient, so that groups which share a bucket share its
    program, and memory is that of one bucket at a time.

    Args:
        frozen: parameters that are used but not trained, such as the VAE of a "dit" run.
        parts: each bucket with its batch, see `Task.loss`.
        programs: what `compile_ahead` returned, if it was called.
    """
    shares = np.array([bucket.batch * bucket.frames**0.5 for bucket, _ in parts])
    shares = (shares / shares.sum()).astype(np.float32)
    gradients, metrics = _zeros(state["params"]), []
    for i, ((bucket, batch), share) in enumerate(zip(parts, shares, strict=True)):
        run = functools.partial(accumulate, task, bucket)
        if programs:
            run = programs[bucket].result()
        gradients, found = run(
            state["params"], frozen, batch, gradients, state["step"], np.int32(i), share
        )
        metrics.append(found)
    state, norm = _apply(task, state, gradients, np.float32(rate), np.float32(ema))
    return state, {**_mean(shares, metrics), "gradient_norm": norm}


@functools.partial(jax.jit, static_argnames=("task", "bucket"), donate_argnames="gradients")
def accumulate(
    task: Task,
    bucket: Bucket,
    params: models.Params,
    frozen: models.Params,
    batch: Mapping[str, jax.Array | np.ndarray],
    gradients: models.Params,
    step: jax.Array,
    number: jax.Array | np.integer,
    share: jax.Array | np.floating,
) -> tuple[models.Params, Metrics]:
    """Adds a share of the gradient of one batch, number `number` of its update."""
    key = jax.random.fold_in(jax.random.key(task.config.seed), _LOSS)
    key = jax.random.fold_in(jax.random.fold_in(key, step), number)

    def loss(params):
        return task.loss(bucket, {**frozen, **params}, batch, key)

    (value, metrics), found = jax.value_and_grad(loss, has_aux=True)(params)
    gradients = jax.tree.map(lambda total, g: total + share * g, gradients, found)
    return rules.pinned(gradients), {"loss": value, **metrics}


def compile_ahead(
    task: Task,
    state: State,
    frozen: models.Params,
    batches: Mapping[Bucket, dict[str, jax.ShapeDtypeStruct]],
    mesh: Mesh,
) -> dict[Bucket, concurrent.futures.Future]:
    """Compiles the gradients of several buckets at once, in threads; returns at once."""

    def abstract(tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
        )

    params, others, step = abstract((state["params"], frozen, state["step"]))

    def build(bucket: Bucket):
        with meshes.use(mesh, task.config.mesh):
            return accumulate.lower(
                task,
                bucket,
                params,
                others,
                batches[bucket],
                params,  # gradients are of their shapes
                step,
                np.int32(0),
                np.float32(0),
            ).compile()

    pool = concurrent.futures.ThreadPoolExecutor(max_workers=len(batches) or 1)
    programs = {bucket: pool.submit(build, bucket) for bucket in batches}
    pool.shutdown(wait=False)
    return programs


@functools.partial(jax.jit, static_argnames="task", donate_argnames="state")
def _apply(task: Task, state: State, gradients, rate, decay) -> tuple[State, jax.Array]:
    optimizer = make_optimizer(task.config.optimizer)
    updates, moments = optimizer.update(gradients, state["optimizer"], state["params"])
    params = jax.tree.map(lambda p, u: p + rate * u, state["params"], updates)
    ema = jax.tree.map(lambda old, new: old * decay + new * (1 - decay), state["ema"], params)
    state = {"step": state["step"] + 1, "params": params, "ema": ema, "optimizer": moments}
    return rules.pinned(state), optax.tree.norm(gradients)


@jax.jit
def _zeros(params):
    return rules.pinned(jax.tree.map(jnp.zeros_like, params))


@jax.jit
def _mean(shares, metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *x: jnp.dot(shares, jnp.stack(x)), *metrics)
