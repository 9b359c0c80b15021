"""The page of a repair study: which tables are drawn, in which order, and what a reader is told about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crosstune.foundation.data.languages import PREFIX
from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.page import Page, Section
from crosstune.foundation.worlds import EMBEDDED
from crosstune.merging.findings.sentences import DIVERGENCE
from crosstune.studies.frame.opening import finished_cells, seeds_of
from crosstune.studies.repair import fronts, why
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.summary import forgotten
from crosstune.studies.repair.verdicts import Pick, picked, statements


def page(run: Run, settings: RepairStudySettings) -> Page:
    """What the report of a repair study says and draws.

    Args:
        run: The run, with its tables over seeds.
        settings: The study's settings.

    Returns:
        The page.
    """
    pick = picked(run, settings)
    return Page(
        title=_title(settings),
        subtitle=_subtitle(run, settings),
        statements=tuple(statements(run, settings)),
        sections=tuple(_chosen(one, settings) for one in _sections(run, settings, pick)),
    )


def _chosen(section: Section, settings: RepairStudySettings) -> Section:
    """The section; where no loss chose, its note says what did."""
    more = _BY_DIVERGENCE.get(section.id)
    if more is None or settings.repair.target == "text":
        return section
    return replace(section, note=f"{section.note} {more}")


_CHOSE = f"Rates, budgets and limits are of the {DIVERGENCE}, by which points were chosen"
_BY_DIVERGENCE = {
    "front": f"{_CHOSE}; what is drawn is the loss of the text.",
    "more-regained": f"{_CHOSE}, those of a replay fine-tune by its loss; what is drawn is the loss of the text.",
    "more-paid": f"{_CHOSE}, those of a replay fine-tune by its loss; what is drawn is the loss of the text.",
    "tasks": f"{_CHOSE} (“lose” means to diverge further); what is drawn is the loss of the text.",
    "ledger": f"“{why.LINE}” books no loss but the {DIVERGENCE}.",
    "method": f"In place of losses, the search read the {DIVERGENCE}; the rows that report tell the loss of the text.",
}


def _title(settings: RepairStudySettings) -> str:
    if settings.after is None:
        others = [task.name for task in settings.tasks if task.name != settings.learn_task]
        return (
            f"What learning {settings.learn_task} cost {' and '.join(others)}, and what comes back"
        )
    return (
        f"What {_name(settings.after)} lost against {_name(settings.before)}, and what comes back"
    )


def _name(model: str) -> str:
    return model.rstrip("/").split("/")[-1]


def _subtitle(run: Run, settings: RepairStudySettings) -> str:
    repair = settings.repair
    searched = (
        f"Coefficients per {', '.join(repair.granularity)}, chosen on at most {repair.rows} rows a task and judged on at "
        f"most {repair.reported_rows} others."
    )
    if settings.after is not None:
        between = f", {len(settings.between)} checkpoints between" if settings.between else ""
        return f"{settings.before} → {settings.after}{between}. {searched}"
    training, seeds = (
        settings.training,
        seeds_of(finished_cells(run, settings.cell_names), settings),
    )
    adapters = "" if training.lora is None else f", LoRA of rank {training.lora.rank}"
    model = "The embedded model" if settings.before == EMBEDDED else _name(settings.before)
    return (
        f"{model}{adapters}; {training.steps} steps at learning rate {training.learning_rate:g}; seeds "
        f"{', '.join(map(str, seeds))}. {searched} A seed changes the order of training rows, dropout and new adapters, "
        "and so the fine-tuned model and its repair; never the rows."
    )


def _sections(run: Run, settings: RepairStudySettings, pick: Pick | None) -> Iterator[Section]:
    if pick is None:
        yield _ends_alone()
        return
    lost = forgotten(run.table("repair_by_task"))
    sides = _sides(settings)
    yield from _fronts(run.table("repair_fronts"), sides)
    if run.has_table("repair_answers"):
        yield from _same_question(run.table("repair_answers"), pick, sides)
    yield _by_task(pick, lost, sides)
    yield from _maps(run, pick)
    yield from _accounts(run, pick, lost)
    yield from _models()
    yield _method(settings)


def _sides(settings: RepairStudySettings) -> str:
    """What rows that choose and rows that report have not in common, as far as it is known, and what intervals leave out."""
    known = [bool(task.group) or task.source.startswith(PREFIX) for task in settings.tasks]
    apart = "group" if all(known) else "row and no group" if any(known) else "row"
    units = "rows or groups" if any(known) else "rows"
    return f"Rows that choose and rows that report share no {apart}. Intervals are paired jackknife over reported {units}"


def _ends_alone() -> Section:
    return Section(
        id="tasks",
        title="Task by task",
        lead="The loss of every task at both ends.",
        view="table",
        table="repair_by_task",
    )


def _fronts(table: Table, sides: str) -> Iterator[Section]:
    yield Section(
        id="front",
        title="The front",
        lead="Each point is a model between before and after. To the left the forgotten tasks are known better, further "
        "down the learned ones. After is the point at the far right, before the one at the top left; a good repair lies in "
        "the corner at the lower left.",
        view="scatter",
        table="repair_front",
        x="old",
        y="new",
        color="method",
        trace="front",
        choose=("points",),
        begin={"points": fronts.WITHOUT_BEFORE},
        note=f"Mean loss of the forgotten and of the learned tasks, nats per token. {sides}, and over seeds where there are "
        "several. Thin lines join the points that no other of the method beats on the rows that choose.",
    )
    yield Section(
        id="room",
        title="How much room each front opens up",
        lead="The share of the room between before and after that a front dominates: 0 where nothing comes "
        "back but for a price of all that was forgotten, 1 where all of the old comes back at no cost. Trades that cost more nats of the new than "
        "all that was forgotten do not count.",
        view="bars",
        table="repair_fronts",
        y="method",
        value="value",
        note="The room ends at the loss of after: what learns the new still better, as a replay fine-tune may, gains none "
        "there, so look at the front and at the same question too. Taken from the best of several noisy points, so a little "
        "too high, alike for methods with equally many points.",
    )
    there = table.column("method")
    for other, title in (("global", "one global coefficient"), ("replay", "a replay fine-tune")):
        if other in there and len(there) > 1:
            yield Section(
                id=f"over-{other}",
                title=f"Does it beat {title}?",
                lead=f"What each front opens up more (right) or less (left) than that of {title}. An interval that holds 0 "
                "is no difference shown.",
                view="bars",
                table="repair_fronts",
                y="method",
                value=f"over_{other}",
                note="Paired: both fronts are read on the same rows."
                + (
                    " The replay fine-tune reads as many tokens as all looks of the search together."
                    * (other == "replay")
                ),
            )


def _same_question(answers: Table, pick: Pick, sides: str) -> Iterator[Section]:
    begin: dict[str, object] = {"method": pick.method, "rival": answers.column("rival")[0]}
    for name, title, words in (
        ("more_regained", "what comes back more", "regains more (right) or less (left) of the old"),
        ("more_paid", "what it costs more", "pays more (right) or less (left) of the new"),
    ):
        yield Section(
            id=name.replace("_", "-"),
            title=f"At the same question: {title}",
            lead=f"A method and a rival were asked the same. Here is what the method {words} than the rival, in nats per token.",
            view="bars",
            table="repair_answers",
            y="question",
            value=name,
            choose=("method", "rival"),
            begin=begin,
            note=f"{sides}. A replay fine-tune answers with its stop that is best on rows it did not learn.",
        )


def _by_task(pick: Pick, lost: tuple[str, ...], sides: str) -> Section:
    return Section(
        id="tasks",
        title="Task by task",
        lead="What each point of a method changes in one task against the model after: left is better, right is worse.",
        view="bars",
        table="repair_by_task",
        y="label",
        value="change",
        choose=("task", "method"),
        begin={"task": lost[0], "method": pick.method},
        note=f"{sides}. “rate 2”: one nat of the forgotten tasks is worth two of the learned ones; “lose ≤ 0.1”: every "
        "learned task may lose a tenth of a nat on the rows that choose.",
    )


def _maps(run: Run, pick: Pick) -> Iterator[Section]:
    begin: dict[str, object] = {"method": pick.method, "label": pick.label}
    several = len(set(run.table("repair_map").column("checkpoint"))) > 1
    choose = ("method", "label", *(["checkpoint"] if several else []))
    yield Section(
        id="coefficients",
        title="What was kept, and what was taken back",
        lead="The coefficient of each component of each layer: 1 keeps the whole change, 0 puts the component back to before. "
        "Compare with the two maps below.",
        view="heatmap",
        table="repair_map",
        x="component",
        y="layer",
        value="coefficient",
        choose=choose,
        begin=begin,
        note="Mean over seeds; finer pieces of a component are averaged by their share of the squared change. Layer −1 is "
        "outside the blocks. An empty cell did not change.",
    )
    yield from _finer_maps(run, pick)


def _finer_maps(run: Run, pick: Pick) -> Iterator[Section]:
    """What methods tell apart within a component, where they were searched."""
    if run.has_table("repair_map_rows"):
        yield Section(
            id="coefficient-rows",
            title="Embedding rows",
            lead="Coefficients of embedding rows by who uses their token on the rows that choose: only the learned tasks "
            "(new), only the forgotten ones (old), both, or neither.",
            view="heatmap",
            table="repair_map_rows",
            x="rows",
            y="component",
            value="coefficient",
            choose=("label",),
            begin={"label": pick.label},
        )
    if run.has_table("repair_map_heads"):
        heads = run.table("repair_map_heads").column("method")
        yield Section(
            id="coefficient-heads",
            title="Attention heads",
            lead="The coefficient of each head of each layer: 1 keeps the whole change, 0 puts the head back to before. "
            "Queries (q) and the output projection (o) by query head, keys (k) and values (v) by key-value head.",
            view="heatmap",
            table="repair_map_heads",
            x="head",
            y="layer",
            value="coefficient",
            choose=("method", "label", "component"),
            begin={
                "method": pick.method if pick.method in heads else heads[0],
                "label": pick.label,
                "component": "attn.o",
            },
            note="Mean over seeds. An empty cell did not change.",
        )
    if run.has_table("repair_map_directions"):
        yield Section(
            id="coefficient-directions",
            title="Singular directions",
            lead="Coefficients of the leading singular directions of each change, 0 the largest; −1 is what they leave. "
            "Averaged over layers by their share of the squared change.",
            view="heatmap",
            table="repair_map_directions",
            x="direction",
            y="component",
            value="coefficient",
            choose=("label",),
            begin={"label": pick.label},
        )


def _accounts(run: Run, pick: Pick, lost: tuple[str, ...]) -> Iterator[Section]:
    accounts = run.table("repair_ledger")
    begin: dict[str, object] = {"account": accounts.column("account")[0], "task": lost[0]}
    yield Section(
        id="ledger",
        title="Why these: where it was forgotten",
        lead="What the ledger books for each component: positive, its change raised the task's loss; negative, it lowered "
        "it. A repair takes back most where the forgotten task has much to win and the learned one little to lose.",
        view="heatmap",
        table="repair_ledger",
        x="component",
        y="layer",
        value="nats",
        choose=("account", "task"),
        begin=begin,
        note=f"“{why.PATH}” is the forgetting ledger of the fine-tune; “{why.LINE}” books the straight line from before to "
        "after, which is the path a global coefficient walks. Both on the rows that choose.",
    )
    if run.has_table("repair_rollback"):
        yield Section(
            id="rollback",
            title="Why these: what comes back alone",
            lead="Each component put back to before by itself: positive, that wins loss back; negative, it costs. Components "
            "interact, so a repair of all of them at once need not follow this map.",
            view="heatmap",
            table="repair_rollback",
            x="component",
            y="layer",
            value="nats",
            choose=("task",),
            begin={"task": lost[0]},
            note="On the rows that choose, each up to its first tokens where windows are used.",
        )
    yield Section(
        id="agreement",
        title="Do ledger and rollback foretell the repair?",
        lead="Rank correlation of what was taken back (1 − coefficient) with what each account says of the forgotten tasks.",
        view="table",
        table="repair_why",
        choose=("method", "label"),
        begin={"method": pick.method, "label": pick.label},
        note="The intervals treat components as independent, so they are a guide.",
    )


def _models() -> Iterator[Section]:
    yield Section(
        id="generations",
        title="In its own words",
        lead="How the models before, after and repaired go on from the beginning of reported rows, greedily.",
        view="table",
        table="repair_generations",
        note="A few rows are an illustration, not a measurement.",
    )
    yield Section(
        id="points",
        title="Every point",
        lead="All points of all methods, with how many numbers each could choose.",
        view="table",
        table="repair_front",
        where={"points": fronts.WITH_BEFORE},
    )
    yield Section(
        id="cost",
        title="What it cost",
        lead="Looks (a forward and a backward pass over the rows that choose), tokens and seconds of each method. A method "
        "begins with what coarser ones have seen, and so pays only for what is new.",
        view="table",
        table="repair_cost",
    )


def _method(settings: RepairStudySettings) -> Section:
    repair = settings.repair
    return Section(
        id="method",
        title="How it was found, and what it does not say",
        lead="θ(w) = θ_before + w ∘ (θ_after − θ_before), one coefficient for what a granularity ties together. Losses and "
        "exact slopes ∂L/∂w = ⟨g, Δθ⟩ of the rows that choose lead a bounded quasi-Newton search; a pull towards w = 1 is chosen "
        "by folds of those rows. The rows that report are scored once, when every point is fixed. Intervals therefore speak "
        "of other rows of the same kind for these models and these choices; seeds, where there are several, add how the "
        "fine-tune and its repair vary. None speaks of another base model, another data set or another use of the model: a loss "
        "that came back is not yet an ability that came back. Fronts of methods are compared without correction for how many "
        "are compared.",
        view="text",
        note=f"Range of coefficients [{repair.low:g}, {repair.high:g}]; at most {repair.evaluations} looks a point; "
        f"{repair.folds} folds; rates {', '.join(f'{rate:g}' for rate in repair.exchange_rates)}; target: {repair.target}.",
    )
