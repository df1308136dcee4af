"""What several corpora share: downloads, and speech from espeak-ng."""
