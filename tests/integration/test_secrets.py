"""Secrets are planted wherever one can be, and searched in everything that is written.

Real git over HTTPS with a password, AWS keys and roles, tokens and URLs that are secrets; runs that
end well, and runs in which every side repeats what it was given. What is searched: both streams of
every command, the Dagster instance with its databases, the cache, the target, the alerts.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import ssl
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, quote_plus

import dagster as dg
import pytest

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters.notify import Notifier
from ecr_catalog_pipeline.definitions import build_definitions
from ecr_catalog_pipeline.defs.common import CHANGE_SENSOR, PARITY_WATCH
from ecr_catalog_pipeline.settings import load_mirrors
from tests.fakes.aws import Answer, FakeAws, Fault
from tests.fakes.backstage import FakeBackstage
from tests.fakes.certificates import write_certificate
from tests.integration.worlds import GOVERNANCE_PATH, MIRROR, GitTarget, World

COMMAND: Final = Path(sys.executable).with_name("ecr-catalog")
ROLE: Final = "arn:aws:iam::123456789012:role/catalog-reader"
TOKEN_VARIABLE: Final = "PLANTED_BACKSTAGE_TOKEN"
CANARY: Final = "team-canary-7f3a9c"
"""No secret: an owner that is meant to be written, which proves that the search can find."""

SECRETS: Final[Mapping[str, str]] = {
    "AWS access key": "AKIAPLANTED4SECRET7Q",
    "AWS secret key": "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",
    "AWS session token": "FwoGZXIvplanted+sess/10nTokenABCDEFGHIJKLMNOPQRSTUVWXYZ012345==",
    "key of an assumed role": "ASIAPLANTED4ROLEKEY9",
    "secret of an assumed role": "r0leSecretPlanted+abcdefghijklmnopqr/uvw9",
    "token of an assumed role": "IQoJb3JpZ2luplanted/r0le+token0123456789abcdefXYZ==",
    "Backstage token": "backstage-planted.tok3n-9f8e7d6c5b4a",
    "alert URL": "al3rtPlantedT0kenXyz",
    "refused alert URL": "badAl3rtPlantedT0kenQ",
    "ping URL": "p1ngPlantedUuid-4b5c6d7e8f",
    "git password": "g1tPlantedPassw0rd!9#x",
    "git helper's password": "h3lperPlantedPassw0rd-77",
    "git header": "hdrPlantedB3arer5566778899",
    "token as user name": "ghp_pl4ntedUserNameT0ken0123456789abcd",
}


def forms_of(secret: str) -> set[bytes]:
    """The ways in which a secret may be written: plain, quoted, in JSON, in base64."""
    forms = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    forms.add(secret.replace("/", "\\/"))
    for before in ("", "-", "--"):
        # Inside a longer base64 text, such as that of user:password, it starts at any of 3 places.
        encoded = base64.b64encode((before + secret).encode()).decode()
        core = encoded[4 if before else 0 :].rstrip("=")[:-1]
        forms |= {core, core.translate(str.maketrans("+/", "-_"))}
    return {form.encode() for form in forms}


FORMS: Final = {name: forms_of(secret) for name, secret in SECRETS.items()}


# Servers that repeat what they receive


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not searched: what lies there holds secrets on purpose."""
    folder = tmp_path_factory.mktemp("planted")
    askpass = folder / "askpass"
    askpass.write_text(
        "#!/bin/sh\n"
        f"case \"$1\" in User*) echo bot ;; *) echo '{SECRETS['git password']}' ;; esac\n"
    )
    askpass.chmod(0o700)
    write_certificate(folder / "cert.pem")
    return folder


