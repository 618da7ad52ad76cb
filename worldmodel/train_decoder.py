"""Train a decoder that shows what latents look like.

python -m worldmodel.train_decoder --data data/pusht --checkpoint pusht --picture decoder.png
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.cli.device import pick_device
from worldmodel.measure.provenance import save_result
from worldmodel.models.findings import DECODER, finding_path
from worldmodel.training.decoder_training import TrainDecoderConfig, similarity_table, train_decoder


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    description = "Train a decoder of latents to images, and compare its pictures with real ones."
    config = parse_config(TrainDecoderConfig, argv, "worldmodel.train_decoder", description)
    result = train_decoder(config)
    if config.out:
        save_result(config.out, result, device=pick_device(config.device), seed=config.seed)
    print(similarity_table(result))
    print(f"\nwrote {finding_path(config.checkpoint, DECODER)}")


if __name__ == "__main__":
    sys.exit(main())
