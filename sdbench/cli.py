"""Run the command line. Each verb imports what it needs, so that `sdbench --help` answers at once."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from typing import Any

from sdbench import __version__
from sdbench.errors import InputError, RunError
from sdbench.paths import expanded, refuse_file

PLAIN = ("report", "compare", "profile", "status", "push", "ls", "doctor")  # verbs without overrides
OK, FAILED, REFUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

USAGE = """\
  sdbench run [overrides]                  run a comparison; -m: a sweep; --dry-run: show what would run, and whether it fits
  sdbench report DIR ...                   write tables and figures of finished runs, in HTML, Markdown and LaTeX
  sdbench compare A B | A --arms x,y       is the second faster, and as good? A, B: run folders, or DIR:ARM
  sdbench profile DIR [ARM ...]            write what a run measured as speculation_profile.json, for engines that simulate
  sdbench load NAME=REPORT ... --out DIR   tables and a figure of served engines under load, from reports of guidellm
  sdbench status DIR ...                   list runs: finished, failed and why, stopped and where, running
  sdbench push DIR ...                     send finished runs to Weights & Biases, each once
  sdbench verify [overrides]               check that each arm is lossless; exit status 0 or 1
  sdbench simulate DIR [latency=NAME ...]  SIMULATED: the speed of ar, sd, ssd, pearl, amusd and dsi; draft=ROLE: of a cast
  sdbench tune [overrides]                 PREDICTED: the fastest method and lengths for a family, task and machine
  sdbench new rule|drafter|task NAME DIR   write a new method: its file, its YAML and its test, ready to run
  sdbench ls [GROUP]                       list the names in a group, such as models, arms or tasks
  sdbench doctor                           list this machine's hardware, and the families and tasks that can run
  sdbench train recipe=NAME [overrides]    train a draft, a head or a family

overrides are Hydra's:  models=NAME arms=[NAME,...] tasks=NAME hardware=NAME tracker=NAME limit=N repeats=R seed=S
  max_new_tokens=M ignore_eos=BOOL batch_size=B sampling.temperature=T out=DIR  arms.NAME.KNOB=VALUE
  arms.NAME.grid.KNOB=[...]  acceptance@arms.NAME.rule=RULE  models.ROLE.path=PATH
