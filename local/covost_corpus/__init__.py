"""Additional test sets of CoVoST 2."""
