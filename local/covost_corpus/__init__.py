"""Further test sets of CoVoST 2."""
