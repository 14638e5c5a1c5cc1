"""A server's own account, read."""

from sdbench.peers.counters import Counts, between, of_meta, of_metrics, of_steps

METRICS = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="a/b"} 10.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="a/b"} 4.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="a/b"} 42.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="a/b"} 20.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="a/b",position="0"} 12.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="a/b",position="1"} 6.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="a/b",position="2"} 2.0
vllm:spec_decode_num_drafts_created{engine="0",model_name="a/b"} 1.76e+09
vllm:kv_cache_usage_perc{engine="0"} 0.1
"""


def test_vllms_counters_are_summed_over_engines():
    found = of_metrics(METRICS)
    assert found["drafts"] == 14
    assert found["draft_tokens"] == 42
    assert found["per_pos/2"] == 2


def test_a_difference_is_a_histogram():
    counts = between({}, of_metrics(METRICS))
    assert counts == Counts(14, 42, 20, (2, 6, 4, 2))
    made = counts.rounds()
    assert len(made) == 14
    assert sum(accepted for _, accepted in made) == 20
    assert sum(proposed for proposed, _ in made) == 42
    assert between(of_metrics(METRICS), of_metrics(METRICS)).rounds() == []


def test_a_server_without_speculation_counts_nothing():
    assert between({}, of_metrics("vllm:num_requests_running 1.0\n")) == Counts()


def test_uneven_drafts_keep_their_sum():
    counts = Counts(3, 8, 4, (1, 1, 0, 1))
    assert sum(proposed for proposed, _ in counts.rounds()) == 8
    assert all(proposed >= accepted for proposed, accepted in counts.rounds())


def test_sglang_tells_of_each_request():
    meta = {
        "spec_verify_ct": 4,
        "spec_draft_token_num": 12,
        "spec_accept_token_num": 6,
        "spec_accept_histogram": [1, 1, 1, 1],
    }
    assert of_meta(meta) == Counts(4, 12, 6, (1, 1, 1, 1))
    assert of_meta({"completion_tokens": 5}) is None
    assert of_meta({"spec_verify_ct": 4}) == Counts(4)
    assert Counts(4).rounds() == []


def test_vllm_reports_each_step():
    counts = of_steps({"per_step_drafted": [3, 3, 2], "per_step_accepted": [3, 0, 2]})
    assert counts is not None
    assert counts.rounds() == [(3, 3), (3, 0), (2, 2)]
    assert (counts.drafts, counts.drafted, counts.accepted) == (3, 8, 5)
    assert of_steps({}) is None
    assert of_steps({"per_step_drafted": [3], "per_step_accepted": [3, 0]}) is None
