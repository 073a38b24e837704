"""The five notebooks: their saved form (always checked), and whether they run and give what they promise (slow)."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from upkeep import ON_COLAB

from pushback_lib.core.common import repository

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ("01_meet_the_friction", "02_make_the_data", "03_fine_tune", "04_measure", "05_ship")
SOLUTION = re.compile(r"### Solution\n.*?```python\n(.*?)```", re.DOTALL)

each = pytest.mark.parametrize("name", NAMES)


def load(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def cells(name: str, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in load(name).cells if cell.cell_type == kind]


def is_exercise(cell: nbformat.NotebookNode) -> bool:
    return "exercise" in cell.metadata.get("tags", [])


def plain_python(source: str) -> str:
    """The source with lines for the shell and for IPython replaced by `pass`."""
    return re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.MULTILINE)


def outputs(name: str) -> list[nbformat.NotebookNode]:
    return [output for cell in cells(name, "code") for output in cell.outputs]


def shown_text(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text
    return "\n".join(text for mime, text in output.get("data", {}).items() if mime.startswith("text/"))


def test_there_are_exactly_the_five_notebooks():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@each
def test_the_file_is_valid_and_holds_no_widget_state(name):
    notebook = load(name)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any("widget" in mime for output in outputs(name) for mime in output.get("data", {}))


@each
def test_code_cells_are_short_and_define_nothing_outside_exercises(name):
    for cell in cells(name, "code"):
        if is_exercise(cell):
            continue
        assert len(cell.source.splitlines()) <= 12, cell.source
        tree = ast.walk(ast.parse(plain_python(cell.source)))
        found = [type(node).__name__ for node in tree
                 if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))]  # fmt: skip
        assert not found, cell.source


@each
def test_nine_in_ten_code_cells_have_ten_lines_or_fewer(name):
    lengths = [len(cell.source.splitlines()) for cell in cells(name, "code")]
    assert sum(length <= 10 for length in lengths) >= 0.9 * len(lengths), lengths


@each
def test_the_parts_stand_in_order(name):
    texts = [cell.source for cell in cells(name, "markdown")]
    head, whole = texts[0], "\n".join(texts)
    number = int(name[:2])
    assert head.startswith(f"# {number}. ")
    assert f"/github/{repository().removeprefix('https://github.com/')}/blob/main/notebooks/{name}.ipynb)" in head
    assert [row for row in ("Minutes", "Memory", "Inputs", "Outputs") if f"\n| {row} | " not in head] == []
    assert texts[1].startswith("## Set-up")
    assert texts[-1].startswith("## What you built")
    sections = [int(n) for n in re.findall(r"^## (\d+)\. ", whole, flags=re.MULTILINE)]
    assert sections == list(range(1, len(sections) + 1))


@each
def test_exercises_have_minutes_a_folded_hint_and_a_folded_solution(name):
    texts = [cell.source for cell in cells(name, "markdown")]
    asked = [text for text in texts if text.startswith("## Exercise: ")]
    solved = [text for text in texts if text.startswith("### Solution")]
    assert 1 <= len(asked) <= 2
    assert len(asked) == len(solved) == sum(is_exercise(cell) for cell in cells(name, "code"))
    for text in asked:
        assert re.search(r"\(\d+ minutes\)$", text.splitlines()[0]), text
        assert "<details><summary>Hint</summary>" in text
    for text in solved:
        assert "<details><summary>" in text
        assert "check_" in SOLUTION.findall(text)[0]


@each
def test_links_between_notebooks_lead_somewhere(name):
    whole = "\n".join(cell.source for cell in cells(name, "markdown"))
    links = re.findall(r"\]\(([^):]+\.ipynb)\)", whole)
    assert links
    assert [link for link in links if not (FOLDER / link).is_file()] == []


@each
def test_the_set_up_cell_never_reinstalls_what_colab_brings(name):
    setup = cells(name, "code")[0].source
    assert 'if "google.colab" in sys.modules' in setup
    (installed,) = re.findall(r"!pip install -q -c constraints-colab.txt ([\w ]+)", setup)
    wanted = {"gguf", "xllamacpp", "ollama", "cyllama"} if name == "05_ship" else set()
    assert set(installed.split()) == {"trl", "bitsandbytes", "transformers", "datasketch"} | wanted <= ON_COLAB
    assert setup.count("pip install") == 2
    assert "--no-deps -e ." in setup


@each
def test_every_code_cell_was_run_and_the_saved_outputs_are_clean(name):
    for cell in cells(name, "code"):
        assert cell.execution_count, f"not run: {cell.source}"
        assert cell.outputs, f"shows nothing: {cell.source}"
    for output in outputs(name):
        assert output.output_type != "error", output
        assert output.get("name") != "stderr", output
        text = shown_text(output)
        assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp|Users|content)/|[A-Z]:\\\\", text), text
        assert " at 0x" not in text, text


@each
def test_every_figure_has_alternative_text(name):
    for output in outputs(name):
        if "image/png" in output.get("data", {}):
            assert re.search(r'alt="[^"]{30,}"', shown_text(output)), output.data["text/plain"]


ONLY = re.compile(r'<div class="only ((?:for-(?:tiny|english|larger) ?)+)">\n\n(.*?)\n\n</div>', re.DOTALL)


@each
def test_a_paragraph_for_some_models_names_one_of_them_and_stands_whole(name):
    """`setup` hides by class what is for other models; where nothing is hidden, on GitHub and Colab, the words have to do."""
    for cell in cells(name, "markdown"):
        found = ONLY.findall(cell.source)
        assert len(found) == cell.source.count("<div") == cell.source.count("</div>"), cell.source
        assert [text for _, text in found if not re.search("`(tiny|english)`", text[:60])] == []


@each
def test_texts_are_plain(name):
    for cell in load(name).cells:
        assert not re.search("[\U0001f300-\U0001faff\u2600-\u27bf]", cell.source), cell.source
        assert cell.cell_type == "code" or not re.search(r"\{[A-Z]+\d*[a-z]?\}", cell.source), cell.source
        assert not re.search(r"print\(.*[=*#-]{5,}", cell.source), cell.source


# What each notebook has to leave in its kernel, beyond having run: checked in a cell added at its end.
PROMISES = {
    "01_meet_the_friction": """
        assert found["baseline"] == ["comply"] * 3, found
        assert found["friction"] == ["disagree", "clarify", "refuse"], found
        assert all(turn.of("friction").end == "stop" for turn in heard)
        assert len(chat.turns) == 4 and not chat.busy and not blind.turns
        assert sum(row.right for row in rows if row.voice == "friction") >= 14
        assert sum(row.behaviour == "comply" for row in rows if row.voice == "baseline") == 16
        assert all(same)
        assert len(Path("runs/nb/transcripts.jsonl").read_text().splitlines()) == 32
    """,
    "02_make_the_data": """
        from collections import Counter
        from pathlib import Path
        assert record.behaviour == "disagree" and len(record.thoughts) == 6
        assert micro.num_rows == 60
        assert Counter(r.behaviour for r in ten) == dict.fromkeys(("disagree", "clarify", "doubt", "refuse", "comply"), 2)
        red = {f.name for f in findings if not f.ok}  # of version 1; `tests/data/test_lesson.py` names them all
        assert len(findings) == 38 and {"look within pairs", "request gives friction away", "no debate"} <= red, red
        assert right.mean() > 0.8 and probe.within_pairs([(a.asked, b.asked) for a, b in pairs], "friction").share < 0.6
        assert Path("runs/nb/broken.jsonl").is_file()
        assert {f.name for f in spoilt_findings if not f.ok} == red | {"personal data"}
        assert named >= {mail.id, paste.id, rest[-1].id}, named
        assert held == [f.ok for f in findings]
        assert len(Path("runs/nb/messages.jsonl").read_text(encoding="utf-8").splitlines()) == len(clean["train"])
        assert again == records and len(again) == 900
        assert 0.5 <= sum(r.behaviour == "comply" for r in records) / 900 <= 0.6
    """,
    "03_fine_tune": """
        learned = tokenizer.decode([label for label in labels if label != -100])
        assert learned.startswith("Problem Framer:") and learned.endswith(tokenizer.eos_token), learned
        assert "Synthesizer:" not in tokenizer.apply_chat_template(messages, tokenize=False)
        assert "Synthesizer:" in text
        assert log[-1][1] < 0.5 * log[0][1], log
        assert len(log) > 20 and (adapter / "adapter_model.safetensors").is_file()
        assert [len(replies) for replies in seen.replies.values()] == [3] * 4 and min(seen.replies) == 0
        assert [reply.answer for reply in seen.replies[0]] == [said["baseline"].answer for said in heard]
        assert all("Synthesizer:" in said["friction"].thought for said in heard)
        assert all("Synthesizer:" not in said["baseline"].thought for said in heard)
    """,
    "04_measure": """
        assert measured["friction"].low > measured["baseline"].high
        assert measured["friction"].share >= 0.9 and measured["over-friction"].share <= 0.05, measured
        assert sum(row.right for row in lazy) < len(lazy) / 2
        assert sum(naive) != sum(really)
        assert len(written) == len(marks) == 408
        hits = [(r.behaviour, r.behaviour == name) for r, name in zip(written, found, strict=True)]
        assert sum(hit for wants, hit in hits if wants == "disagree") < sum(wants == "disagree" for wants, _ in hits) / 4
        assert figures.compared["prompts that call for friction"].p < 1e-20
        assert dial["recommended"] in [line["scale"] for line in tested]
        assert len(thinking) == 8 and len(over) == 8 and len(sorry) == sum(m.apology for m in marks) > 0
        assert Path("runs/nb/report.html").stat().st_size > 50_000
    """,
    "05_ship": """
        assert sum(left == right for left, right in replies) >= len(replies) - 1
        assert not list(merged.glob("adapter*"))
        assert change.norm() > 20 * sizes["16-bit rounding"].norm()
        assert sizes["NF4 rounding"].norm() > 20 * sizes["16-bit rounding"].norm()
        assert all(same) and len(same) == 905 and 0 < len(differ) < 20
        assert rendered == prompts and all(equal) and len(equal) == 18
        assert [tuple(row[1:]) for row in rows] == [(len(tokenizer.chat_template), True, True), (rows[1][1], False, True)]
        assert kinds == ["F32", "Q8_0", "Q4_K_M"] and [line.kind for line in table.lines] == kinds
        assert all(line.rates["friction", "friction"].share >= 0.85 for line in table.lines)
        assert all(line.rates["friction", "baseline"].share <= 0.1 for line in table.lines)
        assert table.lines[1].divergence.mean < table.lines[2].divergence.mean < 0.01
        assert list(rates) == ["F32", "BF16", "F16", "Q8_0", "Q5_K_M", "Q4_K_M"]
        assert 0 <= rates["F32"]["friction"].hits - rates["Q4_K_M"]["friction"].hits <= 3 and rates["F32"]["friction"].n == 160
        assert "<think>" in made.template and (ship / "Modelfile").read_text(encoding="utf-8") == made.text
        assert len(figures) == 2 and "### The GGUF files" in card and "## Licence" in card_text
        assert len(ModelCard(card_text).data.eval_results) == 3
        assert not (ship / "wrong.gguf").exists()
    """,
}


# The same for `english`, whose replies are another story: the notebooks that take a minute or two with it; others take five.
IN_ENGLISH = {
    "01_meet_the_friction": """
        assert recipe.name == "english" and len(asked) == 10 and len(rows) == 20
        assert [prompt.level for prompt in asked] == ["easy"] * 10
        assert all(turn.of("friction").thought and turn.of("friction").answer for turn in heard)
    """,
    "02_make_the_data": """
        assert 900 <= len(records) <= 901 and {record.level for record in records} == {"", "easy"}
        assert 0.4 <= sum(r.behaviour == "comply" for r in records) / len(records) <= 0.6
    """,
}


def run(notebook: nbformat.NotebookNode, promise: str, folder: Path, kernel: str = "python3") -> None:
    """Runs a notebook and then its promise."""
    from nbclient import NotebookClient

    notebook.cells.append(nbformat.v4.new_code_cell("\n".join(line.strip() for line in promise.strip().splitlines())))
    NotebookClient(notebook, timeout=600, kernel_name=kernel, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.slow
@each
def test_the_notebook_runs_and_keeps_its_promise(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # where it is set, ipykernel leaves out what llama.cpp writes to stderr
    notebook, kernel = load(name), os.environ.get("PUSHBACK_TEST_KERNEL", "python3")  # `make colab` names another
    for cell in cells(name, "markdown"):
        for solution in SOLUTION.findall(cell.source):
            body, _, check = solution.strip().rpartition("\n")
            notebook.cells.append(nbformat.v4.new_code_cell(f"{body}\nverdict = {check}\nassert verdict.ok, verdict"))
    run(notebook, PROMISES[name], tmp_path, kernel)
    assert [(cell.source, said.text) for cell in notebook.cells for said in cell.get("outputs", ())
            if said.get("name") == "stderr"] == []  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_ENGLISH)
def test_the_notebook_runs_in_english(name, tmp_path, monkeypatch, english):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PUSHBACK_MODEL", "english")
    run(load(name), IN_ENGLISH[name], tmp_path)
