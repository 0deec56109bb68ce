"""The Hugging Face manner: `from_pretrained`, `save_pretrained` and `push_to_hub`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgpt_core.model.attention import BackendName

if TYPE_CHECKING:
    from scgpt_core.data.vocab import Vocabulary
    from scgpt_core.model.scgpt import ScGPT
    from scgpt_core.model.weights import LoadReport

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError:
    # Machines that only train do without it, and so does `load_checkpoint`.

    class ModelHubMixin:  # type: ignore[no-redef]
        """Stands in where huggingface_hub is not installed: takes its settings, offers nothing."""

        def __init_subclass__(cls, **_settings: Any) -> None:
            super().__init_subclass__()


_DOWNLOAD = {"revision", "cache_dir", "force_download", "local_files_only", "token"}
"""What the hub may be told."""


class HubModel(
    ModelHubMixin,
    library_name="scgpt-core",
    license="mit",
    tags=["biology", "single-cell", "scgpt"],
):
    """Loads and saves whole model folders, local or on the Hub."""

    vocab: "Vocabulary | None" = None
    """The vocabulary that the model was loaded with: it travels with the weights."""
    provenance: Mapping[str, Any] | None = None
    """How the weights that were loaded came about (`training.json`): it travels with them too."""
    load_report: "LoadReport | None" = None
    """What became of every weight when the model was loaded; None where it was not."""

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of a model into a folder; others that lie there stay."""
        # The checkpoint module builds models, hence imports this one.
        from scgpt_core.checkpoint import PUBLISHED_ARGS, save_checkpoint
        from scgpt_core.model.scgpt import ScGPT

        assert isinstance(self, ScGPT)
        if self.vocab is None:
            message = (
                "this model has no vocabulary, without which its weights mean nothing: set "
                "model.vocab, or use save_checkpoint"
            )
            raise ValueError(message)
        if (save_directory / PUBLISHED_ARGS).is_file():
            message = (
                f"{save_directory} holds a model in the published format, which would be loaded in "
                "place of this one: name another folder"
            )
            raise ValueError(message)
        # Within the folder, so that files are renamed into it on whatever disk it is.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=save_directory) as temporary:
            whole = Path(temporary) / "model"
            save_checkpoint(whole, self, self.vocab, training=self.provenance or {})
            for path in whole.iterdir():
                path.replace(save_directory / path.name)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        device: str = "cpu",
        attention: BackendName = "auto",
        config: dict[str, Any] | None = None,
        **download: Any,
    ) -> "ScGPT":
        """Load a folder, own or published, or the one of that name on the Hub.

        `config` is the hub's reading of `config.json`, which `load_checkpoint` reads for itself.
        """
        from scgpt_core.checkpoint import load_checkpoint

        unknown = sorted(download.keys() - _DOWNLOAD)
        if unknown:
            message = (
                f"from_pretrained knows no {', '.join(unknown)}: it takes device, attention and, "
                f"for models on the Hub, {', '.join(sorted(_DOWNLOAD))}"
            )
            raise ValueError(message)
        local = Path(model_id).is_dir()
        folder = model_id if local else snapshot_download(model_id, **download)
        return load_checkpoint(folder, device=device, attention=attention).model
