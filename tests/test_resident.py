"""Clips that stay on the devices: the same as clips drawn as it goes, with everything else anew."""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vjax import world
from vjax.config import Bucket, ConfigError, DataConfig, Group, MeshConfig, RunConfig, Stage
from vjax.data import drawing, resident
from vjax.data.drawing import Shape
from vjax.data.resident import Resident
from vjax.parallel import mesh as meshes
from vjax.training.dit import DiTTask
from vjax.training.plan import Plan

CLIPS = Bucket(frames=17, height=32, width=32, batch=16)
SHORT = Bucket(frames=5, height=32, width=32, batch=8, crop=16)
PICTURES = Bucket(frames=1, height=32, width=32, batch=8)
STAGE = Stage((Group((CLIPS, SHORT, PICTURES)),), steps=4, one_thing=0.5)
CONFIG = RunConfig(
    "run", "dit", tiny.MODEL, (STAGE,), DataConfig(resident=32), seed=3, run_dir="nowhere"
)


@pytest.fixture(scope="module")
def clips():
    """Everything drawn, over eight devices."""
    mesh = meshes.make_mesh(MeshConfig())
    kept = Resident(CONFIG, Plan(CONFIG.stages), mesh, tiny.tokenizer())
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def drawn():
    """The same clips drawn as it goes, of one thing or any: facts, the clip and its captions."""
    found = {}
    for clip in range(32):
        for one in (0.0, 1.0):
            shape = {"frames": 17, "height": 32, "width": 32, "fps": tiny.MODEL.fps}
            video, facts, _, _ = world.clip((drawing.CLIP, 3, clip), one_thing=one, **shape)
            rng = np.random.default_rng((drawing.CAPTION, 3, clip))
            said = [world.caption(facts, rng, long=k % 2 == 1, moving=k < 6) for k in range(8)]
            found[video.tobytes()] = facts, video, tiny.tokenizer()(said)[0][:6].tolist()
    return found


def test_batches_are_the_clips_that_are_drawn_as_it_goes(clips, drawn):
    plan, seen = Plan(CONFIG.stages), set()
    for step in range(3):
        (bucket, batch), _, _ = clips.take(plan[step])
        assert bucket == CLIPS
        assert {shard.data.shape[0] for shard in batch["video"].addressable_shards} == {2}
        for video, ids, mask in zip(*map(np.asarray, batch.values()), strict=True):
            _, _, captions = drawn[video.tobytes()]
            seen.add((video.tobytes(), captions.index(ids.tolist())))
            assert ((ids > 0) == mask).all()
    assert len({video for video, _ in seen}) > 20
    assert {caption for _, caption in seen} == set(range(6))


def test_the_loss_is_that_of_clips_drawn_as_it_goes(clips, drawn):
    task = DiTTask(CONFIG)
    params = jax.tree.map(jnp.asarray, tiny.params())
    (bucket, batch), *_ = clips.take(Plan(CONFIG.stages)[0])
    host = jax.device_get(batch)
    again = {**host, "video": np.stack([drawn[v.tobytes()][1] for v in host["video"]])}
    key = jax.random.key(0)
    loss = jax.jit(lambda params, batch: task.loss(bucket, params, batch, key)[0])
    assert float(loss(params, host)) == float(loss(params, again))


def test_parts_of_clips_are_windows_pictures_and_never_lack_what_their_captions_say(clips, drawn):
    plan = Plan(CONFIG.stages)
    videos = [video for facts, video, _ in drawn.values() if not is_whole(facts)]
    frames = {frame.tobytes() for video in videos for frame in video}
    crops = {
        video[:5, y : y + 16, x : x + 16].tobytes()
        for video in videos
        for y in range(17)
        for x in range(17)
    }
    for step in range(4):
        _, (_, short), (_, pictures) = clips.take(plan[step])
        assert all(np.asarray(video).tobytes() in crops for video in short["video"])
        assert all(np.asarray(video).tobytes() in frames for video in pictures["video"])


def is_whole(facts) -> bool:
    return len(facts.shots) > 1 or facts.shots[0].wall


def test_the_same_step_gives_the_same_batch_and_another_step_another(clips):
    plan = Plan(CONFIG.stages)
    one, again, other = (clips.take(plan[step]) for step in (1, 1, 2))
    for (_, first), (_, same), (_, different) in zip(one, again, other, strict=True):
        for name, value in first.items():
            np.testing.assert_array_equal(value, same[name])
        assert (np.asarray(first["video"]) != np.asarray(different["video"])).any()
        assert (np.asarray(first["ids"]) != np.asarray(different["ids"])).any()


def test_blocks_take_turns_and_every_size_has_one_first(monkeypatch):
    wide = dataclasses.replace(CLIPS, width=48)
    stage = Stage((Group((CLIPS,), share=3), Group((wide,), share=1)), steps=40)
    monkeypatch.setattr(resident, "BLOCK", 100)
    config = dataclasses.replace(CONFIG, stages=(stage,), data=DataConfig(resident=800))
    order = resident._layout(config, Plan(config.stages), 8)
    assert order[:2] in (
        [Shape(17, 32, 32), Shape(17, 32, 48)],
        [Shape(17, 32, 48), Shape(17, 32, 32)],
    )
    assert [order.count(shape) for shape in (Shape(17, 32, 32), Shape(17, 32, 48))] == [6, 2]


