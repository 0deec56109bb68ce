"""The Hugging Face manner: `from_pretrained`, `save_pretrained` and `push_to_hub`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgpt_core.model.attention import BackendName

if TYPE_CHECKING:
    from scgpt_core.data.vocab import Vocabulary
    from scgpt_core.model.scgpt import ScGPT

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError:
    # Machines that only train do without it, and so does `load_checkpoint`.

    class ModelHubMixin:  # type: ignore[no-redef]
        """Stands in where huggingface_hub is not installed: takes its settings, offers nothing."""

        def __init_subclass__(cls, **_settings: Any) -> None:
            super().__init_subclass__()


class HubModel(
    ModelHubMixin,
    library_name="scgpt-core",
    license="mit",
    tags=["biology", "single-cell", "scgpt"],
):
    """Loads and saves whole model folders, local or on the Hub."""

    vocab: "Vocabulary | None" = None
    """The vocabulary that the model was loaded with: it travels with the weights."""

    def _save_pretrained(self, save_directory: Path) -> None:
        # The checkpoint module builds models, hence imports this one.
        from scgpt_core.checkpoint import save_checkpoint
        from scgpt_core.model.scgpt import ScGPT

        assert isinstance(self, ScGPT)
        if self.vocab is None:
            message = (
                "this model has no vocabulary, without which its weights mean nothing: set "
                "model.vocab, or use save_checkpoint"
            )
            raise ValueError(message)
        save_checkpoint(save_directory, self, self.vocab, training={})

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

        local = Path(model_id).is_dir()
        folder = model_id if local else snapshot_download(model_id, **download)
        return load_checkpoint(folder, device=device, attention=attention).model
