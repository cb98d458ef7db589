"""The names of the files in a run's folder."""

from collections.abc import Iterable, Sequence

# Inputs of the run: written when it begins, and compared when it resumes.
CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
PICTURES, SHARDS = "pictures.jsonl", "shards.jsonl"
DATA_REPORT, QUARANTINE = "data_report.html", "quarantine.jsonl"
LOCK, OWNER = ".lock", ".owner.json"

# Logs, reports and samples.
METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
VALIDATION_PICTURES = "validation_pictures.jsonl"
VAL_LOSS, BASE_LOSS, TRAIN_SUBSET = "val_loss", "base_loss", "train_subset"  # names in these
REPORT = "report.html"
SAMPLES_FOLDER, BEFORE, SHEET = "samples", "before.npz", "before_after.png"
PROFILE_FOLDER = "profile"

# Saved during the run.
CHECKPOINTS_FOLDER, LORAS_FOLDER, EMBEDDINGS_FOLDER = "checkpoints", "loras", "embeddings"

# Results.
LORA_FILE = "lora.safetensors"  # kohya names, the format that every user interface loads
PEFT_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own
BEST_LORA, BEST_PEFT = "lora_best.safetensors", "lora_best_peft.safetensors"
MODEL_FOLDER, BEST_MODEL = "model", "model_best"
FINISHED = "finished.json"  # the step of the results: those of an extended run are older


def quarantined(path: str, bad: Iterable[Sequence[str]]) -> list[dict[str, str]]:
    """Returns a line for each file that is left out of a set or shard, with the reason."""
    return [{"set": path, "file": name, "reason": reason} for name, reason in bad]
