"""Numbers that the whole package agrees on. Nothing is imported here, so that any part may import it."""

BLANK = 0  # the id of the transducer's blank, which also stands for the start of a sentence
FRAME_SHIFT_MS = 10  # from one feature frame to the next; an encoder frame is `encoder.stride` of them
FRAME_SHIFT_S = FRAME_SHIFT_MS / 1000
SPACE = "\u2581"  # sentencepiece's visible space, which begins a word, or stands between two
HAN_AND_KANA = ("CJK", "HIRAGANA", "KATAKANA")  # scripts without spaces, as the Unicode names of their characters begin
MAX_HOTWORD_SCORE = 100.0  # nats per character: far more than any language model gives, and no overflow
MODEL_FILE = "model.safetensors"  # of a run folder
ADAPTER_KIND = "an adapter"  # what a file of tensors says that it holds, if it changes a model
