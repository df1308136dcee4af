"""What a saved model is: loading, saving, its parameters and its cost."""
