"""Random command lines, drawn from the verbs' own schemas; as a program: run them, and say how each ended.

Starting Python and importing torch costs seconds. The program does it once, and forks a child for each line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hostile_things import make_things

SECONDS, BYTES = 60.0, 2 * 10**9  # more than either is a failure
_PATIENCE = 15.0  # seconds after which a run that is sound, and only long, gets Ctrl-C
_AT_ONCE = 2

# Verb: module of its main, its schema, and words that make a run of it which ends soon.
_TINY = ["--steps", "1", "--batch-size", "64", "--workers", "0"]
VERBS: dict[str, tuple[str, str, list[str]]] = {
    "search": ("search.__main__", "search.SearchConfig", [*_TINY, "--output", "out"]),
    "evaluate": ("evaluate", "evaluation.run.EvaluateConfig", ["--artifact", "good"]),
    "inspect": ("inspect", "artifact.InspectConfig", ["--artifact", "good"]),
    "pretrain": (
        "pretrain",
        "training.pretrain.PretrainConfig",
        ["--model", "digits_resnet", "--output", "out", *_TINY],
    ),
    "finetune": ("finetune", "training.finetune.FinetuneConfig", ["--artifact", "good", "--output", "out", *_TINY]),
    "sweep": ("sweep", "experiments.sweeps.SweepConfig", ["--recipe", "tiny.yaml", "--seeds", "0", "--output", "out"]),
    "push": ("push", "hub.PushConfig", ["--artifact", "good", "--repo-id", "user/name"]),
    "bench": ("bench", "benchmarks.BenchConfig", ["--what", "encode", "--models", "test_resnet", "--pairs", "1"]),
    "audit": ("audit.__main__", "audit.AuditConfig", ["--artifact", "good", "--seeds", "1", "--output", "out"]),
    "transfer": (
        "transfer",
        "experiments.transfer.TransferConfig",
        ["--recipe", "toy.yaml", "--seeds", "0", "--output", "out"],
    ),
    "compare": ("compare", "experiments.comparison.CompareConfig", ["good", "good_compact"]),
}
# What no bound can make cheap: sound values that a machine may have memory for.
_DEAR = {"--img-size", "--num-classes", "--in-chans", "--workers"}
_SLOW = "torchcompile"  # alone takes more than a minute, and hears Ctrl-C at its end

_TEXTS = [
    "", " ", ".", "..", "/", "~", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "a" * 255, "a" * 256,
    "é" * 200,
    "a/" * 3000, "x" * 100_000, "two\nlines", "\x1b[31mred", "\udcff", "--", "-1", "=", "a=b", "a=", "=b", "%s%n",
    "{}", "null",
    "user/name", "user/", "hf-hub:user/name", "hf-hub:", "local-dir:", "local-dir:.", "local-dir:/dev", "folder",
    "digits",
    "torch/cifar10", "hfds/user/name", "tfds/mnist", "wds/x", "file", "file/out", "loop", "good", "good_compact",
    "good/config.json",
    "read_only", "missing/deep/er", "../out", "train", "test", "validation", "[0-9]*", "(", "resnet5o",
    "test_resnet", "1/2",
    "0/0", "tensorboard", "auto", "2:4", "0:0", "32:2", "99999999999:32", "global", "layer1.*=0.5", "*=0.99",
    "conv1*=x", "١",
]  # fmt: skip
_NUMBERS = [
    "0", "1", "-1", "-0", "2", "3", "7", "0.5", "0.9", "1.0", "1e-3", "1e-12", "1e-300", "5e-324", "1e300", "1e308",
    "1e309", "nan",
    "inf", "-inf", "1e400", "1e-99999999", "1e99999999", "2147483647", "2147483648", "4294967296",
    "9223372036854775807",
    "9223372036854775808", "1" + "0" * 400, "9" * 5000, "0x10", "1_000", "१२", "1,5", " 1", "1 ", "+1",
    "0.99999999999999999",
    "true", "None", "[1]", "", "one",
]  # fmt: skip
_PAIRS = [
    "steps=1", "lr=0.1,0.2", "lr=nan", "steps=1e99", "sparsity=0.5", "sparsity=1e-99999999", "seed=1", "output=x",
    "x=y", "=", "a", "a=",
    "lr={", "lr=[", "lr=!!python/object:os.system", "lr=&a [*a]", "lr=" + "[" * 1000, "lr=" + "1," * 30_000,
    "preset=paper", "model=resnet5o",
    "batch_size=1e9", "start_scale=1e38", "temperature=1e-2", "allocation=global,uniform", "head_steps=1",
    "head_lr=1e-400", "head_x=1",
    "toy=toy", "drop_rate=0.1", "bn_eps=-1", "bn_eps=nan", "act_layer=nothing", "norm_layer=x", "output_stride=7",
    "output_stride=0",
    "global_pool=zzz", "pad_type=same", "block_dpr=1", "aa_layer=x", "init_values=1e999", "drop_path_rate=2",
    "qkv_bias=true",
    "replace_stem_pool=1", "num_classes=3", "zero_init_last=[]",
]  # fmt: skip


def schema_of(verb: str) -> Any:
    module, _, name = VERBS[verb][1].rpartition(".")
    return getattr(importlib.import_module(f"timm_jackpot.{module}"), name)


def draw(seed: int, count: int, folder: Path) -> list[list[str]]:
    """Command lines: a sound one of a random verb, changed in one to three places."""
    rng, lines = random.Random(seed), []
    schemas = {verb: schema_of(verb) for verb in VERBS}
    things = [
        f"{kind}/{path.name}"
        for kind in ("recipes", "artifacts", "images")
        for path in sorted((folder / kind).iterdir())
    ]
    things += [f"local-dir:bases/{path.name}" for path in sorted((folder / "bases").iterdir())]
    things += [f"weights/{path.name}" for path in sorted((folder / "weights").iterdir())]
    while len(lines) < count:
        verb = rng.choice(list(VERBS))
        words = list(VERBS[verb][2])
        for _ in range(rng.randint(1, 3)):
            words += _change(rng, schemas[verb], things)
        if rng.random() < 0.05:
            words = words[rng.randrange(len(words)) :]
        lines.append([verb, *words])
    return lines


def all_bases(folder: Path) -> list[list[str]]:
    """One line for each base folder, and for each file of weights."""
    names = [f"--model=local-dir:bases/{path.name}" for path in sorted((folder / "bases").iterdir())]
    names += [f"--base-checkpoint=weights/{path.name}" for path in sorted((folder / "weights").iterdir())]
    return [["evaluate", name] for name in names]


def _change(rng: random.Random, schema: Any, things: list[str]) -> list[str]:
    if rng.random() < 0.06:
        return [
            rng.choice(
                ["--nonsense", "-q", "--", "stray", "--recipe", "--traceback", "--output", "---", "--steps=", "-b"]
            )
        ]
    if rng.random() < 0.1 and schema.__name__ in ("SearchConfig", "PretrainConfig", "FinetuneConfig"):
        return ["--recipe", _one(rng, [thing for thing in things if thing.startswith("recipes/")], _TEXTS)]
    name = rng.choice([name for name in schema.model_fields if name != _SLOW])
    return words_of(rng, name, schema.model_fields[name], things)


def words_of(rng: random.Random, name: str, field: Any, things: list[str]) -> list[str]:
    """One flag with a value of any kind: sound, at its bounds, absurd or malformed."""
    extra = field.json_schema_extra or {}
    flag = next((flag for flag in extra.get("flags", []) if flag.startswith("--")), f"--{name.replace('_', '-')}")
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)] or [field.annotation]
    kind = kinds[0] if get_origin(field.annotation) not in (tuple, Literal) else field.annotation
    if kind is bool:
        return [rng.choice([flag, flag.replace("--", "--no-", 1), f"{flag}=1"])]
    if get_origin(kind) is Literal:
        value = _one(rng, [*map(str, get_args(kind))], ["", "x", "a" * 300])
    elif kind in (int, float):
        value = _one(rng, _around_bounds(field, whole=kind is int, dear=flag in _DEAR), _NUMBERS)
    elif get_origin(kind) is tuple:
        pool = _NUMBERS if get_args(kind)[0] is not str else [*_PAIRS, *_PAIRS, *_TEXTS, *things]
        several = [rng.choice(pool) for _ in range(rng.choice([0, 1, 1, 2, 3, 100]))]
        return several if extra.get("positional") else [flag, *several]
    else:
        fitting = [thing for thing in things if thing.startswith(_FITTING.get(name, "\0"))]
        likely = _NUMBERS if name == "sparsity" else fitting or _TEXTS
        value = _one(rng, likely, [*_TEXTS, *_NUMBERS, *(things if name != "output" else [])])
    return [f"{flag}={value}"]


_FITTING = {
    "model": "local-dir:", "artifact": "artifacts/", "data_dir": "images/", "base_checkpoint": "weights/",
    "sweep": "recipes/", "transfer": "recipes/",
}  # fmt: skip


def _one(rng: random.Random, likely: list[str], other: list[str]) -> str:
    return rng.choice(likely if rng.random() < 0.6 else other)


def _around_bounds(field: Any, *, whole: bool, dear: bool) -> list[str]:
    """The bounds of a number, and what lies just beyond."""
    found: list[Any] = []
    for rule in field.metadata:
        for bound, sign in (("ge", -1), ("gt", -1), ("le", 1), ("lt", 1)):
            value = getattr(rule, bound, None)
            if value is not None:
                beyond = value + sign if whole else value * (1 + sign * 1e-6) + sign * 1e-9
                found += [beyond] if dear and sign > 0 else [value, beyond]
    return [
        *map(repr, found),
        *([repr(field.default)] if field.default is not None else []),
        "1",
        "2" if whole else "0.5",
    ]


# -- running them ------------------------------------------------------------------------------------------------


@dataclass
class Ended:
    words: list[str]
    code: int
    stdout: str
    stderr: str
    seconds: float
    bytes: int
    left: list[str]  # names that begin with a dot: what a run should not leave behind

    def fault(self) -> str | None:
        """What is wrong with the way in which it ended; None where nothing is."""
        lines = self.stderr.splitlines()
        last = lines[-1] if lines else ""
        if self.code not in (0, 2, 130, 143):
            return f"exit code {self.code}"
        if "Traceback" in self.stderr and "--traceback" not in self.words:
            return "a traceback"
        if self.code == 0 and not ({"-h", "--help"} & set(self.words) or self.stdout.rstrip().endswith("}")):
            return "no result on the last line"
        if self.code and not last.startswith(("error: ", "stopped: ")):
            return "no sentence at the end"
        if self.code and len(last.removeprefix("error: ").removeprefix("stopped: ")) < 10:
            return "a sentence that says nothing"
        if self.seconds > SECONDS:
            return f"{self.seconds:.0f} seconds"
        if self.bytes > BYTES:
            return f"{self.bytes / 1e9:.1f} GB"
        return f"left {self.left[0]} behind" if self.left else None


def run_all(lines: list[list[str]], things: Path, scratch: Path, patience: float = _PATIENCE) -> Iterator[Ended]:
    """Run the lines in forked children, each in a folder of its own that holds links to the things."""
    waiting, running = list(enumerate(lines)), dict[int, _Child]()
    while waiting or running:
        while waiting and len(running) < _AT_ONCE:
            child = _Child(*waiting.pop(0), things, scratch)
            running[child.pid] = child
        for pid, child in list(running.items()):
            found, status, usage = os.wait4(pid, os.WNOHANG)
            if found:
                del running[pid]
                yield child.ended(status, usage.ru_maxrss * 1024)
            else:
                child.watch(patience)
        time.sleep(0.01)


class _Child:
    def __init__(self, number: int, words: list[str], things: Path, scratch: Path) -> None:
        self._words, self._folder = words, scratch / str(number)
        self._folder.mkdir(parents=True)
        for thing in things.iterdir():
            if thing.name.startswith("good"):  # what a line may write to
                shutil.copytree(thing, self._folder / thing.name)
            else:
                (self._folder / thing.name).symlink_to(thing)
        (self._folder / "loop").symlink_to("loop")
        self._streams = [scratch / f"{number}.out", scratch / f"{number}.err"]
        self._started, self._told, self._grown = time.monotonic(), False, 0
        self.pid = os.fork()
        if self.pid == 0:
            _run_line(words, self._folder, *self._streams)

    def watch(self, patience: float) -> None:
        seconds = time.monotonic() - self._started
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            self._grown = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
        if seconds > patience and not self._told:
            self._told = True
            os.kill(self.pid, signal.SIGINT)
        if seconds > SECONDS or self._grown > 2 * BYTES:
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self, status: int, peak: int) -> Ended:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its data workers
        out, err = (path.read_text(errors="replace") for path in self._streams)
        code = os.waitstatus_to_exitcode(status)
        left = [str(path.relative_to(self._folder)) for path in self._folder.rglob(".*")]
        seconds = time.monotonic() - self._started
        shutil.rmtree(self._folder, ignore_errors=True)
        return Ended(self._words, code if code >= 0 else 128 - code, out, err, seconds, max(peak, self._grown), left)


def _run_line(words: list[str], folder: Path, out: Path, err: Path) -> None:
    """The child: never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        for stream, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))
        sys.argv = words
        from timm_jackpot.cli import run_verb

        run_verb(importlib.import_module(f"timm_jackpot.{VERBS[words[0]][0]}").main)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        raise OSError(101, "Network is unreachable")


def main() -> None:
    """Seed, number of lines (0: one for each hostile base) and an empty folder in; how each ended out, as JSON."""
    seed, count, root = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module, _, _ in VERBS.values():
        importlib.import_module(f"timm_jackpot.{module}")
    sys.addaudithook(_refuse_network)
    things = root / "things"
    things.mkdir()
    tiny = ["search", *_TINY, "--output"]
    goods = [[*tiny, str(things / "good")], [*tiny, str(things / "good_compact"), "--encoding", "compact"]]
    for ended in run_all(goods, things, root / "first", SECONDS):
        assert ended.code == 0, ended
    child = os.fork()  # torch's threads would not survive in this process's children
    if child == 0:
        make_things(things)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    lines = draw(seed, count, things) if count else all_bases(things)
    for ended in run_all(lines, things, root / "runs"):
        print(json.dumps({**vars(ended), "fault": ended.fault()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
