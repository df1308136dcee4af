"""Error rates, BLEU and chrF, and the bootstrap that tells how certain they are."""
