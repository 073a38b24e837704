import json
import shutil
from pathlib import Path

import pytest
from hub_ship import SHIPPED, TINY, figures

from pushback_lib import cli
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.folders import MARKER
from pushback_lib.ship.run import ship_all, ship_gguf


@pytest.mark.slow
def test_what_comes_with_the_kit_is_what_its_own_command_makes(tmp_path):
    """`pushback ship gguf --out data/tiny/ship`, byte for byte, from data/tiny/base and data/tiny/adapter."""
    made = {path.name: path.read_bytes() for path in [*ship_gguf(TINY, TINY.shipped_adapter, tmp_path), tmp_path / MARKER]}
    assert sorted(path.name for path in SHIPPED.iterdir()) == sorted(made) == sorted(path.name for path in tmp_path.iterdir())
    for name, content in made.items():
        assert (SHIPPED / name).read_bytes() == content, f"{name} differs; run `pushback ship gguf --out data/tiny/ship`"


def test_it_is_small_and_the_only_gguf_under_data():
    found = list(DATA.rglob("*.gguf"))
    assert [path.parent for path in found] == [SHIPPED]
    taken = [*SHIPPED.iterdir(), *TINY.shipped_adapter.iterdir()]
    assert sum(path.stat().st_size for path in taken) <= 8_000_000
    assert (SHIPPED / "Modelfile").read_text(encoding="utf-8").startswith(f"FROM ./{found[0].name}\n")


@pytest.mark.parametrize(
    ("adapter", "kinds", "message"),
    [
        (TINY.shipped_adapter, ("Q3",), r"No GGUF kind 'Q3'\. Choose from F32, F16, BF16, Q8_0, Q4_K_M, Q5_K_M"),
        (TINY.shipped_adapter, (), r"No GGUF kind given\. Choose from F32"),
        (Path("nowhere"), ("Q8_0",), r"No adapter in nowhere\. Train one"),
    ],
)
@pytest.mark.parametrize("ship", [ship_gguf, ship_all])
def test_bad_input_is_said_before_anything_is_written(tmp_path, ship, adapter, kinds, message):
    more = {"figures": tmp_path / "none.json"} if ship is ship_all else {}
    with pytest.raises(PushbackError, match=message if kinds or not more else "No figures in"):  # F32 is always made
        ship(TINY, adapter, tmp_path / "out", kinds, **more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_flow_leaves_everything_and_no_part(tmp_path):
    given, adapter, out = tmp_path / "figures.json", tmp_path / "adapter", tmp_path / "ship"
    given.write_text(json.dumps(figures()))
    shutil.copytree(TINY.shipped_adapter, adapter)
    (adapter / "checkpoint-5").mkdir()
    (adapter / "training_args.bin").write_bytes(b"a pickle")
    made = ship_all(TINY, adapter, out, ("Q8_0", "Q4_K_M"), per_kind=1, figures=given)
    assert sorted(path.name for path in out.iterdir()) == [
        ".pushback", "Modelfile", "README.md", "adapter", "baseline", "gguf.json", "gguf.png", "merged",
        *(f"pushback-tiny-friction-{kind}.gguf" for kind in ("F32", "Q4_K_M", "Q8_0")),
    ]  # fmt: skip
    assert {path.name for path in (out / "adapter").iterdir()} == {path.name for path in TINY.shipped_adapter.iterdir()}
    assert json.loads((out / "gguf.json").read_text())["provenance"]["merge"].startswith("35 of 35 matrices changed; logits 0.")
    assert [line.kind for line in made.table.lines] == ["F32", "Q8_0", "Q4_K_M"]
    assert made.files["Q8_0"].read_bytes() == (SHIPPED / made.files["Q8_0"].name).read_bytes()
    assert json.loads((made.merged / "config.json").read_text())["rope_theta"] == 10000.0
    assert "pushback-tiny-friction-Q8_0.gguf" in made.card.read_text(encoding="utf-8")
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".") and path.name != MARKER]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("all", {"model": "tiny", "kinds": None, "n": 20, "run": cli.run_ship}),
        ("all --kind F16 --kind Q5_K_M -n 5", {"kinds": ["F16", "Q5_K_M"], "n": 5}),
        ("gguf --model 1.5b --adapter a", {"model": "1.5b", "adapter": "a", "run": cli.run_gguf}),
        ("hub owner/name --dry-run", {"name": "owner/name", "dry_run": True}),
        ("ollama friction", {"name": "friction"}),
    ],
)
def test_words_become_arguments(words, expected):
    args = vars(cli.parser().parse_args(["ship", *words.split()]))
    assert {key: args[key] for key in expected} == expected


@pytest.mark.parametrize("words", [[], ["all", "-n", "0"], ["bake"]])
def test_wrong_words_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["ship", *words])
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--merged . --adapter a", r"--merged holds an adapter already.*Drop one"),
        ("--merged none", r"No model folder at none"),
    ],
)
def test_a_merged_folder_must_be_there_and_excludes_an_adapter(tmp_path, words, message):
    args = cli.parser().parse_args(["ship", "gguf", *words.split(), "--out", str(tmp_path / "out")])
    with pytest.raises(PushbackError, match=message):
        args.run(args)
