"""Who else on the machine may look into a home: nobody, though most files in it do not say so themselves."""

from __future__ import annotations

import os
import stat

import pytest

from wardround.cli.doctor import examine
from wardround.hub import create_home
from wardround.settings import HubSettings
from wardround.trust.homes import make_private, open_to


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_hubs_home_is_its_owners_alone(tmp_path):
    """It was open to everybody on the machine: the lake, the inbox, and who may sign in."""
    create_home(tmp_path / "hub", "", HubSettings()).close()
    assert mode(tmp_path / "hub") == 0o700
    assert next(check.good for check in examine(tmp_path / "hub") if check.what == "home")


def test_an_empty_folder_is_shut_and_one_that_has_something_in_it_stays(tmp_path):
    empty, used = tmp_path / "empty", tmp_path / "used"
    for folder in (empty, used):
        folder.mkdir(mode=0o755)
    (used / "note").touch()
    for folder in (empty, used, tmp_path / "a" / "new"):
        make_private(folder)
    assert (mode(empty), mode(used), mode(tmp_path / "a" / "new")) == (0o700, 0o755, 0o700)


def test_the_doctor_says_of_a_home_that_it_is_open(tmp_path):
    create_home(tmp_path / "hub", "", HubSettings()).close()
    (tmp_path / "hub").chmod(0o755)
    assert open_to(tmp_path / "hub")
    check = next(check for check in examine(tmp_path / "hub") if check.what == "home")
    assert (check.good, check.remedy) == (False, f"chmod 700 {tmp_path / 'hub'}")
    (tmp_path / "hub").chmod(0o750)  # a group is its owner's choice
    assert next(check.good for check in examine(tmp_path / "hub") if check.what == "home")
