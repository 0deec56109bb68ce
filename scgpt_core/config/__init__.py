"""Every setting of the pipeline, typed; the text under a field says what it means and its unit.

`config/config.yaml` and the tables beside it are validated here, once, before any job starts. A key
that does not exist, a wrong type, or a name that is in no table is a ValueError that gives the path
of the key and the allowed values. Nothing here imports torch.
"""

from scgpt_core.config.base import Count, Name, Settings, Share, Task
from scgpt_core.config.corpus import CensusSettings, QCSettings, ShardSettings
from scgpt_core.config.index import IndexSettings, MappingSettings
from scgpt_core.config.loading import leave_out_missing, load_config
from scgpt_core.config.model import Architecture, ModelConfig
from scgpt_core.config.networks import (
    AttentionSettings,
    Contrast,
    KnockoutSettings,
    NetworkSettings,
    ProgramSettings,
    TreeSettings,
)
from scgpt_core.config.perturbation import PerturbationSettings, PerturbationSplitSettings
from scgpt_core.config.tables import (
    CorpusRow,
    DatasetRow,
    ExpectedRow,
    MethodRow,
    ModelRow,
    SourceRow,
    Tables,
    read_rows,
    read_table,
)
from scgpt_core.config.tasks import (
    AnnotationSettings,
    AnnotationTrainer,
    EmbedSettings,
    GenerationSettings,
    IntegrationSettings,
    LabelSettings,
    ModalitySettings,
    MultiomicsSettings,
    MultiomicsTrainer,
)
from scgpt_core.config.training import (
    CorpusColumn,
    FineTuningSettings,
    FineTuningTrainer,
    PretrainSettings,
    TrainerSettings,
)
from scgpt_core.config.whole import BenchmarkSettings, Config

__all__ = [
    "AnnotationSettings",
    "AnnotationTrainer",
    "Architecture",
    "AttentionSettings",
    "BenchmarkSettings",
    "CensusSettings",
    "Config",
    "Contrast",
    "CorpusColumn",
    "CorpusRow",
    "Count",
    "DatasetRow",
    "EmbedSettings",
    "ExpectedRow",
    "FineTuningSettings",
    "FineTuningTrainer",
    "GenerationSettings",
    "IndexSettings",
    "IntegrationSettings",
    "KnockoutSettings",
    "LabelSettings",
    "MappingSettings",
    "MethodRow",
    "ModalitySettings",
    "ModelConfig",
    "ModelRow",
    "MultiomicsSettings",
    "MultiomicsTrainer",
    "Name",
    "NetworkSettings",
    "PerturbationSettings",
    "PerturbationSplitSettings",
    "PretrainSettings",
    "ProgramSettings",
    "QCSettings",
    "Settings",
    "ShardSettings",
    "Share",
    "SourceRow",
    "Tables",
    "Task",
    "TrainerSettings",
    "TreeSettings",
    "leave_out_missing",
    "load_config",
    "read_rows",
    "read_table",
]
