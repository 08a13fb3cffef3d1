"""`timm-jackpot VERB …`: the console script. It answers --help, --version and typing errors without loading torch."""

from __future__ import annotations

import difflib
import importlib
import runpy
import sys
from pathlib import Path
from typing import NoReturn

from timm_jackpot import __version__

# Verb: its module in the package (predict is a function there), and what it does.
VERBS: dict[str, tuple[str, str]] = {
    "search": ("search", "find a jackpot in a pre-trained model"),
    "evaluate": ("evaluate", "accuracy of a jackpot, or of a dense base"),
    "predict": ("predict_verb", "the most likely classes of images"),
    "inspect": ("inspect", "what is in an artifact: layers, sparsity, sizes"),
    "export": ("export", "a jackpot for use elsewhere, checked and timed"),
    "push": ("push", "publish an artifact on the Hugging Face Hub"),
    "audit": ("audit", "a jackpot beside its controls, and a verdict"),
    "compare": ("compare", "artifacts and methods side by side"),
    "sweep": ("sweep", "many searches, over a grid of settings and seeds"),
    "rivals": ("rivals", "methods side by side on real tasks, each tuned"),
    "transfer": ("transfer", "masks of one data set, judged on others"),
    "pretrain": ("pretrain", "train a dense base from random weights"),
    "finetune": ("finetune", "train the weights that a jackpot keeps"),
    "methods": ("methods", "list all methods that find a sparse network"),
    "bench": ("bench", "what a step of the search, a file or a served task costs"),
}
HELP = Path(__file__).parent / "help"  # texts that `python -m timm_jackpot.help` writes
# What changes the flags of a verb: the verb itself prints its help then.
_CHANGES_HELP = ("--method", "--recipe")


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "--help-all"):
        print(overview())
    elif words[0] == "--version":
        print(f"timm-jackpot {__version__}")
    elif words[0] == "--print-completion":
        if words[1:] not in (["bash"], ["zsh"]):
            _refuse("--print-completion takes bash or zsh")
        print(importlib.import_module("timm_jackpot.help").completion(words[1]))
    elif words[0] not in VERBS:
        near = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "timm-jackpot --help lists the verbs"
        _refuse(f"there is no verb {words[0][:100]!r}: {hint}")
    elif (text := help_file(words[0], words[1:])) is not None:
        print(text.read_text(encoding="utf-8"), end="")
    else:
        sys.argv[1:] = words[1:]
        runpy.run_module(f"timm_jackpot.{VERBS[words[0]][0]}", run_name="__main__", alter_sys=True)


def _refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def help_file(verb: str, words: list[str]) -> Path | None:
    """The file that holds the help which is asked for; None if none is, or the verb itself has to print it."""
    asked = [word for word in words if word in ("-h", "--help", "--help-all")]
    if not asked or any(word.partition("=")[0] in _CHANGES_HELP for word in words):
        return None
    return HELP / (f"{verb}-all.txt" if "--help-all" in asked else f"{verb}.txt")


def overview() -> str:
    """All verbs, a line each."""
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: timm-jackpot VERB [ARGUMENT …]",
            "",
            "Search, share and load binary masks over frozen pre-trained timm models.",
            "",
            *(f"  {verb:<{width}}  {what}" for verb, (_, what) in VERBS.items()),
            "",
            "timm-jackpot VERB --help shows the flags of a verb, --help-all all of them.",
            "timm-jackpot --version, timm-jackpot --print-completion bash|zsh",
        ]
    )


if __name__ == "__main__":
    main()
