"""Back-ends that compute the filterbanks of a corpus: kaldi-native-fbank (`knf`), or kaldifeat on a GPU.

Both compute the same features, up to rounding. Streaming and transcription always use `knf`.
"""

from __future__ import annotations

import numpy as np
import torch

from residualformer.config.schema import FeatureConfig
from residualformer.data.fbank import PRESETS, amplified, checked_preset, leveler, set_fbank_options
from residualformer.data.features import KnfFbank
from residualformer.errors import UserError, closest
from residualformer.optional import describe, is_installed, optional


class KaldifeatFbank(KnfFbank):
    """A feature extractor that computes by kaldifeat, on the GPU if there is one.

    Raises:
        UserError: kaldifeat is missing or does not import, or the preset has Slaney's mel scale; kaldifeat has only
            Kaldi's (https://github.com/csukuangfj/kaldifeat, mel-computations.h).
    """

    backend = "kaldifeat"

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config)
        if checked_preset(config)["is_librosa"]:
            served = ", ".join(name for name, preset in PRESETS.items() if not preset["is_librosa"])
            raise UserError(
                f"features.preset '{config.preset}' has Slaney's mel scale, which kaldifeat does not offer: "
                f"choose feature back-end knf, or features.preset {served}."
            )
        try:
            kaldifeat = optional("kaldifeat")
        except UserError as error:
            raise UserError(f"feature back-end 'kaldifeat' cannot be used: {error}\n{backend_table()}") from error
        options = kaldifeat.FbankOptions()
        set_fbank_options(options, config)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        options.device = self._device
        self._fbank = kaldifeat.Fbank(options)

    def compute(self, samples: np.ndarray) -> np.ndarray:
        wave = torch.from_numpy(amplified(np.ascontiguousarray(samples, dtype=np.float32), self.config))
        features = self._fbank(wave.to(self._device)).cpu().numpy()
        level = leveler(self.config)
        return level(features) if level else features


BACKENDS: dict[str, type[KnfFbank]] = {"knf": KnfFbank, "kaldifeat": KaldifeatFbank}


def get_backend(name: str, config: FeatureConfig) -> KnfFbank:
    """Return the feature extractor of the back-end `knf` or `kaldifeat`.

    `auto` is kaldifeat where it can serve `config` on a GPU, else knf; the extractor's `backend` is the name.

    Raises:
        UserError: the name is unknown, its package is missing (the message lists what is installed and how to get the
            rest), or the back-end cannot serve `config`.
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
    """Return one line per back-end: whether it is installed, or how to get it."""
    return "feature back-ends:\n  knf: installed\n" + describe([name for name in BACKENDS if name != "knf"])
