"""A Kubernetes API whose Jobs run: as much of it as Dagster's run launcher asks for.

It knows Jobs and Pods of one namespace, and refuses what it does not know. The command of a Job's
pod is started as a process; see `workers`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.fakes.workers import Worker, Workers

NAMESPACE: Final = "dagster"
_JOBS: Final = rf"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
_PODS: Final = rf"/api/v1/namespaces/{NAMESPACE}/pods"
_EVENTS: Final = rf"/api/v1/namespaces/{NAMESPACE}/events"
_SOME_TIME: Final = "2026-01-01T00:00:00Z"


@dataclass
class Cluster:
    """What the cluster holds.

    Attributes:
        secrets, config_maps: their data, by name.
    """

    workers: Workers
    secrets: Mapping[str, Mapping[str, str]]
    config_maps: Mapping[str, Mapping[str, str]]
    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def kubeconfig(self, path: Path) -> Path:
        """Write the file with which a client finds this cluster."""
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [{"name": "here", "cluster": {"server": self.url}}],
                    "users": [{"name": "dagster", "user": {"token": "a-token"}}],
                    "contexts": [
                        {"name": "here", "context": {"cluster": "here", "user": "dagster"}}
                    ],
                }
            )
        )
        return path

    def pod_of(self, run_id: str) -> Worker:
        """Give the pod that a run was launched in."""
        (name,) = [
            name
            for name, job in self.jobs.items()
            if job["metadata"]["labels"]["dagster/run-id"] == run_id
        ]
        return self.workers.started[name]

    # What the API answers

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:  # noqa: PLR0911 - one for each kind of request
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = parts.path
        if method == "POST" and path == _JOBS:
            return self._create(body)
        if method == "GET" and path == _JOBS:
            return 200, self._listed("JobList", self._selected(query, self.jobs))
        if method == "GET" and path in {_PODS, _EVENTS}:
            pods = {name: self._pod(name) for name in self.jobs} if path == _PODS else {}
            return 200, self._listed("List", self._selected(query, pods))
        found = re.fullmatch(rf"(?:{_JOBS}|{_PODS})/([a-z0-9-]+)(/status|/log)?", path)
        if found is None or found[1] not in self.jobs:
            self.refused.append(f"{method} {path}")
            return 404, {"kind": "Status", "code": 404, "message": "not found"}
        if method == "DELETE":
            self.workers.started[found[1]].kill()
            return 200, {"kind": "Status", "status": "Success"}
        if found[2] == "/log":
            return 200, self.workers.started[found[1]].log
        return 200, self._job(found[1]) if path.startswith(_JOBS) else self._pod(found[1])

    def _create(self, job: dict[str, Any]) -> tuple[int, Any]:
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, {"kind": "Status", "code": 409, "reason": "AlreadyExists"}
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert "command" not in container, "the image's own entry point runs"
        volumes = {each["name"]: each for each in pod["volumes"]}
        mounts, files = [], {}
        for mount in container["volumeMounts"]:
            volume, where = volumes[mount["name"]], mount["mountPath"]
            if "configMap" not in volume:
                mounts.append(where)
                continue
            data = self.config_maps[volume["configMap"]["name"]]
            if "subPath" in mount:
                files[where] = data[mount["subPath"]]
            else:
                mounts.append(where)
                files |= {f"{where}/{key}": text for key, text in data.items()}
        self.jobs[name] = job
        self.workers.start(
            name, container["args"], self._environment(container), mounts=mounts, files=files
        )
        return 201, self._job(name)

    def _environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        environment: dict[str, str] = {}
        for source in container["envFrom"]:
            for kind, held in (("secretRef", self.secrets), ("configMapRef", self.config_maps)):
                if kind in source:
                    environment |= held[source[kind]["name"]]
        for each in container["env"]:
            if "valueFrom" in each:
                reference = each["valueFrom"]["secretKeyRef"]
                environment[each["name"]] = self.secrets[reference["name"]][reference["key"]]
            else:
                environment[each["name"]] = each["value"]
        return environment

    def _job(self, name: str) -> dict[str, Any]:
        code = self.workers.started[name].exit_code
        state = "active" if code is None else "failed" if code else "succeeded"
        return {**self.jobs[name], "status": {"startTime": _SOME_TIME, state: 1}}

    def _pod(self, name: str) -> dict[str, Any]:
        code = self.workers.started[name].exit_code
        job = self.jobs[name]
        template = job["spec"]["template"]
        labels = {**template["metadata"]["labels"], "job-name": name}
        state: dict[str, Any] = {"running": {"startedAt": _SOME_TIME}}
        if code is not None:
            state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
        container = template["spec"]["containers"][0]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": template["spec"],
            "status": {
                "phase": "Running" if code is None else "Failed" if code else "Succeeded",
                "containerStatuses": [
                    {
                        "name": container["name"],
                        "image": container["image"],
                        "imageID": "",
                        "ready": code is None,
                        "restartCount": 0,
                        "state": state,
                    }
                ],
            },
        }

    def _selected(
        self, query: Mapping[str, str], things: Mapping[str, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        selector = query.get("labelSelector") or query.get("fieldSelector") or ""
        name = selector.partition("=")[2]
        assert selector.startswith(("job-name=", "metadata.name=", "involvedObject.name="))
        return [things[name]] if name in things else []

    @staticmethod
    def _listed(kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {}, "items": items}


@contextmanager
def a_cluster(
    workers: Workers,
    *,
    secrets: Mapping[str, Mapping[str, str]],
    config_maps: Mapping[str, Mapping[str, str]],
) -> Iterator[Cluster]:
    """Serve a cluster on a loopback port; its pods are gone afterwards."""
    cluster = Cluster(workers, secrets, config_maps)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            with lock:
                status, answer = cluster.answer(self.command, self.path, body)
            is_text = isinstance(answer, str)
            content = answer.encode() if is_text else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if is_text else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names of the protocol

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        cluster.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield cluster
        finally:
            workers.close()
            server.shutdown()
