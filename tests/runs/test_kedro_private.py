"""A contract with Kedro: every private name that this project relies on is there, and does what is said.

A Kedro release that passes this file may be admitted in pyproject.toml.
"""

import inspect
import re
from pathlib import Path

from kedro.framework.context import KedroContext
from kedro.framework.session import KedroServiceSession
from kedro.io import AbstractDataset, CachedDataset, DataCatalog, MemoryDataset
from kedro.io.core import AbstractVersionedDataset, Version
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner

from rlaifv_kedro.datasets import JsonDataset
from rlaifv_kedro.runs import kedro_private

SRC = Path(kedro_private.__file__).parents[1]


def entry(tmp_path: Path, version: Version | None = None) -> JsonDataset:
    return JsonDataset(filepath=str(tmp_path / "a.json"), version=version)


def test_a_cache_s_dataset(tmp_path):
    inner = entry(tmp_path)
    catalog = DataCatalog({"cached": CachedDataset(inner), "plain": MemoryDataset(1)})
    assert kedro_private.dataset(catalog, "cached") is inner
    assert isinstance(kedro_private.dataset(catalog, "plain"), MemoryDataset)


def test_versions_of_an_entry(tmp_path):
    plain, versioned = entry(tmp_path), entry(tmp_path, Version(None, "run"))
    assert (kedro_private.is_versioned(plain), kedro_private.overwrites(plain)) == (False, True)
    assert (kedro_private.is_versioned(versioned), kedro_private.overwrites(versioned)) == (True, False)
    assert kedro_private.saved_version(versioned) == "run" and kedro_private.saved_version(plain) is None
    kedro_private.set_version(versioned, "old", "new")
    assert versioned.resolve_save_version() == "new" and versioned.resolve_load_version() == "old"
    kedro_private.set_version(plain, "old", "new")
    assert kedro_private.saved_version(plain) is None


def test_paths(tmp_path):
    versioned = entry(tmp_path, Version(None, "run"))
    assert kedro_private.filepath(versioned) == tmp_path / "a.json"
    assert kedro_private.path_of(versioned, "v") == tmp_path / "a.json/v/a.json"
    assert kedro_private.filepath(MemoryDataset(1)) is None


def test_a_dataset_that_cannot_tell_whether_it_is_there(tmp_path):
    class Api(AbstractDataset):
        def load(self):
            return 1

        def save(self, data):
            pass

        def _describe(self):
            return {}

    assert not kedro_private.can_tell_existence(Api())
    assert kedro_private.can_tell_existence(entry(tmp_path))


def test_runner_session_and_context(tmp_path):
    runner = kedro_private.without_resume_hint(SequentialRunner())
    assert "_suggest_resume_scenario" in inspect.getsource(type(runner).__mro__[1])
    assert runner._suggest_resume_scenario(None, [], None) is None
    assert "_project_path" in inspect.getsource(KedroServiceSession.__init__)
    assert "_runtime_params" in {field.name for field in KedroContext.__attrs_attrs__}


def test_nodes_that_a_resumed_run_will_run(tmp_path):
    """The second one's output is missing; it doesn't need the first one to run again."""
    catalog = DataCatalog({name: JsonDataset(filepath=str(tmp_path / name)) for name in "abc"})
    catalog.save("a", 1)
    catalog.save("c", 1)
    pipeline = Pipeline(
        [
            node(lambda given: given, one, other, name=other)
            for one, other in (("x", "a"), ("a", "b"), ("a", "c"))
        ]
    )
    assert {one.name for one in kedro_private.nodes_to_run(pipeline, catalog)} == {"b"}


def test_what_versioned_datasets_override_is_asked_by_kedro():
    """datasets/versioned.py gives these methods another meaning, so Kedro must still call them."""
    source = inspect.getsource(AbstractVersionedDataset)
    for name in ("_get_load_path", "_get_versioned_path", "_clear_version_cache", "_version", "_filepath"):
        assert name in source, name
    assert "_exists" in inspect.getsource(AbstractDataset)


def test_no_other_file_touches_kedro_s_private_names():
    """datasets/ subclass Kedro's datasets and so use their own attributes; all others ask kedro_private."""
    private = re.compile(
        r"\b(?!self\b)\w+(\([^()]*\))?\._(version|filepath|protocol|dataset|get_\w*version\w*|clear_version_cache"
        r"|suggest_resume_scenario|runtime_params|project_path|store)\b"
    )
    allowed = {"runs/kedro_private.py"}
    found = {
        f"{path.relative_to(SRC).as_posix()}: {match[0]}"
        for path in SRC.rglob("*.py")
        if path.relative_to(SRC).as_posix() not in allowed
        for match in private.finditer(path.read_text())
    }
    assert found == set()
