"""Data of a training: the corpus and its chunks, batches, evaluation texts that leak, and the sources."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sdbench.errors import InputError
from sdbench.training.batches import padded, passes
from sdbench.training.corpus import Corpus, Sample
from sdbench.training.identity import claim
from sdbench.training.leaks import Leaks
from sdbench.training.sources import Answers, FinishedRun, Kept, Mixture, SelfInstructed, TextFile
from sdbench.training.sources.self_instructed import template_parts
from tests.tasks.tokenizers_made import CHAT, byte_level
from tests.training.made import Drawn

TEXT = "Mia has forty five red apples and gives twelve of them to her brother before dinner on a cold Monday evening."


def samples(count: int, begin: int = 0) -> list[Sample]:
    return [Sample([7] * (5 + number % 9), 2, f"made/{number}") for number in range(begin, begin + count)]


def test_an_unfinished_chunk_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    corpus = Corpus(file)
    corpus.add(samples(3))
    corpus.add([])
    whole = file.read_bytes()
    corpus.add(samples(2, 3))
    assert Corpus(file).samples == samples(5)
    for part in (b'{"tokens": [7', b'{"tokens": [7], "prompt": 1}\n', b"\n"):
        file.write_bytes(whole + part)
        assert Corpus(file).samples == samples(3)
        assert part == b"\n" or file.read_bytes() == whole
    file.write_bytes(b'{"token": [7]}\n\n')
    with pytest.raises(InputError, match="holds a line that is no sequence"):
        Corpus(file)


def test_the_beginning_of_a_corpus_does_not_change_as_it_grows(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "corpus.jsonl")
    corpus.add([*samples(4), Sample([7] * 90, 1, "made/leak", left_out=True), *samples(4, 4)])
    part = corpus.upto(20)
    corpus.add(samples(9, 8))
    assert part.answer_tokens >= 20 > sum(len(one.answer) for one in part.samples[:-1])
    again = Corpus(corpus.file).upto(20)
    assert (again.samples, again.sha256) == (part.samples, part.sha256)
    assert part.sha256 != corpus.sha256
    assert len(corpus) == 17
    assert len(corpus.every) == 18


def test_batches_cover_each_sequence_once_and_depend_on_seed_and_pass() -> None:
    made = samples(50)
    places = [number for number in range(50) if number % 7]
    batches = passes(made, places, 60, 3, 1)
    assert sorted(place for batch in batches for place in batch) == places
    assert all(len(batch) * max(len(made[place].tokens) for place in batch) <= 60 for batch in batches)
    assert batches == passes(made, places, 60, 3, 1)
    assert batches != passes(made, places, 60, 3, 2)
    assert batches != passes(made, places, 60, 4, 1)
    assert passes(made, [], 60, 3, 1) == []
    tokens, answer = padded(made[:3])
    assert tokens.shape == answer.shape == (3, 7)
    assert answer.sum(-1).tolist() == [len(one.answer) for one in made[:3]]


def test_evaluation_texts_are_recognised(tmp_path: Path) -> None:
    inside = tmp_path / "sets" / "deep"
    inside.mkdir(parents=True)
    (inside / "set.jsonl.gz").write_bytes(gzip.compress(json.dumps({"turns": [{"text": TEXT}]}).encode() + b"\n"))
    (inside / "weights.bin").write_bytes(bytes(range(256)))
    leaks = Leaks([tmp_path / "sets"])
    words = TEXT.split()
    assert leaks.texts == 1
    assert leaks.leaks(f"Before. {' '.join(words[:13]).upper()}!! After.")  # 13 words in a row
    assert not leaks.leaks(" ".join(words[:9]))  # 5 of 17 runs of five words
    assert leaks.leaks(" ".join([*words[:10], "green", *words[11:]]))  # a near duplicate: no 13 words in a row
    assert not leaks.leaks("Tom buys three pencils and a book for seven dollars, and pays with a bill of twenty.")
    assert Leaks([]).sha256 != leaks.sha256
    with pytest.raises(InputError, match="evaluation: there is no file or folder"):
        Leaks([tmp_path / "nosuch"])
    (inside / "broken.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation: .*broken\.json cannot be read as \.json"):
        Leaks([tmp_path])


class Stub:
    """A writer that answers with the number of the prompt's tokens. silent: it ends no turn."""

    def __init__(self, silent: bool = False, template: str | None = CHAT) -> None:
        self.tokenizer, self.ends, self.silent = byte_level(300, template=template), frozenset({1}), silent

    def write(self, prompts: Any, names: Any, sampling: Any, limit: int, seed: int) -> list[list[int]]:
        return [[*range(10, 9 + min(limit, 7)), 10 if self.silent else 1] for _ in prompts]


def all_of(source: Any, writer: Any, have: Any = (), most: int = 4) -> list[Sample]:
    return [sample for chunk, _ in zip(source.chunks(writer, have, 0), range(most), strict=False) for sample in chunk]


