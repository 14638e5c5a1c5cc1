"""A family so small that its training takes seconds."""

import pytest

from sdbench.training.tiny.recipe import ModelRecipe, TrainRecipe


@pytest.fixture(scope="session")
def micro() -> TrainRecipe:
    model = ModelRecipe(
        layers=2,
        first_layers=1,
        grow_at=3,
        width=16,
        heads=2,
        mlp_width=24,
        steps=8,
        decay_steps=2,
        batch_tokens=2048,
        learning_rate=1e-2,
        late_pool=1,
        seed=1,
    )
    return TrainRecipe(
        models={"target": model, "qualifier": model, "draft": model},
        mixture={"wordproblems": 0.5, "records": 0.25, "stories": 0.25},
        late_mixture={"wordproblems": 1.0},
        seed=0,
        vocabulary=300,
        tokenizer_texts=20,
        positions=512,
        pool_texts=48,
        block_tokens=128,
        packed_every=4,
        warmup_steps=2,
        weight_decay=0.05,
        log_every=8,
        ladder_texts=4,
    )
