"""Publishing through the real huggingface_hub client to a hub-shaped server on loopback; not the real Hub."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from hub_server import READ_TOKEN, TOKEN, HubServer
from hub_ship import GGUF, TINY, environment, figures, hub, make_ship, python
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError

from pushback_lib.cli import main
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.hub import Names, explained, is_same, ollama_files, plan, repository_names
from pushback_lib.ship.ollama import Modelfile

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens
NAMES = Names("ada/tiny", "ada/tiny-data", "ada/tiny-base")
PUBLISH = (TOKEN, "ada/tiny")
OTHER = json.dumps(figures(adapter="sha256:1"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_ship(tmp_path_factory.mktemp("made") / "ship")


@pytest.fixture
def ship(made, tmp_path):
    return shutil.copytree(made, tmp_path / "ship")


def contents(files):
    """What will be published, by its place."""
    found = {}
    for file in files:
        with file.as_file() as opened:
            found[file.path_in_repo] = opened.read()
    return found


def test_a_dry_run_shows_every_file_its_size_and_its_place_without_token_or_network(ship, tmp_path):
    (found,) = hub(NOWHERE, tmp_path / "home", ship, ("", "ada/tiny", "--dry-run"))
    rows = [line.split() for line in found["out"].splitlines() if " from " in line]
    sizes = {row[1]: int(row[0].replace(",", "")) for row in rows if "tiny/base" not in row[-1]}
    files = {GGUF: ship / GGUF, "model.safetensors": ship / "merged" / "model.safetensors",
             "adapter/adapter_model.safetensors": TINY.shipped_adapter / "adapter_model.safetensors",
             "train.jsonl": DATA / "friction" / "train.jsonl"}  # fmt: skip
    assert {place: sizes[place] for place in files} == {place: path.stat().st_size for place, path in files.items()}
    total = sum(int(row[0].replace(",", "")) for row in rows)
    assert f"{total:,} bytes" in found["out"].splitlines()[-1]
    assert found["out"].count("(private)") == 3
    assert "(public)" not in found["out"]


def test_the_base_of_english_is_called_what_it_is_on_the_hub():
    """Its folder is unpacked from a package, and not to be published again."""
    assert repository_names(recipe_for("english"), "ada/english").base == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert repository_names(recipe_for("english"), "ada/english", base="ada/own").base == "ada/own"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["tiny"], "'tiny' is no name for a repository. Pass OWNER/NAME"),
        (["a/b/c"], "'a/b/c' is no name"),
        (["ada/my model"], "'ada/my model' is no name"),
        (["ada/x--y"], "Cannot have -- or .."),
        (["ada/x.git"], "cannot end by '.git'"),
        (["ada/" + "x" * 100], "maximum length is 96"),
        (["../etc"], "'../etc' is no name"),
        (["ada/naïve"], "'ada/naïve' is no name"),
        ([""], "'' is no name"),
        (["ada/tiny", "--data", "ada/tiny"], "need three names"),
        (["ada/tiny", "--data", "ada/Tiny-Base"], "need three names"),
        (["ada/big", "--model", "7b", "--base", "ada/base"], "--base ada/base is for a base of your own; 7b has its own"),
        (["ada/big", "--model", "9b"], "'9b'"),
        (["ada/own", "--model", TINY.base], "base, which is not published. Pass --base OWNER/NAME: what it is called"),
        (["ada/tiny", "--folder", "nowhere"], "No folder nowhere. `pushback ship all` makes it"),
    ],
)
def test_names_and_arguments_that_cannot_be_meant_are_errors(capsys, args, says):
    assert main(["ship", "hub", *args]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "damage", "says"),
    [
        ("merged", shutil.rmtree, "No model folder at"),
        ("merged/model.safetensors", lambda path: path.rename(path.with_suffix(".bin")), r"holds model\.bin, a pickle"),
        ("merged/tokenizer.json", Path.unlink, "No tokenizer.json in"),
        ("merged/tokenizer_config.json", Path.unlink, "No tokenizer_config.json in"),
        (GGUF, Path.unlink, r"No \*.gguf in .* `pushback ship all` makes it"),
        ("Modelfile", Path.unlink, "No Modelfile in .* `pushback ship all` makes it"),
        (GGUF, lambda path: path.rename(path.with_name("other.gguf")), rf"FROM '{GGUF}', which is none"),
        ("figures.json", lambda path: path.write_text("[]"), "holds no figures of `pushback demo`"),
        ("figures.json", lambda path: path.write_text(OTHER), "measured on another adapter than .* Measure .* `pushback eval"),
        ("adapter", Path.mkdir, "No adapter_config.json in .*adapter. Train one"),
    ],
)
def test_a_folder_that_is_not_complete_is_an_error_before_any_connection(ship, place, damage, says):
    damage(ship / place)
    with pytest.raises(PushbackError, match=says):
        plan(TINY, NAMES, ship)


def test_what_lies_beside_the_models_own_files_is_not_published(ship):
    before = [[file.path_in_repo for file in one.files] for one in plan(TINY, NAMES, ship)]
    for name in ("merged/._model.safetensors", "merged/._config.json", "merged/model-00001-of-00002.safetensors", f"._{GGUF}"):
        (ship / name).write_bytes(b"Mac OS X")
    assert [[file.path_in_repo for file in one.files] for one in plan(TINY, NAMES, ship)] == before


def test_a_data_folder_without_a_split_is_an_error(ship, tmp_path):
    data = shutil.copytree(DATA / "friction", tmp_path / "data")
    (data / "test.jsonl").unlink()
    with pytest.raises(PushbackError, match=r"No test.jsonl in .*data\. Make the data with"):
        plan(TINY, NAMES, ship, data_folder=data)


def test_the_table_of_formats_is_published_where_there_is_one(ship):
    assert "gguf.json" not in contents(plan(TINY, NAMES, ship)[-1].files)
    (ship / "gguf.json").write_text("{}")
    assert "gguf.json" in contents(plan(TINY, NAMES, ship)[-1].files)


def test_a_card_that_was_edited_is_published_unchanged(ship):
    (ship / "README.md").write_text("---\nlicense: mit\n---\nMine, OWNER/NAME, beside OWNER/NAME-data.\n", encoding="utf-8")
    card = contents(plan(TINY, NAMES, ship)[-1].files)["README.md"]
    assert card == b"---\nlicense: mit\n---\nMine, ada/tiny, beside ada/tiny-data.\n"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("OWNER/NAME", "ada/tiny"),
        ("hf.co/OWNER/NAME:Q8_0", "hf.co/ada/tiny:Q8_0"),
        ("`OWNER/NAME-base`, OWNER/NAME-data.", "`ada/tiny-base`, ada/tiny-data."),
        ("OWNER/NAMES and OWNER/NAME-other", "OWNER/NAMES and OWNER/NAME-other"),
    ],
)
def test_placeholders_become_names(text, filled):
    assert NAMES.fill(text) == filled


def test_no_published_file_names_a_path_of_this_machine(ship):
    for repository in plan(TINY, NAMES, ship):
        files = contents(repository.files)
        for place, data in files.items():
            for path in (f"{DATA.parent}/", str(ship), os.path.expanduser("~") + "/"):
                assert path.encode() not in data, (repository.name, place)
    assert json.loads(files["adapter/adapter_config.json"])["base_model_name_or_path"] == "ada/tiny-base"


def for_ollama(text):
    return {place: data.decode() for place, data in contents(ollama_files(text, {GGUF})).items()}


def test_ollama_gets_the_parts_of_the_modelfile_as_the_files_it_reads_from_the_hub():
    messages = [{"role": "user", "content": 'Say "yes".\nSYSTEM not this'}]
    made = Modelfile.for_recipe(TINY, load_tokenizer(TINY), GGUF, messages=messages)
    assert Modelfile.read(made.text) == made
    files = for_ollama(made.text)
    assert (files["template"], files["system"], files["Modelfile"]) == (made.template, made.system, made.text)
    assert json.loads(files["params"]) == made.parameters
    assert for_ollama(made.text.replace(f"./{GGUF}", f"/home/me/{GGUF}")) == files


def test_a_modelfile_that_was_edited_is_published_as_edited():
    text = Modelfile.for_recipe(TINY, load_tokenizer(TINY), GGUF).text
    edited = text.replace("temperature 0.6", "temperature 0.2")
    edited += '\n# mine\nsystem """Be\nbrief."""\nPARAMETER use_mmap false\n'
    files = for_ollama(edited)
    assert (files["system"], files["Modelfile"]) == ("Be\nbrief.", edited)
    params = Modelfile.read(text).parameters | {"temperature": 0.2, "use_mmap": False}
    assert json.loads(files["params"]) == params
    assert set(for_ollama(f"FROM {GGUF}\n")) == {"Modelfile"}


@pytest.mark.parametrize("data", [b"", b"x", b"y" * 3_000_000])
def test_files_are_compared_by_the_checksums_of_git_and_of_the_hub(tmp_path, data, git):
    path = tmp_path / "file"
    path.write_bytes(data)
    blob = subprocess.run([git, "hash-object", str(path)], capture_output=True, text=True, check=True).stdout.strip()
    sha = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]
    small = SimpleNamespace(size=len(data), lfs=None, blob_id=blob)
    large = SimpleNamespace(size=len(data), lfs=SimpleNamespace(sha256=sha), blob_id="")
    others = (b"z" * len(data), data + b"z") if data else (b"z",)
    for theirs in (small, large):
        assert all(is_same(CommitOperationAdd("file", ours), theirs) for ours in (path, data))
        assert not any(is_same(CommitOperationAdd("file", other), theirs) for other in others)


def test_a_full_disk_leaves_no_half_card(ship, tmp_path):
    (found,) = hub(NOWHERE, tmp_path / "home", ship, ("", "ada/tiny", "--dry-run"), ends=[2], file_limit=1000)
    assert "README.md could not be written (File too large). Free some space" in found["err"]
    assert not [path.name for path in ship.iterdir() if "README" in path.name]


@pytest.fixture(scope="module")
def published(made, tmp_path_factory):
    """The server after one publication, what the command said, and the home of its cache."""
    home = tmp_path_factory.mktemp("home")
    ship = shutil.copytree(made, home / "ship")
    with HubServer() as server:
        (found,) = hub(server.url, home, ship, PUBLISH)
        yield server, ship, home, found


def test_the_repositories_are_private_and_hold_what_was_planned(published):
    server, ship, _, found = published
    assert set(server.repos) == {("model", "ada/tiny-base"), ("dataset", "ada/tiny-data"), ("model", "ada/tiny")}
    assert all(repo.private for repo in server.repos.values())
    for repository in plan(TINY, NAMES, ship):
        there = server.repos[repository.kind, repository.name].files
        assert {place: data for place, data in there.items() if place != ".gitattributes"} == contents(repository.files)
    assert "ada/tiny: 17 files sent" in found["out"]
    assert not [path for path in server.calls if "telemetry" in path]


DOWNLOAD = """
from huggingface_hub import snapshot_download, ModelCard, DatasetCard
model, data = snapshot_download("ada/tiny"), snapshot_download("ada/tiny-data", repo_type="dataset")
card = ModelCard.load("ada/tiny")
assert card.data.base_model == "ada/tiny-base" and card.data.datasets == ["ada/tiny-data"], card.data
assert {result.metric_type for result in card.data.eval_results} == {"friction", "over_friction", "right_content"}
names = [config["config_name"] for config in DatasetCard.load("ada/tiny-data").data.configs]
assert names == ["default", "language"], names
print(model, data, sep="\\n")
"""
RUN_GGUF = """
import sys, torch  # brings the OpenMP library, libgomp, to a system that has none
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx = sys.argv[1], 512
server = xllamacpp.Server(params)
messages = [{"role": "user", "content": "Surely the opposite of thick is deep."}]
print(server.handle_chat_completions({"messages": messages, "max_tokens": 60, "temperature": 0})["choices"][0]["message"])
"""


def test_what_a_stranger_downloads_is_the_same_and_its_gguf_runs_in_llama_cpp(published, tmp_path):
    server, _, _, _ = published
    env = environment(server.url, tmp_path / "stranger")
    denied = python(DOWNLOAD, env=env)
    assert denied.returncode != 0
    assert "RepositoryNotFoundError" in denied.stderr
    run = python(DOWNLOAD, env=env | {"HF_TOKEN": READ_TOKEN})
    assert run.returncode == 0, run.stderr
    model, dataset = map(Path, run.stdout.split())
    for repository, folder in ((("model", "ada/tiny"), model), (("dataset", "ada/tiny-data"), dataset)):
        for place, data in server.repos[repository].files.items():
            assert (folder / place).read_bytes() == data, place
    said = python(RUN_GGUF, str(model / GGUF))
    assert said.returncode == 0, said.stderr
    assert "Problem Framer" in said.stdout, said.stdout  # the friction voice, thinking


def test_what_is_in_order_is_not_sent_again_and_nothing_is_replaced_unasked(published, tmp_path):
    server, ship, home, _ = published
    puts, commits = sum(server.puts.values()), [repo.commits for repo in server.repos.values()]
    changed = shutil.copytree(ship, tmp_path / "changed")
    (changed / "README.md").write_text("---\nlicense: mit\n---\nAnother card.\n", encoding="utf-8")
    model = server.repos["model", "ada/tiny"]
    model.files["notes.txt"] = b"by hand"
    calls = [(*PUBLISH, "--update"), (*PUBLISH, "--folder", str(changed)), (*PUBLISH, "--public")]
    again, replaced, public = hub(server.url, home, ship, *calls, ends=[0, 2, 2])
    assert "ada/tiny: 0 files sent, 17 were there already" in again["out"]
    assert "left alone: notes.txt" in again["out"]
    assert "ada/tiny exists and holds 2 files that are not these (README.md, notes.txt). Choose another name" in replaced["err"]
    assert "ada/tiny-base exists and is private, but --public was given" in public["err"]
    assert [repo.commits for repo in server.repos.values()] == commits
    hub(server.url, home, changed, (*PUBLISH, "--update"))
    assert model.files["README.md"].endswith(b"Another card.\n")
    assert model.files["notes.txt"] == b"by hand"
    assert sum(server.puts.values()) == puts


def test_a_token_or_owner_that_is_not_in_order_is_an_error_that_says_what_to_do(ship, tmp_path):
    wrong, other = "hf_wrongToken0123456789abcdefghijklmn", "cannot publish as 'bob'. Choose a name under one of: ada, guild"
    calls = {
        ("", "ada/tiny"): "No token for the Hub. Make a token with write access at https://huggingface.co/settings/tokens",
        (wrong, "ada/tiny"): "The Hub refused the token: it is wrong or has expired. Make a token",
        (READ_TOKEN, "ada/tiny"): "The token of ada may only read. Make a token with write access",
        (TOKEN, "bob/tiny"): other,
        (TOKEN, "ada/tiny", "--data", "bob/data"): other,
    }
    with HubServer() as server:
        found = hub(server.url, tmp_path / "home", ship, *calls, ends=[2] * 5)
        assert not server.repos
    for says, one in zip(calls.values(), found, strict=True):
        assert says in one["err"], one
        assert "Traceback" not in one["err"]
        for token in (wrong, READ_TOKEN, TOKEN):
            assert token not in one["out"] + one["err"]


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, [f"The connection to the Hub at {NOWHERE} failed", "Check the network and HF_ENDPOINT"]),
        ({"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE is set, so nothing may be sent. Unset it, or look with --dry-run."]),
    ],
)
def test_no_network_and_a_client_set_offline_are_told_apart(ship, tmp_path, env, says):
    (found,) = hub(NOWHERE, tmp_path / "home", ship, PUBLISH, ends=[2], env=env)
    assert all(part in found["err"] for part in says), found["err"]


def refused(status):
    request = httpx2.Request("POST", "https://hub.example/api")
    return HfHubHTTPError(f"{status} for {TOKEN}", response=httpx2.Response(status, request=request))


def wrapped(error):
    """As the client wraps what goes wrong in its upload threads."""
    found = RuntimeError("Error while uploading 'x' to the Hub.")
    found.__cause__ = error
    return found


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (refused(403), "The token may not write there. Make a token"),
        (wrapped(refused(401)), "it is wrong or has expired"),
        (refused(412), "Somebody else changed the repository meanwhile"),
        (refused(507), "refused: 507 for … What has arrived stays there"),
        (wrapped(httpx2.WriteError("broken pipe")), r"The connection .* failed \(broken pipe\)"),
        (httpx2.ReadTimeout(""), r"The connection .* failed \(ReadTimeout\)"),
        (ValueError(f"Invalid metadata in README.md for {TOKEN}"), "refused: Invalid metadata in README.md for …"),
        (KeyboardInterrupt(), "Stopped. What has arrived stays there"),
    ],
)
def test_what_the_client_raises_becomes_an_error_that_says_what_to_do_without_the_token(error, says):
    with pytest.raises(PushbackError, match=says) as found, explained("https://hub.example", TOKEN):
        raise error
    assert TOKEN not in str(found.value)
    assert found.value.__suppress_context__


def test_public_is_public(ship, tmp_path):
    with HubServer() as server:
        hub(server.url, tmp_path / "home", ship, (TOKEN, "guild/tiny", "--public"))
        assert server.repos
        assert not any(repo.private for repo in server.repos.values())


def test_a_token_goes_nowhere(published):
    """Not into what is printed, even with the client's own debugging on, and not into what is published."""
    server, ship, home, first = published
    (loud,) = hub(server.url, home, ship, (*PUBLISH, "--update"), env={"HF_DEBUG": "1"})
    assert "curl" in loud["err"], "the client's debugging is not on: the next line proves nothing"
    assert TOKEN not in str(first) + str(loud)
    for repo in server.repos.values():
        for place, data in repo.files.items():
            assert TOKEN.encode() not in data, place
    for path in ship.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path


