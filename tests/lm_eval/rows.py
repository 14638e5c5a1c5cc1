"""A few rows of each published set, in the hub's columns, as files of an SDBENCH_DATA folder."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

CHOICES = ["bank", "library", "shop", "mall", "town"]
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k_test.jsonl": [
        {"question": f"Ann has {n} pens and buys 1. How many?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(8)
    ],
    "humaneval.jsonl.gz": [
        {
            "task_id": "HumanEval/0", "prompt": "def double(x):\n    \"\"\"Twice x.\"\"\"\n", "entry_point": "double",
            "canonical_solution": "    return 2 * x\n", "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        }
    ],
    "mbpp_test.jsonl": [
        {
            "task_id": 11, "text": "Write a function that doubles a number.", "code": "def double(x):\n    return 2 * x",
            "test_list": [f"assert double({n}) == {2 * n}" for n in range(3)], "test_setup_code": "", "challenge_test_list": [],
        }
    ],
    "commonsense_qa_dev.jsonl": [
        {
            "id": "q1", "answerKey": "B",
            "question": {
                "stem": "Where are books lent?",
                "choices": [{"label": a, "text": b} for a, b in zip("ABCDE", CHOICES, strict=True)],
            },
        }
    ],
    "ifeval.jsonl": [
        {
            "key": 1000, "prompt": "Name a colour. Use no comma.", "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{"num_words": None}],
        }
    ],
    "math500.jsonl": [
        {
            "problem": "What is half of one?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "answer": "\\frac{1}{2}",
            "subject": "Prealgebra", "level": 1, "unique_id": "test/prealgebra/1.json",
        }
    ],
}  # fmt: skip


def mmlu_rows(subjects: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "question": f"{subject} {n}: which is first?",
            "subject": subject,
            "choices": ["w", "x", "y", "z"],
            "answer": 0,
        }
        for subject in subjects
        for n in range(2)
    ]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
