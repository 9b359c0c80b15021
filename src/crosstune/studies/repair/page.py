"""The page of a repair study: which tables are drawn, in which order, and what is said about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from crosstune.foundation.data.languages import PREFIX
from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.page import Page, Section, drawn
from crosstune.foundation.worlds import EMBEDDED
from crosstune.merging.findings.sentences import DIVERGENCE
from crosstune.merging.points import Point
from crosstune.studies.frame.opening import finished_cells, seeds_of
from crosstune.studies.repair import fronts, why
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.verdicts import picked, statements

Begin = Mapping[str, object]
"""Where selectors stand at first."""
_BY_DIVERGENCE = (
    f"Points were chosen by the {DIVERGENCE}, those of a replay fine-tune by loss: rates, budgets, limits and what "
    f"“{why.LINE}” accounts for are of what chose. Everything else is the loss of the text."
)
_OF_WHAT_CHOSE = {"front", "more-regained", "tasks", "ledger", "method"}


def page(run: Run, settings: RepairStudySettings) -> Page:
    """What the report of a repair study says and draws."""
    pick = picked(run, settings)
    sections = _sections(run, settings, pick)
    if settings.repair.target == "checkpoints":
        sections = (
            replace(one, note=f"{one.note} {_BY_DIVERGENCE}") if one.id in _OF_WHAT_CHOSE else one
            for one in sections
        )
    answer, *others = statements(run, settings)
    drawn_once = tuple(sections)
    return Page(
        title=_title(settings),
        subtitle=_subtitle(run, settings),
        answer=answer,
        pictures=() if pick is None else tuple(_pictures(drawn_once, pick)),
        statements=tuple(others),
        sections=drawn_once,
    )


def _pictures(sections: Sequence[Section], pick: Point) -> Iterator[Section]:
    """The front and what was kept of each component, as they begin."""
    own = {section.id: section for section in sections}
    near = {"points": fronts.NEAR_AFTER}
    lead = "Left is more of the old, down more of the new; after is at the far right. Global is the line to beat."
    yield replace(own["front"], id="glance", lead=lead, choose=(), where=near, note="")
    where = {"method": pick.method, "label": pick.label, "checkpoint": 1}
    lead = "1 keeps the whole change of a component, 0 takes it back."
    yield replace(own["coefficients"], id="kept", lead=lead, choose=(), where=where, note="")


def _title(settings: RepairStudySettings) -> str:
    if settings.after is not None:
        models = (str(settings.after), str(settings.before))
        parts = 1 if _name(models[0]) != _name(models[1]) else 2
        after, before = (_name(model, parts) for model in models)
        lost = f"{after} lost against {before}"
    else:
        others = [name for name in settings.task_names if name != settings.learn_task]
        lost = f"learning {settings.learn_task} cost {' and '.join(others)}"
    return f"What {lost}, and what comes back"


def _name(model: str, parts: int = 1) -> str:
    return "/".join(model.rstrip("/").split("/")[-parts:])


def _subtitle(run: Run, settings: RepairStudySettings) -> str:
    repair, training = settings.repair, settings.training
    searched = (
        f"Coefficients per {', '.join(repair.granularity)}, chosen on at most {repair.rows} rows a task and judged on at "
        f"most {repair.reported_rows} others."
    )
    if settings.after is not None:
        between = f", {len(settings.between)} checkpoints between" if settings.between else ""
        return f"{settings.before} → {settings.after}{between}. {searched}"
    seeds = seeds_of(finished_cells(run, settings.cell_names), settings)
    adapters = "" if training.lora is None else f", LoRA of rank {training.lora.rank}"
    model = "The embedded model" if settings.before == EMBEDDED else _name(settings.before)
    return (
        f"{model}{adapters}; {training.steps} steps at learning rate {training.learning_rate:g}; seeds "
        f"{', '.join(map(str, seeds))}. {searched} A seed changes the order of training rows, dropout and new adapters, "
        "and so the fine-tuned model and its repair; never the rows."
    )


def _sections(run: Run, settings: RepairStudySettings, pick: Point | None) -> Iterator[Section]:
    if pick is None:
        lead = "The loss of every task at both ends."
        yield Section("tasks", "Task by task", lead, "table", "repair_by_task")
        return
    lost: Begin = {"task": fronts.forgotten(run.table("repair_by_task"))[0]}
    sides = _sides(settings)
    yield _front(sides)
    if settings.repair.exchange_rates:  # single points are no front
        yield from _areas(run.table("repair_fronts").column("method"))
    if run.has_table("repair_answers"):
        yield from _same_price(run.table("repair_answers"), pick, sides)
    yield Section(
        "tasks",
        "Task by task",
        "What each point of a method changes in one task against the model after: left is better, right is worse.",
        **drawn(
            "bars", "repair_by_task", {**lost, "method": pick.method}, y="label", value="change"
        ),
        note=f"{sides}. “rate 2”: one nat of the forgotten tasks is worth two of the learned ones; “lose ≤ 0.1”: every "
        "learned task may lose a tenth of a nat on the validation rows.",
    )
    yield from _maps(run, pick)
    yield from _accounts(run, pick, lost)
    yield from _models()
    yield _method(settings)


def _heatmap(table: str, x: str, y: str, value: str, begin: Begin) -> dict[str, Any]:
    return drawn("heatmap", table, begin, x=x, y=y, value=value)


def _sides(settings: RepairStudySettings) -> str:
    """What validation and test rows have not in common, as far as it is known, and what intervals leave out."""
    known = [bool(task.group) or task.source.startswith(PREFIX) for task in settings.tasks]
    apart = "group" if all(known) else "row and no group" if any(known) else "row"
    units = "rows or groups" if any(known) else "rows"
    return f"Validation rows and test rows share no {apart}. Intervals are paired jackknife over test {units}"


def _front(sides: str) -> Section:
    begin: Begin = {"points": fronts.NEAR_AFTER}
    return Section(
        "front",
        "The front",
        "Each point is a model between before and after. To the left the forgotten tasks are known better, further down the "
        "learned ones. After is the point at the far right; a good repair lies in the corner at the lower left, and below the line "
        "of one global coefficient (method global).",
        **drawn("scatter", "repair_front", begin, x="old", y="new", color="method", trace="front"),
        note=f"Mean loss of the forgotten and of the learned tasks, nats per token. {sides}, and over seeds where there are "
        "several. Thin lines join the points that no other of the method beats on the validation rows.",
    )


def _areas(methods: Sequence[str]) -> Iterator[Section]:
    yield Section(
        "room",
        "How much of the area each front dominates",
        "The share of the area between before and after that a front dominates (hypervolume): 0 where nothing comes back but for a price "
        "of all that was forgotten, 1 where all of the old comes back at no cost. Trade-offs that cost more nats of the new "
        "than all that was forgotten do not count.",
        **drawn("bars", "repair_fronts", y="method", value="value"),
        note="The area ends at the loss of after: what learns the new still better, as a replay fine-tune may, gains none "
        "there, so look at the front and at the same price too. Taken from the best of several noisy points, so a little "
        "too high, alike for methods with equally many points.",
    )
    paired = "Paired: both fronts are read on the same rows."
    budget = " The replay fine-tune reads as many tokens as all evaluations of the search together."
    for other, rival, note in (
        ("global", "one global coefficient", paired),
        ("replay", "a replay fine-tune", paired + budget),
    ):
        if other in methods and len(methods) > 1:
            lead = f"What each front dominates more (right) or less (left) than that of {rival}"
            yield Section(
                f"over-{other}",
                f"Does it beat {rival}?",
                f"{lead}. An interval that holds 0 is no difference shown.",
                **drawn("bars", "repair_fronts", y="method", value=f"over_{other}"),
                note=note,
            )


def _same_price(answers: Table, pick: Point, sides: str) -> Iterator[Section]:
    begin: Begin = {"method": pick.method, "rival": answers.column("rival")[0]}
    yield Section(
        "more-regained",
        "At the same price: what comes back more",
        "For what its point pays on the test rows, the method regains more (right) or less (left) of the old than the rival can, in "
        "nats per token. An interval that holds 0 is no advantage shown.",
        **drawn("bars", "repair_answers", begin, y="question", value="more_regained"),
        note=f"{sides}. The rival is a path, read where it pays the same: of one global coefficient the line from before to after in "
        "steps of 0.05, of a replay fine-tune its stops; where even its cheapest model costs more, that one.",
    )


def _maps(run: Run, pick: Point) -> Iterator[Section]:
    """The coefficients, and what methods tell apart within a component where they were searched."""
    label: Begin = {"label": pick.label}
    begin: Begin = {"method": pick.method, **label}
    found = _heatmap("repair_map", "component", "layer", "coefficient", begin)
    if len(set(run.table("repair_map").column("checkpoint"))) > 1:
        found["choose"] = (*found["choose"], "checkpoint")
    yield Section(
        "coefficients",
        "What was kept, and what was taken back",
        "The coefficient of each component of each layer: 1 keeps the whole change, 0 puts the component back to before. "
        "Compare with the two maps below.",
        **found,
        note="Mean over seeds; finer pieces of a component are averaged by their share of the squared change. Layer −1 is "
        "outside the blocks. An empty cell did not change.",
    )
    if run.has_table("repair_map_rows"):
        yield Section(
            "coefficient-rows",
            "Embedding rows",
            "The same by who uses a row's token on the validation rows: only the learned tasks (new), only the forgotten "
            "ones (old), both, or neither.",
            **_heatmap("repair_map_rows", "rows", "component", "coefficient", label),
        )
    if run.has_table("repair_map_heads"):
        methods = run.table("repair_map_heads").column("method")
        method = pick.method if pick.method in methods else methods[0]
        begin = {"method": method, **label, "component": "attn.o"}
        yield Section(
            "coefficient-heads",
            "Attention heads",
            "The same by head: queries (q) and the output projection (o) by query head, keys (k) and values (v) by key-value "
            "head.",
            **_heatmap("repair_map_heads", "head", "layer", "coefficient", begin),
            note="Mean over seeds. An empty cell did not change.",
        )
    if run.has_table("repair_map_directions"):
        yield Section(
            "coefficient-directions",
            "Singular directions",
            "The same by leading singular direction of each change, 0 the largest; −1 is what they leave. Averaged over "
            "layers by their share of the squared change.",
            **_heatmap("repair_map_directions", "direction", "component", "coefficient", label),
        )


def _accounts(run: Run, pick: Point, lost: Begin) -> Iterator[Section]:
    begin: Begin = {"account": run.table("repair_ledger").column("account")[0], **lost}
    yield Section(
        "ledger",
        "Why these: where it was forgotten",
        "The contribution of each component to the change of a task's loss: positive, its change raised the loss; negative, "
        "it lowered it. A repair takes back most where the forgotten task has much to win and the learned one little to lose.",
        **_heatmap("repair_ledger", "component", "layer", "nats", begin),
        note=f"“{why.PATH}” is the forgetting ledger of the fine-tune; “{why.LINE}” is that of the straight line from before "
        "to after, which is the path a global coefficient walks. Both on the validation rows.",
    )
    if run.has_table("repair_rollback"):
        yield Section(
            "rollback",
            "Why these: what comes back alone",
            "Each component put back to before by itself: positive, that wins loss back; negative, it costs. Components "
            "interact, so a repair of all of them at once need not follow this map.",
            **_heatmap("repair_rollback", "component", "layer", "nats", lost),
            note="On the validation rows, each up to its first tokens where windows are used.",
        )
    yield Section(
        "agreement",
        "Do ledger and rollback predict the repair?",
        "Rank correlation of what was taken back (1 − coefficient) with what each account says of the forgotten tasks.",
        **drawn("table", "repair_why", {"method": pick.method, "label": pick.label}),
        note="The intervals treat components as independent, so they are a guide.",
        aside=True,
    )


def _models() -> Iterator[Section]:
    lead = (
        "How the models before, after and repaired go on from the beginning of test rows, greedily."
    )
    note = "A few rows are an illustration, not a measurement."
    spoken = drawn("table", "repair_generations")
    yield Section("generations", "In its own words", lead, **spoken, note=note)
    lead = "All points of all methods, with how many numbers each could choose."
    every = drawn("table", "repair_front", where={"points": fronts.EVERY})
    yield Section("points", "Every point", lead, **every, aside=True)
    lead = (
        "Evaluations of loss and gradient on the validation rows (column `looks`), tokens and seconds of each method. A method begins "
        "with what the straight line and coarser ones have seen, and so pays only for what is new."
    )
    yield Section("cost", "What it cost", lead, "table", "repair_cost", aside=True)


def _method(settings: RepairStudySettings) -> Section:
    repair = settings.repair
    return Section(
        "method",
        "How it was found, and what it does not say",
        "θ(w) = θ_before + w ∘ (θ_after − θ_before), one coefficient for what a granularity ties together. Losses and exact "
        "slopes ∂L/∂w = ⟨g, Δθ⟩ of the validation rows lead a bounded quasi-Newton search; a pull towards w = 1 is chosen by "
        "folds of those rows. The test rows are scored once, when every point is fixed. Intervals therefore speak of other "
        "rows of the same kind for these models and these choices; seeds, where there are several, add how the fine-tune and "
        "its repair vary. None speaks of another base model, another data set or another use of the model: a loss that came "
        "back is not yet an ability that came back. Fronts of methods are compared without correction for how many are "
        "compared.",
        "text",
        note=f"Range of coefficients [{repair.low:g}, {repair.high:g}]; at most {repair.evaluations} evaluations a point; "
        f"{repair.folds} folds; rates {', '.join(f'{rate:g}' for rate in repair.exchange_rates) or 'none'}; target: {repair.target}.",
    )
