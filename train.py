"""Trains a LoRA, a UNet or an autoencoder.

python train.py  # configs/quickstart.yaml: a style, on the bundled base
python train.py configs/sd15_lora.yaml --data.path my_pictures --output runs/cat
python train.py configs/sd15_lora.yaml --help  # what people use; --help-all: every option
python train.py --repeat runs/cat/config.yaml  # the same run anew: the same bytes?
The same command again goes on where the run stopped.
"""

import sys

from flax_sd.system.allocator import restart_with_tunables

if __name__ == "__main__":
    restart_with_tunables()
    from flax_sd.cli import train

    sys.exit(train(sys.argv[1:]))
