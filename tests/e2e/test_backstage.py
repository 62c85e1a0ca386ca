"""A real Backstage: what it serves of our entity, and what the shipped configurations allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ecr_catalog_pipeline.adapters.backstage import BackstageCatalog
from ecr_catalog_pipeline.core.entity import LAST_SYNC, content_digest
from ecr_catalog_pipeline.core.errors import BackstageUnavailable
from ecr_catalog_pipeline.core.owners import Notice
from ecr_catalog_pipeline.core.reconcile import reconcile
from tests.fakes.backstage import location_reference
from tests.integration.backstage import (
    DEMO_CONFIG,
    DUMMY_AWS,
    ON_LOOPBACK,
    REGION,
    Backstage,
    Bucket,
    FileServer,
    running_backstage,
    running_bucket,
    wait_for,
)
from tests.unit.builders import (
    IDENTITY,
    ROOT,
    catalog,
    entity_of,
    entry,
    inventory,
    live_registry,
    published,
    rendered,
)

DEPLOY: Final = ROOT / "deploy" / "backstage"
FRAGMENT: Final = DEPLOY / "app-config.ecr-catalog.yaml"
S3_FRAGMENT: Final = DEPLOY / "app-config.ecr-catalog-s3.yaml"
VALUES: Final = DEPLOY / "values-local.yaml"

OURS: Final = f"resource:default/{IDENTITY.name}"
# Well below the 30 s of the processing interval: only a refresh is that quick.
SOON: Final = 15


def resource(name: str, entity_type: str) -> bytes:
    return (
        f"apiVersion: backstage.io/v1alpha1\nkind: Resource\nmetadata: {{name: {name}}}\n"
        f"spec: {{type: {entity_type}, owner: platform-team}}\n"
    ).encode()


DATABASE: Final = resource("orders", "database")
# By the name of the entity that another location may not declare.
SPRAWL: Final = {
    "payments-gateway": resource("payments-gateway", "container-repository"),
    "second-registry": resource("second-registry", "container-registry"),
    IDENTITY.name: resource(IDENTITY.name, "container-registry"),
}


@dataclass(frozen=True)
class Demo:
    backstage: Backstage
    file: Path

    @property
    def location(self) -> str:
        return location_reference("file", str(self.file))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    file = folder / "ecr-registry.yaml"
    environment = {"ECR_CATALOG_ENTITY_FILE": str(file)}
    with running_backstage(folder, [DEMO_CONFIG], environment=environment) as backstage:
        yield Demo(backstage, file)


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer().running() as server:
        yield server


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with running_bucket() as served:
        yield served


def test_a_first_publication_shows_soon_when_its_location_is_refreshed(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTAGE_TOKEN", demo.backstage.token)
    client = BackstageCatalog(demo.backstage.url, "BACKSTAGE_TOKEN")
    assert client.entity(IDENTITY.namespace, IDENTITY.name) is None
    assert not client.refresh(IDENTITY.namespace, IDENTITY.name)

    demo.file.write_bytes(published("shop/search"))

    assert not client.refresh_location("url", str(demo.file))
    assert client.refresh_location("file", str(demo.file))
    wait_for(lambda: demo.backstage.entity(OURS), SOON, "the first publication")


def test_owners_are_looked_up_and_a_backstage_without_notifications_says_so(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTAGE_TOKEN", demo.backstage.token)
    client = BackstageCatalog(demo.backstage.url, "BACKSTAGE_TOKEN")

    demo.file.write_bytes(published("shop/search"))
    client.refresh_location("file", str(demo.file))
    wait_for(lambda: client.known([OURS])[OURS], SOON, "our entity")

    assert client.known(["group:default/nobody", OURS]) == {
        "group:default/nobody": False,
        OURS: True,
    }
    with pytest.raises(BackstageUnavailable, match="has no notifications"):
        client.notify(
            Notice("key", "group:default/nobody", "title", "", "low", "/catalog", "scope")
        )


def test_what_is_served_has_the_digest_of_the_file(demo: Demo) -> None:
    entries = [
        entry("no", owner='"quoted" \\ & <b>: #1', risk=None, environment="012"),
        entry("1e3/0x10", owner="- ~ 2026-01-09", environment="*Übung* 🚀 {a}, [b]"),
        entry("on", owner="null", environment="${HOME} $text: x"),
        entry("payments-gateway", environment="prod"),
    ]
    entries += [entry(f"bulk/service-{number}") for number in range(150)]
    entity = entity_of(reconcile(catalog(entries), inventory(each.name for each in entries)))
    demo.file.write_bytes(rendered(entity))
    demo.backstage.refresh(demo.location)

    wait_for(
        lambda: content_digest(demo.backstage.entity(OURS) or {}) == content_digest(entity),
        SOON,
        "the digest of the file",
    )


def test_a_changed_file_shows_soon_after_a_refresh(demo: Demo) -> None:
    demo.file.write_bytes(published("shop/search"))
    demo.backstage.refresh(demo.location)
    wait_for(lambda: shows(demo.backstage, OURS, "shop/search"), SOON, "what stood there first")

    demo.file.write_bytes(published("shop/search", "shop/vouchers"))

    assert demo.backstage.refresh(OURS)
    wait_for(lambda: shows(demo.backstage, OURS, "shop/search", "shop/vouchers"), SOON, "a change")


@pytest.mark.parametrize("token", ["", "a-token-of-nobody"])
def test_no_other_token_is_let_in(demo: Demo, token: str) -> None:
    assert demo.backstage.ask("GET", "/api/catalog/entities", token=token)[0] == 401
    payload = {"entityRef": OURS}
    assert demo.backstage.ask("POST", "/api/catalog/refresh", payload, token=token)[0] == 401


def test_the_demo_does_not_start_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"externalAccess\[0\]\.options\.token"):
        Backstage.start(tmp_path, [DEMO_CONFIG], token="")


@pytest.mark.parametrize("shipped", [FRAGMENT, VALUES], ids=lambda path: path.name)
def test_a_shipped_configuration_shows_ours_and_refuses_sprawl(
    shipped: Path, files: FileServer, tmp_path: Path
) -> None:
    files.put("ours.yaml", published("shop/search"))
    files.put("theirs.yaml", DATABASE)
    config = config_of(shipped)
    (tmp_path / "app-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")

    with running_backstage(
        tmp_path,
        [tmp_path / "app-config.yaml"],
        overrides=reading_also(files, "theirs.yaml", config),
        environment={"ECR_CATALOG_ENTITY_URL": files.url("ours.yaml")},
    ) as backstage:
        wait_for(lambda: shows(backstage, OURS, "shop/search"), SOON, "our entity")
        wait_for(lambda: backstage.entity("resource:default/orders"), SOON, "a database")

        files.put("ours.yaml", published("shop/search", "shop/vouchers"))
        assert backstage.refresh(OURS)
        changed = ("shop/search", "shop/vouchers")
        wait_for(lambda: shows(backstage, OURS, *changed), SOON, "a change")

        check_that_sprawl_is_refused(backstage, files, "theirs.yaml")
        assert shows(backstage, OURS, *changed)
        check_that_the_token_can_do_no_more(backstage, files)


def test_the_shipped_s3_configuration_shows_ours_and_refuses_sprawl(
    files: FileServer, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.put("ecr-registries/ours.yaml", published("shop/search"))
    files.put("theirs.yaml", DATABASE)
    overrides = reading_also(files, "theirs.yaml", config_of(S3_FRAGMENT))
    overrides["integrations"] = bucket.integration
    listing = {"schedule": {"frequency": {"seconds": 5}}}
    overrides["catalog"]["providers"] = {"awsS3": {"ecrCatalog": listing}}

    with running_backstage(
        tmp_path,
        [S3_FRAGMENT],
        overrides=overrides,
        environment={
            "ECR_CATALOG_BUCKET": bucket.name,
            "ECR_CATALOG_BUCKET_REGION": REGION,
            "ECR_CATALOG_BUCKET_URL": bucket.url,
            **DUMMY_AWS,
        },
    ) as backstage:
        wait_for(lambda: shows(backstage, OURS, "shop/search"), SOON, "our entity")
        wait_for(lambda: backstage.entity("resource:default/orders"), SOON, "a database")

        changed = ("shop/search", "shop/vouchers")
        bucket.put("ecr-registries/ours.yaml", published(*changed))
        assert backstage.refresh(OURS)
        wait_for(lambda: shows(backstage, OURS, *changed), SOON, "a change")

        check_that_sprawl_is_refused(backstage, files, "theirs.yaml")
        assert shows(backstage, OURS, *changed)
        check_that_the_token_can_do_no_more(backstage, files)

        # The one source that takes an entity away with its file, at the next listing.
        bucket.delete("ecr-registries/ours.yaml")
        wait_for(lambda: backstage.entity(OURS) is None, 60, "the entity to go with its object")


def test_an_object_of_s3_can_be_read_as_a_plain_url(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("catalog/ours.yaml", published("shop/search"))

    with running_backstage(
        tmp_path,
        [FRAGMENT],
        overrides={"backend": ON_LOOPBACK, "integrations": bucket.integration},
        environment={"ECR_CATALOG_ENTITY_URL": f"{bucket.url}/catalog/ours.yaml", **DUMMY_AWS},
    ) as backstage:
        wait_for(lambda: shows(backstage, OURS, "shop/search"), SOON, "our entity")
        bucket.put("catalog/ours.yaml", published("shop/vouchers"))
        assert backstage.refresh(OURS)
        wait_for(lambda: shows(backstage, OURS, "shop/vouchers"), SOON, "a change")


def test_the_shipped_configurations_say_the_same() -> None:
    fragment, values = config_of(FRAGMENT), config_of(VALUES)
    s3 = config_of(S3_FRAGMENT)

    assert values["catalog"] == fragment["catalog"]
    assert values["backend"]["auth"] == s3["backend"]["auth"] == fragment["backend"]["auth"]
    assert s3["catalog"]["rules"][:-1] == fragment["catalog"]["rules"][:-1]
    assert s3["catalog"]["processingInterval"] == fragment["catalog"]["processingInterval"]


def config_of(shipped: Path) -> dict[str, Any]:
    """The app-config that a file ships."""
    content: dict[str, Any] = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    if shipped == VALUES:
        config: dict[str, Any] = content["backstage"]["appConfig"]
        return config
    return content


def reading_also(files: FileServer, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """What makes a shipped configuration run here and read one more location."""
    locations = config["catalog"].get("locations", [])
    return {
        "backend": {**ON_LOOPBACK, "reading": {"allow": [{"host": files.host}]}},
        "catalog": {"locations": [*locations, {"type": "url", "target": files.url(name)}]},
    }


def shows(backstage: Backstage, reference: str, *names: str) -> bool:
    """Whether the whole entity is served, with just these repositories live."""
    entity = backstage.entity(reference)
    if entity is None:
        return False
    assert entity["metadata"]["annotations"][LAST_SYNC]
    return content_digest(entity) == content_digest(entity_of(live_registry(*names)))


def check_that_sprawl_is_refused(backstage: Backstage, files: FileServer, name: str) -> None:
    """Put one ad-hoc entity after the other where a database is allowed."""
    location = location_reference("url", files.url(name))
    for declared, content in SPRAWL.items():
        files.put(name, content)
        assert backstage.refresh(location)
        refusal = f"NotAllowedError: Entity resource:default/{declared} "
        wait_for(lambda: refusal in backstage.errors(location), SOON, refusal)  # noqa: B023
    found = {entity["metadata"]["name"] for entity in backstage.entities()}
    assert found & SPRAWL.keys() == {IDENTITY.name}


def check_that_the_token_can_do_no_more(backstage: Backstage, files: FileServer) -> None:
    location = {"type": "url", "target": files.url("registered.yaml")}
    assert backstage.ask("POST", "/api/catalog/locations", location)[0] == 403
