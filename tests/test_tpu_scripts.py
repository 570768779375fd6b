"""The scripts for TPU slices, against a `gcloud` and a `kubectl` that only pretend."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time

import pytest
import yaml

SCRIPTS = pathlib.Path(__file__).parents[1] / "tpu_scripts"
HERE = "--zone=us-east5-a"

# Notes its arguments, answers as `states` says, and runs what ssh is given in a directory a worker.
FAKE = r"""#!{python} -SE
import json, os, pathlib, subprocess, sys

here, arguments = pathlib.Path(os.environ["FAKE"]), sys.argv[1:]
name = pathlib.Path(sys.argv[0]).name
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([name, *arguments]) + "\n")
flags = dict(a.split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
text = " ".join([name, *arguments])
refused = here / "refused"
if refused.is_file() and refused.read_text() in text:
    sys.exit("ERROR: RESOURCE_EXHAUSTED: there is no more capacity in the zone")
if " describe " in text or " get jobset " in text:
    states = here / ("nodes" if "tpu-vm" in text else "states")
    state, *rest = states.read_text().split()
    if "failedData" in text:
        print("no capacity until the time that was asked for")
        sys.exit()
    if rest:
        states.write_text(" ".join(rest))
    if state == "NOT_FOUND":
        sys.exit("ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource was not found")
    if state == "?":
        sys.exit("ERROR: (gcloud.compute.tpus) There was a problem refreshing your tokens")
    print(state)
    print("Updates are available for some Google Cloud CLI components.", file=sys.stderr)
elif " ssh " in text or " scp " in text:
    node = next(a for a in arguments if a.partition(":")[0] in os.environ["NODES"].split())
    workers = [0, 1] if flags["--worker"] == "all" else [int(flags["--worker"])]
    failed = 0
    for worker in workers:
        place = here / f"{{node.partition(':')[0]}}-w{{worker}}"
        place.mkdir(exist_ok=True)
        if " scp " in text:
            source, target = [a for a in arguments[4:] if not a.startswith("--")]
            (place / target.partition(":")[2]).write_bytes(pathlib.Path(source).read_bytes())
        else:
            run = subprocess.run(["bash", "-c", flags["--command"]], cwd=place)
            failed = failed or run.returncode
    sys.exit(0 if (here / "old").exists() else failed)  # as older versions end for all workers
elif " logs " in text:
    print("the log of the first pod")
elif " get events " in text:
    print("Warning FailedMount pod/demo-slice-0-0 bucket gone does not exist")
elif " create --filename=-" in text:
    (here / "rendered").write_text(sys.stdin.read())
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """Runs a script where `gcloud` and `kubectl` are fakes."""
    (tmp_path / "bin").mkdir()
    for name in ("gcloud", "kubectl"):
        (tmp_path / "bin" / name).write_text(FAKE.format(python=sys.executable))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("NODES", "demo demo-0 demo-1")
    monkeypatch.setenv("POLL_SECONDS", "0")
    monkeypatch.setenv("TPU_DEVICES", "/dev/null")
    monkeypatch.setenv("VJAX_MOUNT", str(tmp_path / "share"))
    for name in ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name)
    return Cloud(tmp_path)


class Cloud:
    def __init__(self, directory: pathlib.Path):
        self.directory = directory

    def __call__(
        self, line: str, *more: str, states: str = "", nodes: str = "READY", refuses: str = ""
    ):
        (self.directory / "states").write_text(states)
        (self.directory / "nodes").write_text(nodes)
        if refuses:
            (self.directory / "refused").write_text(refuses)
        script, *arguments = line.split()
        return subprocess.run(
            [SCRIPTS / f"{script}.sh", *arguments, *more],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.directory,
        )

    @property
    def calls(self) -> list[str]:
        """What was run, without the options of all."""
        path = self.directory / "calls"
        calls = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(all(call) for call in calls), "an empty argument was passed on"
        return [" ".join(call) for call in calls]

    def host(self, worker: int, python: str) -> pathlib.Path:
        """A host with the scripts, whose Python is a script of ours."""
        checkout = self.directory / f"demo-w{worker}" / "vjax"
        (checkout / ".venv" / "bin").mkdir(parents=True)
        shutil.copytree(SCRIPTS, checkout / "tpu_scripts")
        (checkout / ".venv" / "bin" / "python").write_text(f"#!/usr/bin/env bash\n{python}\n")
        (checkout / ".venv" / "bin" / "python").chmod(0o755)
        return checkout


