"""The whole of `config/config.yaml`."""

from pathlib import Path
from typing import get_args

from pydantic import Field

from scgpt_core.config.base import Name, Names, Seed, Seeds, Settings, Task
from scgpt_core.config.corpus import CensusSettings, QCSettings, ShardSettings
from scgpt_core.config.index import IndexSettings
from scgpt_core.config.networks import NetworkSettings
from scgpt_core.config.perturbation import PerturbationSettings
from scgpt_core.config.tasks import (
    AnnotationSettings,
    EmbedSettings,
    GenerationSettings,
    IntegrationSettings,
    MultiomicsSettings,
)
from scgpt_core.config.training import PretrainSettings


class BenchmarkSettings(Settings):
    """Which methods are scored on which data sets."""

    integration: Names = ()
    """Data sets of the integration benchmark."""
    annotation: Names = ()
    """Data sets of the annotation benchmark; their rows say which batches are the `query`."""
    multiomics: Names = ()
    """Data sets of the multi-omics benchmark: their rows have `modalities`, and the batches of
    `query`, if any, are given RNA alone."""
    perturbation: Names = ()
    """Data sets of the perturbation benchmark; their rows keep the conditions (`obs_columns`)."""
    methods: Names = ()
    """Methods, rows of methods.tsv; each runs on the data sets of its task."""
    seeds: Seeds = (0,)
    """Each method runs once with each."""

    @property
    def by_task(self) -> dict[Task, tuple[str, ...]]:
        """Data sets of each task's benchmark, by the name of the task."""
        return {task: getattr(self, task) for task in get_args(Task)}


class Config(Settings):
    """`config/config.yaml`."""

    seed: Seed = 0
    """Of everything that is drawn."""
    portable_numerics: bool = False
    """The same numbers on every x86-64 processor with AVX2 (`scgpt_core.portable`); training takes
    twice as long."""
    corpora: Path
    """Table of corpora, relative to the repository (or absolute)."""
    models: Path
    """Table of models."""
    datasets: Path
    """Table of data sets."""
    methods: Path
    """Table of methods."""
    expected: Path | None = None
    """Table of published values, which the report shows beside those of the run; null: none."""
    corpus: Name
    """The corpus to build, a row of `corpora`: that of `model`, unless this is imported."""
    model: Name
    """The model to train or import and to use, a row of `models`."""
    checkpoints: dict[Name, Path] = Field(default_factory=dict)
    """Published checkpoint folders that you have, by model: imported, not trained."""
    census: CensusSettings = CensusSettings()
    qc: QCSettings = QCSettings()
    qc_by_corpus: dict[Name, QCSettings] = Field(default_factory=dict)
    """Where corpora differ from `qc`, by corpus."""
    shards: ShardSettings = ShardSettings()
    pretrain: PretrainSettings = PretrainSettings()
    embed: EmbedSettings = EmbedSettings()
    integration: IntegrationSettings = IntegrationSettings()
    annotation: AnnotationSettings = AnnotationSettings()
    multiomics: MultiomicsSettings = MultiomicsSettings()
    perturbation: PerturbationSettings = PerturbationSettings()
    generation: GenerationSettings = GenerationSettings()
    networks: NetworkSettings = NetworkSettings()
    index: IndexSettings = IndexSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()

    @property
    def tested_datasets(self) -> set[str]:
        """Data sets that models are tested on: by benchmarks, mapping, generation and networks."""
        return {
            *(name for names in self.benchmark.by_task.values() for name in names),
            *self.index.queries,
            *self.generation.datasets,
            *self.networks.datasets,
        }

    def qc_of(self, corpus: str) -> QCSettings:
        """Thresholds of a corpus: `qc`, but for what `qc_by_corpus` says of it."""
        own = self.qc_by_corpus.get(corpus, QCSettings())
        return self.qc.model_copy(update=own.model_dump(exclude_unset=True))
