"""Runs on other machines: Dagster's own launchers, a Kubernetes and an ECS whose workers run.

The daemon and the code server are real, the history is in PostgreSQL, and each pod or task is a
process with its own home, folder and clone, and with the environment of its manifest alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

import boto3
import dagster as dg
import pytest
import yaml
from moto.server import ThreadedMotoServer

from ecr_catalog_pipeline.mirroring import run_tick
from tests.e2e.running import ROOT, free_port, wait_for
from tests.fakes.aws import Fault
from tests.fakes.ecs import REGION, an_ecs
from tests.fakes.kubernetes import NAMESPACE, a_cluster
from tests.fakes.workers import BIN, Worker, Workers
from tests.integration.postgres import Postgres
from tests.integration.worlds import MIRROR, GitTarget, World, a_world

pytestmark = pytest.mark.timeout(600)

HELM: Final = ROOT / "deploy" / "kubernetes" / "helm"
ECS: Final = ROOT / "deploy" / "ecs"
POD_HOME: Final = "/opt/dagster/dagster_home"
JOB: Final = f"{MIRROR}_sync"


class Launcher(Protocol):
    """Where runs are launched."""

    def worker_of(self, run: dg.DagsterRun) -> Worker: ...


@dataclass
class Deployment:
    """A Dagster whose runs are launched elsewhere."""

    world: World
    home: Path
    workspace: Path
    environment: Mapping[str, str]
    launcher: Launcher
    instance: dg.DagsterInstance

    def launch(self, *, approve: str | None = None) -> str:
        """Launch a run as somebody in the Dagster UI does; gives its id."""
        config = (
            {"ops": {f"{MIRROR}__published_entity": {"config": {"approve": approve}}}}
            if approve
            else {}
        )
        run_id = str(uuid4())
        command = [str(BIN / "dagster"), "job", "launch", "-w", str(self.workspace), "-j", JOB]
        done = subprocess.run(
            [*command, "--run-id", run_id, "--config-json", json.dumps(config)],
            env={**self.environment, "DAGSTER_HOME": str(self.home)},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return run_id

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run.status

    def succeeds(self, run_id: str) -> None:
        wait_for(
            lambda: self._ended(run_id), 180, f"the end of run {run_id}", reported=self.reported
        )
        assert self.status(run_id) is dg.DagsterRunStatus.SUCCESS, self.reported()

    def started(self, run_id: str) -> dg.DagsterRun:
        """Wait until the worker of a run works, and give the run."""
        wait_for(
            lambda: self.status(run_id) is dg.DagsterRunStatus.STARTED,
            120,
            f"the start of run {run_id}",
            reported=self.reported,
        )
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run

    def _ended(self, run_id: str) -> bool:
        run = self.instance.get_run_by_id(run_id)
        return run is not None and run.is_finished

    def runs(self, tag: str) -> list[dg.DagsterRun]:
        """Give the runs that succeeded and have a tag."""
        done = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS])
        return [run for run in self.instance.get_runs(done) if tag in run.tags]

    def reported(self) -> str:
        """Give what the processes have written."""
        logs = sorted(self.home.parent.rglob("log"))
        return "\n".join(f"== {log}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)


# Kubernetes, as the official chart sets it up from our values


def merged(*files: str) -> Any:
    """Give the values of several files, as helm merges them."""
    values: dict[str, Any] = {}
    for file in files:
        values = _merged(values, yaml.safe_load((HELM / file).read_text()))
    return values


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{key: _merged(one.get(key), value) for key, value in other.items()}}
    return other


def chart_instance(values: Any, kubeconfig: Path) -> dict[str, Any]:
    """Give the dagster.yaml that the chart makes of its values; storage by one URL instead."""
    monitoring = values["dagsterDaemon"]["runMonitoring"]
    sensors = values["dagsterDaemon"]["sensors"]
    pools = values["concurrency"]["pools"]
    queue = values["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    logs = values["computeLogManager"]["config"]["s3ComputeLogManager"]
    return {
        "telemetry": values["telemetry"],
        "storage": {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}},
        "run_launcher": {
            "module": "dagster_k8s",
            "class": "K8sRunLauncher",
            "config": {
                "load_incluster_config": False,
                "kubeconfig_file": str(kubeconfig),
                "job_namespace": NAMESPACE,
                "service_account_name": "dagster",
                "dagster_home": POD_HOME,
                "instance_config_map": "dagster-instance",
                "resources": launcher["resources"],
                "run_k8s_config": {
                    "job_spec_config": {
                        "ttl_seconds_after_finished": launcher["runK8sConfig"]["jobSpecConfig"][
                            "ttlSecondsAfterFinished"
                        ]
                    }
                },
            },
        },
        "compute_logs": {
            "module": "dagster_aws.s3.compute_log_manager",
            "class": "S3ComputeLogManager",
            "config": {"bucket": logs["bucket"], "prefix": logs["prefix"]},
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "max_runtime_seconds": monitoring["maxRuntimeSeconds"],
        },
        "concurrency": {
            "pools": {
                "granularity": pools["granularity"],
                "default_limit": pools["defaultLimit"],
            }
        },
        "run_queue": {
            "dequeue_interval_seconds": queue["dequeueIntervalSeconds"],
            "dequeue_use_threads": queue["dequeueUseThreads"],
        },
        "sensors": {"use_threads": sensors["useThreads"], "num_workers": sensors["numWorkers"]},
    }


def container_context(deployment: Any) -> dict[str, Any]:
    """Give what the chart lets the runs of a user-code deployment have of it."""
    assert deployment["includeConfigInLaunchedRuns"]["enabled"]
    return {
        "k8s": {
            "image_pull_policy": deployment["image"]["pullPolicy"],
            "env_secrets": [each["name"] for each in deployment["envSecrets"]],
            "volume_mounts": deployment["volumeMounts"],
            "volumes": deployment["volumes"],
            "resources": deployment["resources"],
            "namespace": NAMESPACE,
            "service_account_name": deployment["serviceAccount"]["name"],
            "env": deployment["env"],
        }
    }


# Both


@dataclass
class Pods:
    cluster: Any

    def worker_of(self, run: dg.DagsterRun) -> Worker:
        worker: Worker = self.cluster.pod_of(run.run_id)
        return worker


@dataclass
class EcsTasks:
    tasks: Any

    def worker_of(self, run: dg.DagsterRun) -> Worker:
        worker: Worker = self.tasks.by_arn[run.tags["ecs/task_arn"]]
        return worker


@dataclass(frozen=True)
class Outside:
    """What every worker is given of the test's own world, as a secret."""

    postgres_url: str
    s3: str

    @property
    def secret(self) -> dict[str, str]:
        return {
            "DAGSTER_POSTGRES_URL": self.postgres_url,
            "GIT_TOKEN": "",
            "BACKSTAGE_TOKEN": "",
            "AWS_ACCESS_KEY_ID": "a-test",
            "AWS_SECRET_ACCESS_KEY": "a-test",
            "AWS_ENDPOINT_URL_S3": self.s3,
        }