# --- Their form ----------------------------------------------------------------------------------


def test_they_are_clean():
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    files = sorted(SCRIPTS.glob("*.sh"))
    run = subprocess.run(
        [shellcheck, "-x", "-P", "SCRIPTDIR", *files], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    for file in files:
        assert os.access(file, os.X_OK) == (file.name != "common.sh")


@pytest.mark.parametrize("name", ["create", "setup", "run", "watch", "fetch", "delete", "gke"])
def test_help_names_every_option(cloud, name):
    shown = cloud(name, "--help")
    assert shown.returncode == 0
    taken = " ".join(re.findall(r"takes='(.*)'", (SCRIPTS / f"{name}.sh").read_text()))
    for option in {*taken.replace("=", "").split(), "--dry-run"}:
        assert option in shown.stdout
    assert not (cloud.directory / "calls").exists()


QUEUED = "gcloud compute tpus queued-resources"
VM = "gcloud compute tpus tpu-vm"
CREATE = (
    f"{QUEUED} create demo --accelerator-type=v5p-128 --runtime-version=v2-alpha-tpuv5 "
    "--node-id=demo"
)
DESCRIBE = f"{QUEUED} describe demo '--format=value(state.state)'"
INSTALL = (
    "mkdir -p vjax && rm -rf vjax/vjax vjax/configs vjax/tpu_scripts && "
    "tar -xf vjax.tar -C vjax && vjax/tpu_scripts/host.sh install"
)
PACK = [
    f"cd {SCRIPTS.parent}",
    "git ls-files -z --cached --others --exclude-standard | tar -cf vjax.tar --null -T -",
]
DRY = {
    f"create demo --slice v5p:4x4x4 --spot {HERE}": [
        f"{CREATE} --spot {HERE}",
        f"{DESCRIBE} {HERE}",
    ],
    "create demo --slice=v6e:4x4 --slices 2 --reserved --network net --project p": [
        "gcloud compute firewall-rules create demo-vjax --network=net --allow=tcp "
        "--source-tags=demo --target-tags=demo --project=p",
        f"{QUEUED} create demo --accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e "
        "--node-count=2 --node-prefix=demo --reserved --network=net --tags=demo --project=p",
        f"{DESCRIBE} --project=p",
    ],
    "create demo --slice v5e:2x4 --runtime-version other": [
        f"{QUEUED} create demo --accelerator-type=v5litepod-8 --runtime-version=other "
        "--node-id=demo",
        DESCRIBE,
    ],
    f"setup demo --share gs://bucket {HERE}": [
        *PACK,
        f"{VM} scp vjax.tar demo:vjax.tar --worker=all {HERE}",
        f"{VM} ssh demo --worker=all '--command={INSTALL} gs://bucket' {HERE}",
    ],
    "run demo --slices 2 -- vjax.train configs/world_vae.py --seed=1": [
        f"{VM} ssh demo-{i} --worker=all '--command=vjax/tpu_scripts/host.sh start vjax.train "
        "configs/world_vae.py --seed=1'"
        for i in range(2)
    ]
    + [f"{VM} ssh demo-0 --worker=0 '--command=vjax/tpu_scripts/host.sh follow'"]
    + [
        f"{VM} ssh demo-{i} --worker=all '--command=vjax/tpu_scripts/host.sh wait'"
        for i in range(2)
    ],
    "run demo --stop": [f"{VM} ssh demo --worker=all '--command=vjax/tpu_scripts/host.sh stop'"],
    "watch demo --slice v5p:4x4x4 --share host:/share --spot -- vjax.evaluate --model default": [
        f"{VM} ssh demo --worker=all '--command=vjax/tpu_scripts/host.sh start vjax.evaluate "
        "--model default'",
        f"{VM} ssh demo --worker=0 '--command=vjax/tpu_scripts/host.sh follow'",
        f"{VM} ssh demo --worker=all '--command=vjax/tpu_scripts/host.sh wait'",
        f"{QUEUED} delete demo --force --quiet",
        f"{CREATE} --spot",
        DESCRIBE,
        *PACK,
        f"{VM} scp vjax.tar demo:vjax.tar --worker=all",
        f"{VM} ssh demo --worker=all '--command={INSTALL} host:/share'",
    ],
    "fetch demo runs/world_vae/bundle results": [
        "mkdir -p results",
        f"{VM} scp demo:vjax/runs/world_vae/bundle results --recurse --worker=0",
    ],
    f"delete demo --network net {HERE}": [
        f"{QUEUED} delete demo --force --quiet {HERE}",
        "gcloud compute firewall-rules delete demo-vjax --quiet",
    ],
    "gke pool demo --cluster c --location us-east5 --slice v6e:4x4 --reservation r": [
        "gcloud container node-pools create demo --cluster=c --machine-type=ct6e-standard-4t "
        "--tpu-topology=4x4 --num-nodes=4 --location=us-east5 --reservation-affinity=specific "
        "--reservation=r"
    ],
    "gke fetch demo --share gs://bucket runs/a there": [
        "mkdir -p there",
        "gcloud storage rsync --recursive gs://bucket/runs/a there",
    ],
    "gke delete demo": ["kubectl delete jobset demo"],
}
# What all commands over ssh have, so that they end where a host is gone.
ALIVE = "--ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oConnectTimeout=20"

# As `gcloud … --help` and `kubectl … --help` list them.
DOCUMENTED = {
    "queued-resources create": "accelerator-type runtime-version node-id node-count node-prefix "
    "spot reserved network tags zone project",
    "queued-resources describe": "format zone project",
    "queued-resources delete": "force quiet zone project",
    "tpu-vm describe": "format zone project",
    "tpu-vm ssh": "worker command ssh-flag zone project",
    "tpu-vm scp": "worker recurse zone project",
    "firewall-rules create": "network allow source-tags target-tags project",
    "firewall-rules delete": "quiet project",
    "node-pools create": "cluster location machine-type tpu-topology num-nodes spot reservation "
    "reservation-affinity project",
    "storage rsync": "recursive",
    "delete jobset": "",
    "kubectl logs": "follow tail selector",
    "get jobset": "output",
    "get events": "field-selector sort-by",
}


@pytest.mark.parametrize("line", DRY)
def test_a_dry_run_shows_what_would_run_and_runs_nothing(cloud, line):
    script, *arguments = line.split()
    shown = cloud(script, *(["--dry-run", *arguments] if script != "gke" else
                            [arguments[0], "--dry-run", *arguments[1:]]))  # fmt: skip
    expected = [re.sub(r"( ssh .*'--command=.*')", rf"\1 {ALIVE}", line) for line in DRY[line]]
    assert shown.stdout.splitlines() == expected
    assert (shown.returncode, shown.stderr) == (0, "")
    assert not (cloud.directory / "calls").exists()
    for command in shown.stdout.splitlines():
        if command.startswith(("gcloud", "kubectl")):
            known = next(flags for name, flags in DOCUMENTED.items() if name in command)
            before = re.sub(r"'--command=.*'", "--command=x", command)
            for flag in re.findall(r" '?--([a-z-]+)", before):
                assert flag in known.split()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("create", "A name is missing"),
        ("create Demo --slice v5p:4x4x4", "Demo cannot be a name"),
        ("create demo", "--slice is missing, such as --slice v5p:4x4x4"),
        ("create demo --slice v9:4x4", "write v5e:4x4"),
        ("create demo --slice v5p:4x4", "a v5p slice has three sides"),
        ("create demo --slice v5e:4x4x4", "a v5e slice is flat"),
        ("create demo --slice v5e:3x3", "v5e:3x3 is none: v5e:1x1, 2x2, 2x4"),
        ("create demo --slice v5p:4x4x6", "v5p:4x4x6 is none: v5p:2x2x1, 2x2x2"),
        ("create demo --slice tpu7x:2x2x1", "on GKE alone: tpu_scripts/gke.sh"),
        ("create demo --slice v5e:4x4 --spot --reserved", "Only one of --spot and --reserved"),
        ("create demo --slice v5e:4x4 --share gs://b", "There is no option --share"),
        ("create demo --slice v5e:4x4 --zone", "--zone needs a value"),
        ("setup demo --share /mnt", "gs://BUCKET or HOST:/SHARE is needed"),
        ("run demo", "A module of vjax is missing: -- vjax.train"),
        ("run demo -- train.py", "A module of vjax is missing"),
        ("watch demo --slice v5e:4x4 -- vjax.train a", "without it a new slice would begin"),
        ("fetch demo ../x", "a path in the checkout on the host is needed"),
        ("gke run demo --slice v5e:4x4 --image i -- vjax.train a", "Several hosts need --share"),
        ("gke run demo --slice v5e:1x1 --share gs://b/c", "gs://BUCKET or the name of a claim"),
        ("gke run demo --slice v5e:1x1 --share a:b --image i -- vjax.train a", "name of a claim"),
        ("gke start demo", "pool, run, follow, fetch or delete is needed, not start"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(cloud, line, message):
    run = cloud(line)
    assert run.returncode == 2
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (cloud.directory / "calls").exists()


@pytest.mark.parametrize("line", ["create demo --slice v5e:4x4 --zone=", "run demo -- vjax.train"])
def test_no_empty_argument_is_passed_on(cloud, line):
    run = cloud(line, "")
    assert run.returncode == 2
    assert not (cloud.directory / "calls").exists()


# --- A slice -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "status", "said"),
    [
        ("WAITING_FOR_RESOURCES PROVISIONING ACTIVE", 0, "is ACTIVE and costs money until"),
        ("PROVISIONING FAILED", 1, "cannot be had: no capacity until the time"),
        ("PROVISIONING SUSPENDED", 4, "was taken away before it could be used"),
        ("WAITING_FOR_RESOURCES", 3, "There was no capacity for v5e:4x4 within 0 minutes"),
    ],
)
def test_what_becomes_of_a_request_is_said_with_how_to_delete_it(cloud, states, status, said):
    run = cloud(f"create demo --slice v5e:4x4 {HERE} --wait-minutes 0", states=states)
    if status != 3:
        run = cloud(f"create demo --slice v5e:4x4 {HERE}", states=states)
    assert run.returncode == status
    assert said in run.stderr
    assert run.stderr.endswith("  tpu_scripts/delete.sh demo --zone us-east5-a\n")
    state = states.split()[-1]
    assert f"demo {'is' if status == 0 else 'stays'}" in run.stderr.splitlines()[-2]
    assert state in run.stderr.splitlines()[-2]


@pytest.mark.parametrize("line", ["create", "watch --share gs://bucket"])
def test_a_gcloud_that_tells_no_state_is_shown_and_waited_for_a_while(cloud, monkeypatch, line):
    monkeypatch.setenv("SILENT_SECONDS", "1")
    script, _, options = line.partition(" ")
    more = ["--", "vjax.train", "config.py"] if script == "watch" else []
    run = cloud(f"{script} demo --slice v5e:4x4 {options}", *more, states="?")
    assert run.returncode == 1
    assert run.stderr.count("demo: UNKNOWN, gcloud says: ERROR: (gcloud.compute.tpus) There") == 1
    assert "gcloud has told no state of demo" in run.stderr
    assert run.stderr.endswith("  tpu_scripts/delete.sh demo\n")


def test_a_refused_request_leaves_what_gcloud_said_in_sight(cloud):
    run = cloud("create demo --slice v5e:4x4 --spot", refuses=" create ", states="FAILED")
    assert run.returncode == 1
    assert "there is no more capacity in the zone" in run.stderr
    assert "demo was refused" in run.stderr
    assert "tpu_scripts/delete.sh demo" in run.stderr


def test_setup_takes_the_checkout_as_it_is(cloud, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(SCRIPTS, repository / "tpu_scripts")
    (repository / ".gitignore").write_text("ignored\n")
    for name in ("new", "ignored", "gone"):
        (repository / name).write_text(name)
    git = ["git", "-C", str(repository)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "gone", "tpu_scripts"], check=True)
    (repository / "gone").unlink()
    (tmp_path / "states").write_text("")
    (tmp_path / "refused").write_text(" ssh ")
    script = repository / "tpu_scripts" / "setup.sh"
    run = subprocess.run([script, "demo"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1  # the fake refused what comes after
    for worker in range(2):
        with tarfile.open(tmp_path / f"demo-w{worker}" / "vjax.tar") as archive:
            names = archive.getnames()
        assert {"new", "tpu_scripts/host.sh"} <= set(names)
        assert not {"gone", "ignored"} & set(names)


# --- A run ---------------------------------------------------------------------------------------

ECHO = """printf '[%s]' "$@"; echo
echo "cache ${JAX_COMPILATION_CACHE_DIR-none} on $JAX_PLATFORMS" """
ODD = ["--name=it's", "--stages=({'a': \"b\"},)", "--prompt=a $HOME `id` \\ *", "--x=a\nb"]


def test_a_run_gets_its_arguments_and_shows_the_first_log(cloud, tmp_path):
    (tmp_path / "share").mkdir()
    for worker in range(2):
        cloud.host(worker, f'echo "this is worker {worker}"; {ECHO}')
    run = cloud("run demo --", "vjax.train", "config.py", *ODD)
    assert run.returncode == 0, run.stderr
    assert "this is worker 0" in run.stdout
    assert "this is worker 1" not in run.stdout
    shown = "".join(f"[{word}]" for word in ("-m", "vjax.train", "config.py", *ODD))
    assert shown in run.stdout
    assert f"cache {tmp_path}/share/compiled on tpu,cpu" in run.stdout
    for worker in range(2):
        checkout = tmp_path / f"demo-w{worker}" / "vjax"
        assert shown in (checkout / ".run" / "log").read_text()
        assert (checkout / "runs").resolve() == tmp_path / "share" / "runs"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("statuses", "status"), [("0 7", 7), ("75 7", 7), ("0 75", 75)])
def test_a_run_fails_where_any_host_fails(cloud, statuses, status, old):
    """And was preempted where no host failed otherwise, whatever gcloud ends with."""
    if old:
        (cloud.directory / "old").touch()
    for worker, each in enumerate(statuses.split()):
        cloud.host(worker, f"echo what went wrong; exit {each}")
    run = cloud("run demo -- vjax.train config.py")
    assert run.returncode == status
    assert f"ended with {status}:\nwhat went wrong" in run.stderr
    assert "vjax-status" not in run.stdout


def test_a_run_of_which_nothing_is_told_has_not_ended_well(cloud):
    (cloud.directory / "old").touch()
    for worker in range(2):
        checkout = cloud.host(worker, "exit 0")
        (checkout / "tpu_scripts" / "host.sh").write_text("#!/bin/sh\nexit 255\n")
    assert cloud("run demo --follow").returncode == 255


def test_a_start_that_comes_to_nothing_is_said(cloud):
    host = cloud.host(0, "exit 0")
    for name, does in {"setsid": "echo no such thing; exit 1", "sleep": ""}.items():
        (cloud.directory / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (cloud.directory / "bin" / name).chmod(0o755)
    script = host / "tpu_scripts" / "host.sh"
    run = subprocess.run(
        [script, "start", "vjax.train"], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert "The run did not start: no such thing" in run.stderr


def test_the_checkpoints_of_other_runs_are_none_of_this(cloud):
    host = cloud.host(0, "")
    (host / ".run").mkdir()
    (host / ".run" / "log").write_text(
        "x\na b: 9 parameters, 4 devices, resuming at step 100 of 900, in runs/a b\nstep 101\n"
    )
    (host / "runs" / "other" / "checkpoints" / "500").mkdir(parents=True)

    def reached():
        script = host / "tpu_scripts" / "host.sh"
        return subprocess.check_output([script, "reached"], text=True)

    assert reached() == "100 100\n"
    for step in ("90", "200", "300.tmp"):
        (host / "runs" / "a b" / "checkpoints" / step).mkdir(parents=True)
    assert reached() == "100 200\n"


def test_no_tpu_is_said_in_a_sentence(cloud, monkeypatch):
    monkeypatch.setenv("TPU_DEVICES", "/dev/none")
    for worker in range(2):
        cloud.host(worker, ECHO)
    run = cloud("run demo -- vjax.train config.py")
    assert run.returncode == 1
    assert "There is no TPU here: neither /dev/accel* nor /dev/vfio/N" in run.stdout
    assert "-m" not in run.stdout


def test_a_second_run_is_refused_and_a_run_can_be_stopped(cloud):
    hosts = [cloud.host(worker, "exec sleep 100") for worker in range(2)]
    for host in hosts:
        subprocess.run([host / "tpu_scripts" / "host.sh", "start", "vjax.train"], check=True)
    second = cloud("run demo -- vjax.train config.py")
    assert second.returncode == 1
    assert "A run is going on here already" in second.stderr
    for host in hosts:  # it goes on
        assert not (host / ".run" / "status").exists()
    assert cloud("run demo --stop").returncode == 0
    assert cloud("run demo --follow").returncode == 143


WATCH = "watch demo --slice v5e:4x4 --share gs://bucket --spot"
RUN = "-- vjax.train config.py"


@pytest.fixture
def hosts(cloud):
    """Two hosts on which installing does nothing; a directory takes what the share would."""
    nothing = cloud.directory / "bin" / "python3"
    nothing.write_text("#!/bin/sh\n")
    nothing.chmod(0o755)
    for name in ("sudo", "mountpoint", "gcsfuse"):
        (cloud.directory / "bin" / name).symlink_to(nothing)

    def make(*pythons: str):
        (cloud.directory / "share").mkdir()
        return [cloud.host(worker, python) for worker, python in enumerate(pythons)]

    return make


def steps(cloud) -> list[str]:
    """What was done to the slice and on it, in order."""
    found = (
        re.search(r"(create|delete|start|install|clear|follow)\b", call) for call in cloud.calls
    )
    return [step[1] for step in found if step]


FIRST_ENDS_WITH = "[ -e tried ] && exit 0; touch tried; exit"


@pytest.mark.parametrize(
    ("states", "nodes"),
    [
        ("ACTIVE SUSPENDED NOT_FOUND PROVISIONING ACTIVE", "READY"),
        # Its state says so late, or that of a node alone.
        ("ACTIVE ACTIVE ACTIVE ACTIVE SUSPENDING SUSPENDED PROVISIONING ACTIVE", "READY"),
        ("ACTIVE", "READY READY PREEMPTED PREEMPTED READY"),
        ("ACTIVE", "READY READY NOT_FOUND NOT_FOUND READY"),
        # Of what cannot be told nothing is concluded.
        ("? ACTIVE ? ACTIVE ? SUSPENDED ? SUSPENDED PROVISIONING ACTIVE", "READY"),
    ],
)
def test_a_slice_that_is_taken_away_is_made_anew_and_the_run_goes_on(cloud, hosts, states, nodes):
    hosts(f"{FIRST_ENDS_WITH} 75", f"{FIRST_ENDS_WITH} 1")
    run = cloud(f"{WATCH} --restarts 0 {RUN}", states=states, nodes=nodes)
    assert run.returncode == 0, run.stderr
    expected = ["start", "follow", "delete", "create", "install", "start", "follow"]
    if "NOT_FOUND" in states:
        expected.remove("delete")
    assert steps(cloud) == expected
    assert "The run has ended." in run.stderr
    assert run.stderr.endswith("until it is deleted:\n  tpu_scripts/delete.sh demo\n")


def test_a_node_that_restarts_is_waited_for_and_set_up_again(cloud, hosts):
    hosts(*[f"{FIRST_ENDS_WITH} 137"] * 2)
    run = cloud(
        f"{WATCH} --restarts 0 {RUN}", states="ACTIVE", nodes="READY RESTARTING REPAIRING READY"
    )
    assert run.returncode == 0, run.stderr
    assert steps(cloud) == ["start", "follow", "install", "start", "follow"]


def test_a_request_that_waits_keeps_its_place(cloud, hosts):
    hosts("exit 0", "exit 0")
    run = cloud(f"{WATCH} {RUN}", states="WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    assert run.returncode == 0, run.stderr
    assert steps(cloud) == ["install", "start", "follow"]


def test_all_hosts_start_again_where_one_fails_on_a_slice_that_stays(cloud, hosts):
    hosts("echo a; exit 0", "exit 9")
    run = cloud(f"{WATCH} --restarts 1 {RUN}", states="ACTIVE")
    assert run.returncode == 9
    assert steps(cloud) == ["start", "follow", "clear", "start", "follow"]
    assert "there was no new checkpoint for 1 restarts" in run.stderr
    assert "demo is ACTIVE and costs money until" in run.stderr


@pytest.mark.parametrize(
    ("status", "starts"),
    [("9", 3), ('"$VJAX_PREEMPTED_STATUS"', 4)],  # who has saved for a preemption has not failed
)
def test_a_new_checkpoint_gives_all_restarts_back(cloud, hosts, status, starts):
    hosts(
        f"""echo "a: 9 parameters, 1 device, starting at step 0 of 900, in runs/a"
        for step in 100 200; do
          [ -d runs/a/checkpoints/$step ] || {{ mkdir -p runs/a/checkpoints/$step; exit {status}; }}
        done; exit 7""",
        "exit 0",
    )
    run = cloud(f"{WATCH} --restarts 1 {RUN}", states="ACTIVE")
    assert run.returncode == 7
    assert steps(cloud).count("start") == starts
    assert ("was preempted and has saved: it goes on" in run.stderr) == (status != "9")


def test_a_run_that_is_stopped_by_hand_does_not_go_on(cloud, hosts):
    hosts(*['touch .run/stopped; exit "$VJAX_PREEMPTED_STATUS"'] * 2)
    run = cloud(f"{WATCH} {RUN}", states="ACTIVE")
    assert run.returncode == 143
    assert "The run was stopped by hand" in run.stderr
    assert steps(cloud) == ["start", "follow"]


def test_a_signal_that_did_not_come_from_here_is_a_preemption(cloud, hosts):
    hosts(*[f"{FIRST_ENDS_WITH} 143"] * 2)  # as modules that cannot save end
    run = cloud(f"{WATCH} --restarts 1 {RUN}", states="ACTIVE")
    assert run.returncode == 0, run.stderr
    assert steps(cloud).count("start") == 2


def test_a_run_that_goes_on_already_is_watched_and_not_started(cloud, hosts):
    for host in hosts(*["sleep 2; exit 0"] * 2):
        subprocess.run([host / "tpu_scripts" / "host.sh", "start", "vjax.train"], check=True)
    run = cloud(f"{WATCH} {RUN}", states="ACTIVE")
    assert run.returncode == 0, run.stderr
    assert steps(cloud) == ["follow"]


def test_what_does_not_end_is_killed_before_a_new_start(cloud, hosts, monkeypatch):
    monkeypatch.setenv("CLEAR_SECONDS", "1")
    deaf = cloud.directory / "deaf"
    (host,) = hosts(f"trap '' TERM; touch {deaf}; sleep 100 & wait; sleep 100")
    script = host / "tpu_scripts" / "host.sh"
    subprocess.run([script, "start", "vjax.train"], check=True)
    while not deaf.exists():
        time.sleep(0.05)
    assert subprocess.run([script, "running"]).returncode == 0
    subprocess.run([script, "clear"], check=True)
    assert subprocess.run([script, "wait"], capture_output=True).returncode == 137


@pytest.mark.parametrize(("tries", "status"), [("NOT_FOUND", 1), ("ACTIVE SUSPENDED", 1)])
def test_no_capacity_ends_a_watch_with_what_stays_behind(cloud, hosts, tries, status):
    hosts("exit 1", "exit 1")
    run = cloud(f"{WATCH} --restarts 1 {RUN}", states=f"{tries} FAILED", refuses=" create ")
    assert run.returncode == status
    assert steps(cloud).count("create") == (1 if tries == "NOT_FOUND" else 2)
    assert run.stderr.count("demo stays behind as FAILED, without hosts") == steps(cloud).count(
        "create"
    ) + (tries != "NOT_FOUND")
    assert "tpu_scripts/delete.sh demo" in run.stderr


def test_a_slice_that_cannot_be_deleted_is_said_to_stay(cloud, hosts):
    hosts("exit 0", "exit 0")
    run = cloud(f"{WATCH} {RUN}", states="SUSPENDED", refuses=" delete ")
    assert run.returncode == 1
    assert "demo stays behind as SUSPENDED" in run.stderr
    assert run.stderr.endswith("  tpu_scripts/delete.sh demo\n")


# --- What hosts share ----------------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_named_on_every_host(cloud, hosts):
    hosts("exit 0", "exit 0")
    (cloud.directory / "bin" / "mountpoint").unlink()
    (cloud.directory / "bin" / "mountpoint").symlink_to("/bin/false")
    (cloud.directory / "bin" / "gcsfuse").unlink()
    (cloud.directory / "bin" / "gcsfuse").symlink_to("/bin/false")
    for worker in range(2):
        script = cloud.directory / f"demo-w{worker}" / "vjax" / "tpu_scripts" / "host.sh"
        run = subprocess.run([script, "install", "gs://gone"], capture_output=True, text=True)
        assert run.returncode == 1
        assert "gs://gone cannot be mounted" in run.stderr
        assert "gcloud storage buckets describe gs://gone" in run.stderr


def test_a_share_is_mounted_again_after_a_host_restarted(cloud, hosts):
    for host in hosts("exit 0", "exit 0"):
        (host / ".share").write_text("gs://bucket\n")
    for name, does in {"mountpoint": "exit 1", "gcsfuse": 'echo "mounted $*"'}.items():
        (cloud.directory / "bin" / name).unlink()
        (cloud.directory / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (cloud.directory / "bin" / name).chmod(0o755)
    run = cloud(f"run demo {RUN}")
    assert run.returncode == 0, run.stderr
    assert f"mounted --implicit-dirs bucket {cloud.directory}/share" in run.stdout


def test_a_share_that_cannot_be_written_is_said_before_the_run(cloud, hosts):
    hosts(ECHO, ECHO)
    (cloud.directory / "share" / "runs").touch()  # in the way
    run = cloud(f"run demo {RUN}")
    assert run.returncode == 1
    assert f"Nothing can be written to {cloud.directory}/share" in run.stdout
    assert "cache" not in run.stdout


# --- GKE -----------------------------------------------------------------------------------------


def test_a_jobset_is_what_was_asked_for(cloud):
    run = cloud(
        "gke run demo --slice v5p:4x4x4 --slices 2 --image repo/vjax:1 --share gs://bucket --spot"
        " --service-account trainer --",
        "vjax.train",
        "configs/world_vae.py",
        '--stages=({"a": 1},)',
        "--x=\\ it's # if spot {{name}}",
        states="Completed",
    )
    assert run.returncode == 0, run.stderr
    assert "the log of the first pod" in run.stdout
    jobset = yaml.safe_load((cloud.directory / "rendered").read_text())
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "demo")
    (job,) = jobset["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    # What has failed by itself is restarted a few times; what was preempted, always.
    assert jobset["spec"]["failurePolicy"] == {
        "maxRestarts": 10,
        "rules": [
            {
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ],
    }
    job = job["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (16, 16, 0)
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    disrupted, preempted = job["podFailurePolicy"]["rules"]
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert preempted["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [75, 143],
    }
    assert disrupted["action"] == preempted["action"] == "FailJob"
    assert container["command"][1:] == [
        "exec",
        "vjax.train",
        "configs/world_vae.py",
        '--stages=({"a": 1},)',
        "--x=\\ it's # if spot {{name}}",
    ]
    assert {"containerPort": 8482} in container["ports"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    (volume,) = pod["volumes"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "bucket"


def test_a_jobset_without_options_has_none_of_their_lines(cloud):
    run = cloud(
        "gke run demo --dry-run --slice v5e:2x4 --image vjax --share claim -- vjax.evaluate"
    )
    text = run.stdout.partition("END'\n")[2].partition("END\n")[0]
    pod = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert "metadata" not in pod
    assert not {"tolerations", "serviceAccountName"} & set(pod["spec"])
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "claim"}
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"google.com/tpu": 8}
    assert "{{" not in text.partition("apiVersion")[2]


def test_words_of_a_jobset_stay_words(cloud):
    run = cloud(
        "gke run null --dry-run --slice v5e:1x1 --image 1e3 --share gs://123 --reservation 7"
        " --service-account on -- vjax.evaluate"
    )
    jobset = yaml.safe_load(run.stdout.partition("END'\n")[2].partition("END\n")[0])
    assert jobset["metadata"]["name"] == "null"
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "on"
    assert pod["nodeSelector"]["cloud.google.com/reservation-name"] == "7"
    assert pod["containers"][0]["image"] == "1e3"
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "123"


@pytest.mark.parametrize("dry", ["", "--dry-run "])
def test_what_yaml_cannot_say_ends_a_jobset(cloud, dry):
    line = f"gke run demo {dry}--slice v5e:1x1 --image i -- vjax.sample --prompt"
    run = cloud(line, "a\nb", states="Completed")
    assert run.returncode == 2
    assert "An argument has a line break" in run.stderr
    assert (run.stdout, (cloud.directory / "calls").exists()) == ("", False)


def test_a_jobset_whose_pods_do_not_start_shows_what_the_cluster_warns_of(cloud):
    run = cloud("gke follow demo", states="StartupPolicyCompleted Failed", refuses=" logs ")
    assert "FailedMount pod/demo-slice-0-0 bucket gone does not exist" in run.stderr
    assert run.stderr.count("no pod that runs yet") == 1
    assert not [call for call in cloud.calls if "describe" in call]


def test_a_failed_jobset_is_said_with_what_stays_behind(cloud):
    run = cloud("gke follow demo", states="StartupPolicyCompleted Failed")
    assert run.returncode == 1
    assert "it goes with: gke.sh delete demo" in run.stderr
