"""Conditions under which keys of the configuration mean something; like `schema.py`, without torch and pydantic."""

from __future__ import annotations

from annotated_types import Gt, MinLen

from residualformer.config.keys import Only

TRANSFORMER = Only("encoder.kind", ("transformer",))
RECURRENT = Only("encoder.kind", ("lstm", "gru"))
DEPTHS = Only("encoder.depth.loops", MinLen(2))
ARBITRATED_DEPTH = Only("encoder.depth.arbitrator", (True,))
COMPRESSED = Only("amnet.method", ("sparse", "factorised"))
SPARSE = Only("amnet.method", ("sparse",))
ARBITRATED = Only("amnet.compression", MinLen(2), ARBITRATED_DEPTH)
ON_A_DEVICE = Only("encoder.kind", ("lstm", "gru"), ARBITRATED_DEPTH)
TAUGHT = Only("amnet.arbitrator.pretrain_steps", Gt(0))
COST = Only("amnet.cost.kind", ("avg", "amr"))
AVERAGE_COST = Only("amnet.cost.kind", ("avg",))
CTC = Only("loss.ctc_scale", Gt(0))
PRUNED_LOSS = Only("loss.kind", ("pruned",))
HOLD = Only("train.optimizer.schedule", ("hold",))
DISTILLED = Only("train.distill.teacher", None)
BEAM = Only("decode.kind", ("beam",))
WITH_LM = Only("decode.lm", None)
TRAINED_LM = Only("lm.kind", ("ngram", "lstm"))
NGRAM = Only("lm.kind", ("ngram",))
LSTM = Only("lm.kind", ("lstm",))
