"""What `residualformer.load` returns: one interface for trained and exported models."""