@pytest.mark.parametrize(
    ("room", "arrivals", "message"),
    [
        (2, (), None),  # goes on with what there is
        (0, (), "full with 0 of 4 blocks of clips and this run needs 1"),
        (2, (0, 0, 0), "full with 2 of 4 blocks of clips and this run needs 3"),
    ],
)
def test_a_device_that_is_full_does_not_keep_a_run_waiting(room, arrivals, message, monkeypatch):
    free = iter([True] * room)
    monkeypatch.setattr(resident.concurrent.futures, "ProcessPoolExecutor", in_a_thread)
    monkeypatch.setattr(resident, "BLOCK", 8)
    monkeypatch.setattr(resident, "_has_room", lambda size: next(free, False))
    stages = (Stage((Group((CLIPS,)),), steps=4),)
    data = DataConfig(resident=32, arrivals=arrivals)
    config, plan = dataclasses.replace(CONFIG, stages=stages, data=data), Plan(stages)
    with contextlib.closing(
        Resident(config, plan, meshes.make_mesh(MeshConfig()), tiny.tokenizer())
    ) as kept:
        if message is None:
            assert kept.take(plan[0])[0][1]["video"].shape[0] == CLIPS.batch
            assert len(kept.joined) == room
        else:
            with pytest.raises(ConfigError, match=message):
                kept.take(plan[0])


def in_a_thread(max_workers, mp_context, initializer, initargs):
    return concurrent.futures.ThreadPoolExecutor(1)


@pytest.mark.parametrize("whole", [False, True])
def test_a_device_without_a_clip_that_can_be_cut_is_told_before_the_first_update(
    whole, tmp_path, monkeypatch
):
    def drawn(job):
        path = tmp_path / f"{job.clips.start}.npz"
        video = np.zeros((len(job.clips), 17, 32, 32, 3), np.uint8)
        flags = np.full(len(job.clips), whole)
        np.savez(path, pixels=video, one=~flags, whole=flags)
        return str(path)

    monkeypatch.setattr(resident.concurrent.futures, "ProcessPoolExecutor", in_a_thread)
    monkeypatch.setattr(resident, "draw", drawn)
    stages = (Stage((Group((CLIPS, PICTURES)),), steps=4),)
    config, plan = dataclasses.replace(CONFIG, stages=stages), Plan(stages)
    with contextlib.closing(Resident(config, plan, meshes.make_mesh(MeshConfig()), None)) as kept:
        if whole:
            with pytest.raises(ConfigError, match=r"resident is 32, too few: .* no clip of 32x32"):
                kept.wait(plan[0])
        else:
            assert kept.wait(plan[0]) == 1


def test_arrivals_that_fit_no_block_keep_no_run_waiting(monkeypatch):
    monkeypatch.setattr(resident.concurrent.futures, "ProcessPoolExecutor", in_a_thread)
    stages = (Stage((Group((CLIPS,)),), steps=4),)
    for arrivals in ((9,), (0,) * 9):
        data, plan = DataConfig(resident=8, arrivals=arrivals), Plan(stages)
        config = dataclasses.replace(CONFIG, stages=stages, data=data)
        with contextlib.closing(
            Resident(config, plan, meshes.make_mesh(MeshConfig()), None)
        ) as kept:
            assert kept.wait(plan[0]) == 1


def test_processes_that_draw_leave_signals_to_their_parent_and_end_with_it(tmp_path):
    script = f"""if True:
        import multiprocessing, os, pathlib, signal, time
        from vjax.data.drawing import follow_parent
        def serve():
            follow_parent({str(tmp_path / "clips")!r})
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            print(flush=True)
            time.sleep(60)
        multiprocessing.get_context("fork").Process(target=serve).start()
        signal.pause()
    """
    (tmp_path / "clips").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout.readline() == b"\n"
        parent.kill()
        assert parent.stdout.read() == b""  # nobody holds it any longer
    assert not (tmp_path / "clips").exists()


def test_a_process_that_is_killed_while_it_draws_ends_the_run_in_a_sentence(monkeypatch):
    def killed(job):
        raise resident.process.BrokenProcessPool("terminated abruptly")

    monkeypatch.setattr(resident.concurrent.futures, "ProcessPoolExecutor", in_a_thread)
    monkeypatch.setattr(resident, "draw", killed)
    plan, told = Plan(CONFIG.stages), "A process that drew clips was killed"
    kept = Resident(CONFIG, plan, meshes.make_mesh(MeshConfig()), None)
    with contextlib.closing(kept), pytest.raises(ConfigError, match=told):
        kept.wait(plan[0])


def test_no_host_uses_a_block_that_another_lacks(monkeypatch):
    monkeypatch.setattr(resident.concurrent.futures, "ProcessPoolExecutor", in_a_thread)
    monkeypatch.setattr(resident, "BLOCK", 8)
    stages, asked = (Stage((Group((CLIPS,)),), steps=4),), []

    def least(count: int) -> int:  # another host is two blocks behind
        asked.append(count)
        return count - 2

    data = DataConfig(resident=32)
    config = dataclasses.replace(CONFIG, stages=stages, data=data, minutes=1.0)
    plan, mesh = Plan(stages), meshes.make_mesh(MeshConfig())
    with contextlib.closing(Resident(config, plan, mesh, tiny.tokenizer())) as kept:
        kept.thread.join()
        kept.least = least
        kept.take(plan[0])
        assert (asked, kept.joined) == ([4], [0, 0])
        kept.least = lambda count: count
        for step in (1, 2):
            kept.take(plan[step])
        assert kept.joined == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(resident=4), "too few for 1 sizes of clips on 8 devices"),
        (DataConfig(resident=64, source="tfds:any"), "set data.source to world"),
    ],
)
def test_what_cannot_be_kept_is_refused(data, message):
    config = dataclasses.replace(CONFIG, data=data)
    with pytest.raises(ConfigError, match=message):
        Resident(config, Plan(config.stages), meshes.make_mesh(MeshConfig()), tiny.tokenizer())
