"""Times and confidences of words and tokens, and the formats that they are written in; numpy alone."""
