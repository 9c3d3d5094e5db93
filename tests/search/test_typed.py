"""What is typed on the command line: paths and names as they are, a sentence for all else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmcore.errors import UserError
from lmcore.settings import parse
from search.commands.fields import fields
from search.commands.typed import for_hydra
from search.config import StudyConfig
from search.names import check_name
from search.store.settings import StorageSettings
from search.store.store import Store
from studies import COMMAND, Shell, environment, lmpareto, write_configs
from studies import settings as study_settings

SECRET = "s3cret"
# folders that a URL, a shell, Hydra's grammar or OmegaConf's would read as something else
ODD = ["a%20b", "what?", "number#1", "two blanks  in", "it's", 'a"b', "été", "$HOME", "{SCHEMA}"]
ODD += ["${cache}", "a=b,c", "100%", "[1]", "back\\slash", "李明"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Shell(tmp_path_factory.mktemp("typed") / "cache") as running:
        yield running


def given_to_hydra(argument: str, *flags: str) -> str | None:
    """The value that a setting has when Hydra has read what we made of it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (typed,) = [one for one in for_hydra([*flags, argument]) if not one.startswith("-")]
    override = OverridesParser.create().parse_override(typed)
    value: str | None = OmegaConf.create({"it": override.value()}).it
    return value


# --- taken as typed ----------------------------------------------------------------------------


def test_the_settings_that_are_paths_names_or_urls() -> None:
    texts = {field.name for field in fields() if field.is_text}
    assert texts == {
        *("name", "cache", "to", "bundle", "recipe", "dense", "weights", "vocabulary"),
        *("storage.url", "storage.path"),
        *("corpus.file", "corpus.train", "corpus.valid", "corpus.test", "corpus.dir"),
        *("corpus.pieces", "corpus.tokens", "corpus.vocabulary", "corpus.squad", "corpus.ptb"),
        *("training.start", "training.vectors", "models.training.start"),
        "models.training.vectors",
    }


@pytest.mark.parametrize("setting", ["corpus.file", "name", "to", "+bundle", "++cache", "study"])
@pytest.mark.parametrize(
    "value",
    [
        *("runs/epoch=3/a.txt", "a,b.txt", "my texts/été #1.txt", "李明", "a#b", "42", "true"),
        *("1e3", "range(3)", "[a,b]", "'a", "a ", "${oc.env:HOME}", r"\${x}", "C:\\texts\\", ""),
        *ODD,
    ],
)
def test_a_text_is_taken_as_typed(setting: str, value: str) -> None:
    assert given_to_hydra(f"{setting}={value}") == value


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_is_taken_as_typed(value: str) -> None:
    if value != "null" and not (len(value) > 1 and value[0] == value[-1] and value[0] in "'\""):
        assert given_to_hydra(f"corpus.file={value}") == value


def test_what_is_quoted_for_hydra_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "there")
    assert given_to_hydra("name='a b'") == "a b"
    assert given_to_hydra('name="it\'s"') == "it's"
    assert given_to_hydra("corpus.file='${oc.env:WHERE}/a.txt'") == "there/a.txt"
    assert given_to_hydra("storage.url=sqlite:///${oc.env:WHERE}") == "sqlite:///there"


def test_null_unsets_a_text() -> None:
    assert given_to_hydra("corpus.file=null") is None


def test_a_multirun_has_several_values_and_texts_as_typed() -> None:
    several = ["--multirun", "study=a,b", "name='a,b',c", "worker=range(3)"]
    assert for_hydra(several) == several
    assert given_to_hydra("corpus.file=runs/epoch=3/a.txt", "-m") == "runs/epoch=3/a.txt"
    assert given_to_hydra("name='a,b'", "-m") == "a,b"


def test_flags_may_stand_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    typed = ["trials=3", "--config-dir", str(folder), "seed=2", "-c", "job", f"-cd={folder}"]
    dirs, shown = f"--config-dir={folder}", "--cfg=job"
    assert for_hydra(typed) == [dirs, shown, dirs, "trials=3", "seed=2"]


def test_what_is_typed_arrives_in_the_settings(shell: Shell) -> None:
    typed = ("corpus=text", "corpus.file=my texts/été #1,${a}=b.txt", "name=42")
    shown = yaml.safe_load(shell("train", *typed, "--cfg", "job").ok().out)
    assert OmegaConf.create(shown).corpus.file == "my texts/été #1,${a}=b.txt"
    assert shown["name"] == "42"


