"""Draws pictures.

python sample.py --model bundled:base --prompt "a 3d render of a cat" --seed 1 --out out
python sample.py --model DIR --lora runs/cat/lora.safetensors:0.8 --prompts prompts.jsonl --out out
python sample.py --help      # what people use; --help-all: every option
"""

import sys

from flax_sd.system.allocator import restart_with_tunables

if __name__ == "__main__":
    restart_with_tunables()
    from flax_sd.cli import sample

    sys.exit(sample(sys.argv[1:]))