def test_texts_and_answers_go_on_behind_what_is_there(tmp_path: Path) -> None:
    texts, rows = tmp_path / "texts.txt", tmp_path / "rows.jsonl"
    texts.write_text("".join(f"a line with the number {number}\n\n" for number in range(150)))
    rows.write_text("".join(json.dumps({"question": f"How many {number}?"}) + "\n" for number in range(150)))
    for source in (TextFile(str(texts), 6), Answers(str(rows), 0.0, 3)):
        whole = all_of(source, Stub())
        assert len(whole) == 150
        assert all_of(source, Stub(), whole[:64]) == whole[64:]
        assert len({sample.source for sample in whole}) == 150
        assert all(sample.prompt >= 1 and sample.answer for sample in whole)
    assert {len(sample.tokens) for sample in all_of(TextFile(str(texts), 6), Stub())} == {6}
    before = TextFile(str(texts)).identity
    texts.write_text("another text\n")
    assert TextFile(str(texts)).identity != before != TextFile(str(texts), 7).identity


def test_a_kept_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "corpus.jsonl")
    corpus.add([Sample([5, 6, 7 + number], 2, f"made/{number}", left_out=number == 3) for number in range(70)])
    packed = tmp_path / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.file.read_bytes()))
    for file in (corpus.file, packed):
        source = Kept(str(file))
        assert all_of(source, Stub()) == corpus.samples
        assert all_of(source, Stub(), corpus.samples[:64]) == corpus.samples[64:]
    corpus.add([Sample([5, 6, 999], 2)])
    with pytest.raises(InputError, match="holds tokens beyond the 300 of this target"):
        all_of(Kept(str(corpus.file)), Stub())
    assert Kept(str(corpus.file)).identity != Kept(str(packed)).identity
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match="is no corpus of a training"):
        Kept(str(packed))


def test_a_conversation_has_both_turns_of_the_template() -> None:
    writer, source = Stub(), SelfInstructed(answer_temperatures=[0.0, 0.5], longest_answer=4)
    opening, closing = template_parts(writer)  # pyright: ignore[reportArgumentType]
    assert writer.tokenizer.decode([*opening, *closing]) == "<bos><turn>user: <turn>assistant: "
    chunk = all_of(source, writer, most=1)
    assert chunk[0].tokens[: chunk[0].prompt] == [*opening, 10, 11, 12, 13, 14, 15, *closing]
    assert [sample.source.partition(" ")[2] for sample in chunk[:4]] == ["t=0.0", "t=0.5", "t=0.0", "t=0.5"]
    assert all_of(source, writer, chunk, most=1)[0].source.startswith("self/1/0")
    with pytest.raises(InputError, match="has written no question"):
        all_of(source, Stub(silent=True))
    with pytest.raises(InputError, match="no chat template"):
        all_of(source, Stub(template=None))


def test_openings_begin_the_turns_of_the_user_and_each_meets_every_temperature() -> None:
    writer = Stub()
    source = SelfInstructed(answer_temperatures=[0.0, 0.5], longest_answer=4, openings=["", "Tom has"])
    opening, _ = template_parts(writer)  # pyright: ignore[reportArgumentType]
    words = writer.tokenizer("Tom has", add_special_tokens=False)["input_ids"]
    chunk = all_of(source, writer, most=1)
    assert [sample.tokens[: len(opening) + len(words)] == [*opening, *words] for sample in chunk[:4]] == [
        False,
        True,
    ] * 2
    assert [sample.source.partition(" ")[2] for sample in chunk[:4]] == ["t=0.0", "t=0.0", "t=0.5", "t=0.5"]


def test_a_mixture_keeps_its_shares_and_goes_on() -> None:
    source = Mixture([Drawn("a"), Drawn("b")], [3, 1])
    whole = all_of(source, Stub(), most=8)
    counts = [sum(sample.source.startswith(f"{place}:") for sample in whole) for place in (0, 1)]
    assert counts == [96, 32]
    assert all_of(source, Stub(), whole[:80], most=3) == whole[80:]
    for shares in ([1], [1, 0], [1, -1]):
        with pytest.raises(InputError, match=r"recipe\.data\.shares"):
            Mixture([Drawn("a"), Drawn("b")], shares)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: TextFile("/nosuch.txt"), "recipe.data.path: there is no file"),
        (lambda: Answers("/nosuch.txt"), "recipe.data.prompts: there is no file"),
        (lambda: SelfInstructed(answer_temperatures=[]), "recipe.data.answer_temperatures"),
        (lambda: SelfInstructed(temperature=-1), "recipe.data.temperature"),
        (lambda: SelfInstructed(openings=[]), "recipe.data.openings"),
        (lambda: FinishedRun("/nosuch"), "nosuch"),
        (lambda: Kept("/nosuch"), "recipe.data.path: there is no file"),
    ],
    ids=["text", "answers", "no temperature", "temperature", "no openings", "run", "kept"],
)
def test_a_source_refuses_what_it_cannot_read(made: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made()


def test_a_folder_belongs_to_one_training(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 5}, "out", begun=False)
    claim(tmp_path, {"seed": 0, "recipe": {"layers": [0, 1], "start": None}}, "out", begun=False)
    claim(tmp_path, {"recipe": {"start": None, "layers": [0, 1]}, "seed": 0}, "out", begun=True)
    with pytest.raises(
        InputError, match=r"out: .* was begun with recipe.layers=\[0, 1\], and this training has \[0\]: cho"
    ):
        claim(tmp_path, {"seed": 0, "recipe": {"layers": [0], "start": None}}, "out", begun=True)
    with pytest.raises(InputError, match=r"\(and 1 more\)"):
        claim(tmp_path, {"seed": 1, "recipe": {"layers": [0], "start": None}}, "out", begun=True)
