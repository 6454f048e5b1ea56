"""Where a stack keeps its files: short sockets, a private run folder, one line when that cannot be."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.errors import Error
from mesh.paths import SOCKET_PATH_LIMIT, Paths

if TYPE_CHECKING:
    from collections.abc import Mapping


def test_the_option_wins_over_the_variable_and_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Paths.locate({}).state == tmp_path / ".mesh"
    assert Paths.locate({"MESH_DIR": "/x"}).state.as_posix() == "/x"
    assert Paths.locate({"MESH_DIR": "/x"}, tmp_path).state == tmp_path


def test_sockets_stay_short_below_any_folder(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["folder" * 8] * 6)
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(deep)}, deep)
    sockets = [getattr(paths, name) for name in dir(Paths) if name.endswith("_socket")]
    assert len(sockets) == 6
    assert max(len(os.fsencode(socket)) for socket in sockets) <= SOCKET_PATH_LIMIT


def test_two_folders_share_no_socket(tmp_path: Path) -> None:
    assert Paths.locate({}, tmp_path / "a").run != Paths.locate({}, tmp_path / "b").run


def test_a_run_folder_in_use_is_found_from_a_session_that_has_another(short_tmp: Path) -> None:
    (short_tmp / "first").mkdir()
    used = Paths.locate({"XDG_RUNTIME_DIR": str(short_tmp / "first")}, short_tmp / "state")
    used.prepare()
    assert Paths.locate({}, short_tmp / "state") == used
    used.run.rmdir()
    assert Paths.locate({}, short_tmp / "state") != used


def test_the_run_folder_is_private(tmp_path: Path) -> None:
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(tmp_path)}, tmp_path / "state")
    paths.run.mkdir(mode=0o755)
    paths.prepare()
    assert stat.S_IMODE(paths.run.stat().st_mode) == 0o700
    assert paths.logs.is_dir()


def test_a_run_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(tmp_path)}, tmp_path / "state")
    (tmp_path / "elsewhere").mkdir()
    paths.run.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Error, match="belongs to someone else"):
        paths.prepare()


def test_nothing_in_a_run_folder_that_others_can_enter_is_believed(tmp_path: Path) -> None:
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(tmp_path)}, tmp_path / "state")
    assert not paths.are_in_use()
    paths.run.mkdir(mode=0o700)
    assert paths.are_in_use()
    paths.run.chmod(0o755)
    with pytest.raises(Error, match="can be entered by others"):
        paths.are_in_use()
    paths.retire()
    assert paths.run.exists()


def test_a_run_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(tmp_path)}, tmp_path / "state")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    paths.run.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Error, match="belongs to someone else"):
        paths.are_in_use()
    paths.retire()
    assert (tmp_path / "elsewhere").exists()


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Error, match=r"cannot make the folder .*--dir"):
        Paths.locate({}, tmp_path / "file" / "state").prepare()


def test_a_folder_is_the_same_by_whatever_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    meant = Paths.locate({}, tmp_path / "real" / ".mesh")
    monkeypatch.chdir(tmp_path / "real" / "sub")
    assert Paths.locate({}, Path("../.mesh")) == meant
    assert Paths.locate({}, tmp_path / "link" / ".mesh") == meant
    assert Paths.locate({"MESH_DIR": "../../link/.mesh"}) == meant


def found(folder: Path, monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str] | None = None) -> Path:
    monkeypatch.chdir(folder)
    return Paths.find(environ or {}).state


def test_the_nearest_state_folder_above_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "app" / "a" / "b"
    deep.mkdir(parents=True)
    assert found(deep, monkeypatch, {"HOME": str(tmp_path)}) == deep / ".mesh"
    (tmp_path / "app" / ".mesh").mkdir()
    assert found(deep, monkeypatch) == tmp_path / "app" / ".mesh"
    assert found(deep, monkeypatch, {"MESH_DIR": "x"}) == deep / "x"
    assert Paths.locate({}).state == deep / ".mesh"
    (deep / ".mesh").mkdir()
    assert found(deep, monkeypatch) == deep / ".mesh"


def test_where_the_folder_of_a_project_is_named_its_state_is_meant(tmp_path: Path) -> None:
    project = tmp_path / "project"
    assert Paths.find({}, project).state == project
    (project / ".mesh").mkdir(parents=True)
    assert Paths.find({}, project).state == project / ".mesh"
    assert Paths.find({"MESH_DIR": str(project)}).state == project / ".mesh"
    assert Paths.find({}, project / ".mesh").state == project / ".mesh"


def test_a_named_folder_that_has_state_of_its_own_is_meant_itself(tmp_path: Path) -> None:
    (tmp_path / ".mesh").mkdir()
    paths = Paths.locate({}, tmp_path)
    paths.prepare()
    assert Paths.find({}, tmp_path).state == tmp_path
    shutil.rmtree(paths.run)


def test_the_search_ends_at_a_stack_file_at_home_and_at_what_others_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "app" / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / ".mesh").mkdir()
    assert found(deep, monkeypatch, {"HOME": str(tmp_path / "app")}) == deep / ".mesh"
    assert found(deep, monkeypatch, {"HOME": str(tmp_path)}) == tmp_path / ".mesh"
    (tmp_path / "app" / "a").chmod(0o777)
    assert found(deep, monkeypatch) == deep / ".mesh"
    (tmp_path / "app" / "a").chmod(0o755)
    (tmp_path / "app" / "mesh.toml").touch()
    assert found(deep, monkeypatch) == deep / ".mesh"