@contextmanager
def on_kubernetes(folder: Path, world: World, outside: Outside) -> Iterator[Deployment]:
    values = merged("values.yaml", "values-user-code.yaml")
    (user_code,) = values["dagster-user-deployments"]["deployments"]
    home, kubeconfig = folder / "control", folder / "kubeconfig"
    home.mkdir()
    instance = chart_instance(values, kubeconfig)
    config_maps = {
        "ecr-catalog-mirrors": {f"{MIRROR}.yaml": world.mirror_file.read_text()},
        "dagster-instance": {"dagster.yaml": yaml.safe_dump(instance)},
    }
    # The launcher tells a run where the instance lies: in a pod that is a folder of its own.
    workers = Workers(folder / "pods", own=[str(home)])
    secrets = {"ecr-catalog": outside.secret}
    with a_cluster(workers, secrets=secrets, config_maps=config_maps) as cluster:
        cluster.kubeconfig(kubeconfig)
        port = free_port()
        mirrors = {
            f"{mount['mountPath']}/{name}": text
            for mount in user_code["volumeMounts"]
            if mount["name"] == "mirrors"
            for name, text in config_maps["ecr-catalog-mirrors"].items()
        }
        environment = {each["name"]: each["value"] for each in user_code["env"]}
        workers.start(
            "user-code",
            ["dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(port)]
            + user_code["dagsterApiGrpcArgs"],
            {
                **environment,
                **outside.secret,
                "DAGSTER_HOME": POD_HOME,
                "DAGSTER_CURRENT_IMAGE": "ecr-catalog-pipeline:0.1.0",
                "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT": json.dumps(container_context(user_code)),
            },
            mounts=["/var/cache/ecr-catalog", POD_HOME],
            files={**mirrors, f"{POD_HOME}/dagster.yaml": yaml.safe_dump(instance)},
        )
        with control_plane(home, instance, port, outside, {}) as (workspace, environ, kept):
            yield Deployment(world, home, workspace, environ, Pods(cluster), kept)
        assert not cluster.refused


@contextmanager
def on_ecs(folder: Path, world: World, outside: Outside) -> Iterator[Deployment]:
    home = folder / "control"
    home.mkdir()
    instance = yaml.safe_load((ECS / "dagster.yaml").read_text())
    files = {
        "/var/lib/dagster/dagster.yaml": (ECS / "dagster.yaml").read_text(),
        f"/mirrors/{MIRROR}.yaml": world.mirror_file.read_text(),
    }
    aws = {key: value for key, value in outside.secret.items() if key.startswith("AWS_")}
    workers = Workers(folder / "tasks", own=[str(home)], ambient=aws)
    with an_ecs(
        workers, secrets=outside.secret, files=files, folders=("/var/cache/ecr-catalog",)
    ) as tasks:
        client = tasks.client()
        client.create_cluster(clusterName="platform")
        network = instance["run_launcher"]["config"]["run_task_kwargs"]["networkConfiguration"]
        network["awsvpcConfiguration"] |= tasks.network()
        definition = json.loads((ECS / "task-run.json").read_text())
        client.register_task_definition(**definition)
        port = free_port()
        (container,) = [
            each
            for each in json.loads((ECS / "task-dagster.json").read_text())["containerDefinitions"]
            if each["name"] == "code-server"
        ]
        (run,) = definition["containerDefinitions"]
        workers.start(
            "code-server",
            [str(port) if word == "4000" else word for word in container["command"]],
            {each["name"]: each["value"] for each in run["environment"]} | outside.secret,
            mounts=["/var/cache/ecr-catalog"],
            files=files,
        )
        at_ecs = {"AWS_ENDPOINT_URL_ECS": tasks.url}
        with control_plane(home, instance, port, outside, at_ecs) as (workspace, environ, kept):
            yield Deployment(world, home, workspace, environ, EcsTasks(tasks), kept)


@contextmanager
def control_plane(
    home: Path, instance: Any, port: int, outside: Outside, more: Mapping[str, str]
) -> Iterator[tuple[Path, dict[str, str], dg.DagsterInstance]]:
    """Run the daemon; gives the workspace, its environment and the instance."""
    (home / "dagster.yaml").write_text(yaml.safe_dump(instance))
    workspace = home / "workspace.yaml"
    server = {"host": "127.0.0.1", "port": port, "location_name": "ecr_catalog_pipeline"}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    environ = {
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        **outside.secret,
        **more,
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environ.items():
            patch.setenv(key, value)
        kept = dg.DagsterInstance.from_config(str(home))
        check = [str(BIN / "dagster"), "api", "grpc-health-check", "-p", str(port)]
        wait_for(
            lambda: subprocess.run(check, capture_output=True, check=False).returncode == 0,
            120,
            "the code server",
            every=1,
            reported=lambda: "\n".join(
                log.read_text(errors="replace")[-4000:] for log in home.parent.rglob("log")
            ),
        )
        with (home / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [str(BIN / "dagster-daemon"), "run", "-w", str(workspace)],
                env={**environ, "DAGSTER_HOME": str(home)},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield workspace, environ, kept
        finally:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait(30)
            kept.dispose()


# What is launched


@pytest.fixture(params=[on_kubernetes, on_ecs], ids=["Kubernetes", "ECS"])
def deployment(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path
) -> Iterator[Deployment]:
    start: Callable[[Path, World, Outside], Any] = request.param
    with ExitStack() as stack:
        world = stack.enter_context(a_world(tmp_path / "world", GitTarget(tmp_path)))
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        moto.start()
        stack.callback(moto.stop)
        host, port = moto.get_host_and_port()
        s3 = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            region_name=REGION,
            endpoint_url=s3,
            aws_access_key_id="a-test",
            aws_secret_access_key="a-test",
        )
        # All of moto's servers in a process share their buckets.
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(
                Bucket="example-dagster", CreateBucketConfiguration={"LocationConstraint": REGION}
            )
        world.have(*(f"team/app-{number}" for number in range(6)))
        yield stack.enter_context(
            start(tmp_path, world, Outside(postgres.url(postgres.new_database()), s3))
        )


def test_runs_that_are_launched_elsewhere_keep_the_mirror(deployment: Deployment) -> None:
    world = deployment.world
    deployment.succeeds(deployment.launch())
    assert len(world.listed) == 6

    # A sensor of the daemon sees a change and launches a run, unless a scheduled run was first.
    new: list[str] = []

    def a_sensors_run_succeeded() -> bool:
        if deployment.runs("dagster/sensor_name"):
            return True
        if set(new) <= set(world.listed):
            new.append(f"team/new-{len(new)}")
            world.have(new[-1])
        return False

    wait_for(a_sensors_run_succeeded, 240, "a sensor's run", reported=deployment.reported)
    wait_for(lambda: set(new) <= set(world.listed), 120, "all of it", reported=deployment.reported)

    # A mass removal is held, and published once somebody approves it.
    for number in range(1, 6):
        world.fake.delete(f"team/app-{number}")
    held = deployment.launch()
    deployment.succeeds(held)
    assert len(world.listed) == 6 + len(new)
    plan = run_tick(world.mirror, world.adapters, publishes=False).planned.plan
    deployment.succeeds(deployment.launch(approve=plan.plan_hash))
    assert sorted(world.listed) == ["team/app-0", *new]

    # A worker that is killed is noticed, and what it would have published is published.
    world.fake.fail("DescribeRepositories", Fault.HANG)
    world.have("team/made-up-for")
    killed = deployment.launch()
    deployment.launcher.worker_of(deployment.started(killed)).kill()
    world.fake.clear()
    wait_for(
        lambda: deployment.status(killed) is dg.DagsterRunStatus.FAILURE,
        90,
        "the killed worker to be noticed",
        reported=deployment.reported,
    )
    wait_for(
        lambda: "team/made-up-for" in world.listed, 120, "a later run", reported=deployment.reported
    )

    a_run_that_was_given_up_publishes_over_nobody(deployment)

    wait_for(
        lambda: bool(deployment.runs("dagster/schedule_name")),
        180,
        "a scheduled run",
        reported=deployment.reported,
    )


def a_run_that_was_given_up_publishes_over_nobody(deployment: Deployment) -> None:
    """Hold the push of a worker until another one, whose run Dagster let begin, has published."""
    world, target = deployment.world, deployment.world.target
    assert isinstance(target, GitTarget)
    held, released, ended = (world.folder / name for name in ("held", "released", "ended"))
    hook = target.repository.folder / "hooks" / "pre-receive"
    hook.write_text(
        f"#!/bin/sh\nmkdir '{held}' 2>/dev/null || exit 0\n"
        f"while [ ! -e '{released}' ]; do sleep 0.1; done\ntouch '{ended}'\n"
    )
    hook.chmod(0o755)
    world.have("team/of-the-first")
    wait_for(held.exists, 180, "a push", reported=deployment.reported)
    (first,) = deployment.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    worker = deployment.launcher.worker_of(first)

    world.have("team/of-the-second")
    deployment.instance.report_run_failed(first, "It was given up.")
    wait_for(
        lambda: "team/of-the-second" in world.listed,
        180,
        "the second",
        reported=deployment.reported,
    )
    assert not ended.exists()
    released.touch()
    # On a slow machine it gives its push up before; then, too, nothing of it may land.
    wait_for(
        lambda: worker.exit_code is not None,
        120,
        "the end of the first worker",
        reported=deployment.reported,
    )

    deployment.succeeds(deployment.launch())
    assert {"team/of-the-first", "team/of-the-second"} <= set(world.listed)
    trailer = "%(trailers:key=Run-Id,valueonly)"
    publishers = target.repository.git("log", f"--format={trailer}", target.branch)
    assert first.run_id not in publishers.split()
    said = [each.user_message for each in deployment.instance.all_logs(first.run_id)]
    failure = dg.DagsterEventType.STEP_FAILURE
    records = deployment.instance.all_logs(first.run_id, of_type=failure)
    assert [each.dagster_event.step_key for each in records if each.dagster_event] == [
        f"{MIRROR}__published_entity"
    ], said
