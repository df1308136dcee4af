"""Tables and pictures of results, beside the values that the papers print."""
