"""Rebuilding one component across what is published, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3_server import new_bucket
from scripted_fleet import RECIPE, Fleet

from corepress.domain.publication import Publication
from corepress.domain.recipe import ComponentName, Recipe
from corepress.runtime import catalogue, jobs
from corepress.runtime.catalogue_page import publications
from corepress.runtime.condition import parse_condition
from corepress.runtime.rebuild import Rebuild, known_facts, rebuild_selected, selected

TEXT = "text_encoder"
OLD = "coremltools < 9"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(new_bucket(), tmp_path)


def latest(fleet: Fleet) -> list[Publication]:
    return catalogue.latest(publications(fleet.store))


def select(
    fleet: Fleet, condition: str = OLD, component: ComponentName = TEXT
) -> list[Publication]:
    entries = latest(fleet)
    return selected(entries, component, parse_condition(condition, known_facts(entries)))


def rebuilt(fleet: Fleet, condition: str = OLD, force: bool = False) -> list[Rebuild]:
    """Submit what a condition selects, and work it off."""
    done = rebuild_selected(fleet.store, fleet.bus, TEXT, select(fleet, condition), force)
    for each in done:
        assert each.job is not None, each.error
        assert fleet.finish(each.job).errors == {}
    return done


def versions_of(entry: Publication) -> dict[str, str]:
    """The version of coremltools that made each model."""
    return {name: each["toolchain"]["coremltools"] for name, each in entry.components.items()}


def test_just_that_component_is_converted_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.finish(fleet.submit("model"))
    (before,) = latest(fleet)
    fleet.upgrade(monkeypatch, coremltools="9.0")
    (done,) = rebuilt(fleet)
    assert fleet.runs("model")[4:] == ["convert-text_encoder"]
    (after,) = latest(fleet)
    assert (after.number, after.job) == (2, done.job)
    assert after.version != before.version
    assert versions_of(after) == {"text_encoder": "9.0", "unet": "8.3.0"}
    assert set(before.steps.items()) - set(after.steps.items()) == {
        (step, action) for step, action in before.steps.items() if TEXT in step
    }
    assert select(fleet) == []
    assert select(fleet, component="unet") == [after]


def test_what_was_rebuilt_is_rebuilt_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.finish(fleet.submit("model"))
    for version in ("9.0", "9.1"):
        fleet.upgrade(monkeypatch, coremltools=version)
        rebuilt(fleet, f"coremltools < {version}")
    (entry,) = latest(fleet)
    assert (entry.number, versions_of(entry)) == (3, {"text_encoder": "9.1", "unet": "8.3.0"})


def test_just_what_is_selected_is_published_anew(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds of one job, which share the component, and another job's."""
    other = Recipe("other", components=["text_encoder", "vae_decoder"])
    fleet.finish(fleet.submit("model", (RECIPE, other)))
    fleet.finish(fleet.submit("second"))
    fleet.upgrade(monkeypatch, coremltools="9.0")
    (done,) = rebuilt(fleet, f"{OLD} and name == model and recipe != small")
    assert [entry.build for entry in done.entries] == ["other"]
    numbers = {(entry.name, entry.build): entry.number for entry in latest(fleet)}
    assert numbers == {("model", "small"): 1, ("model", "other"): 2, ("second", "small"): 1}
    (done,) = rebuilt(fleet, f"{OLD} and name == model")
    assert [entry.build for entry in done.entries] == ["small"]
    assert fleet.runs("model")[5:] == ["convert-text_encoder"]  # once for both


def test_tools_of_the_same_version_do_nothing(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("model"))
    before = latest(fleet)
    (first,) = rebuilt(fleet)
    assert latest(fleet) == before
    assert len(fleet.runs("model")) == 4
    (second,) = rebuilt(fleet)
    assert first.job != second.job  # the first is over


def test_forced_they_do_it_again(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("model"))
    before = latest(fleet)
    rebuilt(fleet, force=True)
    assert fleet.runs("model")[4:] == ["convert-text_encoder"]
    assert latest(fleet) == before  # for it came out the same


def test_asked_for_twice_it_is_one_job(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.finish(fleet.submit("model"))
    fleet.upgrade(monkeypatch, coremltools="9.0")
    (first,) = rebuild_selected(fleet.store, fleet.bus, TEXT, select(fleet))
    (second,) = rebuild_selected(fleet.store, fleet.bus, TEXT, select(fleet))
    assert first == second
    assert first.job is not None
    fleet.finish(first.job)
    while fleet.worker.step(0.0):
        pass
    assert fleet.runs("model")[4:] == ["convert-text_encoder"]


def test_after_clearing_up_nothing_else_is_done(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.finish(fleet.submit("model"))
    fleet.sweep()
    fleet.upgrade(monkeypatch, coremltools="9.0")
    rebuilt(fleet)
    assert fleet.runs("model")[4:] == ["convert-text_encoder"]


def test_what_is_gone_is_told(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.finish(fleet.submit("model"))
    fleet.finish(fleet.submit("second"))
    (action,) = (each.steps["normalize"] for each in latest(fleet) if each.name == "model")
    fleet.store.delete(f"actions/{action}.json")
    fleet.upgrade(monkeypatch, coremltools="9.0")
    first, second = rebuild_selected(fleet.store, fleet.bus, TEXT, select(fleet))
    assert first.job is None
    assert first.error is not None
    assert first.error["code"] == "invalid-request"
    assert "normalized weights" in first.error["message"]
    assert second.job is not None
    assert jobs.is_open(fleet.store, second.job)
