"""Who computes the filterbanks of a corpus: kaldi-native-fbank (`knf`), or kaldifeat on a GPU.

The definition of the features is the same, and so are the features, up to rounding; models, streaming and transcribing
always use `knf`.
"""

from __future__ import annotations

import numpy as np
import torch

from residualformer.config.schema import FeatureConfig
from residualformer.data.features import PRESETS, KnfFbank, checked_preset, set_fbank_options
from residualformer.errors import UserError, closest
from residualformer.optional import describe, is_installed, optional


class KaldifeatFbank(KnfFbank):
    """The extractor with kaldifeat's computation, on the GPU if there is one.

    Raises UserError if kaldifeat is missing or does not import, or for a preset with Slaney's mel scale: kaldifeat has
    Kaldi's alone (https://github.com/csukuangfj/kaldifeat, mel-computations.h).
    """

    backend = "kaldifeat"

    def __init__(self, config: FeatureConfig):
        super().__init__(config)
        if checked_preset(config)["is_librosa"]:
            served = ", ".join(name for name, preset in PRESETS.items() if not preset["is_librosa"])
            raise UserError(
                f"features.preset '{config.preset}' has Slaney's mel scale, which kaldifeat does not know: "
                f"choose feature back-end knf, or features.preset {served}."
            )
        kaldifeat = _imported()
        options = kaldifeat.FbankOptions()
        set_fbank_options(options, config)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        options.device = self._device
        self._fbank = kaldifeat.Fbank(options)

    def compute(self, samples: np.ndarray) -> np.ndarray:
        wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
        return self._fbank(wave.to(self._device)).cpu().numpy()


BACKENDS: dict[str, type[KnfFbank]] = {"knf": KnfFbank, "kaldifeat": KaldifeatFbank}


def get_backend(name: str, config: FeatureConfig) -> KnfFbank:
    """The extractor of features `config` by the back-end `name`, which its attribute `backend` tells.

    `auto` is kaldifeat where it can serve on a GPU, else knf. Raises UserError if the name is unknown, its package is
    missing (the message lists what is installed and how to get the rest), or it cannot serve `config`.
    """
    if name == "auto":
        if torch.cuda.is_available() and is_installed("kaldifeat"):
            try:
                return KaldifeatFbank(config)
            except UserError:  # built for another torch, or not for this preset
                pass
        return KnfFbank(config)
    if name not in BACKENDS:
        raise UserError(
            f"unknown feature back-end '{name}'; it must be auto, {', '.join(BACKENDS)}.{closest(name, BACKENDS)}"
            f"\n{backend_table()}"
        )
    return BACKENDS[name](config)


def backend_table() -> str:
    """Which back-ends are installed and how to get the others, for people."""
    return "feature back-ends:\n  knf: always there\n" + describe([name for name in BACKENDS if name != "knf"])


def _imported():
    try:
        return optional("kaldifeat")
    except UserError as error:
        raise UserError(f"feature back-end 'kaldifeat' cannot be used: {error}\n{backend_table()}") from error
