"""placeholder"""


def write(run, settings):
    from crosstune.foundation.records.page import Page
    from crosstune.foundation.storage import write_json

    write_json(run.folder / "page.json", Page("t", "s").to_json())
