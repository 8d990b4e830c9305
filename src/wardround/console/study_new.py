"""A new study: what it learns, its text to change, what it would do, and then it is started."""

from __future__ import annotations

from typing import Protocol

from wardround.console import parts
from wardround.console.frame import page
from wardround.console.looking import Facts, Looking, OnAct, Reply, Screen
from wardround.console.model import Overview
from wardround.console.study_model import StartingStudy
from wardround.console.words import safe
from wardround.errors import WardroundError
from wardround.trust.roles import Act

PATH = "/new-study"
NAME = "my-study"


class StartingDesk(Protocol):
    """What the screen asks of the hub. Every act asks for the person's role again, and stands in the audit log."""

    def tasks(self) -> tuple[tuple[str, str], ...]:
        """What a study can learn: name and title."""

    def draft(self, task: str, name: str) -> str:
        """The text of a study to start from. Raises WardroundError: there is no such task."""

    def look(self, who: str, text: str) -> StartingStudy:
        """What it would do. Raises NotAllowed, WardroundError."""

    def start(self, who: str, text: str) -> str:
        """Ask the hub to run it; its name. Raises NotAllowed, WardroundError."""


def screens(desk: StartingDesk) -> tuple[Screen, ...]:
    """The one page."""

    def live(looking: Looking) -> dict[str, str]:
        return sections(desk, looking)

    return (Screen(PATH, "New study", frame, live, _acts(desk)),)


def frame(view: Overview, looking: Looking) -> str:
    """The page around its sections."""
    main = (
        '<section class="panel" aria-label="What it learns" id="task"></section>'
        '<section class="panel below" aria-label="The study" id="text"></section>'
    )
    return page(view, who=looking.name, role=looking.role, here="/studies", main=main)


def sections(desk: StartingDesk, looking: Looking) -> dict[str, str]:
    """Every part of the page by the id of its element. The text changes with the address alone: what is typed stays."""
    if not looking.may(Act.STUDIES):
        refused = parts.no_permission(looking, Act.STUDIES, "You cannot start a study.")
        return {"answer": parts.answer("A study is started by an operator."), "task": refused, "text": ""}
    task, name = looking.params.get("task", ""), looking.params.get("name", "") or NAME
    told = "Choose what it learns, change its text, and read what it would do before it starts."
    answer = parts.answer("A study is one model, trained by edges that keep their data.", told)
    return {"answer": answer, "task": _task(desk, task, name), "text": _text(desk, task, name)}


def _task(desk: StartingDesk, task: str, name: str) -> str:
    options = "".join(
        f'<option value="{safe(value)}"{" selected" if value == task else ""}>{safe(title)}</option>'
        for value, title in desk.tasks()
    )
    return (
        f"{parts.head('What it learns', 'its text is written anew when you choose again')}"
        f'<form class="write row" method="get" action="{PATH}"><label class="field">What an example is'
        f'<select name="task">{options}</select></label><label class="field">Name: a-z, 0-9 and -<input name="name" '
        f'value="{safe(name)}" required maxlength="40" autocomplete="off" autocapitalize="off" spellcheck="false"></label>'
        '<div class="acts"><button class="btn">Write it</button></div></form>'
    )


def _text(desk: StartingDesk, task: str, name: str) -> str:
    head = parts.head("The study", "every key is explained in docs/settings.md")
    if not task:
        return head + parts.empty("No text yet", "Choose above; or at the hub's machine:", "wardround study tasks")
    try:
        draft = desk.draft(task, name)
    except WardroundError as error:
        return head + parts.error(f"{error}.", error.remedy)
    return (
        f'{head}<div class="write" data-form><label class="field">Text<textarea name="toml" required spellcheck="false" '
        f'autocomplete="off" autocapitalize="off">\n{safe(draft)}</textarea></label><div class="acts">'
        '<button class="btn primary" data-act="ask-start-study">Check it</button></div></div>'
    )


def start_dialog(study: StartingStudy, text: str) -> str:
    """Before it starts: what it would do."""
    return parts.confirm(
        title=f"Start {study.name}?",
        detail="The text holds. The hub begins within a second.",
        consequences=study.told,
        keep="Change it first",
        do=f"Start {study.name}",
        act="start-study",
        fields=f'<textarea name="toml" hidden>\n{safe(text)}</textarea>',
    )


def _acts(desk: StartingDesk) -> dict[str, OnAct]:
    def ask(facts: Facts, looking: Looking) -> Reply:
        text = facts.get("toml", "")
        return Reply(dialog=start_dialog(desk.look(looking.name, text), text))

    def start(facts: Facts, looking: Looking) -> Reply:
        return Reply(go=f"/studies/{desk.start(looking.name, facts.get('toml', ''))}")

    return {"ask-start-study": ask, "start-study": start}
