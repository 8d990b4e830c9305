"""Personal models in a study as text: what each edge's own model is worth beside what it sends, as the edges measured it."""

from __future__ import annotations

from wardround.console import parts
from wardround.console.charts import Line, line_chart
from wardround.console.study_model import Personal
from wardround.console.words import count, safe

NAMED, SIZE = 12, (440, 190)
HOW = {
    "ditto": "Ditto: each edge also trains a model of its own, held near the shared one",
    "fine-tuning": "fine-tuning: each edge trains the shared model a little further on its own examples, every round anew",
}


def personal(found: Personal | None) -> str:
    """The panel; empty where the study has no personal models."""
    if found is None:
        return ""
    head = parts.head("Personal models", "accuracy on the examples that each edge trains on")
    told = f"{HOW.get(found.how, found.how)}. That model stays at its edge; the hub has these numbers alone."
    why = f'<p class="s13 mid">{safe(told)}</p>'
    if not found.points:
        words = "The first committed round says how they do; where updates are masked or noisy the hub has no numbers of it."
        return f'{head}<div class="body">{why}</div>' + parts.empty("Nothing is known yet", words)
    number, sent, own = found.points[-1]
    chart = line_chart(
        label=f"accuracy by round: personal models {own:.3f}, what edges sent {sent:.3f} in round {number:.0f}",
        lines=[
            Line("personal", tuple((n, value) for n, _, value in found.points), label=f"personal {own:.3f}"),
            Line("sent", tuple((n, value) for n, value, _ in found.points), label=f"sent {sent:.3f}", dashed=True),
        ],
        x_name="round",
        size=SIZE,
        y_words=lambda y: f"{y:.2f}",
    )
    return f'{head}<div class="body">{chart}{why}{_edges(found)}</div>'


def _edges(found: Personal) -> str:
    """Who gains least first: for them a model of their own is no help, or they have too few examples."""
    if not found.by_edge:
        return ""
    rows = "".join(map(_row, found.by_edge[:NAMED]))
    more = len(found.by_edge) - NAMED
    rest = f'<p class="dim s12">and {count(more, "edge")} that gain more</p>' if more > 0 else ""
    sent = '<th class="r" title="the shared model, after the training of the round there">Sent</th>'
    heads = f'<th>Edge</th>{sent}<th class="r">Its own</th><th class="r">Gain</th>'
    return f'<div class="tw"><table class="tight"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{rest}'


def _row(of: tuple[str, float, float]) -> str:
    edge, sent, own = of
    return (
        f'<tr data-key="{safe(edge)}"><td class="m">{safe(edge)}</td><td class="r">{sent:.3f}</td>'
        f'<td class="r"><b>{own:.3f}</b></td><td class="r">{own - sent:+.3f}</td></tr>'
    )
