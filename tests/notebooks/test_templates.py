"""The guide's table of TRL's templates is what the doctor says today."""

import templates


def test_the_table_is_made_of_what_the_doctor_finds():
    assert templates.page() == templates.PAGE.read_text(encoding="utf-8")


def test_no_template_of_trl_is_left_out_and_each_fault_is_named():
    found = templates.reports()
    names = {path.stem for path in templates.FOLDER.glob("*.jinja")}
    assert {report.name for report, _ in found} == {name for name in names if not name.endswith(templates.SUFFIX)}
    assert sum(variant for _, variant in found) == sum(name.endswith(templates.SUFFIX) for name in names)
    assert all(report.ok == (templates.row(report, variant)[-1] == "—") for report, variant in found)
