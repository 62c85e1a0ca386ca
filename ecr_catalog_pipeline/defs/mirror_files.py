"""Mirror files that cannot be used: shown as a failed check, alerted on, and watched meanwhile.

A mirror whose file breaks gets no run any more. Its parity watch goes on with the settings that
were last good, of which the watch of the files keeps a copy beside the clones.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import dagster as dg
from pydantic import TypeAdapter

from ecr_catalog_pipeline.adapters.files import replace_file
from ecr_catalog_pipeline.adapters.notify import Notifier
from ecr_catalog_pipeline.core.alerts import Alert, Condition, Raised, Signal, advance
from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.defs.alerting import send_due
from ecr_catalog_pipeline.defs.conditions import ui_link
from ecr_catalog_pipeline.defs.kept import read_kept, write_kept
from ecr_catalog_pipeline.mirroring import now_utc
from ecr_catalog_pipeline.settings import LoadedMirrors, Mirror, load_mirror, self_contained

GROUP: Final = "refused_mirrors"
SETTINGS_VALID: Final = "settings_valid"
WATCH_SECONDS: Final = 29
FILES_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """What the watch keeps of a mirror file that cannot be used.

    Attributes:
        shown: the failed check that was last written down; it is written once for each reason.
    """

    raised: Mapping[Signal, Raised] = field(default_factory=dict)
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Files:
    """What the watch keeps between two looks, by the mirror's name."""

    refused: Mapping[str, RefusedFile] = field(default_factory=dict)


_FILES: Final = TypeAdapter(Files)


def refused_definitions(loaded: LoadedMirrors) -> dg.Definitions:
    """Define an asset with a failed check for each mirror file that cannot be used."""
    refused = _keys(loaded)
    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                key,
                group_name=GROUP,
                description=f"This mirror is not loaded. {loaded.errors[name]}",
                kinds={"yaml"},
            )
            for name, key in refused.items()
        ],
        asset_checks=[_settings_valid(key, loaded.errors[name]) for name, key in refused.items()],
    )


def mirror_files_watch(
    loaded: LoadedMirrors, cache: Path, notifier: Notifier
) -> dg.SensorDefinition:
    """Alert people when a mirror file cannot be used, and when it can again."""

    @dg.sensor(
        name="mirror_files_watch",
        minimum_interval_seconds=WATCH_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="One alert when a mirror file cannot be used, one when it can again; keeps a "
        "copy of each usable one, so that its mirror can be watched while it is broken.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        kept = read_kept(_FILES, FILES_VERSION, context.cursor)
        if kept.problem:
            context.log.warning("the cursor %s: that part starts over", kept.problem)
        now = now_utc()
        _keep_settings(context, loaded, cache)
        before = kept.value or Files()
        after: dict[str, RefusedFile] = {}
        evaluations: list[dg.AssetCheckEvaluation] = []
        sent: list[Alert] = []
        for name in sorted({*loaded.errors, *before.refused}):
            file = before.refused.get(name, RefusedFile())
            raised = advance(file.raised, _refused(loaded, name, now), now)
            raised, sent_now = send_due(
                context.log, notifier, name, raised, _watched_in_words(loaded, name)
            )
            sent += sent_now
            shown = ""
            if name in loaded.errors:
                evaluation = _evaluation(loaded, name)
                shown = f"{evaluation.asset_key.to_user_string()}: {evaluation.description}"
                evaluations += [evaluation] if shown != file.shown else []
            if raised or shown:
                after[name] = RefusedFile(raised, shown)
        return dg.SensorResult(
            asset_events=evaluations,
            cursor=write_kept(_FILES, FILES_VERSION, Files(after)),
            skip_reason=_in_words(loaded, sent),
        )

    return watch


def last_good_settings(loaded: LoadedMirrors, name: str, cache: Path) -> Mirror | None:
    """The settings with which a mirror was last loaded; None where they are not known."""
    if loaded.folder is None:
        return None
    try:
        text = _copy_of(cache, name).read_text(encoding="utf-8")
        return load_mirror(loaded.folder / f"{name}.yaml", text, defaults={})
    except (OSError, UnicodeDecodeError, SettingsError):
        return None


def _keep_settings(context: dg.SensorEvaluationContext, loaded: LoadedMirrors, cache: Path) -> None:
    """Keep a copy of every mirror file that is as it was loaded."""
    for name, mirror in loaded.mirrors.items():
        if loaded.folder is None:
            return
        path = loaded.folder / f"{name}.yaml"
        try:
            text = path.read_text(encoding="utf-8")
            if load_mirror(path, text) != mirror:
                continue
            text, copy = self_contained(path, text), _copy_of(cache, name)
            if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
                copy.parent.mkdir(parents=True, exist_ok=True)
                replace_file(copy, text.encode())
        except SettingsError:  # it broke since it was loaded: the copy of before stays
            continue
        except (OSError, UnicodeDecodeError) as error:
            context.log.warning("no copy of the settings of %s is kept: %s", name, error)


def _copy_of(cache: Path, name: str) -> Path:
    # A name that is not a mirror's may hold anything, but for what `os.sep` separates.
    return cache / "last-good-mirrors" / f"{name.replace(os.sep, '_')}.yaml"


def _keys(loaded: LoadedMirrors) -> dict[str, dg.AssetKey]:
    """The asset of each mirror file that cannot be used; names may be alike but for odd signs."""
    return {
        name: dg.AssetKey([GROUP, f"{place}_{_readable(name)}"])
        for place, name in enumerate(sorted(loaded.errors), 1)
    }


def _readable(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)


def _settings_valid(key: dg.AssetKey, error: SettingsError) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key, name=SETTINGS_VALID, description="The mirror file can be used as it is."
    )
    def settings_valid() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description=str(error))

    return settings_valid


def _evaluation(loaded: LoadedMirrors, name: str) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=_keys(loaded)[name],
        check_name=SETTINGS_VALID,
        passed=False,
        description=str(loaded.errors[name]),
    )


def _refused(loaded: LoadedMirrors, name: str, now: datetime) -> dict[Signal, Condition]:
    if name not in loaded.errors:
        return {}
    error = loaded.errors[name]
    condition = Condition(
        Signal.SETTINGS_REFUSED,
        now,
        f"{error.problem}; this mirror gets no run until it is corrected",
        f"{error.remediation} Then reload the code location.",
        ui_link(f"assets/{'/'.join(_keys(loaded)[name].path)}?view=checks"),
    )
    return {condition.signal: condition}


def _watched_in_words(loaded: LoadedMirrors, name: str) -> str:
    if name in loaded.errors:
        return "what is published stays; see the alerts on parity for its age"
    return "the mirror is loaded" if name in loaded.mirrors else "there is no such mirror any more"


def _in_words(loaded: LoadedMirrors, sent: list[Alert]) -> str:
    """What the tick says in the UI."""
    wrong = ", ".join(sorted(loaded.errors))
    words = f"refused: {wrong}" if wrong else "every mirror file can be used"
    return words + (f"; alerts: {', '.join(alert.title for alert in sent)}" if sent else "")
