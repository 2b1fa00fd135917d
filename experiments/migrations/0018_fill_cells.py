"""The cells of the jobs that were queued before there were cells."""

from django.db import migrations

from experiments.metrics import values_of
from experiments.models.cell import Value, stored_name, values_of_keys

AT_ONCE = 200


def fill(apps, schema_editor):
    Job, Column, Cell = (apps.get_model("experiments", name) for name in ("Job", "Column", "Cell"))
    columns = {}
    jobs = Job.objects.order_by("pk").values_list("pk", "project_id", "keys", "summary")
    for pk, project, keys, summary in jobs.iterator(chunk_size=AT_ONCE):
        found = {("key", name): value for name, value in values_of_keys(keys).items()}
        for name, numbers in values_of(summary).items():
            found[("metric", stored_name(name))] = Value(*numbers)
        Cell.objects.bulk_create(
            Cell(
                job_id=pk, column=_column(Column, columns, project, kind, name, value.text),
                number=value.number, low=value.low, high=value.high, text=value.text,
                folded=value.text.casefold()[:200],
            )
            for (kind, name), value in found.items()
        )


def _column(Column, columns, project, kind, name, text):
    place = (project, kind, name)
    if place not in columns:
        columns[place], _made = Column.objects.get_or_create(
            project_id=project, kind=kind, name=name, defaults={"first": text}
        )
    column = columns[place]
    if kind == "key" and column.first != text and not column.varies:
        column.varies = True
        Column.objects.filter(pk=column.pk).update(varies=True)
    return column


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0017_run_table'),
    ]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop, elidable=True)]
