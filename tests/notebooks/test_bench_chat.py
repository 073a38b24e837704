"""The benchmark of the chat: real voices of both backends on the bundled model, few tokens; figures, table and page."""

import json

import bench_chat
import pytest
from gguf_files import adapter, baseline


def run(folder, *words):
    code = bench_chat.main([*words, "--model", "tiny", "--out", str(folder), "--page", str(folder / "page.md")])
    return code, json.loads((folder / "bench_chat_tiny.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_both_measurements_go_into_one_file_and_onto_the_page(tmp_path, capsys):
    (tmp_path / "page.md").write_text(f"# Mine\n\n{bench_chat.HEAD}\nold\n{bench_chat.END}\n\nMore.\n", encoding="utf-8")
    files = ("--gguf", str(baseline("Q8_0")), "--lora", str(adapter("F16")))
    assert run(tmp_path, "speed", *files, "--tokens", "12", "--rounds", "2")[0] == 0
    code, found = run(tmp_path, "words", "--prompts", "4", "--tokens", "40")
    assert code == 0
    assert [row["round"] for row in found["speed"]["rows"]] == [1] * 4 + [2] * 4, "the first round is not counted"
    assert all(row["tokens_a_second"] > 1 for row in found["speed"]["rows"])
    assert (found["speed"]["gguf"], found["speed"]["lora"], found["speed"]["dtype"]) == ("Q8_0", "F16", "float32")
    assert found["words"]["prompts"] == 4
    assert min(found["words"]["same"].values()) >= 3, "from the same weights they say the same"
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert bench_chat.table(found) in text
    assert text.startswith("# Mine\n")
    assert text.endswith("More.\n")
    assert "old" not in text
    assert bench_chat.table(found).splitlines()[0] in capsys.readouterr().out


ROWS = [{"way": way, "backend": name, "tokens_a_second": speed, "round": at}
        for way, speeds in {"friction alone": {"transformers": (10, 30, 11), "llama.cpp": (33, 30, 99)},
                            "both voices": {"transformers": (20, 20, 20), "llama.cpp": (30, 50, 40)}}.items()
        for name, three in speeds.items() for at, speed in enumerate(three, 1)]  # fmt: skip


def test_a_ratio_is_that_of_the_medians():
    about = {"machine": "an abacus", "load_average": [0.1], "dtype": "bfloat16", "gguf": "Q4_1", "lora": "F16", "tokens": 9,
             "rounds": 3}  # fmt: skip
    lines = bench_chat.table({"model": "m", "speed": {**about, "rows": ROWS}}).splitlines()
    assert lines[2:4] == ["| friction alone | 11.0 | 33.0 | 3.0 |", "| both voices | 20.0 | 40.0 | 2.0 |"]
    assert "transformers, bfloat16 | llama.cpp, Q4_1 and F16 adapter" in lines[0]
    assert "3 rounds of 9 tokens a voice. Machine: an abacus; load average before: 0.1." in lines[-1]


def test_a_prompt_of_each_sort_in_turn():
    asked = bench_chat.asked_of(bench_chat.recipe_for("7b"), 20)
    assert len(asked) == 20
    assert len({one[-1]["content"] for one in asked}) == 20


def test_another_base_is_one_line_and_2(tmp_path, capsys):
    files = ["--gguf", str(adapter("F16")), "--lora", str(adapter("F16"))]
    assert bench_chat.main(["speed", *files, "--out", str(tmp_path), "--page", str(tmp_path / "page.md")]) == 2
    assert capsys.readouterr().err.startswith("bench_chat: ")
    assert list(tmp_path.iterdir()) == []
