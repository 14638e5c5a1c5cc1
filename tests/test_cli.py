"""The command line itself: quick help, refusals, and what can be named."""

import subprocess
import sys

import pytest

from sdbench.cli import main


def call(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from sdbench.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'hydra', 'matplotlib', 'wandb', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_ls_names_what_there_is(capsys):
    code, out, _ = call(capsys, "ls", "arms")
    assert code == 0
    assert {"ar", "sd", "fsd", "pyramid", "psd_assisted", "psd_fuzzy"} <= set(
        out.removeprefix("arms: ").strip().split(", ")
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ls", "nosuch"], "no group 'nosuch'"),
        (["run", "--nosuch"], "no option --nosuch"),
        (["report", "/no/such/folder"], "/no/such/folder"),
        (["run", "--config-dir", "/no/such/folder"], "is no folder"),
        (["ls", "arms", "limit=3"], "sdbench ls takes no overrides: leave out 'limit=3'"),
        (["doctor", "models=tiny"], "sdbench doctor takes no overrides"),
        (["report", "/no/such/folder", "--png", "limit=3"], "sdbench report takes no overrides"),
        (["compare", "/no/such/folder", "--arms", "ar,sd", "limit=3"], "sdbench compare takes no overrides"),
        (["run", "hydra.run.dir=/tmp"], "has no effect on a single run"),
        (["run", "hydra.sweeper.params.limit=1"], "has no effect on a single run"),
    ],
)
def test_refusals(capsys, words, expected):
    code, _, err = call(capsys, *words)
    assert code == 2
    assert expected in err
    assert len(err.strip().splitlines()) == 1


def test_the_paper_s_triple_does_not_fit_its_card(capsys):
    """25 GB of weights in bf16 against 24 GB (AR 1.6), said without a network."""
    words = ["models=llama3", "hardware=cuda", "hardware.memory_bytes=24000000000", "--dry-run"]
    code, out, _ = call(capsys, "run", *words)
    assert code == 1, "what cannot run here is no success"
    assert "cannot run here yet" in out
    assert "does not fit" in out


def test_dry_run_of_the_default(capsys):
    code, out, _ = call(capsys, "run", "--dry-run")
    assert code == 0
    assert "9 arms x 40 prompts" in out
    assert "psd_fuzzy: lossy" in out


def test_a_reader_who_leaves_early_is_no_error():
    run = f"{sys.executable} -m sdbench ls arms | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_a_training_recipe_composes(capsys):
    code, out, err = call(capsys, "train", "--cfg")
    assert (code, err) == (0, "")
    assert "wordproblems" in out