def test_a_connection_cut_in_mid_upload_is_taken_up_again(ship, tmp_path):
    with HubServer(cuts=1) as server:
        hub(server.url, tmp_path / "home", ship, PUBLISH)
        assert server.was_cut == 1
        assert set(server.puts.values()) == {1}


@pytest.mark.slow
def test_a_line_that_stays_dead_is_an_error_and_the_second_run_sends_only_the_rest(ship, tmp_path):
    with HubServer(cuts=99, cut_from=4_000_000, after=1) as server:  # the base arrives, then the GGUF does not
        (broken,) = hub(server.url, tmp_path / "home", ship, PUBLISH, ends=[2])
        assert "The connection to the Hub" in broken["err"]
        assert "What has arrived stays there: the same command, run again, sends the rest." in broken["err"]
        assert TOKEN not in str(broken)
        assert len(server.puts) == 2
        assert set(server.repos["model", "ada/tiny"].files) == {".gitattributes"}, "half a model is visible"
        server.cuts = 0
        (complete,) = hub(server.url, tmp_path / "home", ship, PUBLISH)
        assert "ada/tiny-base: 0 files sent, 7 were there already" in complete["out"]
        assert list(server.puts.values()) == [1, 1, 1], "a file that had arrived was sent again"
        assert GGUF in server.repos["model", "ada/tiny"].files
