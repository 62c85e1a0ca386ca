"""Publishes as an S3 object, put only if it is still the version that was read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from ecr_catalog_pipeline.adapters.aws import (
    GIVE_UP_AFTER,
    OutOfTimeError,
    call_within,
    code_of,
    message_of,
    status_of,
)
from ecr_catalog_pipeline.adapters.publisher import NO_LISTS, Lists, Provenance, Published
from ecr_catalog_pipeline.core.entity import list_name
from ecr_catalog_pipeline.core.errors import (
    CatalogError,
    LostRace,
    TargetRefused,
    TargetUnavailable,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LOST: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})
_REFUSED: Final = frozenset({"AccessDenied", "NoSuchBucket", "AllAccessDisabled"})
_SERVER_ERROR: Final = 500
_READ_BACK_SECONDS: Final = 20


class S3Publisher:
    """An object in a bucket; a version is its ETag.

    Args:
        lists: the key that the keys of full lists begin with.
    """

    def __init__(self, client: Callable[[], S3Client], bucket: str, key: str, lists: str) -> None:
        self._make_client = client
        self._client: S3Client | None = None
        self._bucket = bucket
        self._key = key
        self._lists = lists

    @property
    def where(self) -> str:
        """The target in words."""
        return f"s3://{self._bucket}/{self._key}"

    def read(self) -> Published:
        """Read the object; a missing key holds nothing."""
        return self._read(GIVE_UP_AFTER)

    def read_list(self, digest: str) -> bytes | None:
        """Read the object of a list."""
        return self._read(GIVE_UP_AFTER, list_name(self._lists, digest)).content

    def _read(self, seconds: float, key: str | None = None) -> Published:
        try:
            client = self._s3()
            content, answer = call_within(client, lambda: self._get(client, key), seconds)
            return Published(content, self._etag(answer, "s3:GetObject"))
        except ClientError as error:
            if code_of(error) == "NoSuchKey":
                return Published(None, None)
            raise self._failed(error, "s3:GetObject") from None
        except (BotoCoreError, HTTPClientError, OutOfTimeError) as error:
            raise self._unavailable(error, "s3:GetObject") from None

    def publish(
        self, new: bytes, expected: str | None, provenance: Provenance, lists: Lists = NO_LISTS
    ) -> str:
        """Put the object on the condition that it is still the expected one; give its ETag."""
        if lists.new is not None:
            self._put_list(lists.new_digest, lists.new, provenance)
        version = self._put(new, expected, provenance)
        if lists.left:
            self._delete_list(lists.left, provenance)
        return version

    def _put_list(self, digest: str, content: bytes, provenance: Provenance) -> None:
        """Put a list under the name of its content, which nothing points to yet."""
        provenance.fence()
        try:
            self._call(
                "s3:PutObject",
                lambda client: client.put_object(
                    Bucket=self._bucket,
                    Key=list_name(self._lists, digest),
                    Body=content,
                    ContentType="application/jsonl",
                ),
            )
        except TargetUnavailable:
            # Only the answer may have been lost.
            if not self._holds_list(digest, content):
                raise

    def _holds_list(self, digest: str, content: bytes) -> bool:
        with suppress(CatalogError):
            return self._read(_READ_BACK_SECONDS, list_name(self._lists, digest)).content == content
        return False

    def _delete_list(self, digest: str, provenance: Provenance) -> None:
        """Delete a list that nothing points to; one that stays is only a few megabytes."""
        with suppress(CatalogError):
            # A process that slept until now may find that a later run points to it again.
            provenance.fence()
            self._call(
                "s3:DeleteObject",
                lambda client: client.delete_object(
                    Bucket=self._bucket, Key=list_name(self._lists, digest)
                ),
            )

    def _call(self, action: str, call: Callable[[S3Client], object]) -> None:
        """Make a call, and say what failed in our words."""
        try:
            client = self._s3()
            call_within(client, partial(call, client))
        except ClientError as error:
            raise self._failed(error, action) from None
        except (BotoCoreError, HTTPClientError, OutOfTimeError) as error:
            raise self._unavailable(error, action) from None

    def _put(self, new: bytes, expected: str | None, provenance: Provenance) -> str:
        condition: dict[str, Any] = {"IfMatch": expected} if expected else {"IfNoneMatch": "*"}
        try:
            client = self._s3()
            provenance.fence()
            put = partial(
                client.put_object,
                Bucket=self._bucket,
                Key=self._key,
                Body=new,
                ContentType="application/yaml",
                Metadata={
                    "mirror": provenance.mirror,
                    "source-sha": provenance.source_sha,
                    "plan-hash": provenance.plan_hash,
                    "run-id": provenance.run_id,
                },
                **condition,
            )
            answer = call_within(client, put)
        except ClientError as error:
            if code_of(error) in _LOST:
                return self._version_if_ours(new)
            failure = self._failed(error, "s3:PutObject")
            if status_of(error) < _SERVER_ERROR:
                raise failure from None
            return self._version_if_taken(new, failure)
        except (BotoCoreError, HTTPClientError, OutOfTimeError) as error:
            return self._version_if_taken(new, self._unavailable(error, "s3:PutObject"))
        try:
            return self._etag(answer, "s3:PutObject")
        except TargetUnavailable as failure:
            return self._version_if_taken(new, failure)

    def _get(self, client: S3Client, key: str | None) -> tuple[bytes, Any]:
        answer = client.get_object(Bucket=self._bucket, Key=key or self._key)
        return answer["Body"].read(), answer

    def _etag(self, answer: Any, action: str) -> str:
        etag = answer.get("ETag")
        if not isinstance(etag, str) or not etag:
            raise TargetUnavailable(
                f"{action} on {self.where} answered without an ETag",
                remediation="Without one nothing can be compared; the next run reads again.",
            )
        return etag

    def _s3(self) -> S3Client:
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def _version_if_ours(self, new: bytes) -> str:
        """Tell a lost race from a put of ours whose answer was lost and that was tried again."""
        now = self.read()
        if now.content == new and now.version:
            return now.version
        raise LostRace(f"{self.where} was changed by someone else after it was read")

    def _version_if_taken(self, new: bytes, failure: CatalogError) -> str:
        """Give the version of a put without a good answer, if it was taken; else raise `failure`.

        Raises:
            TargetUnavailable: the object cannot be read back, either.
        """
        try:
            now = self._read(_READ_BACK_SECONDS)
        except CatalogError as unread:
            raise TargetUnavailable(
                f"{failure.problem}; it is unknown whether the object was published, since it "
                f"cannot be read back: {unread.problem}",
                remediation="The next run reads what is there, and plans again. Check the "
                "network, the bucket and the credentials.",
            ) from None
        if now.content == new and now.version:
            return now.version
        raise failure

    def _failed(self, error: ClientError, action: str) -> CatalogError:
        code = code_of(error)
        if _is_about_kms(error):
            return TargetRefused(
                f"{action} on {self.where} was refused because of its KMS key, with "
                f"{code}: {message_of(error)}",
                remediation="Enable the KMS key that encrypts the bucket and allow "
                "kms:GenerateDataKey and kms:Decrypt with it, or choose another encryption for "
                "the bucket.",
            )
        if code in _REFUSED:
            return TargetRefused(
                f"{action} on {self.where} was refused with {code}",
                remediation="Allow s3:GetObject, s3:PutObject and s3:ListBucket there, or correct "
                "publish.bucket. Without s3:ListBucket a missing key looks like a denial.",
            )
        return self._unavailable(error, action)

    def _unavailable(self, error: Exception, action: str) -> TargetUnavailable:
        code = f"{code_of(error)}: " if isinstance(error, ClientError) else ""
        return TargetUnavailable(
            f"{action} on {self.where} failed: {code}{message_of(error)}",
            remediation="Check the network, the bucket and the credentials; what is published "
            "stays.",
        )


def _is_about_kms(error: ClientError) -> bool:
    """Whether the KMS key of an object is at fault, for longer than a throttled call."""
    code = code_of(error)
    if "throttling" in code.lower() or status_of(error) >= _SERVER_ERROR:
        return False
    return "KMS" in code.upper() or (code in _REFUSED and "kms" in message_of(error).lower())
