"""flax-sd check-data: what is wrong with a run's pictures and captions."""

from collections.abc import Sequence

from flax_sd import data
from flax_sd.config import Config
from flax_sd.config import file as config_file
from flax_sd.data import Bad
from flax_sd.run_folder.layout import DATA_REPORT, QUARANTINE
from flax_sd.system.exit_status import DONE, FAILED
from flax_sd.system.progress import Progress
from flax_sd.training.inputs import class_images
from flax_sd.training.inputs.data_check import check
from flax_sd.training.inputs.datasets import Sets, open_sets


def main(args: Sequence[str]) -> int:
    """`flax-sd check-data [CONFIG.yaml] [--flag value …]`; 1 if a picture is left out.

    Raises:
      UserError: no picture can be used, or the report cannot be written.
    """
    config = config_file.from_args("check-data", args)
    skipping = config.data.model_copy(update={"on_bad": "skip"})  # the report names them all
    config, progress = config.model_copy(update={"data": skipping}), Progress()
    whole, config = config, class_images.without_undrawn(config)
    if config is not whole:
        progress.say(f"{whole.data.regularisation} (data.regularisation) is not drawn yet")
    sets = open_sets(config)
    left_out, unused = _beyond(config, sets, progress)
    report = check(config, sets)._replace(beyond=left_out, unused=unused)
    report.write(config.output)
    progress.say(report.text())
    progress.say(f"written: {config.output / DATA_REPORT} and {config.output / QUARANTINE}")
    bad = [*(p.bad for p in report.sets.values()), *report.beyond.values()]
    return FAILED if any(bad) else DONE


def _beyond(
    config: Config, sets: Sets, progress: Progress
) -> tuple[dict[str, list[Bad]], dict[str, list[Bad]]]:
    """What is left out of and unused in all shards but the first, opened one after another."""
    left_out, unused, captioned = {}, {}, config.mode.captioned
    with progress.count(len(sets.shards[1:]), "checking shards") as shown:
        for done, shard in enumerate(sets.shards[1:], 1):
            pictures = data.open_shard(shard, config.data, captioned=captioned)
            left_out[shard.name], unused[shard.name] = pictures.bad, pictures.unused
            shown.update(done)
    return left_out, unused
