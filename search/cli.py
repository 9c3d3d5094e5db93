"""The command line: `lmpareto COMMAND key=value ...`. Every command is a Hydra app over `conf/`."""

from __future__ import annotations

import difflib
import os
import sys

from search.streams import open_streams, say

COMMANDS = {
    "train": "train the dense model of a study",
    "import": "begin a study with a dense model that was trained elsewhere",
    "sweep": "run a study's trials, or go on with them",
    "worker": "one worker of a study that was begun, on any machine",
    "confirm": "the points of the front again with other seeds: how sure it is",
    "space": "what a study can sample, and how many bytes its corners have",
    "sensitivity": "each part of a study's space alone, and the front that this predicts",
    "status": "how far a study is; without study=, the list of all",
    "front": "the front as a table",
    "dashboard": "a study in Optuna's dashboard, in a browser",
    "plot": "the front as pictures",
    "report": "all that a study found, as a page that works offline",
    "export": "the chosen model as a folder to take home",
    "build": "an exported model once more, from its recipe",
    "evaluate": "perplexity, recall and speed of a bundle",
    "complete": "a model at the keyboard",
    "inspect": "why a model's matrices compress or do not",
    "replay": "run a trial again and compare",
    "publish": "all that a study has to show, in one folder",
    "rename": "give a study another name",
    "remove": "delete a study from the database",
    "clean": "what the cache holds, and what of it can go",
}

HELP = """lmpareto finds the best small LSTM language models: it searches compression recipes and
shows the size-perplexity front of the files they make. task=tagging, sentiment, entailment and
reading do the same for other LSTMs.

    lmpareto COMMAND key=value ...

{commands}

Try it, a few minutes on two cores, no network needed:

    lmpareto sweep study=quickstart
    lmpareto front study=quickstart
    lmpareto report study=quickstart
    lmpareto export study=quickstart to=small_model

lmpareto COMMAND --help says what a command takes; --cfg job shows all its settings; format=json
prints one JSON document; --config-dir FOLDER adds your own studies (FOLDER/study/NAME.yaml).
"""


def main() -> None:
    """The entry point. It answers --help and --version itself and runs commands for all else."""
    open_streams()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = (f"    {name:{width}}  {does}" for name, does in COMMANDS.items())
        say(HELP.format(commands="\n".join(lines)).rstrip())
        return
    if arguments[0] in ("--version", "-V"):
        import importlib.metadata

        say(f"lmpareto {importlib.metadata.version('lmpareto')}")
        return
    if arguments[0] in ("-sc", "--shell-completion"):
        _complete(arguments)
        return
    if arguments[0] not in COMMANDS:
        near = difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"lmpareto: there is no command {arguments[0]!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    _run(arguments[0], arguments[1:])


def _run(command: str, arguments: list[str]) -> None:
    from search.process import collect_later

    collect_later()
    from search.commands import run

    run(command, arguments)


def _complete(arguments: list[str]) -> None:
    """Shell completion: the command is completed here, its settings by its Hydra app.

    eval "$(lmpareto -sc install=bash)" installs it.
    """
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) > 2 and words[1] in COMMANDS:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        _run(words[1], arguments)
    elif "query" in "".join(arguments[1:]):
        print("\n".join(name for name in COMMANDS if name.startswith("".join(words[1:]))))
    else:
        _run("sweep", arguments)
