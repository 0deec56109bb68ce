"""The simulated scheduler: literal graphs, whose ends can be told by hand."""

import pytest

from benchmarks import bench_whole_human as bench
from benchmarks.bench_whole_human import Job, Measured, build_graph, simulate


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SUBMISSION_S", 0)


@pytest.mark.parametrize(("cores", "ends"), [(1, [3, 5, 6]), (2, [3, 2, 4]), (3, [3, 2, 4])])
def test_jobs_start_when_their_inputs_and_a_core_are_there(cores: int, ends: list[float]) -> None:
    jobs = [Job("a", 3), Job("b", 2), Job("c", 1, after=("a", "b"))]
    done = simulate(jobs, {"cores": cores})
    assert [done.end[job.name] for job in jobs] == ends
    assert done.busy == {"cores": 6}


def test_a_small_job_passes_a_large_one_that_waits() -> None:
    jobs = [Job("a", 3), Job("wide", 1, uses={"cores": 2}), Job("b", 2)]
    assert simulate(jobs, {"cores": 2}).end == {"a": 3, "b": 2, "wide": 4}


def test_what_no_cluster_has_is_refused() -> None:
    with pytest.raises(ValueError, match="wide uses 2 cores, the cluster has"):
        simulate([Job("wide", 1, uses={"cores": 2})], {"cores": 1})


def test_whole_human_has_its_partitions_and_trains_faster_on_more_gpus() -> None:
    rules = (
        "query_census", "download_partition", "build_vocab", "build_shard", "seal_shards",
        "build_index",
    )  # fmt: skip
    measured = Measured(dict.fromkeys(rules, 1e-3), 1.0, 1.0)
    hours = []
    for gpus in (1, 8, 32):
        jobs = build_graph(measured, train_s=1e-3, embed_s=1e-4, gpus=gpus)
        assert len(jobs) == 3 * 660 + 5
        done = simulate(jobs, {"cores": 3200, "gpus": gpus, "downloads": 8})
        ends = bench.stages(done)
        assert list(ends.values()) == sorted(ends.values()), "in the order of the flow"
        hours.append(ends["pretrain"] - ends["seal_shards"])
    assert hours[0] > 33e6 * 6 * 1e-3 / 3600
    assert hours[0] / hours[1] == pytest.approx(8, rel=0.02)
    assert hours[1] / hours[2] == pytest.approx(4 * bench.NODE_LOSS, rel=0.02)


def test_storage_is_that_of_the_formats_that_are_written() -> None:
    terabytes = bench.storage(Measured({}, 1.0, 1.0), parameters=10**6)
    a_cell = 4 * 512 + 8  # float32, as `write_embeddings` has it, and an int64
    assert terabytes["embeddings"] == pytest.approx(33e6 * a_cell / 1e12)
    assert terabytes["index"] == pytest.approx(932e-6)  # as docs/speed.md tells of bench-index
