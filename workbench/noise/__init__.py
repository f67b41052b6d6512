"""Laws of the data given what an operator predicts: apart from operators, blind to grids and priors."""
