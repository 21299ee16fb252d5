from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, override
from memwb.workbench import settings, state
from memwb.workbench.app import Workbench
from memwb.workbench.settings import Settings
from memwb.workbench.start import start
from memwb.workbench.state import Session


def test_a_session_comes_back_as_it_was(home: Path) -> None:
    plan = override(override(Plan(model="tiny"), "lora.targets=['q_proj', 'v_proj']"), "sgd=on")
    session = state.edited(Session(Plan(model="gpt2")), plan)
    session = state.marked(state.shown(state.folded(session, "loss"), "runs/0001"), "runs/0002")
    settings.save_session(session)
    assert settings.read_session() == session
    assert [file.name for file in home.iterdir()] == ["session.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"plan": 1}', '{"plan": {"model": "tiny", "no": 1}}', "\0"]
)
def test_a_session_that_cannot_be_used_is_no_session(home: Path, text: str) -> None:
    home.mkdir()
    settings.session_file().write_text(text)
    assert settings.read_session() is None


def test_settings_are_the_defaults_without_a_file() -> None:
    assert settings.read_settings() == Settings()


def test_settings_are_read(home: Path) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('theme = "nord"\n[keymap]\nrun = "g"\n')
    found = settings.read_settings()
    assert (found.theme, found.keymap) == ("nord", {"run": "g"})


@pytest.mark.parametrize(
    ("text", "where", "how"),
    [
        ("theme = 1", "$.theme: expected str", "value of that kind"),
        ("thme = 'x'", "$.thme: there is no such key", "did you mean 'theme'?"),
        ("[keymap]\nrun = 1", "$.keymap[...]: expected str", "value of that kind"),
        ("theme =", "", "Mend or remove"),
    ],
)
def test_bad_settings_are_told_with_their_file(home: Path, text: str, where: str, how: str) -> None:
    home.mkdir()
    (home / "settings.toml").write_text(text)
    with pytest.raises(MemwbError) as error:
        settings.read_settings()
    assert "settings.toml" in error.value.what and where in error.value.what
    assert how in error.value.fix


def test_one_setting_is_changed_and_the_rest_is_left(home: Path) -> None:
    home.mkdir()
    file = home / "settings.toml"
    file.write_text('# mine\ndevice = "cpu"  # slow\n')
    settings.save_setting("theme", "nord")
    assert file.read_text() == '# mine\ndevice = "cpu"  # slow\ntheme = "nord"\n'


@pytest.mark.parametrize("text", ["theme = ", "\xff"])
async def test_a_theme_that_cannot_be_kept_is_told(bench: Any, home: Path, text: str) -> None:
    app = bench()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause(0.1)
        home.mkdir(exist_ok=True)
        (home / "settings.toml").write_bytes(text.encode("latin-1"))
        app.theme = "nord"
        await pilot.pause()
        assert "theme cannot be kept" in str(app.main.notice.render())
        assert app.main.notice.has_class("-warning")


async def test_a_theme_is_not_kept_in_a_home_that_cannot_be(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMWB_HOME", "/dev/null/home")
    app = bench()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause(0.1)
        app.theme = "nord"
        await pilot.pause()
        assert "theme cannot be kept" in str(app.main.notice.render())


def test_a_workbench_that_breaks_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.disable", lambda: None)
    monkeypatch.setattr(Workbench, "run", lambda self: setattr(self, "_return_code", 1))
    assert start() == 1
    monkeypatch.setattr(Workbench, "run", lambda self: self.exit())
    assert start() == 0


def test_settings_that_cannot_act_are_named() -> None:
    keymap = {"undo": "D,s", "udno": "Y", "edit": "tab"}
    found = settings.doubts(Settings(theme="nrod", keymap=keymap), ["nord", "dracula"])
    assert found == [
        "theme: there is no 'nrod'; did you mean 'nord'?",
        "keymap: there is no command 'udno'; did you mean 'undo'?",
        "keymap: 'tab' is given to next panel and to edit",
        "keymap: 's' is given to stop and to undo",
    ]


def test_settings_that_act_are_not_doubted() -> None:
    assert settings.doubts(Settings(), []) == []
    swapped = {"undo": "s", "stop": "u", "run": "g,ctrl+r"}
    assert settings.doubts(Settings(theme="nord", keymap=swapped), ["nord"]) == []


async def test_doubts_of_the_settings_are_told_at_the_start(bench: Any, home: Path) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('theme = "no such theme"\n[keymap]\nundo = "s"\n')
    app = bench()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause(0.1)
        told = str(app.main.notice.render())
        assert "no such theme" in told and "'s' is given to" in told
        assert app.main.notice.has_class("-warning")