"""


def main(argv: list[str] | None = None) -> None:
    """Run a command, and exit with its status (docs/design.md). argv: by default, the words of the command line."""
    os.environ["MPLBACKEND"] = "agg"  # figures become files; a backend of the user could need a screen
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale may lack a sign of a table, which must not end a run
            stream.reconfigure(errors="replace")
    sys.exit(_status(sys.argv[1:] if argv is None else argv))


def _status(argv: list[str]) -> int:
    """Run a command and return its exit status. An error becomes one sentence, or a traceback with SDBENCH_TRACEBACK."""
    options, overrides = _parser().parse_known_args(argv)
    flags = [word for word in overrides if word.startswith("-")]
    try:
        if flags:
            raise InputError(f"There is no option {flags[0]}; see sdbench --help.")
        if overrides and options.verb in PLAIN:
            raise InputError(f"sdbench {options.verb} takes no overrides: leave out '{overrides[0]}'.")
        with contextlib.suppress(ValueError):  # Python allows this in the main thread only
            signal.signal(signal.SIGTERM, _terminated)
        return options.verb_of(options, overrides)
    except InputError as error:
        print(f"sdbench: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as stopped:
        print(
            "sdbench: interrupted; finished blocks are kept, and the same command continues the run.", file=sys.stderr
        )
        return TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED
    except RunError as error:
        print(f"sdbench: {error} Finished blocks are kept, and the same command continues the run.", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader of the pipe has closed it, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if os.environ.get("SDBENCH_TRACEBACK"):
            raise
        print(f"sdbench: failed: {type(error).__name__}: {error} (SDBENCH_TRACEBACK=1 shows where)", file=sys.stderr)
        return FAILED


class Terminated(KeyboardInterrupt):  # a signal is no error
    """Raised at SIGTERM. The process then ends in the same way as after Ctrl-C: it ends its children first."""


def _terminated(number: int, frame: object) -> None:
    raise Terminated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdbench",
        description="A bench on which speculative-decoding ideas are compared fairly.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sdbench {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function: Any, help: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help)
        sub.set_defaults(verb=name, verb_of=function)
        return sub

    for name, function, help in (
        ("run", _run, "make a comparison"),
        ("verify", _verify, "check that each arm is lossless"),
        ("train", _train, "train a draft, a head or a family"),
    ):
        sub = verb(name, function, help)
        sub.add_argument("--config-dir", type=expanded, help="another folder of configs: your own arms, rules, tasks")
        sub.add_argument("--cfg", action="store_true", help="print the resolved config and stop")
        if name == "run":
            sub.add_argument("-m", "--multirun", action="store_true", help="a sweep over comma-separated values")
            sub.add_argument("--dry-run", action="store_true", help="say what would run, and whether it fits")
            sub.add_argument(
                "--finish", action="store_true", help="report what a stopped run has measured, and end it there"
            )
    report = verb("report", _report, "tables and figures of finished runs")
    report.add_argument("folders", nargs="+", type=expanded, metavar="DIR")
    report.add_argument(
        "--out", type=expanded, help="folder of the report (default: report/ in the folder of the first run)"
    )
    report.add_argument(
        "--highlight", metavar="NAME[,NAME]", help="arms that the figures draw larger and with a dark rim"
    )
    report.add_argument("--png", action="store_true", help="write each figure as PNG too")
    compared = verb("compare", _compare, "compare two runs, or two arms of one run")
    compared.add_argument("runs", nargs="+", metavar="DIR[:ARM]")
    compared.add_argument("--arms", help="two arms, as in --arms ar,sd")
    compared.add_argument(
        "--margin", type=float, help="of the non-inferiority test, in points of score (default: the first run's)"
    )
    profiled = verb("profile", _profile, "write the measured acceptance of a run as speculation profiles")
    profiled.add_argument("folder", type=expanded, metavar="DIR")
    profiled.add_argument("arms", nargs="*", metavar="ARM", help="default: every arm that drafts")
    load = verb("load", _load, "tables and a figure of served engines under load, from reports of guidellm")
    load.add_argument("reports", nargs="+", metavar="NAME=REPORT")
    load.add_argument("--out", type=expanded, required=True, help="folder for the tables and the figure")
    verb("status", _status_of, "list the finished, failed, stopped and running runs in some folders").add_argument(
        "folders", nargs="+", type=expanded, metavar="DIR"
    )
    push = verb("push", _push, "send finished runs to Weights & Biases, each once")
    push.add_argument("folders", nargs="+", type=expanded, metavar="DIR")
    push.add_argument("--mode", choices=("online", "offline"), default="online", help="offline: files for `wandb sync`")
    push.add_argument("--project", help="project that receives the runs (default: from each run's config)")
    push.add_argument("--entity", help="owner of the project")
    simulated = verb(
        "simulate", _simulate, "simulate the speed of each method on a machine, from the recorded outcomes of a run"
    )
    simulated.add_argument("folder", type=expanded, metavar="DIR")
    simulated.add_argument("--save", type=expanded, help="write the latencies that the run measured, as a latency file")
    tuned = verb("tune", _tune, "predict the fastest method and lengths")
    tuned.add_argument("--config-dir", type=expanded, help="another folder of configs")
    new = verb("new", _new, "write the files of a new rule, drafter or task")
    new.add_argument("kind", metavar="KIND", help="rule, drafter or task")
    new.add_argument("name", metavar="NAME", help="the name of the module, and the name in configs")
    new.add_argument("folder", type=expanded, metavar="DIR", help="folder for the files; created if missing")
    verb("ls", _ls, "list the names that configs can use").add_argument("group", nargs="?")
    verb("doctor", _doctor, "list this machine's hardware, and the families and tasks that can run")
    return parser


def _print_document(document: dict[str, Any]) -> None:
    """Print a result as one line of JSON for programs. On a terminal print nothing, because a person has read the lines before."""
    if not sys.stdout.isatty():
        print(json.dumps(document))


def _config(options: argparse.Namespace, overrides: list[str], name: str = "config") -> dict[str, Any] | None:
    """Return the resolved config. With --cfg, print it and return None."""
    from sdbench.harness.config import compose
    from sdbench.harness.schema import Comparison, Training

    schema = Training if name == "train" else Comparison
    config = compose(overrides, options.config_dir, name, schema)
    if not options.cfg:
        return config
    import yaml

    print(yaml.safe_dump(config, sort_keys=False), end="")
    return None


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    if options.multirun:
        if options.dry_run or options.cfg or options.finish:
            raise InputError(
                "A sweep has no --dry-run, --cfg or --finish: give them to one of its combinations, without -m."
            )
        from sdbench.harness.sweep import sweep

        document = sweep(overrides, options.config_dir)
        for line in document["failed"]:
            print(f"failed: {' '.join(line['overrides'])}: {line['reason']}")
        _print_document(document)
        return FAILED if document["failed"] else OK
    config = _config(options, overrides)
    if config is None:
        return OK
    from sdbench.harness.dry_run import describe

    if options.dry_run:
        text, runs = describe(config)
        print(text)
        return OK if runs else FAILED
    from sdbench.analysis.metrics.summary import stopped_arms
    from sdbench.analysis.report.write import show
    from sdbench.harness.plan import prepare
    from sdbench.harness.run import run, run_worker_rank

    ranks = None
    if config["hardware"].get("tensor_parallel"):
        from sdbench.harness.tensor_parallel import Ranks

        ranks = Ranks(config["hardware"]["device"])
    plan = prepare(config, ranks)
    if ranks and not ranks.first:
        run_worker_rank(plan)
        return OK
    out, summary, fresh = run(plan, finish=options.finish)
    if not fresh:
        print("This run was finished before, so nothing ran again.")
    show(summary)
    if (page := out / "report" / "report.html").is_file():
        print(f"report: {page}")
    _print_document({"out": str(out), "summary": summary})
    return FAILED if stopped_arms(summary) else OK


def _verify(options: argparse.Namespace, overrides: list[str]) -> int:
    config = _config(options, overrides)
    if config is None:
        return OK
    from sdbench.harness.plan import prepare
    from sdbench.harness.verify import table, verify

    findings = verify(prepare(config))
    print(table(findings))
    _print_document({"arms": {finding.arm: finding.document() for finding in findings}})
    return OK if all(finding.lossless for finding in findings) else FAILED


def _report(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.analysis.compare_inputs import split_arms
    from sdbench.analysis.report.write import report, show
    from sdbench.runs.record import load

    if options.out is not None:
        refuse_file("--out", options.out)
    path = report(options.folders, options.out, highlight=split_arms(options.highlight or ""), png=options.png)
    for folder in options.folders:
        show(load(folder).summary)
    print(f"report: {path.with_name('report.html')}")
    return OK


def _compare(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.analysis.compare import compare, text

    document = compare(options.runs, options.arms, options.margin)
    print(text(document))
    _print_document(document)
    return OK


def _profile(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.analysis.speculation_profile import write_profiles

    for file in write_profiles(options.folder, options.arms):
        print(file)
    return OK


def _load(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.analysis.open_loop import grid, write

    reports: dict[str, Path] = {}
    for word in options.reports:
        name, sign, path = word.partition("=")
        if not (name and sign and path) or name in reports:
            raise InputError(
                f"'{word}' must be NAME=REPORT, and each name stands once: as in sdbench load ar=ar.json --out DIR."
            )
        reports[name] = expanded(path)
    refuse_file("--out", options.out)
    print(grid(write(reports, options.out)).markdown())
    return OK


def _status_of(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.runs.status import status, text

    document = status(options.folders)
    print(text(document))
    _print_document(document)
    return OK


def _push(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.analysis.push import push

    document = push(options.folders, options.mode, options.project, options.entity)
    for line in document["failed"]:
        print(f"failed: {line['out']}: {line['reason']}")
    print(
        f"{len(document['sent'])} sent, {len(document['skipped'])} sent before, {len(document['unfinished'])} not finished"
    )
    _print_document(document)
    return FAILED if document["failed"] else OK


def _simulate(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.harness.simulate import simulate, table

    document = simulate(options.folder, overrides, options.save)
    print(table(document))
    _print_document(document)
    return OK


def _tune(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.harness.tune import table, tune

    document = tune(overrides, options.config_dir)
    print(table(document))
    _print_document(document)
    return OK


def _new(options: argparse.Namespace, overrides: list[str]) -> int:
    if overrides:
        raise InputError(f"sdbench new takes KIND, NAME and DIR; '{overrides[0]}' is one word too many.")
    from sdbench.new import commands, create

    for path in create(options.kind, options.name, options.folder):
        print(path)
    print(f"\nTry it, then change it. The page 'Add a {options.kind}' of the documentation explains each part.")
    for command in commands(options.kind, options.name, options.folder):
        print(f"  {command}")
    return OK


def _ls(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.harness.config import GROUPS, choices

    if options.group is not None and options.group not in GROUPS:
        raise InputError(f"There is no group '{options.group}'; there are: {', '.join(GROUPS)}.")
    for group in [options.group] if options.group else GROUPS:
        print(f"{group}: {', '.join(choices(group))}")
    return OK


def _doctor(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.harness.doctor import examine

    print(examine())
    return OK


def _train(options: argparse.Namespace, overrides: list[str]) -> int:
    from sdbench.harness.train import recipe_words, train

    config = _config(options, recipe_words(overrides), "train")
    if config is None:
        return OK
    document = train(config)
    for fault in document["faults"]:
        print(f"not held: {fault}")
    _print_document(document)
    return FAILED if document["faults"] else OK


if __name__ == "__main__":
    main()
