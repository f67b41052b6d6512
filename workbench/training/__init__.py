"""Training of priors: objectives and densities as values, one loop that knows neither files nor data sets."""
