"""Results as data, as text and as pictures: of decoding runs, and of the papers' tables."""
