"""Reading of people's own data, in four layouts."""
