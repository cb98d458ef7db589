"""The files of a run's folder, each by its name."""

from collections.abc import Iterable, Sequence

# What the run is: written when it begins, and held against what it finds when it resumes.
CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
PICTURES, SHARDS = "pictures.jsonl", "shards.jsonl"
DATA_REPORT, QUARANTINE = "data_report.html", "quarantine.jsonl"
LOCK, OWNER = ".lock", ".owner.json"

# What happens in it, a line a step.
METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
VALIDATION_PICTURES = "validation_pictures.jsonl"
VAL_LOSS, BASE_LOSS, TRAIN_SUBSET = "val_loss", "base_loss", "train_subset"  # names in these
REPORT = "report.html"
SAMPLES_FOLDER, BEFORE, SHEET = "samples", "before.npz", "before_after.png"
PROFILE_FOLDER = "profile"

# What it saves as it goes.
CHECKPOINTS_FOLDER, LORAS_FOLDER, EMBEDDINGS_FOLDER = "checkpoints", "loras", "embeddings"

# What it ends with.
LORA_FILE = "lora.safetensors"  # kohya names, the format that every user interface loads
PEFT_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own
BEST_LORA, BEST_PEFT = "lora_best.safetensors", "lora_best_peft.safetensors"
MODEL_FOLDER, BEST_MODEL = "model", "model_best"
FINISHED = "finished.json"  # which step the results are of: an extended run has older ones


def quarantined(path: str, bad: Iterable[Sequence[str]]) -> list[dict[str, str]]:
    """The lines of what is left out of a set, names and reasons, or of a shard."""
    return [{"set": path, "file": name, "reason": reason} for name, reason in bad]
