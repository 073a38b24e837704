"""Everything that is shipped: complete, under names that every program takes, and without a word on this machine."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hub_ship import SHIPPED, TINY, figures

from pushback_lib import cli
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.folders import MARKER
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship import hub
from pushback_lib.ship.ollama import Modelfile
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


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """`ship all` of a base of one's own, whose name no Modelfile would take; its folders have names to look for."""
    top = tmp_path_factory.mktemp("own")
    base, work = top / "home-of-ada" / "Café à: la base", top / "workshop-7261"
    shutil.copytree(TINY.base, base)
    shutil.copytree(TINY.shipped_adapter, work / "mine")
    config = json.loads((work / "mine" / "adapter_config.json").read_text())
    (work / "mine" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    (work / "mine" / "checkpoint-5").mkdir()
    (work / "mine" / "training_args.bin").write_bytes(b"a pickle")
    (work / "figures.json").write_text(json.dumps(figures()))
    recipe = replace(recipe_for(str(base)), max_new_tokens=100, examples=10)  # short, and the bundled language
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        made = ship_all(recipe, "mine", "ship", ("Q8_0", "Q4_K_M"), per_kind=1, figures=Path("figures.json"))
    shutil.copy(work / "figures.json", work / "ship")
    return recipe, made, work


@pytest.fixture
def there(own, monkeypatch):
    monkeypatch.chdir(own[2])
    monkeypatch.setenv("HOME", str(Path(own[0].base).parent))
    return own


@pytest.mark.slow
def test_the_whole_flow_leaves_everything_and_no_part(there):
    _, made, work = there
    assert sorted(path.name for path in Path("ship").iterdir()) == [
        ".pushback", "Modelfile", "README.md", "adapter", "baseline", "figures.json", "gguf.json", "gguf.png", "merged",
        *(f"pushback-Cafe-a-la-base-friction-{kind}.gguf" for kind in ("F32", "Q4_K_M", "Q8_0")),
    ]  # fmt: skip
    assert {path.name for path in Path("ship/adapter").iterdir()} == {path.name for path in TINY.shipped_adapter.iterdir()}
    assert json.loads(made.results[0].read_text())["provenance"]["merge"].startswith("35 of 35 matrices changed; logits 0.")
    assert [line.kind for line in made.table.lines] == ["F32", "Q8_0", "Q4_K_M"]
    assert Modelfile.read(made.modelfile.read_text(encoding="utf-8")).gguf == made.files["Q8_0"].name
    assert json.loads((made.merged / "config.json").read_text())["rope_theta"] == 10000.0
    assert made.files["Q8_0"].name in made.card.read_text(encoding="utf-8")
    assert not [path for path in work.rglob("*") if path.name.startswith(".") and path.name != MARKER]


@pytest.mark.slow
def test_nothing_that_is_published_names_a_folder_of_this_machine(there, capsys):
    recipe, made, work = there
    names = hub.repository_names(recipe, "ada/own", base="ada/base")
    for repository in hub.plan(recipe, names, Path("ship")):
        for file in repository.files:
            with file.as_file() as opened:
                data = opened.read()
            for name in ("home-of-ada", "workshop-7261", str(work.parent), f"{DATA.parent}/"):
                assert name.encode() not in data, (repository.name, file.path_in_repo)
    publish = ["ship", "hub", "ada/own", "--model", recipe.base, "--base", "ada/base", "--folder", "ship", "--dry-run"]
    assert cli.main(publish) == 0
    for place, text in ((made.card, f"Trained on {work}/mine."), (made.results[0], json.dumps({"model": recipe.base}))):
        place.write_text(text, encoding="utf-8")
    assert cli.main(publish) == 2
    shown = capsys.readouterr()
    assert "gguf.json" in shown.out
    assert f"README.md of ada/own ({work}/mine.)" in shown.err
    assert f"gguf.json of ada/own ({Path(recipe.base).parent}/Caf" in shown.err


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
