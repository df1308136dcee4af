"""Numbers that the whole package agrees on. Nothing is imported here, so that any part may import it."""

BLANK = 0  # the id of the transducer's blank, which also stands for the start of a sentence
FRAME_SHIFT_MS = 10  # from one feature frame to the next; an encoder frame is `encoder.stride` of them
FRAME_SHIFT_S = FRAME_SHIFT_MS / 1000
MODEL_FILE = "model.safetensors"  # of a run folder