def test_a_tilde_in_a_path_is_the_home(shell: Shell, tmp_path: Path) -> None:
    run = shell("train", "corpus=text", "corpus.file=~/a.txt", HOME=str(tmp_path))
    run.refused(f"cannot read {tmp_path}/a.txt")


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine", "李明", "a b", "a#b", "42", "été=1,2", "v1.2", "x" * 200])
def test_a_name_may_have_any_printable_characters(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "...", " a", "a ", "../../evil", "/tmp/evil", "a\\b", "a:b", "a*", "a?"),
        *('a"', "<a", "a>", "a|b", "a\nb", "a\tb", "a\0b", "a\u200b", "x" * 201, "é" * 101),
    ],
)
def test_a_name_that_makes_no_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name becomes a folder"):
        check_name(name)


@pytest.mark.parametrize(
    "command", ["plot", "report", "publish", "export", "sweep", "train", "inspect"]
)
def test_nothing_is_written_outside_for_a_name(command: str, shell: Shell) -> None:
    to = ["to=x"] if command in ("publish", "export") else []
    run = shell(command, "name=../../evil", *to)
    if command in ("sweep", "train", "inspect"):
        run.refused("name: got '../../evil'", "a name becomes a folder", "none of / \\ :")
    else:
        run.refused("there is no study ../../evil")


def test_a_study_of_any_name_is_read(shell: Shell) -> None:
    shell("front", "name=../../evil").refused("there is no study ../../evil. ")


def test_a_baseline_has_a_name_that_makes_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"baselines\.\.\./evil: a name becomes a folder"):
        study_settings(tmp_path, baselines={"../evil": {}})