class Loopback:
    """An HTTP server on loopback; an HTTPS server with `tls`, a folder that holds a certificate."""

    def __init__(self, tls: Path | None = None) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, answer = server.answer(self, body)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET  # noqa: N815 - what the base class calls

            def log_message(self, *_: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Say nothing: a client may leave before it has its answer."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "cert.pem")
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True).start()

    def answer(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Echo(Loopback):
    """Refuses everything, in words that repeat all that it received, and what it makes of it."""

    def __init__(self, tls: Path | None = None, status: int = 403) -> None:
        super().__init__(tls)
        self.status = status
        self.repeated: list[str] = []

    def answer(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        reported = " ".join(f"{key}: {value}" for key, value in request.headers.items())
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            reported += " that is " + base64.b64decode(credentials).decode()
        reported = f"refused {request.path} {reported} {body.decode('utf-8', 'replace')}"
        self.repeated.append(reported)
        answer: dict[str, Any] = {"__type": "InvalidSignatureException", "message": reported}
        headers = {"Content-Type": "application/x-amz-json-1.1"}
        if "git" in request.headers.get("User-Agent", ""):
            headers = {"Content-Type": "text/plain"}
            return self.status, headers, f"{reported}\n".encode()
        if "/s3/aws4_request" in request.headers.get("Authorization", ""):
            words = reported.replace("&", "&amp;").replace("<", "&lt;")
            xml = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{words}</Message></Error>"
            return self.status, {}, xml.encode()
        if "Action=" in body.decode("utf-8", "replace"):
            words = reported.replace("&", "&amp;").replace("<", "&lt;")
            xml = f"<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>{words}"
            return self.status, {}, f"{xml}</Message></Error></ErrorResponse>".encode()
        return self.status, headers, json.dumps(answer).encode()


class GitServer(Loopback):
    """Serves the repositories below a folder to who brings the right credentials."""

    def __init__(self, folder: Path, tls: Path) -> None:
        super().__init__(tls)
        self._folder = folder
        self.accepted: list[str] = []
        self.rejects = False

    def answer(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        reported = request.headers.get("Authorization", "")
        known = {
            "Basic " + base64.b64encode(f"bot:{SECRETS[each]}".encode()).decode(): each
            for each in ("git password", "git helper's password")
        }
        known[f"Bearer {SECRETS['git header']}"] = "git header"
        if self.rejects or reported not in known:
            plain = (
                base64.b64decode(reported.partition(" ")[2] + "==") if "Basic" in reported else b""
            )
            words = b"Invalid credentials: " + reported.encode() + b" that is " + plain + b"\n"
            headers = {"WWW-Authenticate": 'Basic realm="git"', "Content-Type": "text/plain"}
            return 401, headers, words
        self.accepted.append(known[reported])
        path, _, query = request.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_PROJECT_ROOT": str(self._folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "bot",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True
        )
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        return int(headers.pop("Status", "200").split()[0]), headers, answer


class Receiver(Loopback):
    """Takes alerts and pings, keeps their bodies, and may refuse them."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.bodies: list[bytes] = []
        self.paths: list[str] = []

    def answer(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        self.bodies.append(body)
        self.paths.append(request.path)
        return self.status, {}, f"{request.path} {request.headers}".encode()


# What is written, and the search


@dataclass
class Written:
    """Everything that a test makes us write."""

    folder: Path
    said: list[tuple[str, bytes]] = field(default_factory=list)

    def all(self) -> Iterator[tuple[str, bytes]]:
        """Each thing with its place; what is packed also unpacked."""
        yield from self.said
        for path in sorted(self.folder.rglob("*")):
            place = str(path.relative_to(self.folder))
            yield f"name of {place}", str(path).encode()
            if path.is_symlink() or not path.is_file():
                continue
            content = path.read_bytes()
            yield place, content
            if content.startswith(b"SQLite format 3"):
                yield f"rows of {place}", _rows(path)
            elif "objects" in path.parts and content[:1] == b"\x78":
                yield f"object {place}", zlib.decompress(content)
        for repository in self.folder.rglob("HEAD"):
            if (repository.parent / "objects").is_dir():
                yield f"objects of {repository.parent.name}", _objects(repository.parent)

    def where(self, forms: set[bytes]) -> list[str]:
        return [place for place, content in self.all() if any(form in content for form in forms)]


def _rows(path: Path) -> bytes:
    """Every value of a database, those of its write-ahead log included."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
        values: list[bytes] = []
        for table in tables:
            try:
                rows = database.execute(f'SELECT * FROM "{table}"').fetchall()
            except sqlite3.OperationalError:
                continue  # an index
            values += [
                value if isinstance(value, bytes) else str(value).encode()
                for row in rows
                for value in row
            ]
    return b"\n".join(values)


def _objects(repository: Path) -> bytes:
    """Every object of a git repository, out of its packs, too."""
    done = subprocess.run(
        ["git", "-C", repository, "cat-file", "--batch-all-objects", "--batch"],
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_NO_LAZY_FETCH": "1"},
        capture_output=True,
        check=False,
    )
    return done.stdout


def assert_no_secret(written: Written) -> None:
    found = {name: written.where(forms) for name, forms in FORMS.items()}
    assert {name: places for name, places in found.items() if places} == {}


# The world


@dataclass
class Planted:
    """A mirror that uses every kind of secret, and the sides that it talks to."""

    world: World
    git: GitServer
    backstage: FakeBackstage
    receiver: Receiver
    folder: Path
    planted: Path

    @property
    def governance(self) -> dict[str, str]:
        url = f"{self.git.url}/{self.world.governance.folder.name}/.git"
        return {"repository": url, "branch": "main", "path": GOVERNANCE_PATH}

    def write_mirror(self, **settings: Any) -> None:
        """Rewrite the mirror file; `settings` replace blocks of it."""
        publish = {**self.world.target.settings(), "repository": f"{self.git.url}/catalog.git"}
        usual = {
            "governance": self.governance,
            "registry": {
                "region": self.world.fake.region,
                "endpoint_url": self.world.fake.endpoint_url,
                "role_arn": ROLE,
            },
            "publish": publish,
            "backstage": {"url": self.backstage.url, "token_env": TOKEN_VARIABLE},
        }
        self.world.write_mirror(**{**usual, **settings})

    def registry(self, endpoint_url: str, **more: str) -> dict[str, str]:
        return {"region": self.world.fake.region, "endpoint_url": endpoint_url, **more}

    def asking(self, server: Loopback) -> dict[str, str]:
        return {"url": server.url, "token_env": TOKEN_VARIABLE}

    @property
    def secrets(self) -> dict[str, str]:
        """The environment of someone who configured everything."""
        alerts = self.receiver.url.replace("http://", "")
        one, other = SECRETS["alert URL"], SECRETS["refused alert URL"]
        return {
            "AWS_ACCESS_KEY_ID": SECRETS["AWS access key"],
            "AWS_SECRET_ACCESS_KEY": SECRETS["AWS secret key"],
            "AWS_SESSION_TOKEN": SECRETS["AWS session token"],
            "AWS_CA_BUNDLE": str(self.planted / "cert.pem"),
            TOKEN_VARIABLE: SECRETS["Backstage token"],
            "ECR_CATALOG_ALERT_URLS": f"json://robot:{one}@{alerts}/{one}/?+X-Key={one} "
            f"slack://{other} nonsense://{other}@x json://{other}:99999999/{other}",
            "ECR_CATALOG_PING_URL": f"{self.receiver.url}/ping/{SECRETS['ping URL']}",
            "GIT_ASKPASS": str(self.planted / "askpass"),
            "GIT_SSL_CAINFO": str(self.planted / "cert.pem"),
        }

    def with_helper(self) -> dict[str, str]:
        password = SECRETS["git helper's password"]
        helper = f"!f() {{ echo username=bot; echo 'password={password}'; }}; f"
        return _configured("credential.helper", helper)

    def with_header(self) -> dict[str, str]:
        return _configured("http.extraHeader", f"Authorization: Bearer {SECRETS['git header']}")


def _configured(key: str, value: str) -> dict[str, str]:
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": key, "GIT_CONFIG_VALUE_0": value}


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a Dagster instance that keeps its history."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return home


@pytest.fixture
def everything(tmp_path: Path, planted: Path, home: Path) -> Iterator[Planted]:
    target = GitTarget(tmp_path)
    target.repository.git("config", "http.receivepack", "true")
    with (
        FakeAws() as aws,
        FakeBackstage(token=SECRETS["Backstage token"]) as backstage,
        GitServer(tmp_path, planted) as git,
        Receiver() as receiver,
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        world = World(tmp_path, target, aws, instance, MIRROR)
        everything = Planted(world, git, backstage, receiver, tmp_path, planted)
        everything.write_mirror()
        world.have("team/one", "team/two")
        world.govern("team/one", owner=CANARY)
        backstage.source = target.content
        yield everything


def truncated_role() -> Answer:
    """An answer of AssumeRole that was cut off behind its secrets."""
    body = (
        '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
        f"<Credentials><AccessKeyId>{SECRETS['key of an assumed role']}</AccessKeyId>"
        f"<SecretAccessKey>{SECRETS['secret of an assumed role']}</SecretAccessKey>"
        f"<SessionToken>{SECRETS['token of an assumed role']}</SessionToken><Expir"
    )
    return Answer(body.encode())


def incomplete_role() -> Answer:
    """A whole answer of AssumeRole that lacks the expiry of its secrets."""
    body = truncated_role().body.decode().removesuffix("<Expir")
    return Answer(f"{body}</Credentials></AssumeRoleResult></AssumeRoleResponse>".encode())


# The command


@dataclass
class Shell:
    everything: Planted
    written: Written
    home: Path

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        here = self.everything.folder / "here"
        here.mkdir(exist_ok=True)
        environment = {
            **self.everything.world.environ(self.everything.folder / "user"),
            "TMPDIR": str(here),
            "DAGSTER_HOME": str(self.home),
            **self.everything.secrets,
            **more,
        }
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=here,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        words = " ".join(arguments)
        self.written.said += [
            (f"stdout of {words}", done.stdout),
            (f"stderr of {words}", done.stderr),
        ]
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert b"defect of ours" not in done.stderr, done.stderr.decode()
        return done

    def fails(self, *arguments: str, **more: str) -> str:
        """Give the line of an error."""
        done = self(*arguments, **more)
        assert done.returncode == 1, done
        line = done.stderr.decode().split("\n")[0]
        assert line.startswith("Error: ")
        assert line.isprintable(), line
        return line


@pytest.fixture
def shell(everything: Planted, written: Written, home: Path) -> Shell:
    return Shell(everything, written, home)


@pytest.mark.full
def test_no_command_that_ends_well_writes_a_secret(
    everything: Planted, shell: Shell, written: Written
) -> None:
    done = shell("sync", "-m", MIRROR)
    assert done.returncode == 0, done.stderr
    assert b"visible in Backstage" in done.stdout
    assert shell("plan", "-m", MIRROR, **everything.with_helper()).returncode == 0
    assert shell("plan", "-m", MIRROR, "--json", **everything.with_header()).returncode == 0
    assert shell("--debug", "verify", "-m", MIRROR, "--json").returncode == 0
    assert shell("guard", str(everything.folder / "here")).returncode == 0

    # All of them were used, so that they could have been written.
    assert set(everything.git.accepted) == {"git password", "git helper's password", "git header"}
    assert {call.access_key_id[:4] for call in everything.world.fake.calls} == {"emul", "ASIA"}
    assert any(SECRETS["ping URL"] in path for path in everything.receiver.paths)
    tokens = [session.token for session in everything.world.fake._sessions.values()]
    assert tokens
    assert written.where({token.encode() for token in tokens}) == []
    assert_no_secret(written)

    places = "\n".join(written.where(forms_of(CANARY)))
    for place in ("stdout of plan", "objects of catalog.git", "rows of dagster/", ".git"):
        assert place in places


@pytest.mark.full
def test_no_command_that_fails_writes_a_secret(
    everything: Planted, shell: Shell, written: Written, planted: Path
) -> None:
    aws = everything.world.fake
    with Echo(tls=planted) as echo, Echo() as plain:
        everything.write_mirror(registry=everything.registry(echo.url))
        assert "sts:GetCallerIdentity" in shell.fails("plan", "-m", MIRROR)
        everything.write_mirror(registry=everything.registry(echo.url, role_arn=ROLE))
        assert "sts:AssumeRole" in shell.fails("--debug", "plan", "-m", MIRROR, "--json")
        assert SECRETS["AWS session token"] in echo.repeated[-1]

        everything.write_mirror(backstage=everything.asking(plain))
        assert "refuses us with 403" in shell.fails("verify", "-m", MIRROR)
        plain.status = 500
        shell.fails("verify", "-m", MIRROR, "--json")
        assert SECRETS["Backstage token"] in plain.repeated[-1]

        governance = {**everything.governance, "repository": f"{echo.url}/governance.git"}
        everything.write_mirror(governance=governance)
        shell.fails("plan", "-m", MIRROR, **everything.with_header())
        assert SECRETS["git header"] in echo.repeated[-1]

    everything.write_mirror()
    for answer in (truncated_role(), incomplete_role()):
        aws.fail("AssumeRole", answer)
        assert "sts:AssumeRole" in shell.fails("plan", "-m", MIRROR)
        aws.clear()
    everything.git.rejects = True
    shell.fails("sync", "-m", MIRROR)
    shell.fails("plan", "-m", MIRROR, **everything.with_helper())

    assert_no_secret(written)


def test_a_token_as_a_user_name_gets_no_further_than_the_mirror_file(
    everything: Planted, shell: Shell, written: Written, planted: Path
) -> None:
    folder = planted / "mirrors"
    folder.mkdir()
    everything.write_mirror(
        governance={"repository": f"https://{SECRETS['token as user name']}@127.0.0.1:1/x.git"}
    )
    everything.world.mirror_file.rename(folder / f"{MIRROR}.yaml")

    for command in ("plan", "sync", "verify"):
        reported = shell.fails(command, "-m", MIRROR, ECR_CATALOG_MIRRORS=str(folder))
        assert "governance.repository: carries a token" in reported
    assert_no_secret(written)


# The job and the sensors on an instance that keeps its history


@pytest.fixture
def secrets_set(everything: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is configured in this process."""
    for name, value in everything.secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mirroring, "POLL_SECONDS", 0.02)


@pytest.mark.full
@pytest.mark.usefixtures("secrets_set")
def test_no_run_and_no_alert_holds_a_secret(
    everything: Planted,
    written: Written,
    planted: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    aws, world = everything.world.fake, everything.world
    watch = Watch(everything)
    reported = {"notifier": Notifier(everything.secrets)}

    world.sync(overrides=reported)
    watch.look()
    assert everything.receiver.paths[-1].startswith("/ping/")

    with Echo(tls=planted) as echo, Echo() as plain:
        everything.write_mirror(registry=everything.registry(echo.url, role_arn=ROLE))
        world.sync_fails(overrides=reported)
        watch.look()
        watch.changes()
        governance = {**everything.governance, "repository": f"{echo.url}/governance.git"}
        everything.write_mirror(governance=governance)
        world.sync_fails(overrides=reported)
        watch.look()
        plain.status = 500
        everything.write_mirror(backstage=everything.asking(plain))
        world.sync(overrides=reported)
        watch.look()
    everything.write_mirror()
    for answer in (truncated_role(), incomplete_role()):
        aws.fail("AssumeRole", answer)
        world.restart()
        world.sync_fails(overrides=reported)
        watch.look()
        aws.clear()
    aws.fail("DescribeRepositories", Fault.ACCESS_DENIED)
    world.sync_fails(overrides=reported)
    everything.git.rejects = True
    everything.receiver.status = 500
    watch.look()
    watch.changes()
    everything.git.rejects = False
    everything.receiver.status = 200
    aws.clear()
    world.sync(overrides=reported)
    watch.look()

    out, err = capfd.readouterr()
    written.said += [("stdout", out.encode()), ("stderr", err.encode())]
    written.said += [("logs", caplog.text.encode())]
    written.said += [("alert", body) for body in everything.receiver.bodies]
    written.said += [("cursors and ticks", "\n".join(watch.said).encode())]
    alerts = [body for body in everything.receiver.bodies if b"RECOVERED" in body]
    assert alerts
    assert_no_secret(written)
    places = "\n".join(written.where(forms_of(CANARY)))
    assert "rows of dagster/" in places
    assert "sts:AssumeRole" in "".join(str(body) for body in everything.receiver.bodies)


class Watch:
    """Evaluates the sensors of the mirror as the daemon does, and keeps all that they say."""

    def __init__(self, everything: Planted) -> None:
        self._everything = everything
        self._cursors: dict[str, str | None] = {}
        self.said: list[str] = []

    def look(self) -> None:
        self._evaluate(PARITY_WATCH)

    def changes(self) -> None:
        self._evaluate(CHANGE_SENSOR)

    def _evaluate(self, name: str) -> None:
        world = self._everything.world
        environ = {**self._everything.secrets, "ECR_CATALOG_CACHE": str(world.cache)}
        definitions = build_definitions(load_mirrors(world.mirrors), environ=environ)
        sensor = definitions.resolve_sensor_def(name)
        resources = definitions.resources or {}
        with dg.build_sensor_context(
            instance=world.instance,
            cursor=self._cursors.get(name),
            definitions=definitions,
            resources={key: resources[key] for key in sensor.required_resource_keys},
        ) as context:
            tick = sensor.evaluate_tick(context)
        for event in tick.asset_events:
            world.instance.report_runless_asset_event(event)
        self._cursors[name] = tick.cursor
        self.said += [str(tick.cursor), str(tick.skip_message), str(tick.run_requests)]


# The search itself


@pytest.mark.parametrize("secret", SECRETS.values(), ids=list(SECRETS))
def test_the_search_finds_a_secret_in_every_form(secret: str, tmp_path: Path) -> None:
    written = Written(tmp_path)
    forms = forms_of(secret)
    for text in (
        f"before{secret}after",
        json.dumps({"x": secret}),
        quote(f"https://bot:{secret}@x", safe=""),
        base64.b64encode(f"bot:{secret}".encode()).decode(),
        base64.b64encode(f"robot:{secret}x".encode()).decode(),
        base64.urlsafe_b64encode(f"x:{secret}".encode()).decode(),
    ):
        written.said = [("here", text.encode())]
        assert written.where(forms) == ["here"], text
    written.said = []
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "loose").write_bytes(zlib.compress(secret.encode()))
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE t (x TEXT)")
        database.execute("INSERT INTO t VALUES (?)", [secret])
    assert {"object objects/loose", "rows of a.db"} <= set(written.where(forms))
