"""Three API skills, made from templates, arrive one after another and get an expert each: `python examples/api_skills.py [FOLDER]`."""

import random
import sys

from crosstune import Task, learn_skills
from crosstune.experts import PolicySettings, SkillsSettings
from crosstune.foundation.data import Row
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.training import TrainingSettings
from crosstune.foundation.worlds import embedded_world

TEMPLATES = {
    "requests": (
        "reply = requests.{verb}(url + '/{noun}')\nreply.raise_for_status()\nprint(reply.json()['{key}'])",
        "with requests.Session() as session:\n    session.{verb}(f'{{url}}/{noun}', timeout={number})",
    ),
    "stripe": (
        "stripe.Charge.create(amount={number}00, currency='eur', metadata={{'{key}': '{noun}'}})",
        "customer = stripe.Customer.create(email='{noun}@shop.eu')\nstripe.Invoice.create(customer=customer.{key})",
    ),
    "flask": (
        "@app.route('/{noun}/<int:{key}>')\ndef show_{noun}({key}):\n    return render('{noun}.html', {key}={key})",
        "@app.{verb}('/{noun}')\ndef add():\n    return jsonify({key}={number}), 201",
    ),
}
WORDS = {
    "verb": ("get", "post", "put", "delete"),
    "noun": ("user", "order", "invoice", "page", "token", "report"),
    "key": ("id", "name", "total", "state"),
    "number": tuple(map(str, range(2, 30))),
}


def skill(name: str, rows: int = 160) -> Task:
    """Rows of code of one API; every fifth is held out."""
    draw = random.Random(name)
    texts: dict[str, None] = {}
    while len(texts) < rows:
        words = {field: draw.choice(choices) for field, choices in WORDS.items()}
        # Two calls a row: one alone says little.
        calls = (draw.choice(TEMPLATES[name]).format(**words) for _ in range(2))
        texts["\n".join(calls)] = None
    made = [Row(f"{name} {at}", text) for at, text in enumerate(texts)]
    held_out = made[::5]
    return Task(name, tuple(row for row in made if row not in held_out), tuple(held_out))


def main(folder: str, steps: int = 60) -> None:
    """Learn them, and say what became of each."""
    world = embedded_world().folder
    training = TrainingSettings(learning_rate=3e-3, steps=steps, batch_rows=8, length=96)
    settings = SkillsSettings(training=training, policy=PolicySettings(max_experts=4))
    stream = [skill(name) for name in TEMPLATES]
    model, tokenizer = load_model(world), load_tokenizer(world)
    found = learn_skills(model, tokenizer, stream, settings, output_folder=folder)
    for one in found.skills:
        won, low, high = one.gain
        born = "born" if one.born else f"taken for {one.expert}"
        print(f"{one.skill:<9} {born}: wins {won:.2f} [{low:.2f}, {high:.2f}] nats per token")
    for name, lost in found.forgetting().items():
        print(f"{name:<9} forgotten since: {float(lost['whole'].value):+.3f} nats per token")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/api-skills")