# --- odd folders -------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ODD)
@pytest.mark.parametrize("by", ["the environment", "an argument"])
def test_the_database_lies_in_the_cache(
    by: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / folder
    monkeypatch.setenv("LMPARETO_CACHE", str(cache))
    typed = for_hydra([f"cache={cache}"] if by == "an argument" else [])
    with initialize_config_module("search.conf", version_base="1.3"):
        found = OmegaConf.to_container(compose("status", typed), resolve=True)
    assert isinstance(found, dict)
    config = parse(StudyConfig, {str(name): value for name, value in found.items()})
    assert Store(config.storage).optuna.get_all_studies() == []
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    assert (config.folder / "studies.db").exists()


def test_a_url_may_stand_in_the_place_of_the_file(tmp_path: Path) -> None:
    settings = parse(StorageSettings, {"url": "sqlite:///~/a%20b.db", "path": str(tmp_path)})
    assert settings.resolved.database == str(Path("~/a b.db").expanduser())
    with pytest.raises(UserError, match="it takes a url, or the path of a file"):
        parse(StorageSettings, {})


@pytest.mark.slow
def test_a_study_in_an_odd_folder(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs é")
    cache = tmp_path / "ca%20ché {SCHEMA}? #1"
    mine = (f"--config-dir={configs}", "study=mine", "name=李明 #1")
    swept = lmpareto("sweep", *mine, "trials=2", "workers=2", "format=json", cache=cache).ok()
    front = lmpareto("front", *mine, "format=json", cache=cache).ok()
    assert front.document["front"] == swept.document["front"]
    assert {path.name for path in tmp_path.iterdir()} == {cache.name, configs.name}


# --- a sentence for all else ---------------------------------------------------------------------

REFUSED: dict[str, list[str]] = {
    "train workers=1": ["workers: this command has no such setting; it has "],
    "sweep trialz=3": ["trialz: this command has no such setting; it has trials, "],
    "train name=a,b modle=small": ["modle: this command has no such setting; it has model, "],
    "train corpus.vocabulary=5": ["corpus.vocabulary: corpus=ptb has dir"],
    "train corpus.file=a.txt": [
        "corpus.file: corpus=ptb has dir; "
        "corpus=text, corpus=subword, corpus=characters and corpus=pieces have it"
    ],
    "train model.hiden=5": ["model.hiden: model has hidden, "],
    "train model.projection=5": ["model.projection: ", "+model.projection=VALUE"],
    "train model.hidden=abc": ["model.hidden: got 'abc'; it is a whole number"],
    "train study=quickstar": ["there is no study quickstar: did you mean quickstart?"],
    "train corpus=nope": ["corpus=nope: there is no corpus 'nope'; there are p"],
    "train space=5": ["space=5: there is no space '5'; there are "],
    "train model=null": ["model=null: there is no model 'null'; there are "],
    "train +model@models.wide.model=5": ["there is no model '5'; there are "],
    "train model@models.wide.model=tiny": ["nothing is chosen there yet; a plus adds it: +model@"],
    "train study=null": ["there is no study null"],
    "train study=quickstart space.sites=[]": ["space.sites: got a list; it takes settings by name"],
    "train +=5": ["+=5: this is no setting; write SETTING=VALUE"],
    "train training.epochs=inf": ["training.epochs: got inf; input should be a finite number"],
    "sweep max_hours=inf": ["max_hours: got inf; input should be a finite number"],
    "train seed=9223372036854775808": ["seed: got 9223372036854775808; input should be less than"],
    "train threads=1000000": ["threads: got 1000000; this machine has ", " cores"],
    "train hydra/launcher=nope": ["hydra/launcher=nope: there is no ", "there are "],
    "sweep max_size=0,5MB": ["max_size=0,5MB: a number has a decimal point: max_size=0.5MB"],
    "sweep trials=1,2": ["trials=1,2: a number has a decimal point"],
    "train model=small,tiny": ["model=small,tiny: several values take --multirun", "[A,B]"],
    "worker worker=range(8)": ["worker=range(8): several values take --multirun"],
    "sweep trials=": ["trials: got ''; input should be a valid integer"],
    "sweep name=": ["name: got ''; a name becomes a folder"],
    "sweep corpus=text corpus.file=": ["corpus.file: got ''; it takes the path of a file"],
    "sweep trials='3": ["trials='3: a quote (') is opened and not closed"],
    "sweep space={a:[1}": ["space={a:[1}: the [ and ] in it do not match"],
    "train device=a=b": ["device=a=b: this value cannot be read", "device='\"TEXT\"'"],
    "train my-setting!=3": ["no setting is called 'my-setting!'"],
    "train hydra.launcher.x=3": ["hydra.launcher.x: hydra.launcher has "],
    "front study": ["study: this is no setting; write SETTING=VALUE"],
    "front trials 3": ["trials: this is no setting", "as in trials=3"],
    "front trials = 3": ["without blanks around its ="],
    "front --trial 3": ["--trial: there is no such flag", "trial=3"],
    "front --max-size=3": ["--max-size: there is no such flag", "max_size=3"],
    "front --multi": ["--multi: there is no such flag; did you mean --multirun?"],
    "front --cfg": ["--cfg: got ''; it takes job, hydra, all"],
    "front --config-dir nowhere": ["--config-dir: there is no folder 'nowhere'", "study/NAME.yaml"],
    "status storage=url": ["storage.url: ", "$LMPARETO_STORAGE, which is not set; export "],
    "status storage.url=foo://a": ["storage.url: ", "no database foo", "sqlite:////FOLDER"],
    "status storage.url=sqlite://tmp/a.db": ["storage.url: ", "three slashes"],
    "status storage.path=/": ["/ is a folder, a pipe or a device; the storage is a file of SQLite"],
    "sweep study=quickstart storage.path=/proc/no/a.db": ["cannot make the folder /proc/no"],
    "sweep study=quickstart sampler._target_=nope.Nope": [
        "sampler._target_: there is no 'nope.Nope'; try optuna.samplers.TPESampler"
    ],
    "sweep study=quickstart +sampler.foo=3": [
        "unexpected keyword argument 'foo'",
        "takes",
        "gamma",
    ],
}


@pytest.mark.parametrize("typed", REFUSED)
def test_one_sentence_says_what_was_wrong(typed: str, shell: Shell, tmp_path: Path) -> None:
    run = shell(*typed.split(), cwd=tmp_path).refused(*REFUSED[typed])
    assert "HYDRA" not in run.err
    *progress, message = run.err.splitlines()
    assert message.startswith(f"lmpareto {typed.split()[0]}: ")
    assert len(progress) == (2 if "sampler" in typed else 0)  # the study and its text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argument",
    [
        f"storag.url=postgresql://ada:{SECRET}@h/d",
        f"storage={{url: 'postgresql://ada:{SECRET}@h/d}}",
        f"storage.url='postgresql://ada:{SECRET}@h/d",
        f"storage.url=postgresql://ada:{SECRET}@h:port/d",
        f"postgresql://ada:{SECRET}@h/d",
        f"--storage=postgresql://ada:{SECRET}@h/d",
        f"format=postgresql:?password={SECRET}",
        f"trials=postgresql://ada:{SECRET}@h/d",
    ],
)
def test_no_message_shows_the_password_of_an_argument(argument: str, shell: Shell) -> None:
    run = shell("status", argument).refused("lmpareto status: ")
    assert SECRET not in run.err


def test_a_file_that_is_no_yaml_is_named(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    path = tmp_path / "study" / "mine.yaml"
    path.write_text("trials: [1\nname: mine\n")
    run = shell("front", f"--config-dir={tmp_path}", "study=mine")
    run.refused(f"{path}, line 2: this is no YAML: expected ',' or ']'")
    path.write_text("# @package _global_\ndefaults:\n  - override /space: nope\n")
    run = shell("front", f"--config-dir={tmp_path}", "study=mine")
    run.refused("the defaults of a study: space/nope: there is no space 'nope'; there are ")
    assert run.err.count("\n") == 1


OWN = """\
# @package _global_
defaults:
  - override /corpus: pydoc
  - /model@models.wide.model: medium
trials: 3
"""
WRONG = {  # a change to a study's file -> what is said after the file's name
    ("# @package _global_", "# mine"): ": the first line of a study is # @package _global_",
    ("# @package", "# mine\n# @package"): ": the first line of a study is # @package _global_",
    ("# @package", "\ufeff# @package"): ": the first line of a study is # @package _global_",
    (OWN, ""): " has no settings; write them as NAME: VALUE, one a line",
    (OWN, "- a"): " has no settings; write them as NAME: VALUE, one a line",
    ("trials: 3", "trials:\n\t3"): ", line 6: this is no YAML: found character '\\t'",
    ("trials: 3", "trials: 3\ntrials: 4"): ", line 6: this is no YAML: found duplicate key trials",
    ("trials: 3", "trials: *a"): ", line 5: this is no YAML: found undefined alias 'a'",
    ("trials: 3", "trials: \0"): ": this is no YAML: unacceptable character #x0000",
    ("trials: 3", "trials: ${seed"): ": no viable alternative at input '${seed'",
    ("trials: 3", "~: 3"): ": Incompatible key type 'NoneType'",
    ("trials: 3", f"trials: {'[' * 3000}"): ": this is no YAML: it is nested too deeply",
    ("trials: 3", "name: caf\udce9"): " is not UTF-8 text: it has the byte 0xE9 at offset 104; ",
    ("  - override", "  override"): ", line 4: this is no YAML: ",
    ("  - override /corpus: pydoc\n  -", "  "): ": defaults is a list, each line like - override",
    ("- /model", "-\n  - /model"): ": defaults has None in it; a line is like - override /corpus",
    ("/corpus", "/corpse"): ": the defaults name '/corpse'; there is no such group, but corpus, ",
    (
        "/corpus",
        "corpus",
    ): ": the defaults have override corpus: pydoc; write override /corpus: pydoc",
    ("override /", "/"): ": the defaults have /corpus: pydoc; write override /corpus: pydoc",
}


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_with_a_study_of_ones_own(
    change: tuple[str, str], shell: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "study" / "mine.yaml"
    path.parent.mkdir()
    path.write_bytes(OWN.replace(*change).encode(errors="surrogateescape"))
    run = shell("space", f"--config-dir={tmp_path}", "study=mine")
    run.refused(f"lmpareto space: {path}{WRONG[change]}")
    assert run.err.count("\n") == 1


def test_the_study_of_the_page_on_spaces(shell: Shell, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "spaces.md").read_text()
    path = tmp_path / "study" / "keyboard.yaml"
    path.parent.mkdir()
    path.write_text(page.split("```yaml\n")[1].split("```")[0])
    run = shell("space", f"--config-dir={tmp_path}", "study=keyboard", cwd=tmp_path)
    run.refused("my.txt: No such file")  # all else is right


# --- standard output -----------------------------------------------------------------------------


def test_an_answer_that_cannot_be_written(tmp_path: Path) -> None:
    for arguments in (["front", "study=ptb_small"], ["--help"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [COMMAND, *arguments],
                env=environment(tmp_path),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        said = "lmpareto: the answer cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    ("closed", "said"),
    [
        (">&-", b""),
        ("2>&-", b"no studies in "),
        (">&- 2>&-", b""),
        ("<&- >&- 2>&-", b""),
    ],
)
def test_closed_streams_are_no_error(closed: str, said: bytes, tmp_path: Path) -> None:
    line = f"'{COMMAND}' status {closed}"
    done = subprocess.run(line, env=environment(tmp_path), shell=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout[: len(said)] == said
    assert bool(done.stdout) == bool(said)


def test_a_terminal_that_knows_only_ascii(shell: Shell, tmp_path: Path) -> None:
    run = lmpareto("status", cache=tmp_path / "été", PYTHONIOENCODING="ascii").ok()
    assert "no studies in sqlite:///" in run.out


# --- told before the work ------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for command in ("plot", "report", "export", "publish"):
        for to, why in (("/proc/no", "No such file"), ("file/sub", "file is a file, not a folder")):
            run = shell(command, "study=ptb_small", f"to={to}", cwd=tmp_path)
            run.refused(f"cannot write in {to}: ", why)
            assert "tokens" not in run.err  # the text is not even read
    url = f"storage.url=sqlite:///{tmp_path}/studies.db"
    run = shell("train", "study=quickstart", url, "cache=/proc/no")
    run.refused("cannot write in /proc/no/dense: ")
    assert "%" not in run.err.replace("%, ", "").replace("% <unk>", "")  # no bar of a training


def test_a_working_folder_that_was_deleted_is_named(tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    script = f"rmdir '{gone}'; exec '{COMMAND}' front study=mine"
    run = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=gone,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        "lmpareto front: the folder that you are in was deleted; cd to another one\n"
    )
