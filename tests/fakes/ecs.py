"""An ECS whose tasks run: moto keeps its state, and each task's command is started as a process.

In front of moto's server: RunTask starts a worker, see `workers`, StopTask kills it, DescribeTasks
tells how it is.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import boto3
from moto.server import ThreadedMotoServer

from tests.fakes.workers import Worker, Workers

REGION: Final = "eu-west-2"


@dataclass
class Tasks:
    """The tasks of a cluster.

    Attributes:
        secrets: the values of a task definition's secrets, by the environment variable.
        files: what the image holds, texts by path.
        folders: what the image lets a task write to.
    """

    workers: Workers
    secrets: Mapping[str, str]
    files: Mapping[str, str]
    folders: tuple[str, ...]
    moto: str
    url: str = ""
    by_arn: dict[str, Worker] = field(default_factory=dict)

    def client(self) -> Any:
        return _client("ecs", self.url)

    def network(self) -> dict[str, list[str]]:
        """Make a network for tasks; gives its subnets and security groups."""
        ec2 = _client("ec2", self.moto)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        # moto's tasks need a DNS name of their network interface.
        ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        group = ec2.create_security_group(VpcId=vpc, GroupName="runs", Description="Runs")
        return {"subnets": [subnet], "securityGroups": [group["GroupId"]]}

    def answered(self, action: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        """Let an answer of moto's become true, or make it true."""
        if action == "RunTask":
            for task in answer.get("tasks", []):
                self._start(task, asked["overrides"]["containerOverrides"])
        if action == "StopTask":
            self.by_arn[asked["task"]].kill()
        for task in answer.get("tasks", []):
            self._tell(task)

    def _start(self, task: dict[str, Any], overrides: list[dict[str, Any]]) -> None:
        definition = self.client().describe_task_definition(
            taskDefinition=task["taskDefinitionArn"]
        )["taskDefinition"]
        (container,) = definition["containerDefinitions"]
        (override,) = overrides
        assert override["name"] == container["name"]
        environment = {each["name"]: each["value"] for each in container["environment"]}
        environment |= {each["name"]: self.secrets[each["name"]] for each in container["secrets"]}
        environment |= {each["name"]: each["value"] for each in override.get("environment", [])}
        arn = task["taskArn"]
        self.by_arn[arn] = self.workers.start(
            arn.rpartition("/")[2],
            override["command"],
            environment,
            mounts=self.folders,
            files=self.files,
        )

    def _tell(self, task: dict[str, Any]) -> None:
        worker = self.by_arn.get(task["taskArn"])
        if worker is None:
            return
        code = worker.exit_code
        task["lastStatus"] = "RUNNING" if code is None else "STOPPED"
        container = {"name": "run", "lastStatus": task["lastStatus"]}
        if code is not None:
            task["stoppedReason"] = "Essential container in task exited"
            container["exitCode"] = code
        task["containers"] = [container]


def _client(service: str, url: str) -> Any:
    session = boto3.Session("a-test", "a-test", region_name=REGION)
    client: Any = session.client(service, endpoint_url=url)  # type: ignore[call-overload] # no stubs
    return client


@contextmanager
def an_ecs(
    workers: Workers,
    *,
    secrets: Mapping[str, str],
    files: Mapping[str, str],
    folders: tuple[str, ...],
) -> Iterator[Tasks]:
    """Serve an ECS on a loopback port; its tasks are gone afterwards."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    tasks = Tasks(workers, secrets, files, folders, f"http://{host}:{port}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kept = {
                key: value
                for key, value in self.headers.items()
                if key.lower() not in {"host", "content-length", "connection"}
            }
            request = urllib.request.Request(f"{tasks.moto}{self.path}", body, kept)
            try:
                with urllib.request.urlopen(request, timeout=30) as reply:
                    status, content = reply.status, reply.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
            action = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            if status == 200 and action:
                answer = json.loads(content)
                tasks.answered(action, json.loads(body), answer)
                content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    try:
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            tasks.url = f"http://127.0.0.1:{server.server_port}"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield tasks
            server.shutdown()
    finally:
        workers.close()
        moto.stop()
