"""flax-sd check-data: finds problems of a run's images and captions."""

from flax_sd import data
from flax_sd.config import Config
from flax_sd.config.commands import CheckDataOptions
from flax_sd.config.file import Given
from flax_sd.data import Bad
from flax_sd.run_folder.layout import DATA_REPORT, QUARANTINE
from flax_sd.system.exit_status import DONE, FAILED
from flax_sd.system.progress import Progress
from flax_sd.training.inputs import class_images
from flax_sd.training.inputs.data_check import check
from flax_sd.training.inputs.datasets import Sets, open_sets


def main(options: CheckDataOptions, given: Given) -> int:
    """Prints and writes the report; returns 1 if an image is left out.

    Raises:
      UserError: no image can be used, or the report cannot be written.
    """
    config = given.config
    skipping = config.data.model_copy(update={"on_bad": "skip"})  # so the report lists them all
    config, progress = config.model_copy(update={"data": skipping}), Progress()
    whole, config = config, class_images.without_class_images(config)
    if config is not whole:
        progress.say(
            f"class images in {whole.data.regularisation} (data.regularisation) are not "
            "generated yet"
        )
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
    """Returns the files that are left out of, and unused in, all shards but the first."""
    left_out, unused, captioned = {}, {}, config.mode.captioned
    with progress.count(len(sets.shards[1:]), "checking shards") as shown:
        for done, shard in enumerate(sets.shards[1:], 1):
            images = data.open_shard(shard, config.data, captioned=captioned)
            left_out[shard.name], unused[shard.name] = images.bad, images.unused
            shown.update(done)
    return left_out, unused
